"""otp/task_supervisor.py on this node; with Elixir: test_otp_task.py."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest
import task_functions
from task_functions import marks
from task_support import in_a_node, until

from beamnode import (
    AlreadyStarted,
    Atom,
    CallFailed,
    FixedPort,
    GenServer,
    Node,
    UsageError,
    a,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    trap_exit,
    unlink,
)
from beamnode import exit as exit_
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import Asked, current_body
from beamnode.otp import sys as system
from beamnode.otp import task_process
from beamnode.otp.supervisor import Supervisor, SupervisorError
from beamnode.otp.task import Task, TaskFailed
from beamnode.otp.task_supervisor import TaskSupervisor

pytestmark = pytest.mark.filterwarnings("error")


def with_a_supervisor(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test finds a supervisor named `tasks`."""

    async def main(**fixtures: Any) -> None:
        pid = await TaskSupervisor.start_link(name="tasks", max_children=2000)
        await test(**fixtures)
        unlink(pid)
        await GenServer.stop(pid)

    return in_a_node(wraps(test)(main))


async def no_children() -> None:
    while await TaskSupervisor.children("tasks"):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("first", ["beamnode", "beamnode.otp.task", "beamnode.otp.task_supervisor"])
def test_it_is_there_whatever_is_imported(first: str) -> None:
    program = f"import {first}, sys; print(sys.modules['beamnode.otp.task'].Task.Supervisor.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "TaskSupervisor\n", done.stderr


@with_a_supervisor
async def test_it_is_the_supervisor_of_task() -> None:
    assert Task.Supervisor is TaskSupervisor
    with pytest.raises(AlreadyStarted):
        await TaskSupervisor.start_link(name="tasks")


@with_a_supervisor
async def test_functions_run_on_the_loop_and_in_threads() -> None:
    assert await (await TaskSupervisor.async_("tasks", task_functions.add, 1, 2)) == 3
    assert await (await TaskSupervisor.async_nolink("tasks", task_functions.double, 4)) == 8
    assert await (await TaskSupervisor.async_(("tasks", "n@h"), task_functions.add, 1, 2)) == 3
    own = self()
    await TaskSupervisor.start_child("tasks", task_functions.tell, own, a.hello)
    assert await receive(timeout=5) is a.hello
    await no_children()


@with_a_supervisor
async def test_what_is_named_is_run_under_the_policy() -> None:
    task = await TaskSupervisor.async_nolink("tasks", "task_functions", "add", [1, 2])
    assert await Task.yield_(task) == (
        a.exit,
        (a.undef, [(a.task_functions, a.add, [1, 2], [])]),
    )


@with_a_supervisor
async def test_a_thousand_at_a_time() -> None:
    gate = asyncio.Event()

    async def wait(number: int) -> int:
        await gate.wait()
        return number

    tasks = [await TaskSupervisor.async_("tasks", wait, n) for n in range(1000)]
    assert len(await TaskSupervisor.children("tasks")) == 1000
    gate.set()
    assert await Task.await_many(tasks) == list(range(1000))
    await no_children()


@with_a_supervisor
async def test_links() -> None:
    marks.clear()

    async def owner(start: Any) -> None:
        await Task.await_(await start("tasks", task_functions.hang, 1))

    for start, ends in ((TaskSupervisor.async_, True), (TaskSupervisor.async_nolink, False)):
        marks.clear()
        pid = spawn(owner, start)
        await until(lambda: ("began", 1) in marks)
        exit_(pid, a.gone)
        await asyncio.sleep(0.02)
        assert (("cancelled", 1) in marks) is ends
        for child in await TaskSupervisor.children("tasks"):
            await TaskSupervisor.terminate_child("tasks", child)


