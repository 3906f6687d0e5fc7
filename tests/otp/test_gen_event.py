"""otp/gen_event.py, event_loop.py, event_handlers.py: managers and handlers of ours among themselves.

What commands are answered, and in which order handlers are called, is compared with OTP in test_otp_gen_event_commands.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from behaviours_support import in_a_node

from beamnode import (
    AlreadyStarted,
    Atom,
    ImproperList,
    ProcessExit,
    UsageError,
    a,
    blocking,
    exit,
    link,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
)
from beamnode.otp import gen, sys
from beamnode.otp.gen_event import EventHandler, GenEvent, HandlerFailed, RemoveHandler, SwapHandler

pytestmark = pytest.mark.filterwarnings("error")


class Alarms(EventHandler):
    """The example of the documentation."""

    def init(self, args: Any) -> None:
        self.seen: list[Any] = []

    def handle_event(self, event: Any) -> None:
        self.seen.append(event)

    def handle_call(self, request: Any) -> Any:
        return self.seen


class Scripted(EventHandler):
    """Tells its owner what it gets; a function that it gets it calls, for the result."""

    def init(self, args: Any) -> Any:
        self.owner, self.tag = args
        return None

    def handle_event(self, event: Any) -> Any:
        send(self.owner, (self.tag, event))
        return event(self) if callable(event) else None

    def handle_call(self, request: Any) -> Any:
        return request(self)

    def handle_info(self, message: Any) -> Any:
        return self.handle_event(message)

    def terminate(self, why: Any) -> None:
        send(self.owner, (self.tag, a.terminate, why))


async def nothing_more() -> None:
    with pytest.raises(TimeoutError):
        await receive(timeout=0.05)


async def died(reference: Any) -> Any:
    """The reason of a monitored process."""
    message = await receive(lambda got: type(got) is tuple and got[0] is a.DOWN and got[1] == reference, timeout=5)
    return message[4]


def test_the_example() -> None:
    async def main() -> None:
        manager = await GenEvent.start_link(name="alarms")
        assert GenEvent.whereis("alarms") == manager
        await GenEvent.add_handler("alarms", Alarms, [])
        await GenEvent.add_handler("alarms", (Alarms, 2), [])
        GenEvent.notify("alarms", (a.temperature, 80))
        await GenEvent.sync_notify("alarms", a.fire)
        assert await GenEvent.call("alarms", Alarms, a.seen) == [(a.temperature, 80), a.fire]
        assert await GenEvent.call("alarms", ("Alarms", 2), a.seen) == [(a.temperature, 80), a.fire]
        assert await GenEvent.which_handlers("alarms") == [(a.Alarms, 2), a.Alarms]
        assert await GenEvent.delete_handler("alarms", Alarms, a.why) is None
        assert await gen.call("alarms", self(), a.get_modules, 5) == [a.Alarms]
        await GenEvent.stop("alarms")
        assert GenEvent.whereis("alarms") is None

    in_a_node(main)


def test_who_is_no_handler() -> None:
    async def main() -> None:
        manager = await GenEvent.start()
        with pytest.raises(UsageError, match="an event handler is a class derived from EventHandler"):
            await GenEvent.add_handler(manager, GenEvent, [])  # type: ignore[arg-type]
        with pytest.raises(HandlerFailed, match="undef"):
            await GenEvent.add_handler(manager, "Alarms", [])
        with pytest.raises(HandlerFailed, match="bad_module"):
            await GenEvent.call(manager, Alarms, a.seen)
        with pytest.raises(HandlerFailed, match="module_not_found"):
            await GenEvent.delete_handler(manager, (Alarms, 1), a.why)
        await GenEvent.start(name="one")
        with pytest.raises(AlreadyStarted):
            await GenEvent.start(name="one")
        with pytest.raises(ProcessExit, match="noproc"):
            await GenEvent.sync_notify("nobody", a.event)

    in_a_node(main)


def test_ids_are_told_apart_exactly() -> None:
    async def main() -> None:
        manager = await GenEvent.start()
        for name in (1, 1.0, True, (1,), (True,)):
            await GenEvent.add_handler(manager, (Scripted, name), (self(), name))
        for name in (1, 1.0, True, (1,), (True,)):
            await GenEvent.delete_handler(manager, (Scripted, name), a.why)
            got = (await receive(timeout=5))[0]
            assert (got, type(got)) == (name, type(name))
        await GenEvent.add_handler(manager, (Scripted, False), (self(), 1))
        assert await GenEvent.which_handlers(manager) == [a.Scripted]  # as in OTP, where `false` is no id

    in_a_node(main)


def test_a_handler_that_crashes_goes_alone_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def crash(handler: Any) -> Any:
        raise RuntimeError(f"boom {handler.tag}")

    async def main() -> None:
        manager = await GenEvent.start(name="events")
        for tag in (1, 2, 3):
            await GenEvent.add_sup_handler(manager, (Scripted, tag), (self(), tag))
        await GenEvent.sync_notify(manager, lambda handler: crash(handler) if handler.tag == 2 else None)
        got = [await receive(timeout=5) for _ in range(5)]
        assert [message[0] for message in got] == [3, 2, 2, a.gen_event_EXIT, 1]
        _, handler, reason = got[3]
        assert handler == (a.Scripted, 2)
        exit_, ((kind, text), stack) = reason
        assert (exit_, kind, text, stack[0][0]) == (a.EXIT, a.RuntimeError, b"boom 2", a.test_gen_event)
        assert got[2] == (2, a.terminate, (a.error, reason))
        assert await GenEvent.which_handlers(manager) == [(a.Scripted, 3), (a.Scripted, 1)]
        with pytest.raises(HandlerFailed) as failed:
            await GenEvent.call(manager, (Scripted, 1), crash)
        assert failed.value.reason[0] == (a.RuntimeError, b"boom 1")
        assert await GenEvent.which_handlers(manager) == [(a.Scripted, 3)]

    in_a_node(main)
    first, second = (record.getMessage() for record in caplog.records)
    assert "(events) has removed its handler (Atom('Scripted'), 2), which has crashed: RuntimeError('boom 2')" in first
    assert "\nTraceback" in first
    assert "\nLast event: <lambda>\nState: {2 keys}" in first
    assert "boom 1" in second


@pytest.mark.parametrize("function", ["init", "handle_event", "handle_info"])
def test_a_result_that_is_none(function: str) -> None:
    class Returning(EventHandler):
        pass

    setattr(Returning, function, lambda *_: a.something)

    async def main() -> None:
        manager = await GenEvent.start()
        if function == "init":
            with pytest.raises(HandlerFailed, match="init of Returning returned"):
                await GenEvent.add_handler(manager, Returning, [])
            return
        await GenEvent.add_sup_handler(manager, Returning, [])
        send(manager, (a.notify, 1) if function == "handle_event" else 1)
        match await receive(timeout=5):
            case (a.gen_event_EXIT, a.Returning, (a.EXIT, ((a.UsageError, text), _))):
                assert f"{function} of Returning returned Atom('something')" in text.decode()
            case other:
                pytest.fail(repr(other))

    in_a_node(main)


def test_mistakes_end_no_manager() -> None:
    class Unmade(EventHandler):
        def __init__(self) -> None:
            raise RuntimeError("unmade")

    async def main() -> None:
        manager = await GenEvent.start()
        with pytest.raises(HandlerFailed, match="unmade"):
            await GenEvent.add_handler(manager, Unmade, [])
        await GenEvent.add_handler(manager, Scripted, (self(), 1))
        with pytest.raises(HandlerFailed, match="an event handler is a class"):
            await GenEvent.call(manager, Scripted, lambda _: SwapHandler(1, 5, 2))  # type: ignore[arg-type]
        assert await GenEvent.which_handlers(manager) == []

    in_a_node(main)


def test_handlers_without_functions(caplog: pytest.LogCaptureFixture) -> None:
    class Empty(EventHandler):
        pass

    async def main() -> None:
        manager = await GenEvent.start()
        await GenEvent.add_sup_handler(manager, Empty, [])
        send(manager, a.hello)
        await GenEvent.which_handlers(manager)
        with pytest.raises(HandlerFailed, match="it has no handle_call"):
            await GenEvent.call(manager, Empty, a.hello)
        assert (await receive(timeout=5))[:2] == (a.gen_event_EXIT, a.Empty)
        await GenEvent.add_sup_handler(manager, Empty, [])
        GenEvent.notify(manager, a.hello)
        assert (await receive(timeout=5))[:2] == (a.gen_event_EXIT, a.Empty)

    in_a_node(main)
    assert caplog.records[0].getMessage() == "Empty got a message, and has no handle_info: Atom('hello')"


def test_a_handler_removes_and_swaps_itself() -> None:
    class Second(Scripted):
        def init(self, args: Any) -> None:
            (self.owner, self.tag), self.given = args

    async def main() -> None:
        manager = await GenEvent.start()
        me = self()
        await GenEvent.add_sup_handler(manager, (Scripted, 1), (me, 1))
        await GenEvent.add_sup_handler(manager, (Scripted, 2), (me, 2))
        swap = SwapHandler(a.out, (Second, 3), (me, 3), reply=a.swapped)
        assert await GenEvent.call(manager, (Scripted, 2), lambda _: swap) is a.swapped
        assert [await receive(timeout=5) for _ in range(2)] == [
            (2, a.terminate, a.out),
            (a.gen_event_EXIT, (a.Scripted, 2), (a.swapped, (a.Second, 3), me)),
        ]
        assert await GenEvent.which_handlers(manager) == [(a.Second, 3), (a.Scripted, 1)]
        assert await GenEvent.call(manager, (Second, 3), lambda handler: handler.given) is a.ok
        assert await GenEvent.call(manager, (Second, 3), lambda _: RemoveHandler(a.bye)) is a.bye
        assert [await receive(timeout=5) for _ in range(2)] == [
            (3, a.terminate, a.remove_handler),
            (a.gen_event_EXIT, (a.Second, 3), a.normal),
        ]
        assert await GenEvent.which_handlers(manager) == [(a.Scripted, 1)]
        await GenEvent.swap_sup_handler(manager, ((Alarms, 7), a.x), (Second, (me, 4)))  # there is no such handler
        assert await GenEvent.call(manager, Second, lambda handler: handler.given) is a.error

    in_a_node(main)


def test_the_supervisor_of_a_handler() -> None:
    async def main() -> None:
        manager = await GenEvent.start()
        me = self()

        async def supervisor() -> None:
            await GenEvent.add_sup_handler(manager, (Scripted, 1), (me, 1))
            await GenEvent.add_handler(manager, (Scripted, 2), (me, 2))
            exit(a.because)

        pid, reference = spawn_monitor(supervisor)
        assert await died(reference) is a.because
        assert [await receive(timeout=5) for _ in range(2)] == [
            (1, a.terminate, (a.stop, a.because)),
            (2, (a.EXIT, pid, a.because)),
        ]
        assert await GenEvent.which_handlers(manager) == [(a.Scripted, 2)]

        request = (a.add_sup_handler, a.Alarms, [], a.me)
        send(manager, (me, (me, a.tag), request))
        assert await receive(timeout=5) == (2, (me, (me, a.tag), request))  # no request: a message as any other
        answer = await gen.call(manager, me, (a.add_sup_handler, Alarms, [], pid), 5)
        assert answer is a.ok
        assert await receive(timeout=5) == (2, (a.EXIT, pid, a.noproc))
        assert await GenEvent.which_handlers(manager) == [(a.Scripted, 2)]

    in_a_node(main)


def test_the_end_of_a_manager() -> None:
    async def main() -> None:
        trap_exit()
        me = self()
        manager = await GenEvent.start_link()
        await GenEvent.add_sup_handler(manager, Scripted, (me, 1))

        async def supervisor() -> None:
            await GenEvent.add_sup_handler(manager, (Scripted, 2), (me, 2))
            send(me, a.ready)
            match await receive():
                case (a.gen_event_EXIT, _, why):
                    send(me, (a.told, why))
            await asyncio.sleep(0.05)
            send(me, a.alive)

        spawn(supervisor)
        assert await receive(timeout=5) is a.ready
        await GenEvent.stop(manager, a.shutdown)
        got = [await receive(timeout=5) for _ in range(6)]
        assert got[:3] == [
            (2, a.terminate, a.stop),
            (1, a.terminate, a.stop),
            (a.gen_event_EXIT, a.Scripted, a.shutdown),
        ]
        assert sorted(got[3:], key=str) == sorted(
            [(a.EXIT, manager, a.shutdown), (a.told, a.shutdown), a.alive], key=str
        )

    in_a_node(main)


def test_it_ends_with_its_parent_and_no_other() -> None:
    async def main() -> None:
        me = self()

        async def parent() -> None:
            manager = await GenEvent.start_link()
            await GenEvent.add_handler(manager, Scripted, (me, 1))
            send(me, manager)
            await receive()

        pid, _ = spawn_monitor(parent)
        manager = await receive(timeout=5)
        reference = monitor(manager)

        async def linked() -> None:
            link(manager)
            exit(a.kill_it)

        other, _ = spawn_monitor(linked)
        assert (await receive(lambda got: got[0] == 1, timeout=5)) == (1, (a.EXIT, other, a.kill_it))
        send(pid, a.end)
        assert await receive(lambda got: got[0] == 1, timeout=5) == (1, a.terminate, a.stop)
        assert await died(reference) is a.normal

    in_a_node(main)


def test_what_is_no_request_is_a_message() -> None:
    async def main() -> None:
        manager = await GenEvent.start()
        await GenEvent.add_handler(manager, Scripted, (self(), 1))
        me = self()
        for message in (
            (a.notify,),
            (me, a.no_from, a.which_handlers),
            (me, (me, 1), a.something),
            (me, (me, 1), (a.call, 1)),
            ImproperList((1,), 2),
        ):
            send(manager, message)
            assert await receive(timeout=5) == (1, message)
        for handler in ([1], {a.x: 1}, 7, b"Scripted", (Atom("Scripted"), 1, 2)):
            assert await gen.call(manager, me, (a.call, handler, 1), 5) == (a.error, a.bad_module)
            match await gen.call(manager, me, (a.add_handler, handler, 1), 5):
                case (a.EXIT, (a.undef, _)):
                    pass
                case other:
                    pytest.fail(repr(other))
        assert await GenEvent.which_handlers(manager) == [a.Scripted]

    in_a_node(main)


def test_blocking_and_async_handlers() -> None:
    @blocking
    class Threaded(GenEvent):
        pass

    class Where(EventHandler):
        def handle_call(self, request: Any) -> Any:
            return threading.current_thread().name

    class Waiting(EventHandler):
        async def handle_call(self, request: Any) -> Any:
            await asyncio.sleep(request)
            return threading.current_thread().name

    async def main() -> None:
        manager = await Threaded.start()
        await GenEvent.add_handler(manager, Where, [])
        await GenEvent.add_handler(manager, Waiting, [])
        assert await GenEvent.call(manager, Where, 1) == f"beamnode {manager!r}"
        assert await GenEvent.call(manager, Waiting, 0.01) == threading.current_thread().name
        with pytest.raises(TimeoutError):
            await GenEvent.call(manager, Waiting, 0.2, timeout=0.01)

    in_a_node(main)


def test_sys() -> None:
    async def main() -> None:
        manager = await GenEvent.start()
        me = self()
        await GenEvent.add_handler(manager, Alarms, [])
        await GenEvent.add_handler(manager, (Scripted, 1), (me, 1))
        state = [(a.Scripted, 1, {a.owner: me, a.tag: 1}), (a.Alarms, False, {a.seen: []})]
        assert await sys.get_state(manager) == state

        def change(handler: Any) -> Any:
            module, name, old = handler
            if module is a.Alarms:
                raise RuntimeError("no")
            return module, name, old | {a.tag: 2}

        assert await sys.replace_state(manager, change) == [(a.Scripted, 1, {a.owner: me, a.tag: 2}), state[1]]
        await sys.start_log(manager)
        await GenEvent.sync_notify(manager, a.event)
        assert await receive(timeout=5) == (2, a.event)
        got, answered = await sys.get_log(manager)
        assert (got[0], got[1][2]) == (a["in"], (a.sync_notify, a.event))
        assert answered[:2] == (a.out, a.ok)
        info = process_info(manager)
        assert info is not None
        assert info["trap_exit"] is True

    in_a_node(main)


def test_a_manager_of_a_supervisor() -> None:
    class Kept(GenEvent, restart="transient"):
        pass

    spec = Kept.child_spec(name="kept")
    assert (spec["restart"], spec["modules"]) == ("transient", "dynamic")
    assert isinstance(Kept.handlers, tuple)
