"""otp/registry.py, registry_tables.py: a registry against a plain model, by names everywhere, from threads."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    AlreadyStarted,
    Atom,
    CallFailed,
    FixedPort,
    GenServer,
    Node,
    Pid,
    ProcessExit,
    UsageError,
    a,
    exit,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_monitor,
    sync,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.errors import NameTakenError, NoProcessError
from beamnode.node import current_body
from beamnode.otp import sys
from beamnode.otp.agent import Agent
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.registry import AlreadyRegistered, Registry
from beamnode.otp.registry_tables import DuplicateTable, UniqueTable
from beamnode.otp.supervisor import Supervisor
from beamnode.otp.task_supervisor import TaskSupervisor

pytestmark = pytest.mark.filterwarnings("error")

Main = Callable[[], Awaitable[None]]


def in_a_node(main: Main, name: str = "n@h") -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node(name, cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


class Member:
    """A process that does what it is told, in its own name."""

    def __init__(self) -> None:
        self.pid = spawn(self._body)

    async def _body(self) -> None:
        while True:
            action, outcome = await receive(lambda message: len(message) == 2)
            if action is None:
                outcome.set_result(None)
                return
            try:
                outcome.set_result(action())
            except Exception as error:
                outcome.set_exception(error)

    async def do(self, action: Callable[[], Any] | None) -> Any:
        outcome = asyncio.get_running_loop().create_future()
        send(self.pid, (action, outcome))
        return await outcome


async def ended(pid: Pid, reason: Any = a.kill) -> None:
    reference = monitor(pid)
    exit(pid, reason)
    await receive(lambda message: message[:2] == (a.DOWN, reference))


# --- Against a model --------------------------------------------------------------------------------------------------


class Model:
    """A registry as a list of (key, pid, value) in the order of registration."""

    def __init__(self, unique: bool) -> None:
        self.unique = unique
        self.entries: list[tuple[Any, Pid, Any]] = []

    def register(self, key: Any, pid: Pid, value: Any) -> Pid | None:
        holders = self.lookup(key)
        if self.unique and holders:
            return holders[0][0]
        self.entries.append((key, pid, value))
        return None

    def unregister(self, key: Any, pid: Pid, predicate: Callable[[Any], Any] = lambda value: True) -> None:
        self.entries = [e for e in self.entries if not (same(e[0], key) and e[1] == pid and predicate(e[2]))]

    def ended(self, pid: Pid) -> None:
        self.entries = [entry for entry in self.entries if entry[1] != pid]

    def lookup(self, key: Any) -> list[tuple[Pid, Any]]:
        return [(pid, value) for other, pid, value in self.entries if same(other, key)]


def same(one: Any, other: Any) -> bool:
    """Elixir's `===`, for the keys of these tests."""
    return type(one) is type(other) and repr(one) == repr(other)


def by_text(entries: Any) -> list[str]:
    return sorted(map(repr, entries))


KEYS = [1, 1.0, True, "1", b"1", Atom("1"), None, (1, "a"), (True, "a"), (1.0, "a"), [1], [True], {"k": 1}, {"k": 1.0}]


async def compare_step(rng: random.Random, members: list[Member], model: Model) -> None:
    member = rng.choice(members)
    key, value, pid = rng.choice(KEYS), rng.randrange(4), member.pid
    match rng.choices(("register", "unregister", "match", "update", "end"), (12, 4, 2, 2, 2))[0]:
        case "register":
            holder = model.register(key, pid, value)
            if holder is None:
                assert await member.do(lambda: Registry.register("reg", key, value)) == whereis("reg")
            else:
                with pytest.raises(AlreadyRegistered) as taken:
                    await member.do(lambda: Registry.register("reg", key, value))
                assert taken.value.pid == holder
        case "unregister":
            model.unregister(key, pid)
            await member.do(lambda: Registry.unregister("reg", key))
        case "match":
            model.unregister(key, pid, lambda found: found < value)
            await member.do(lambda: Registry.unregister_match("reg", key, lambda found: found < value))
        case "update" if model.unique:
            own = [found for holder, found in model.lookup(key) if holder == pid]
            result = await member.do(lambda: Registry.update_value("reg", key, lambda found: found + 1))
            assert result == ((own[0] + 1, own[0]) if own else None)
            if own:
                model.unregister(key, pid)
                model.register(key, pid, own[0] + 1)
        case "end":
            members.remove(member)
            model.ended(pid)
            if rng.random() < 0.5:
                exit(pid, a.kill)  # nobody waits: it must not be seen from now on
                assert Registry.keys("reg", pid) == Registry.values("reg", key, pid) == []
            else:
                await ended(pid)
            members.append(Member())


