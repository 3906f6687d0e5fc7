"""Our node meets real ones: connecting, listing, hidden nodes, pings, goodbyes, cookies, names."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import HOST, World, echo, expect, nothing_comes, until

from beamnode import Atom, Node, NodeNameError, Pid, a, receive, register, self, send, spawn
from beamnode.errors import CookieMismatch, NodeNotFound
from beamnode.testing.peers import Otp

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
            pids = [await node.run_process(_answered_by, world) for node in nodes]
            assert [pid.node for pid in pids] == [node.name for node in nodes]
        for node in nodes:
            await world.gone_there(node)

    asyncio.run(main())


async def _answered_by(world: World) -> Pid:
    """Which pid the peer sees when the current process sends it a message."""
    remote = await world.erl_spawn("receive {From, whoami} -> From ! {you_are, From} end")
    send(remote, (self(), a.whoami))
    _, pid = await expect()
    assert pid == self()
    return pid


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
            assert node.list("known") == [node.name] or await asyncio.sleep(0.5) is None
            assert node.list() == []

    asyncio.run(main())


# --- Goodbyes ---------------------------------------------------------------------------------------------------------


def subscribe_all(node: Node) -> None:
    node.monitor_nodes(node_type="all", nodedown_reason=True)


PEER_WATCH = """
{Watch, _} = support:witness(Owner, fun () ->
    ok = net_kernel:monitor_nodes(true, [{node_type, all}, nodedown_reason])
end), Watch
"""


async def seen(event: Atom) -> Any:
    """What the watching process of the peer tells of the next `event`, as (node, info)."""
    match = lambda message: message[0] is a.seen and message[1][0] is event  # noqa: E731
    _, (_, node, info) = await expect(match)
    return node, info if isinstance(info, dict) else dict(info)


async def told(event: Atom) -> Any:
    """What our own subscription tells of the next `event`."""
    _, node, info = await expect(lambda message: message[0] is event)
    return node, info


@pytest.mark.parametrize("hidden", [False, True])
def test_node_messages_on_both_sides(world: World, dial: Any, hidden: bool) -> None:
    """Both are told of nodeup and nodedown, with type and reason, whoever disconnects."""
    kind = a.hidden if hidden else a.visible

    async def main() -> None:
        async with world.node(hidden=hidden) as node:
            outside = world.node("reporter@127.0.0.1", hidden=True)
            async with outside:
                assert await outside.connect(world.name)
                await world.connected(seen_there=outside.name.name)
                watch = await world.erl(PEER_WATCH, Owner=self())
                events = asyncio.create_task(_both_ends(world, node, dial, kind))
                await events
                send(watch, a.stop)
        await world.gone_there(node)
        await world.gone_there(outside)

    asyncio.run(main())


async def _both_ends(world: World, node: Node, dial: Any, kind: Atom) -> None:
    ours: asyncio.Queue[Any] = asyncio.Queue()

    async def listen() -> None:
        subscribe_all(node)
        while True:
            ours.put_nowait(await receive())

    listener = asyncio.create_task(node.run_process(listen))
    await asyncio.sleep(0)
    for we_disconnect in (True, False):
        await dial(world, node)
        assert await ours.get() == (a.nodeup, world.name, {a.node_type: a.visible})
        assert await seen(a.nodeup) == (node.name, {a.node_type: kind})
        if we_disconnect:
            assert await node.disconnect(world.name) is True
        else:
            assert await world.erl("erlang:disconnect_node(Node)", Node=node.name) is True
        event, name, info = await ours.get()
        assert (event, name) == (a.nodedown, world.name)
        assert info == {a.node_type: a.visible, a.nodedown_reason: a.disconnect if we_disconnect else a.connection_closed}
        there = await seen(a.nodedown)
        reason = a.connection_closed if we_disconnect else a.disconnect
        assert there == (node.name, {a.node_type: kind, a.nodedown_reason: reason})
        assert node.list("connected") == []
    listener.cancel()
    await asyncio.wait([listener])
