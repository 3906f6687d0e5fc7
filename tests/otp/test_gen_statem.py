"""otp/gen_statem.py, statem_loop.py, statem_engine.py, statem_results.py: machines of ours among themselves.

What comes in which order is compared with OTP's in test_otp_gen_statem_tables.py.
"""

from __future__ import annotations

import asyncio
import threading
from enum import Enum, StrEnum
from typing import Any

import pytest
from behaviours_support import in_a_node

from beamnode import (
    AlreadyStarted,
    Atom,
    CallFailed,
    Ignore,
    Pid,
    ProcessExit,
    StartFailed,
    Stop,
    UsageError,
    a,
    blocking,
    exit,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn_monitor,
    trap_exit,
)
from beamnode.otp import sys
from beamnode.otp.gen_statem import (
    CancelTimeout,
    EventTimeout,
    GenericTimeout,
    GenStatem,
    KeepState,
    NextEvent,
    NextState,
    Postpone,
    RepeatState,
    ReplyTo,
    StateTimeout,
    StopAndReply,
    UpdateTimeout,
    enter_loop,
)

pytestmark = pytest.mark.filterwarnings("error")


class Scripted(GenStatem):
    """Does what it is asked to: a cast is a function of the machine; all else it tells its owner."""

    callback_mode = "handle_event_function"

    def init(self, owner: Pid, first: Any = a.idle) -> Any:
        self.owner = owner
        return first

    def handle_event(self, event: Any, content: Any, state: Any) -> Any:
        if event == "cast":
            return content(self)
        send(self.owner, (event, content, state))
        return None

    def terminate(self, reason: Any, state: Any) -> None:
        send(self.owner, (a.terminate, reason, state))


class Entering(Scripted):
    callback_mode = ("handle_event_function", Atom("state_enter"))


async def nothing_more() -> None:
    with pytest.raises(TimeoutError):
        await receive(timeout=0.05)


async def died(reference: Any) -> Any:
    """The reason of a monitored process."""
    message = await receive(lambda got: type(got) is tuple and got[0] is a.DOWN and got[1] == reference, timeout=5)
    return message[4]


# --- The shape of a machine -------------------------------------------------------------------------------------------


class Door(GenStatem):
    callback_mode = "state_functions", "state_enter"

    def init(self, code: int) -> Any:
        self.code = code
        self.welcomed = 0
        return a.locked

    def locked(self, event: Any, content: Any) -> Any:
        match event, content:
            case "cast", (a.enter_code, code) if code == self.code:
                return NextState(a.open, StateTimeout(10))
            case ("call", sender), a.state:
                return KeepState(ReplyTo(sender, a.locked))
        return None

    async def open(self, event: Any, content: Any) -> Any:
        match event:
            case "enter":
                assert content is a.locked
                self.welcomed += 1
            case "state_timeout":
                return NextState(a.locked)
            case "cast":
                return NextState(a.locked)
            case "call", _:
                return KeepState(Postpone())
        return None


def test_the_example() -> None:
    async def main() -> None:
        door = await Door.start(1234, name="door")
        assert GenStatem.whereis("door") == door
        assert await GenStatem.call("door", a.state) is a.locked
        GenStatem.cast("door", (a.enter_code, 1))
        GenStatem.cast("door", (a.enter_code, 1234))
        postponed = GenStatem.send_request("door", a.state)
        assert await sys.get_state("door") == (a.open, {a.code: 1234, a.welcomed: 1})
        GenStatem.cast("door", a.close)
        assert await GenStatem.receive_response(postponed, 5) is a.locked
        await GenStatem.stop("door")

    in_a_node(main)


class Color(StrEnum):
    RED = "red"
    GREEN = "green"


class Plain(Enum):
    RED = a.red


