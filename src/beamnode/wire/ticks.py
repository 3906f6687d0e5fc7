"""Ticks: the sign of life on a connection that has nothing to say, and how a silent peer is noticed.

`net_ticktime` T is divided into `net_tickintensity` intervals. At the end of each one:

- when nothing was written during it, a tick is sent; to a hidden peer also when nothing was read from it;
- when nothing was read during `intensity` intervals in a row, the peer is dead: `NetTickTimeout`.

So a silent peer is noticed between T and T + T / intensity after its last byte. Where OTP counts packets read we count
bytes: a large frame that arrives slowly keeps its connection up.

Source: OTP kernel, dist_util.erl `send_tick` and `need_to_tick`; net_kernel(3), `net_ticktime`.
"""

from __future__ import annotations

from typing import Final

from beamnode.errors import NetTickTimeout, UsageError

TICK_INTENSITY_MIN: Final = 4
TICK_INTENSITY_MAX: Final = 1000


class Ticker:
    """Decides when to tick and when to give up. Times are seconds, `now` of the caller's clock.

    The owner keeps `bytes_in` and `packets_out` (frames) at what it has read and written, ticks included, calls
    `handle_deadline` at `next_deadline()` and, when that says so, writes a tick.
    """

    __slots__ = (
        "_bytes_in_then",
        "_deadline",
        "_intensity",
        "_interval",
        "_packets_out_then",
        "_peer_published",
        "_silent_intervals",
        "bytes_in",
        "packets_out",
    )

    def __init__(self, net_ticktime: float, net_tickintensity: int, *, peer_published: bool, now: float) -> None:
        self.bytes_in = 0
        self.packets_out = 0
        self._bytes_in_then = 0
        self._packets_out_then = 0
        self._peer_published = peer_published
        self.set_ticktime(net_ticktime, net_tickintensity, now)

    def set_ticktime(self, net_ticktime: float, net_tickintensity: int, now: float) -> None:
        """Change the tick time (seconds) and how many intervals it has; silence is counted anew from `now`.

        Between two nodes: the longer time first on the node that will wait for it (net_kernel: `set_net_ticktime/2`).
        """
        if not TICK_INTENSITY_MIN <= net_tickintensity <= TICK_INTENSITY_MAX:
            raise UsageError(f"net_tickintensity is 4 to 1000, not {net_tickintensity}")
        if not net_ticktime > 0:
            raise UsageError(f"net_ticktime is a number of seconds above 0, not {net_ticktime}")
        self._intensity = net_tickintensity
        self._interval = net_ticktime / net_tickintensity
        self._silent_intervals = 0
        self._deadline = now + self._interval

    def next_deadline(self) -> float:
        """The end of the current interval."""
        return self._deadline

    def excuse_silence(self) -> None:
        """The peer was not listened to: this interval, and those before it, are not counted against it."""
        self._bytes_in_then = -1

    def handle_deadline(self, now: float) -> bool:
        """An interval is over: True when a tick has to be written now. Before the deadline: False, nothing happens.

        Raises NetTickTimeout when nothing was read for `net_tickintensity` intervals. A call that comes late counts as
        one interval: a clock or a loop that stood still takes no peer for dead.
        """
        if now < self._deadline:
            return False
        self._deadline += self._interval
        if self._deadline <= now:
            self._deadline = now + self._interval
        silent = self.bytes_in == self._bytes_in_then
        self._silent_intervals = self._silent_intervals + 1 if silent else 0
        if self._silent_intervals >= self._intensity:
            raise NetTickTimeout(f"nothing came from the peer for {self._intensity * self._interval:g} seconds")
        tick = self.packets_out == self._packets_out_then or (silent and not self._peer_published)
        self._bytes_in_then = self.bytes_in
        self._packets_out_then = self.packets_out + tick  # the tick itself does not count as something written
        return tick
