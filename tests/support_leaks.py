"""How many bytes of memory a call leaves behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

SMALLEST = 24  # bytes, of the smallest object: less than that for each call is no object for each call
MEASUREMENTS = 5


def growth(call: Callable[[], Any], rounds: int) -> int:
    """Bytes that a call leaves behind, on the average: of the first measurement that finds none, or of the least.

    What Python itself keeps for later is kept once; a leak is in every measurement.
    """
    for _ in range(20):
        call()
    tracemalloc.start()
    try:
        least = allocated(call, rounds)
        for _ in range(MEASUREMENTS - 1):
            if least < SMALLEST * rounds:
                break
            least = min(least, allocated(call, rounds))
        return least // rounds
    finally:
        tracemalloc.stop()


def allocated(call: Callable[[], Any], rounds: int) -> int:
    """Bytes that are allocated after so many calls, and were not before; tracemalloc must run."""
    call()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(rounds):
        call()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before
