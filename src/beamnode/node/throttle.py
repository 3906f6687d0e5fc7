"""How fast one connection is read: a bound on the signals that it may bring in a second.

Nothing is dropped: a connection that brought too much is not read for a while, until it has brought no more than the
rate allows. Then the system's buffers fill, and the peer waits.
"""

from __future__ import annotations

from typing import Final

BURST_SECONDS: Final = 1.0  # so much may come at once, after a silence


class Throttle:
    """Each signal takes its time; what has not been used of the last second is there for a burst."""

    __slots__ = ("_seconds_each", "_seen", "_used_until")

    def __init__(self, signals_per_second: int) -> None:
        self._seconds_each = 1 / signals_per_second
        self._seen = 0
        self._used_until = float("-inf")

    def pause_seconds(self, signals: int, now: float) -> float:
        """How long not to read, when there were so many `signals` in all by now; 0 or less: read on."""
        news, self._seen = signals - self._seen, signals
        self._used_until = max(self._used_until, now - BURST_SECONDS) + news * self._seconds_each
        return self._used_until - now
