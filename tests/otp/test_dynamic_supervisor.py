"""otp/dynamic_supervisor.py, dynamic_server.py: children that are started on demand, on one node of ours."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from beamnode import (
    AlreadyStarted,
    Atom,
    FixedPort,
    GenServer,
    Ignore,
    Node,
    Pid,
    ProcessExit,
    StartFailed,
    StaticPorts,
    Stop,
    UsageError,
    a,
    blocking,
    exit,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_link,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body
from beamnode.otp import sys
from beamnode.otp.child_specs import BadChildSpec
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.supervisor import Supervisor, SupervisorError

pytestmark = pytest.mark.filterwarnings("error")

KILL_SECONDS = float(os.environ.get("BEAMNODE_KILL_SECONDS", "2"))
WAIT_SECONDS = 10.0  # for what must happen


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


async def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


class Worker(GenServer):
    """Counts how often it was started, and does what `outcomes` says, one after the other."""

    starts: ClassVar[list[Any]] = []
    outcomes: ClassVar[list[Any]] = []

    def init(self, *args: Any) -> Any:
        Worker.starts.append(args)
        if Worker.outcomes:
            outcome = Worker.outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome

    def handle_call(self, request: Any, sender: Any) -> Any:
        return Worker.starts[-1]

    def handle_cast(self, request: Any) -> None:
        raise Stop(request)


@blocking
class Threaded(Worker):
    """Has a thread of its own."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Worker.starts.clear()
    Worker.outcomes.clear()


def worker(*args: Any, **options: Any) -> dict[str, Any]:
    return {**Worker.child_spec(*args), **options}


async def idle() -> None:
    await receive()


async def end_of(pid: Pid) -> Any:
    reference = monitor(pid)
    return (await receive(lambda got: got[1] == reference, timeout=WAIT_SECONDS))[4]


async def alone(supervisor: Pid) -> Pid:
    """The one child of the supervisor."""
    [(_, pid, _, _)] = await DynamicSupervisor.which_children(supervisor)
    assert isinstance(pid, Pid)
    return pid


# --- Starting ---------------------------------------------------------------------------------------------------------


def test_children_come_and_go() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link(name="top")
        assert await DynamicSupervisor.count_children("top") == counts(0)
        first = await DynamicSupervisor.start_child("top", (Worker, 1))
        second = await DynamicSupervisor.start_child(top, (Worker, 1))
        inner = await DynamicSupervisor.start_child("top", DynamicSupervisor)
        module = Atom(f"{__name__}.Worker")
        listed = await DynamicSupervisor.which_children("top")
        assert listed[:2] == [(a.undefined, pid, a.worker, [module]) for pid in (first, second)]
        assert listed[2][1:3] == (inner, a.supervisor)
        assert await DynamicSupervisor.count_children("top") == counts(3, supervisors=1)
        await DynamicSupervisor.terminate_child("top", first)
        assert process_info(first) is None
        with pytest.raises(SupervisorError) as failure:
            await DynamicSupervisor.terminate_child("top", first)
        assert failure.value.reason is a.not_found
        with pytest.raises(UsageError, match="by their pids"):
            await DynamicSupervisor.terminate_child("top", "first")  # type: ignore[arg-type]
        await DynamicSupervisor.stop("top")
        assert [process_info(pid) for pid in (top, second, inner)] == [None] * 3

    in_a_node(main)


def counts(specs: int, *, active: int | None = None, supervisors: int = 0) -> dict[str, int]:
    return {
        "specs": specs,
        "active": specs if active is None else active,
        "supervisors": supervisors,
        "workers": specs - supervisors,
    }


def test_extra_arguments_come_first() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link(extra_arguments=[1, 2])
        child = await DynamicSupervisor.start_child(top, (Worker, 3))
        GenServer.cast(child, a.why)
        await until(lambda: len(Worker.starts) == 2)
        assert Worker.starts == [(1, 2, 3), (1, 2, 3)]

    in_a_node(main)


