"""A peer that does not read: who sends to it waits, memory stays bounded, everybody else goes on, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    Node,
    Pid,
    Reference,
    SpawnError,
    StaticPorts,
    Tcp,
    UsageError,
    a,
    exit,
    link,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    send_wait,
    spawn,
    spawn_monitor,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.errors import BusyError
from beamnode.etf import implementation
from beamnode.limits import Limits
from beamnode.node import NodeOptions, async_dist, pressure, send_nosuspend
from beamnode.otp import gen
from beamnode.services import process_terms
from beamnode.services.net_control import ConnectionInfo
from beamnode.services.system_terms import SystemTerms
from beamnode.wire import control

LIMIT = 64 * 1024
PIECE = bytes(8 * 1024)
# Beside what waits: 256 KiB in the stream, one message of each process, the run that was written last.
SLACK = 512 * 1024

compiled = pytest.mark.skipif(implementation == "python", reason="asyncio's own tasks cannot be withheld")


class World:
    """`near`, whose block is the test; `slow`, which can be stalled, and `other`; each far node has a collector."""

    def __init__(self) -> None:
        self.memory = MemoryNetwork()
        places = {f"n@{host}": (host, 1024 + number) for number, host in enumerate("bca")}  # as they start
        self._nodes = {host: (self.memory.carrier(host), StaticPorts(places)) for host in "abc"}
        self.got: list[Any] = []
        self.to: Pid
        self.other_to: Pid
        self.watcher: Pid

    def node(self, host: str, **options: Any) -> Node:
        carrier, discovery = self._nodes[host]
        wanted: NodeOptions = {"cookie": "c", "carrier": carrier, "discovery": discovery, **options}
        return Node(f"n@{host}", **wanted)

    def stall(self) -> None:
        self.memory.stall("a", "b")

    def heal(self) -> None:
        self.memory.heal()

    async def watch(self) -> None:
        """Collect, and hear of the end of a process, which is registered as `sender`, by a link and by its name."""
        watched = await receive()
        trap_exit()
        link(watched)
        monitor((a.sender, watched.node))
        self.got.append(a.ready)
        await self.collect()

    async def collect(self) -> None:
        while True:
            self.got.append(await receive())


async def echo() -> None:
    while True:
        sender, message = await receive()
        send(sender, message)


def play(main: Callable[[World, Node], Awaitable[None]], limit: int = LIMIT, **options: Any) -> None:
    async def whole() -> None:
        world = World()
        async with world.node("b") as slow:
            world.to = spawn(world.collect)
            world.watcher = spawn(world.watch)
            async with world.node("c"):
                world.other_to = spawn(echo)
                async with world.node("a", dist_buf_busy_limit=limit, **options) as near:
                    assert await near.connect(slow.name) is True
                    assert await near.connect("n@c") is True
                    await asyncio.wait_for(main(world, near), 20)
                    world.heal()

    asyncio.run(whole())


def connection(node: Node, host: str = "b") -> ConnectionInfo:
    (info,) = [info for info in node.connections() if info.node.name == f"n@{host}"]
    return info


def is_busy(node: Node) -> bool:
    return any(info.node.name == "n@b" and info.busy for info in node.connections())


async def until(what: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.005)


async def settled(node: Node) -> int:
    """What waits for the slow node once nobody adds to it."""
    before = -1
    while (now := connection(node).unsent_bytes) != before:
        before = now
        await asyncio.sleep(0.05)
    return now


# --- Who waits, and where ---------------------------------------------------------------------------------------------


async def with_send_wait(to: Pid, tag: Any, count: int) -> None:
    for number in range(count):
        await send_wait(to, (tag, number, PIECE))


async def with_receive(to: Pid, tag: Any, count: int) -> None:
    me = self()
    for number in range(count):
        send(to, (tag, number, PIECE))
        send(me, number)
        await receive()


async def with_sleep(to: Pid, tag: Any, count: int) -> None:
    for number in range(count):
        send(to, (tag, number, PIECE))
        await asyncio.sleep(0)


async def with_foreign_futures(to: Pid, tag: Any, count: int) -> None:
    for number in range(count):
        send(to, (tag, number, PIECE))
        await asyncio.to_thread(int)


def in_a_thread(to: Pid, tag: Any, count: int) -> None:
    for number in range(count):
        send(to, (tag, number, PIECE))


BODIES = [
    with_send_wait,
    with_receive,
    in_a_thread,
    pytest.param(with_sleep, marks=compiled),
    pytest.param(with_foreign_futures, marks=compiled),
]


@pytest.mark.parametrize("body", BODIES)
def test_a_sender_waits_while_its_peer_does_not_read(body: Callable[..., Any]) -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(body, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        assert LIMIT < await settled(near) < LIMIT + SLACK
        assert world.got == []
        world.heal()
        await until(lambda: len(world.got) == 200)
        assert world.got == [(a.one, number, PIECE) for number in range(200)]
        await until(lambda: not is_busy(near))
        assert connection(near).unsent_bytes == 0

    play(main)


def test_it_is_suspended_meanwhile() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        pids = [spawn(with_send_wait, world.to, a.one, 200), spawn(in_a_thread, world.to, a.one, 200)]
        await until(lambda: all(process_info(pid, "status") == "suspended" for pid in pids))
        world.heal()
        await until(lambda: len(world.got) == 400)

    play(main)


def test_async_dist_lets_a_process_go_on() -> None:
    async def main(world: World, near: Node) -> None:
        assert async_dist() is False
        world.stall()
        for _ in range(2 * pressure.FLOODED):
            send(world.to, bytes(LIMIT))
        send(world.other_to, (self(), a.mine))
        assert await receive(timeout=5) is a.mine
        assert connection(near).busy
        assert async_dist(False) is True
        send(world.to, a.one)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await send_wait(world.to, a.two)

    play(main)


def test_many_senders_add_a_message_each() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        for tag in range(20):
            spawn(with_receive, world.to, tag, 50)
        await until(lambda: is_busy(near))
        assert await settled(near) < LIMIT + SLACK + 20 * len(PIECE)
        world.heal()
        await until(lambda: len(world.got) == 20 * 50)
        for tag in range(20):
            assert [number for of, number, _ in world.got if of == tag] == list(range(50))

    play(main)


def test_it_waits_in_calls_too() -> None:
    async def main(world: World, near: Node) -> None:
        def question() -> Awaitable[Any]:
            return gen.call(("net_kernel", "n@c"), gen.CALL, (a.is_auth, near.name), None)

        world.stall()
        while not connection(near).busy:
            send(world.to, PIECE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await question()  # its answer is there long before
        world.heal()
        assert await question() is a.yes

    play(main)


def test_who_sends_elsewhere_does_not_wait() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        for number in range(50):
            send(world.other_to, (self(), number))
            assert await receive(timeout=5) == number
        assert not connection(near, "c").busy

    play(main)


def test_links_monitors_and_exit_signals_hold_as_well() -> None:
    async def signals(to: Pid, done: list[bool]) -> None:
        exit(to, a.normal)
        done.append(False)
        await receive(timeout=0.01)
        done.append(True)

    async def main(world: World, near: Node) -> None:
        done: list[bool] = []
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        spawn(signals, world.to, done)
        await until(lambda: done)
        await asyncio.sleep(0.1)
        assert done == [False], "it waits before its time to receive begins"

    play(main)


@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize("body", BODIES)
def test_a_sender_waits_while_the_connection_is_made(body: Callable[..., Any], comes: bool) -> None:
    async def main(world: World, near: Node) -> None:
        await near.disconnect(world.to.node)
        await until(lambda: world.to.node not in near.list("known"))
        world.stall()
        _, reference = spawn_monitor(body, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        assert connection(near).state == "pending"
        assert LIMIT < await settled(near) < LIMIT + len(PIECE) + 100
        if comes:
            world.heal()
            await until(lambda: len(world.got) == 200)
            assert world.got == [(a.one, number, PIECE) for number in range(200)]
        else:
            first = connection(near).id  # this attempt fails: what waits for it is lost, and nobody waits any more
            await until(lambda: is_busy(near) and connection(near).id != first)
            world.heal()
        match await receive(timeout=10):
            case (a.DOWN, got, a.process, _, reason):
                assert (got, reason) == (reference, a.normal)

    play(main, net_setuptime=0.3)


def test_nobody_waits_on_when_the_peer_cannot_be_told_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C node: what it does not know of is not sent."""
    monkeypatch.setattr("beamnode.node.session.is_known_to", lambda _flags, record: not hasattr(record, "module"))

    async def asks(node: Node, to: Pid, owner: Pid) -> None:
        try:
            await node.spawn(to.node, "m", "f", [bytes(2 * LIMIT)])
        except SpawnError as error:
            send(owner, error.reason)

    async def main(world: World, near: Node) -> None:
        await near.disconnect(world.to.node)
        await until(lambda: world.to.node not in near.list("known"))
        world.stall()
        spawn(asks, near, world.to, self())
        await until(lambda: is_busy(near))
        world.heal()
        assert await receive(timeout=5) is a.notsup
        assert not is_busy(near)

    play(main, hidden=True)  # so that nothing else is sent when they have met


