"""What Elixir sees of a task under our supervisor is what it sees of one under its own: the same code is run on both.

OTP 25, 27 and 29. Left out of the comparison: stacks, and which pids and references they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import task_functions
from task_world import PY, World

from beamnode import Atom, Pid, Reference, a
from beamnode.otp.supervisor import SupervisorError
from beamnode.otp.task_supervisor import TaskSupervisor
from beamnode.testing.peers import Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

# The functions of task_functions that are used here, in Elixir.
THEIRS = """
defmodule :py do
  def add(a, b), do: a + b
  def double(n), do: n * 2
  def now(), do: :now
  def slow(n, seconds \\\\ 0.01), do: (Process.sleep(round(seconds * 1000)); n)
  def hang(_ \\\\ nil), do: Process.sleep(:infinity)
  def leave(reason), do: exit(reason)
  def leave_on_two(n), do: if(n == 2, do: exit(:two), else: n)
  def throw(value), do: Kernel.throw(value)
  def tell(pid, message), do: send(pid, message)
end
defmodule :same do
  def run(body, sup) do
    own = self()
    {pid, ref} = spawn_monitor(fn -> send(own, {:result, self(), body.(sup)}) end)
    receive do
      {:result, ^pid, result} -> Process.demonitor(ref, [:flush]); {:result, result}
      {:DOWN, ^ref, _, _, reason} -> {:ended, reason}
    after 10000 -> :nothing
    end
  end
  def messages(n), do: for(_ <- 1..n, do: (receive do m -> m after 5000 -> :no_message end))
  def ended(task) do
    ref = Process.monitor(task.pid)
    receive do {:DOWN, ^ref, _, _, _} -> task end
  end
  def caught(fun) do
    fun.()
  catch
    kind, reason -> {kind, reason}
  end
