"""Elixir's own Registry, of three releases, and ours do the same: the same operations, drawn at random, on both."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import Atom, FixedPort, Node, Pid, a, exit, monitor, receive, register, self, send, spawn
from beamnode.carriers.memory import MemoryNetwork
from beamnode.etf import decode, encode
from beamnode.otp.registry import AlreadyRegistered, Registry
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

KEYS = [1, 1.0, True, "1", Atom("1"), Atom("_"), None, (1, "a"), (True, "a"), (1.0, "a"), [1], [True], {"k": 1.0}]
MEMBERS = 4
STEPS = 300

THEIRS = """
Task.await(Task.async(fn ->
Process.register(self(), :listener)
{:ok, _} = Registry.start_link(keys: kind, name: :reg, listeners: [:listener])
loop = fn loop -> receive do {from, ref, fun} -> send(from, {ref, fun.()}); loop.(loop) end end
ask = fn pid, fun ->
  ref = make_ref()
  send(pid, {self(), ref, fun})
  receive do {^ref, answer} -> answer end
end
told = fn told, found, label ->
  receive do
    {:register, :reg, key, pid, value} -> told.(told, [{:register, key, label.(pid), value} | found], label)
    {:unregister, :reg, key, pid} -> told.(told, [{:unregister, key, label.(pid)} | found], label)
  after 0 -> Enum.reverse(found)
  end
end
start = fn {members, count}, place -> {Map.put(members, place, {spawn(fn -> loop.(loop) end), count}), count + 1} end
state = Enum.reduce(0..(places - 1), {%{}, 0}, fn place, state -> start.(state, place) end)
step = fn {operation, place, key, value}, {members, count} ->
  {pid, _} = members[place]
  label = fn pid -> Enum.find_value(members, fn {_, {known, number}} -> known == pid && number end) end
  {answer, state} = case operation do
    :register ->
      case ask.(pid, fn -> Registry.register(:reg, key, value) end) do
        {:ok, _} -> {:ok, {members, count}}
        {:error, {:already_registered, holder}} -> {{:taken, label.(holder)}, {members, count}}
      end
    :unregister -> {ask.(pid, fn -> Registry.unregister(:reg, key) end), {members, count}}
    :match ->
      {ask.(pid, fn -> Registry.unregister_match(:reg, key, :"$1", [{:<, :"$1", value}]) end), {members, count}}
    :update -> {ask.(pid, fn -> Registry.update_value(:reg, key, & &1 + 10) end), {members, count}}
    :end ->
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do {:DOWN, ^ref, _, _, _} -> :ok end
      :ok = GenServer.call(Module.concat(:reg, "PIDPartition0"), :sync)
      {:ok, start.({members, count}, place)}
  end
  {now, _} = state
  {pid, _} = now[place]
  shown = for {pid, value} <- Registry.lookup(:reg, key) do
    {Enum.find_value(now, fn {_, {known, number}} -> known == pid && number end), value}
  end
  seen = {answer, shown, Registry.count(:reg), Registry.keys(:reg, pid), Registry.values(:reg, key, pid),
    length(Registry.match(:reg, key, :"$1", [{:>, :"$1", value}])), told.(told, [], label)}
  {seen, state}
end
{seen, {members, _}} = Enum.map_reduce(steps, state, step)
for {_, {pid, _}} <- members, do: Process.exit(pid, :kill)
Process.unregister(:listener)
Supervisor.stop(:reg)
seen
end), 60_000)
"""


class World:
    def __init__(self, otp: Otp) -> None:
        cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(otp, "peer@127.0.0.1", cookie=cookie, epmd_port=self.epmd.port, boot="elixir")
        except BaseException:
            self.epmd.stop()
            raise

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


Step = tuple[Atom, int, Any, int]


def drawn(seed: int, kind: str) -> list[Step]:
    rng = random.Random(seed)
    operations, weights = [a.register, a.unregister, a.match, a.end], [12, 3, 3, 2]
    if kind == "unique":
        operations, weights = [*operations, a.update], [*weights, 3]
    return [
        (rng.choices(operations, weights)[0], rng.randrange(MEMBERS), rng.choice(KEYS), rng.randrange(5))
        for _ in range(STEPS)
    ]


class Ours:
    """The same in Python."""

    def __init__(self) -> None:
        self.count = 0
        self.numbers: dict[Pid, int] = {}
        self.members: dict[int, Pid] = {}
        for place in range(MEMBERS):
            self.start(place)

    def start(self, place: int) -> None:
        self.members[place] = spawn(self._member)
        self.numbers[self.members[place]] = self.count
        self.count += 1

    async def _member(self) -> None:
        while True:
            action, outcome = await receive()
            try:
                outcome.set_result(action())
            except AlreadyRegistered as error:
                outcome.set_result((a.taken, self.numbers[error.pid]))

    async def ask(self, place: int, action: Any) -> Any:
        outcome = asyncio.get_running_loop().create_future()
        send(self.members[place], (action, outcome))
        return await outcome

    async def step(self, operation: Atom, place: int, key: Any, value: int) -> Any:
        match operation:
            case a.register:
                answer = await self.ask(place, lambda: Registry.register("reg", key, value))
                answer = answer if isinstance(answer, tuple) else a.ok
            case a.unregister:
                await self.ask(place, lambda: Registry.unregister("reg", key))
                answer = a.ok
            case a.match:
                await self.ask(place, lambda: Registry.unregister_match("reg", key, lambda found: found < value))
                answer = a.ok
            case a.update:
                answer = await self.ask(place, lambda: Registry.update_value("reg", key, lambda found: found + 10))
                answer = a.error if answer is None else answer
            case _:
                reference = monitor(self.members[place])
                exit(self.members[place], a.kill)
                await receive(lambda message: message[:2] == (a.DOWN, reference))
                self.start(place)
                answer = a.ok
        pid = self.members[place]
        return (
            answer,
            [(self.numbers[holder], found) for holder, found in Registry.lookup("reg", key)],
            Registry.count("reg"),
            Registry.keys("reg", pid),
            Registry.values("reg", key, pid),
            Registry.count_match("reg", key, lambda found: found > value),
            await self.told(),
        )

    async def told(self) -> list[Any]:
        found = []
        while True:
            try:
                message = await receive(timeout=0)
            except TimeoutError:
                return found
            label, _, key, pid, *value = message
            found.append((label, key, self.numbers[pid], *value))


async def ours(kind: Any, steps: list[Step]) -> list[Any]:
    carrier = MemoryNetwork().carrier("h")
    async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
        register("listener", self())
        await Registry.start_link(keys=kind, name="reg", listeners=["listener"])
        here = Ours()
        return [await here.step(*step) for step in steps]


def in_any_order(seen: Any) -> Any:
    """A step as a term of the wire; what Elixir gives in no particular order is sorted."""
    answer, shown, count, keys, values, matching, told = decode(encode(seen))
    return answer, sorted(shown), count, sorted(map(repr, keys)), sorted(values), matching, told


@pytest.mark.parametrize("kind", ["unique", "duplicate"])
@pytest.mark.parametrize("seed", range(3))
def test_elixirs_does_the_same(world: World, seed: int, kind: str) -> None:
    steps = drawn(seed, kind)
    theirs = world.peer.elixir(THEIRS, 60, kind=Atom(kind), places=MEMBERS, steps=steps)
    for number, (step, here, there) in enumerate(zip(steps, asyncio.run(ours(kind, steps)), theirs, strict=True)):
        assert in_any_order(here) == in_any_order(there), f"seed {seed}, step {number}: {step}"
