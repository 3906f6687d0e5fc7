"""Trees whose processes are killed at random: they heal, or give up as the intensity says; nothing is left of them.

`BEAMNODE_KILL_SECONDS=60` kills for a minute under each strategy. `BEAMNODE_KILL_SEED` repeats what was drawn; what
becomes of it also depends on time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    Atom,
    FixedPort,
    GenServer,
    Node,
    Pid,
    a,
    blocking,
    exit,
    process_info,
    receive,
    self,
    send,
    spawn_link,
    sync,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body
from beamnode.otp.supervisor import Supervisor

pytestmark = pytest.mark.filterwarnings("error")

SECONDS = float(os.environ.get("BEAMNODE_KILL_SECONDS", "0.8"))
STRATEGIES = ["one_for_one", "one_for_all", "rest_for_one"]
COUNTS = {"specs": 9, "active": 9, "supervisors": 1, "workers": 8}
REASONS: list[Any] = [a.kill, a.kill, a.boom, (a.boom, 1), a.shutdown]


class Server(GenServer):
    def init(self, number: int) -> None:
        self.number = number

    async def handle_cast(self, request: Any) -> None:
        raise RuntimeError(request)

    async def handle_info(self, message: Any) -> None:
        await asyncio.sleep(1000)


class Careful(Server, shutdown=0.05):
    """Traps exits, and takes a while to end; longer than it may, when it is busy with the `EXIT` of another."""

    def init(self, number: int) -> None:
        trap_exit()
        super().init(number)

    async def terminate(self, reason: Any) -> None:
        await asyncio.sleep(0.001)


@blocking
class Blocking(Server):
    def handle_call(self, request: Any, sender: Any) -> Any:
        return threading.get_ident()


async def looping() -> None:
    while True:
        await receive(timeout=1000)


def in_a_thread() -> None:
    while True:
        sync.receive()


def start_looping() -> Pid:
    return spawn_link(looping)


async def start_in_a_thread() -> Pid:
    return spawn_link(in_a_thread)


class Branch(Supervisor):
    def init(self) -> Any:
        return Supervisor.init(_numbered(Server, 3), strategy="one_for_one", max_restarts=3, max_seconds=1)


def _numbered(cls: type[GenServer], count: int) -> list[Any]:
    return [Supervisor.child_spec((cls, number), id=(cls.__name__, number)) for number in range(count)]


def children() -> list[Any]:
    return [
        *_numbered(Server, 3),
        *_numbered(Careful, 2),
        Branch,
        {"id": "looping", "start": (start_looping, []), "shutdown": "brutal_kill"},
        {"id": "thread", "start": (start_in_a_thread, ()), "shutdown": 1},
        (Blocking, 1),
    ]


class Left:
    """What is there besides a tree: afterwards there is no more."""

    def __init__(self) -> None:
        self.processes = set(running())
        self.tasks = asyncio.all_tasks()
        self.threads = set(threading.enumerate())
        self.timers = timers()

    async def check(self) -> None:
        """What has ended needs a moment to wind up; threads, too."""
        for _ in range(200):
            found = (
                set(running()) - self.processes,
                asyncio.all_tasks() - self.tasks,
                set(threading.enumerate()) - self.threads,
                timers() - self.timers,
            )
            if not any(found):
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"left: {found}")


def running() -> list[Pid]:
    return [process.pid for process in current_body().runtime.signals.processes()]


def timers() -> set[Any]:
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009
    return {timer for timer in scheduled if not timer.cancelled()}


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            trap_exit()
            await main()

    asyncio.run(whole())


@pytest.fixture
def draw(caplog: pytest.LogCaptureFixture) -> random.Random:
    caplog.set_level(logging.CRITICAL, "beamnode")
    seed = int(os.environ.get("BEAMNODE_KILL_SEED", "0")) or time.time_ns()
    print(f"BEAMNODE_KILL_SEED={seed}")
    return random.Random(seed)


async def pids_of(supervisor: Pid) -> dict[Any, Pid | Atom | None]:
    """The children in the order of their start."""
    return {repr(id): pid for id, pid, _, _ in reversed(await Supervisor.which_children(supervisor))}


async def healed(supervisor: Pid) -> dict[Any, Any]:
    """The children, as soon as all run."""
    for _ in range(500):
        found = await pids_of(supervisor)
        branch = found[repr(Branch)]
        inner = await pids_of(branch) if isinstance(branch, Pid) and process_info(branch) else {"none": None}
        if all(isinstance(pid, Pid) and process_info(pid) for pid in [*found.values(), *inner.values()]):
            assert await Supervisor.count_children(supervisor) == COUNTS
            return found
        await asyncio.sleep(0.01)
    pytest.fail(f"not healed: {found}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tree_heals(strategy: str, draw: random.Random) -> None:
    async def main() -> None:
        left = Left()
        supervisor = await Supervisor.start_link(children(), strategy=strategy, max_restarts=10**9)
        spared = left.processes | {supervisor}
        end = time.monotonic() + SECONDS / 2
        kills = 0
        while time.monotonic() < end or kills < 20:
            for pid in draw.sample(there := [pid for pid in running() if pid not in spared], min(len(there), 2)):
                kills += 1
                if draw.random() < 0.2:
                    GenServer.cast(pid, a.crash)
                else:
                    exit(pid, draw.choice(REASONS))
            await asyncio.sleep(draw.choice([0, 0, 0.001, 0.005]))
        await healed(supervisor)
        end = time.monotonic() + SECONDS / 2
        rounds = 0
        while time.monotonic() < end:
            await one_end(supervisor, strategy, draw)
            rounds += 1
        await healed(supervisor)
        print(f"{strategy}: {kills} ends at random, then {rounds} one by one")
        await Supervisor.stop(supervisor)
        assert await receive(timeout=30) == (a.EXIT, supervisor, a.normal)
        await left.check()

    in_a_node(main)


async def one_end(supervisor: Pid, strategy: str, draw: random.Random) -> None:
    """The end of one child concerns those that the strategy says, and no others."""
    before = await healed(supervisor)
    ids = list(before)
    number = draw.randrange(len(ids))
    exit(before[ids[number]], a.kill)
    after = await healed(supervisor)
    assert list(after) == ids
    changed = [id for id in ids if after[id] != before[id]]
    match strategy:
        case "one_for_one":
            assert changed == [ids[number]]
        case "one_for_all":
            assert changed == ids
        case "rest_for_one":
            assert changed == ids[number:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tree_gives_up_as_its_intensity_says(strategy: str, draw: random.Random) -> None:
    async def main() -> None:
        left = Left()
        end = time.monotonic() + SECONDS / 2
        trees = 0
        while time.monotonic() < end:
            allowed = draw.randint(0, 4)
            supervisor = await Supervisor.start_link(
                children(), strategy=strategy, max_restarts=allowed, max_seconds=1000
            )
            for _ in range(allowed):
                await one_end(supervisor, strategy, draw)
            last = await healed(supervisor)
            exit(draw.choice([*last.values()]), a.kill)
            assert await receive(timeout=30) == (a.EXIT, supervisor, a.shutdown)
            await left.check()
            trees += 1
        print(f"{strategy}: {trees} trees gave up")

    in_a_node(main)


def test_restarts_that_are_long_ago_do_not_count(draw: random.Random) -> None:
    async def main() -> None:
        left = Left()
        supervisor = await Supervisor.start_link(children(), strategy="one_for_one", max_restarts=1, max_seconds=0.05)
        for _ in range(4):
            await one_end(supervisor, "one_for_one", draw)
            await asyncio.sleep(0.06)
        await Supervisor.stop(supervisor, "shutdown")
        assert await receive(timeout=30) == (a.EXIT, supervisor, a.shutdown)
        await left.check()

    in_a_node(main)


def test_the_end_of_the_parent_ends_the_tree() -> None:
    async def main() -> None:
        left = Left()
        owner = self()

        async def parent() -> None:
            send(owner, await Supervisor.start_link(children(), strategy="one_for_all"))

        spawn_link(parent)
        supervisor = await receive(lambda got: isinstance(got, Pid), timeout=30)
        assert (await receive(timeout=30))[2] is a.normal
        await left.check()
        assert process_info(supervisor) is None

    in_a_node(main)
