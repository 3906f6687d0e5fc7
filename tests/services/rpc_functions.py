"""What the tests expose to peers."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from typing import Any

from beamnode import ProcessExit, Throw, a, self

marks: list[Any] = []  # what happened here, for the test to look at


def sqrt(number: float) -> float:
    return math.sqrt(number)


async def add(one: int, two: int) -> int:
    return one + two


def boom(value: Any) -> None:
    raise ValueError(f"no {value}")


async def boom_async(value: Any) -> None:
    boom(value)


def throw(value: Any) -> None:
    raise Throw(value)


async def leave(reason: Any) -> None:
    raise ProcessExit(reason)


def end_python() -> None:
    sys.exit(3)


def stop_iteration() -> None:
    raise StopIteration


def no_term() -> object:
    return object()


async def throw_no_term() -> None:
    raise Throw(object())


async def sleep(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        marks.append("cancelled")
        raise
    return "slept"


def sleep_in_thread(seconds: float) -> str:
    time.sleep(seconds)
    marks.append("thread ended")
    return "slept"


def where() -> Any:
    return (threading.current_thread() is threading.main_thread(), self())


async def where_async() -> Any:
    return (threading.current_thread() is threading.main_thread(), self())


def compute(seconds: float) -> int:
    """Nothing but Python, for so long."""
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
    return rounds


def os_pid() -> int:
    return os.getpid()


def say(word: Any) -> Any:
    print(word)
    print("and more", end="")
    return a.said


async def say_async(word: Any) -> Any:
    print(word)
    return a.said
