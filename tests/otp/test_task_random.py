"""Tasks and streams of random kinds, ended at random moments: outcomes are as they must be, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from task_support import in_a_node, until

from beamnode import GenServer, Pid, ProcessExit, a, monitor, process_info, receive, spawn, trap_exit, unlink
from beamnode import exit as exit_
from beamnode.otp.task import Task
from beamnode.otp.task_supervisor import TaskSupervisor

pytestmark = pytest.mark.filterwarnings("error")


class Work:
    """What tasks of one test do, and how many did so at a time."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    async def run(self, element: tuple[int, str, float]) -> int:
        number, kind, seconds = element
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(60 if kind == "hang" else seconds)
        finally:
            self.running -= 1
        if kind == "exit":
            raise ProcessExit((a.why, number))
        return number


def expected(element: tuple[int, str, float], zipped: bool) -> Any:
    number, kind, _ = element
    if kind == "run":
        return (a.ok, number)
    reason = a.timeout if kind == "hang" else (a.why, number)
    return (a.exit, (element, reason) if zipped else reason)


@pytest.mark.parametrize("seed", range(3))
def test_streams(seed: int) -> None:
    @in_a_node
    async def main() -> None:
        chance = random.Random(seed)
        trap_exit(True)
        supervisor = await TaskSupervisor.start_link()
        for _ in range(20):
            elements = [
                (number, chance.choice(["run"] * 8 + ["exit"]), chance.choice((0, 0.001, 0.003)))
                for number in range(chance.randint(0, 30))
            ]
            if elements and chance.random() < 0.2:
                elements[chance.randrange(len(elements))] = (99, "hang", 0)
            work, most, ordered, zipped = Work(), chance.randint(1, 10), chance.random() < 0.5, chance.random() < 0.5
            options: Any = {
                "max_concurrency": most,
                "ordered": ordered,
                "timeout": 0.5,
                "on_timeout": "kill_task",
                "zip_input_on_exit": zipped,
            }
            make = chance.choice(("async_stream", "supervised", "nolink"))
            if make == "async_stream":
                stream = Task.async_stream(elements, work.run, **options)
            elif make == "supervised":
                stream = TaskSupervisor.async_stream(supervisor, elements, work.run, **options)
            else:
                stream = TaskSupervisor.async_stream_nolink(supervisor, elements, work.run, **options)
            outcomes = [outcome async for outcome in stream]
            wanted = [expected(element, zipped) for element in elements]
            assert (outcomes if ordered else sorted(outcomes, key=repr)) == (
                wanted if ordered else sorted(wanted, key=repr)
            )
            assert work.most <= most
            assert work.running == 0
        assert (process_info() or {})["message_queue_len"] == 0
        unlink(supervisor)
        await GenServer.stop(supervisor)

    main()


async def owner(chance: random.Random, supervisor: Pid, work: Work) -> None:
    """Start tasks of many kinds, wait for them in many ways, until it is ended."""
    trap_exit(chance.random() < 0.3)
    hang = (0, "hang", 0.0)
    for _ in range(chance.randint(0, 5)):
        Task.async_(work.run, hang)
        await TaskSupervisor.async_(supervisor, work.run, hang)
        await Task.start_link(work.run, hang)
    streams = [
        Task.async_stream([hang] * 5, work.run, timeout=None, max_concurrency=chance.randint(1, 5)),
        TaskSupervisor.async_stream(supervisor, [hang] * 5, work.run, timeout=None),
    ]
    reading = [asyncio.ensure_future(anext(stream)) for stream in streams[: chance.randint(0, 2)]]  # type: ignore[arg-type]
    waiting = [
        asyncio.ensure_future(Task.await_(Task.async_(work.run, hang), None)) for _ in range(chance.randint(0, 3))
    ]
    try:
        match chance.randint(0, 3):
            case 0:
                await Task.await_many([Task.async_(work.run, hang) for _ in range(5)], None)
            case 1:
                await Task.yield_many([Task.async_(work.run, hang) for _ in range(5)], None)
            case 2:
                await Task.shutdown(Task.async_(work.run, hang))
            case _:
                await asyncio.sleep(60)
        await receive(lambda _: False)
    finally:
        for future in reading + waiting:
            future.cancel()
        await asyncio.gather(*reading, *waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("seed", range(5))
def test_owners_that_are_ended_at_any_moment_leave_nothing(seed: int) -> None:
    @in_a_node
    async def main() -> None:
        chance = random.Random(seed)
        supervisor = await TaskSupervisor.start_link()
        work = Work()
        owners = []
        for _ in range(20):
            pid = spawn(owner, chance, supervisor, work)
            owners.append(pid)
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.005, 0.02)))
            if chance.random() < 0.7:
                exit_(pid, a.kill)
        for pid in owners:
            exit_(pid, a.kill)
        for pid in owners:
            reference = monitor(pid)
            assert (await receive(timeout=5))[1] == reference
        await until(lambda: work.running == 0, lambda: work.running)
        assert await TaskSupervisor.children(supervisor) == []
        unlink(supervisor)
        await GenServer.stop(supervisor)

    main()
