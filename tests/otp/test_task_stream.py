"""otp/task_stream.py: streams of tasks; those of supervisors are in test_task_supervisor.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import task_functions
from task_functions import marks
from task_support import in_a_node, until

from beamnode import ProcessExit, UsageError, a, monitor, process_info, receive, self, send, spawn, trap_exit
from beamnode import exit as exit_
from beamnode.otp.task import Task

pytestmark = pytest.mark.filterwarnings("error")

stream = Task.async_stream


@in_a_node
async def test_outcomes_come_in_the_order_of_the_elements() -> None:
    async def later_first(number: int) -> int:
        await asyncio.sleep(0.05 - number / 100)
        return number

    assert [got async for got in stream(range(5), later_first, max_concurrency=5)] == [(a.ok, n) for n in range(5)]
    unordered = [got async for got in stream(range(5), later_first, max_concurrency=5, ordered=False)]
    assert unordered == [(a.ok, n) for n in reversed(range(5))]
    assert [got async for got in stream([], later_first)] == []
    assert [got async for got in stream([1, 2], task_functions.add, 10)] == [(a.ok, 11), (a.ok, 12)]
    assert [got async for got in stream("ab", str.upper, max_concurrency=1)] == [(a.ok, "A"), (a.ok, "B")]


@in_a_node
async def test_so_many_at_a_time_and_no_more() -> None:
    running = 0
    most = 0

    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    assert len([1 async for _ in stream(range(20), work, max_concurrency=4)]) == 20
    assert most == 4


@in_a_node
async def test_a_thousand_at_a_time() -> None:
    got = [value async for _, value in stream(range(1000), task_functions.slow, 0.1, max_concurrency=1000)]
    assert got == list(range(1000))


@in_a_node
async def test_elements_are_taken_when_there_is_room_and_somebody_asks() -> None:
    taken = []

    def elements() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    outcomes = stream(elements(), task_functions.slow, 0, max_concurrency=3)
    assert taken == []
    for number in range(5):
        assert await anext(outcomes) == (a.ok, number)
        await asyncio.sleep(0.02)
        assert len(taken) <= number + 6, taken
    await outcomes.aclose()


@in_a_node
async def test_an_async_iterable() -> None:
    taken = []

    async def elements() -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(0.001)
            taken.append(number)
            yield number

    assert [got async for got in stream(elements(), task_functions.slow)] == [(a.ok, n) for n in range(10)]
    taken.clear()
    outcomes = stream(elements(), task_functions.slow, 0, max_concurrency=2)
    await anext(outcomes)
    await asyncio.sleep(0.05)
    assert len(taken) <= 4
    await outcomes.aclose()


@in_a_node
async def test_outcomes_do_not_wait_for_an_element_that_does_not_come() -> None:
    more: asyncio.Queue[int] = asyncio.Queue()

    async def elements() -> AsyncIterator[int]:
        while (number := await more.get()) >= 0:
            yield number

    outcomes = stream(elements(), task_functions.slow, max_concurrency=3)
    for number in range(3):
        more.put_nowait(number)
        assert await anext(outcomes) == (a.ok, number)
    more.put_nowait(-1)
    assert [got async for got in outcomes] == []


@in_a_node
async def test_what_the_iterable_raises_ends_the_stream() -> None:
    marks.clear()

    def elements() -> Iterator[Any]:
        yield 1
        raise ValueError("no more")

    async def async_elements() -> AsyncIterator[Any]:
        yield 2
        raise ValueError("no more")

    for source in (elements(), async_elements()):
        with pytest.raises(ValueError, match="no more"):
            [got async for got in stream(source, task_functions.hang, max_concurrency=2)]
    assert {number for what, number in marks if what == "began"} == {
        number for what, number in marks if what != "began"
    }


@in_a_node
async def test_leaving_the_loop_kills_what_runs() -> None:
    marks.clear()

    async def work(number: int) -> int:
        if number:
            await task_functions.hang(number)
        return number

    async for _ in stream(range(3), work, max_concurrency=3):
        await until(lambda: {("began", 1), ("began", 2)} <= set(marks))
        break
    await until(lambda: {("cancelled", 1), ("cancelled", 2)} <= set(marks))
    marks.clear()
    outcomes = stream(range(3), work, max_concurrency=3)
    assert await anext(outcomes) == (a.ok, 0)
    await until(lambda: {("began", 1), ("began", 2)} <= set(marks))
    await outcomes.aclose()
    assert {("cancelled", 1), ("cancelled", 2)} <= set(marks)  # when that returns, they have ended


@in_a_node
async def test_cancelling_the_reader_kills_what_runs() -> None:
    marks.clear()

    async def read() -> None:
        async for _ in stream([1, 2], task_functions.hang, max_concurrency=2):
            pass

    reading = asyncio.ensure_future(read())
    await until(lambda: len(marks) == 2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: {("cancelled", 1), ("cancelled", 2)} <= set(marks))


@in_a_node
async def test_a_timeout_ends_the_stream() -> None:
    marks.clear()
    with pytest.raises(TimeoutError, match=r"within 0\.05 s: all of them were killed"):
        [got async for got in stream([1, 2], task_functions.hang, timeout=0.05)]
    assert ("cancelled", 1) in marks


@in_a_node
async def test_a_timeout_of_one_task() -> None:
    async def work(number: int) -> int:
        if number == 1:
            await task_functions.hang()
        return number

    options: Any = {"timeout": 0.1, "on_timeout": "kill_task", "max_concurrency": 2}
    assert [got async for got in stream(range(3), work, **options)] == [(a.ok, 0), (a.exit, a.timeout), (a.ok, 2)]
    got = [got async for got in stream([1], work, zip_input_on_exit=True, **options)]
    assert got == [(a.exit, (1, a.timeout))]
    assert [got async for got in stream([0], work, timeout=None)] == [(a.ok, 0)]


@in_a_node
async def test_a_crash_is_an_outcome_where_exits_are_trapped() -> None:
    trap_exit(True)
    outcomes: list[Any] = [got async for got in stream([1, 2, 3], task_functions.boom_on_two)]
    assert [outcomes[0], outcomes[2]] == [(a.ok, 1), (a.ok, 3)]
    assert outcomes[1][0] is a.exit
    assert outcomes[1][1][0] == (a.ValueError, b"two")
    [(kind, (element, _))] = [got async for got in stream([2], task_functions.boom_on_two, zip_input_on_exit=True)]
    assert (kind, element) == (a.exit, 2)
    assert (process_info() or {})["message_queue_len"] == 0  # nothing of the stream's own


@in_a_node
async def test_a_crash_ends_the_reader_elsewhere() -> None:
    async def read() -> None:
        async for _ in stream([1, 2, 3], task_functions.boom_on_two):
            pass

    reference = monitor(spawn(read))
    down = await receive(timeout=5)
    assert (down[1], down[4][0]) == (reference, (a.ValueError, b"two"))


@in_a_node
async def test_a_reader_that_ends_takes_its_tasks_along() -> None:
    for reason, traps in ((a.over, False), (a.over, True), (a.normal, False)):
        marks.clear()

        async def read(reason: Any, traps: bool, kept: list[Any]) -> None:
            trap_exit(traps)
            reading = stream([1, 2], task_functions.hang, max_concurrency=2)
            kept.append(asyncio.ensure_future(anext(reading)))  # type: ignore[arg-type]
            kept.append(reading)
            await until(lambda: len(marks) == 2)
            raise ProcessExit(reason)

        kept: list[Any] = []
        pid = spawn(read, reason, traps, kept)
        await until(lambda: {("cancelled", 1), ("cancelled", 2)} <= set(marks))
        reference = monitor(pid)
        assert (await receive(timeout=5))[1] == reference
        kept[0].cancel()
        await asyncio.gather(kept[0], return_exceptions=True)
        await kept[1].aclose()


@in_a_node
async def test_a_keeper_that_is_killed_is_told() -> None:
    trap_exit(True)
    reading = stream([1], task_functions.hang)
    waiting = asyncio.ensure_future(anext(reading))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    [keeper] = (process_info() or {})["links"]
    exit_(keeper, a.kill)
    with pytest.raises(ProcessExit) as failure:
        await waiting
    assert failure.value.reason is a.killed
    assert await receive(timeout=1) == (a.EXIT, keeper, a.killed)


@in_a_node
async def test_strangers_cannot_confuse_it() -> None:
    reading = stream([1, 2], task_functions.slow, 0.1)
    waiting = asyncio.ensure_future(anext(reading))  # type: ignore[arg-type]
    await asyncio.sleep(0.02)
    [keeper] = (process_info() or {})["links"]
    for message in ((0, a.x), (a.DOWN, 1, 2, 3, 4), a.x, (a.x, 1), (a.EXIT, self(), a.x)):
        send(keeper, message)
    assert await waiting == (a.ok, 1)
    await reading.aclose()


@in_a_node
async def test_wrong_options_are_told_at_once() -> None:
    for options in (
        {"max_concurrency": 0},
        {"max_concurrency": 1.5},
        {"timeout": -1},
        {"timeout": "5"},
        {"on_timeout": "die"},
    ):
        with pytest.raises(UsageError):
            stream([1], task_functions.slow, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="iterable"):
        stream(3, task_functions.slow)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes a function"):
        stream([1], 3)  # type: ignore[arg-type]