def test_no_more_children_than_there_may_be() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link(max_children=1)
        child = await DynamicSupervisor.start_child(top, Worker)
        with pytest.raises(SupervisorError) as failure:
            await DynamicSupervisor.start_child(top, Worker)
        assert failure.value.reason is a.max_children
        await DynamicSupervisor.terminate_child(top, child)
        await DynamicSupervisor.start_child(top, Worker)
        assert len(Worker.starts) == 2

    in_a_node(main)


def test_what_a_start_may_give() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link()

        async def start(function: Callable[[], Any]) -> Any:
            return await DynamicSupervisor.start_child(top, {"id": 1, "start": (function, ())})

        def fail() -> Any:
            raise ValueError("boom")

        def give_up() -> Any:
            raise ProcessExit(a.why)

        assert isinstance(await start(lambda: spawn_link(idle)), Pid)
        pid, info = await start(lambda: (a.ok, spawn_link(idle), a.info))
        assert (type(pid), info) == (Pid, a.info)
        assert await start(lambda: a.ignore) is None
        with pytest.raises(StartFailed) as failure:
            await start(lambda: (a.error, a.why))
        assert failure.value.reason is a.why
        with pytest.raises(StartFailed) as failure:
            await start(lambda: 5)
        assert failure.value.reason == 5
        with pytest.raises(StartFailed) as failure:
            await start(fail)
        assert failure.value.reason[0] == (a.ValueError, b"boom")
        with pytest.raises(StartFailed) as failure:
            await start(give_up)
        assert failure.value.reason is a.why
        Worker.outcomes += [Ignore(), Stop(a.because)]
        assert await DynamicSupervisor.start_child(top, Worker) is None
        with pytest.raises(StartFailed) as failure:
            await DynamicSupervisor.start_child(top, Worker)
        assert failure.value.reason is a.because
        await DynamicSupervisor.start_child(top, {"id": 1, "start": (Named.start_link, ())})
        with pytest.raises(AlreadyStarted) as taken:
            await DynamicSupervisor.start_child(top, {"id": 1, "start": (Named.start_link, ())})
        assert taken.value.pid == whereis("named")
        assert await DynamicSupervisor.count_children(top) == counts(3)

    in_a_node(main)


class Named(GenServer):
    @classmethod
    async def start_link(cls, *args: Any, **options: Any) -> Pid:
        return await super().start_link(*args, name="named")


class Jobs(DynamicSupervisor):
    def init(self, most: Any) -> Any:
        return DynamicSupervisor.init(max_children=most) if isinstance(most, int) else most


def test_a_module_of_ones_own() -> None:
    async def main() -> None:
        trap_exit()
        top = await Jobs.start_link(1, name="jobs")
        await DynamicSupervisor.start_child("jobs", Worker)
        with pytest.raises(SupervisorError):
            await DynamicSupervisor.start_child("jobs", Worker)
        state = await sys.get_state("jobs")
        assert (state[a.mod], state[a.max_children]) == (a.Jobs, 1)
        await DynamicSupervisor.stop(top)
        with pytest.raises(Ignore):
            await Jobs.start_link(Ignore())
        with pytest.raises(StartFailed) as failure:
            await Jobs.start_link("wrong")
        assert failure.value.reason == (a.bad_return, (a.Jobs, a.init, "wrong"))

    in_a_node(main)


def test_as_a_child_of_another_supervisor() -> None:
    async def main() -> None:
        children = [(Jobs, 2), DynamicSupervisor.child_spec(name="others")]
        top = await Supervisor.start_link(children, strategy="one_for_one")
        ids = {id: (kind, pid) for id, pid, kind, _ in await Supervisor.which_children(top)}
        assert set(ids) == {Jobs, a.others}
        assert ids[a.others] == (a.supervisor, whereis("others"))
        child = await DynamicSupervisor.start_child("others", Worker)
        await Supervisor.stop(top)
        assert process_info(child) is None

    in_a_node(main)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "one_for_all"},
        {"max_children": -1},
        {"max_children": 1.5},
        {"max_restarts": -1},
        {"max_seconds": 0},
        {"extra_arguments": "abc"},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match=next(iter(options))):
            await DynamicSupervisor.start_link(**options)
        with pytest.raises(UsageError, match="options only"):
            await DynamicSupervisor.start_link([Worker])

    in_a_node(main)