def compare_all(rng: random.Random, members: list[Member], model: Model) -> None:
    key = rng.choice(KEYS)
    assert by_text(Registry.lookup("reg", key)) == by_text(model.lookup(key))
    assert Registry.count("reg") == len(model.entries)
    assert by_text(Registry.select("reg")) == by_text(model.entries)
    assert by_text(Registry.match("reg", key, lambda value: value > 1)) == by_text(
        entry for entry in model.lookup(key) if entry[1] > 1
    )
    for member in members:
        assert by_text(Registry.keys("reg", member.pid)) == by_text(e[0] for e in model.entries if e[1] == member.pid)
        own = [value for pid, value in model.lookup(key) if pid == member.pid]
        assert Registry.values("reg", key, member.pid) == own
    if model.unique:
        holders = model.lookup(key)
        assert Registry.whereis_name(("reg", key)) == (holders[0][0] if holders else None)


@pytest.mark.parametrize("kind", ["unique", "duplicate"])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_as_a_plain_model(seed: int, kind: Any) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        registry = await Registry.start_link(keys=kind, name="reg")
        members = [Member() for _ in range(5)]
        model = Model(kind == "unique")
        for _ in range(400):
            await compare_step(rng, members, model)
            compare_all(rng, members, model)
        linked = {pid for _, pid, _ in model.entries} | {self()}
        await asyncio.sleep(0)
        info = process_info(registry)
        assert info is not None
        assert set(info["links"]) == linked
        for member in members:
            await ended(member.pid)
        assert (Registry.count("reg"), Registry.select("reg")) == (0, [])
        await sys.get_state(registry)  # it has come to all the ends
        assert Registry.count("reg") == 0

    in_a_node(main)


@pytest.mark.parametrize("table", [UniqueTable(), DuplicateTable()])
def test_an_emptied_table_holds_nothing(table: Any) -> None:
    async def main() -> None:
        owner = current_body().process
        for key in (1, 1.0, "a"):
            table.add(owner, key, 1)
        table.remove(owner.pid, 1)
        table.remove(owner.pid, "a", lambda value: False)
        assert (len(table), table.owners()) == (2, [owner.pid])
        table.forget(owner.pid)
        assert [value for value in vars(table).values() if value] == []

    in_a_node(main)


# --- Its rules --------------------------------------------------------------------------------------------------------


def test_a_key_of_an_ended_process_is_free_at_once() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="reg")
        member = Member()
        await member.do(lambda: Registry.register("reg", "key", 1))
        with pytest.raises(AlreadyRegistered) as taken:
            Registry.register("reg", "key")
        assert taken.value.pid == member.pid
        assert isinstance(taken.value, NameTakenError)
        exit(member.pid, a.kill)
        assert Registry.lookup("reg", "key") == []
        assert Registry.whereis_name(("reg", "key")) is None
        assert Registry.keys("reg", member.pid) == []
        Registry.register("reg", "key", 2)
        assert Registry.lookup("reg", "key") == [(self(), 2)]
        with pytest.raises(AlreadyRegistered):
            Registry.register("reg", "key")
        await sys.get_state("reg")  # it has come to the end of the one before
        assert Registry.lookup("reg", "key") == [(self(), 2)]
        assert Registry.keys("reg", self()) == ["key"]

    in_a_node(main)


def test_only_who_has_ended_is_forgotten() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="reg")
        member = Member()
        await member.do(lambda: Registry.register("reg", "key"))
        send("reg", (a.EXIT, member.pid, a.normal))
        await sys.get_state("reg")
        assert Registry.lookup("reg", "key") == [(member.pid, None)]

    in_a_node(main)


