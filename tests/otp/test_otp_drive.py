"""What Elixir and Erlang can ask of behaviours, call by call, where the other tests of a behaviour do not: on ours.

And the same functions of ours, asked of Elixir's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from behaviours_support import PEER, PY, World

from beamnode import (
    Application,
    Atom,
    DynamicSupervisor,
    Epmd,
    EventHandler,
    GenericTimeout,
    GenEvent,
    GenServer,
    GenStatem,
    KeepState,
    NextState,
    Node,
    PartitionSupervisor,
    Pid,
    Postpone,
    Registry,
    ReplyTo,
    StateTimeout,
    Supervisor,
    Task,
    a,
    process_info,
    processes,
    receive,
    send,
    trap_exit,
)
from beamnode.testing.peers import Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

MACHINE = '{:machine, :"py@127.0.0.1"}'
EVENTS = '{:events, :"py@127.0.0.1"}'


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


# --- gen_statem -------------------------------------------------------------------------------------------------------


class ByEvent(GenStatem):
    """One function for all events."""

    callback_mode = "handle_event_function", "state_enter"

    def init(self) -> Any:
        self.entered = 0
        return a.off

    def handle_event(self, event: Any, content: Any, state: Any) -> Any:
        match event, content, state:
            case "enter", _, a.on:
                self.entered += 1
                return KeepState(StateTimeout(0.02), GenericTimeout(a.unused, 60))
            case "state_timeout", _, a.on:
                return NextState(a.off)
            case "cast", a.flip, a.off:
                return NextState(a.on)
            case ("call", sender), a.when_on, a.on:
                return KeepState(ReplyTo(sender, self.entered))
            case ("call", _), a.when_on, _:
                return KeepState(Postpone())
            case ("call", sender), (a.echo, value), _:
                return KeepState(ReplyTo(sender, value))
            case ("call", sender), (a.hand_over, pid), _:
                send(pid, (a.answer, sender))
        return None


class ByState(GenStatem):
    """A function for each state, of the same machine."""

    callback_mode = "state_functions", "state_enter"

    def init(self) -> Any:
        self.machine = ByEvent()
        self.machine.entered = 0
        return a.off

    def off(self, event: Any, content: Any) -> Any:
        return self.machine.handle_event(event, content, a.off)

    def on(self, event: Any, content: Any) -> Any:
        return self.machine.handle_event(event, content, a.on)


STATEM = f"""
m = {MACHINE}
alias :gen_statem, as: G
1 = G.call(m, {{:echo, 1}})
1 = G.call(m, {{:echo, 1}}, 5000)
1 = G.call(m, {{:echo, 1}}, :infinity)
1 = G.call(m, {{:echo, 1}}, {{:clean_timeout, 5000}})
1 = G.call(m, {{:echo, 1}}, {{:dirty_timeout, 5000}})
for timeout <- [50, {{:clean_timeout, 50}}] do
  {{:timeout, {{:gen_statem, :call, _}}}} = try do G.call(m, :when_on, timeout) catch :exit, reason -> reason end
end
waiting = G.send_request(m, :when_on)
:timeout = G.wait_response(waiting, 20)
:ok = G.cast(m, :flip)
{{:reply, 1}} = G.wait_response(waiting, 5000)
waiting = G.send_request(m, {{:echo, 2}})
{{:reply, 2}} = receive do message -> G.check_response(message, waiting) end
waiting = G.send_request(m, {{:echo, 3}})
:no_reply = G.check_response(:something, waiting)
{{:reply, 3}} = G.receive_response(waiting, 5000)
ids = G.send_request(m, {{:echo, 4}}, :four, G.reqids_new())
ids = G.reqids_add(G.send_request(m, {{:echo, 5}}), :five, ids)
2 = G.reqids_size(ids)
[:five, :four] = Enum.sort(for {{_, label}} <- G.reqids_to_list(ids), do: label)
{{{{:reply, first}}, label_1, ids}} = G.receive_response(ids, 5000, true)
{{{{:reply, second}}, label_2, ids}} = G.wait_response(ids, 5000, true)
[five: 5, four: 4] = Enum.sort([{{label_1, first}}, {{label_2, second}}])
:no_request = G.receive_response(ids, 5000, true)
me = self()
for answer <- [fn from -> G.reply(from, :one) end, fn from -> G.reply([{{:reply, from, :one}}]) end] do
  pid = spawn(fn -> receive do {{:answer, from}} -> answer.(from) end end)
  :one = G.call(m, {{:hand_over, pid}}, 5000)