def test_specs_that_cannot_be() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link()
        for spec in (5, {"id": 1}, worker(restart="sometimes"), worker(shutdown=-1)):
            with pytest.raises(BadChildSpec):
                await DynamicSupervisor.start_child(top, spec)
        children: list[Any] = [5, ((a.m, a.f, 5), a.permanent, 5000, a.worker, []), (1, 2, 3, 4, 5)]
        for child in children:
            answer = await GenServer.call(top, (a.start_child, child))
            assert answer[0] is a.error
        assert (await GenServer.call(top, a.what))[0] is a.error
        assert await DynamicSupervisor.count_children(top) == counts(0)

    in_a_node(main)


def test_strange_messages_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link()
        child = await DynamicSupervisor.start_child(top, Worker)
        restart = Atom("$gen_restart")
        for message in (a.hello, (a.EXIT, spawn(idle), a.why), (restart, child), (restart, self())):
            send(top, message)
        GenServer.cast(top, a.hello)
        assert await alone(top) == child
        with pytest.raises(ProcessExit):
            await sys.replace_state(top, lambda state: state)
        assert process_info(top) is not None

    in_a_node(main)
    assert "received unexpected message: Atom('hello')" in caplog.text
    assert len(caplog.records) == 1


def test_one_of_another_node_of_ours() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        ports = StaticPorts({"two@h": 1024, "one@h": 1025})
        one, two = (
            Node(name, cookie="c", carrier=network.carrier("h"), discovery=ports) for name in ("one@h", "two@h")
        )
        async with two, one:
            ready, done = asyncio.Event(), asyncio.Event()

            async def there() -> None:
                await DynamicSupervisor.start_link(name="top")
                ready.set()
                await done.wait()

            task = asyncio.create_task(two.run_process(there))
            await ready.wait()
            top = ("top", "two@h")
            with pytest.raises(StartFailed) as refused:
                await DynamicSupervisor.start_child(top, (Worker, 5))
            assert refused.value.reason[0] is a.undef
            two.expose(Worker.start_link, module=__name__, name="Worker.start_link")
            pid = await DynamicSupervisor.start_child(top, (Worker, 5))
            assert pid.node is two.name
            assert Worker.starts == [(5,)]
            with pytest.raises(UsageError, match="keyword arguments do not travel"):
                await DynamicSupervisor.start_child(top, Worker.child_spec(name="worker"))
            await DynamicSupervisor.terminate_child(top, pid)
            done.set()
            await task

    asyncio.run(main())


# --- Restarts ---------------------------------------------------------------------------------------------------------

RESTARTS = [
    (kind, reason, kind == "permanent" or (kind == "transient" and reason is a.why))
    for kind in ("permanent", "transient", "temporary")
    for reason in (a.normal, a.shutdown, (a.shutdown, a.enough), a.why)
]


