"""node/workers.py: the pool of threads, and calls that are given up while they run."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from beamnode.node import workers
from beamnode.node.workers import STAND_INS, ThreadPool
from beamnode.testing.peers import wait_for

pytestmark = pytest.mark.filterwarnings("error")


class Stuck:
    """Functions that run until they are let go."""

    def __init__(self) -> None:
        self.begun = 0
        self._free = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> str:
        with self._lock:
            self.begun += 1
        self._free.wait(10)
        return "late"

    def let_go(self) -> None:
        self._free.set()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


def threads() -> int:
    return sum(thread.name.startswith("beamnode call") for thread in threading.enumerate())


def play(main: Callable[[ThreadPool, Stuck], Awaitable[None]], threads_max: int) -> None:
    async def whole() -> None:
        pool, stuck = ThreadPool(threads_max), Stuck()
        try:
            await main(pool, stuck)
        finally:
            stuck.let_go()
            pool.close()
            await until(lambda: threads() == 0)

    asyncio.run(whole())


async def give_up(pool: ThreadPool, stuck: Stuck, count: int) -> None:
    """Begin so many calls, and give them up."""
    begun = stuck.begun
    calls = [asyncio.create_task(pool.run(stuck.run, [])) for _ in range(count)]
    await until(lambda: stuck.begun == begun + count)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


def test_a_call_that_was_given_up_leaves_its_place_to_others() -> None:
    async def main(pool: ThreadPool, stuck: Stuck) -> None:
        for _ in range(STAND_INS - 1):
            await give_up(pool, stuck, 2)
        results = await asyncio.wait_for(asyncio.gather(*(pool.run(abs, [-n]) for n in range(20))), 10)
        assert results == list(range(20))
        assert threads() <= 2 * STAND_INS
        stuck.let_go()
        await until(lambda: threads() == 2)  # as many as before
        assert await pool.run(abs, [-1]) == 1

    play(main, 2)


def test_who_waited_gets_the_place_of_a_call_that_is_given_up() -> None:
    async def main(pool: ThreadPool, stuck: Stuck) -> None:
        running = asyncio.create_task(pool.run(stuck.run, []))
        await until(lambda: stuck.begun == 1)
        waiting = asyncio.create_task(pool.run(abs, [-5]))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done, "one thread, and it is busy"
        running.cancel()
        assert await asyncio.wait_for(waiting, 10) == 5

    play(main, 1)


def test_what_was_given_up_before_it_began_never_runs() -> None:
    async def main(pool: ThreadPool, stuck: Stuck) -> None:
        ran: list[int] = []
        running = asyncio.create_task(pool.run(stuck.run, []))
        await until(lambda: stuck.begun == 1)
        waiting = asyncio.create_task(pool.run(ran.append, [1]))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        stuck.let_go()
        assert await running == "late"
        assert await pool.run(abs, [-1]) == 1
        assert (ran, threads()) == ([], 1)

    play(main, 1)


def test_no_more_than_so_many_stand_in_and_who_waits_for_whom_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)

    async def main(pool: ThreadPool, stuck: Stuck) -> None:
        await give_up(pool, stuck, 1)
        assert caplog.records == []  # nobody has waited
        await give_up(pool, stuck, 1)
        assert "1 calls of peers" in caplog.text
        assert "the oldest, of test_workers.Stuck.run, for 0." in caplog.text
        assert "Other threads are started (call_threads=1; " in caplog.text
        for _ in range(STAND_INS - 2):
            await give_up(pool, stuck, 1)
        assert len(caplog.records) == 1, "one a minute"
        assert threads() == STAND_INS
        monkeypatch.setattr(workers, "WARNING_SECONDS", 0.0)
        waiting: asyncio.Task[Any] = asyncio.create_task(pool.run(abs, [-1]))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        assert threads() == STAND_INS
        assert f"{STAND_INS} calls of peers" in caplog.records[-1].getMessage()
        assert (
            f"Calls wait for a thread (call_threads=1; with those that stand in for such ones, {STAND_INS} at most)"
            in (caplog.records[-1].getMessage())
        )
        stuck.let_go()
        assert await asyncio.wait_for(waiting, 10) == 1

    play(main, 1)


PROGRAM = """
import asyncio, os
from beamnode import FixedPort, Node

async def main():
    async with Node("n@127.0.0.1", cookie="c", discovery=FixedPort(0)) as node:
        node.expose(os.getpid, module="worker", run="process")
        print(await node.rpc(node.name, "worker", "getpid", []), flush=True)
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_os_processes_of_calls_end_with_a_program_that_is_killed(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(file)], env=environment, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        try:
            worker = int(program.stdout.readline())
            assert runs(worker)
        finally:
            program.kill()
        wait_for(lambda: not runs(worker))


def runs(pid: int) -> bool:
    """Whether it lives; one that has ended may be seen until somebody asks what with."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
