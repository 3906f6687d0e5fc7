"""Dynamic supervisors of ours and Elixir's: each driven by the other side's functions, and both by the same steps.

Also what Elixir sees of a PartitionSupervisor of ours.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import (
    Atom,
    Epmd,
    GenServer,
    Node,
    Pid,
    ProcessExit,
    StartFailed,
    a,
    demonitor,
    exit,
    link,
    monitor,
    process_info,
    receive,
    send,
    spawn_link,
    trap_exit,
)
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.partition_supervisor import PartitionSupervisor
from beamnode.otp.supervisor import SupervisorError
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PY = Atom("py@127.0.0.1")
PEER = Atom("peer@127.0.0.1")
OURS = '{:ours, :"py@127.0.0.1"}'
KID = Atom("Elixir.Kid")
WAIT_SECONDS = 10.0
CASES = 200

KID_SOURCE = r"""
parent = self()
spawn(fn ->
  :ets.new(:kid_starts, [:public, :named_table])
  send(parent, :ready)
  Process.sleep(:infinity)
end)
receive do :ready -> :ok end

defmodule Kid do
  def start_link(extra, key, plan) do
    number = :ets.update_counter(:kid_starts, key, 1, {key, 0})
    case Enum.at(plan, number - 1, :ok) do
      :ok -> {:ok, spawn_link(fn -> live(extra) end)}
      :info -> {:ok, spawn_link(fn -> live(extra) end), extra}
      :ignore -> :ignore
      :exit -> exit({:planned, extra})
      :bad -> {:bad, extra}
      :error -> {:error, extra}
    end
  end

  defp live(extra) do
    receive do
      {:exit, reason} -> exit(reason)
      {:extra, pid} -> send(pid, extra); live(extra)
    end
  end
