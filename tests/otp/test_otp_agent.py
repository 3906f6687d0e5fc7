"""Agents of ours and real ones: Elixir of three releases uses an agent here, and we use one there."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import agent_functions as functions
import pytest

from beamnode import (
    Atom,
    CallFailed,
    Epmd,
    Export,
    Fun,
    GenServer,
    Node,
    Pid,
    a,
    monitor,
    process_info,
    receive,
    trap_exit,
)
from beamnode.otp import sys
from beamnode.otp.agent import Agent
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PY = Atom("py@127.0.0.1")
AGENT = '{:agent, :"py@127.0.0.1"}'
MODULE = Atom("agent_functions")
AGENT_LOGGER = logging.getLogger("beamnode.agent").name


class World:
    """One real node with Elixir, and its epmd, for a release."""

    def __init__(self, otp: Otp) -> None:
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(
                otp, "peer@127.0.0.1", cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir"
            )
            self.peer.eval("logger:set_primary_config(level, none)")
        except BaseException:
            self.epmd.stop()
            raise

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()

    def node(self) -> Node:
        return Node(PY, cookie=self.cookie, discovery=Epmd(self.epmd.port))

    async def elixir(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.elixir, source, 30, **bindings)

    async def failure(self, call: str, **bindings: Any) -> tuple[str, int]:
        """What a call exits with, as Elixir shows it to who sees it, and how many messages it left behind."""
        text, left = await self.elixir(
            f"""
            try do
              {call}
            catch
              :exit, reason ->
                {{Exception.format_exit(reason), Process.info(self(), :message_queue_len) |> elem(1)}}
            end
            """,
            **bindings,
        )
        return text.decode(), left


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


async def value(agent: Any) -> Any:
    return await Agent.get(agent, lambda state: state)


def test_elixir_uses_an_agent_of_ours(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            node.expose(functions)
            pid = await Agent.start(lambda: 1, name="agent")
            for agent in (AGENT, "pid"):
                assert await world.elixir(f"Agent.get({agent}, :agent_functions, :plus, [1, 2])", pid=pid) == 4
                assert await world.elixir(f"Agent.update({agent}, :agent_functions, :plus, [1, 2])", pid=pid) is a.ok
                assert await world.elixir(f"Agent.update({agent}, :agent_functions, :times, [2], 1000)", pid=pid)
                assert await world.elixir(f"Agent.get_and_update({agent}, :agent_functions, :swap, [0])", pid=pid) == 8
                assert await world.elixir(f"Agent.cast({agent}, :agent_functions, :plus, [1])", pid=pid) is a.ok
                assert await world.elixir(f"Agent.get({agent}, &:agent_functions.whole/1)", pid=pid) == 1
            assert await world.elixir("Agent.get(pid, :agent_functions, :pid, [])", pid=pid) == pid
            assert await world.elixir(":sys.get_state(pid)", pid=pid) == 1
            assert await world.elixir(f"Agent.stop({AGENT}, :shutdown)") is a.ok
            assert GenServer.whereis("agent") is None
            text, left = await world.failure(f"Agent.get({AGENT}, :agent_functions, :whole, [])")
            assert "no process" in text
            assert left == 0

    asyncio.run(main())


def test_a_crash_is_the_callers_to_see(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node() as node:
            node.expose(functions)
            pid = await Agent.start(lambda: 1, name="agent")
            reference = monitor(pid)
            text, left = await world.failure(f'Agent.get({AGENT}, :agent_functions, :fail, ["grün"])')
            assert "ValueError" in text
            assert "grün" in text
            assert left == 0
            assert (await receive(timeout=5))[:2] == (a.DOWN, reference)
            pid = await Agent.start(lambda: 1, name="agent")
            text, left = await world.failure(f"Agent.get_and_update({AGENT}, :agent_functions, :whole, [])")
            assert "bad return value: 1" in text

    asyncio.run(main())


def test_what_is_refused_is_told_to_the_caller_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node() as node:
            pid = await Agent.start(lambda: 1, name="agent")
            node.expose(functions.whole)
            for call in ("get", "update", "get_and_update"):
                text, left = await world.failure(f"Agent.{call}({AGENT}, fn state -> state + 1 end)")
                assert "an anonymous function of Elixir or Erlang cannot run in a Python process" in text
                text, left = await world.failure(f"Agent.{call}({AGENT}, :agent_functions, :hidden, [])")
                assert ":agent_functions.hidden/1" in text
                assert "undef" in text
                assert left == 0
            text, _ = await world.failure(f"GenServer.call({AGENT}, :hello)")
            assert "is no call of an Agent" in text
            text, _ = await world.failure(f"Agent.get({AGENT}, Enum, :sum, [[1]])")
            assert "Enum.sum/2" in text
            await world.elixir(f"Agent.cast({AGENT}, fn state -> state + 1 end)")
            await world.elixir(f"GenServer.cast({AGENT}, :hello)")
            await world.elixir(f"Agent.cast({AGENT}, :agent_functions, :hidden, [])")
            # The agent goes on, and who was refused is told nothing when it ends.
            survivor = """
            me = self()
            asker = spawn(fn ->
              refused = try do Agent.get(agent, & &1) catch :exit, _ -> :refused end
              kept = Agent.get(agent, :agent_functions, :whole, [])
              send(me, {refused, kept})
              receive do message -> send(me, message) after 300 -> send(me, :nothing) end
            end)
            answer = receive do answer -> answer after 5000 -> :timeout end
            Agent.stop(agent)
            {answer, (receive do answer -> answer after 5000 -> :timeout end)}
            """
            assert await world.elixir(survivor, agent=pid) == ((a.refused, 1), a.nothing)

    asyncio.run(main())
    assert caplog.text.count("an anonymous function of Elixir") == 5


def test_a_state_without_a_term_is_no_reason_to_lose_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node() as node:
            node.expose(functions)
            lock = threading.Lock()
            await Agent.start(lambda: lock, name="agent")
            for call, function in (("get", ":whole, []"), ("get_and_update", ":swap, [1]")):
                text, left = await world.failure(f"Agent.{call}({AGENT}, :agent_functions, {function})")
                assert "cannot be sent" in text
                assert left == 0
            assert await value("agent") is lock
            assert await world.elixir(f"Agent.update({AGENT}, :agent_functions, :number, [])") is a.ok
            assert await value("agent") == 5

    asyncio.run(main())


def test_we_use_an_agent_of_elixir(world: World) -> None:
    async def main() -> None:
        async with world.node():
            trap_exit()
            pid = await world.elixir("{:ok, pid} = Agent.start(fn -> 1 end, name: :theirs); pid")
            assert isinstance(pid, Pid)
            for agent in (pid, ("theirs", pid.node)):
                await Agent.update(agent, "Elixir.Kernel", "+", [2])
                assert await Agent.get(agent, "Elixir.Kernel", "*", [10]) in (30, 50)
                Agent.cast(agent, a.erlang, a["-"], [0])
            assert await Agent.get(pid, Export(Atom("Elixir.Kernel"), a["-"], 1)) == -5
            double: Any = await world.elixir("fn state -> state * 2 end")
            pair: Any = await world.elixir("fn state -> {state, [state]} end")
            assert isinstance(double, Fun)
            await Agent.update(pid, double)
            assert await Agent.get_and_update(pid, pair) == 10
            assert await sys.get_state(pid) == [10]
            with pytest.raises(CallFailed) as failed:
                await Agent.get(pid, "Elixir.Kernel", "hd", ["too many"])
            assert failed.value.cause[0] is a.undef
            with pytest.raises(CallFailed) as failed:
                await Agent.get(pid, "Elixir.Kernel", "hd", [])
            assert failed.value.cause is a.noproc
            pid = await world.elixir("{:ok, pid} = Agent.start(fn -> 1 end); pid")
            await Agent.stop(pid)
            info = process_info()
            assert info is not None
            assert (info["monitors"], info["message_queue_len"]) == ([], 0)

    asyncio.run(main())