def test_who_is_registered_is_linked_while_it_is() -> None:
    async def main() -> None:
        trap_exit()
        registry = await Registry.start_link(keys="duplicate", name="reg")
        Registry.register("reg", "mine")
        Registry.unregister("reg", "mine")  # its parent stays linked
        member, other, trapping = Member(), Member(), Member()
        for each in (member, other, trapping):
            await each.do(lambda: (Registry.register("reg", "key", 1), Registry.register("reg", "key", 2)))
        await trapping.do(trap_exit)
        await other.do(lambda: Registry.unregister_match("reg", "key", lambda value: value == 1))
        assert Registry.values("reg", "key", other.pid) == [2]
        await other.do(lambda: Registry.unregister("reg", "key"))
        references = {monitor(each.pid): each.pid for each in (member, other, trapping)}
        exit(registry, a.kill)
        _, reference, _, pid, reason = await receive(lambda message: message[0] is a.DOWN)
        assert (references[reference], reason) == (member.pid, a.killed) == (pid, reason)
        assert await receive(timeout=5) == (a.EXIT, registry, a.killed)
        assert process_info(other.pid) is not None
        assert process_info(trapping.pid) is not None
        with pytest.raises(NoProcessError, match="no registry named reg"):
            Registry.lookup("reg", "key")

    in_a_node(main)


def test_an_orderly_end_of_the_registry_is_one_of_those_that_are_registered() -> None:
    async def main() -> None:
        trap_exit()
        for reason in (a.normal, a.shutdown):
            registry = await Registry.start_link(keys="unique", name="reg")
            member = Member()
            await member.do(lambda: Registry.register("reg", "key"))
            reference = monitor(member.pid)
            trapping = Member()
            await trapping.do(lambda: (trap_exit(), Registry.register("reg", "other")))
            await GenServer.stop(registry, reason)
            down = await receive(lambda message: message[0] is a.DOWN, timeout=5)
            assert down == (a.DOWN, reference, a.process, member.pid, a.shutdown)
            assert await receive(timeout=5) == (a.EXIT, registry, reason)
            told = await trapping.do(lambda: list(current_body().process.mailbox))
            assert told == [(a.EXIT, registry, a.shutdown)]
            assert current_body().runtime.tables["registry"] == {}

    in_a_node(main)


def test_listeners_are_told() -> None:
    async def main() -> None:
        register("listener", self())
        await Registry.start_link(keys="duplicate", name="reg", listeners=["listener", "nobody"])
        member = Member()
        await member.do(lambda: Registry.register("reg", "key", 1))
        assert await receive(timeout=5) == (a.register, a.reg, "key", member.pid, 1)
        await member.do(lambda: Registry.register("reg", "key", 2))
        assert await receive(timeout=5) == (a.register, a.reg, "key", member.pid, 2)
        await member.do(lambda: Registry.unregister_match("reg", "key", lambda value: value == 1))  # one is left
        await member.do(lambda: Registry.unregister_match("reg", "key", lambda value: value == 2))
        assert await receive(timeout=5) == (a.unregister, a.reg, "key", member.pid)
        await member.do(lambda: Registry.unregister("reg", "other"))  # Elixir's tells this, too
        assert await receive(timeout=5) == (a.unregister, a.reg, "other", member.pid)
        await member.do(lambda: Registry.register("reg", "key", 3))
        assert await receive(timeout=5) == (a.register, a.reg, "key", member.pid, 3)
        await ended(member.pid)
        with pytest.raises(TimeoutError):
            await receive(timeout=0.01)

    in_a_node(main)


def test_dispatch() -> None:
    async def main() -> None:
        await Registry.start_link(keys="duplicate", name="reg", partitions=4)
        Registry.register("reg", "topic", 1)
        Registry.register("reg", "topic", 2)
        Registry.dispatch("reg", "topic", lambda entries: [send(pid, (a.news, value)) for pid, value in entries])
        assert [await receive(timeout=5), await receive(timeout=5)] == [(a.news, 1), (a.news, 2)]
        Registry.dispatch("reg", "nobody's", lambda entries: send(self(), a.never))
        with pytest.raises(ZeroDivisionError):
            Registry.dispatch("reg", "topic", lambda entries: 1 // 0)

        async def later(entries: Any) -> None: ...

        with pytest.raises(UsageError, match="takes a def"):
            Registry.dispatch("reg", "topic", later)
        assert Registry.count_match("reg", "topic", lambda value: value > 1) == 1
        assert Registry.count_select("reg", lambda key, pid, value: pid == self()) == 2
        assert Registry.select("reg", lambda key, pid, value: value == 1) == [("topic", self(), 1)]
        with pytest.raises(TimeoutError):
            await receive(timeout=0)

    in_a_node(main)


def test_meta() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="reg", meta={"a": 1})
        assert Registry.meta("reg", "a") == 1
        assert Registry.meta("reg", "b") is None
        Registry.put_meta("reg", ("b", 1), None)
        assert Registry.meta("reg", ("b", 1), "default") is None
        Registry.delete_meta("reg", ("b", 1))
        Registry.delete_meta("reg", ("b", 1))
        assert Registry.meta("reg", ("b", 1), "default") == "default"

    in_a_node(main)


