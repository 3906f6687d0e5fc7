"""sync/behaviours.py, task.py, face.py: the behaviours used by threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

import beamnode
from beamnode import FixedPort, Pid, ProcessExit, UsageError, a, sync
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import (
    agent,
    application,
    dynamic_supervisor,
    gen_event,
    gen_statem,
    partition_supervisor,
    registry,
    supervisor,
    task,
)
from beamnode.otp.agent import Agent
from beamnode.otp.gen_event import EventHandler
from beamnode.otp.gen_server import CallFailed
from beamnode.otp.gen_statem import KeepState, NextState, ReplyTo
from beamnode.otp.registry import AlreadyRegistered
from beamnode.otp.supervisor import SupervisorError
from beamnode.otp.task_supervisor import TaskSupervisor

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def node() -> Iterator[sync.Node]:
    carrier = MemoryNetwork().carrier("h")
    with sync.Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)) as node:
        yield node


def test_nothing_of_a_behaviour_is_left_to_await() -> None:
    faces = {
        sync.GenServer: beamnode.GenServer,
        sync.Agent: agent.Agent,
        sync.Registry: registry.Registry,
        sync.Supervisor: supervisor.Supervisor,
        sync.DynamicSupervisor: dynamic_supervisor.DynamicSupervisor,
        sync.PartitionSupervisor: partition_supervisor.PartitionSupervisor,
        sync.GenStatem: gen_statem.GenStatem,
        sync.GenEvent: gen_event.GenEvent,
        sync.Application: application.Application,
        sync.Task: task.Task,
        sync.Task.Supervisor: TaskSupervisor,
    }
    for face, behaviour in faces.items():
        names = [name for name in {*dir(behaviour), *dir(type(behaviour))} if not name.startswith("_")]
        awaitable = [name for name in names if inspect.iscoroutinefunction(getattr(behaviour, name, None))]
        assert awaitable, behaviour
        for name in awaitable:
            blocking = getattr(face, name)
            assert not inspect.iscoroutinefunction(blocking), (face, name)
            assert blocking.__doc__, (face, name)


class Counter(sync.GenServer, restart="transient"):
    """Its handlers run in a thread."""

    def init(self, start: int, name: Any = None) -> None:
        time.sleep(0.001)
        self.count = start
        self.thread = threading.current_thread().name

    def handle_call(self, request: Any, sender: Any) -> Any:
        match request:
            case a.thread:
                return self.thread
            case (a.add, n):
                self.count += n
                return self.count
            case a.crash:
                raise ValueError("no")


class Plain(beamnode.GenServer):
    async def handle_call(self, request: Any, sender: Any) -> Any:
        return request


# --- Supervisors ------------------------------------------------------------------------------------------------------


def ends(pid: Pid) -> Any:
    """Wait for the end of a process; its reason."""
    reference = sync.monitor(pid)
    return sync.receive(lambda message: message[:2] == (a.DOWN, reference), timeout=5)[4]


def becomes(name: str, before: Pid | None) -> Pid:
    """The pid that has a name, when it is another than before."""
    deadline = time.monotonic() + 5
    while (pid := sync.whereis(name)) in (None, before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert pid is not None
    assert pid != before
    return pid


def body(owner: Pid) -> None:
    sync.send(owner, (a.started, sync.self()))
    sync.receive()


class Tree(sync.Supervisor):
    def init(self, start: int) -> Any:
        return sync.Supervisor.init([named(Counter.child_spec(start, name="counter")), Plain], strategy="one_for_one")


def named(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "id": "counter"}


def test_a_supervisor_and_its_children(node: sync.Node) -> None:
    owner = sync.self()
    thread = {"id": "thread", "start": (sync.spawn_link, (body, owner)), "restart": "temporary"}
    tree = sync.Supervisor.start_link([(Counter, 1), thread], strategy="one_for_one", name="tree")
    label, child = sync.receive(timeout=5)
    assert label is a.started
    children = {id: pid for id, pid, _, _ in sync.Supervisor.which_children("tree")}
    assert children["thread"] == child
    counter = children[Counter]
    assert sync.GenServer.call(counter, (a.add, 1)) == 2
    assert sync.GenServer.call(counter, a.thread).startswith("beamnode")
    with pytest.raises(CallFailed):
        sync.GenServer.call(counter, a.crash)
    assert sync.Supervisor.count_children(tree)["active"] == 2
    pid = sync.Supervisor.start_child(tree, Plain)
    assert sync.GenServer.call(pid, a.hello) is a.hello
    sync.Supervisor.terminate_child(tree, Plain)
    assert sync.Supervisor.restart_child(tree, Plain) != pid
    with pytest.raises(SupervisorError):
        sync.Supervisor.delete_child(tree, Plain)
    assert sync.Supervisor.get_childspec(tree, "thread")[a.restart] is a.temporary
    sync.exit(child, a.kill)
    sync.Supervisor.stop(tree)
    assert ends(tree) is a.noproc


def test_a_supervisor_that_is_a_class(node: sync.Node) -> None:
    outer = sync.Supervisor.start_link([(Tree, 5)], strategy="one_for_one")
    counter = becomes("counter", None)
    assert sync.GenServer.call("counter", (a.add, 1)) == 6
    sync.exit(counter, a.kill)
    becomes("counter", counter)
    assert sync.GenServer.call("counter", (a.add, 0)) == 5
    ((id, inner, kind, _),) = sync.Supervisor.which_children(outer)
    assert (id, kind) == (Tree, a.supervisor)
    assert sync.Supervisor.count_children(inner)["active"] == 2
    sync.Supervisor.stop(outer)
    direct = Tree.start_link(7, name="tree")
    assert sync.GenServer.call("counter", (a.add, 0)) == 7
    sync.Supervisor.stop(direct)
    spec = sync.Supervisor.child_spec((Counter, 1), id="first")
    assert (spec["id"], spec["restart"]) == ("first", "transient")


def test_a_start_function_that_would_block_is_told_so(node: sync.Node) -> None:
    sync.trap_exit()
    child = {"id": "c", "start": (Counter.start_link, (1,))}
    with pytest.raises(beamnode.StartFailed, match="awaitable names"):
        sync.Supervisor.start_link([child], strategy="one_for_one")


def test_dynamic_and_partitioned_supervisors(node: sync.Node) -> None:
    supervisor = sync.DynamicSupervisor.start_link(max_children=1, name="dynamic")
    pid = sync.DynamicSupervisor.start_child("dynamic", (Counter, 1))
    assert sync.GenServer.call(pid, (a.add, 1)) == 2
    with pytest.raises(SupervisorError, match="as many"):
        sync.DynamicSupervisor.start_child("dynamic", (Counter, 1))
    assert [pid for _, pid, _, _ in sync.DynamicSupervisor.which_children(supervisor)] == [pid]
    sync.DynamicSupervisor.terminate_child("dynamic", pid)
    assert sync.DynamicSupervisor.count_children("dynamic")["active"] == 0
    sync.DynamicSupervisor.stop("dynamic")
    sync.PartitionSupervisor.start_link((Counter, 1), name="parts", partitions=3)
    assert sync.PartitionSupervisor.partitions("parts") == 3
    assert sync.GenServer.call(("via", sync.PartitionSupervisor, ("parts", 4)), (a.add, 1)) == 2
    assert sync.PartitionSupervisor.resize("parts", 2) == 3
    assert sync.PartitionSupervisor.count_children("parts")["active"] == 2
    sync.PartitionSupervisor.stop("parts")


# --- Agents and registries --------------------------------------------------------------------------------------------


def test_agents_run_functions_in_a_thread_of_theirs(node: sync.Node) -> None:
    sync.Agent.start_link(list, name="agent")
    threads = sync.Agent.get("agent", lambda state: threading.current_thread())

    def blocks(state: list[int]) -> list[int]:
        time.sleep(0.01)
        assert threading.current_thread() is threads
        assert sync.Agent.get(other, lambda state: state) == 1
        return [*state, 1]

    async def waits(state: list[int]) -> list[int]:
        return [*state, 2]

    other = agent_of_the_loop()
    sync.Agent.update("agent", blocks)
    sync.Agent.update("agent", waits)
    sync.Agent.cast("agent", blocks)
    assert sync.Agent.get_and_update("agent", lambda state: (state, None)) == [1, 2, 1]
    with pytest.raises(CallFailed) as failed:
        sync.Agent.get("agent", "no_module", "function", [])
    assert failed.value.cause[0] is a.undef
    sync.Agent.stop("agent")
    assert sync.whereis("agent") is None


def agent_of_the_loop() -> Pid:
    """One that was started by the awaitable names."""
    return sync.in_process(Agent.start(lambda: 1))


def test_agents_as_children(node: sync.Node) -> None:
    class Cache(sync.Agent, restart="temporary"):
        pass

    specs = [Cache.child_spec(dict, name="cache"), sync.Agent.child_spec(lambda: threading.current_thread().name)]
    tree = sync.Supervisor.start_link(specs, strategy="one_for_one")
    assert sync.Agent.get("cache", lambda state: threading.current_thread().name).startswith("beamnode Pid")
    ((_, second, _, _), (id, _, _, _)) = sync.Supervisor.which_children(tree)
    assert id is Cache
    assert sync.Agent.get(second, lambda name: name).startswith("beamnode Pid")
    sync.Supervisor.stop(tree)


def test_registries(node: sync.Node) -> None:
    sync.Registry.start_link(keys="unique", name="names")
    via = ("via", sync.Registry, ("names", "counter"))
    pid = Counter.start(1, name=via)
    assert sync.Registry.lookup("names", "counter") == [(pid, None)]
    assert sync.GenServer.call(via, (a.add, 1)) == 2
    sync.Registry.register("names", "me", 1)
    with pytest.raises(AlreadyRegistered):
        sync.Registry.register("names", "counter")
    assert sync.Registry.keys("names", sync.self()) == ["me"]
    told: list[Any] = []
    sync.Registry.dispatch("names", "me", told.extend)
    assert told == [(sync.self(), 1)]
    sync.GenServer.stop(via)
    assert sync.Registry.count("names") == 1
    tree = sync.Supervisor.start_link(
        [sync.Registry.child_spec(keys="duplicate", name="topics")], strategy="one_for_all"
    )
    sync.Registry.register("topics", "a", 1)
    sync.Registry.register("topics", "a", 2)
    assert sync.Registry.values("topics", "a", sync.self()) == [1, 2]
    sync.Registry.unregister("topics", "a")
    sync.Supervisor.stop(tree)


# --- Tasks ------------------------------------------------------------------------------------------------------------


def double(number: int) -> int:
    time.sleep(0.001)
    return 2 * number


async def triple(number: int) -> int:
    return 3 * number


def forever() -> None:
    sync.receive()


def test_tasks(node: sync.Node) -> None:
    one, two = sync.Task.async_(double, 1), sync.Task.async_(triple, 1)
    assert (one.await_(), sync.Task.await_(two)) == (2, 3)
    assert sync.Task.await_many([sync.Task.async_(double, n) for n in range(4)]) == [0, 2, 4, 6]
    slow, quick = sync.Task.async_(forever), sync.Task.async_(double, 3)
    assert slow.yield_(0.01) is None
    assert sync.Task.yield_many([slow, quick], 0.1) == [(slow, None), (quick, (a.ok, 6))]
    assert slow.shutdown("brutal_kill") is None
    assert sync.Task.completed(5).await_() == 5
    with pytest.raises(TimeoutError):
        sync.Task.async_(forever).await_(0.01)
    pid = sync.Task.start(forever)
    sync.exit(pid, a.kill)


def test_streams_of_tasks(node: sync.Node) -> None:
    caller = threading.get_ident()

    def elements() -> Iterator[int]:
        for number in range(20):
            time.sleep(0.001)
            yield number

    outcomes = list(sync.Task.async_stream(elements(), double, max_concurrency=4))
    assert outcomes == [(a.ok, 2 * number) for number in range(20)]
    stream = sync.Task.async_stream(range(1000), double, max_concurrency=2)
    assert next(stream) == (a.ok, 0)
    stream.close()  # type: ignore[attr-defined]
    assert threading.get_ident() == caller
    with pytest.raises(UsageError, match="max_concurrency"):
        sync.Task.async_stream([1], double, max_concurrency=-1)
    assert list(sync.Task.async_stream([], double)) == []


def test_a_stream_ends_after_the_last_element_however_late_that_comes(node: sync.Node) -> None:
    async def elements() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.05)  # the reader has had an outcome, and asked again
        yield 2

    assert list(sync.Task.async_stream(elements(), triple, max_concurrency=4)) == [(a.ok, 3), (a.ok, 6)]


def test_supervised_tasks(node: sync.Node) -> None:
    supervisor = sync.Task.Supervisor.start_link(name="tasks")
    assert sync.Task.Supervisor.async_("tasks", double, 4).await_() == 8
    failing = sync.Task.Supervisor.async_nolink("tasks", divide, 0)
    label, reason = failing.yield_(5) or (None, None)
    assert label is a.exit
    assert reason[0][0] is beamnode.Atom("ZeroDivisionError")
    pid = sync.Task.Supervisor.start_child("tasks", forever)
    assert sync.Task.Supervisor.children(supervisor) == [pid]
    sync.Task.Supervisor.terminate_child("tasks", pid)
    assert list(sync.Task.Supervisor.async_stream("tasks", [1, 2], triple)) == [(a.ok, 3), (a.ok, 6)]
    outcomes = list(sync.Task.Supervisor.async_stream_nolink("tasks", [0, 1], divide))
    assert (outcomes[0][0], outcomes[1]) == (a.exit, (a.ok, 1))


def divide(number: int) -> int:
    return 1 // number


# --- Machines and managers --------------------------------------------------------------------------------------------


class Door(sync.GenStatem):
    callback_mode = ("state_functions", "state_enter")

    def init(self, code: int) -> Any:
        time.sleep(0.001)
        self.code = code
        self.entered: list[Any] = []
        return "locked"

    def locked(self, event: Any, content: Any) -> Any:
        match event, content:
            case ("enter", _):
                self.entered.append(threading.current_thread().name.startswith("beamnode"))
            case ("call", sender), code:
                assert sync.Agent.get("codes", lambda known: known) == self.code
                reply = ReplyTo(sender, code == self.code)
                return NextState("open", reply) if code == self.code else KeepState(reply)
        return None

    def open(self, event: Any, content: Any) -> Any:
        match event:
            case ("call", sender):
                return NextState("locked", ReplyTo(sender, len(self.entered)))
            case "cast":
                return NextState("locked")
        return None


def test_machines(node: sync.Node) -> None:
    sync.Agent.start_link(lambda: 123, name="codes")
    door = Door.start_link(123, name="door")
    assert sync.GenStatem.call("door", 1) is False
    assert sync.GenStatem.call("door", 123) is True
    sync.GenStatem.cast("door", a.push)
    assert sync.GenStatem.call(door, 123, timeout=5) is True
    request = sync.GenStatem.send_request(door, a.shut)
    assert sync.GenStatem.receive_response(request, 5) == 2
    sync.GenStatem.stop(door)
    tree = sync.Supervisor.start_link([Door.child_spec(123, name="door")], strategy="one_for_one")
    assert sync.GenStatem.call("door", 123) is True
    sync.Supervisor.stop(tree)
    with pytest.raises(UsageError, match="would hide call"):
        type("Bad", (sync.GenStatem,), {"call": lambda self, event, content: None})


class Alarms(EventHandler):
    def init(self, args: Any) -> None:
        self.seen: list[Any] = []

    def handle_event(self, event: Any) -> None:
        self.seen.append((event, threading.current_thread().name.startswith("beamnode")))
        time.sleep(0.001)

    def handle_call(self, request: Any) -> Any:
        return self.seen

    def terminate(self, why: Any) -> Any:
        return why


def test_managers_of_events(node: sync.Node) -> None:
    tree = sync.Supervisor.start_link([sync.GenEvent.child_spec(name="alarms")], strategy="one_for_one")
    sync.GenEvent.add_handler("alarms", Alarms, [])
    sync.GenEvent.notify("alarms", 1)
    sync.GenEvent.sync_notify("alarms", 2)
    assert sync.GenEvent.call("alarms", Alarms, a.seen) == [(1, True), (2, True)]
    assert sync.GenEvent.which_handlers("alarms") == [a.Alarms]
    assert sync.GenEvent.delete_handler("alarms", Alarms, a.why) is a.why
    sync.Supervisor.stop(tree)
    manager = sync.GenEvent.start()
    sync.GenEvent.add_sup_handler(manager, Alarms, [])
    sync.GenEvent.stop(manager)
    assert sync.receive(timeout=5) == (a.gen_event_EXIT, a.Alarms, a.shutdown)


# --- Applications -----------------------------------------------------------------------------------------------------


class Shop(sync.Application):
    name = "shop"
    env: ClassVar = {"port": 8080}

    def start(self, kind: Any, args: Any) -> Any:
        assert threading.current_thread().name != "MainThread"
        return sync.Supervisor.start_link([(Counter, 1)], strategy="one_for_one", name="shop_tree"), a.state

    def stop(self, state: Any) -> None:
        time.sleep(0.001)
        stopped.append(state)


stopped: list[Any] = []


def test_applications(node: sync.Node) -> None:
    stopped.clear()
    assert sync.Application.ensure_all_started(Shop) == [a.shop]
    assert sync.Application.get_env("shop", "port") == 8080
    assert [name for name, _, _ in sync.Application.started_applications()] == [a.shop]
    assert sync.Supervisor.count_children("shop_tree")["active"] == 1
    sync.Application.stop(Shop)
    assert stopped == [a.state]
    sync.Application.unload("shop")
    sync.Application.start(Shop)
    sync.Application.stop("shop")


def test_on_the_event_loop_the_awaitable_names_are_used(node: sync.Node) -> None:
    async def on_the_loop() -> None:
        with pytest.raises(UsageError, match="awaitable names"):
            sync.Agent.start(dict)
        with pytest.raises(UsageError, match="awaitable names"):
            sync.Task.async_(double, 1).await_()
        sync.send(owner, a.done)

    owner = sync.self()
    sync.spawn(on_the_loop)
    assert sync.receive(timeout=5) is a.done


def test_a_process_that_was_ended_waits_for_nothing(node: sync.Node) -> None:
    with node.process():
        sync.trap_exit()
        sync.Agent.start_link(lambda: 1, name="agent")
        killed = sync.spawn(sync.exit, sync.self(), a.kill)
        assert killed is not None
        with pytest.raises(ProcessExit):
            sync.Agent.get("agent", lambda state: time.sleep(0.2), timeout=None)
