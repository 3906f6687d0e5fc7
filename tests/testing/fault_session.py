"""A short session of two nodes behind a fault proxy, again and again, and what has to hold after each.

One process, the asker on node one, and one, the keeper on node two, are tied to each other in every way; each counts
what it is told of the end. The session is short, so that a fault at each of its bytes takes seconds and not hours.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from beamnode import Node, Pid, Reference, a, exit, link, monitor, receive, register, send, trap_exit
from beamnode import self as own_pid
from beamnode.carriers.tcp import Tcp
from beamnode.errors import SpawnError
from beamnode.etf import Atom, encode
from beamnode.node.epmd_discovery import StaticPorts
from beamnode.testing.fault_proxy import Corrupt, FaultProxy, Plan

HOST = "127.0.0.1"
ANSWER_SECONDS = 0.4  # for answers that may never come
SETTLE_SECONDS = 10.0  # for what must come


def told(message: Any) -> tuple[str, Any] | None:
    """Whom or what a message tells the end of."""
    match message:
        case (a.DOWN, Reference() as reference, _, _, _):
            return "DOWN", reference
        case (a.EXIT, Pid() as pid, _):
            return "EXIT", pid
        case (a.nodedown, Atom() as node):
            return "nodedown", node
    return None


async def serve(asker: Pid) -> None:
    """What the asker spawns on the other node, as `fault:serve/1`."""
    monitor(asker)
    while True:
        match await receive():
            case (a.DOWN, *_):
                return
            case (Pid() as sender, message):
                send(sender, (a.got, message))


@dataclass
class Told:
    """What a process was told of ends, and what it must be told once each by now."""

    came: Counter[tuple[str, Any]] = field(default_factory=Counter)
    expected: set[tuple[str, Any]] = field(default_factory=set)

    def is_complete(self) -> bool:
        return self.expected <= set(self.came)


async def keeper(found: Told) -> None:
    """Registered on the other node: ties itself to whom it is told to, and counts."""
    trap_exit()
    while True:
        message = await receive()
        if (what := told(message)) is not None:
            found.came[what] += 1
            continue
        match message:
            case (a.watch, Pid() as pid):
                found.expected |= {("EXIT", pid), ("DOWN", monitor(pid))}
                link(pid)
                send(pid, (a.watched, own_pid()))


def is_exact(plan: Plan) -> bool:
    """Whether what arrives is what was sent: otherwise a lawful message may have become another one."""
    return not any(isinstance(fault, Corrupt) for fault in (*plan.forward, *plan.backward))


class Asker:
    """Node one, and a proxy through which it finds node two. `session` runs one session."""

    def __init__(self, one_name: str, two_name: str, cookie: str, seconds: float) -> None:
        self.one_name, self.two_name = one_name, two_name
        self.ports: dict[str, int] = {}
        self.options: dict[str, Any] = {
            "cookie": cookie,
            "hidden": True,
            "dist_auto_connect": "never",
            "net_setuptime": seconds,
            "net_ticktime": seconds,
            "discovery": StaticPorts(self.ports),
            "carrier": Tcp(listen_address=HOST),
        }
        self.one = Node(one_name, **self.options)
        self.asked = Told()
        self.proxy: FaultProxy
        self.keeper: Pid

    async def start_one(self, stack: AsyncExitStack, port_of_two: int) -> None:
        self.proxy = await stack.enter_async_context(FaultProxy(HOST, port_of_two))
        self.ports[self.two_name] = self.proxy.port
        await self.one.start()
        stack.push_async_callback(self.one.stop)
        self.idle = len(self.one.runtime.signals.processes())

    def holdings(self) -> dict[str, int]:
        """What is there and was not there before."""
        return held(self.one, self.idle)

    async def settle(self) -> None:
        """Until there is nothing more than before the first session."""
        await until(lambda: not self.holdings() and not self.proxy.open_connections, lambda: f"held: {self.holdings()}")

    def check_told(self, plan: Plan, **told: Told) -> None:
        """Of every end, once. What corruption makes of a message may tell of another."""
        exact = is_exact(plan)
        for name, found in told.items():
            assert found.expected <= set(found.came), f"the {name} was not told: {found.expected - set(found.came)}"
            twice = {what for what, count in found.came.items() if count > 1 and (exact or what[0] == "DOWN")}
            assert not twice, f"the {name} was told twice: {twice}"
            stray = set(found.came) - found.expected - {("EXIT", self.keeper)}  # whose link may come without its word
            assert not stray or not exact, f"the {name} was told of what it never tied itself to: {stray}"

    async def check_reconnects(self) -> None:
        assert await self.one.connect(self.two_name), self.one.connect_error(self.two_name)
        assert await self.one.ping(self.two_name) is a.pong

    async def session(self, plan: Plan) -> bool:
        """Connect through the plan and do everything; whether there was a connection at all. Ends without one."""
        self.asked = Told()
        self.is_exact = is_exact(plan)
        self.proxy.plan(plan)
        if not await self.one.connect(self.two_name):
            return False
        await self.one.run_process(self._ask)
        await self.one.disconnect(self.two_name)
        return True

    async def _ask(self) -> None:
        """The asker: it goes on whatever comes or does not, and ends when it was told all that it must be told."""
        asked = self.asked
        trap_exit()
        self.one.monitor(self.two_name)
        asked.expected.add(("nodedown", Atom(self.two_name)))
        asked.expected.add(("DOWN", monitor(("keeper", self.two_name))))
        send(("keeper", self.two_name), (a.watch, own_pid()))
        if await self._answer((a.watched, self.keeper)) and self.is_exact:  # it has linked itself
            asked.expected.add(("EXIT", self.keeper))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                pid, reference = await self.one.spawn_monitor(self.two_name, "fault", "serve", [own_pid()])
        except (SpawnError, TimeoutError):
            pass
        else:
            asked.expected |= {("DOWN", reference), ("EXIT", pid)}
            link(pid)
            send(pid, (own_pid(), b"hello"))
            await self._answer((a.got, b"hello"))
            self._send_in_fragments(pid, (own_pid(), [b"piece", b"by", b"piece"]))
            await self._answer((a.got, [b"piece", b"by", b"piece"]))
            exit(pid, a.enough)
            await self._until(lambda: ("DOWN", reference) in asked.came and ("EXIT", pid) in asked.came, ANSWER_SECONDS)
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, self.one.disconnect(self.two_name))
        await self._until(asked.is_complete, SETTLE_SECONDS)
        while await self._took(0.0):
            pass

    async def _answer(self, wanted: Any) -> bool:
        """Until it is there, or the connection is not, or it takes too long; what else comes is counted."""
        down = "nodedown", Atom(self.two_name)
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        while (left := deadline - asyncio.get_running_loop().time()) > 0 and down not in self.asked.came:
            try:
                message = await receive(timeout=left)
            except TimeoutError:
                return False
            if (what := told(message)) is not None:
                self.asked.came[what] += 1
            elif message == wanted:
                return True
        return False

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
            if not await self._took(left):
                return

    async def _took(self, seconds: float) -> bool:
        try:
            message = await receive(timeout=seconds)
        except TimeoutError:
            return False
        if (what := told(message)) is not None:
            self.asked.came[what] += 1
        return True

    def _send_in_fragments(self, to: Pid, message: Any) -> None:
        """As three fragments, of few bytes each: a node makes such of 64 KiB."""
        session = self.one.network.session(Atom(self.two_name))
        if session is None or session._stream is None:
            return
        session._write_channel()
        control, payload = encode((22, own_pid(), to))[1:], encode(message)[1:]
        third = len(payload) // 3
        pieces = payload[:third], payload[third : 2 * third], payload[2 * third :]
        frames = [b"\x83E" + struct.pack(">QQ", 1, 3) + b"\0" + control + pieces[0]]
        frames += [b"\x83F" + struct.pack(">QQ", 1, 3 - number) + pieces[number] for number in (1, 2)]
        session._stream.write([struct.pack(">I", len(frame)) + frame for frame in frames])


class Pair(Asker):
    """Two nodes of ours. `check` says what has to hold after a session."""

    def __init__(self, number: int, cookie: str, seconds: float) -> None:
        super().__init__(f"one{number}@{HOST}", f"two{number}@{HOST}", cookie, seconds)
        self.two = Node(self.two_name, **self.options)
        self.two.expose(serve, module="fault", name="serve")
        self.kept = Told()

    async def start(self, stack: AsyncExitStack) -> None:
        await self.two.start()
        stack.push_async_callback(self.two.stop)
        address = self.two.listen_address
        assert address is not None
        await self.start_one(stack, address[1])
        self._idle_two = len(self.two.runtime.signals.processes()) + 1
        task = asyncio.create_task(self.two.run_process(self._keep))
        stack.callback(task.cancel)

    async def _keep(self) -> None:
        register("keeper", own_pid())
        self.keeper = own_pid()
        await keeper(self.kept)

    async def check(self, plan: Plan) -> None:
        """Told once of each, nothing left, and the two meet again."""
        await until(self.kept.is_complete, "the keeper was told of every end")
        await self.settle()
        self.check_told(plan, asker=self.asked, keeper=self.kept)
        self.kept.came.clear()
        self.kept.expected.clear()
        await self.check_reconnects()
        assert self.two.list("connected") == [Atom(self.one_name)]
        await self.one.disconnect(self.two_name)
        await self.settle()
        assert not self.kept.came, "the keeper was told of a connection that came later"

    def holdings(self) -> dict[str, int]:
        return super().holdings() | held(self.two, self._idle_two)


def held(node: Node, idle_processes: int) -> dict[str, int]:
    """What a node without connections has and should not have."""
    network, signals = node.network, node.runtime.signals
    counts = {
        f"sessions of {node.name}": len(network._sessions),
        f"accepted by {node.name}": len(network._accepting),
        f"dialled by {node.name}": len(network._dialling),
        f"connections of {node.name}": len(network.connections.connections()),
        f"ties of {node.name}": len(signals._ties),
        f"processes of {node.name}": len(signals.processes()) - idle_processes,
    }
    return {what: count for what, count in counts.items() if count}


async def until(done: Callable[[], bool], what: Any) -> None:
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while not done():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(what() if callable(what) else f"not so within {SETTLE_SECONDS} s: {what}")
        await asyncio.sleep(0.001)


# --- many sessions ----------------------------------------------------------------------------------------------------

TIES = 5  # that the asker has when all went well


@dataclass
class Figures:
    """What came of many sessions: how many had a connection, were hit by the fault, and did all there is to do."""

    sessions: int = 0
    connected: int = 0
    hit: int = 0
    whole: int = 0


async def lengths(cookie: str) -> tuple[int, int]:
    """Bytes of a whole session, each way."""
    async with AsyncExitStack() as stack:
        pair = Pair(0, cookie, 5)
        await pair.start(stack)
        assert await pair.session(Plan())
        await pair.check(Plan())
        assert len(pair.asked.expected) == TIES
        return pair.proxy.connections[0].forwarded, pair.proxy.connections[0].backwarded


async def run_all(plans: Iterable[Plan], cookie: str, *, side_by_side: int, seconds: float) -> Figures:
    """A session for each plan, on so many pairs of nodes; AssertionError with the plan where something does not hold.

    `seconds` are the set-up and the tick time. At the end nothing may be left in this event loop.
    """
    figures, waiting = Figures(), list(plans)[::-1]
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, problem: problems.append(problem))
    before = left_behind()

    async def lane(pair: Pair) -> None:
        while waiting:
            plan = waiting.pop()
            try:
                connected = await pair.session(plan)
                figures.connected += connected
                figures.hit += bool(pair.proxy.connections[0].hit)
                figures.whole += len(pair.asked.expected) == TIES
                await pair.check(plan)
                assert not problems, problems
            except Exception as error:
                error.add_note(f"with {plan}")
                raise
            figures.sessions += 1
            pair.proxy.connections.clear()

    async with AsyncExitStack() as stack:
        pairs = [Pair(number, cookie, seconds) for number in range(side_by_side)]
        for pair in pairs:
            await pair.start(stack)
        async with asyncio.TaskGroup() as group:
            for pair in pairs:
                group.create_task(lane(pair))
    await until(lambda: left_behind() == before, lambda: f"left: {left_behind()}, before: {before}")
    assert not problems, problems
    return figures


def left_behind() -> dict[str, int]:
    """What a whole event loop, and this process, can keep."""
    loop: Any = asyncio.get_running_loop()
    return {
        "tasks": len(asyncio.all_tasks()),
        "timers": sum(not timer.cancelled() for timer in loop._scheduled),
        "files": len(os.listdir("/proc/self/fd")),
    }