def test_misuse_is_told() -> None:
    async def main() -> None:
        trap_exit()
        for options in (
            {"keys": "bag", "name": "reg"},
            {"keys": "unique", "name": 1},
            {"keys": "unique", "name": "reg", "partitions": 0},
            {"keys": "unique", "name": "reg", "listeners": "one"},
        ):
            with pytest.raises(UsageError):
                await Registry.start_link(**options)  # type: ignore[arg-type]
        pid = await Registry.start_link(keys=a.duplicate, name=a.reg)
        with pytest.raises(AlreadyStarted) as started:
            await Registry.start_link(keys="unique", name="reg")
        assert started.value.pid == pid
        with pytest.raises(UsageError, match="duplicate keys: update_value"):
            Registry.update_value("reg", "key", str)
        with pytest.raises(UsageError, match="duplicate keys: a `via` name"):
            Registry.whereis_name(("reg", "key"))
        with pytest.raises(UsageError, match="no hash"):
            Registry.register("reg", {1, 2})
        with pytest.raises(UsageError, match="is not the current process"):
            Registry.register_name(("reg", "key"), pid)
        with pytest.raises(UsageError, match="a name of a Registry is"):
            Registry.whereis_name(("reg",))
        with pytest.raises(UsageError, match="is named by"):
            Registry.lookup(pid, "key")  # type: ignore[arg-type]
        register("other", self())
        with pytest.raises(NoProcessError, match="no registry named other"):
            Registry.lookup("other", "key")
        await Registry.start_link(keys="unique", name="names")
        with pytest.raises(NoProcessError, match="nobody is registered"):
            Registry.send(("names", "key"), a.hello)

    in_a_node(main)


def test_an_ended_process_that_still_runs_registers_nothing() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="reg")
        tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def body() -> None:
            with pytest.raises(ProcessExit):
                exit(self(), a.kill)
            with pytest.raises(ProcessExit):
                Registry.register("reg", "key")
            tried.set_result(None)

        spawn(body)
        await tried
        assert Registry.count("reg") == 0

    in_a_node(main)


# --- As names ---------------------------------------------------------------------------------------------------------


class Room(GenServer):
    def init(self, topic: str) -> None:
        self.topic = topic
        self.heard: list[Any] = []

    def handle_call(self, request: Any, sender: Any) -> Any:
        return (self.topic, self.heard)

    def handle_cast(self, request: Any) -> None:
        self.heard.append(request)

    def handle_info(self, message: Any) -> None:
        self.heard.append(message)


def room(key: Any) -> Any:
    return ("via", Registry, ("rooms", key))


def test_servers_are_started_called_and_stopped_by_via_names() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="rooms")
        pid = await Room.start("cats", name=room(7))
        assert GenServer.whereis(room(7)) == pid
        with pytest.raises(AlreadyStarted) as taken:
            await Room.start("dogs", name=room(7))
        assert taken.value.pid == pid
        GenServer.cast(room(7), a.cast)
        assert Registry.send(("rooms", 7), a.info) is a.info
        assert await GenServer.call(room(7), a.who) == ("cats", [a.cast, a.info])
        request = GenServer.send_request(room(7), a.who)
        assert await GenServer.receive_response(request, 5) == ("cats", [a.cast, a.info])
        assert await sys.get_state(room(7)) == {a.topic: "cats", a.heard: [a.cast, a.info]}
        await GenServer.stop(room(7))
        assert GenServer.whereis(room(7)) is None
        with pytest.raises(CallFailed) as failed:
            await GenServer.call(room(7), a.who)
        assert failed.value.cause is a.noproc
        with pytest.raises(ProcessExit):
            await GenServer.stop(room(7))
        other = await Room.start_link("dogs", name=("via", Registry, ("rooms", 7, "value")))
        assert Registry.lookup("rooms", 7) == [(other, "value")]
        assert await GenServer.call(("via", Registry, ("rooms", 7, "any")), a.who) == ("dogs", [])

    in_a_node(main)


def test_agents_have_via_names() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="rooms")
        await Agent.start_link(lambda: 1, name=room("agent"))
        await Agent.update(room("agent"), lambda state: state + 1)
        Agent.cast(room("agent"), lambda state: state * 10)
        assert await Agent.get(room("agent"), lambda state: state) == 20
        assert await Agent.get_and_update(room("agent"), lambda state: (state, 0)) == 20
        await Agent.stop(room("agent"))
        assert GenServer.whereis(room("agent")) is None

    in_a_node(main)