end
:ok
"""

REASONS = "[:normal, :shutdown, {:shutdown, 1}, :killed, :why, {:because, 1}]"
NOLINK = "Task.Supervisor.async_nolink"
LINK = "Task.Supervisor.async"

SAME = {
    "await": f"{LINK}(sup, :py, :add, [1, 2]) |> Task.await()",
    "captured": f"{LINK}(sup, &:py.now/0) |> Task.await()",
    "messages": f"{NOLINK}(sup, :py, :add, [1, 2]); :same.messages(2)",
    "messages_of_a_crash": f"{NOLINK}(sup, :py, :leave, [:why]); :same.messages(1)",
    "messages_where_trapped": f"Process.flag(:trap_exit, true); {LINK}(sup, :py, :add, [1, 2]); :same.messages(3)",
    "messages_of_a_trapped_crash": f"""
        Process.flag(:trap_exit, true); {LINK}(sup, :py, :leave, [:why]); :same.messages(2)
    """,
    "yield_of_exits": f"for r <- {REASONS}, do: {NOLINK}(sup, :py, :leave, [r]) |> Task.yield()",
    "await_of_exits": f"""
        for r <- {REASONS}, do: :same.caught(fn -> {NOLINK}(sup, :py, :leave, [r]) |> Task.await() end)
    """,
    "crash_of_a_linked": f"{LINK}(sup, :py, :leave, [:why]); Process.sleep(5000)",
    "yield_of_a_throw": f"{NOLINK}(sup, :py, :throw, [:ball]) |> Task.yield()",
    "undefined": f"{NOLINK}(sup, :py, :nothing, [1]) |> Task.yield()",
    "yield_then_shutdown": f"t = {LINK}(sup, :py, :hang, []); {{Task.yield(t, 10), Task.shutdown(t)}}",
    "brutal_shutdown": f"t = {LINK}(sup, :py, :hang, []); Task.shutdown(t, :brutal_kill)",
    "shutdown_when_done": f"{LINK}(sup, :py, :add, [1, 2]) |> :same.ended() |> Task.shutdown()",
    "shutdown_when_crashed": f"""
        for r <- {REASONS} do
            t = {NOLINK}(sup, :py, :leave, [r]) |> :same.ended(); {{Task.shutdown(t), Task.shutdown(t, :brutal_kill)}}
        end
    """,
    "await_in_vain": f"t = {NOLINK}(sup, :py, :hang, []); :same.caught(fn -> Task.await(t, 10) end)",
    "await_many": f"for(n <- 1..9, do: {LINK}(sup, :py, :add, [n, n])) |> Task.await_many()",
    "await_many_of_a_crash": f"""
        tasks = [{NOLINK}(sup, :py, :leave, [:why]), {NOLINK}(sup, :py, :hang, [])]
        :same.caught(fn -> Task.await_many(tasks) end)
    """,
    "yield_many": f"""
        [{NOLINK}(sup, :py, :leave, [:why]), {NOLINK}(sup, :py, :hang, []), {NOLINK}(sup, :py, :add, [1, 2])]
        |> Task.yield_many(300)
    """,
    "ignore": f"""
        t = {LINK}(sup, :py, :add, [1, 2]) |> :same.ended()
        {{Task.ignore(t), Task.ignore({LINK}(sup, :py, :slow, [1]))}}
    """,
    "owner": f"""
        t = {LINK}(sup, :py, :slow, [1]); own = self()
        spawn(fn -> send(own, :same.caught(fn -> Task.await(t) end)) end)
        :same.messages(2) |> Enum.map(&is_tuple/1)
    """,
    "stream": "Task.Supervisor.async_stream(sup, 1..20, :py, :double, [], max_concurrency: 3) |> Enum.to_list()",
    "stream_with_arguments": "Task.Supervisor.async_stream(sup, 1..3, :py, :add, [10]) |> Enum.to_list()",
    "stream_taken_from": "Task.Supervisor.async_stream(sup, 1..20, :py, :double, []) |> Enum.take(3)",
    "stream_of_crashes": """
        Task.Supervisor.async_stream_nolink(sup, 1..3, :py, :leave_on_two, [], zip_input_on_exit: true)
        |> Enum.to_list()
    """,
    "stream_of_trapped_crashes": """
        Process.flag(:trap_exit, true)
        outcomes = Task.Supervisor.async_stream(sup, 1..3, :py, :leave_on_two, []) |> Enum.to_list()
        {outcomes, Process.info(self(), :messages)}
    """,
    "stream_of_linked_crashes": "Task.Supervisor.async_stream(sup, 1..3, :py, :leave_on_two, []) |> Enum.to_list()",
    "stream_in_vain": """
        :same.caught(fn ->
            Task.Supervisor.async_stream_nolink(sup, [1], :py, :hang, [], timeout: 20) |> Enum.to_list()
        end)
    """,
    "stream_that_kills": """
        options = [timeout: 20, on_timeout: :kill_task, ordered: false]
        Task.Supervisor.async_stream(sup, [1, 2], :py, :hang, [], options) |> Enum.to_list()
    """,
    "child": """
        {:ok, pid} = Task.Supervisor.start_child(sup, :py, :tell, [self(), :hello]); ref = Process.monitor(pid)
        [:same.messages(1), is_reference(ref)]
    """,
    "children": """
        {:ok, pid} = Task.Supervisor.start_child(sup, :py, :hang, [])
        before = {Task.Supervisor.children(sup), DynamicSupervisor.count_children(sup),
            DynamicSupervisor.which_children(sup)}
        ref = Process.monitor(pid)
        [before, Task.Supervisor.terminate_child(sup, pid), :same.messages(1), ref, Task.Supervisor.children(sup),
            Task.Supervisor.terminate_child(sup, pid)]
    """,
    "transient_child": """
        {:ok, pid} = Task.Supervisor.start_child(sup, :py, :leave, [{:shutdown, 1}], restart: :transient)
        ref = Process.monitor(pid)
        {:same.messages(1), is_reference(ref)} |> elem(1)
    """,
    "child_shutdown": """
        {:ok, pid} = Task.Supervisor.start_child(sup, :py, :hang, [], shutdown: :brutal_kill)
        ref = Process.monitor(pid)
        [Task.Supervisor.terminate_child(sup, pid), :same.messages(1), ref]
    """,
}


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    try:
        world.peer.elixir(THEIRS)
        yield world
    finally:
        world.close()


def test_the_same(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            node.expose(task_functions, module="py")
            await TaskSupervisor.start_link(name="tasks")
            assert await node.connect(world.name)
            differences = {}
            for name, body in SAME.items():
                seen = []
                for supervisor in ((Atom("theirs"), world.name), (Atom("tasks"), PY)):
                    result = await world.elixir(f":same.run(fn sup -> {body} end, where)", where=supervisor)
                    assert result is not a.nothing, name
                    seen.append(normal(result, {}))
                    for child in await TaskSupervisor.children(supervisor):  # of a body that left some
                        with contextlib.suppress(SupervisorError):  # it has ended meanwhile
                            await TaskSupervisor.terminate_child(supervisor, child)
                if seen[0] != seen[1]:
                    differences[name] = seen
            assert not differences

    asyncio.run(main())


def normal(term: Any, known: dict[Any, str]) -> Any:
    """The term, with pids and references numbered as they appear, and without stacks."""
    if isinstance(term, Pid | Reference):
        return known.setdefault(term, f"{type(term).__name__} {len(known)}")
    if isinstance(term, list):
        if term and all(isinstance(frame, tuple) and len(frame) == 4 and isinstance(frame[3], list) for frame in term):
            return "stack"
        return [normal(element, known) for element in term]
    if isinstance(term, tuple):
        return tuple(normal(element, known) for element in term)
    if isinstance(term, dict):
        return {key: normal(term[key], known) for key in sorted(term, key=repr)}
    return term
