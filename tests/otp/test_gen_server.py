"""otp/gen_server.py, server_loop.py, handlers.py, worker.py, proc_lib.py: servers of ours among themselves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    NO_REPLY,
    AlreadyStarted,
    Atom,
    CallFailed,
    Continue,
    FixedPort,
    GenServer,
    Ignore,
    Node,
    Pid,
    ProcessExit,
    Reply,
    StartFailed,
    Stop,
    Timeout,
    UsageError,
    a,
    blocking,
    exit,
    link,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork

pytestmark = pytest.mark.filterwarnings("error")

GEN_SERVER = logging.getLogger("beamnode.gen_server").name


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


async def left_behind_nothing() -> None:
    """No monitor, no message."""
    info = process_info()
    assert info is not None
    assert (info["monitors"], info["message_queue_len"]) == ([], 0)


class Scripted(GenServer):
    """Does what it is asked to: each request is a function of the server."""

    def init(self, owner: Pid, *answers: Any) -> Any:
        self.owner = owner
        self.seen: list[Any] = []
        for answer in answers:
            return answer(self)
        return None

    def handle_call(self, request: Any, sender: Any) -> Any:
        return request(self, sender)

    def handle_cast(self, request: Any) -> Any:
        return request(self)

    def handle_info(self, message: Any) -> Any:
        self.seen.append(message)
        return message(self) if callable(message) else None

    def handle_continue(self, argument: Any) -> Any:
        self.seen.append((a["continue"], argument))
        return Continue(argument - 1) if argument > 1 else None

    def terminate(self, reason: Any) -> Any:
        send(self.owner, (a.terminate, reason))

    def get_state(self) -> Any:
        return {a.seen: len(self.seen)}


class Counter(GenServer):
    """As in the tutorial, one handler of each kind."""

    def init(self, start: int) -> None:
        self.count = start

    async def handle_call(self, request: Any, sender: Any) -> Any:
        await asyncio.sleep(0)
        match request:
            case a.get:
                return self.count
            case (a.add, int() as n):
                self.count += n
                return self.count

    def handle_cast(self, request: Any) -> None:
        match request:
            case (a.set, int() as n):
                self.count = n


def traps(_: Any) -> None:
    trap_exit()


async def seen(server: Any) -> Any:
    return await GenServer.call(server, lambda server, _: list(server.seen))


# --- Calls and casts --------------------------------------------------------------------------------------------------


def test_call_and_cast_by_pid_name_and_node() -> None:
    async def main() -> None:
        pid = await Counter.start(1, name="counter")
        assert isinstance(pid, Pid)
        for server in (pid, "counter", a.counter, ("counter", self().node), ("counter", str(self().node))):
            GenServer.cast(server, (a.set, 10))
            assert await GenServer.call(server, (a.add, 5)) == 15
        assert await GenServer.call(pid, a.unknown) is None
        await left_behind_nothing()

    in_a_node(main)


def test_a_reply_that_comes_later_from_another_process() -> None:
    async def main() -> None:
        def later(server: Any, sender: Any) -> Any:
            async def helper() -> None:
                GenServer.reply(sender, a.done)

            spawn(helper)
            return NO_REPLY

        pid = await Scripted.start(self())
        assert await GenServer.call(pid, later) is a.done

    in_a_node(main)


def test_a_reply_with_what_follows() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        assert await GenServer.call(pid, lambda *_: Reply(a.first, Continue(2))) is a.first
        assert await seen(pid) == [(a["continue"], 2), (a["continue"], 1)]
        assert await GenServer.call(pid, lambda *_: Reply(1, Timeout(0.01))) == 1
        await asyncio.sleep(0.03)
        assert (await seen(pid))[2:] == [a.timeout]
        assert await GenServer.call(pid, lambda *_: Reply(1, a.hibernate)) == 1

    in_a_node(main)


def test_a_message_that_comes_in_time_cancels_a_timeout_and_a_system_message_does_not() -> None:
    async def main() -> None:
        from beamnode.otp import sys

        pid = await Scripted.start(self(), lambda _: Timeout(0.05))
        send(pid, a.hello)
        await asyncio.sleep(0.1)
        assert await seen(pid) == [a.hello]
        GenServer.cast(pid, lambda _: Timeout(0.05))
        await sys.get_state(pid)
        await asyncio.sleep(0.1)
        assert await seen(pid) == [a.hello, a.timeout]

    in_a_node(main)


def test_init_continues() -> None:
    async def main() -> None:
        pid = await Scripted.start(self(), lambda _: Continue(3))
        assert await seen(pid) == [(a["continue"], n) for n in (3, 2, 1)]

    in_a_node(main)


def test_who_calls_itself_is_told() -> None:
    async def main() -> None:
        register("me", self())
        for own in (self(), "me", ("me", self().node)):
            with pytest.raises(CallFailed) as error:
                await GenServer.call(own, a.x)
            assert error.value.cause is a.calling_self
            with pytest.raises(ProcessExit):
                await GenServer.stop(own)

    in_a_node(main)


def test_a_timeout_names_the_server() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        with pytest.raises(TimeoutError, match=r"did not reply within 0\.01 s"):
            await GenServer.call(pid, lambda *_: NO_REPLY, timeout=0.01)
        await left_behind_nothing()

    in_a_node(main)


def test_names_that_do_not_exist_yet_are_refused() -> None:
    async def main() -> None:
        for name in (("global", "x"), (a["global"], (a.x, 1)), ("via", "registry", "x")):
            with pytest.raises(UsageError, match="not supported yet"):
                await GenServer.call(name, a.x)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="not supported yet"):
                GenServer.cast(name, a.x)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="not supported yet"):
                await Counter.start(1, name=name)  # type: ignore[arg-type]

    in_a_node(main)


def test_many_requests_at_a_time() -> None:
    async def main() -> None:
        pid = await Counter.start(0)
        requests = [GenServer.send_request(pid, (a.add, 1)) for _ in range(5)]
        assert [await GenServer.receive_response(request, 5) for request in requests] == [1, 2, 3, 4, 5]
        request = GenServer.send_request(pid, a.get)
        send(self(), a.noise)
        assert GenServer.check_response(await receive(), request) is NO_REPLY
        assert GenServer.check_response(await receive(timeout=5), request) == 5
        slow = await Scripted.start(self())
        request = GenServer.send_request(slow, lambda server, sender: server.seen.append(sender) or NO_REPLY)
        with pytest.raises(TimeoutError):
            await GenServer.wait_response(request, 0.01)
        GenServer.cast(slow, lambda server: GenServer.reply(server.seen[0], a.late))
        assert await GenServer.wait_response(request, 5) is a.late
        request = GenServer.send_request("nobody", a.x)
        with pytest.raises(ProcessExit) as error:
            GenServer.check_response(await receive(timeout=5), request)
        assert error.value.reason is a.noproc
        await left_behind_nothing()

    in_a_node(main)


def test_multi_call_and_abcast() -> None:
    async def main() -> None:
        await Counter.start(7, name="counter")
        here = self().node
        GenServer.abcast([here], "counter", (a.set, 8))
        assert await GenServer.multi_call([here, "no@h2"], "counter", a.get, 5) == ([(here, 8)], [Atom("no@h2")])
        assert await GenServer.multi_call([here], "nobody", a.get, 5) == ([], [here])
        await left_behind_nothing()

    in_a_node(main)


# --- The end ----------------------------------------------------------------------------------------------------------


async def end_of(pid: Pid) -> Any:
    reference = monitor(pid)
    message = await receive(lambda got: got[0] is a.DOWN and got[1] == reference, timeout=5)
    return message[4]


def test_stop_in_each_handler(caplog: pytest.LogCaptureFixture) -> None:
    def stop(*_: Any) -> Any:
        raise Stop(a.shutdown)

    async def main() -> None:
        for hit in (
            lambda pid: GenServer.cast(pid, stop),
            lambda pid: GenServer.cast(pid, lambda _: Stop(a.shutdown)),
            lambda pid: send(pid, stop),
            lambda pid: GenServer.send_request(pid, stop),
        ):
            pid = await Scripted.start(self())
            hit(pid)
            assert await receive(lambda got: got[0] is a.terminate, timeout=5) == (a.terminate, a.shutdown)
            assert await end_of(pid) in (a.shutdown, a.noproc)

    in_a_node(main)
    assert caplog.text == ""


def test_stop_replies_when_terminate_has_run() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        assert await GenServer.call(pid, lambda *_: Stop(reply=a.bye)) is a.bye
        assert await receive(timeout=0) == (a.terminate, a.normal)

        def stop(*_: Any) -> Any:
            raise Stop((a.shutdown, 1), reply=5)

        pid = await Scripted.start(self())
        assert await GenServer.call(pid, stop) == 5

    in_a_node(main)


def test_stop_replies_when_terminate_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(GenServer):
        def handle_call(self, request: Any, sender: Any) -> Any:
            return Stop(reply=a.bye)

        def terminate(self, reason: Any) -> None:
            raise KeyError("terminate")

    async def main() -> None:
        pid = await Failing.start()
        assert await GenServer.call(pid, a.x) is a.bye
        reference = monitor(pid)
        assert (await receive(timeout=5))[1] == reference
        await left_behind_nothing()

    in_a_node(main)
    assert "KeyError: 'terminate'" in caplog.text


def boom(*_: Any) -> Any:
    raise RuntimeError("boom")


def test_a_crash_is_told_to_caller_links_monitors_and_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trap_exit()
        pid = await Scripted.start_link(self(), name="scripted")
        reference = monitor(pid)
        with pytest.raises(CallFailed, match="boom") as error:
            await GenServer.call(pid, boom, timeout=3)
        cause = error.value.cause
        (kind, text), [frame, *_] = cause
        assert (kind, text) == (a.RuntimeError, b"boom")
        assert frame[:3] == (a.test_gen_server, a.boom, [])
        assert error.value.reason == (cause, (a.gen_server, a.call, [pid, boom, 3000]))
        assert await receive(timeout=5) == (a.terminate, cause)
        got = [await receive(timeout=5), await receive(timeout=5)]
        assert (a.EXIT, pid, cause) in got
        assert (a.DOWN, reference, a.process, pid, cause) in got

    in_a_node(main)
    [record] = caplog.records
    assert record.name == GEN_SERVER
    lines = record.getMessage().splitlines()
    assert lines[0].startswith("Scripted Pid<n@h.")
    assert lines[0].endswith("(scripted) has ended: RuntimeError('boom')")
    assert lines[1] == "Traceback (most recent call last):"
    assert "test_gen_server.py" in lines[2]
    end = lines.index("RuntimeError: boom")
    assert lines[end + 1].startswith("Last message: (Atom('$gen_call'), (Pid<n@h.")
    assert lines[end + 2] == "State: seen=0"
    assert [line.split(":")[0] for line in lines[end + 3 :]] == ["Ancestors", "Links"]
    assert "server_loop" not in record.getMessage()


def test_an_exit_in_a_handler_is_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        with pytest.raises(CallFailed) as error:
            await GenServer.call(pid, lambda *_: exit((a.because, 1)))
        assert error.value.cause == (a.because, 1)

    in_a_node(main)
    [record] = caplog.records
    assert "has ended: (Atom('because'), 1)" in record.getMessage()
    assert "Traceback" in record.getMessage()


def test_who_lets_a_failed_call_pass_does_not_end_well() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())

        async def caller() -> None:
            await GenServer.call(pid, lambda *_: Stop())

        process, reference = spawn_monitor(caller)
        assert await receive(timeout=5) == (a.terminate, a.normal)
        down = await receive(timeout=5)
        assert down[:4] == (a.DOWN, reference, a.process, process)
        assert down[4][0] is a.normal
        assert down[4][1][:2] == (a.gen_server, a.call)

    in_a_node(main)


def test_a_terminate_that_fails_is_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(GenServer):
        def terminate(self, reason: Any) -> None:
            raise KeyError("terminate")

    async def main() -> None:
        pid = await Failing.start()
        with pytest.raises(ProcessExit) as error:
            await GenServer.stop(pid)
        assert error.value.reason[0][0] is a.KeyError

    in_a_node(main)
    assert len(caplog.records) == 1


def test_a_result_that_is_none_of_a_handlers_says_what_is(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        GenServer.cast(pid, lambda _: (a.noreply, 1))
        assert (await receive(timeout=5))[0] is a.terminate

    in_a_node(main)
    assert "a handler of Scripted returned (Atom('noreply'), 1): all but handle_call return nothing" in caplog.text


def test_handlers_that_are_not_there_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for act in (
            lambda pid: GenServer.send_request(pid, a.x),
            lambda pid: GenServer.cast(pid, a.x),
        ):
            pid = await GenServer.start()
            act(pid)
            assert (await end_of(pid))[0][0] is a.UsageError
        pid = await GenServer.start()
        send(pid, a.noise)
        await GenServer.stop(pid)

    in_a_node(main)
    texts = [record.getMessage() for record in caplog.records]
    assert "it has no handle_call" in texts[0]
    assert "it has no handle_cast" in texts[1]
    assert "got an unexpected message: Atom('noise')" in texts[2]
    assert len(texts) == 3


def test_stop_from_outside() -> None:
    async def main() -> None:
        pid = await Scripted.start(self(), name="s")
        await GenServer.stop("s")
        assert await receive(timeout=5) == (a.terminate, a.normal)
        pid = await Scripted.start(self())
        await GenServer.stop(pid, a.shutdown, timeout=5)
        assert await receive(timeout=5) == (a.terminate, a.shutdown)
        for nobody in (pid, "nobody"):
            with pytest.raises(ProcessExit) as error:
                await GenServer.stop(nobody)
            assert error.value.reason is a.noproc
        pid = await Scripted.start(self())
        GenServer.cast(pid, lambda _: asyncio.sleep(0.1))
        with pytest.raises(TimeoutError):
            await GenServer.stop(pid, timeout=0.01)
        assert await receive(timeout=5) == (a.terminate, a.normal)
        await left_behind_nothing()

    in_a_node(main)


def test_an_exit_signal_ends_it_without_terminate_unless_it_traps() -> None:
    async def main() -> None:
        pid = await Scripted.start(self())
        exit(pid, a.stop)
        assert await end_of(pid) is a.noproc
        await left_behind_nothing()  # no terminate

        pid = await Scripted.start(self(), traps)
        exit(pid, a.stop)
        assert await seen(pid) == [(a.EXIT, self(), a.stop)]
        exit(pid, a.kill)
        assert await end_of(pid) is a.noproc
        await left_behind_nothing()

    in_a_node(main)


def test_the_end_of_its_parent_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        owner = self()

        async def parent(trapping: bool, reason: Any) -> None:
            script = traps if trapping else (lambda _: None)
            pid = await Scripted.start_link(owner, script)
            send(owner, pid)
            await receive()
            exit(reason)

        for trapping, reason, told in ((False, a.shutdown, False), (True, a.shutdown, True), (True, a.normal, True)):
            running = spawn(parent, trapping, reason)
            pid = await receive(timeout=5)
            reference = monitor(pid)
            send(running, a.go)
            if told:
                assert await receive(timeout=5) == (a.terminate, reason)
            assert await receive(timeout=5) == (a.DOWN, reference, a.process, pid, reason)

    in_a_node(main)
    assert caplog.text == ""


def test_one_that_was_started_without_link_outlives_its_starter() -> None:
    async def main() -> None:
        owner = self()

        async def starter() -> None:
            send(owner, await Counter.start(3))

        spawn(starter)
        pid = await receive(timeout=5)
        await asyncio.sleep(0.01)
        assert await GenServer.call(pid, a.get) == 3

    in_a_node(main)


def test_something_a_handler_waits_for_is_cancelled() -> None:
    async def main() -> None:
        async def cancelled(*_: Any) -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        pid = await Scripted.start(self())
        with pytest.raises(CallFailed):
            await GenServer.call(pid, cancelled)
        assert (await receive(timeout=5))[0] is a.terminate

    in_a_node(main)


# --- Starting ---------------------------------------------------------------------------------------------------------


def ends(error: Any) -> Callable[[Any], Any]:
    def script(_: Any) -> Any:
        raise error

    return script


def test_what_init_can_come_to(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for script in (ends(Ignore()), lambda _: Ignore, lambda _: Ignore()):
            with pytest.raises(Ignore, match="Scripted chose not to start"):
                await Scripted.start(self(), script, name="s")
            assert whereis("s") is None
        for script in (ends(Stop(a.nope)), lambda _: Stop(a.nope), ends(ProcessExit(a.nope))):
            with pytest.raises(StartFailed, match="ended before it was ready: Atom\\('nope'\\)") as error:
                await Scripted.start(self(), script, name="s")
            assert error.value.reason is a.nope
            assert whereis("s") is None
        assert caplog.text == ""
        with pytest.raises(StartFailed, match="boom") as error:
            await Scripted.start(self(), boom)
        assert error.value.reason[0] == (a.RuntimeError, b"boom")
        with pytest.raises(TimeoutError):
            await Scripted.start(self(), lambda _: asyncio.sleep(5), name="s", timeout=0.02)
        assert whereis("s") is None
        await left_behind_nothing()

    in_a_node(main)


def test_a_name_that_is_taken() -> None:
    async def main() -> None:
        pid = await Counter.start(1, name="counter")
        for start in (Counter.start, Counter.start_link):
            with pytest.raises(AlreadyStarted, match="counter is registered already, to Pid<n@h") as error:
                await start(2, name="counter")
            assert error.value.pid == pid
        assert await GenServer.call("counter", a.get) == 1
        await left_behind_nothing()

    in_a_node(main)


def test_start_link_that_fails() -> None:
    async def main() -> None:
        async def starter() -> None:
            await Scripted.start_link(self(), ends(Stop(a.nope)))

        _, reference = spawn_monitor(starter)
        assert (await receive(timeout=5))[4] is a.nope  # as in OTP
        del reference
        trap_exit()
        with pytest.raises(StartFailed):
            await Scripted.start_link(self(), ends(Stop(a.nope)))
        await left_behind_nothing()  # no EXIT

    in_a_node(main)


def test_start_link_links() -> None:
    async def main() -> None:
        trap_exit()
        pid = await Scripted.start_link(self())
        exit(pid, a.kill)
        assert await receive(timeout=5) == (a.EXIT, pid, a.killed)

    in_a_node(main)


# --- In a thread ------------------------------------------------------------------------------------------------------


@blocking
class InAThread(GenServer):
    def init(self) -> None:
        self.threads = [threading.get_ident()]

    def handle_call(self, request: Any, sender: Any) -> Any:
        if callable(request):
            return request(self)
        self.threads.append(threading.get_ident())
        return self.threads

    def handle_info(self, message: Any) -> Any:
        message.wait(5)


def test_handlers_in_a_thread() -> None:
    async def main() -> None:
        before = threading.active_count()
        pid = await InAThread.start()
        threads = await GenServer.call(pid, a.threads)
        assert threads[0] == threads[1] != threading.get_ident()
        assert await GenServer.call(pid, lambda _: self()) == pid
        event = threading.Event()
        send(pid, event)  # it blocks
        other = await Counter.start(1)
        assert await GenServer.call(other, a.get, 1) == 1  # and others do not
        event.set()
        with pytest.raises(CallFailed, match="boom"):
            await GenServer.call(pid, boom)
        for _ in range(100):
            if threading.active_count() == before:
                break
            await asyncio.sleep(0.01)
        assert threading.active_count() == before

    in_a_node(main)


def test_a_server_that_is_killed_while_its_thread_works(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        results: list[Any] = []
        event = threading.Event()

        def work(_: Any) -> None:
            event.wait(5)
            try:
                send("nobody", 1)
                link(self())
            except ProcessExit as ended:
                results.append(ended.reason)
                raise

        pid = await InAThread.start()
        request = GenServer.send_request(pid, work)
        await asyncio.sleep(0.02)
        exit(pid, a.kill)
        with pytest.raises(ProcessExit):
            await GenServer.receive_response(request, 1)
        event.set()
        for _ in range(100):
            if results:
                break
            await asyncio.sleep(0.01)
        assert results == [a.killed]

    in_a_node(main)
    assert caplog.text == ""


def test_a_thousand_calls_at_once() -> None:
    async def main() -> None:
        pid = await Counter.start(0)
        requests = [GenServer.send_request(pid, (a.add, 1)) for _ in range(1000)]
        assert [await GenServer.receive_response(request, 10) for request in requests] == list(range(1, 1001))

    in_a_node(main)
