"""Task.Supervisor: Elixir of OTP 25, 27 and 29 on ours, and we on Elixir's."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import task_functions
import task_processes

from beamnode import (
    Atom,
    CallFailed,
    EncodeError,
    Epmd,
    GenServer,
    Node,
    ProcessExit,
    a,
    process_info,
    receive,
    self,
    spawn,
    trap_exit,
)
from beamnode import exit as exit_
from beamnode.node import Asked, current_body
from beamnode.otp.supervisor import SupervisorError
from beamnode.otp.task import Task, TaskFailed
from beamnode.otp.task_supervisor import TaskSupervisor
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, EvalError, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PY = Atom("py@127.0.0.1")
OURS = '{:tasks, :"py@127.0.0.1"}'
WAIT_SECONDS = 20.0


class World:
    """One real node with Elixir, and its epmd, for a release; it has a Task.Supervisor named `theirs`."""

    def __init__(self, otp: Otp) -> None:
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(
                otp, "peer@127.0.0.1", cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir"
            )
            self.peer.eval("logger:set_primary_config(level, none)")
            self.peer.elixir(
                "for {name, max} <- [theirs: :infinity, two: 2], do: "
                "({:ok, sup} = Task.Supervisor.start_link(name: name, max_children: max); Process.unlink(sup)); :ok"
            )
        except BaseException:
            self.epmd.stop()
            raise
        self.name = Atom(self.peer.name)
        self.theirs = ("theirs", self.name)

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()

    def node(self, name: Any = PY, **options: Any) -> Node:
        return Node(name, cookie=self.cookie, discovery=Epmd(self.epmd.port), **options)

    async def elixir(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.elixir, source, WAIT_SECONDS, **bindings)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


def on_a_node(test: Callable[[World, Node], Awaitable[None]]) -> Callable[[World], None]:
    """The test is the body of a node that exposes `task_functions` as `:py`, with the supervisor `tasks`.

    At its end no task is left, nor another process, a task of asyncio, a monitor, or a message.
    """

    def run(world: World) -> None:
        async def main() -> None:
            async with world.node() as node:
                node.expose(task_functions, module="py")
                task_functions.marks.clear()
                supervisor = await TaskSupervisor.start_link(name="tasks", max_children=50)
                assert await node.connect(world.name)
                before = there_is()
                await test(world, node)
                await until(no_children)
                await until(nothing_but(before), lambda: there_is() ^ before)
                info = process_info() or {}
                assert (info["monitors"], info["message_queue_len"], info["links"]) == ([], 0, [supervisor])

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def there_is() -> set[Any]:
    processes = current_body().runtime.signals.processes()
    return {process.pid for process in processes} | asyncio.all_tasks()


def nothing_but(before: set[Any]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return there_is() <= before

    return holds


async def no_children() -> bool:
    return await TaskSupervisor.children("tasks") == []


async def until(predicate: Callable[[], Awaitable[object]], what: Any = "it did not happen") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await predicate():
        assert time.monotonic() < deadline, what() if callable(what) else what
        await asyncio.sleep(0.01)


async def marked(mark: Any) -> None:
    async def there() -> bool:
        return mark in task_functions.marks

    await until(there, mark)


# --- Elixir on ours ---------------------------------------------------------------------------------------------------


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


# --- Ours on Elixir's -------------------------------------------------------------------------------------------------


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


async def children_of(world: World, count: int) -> bool:
    return len(await TaskSupervisor.children(world.theirs)) == count


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