@with_a_supervisor
async def test_a_crash_of_an_unlinked_task_is_an_outcome() -> None:
    outcome: Any = await Task.yield_(await TaskSupervisor.async_nolink("tasks", task_functions.boom, 1))
    assert (outcome[0], outcome[1][0]) == (a.exit, (a.ValueError, b"no 1"))
    with pytest.raises(TaskFailed):
        await (await TaskSupervisor.async_nolink("tasks", task_functions.boom_blocking, 1))


@with_a_supervisor
async def test_ending_the_supervisor_ends_its_tasks() -> None:
    marks.clear()
    pid = await TaskSupervisor.start_link()
    await TaskSupervisor.start_child(pid, task_functions.hang, 1)
    await TaskSupervisor.start_child(pid, task_functions.hang, 2, shutdown="brutal_kill")

    async def stubborn() -> None:
        trap_exit(True)
        marks.append("stubborn")
        await receive(lambda _: False)

    await TaskSupervisor.start_child(pid, stubborn, shutdown=0.05)
    await until(lambda: {("began", 1), ("began", 2), "stubborn"} <= set(marks))
    await GenServer.stop(pid)
    assert {("cancelled", 1), ("cancelled", 2)} <= set(marks)


@with_a_supervisor
async def test_terminate_child() -> None:
    marks.clear()
    pid = await TaskSupervisor.start_child("tasks", task_functions.hang, 1)
    await until(lambda: ("began", 1) in marks)
    await TaskSupervisor.terminate_child("tasks", pid)
    assert await TaskSupervisor.children("tasks") == []
    for wrong in (pid, self(), 3):
        with pytest.raises(SupervisorError, match="no task of this supervisor") as failure:
            await TaskSupervisor.terminate_child("tasks", wrong)  # type: ignore[arg-type]
        assert failure.value.reason is a.not_found


@with_a_supervisor
async def test_max_children() -> None:
    pid = await TaskSupervisor.start_link(max_children=1)
    first = await TaskSupervisor.async_nolink(pid, task_functions.slow, 1, 0.05)
    for start in (TaskSupervisor.async_, TaskSupervisor.async_nolink, TaskSupervisor.start_child):
        with pytest.raises(SupervisorError, match="max_children") as failure:
            await start(pid, task_functions.slow, 1)
        assert failure.value.reason is a.max_children
    assert await first == 1
    while await TaskSupervisor.children(pid):
        await asyncio.sleep(0.005)
    assert await (await TaskSupervisor.async_(pid, task_functions.slow, 2)) == 2
    await GenServer.stop(pid)


@with_a_supervisor
async def test_restarts() -> None:
    marks.clear()
    own = self()
    for key, restart, runs in (("a", "temporary", 1), ("b", "transient", 3), ("c", "transient", 1)):
        crashes = 0 if key == "c" else 2
        await TaskSupervisor.start_child("tasks", task_functions.count_and_crash, own, key, crashes, restart=restart)  # type: ignore[arg-type]
        assert [(await receive(timeout=5))[1] for _ in range(runs)] == list(range(1, runs + 1))
        await no_children()
        assert marks.count(key) == runs
    assert (process_info() or {})["message_queue_len"] == 0


def test_too_many_restarts_end_the_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_node
    async def main() -> None:
        trap_exit(True)
        pid = await TaskSupervisor.start_link(max_restarts=2, max_seconds=5)
        other = await TaskSupervisor.start_child(pid, task_functions.hang, 1)
        await TaskSupervisor.start_child(pid, task_functions.add, 1, 2, restart="permanent")
        assert await receive(timeout=5) == (a.EXIT, pid, a.shutdown)
        assert process_info(other) is None

    with caplog.at_level(logging.ERROR):
        main()
    assert "reached_max_restart_intensity" in caplog.text
    assert caplog.text.count("child_terminated") == 3