def test_states_of_enums_and_texts() -> None:
    class Light(GenStatem):
        callback_mode = "state_functions"

        def init(self, state: Any) -> Any:
            return state

        def red(self, event: Any, content: Any) -> Any:
            return NextState(Color.GREEN, ReplyTo(event[1], a.red))

        def green(self, event: Any, content: Any) -> Any:
            return NextState("red", ReplyTo(event[1], a.green))

    async def main() -> None:
        for first in (Color.RED, Plain.RED, "red", a.red):
            pid = await Light.start(first)
            assert await sys.get_state(pid) == (a.red, {})
            assert [await GenStatem.call(pid, a.next) for _ in range(3)] == [a.red, a.green, a.red]
            assert await sys.get_state(pid) == (a.green, {})
            assert await sys.replace_state(pid, lambda state: (a.red, state[1])) == (a.red, {})
            assert await GenStatem.call(pid, a.next) is a.red

    in_a_node(main)


def test_a_state_cannot_have_the_name_of_a_method_of_genstatem(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"Bad\.stop would hide stop of GenStatem"):

        class Bad(GenStatem):
            def stop(self, event: Any, content: Any) -> Any:  # type: ignore[override]
                return None

    class Machine(GenStatem):
        callback_mode = "state_functions"

        def init(self, state: Any) -> Any:
            return state

    async def main() -> None:
        for state in (a.start, a.nowhere, a["__class__"], 7, (a.red, 1)):
            pid = await Machine.start(state)
            reference = monitor(pid)
            GenStatem.cast(pid, a.anything)
            (kind, text), _ = await died(reference)
            assert kind is a.UsageError
            assert b"has no method for state" in text

    in_a_node(main)


@pytest.mark.parametrize("mode", [(), "state_enter", ("state_functions", "handle_event_function"), "functions", 5])
def test_a_bad_callback_mode(mode: Any) -> None:
    class Machine(Scripted):
        callback_mode = mode

    async def main() -> None:
        with pytest.raises(StartFailed, match="callback_mode of Machine"):
            await Machine.start(self())

    in_a_node(main)


def test_starts_that_fail() -> None:
    class Failing(Scripted):
        def init(self, what: Any) -> Any:
            if isinstance(what, Exception):
                raise what
            return what

    async def main() -> None:
        with pytest.raises(StartFailed) as failed:
            await Failing.start(Stop(a.because))
        assert failed.value.reason is a.because
        with pytest.raises(StartFailed) as failed:
            await Failing.start(Stop(a.because))
        with pytest.raises(Ignore):
            await Failing.start(Ignore())
        with pytest.raises(StartFailed, match="returned nothing"):
            await Failing.start(None)
        pid = await Scripted.start(self(), name="one")
        with pytest.raises(AlreadyStarted) as taken:
            await Scripted.start(self(), name="one")
        assert taken.value.pid == pid

    in_a_node(main)


def test_init_with_actions() -> None:
    async def main() -> None:
        actions = NextEvent("internal", a.begun), StateTimeout(0, a.soon), Postpone()
        await Entering.start(self(), NextState(a.first, *actions))
        assert [await receive(timeout=5) for _ in range(3)] == [
            ("enter", a.first, a.first),
            ("internal", a.begun, a.first),
            ("state_timeout", a.soon, a.first),
        ]
        await nothing_more()

    in_a_node(main)


def test_a_machine_of_a_supervisor() -> None:
    class Kept(Scripted, restart="transient"):
        pass

    spec = Kept.child_spec(1)
    assert spec == {"id": Kept, "start": (Kept.start_link, (1,)), "restart": "transient"}


# --- Time -------------------------------------------------------------------------------------------------------------


def test_time_outs_come_in_their_time() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        now = asyncio.get_running_loop().time()
        actions = (
            GenericTimeout(a.one, 0.3, 1),
            GenericTimeout(a.two, now + 0.15, 2, absolute=True),
            StateTimeout(60, 3),
            StateTimeout(0.45, 4),
            UpdateTimeout(("timeout", a.none), 0),
        )
        GenStatem.cast(pid, lambda _: KeepState(*actions))
        assert [await receive(timeout=5) for _ in range(4)] == [
            (("timeout", a.none), 0, a.idle),
            (("timeout", a.two), 2, a.idle),
            (("timeout", a.one), 1, a.idle),
            ("state_timeout", 4, a.idle),
        ]
        GenStatem.cast(pid, lambda _: KeepState(EventTimeout(0.05, 5)))
        assert await receive(timeout=5) == ("timeout", 5, a.idle)
        past = now - 1000
        GenStatem.cast(pid, lambda _: KeepState(StateTimeout(past, 6, absolute=True)))
        assert await receive(timeout=5) == ("state_timeout", 6, a.idle)
        await nothing_more()

    in_a_node(main)