end
:ok
"""


class Kids:
    """The same in Python: `start_link(extra, key, plan)` does what `plan` says of its first start, its second, ..."""

    def __init__(self) -> None:
        self.starts: dict[Any, int] = {}

    async def start_link(self, extra: Any, key: Any, plan: list[Any]) -> Any:
        number = self.starts[key] = self.starts.get(key, 0) + 1
        match plan[number - 1] if number <= len(plan) else a.ok:
            case a.ok:
                return spawn_link(live, extra)
            case a.info:
                return (a.ok, spawn_link(live, extra), extra)
            case a.ignore:
                return a.ignore
            case a.exit:
                raise ProcessExit((a.planned, extra))
            case a.bad:
                return (a.bad, extra)
        return (a.error, extra)


async def live(extra: Any) -> None:
    while True:
        match await receive():
            case (a.exit, reason):
                raise ProcessExit(reason)
            case (a.extra, pid):
                send(pid, extra)


class World:
    """One real node with Elixir, and its epmd, for a release."""

    def __init__(self, otp: Otp) -> None:
        self.release = otp.release
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(otp, PEER.name, cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir")
            self.peer.eval("logger:set_primary_config(level, none)")
            self.peer.elixir(KID_SOURCE, 30)
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

    async def theirs(self, options: str) -> Pid:
        """A dynamic supervisor of the peer, which belongs to nobody."""
        source = f"{{:ok, pid}} = DynamicSupervisor.start_link({options}); Process.unlink(pid); pid"
        pid = await self.elixir(source)
        assert isinstance(pid, Pid)
        return pid


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


def kid(module: Atom, key: Any, *plan: Atom, **options: Any) -> dict[str, Any]:
    return {"id": key, "start": (module, a.start_link, [key, list(plan)]), "modules": [a.kid], **options}


async def end_of(pid: Pid) -> Any:
    reference = monitor(pid)
    return (await receive(lambda got: got[1] == reference, timeout=WAIT_SECONDS))[4]


# --- Each driven by the other's functions -----------------------------------------------------------------------------


def test_elixir_drives_ours(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            trap_exit()
            kids = Kids()
            node.expose(kids, module="kid")
            top = await DynamicSupervisor.start_link(
                name="ours", max_children=3, extra_arguments=[a.extra], max_restarts=10
            )
            spec = "%{id: :x, start: {:kid, :start_link, [:one, []]}, restart: :transient}"
            ok, first = await world.elixir(f"DynamicSupervisor.start_child({OURS}, {spec})")
            assert (ok, first.node) == (a.ok, PY)
            old = "{:x, {:kid, :start_link, [:two, [:info]]}, :permanent, :infinity, :supervisor, :dynamic}"
            ok, second, info = await world.elixir(f"DynamicSupervisor.start_child({OURS}, {old})")
            assert (ok, info) == (a.ok, a.extra)
            listed = await world.elixir(f"DynamicSupervisor.which_children({OURS})")
            expected = [(a.undefined, first, a.worker, [a.kid]), (a.undefined, second, a.supervisor, a.dynamic)]
            assert listed == expected
            counts = {a.specs: 2, a.active: 2, a.supervisors: 1, a.workers: 1}
            assert await world.elixir(f"DynamicSupervisor.count_children({OURS})") == counts
            assert await world.elixir(f"Supervisor.count_children({OURS})") == counts  # the same protocol
            await world.elixir("Process.exit(pid, :kill)", pid=first)
            await end_of(first)
            listed = await world.elixir(f"DynamicSupervisor.which_children({OURS})")
            assert kids.starts == {a.one: 2, a.two: 1}
            [first] = [pid for _, pid, kind, _ in listed if kind is a.worker]
            assert await world.elixir(f"DynamicSupervisor.terminate_child({OURS}, pid)", pid=first) is a.ok
            missing = await world.elixir(f"DynamicSupervisor.terminate_child({OURS}, pid)", pid=first)
            assert missing == (a.error, a.not_found)
            assert await world.elixir(f"DynamicSupervisor.stop({OURS}, :shutdown)") is a.ok
            assert process_info(top) is process_info(second) is None

    asyncio.run(main())


def test_what_elixir_is_told_of_starts_that_fail(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node() as node:
            node.expose(Kids(), module="kid")
            await DynamicSupervisor.start_link(name="ours", max_children=1, extra_arguments=[a.extra])

            async def start(key: str, plan: str, module: str = ":kid") -> Any:
                spec = f"%{{id: 1, start: {{{module}, :start_link, [:{key}, [{plan}]]}}}}"
                return await world.elixir(f"DynamicSupervisor.start_child({OURS}, {spec})")

            assert await start("ignores", ":ignore") is a.ignore
            assert await start("fails", ":error") == (a.error, a.extra)
            assert await start("bad", ":bad") == (a.error, (a.bad, a.extra))
            assert await start("exits", ":exit") == (a.error, (a.planned, a.extra))
            refused = await start("refused", "", ":subprocess")
            call: Any = (a.subprocess, a.start_link, [a.extra, a.refused, []], [])
            assert refused == (a.error, (a.undef, [call]))
            assert (await start("works", ""))[0] is a.ok
            assert await start("more", "") == (a.error, a.max_children)

            async def raw(child: str) -> Any:
                return await world.elixir(f"GenServer.call({OURS}, {{:start_child, {child}}})")

            mfa = "{:kid, :start_link, []}"
            assert await raw(f"{{{mfa}, :sometimes, 5000, :worker, []}}") == (
                a.error,
                (a.invalid_restart_type, a.sometimes),
            )
            assert await raw(f"{{{mfa}, :permanent, -1, :worker, []}}") == (a.error, (a.invalid_shutdown, -1))
            assert await raw("{5, :permanent, 5, :worker, []}") == (a.error, (a.invalid_mfa, 5))
            assert (await raw("5"))[0] is a.error

    asyncio.run(main())
    assert "refused subprocess:start_link/3 to peer@127.0.0.1" in caplog.text


def test_ours_drives_elixirs(world: World) -> None:
    async def main() -> None:
        async with world.node():
            top = await world.theirs("name: :theirs, max_children: 2, extra_arguments: [:extra], max_restarts: 10")
            theirs = (a.theirs, PEER)
            first = await DynamicSupervisor.start_child(theirs, kid(KID, a.drives_1))
            assert first.node is PEER
            second, info = await DynamicSupervisor.start_child(top, kid(KID, a.drives_2, a.info, type="supervisor"))
            assert info is a.extra
            with pytest.raises(SupervisorError) as full:
                await DynamicSupervisor.start_child(top, kid(KID, a.drives_3))
            assert full.value.reason is a.max_children
            assert sorted(await DynamicSupervisor.which_children(theirs), key=lambda each: str(each[2])) == [
                (a.undefined, second, a.supervisor, [a.kid]),
                (a.undefined, first, a.worker, [a.kid]),
            ]
            assert await DynamicSupervisor.count_children(theirs) == {
                "specs": 2,
                "active": 2,
                "supervisors": 1,
                "workers": 1,
            }
            await DynamicSupervisor.terminate_child(theirs, first)
            with pytest.raises(SupervisorError) as missing:
                await DynamicSupervisor.terminate_child(theirs, first)
            assert missing.value.reason is a.not_found
            assert await DynamicSupervisor.start_child(theirs, kid(KID, a.drives_4, a.ignore)) is None
            with pytest.raises(StartFailed) as failure:
                await DynamicSupervisor.start_child(theirs, kid(KID, a.drives_5, a.exit))
            assert failure.value.reason == (a.planned, a.extra)
            reference = monitor(second)
            await DynamicSupervisor.stop(theirs)
            assert (await receive(lambda got: got[1] == reference, timeout=WAIT_SECONDS))[4] is a.shutdown

    asyncio.run(main())


def test_a_child_of_ours_that_runs_elsewhere(world: World) -> None:
    """A start function of ours may give a process of the peer: links do not ask where."""

    async def start() -> Pid:
        pid = await world.elixir("spawn(fn -> receive do :stop -> :ok end end)")
        link(pid)
        assert isinstance(pid, Pid)
        return pid

    async def main() -> None:
        async with world.node() as node:
            await node.connect(PEER)
            top = await DynamicSupervisor.start_link()
            pid = await DynamicSupervisor.start_child(top, {"id": 1, "start": (start, ())})
            assert pid.node is PEER
            exit(pid, a.kill)
            await end_of(pid)
            while (children := await DynamicSupervisor.which_children(top)) and children[0][1] == pid:
                await asyncio.sleep(0.01)
            [(_, again, _, _)] = children
            assert isinstance(again, Pid)
            assert again.node is PEER
            reference = monitor(again)
            await DynamicSupervisor.stop(top)
            assert (await receive(lambda got: got[1] == reference, timeout=WAIT_SECONDS))[4] is a.shutdown

    asyncio.run(main())


# --- Both by the same steps -------------------------------------------------------------------------------------------

PLANS = (a.ok, a.ok, a.ok, a.info, a.ignore, a.exit, a.bad, a.error)
REASONS = (a.normal, a.shutdown, (a.shutdown, a.enough), a.why, a.killed)


class Driven:
    """One supervisor, and what it has answered so far."""

    def __init__(self, top: Pid, module: Atom) -> None:
        self.top, self.module = top, module
        self.reference = monitor(top)
        self.children: list[Pid] = []  # in the order of their starts by us; None of those that did not
        self.log: list[Any] = []

    async def start(self, key: Any, plan: list[Atom], restart: str, kind: str) -> None:
        spec = kid(self.module, key, *plan, restart=restart, type=kind)
        answer = await GenServer.call(self.top, (a.start_child, _wire(spec)))
        if answer is not a.ignore and answer[0] is a.ok:
            self.children.append(answer[1])
            answer = (a.ok, a.pid, *answer[2:])
        self.log.append(answer)

    async def end(self, index: int, reason: Any) -> None:
        """Let a child end with a reason; it is seen when its pid is no longer among the children, or none are."""
        pid = self.children[index % len(self.children)]
        send(pid, (a.exit, reason)) if reason is not a.killed else exit(pid, a.kill)
        await end_of(pid)
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while any(child == pid for _, child, _, _ in await GenServer.call(self.top, a.which_children)):
            assert asyncio.get_running_loop().time() < deadline
        while any(child is a.restarting for _, child, _, _ in await GenServer.call(self.top, a.which_children)):
            assert asyncio.get_running_loop().time() < deadline
        known = [child for _, child, _, _ in await GenServer.call(self.top, a.which_children)]
        new = [child for child in known if child not in self.children]
        self.children[index % len(self.children)] = new[0] if new else pid

    async def terminate(self, index: int) -> None:
        pid = self.children[index % len(self.children)]
        self.log.append(await GenServer.call(self.top, (a.terminate_child, pid)))

    async def look(self) -> None:
        listed = await GenServer.call(self.top, a.which_children)
        shown = [(id, child if child is a.restarting else a.pid, *rest) for id, child, *rest in listed]
        self.log.append(sorted(map(repr, shown)))
        self.log.append(await GenServer.call(self.top, a.count_children))

    async def step(self, step: tuple[Any, ...]) -> None:
        """Does nothing more when the supervisor has ended."""
        if self.log and self.log[-1] == a.gone:
            return
        try:
            match step:
                case ("start", *arguments):
                    await self.start(*arguments)
                case ("end", index, reason) if self.children:
                    await self.end(index, reason)
                case ("terminate", index) if self.children:
                    await self.terminate(index)
            await self.look()
        except ProcessExit:
            self.log += [(await receive(lambda got: got[1] == self.reference, timeout=WAIT_SECONDS))[4], a.gone]

    async def close(self) -> None:
        demonitor(self.reference, flush=True)
        if self.log[-1] != a.gone:
            await DynamicSupervisor.stop(self.top)


def _wire(spec: dict[str, Any]) -> tuple[Any, ...]:
    return (spec["start"], Atom(spec["restart"]), 5000, Atom(spec["type"]), spec["modules"])


def a_case(dice: random.Random, number: int) -> list[tuple[Any, ...]]:
    steps: list[tuple[Any, ...]] = []
    for index in range(dice.randrange(2, 12)):
        what = dice.choice(["start", "start", "end", "end", "terminate"])
        if what == "start":
            plan = [dice.choice(PLANS) for _ in range(dice.randrange(4))]
            restart = dice.choice(["permanent", "permanent", "transient", "temporary"])
            steps.append(("start", (number, index), plan, restart, dice.choice(["worker", "supervisor"])))
        elif what == "end":
            steps.append(("end", dice.randrange(5), dice.choice(REASONS)))
        else:
            steps.append(("terminate", dice.randrange(5)))
    return steps


def test_both_answer_the_same(world: World) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    gone = 0

    async def main() -> None:
        nonlocal gone
        async with world.node() as node:
            trap_exit()
            node.expose(Kids(), module="kid")
            for number in range(CASES):
                most, restarts = dice.choice([None, None, 2]), dice.randrange(4)
                limit = ":infinity" if most is None else most
                options = f"max_children: {limit}, max_restarts: {restarts}, max_seconds: 60, extra_arguments: [:extra]"
                theirs = Driven(await world.theirs(options), KID)
                top = await DynamicSupervisor.start_link(
                    max_children=most, max_restarts=restarts, max_seconds=60, extra_arguments=[a.extra]
                )
                ours = Driven(top, a.kid)
                steps = a_case(dice, seed + number)
                for step in steps:
                    await theirs.step(step)
                    await ours.step(step)
                    assert ours.log == theirs.log, (seed, number, steps)
                gone += ours.log[-1] == a.gone
                await theirs.close()
                await ours.close()

    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)
    assert 0 < gone < CASES


# --- PartitionSupervisor ----------------------------------------------------------------------------------------------


class Teller(GenServer):
    def init(self, number: int) -> None:
        self.number = number

    def handle_call(self, request: Any, sender: Any) -> Any:
        return self.number


def test_elixir_looks_at_partitions_of_ours(world: World) -> None:
    async def main() -> None:
        async with world.node():
            await PartitionSupervisor.start_link(
                (Teller, 0), name="ours", partitions=2, with_arguments=lambda args, partition: [partition * 10]
            )
            children = await world.elixir(f"Supervisor.which_children({OURS})")
            assert [(number, kind) for number, _, kind, _ in children] == [(1, a.worker), (0, a.worker)]
            counts = {a.specs: 2, a.active: 2, a.supervisors: 0, a.workers: 2}
            assert await world.elixir(f"Supervisor.count_children({OURS})") == counts
            assert await world.elixir("GenServer.call(pid, :x)", pid=children[0][1]) == 10
            assert await world.elixir(f"Supervisor.terminate_child({OURS}, 1)") is a.ok
            _, pid = await world.elixir(f"Supervisor.restart_child({OURS}, 1)")
            assert GenServer.whereis(("via", PartitionSupervisor, ("ours", 1))) == pid
            assert await world.elixir(f"Supervisor.stop({OURS})") is a.ok

    asyncio.run(main())