@with_a_supervisor
async def test_streams() -> None:
    trap_exit(True)
    for make in (TaskSupervisor.async_stream, TaskSupervisor.async_stream_nolink):
        got = [got async for got in make("tasks", range(10), task_functions.add, 1, max_concurrency=3)]
        assert got == [(a.ok, n + 1) for n in range(10)]
        outcomes: list[Any] = [got async for got in make("tasks", [1, 2, 3], task_functions.boom_on_two)]
        assert [kind for kind, _ in outcomes] == [a.ok, a.exit, a.ok]
        assert outcomes[1][1][0] == (a.ValueError, b"two")
        options: Any = {"timeout": 0.05, "on_timeout": "kill_task", "zip_input_on_exit": True}
        assert [got async for got in make("tasks", [7], task_functions.hang, **options)] == [(a.exit, (7, a.timeout))]
        await no_children()
    assert (process_info() or {})["message_queue_len"] == 0


@with_a_supervisor
async def test_a_stream_without_links_outlives_a_crash() -> None:
    outcomes = [kind async for kind, _ in TaskSupervisor.async_stream_nolink("tasks", [2], task_functions.boom_on_two)]
    assert outcomes == [a.exit]


@with_a_supervisor
async def test_a_stream_of_more_than_max_children() -> None:
    pid = await TaskSupervisor.start_link(max_children=2)
    with pytest.raises(SupervisorError) as failure:
        [got async for got in TaskSupervisor.async_stream(pid, range(3), task_functions.hang, max_concurrency=3)]
    assert failure.value.reason is a.max_children
    assert await TaskSupervisor.children(pid) == []
    await GenServer.stop(pid)


@with_a_supervisor
async def test_a_stream_of_a_supervisor_that_is_not_there() -> None:
    with pytest.raises(CallFailed) as failure:
        [got async for got in TaskSupervisor.async_stream("nobody", range(3), task_functions.hang)]
    assert failure.value.cause is a.noproc
    for start in (TaskSupervisor.async_, TaskSupervisor.start_child):
        with pytest.raises(CallFailed):
            await start("nobody", task_functions.hang)


@in_a_node
async def test_as_a_child_of_a_supervisor() -> None:
    assert TaskSupervisor.child_spec(name="tasks")["id"] is a.tasks
    assert TaskSupervisor.child_spec()["id"] is TaskSupervisor
    spec = TaskSupervisor.child_spec(name="tasks", max_children=3)
    tree = await Supervisor.start_link([spec], strategy="one_for_one")
    [(_, pid, kind, _)] = await Supervisor.which_children(tree)
    assert kind is a.supervisor
    assert await (await TaskSupervisor.async_("tasks", task_functions.add, 1, 2)) == 3
    assert isinstance(pid, type(tree))
    await Supervisor.stop(tree)


@with_a_supervisor
async def test_system_messages_and_nonsense() -> None:
    pid = await TaskSupervisor.start_child("tasks", task_functions.hang, 1)
    state = await system.get_state("tasks")
    assert (state[a.mod], state[a.max_children]) == (Atom("Task.Supervisor"), 2000)
    assert [child[1] for child in state[a.children]] == [pid]
    assert (await system.get_status("tasks"))[0] is a.status
    owner = (a["n@h"], self(), self())
    for request in (
        a.nothing,
        (a.start_task, [], None, None),
        (a.start_task, [owner, a.monitor], a.often, None),
        (a.start_task, [owner, a.monitor], None, -1),
        (a.start_task, [owner, [], (a.m, a.f)], None, None),
    ):
        assert (await GenServer.call("tasks", request))[0] is a.error
    GenServer.cast("tasks", a.nothing)
    assert await TaskSupervisor.children("tasks") == [pid]