end
{{state, _}} = :sys.get_state(m)
true = state in [:on, :off]
_ = me
:ok = G.stop(m, {{:shutdown, :enough}}, 5000)
{{:noproc, {{:gen_statem, :call, _}}}} = try do G.call(m, :x) catch :exit, reason -> reason end
:noproc = try do G.stop(m) catch :exit, reason -> reason end
:done
"""


@pytest.mark.parametrize("machine", [ByEvent, ByState])
def test_every_call_of_gen_statem(world: World, machine: type[GenStatem]) -> None:
    async def main() -> None:
        trap_exit()
        pid = await machine.start_link(name="machine")
        assert await world.elixir(STATEM) is a.done
        assert await receive(timeout=5) == (a.EXIT, pid, (a.shutdown, a.enough))

    world.run(main)


# --- gen_event --------------------------------------------------------------------------------------------------------


class Echo(EventHandler):
    def init(self, owner: Pid) -> None:
        self.owner = owner

    def handle_event(self, event: Any) -> None:
        send(self.owner, event)

    def handle_call(self, request: Any) -> Any:
        return request


class Events(GenEvent):
    handlers = (Echo,)


EVENT = f"""
e = {EVENTS}
alias :gen_event, as: G
:ok = G.add_handler(e, :Echo, self())
waiting = G.send_request(e, :Echo, 1)
{{:reply, 1}} = G.wait_response(waiting, 5000)
waiting = G.send_request(e, :Echo, 2)
{{:reply, 2}} = receive do message -> G.check_response(message, waiting) end
waiting = G.send_request(e, :Nobody, 3)
{{:error, :bad_module}} = G.receive_response(waiting, 5000)
ids = G.send_request(e, :Echo, 4, :four, G.reqids_new())
{{{{:reply, 4}}, :four, _}} = G.receive_response(ids, 5000, true)
:ok = G.notify(e, {{:note, 1}})
:ok = G.sync_notify(e, {{:note, 2}})
[1, 2] = for _ <- 1..2, do: (receive do {{:note, n}} -> n after 5000 -> :nothing end)
[:Echo] = G.which_handlers(e)
:ok = G.stop(e, :shutdown, 5000)
:noproc = try do G.stop(e) catch :exit, reason -> reason end
:done
"""


def test_every_call_of_gen_event(world: World) -> None:
    async def main() -> None:
        trap_exit()
        pid = await Events.start_link(name="events")
        assert await world.elixir(EVENT) is a.done
        assert await receive(timeout=5) == (a.EXIT, pid, a.shutdown)

    world.run(main)


# --- Supervisors of every kind, and what is taken for one -------------------------------------------------------------


class Worker(GenServer):
    def init(self, number: int) -> None:
        self.number = number

    def handle_call(self, request: Any, sender: Any) -> Any:
        return self.number


async def idle() -> None:
    await receive()


async def of_all_kinds() -> list[Pid]:
    return [
        await Supervisor.start_link([(Worker, 1)], strategy="one_for_one", name="plain"),
        await DynamicSupervisor.start_link(name="dynamic"),
        await Task.Supervisor.start_link(name="tasks"),
        await PartitionSupervisor.start_link((Worker, 1), partitions=2, name="partitions"),
        await Registry.start_link(keys="unique", name="rooms"),
    ]


KINDS = """
counts = for name <- [:plain, :dynamic, :tasks, :partitions, :rooms] do
  s = {name, :"py@127.0.0.1"}
  %{active: active, specs: active, supervisors: 0, workers: active} = Supervisor.count_children(s)
  %{active: ^active} = DynamicSupervisor.count_children(s)
  children = Supervisor.which_children(s)
  ^children = DynamicSupervisor.which_children(s)
  ^active = length(children)
  {:error, _} = Supervisor.terminate_child(s, :nobody)
  {:error, _} = Supervisor.restart_child(s, :nobody)
  {:error, _} = Supervisor.delete_child(s, :nobody)
  {:error, _} = :supervisor.get_childspec(s, :nobody)
  {:error, _} = Supervisor.start_child(s, %{id: 1, start: {:nothing, :like_it, []}})
  {:error, _} = DynamicSupervisor.start_child(s, %{id: 1, start: {:nothing, :like_it, []}})
  {:error, _} = DynamicSupervisor.terminate_child(s, self())
  {:error, _} = GenServer.call(s, :what)
  GenServer.cast(s, :what)
  send(s, :what)
  active
end
for name <- [:plain, :dynamic, :tasks, :partitions, :rooms] do
  :ok = Supervisor.stop({name, :"py@127.0.0.1"}, :shutdown, 5000)
