"""What peers learn of a Python node: its processes, its names, its memory, and where each process waits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from rpc_support import HOST, RpcWorld, until

from beamnode import Atom, GenServer, Node, Pid, a, exit, monitor, process_info, receive, self, send, spawn, sync
from beamnode.otp import proc_lib
from beamnode.otp.supervisor import Supervisor
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[RpcWorld]:
    with RpcWorld(otp) as world:
        yield world


class Scene:
    """One node of ours, and the peer asking it."""

    def __init__(self, world: RpcWorld, node: Node) -> None:
        self.world = world
        self.node = node

    async def call(self, module: str, function: str, *args: Any) -> Any:
        """`rpc:call(Node, ...)` on the peer."""
        source = "rpc:call(Node, Module, Function, Args)"
        bindings = {"Module": Atom(module), "Function": Atom(function), "Args": list(args)}
        return await self.world.erl(source, Node=self.node.name, **bindings)

    async def erlang(self, function: str, *args: Any) -> Any:
        return await self.call("erlang", function, *args)


def on_a_node(test: Callable[[Scene], Awaitable[None]], **options: Any) -> Callable[[RpcWorld], None]:
    def run(world: RpcWorld) -> None:
        async def main() -> None:
            async with world.node(**options) as node:
                await test(Scene(world, node))

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class Counter(GenServer):
    def init(self) -> None:
        proc_lib.set_label((a.counter, 1))


async def waits() -> None:
    await receive()  # the coroutine waits here


def blocks() -> None:
    sync.receive()  # the thread waits here


def place(function: Any) -> tuple[Any, ...]:
    lines, first = inspect.getsourcelines(function)
    line = first + next(number for number, text in enumerate(lines) if "waits here" in text)
    where = [(a.file, list(__file__.encode())), (a.line, line)]
    return a.test_otp_introspection, Atom(function.__name__), 0, where


def badrpc(reason: Any, module: str, function: str, *args: Any) -> Any:
    return (a.badrpc, (a.EXIT, (reason, [(Atom(module), Atom(function), list(args), [])])))


# --- One process ------------------------------------------------------------------------------------------------------


@on_a_node
async def test_each_item_of_a_server(scene: Scene) -> None:
    own = self()
    pid = await Counter.start_link(name="counter")
    leader = process_info(pid, "group_leader")
    location = await scene.erlang("process_info", pid, a.current_location)
    assert location[1][0] is Atom("beamnode.otp.server_loop")
    for item, value in {
        "async_dist": False,
        "current_function": location[1][:3],
        "dictionary": [
            (a["$initial_call"], (a.Counter, a.init, 1)),
            (a["$ancestors"], [own]),
            (a["$process_label"], (a.counter, 1)),
        ],
        "error_handler": a.error_handler,
        "garbage_collection": [],
        "group_leader": leader,
        "heap_size": 0,
        "initial_call": (a.Counter, a.init, 1),
        "label": (a.counter, 1),
        "links": [own],
        "message_queue_len": 0,
        "messages": [],
        "monitored_by": [],
        "monitors": [],
        "parent": own,
        "priority": a.normal,
        "reductions": 0,
        "registered_name": a.counter,
        "stack_size": 0,
        "status": a.waiting,
        "suspending": [],
        "total_heap_size": 0,
        "trap_exit": False,
    }.items():
        assert await scene.erlang("process_info", pid, Atom(item)) == (Atom(item), value), item
    key = (a.dictionary, a["$process_label"])
    assert await scene.erlang("process_info", pid, key) == (key, (a.counter, 1))
    assert await scene.erlang("process_info", pid, (a.dictionary, [1])) == ((a.dictionary, [1]), a.undefined)
    absent = (a.dictionary, a.absent)
    assert await scene.erlang("process_info", pid, [absent, a.status]) == [(absent, a.undefined), (a.status, a.waiting)]
    item, size = await scene.erlang("process_info", pid, a.memory)
    assert (item, 500 < size < 50_000) == (a.memory, True)
    assert await scene.call("proc_lib", "translate_initial_call", pid) == (a.Counter, a.init, 1)
    assert await scene.call("proc_lib", "get_label", pid) == (a.counter, 1)


@on_a_node
async def test_the_items_that_are_asked_without_naming_any(scene: Scene) -> None:
    """In OTP's shapes and order: what the peer says of a process of its own has each of them."""
    pid = spawn(waits)
    await asyncio.sleep(0)
    ours = await scene.erlang("process_info", pid)
    theirs = await scene.world.erl("process_info(whereis(kernel_sup))")
    names = [name for name, _ in theirs if name is not a.registered_name]
    assert [name for name, _ in ours] == names
    assert dict(ours)[a.current_function] == (a.test_otp_introspection, a.waits, 0)
    registered = await scene.erlang("process_info", await scene.erlang("whereis", a.rex))
    assert registered[0] == (a.registered_name, a.rex)
    assert await scene.erlang("process_info", pid, a.registered_name) == []
    assert await scene.erlang("process_info", pid, [a.registered_name]) == [(a.registered_name, [])]


