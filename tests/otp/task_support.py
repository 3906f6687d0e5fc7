"""A node for the tests of tasks, which looks whether they have left anything behind."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from beamnode import FixedPort, Node
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body

WAIT_SECONDS = 10.0


def in_a_node(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test is the body of a node: afterwards no process, asyncio task, thread, monitor or message is left of it."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            carrier = MemoryNetwork().carrier("h")
            async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
                before = _there_is()
                await test(**fixtures)
                await until(lambda: not any(_new(before)), lambda: f"left behind: {_new(before)}")
                process = current_body().process
                ties = (process.monitors, process.aliases, process.expected, process.links, process.watchers)
                assert not any(ties), ties
                assert not process.mailbox, process.mailbox

        asyncio.run(main())

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would call it a coroutine
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def _there_is() -> tuple[set[Any], set[Any], set[Any]]:
    processes = {process.pid for process in current_body().runtime.signals.processes()}
    return processes, set(asyncio.all_tasks()), set(threading.enumerate())


def _new(before: tuple[set[Any], ...]) -> list[Any]:
    """What was not there before; threads of an earlier test may have ended meanwhile."""
    return [left - known for left, known in zip(_there_is(), before, strict=True)]


async def until(predicate: Callable[[], object], what: Any = "it did not happen") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not predicate():
        assert time.monotonic() < deadline, what() if callable(what) else what
        await asyncio.sleep(0.005)
