"""What people do in Elixir with a Python node: erpc, tasks, exceptions, timeouts, linked spawns."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import rpc_functions
from rpc_support import RpcWorld, until

from beamnode import Node, RemoteError, RemoteExit, RemoteThrow, a
from beamnode.testing.peers import EvalError, Otp

pytestmark = pytest.mark.otp

FILE = Path(rpc_functions.__file__)
BOOM_LINE = 1 + next(i for i, line in enumerate(FILE.read_text().splitlines()) if "raise ValueError" in line)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[RpcWorld]:
    with RpcWorld(otp) as world:
        yield world


def on_a_node(test: Callable[[RpcWorld, Node], Awaitable[None]]) -> Callable[[RpcWorld], None]:
    """The test is the body of a node that exposes `rpc_functions` as `:py`."""

    def run(world: RpcWorld) -> None:
        async def main() -> None:
            async with world.node() as node:
                node.expose(rpc_functions, module="py")
                rpc_functions.marks.clear()
                await test(world, node)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_a_node
async def test_multicall_over_python_and_beam(world: RpcWorld, node: Node) -> None:
    async with world.node() as other:
        for one in (node, other):
            one.expose(math.sqrt, module="math", name="sqrt")
        source = ":erpc.multicall([one, two, node()], :math, :sqrt, [4], 5000)"
        assert await world.elixir(source, one=node.name, two=other.name) == [(a.ok, 2.0)] * 3


@on_a_node
async def test_a_task(world: RpcWorld, node: Node) -> None:
    source = """
    tasks = for n <- 1..5, do: Task.async(fn -> :erpc.call(py, :py, :add, [n, n]) end)
    Task.await_many(tasks, 5000)
    """
    assert await world.elixir(source, py=node.name) == [2, 4, 6, 8, 10]
    assert await world.elixir("Task.await(Task.async(:erpc, :call, [py, :py, :sqrt, [4]]))", py=node.name) == 2.0


@on_a_node
async def test_an_exception_shows_where_in_python(world: RpcWorld, node: Node) -> None:
    source = """
    try do
      :erpc.call(py, :py, :boom_async, [4])
    rescue
      error -> Exception.format(:error, error, __STACKTRACE__)
    end
    """
    text = (await world.elixir(source, py=node.name)).decode()
    assert text.startswith('** (ErlangError) Erlang error: {:exception, {:ValueError, "no 4"}'), text
    assert f"file: '{FILE}', line: {BOOM_LINE}" in text or f'file: ~c"{FILE}", line: {BOOM_LINE}' in text
    stack = """
    try do
      :erpc.call(py, :py, :boom_async, [4])
    catch
      :error, {:exception, _reason, stack} -> Exception.format_stacktrace(stack)
    end
    """
    text = (await world.elixir(stack, py=node.name)).decode()
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].partition(": ")[0] == f"{FILE}:{BOOM_LINE}"
    assert ":rpc_functions.boom" in lines[0]
    assert ":rpc_functions.boom_async" in lines[1]
    with pytest.raises(EvalError, match="ValueError"):
        await world.elixir(":erpc.call(py, :py, :boom, [4])", py=node.name)
    badrpc = "{:badrpc, {:EXIT, {{:ValueError, text}, [_ | _]}}} = :rpc.call(py, :py, :boom, [4]); text"
    assert await world.elixir(badrpc, py=node.name) == b"no 4"


@on_a_node
async def test_a_timeout_cancels(world: RpcWorld, node: Node) -> None:
    source = """
    try do
      :erpc.call(py, :py, :sleep, [30], 100)
    rescue
      error in ErlangError -> error.original
    end
    """
    assert await world.elixir(source, py=node.name) == (a.erpc, a.timeout)
    await until(lambda: rpc_functions.marks == ["cancelled"])
    rpc_functions.marks.clear()
    shutdown = "t = Task.async(fn -> :erpc.call(py, :py, :sleep, [30]) end); Task.yield(t, 100) || Task.shutdown(t)"
    assert await world.elixir(shutdown, py=node.name) is None
    await until(lambda: rpc_functions.marks == ["cancelled"])


@on_a_node
async def test_not_exposed(world: RpcWorld, node: Node) -> None:
    source = """
    try do
      :erpc.call(py, System, :halt, [1])
    rescue
      error -> Exception.message(error)
    end
    """
    text = (await world.elixir(source, py=node.name)).decode()
    assert ":undef" in text
    assert "{System, :halt, [1], []}" in text


@on_a_node
async def test_a_linked_spawn_that_crashes(world: RpcWorld, node: Node) -> None:
    source = """
    Process.flag(:trap_exit, true)
    pid = Node.spawn_link(py, :py, :boom, [:link])
    reason = receive do {:EXIT, ^pid, reason} -> reason after 5000 -> :nothing end
    Process.flag(:trap_exit, false)
    {node(pid), reason}
    """
    where, ((kind, text), [frame, *_]) = await world.elixir(source, py=node.name)
    assert (where, kind, text) == (node.name, a.ValueError, b"no link")
    assert frame[:2] == (a.rpc_functions, a.boom)
    source = """
    {pid, ref} = Node.spawn_monitor(py, :py, :leave, [:over])
    receive do {:DOWN, ^ref, :process, ^pid, reason} -> reason after 5000 -> :nothing end
    """
    assert await world.elixir(source, py=node.name) is a.over


@on_a_node
async def test_names_of_elixir(world: RpcWorld, node: Node) -> None:
    node.expose(rpc_functions, module="Elixir.Py.Functions")
    assert await world.elixir(":erpc.call(py, Py.Functions, :add, [1, 2])", py=node.name) == 3


@on_a_node
async def test_python_calls_elixir(world: RpcWorld, node: Node) -> None:
    there = node.remote(world.name)
    assert await there.Elixir.Enum.sum([1, 2, 3]) == 6
    assert await there.Elixir.String.upcase("élan") == "ÉLAN".encode()
    module = """
    defmodule Failing do
      def raises, do: raise(ArgumentError, "not like this")
      def raises_key, do: Map.fetch!(%{a: 1}, :b)
      def throws, do: throw({:ball, 1})
      def exits, do: exit(:over)
      def clause(1), do: 1
    end
    """
    await world.elixir(module)
    with pytest.raises(
        RemoteError, match=r"Failing.raises/0 on b@127.0.0.1 raised ArgumentError: not like this\n"
    ) as got:
        await there.Elixir.Failing.raises()
    assert "at Failing.raises/0" in str(got.value)
    assert got.value.reason[a.message] == b"not like this"
    with pytest.raises(RemoteThrow) as thrown:
        await there.Elixir.Failing.throws()
    assert thrown.value.reason == (a.ball, 1)
    with pytest.raises(RemoteExit, match=r"Failing.exits/0 on b@127.0.0.1 exited: over"):
        await there.Elixir.Failing.exits()
    with pytest.raises(RemoteError, match=r"Failing.clause/1 on b@127.0.0.1 raised function_clause"):
        await there.Elixir.Failing.clause(2)
    with pytest.raises(RemoteError, match=r"undef: there is no Failing.nothing/0"):
        await there.Elixir.Failing.nothing()
    with pytest.raises(RemoteError):
        await there.Elixir.Failing.raises_key()