@on_a_node
async def test_where_a_process_waits(scene: Scene) -> None:
    for function in (waits, blocks):
        pid = spawn(function)
        await until(lambda pid=pid: process_info(pid, "status") == "waiting")
        assert await scene.erlang("process_info", pid, a.current_stacktrace) == (
            a.current_stacktrace,
            [place(function)],
        )
        assert await scene.erlang("process_info", pid, a.current_location) == (a.current_location, place(function))
        _, text = await scene.erlang("process_info", pid, a.backtrace)
        assert text.decode().startswith(f"{__file__}:{place(function)[3][1][1]}, in ")
        await scene.world.erl("Pid ! go", Pid=pid)


@on_a_node
async def test_messages_and_ties(scene: Scene) -> None:
    pid = spawn(selective)
    sent = [(a.term, 1), {b"key": 2.5}]
    for message in sent:
        await scene.world.erl("Pid ! Message", Pid=pid, Message=message)
    await until(lambda: process_info(pid, "message_queue_len") == 2)
    send(pid, unsendable := object())
    source = "spawn(fun () -> monitor(process, Pid), receive stop -> ok end end)"
    theirs = await scene.world.erl(source, Pid=pid)
    await until(lambda: process_info(pid, "monitored_by"))
    items = [a.message_queue_len, a.messages, a.monitored_by, a.monitors]
    found = dict(await scene.erlang("process_info", pid, items))
    *first, odd = found[a.messages]
    assert first == sent
    assert odd == repr(unsendable).encode()
    assert (found[a.message_queue_len], found[a.monitored_by]) == (3, [theirs])
    assert found[a.monitors] == [(a.process, (a.rex, Atom(f"b@{HOST}"))), (a.process, (a.user, scene.node.name))]


async def selective() -> None:
    monitor(("rex", f"b@{HOST}"))
    monitor("user")
    await receive(lambda message: message is a.never)


@on_a_node
async def test_what_is_not_there(scene: Scene) -> None:
    pid = spawn(waits)
    await scene.world.erl("Pid ! go", Pid=pid)
    await until(lambda: process_info(pid) is None)
    assert await scene.erlang("process_info", pid) is a.undefined
    assert await scene.erlang("process_info", pid, [a.links]) is a.undefined
    assert await scene.erlang("is_process_alive", pid) is False
    assert await scene.erlang("is_process_alive", self()) is True
    theirs = await scene.world.erl("self()")
    assert isinstance(theirs, Pid)
    for function in ("process_info", "is_process_alive"):
        assert await scene.erlang(function, theirs) == badrpc(a.badarg, "erlang", function, theirs)
    nonsense = badrpc(a.badarg, "erlang", "process_info", self(), a.nonsense)
    assert await scene.erlang("process_info", self(), a.nonsense) == nonsense
    assert await scene.erlang("whereis", 3) == badrpc(a.badarg, "erlang", "whereis", 3)
    assert await scene.erlang("whereis", a.nobody) is a.undefined
    assert await scene.erlang("processes", 1) == badrpc(a.undef, "erlang", "processes", 1)


# --- The node ---------------------------------------------------------------------------------------------------------


