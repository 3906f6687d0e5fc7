"""The tick time of a node, and its change while connections are up. Source: net_kernel.erl (`new_ticktime`).

Two nodes must agree about the time: who waits for a shorter one than the other ticks in takes it for dead. A change
therefore has a transition period, within which it is to be made on every node. Meanwhile a node ticks as often as the
shorter of both times asks for, and waits as long as the longer one says. Times are milliseconds, as in OTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from beamnode.etf import Atom, a

MILLISECONDS_MAX = 2**32 - 1  # as long as a timer of Erlang may be


class Ticking(Protocol):
    """What a connection must be able to do."""

    def tick(self) -> None: ...
    def set_ticktime(self, net_ticktime: float, net_tickintensity: int) -> None: ...


class NetTicktime:
    """The time that this node ticks by: `time` and `intensity`; `how` it changes at present, or None."""

    def __init__(
        self,
        seconds: float,
        intensity: int,
        loop: asyncio.AbstractEventLoop,
        connections: Callable[[], Iterable[Ticking]],
    ) -> None:
        self.time = max(round(seconds * 1000), 1)
        self.intensity = intensity
        self.how: Atom | None = None
        self.seconds = seconds  # how long connections wait for their peers now
        self._loop = loop
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None

    def change(self, time: int, transition: int) -> Any:
        """Change to `time` within `transition`: `unchanged`, `change_initiated` or `{ongoing_change_to, Time}`.

        The time becomes a multiple of the intensity, as in OTP.
        """
        if self.how is not None:
            return (a.ongoing_change_to, self.time)
        time, transition = min(time, MILLISECONDS_MAX), min(transition, MILLISECONDS_MAX)
        old, new = self.time, -(-max(time, self.intensity) // self.intensity) * self.intensity
        if self.time in (time, new):
            return a.unchanged
        self.time = new
        self.how = a.longer if new > old else a.shorter
        if self.how is a.longer:
            self._wait_as_said()
        interval = max(min(old, new) // self.intensity, 1)
        self._tick(interval / 1000, 1 + -(-transition // interval))
        return a.change_initiated

    def cancel(self) -> None:
        """The node stops."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, interval: float, ticks_left: int) -> None:
        if ticks_left == 1:
            if self.how is a.shorter:
                self._wait_as_said()
            self.how = None
        for connection in self._connections():
            connection.tick()
        if ticks_left > 1:
            self._timer = self._loop.call_later(interval, self._tick, interval, ticks_left - 1)

    def _wait_as_said(self) -> None:
        self.seconds = self.time / 1000
        for connection in self._connections():
            connection.set_ticktime(self.seconds, self.intensity)
