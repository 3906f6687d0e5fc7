"""otp/sys.py: system messages to servers of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    Atom,
    FixedPort,
    GenServer,
    ImproperList,
    Node,
    ProcessExit,
    Reference,
    a,
    exit,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.etf.keys import HashableList
from beamnode.otp import gen, sys

pytestmark = pytest.mark.filterwarnings("error")


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


class Counter(GenServer):
    def init(self, start: int) -> None:
        self.count = start
        self._secret = "not shown"

    def handle_call(self, request: Any, sender: Any) -> Any:
        return self.count

    def handle_cast(self, request: Any) -> None:
        self.count = request


class Strange(GenServer):
    """Its state has no term, or cannot be told."""

    def init(self, state: Any) -> None:
        self.state = state

    def get_state(self) -> Any:
        return self.state()


def test_get_and_replace_state() -> None:
    async def main() -> None:
        pid = await Counter.start(1, name="counter")
        for server in (pid, "counter", ("counter", self().node)):
            assert await sys.get_state(server) == {a.count: 1}
        assert await sys.replace_state(pid, lambda state: {a.count: state[a.count] + 1}) == {a.count: 2}
        assert await GenServer.call(pid, a.get) == 2
        with pytest.raises(ProcessExit, match="a function from the attributes to new ones"):
            await sys.replace_state(pid, lambda state: 5)
        with pytest.raises(ProcessExit, match="cannot run a function of another node"):
            await sys.replace_state(pid, a.no_function)  # type: ignore[arg-type]
        assert await sys.get_state(pid) == {a.count: 2}

    in_a_node(main)


def test_a_state_without_a_term_is_shown_by_its_repr() -> None:
    async def main() -> None:
        shape = {a.x: [object, (1, {2: object})]}
        pid = await Strange.start(lambda: shape)
        text = repr(object).encode()
        assert await sys.get_state(pid) == {a.x: [text, (1, {2: text})]}
        failing = await Strange.start(lambda: 1 // 0)
        with pytest.raises(ProcessExit, match="ZeroDivisionError"):
            await sys.get_state(failing)
        status = await sys.get_status(failing)
        assert b"ZeroDivisionError" in status[3][4][2][1][0][1]

    in_a_node(main)


def test_callers_of_old_releases_get_the_plain_state() -> None:
    """OTP 25 makes an alias of three words; here its process and alias are made up, of another node."""

    async def main() -> None:
        pid = await Counter.start(1)
        me = self()
        for words, expected in (((1, 2, 3), {a.count: 1}), ((0, 1, 2, 3, 4), (a.ok, {a.count: 1}))):
            alias = Reference(Atom("old@h"), 1, words)
            other = type(me)(Atom("old@h"), 1, 0, 1)
            server = Counter()
            server.count = 1
            system = sys.System(server, None)
            assert system._state((other, ImproperList((a.alias,), alias)), server.get_state) == expected
            assert system._state((me, ImproperList((a.alias,), alias)), server.get_state) == (a.ok, {a.count: 1})
        del pid

    in_a_node(main)


def test_status() -> None:
    async def main() -> None:
        pid = await Counter.start_link(1, name="counter")
        await sys.trace(pid, True)
        kind, who, module, (dictionary, state, parent, debug, misc) = await sys.get_status(pid)
        assert (kind, who, module) == (a.status, pid, (a.module, a.gen_server))
        assert dictionary[0] == (a["$initial_call"], (a.Counter, a.init, 1))
        assert (state, parent, debug) == (a.running, self(), [(a.trace, True)])
        assert bytes(misc[0][1]) == b"Status for generic server counter"
        assert [(bytes(name), value) for name, value in misc[1][1]] == [
            (b"Status", a.running),
            (b"Parent", self()),
            (b"Logged events", []),
        ]
        assert misc[2] == (a.data, [(list(b"State"), {a.count: 1})])

    in_a_node(main)


def test_suspend_and_resume() -> None:
    async def main() -> None:
        pid = await Counter.start(1)
        await sys.suspend(pid)
        with pytest.raises(TimeoutError):
            await GenServer.call(pid, a.get, timeout=0.02)
        assert (await sys.get_status(pid))[3][1] is a.suspended
        GenServer.cast(pid, 5)
        assert await sys.get_state(pid) == {a.count: 1}
        await sys.resume(pid)
        assert await GenServer.call(pid, a.get) == 5
        await sys.suspend(pid)
        await sys.terminate(pid, a.shutdown)

    in_a_node(main)


def test_one_that_is_suspended_ends_with_its_parent() -> None:
    class Trapping(Counter):
        def init(self, start: int) -> None:
            trap_exit()

    async def main() -> None:
        owner = self()

        async def parent() -> None:
            send(owner, await Trapping.start_link(1))
            await receive()
            exit(a.shutdown)

        running = spawn(parent)
        pid = await receive(timeout=5)
        await sys.suspend(pid)
        reference = monitor(pid)
        send(running, a.go)
        assert await receive(timeout=5) == (a.DOWN, reference, a.process, pid, a.shutdown)

    in_a_node(main)


def test_trace_log_and_statistics(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        caplog.set_level(logging.INFO, logger="beamnode.sys")
        pid = await Counter.start(1)
        assert await sys.get_statistics(pid) is None
        await sys.trace(pid, True)
        await sys.start_log(pid, 2)
        await sys.statistics(pid, True)
        GenServer.cast(pid, 7)
        assert await GenServer.call(pid, a.get) == 7
        assert [record.getMessage().partition(">")[2][:14] for record in caplog.records] == [
            " got (Atom('$g",
            " got (Atom('$g",
            " answered Pid<",
        ]
        events = await sys.get_log(pid)
        assert events[0][0] == a["in"]
        assert events[1] == (a.out, 7, self())
        counts = await sys.get_statistics(pid)
        assert counts is not None
        assert (counts["messages_in"], counts["messages_out"]) == (2, 1)
        assert len(counts["start_time"][0]) == len(counts["current_time"][1]) == 3
        await sys.no_debug(pid)
        assert await GenServer.call(pid, a.get) == 7
        assert len(caplog.records) == 3
        assert await sys.get_log(pid) == []

    in_a_node(main)


def test_what_a_peer_may_not_have_here_and_what_is_unknown() -> None:
    async def main() -> None:
        pid = await Counter.start(1)
        for request, answer in (
            ((a.debug, (a.log_to_file, list(b"/tmp/x"))), (a.error, a.open_file)),
            ((a.debug, (a.install, (1, 2))), a.unknown_debug),
            ((a.debug, (a.remove, 1)), a.ok),
            ((a.debug, (a.log, (True, 10**9))), a.unknown_debug),
            ((a.change_code, a.m, 1, []), a.ok),
            (a.nonsense, (a.error, (a.unknown_system_msg, a.nonsense))),
            ((a.terminate,), (a.error, (a.unknown_system_msg, (a.terminate,)))),
        ):
            assert await gen.call(pid, gen.SYSTEM, request, 5) == answer
        for noise in ((a.system,), (a.system, 1, 2), (a.system, (1, 2), a.get_state), (a["$gen_call"], 1, 2)):
            send(pid, noise)
        assert await GenServer.call(pid, a.get) == 1
        await sys.suspend(pid)
        for noise in ((a.system, 1, 2), (a.EXIT, 1, 2), 5, ()):
            send(pid, noise)
        await sys.resume(pid)
        assert await GenServer.call(pid, a.get) == 1

    in_a_node(main)


def test_terminate() -> None:
    async def main() -> None:
        pid = await Counter.start(1)
        await sys.terminate(pid)
        assert process_info(pid) is None
        with pytest.raises(ProcessExit) as error:
            await sys.get_state(pid)
        assert error.value.reason is a.noproc

    in_a_node(main)


class Mute:
    def __repr__(self) -> str:
        raise KeyError("no words")


def deep(leaf: Any, levels: int) -> Any:
    for _ in range(levels):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize(
    ("state", "term"),
    [
        (Mute(), b"<Mute>"),
        ({a.x: [Mute(), 1]}, {a.x: [b"<Mute>", 1]}),
        ({Mute: 1}, {repr(Mute).encode(): 1}),
        ((HashableList([1]), float("nan")), ([1], b"nan")),
        ({HashableList([1]): float("nan")}, {HashableList([1]): b"nan"}),
        (deep(Mute(), 5000), b"[[[[[[...]]]]]]"),
    ],
    ids=["mute", "mute inside", "class as key", "list", "list as key", "deep"],
)
def test_a_state_of_anything_is_shown(state: Any, term: Any) -> None:
    assert sys.sendable_state(state) == term
