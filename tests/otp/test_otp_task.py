"""Task.Supervisor of ours, seen by Elixir of OTP 25, 27 and 29."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import task_functions
import task_processes
from task_world import OURS, PY, WAIT_SECONDS, World, marked, no_children, on_a_node, until

from beamnode import (
    Atom,
    GenServer,
    Node,
    a,
)
from beamnode.node import Asked
from beamnode.otp.task import Task
from beamnode.otp.task_supervisor import TaskSupervisor
from beamnode.testing.peers import EvalError, Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


@on_a_node
async def test_async_on_the_loop_and_in_a_thread(world: World, node: Node) -> None:
    source = """
    tasks = for {fun, args} <- [add: [1, 2], double: [4]], do: Task.Supervisor.async(sup, :py, fun, args)
    {Task.await_many(tasks), Task.Supervisor.async_nolink(sup, :py, :add, [5, 6]) |> Task.await()}
    """
    assert await world.elixir(source, sup=(Atom("tasks"), PY)) == ([3, 8], 11)


@on_a_node
async def test_the_supervisor_by_its_pid_and_a_captured_function(world: World, node: Node) -> None:
    pid = await TaskSupervisor.start_link()
    assert await world.elixir("Task.Supervisor.async(sup, &:py.now/0) |> Task.await()", sup=pid) is a.now
    await GenServer.stop(pid)


@on_a_node
async def test_a_crash_reaches_the_caller_with_its_stack(world: World, node: Node) -> None:
    for function in ("boom", "boom_blocking"):
        source = f"Task.Supervisor.async_nolink({OURS}, :py, :{function}, [1]) |> Task.yield()"
        kind, (error, stack) = await world.elixir(source)
        assert (kind, error) == (a.exit, (a.ValueError, b"no 1"))
        module, name, _, where = stack[0]
        assert (module, name, bytes(dict(where)[a.file])) == (
            a.task_functions,
            Atom(function),
            task_functions.__file__.encode(),
        )


@on_a_node
async def test_a_crash_ends_a_linked_caller(world: World, node: Node) -> None:
    source = f"""
    {{pid, ref}} = spawn_monitor(fn -> Task.Supervisor.async({OURS}, :py, :boom, [1]) |> Task.await() end)
    receive do {{:DOWN, ^ref, _, ^pid, reason}} -> reason end
    """
    reason = await world.elixir(source)
    error = reason[0][0] if reason[1][0] is Atom("Elixir.Task") else reason[0]  # the link or await was first
    assert error == (a.ValueError, b"no 1")


@on_a_node
async def test_how_a_function_ends_is_how_its_task_ends(world: World, node: Node) -> None:
    async def ends(function: str, args: str) -> Any:
        return await world.elixir(f"Task.Supervisor.async_nolink({OURS}, :py, :{function}, {args}) |> Task.yield()")

    assert await ends("leave", "[{:because, 1}]") == (a.exit, (a.because, 1))
    assert await ends("leave", "[:normal]") == (a.exit, a.normal)
    kind, (thrown, _stack) = await ends("throw", "[:ball]")
    assert (kind, thrown) == (a.exit, (a.nocatch, a.ball))
    kind, ((error, _), _) = await ends("no_term", "[]")
    assert (kind, error) == (a.exit, a.EncodeError)
    kind, (undef, [(module, function, args, _)]) = await ends("nothing_like_it", "[1]")
    assert (kind, undef, module, function, args) == (a.exit, a.undef, a.py, a.nothing_like_it, [1])


@on_a_node
async def test_an_anonymous_function_is_refused_with_a_reason(world: World, node: Node) -> None:
    source = f"Task.Supervisor.async_nolink({OURS}, fn -> 1 end) |> Task.yield()"
    kind, (exception, stack) = await world.elixir(source)
    assert (kind, exception[Atom("__struct__")]) == (a.exit, Atom("Elixir.ArgumentError"))
    assert b"Python node: it cannot run" in exception[a.message]
    shown = await world.elixir("Exception.format_exit(reason)", reason=(exception, stack))
    assert shown.startswith(b"an exception was raised:\n    ** (ArgumentError) py@127.0.0.1 is a Python node")
    kind, (exception, _) = await world.elixir(f"Task.Supervisor.start_child({OURS}, fn -> 1 end)")
    assert (kind, exception[Atom("__struct__")]) == (a.error, Atom("Elixir.ArgumentError"))
    kind, (exception, _) = await world.elixir(
        f"Task.Supervisor.async_stream_nolink({OURS}, [1], fn x -> x end) |> Enum.at(0)"
    )
    assert (kind, exception[Atom("__struct__")]) == (a.exit, Atom("Elixir.ArgumentError"))


@on_a_node
async def test_shutdown_cancels(world: World, node: Node) -> None:
    for how in ("", ", :brutal_kill", ", 1000"):
        task_functions.marks.clear()
        await world.elixir(f"task = Task.Supervisor.async({OURS}, :py, :hang, [1])")
        await marked(("began", 1))
        assert await world.elixir(f"Task.shutdown(task{how})") is None
        await marked(("cancelled", 1))
    answer = await world.elixir(
        f"""
        task = Task.Supervisor.async({OURS}, :py, :add, [1, 2]); ref = Process.monitor(task.pid)
        receive do {{:DOWN, ^ref, _, _, _}} -> Task.shutdown(task) end
        """
    )
    assert answer == (a.ok, 3)


@on_a_node
async def test_a_caller_that_dies_cancels(world: World, node: Node) -> None:
    await world.elixir(f"caller = spawn(fn -> Task.Supervisor.async({OURS}, :py, :hang, [1]) |> Task.await() end)")
    await marked(("began", 1))
    await world.elixir("Process.exit(caller, :kill)")
    await marked(("cancelled", 1))


@on_a_node
async def test_a_caller_that_dies_leaves_a_nolink_task_alone(world: World, node: Node) -> None:
    await world.elixir(f"spawn(fn -> Task.Supervisor.async_nolink({OURS}, :py, :hang, [1]) end)")
    await marked(("began", 1))
    await asyncio.sleep(0.1)
    [pid] = await TaskSupervisor.children("tasks")
    await TaskSupervisor.terminate_child("tasks", pid)
    assert ("cancelled", 1) in task_functions.marks


@on_a_node
async def test_a_thread_whose_caller_dies_is_given_up(world: World, node: Node) -> None:
    await world.elixir(f"caller = spawn(fn -> Task.Supervisor.async({OURS}, :py, :block, [0.5]) |> Task.await() end)")
    await marked("blocks")
    await world.elixir("Process.exit(caller, :kill)")
    await until(no_children)
    assert "blocked" not in task_functions.marks  # the task is gone, its thread is not
    await marked("blocked")


def test_os_processes(world: World, tmp_path: Path) -> None:
    """One OS process: what runs in it goes on when its caller dies, what waits for it never starts."""

    async def main(program: subprocess.Popen[str]) -> None:
        async def eventually(source: str) -> None:
            async def holds() -> bool:
                return await world.elixir(source) is True

            await until(holds, source)

        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        await world.elixir('sup = {:tasks, :"processes@127.0.0.1"}')
        assert await world.elixir("Task.Supervisor.async(sup, :py, :cube, [3]) |> Task.await(20000)") == 27
        kind, (error, stack) = await world.elixir(
            "Task.Supervisor.async_nolink(sup, :py, :boom_blocking, [1]) |> Task.yield(20000)"
        )
        assert (kind, error, stack[0][1]) == (a.exit, (a.ValueError, b"no 1"), a.boom_blocking)
        paths = [str(tmp_path / str(number)) for number in range(8)]
        source = """
        callers = for path <- paths, do:
            spawn(fn -> Task.Supervisor.async(sup, :py, :leave_file, [path, 0.5]) |> Task.await(20000) end)
        """
        await world.elixir(source, paths=paths)
        await eventually("length(Task.Supervisor.children(sup)) == 8")
        await world.elixir("for pid <- callers, do: Process.exit(pid, :kill)")
        await eventually("Task.Supervisor.children(sup) == []")
        assert await world.elixir("Task.Supervisor.async(sup, :py, :cube, [2]) |> Task.await(20000)") == 8
        ran = sum(Path(path).exists() for path in paths)
        assert ran <= 4  # an executor hands over a few before their time

    arguments = [sys.executable, task_processes.__file__, "processes@127.0.0.1", world.cookie, str(world.epmd.port)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            asyncio.run(main(program))
        finally:
            program.communicate("\n", timeout=WAIT_SECONDS)
    assert program.returncode == 0


@on_a_node
async def test_children_are_started_listed_and_ended(world: World, node: Node) -> None:
    answer = await world.elixir(f"Task.Supervisor.start_child({OURS}, :py, :tell, [self(), :hello])")
    assert answer[0] is a.ok
    assert await world.elixir("receive do :hello -> :heard end") is a.heard
    await until(no_children)
    ok, pid = await world.elixir(f"Task.Supervisor.start_child({OURS}, :py, :hang, [2])")
    assert (ok, await world.elixir(f"Task.Supervisor.children({OURS})")) == (a.ok, [pid])
    counts = {a.specs: 1, a.active: 1, a.supervisors: 0, a.workers: 1}
    assert await world.elixir(f"DynamicSupervisor.count_children({OURS})") == counts
    child = (a.undefined, pid, a.worker, [Atom("Elixir.Task.Supervised")])
    assert await world.elixir(f"DynamicSupervisor.which_children({OURS})") == [child]
    await marked(("began", 2))
    assert await world.elixir(f"Task.Supervisor.terminate_child({OURS}, pid)", pid=pid) is a.ok
    assert ("cancelled", 2) in task_functions.marks
    assert await world.elixir(f"Task.Supervisor.terminate_child({OURS}, pid)", pid=pid) == (a.error, a.not_found)


@on_a_node
async def test_children_are_restarted(world: World, node: Node) -> None:
    source = f"""
    {{:ok, _}} = Task.Supervisor.start_child({OURS}, :py, :count_and_crash, [self(), "a", 2], restart: :transient)
    for _ <- 1..3, do: (receive do {{:ran, n}} -> n after 5000 -> :nothing end)
    """
    assert await world.elixir(source) == [1, 2, 3]


@on_a_node
async def test_max_children(world: World, node: Node) -> None:
    pid = await TaskSupervisor.start_link(name="small", max_children=1)
    small = '{:small, :"py@127.0.0.1"}'
    await world.elixir(f"task = Task.Supervisor.async_nolink({small}, :py, :hang, [])")
    with pytest.raises(EvalError, match="reached the maximum number of tasks"):
        await world.elixir(f"Task.Supervisor.async({small}, :py, :add, [1, 2])")
    assert await world.elixir(f"Task.Supervisor.start_child({small}, :py, :add, [1, 2])") == (a.error, a.max_children)
    with pytest.raises(EvalError, match="reached the maximum number of tasks"):
        await world.elixir(f"Task.Supervisor.async_stream({small}, 1..3, :py, :double, []) |> Enum.to_list()")
    assert await world.elixir("Task.shutdown(task)") is None
    await GenServer.stop(pid)


@on_a_node
async def test_streams(world: World, node: Node) -> None:
    async def stream(source: str) -> Any:
        return await world.elixir(f"Task.Supervisor.{source} |> Enum.to_list()")

    doubled = [(a.ok, 2 * n) for n in range(1, 31)]
    assert await stream(f"async_stream({OURS}, 1..30, :py, :double, [], max_concurrency: 7)") == doubled
    unordered = await stream(f"async_stream({OURS}, 1..30, :py, :double, [], ordered: false)")
    assert sorted(value for _, value in unordered) == [2 * n for n in range(1, 31)]
    first, second, third = await stream(f"async_stream_nolink({OURS}, 1..3, :py, :boom_on_two, [])")
    assert (first, second[0], second[1][0], third) == ((a.ok, 1), a.exit, (a.ValueError, b"two"), (a.ok, 3))
    options = "on_timeout: :kill_task, timeout: 100, zip_input_on_exit: true"
    assert await stream(f"async_stream({OURS}, [7], :py, :hang, [], {options})") == [(a.exit, (7, a.timeout))]
    await marked(("cancelled", 7))
    assert await world.elixir(f"Task.Supervisor.async_stream({OURS}, 1..9, :py, :add, [1]) |> Enum.take(2)") == [
        (a.ok, 2),
        (a.ok, 3),
    ]


@on_a_node
async def test_a_task_knows_its_callers_and_gets_messages(world: World, node: Node) -> None:
    _, dictionary = await world.elixir(
        f'Process.put(:"$callers", [:before]); Task.Supervisor.async({OURS}, :py, :who, []) |> Task.await()'
    )
    caller = await world.elixir('Process.delete(:"$callers"); self()')
    assert dictionary[Atom("$callers")] == [caller, a.before]
    assert dictionary[Atom("$ancestors")][0] is a.tasks
    assert dictionary[Atom("$initial_call")] == (a.py, a.who, 0)
    source = f"task = Task.Supervisor.async({OURS}, :py, :echo, []); send(task.pid, {{:hi, 1}}); Task.await(task)"
    assert await world.elixir(source) == (a.hi, 1)


@on_a_node
async def test_what_makes_no_sense_is_refused_and_harms_nothing(world: World, node: Node) -> None:
    bad = [
        "{:start_task, [], nil, nil}",
        "{:start_task, [1, 2, 3], nil, nil}",
        "{:start_task, [{node(), self(), self()}, [], {:py, :add}], nil, nil}",
        "{:start_task, [{node(), self(), self()}, :monitor], :often, nil}",
        "{:start_task, [{node(), self(), self()}, :monitor], nil, -1}",
        "{:start_child, 1}",
        ":nothing",
    ]
    for request in bad:
        assert (await world.elixir(f"GenServer.call({OURS}, {request})"))[0] is a.error
    await world.elixir(f"GenServer.cast({OURS}, :nothing); send({OURS}, :nothing)")
    source = f"""
    {{:ok, pid}} = GenServer.call({OURS}, {{:start_task, [{{node(), self(), self()}}, :monitor], nil, nil}})
    ref = Process.monitor(pid)
    send(pid, {{self(), :tag, :nowhere, [], {{:py, :add, [1, 2]}}}})
    receive do {{:DOWN, ^ref, _, _, reason}} -> reason end
    """
    assert await world.elixir(source) == (a.badarg, (a.reply_to, a.nowhere))
    assert await world.elixir(f"Task.Supervisor.async({OURS}, :py, :add, [1, 2]) |> Task.await()") == 3


@on_a_node
async def test_a_caller_that_never_says_what_to_run(world: World, node: Node) -> None:
    source = f"""
    owner = spawn(fn -> receive do :stop -> :ok end end)
    {{:ok, pid}} = GenServer.call({OURS}, {{:start_task, [{{node(), owner, owner}}, :monitor], nil, nil}})
    ref = Process.monitor(pid)
    send(owner, :stop)
    receive do {{:DOWN, ^ref, _, _, reason}} -> reason end
    """
    word, reason = await world.elixir(source)
    assert word is a.shutdown
    assert reason in (a.normal, a.noproc)  # it may have been gone before it was watched


def test_the_policy_is_asked_who_really_asks(world: World) -> None:
    """Whatever the message says of its owner."""
    asked: list[Asked] = []

    def policy(call: Asked) -> str:
        asked.append(call)
        return "exposed" if call.function is a.add else "nothing"

    async def main() -> None:
        async with world.node(policy=policy) as node:
            node.expose(task_functions, module="py")
            pid = await TaskSupervisor.start_link(name="tasks")
            source = f"""
            Task.Supervisor.start_child({OURS}, :py, :add, [1, 2])
            args = [{{node(owner), owner, owner}}, :nomonitor]
            {{:ok, pid}} = GenServer.call({OURS}, {{:start_task, args, nil, nil}})
            send(pid, {{owner, :tag, self(), [], {{:py, :add, [3, 4]}}}})
            seven = receive do {{:tag, seven}} -> seven end
            {{seven, Task.Supervisor.async_nolink({OURS}, :py, :double, [1]) |> Task.yield()}}
            """
            seven, refused = await world.elixir(source, owner=pid)
            assert seven == 7
            assert refused == (a.exit, (a.undef, [(a.py, a.double, [1], [])]))
            assert {call.node for call in asked} == {world.name}
            assert len(asked) == 3

    asyncio.run(main())


@on_a_node
async def test_a_thousand_at_a_time(world: World, node: Node) -> None:
    pid = await TaskSupervisor.start_link()
    source = """
    tasks = for n <- 1..1000, do: Task.Supervisor.async(sup, :py, :slow, [n, 0.3])
    {Task.await_many(tasks, 20000) == Enum.to_list(1..1000),
     Task.Supervisor.async_stream(sup, 1..1000, :py, :slow, [0.1], max_concurrency: 1000) |> Enum.count()}
    """
    assert await world.elixir(source, sup=pid) == (True, 1000)
    tasks = [await TaskSupervisor.async_(world.theirs, "Elixir.Function", "identity", [n]) for n in range(1000)]
    assert await Task.await_many(tasks, 20) == list(range(1000))
    await GenServer.stop(pid)
