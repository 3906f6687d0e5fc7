"""`receive` and what it waits with, however the waiting ends: the process is as it was, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import FixedPort, Node, receive, self, send
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body

ROUNDS = 400  # so many that what Python itself keeps for later does not count
SMALLEST = 24  # bytes, of the smallest object

pytestmark = pytest.mark.filterwarnings("error")


async def taken() -> None:
    send(self(), 1)
    assert await receive() == 1


async def waited_for() -> None:
    asyncio.get_running_loop().call_soon(send, self(), 2)
    assert await receive() == 2


async def selective() -> None:
    send(self(), 3)
    assert await receive(lambda message: message == 3) == 3
    with pytest.raises(TimeoutError):
        await receive(timeout=0)


async def cancelled() -> None:
    async def wait() -> Any:
        return await receive()

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)


async def cancelled_before_its_first_step() -> None:
    task = asyncio.ensure_future(receive_in_a_coroutine())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def receive_in_a_coroutine() -> Any:
    return await receive()


async def closed_while_it_waits() -> None:
    coroutine = receive_in_a_coroutine()
    coroutine.send(None)
    assert body_waits()
    coroutine.close()


async def dropped_while_it_waits() -> None:
    coroutine = receive_in_a_coroutine()
    coroutine.send(None)
    assert body_waits()
    del coroutine


async def thrown_into() -> None:
    coroutine = receive_in_a_coroutine()
    coroutine.send(None)
    with pytest.raises(ZeroDivisionError):
        coroutine.throw(ZeroDivisionError())


async def closed_before() -> None:
    receive().close()


async def never_awaited() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        receive()
        receive(timeout=1)


async def awaited_twice() -> None:
    send(self(), 4)
    waiting = receive()
    assert await waiting == 4
    with pytest.raises(RuntimeError):
        await waiting


async def destroyed_while_pending() -> None:
    """A task that nobody holds, and the loop no more: what its last reference takes along."""
    task = asyncio.ensure_future(receive_in_a_coroutine())
    await asyncio.sleep(0)
    assert body_waits()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    body = current_body()
    assert body is not None
    body.waiter.add_done_callback(None, context=None)  # type: ignore[attr-defined]
    del task
    gc.collect(0)


def body_waits() -> bool:
    body = current_body()
    assert body is not None
    assert body.process.waiting is body.waits  # type: ignore[attr-defined]
    return body.process.waiting


WAYS = [
    taken, waited_for, selective, cancelled, cancelled_before_its_first_step, closed_while_it_waits, closed_before,
    dropped_while_it_waits, thrown_into, never_awaited, awaited_twice, destroyed_while_pending,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_however_it_ends_nothing_is_left(way: Callable[[], Awaitable[None]]) -> None:
    async def run() -> int:
        for _ in range(5):
            await way()
            assert not body_waits()
        await taken()  # the process can go on
        await waited_for()
        tracemalloc.start()
        try:
            least = await _allocated(way)
            for _ in range(4):  # what Python itself keeps for later is kept once, a leak is there every time
                if least < ROUNDS * SMALLEST:
                    break
                least = min(least, await _allocated(way))
            return least
        finally:
            tracemalloc.stop()

    async def main() -> int:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            return await run()

    assert asyncio.run(main()) < ROUNDS * SMALLEST


async def _allocated(way: Callable[[], Awaitable[None]]) -> int:
    await way()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(ROUNDS):
        await way()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before