def test_a_coroutine_that_never_waits_for_a_connection_gets_an_error() -> None:
    async def main(world: World, near: Node) -> None:
        await near.disconnect(world.to.node)
        await until(lambda: world.to.node not in near.list("known"))
        world.stall()
        with pytest.raises(BusyError):  # noqa: PT012
            for _ in range(10_000):
                send(world.to, PIECE)
        assert connection(near).unsent_bytes < pressure.FLOODED * LIMIT + SLACK

    play(main)


@pytest.mark.parametrize("comes", [True, False])
def test_a_sender_waits_for_a_peer_that_says_that_it_is_dialling(comes: bool) -> None:
    """Which needs no cookie: `nok` is said before."""

    async def says_nok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        writer.write(b"\0\4snok")
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(says_nok, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        places = StaticPorts({"a@127.0.0.1": ("127.0.0.1", 0), "b@127.0.0.1": ("127.0.0.1", port)})
        options: NodeOptions = {"cookie": "c", "carrier": Tcp(listen_address="127.0.0.1"), "net_setuptime": 0.5}
        async with server, Node("a@127.0.0.1", discovery=places, dist_buf_busy_limit=LIMIT, **options) as near:
            sent: list[int] = []

            async def sends() -> None:
                for number in range(1000):
                    await send_wait(("name", "b@127.0.0.1"), PIECE)
                    sent.append(number)

            entries = near.network.connections
            assert near.listen_address is not None
            back = StaticPorts({"a@127.0.0.1": near.listen_address})
            near.network.transmit(a["b@127.0.0.1"], control.RegSend(self(), a.name, a.first))
            await until(lambda: (entry := entries.get(a["b@127.0.0.1"])) is not None and entry.conceded)
            spawn(sends)
            await until(lambda: any(info.busy for info in near.connections()))
            before = len(sent)
            await asyncio.sleep(0.05)
            assert len(sent) == before < 10
            if comes:
                async with Node("b@127.0.0.1", listen=False, discovery=back, **options) as b:
                    assert await b.connect(near.name)
                    await until(lambda: len(sent) == 1000)
            else:
                await until(lambda: len(sent) > before)

    asyncio.run(main())


# --- What ends the waiting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES)
def test_an_exit_signal_ends_who_waits(body: Callable[..., Any]) -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        pid, reference = spawn_monitor(body, world.to, a.one, 1000)
        await until(lambda: is_busy(near))
        await settled(near)
        exit(pid, a.kill)
        assert await receive(timeout=5) == (a.DOWN, reference, a.process, pid, a.killed)

    play(main)


@pytest.mark.parametrize("body", BODIES)
def test_the_end_of_the_connection_ends_the_waiting(body: Callable[..., Any]) -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        _, reference = spawn_monitor(body, world.to, a.one, 60)
        await until(lambda: is_busy(near))
        world.memory.cut("a", "b")
        world.heal()
        match await receive(timeout=10):
            case (a.DOWN, got, a.process, _, reason):
                assert (got, reason) == (reference, a.normal)

    play(main)


@compiled
def test_a_cancellation_reaches_a_task_that_is_withheld() -> None:
    async def gives_up(to: Pid, owner: Pid) -> None:
        try:
            async with asyncio.timeout(0.2):
                await with_foreign_futures(to, a.one, 1000)
        except TimeoutError:
            send(owner, a.gave_up)

    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(gives_up, world.to, self())
        assert await receive(timeout=5) is a.gave_up
        assert connection(near).unsent_bytes < LIMIT + SLACK

    play(main)


def test_who_was_let_go_is_not_held_by_what_others_send() -> None:
    go = asyncio.Event()

    async def sends_once(to: Pid, owner: Pid) -> None:
        send(to, a.once)
        await go.wait()  # all the time that it would have to wait for
        send(owner, a.goes_on)

    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        sender = spawn(sends_once, world.to, self())
        await until(lambda: process_info(sender, "status") == "suspended")
        world.heal()
        await until(lambda: len(world.got) == 201)
        world.stall()
        spawn(with_send_wait, world.to, a.two, 200)
        await until(lambda: is_busy(near))
        go.set()
        assert await receive(timeout=5) is a.goes_on

    play(main)


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_peer_spawns_begins_when_it_has_read(ends: bool) -> None:
    """Else who asks and asks, and never reads, has the answers fill the memory: each call is a spawn."""
    began: list[int] = []

    async def work(number: int) -> None:
        began.append(number)

    async def main(world: World, near: Node) -> None:
        near.expose(work, module="m", name="work")
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        count, peer = near.runtime.signals.count, world.to
        for number in range(10):
            ref = Reference(peer.node, peer.creation, (number, 1, 2))
            request = control.SpawnRequest(ref, peer, peer, a.m, a.work, 1, [a.monitor], [number])
            near.runtime.spawning.receive_request(peer.node, request)
        near.runtime.flush()
        await settled(near)
        assert began == []
        assert near.runtime.signals.count == count + 10
        if ends:
            world.memory.cut("a", "b")
        world.heal()
        await until(lambda: began == list(range(10)))
        await until(lambda: near.runtime.signals.count <= count)

    play(main)


# --- Who never waits --------------------------------------------------------------------------------------------------


def test_services_go_on_serving_others() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        for process in near._service_processes.all:
            near.runtime.send(process, world.to, PIECE)
            near.runtime.send(process, world.to, PIECE)
            assert process.body.held_by == ()
        other = (world.other_to.node, near.name)
        assert await near.ping(other[0]) is a.pong
        assert await near.rpc(other[0], "erlang", "node", []) is other[0]

    play(main)


def test_what_a_peer_has_the_node_answer_holds_nobody() -> None:
    """Else a peer that does not read could stop any process whose pid it has."""

    async def main(world: World, near: Node) -> None:
        server, peer = spawn(echo), world.to
        world.stall()
        spawn(with_send_wait, peer, a.one, 200)
        await until(lambda: is_busy(near))
        near.runtime.signals.set_limits(Limits(ties_per_peer_max=1), lambda *_: None)
        records = [control.Link(peer, server), control.Link(world.watcher, server), control.UnlinkId(1, peer, server)]
        for record in records:  # accepted, one too many, acknowledged
            near.runtime.signals.handlers[type(record)](peer.node, record)
        near.runtime.flush()
        for number in range(3):
            send(server, (self(), number))
            assert await receive(timeout=5) == number

    play(main)


def test_a_coroutine_that_never_waits_gets_an_error_and_loses_nothing_before() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        sent = 0
        with pytest.raises(BusyError) as raised:  # noqa: PT012
            for sent in range(10_000):
                send(world.to, (sent, PIECE))
        assert str(raised.value).startswith("n@b is busy, ")
        assert f"{self()!r} sends on: use `await send_wait(...)`" in str(raised.value)
        assert connection(near).unsent_bytes < pressure.FLOODED * LIMIT + SLACK
        with pytest.raises(BusyError):
            send(("name", "n@b"), a.more)
        spawn(send, world.to, a.others_may)
        await asyncio.sleep(0)
        world.heal()
        await send_wait(world.to, a.last)
        await until(lambda: a.last in world.got)
        assert [message for message in world.got if isinstance(message, tuple)] == [(n, PIECE) for n in range(sent)]
        assert a.others_may in world.got

    play(main)


def test_one_message_that_is_too_large_is_no_reason_for_an_error() -> None:
    """However large it is: others, and its own sender, may send a little more before they wait."""

    async def sends(to: Pid, tag: Any, count: int) -> None:
        for number in range(count):
            send(to, (tag, number))

    async def main(world: World, near: Node) -> None:
        world.stall()
        send(world.to, bytes(2 * pressure.FLOODED * LIMIT))
        assert is_busy(near)
        send(world.to, a.after)
        for tag in range(3):
            spawn(sends, world.to, tag, 100)
        world.heal()
        await until(lambda: len(world.got) == 302)
        for tag in range(3):
            assert [got[1] for got in world.got if isinstance(got, tuple) and got[0] == tag] == list(range(100))

    play(main)


def test_a_spawn_can_ask_for_it_and_others_see_it() -> None:
    async def main(world: World, near: Node) -> None:
        near.expose(echo, module="m", name="echo")
        options = [(a.async_dist, True)]
        here = await near.spawn_opt(near.name, echo, options=options)
        ref = Reference(world.to.node, world.to.creation, (1, 2, 3))
        request = control.SpawnRequest(ref, world.to, world.to, a.m, a.echo, 0, options, [])
        near.runtime.spawning.receive_request(world.to.node, request)
        near.runtime.flush()
        for process in (near.runtime.signals.lookup(here), near.runtime.signals.processes()[-1]):
            assert process is not None
            assert process_terms.info(process, near.runtime.signals, a.async_dist) == (a.async_dist, True)
        assert SystemTerms(near).system_info(a.dist_buf_busy_limit) == LIMIT

    play(main)


def test_send_nosuspend_says_that_it_did_not_send() -> None:
    async def main(world: World, near: Node) -> None:
        assert send_nosuspend(world.to, a.first) is True
        assert send_nosuspend(self(), a.mine) is True
        assert await receive(timeout=5) is a.mine
        await until(lambda: world.got == [a.first])
        world.stall()
        while send_nosuspend(world.to, PIECE):
            pass
        assert connection(near).busy
        assert send_nosuspend(("name", "n@b"), a.no) is False
        assert send_nosuspend(world.other_to, (self(), a.yes)) is True

    play(main)


# --- Large and small --------------------------------------------------------------------------------------------------


def test_small_messages_pass_the_rest_of_a_large_one() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(send, world.to, (a.large, bytes(8_000_000)))
        await until(lambda: is_busy(near))
        for number in range(100):
            spawn(send, world.to, number)
        await asyncio.sleep(0.05)
        world.heal()
        await until(lambda: len(world.got) == 101)
        assert sorted(world.got[:100]) == list(range(100))  # of a hundred processes, in any order
        assert world.got[100] == (a.large, bytes(8_000_000))

    play(main)


def test_what_a_process_sends_after_its_large_message_comes_after_it() -> None:
    async def sends(to: Pid) -> None:
        send(to, (a.large, bytes(2_000_000)))
        send(to, (a.new_atom, [a.another], 1))
        send(to, (a.second, bytes(300_000)))
        send(to, a.last)
        exit(a.over)

    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(sends, world.to)
        await until(lambda: is_busy(near))
        for number in range(50):
            spawn(send, world.to, (a.new_too, number))
        await asyncio.sleep(0.05)
        world.heal()
        await until(lambda: len(world.got) == 54)
        mine = [got if isinstance(got, tuple) else (got,) for got in world.got]
        assert [got[0] for got in mine if got[0] is not a.new_too] == [a.large, a.new_atom, a.second, a.last]
        assert sorted(got[1] for got in mine if got[0] is a.new_too) == list(range(50))

    play(main)


def test_signals_of_an_end_come_after_the_large_message_of_who_ended() -> None:
    """Also what a monitor by name tells, although that does not say who has ended."""

    async def sends(to: Pid) -> None:
        await receive()
        send(to, (a.large, bytes(2_000_000)))

    async def main(world: World, near: Node) -> None:
        pid = spawn(sends, world.watcher)
        register("sender", pid)
        send(world.watcher, pid)
        await until(lambda: world.got == [a.ready])
        world.stall()
        send(pid, a.go)
        await until(lambda: is_busy(near))
        await asyncio.sleep(0.05)
        world.heal()
        await until(lambda: len(world.got) == 4)
        assert world.got[1] == (a.large, bytes(2_000_000))
        assert {got[0] for got in world.got[2:]} == {a.EXIT, a.DOWN}

    play(main)


def test_large_messages_take_turns() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(send, world.to, (a.huge, bytes(8_000_000)))
        await until(lambda: is_busy(near))
        for number in range(10):
            spawn(send, world.to, (a.large, number, bytes(200_000)))
        await asyncio.sleep(0.05)
        world.heal()
        await until(lambda: len(world.got) == 11)
        assert [got[0] for got in world.got] == [a.large] * 10 + [a.huge]

    play(main)


# --- Seen from outside ------------------------------------------------------------------------------------------------


def test_the_log_says_once_that_a_peer_is_busy_and_once_for_how_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "LOGGED_SECONDS", 0.1)

    def lines() -> list[str]:
        said = [record.getMessage() for record in caplog.records if record.name == "beamnode.connection"]
        return [text for text in said if "does not read" in text or "was busy" in text]

    async def main(world: World, near: Node) -> None:
        world.stall()
        pids = [spawn(with_send_wait, world.to, tag, 50) for tag in range(7)]
        await until(lambda: lines())
        await asyncio.sleep(0.3)
        (first,) = lines()
        assert first.startswith("n@b does not read: ")
        assert all(repr(pid) in first for pid in pids[:5])
        assert first.endswith(" and 2 more")
        world.heal()
        await until(lambda: len(world.got) == 7 * 50)
        second = lines()[1]
        assert second.startswith("n@b was busy for 0.")
        assert len(lines()) == 2

    play(main)