@with_a_supervisor
async def test_wrong_arguments_are_told() -> None:
    for options in ({"max_children": -1}, {"max_children": "3"}, {"max_restarts": -1}, {"max_seconds": 0}):
        with pytest.raises(UsageError):
            await TaskSupervisor.start_link(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="shutdown"):
        await TaskSupervisor.async_("tasks", task_functions.hang, shutdown=-1)
    with pytest.raises(UsageError, match="restart"):
        await TaskSupervisor.start_child("tasks", task_functions.hang, restart="often")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot go to the supervisor"):
        await TaskSupervisor.async_(("tasks", Atom("other@h")), task_functions.hang)
    for make in (TaskSupervisor.async_stream, TaskSupervisor.async_stream_nolink):
        with pytest.raises(UsageError, match="cannot go to the supervisor"):
            make(("tasks", Atom("other@h")), [1], task_functions.hang)
        with pytest.raises(UsageError, match="a module, a function and a list"):
            make("tasks", [1], "module", "function")
    assert await TaskSupervisor.children("tasks") == []


@with_a_supervisor
async def test_a_task_that_nobody_tells_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up by itself: after a while, or when its owner ends."""
    monkeypatch.setattr(task_process, "HANDSHAKE_SECONDS", 0.05)
    own = self()
    _, pid = await GenServer.call("tasks", (a.start_task, [(a["n@h"], own, own), a.monitor], None, None))
    reference = monitor(pid)
    assert (await receive(timeout=5))[1:] == (reference, a.process, pid, a.timeout)
    owner = spawn(task_functions.hang)
    monkeypatch.setattr(task_process, "HANDSHAKE_SECONDS", 60.0)
    _, pid = await GenServer.call("tasks", (a.start_task, [(a["n@h"], owner, owner), a.monitor], None, None))
    reference = monitor(pid)
    await asyncio.sleep(0.01)
    exit_(owner, a.over)
    assert (await receive(timeout=5))[1:] == (reference, a.process, pid, (a.shutdown, a.over))


@with_a_supervisor
async def test_strangers_do_not_tell_a_task_what_to_run() -> None:
    own = self()
    _, pid = await GenServer.call("tasks", (a.start_task, [(a["n@h"], own, own), a.monitor], None, None))
    work = (Atom("task_functions"), a.add, [1, 2])
    stranger = spawn(task_functions.hang)
    send(pid, (stranger, a.tag, own, [], work))
    send(pid, a.nonsense)
    send(pid, (own, a.tag, own, [], work))
    reference = monitor(pid)
    assert (await receive(timeout=5))[1:4] == (reference, a.process, pid)
    exit_(stranger, a.kill)


@with_a_supervisor
async def test_cancelling_a_start_leaves_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_process, "HANDSHAKE_SECONDS", 600.0)  # it would wait for so long to be told what to run
    await system.suspend("tasks")
    starting = [
        asyncio.ensure_future(start("tasks", task_functions.hang))
        for start in (TaskSupervisor.async_, TaskSupervisor.async_nolink)
    ]
    await asyncio.sleep(0.01)
    for future in starting:
        future.cancel()
    await asyncio.gather(*starting, return_exceptions=True)
    await system.resume("tasks")
    while await TaskSupervisor.children("tasks"):
        await asyncio.sleep(0.005)
    assert (await GenServer.call("tasks", a.count_children))[1] == (a.active, 0)
    starting = [asyncio.ensure_future(TaskSupervisor.async_("nobody", task_functions.hang))]
    await asyncio.sleep(0)
    starting[0].cancel()
    await asyncio.gather(*starting, return_exceptions=True)


def test_the_policy_is_asked_by_who_was_too_early_as_well() -> None:
    """A peer that guesses a pid says what to run before the task has made its first step."""
    asked: list[Asked] = []

    def policy(call: Asked) -> str:
        asked.append(call)
        return "nothing"

    async def main() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1), policy=policy):
            own, signals = self(), current_body().runtime.signals
            trap_exit(True)
            pid = task_process.start_reply((a["n@h"], own, own), True)
            process = signals.lookup(pid)
            assert process is not None
            signals.deliver_from(a["evil@h"], process, (own, a.tag, own, [], (a.task_functions, a.add, [1, 2])))
            assert (await receive(timeout=5))[0] is a.EXIT
        assert [call.node for call in asked] == [a["evil@h"]]

    asyncio.run(main())
