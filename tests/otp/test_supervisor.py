"""otp/supervisor.py, supervisor_server.py, supervision.py, child_specs.py: supervisors of ours among themselves."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys as python
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from beamnode import (
    AlreadyStarted,
    Atom,
    CallFailed,
    FixedPort,
    GenServer,
    Ignore,
    Node,
    Pid,
    ProcessExit,
    StartFailed,
    UsageError,
    a,
    exit,
    process_info,
    receive,
    self,
    send,
    spawn_link,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import child_specs, gen, supervision, sys
from beamnode.otp.child_specs import BadChildSpec, ChildSpec, checked, key_of
from beamnode.otp.supervisor import Supervisor, SupervisorError

pytestmark = pytest.mark.filterwarnings("error")

HERE = Atom("n@h")
LOG = logging.getLogger("beamnode.supervisor").name


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            trap_exit()
            await main()

    asyncio.run(whole())


class Counter(GenServer):
    def init(self, start: int = 0) -> None:
        self.count = start

    def handle_call(self, request: Any, sender: Any) -> Any:
        match request:
            case a.get:
                return self.count
            case a.crash:
                raise RuntimeError("boom")


class Teller(GenServer, restart="transient"):
    """Tells an owner of its start and its end."""

    def init(self, owner: Pid, name: str, start: Any = None) -> Any:
        trap_exit()
        self.owner, self.name = owner, name
        if start is not None:
            raise start
        send(owner, (a.started, name))

    def terminate(self, reason: Any) -> None:
        send(self.owner, (a.ended, self.name, reason))


class Tree(Supervisor, shutdown=30):
    def init(self, *numbers: int, strategy: str = "one_for_one") -> Any:
        return Supervisor.init(
            [Supervisor.child_spec((Counter, number), id=number) for number in numbers], strategy=strategy
        )


async def child(supervisor: Any, id: Any) -> Any:
    return {key_of(found): pid for found, pid, _, _ in await Supervisor.which_children(supervisor)}[key_of(id)]


async def heard(count: int) -> list[Any]:
    return [(await receive(timeout=5))[1:] for _ in range(count)]


# --- Specifications ---------------------------------------------------------------------------------------------------


def test_every_shape_of_a_specification() -> None:
    spec = checked((Counter, 1), HERE)
    assert (spec.id, spec.restart, spec.type, spec.shutdown) == (Counter, a.permanent, a.worker, 5.0)
    assert spec.modules == [Atom("test_supervisor.Counter")]
    assert checked(Counter, HERE).start == (Counter.start_link, ())
    assert checked(Teller, HERE).restart is a.transient
    tree = checked((Tree, 1), HERE)
    assert (tree.type, tree.shutdown, tree.modules) == (a.supervisor, 30.0, [Atom("test_supervisor.Tree")])
    assert checked({"id": 1, "start": (print, []), "type": "supervisor"}, HERE).shutdown is None
    assert checked({"id": 1, "start": (print, []), "shutdown": None}, HERE).shutdown is None
    assert checked({"id": 1, "start": (print, []), "shutdown": "brutal_kill"}, HERE).shutdown is a.brutal_kill
    assert checked({"id": 1, "start": (print, []), "modules": "dynamic"}, HERE).modules is a.dynamic
    assert Supervisor.child_spec((Counter, 1), id="x", restart="temporary") == {
        "id": "x",
        "start": (Counter.start_link, (1,)),
        "restart": "temporary",
    }
    otp = {a.id: 1, a.start: (a.m, a.f, [2]), a.shutdown: 1500, a.restart: a.temporary, a.significant: True}
    ours = checked(otp, HERE, foreign=True)
    assert (ours.shutdown, ours.significant) == (1.5, True)
    assert ours.as_term() == otp | {a.type: a.worker, a.modules: [a.m]}
    old = checked((1, (a.m, a.f, [2]), a.transient, a.brutal_kill, a.supervisor, a.dynamic), HERE, foreign=True)
    assert old.as_record() == (
        *(a.child, a.undefined, 1, (a.m, a.f, [2]), a.transient, False, a.brutal_kill, a.supervisor, a.dynamic),
    )


def test_a_start_has_a_name_for_peers() -> None:
    def named(start: Any) -> Any:
        return checked({"id": 1, "start": (start, [])}, HERE).as_term()[a.start][:2]

    module = a.test_supervisor
    assert named(Counter.start_link) == (module, Atom("Counter.start_link"))
    assert named(partial(Counter.start_link, name="x")) == (module, Atom("Counter.start_link"))
    assert named(in_a_node) == (module, a.in_a_node)
    spec = checked({"id": Counter, "start": (print, [object()])}, HERE)
    assert spec.as_term()[a.id] == Atom("test_supervisor.Counter")
    assert spec.as_term()[a.start][2][0].startswith(b"<object")


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        ({"start": (print, [])}, a.missing_id, "needs 'id'"),
        ({"id": 1}, a.missing_start, "needs 'start'"),
        ({"id": 1, "start": print}, a.invalid_mfa, "(function, arguments)"),
        ({"id": 1, "start": (print, []), "restart": "always"}, a.invalid_restart_type, "'permanent' or 'transient'"),
        ({"id": 1, "start": (print, []), "shutdown": -1}, a.invalid_shutdown, "seconds, 'infinity' or"),
        ({"id": 1, "start": (print, []), "shutdown": True}, a.invalid_shutdown, "seconds"),
        ({"id": 1, "start": (print, []), "type": "w"}, a.invalid_child_type, "'worker' or 'supervisor'"),
        ({"id": 1, "start": (print, []), "modules": 1}, a.invalid_modules, "a list or 'dynamic'"),
        ({"id": 1, "start": (print, []), "modules": [1]}, a.invalid_module, "a list of classes"),
        ({"id": 1, "start": (print, []), "significant": 1}, a.invalid_significant, "a bool"),
        ({"id": 1, "start": (print, []), "significant": True}, a.bad_combination, "where restart is 'permanent'"),
        ({"id": 1, "start": (print, []), "shutdwn": 1}, a.invalid_child_spec, "shutdwn is no key"),
        ({"id": object(), "start": (print, [])}, a.invalid_id, "the id of a child is"),
        (print, a.invalid_child_spec, "a child is a class with a child_spec"),
        ([Counter], a.invalid_child_spec, "a child is a class with a child_spec"),
    ],
)
def test_what_is_wrong_is_said(spec: Any, reason: Atom, text: str) -> None:
    with pytest.raises(BadChildSpec) as error:
        checked(spec, HERE)
    assert error.value.reason is reason or error.value.reason[0] is reason
    assert text in str(error.value)


def test_a_peer_has_no_python_of_ours() -> None:
    for spec in ({"id": 1, "start": (print, [])}, Counter, (Counter, 1), checked(Counter, HERE), []):
        with pytest.raises(BadChildSpec):
            checked(spec, Atom("peer@h"), foreign=True)


def test_ids_are_told_apart_as_terms() -> None:
    ids = [1, 1.0, True, "1", (1,), (1.0,), [1], {1: 2}, None, Counter]
    assert len({key_of(id) for id in ids}) == len(ids)
    assert key_of("é") == key_of("é".encode())
    assert key_of(Counter) == key_of(Atom("test_supervisor.Counter"))
    specs = [{"id": "x", "start": (print, [])}, {"id": b"x", "start": (print, [])}]
    with pytest.raises(BadChildSpec, match=r"Supervisor.child_spec\(spec, id="):
        child_specs.all_checked(specs, HERE)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "all_for_one"}, "strategy is 'one_for_one'"),
        ({"strategy": "simple_one_for_one"}, "DynamicSupervisor"),
        ({"strategy": "one_for_one", "max_restarts": -1}, "max_restarts"),
        ({"strategy": "one_for_one", "max_seconds": 0}, "max_seconds"),
        ({"strategy": "one_for_one", "auto_shutdown": "some"}, "auto_shutdown"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Supervisor.init([], **options)
    with pytest.raises(UsageError, match="a list"):
        Supervisor.init({"id": 1}, strategy="one_for_one")


# --- A supervisor -----------------------------------------------------------------------------------------------------


def test_children_start_in_order_and_end_in_reverse() -> None:
    async def main() -> None:
        tellers = [Supervisor.child_spec((Teller, self(), name), id=name) for name in "abc"]
        supervisor = await Supervisor.start_link(tellers, strategy="one_for_one", name="sup")
        assert whereis("sup") == supervisor
        assert await heard(3) == [("a",), ("b",), ("c",)]
        await Supervisor.stop("sup")
        shutdown = (a.shutdown,)
        assert await heard(3) == [("c", *shutdown), ("b", *shutdown), ("a", *shutdown)]
        assert await receive(timeout=5) == (a.EXIT, supervisor, a.normal)

    in_a_node(main)


def test_a_child_that_does_not_start_ends_those_before(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        children = [
            Supervisor.child_spec((Teller, self(), "a"), id="a"),
            Supervisor.child_spec((Teller, self(), "b", Ignore()), id="b"),
            Supervisor.child_spec((Teller, self(), "c"), id="c"),
            Supervisor.child_spec((Teller, self(), "d", ValueError("no")), id="d"),
        ]
        with pytest.raises(StartFailed) as failed:
            await Supervisor.start_link(children, strategy="one_for_one", name="sup")
        shutdown, (what, id, ((kind, _), _)) = failed.value.reason
        assert (shutdown, what, id, kind) == (a.shutdown, a.failed_to_start_child, "d", a.ValueError)
        assert await heard(4) == [("a",), ("c",), ("c", a.shutdown), ("a", a.shutdown)]
        assert whereis("sup") is None
        with pytest.raises(BadChildSpec):
            await Supervisor.start_link([Counter, Counter], strategy="one_for_one")
        spec = Supervisor.child_spec(Counter, significant=True, restart="transient")
        with pytest.raises(BadChildSpec, match="auto_shutdown is 'never'"):
            await Supervisor.start_link([spec], strategy="one_for_one")

    in_a_node(main)
    [record] = [record for record in caplog.records if record.name == LOG]
    assert record.getMessage().startswith("Supervisor sup: start_error\nReason: ")
    assert "Offender: 'd' Atom('undefined'), worker started by test_supervisor:Teller.start_link" in record.getMessage()


def test_a_tree_of_modules() -> None:
    class Top(Supervisor):
        async def init(self, count: int) -> Any:
            inner = [
                (Tree, *range(count)),
                Supervisor.child_spec(Tree, id="empty"),
                {"id": "inline", "start": (partial(Supervisor.start_link, strategy="one_for_all"), [[Counter]])},
            ]
            return Supervisor.init(inner, strategy="rest_for_one", max_restarts=1)

    async def main() -> None:
        top = await Top.start_link(2, name="top")
        assert await Supervisor.count_children(top) == {"specs": 3, "active": 3, "supervisors": 2, "workers": 1}
        tree = await child(top, Tree)
        assert [child[0] for child in await Supervisor.which_children(tree)] == [1, 0]
        inline = await child(top, "inline")
        assert await GenServer.call(await child(inline, Counter), a.get) == 0
        exit(tree, a.kill)
        assert await child(top, Tree) != tree
        assert await child(top, "inline") != inline
        assert (await sys.get_state(top))[a.strategy] is a.rest_for_one
        with pytest.raises(ProcessExit):
            await sys.replace_state(top, lambda state: state)
        with pytest.raises(AlreadyStarted):
            await Top.start_link(1, name="top")
        await Supervisor.stop(top)

    in_a_node(main)


@pytest.mark.parametrize("result", [Ignore, Ignore(), 1, None])
def test_an_init_that_gives_no_children(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Supervisor):
        def init(self) -> Any:
            return result

    class Bad(Supervisor):
        def init(self) -> Any:
            return Supervisor.init([print], strategy="one_for_one")

    async def main() -> None:
        with pytest.raises((Ignore, StartFailed)) as error:
            await Odd.start_link()
        if isinstance(error.value, StartFailed):
            assert error.value.reason == (a.bad_return, (a.Odd, a.init, result))
        with pytest.raises(StartFailed) as failed:
            await Bad.start_link()
        assert failed.value.reason[0] is a.start_spec

    in_a_node(main)
    assert "a child is a class with a child_spec" in caplog.text


def test_any_process_may_be_a_child() -> None:
    async def main() -> None:
        owner = self()

        async def body(name: str) -> None:
            send(owner, (a.started, name))
            await receive()

        async def slowly(name: str) -> Any:
            await asyncio.sleep(0)
            return (a.ok, spawn_link(body, name), a.info)

        def at_once(name: str) -> Pid:
            return spawn_link(body, name)

        def never() -> Any:
            return Ignore

        supervisor = await Supervisor.start_link([], strategy="one_for_one")
        first = await Supervisor.start_child(supervisor, {"id": 1, "start": (at_once, ["at once"])})
        second, info = await Supervisor.start_child(supervisor, {"id": 2, "start": (slowly, ["slowly"])})
        assert info is a.info
        assert await Supervisor.start_child(supervisor, {"id": 3, "start": (never, [])}) is None
        assert await heard(2) == [("at once",), ("slowly",)]
        assert (process_info(first) or {})["parent"] == supervisor
        send(first, a.end)
        exit(second, a.kill)
        assert sorted(await heard(2)) == [("at once",), ("slowly",)]
        await Supervisor.stop(supervisor)

    in_a_node(main)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, a.EXIT),
        (1, 1),
        ((a.error, a.no), a.no),
        (ValueError("x"), a.EXIT),
        (ProcessExit(a.why), (a.EXIT, a.why)),
        (asyncio.CancelledError(), a.EXIT),
        (SystemExit(1), a.EXIT),
    ],
)
def test_a_start_that_gives_no_pid(result: Any, reason: Any) -> None:
    async def start() -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    async def main() -> None:
        supervisor = await Supervisor.start_link([], strategy="one_for_one")
        with pytest.raises(StartFailed) as failed:
            await Supervisor.start_child(supervisor, {"id": 1, "start": (start, [])})
        got = failed.value.reason
        assert got == reason or got[0] is reason
        assert await Supervisor.which_children(supervisor) == []

    in_a_node(main)


def test_errors_of_the_calls() -> None:
    async def main() -> None:
        supervisor = await Supervisor.start_link([Counter], strategy="one_for_one")
        with pytest.raises(AlreadyStarted) as there:
            await Supervisor.start_child(supervisor, Counter)
        assert there.value.pid == await child(supervisor, Counter)
        for function, reason in [
            (Supervisor.terminate_child, a.not_found),
            (Supervisor.restart_child, a.not_found),
            (Supervisor.delete_child, a.not_found),
            (Supervisor.get_childspec, a.not_found),
        ]:
            with pytest.raises(SupervisorError) as error:
                await function(supervisor, "nobody")
            assert error.value.reason is reason
        with pytest.raises(SupervisorError, match="no child"):
            await Supervisor.terminate_child(supervisor, object)
        with pytest.raises(SupervisorError, match="running"):
            await Supervisor.delete_child(supervisor, Counter)
        await Supervisor.terminate_child(supervisor, Counter)
        with pytest.raises(SupervisorError, match="restart it"):
            await Supervisor.start_child(supervisor, Counter)
        await Supervisor.delete_child(supervisor, Counter)
        assert await Supervisor.which_children(supervisor) == []
        with pytest.raises(BadChildSpec):
            await Supervisor.start_child(supervisor, {"id": 1})
        await Supervisor.stop(supervisor)
        with pytest.raises(CallFailed) as gone:
            await Supervisor.which_children(supervisor)
        assert gone.value.cause is a.noproc

    in_a_node(main)


def test_while_a_restart_is_tried_again_calls_are_served() -> None:
    async def main() -> None:
        ready = asyncio.Event()
        tries = 0

        async def start() -> Any:
            nonlocal tries
            tries += 1
            if tries == 1 or ready.is_set():
                return await Counter.start_link(tries)
            await asyncio.sleep(0)
            return (a.error, a.not_yet)

        supervisor = await Supervisor.start_link(
            [{"id": "late", "start": (start, [])}], strategy="one_for_all", max_restarts=10**6
        )
        exit(await child(supervisor, "late"), a.kill)
        assert await child(supervisor, "late") is a.restarting
        for function in (Supervisor.restart_child, Supervisor.delete_child):
            with pytest.raises(SupervisorError, match="restarted"):
                await function(supervisor, "late")
        assert (await Supervisor.count_children(supervisor))["active"] == 0
        ready.set()
        while await child(supervisor, "late") is a.restarting:
            await asyncio.sleep(0)
        assert await GenServer.call(await child(supervisor, "late"), a.get) == tries
        ready.clear()
        exit(await child(supervisor, "late"), a.kill)
        assert await child(supervisor, "late") is a.restarting
        await Supervisor.stop(supervisor, timeout=5)

    in_a_node(main)


def test_a_child_that_does_not_end_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(GenServer, shutdown=0.02):
        def init(self) -> None:
            trap_exit()

        async def terminate(self, reason: Any) -> None:
            await asyncio.sleep(1000)

    async def main() -> None:
        children = [Supervisor.child_spec(Stubborn, id=id) for id in range(2)]
        supervisor = await Supervisor.start_link(children, strategy="one_for_one", name="sup")
        await Supervisor.stop(supervisor, timeout=5)

    in_a_node(main)
    messages = [record.getMessage().splitlines()[:2] for record in caplog.records if record.name == LOG]
    why = (
        "Reason: Atom('killed'), which it is when it does not end within 0.02 s: give it more (shutdown), or less to do"
    )
    assert messages == [["Supervisor sup: shutdown_error", why]] * 2


def test_many_are_ended_at_once() -> None:
    """What supervisors of many children of one kind use."""

    class Slow(GenServer):
        def init(self, owner: Pid, number: int) -> None:
            trap_exit()
            self.owner, self.number = owner, number

        async def terminate(self, reason: Any) -> None:
            while Slow.waiting < 300:
                Slow.waiting += 1
                await Slow.all_here.wait()
            Slow.all_here.set()

        waiting = 0
        all_here: asyncio.Event

    async def main() -> None:
        Slow.all_here = asyncio.Event()
        spec = checked((Slow, self(), 1), HERE)
        children = []
        for _ in range(301):
            started = await supervision.start(spec.start)
            children.append(supervision.Child(spec, started.pid))
        pids = [one.pid for one in children]
        send(self(), a.kept)
        exit(pids[0] or self(), a.kill)
        Slow.waiting += 1
        await supervision.end_at_once(children, "many")
        assert [one.pid for one in children] == [None] * 301
        assert all(process_info(pid) is None for pid in pids)
        assert await receive(timeout=0) is a.kept

    in_a_node(main)


def test_reports_and_progress(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        caplog.set_level(logging.DEBUG, LOG)
        supervisor = await Tree.start_link(7, name="tree")
        caplog.set_level(logging.INFO, LOG)
        with pytest.raises(CallFailed):
            await GenServer.call(await child(supervisor, 7), a.crash)
        for _ in range(3):
            exit(await child(supervisor, 7), a.shutdown)
        assert await receive(timeout=5) == (a.EXIT, supervisor, a.shutdown)

    in_a_node(main)
    records = [record for record in caplog.records if record.name == LOG]
    assert [record.getMessage().splitlines()[0].split()[2] for record in records] == [
        "started",
        *["child_terminated"] * 4,
        "shutdown",
    ]
    assert "Reason: RuntimeError: boom (" in records[1].getMessage()
    assert "reached_max_restart_intensity" in records[-1].getMessage()
    assert [record.levelname for record in records] == ["DEBUG", *["ERROR"] * 5]


def test_odd_messages_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        supervisor = await Supervisor.start_link([Counter], strategy="one_for_one")
        before = await child(supervisor, Counter)
        for message in [a.what, (a.EXIT, supervisor, a.what), (a.EXIT, 1, 2), (gen.CAST, 1), (gen.CALL, 1, 2)]:
            send(supervisor, message)
        send(supervisor, (gen.CAST, (a.try_again_restart, object())))
        send(supervisor, (gen.CAST, (a.try_again_restart, Counter)))
        assert (await GenServer.call(supervisor, (a.what, object())))[0] is a.error
        assert await child(supervisor, Counter) == before

    in_a_node(main)
    assert caplog.text.count("unexpected") == 4


def test_a_child_that_ended_just_before_and_messages_that_look_like_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        supervisor = await Supervisor.start_link([Counter], strategy="one_for_one", name="sup")
        pid = await child(supervisor, Counter)
        await sys.suspend(supervisor)
        ending = GenServer.send_request(supervisor, (a.terminate_child, Counter))
        send(supervisor, (a.EXIT, [pid], a.odd))
        exit(pid, a.boom)
        await sys.resume(supervisor)
        assert await GenServer.receive_response(ending, 5) is a.ok
        assert await child(supervisor, Counter) is None

    in_a_node(main)
    messages = [record.getMessage() for record in caplog.records if record.name == LOG]
    assert messages[0].startswith("Supervisor sup: shutdown_error\nReason: Atom('boom')")
    assert "unexpected message: (Atom('EXIT'), [Pid<" in messages[1]
    assert len(messages) == 2


def test_each_of_many_has_its_own_time() -> None:
    async def stubborn(parent: Pid) -> None:
        trap_exit()
        send(parent, a.ready)
        while True:
            await receive(lambda got: got == (a.EXIT, parent, a.end))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        owner = self()
        pids = [spawn_link(stubborn, owner) for _ in range(2)]
        for _ in pids:
            assert await receive(timeout=5) is a.ready
        specs = [checked({"id": 1, "start": (print, []), "shutdown": shutdown}, HERE) for shutdown in (None, 0.01)]
        ended: list[Any] = []

        async def last() -> None:
            """The one whose time is over ends before the one that has all the time."""
            while process_info(pids[1]) is not None:
                await asyncio.sleep(0.001)
            ended.append(loop.time())
            exit(pids[0], a.kill)

        children = [supervision.Child(spec, pid) for spec, pid in zip(specs, pids, strict=True)]
        await asyncio.wait_for(asyncio.gather(supervision.end_at_once(children, "many"), last()), 5)
        assert len(ended) == 1

    in_a_node(main)


CTRL_C = """
import asyncio
from beamnode import FixedPort, GenServer, Node, trap_exit
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp.supervisor import Supervisor

class Careful(GenServer):
    def init(self):
        trap_exit()

class Tree(Supervisor):
    def init(self):
        return Supervisor.init([Careful], strategy="one_for_all")

async def main():
    async with Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1)):
        await Supervisor.start_link([Tree, Careful], strategy="one_for_one")
        print("up", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_ctrl_c_ends_a_program_with_a_tree() -> None:
    with subprocess.Popen(
        [python.executable, "-W", "error", "-c", CTRL_C], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=20)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert errors.count("Traceback") <= 2  # asyncio's own
    assert "does not end" not in errors


def test_a_child_spec_object_is_one_already() -> None:
    async def main() -> None:
        spec = checked((Counter, 5), HERE)
        assert isinstance(spec, ChildSpec)
        supervisor = await Supervisor.start_link([spec], strategy="one_for_one")
        assert await GenServer.call(await child(supervisor, Counter), a.get) == 5

    in_a_node(main)
