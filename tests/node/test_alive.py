"""A blocked event loop: its connections stay, and a warning says what blocks it. Clocks that jump."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from test_python_nodes_cluster import Cluster, play, until

from beamnode import Node, receive, register, self, send, spawn
from beamnode.node import keep_alive
from beamnode.node.session import Session
from beamnode.wire.frames import TICK

TICKTIME = 1.0  # OTP's shortest
BLOCKED_SECONDS = 2.0 * TICKTIME
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
uvloop.new_event_loop().close()  # the first one of a Python process opens a pipe that stays


def session_of(node: Node, peer: Node) -> Session:
    session = node.network.session(peer.name)
    assert session is not None
    return session


# --- The connection ---------------------------------------------------------------------------------------------------


class Blocked:
    """A node on a loop of its own, in a thread of its own, that blocks this loop and then looks at its connection."""

    def __init__(self, node: Node, peer: Node, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.node, self.peer, self.new_loop = node, peer, new_loop
        self.kept_alive = True
        self.stayed: bool | None = None
        self.counted = 0  # bytes sent while it was blocked
        self.connected = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(self.main())

    async def main(self) -> None:
        async with self.node as node:
            assert await node.connect(self.peer.name)
            session = session_of(node, self.peer)
            if not self.kept_alive:
                node.network.keep_alive.remove(session)
            await asyncio.sleep(TICKTIME / 4)
            before = node.connection_id(self.peer.name), session.counters()[1]
            time.sleep(BLOCKED_SECONDS)
            self.counted = session.counters()[1] - before[1]
            await asyncio.sleep(TICKTIME / 4)
            self.stayed = node.connection_id(self.peer.name) == before[0]


def test_a_blocked_node_stays_connected() -> None:
    """On both loops, side by side; the peer lives on a third one. Without the helper it would be dropped."""

    async def main(cluster: Cluster) -> None:
        def node() -> Node:
            return cluster.node(net_ticktime=TICKTIME, hidden=True, blocked_warning=None)

        async with node() as peer:
            downs = []
            peer.monitor_nodes(node_type="all")
            kinds = [*LOOPS, "asyncio"]
            blocked = [Blocked(node(), peer, LOOPS[kind]) for kind in kinds]
            blocked[-1].kept_alive = False
            try:
                for each in blocked:
                    await asyncio.to_thread(each.thread.join)
            finally:
                await until(lambda: peer.list("hidden") == [])
            while len(downs) < len(blocked):
                if (message := await receive(timeout=5))[0].name == "nodedown":
                    downs.append(message[1])
            assert [each.stayed for each in blocked] == [True, True, False]
            assert downs[0] is blocked[-1].node.name  # while the others were blocked
            for each in blocked[:-1]:
                assert 4 * BLOCKED_SECONDS / TICKTIME <= each.counted <= 4 * 4 * BLOCKED_SECONDS / TICKTIME

    play(main)


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_what_came_meanwhile_is_read_before_a_peer_is_called_silent(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The peer had said nothing for all but one of the intervals, then did, while a reader blocked this loop.

    uvloop calls timers after such a reader, and looks for what else came only then.
    """

    async def main(cluster: Cluster) -> None:
        async with cluster.node(net_ticktime=TICKTIME) as one, cluster.node(net_ticktime=60) as other:
            assert await one.connect(other.name)
            session = session_of(one, other)
            channel: Any = session._channel
            connection = one.connection_id(other.name)
            await asyncio.sleep(0.05)
            near, far = socket.socketpair()
            over = asyncio.Event()

            def on_readable() -> None:
                near.recv(1)
                channel.ticker._silent_intervals = 3
                channel.ticker._bytes_in_then = channel.ticker.bytes_in
                session_of(other, one).tick()  # it lies in the socket now
                time.sleep(TICKTIME / 4 + 0.2)
                over.set()

            asyncio.get_running_loop().add_reader(near, on_readable)
            far.send(b".")
            await over.wait()
            asyncio.get_running_loop().remove_reader(near)
            near.close()
            far.close()
            await asyncio.sleep(0.05)
            assert one.connection_id(other.name) == connection
            assert channel.ticker._silent_intervals == 0

    play_on(new_loop, main)


def test_a_clock_that_jumps_takes_nobody_for_dead() -> None:
    """As after a suspend, where the clock of the loop counts that: all timers are due at once, long ago."""

    class Jumping(asyncio.SelectorEventLoop):
        ahead = 0.0

        def time(self) -> float:
            return super().time() + self.ahead

    async def main(cluster: Cluster) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Jumping)
        async with cluster.node(net_ticktime=60) as one, cluster.node(net_ticktime=60) as other:
            assert await one.connect(other.name)
            connection = one.connection_id(other.name)
            session = session_of(one, other)
            await asyncio.sleep(0.05)
            received = session.counters()[0]
            for _ in range(8):
                loop.ahead += 3600
                await asyncio.sleep(0.01)
            assert session.counters()[0] >= received + 6 * len(TICK)  # the first jump ended an interval with messages
            assert one.connection_id(other.name) == connection

    play_on(Jumping, main)