def test_what_cancels_time_outs() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        GenStatem.cast(
            pid,
            lambda _: KeepState(
                EventTimeout(0.01), StateTimeout(0.01), GenericTimeout(1, 0.01), GenericTimeout(2, 0.2)
            ),
        )
        cancelled = CancelTimeout(("timeout", 1)), UpdateTimeout(("timeout", 2), a.changed)
        GenStatem.cast(pid, lambda _: NextState(a.other, *cancelled))
        assert await receive(timeout=5) == (("timeout", 2), a.changed, a.other)
        GenStatem.cast(pid, lambda _: KeepState(EventTimeout(0), StateTimeout(0.01), StateTimeout(None)))
        assert await receive(timeout=5) == ("timeout", None, a.other)
        await nothing_more()

    in_a_node(main)


def test_a_time_out_that_has_run_off_waits_its_turn_and_can_still_be_cancelled() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())

        async def slow(_: Any) -> Any:
            await asyncio.sleep(0.1)
            return KeepState(CancelTimeout("state_timeout"), GenericTimeout(a.zero, 0))

        GenStatem.cast(pid, lambda _: KeepState(StateTimeout(0.01, 1), GenericTimeout(2, 0.02, 2)))
        GenStatem.cast(pid, slow)
        await asyncio.sleep(0.07)
        send(pid, a.late)
        assert [await receive(timeout=5) for _ in range(3)] == [
            (("timeout", a.zero), None, a.idle),
            (("timeout", 2), 2, a.idle),
            ("info", a.late, a.idle),
        ]
        await nothing_more()

    in_a_node(main)


def test_no_timer_outlives_its_machine() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pid = await Scripted.start(self())
        reference = monitor(pid)
        GenStatem.cast(pid, lambda _: KeepState(StateTimeout(3600), GenericTimeout(1, 3600)))
        await sys.get_state(pid)
        scheduled = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert [handle for handle in scheduled if handle.when() > loop.time() + 1000]
        exit(pid, a.kill)
        assert await died(reference) is a.killed
        await asyncio.sleep(0.01)
        scheduled = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert not [handle for handle in scheduled if handle.when() > loop.time() + 1000]

    in_a_node(main)


# --- Ends and mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("ok", "returned 'ok'"),
        (NextEvent("cast", 1), "returned <NextEvent>"),
        (KeepState("hibernate"), "'hibernate' is no action"),
        (KeepState(NextEvent("call", 1)), "is no type of an event"),
        (KeepState(NextEvent("enter", 1)), "is no type of an event"),
        (KeepState(ReplyTo("me", 1)), "a reply is ReplyTo"),  # type: ignore[arg-type]
        (KeepState(CancelTimeout("cast")), "are no time-outs"),
        (KeepState(GenericTimeout([1], 1)), "must be hashable"),
        (KeepState(StateTimeout(-1)), "a time-out of -1 seconds"),
        (KeepState(StateTimeout(float("nan"))), "a time-out of nan seconds"),
        (KeepState(StateTimeout("1")), "a time-out of '1' seconds"),  # type: ignore[arg-type]
        (Stop(a.normal, reply=1), "the event is no call"),
        (StopAndReply(a.normal, Postpone()), "a reply is ReplyTo"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_mistakes(result: Any, text: str) -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        reference = monitor(pid)
        GenStatem.cast(pid, lambda _: result)
        (kind, said), _ = await died(reference)
        assert kind is a.UsageError
        assert text in said.decode()

    in_a_node(main)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (NextState(a.elsewhere), "it cannot change the state"),
        (KeepState(Postpone()), "Postpone is no action of an enter call"),
        (KeepState(NextEvent("cast", 1)), "NextEvent is no action of an enter call"),
    ],
)
def test_mistakes_of_enter_calls(result: Any, text: str) -> None:
    class Machine(Entering):
        def handle_event(self, event: Any, content: Any, state: Any) -> Any:
            return result if event == "enter" else None

        def terminate(self, reason: Any, state: Any) -> None:
            assert state is a.first

    async def main() -> None:
        _, reference = spawn_monitor(enter_loop, Machine(), a.first)
        (kind, said), _ = await died(reference)
        assert kind is a.UsageError
        assert text in said.decode()

    in_a_node(main)