@on_a_node
async def test_the_node(scene: Scene) -> None:
    pid = await Counter.start(name="counter")
    processes = await scene.erlang("processes")
    assert {pid, self()} <= set(processes)
    assert await scene.erlang("whereis", a.counter) == pid
    assert {a.counter, a.rex, a.net_kernel} <= set(await scene.erlang("registered"))
    assert await scene.erlang("node") is scene.node.name
    assert await scene.erlang("nodes") == [Atom(f"b@{HOST}")]
    assert await scene.erlang("nodes", [a.this, a.connected]) == [scene.node.name, Atom(f"b@{HOST}")]
    assert await scene.erlang("nodes", a.nonsense) == badrpc(a.badarg, "erlang", "nodes", a.nonsense)
    assert await scene.erlang("system_info", a.process_count) == len(processes)
    assert await scene.erlang("system_info", a.otp_release) == list(b"25")
    assert await scene.erlang("system_info", (a.wordsize, a.external)) == 8
    assert await scene.erlang("system_info", a.nope) == badrpc(a.badarg, "erlang", "system_info", a.nope)


@on_a_node
async def test_memory_and_statistics(scene: Scene) -> None:
    theirs = await scene.world.erl("erlang:memory()")
    memory = dict(await scene.erlang("memory"))
    assert set(memory) == {name for name, _ in theirs}
    assert memory[a.total] == memory[a.processes] + memory[a.system] > 10_000_000
    assert await scene.erlang("memory", [a.ets, a.code]) == [(a.ets, 0), (a.code, 0)]
    for item in ("runtime", "wall_clock", "reductions", "io", "garbage_collection", "run_queue", "total_active_tasks"):
        ours = await scene.erlang("statistics", Atom(item))
        shape = await scene.world.erl("statistics(Item)", Item=Atom(item))
        assert shape_of(ours) == shape_of(shape), item
    total, _ = await scene.erlang("statistics", a.wall_clock)
    again, since = await scene.erlang("statistics", a.wall_clock)
    assert again - total == since >= 0
    (_, came), (_, left) = await scene.erlang("statistics", a.io)
    assert came > 100
    assert left > 100


def shape_of(term: Any) -> Any:
    return tuple(shape_of(part) for part in term) if isinstance(term, tuple) else type(term)


@on_a_node
async def test_elixir_asks(scene: Scene) -> None:
    pid = await Counter.start(name="counter")
    elixir = scene.world.elixir
    bindings = {"py": scene.node.name, "pid": pid}
    info = await elixir(":rpc.call(py, Process, :info, [pid])", **bindings)
    assert info == await scene.erlang("process_info", pid)
    assert await elixir(":rpc.call(py, Process, :info, [pid, [:status, :links]])", **bindings) == [
        (a.status, a.waiting),
        (a.links, []),
    ]
    assert await elixir(
        ":rpc.call(py, Process, :info, [hd(:rpc.call(py, Process, :list, [])), :trap_exit])", **bindings
    )
    assert await elixir(":rpc.call(py, Process, :alive?, [pid])", **bindings) is True
    assert await elixir(":rpc.call(py, Process, :whereis, [:counter])", **bindings) == pid
    assert await elixir(":rpc.call(py, Process, :whereis, [:nobody])", **bindings) is None
    assert await elixir(":erpc.call(py, Node, :self, [])", **bindings) is scene.node.name
    await GenServer.stop(pid)
    assert await elixir(":rpc.call(py, Process, :info, [pid])", **bindings) is None


@on_a_node
async def test_what_observer_asks(scene: Scene) -> None:
    pid = await Counter.start(name="counter")
    theirs = await scene.world.erl("observer_backend:sys_info()")
    ours = dict(await scene.call("observer_backend", "sys_info"))
    assert {name for name, _ in theirs} <= set(ours)
    source = """
        Asking = self(),
        spawn(Node, observer_backend, Function, [Asking]),
        receive {procs_info, _, Processes} -> Processes; {P, Info} when is_pid(P) -> Info after 10000 -> none end
    """
    for function in ("procs_info", "etop_collect"):
        found = await scene.world.erl(source, Node=scene.node.name, Function=Atom(function))
        records = found if function == "procs_info" else found[-1]
        [record] = [one for one in records if one[1] == pid]
        assert record[0] is a.etop_proc_info
        assert (record[4], record[7]) == (a.counter, 0)


