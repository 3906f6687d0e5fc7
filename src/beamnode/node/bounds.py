"""What a node does about those of its limits that are not a machine's own: counts, and tells the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from beamnode.core.process import Process
from beamnode.etf import Atom, Pid
from beamnode.limits import Limits
from beamnode.node.limit_log import LimitLog
from beamnode.node.throttle import Throttle

MARKS_MAX: Final = 1000  # processes with many messages that are remembered
FORGOTTEN_SECONDS: Final = 600.0  # then a mailbox is written about again, though it has not doubled
NO_MARK: Final = 1 << 62


class Bounds:
    """The limits of one node, and what its connections ask about them."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.log = LimitLog(limits, clock)
        self.mailbox_mark = limits.mailbox_warning_messages or NO_MARK
        self._clock = clock
        self._marks: dict[Pid, tuple[int, float]] = {}  # the next one of a process, and when the last was passed

    def throttle(self) -> Throttle | None:
        """For a connection that has come up."""
        rate = self.limits.signals_per_second_max
        return None if rate is None else Throttle(rate)

    def throttled(self, node: Atom | None) -> None:
        """A connection is not read for a while."""
        self.log.hit("signals_per_second_max", str(node), "it sends faster", "it is made to wait, nothing is dropped")

    def crowded(self, process: Process, node: Atom | None) -> None:
        """A mailbox has passed the first mark, or is still above it: a line whenever it has doubled."""
        count, now = len(process.mailbox), self._clock()
        mark, since = self._marks.get(process.pid, (self.mailbox_mark, now))
        if now > since + FORGOTTEN_SECONDS:
            mark = self.mailbox_mark
        if count < mark:
            return
        while mark <= count:
            mark *= 2
        self._marks.pop(process.pid, None)
        if len(self._marks) >= MARKS_MAX:
            del self._marks[next(iter(self._marks))]
        self._marks[process.pid] = (mark, now)
        self.log.mailbox(process, count, node)