def test_a_repeated_state_is_entered_again() -> None:
    async def main() -> None:
        pid = await Entering.start(self())
        assert await receive(timeout=5) == ("enter", a.idle, a.idle)
        GenStatem.cast(pid, lambda _: RepeatState(NextEvent("info", 1)))
        assert await receive(timeout=5) == ("enter", a.idle, a.idle)
        assert await receive(timeout=5) == ("info", 1, a.idle)

    in_a_node(main)


def test_the_log_of_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    def crash(_: Any) -> Any:
        raise RuntimeError("boom")

    async def main() -> None:
        pid = await Scripted.start(self(), name="crashing")
        GenStatem.cast(pid, lambda _: KeepState(Postpone(), GenericTimeout(a.one, 60)))
        GenStatem.cast(pid, lambda _: KeepState(NextEvent("cast", crash), NextEvent("info", a.next)))
        failed = monitor(pid)
        with pytest.raises(CallFailed) as caught:
            await GenStatem.call("crashing", a.never)
        assert caught.value.reason[1] == (a.gen_statem, a.call, [a.crashing, a.never, a.infinity])
        (kind, text), stack = await died(failed)
        assert (kind, text) == (a.RuntimeError, b"boom")
        assert stack[0][0] is a.test_gen_statem
        assert await receive(timeout=5) == (a.terminate, ((kind, text), stack), a.idle)

    in_a_node(main)
    [record] = [record for record in caplog.records if record.name == "beamnode.gen_statem"]
    text = record.getMessage()
    assert text.startswith("Scripted ")
    assert "(crashing) has ended: RuntimeError('boom')\nTraceback" in text
    assert "\nLast message: ('cast', <function crash>)\nState: Atom('idle'), data: owner=" in text
    assert "\nQueued: [('info', Atom('next'))]\nPostponed: [('cast', <lambda>)]\nTime-outs: [('timeout'," in text


def test_orderly_ends_are_not_logged_and_terminate_gets_the_state(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for reason in (a.normal, a.shutdown, (a.shutdown, 1)):
            pid = await Scripted.start(self())
            await GenStatem.stop(pid, reason)
            assert await receive(timeout=5) == (a.terminate, reason, a.idle)
            pid = await Scripted.start(self())
            GenStatem.cast(pid, lambda _, reason=reason: Stop(reason))
            assert await receive(timeout=5) == (a.terminate, reason, a.idle)

    in_a_node(main)
    assert not caplog.records


def test_a_linked_machine_ends_with_its_parent() -> None:
    class Trapping(Scripted):
        def init(self, owner: Pid, first: Any = a.idle) -> Any:
            trap_exit()
            return super().init(owner, first)

    async def main() -> None:
        me = self()

        async def parent() -> None:
            send(me, (a.started, await Trapping.start_link(me)))
            await receive()

        pid, reference = spawn_monitor(parent)
        started, machine = await receive(timeout=5)
        assert started is a.started
        watching = monitor(machine)
        send(pid, a.end)
        assert await died(reference) is a.normal
        assert await died(watching) is a.normal
        assert await receive(timeout=5) == (a.terminate, a.normal, a.idle)

    in_a_node(main)


# --- Other ways to run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result", [KeepState(NextEvent("internal", a.again)), RepeatState(), KeepState(EventTimeout(0))]
)
def test_a_machine_that_gives_itself_events_for_ever_lets_others_run(result: Any) -> None:
    class Busy(Scripted):
        callback_mode = "handle_event_function", "state_enter"

        def handle_event(self, event: Any, content: Any, state: Any) -> Any:
            if event == "cast":
                self._going = True
            return result if hasattr(self, "_going") else None

    async def main() -> None:
        pid = await Busy.start(self())
        reference = monitor(pid)
        GenStatem.cast(pid, a.go)
        await asyncio.sleep(0.05)
        exit(pid, a.kill)
        assert await died(reference) is a.killed

    in_a_node(main)


