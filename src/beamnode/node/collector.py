"""Python's garbage collector, where there are many processes.

A full collection walks through every object that lives, and Python makes one whenever those have grown by a quarter. A
process is some ten objects: starting 100,000 of them would spend four fifths of its time in such walks, which find
nothing. So the more processes a node has, the more new objects it takes before the next one: 7,000 for each hundred
processes, 14,000,000 at most, if that is more than the program has chosen (`gc.set_threshold`). The other collections,
of new objects, go on as always. When the nodes have shut down, the program's choice is back.
"""

from __future__ import annotations

import gc
import threading
from typing import Final

PROCESSES_PER_STEP: Final = 100  # of the third threshold, which counts collections of the second generation
STEPS_MAX: Final = 2000


class _Thresholds:
    """What the nodes of this Python process want of its one collector."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[int, int] = {}  # the third threshold, by runtime
        self._chosen = 0  # what the program had
        self._set = 0  # what it is by us; 0: nothing

    def grown(self, runtime: object, processes: int) -> None:
        """A node has so many processes now."""
        wanted = min(processes // PROCESSES_PER_STEP, STEPS_MAX)
        with self._lock:
            if wanted > self._wanted.get(id(runtime), 0):
                self._wanted[id(runtime)] = wanted
                self._adjust()

    def ended(self, runtime: object) -> None:
        """A node has ended its processes."""
        with self._lock:
            if self._wanted.pop(id(runtime), None) is not None:
                self._adjust()

    def _adjust(self) -> None:
        first, second, third = gc.get_threshold()
        if third != self._set:  # the program has chosen, before us or since
            self._chosen, self._set = third, 0
        wanted = max(self._wanted.values(), default=0)
        if not self._chosen:  # there are no full collections
            return
        if wanted > self._chosen:
            self._set = wanted
            gc.set_threshold(first, second, wanted)
        elif self._set:
            self._set = 0
            gc.set_threshold(first, second, self._chosen)


_thresholds: Final = _Thresholds()

grown = _thresholds.grown
ended = _thresholds.ended
