"""What the tests of tasks run, here and for peers: on the loop, in a thread, in an OS process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from beamnode import Pid, ProcessExit, Throw, a, receive, self, send
from beamnode.node import process_info

marks: list[Any] = []  # what happened here, for the test to look at


async def add(one: int, two: int) -> int:
    return one + two


def double(number: int) -> int:
    return number * 2


def cube(number: int) -> int:
    """For OS processes."""
    return int(number**3)


async def slow(number: float, seconds: float = 0.01) -> float:
    await asyncio.sleep(seconds)
    return number


async def hang(mark: Any = None) -> None:
    marks.append(("began", mark))
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        marks.append(("cancelled", mark))
        raise


def block(seconds: float) -> str:
    """In a thread, which nothing stops."""
    marks.append("blocks")
    time.sleep(seconds)
    marks.append("blocked")
    return "dropped"


def leave_file(path: bytes, seconds: float) -> bytes:
    """In an OS process: say that it ran."""
    Path(path.decode()).write_text("ran")
    time.sleep(seconds)
    return path


async def boom(value: Any) -> None:
    raise ValueError(f"no {value}")


def boom_blocking(value: Any) -> None:
    raise ValueError(f"no {value}")


async def boom_on_two(number: int) -> int:
    if number == 2:
        raise ValueError("two")
    return number


async def leave(reason: Any) -> None:
    raise ProcessExit(reason)


async def throw(value: Any) -> None:
    raise Throw(value)


async def no_term() -> object:
    return object()


async def echo() -> Any:
    """The next message of the task."""
    return await receive(timeout=5)


async def who() -> tuple[Pid, Any]:
    info = process_info() or {}
    return self(), info.get("dictionary")


async def now() -> Any:
    return a.now


async def tell(pid: Pid, message: Any) -> None:
    send(pid, message)


async def count_and_crash(pid: Pid, key: str, limit: int) -> None:
    """Crash the first `limit` times."""
    marks.append(key)
    send(pid, (a.ran, marks.count(key)))
    if marks.count(key) <= limit:
        raise ValueError(key)


async def leave_on_two(number: int) -> int:
    if number == 2:
        raise ProcessExit(a.two)
    return number