def test_blocking_state_functions_run_in_a_thread() -> None:
    @blocking
    class Thinking(GenStatem):
        callback_mode = "state_functions"

        def init(self) -> Any:
            return a.thinking

        def thinking(self, event: Any, content: Any) -> Any:
            return KeepState(ReplyTo(event[1], Atom(threading.current_thread().name)))

    async def main() -> None:
        pid = await Thinking.start()
        assert str(await GenStatem.call(pid, a.where)) == f"beamnode {pid!r}"

    in_a_node(main)


def test_suspended_it_keeps_what_it_has() -> None:
    async def main() -> None:
        pid = await Entering.start(self())
        await receive(timeout=5)
        GenStatem.cast(pid, lambda machine: postpone_once(machine))
        GenStatem.cast(pid, lambda _: KeepState(StateTimeout(0.01)))
        await sys.suspend(pid)
        GenStatem.cast(pid, lambda _: NextState(a.other))
        await nothing_more()
        assert await sys.get_state(pid) == (a.idle, {a.owner: self()})
        await sys.resume(pid)
        assert [await receive(timeout=5) for _ in range(2)] == [("enter", a.idle, a.other), (a.again, a.other)]
        await nothing_more()  # the time-out had run off, after the cast, and went with its state

    def postpone_once(machine: Any) -> Any:
        if not hasattr(machine, "_postponed"):
            machine._postponed = True
            return KeepState(Postpone())
        send(machine.owner, (a.again, a.other))
        return None

    in_a_node(main)


def test_sys_shows_what_happens(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        await sys.start_log(pid, 20)
        await sys.statistics(pid, True)
        send(pid, a.hello)
        sender = (self(), a.tag)
        replied = KeepState(ReplyTo(sender, 1), NextEvent("internal", a.more), StateTimeout(1, a.x), Postpone(False))
        GenStatem.cast(pid, lambda _: replied)
        events = await sys.get_log(pid)
        cast = events[2][1]
        incoming, consume = a["in"], a.consume
        assert events == [
            (incoming, (a.info, a.hello), a.idle),
            (consume, (a.info, a.hello), a.idle, a.idle),
            (incoming, cast, a.idle),
            (a.out, 1, sender),
            (incoming, (a.internal, a.more), a.idle),
            (consume, cast, a.idle, a.idle),
            (a.start_timer, (a.state_timeout, 1000, a.x, []), a.idle),
            (consume, (a.internal, a.more), a.idle, a.idle),
        ]
        counted = await sys.get_statistics(pid)
        assert counted is not None
        assert (counted["messages_in"], counted["messages_out"]) == (3, 1)
        caplog.set_level("INFO")
        await sys.trace(pid, True)
        send(pid, a.hello)
        await sys.no_debug(pid)

    in_a_node(main)
    assert any("*DBG* Scripted" in record.getMessage() and "hello" in record.getMessage() for record in caplog.records)


def test_replace_state() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        new = await sys.replace_state(pid, lambda old: (a.other, old[1] | {a.extra: 1}))
        assert new == (a.other, {a.owner: self(), a.extra: 1})
        with pytest.raises(ProcessExit, match="replace_state takes a function from"):
            await sys.replace_state(pid, lambda old: a.other)
        send(pid, a.hello)
        assert await receive(timeout=5) == ("info", a.hello, a.other)
        info = process_info(pid)
        assert info is not None
        assert info["message_queue_len"] == 0

    in_a_node(main)