@pytest.mark.parametrize(("kind", "reason", "again"), RESTARTS)
def test_who_is_started_again(kind: str, reason: Any, again: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link()
        child = await DynamicSupervisor.start_child(top, worker(7, restart=kind))
        GenServer.cast(child, reason)
        await end_of(child)
        if again:
            await until(lambda: len(Worker.starts) == 2)
            assert await alone(top) != child
        else:
            assert await DynamicSupervisor.which_children(top) == []
        assert Worker.starts == [(7,)] * (2 if again else 1)

    in_a_node(main)
    reported = "child_terminated" in caplog.text
    assert reported == (kind == "permanent" or reason is a.why)


def test_too_many_restarts_end_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trap_exit()
        top = await DynamicSupervisor.start_link(max_restarts=2, max_seconds=60)
        other = await DynamicSupervisor.start_child(top, Worker)
        await DynamicSupervisor.start_child(top, Worker)
        for _ in range(3):
            _, last, _, _ = (await DynamicSupervisor.which_children(top))[-1]
            assert isinstance(last, Pid)
            exit(last, a.kill)
            await end_of(last)
        assert await end_of(top) is a.shutdown
        assert len(Worker.starts) == 4
        assert process_info(other) is None

    in_a_node(main)
    assert "reached_max_restart_intensity" in caplog.text


def test_a_restart_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link(max_restarts=5)
        child = await DynamicSupervisor.start_child(top, (Worker, 1))
        Worker.outcomes += [Stop(a.no), Stop(a.never)]
        exit(child, a.kill)
        await until(lambda: len(Worker.starts) == 4)
        assert await DynamicSupervisor.count_children(top) == counts(1)

    in_a_node(main)
    assert caplog.text.count("start_error") == 2


def test_one_that_is_restarting_can_be_seen_and_ended() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link(max_restarts=5)
        child = await DynamicSupervisor.start_child(top, (Worker, 1))
        Worker.outcomes += [Stop(a.no)] * 6
        sent = []

        def ask(request: Any) -> None:
            sent.append(GenServer.send_request(top, request))

        exit(child, a.kill)
        for request in (a.which_children, a.count_children, (a.terminate_child, child), a.count_children):
            ask(request)
        answers = [await GenServer.receive_response(each) for each in sent]
        assert answers[0] == [(a.undefined, a.restarting, a.worker, [Atom(f"{__name__}.Worker")])]
        assert dict(answers[1]) == {a.specs: 1, a.active: 0, a.supervisors: 0, a.workers: 1}
        assert answers[2] is a.ok
        assert dict(answers[3])[a.specs] == 0
        assert len(Worker.starts) == 2
        assert process_info(top) is not None

    in_a_node(main)


def test_restarts_that_fail_too_often_end_it() -> None:
    async def main() -> None:
        trap_exit()
        top = await DynamicSupervisor.start_link()
        child = await DynamicSupervisor.start_child(top, (Worker, 1))
        Worker.outcomes += [Stop(a.no)] * 10
        exit(child, a.kill)
        assert await end_of(top) is a.shutdown
        assert len(Worker.starts) == 4  # the first, and three more

    in_a_node(main)


def test_a_restart_may_choose_not_to_be() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link()
        child = await DynamicSupervisor.start_child(top, (Worker, 1))
        Worker.outcomes.append(Ignore())
        exit(child, a.kill)
        await until(lambda: len(Worker.starts) == 2)
        assert await DynamicSupervisor.which_children(top) == []

    in_a_node(main)


# --- The end ----------------------------------------------------------------------------------------------------------


async def stubborn(name: str) -> None:
    """Ends when it is killed."""
    trap_exit()
    register(name, self())
    while True:
        await receive()


async def slow(name: str, seconds: float) -> None:
    """Takes a while to end."""
    trap_exit()
    register(name, self())
    await receive()
    await asyncio.sleep(seconds)
    raise ProcessExit(a.shutdown)


def spawned(function: Any, *args: Any, shutdown: Any = 5.0) -> dict[str, Any]:
    return {"id": 1, "start": (spawn_link, (function, *args)), "shutdown": shutdown}


def test_each_child_has_its_own_time_to_end(caplog: pytest.LogCaptureFixture) -> None:
    ends: dict[str, tuple[int, Any]] = {}

    async def main() -> None:
        trap_exit()
        top = await DynamicSupervisor.start_link()
        await DynamicSupervisor.start_child(top, spawned(slow, "slow", 0.3, shutdown="infinity"))
        await DynamicSupervisor.start_child(top, spawned(stubborn, "killed", shutdown="brutal_kill"))
        await DynamicSupervisor.start_child(top, spawned(stubborn, "late", shutdown=0.1))
        await DynamicSupervisor.start_child(top, spawned(stubborn, "early", shutdown=0.02))
        pids = {name: whereis(name) for name in ("slow", "killed", "late", "early")}
        watched = {monitor(pid): name for name, pid in pids.items() if pid is not None}
        assert len(watched) == 4
        await DynamicSupervisor.stop(top)
        for order in range(4):
            message = await receive(lambda got: got[0] is a.DOWN, timeout=WAIT_SECONDS)
            ends[watched[message[1]]] = (order, message[4])

    in_a_node(main)
    assert ends == {
        "killed": (0, a.killed),
        "early": (1, a.killed),
        "late": (2, a.killed),
        "slow": (3, a.shutdown),
    }
    assert caplog.text.count("shutdown_error") == 2


def test_its_parents_end_is_its_own_and_its_childrens() -> None:
    found: list[Pid] = []

    async def parent() -> None:
        top = await DynamicSupervisor.start_link()
        found.extend([top, await DynamicSupervisor.start_child(top, Worker)])
        await receive()

    async def main() -> None:
        pid = spawn(parent)
        await until(lambda: len(found) == 2)
        exit(pid, a.shutdown)
        for each in found:
            await end_of(each)

    in_a_node(main)


# --- Many, and at random ----------------------------------------------------------------------------------------------


def test_ten_thousand_children() -> None:
    async def main() -> None:
        top = await DynamicSupervisor.start_link()
        spec = {"id": 1, "start": (spawn_link, (idle,)), "restart": "temporary"}
        before = len(asyncio.all_tasks())
        pids = [await DynamicSupervisor.start_child(top, spec) for _ in range(10_000)]
        assert await DynamicSupervisor.count_children(top) == counts(10_000)
        for pid in pids[:5000]:
            exit(pid, a.kill)
        await DynamicSupervisor.terminate_child(top, pids[-1])
        assert await DynamicSupervisor.count_children(top) == counts(4_999)
        await DynamicSupervisor.stop(top)
        await until(lambda: len(asyncio.all_tasks()) < before)
        assert not any(process_info(pid) for pid in pids)

    in_a_node(main)


def left() -> tuple[set[Pid], int, int]:
    """The processes of the node, the tasks and the timers of its loop."""
    loop = asyncio.get_running_loop()
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    pids = {process.pid for process in current_body().runtime.signals.processes()}
    return pids, len(asyncio.all_tasks()), len(timers)


@pytest.mark.parametrize("gives_up", [False, True])
def test_children_killed_at_random(gives_up: bool) -> None:
    """The tree heals, or gives up, as the intensity says; after its end nothing is left."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    threads = threading.active_count()

    async def main() -> None:
        trap_exit()
        before = left()
        limit = 20 if gives_up else 10**9
        top = await DynamicSupervisor.start_link(max_restarts=limit, max_seconds=3600)
        kinds = ["permanent"] * 10 + ["transient"] * 5 + ["temporary"] * 5
        for number, kind in enumerate(kinds):
            spec = worker(restart=kind) if number % 4 else {**Threaded.child_spec(), "restart": kind}
            await DynamicSupervisor.start_child(top, spec)
        killed, ended = 0, asyncio.get_running_loop().time() + KILL_SECONDS
        try:
            while asyncio.get_running_loop().time() < ended:
                children = [pid for _, pid, _, _ in await DynamicSupervisor.which_children(top) if isinstance(pid, Pid)]
                for pid in dice.sample(children, dice.randrange(min(4, len(children)) + 1)):
                    exit(pid, dice.choice([a.kill, a.why]))
                    killed += 1
                if dice.random() < 0.2:
                    Worker.outcomes[:] = [Stop(a.no)] * dice.randrange(3)
                if not dice.randrange(50):
                    await asyncio.sleep(0.001)
        except ProcessExit:
            assert gives_up
        assert killed > 0
        if gives_up:
            await end_of(top)
            assert len(Worker.starts) == len(kinds) + limit
        else:
            Worker.outcomes.clear()
            alive = await DynamicSupervisor.count_children(top)
            while alive["active"] < alive["specs"]:
                alive = await DynamicSupervisor.count_children(top)
            assert alive["active"] == 15  # all but the temporary ones
            await DynamicSupervisor.stop(top)
        assert await receive(timeout=WAIT_SECONDS) == (a.EXIT, top, a.shutdown if gives_up else a.normal)
        await until(lambda: threading.active_count() == threads)
        await asyncio.sleep(0.01)
        assert left() == before

    logging.disable(logging.CRITICAL)
    try:
        in_a_node(main)
    finally:
        logging.disable(logging.NOTSET)