end
counts
"""


def test_whatever_is_asked_of_whatever_supervisor(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trap_exit()
        supervisors = await of_all_kinds()
        assert await world.elixir(KINDS) == [1, 0, 0, 2, 0]
        ended = [await receive(timeout=5) for _ in supervisors]
        assert ended == [(a.EXIT, pid, a.shutdown) for pid in supervisors]

    world.run(main)


# --- Registry and Application: what Elixir reaches by functions that a node exposes ----------------------------------


REGISTRY = """
py = :"py@127.0.0.1"
[{first, :x}] = :erpc.call(py, :rooms, :lookup, [1])
1 = GenServer.call(first, :number)
[] = :erpc.call(py, :rooms, :lookup, [2])
ref = Process.monitor(first)
Process.exit(first, :kill)
receive do {:DOWN, ^ref, _, _, :killed} -> :ok end
:erpc.call(py, :rooms, :lookup, [1])
"""


def test_elixir_finds_whom_a_registry_here_knows(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main(node: Node) -> None:
        trap_exit()
        await Registry.start_link(keys="unique", name="rooms")
        await Worker.start(1, name=("via", Registry, ("rooms", 1, a.x)))
        node.expose(lambda key: Registry.lookup("rooms", key), module="rooms", name="lookup")
        assert await world.elixir(REGISTRY) == []

    in_its_node(world, main)


class Shop(Application):
    name = "shop"
    description = "sells"
    vsn = "1.0"
    env: ClassVar[dict[str, Any]] = {"size": 3}

    async def start(self, kind: Any, args: Any) -> Pid:
        return await Supervisor.start_link([(Worker, Application.fetch_env("shop", "size"))], strategy="one_for_one")


APPLICATION = """
py = :"py@127.0.0.1"
3 = :erpc.call(py, Application, :get_env, [:shop, :size])
:ok = :erpc.call(py, Application, :put_env, [:shop, :size, 4])
:ok = :erpc.call(py, Application, :ensure_started, [:shop])
{:shop, 'sells', '1.0'} = List.keyfind(:rpc.call(py, :application, :which_applications, []), :shop, 0)
[worker] = :erpc.call(py, Application, :workers, [])
4 = GenServer.call(worker, :number)
:ok = :erpc.call(py, Application, :stop, [:shop])
[] = :rpc.call(py, :application, :which_applications, [])
Process.alive?(self())
"""


def test_elixir_runs_an_application_here_with_what_is_exposed(world: World) -> None:
    async def main(node: Node) -> None:
        Application.load(Shop)

        def put_env(name: Atom, key: Atom, value: Any) -> Atom:
            Application.put_env(name, key, value)
            return a.ok

        async def ensure_started(name: Atom) -> Atom:
            await Application.ensure_started(name)
            return a.ok

        async def stop(name: Atom) -> Atom:
            await Application.stop(name)
            return a.ok

        async def workers() -> list[Pid]:
            return [pid for pid in processes() if (process_info(pid) or {}).get("initial_call", ())[:1] == (a.Worker,)]

        for function in (Application.get_env, put_env, ensure_started, stop, workers):
            node.expose(function, module="Elixir.Application", name=function.__name__)
        assert await world.elixir(APPLICATION) is True

    in_its_node(world, main)


def in_its_node(world: World, main: Any) -> None:
    async def whole() -> None:
        async with Node(PY, cookie=world.cookie, discovery=Epmd(world.epmd.port)) as node:
            await main(node)

    asyncio.run(whole())


# --- Ours on theirs ---------------------------------------------------------------------------------------------------


THEIRS = """
{:ok, partitions} = PartitionSupervisor.start_link(
  child_spec: {Agent, fn -> 1 end}, name: :their_partitions, partitions: 2)
{:ok, rooms} = Registry.start_link(keys: :unique, name: TheirRooms)
{:ok, agent} = Agent.start(fn -> 5 end, name: {:via, Registry, {TheirRooms, :agent, :value}})
for pid <- [partitions, rooms], do: Process.unlink(pid)
{partitions, rooms, agent}
"""


def test_ours_use_partitions_and_registries_of_elixir(world: World) -> None:
    async def main(node: Node) -> None:
        trap_exit()
        partitions, rooms, agent = await world.elixir(THEIRS)
        there = ("their_partitions", PEER)
        for supervisor in (there, partitions):
            children = await PartitionSupervisor.which_children(supervisor)
            assert sorted(number for number, *_ in children) == [0, 1]
            assert (await PartitionSupervisor.count_children(supervisor))["active"] == 2
        await Supervisor.terminate_child(there, 1)
        assert (await Supervisor.count_children(there))["active"] == 1
        new = await Supervisor.restart_child(there, 1)
        found = await node.rpc(
            PEER, "Elixir.GenServer", "whereis", [(a.via, Atom("Elixir.PartitionSupervisor"), (a.their_partitions, 1))]
        )
        assert found == new
        registry, key = Atom("Elixir.TheirRooms"), a.agent
        assert await node.rpc(PEER, "Elixir.Registry", "lookup", [registry, key]) == [(agent, a.value)]
        assert await GenServer.call(agent, (a.get, (a.erlang, a["+"], [1]))) == 6
        assert len(await Supervisor.which_children(rooms)) in (1, 2)  # since Elixir 1.19 the table has a process
        assert (await Supervisor.count_children((registry, PEER)))["active"] >= 1
        await PartitionSupervisor.stop(there, a.shutdown)
        await Supervisor.stop(rooms, a.shutdown)
        while await world.elixir("Process.whereis(:their_partitions) || Process.whereis(TheirRooms)") is not None:
            await asyncio.sleep(0.01)

    in_its_node(world, main)
