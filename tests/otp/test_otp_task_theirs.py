"""Task.Supervisor of Elixir of OTP 25, 27 and 29, used by us; and ours, used by other Python nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import task_functions
from task_world import PY, WAIT_SECONDS, World, children_of, on_a_node, until

from beamnode import (
    CallFailed,
    EncodeError,
    GenServer,
    Node,
    ProcessExit,
    a,
    receive,
    self,
    spawn,
    trap_exit,
)
from beamnode import exit as exit_
from beamnode.otp.supervisor import SupervisorError
from beamnode.otp.task import Task, TaskFailed
from beamnode.otp.task_supervisor import TaskSupervisor
from beamnode.testing.peers import Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


@on_a_node
async def test_python_runs_tasks_of_elixir(world: World, node: Node) -> None:
    task = await Task.Supervisor.async_(world.theirs, "Elixir.Enum", "sum", [[1, 2, 3]])
    assert await task == 6
    assert (task.pid and task.pid.node) == world.name
    tasks = [await TaskSupervisor.async_nolink(world.theirs, "Elixir.String", "upcase", [text]) for text in ("a", "b")]
    assert await Task.await_many(tasks) == [b"A", b"B"]
    assert await Task.yield_(await TaskSupervisor.async_nolink(world.theirs, "erlang", "exit", [a.why])) == (
        a.exit,
        a.why,
    )
    with pytest.raises(TaskFailed) as failure:
        await (await TaskSupervisor.async_nolink(world.theirs, "erlang", "hd", [[]]))
    assert failure.value.cause[0] is a.badarg


@on_a_node
async def test_a_linked_task_of_elixir_that_crashes_ends_its_python_caller(world: World, node: Node) -> None:
    outcome = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        try:
            await (await TaskSupervisor.async_(world.theirs, "erlang", "exit", [a.why]))
        except asyncio.CancelledError:
            outcome.set_result("ended")
            raise

    spawn(caller)
    assert await asyncio.wait_for(outcome, WAIT_SECONDS) == "ended"


@on_a_node
async def test_a_python_caller_that_dies_ends_its_task_of_elixir(world: World, node: Node) -> None:
    async def caller() -> None:
        await (await TaskSupervisor.async_(world.theirs, "Elixir.Process", "sleep", [60000]))

    pid = spawn(caller)
    await until(lambda: children_of(world, 1))
    exit_(pid, a.kill)
    await until(lambda: children_of(world, 0))


@on_a_node
async def test_tasks_of_elixir_are_shut_down_and_time_out(world: World, node: Node) -> None:
    task = await TaskSupervisor.async_(world.theirs, "Elixir.Process", "sleep", [60000])
    assert await Task.yield_(task, 0.01) is None
    assert await Task.shutdown(task) is None
    task = await TaskSupervisor.async_(world.theirs, "Elixir.Process", "sleep", [60000])
    assert await Task.shutdown(task, "brutal_kill") is None
    task = await TaskSupervisor.async_(world.theirs, "Elixir.Process", "sleep", [60000])
    with pytest.raises(TimeoutError):
        await Task.await_(task, 0.05)
    task = await TaskSupervisor.async_nolink(world.theirs, "Elixir.Process", "sleep", [60000])
    waiting = asyncio.ensure_future(Task.await_(task))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: children_of(world, 0))


@on_a_node
async def test_children_of_elixirs_supervisor(world: World, node: Node) -> None:
    own = self()
    await TaskSupervisor.start_child(world.theirs, "erlang", "send", [own, a.hello])
    assert await receive(timeout=5) is a.hello
    pid = await TaskSupervisor.start_child(world.theirs, "Elixir.Process", "sleep", [60000], restart="transient")
    assert await TaskSupervisor.children(world.theirs) == [pid]
    await TaskSupervisor.terminate_child(world.theirs, pid)
    with pytest.raises(SupervisorError) as failure:
        await TaskSupervisor.terminate_child(world.theirs, pid)
    assert failure.value.reason is a.not_found
    two = ("two", world.name)
    sleepers = [await TaskSupervisor.start_child(two, "Elixir.Process", "sleep", [60000]) for _ in range(2)]
    with pytest.raises(SupervisorError) as failure:
        await TaskSupervisor.async_(two, "Elixir.Process", "sleep", [60000])
    assert failure.value.reason is a.max_children
    for sleeper in sleepers:
        await TaskSupervisor.terminate_child(two, sleeper)


@on_a_node
async def test_streams_of_tasks_of_elixir(world: World, node: Node) -> None:
    stream = TaskSupervisor.async_stream(world.theirs, range(1, 31), "Elixir.Integer", "pow", [2], max_concurrency=7)
    assert [outcome async for outcome in stream] == [(a.ok, n * n) for n in range(1, 31)]
    nolink = TaskSupervisor.async_stream_nolink
    outcomes = [outcome async for outcome in nolink(world.theirs, [4, 0, 2], "erlang", "div", [0])]
    assert [(kind, error[0]) for kind, error in outcomes] == [(a.exit, a.badarith)] * 3
    options: Any = {"timeout": 0.1, "on_timeout": "kill_task"}
    outcomes = [outcome async for outcome in nolink(world.theirs, [60000], "Elixir.Process", "sleep", [], **options)]
    assert outcomes == [(a.exit, a.timeout)]
    sleeps = nolink(("two", world.name), [100] * 3, "Elixir.Process", "sleep", [], max_concurrency=3)
    with pytest.raises(SupervisorError) as failure:
        await anext(sleeps)
    assert failure.value.reason is a.max_children
    await until(lambda: children_of(world, 0))
    assert await TaskSupervisor.children(("two", world.name)) == []


@on_a_node
async def test_a_lost_node_is_told(world: World, node: Node) -> None:
    task = await TaskSupervisor.async_nolink(world.theirs, "Elixir.Process", "sleep", [60000])
    await node.disconnect(world.name)
    with pytest.raises(TaskFailed) as failure:
        await Task.yield_(task)
    assert failure.value.cause == (a.nodedown, world.name)
    assert await node.connect(world.name)
    [pid] = await TaskSupervisor.children(world.theirs)
    await TaskSupervisor.terminate_child(world.theirs, pid)


@on_a_node
async def test_a_lost_node_is_told_by_shutdown(world: World, node: Node) -> None:
    await world.elixir("""
        defmodule :stubborn do
          def hold(pid), do: (Process.flag(:trap_exit, true); send(pid, :holds); Process.sleep(:infinity))
        end
        :ok
    """)
    task = await TaskSupervisor.async_nolink(world.theirs, "stubborn", "hold", [self()], shutdown="brutal_kill")
    assert await receive(timeout=5) is a.holds
    ending = asyncio.ensure_future(Task.shutdown(task, None))
    await asyncio.sleep(0.05)
    await node.disconnect(world.name)
    with pytest.raises(TaskFailed) as failure:
        await ending
    assert failure.value.cause == (a.nodedown, world.name)
    assert await node.connect(world.name)
    assert task.pid is not None
    await TaskSupervisor.terminate_child(world.theirs, task.pid)
    await until(lambda: children_of(world, 0))


@on_a_node
async def test_what_has_no_term_does_not_leave_a_task(world: World, node: Node) -> None:
    with pytest.raises(EncodeError):
        await TaskSupervisor.async_(world.theirs, "Elixir.Function", "identity", [object()])
    with pytest.raises(EncodeError):
        await TaskSupervisor.start_child(world.theirs, "Elixir.Function", "identity", [object()])
    stream = TaskSupervisor.async_stream(world.theirs, [object()], "Elixir.Function", "identity", [])
    with pytest.raises(EncodeError):
        await anext(stream)
    await until(lambda: children_of(world, 0))


@on_a_node
async def test_what_is_no_supervisor_of_tasks(world: World, node: Node) -> None:
    with pytest.raises(CallFailed) as failure:
        await TaskSupervisor.async_(("nobody", world.name), "Elixir.Function", "identity", [1])
    assert failure.value.cause is a.noproc

    class Strange(GenServer):
        def handle_call(self, request: Any, sender: Any) -> Any:
            return (a.ok, 1) if request[0] is a.start_task else a.strange

    strange = await Strange.start(name="strange")
    with pytest.raises(SupervisorError, match="no supervisor of tasks"):
        await TaskSupervisor.async_("strange", task_functions.add, 1, 2)
    with pytest.raises(SupervisorError, match="is no task of this supervisor"):
        await TaskSupervisor.terminate_child("strange", strange)
    await GenServer.stop(strange)


@on_a_node
async def test_a_server_that_keeps_origins_awaits_tasks(world: World, node: Node) -> None:
    class Keeper(GenServer):
        wants_origin = True

        async def handle_call(self, request: Any, sender: Any) -> Any:
            task = await TaskSupervisor.async_nolink(world.theirs, "Elixir.Function", "identity", [request])
            await asyncio.sleep(0.05)
            return Task.ignore(task) if request is a.ignore else await task

    server = await Keeper.start()
    assert await GenServer.call(server, a.wait) is a.wait
    assert await GenServer.call(server, a.ignore) == (a.ok, a.ignore)
    await GenServer.stop(server)


@on_a_node
async def test_python_nodes_among_themselves(world: World, node: Node) -> None:
    async with world.node("other@127.0.0.1") as other:
        ours = ("tasks", PY)
        assert other.name != PY
        assert await (await TaskSupervisor.async_(ours, "py", "add", [1, 2])) == 3
        with pytest.raises(Exception, match="cannot go to the supervisor"):
            await TaskSupervisor.async_(ours, task_functions.add, 1, 2)
        trap_exit(True)
        with pytest.raises(TaskFailed) as failure:
            await (await TaskSupervisor.async_(ours, "py", "boom", [1]))
        assert failure.value.cause[0] == (a.ValueError, b"no 1")
        assert isinstance(failure.value, ProcessExit)
        assert (await receive(timeout=5))[0] is a.EXIT
        stream = TaskSupervisor.async_stream(ours, [1, 2, 3], "py", "double", [])
        assert [value async for _, value in stream] == [2, 4, 6]