def play_on(
    new_loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[Cluster], Coroutine[Any, Any, None]]
) -> None:
    """`play` on another loop."""

    def run(whole: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(whole)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio, "run", run)
        play(main)


def test_the_thread_is_there_while_a_connection_is() -> None:
    def threads() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("beamnode keeps"))

    async def main(cluster: Cluster) -> None:
        async with cluster.node("one") as one, cluster.node("two") as two, cluster.node("three") as three:
            assert threads() == []
            assert await one.connect(two.name)
            assert threads() == [f"beamnode keeps {name}@127.0.0.1 alive" for name in ("one", "two")]
            assert await one.connect(three.name)
            await until(lambda: len(threads()) == 3)
            await one.disconnect(three.name)
            await two.disconnect(three.name)
            await until(lambda: len(threads()) == 2)
            await one.disconnect(two.name)
            await until(lambda: threads() == [])

    play(main)


# --- The warning ------------------------------------------------------------------------------------------------------

BOUND = 0.1


def block() -> None:
    time.sleep(3 * BOUND)  # the line that is named


def compute() -> None:
    ended = time.monotonic() + 3 * BOUND
    while time.monotonic() < ended:
        pass


async def worker() -> None:
    register("worker", self())
    await receive()
    block()
    await receive()


LINE = f"{__file__}:{block.__code__.co_firstlineno + 1}, in block: "


def test_the_warning_names_the_process_and_the_line(caplog: pytest.LogCaptureFixture) -> None:
    """Of a spawned process, of the body of `async with`, of a task and a callback that are no process; each once."""

    async def main(cluster: Cluster) -> None:
        caplog.set_level(logging.DEBUG, "beamnode.node")
        async with cluster.node(blocked_warning=None) as two, cluster.node("one", blocked_warning=BOUND) as one:
            assert await one.connect(two.name)
            await asyncio.sleep(0.05)
            blocker = spawn(worker)
            await asyncio.sleep(0.05)
            send("worker", "go")
            who, line = await warned(caplog, one)
            assert re.fullmatch(re.escape(repr(blocker)) + r" \(worker, test_alive\.worker/0\)", who)
            assert line == LINE
            compute()
            who, line = await warned(caplog, one)
            assert re.fullmatch(re.escape(repr(self())) + r" \(beamnode\.body/0\)", who)
            assert f"{__file__}:{compute.__code__.co_firstlineno + 2}, in compute: " <= line <= f"{__file__}:~"
            assert line.endswith(", in compute: ")
            asyncio.get_running_loop().call_soon(block)
            assert await warned(caplog, one) == ("a callback, of no process,", LINE)

    play(main)


async def warned(caplog: pytest.LogCaptureFixture, node: Node) -> tuple[str, str]:
    """Who and where, of the one warning, behind which there is the stack (for debugging) and a word about the end."""
    await until(lambda: any(" goes on" in record.getMessage() for record in caplog.records))
    await asyncio.sleep(2 * BOUND)  # there is no other one
    ours = [record for record in caplog.records if record.name == "beamnode.node"]  # asyncio warns too, if it debugs
    records = [record for record in ours if record.levelno in (logging.DEBUG, logging.WARNING)]
    texts = [record.getMessage() for record in records]
    caplog.clear()
    first, stack, last = texts
    assert [record.levelname for record in records] == ["WARNING", "DEBUG", "WARNING"]
    assert {record.name for record in records} == {"beamnode.node"}
    begun = re.fullmatch(
        rf"the event loop of {node.name} is blocked, for [\d.]+ s so far, by (.*) at (/.*: )nothing else runs .*", first
    )
    assert begun is not None, first
    assert stack.startswith(f"what blocks the event loop of {node.name}:\n  File ")
    seconds = re.fullmatch(rf"the event loop of {node.name} goes on: it was blocked for ([\d.]+) s", last)
    assert seconds is not None, last
    return begun[1], begun[2]


def test_no_warning_where_it_is_off_or_nothing_blocks(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(blocked_warning=BOUND) as one, cluster.node(blocked_warning=None) as two:
            assert await one.connect(two.name)
            for _ in range(20):
                await asyncio.sleep(BOUND / 10)
            await one.disconnect(two.name)
            await asyncio.sleep(0)
            block()
        async with cluster.node(blocked_warning=None) as one, cluster.node(blocked_warning=None) as two:
            assert await one.connect(two.name)
            block()
        assert [record for record in caplog.records if "blocked" in record.getMessage()] == []

    play(main)


def test_a_task_of_a_process_is_told_from_it() -> None:
    """Python tells the context of a task from 3.12 on; before, such a task is known by its name only."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            seen = []

            async def look() -> None:
                seen.append(keep_alive.who_runs(asyncio.get_running_loop(), node.runtime))

            await asyncio.create_task(look(), name="looking")
            whose = f" of {self()!r} (beamnode.body/0)" if hasattr(asyncio.Task, "get_context") else ", of no process,"
            assert seen == [f"the task 'looking'{whose}"]

    play(main)
