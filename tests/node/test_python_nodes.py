"""Python nodes among themselves, no Erlang anywhere: connecting, listing, messages, links, monitors, node monitors."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, echo, expect, nothing_comes, play, until

from beamnode import (
    Atom,
    BitString,
    EncodeError,
    Export,
    Fun,
    ImproperList,
    NameTakenError,
    Node,
    NodeNameError,
    Pid,
    Port,
    ProcessExit,
    Reference,
    UsageError,
    a,
    demonitor,
    exit,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_link,
    trap_exit,
    unlink,
    whereis,
)

pytestmark = pytest.mark.filterwarnings("error")


# --- Connecting and listing -------------------------------------------------------------------------------------------


def test_two_nodes_connect_list_ping_and_part() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            assert await one.connect(two.name) is True
            assert await one.connect(two.name) is True
            assert (one.list(), two.list()) == ([two.name], [one.name])
            assert await one.ping(two.name) is a.pong
            assert await two.ping(one.name.name) is a.pong
            assert await two.disconnect(one.name) is True
            assert await two.disconnect(one.name) is False
            await until(lambda: one.list() == [])
            assert await one.ping(two.name) is a.pong
            assert one.connect_error(two.name) is None

    play(main)


def test_a_node_is_connected_with_itself_and_not_listed() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            assert await node.connect(node.name) is True
            assert await node.ping(node.name) is a.pong
            assert await node.disconnect(node.name) is False
            assert (node.list(), node.list("this"), node.list("known")) == ([], [node.name], [node.name])

    play(main)


@pytest.mark.parametrize(("hidden_one", "hidden_two"), [(True, False), (False, True), (True, True)])
def test_hidden_nodes_are_listed_as_hidden(hidden_one: bool, hidden_two: bool) -> None:
    """As in OTP: whoever is hidden lists its own connections as hidden too."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node(hidden=hidden_one) as one, cluster.node(hidden=hidden_two) as two:
            assert one.hidden is hidden_one
            assert await one.connect(two.name) is True
            for node, other in ((one, two), (two, one)):
                assert node.list("connected") == [other.name]
                seen_as_hidden = other.hidden or node.hidden
                assert (node.list(), node.list("hidden")) == (
                    ([], [other.name]) if seen_as_hidden else ([other.name], [])
                )

    play(main)


def test_an_unknown_kind_of_list_is_told() -> None:
    with pytest.raises(UsageError, match=r"'visible', 'hidden', 'connected', 'this' or 'known', not 'all'"):
        Node(f"n@{HOST}", cookie="c").list("all")  # also when it is stopped


def test_a_node_that_is_not_there() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            assert await node.connect(f"nobody@{HOST}") is False
            assert "epmd of 127.0.0.1 knows no node 'nobody'" in str(node.connect_error(f"nobody@{HOST}"))
            assert await node.ping(f"nobody@{HOST}") is a.pang
            with pytest.raises(NodeNameError, match="lacks the part before the '@'"):
                await node.connect(f"@{HOST}")
            with pytest.raises(
                NodeNameError, match=r"has a long name, but other@host is a short one.*the name other@HOST"
            ):
                await node.connect("other@host")

    play(main)


def test_short_names_meet_and_long_ones_are_refused() -> None:
    async def main(cluster: Cluster) -> None:
        def short(alive: str) -> Node:
            made = cluster.node()
            return Node(f"{alive}@localhost", cookie=cluster.cookie, discovery=made._discovery, carrier=made._routes)

        async with short("one") as one, short("two") as two:
            assert not one.long_names
            assert await one.ping(two.name) is a.pong
            with pytest.raises(NodeNameError, match=r"has a short name, but .* is a long one"):
                await one.connect(f"x@{HOST}")

    play(main)


def test_a_name_that_is_taken() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node("taken"):
            with pytest.raises(NameTakenError, match=r"the name 'taken' is taken.*choose another name"):
                await cluster.node("taken").start()
        async with cluster.node("taken") as again:
            assert again.alive

    play(main)


