"""The task that runs a process is a task to everybody: asyncio's own, and the compiled one where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
import pytest

from beamnode import FixedPort, Node, ProcessExit, a, exit, receive, self, send, spawn, spawn_monitor, trap_exit
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body, runtime, waiting

Body = Callable[[], Coroutine[Any, Any, Any]]
seen: contextvars.ContextVar[int] = contextvars.ContextVar("seen", default=0)


@pytest.fixture(params=["asyncio", "compiled"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "asyncio":
        monkeypatch.setattr(runtime, "make_runner", lambda _loop: None)
    elif waiting.make_runner(None) is None:  # type: ignore[arg-type]
        pytest.skip("this installation has no compiled kernel")
    return str(request.param)


def in_a_process(body: Body) -> Any:
    """What `body` returns, run as a spawned process."""
    results: list[Any] = []

    async def main() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):

            async def run() -> None:
                results.append(await body())

            pid, reference = spawn_monitor(run)
            assert await receive(timeout=10) == (a.DOWN, reference, a.process, pid, a.normal)
        await asyncio.sleep(0.01)  # the services wind up
        left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        assert not left

    asyncio.run(main())
    return results[0]


def test_it_is_the_current_task_and_one_of_all(kind: str) -> None:
    async def body() -> Any:
        task = asyncio.current_task()
        assert task is not None
        assert task is current_body().task  # type: ignore[attr-defined]
        assert task in asyncio.all_tasks()
        assert not task.done()
        assert task.get_loop() is asyncio.get_running_loop()
        assert task.get_name()
        assert weakref.ref(task)() is task
        assert asyncio.isfuture(task)
        await asyncio.sleep(0)
        return type(task).__module__

    assert in_a_process(body) == {"asyncio": "_asyncio", "compiled": "beamnode.node._kernel"}[kind]


def test_timeouts_groups_and_gathering(kind: str) -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def body() -> Any:
        said = []
        try:
            async with asyncio.timeout(0.01):
                await receive()
        except TimeoutError:
            said.append("timeout of receive")
        try:
            async with asyncio.timeout(0.01):
                await slow()
        except TimeoutError:
            said.append("timeout")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow(), 0.01)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await receive()
        except* KeyError:
            said.append("group")
        assert await asyncio.gather(asyncio.sleep(0, 1), asyncio.to_thread(lambda: 2), asyncio.shield(three())) == [
            1,
            2,
            3,
        ]
        task = asyncio.current_task()
        assert task is not None
        said.append(task.cancelling())
        return said

    async def three() -> int:
        return 3

    assert in_a_process(body) == ["timeout of receive", "timeout", "group", 0]


def test_a_cancellation_is_delivered_once_and_can_be_taken_back(kind: str) -> None:
    async def body() -> Any:
        task = asyncio.current_task()
        assert task is not None
        caught = []
        for wait in (
            lambda: receive(),
            lambda: receive(timeout=60),
            lambda: asyncio.sleep(60),
            lambda: asyncio.sleep(0),
        ):
            asyncio.get_running_loop().call_soon(task.cancel, "why")
            try:
                await wait()
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                caught.append(error.args)
            assert task.cancelling() == 1
            assert task.uncancel() == 0
        task.cancel()  # while it runs: at the next await
        try:
            await receive()
        except asyncio.CancelledError as error:
            caught.append(error.args)
        task.uncancel()
        send(self(), 5)
        assert await receive() == 5
        return caught

    assert in_a_process(body) == [("why",)] * 4 + [()]


def test_anyio_takes_it_for_a_task(kind: str) -> None:
    """Half of the libraries that a process may want to use stand on anyio, which looks into tasks."""

    async def body() -> Any:
        me = self()

        async def sub(number: int) -> None:
            await anyio.sleep(0.001 * number)
            send(me, number)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(sub, number)
        with anyio.move_on_after(0.01) as slept:
            await anyio.sleep(60)
        heard = [await receive() for _ in range(3)]
        with anyio.move_on_after(0.01) as received:
            await receive()
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await receive(timeout=60)
        return heard, slept.cancelled_caught, received.cancelled_caught, await anyio.to_thread.run_sync(lambda: 42)

    assert in_a_process(body) == ([0, 1, 2], True, True, 42)


def test_a_cancelled_process_ends_so(kind: str) -> None:
    async def waits(parent: Any) -> None:
        send(parent, asyncio.current_task())
        await receive()

    async def body() -> Any:
        spawn_monitor(waits, self())
        task = await receive(timeout=5)
        assert task.cancel()
        return (await receive(timeout=5))[4]

    assert in_a_process(body) == a.cancelled


def test_others_can_wait_for_it(kind: str) -> None:
    async def short() -> None:
        send(parent[0], current_body().task)  # type: ignore[attr-defined]
        await receive()

    parent: list[Any] = []

    async def body() -> Any:
        parent.append(self())
        pid = spawn(short)
        task = await receive(timeout=5)
        called: list[Any] = []
        task.add_done_callback(called.append)
        task.add_done_callback(print)
        assert task.remove_done_callback(print) == 1
        with pytest.raises(asyncio.InvalidStateError):
            task.result()
        send(pid, 1)
        assert await asyncio.wait_for(asyncio.shield(task), 5) is None
        assert task.done()
        assert not task.cancelled()
        assert task.exception() is None
        assert task.result() is None
        assert await task is None
        assert not task.cancel()
        await asyncio.sleep(0)
        assert called == [task]
        late: list[Any] = []
        task.add_done_callback(late.append)
        await asyncio.sleep(0)
        done, pending = await asyncio.wait([task])
        return late == [task], len(done), len(pending)

    assert in_a_process(body) == (True, 1, 0)


def test_context_variables_stay_with_the_process(kind: str) -> None:
    async def child(to: Any) -> None:
        before = seen.get()
        seen.set(before + 1)
        await asyncio.sleep(0)
        send(to, (before, seen.get()))

    async def body() -> Any:
        seen.set(7)
        me = self()
        spawn(child, me)
        spawn(child, me)
        answers = [await receive(timeout=5), await receive(timeout=5)]
        return answers, seen.get()

    assert in_a_process(body) == ([(7, 8), (7, 8)], 7)


def test_what_no_task_may_await_is_an_error(kind: str) -> None:
    class Bad:
        def __await__(self) -> Any:
            yield "nonsense"

    async def body() -> Any:
        said = []
        for wrong in (Bad(), asyncio.current_task()):
            try:
                await wrong  # type: ignore[misc]
            except RuntimeError as error:
                said.append(str(error))
        other = asyncio.new_event_loop()
        future = other.create_future()
        try:
            await future
        except RuntimeError as error:
            said.append(str(error))
        other.close()
        return said

    bad, itself, elsewhere = in_a_process(body)
    assert "bad yield: 'nonsense'" in bad
    assert "itself" in itself
    assert "attached to a different loop" in elsewhere


def test_whoever_awaits_himself_can_receive_afterwards(kind: str) -> None:
    async def body() -> Any:
        with pytest.raises(RuntimeError, match="itself"):
            await asyncio.current_task()  # type: ignore[misc]
        me = self()

        async def later() -> None:
            send(me, 1)

        spawn(later)
        return await receive()

    assert in_a_process(body) == 1


def test_an_exception_of_any_class_ends_its_process_and_nothing_else(kind: str) -> None:
    class Odd(BaseException):
        pass

    async def child(parent: Any) -> None:
        send(parent, asyncio.current_task())
        await receive()
        raise Odd

    async def body() -> Any:
        blamed: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: blamed.append(context["message"]))
        pid, _ = spawn_monitor(child, self())
        task = await receive(timeout=5)
        send(pid, 1)
        reason = (await receive(timeout=5))[4]
        await asyncio.sleep(0)
        assert isinstance(task.exception(), Odd)
        return reason[0], blamed

    assert in_a_process(body) == ((a.Odd, b""), [])


def test_what_was_caught_is_no_context_of_what_comes_later(kind: str) -> None:
    async def body() -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_exception, KeyError("x"))
        with contextlib.suppress(KeyError):
            await future
        try:
            raise ValueError
        except ValueError as error:
            return error.__context__

    assert in_a_process(body) is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_receives_for_the_process(kind: str) -> None:
    async def helper() -> Any:
        return await receive()

    async def body() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        try:
            task = asyncio.create_task(helper())
        finally:
            loop.set_task_factory(None)
        send(self(), 5)
        return await task

    assert in_a_process(body) == 5


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`markcoroutinefunction` came with 3.12")
def test_a_function_that_passes_for_an_async_def_may_give_any_awaitable(kind: str) -> None:
    ran = []

    class Later:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            ran.append(1)

    @inspect.markcoroutinefunction  # type: ignore[attr-defined,unused-ignore]
    def child() -> Later:
        return Later()

    async def body() -> Any:
        spawn_monitor(child)
        return (await receive(timeout=5))[4], ran

    assert in_a_process(body) == (a.normal, [1])


def test_a_process_that_is_killed_before_its_first_step_never_runs(kind: str) -> None:
    ran = []

    async def child() -> None:
        ran.append(1)

    async def body() -> Any:
        pid, _ = spawn_monitor(child)
        exit(pid, a.kill)
        return (await receive(timeout=5))[4], ran

    assert in_a_process(body) == (a.killed, [])


def test_the_loop_has_its_turn_while_processes_pass_messages(kind: str) -> None:
    """Two processes that never wait for anything but each other must not keep timers and sockets waiting."""

    async def echo(to: Any) -> None:
        send(to, self())
        while True:
            send(await receive(), self())

    async def body() -> Any:
        me = self()
        first = spawn(echo, me)
        await receive()
        second = spawn(echo, first)
        trap_exit()
        await asyncio.sleep(0.05)
        exit(second, a.kill)
        exit(first, a.kill)
        return "woken"

    assert in_a_process(body) == "woken"


def test_an_ended_process_leaves_nothing(kind: str) -> None:
    class Thing:
        pass

    async def child(thing: Thing) -> None:
        await receive()
        raise ProcessExit(a.shutdown)

    async def body() -> Any:
        thing = Thing()
        gone = weakref.ref(thing)
        pid, _ = spawn_monitor(child, thing)
        del thing
        await asyncio.sleep(0)
        send(pid, 1)
        await receive(timeout=5)
        await asyncio.sleep(0.01)
        gc.collect()
        return gone()

    assert in_a_process(body) is None
