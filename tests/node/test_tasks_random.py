"""Tasks at random: a process that waits in all ways, and whatever can happen to it meanwhile, several at a time.

What it sees must be the same whether asyncio's task runs it or the compiled one. A failure names its seed.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from beamnode import FixedPort, Node, Pid, a, exit, receive, send, spawn_monitor
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body, runtime, waiting

ROUNDS = 25
SETTLE_TURNS = 12  # of the loop: more than any way to wait needs to be over


class Odd(Exception):
    pass


class Subject:
    """A process that waits, again and again, and what it has seen."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.seen: list[Any] = []
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.task: Any = None

    async def run(self) -> None:
        self.task = current_body().task  # type: ignore[attr-defined]
        ways = (self.any, self.matching, self.timed, self.in_future, self.shielded, self.in_timeout, self.in_group)
        for number in range(ROUNDS):
            way = self.random.choice((*ways, self.turn, self.waited_for))
            swallows = self.random.random() < 0.8
            try:
                self.note(number, way.__name__, await way())
            except asyncio.CancelledError as error:
                self.note(number, way.__name__, "cancelled", error.args, self.task.cancelling(), self.task.uncancel())
                if not swallows:
                    raise
            except (TimeoutError, Odd, ExceptionGroup) as error:
                self.note(number, way.__name__, repr(error), repr(error.__context__))
            finally:
                if self.future.done():
                    self.future = asyncio.get_running_loop().create_future()

    def note(self, *what: Any) -> None:
        self.seen.append(what)

    async def any(self) -> Any:
        return await receive()

    async def matching(self) -> Any:
        return await receive(lambda message: message % 3 == 0)

    async def timed(self) -> Any:
        return await receive(timeout=self.random.choice((0, 60)))

    async def in_future(self) -> Any:
        return await self.future

    async def shielded(self) -> Any:
        return await asyncio.shield(self.future)

    async def in_timeout(self) -> Any:
        async with asyncio.timeout(self.random.choice((0, 60))):
            return await receive()

    async def waited_for(self) -> Any:
        return await asyncio.wait_for(self.future, 60)

    async def in_group(self) -> Any:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(self.in_future())
            second = await receive()
        return first.result(), second

    async def turn(self) -> Any:
        return await asyncio.sleep(0)


async def act(random: Random, subject: Subject, pid: Pid, seen: list[Any]) -> None:
    """Let something happen to it, or several things before it can run."""
    task = subject.task
    for _ in range(random.choice((1, 1, 2, 3))):
        kind = random.choice(("send", "send", "cancel", "result", "error", "turn", "uncancel", "end"))
        if kind == "send":
            send(pid, random.randrange(10))
        elif kind == "cancel":
            seen.append(task.cancel(*random.choice(((), ("why",)))))
        elif kind == "uncancel" and random.random() < 0.3:
            seen.append(task.uncancel())
        elif kind == "result" and not subject.future.done():
            subject.future.set_result(random.randrange(10))
        elif kind == "error" and not subject.future.done():
            subject.future.set_exception(Odd())
        elif kind == "turn":
            await asyncio.sleep(0)
        elif kind == "end" and random.random() < 0.05:
            exit(pid, random.choice((a.kill, a.boom)))


def story(seed: int) -> tuple[Any, ...]:
    """What the process, its driver and its monitor have seen."""
    found: list[Any] = []

    async def main() -> None:
        random = Random(seed)
        async with Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1)):
            subject, seen = Subject(Random(seed + 1)), []
            pid, reference = spawn_monitor(subject.run)
            await asyncio.sleep(0)
            ended = False
            for _ in range(400):
                if subject.task.done():
                    ended = True
                    break
                await act(random, subject, pid, seen)
                for _ in range(SETTLE_TURNS):
                    await asyncio.sleep(0)
            if not ended:
                exit(pid, a.kill)
            match await receive(timeout=10):
                case (a.DOWN, one, a.process, who, reason) if (one, who) == (reference, pid):
                    found.append((subject.seen, seen, reason if ended else None))

    asyncio.run(main())
    return tuple(found)


@pytest.mark.skipif(waiting.make_runner(None) is None, reason="no compiled kernel here")  # type: ignore[arg-type]
@pytest.mark.parametrize("seed", range(0, 60, 2))
def test_it_is_told_and_tells_the_same_as_tasks_of_asyncio(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = story(seed)
    monkeypatch.setattr(runtime, "make_runner", lambda _loop: None)
    expected = story(seed)
    assert len(expected) == 1
    assert expected[0][0]
    assert compiled == expected
