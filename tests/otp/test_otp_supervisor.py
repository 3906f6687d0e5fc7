"""Supervisors of ours driven by Elixir and Erlang of OTP 25, 27 and 29, and theirs by us."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from test_otp_gen_server import CALL, PY, Counter, World

from beamnode import (
    AlreadyStarted,
    Atom,
    Epmd,
    GenServer,
    Node,
    Pid,
    StartFailed,
    a,
    link,
    monitor,
    receive,
    self,
    trap_exit,
)
from beamnode.otp.supervisor import Supervisor, SupervisorError
from beamnode.testing.peers import Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PEER = Atom("peer@127.0.0.1")
SUP = f"{{:sup, {CALL}}}"
AGENT = ("Elixir.Agent", "start_link", [Atom("Elixir.Map"), a.new, []])


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "beamnode")


class Tree(Supervisor):
    def init(self) -> Any:
        return Supervisor.init([(Counter, 1)], strategy="one_for_all")


class Starts:
    """What peers may start: exposed as the module `counter`."""

    def __init__(self, node: Node) -> None:
        node.expose(self, module="counter")

    async def start_link(self, start: int) -> Pid:
        return await Counter.start_link(start)

    async def with_info(self, start: int) -> Any:
        return (a.ok, await Counter.start_link(start), a.more)

    async def fails(self) -> Any:
        return (a.error, a.no)

    def ignores(self) -> Any:
        return a.ignore


async def started(node: Node) -> Pid:
    trap_exit()
    Starts(node)
    await node.connect(PEER)
    return await Supervisor.start_link([Tree], strategy="one_for_one", max_restarts=100, name="sup")


# --- Ours, seen from there --------------------------------------------------------------------------------------------


def test_elixir_uses_every_function(world: World) -> None:
    one = "%{id: :one, start: {:counter, :start_link, [1]}}"
    script = f"""
        sup = {SUP}
        tree = :"test_otp_supervisor.Tree"
        [{{^tree, inner, :supervisor, [^tree]}}] = Supervisor.which_children(sup)
        [{{:"test_otp_gen_server.Counter", counter, :worker, [_]}}] = Supervisor.which_children(inner)
        1 = GenServer.call(counter, :get)
        %{{specs: 1, active: 1, supervisors: 1, workers: 0}} = Supervisor.count_children(sup)
        {{:ok, pid}} = Supervisor.start_child(sup, {one})
        6 = GenServer.call(pid, {{:add, 5}})
        {{:error, {{:already_started, ^pid}}}} = Supervisor.start_child(sup, {one})
        {{:error, :running}} = Supervisor.restart_child(sup, :one)
        {{:error, :running}} = Supervisor.delete_child(sup, :one)
        :ok = Supervisor.terminate_child(sup, :one)
        {{:error, :already_present}} = Supervisor.start_child(sup, {one})
        {{:one, :undefined, :worker, [:counter]}} = List.first(Supervisor.which_children(sup))
        %{{specs: 2, active: 1, supervisors: 1, workers: 1}} = Supervisor.count_children(sup)
        {{:ok, pid}} = Supervisor.restart_child(sup, :one)
        1 = GenServer.call(pid, :get)
        ref = Process.monitor(pid)
        Process.exit(pid, :kill)
        receive do {{:DOWN, ^ref, _, _, :killed}} -> :ok end
        [{{:one, new, :worker, _}}, _] = Supervisor.which_children(sup)
        true = is_pid(new) and new != pid
        :ok = Supervisor.terminate_child(sup, :one)
        :ok = Supervisor.delete_child(sup, :one)
        for f <- [:restart_child, :delete_child, :terminate_child] do
          {{:error, :not_found}} = apply(Supervisor, f, [sup, :one])
        end
        spec = Supervisor.child_spec({one}, id: "two", restart: :temporary)
        {{:ok, pid}} = Supervisor.start_child(sup, spec)
        [{{"two", ^pid, :worker, [:counter]}}, _] = Supervisor.which_children(sup)
        :ok = Supervisor.terminate_child(sup, "two")
        {{:error, :not_found}} = Supervisor.restart_child(sup, "two")
        {{:ok, _, :more}} = Supervisor.start_child(sup, %{{id: 3, start: {{:counter, :with_info, [1]}}}})
        {{:ok, :undefined}} = Supervisor.start_child(sup, %{{id: 4, start: {{:counter, :ignores, []}}}})
        :ok = Supervisor.stop(sup)
        :done
    """

    async def main() -> None:
        async with world.node() as node:
            pid = await started(node)
            assert await world.elixir(script) is a.done
            assert await receive(timeout=5) == (a.EXIT, pid, a.normal)

    asyncio.run(main())


def test_what_cannot_be_started_is_an_error_there(world: World) -> None:
    script = f"""
        start = fn spec -> Supervisor.start_child({SUP}, spec) end
        {{:error, {{:no, {{:child, :undefined, 1, {{:counter, :fails, []}}, :permanent, false, 5000, :worker, _}}}}}} =
          start.(%{{id: 1, start: {{:counter, :fails, []}}}})
        {{:error, {{{{:EXIT, {{:undef, [{{:os, :cmd, ['ls'], []}}]}}}}, _}}}} =
          start.(%{{id: 1, start: {{:os, :cmd, ['ls']}}}})
        {{:error, {{{{:EXIT, {{{{:TypeError, _}}, _}}}}, _}}}} =
          start.(%{{id: 1, start: {{:counter, :start_link, []}}}})
        {{:error, :missing_start}} = start.(%{{id: 1}})
        {{:error, {{:invalid_mfa, :x}}}} = start.(%{{id: 1, start: :x}})
        {{:error, {{:invalid_shutdown, -1}}}} = start.(%{{id: 1, start: {{:m, :f, []}}, shutdown: -1}})
        {{:error, {{:invalid_restart_type, "x"}}}} = start.(%{{id: 1, start: {{:m, :f, []}}, restart: "x"}})
        {{:error, {{:bad_combination, _}}}} =
          start.(%{{id: 1, start: {{:m, :f, []}}, restart: :temporary, significant: true}})
        {{:error, {{:invalid_child_spec, [1]}}}} = Supervisor.start_child({SUP}, [1])
        deep = Enum.reduce(1..1000, [], fn _, acc -> [acc] end)
        {{:error, _}} = Supervisor.terminate_child({SUP}, deep)
        {{:error, {{:unknown_request, :what}}}} = GenServer.call({SUP}, :what)
        GenServer.cast({SUP}, {{:try_again_restart, deep}})
        GenServer.cast({SUP}, :what)
        send({SUP}, :what)
        length(Supervisor.which_children({SUP}))
    """

    async def main() -> None:
        async with world.node() as node:
            await started(node)
            assert await world.elixir(script) == 1

    asyncio.run(main())


def test_erlang_asks_for_what_elixir_does_not(world: World) -> None:
    source = """
        Sup = {sup, 'py@127.0.0.1'},
        {ok, Pid} = supervisor:start_child(Sup, {old, {counter, start_link, [7]}, transient, 2000, worker, [counter]}),
        7 = gen_server:call(Pid, get),
        {ok, #{id := old, start := {counter, start_link, [7]}, restart := transient, shutdown := 2000,
               significant := false, type := worker, modules := [counter]}} = supervisor:get_childspec(Sup, old),
        {ok, #{shutdown := infinity, type := supervisor}} = supervisor:get_childspec(Sup, 'test_otp_supervisor.Tree'),
        {error, not_found} = supervisor:get_childspec(Sup, none),
        'Supervisor' = supervisor:get_callback_module(Sup),
        [{_, Tree, _, _}] = [Child || Child <- supervisor:which_children(Sup), element(3, Child) =:= supervisor],
        'Tree' = supervisor:get_callback_module(Tree),
        #{strategy := one_for_all, intensity := 3, children := [_]} = sys:get_state(Tree),
        {status, Tree, {module, _}, [_, running, _, _, _]} = sys:get_status(Tree),
        ok = sys:suspend(Sup), ok = sys:resume(Sup),
        ok
    """

    async def main() -> None:
        async with world.node() as node:
            await started(node)
            assert await world.erl(source) is a.ok

    asyncio.run(main())


def test_what_peers_asked_for_stays_theirs(world: World) -> None:
    """The policy decides about a peer's start function, also when it is run again; ours needs no permission."""

    async def main() -> None:
        asked: list[tuple[Atom, Atom]] = []

        def policy(call: Any) -> str:
            asked.append((call.node, call.function))
            return "exposed"

        async with Node(PY, cookie=world.cookie, discovery=Epmd(world.epmd.port), policy=policy) as node:
            supervisor = await started(node)
            child = "%{id: :theirs, start: {:counter, :start_link, [1]}}"
            ok, pid = await world.elixir(f"Supervisor.start_child({SUP}, {child})")
            assert ok is a.ok
            reference = monitor(pid)
            await world.elixir("Process.exit(pid, :kill)", pid=pid)
            assert (await receive(timeout=5))[:2] == (a.DOWN, reference)
            assert (await Supervisor.which_children(supervisor))[0][0] is a.theirs
            await Supervisor.start_child(supervisor, {"id": "ours", "start": ("counter", "start_link", [2])})
            plain = {a.id: 3, a.start: (a.counter, a.start_link, [3])}
            assert (await GenServer.call(supervisor, (a.start_child, plain)))[0] is a.ok
            assert asked == [(node, a.start_link) for node in (PEER, PEER, PY, PY)]

    asyncio.run(main())


def test_a_child_may_live_on_another_node(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            trap_exit()

            async def start_there() -> Pid:
                _, pid = await node.rpc(PEER, "Elixir.Agent", "start", [Atom("Elixir.Map"), a.new, []])
                link(pid)
                return pid  # type: ignore[no-any-return]

            supervisor = await Supervisor.start_link([{"id": 1, "start": (start_there, [])}], strategy="one_for_all")

            async def child() -> Any:
                [(_, pid, _, _)] = await Supervisor.which_children(supervisor)
                return pid

            async def changed(old: Pid) -> Pid:
                for _ in range(500):
                    new = await child()
                    if isinstance(new, Pid) and new != old:
                        return new
                    await asyncio.sleep(0.01)
                raise AssertionError("it was not restarted")

            first = await child()
            await world.elixir("Process.exit(pid, :kill)", pid=first)
            second = await changed(first)
            await node.disconnect(PEER)
            third = await changed(second)
            assert (await Supervisor.count_children(supervisor))["active"] == 1
            await Supervisor.stop(supervisor)
            assert await world.elixir("Process.alive?(pid)", pid=third) is False

    asyncio.run(main())


# --- Theirs, seen from here -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["elixir", "erlang"])
def test_ours_drives_theirs(world: World, language: str) -> None:
    start = "{:ok, p} = Supervisor.start_link([], strategy: :one_for_one); Process.unlink(p); p"
    if language == "erlang":
        start = "{:ok, p} = :supervisor.start_link(:supervisor_bridge_of_tests, {%{}, []}); Process.unlink(p); p"
        define = (
            "defmodule :supervisor_bridge_of_tests do def init(arg), do: {:ok, arg} end; "
            "Code.compiler_options(ignore_module_conflict: true); :ok"
        )
    else:
        define = ":ok"

    async def main() -> None:
        async with world.node() as node:
            await node.connect(PEER)
            await world.elixir(define)
            supervisor = await world.elixir(start)
            spec = {"id": "agent", "start": AGENT, "shutdown": 0.5, "restart": "transient"}
            pid = await Supervisor.start_child(supervisor, spec)
            assert isinstance(pid, Pid)
            assert pid.node is PEER
            with pytest.raises(AlreadyStarted) as there:
                await Supervisor.start_child(supervisor, spec)
            assert there.value.pid == pid
            agent = Atom("Elixir.Agent")
            assert await Supervisor.which_children(supervisor) == [(b"agent", pid, a.worker, [agent])]
            assert await Supervisor.count_children(supervisor) == {
                "specs": 1,
                "active": 1,
                "supervisors": 0,
                "workers": 1,
            }
            assert await Supervisor.get_childspec(supervisor, "agent") == {
                a.id: b"agent",
                a.start: (agent, a.start_link, AGENT[2]),
                a.restart: a.transient,
                a.shutdown: 500,
                a.significant: False,
                a.type: a.worker,
                a.modules: [agent],
            }
            for function in (Supervisor.restart_child, Supervisor.delete_child):
                with pytest.raises(SupervisorError, match="running"):
                    await function(supervisor, "agent")
            await Supervisor.terminate_child(supervisor, "agent")
            assert (await Supervisor.which_children(supervisor))[0][1] is None
            with pytest.raises(SupervisorError, match="restart it, or delete it first"):
                await Supervisor.start_child(supervisor, spec)
            assert isinstance(await Supervisor.restart_child(supervisor, "agent"), Pid)
            await Supervisor.terminate_child(supervisor, "agent")
            await Supervisor.delete_child(supervisor, "agent")
            with pytest.raises(SupervisorError, match="no child of this id"):
                await Supervisor.delete_child(supervisor, "agent")
            with pytest.raises(StartFailed) as failed:
                await Supervisor.start_child(supervisor, {"id": 1, "start": ("erlang", "exit", [a.no])})
            assert failed.value.reason == (a.EXIT, a.no)
            with pytest.raises(SupervisorError, match="bad_combination"):
                await Supervisor.start_child(
                    supervisor, {"id": 1, "start": AGENT, "restart": "temporary", "significant": True}
                )
            await Supervisor.stop(supervisor)

    asyncio.run(main())


def test_a_python_function_is_no_start_for_a_supervisor_elsewhere(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(PEER)
            supervisor = await world.elixir(
                "{:ok, p} = Supervisor.start_link([], strategy: :one_for_one); Process.unlink(p); p"
            )
            with pytest.raises(StartFailed) as failed:
                await Supervisor.start_child(supervisor, (Counter, 1))
            assert failed.value.reason[1][0] is a.undef
            assert self().node is PY
            assert await GenServer.call(supervisor, a.which_children) == []

    asyncio.run(main())