async def becomes(key: Any, before: Pid | None) -> Pid:
    """Who has a key of `rooms`, when it is another than before."""
    while True:
        with contextlib.suppress(NoProcessError):  # the registry itself may be the one that is started again
            pid = GenServer.whereis(room(key))
            if pid is not None and pid != before:
                return pid
        await asyncio.sleep(0.001)


def test_children_of_a_supervisor_have_via_names() -> None:
    async def main() -> None:
        children = [
            Registry.child_spec(keys="unique", name="rooms"),
            Supervisor.child_spec(Room.child_spec("cats", name=room("cats")), id="cats"),
            Supervisor.child_spec(Agent.child_spec(dict, name=room("agent")), id="agent"),
            DynamicSupervisor.child_spec(name=room("dynamic")),
            Supervisor.child_spec(TaskSupervisor.child_spec(name=room("tasks")), id="tasks"),
        ]
        await Supervisor.start_link(children, strategy="rest_for_one", name="tree")
        cats = await becomes("cats", None)
        exit(cats, a.kill)
        assert await GenServer.call(await becomes("cats", cats), a.who) == ("cats", [])
        assert await Agent.get(room("agent"), lambda state: state) == {}
        assert await DynamicSupervisor.start_child(room("dynamic"), (Room, "dogs")) is not None
        assert await (await TaskSupervisor.async_(room("tasks"), lambda: 5)) == 5
        assert Registry.count("rooms") == 4
        registry, cats = whereis("rooms"), await becomes("cats", None)
        assert registry is not None
        exit(registry, a.kill)  # takes all that is registered along, and they register again
        await becomes("cats", cats)
        assert await Agent.get(await becomes("agent", None), lambda state: state) == {}
        await becomes("tasks", None)
        assert Registry.count("rooms") == 4
        await Supervisor.stop("tree")

    in_a_node(main)


def test_a_child_specification() -> None:
    assert Registry.child_spec(keys="unique", name="rooms")["id"] is a.rooms

    async def main() -> None:
        function, args = Registry.child_spec(keys="unique", name="rooms")["start"]
        pid = await function(*args)
        assert whereis("rooms") == pid

    in_a_node(main)


# --- Nodes and threads ------------------------------------------------------------------------------------------------


def test_each_node_has_its_own() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="reg")
        Registry.register("reg", "key", 1)
        carrier = MemoryNetwork().carrier("h")
        async with Node("two@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            with pytest.raises(NoProcessError):
                Registry.lookup("reg", "key")
            await Registry.start_link(keys="unique", name="reg")
            Registry.register("reg", "key", 2)
            assert Registry.lookup("reg", "key") == [(self(), 2)]
        assert Registry.lookup("reg", "key") == [(self(), 1)]

    in_a_node(main)


def test_threads_use_it_as_well() -> None:
    async def main() -> None:
        await Registry.start_link(keys="unique", name="reg")
        await Registry.start_link(keys="duplicate", name="bag")
        await Room.start("cats", name=("via", Registry, ("reg", "room")))
        owner = self()

        def body() -> None:
            Registry.register("reg", sync.self(), 1)
            assert Registry.lookup("reg", sync.self()) == [(sync.self(), 1)]
            assert Registry.update_value("reg", sync.self(), lambda value: value + 1) == (2, 1)
            for number in range(20):
                Registry.register("bag", number % 3, number)
                Registry.lookup("bag", number % 3)
            Registry.unregister_match("bag", 0, lambda value: value > 10)
            with pytest.raises(AlreadyRegistered):
                Registry.register("reg", "room")
            assert sync.GenServer.call(("via", Registry, ("reg", "room")), a.who) == ("cats", [])
            sync.send(owner, (a.done, sync.self()))
            sync.receive()

        pids = [spawn_monitor(body)[0] for _ in range(4)]
        for _ in pids:
            message = await receive(timeout=10)
            assert message[0] is a.done, message
        assert Registry.count("reg") == 5
        assert Registry.count("bag") == 4 * 17
        for pid in pids:
            exit(pid, a.kill)
        assert [Registry.count("reg"), Registry.count("bag"), Registry.lookup("bag", 1)] == [1, 0, []]

    in_a_node(main)