# --- Messages ---------------------------------------------------------------------------------------------------------


def terms() -> list[Any]:
    node = Atom("x@y")
    return [
        0, 1, -1, 255, 2**31, -(2**63), 2**64, 10**400, 1.5, -0.0, True, False, None, a.undefined, Atom("ünï"),
        b"", b"bytes", b"a string", BitString(b"\xa0", 3), (), (1,), tuple(range(300)), [], [1, [2, []]],
        list(b"charlist"), list(range(300)), ImproperList((1, 2), 3), {}, {a.k: [1], b"b": {1: 2}, (1,): 2.0},
        Pid(node, 1, 2, 3), Port(node, 7, 3), Reference(node, 3, (1, 2, 3)), Export(a.lists, a.map, 2),
        Fun(a.m, 1, b"\x01" * 16, 2, 3, 4, Pid(node, 1, 2, 3), (a.free, 1)),
    ]  # fmt: skip


def test_every_type_of_term_comes_back_unchanged() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            pid = await two.spawn(one.name, echo)
            for term in [*terms(), terms()]:
                send(pid, (self(), term))
                answer = await expect()
                assert answer == (a.echo, term)
                assert repr(answer[1]) == repr(term)  # 1 is not 1.0, nor True

    play(main)


def test_text_arrives_as_bytes_or_with_strings_as_str() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(strings=True) as one, cluster.node() as two:
            pid = await two.spawn(one.name, echo)  # which gets a str, and sends it
            for sent, back in (("gruß", "gruß".encode()), (b"\xff", b"\xff")):
                send(pid, (self(), sent))
                assert await expect() == (a.echo, back)
            mirror = await one.run_process(lambda: two_way(one, two))
            assert mirror == "gruß"

    async def two_way(one: Node, two: Node) -> Any:
        send(await one.spawn(two.name, echo), (self(), "gruß"))
        return (await expect())[1]

    play(main)


def test_a_message_to_a_name_to_nobody_and_to_a_dead_process() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            register("here", self())
            assert send(("nobody", one.name), 1) == 1
            pid = await two.spawn(one.name, echo)
            monitor(pid)
            send(pid, a.stop)
            assert (await expect())[0] is a.DOWN
            send(pid, a.hello)
            assert await one.run_process(lambda: greet(two.name)) == "sent"
            assert await expect() == (a.hello, one.name)

    async def greet(node: Atom) -> str:
        send(("here", node), (a.hello, self().node))
        return "sent"

    play(main)


def test_a_message_to_a_place_that_cannot_be() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            for wrong in (1, None, ("a", "b", "c"), ("a",), ("a", 1), b"name", [self()]):
                with pytest.raises(UsageError):
                    send(wrong, a.hello)  # type: ignore[arg-type]
            send("nobody", a.hello)
            send(("nobody", f"nowhere@{HOST}"), a.hello)

    play(main)


COUNT = int(os.environ.get("BEAMNODE_MESSAGES", "200000"))