# --- The policy -------------------------------------------------------------------------------------------------------


async def asked_of(world: RpcWorld, **options: Any) -> list[Any]:
    async with world.node(**options) as node:
        scene = Scene(world, node)
        answers = [await scene.erlang("whereis", a.rex), await scene.erlang("node")]
        return ["refused" if isinstance(answer, tuple) else "answered" for answer in answers]


def test_the_policy_decides(world: RpcWorld) -> None:
    asked: list[Any] = []

    def hook(call: Any) -> str:
        asked.append((str(call), call.node))
        return "nothing" if call.function is a.whereis else "exposed"

    async def main() -> None:
        assert await asked_of(world) == await asked_of(world, policy="everything") == ["answered"] * 2
        assert await asked_of(world, policy="nothing") == ["refused"] * 2
        assert await asked_of(world, policy=hook) == ["refused", "answered"]

    asyncio.run(main())
    assert asked == [("erlang:whereis/1", world.name), ("erlang:node/0", world.name)]


@on_a_node
async def test_what_was_exposed_goes_first(scene: Scene) -> None:
    scene.node.expose(lambda: a.mine, module="erlang", name="processes")
    assert await scene.erlang("processes") is a.mine


# --- Crashes ----------------------------------------------------------------------------------------------------------


class Fails(GenServer):
    def init(self, path: Any) -> None:
        self.path = path

    def handle_cast(self, request: Any) -> None:
        raise ValueError(f"cannot {request.decode()}")


async def starts_and_fails(said: bytes) -> None:
    pid = await Fails.start(b"/data", name="fails")
    GenServer.cast(pid, said)


@on_a_node
async def test_a_crash_is_told_where_its_group_leader_is(scene: Scene) -> None:
    """Once, in one piece, by `logger` of Erlang and then by that of Elixir."""
    scene.node.expose(starts_and_fails, module="py", name="starts_and_fails")
    for step, said in enumerate((b"first", b"second")):
        if step:
            assert await scene.world.elixir("match?({:ok, _}, Application.ensure_all_started(:logger))") is True
        source = "group_leader(whereis(user), self()), spawn(Node, py, starts_and_fails, [Said])"
        begin = len(scene.world.peer.log())
        await scene.world.erl(source, Node=scene.node.name, Said=said)
        await until(lambda begin=begin: "Ancestors:" in scene.world.peer.log()[begin:])
        text = scene.world.peer.log()[begin:]
        parts = [
            "Fails Pid<",
            f"(fails) has ended: ValueError('cannot {said.decode()}')",
            "Traceback (most recent call last):",
            f'File "{__file__}", line ',
            f"ValueError: cannot {said.decode()}",
            "Last message: (Atom('$gen_cast'), b'",
            "State: path=b'/data'",
            "Ancestors: [Pid<",
        ]
        places = [text.find(part) for part in parts]
        assert -1 not in places, text
        assert places == sorted(places), text
        assert text.count("Traceback") == 1, text


def fails_in_a_thread() -> None:
    raise ValueError("in a thread")


async def supervises() -> None:
    top = await Supervisor.start_link([Counter], strategy="one_for_one", name="top")
    [(_, pid, _, _)] = await Supervisor.which_children(top)
    exit(pid, a.kill)
    await receive()


@on_a_node
async def test_what_else_is_told_there(scene: Scene) -> None:
    """A crash in a thread, and what a supervisor reports; not that its children have started."""
    for function, last in ((fails_in_a_thread, "ValueError: in a thread"), (supervises, "Offender: ")):
        scene.node.expose(function, module="py", name=function.__name__)
        begin = len(scene.world.peer.log())
        source = "group_leader(whereis(user), self()), spawn(Node, py, Function, [])"
        await scene.world.erl(source, Node=scene.node.name, Function=Atom(function.__name__))
        await until(lambda begin=begin, last=last: last in scene.world.peer.log()[begin:])
        text = scene.world.peer.log()[begin:]
        assert "started " not in text.partition("Offender: ")[0]
    assert "Supervisor top: child_terminated" in text
    assert "Reason: Atom('killed')" in text
