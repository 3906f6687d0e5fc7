"""otp/task.py and task_process.py: tasks of processes of this node."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
import task_functions
from task_functions import marks
from task_support import in_a_node, until

from beamnode import (
    Atom,
    GenServer,
    Reference,
    UsageError,
    a,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
)
from beamnode import exit as exit_
from beamnode.node import process_dictionary
from beamnode.otp.supervisor import Supervisor
from beamnode.otp.task import Task, TaskFailed

pytestmark = pytest.mark.filterwarnings("error")


async def down_of(pid: Any) -> Any:
    """Why a process has ended, or ends."""
    reference = monitor(pid)
    message = await receive(lambda got: isinstance(got, tuple) and len(got) == 5 and got[1] == reference, timeout=5)
    return message[4]


async def in_another_process(function: Any) -> Any:
    """What `function()` gives or raises there."""
    outcome = asyncio.get_running_loop().create_future()

    async def body() -> None:
        try:
            outcome.set_result(await function())
        except Exception as error:
            outcome.set_exception(error)

    spawn(body)
    return await outcome


# --- Results ----------------------------------------------------------------------------------------------------------


@in_a_node
async def test_it_runs_and_is_awaited() -> None:
    task = Task.async_(task_functions.add, 1, 2)
    assert (task.owner, task.mfa) == (self(), (a.task_functions, a.add, 2))
    assert await Task.await_(task) == 3
    assert await Task.async_(task_functions.add, 3, 4) == 7
    assert await Task.async_(task_functions.double, 4).await_(timeout=None) == 8


@in_a_node
async def test_a_def_runs_in_a_thread_an_async_def_on_the_loop() -> None:
    async def here() -> Any:
        return threading.current_thread()

    assert await Task.async_(here) is threading.current_thread()
    assert await Task.async_(threading.current_thread) is not threading.current_thread()
    assert await Task.async_(lambda: task_functions.add(1, 2)) == 3
    own = await Task.async_(self)
    assert own != self()


@in_a_node
async def test_what_cannot_run_is_refused_at_once() -> None:
    coroutine = task_functions.add(1, 2)
    for wrong in (3, None, coroutine):
        with pytest.raises(UsageError, match=r"takes a function|runs a Python function"):
            Task.async_(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a module, a function and a list"):
        Task.async_("module", "function")  # type: ignore[arg-type]


@in_a_node
async def test_only_the_owner_may_await() -> None:
    task = Task.async_(task_functions.slow, 1)
    for use in (
        lambda: Task.await_(task),
        lambda: Task.yield_(task),
        lambda: Task.shutdown(task),
        lambda: Task.await_many([task]),
        lambda: Task.yield_many([task]),
    ):
        with pytest.raises(UsageError, match="must be awaited by its owner"):
            await in_another_process(use)
    assert await task == 1


@in_a_node
async def test_two_coroutines_of_the_owner_do_not_await_the_same() -> None:
    task = Task.async_(task_functions.slow, 1, 0.05)
    first = asyncio.ensure_future(Task.await_(task))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="another task"):
        await task
    with pytest.raises(UsageError, match="another task"):
        await Task.await_many([task])
    assert await first == 1


@in_a_node
async def test_completed() -> None:
    task = Task.completed((a.ok, 1))
    assert (task.pid, await task) == (None, (a.ok, 1))
    assert await Task.shutdown(Task.completed(2)) == (a.ok, 2)
    assert await Task.yield_(Task.completed(3)) == (a.ok, 3)
    assert await Task.await_many([Task.completed(n) for n in range(3)]) == [0, 1, 2]


@in_a_node
async def test_a_thousand_at_a_time() -> None:
    tasks = [Task.async_(task_functions.slow, n, 0.2) for n in range(1000)]
    assert await Task.await_many(tasks) == list(range(1000))  # one after the other they take 200 s
    tasks = [Task.async_(task_functions.slow, n, 0) for n in range(1000)]
    await asyncio.sleep(0.2)  # all is in the mailbox
    assert [await task for task in tasks] == list(range(1000))


# --- Crashes ----------------------------------------------------------------------------------------------------------


@in_a_node
async def test_a_crash_ends_its_owner() -> None:
    async def owner() -> None:
        await Task.async_(task_functions.boom, 1)

    reason = await down_of(spawn(owner))
    assert reason[0] == (a.ValueError, b"no 1")
    module, function, _, _ = reason[1][0]
    assert (module, function) == (a.task_functions, a.boom)


@in_a_node
async def test_a_crash_is_told_where_exits_are_trapped() -> None:
    trap_exit(True)
    for function in (task_functions.boom, task_functions.boom_blocking):
        task = Task.async_(function, 1)
        with pytest.raises(TaskFailed, match="ended before it replied") as failure:
            await task
        assert failure.value.cause[0] == (a.ValueError, b"no 1")
        cause, (module, called, [struct, timeout]) = failure.value.reason
        assert (cause, module, called, timeout) == (
            failure.value.cause,
            Atom("Elixir.Task"),
            Atom("await"),
            5000,
        )
        assert struct[Atom("__struct__")] == module
        assert await receive(timeout=1) == (a.EXIT, task.pid, cause)


@in_a_node
async def test_how_it_ends() -> None:
    trap_exit(True)
    for function, argument, wanted in (
        (task_functions.leave, (a.because, 1), (a.because, 1)),
        (task_functions.leave, a.normal, a.normal),
    ):
        assert await Task.yield_(Task.async_(function, argument)) == (a.exit, wanted)
    outcome: Any = await Task.yield_(Task.async_(task_functions.throw, 7))
    assert outcome[1][0] == (a.nocatch, 7)
    for _ in range(3):
        assert (await receive(timeout=1))[0] is a.EXIT

    def leaves() -> None:
        raise SystemExit(3)

    outcome = await Task.yield_(Task.async_(leaves))
    assert outcome[1][0] == (a.SystemExit, b"3")
    assert (await receive(timeout=1))[0] is a.EXIT


@in_a_node
async def test_an_owner_that_dies_ends_its_tasks() -> None:
    marks.clear()

    async def owner() -> None:
        Task.async_(task_functions.hang, 1)
        await Task.async_(task_functions.hang, 2)

    pid = spawn(owner)
    await until(lambda: len(marks) == 2)
    exit_(pid, a.gone)
    await until(lambda: {("cancelled", 1), ("cancelled", 2)} <= set(marks))


@in_a_node
async def test_what_a_thread_gives_after_its_end_is_dropped() -> None:
    marks.clear()
    task = Task.async_(task_functions.block, 0.2)
    await until(lambda: "blocks" in marks)
    assert await Task.shutdown(task) is None
    assert "blocked" not in marks
    await until(lambda: "blocked" in marks)


def test_a_crash_is_logged_with_all_that_helps(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_node
    async def main() -> None:
        trap_exit(True)
        with pytest.raises(TaskFailed):
            await Task.async_(task_functions.boom, 1)
        with pytest.raises(TaskFailed):
            await Task.async_(task_functions.leave, a.shutdown)
        for _ in range(2):
            await receive(timeout=1)

    with caplog.at_level(logging.INFO):
        main()
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    text = record.getMessage()
    assert record.name == "beamnode.task"
    for words in ("has ended: ValueError('no 1')", "in boom", "Function: task_functions.boom/1", "Arguments: [1]"):
        assert words in text
    assert "beamnode/otp" not in text


# --- Time-outs and cancellation ---------------------------------------------------------------------------------------


@in_a_node
async def test_a_timeout_ends_the_task_and_not_its_owner() -> None:
    task = Task.async_(task_functions.hang)
    with pytest.raises(TimeoutError, match=r"task_functions\.hang/0.*within 0\.01 s: it was killed"):
        await Task.await_(task, 0.01)
    assert await down_of(task.pid) is a.noproc


@in_a_node
async def test_cancelling_who_waits_ends_the_task() -> None:
    waits = [
        lambda task: Task.await_(task),
        lambda task: Task.yield_(task, None),
        lambda task: Task.await_many([task, Task.completed(1)]),
        lambda task: Task.yield_many([task, Task.completed(1)]),
    ]
    for wait in waits:
        marks.clear()
        task = Task.async_(task_functions.hang, 1)
        waiting = asyncio.ensure_future(wait(task))
        await until(lambda: ("began", 1) in marks)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: ("cancelled", 1) in marks)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Task.async_(task_functions.hang)


@in_a_node
async def test_an_answer_that_comes_with_the_cancellation_is_not_left() -> None:
    task = Task.async_(task_functions.slow, 1, 0)
    waiting = asyncio.ensure_future(Task.await_(task))
    await asyncio.sleep(0)
    send(self(), (task.ref, a.early))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# --- Many -------------------------------------------------------------------------------------------------------------


@in_a_node
async def test_await_many() -> None:
    tasks = [Task.async_(task_functions.slow, n, 0.05 - n / 100) for n in range(5)]
    assert await Task.await_many([*tasks, tasks[0]]) == [0, 1, 2, 3, 4, 0]
    assert await Task.await_many([]) == []


@in_a_node
async def test_await_many_ends_all_after_its_time() -> None:
    tasks = [Task.async_(task_functions.slow, 1, 0), Task.async_(task_functions.hang), Task.async_(task_functions.hang)]
    with pytest.raises(TimeoutError, match=r"2 of 3 tasks did not reply within 0\.05 s"):
        await Task.await_many(tasks, 0.05)


@in_a_node
async def test_await_many_fails_with_the_first_that_fails() -> None:
    trap_exit(True)
    tasks = [Task.async_(task_functions.hang), Task.async_(task_functions.boom, 1), Task.completed(1)]
    with pytest.raises(TaskFailed) as failure:
        await Task.await_many(tasks)
    assert failure.value.cause[0] == (a.ValueError, b"no 1")
    assert failure.value.reason[1][1] is a.await_many
    assert (await receive(timeout=1))[1] == tasks[1].pid


@in_a_node
async def test_yield_many() -> None:
    trap_exit(True)
    tasks = [
        Task.async_(task_functions.slow, 1, 0),
        Task.async_(task_functions.boom, 1),
        Task.async_(task_functions.hang),
    ]
    outcomes = await Task.yield_many(tasks, 0.1)
    assert [task for task, _ in outcomes] == tasks
    values: list[Any] = [outcome for _, outcome in outcomes]
    assert values[0] == (a.ok, 1)
    assert values[1][0] is a.exit
    assert values[2] is None
    assert (await Task.yield_many(tasks[2:], 0, on_timeout="kill_task"))[0][1] is None
    ended = [(await receive(timeout=1))[1] for _ in range(2)]
    assert set(ended) == {tasks[0].pid, tasks[1].pid}


@in_a_node
async def test_yield_many_with_a_limit() -> None:
    tasks = [Task.async_(task_functions.slow, n, n / 10) for n in range(3)]
    outcomes = await Task.yield_many(tasks, limit=1, on_timeout="kill_task")
    assert [outcome for _, outcome in outcomes] == [(a.ok, 0), None, None]
    assert await Task.await_many(tasks[1:]) == [1, 2]
    assert await Task.yield_many([], limit=3) == []
    with pytest.raises(UsageError, match="on_timeout"):
        await Task.yield_many([], on_timeout="die")  # type: ignore[arg-type]


@in_a_node
async def test_yield_many_may_leave_tasks_to_themselves() -> None:
    task = Task.async_(task_functions.slow, 1, 0.05)
    assert await Task.yield_many([task], 0, on_timeout="ignore") == [(task, None)]


# --- yield, shutdown, ignore ------------------------------------------------------------------------------------------


@in_a_node
async def test_yield() -> None:
    task = Task.async_(task_functions.slow, 1, 0.05)
    assert await Task.yield_(task, 0) is None
    assert await Task.yield_(task) == (a.ok, 1)


@in_a_node
async def test_shutdown() -> None:
    marks.clear()
    task = Task.async_(task_functions.hang, 1)
    await until(lambda: ("began", 1) in marks)
    assert await Task.shutdown(task) is None
    await until(lambda: ("cancelled", 1) in marks)
    assert await Task.shutdown(Task.async_(task_functions.hang), "brutal_kill") is None
    task = Task.async_(task_functions.slow, 1, 0)
    await asyncio.sleep(0.05)
    assert await Task.shutdown(task) == (a.ok, 1)


@in_a_node
async def test_shutdown_of_what_has_crashed_or_ended() -> None:
    trap_exit(True)
    for reason, wanted in ((a.why, (a.exit, a.why)), (a.shutdown, None)):
        task = Task.async_(task_functions.leave, reason)
        assert (await receive(timeout=1))[0] is a.EXIT
        assert await Task.shutdown(task) == wanted
    task = Task.async_(task_functions.leave, a.why)
    await receive(lambda got: got[0] is a.EXIT, timeout=1)
    await Task.yield_(task)
    assert await Task.shutdown(task) == (a.exit, a.noproc)


@in_a_node
async def test_shutdown_kills_what_does_not_end_in_time() -> None:
    async def stubborn() -> None:
        trap_exit(True)
        send(owner, a.ready)
        await receive(lambda _: False)

    owner = self()
    task = Task.async_(stubborn)
    assert await receive(timeout=1) is a.ready
    assert await Task.shutdown(task, 0.05) == (a.exit, a.killed)


@in_a_node
async def test_shutdown_that_is_cancelled_leaves_no_task() -> None:
    async def stubborn() -> None:
        trap_exit(True)
        send(owner, a.ready)
        await receive(lambda _: False)

    owner = self()
    task = Task.async_(stubborn)
    assert await receive(timeout=1) is a.ready
    ending = asyncio.ensure_future(Task.shutdown(task, None))
    await asyncio.sleep(0.01)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending


@in_a_node
async def test_ignore() -> None:
    trap_exit(True)
    task = Task.async_(task_functions.slow, 1, 0.05)
    assert Task.ignore(task) is None
    assert await down_of(task.pid) is a.normal
    task = Task.async_(task_functions.slow, 1, 0)
    await asyncio.sleep(0.05)
    assert Task.ignore(task) == (a.ok, 1)
    assert (await receive(timeout=1))[0] is a.EXIT
    task = Task.async_(task_functions.leave, a.why)
    assert (await receive(timeout=1))[0] is a.EXIT
    assert Task.ignore(task) == (a.exit, a.why)


# --- Without a result -------------------------------------------------------------------------------------------------


@in_a_node
async def test_start_and_start_link() -> None:
    trap_exit(True)
    own = self()
    pid = await Task.start(task_functions.tell, own, a.hello)
    assert await receive(timeout=1) is a.hello
    assert pid not in (process_info() or {})["links"]
    await down_of(pid)
    pid = await Task.start_link(task_functions.boom, 1)
    tag, who, reason = await receive(timeout=1)
    assert (tag, who, reason[0]) == (a.EXIT, pid, (a.ValueError, b"no 1"))


@in_a_node
async def test_as_a_child_of_a_supervisor() -> None:
    marks.clear()
    assert Task.child_spec(task_functions.add, 1, 2) == {
        "id": Task,
        "start": (Task.start_link, (task_functions.add, 1, 2)),
        "restart": "temporary",
    }

    class Again(Task, restart="transient"):
        @classmethod
        async def start_link(cls, *args: Any) -> Any:
            return await Task.start_link(task_functions.count_and_crash, *args)

    children = [(Task, task_functions.hang, 1), (Again, self(), "again", 2)]
    tree = await Supervisor.start_link(children, strategy="one_for_one")
    assert [(await receive(timeout=1))[1] for _ in range(3)] == [1, 2, 3]
    await until(lambda: ("began", 1) in marks)
    await Supervisor.stop(tree)
    assert ("cancelled", 1) in marks


@in_a_node
async def test_callers_ancestors_and_the_initial_call() -> None:
    async def outer() -> Any:
        return await Task.async_(task_functions.who)

    process_dictionary()[Atom("$callers")] = [a.before]
    own = self()
    task = Task.async_(outer)
    _, dictionary = await task
    assert dictionary[Atom("$callers")] == [task.pid, own, a.before]
    assert dictionary[Atom("$ancestors")] == [task.pid, own]
    assert dictionary[Atom("$initial_call")] == (a.task_functions, a.who, 0)
    process_dictionary().clear()


@in_a_node
async def test_a_server_takes_the_result_as_a_message() -> None:
    class Asking(GenServer):
        def init(self, owner: Any) -> None:
            trap_exit(True)
            self.owner = owner

        def handle_cast(self, request: Any) -> None:
            self.task = Task.async_(*request)

        def handle_info(self, message: Any) -> None:
            match message:
                case (Reference() as ref, result) if ref == self.task.ref:
                    send(self.owner, (a.result, result))
                case (a.DOWN, ref, _, _, reason) if ref == self.task.ref:
                    send(self.owner, (a.down, reason))

    server = await Asking.start(self())
    GenServer.cast(server, (task_functions.add, 1, 2))
    assert await receive(timeout=1) == (a.result, 3)
    assert await receive(timeout=1) == (a.down, a.normal)
    GenServer.cast(server, (task_functions.leave, a.why))
    assert await receive(timeout=1) == (a.down, a.why)
    await GenServer.stop(server)


@in_a_node
async def test_a_task_gets_the_messages_that_are_sent_to_it() -> None:
    task = Task.async_(task_functions.echo)
    assert task.pid is not None
    send(task.pid, (a.hi, 1))
    assert await task == (a.hi, 1)


@in_a_node
async def test_tasks_from_a_process_in_a_thread() -> None:
    def owner() -> None:
        Task.async_(task_functions.tell, waiting, a.hello)

    waiting = self()
    pid, _ = spawn_monitor(owner)
    got = [await receive(timeout=1) for _ in range(2)]
    assert a.hello in got
    assert pid in [message[3] for message in got if isinstance(message, tuple)]
