"""Our node meets real ones: connecting, listing, hidden nodes, pings, goodbyes, cookies, names."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import HOST, World, expect, nothing_comes, until

from beamnode import Atom, Node, NodeNameError, Pid, SpawnError, a, monitor, register, self, send, unregister
from beamnode.errors import CookieMismatch, NodeNotFound
from beamnode.testing.peers import ErlNode, Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


@pytest.fixture(params=["we dial", "they dial"])
def dial(request: pytest.FixtureRequest) -> Any:
    """Connects a node of ours with the peer: from our side, or from theirs."""

    async def connect(world: World, node: Node) -> None:
        if request.param == "we dial":
            assert await node.connect(world.name) is True
        else:
            assert await world.erl("net_kernel:connect_node(Node)", Node=node.name) is True
        await until(lambda: world.name in node.list("connected"))

    return connect


# --- Lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
def test_both_list_each_other(world: World, dial: Any, hidden: bool) -> None:
    async def main() -> None:
        async with world.node(hidden=hidden) as node:
            await dial(world, node)
            # A hidden node hides its connections from itself too, as OTP does.
            assert (node.list(), node.list("hidden")) == (([], [world.name]) if hidden else ([world.name], []))
            await world.connected(seen_there=node.name.name)
            visible, hidden_ones = await world.erl("{nodes(), nodes(hidden)}")
            assert (visible, hidden_ones) == (([], [node.name]) if hidden else ([node.name], []))
        await world.gone_there(node)

    asyncio.run(main())


def test_a_hidden_peer(world: World) -> None:
    peer = world.start_peer("shy", hidden=True)

    async def main() -> None:
        async with world.node() as node:
            assert await node.connect(peer.name) is True
            assert (node.list(), node.list("hidden")) == ([], [Atom(peer.name)])
            assert node.list("connected") == [Atom(peer.name)]
            await asyncio.to_thread(peer.wait_until, f"nodes(hidden) =:= ['{node.name}']")
        await asyncio.to_thread(peer.wait_until, "nodes(connected) =:= []")
        async with world.node() as node:
            assert await asyncio.to_thread(peer.eval, f"net_adm:ping('{node.name}')") is a.pong
            assert (node.list(), node.list("hidden")) == ([], [Atom(peer.name)])

    with peer:
        asyncio.run(main())


def test_several_nodes_in_one_process(world: World) -> None:
    async def main() -> None:
        async with world.node() as one, world.node() as two, world.node(hidden=True) as three:
            nodes = [one, two, three]
            assert await asyncio.gather(*(node.connect(world.name) for node in nodes)) == [True] * 3
            for node in nodes:
                await world.connected(seen_there=node.name.name)
            assert set(await world.erl("nodes()")) == {one.name, two.name}
            assert await world.erl("nodes(hidden)") == [three.name]
            for node in nodes:
                await node.run_process(greet, world)
        for node in nodes:
            await world.gone_there(node)

    asyncio.run(main())


async def greet(world: World) -> None:
    """A message from the current process reaches the peer, and its answer the current process."""
    puppet = await world.puppet()
    send(puppet.pid, (a.hello, self()))
    assert await puppet.next() == (a.hello, self())
    await puppet.run("Pid ! hello_too", Pid=self())
    assert await expect() is a.hello_too


# --- Pings ------------------------------------------------------------------------------------------------------------


def test_ping(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            assert await node.ping(world.name) is a.pong
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
        await world.gone_there(node)
        async with world.node() as node:
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            assert await node.ping(world.name) is a.pong
        await world.gone_there(node)
        assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pang

    asyncio.run(main())


def test_a_node_that_is_not_there(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            started = time.monotonic()
            assert await node.connect(f"nobody@{HOST}") is False
            assert await node.ping(f"nobody@{HOST}") is a.pang
            assert await node.connect("nobody@host.invalid") is False
            assert time.monotonic() - started < 5
            assert isinstance(node.connect_error(f"nobody@{HOST}"), NodeNotFound)
            node.monitor(f"nobody@{HOST}")
            assert await expect() == (a.nodedown, Atom(f"nobody@{HOST}"))
            send(("someone", f"nobody@{HOST}"), a.hello)
            await until(lambda: node.list("known") == [node.name])

    asyncio.run(main())


# --- Goodbyes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
def test_node_messages_on_both_sides(world: World, dial: Any, hidden: bool) -> None:
    """Both are told of nodeup and nodedown, with type and reason, whoever disconnects."""
    kind = a.hidden if hidden else a.visible

    async def main() -> None:
        watch = await world.puppet()
        await watch.run("net_kernel:monitor_nodes(true, [{node_type, all}, nodedown_reason])")
        async with world.node(hidden=hidden) as node:
            node.monitor_nodes(node_type="all", nodedown_reason=True)
            for we_disconnect in (True, False):
                await dial(world, node)
                assert await expect() == (a.nodeup, world.name, {a.node_type: kind})
                assert await watch.next() == (a.nodeup, node.name, [(a.node_type, kind)])
                await world.settled(node)
                if we_disconnect:
                    assert await node.disconnect(world.name) is True
                    reasons = a.disconnect, a.connection_closed
                else:
                    assert await world.erl("erlang:disconnect_node(Node)", Node=node.name) is True
                    reasons = a.connection_closed, a.disconnect
                down = {a.node_type: kind, a.nodedown_reason: reasons[0]}
                assert await expect() == (a.nodedown, world.name, down)
                event, name, info = await watch.next()
                assert (event, name) == (a.nodedown, node.name)
                assert dict(info) == {a.node_type: kind, a.nodedown_reason: reasons[1]}
                assert node.list("connected") == []
            assert await node.disconnect(world.name) is False

    asyncio.run(main())


def test_plain_node_messages(world: World, dial: Any) -> None:
    """Without options only visible nodes are told of, in pairs; asked twice, told twice."""

    async def main() -> None:
        async with world.node() as node:
            node.monitor_nodes()
            node.monitor_nodes()
            await dial(world, node)
            await world.settled(node)
            await node.disconnect(world.name)
            up, down = (a.nodeup, world.name), (a.nodedown, world.name)
            assert [await expect() for _ in range(4)] == [up, up, down, down]
            node.monitor_nodes(False)
            await node.connect(world.name)
            await nothing_comes()
        await world.gone_there(node)

    asyncio.run(main())


def test_monitor_node(world: World) -> None:
    """`erlang:monitor_node/2` and ours: a message when the connection is lost, and monitoring alone connects."""

    async def main() -> None:
        watch = await world.puppet()
        async with world.node() as node:
            node.monitor(world.name)
            await until(lambda: node.list() == [world.name])
            await watch.run("erlang:monitor_node(Node, true)", Node=node.name)
            await world.settled(node)
            await node.disconnect(world.name)
            assert await expect() == (a.nodedown, world.name)
            assert await watch.next() == (a.nodedown, node.name)
            await watch.run("erlang:monitor_node(Node, true)", Node=node.name)
            await until(lambda: node.list() == [world.name])
            node.monitor(world.name)
            node.monitor(world.name, False)
        assert await watch.next() == (a.nodedown, node.name)

    asyncio.run(main())


def test_stop_says_goodbye(world: World) -> None:
    async def main() -> None:
        watch = await world.puppet()
        await watch.run("net_kernel:monitor_nodes(true, [nodedown_reason])")
        node = world.node()
        async with node:
            await node.connect(world.name)
            node.monitor_nodes(nodedown_reason=True)
            assert (await watch.next())[:2] == (a.nodeup, node.name)
            assert await node.stop() is True
            assert await expect() == (a.nodedown, world.name, {a.nodedown_reason: a.net_kernel_terminated})
            assert (await watch.next())[:2] == (a.nodedown, node.name)
            assert await node.connect(world.name) is None
            assert await node.disconnect(world.name) is None
            assert node.list() == []

    asyncio.run(main())


# --- dist_auto_connect ------------------------------------------------------------------------------------------------


def test_auto_connect_never(world: World) -> None:
    async def main() -> None:
        target = await world.puppet()
        async with world.node(dist_auto_connect="never", hidden=True) as node:
            send(target.pid, a.lost)
            reference = monitor(target.pid)
            assert await expect() == (a.DOWN, reference, a.process, target.pid, a.noconnection)
            with pytest.raises(SpawnError):
                await node.spawn(world.name, "erlang", "self", [])
            assert node.list("connected") == []
            assert await node.connect(world.name) is True
            send(target.pid, a.hello)
            assert await target.next() is a.hello
            await node.disconnect(world.name)
            send(target.pid, a.lost)
            await target.nothing_comes()
            await world.erl("Pid ! {hello, self()}, ok", Pid=self())  # they may connect all the same
            assert (await expect())[0] is a.hello
            assert node.list("connected") == [world.name]

    asyncio.run(main())


def test_auto_connect_once(world: World) -> None:
    async def main() -> None:
        target = await world.puppet()
        async with world.node(dist_auto_connect="once", hidden=True) as node:
            send(target.pid, a.first)
            assert await target.next() is a.first
            await node.disconnect(world.name)
            send(target.pid, a.lost)
            await target.nothing_comes()
            assert node.list("connected") == []
            assert await node.connect(world.name) is True
            send(target.pid, a.second)
            assert await target.next() is a.second
            await node.disconnect(world.name)
            await world.gone_there(node)
            assert await world.erl("net_kernel:connect_node(Node)", Node=node.name) is True  # that lifts the bar too
            send(target.pid, a.third)
            assert await target.next() is a.third

    asyncio.run(main())


def test_auto_connect_always(world: World) -> None:
    async def main() -> None:
        target = await world.puppet()
        async with world.node(hidden=True) as node:
            for message in range(3):
                send(target.pid, message)
                assert await target.next() == message
                await node.disconnect(world.name)

    asyncio.run(main())


# --- Cookies ----------------------------------------------------------------------------------------------------------


def test_a_wrong_cookie(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node(cookie="wrong") as node:
            with caplog.at_level(logging.INFO, "beamnode"):
                assert await node.connect(world.name) is False
            errors = [record for record in caplog.records if record.levelno == logging.ERROR]
            assert len(errors) == 1
            assert "cookie" in errors[0].getMessage()
            assert "wrong" not in errors[0].getMessage()
            assert world.cookie not in caplog.text
            assert isinstance(node.connect_error(world.name), CookieMismatch)
            assert await node.ping(world.name) is a.pang
            caplog.clear()
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pang
            await until(lambda: "cookie" in caplog.text)
            assert world.cookie not in caplog.text
            assert node.list("known") == [node.name]
            async with world.node() as other:  # neither has fallen
                assert await other.ping(world.name) is a.pong
                assert await node.ping(other.name) is a.pang

    asyncio.run(main())


def test_cookies_of_single_nodes(world: World) -> None:
    """`set_cookie(cookie, node)` and `erlang:set_cookie(Node, Cookie)`, each for itself, let both sides dial."""

    async def main() -> None:
        async with world.node(cookie="own") as node:
            node.set_cookie(world.cookie, world.name)
            assert (node.get_cookie(), node.get_cookie(world.name)) == (a.own, Atom(world.cookie))
            assert await node.ping(world.name) is a.pong
            await world.settled(node)
            await node.disconnect(world.name)
            await world.gone_there(node)
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
        await world.gone_there(node)
        async with world.node(cookie="own") as node:
            await world.erl("erlang:set_cookie(Node, own)", Node=node.name)
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            await world.settled(node)
            await node.disconnect(world.name)
            await world.gone_there(node)
            assert await node.ping(world.name) is a.pong
            node.set_cookie("another")  # for connections to come
            assert node.list() == [world.name]
            await world.settled(node)
            await node.disconnect(world.name)
            assert await node.connect(world.name) is False

    asyncio.run(main())


# --- Names ------------------------------------------------------------------------------------------------------------


def test_short_names(world: World) -> None:
    """`-sname`: short names meet, short and long ones cannot, and each side says so."""
    host = "localhost"
    peer = world.start_peer(f"short@{host}")
    peer.eval(KNOW_LOCALHOST)

    async def main() -> None:
        async with world.node(f"pyshort@{host}") as node:
            assert await node.ping(peer.name) is a.pong
            await asyncio.to_thread(peer.eval, "global:sync()")
            await node.disconnect(peer.name)
            await asyncio.to_thread(peer.wait_until, "nodes() =:= []")
            assert await asyncio.to_thread(peer.eval, f"net_adm:ping('{node.name}')") is a.pong
            assert node.list() == [Atom(peer.name)]
            with pytest.raises(NodeNameError, match=r"has a short name, but .* is a long one"):
                await node.connect(world.name)
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pang
        async with world.node() as node:
            with pytest.raises(NodeNameError, match=r"has a long name, but .* is a short one"):
                await node.connect(peer.name)
            assert await asyncio.to_thread(peer.eval, f"net_adm:ping('{node.name}')") is a.pang
            assert node.list("connected") == []

    with peer:
        asyncio.run(main())


@pytest.mark.parametrize("option", ["-name", "-sname"])
def test_a_peer_that_wants_a_name(world: World, option: str) -> None:
    """A node without a name (as `erl -remsh` is one) connects, gets a name from us, and can talk with us.

    When it comes again it gets the same name with a greater creation, as from OTP.
    """
    host = HOST if option == "-name" else "localhost"
    extra = [option, f"undefined@{host}", "-setcookie", world.cookie]
    nameless = world.start_peer(None, cookie=None, extra_args=extra)
    nameless.eval(KNOW_LOCALHOST)

    async def main() -> None:
        async with world.node(f"giver@{host}") as node:
            node.monitor_nodes(node_type="all")
            register("here", self())
            first = await _visit(node, nameless)
            second = await _visit(node, nameless)
            assert first.node.name.endswith(f"@{host}")
            assert second.node is first.node
            assert second.creation == first.creation + 1
            third = await _visit(node, nameless)
            assert third.creation == first.creation + 2

    with nameless:
        asyncio.run(main())


VISIT = """
true = net_kernel:connect_node(Node),
{here, Node} ! {hello, self()},
receive {answer, _} = Answer -> {node(), Answer} after 5000 -> none end
"""


async def _visit(node: Node, nameless: ErlNode) -> Pid:
    """It connects, asks, is answered, and is sent away; its pid under the name that it got."""
    visit = asyncio.create_task(asyncio.to_thread(nameless.eval, VISIT, Node=node.name))
    _, name, _ = await expect(lambda message: message[0] is a.nodeup)
    _, pid = await expect(lambda message: message[0] is a.hello)
    assert node.list("hidden") == [name] == [pid.node]
    send(pid, (a.answer, self()))
    assert await visit == (name, (a.answer, self()))
    await node.disconnect(name)
    await expect(lambda message: message[0] is a.nodedown)
    await asyncio.to_thread(nameless.wait_until, "node() =:= nonode@nohost")
    assert isinstance(pid, Pid)
    return pid


# Not every root of a peer has /etc/hosts.
KNOW_LOCALHOST = 'inet_db:add_host({127, 0, 0, 1}, ["localhost"]), inet_db:set_lookup([file, native])'


# --- A client node ----------------------------------------------------------------------------------------------------


def test_a_node_that_listens_on_nothing(world: World) -> None:
    """`-dist_listen false`: it is hidden, calls, is called back on the connection that it has made, and comes again."""

    async def main() -> None:
        async with world.node(listen=False) as node:
            names, theirs = [], "{ok, All} = erl_epmd:names(), [Name || {Name, _} <- All]"
            names = ["".join(map(chr, name)) for name in await world.erl(theirs)]
            assert str(node.name).partition("@")[0] not in names
            for _ in range(2):
                assert await node.connect(world.name) is True
                assert (node.listening, node.hidden, node.list(), node.list("hidden")) == ([], True, [], [world.name])
                await world.connected(seen_there=node.name.name)
                assert await world.erl("{nodes(), nodes(hidden)}") == ([], [node.name])
                assert await node.rpc(world.name, "erlang", "node", []) is world.name
                assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
                register("client", self())
                await world.erl("{client, Node} ! hello, monitor(process, {client, Node})", Node=node.name)
                assert await expect() is a.hello
                unregister("client")
                assert await world.erl("erlang:disconnect_node(Node)", Node=node.name) is True
                await until(lambda: node.list("connected") == [])
                assert await world.erl("net_kernel:connect_node(Node)", Node=node.name) is False
                assert node.list("connected") == []

    asyncio.run(main())