def test_who_has_ended_is_not_remembered_while_the_peer_does_not_read() -> None:
    async def sends(to: Pid) -> None:
        send(to, a.little)

    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        for _ in range(20):
            for _ in range(100):
                spawn(sends, world.to)
            await asyncio.sleep(0.001)
        session = near.network.session(a["n@b"])
        assert session is not None
        assert len(session.pressure.held) <= pressure.SWEEP_MIN + 100
        world.heal()
        await until(lambda: world.got.count(a.little) == 2000)

    play(main)


def test_a_short_time_of_being_busy_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main(world: World, near: Node) -> None:
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: len(world.got) == 200)

    play(main)
    assert "busy" not in caplog.text


def test_a_peer_that_takes_nothing_is_noticed_by_its_silence() -> None:
    async def main(world: World, near: Node) -> None:
        world.stall()
        spawn(with_send_wait, world.to, a.one, 200)
        await until(lambda: is_busy(near))
        await until(lambda: all(info.node.name != "n@b" or info.state == "pending" for info in near.connections()))

    play(main, net_ticktime=0.8)


@pytest.mark.parametrize("limit", [1023, 0, -1, 1e6, "1 MiB", None, True])
def test_the_limit_is_a_number_of_bytes(limit: Any) -> None:
    with pytest.raises(UsageError, match="dist_buf_busy_limit is a number of bytes, 1024 or more, not"):
        Node("n@h", dist_buf_busy_limit=limit)
