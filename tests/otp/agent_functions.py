"""What agents are asked to run by name, by peers and by nodes of ours."""

from __future__ import annotations

import asyncio
from typing import Any

from beamnode import self


def initial(value: Any) -> Any:
    return value


def plus(state: int, *numbers: int) -> int:
    return state + sum(numbers)


async def times(state: int, number: int) -> int:
    await asyncio.sleep(0)
    return state * number


def swap(state: Any, new: Any) -> tuple[Any, Any]:
    return state, new


def whole(state: Any) -> Any:
    return state


def pid(state: Any) -> Any:
    return self()


def number(state: Any) -> int:
    return 5


def fail(state: Any, text: Any) -> Any:
    raise ValueError(text if isinstance(text, str) else text.decode())


def hidden(state: Any) -> Any:
    raise AssertionError("this function was not exposed")