def test_many_small_messages_keep_their_order() -> None:
    """1,000,000 with BEAMNODE_MESSAGES=1000000."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            pid = await two.spawn(one.name, count)
            for number in range(COUNT):
                send(pid, (self(), number))
                if number % 1000 == 0:
                    await asyncio.sleep(0)
            assert await receive(timeout=100) == (a.counted, COUNT)

    play(main)


async def count() -> None:
    for number in range(COUNT):
        sender, got = await expect()
        assert got == number
    send(sender, (a.counted, COUNT))


@pytest.mark.one_python
def test_a_binary_of_100_megabytes_both_ways_and_the_connection_is_still_up_ticks_later() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(net_ticktime=4) as one, cluster.node(net_ticktime=4) as two:
            two.monitor(one.name)
            big = os.urandom(1_000_000) * 100
            pid = await two.spawn(one.name, echo)
            send(pid, (self(), big))
            kind, back = await receive(timeout=60)
            assert kind is a.echo
            assert hashlib.sha256(back).digest() == hashlib.sha256(big).digest()
            del big, back
            await nothing_comes(5.5)  # more than net_ticktime and a quarter
            assert (one.list(), two.list()) == ([two.name], [one.name])

    play(main)


# --- Messages that cannot be sent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unencodable", [object(), float("nan"), {1, 2}, [1, [object()]], Atom("x" * 256)])
def test_what_has_no_term_is_an_error_where_it_is_sent(unencodable: Any) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            register("here", self())
            with pytest.raises(EncodeError):  # while connecting: it would have been queued
                await one.run_process(lambda: post(two.name, unencodable))
            assert await one.run_process(lambda: post(two.name, a.first)) is None
            assert await expect() is a.first
            with pytest.raises(EncodeError):  # connected
                await one.run_process(lambda: post(two.name, unencodable))
            await one.run_process(lambda: post(two.name, a.second))
            assert await expect() is a.second
            assert one.list() == [two.name]

    async def post(node: Atom, message: Any) -> None:
        send(("here", node), message)

    play(main)


def test_a_reason_that_has_no_term_is_told_in_words() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            pid, reference = await two.spawn_monitor(one.name, exit_with_an_object)
            down = await expect()
            assert down[:4] == (a.DOWN, reference, a.process, pid)
            assert down[4][0] is a.unencodable_reason
            assert b"object" in down[4][1]
            assert two.list() == [one.name]

    play(main)


async def exit_with_an_object() -> None:
    exit(object())


def test_what_is_sent_while_connecting_is_neither_lost_nor_reordered() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            register("here", self())
            await one.run_process(lambda: number(two))
            assert [await expect() for _ in range(3000)] == list(range(3000))

    async def number(two: Node) -> None:
        for value in range(3000):
            message = [value]
            send(("here", two.name), message[0])
            if value % 100 == 0:
                await asyncio.sleep(0)  # the connection comes up in the midst of it

    play(main)


def test_a_message_that_waits_for_its_connection_is_a_copy() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            register("here", self())
            await one.run_process(lambda: change(two))
            assert await expect() == [1]

    async def change(two: Node) -> None:
        message = [1]
        send(("here", two.name), message)
        message.append(2)

    play(main)


# --- Links and monitors -----------------------------------------------------------------------------------------------


async def crash() -> None:
    raise ValueError("no")


async def leave() -> None:
    await expect(lambda message: message is a.leave)
    exit(a.left)


async def wait() -> None:
    await receive()


def test_a_monitor_tells_of_every_end() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            pid = await two.spawn(one.name, leave)
            reference = monitor(pid)
            send(pid, a.leave)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.left)
            reference = monitor(pid)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.noproc)
            pid = await two.spawn(one.name, wait)
            reference = monitor(pid)
            exit(pid, a.kill)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.killed)
            pid = await two.spawn(one.name, wait)
            reference = monitor(pid)
            exit(pid, a.normal)
            await nothing_comes()
            assert demonitor(reference) is True
            assert demonitor(reference) is False
            exit(pid, (a.because, 1))
            await nothing_comes()
            reference = monitor(("nobody", one.name))
            assert await expect() == (a.DOWN, reference, a.process, (a.nobody, one.name), a.noproc)
            reference = monitor(("nobody", f"nowhere@{HOST}"))
            assert (await expect())[3:] == ((a.nobody, Atom(f"nowhere@{HOST}")), a.noconnection)

    play(main)


def test_a_link_carries_exits_both_ways() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            trap_exit()
            pid = await two.spawn_link(one.name, leave)
            send(pid, a.leave)
            assert await expect() == (a.EXIT, pid, a.left)
            link(pid)
            assert await expect() == (a.EXIT, pid, a.noproc)
            pid = await two.spawn(one.name, wait)
            link(pid)
            unlink(pid)
            exit(pid, a.over)
            await nothing_comes()
            far = await two.spawn(one.name, wait)
            reference = monitor(far)
            near = spawn(link_then_end, far)
            assert await expect() == (a.DOWN, reference, a.process, far, a.ended_here)
            assert near != far
            trap_exit(False)
            pid = await two.spawn_link(one.name, leave)
            send(pid, a.leave)
            await receive()

    async def link_then_end(pid: Pid) -> None:
        link(pid)
        exit(a.ended_here)

    async def whole(cluster: Cluster) -> None:
        with pytest.raises(ProcessExit) as error:  # the body of `two` ends with the last one
            await main(cluster)
        assert error.value.reason is a.left

    play(whole)


def test_a_crash_here_ends_a_linked_process_there(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            trap_exit()
            pid = await two.spawn_link(one.name, crash)
            match await expect():
                case (a.EXIT, Pid() as who, ((Atom(name="ValueError"), b"no"), [(_, Atom(name="crash"), [], _), *_])):
                    assert who == pid
                case other:
                    pytest.fail(f"got {other!r}")

    play(main)
    assert [record.message for record in caplog.records if "crashed" in record.message]


@pytest.mark.parametrize("who", ["one", "two"])
def test_what_a_disconnect_brings(who: str) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            trap_exit()
            two.monitor(one.name)
            two.monitor_nodes(nodedown_reason=True)
            pid = await two.spawn(one.name, wait)
            assert await expect() == (a.nodeup, one.name, {})
            link(pid)
            reference = monitor(pid)
            named = monitor(("net_kernel", one.name))
            await asyncio.sleep(0.05)
            if who == "two":
                await two.disconnect(one.name)
            else:
                await one.disconnect(two.name)
            got = [await expect() for _ in range(5)]
            reason = a.disconnect if who == "two" else a.connection_closed
            assert (a.DOWN, reference, a.process, pid, a.noconnection) in got
            assert (a.DOWN, named, a.process, (a.net_kernel, one.name), a.noconnection) in got
            assert (a.EXIT, pid, a.noconnection) in got
            assert got[-2:] == [(a.nodedown, one.name, {a.nodedown_reason: reason}), (a.nodedown, one.name)]
            await nothing_comes()

    play(main)


def test_node_monitors() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node(hidden=True) as shy, cluster.node() as two:
            two.monitor_nodes()
            await two.connect(shy.name)
            await two.connect(one.name)
            assert await expect() == (a.nodeup, one.name)
            two.monitor_nodes(False)
            two.monitor_nodes(node_type="all", nodedown_reason=True)
            await two.disconnect(shy.name)
            down = {a.node_type: a.hidden, a.nodedown_reason: a.disconnect}
            assert await expect() == (a.nodedown, shy.name, down)
            two.monitor_nodes(False, node_type="all", nodedown_reason=True)
            two.monitor(f"nobody@{HOST}")
            assert await expect() == (a.nodedown, Atom(f"nobody@{HOST}"))
            two.monitor(one.name)
            two.monitor(one.name)
            two.monitor(one.name, False)
            await one.stop()
            assert await expect() == (a.nodedown, one.name)
            await nothing_comes()
            with pytest.raises(UsageError, match="'visible', 'hidden' or 'all'"):
                two.monitor_nodes(node_type="everything")

    play(main)


def test_registered_names_belong_to_their_node() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node():
            register("mine", self())
            assert whereis("mine") == self()
            assert await one.run_process(look_up) is None

    async def look_up() -> Pid | None:
        return whereis("mine")

    play(main)


def test_a_spawn_that_links_survives_its_peer_not_at_all() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            trap_exit()
            pid = spawn_link(crash_quietly)
            assert await expect() == (a.EXIT, pid, a.quiet)

    play(main)


async def crash_quietly() -> None:
    exit(a.quiet)
