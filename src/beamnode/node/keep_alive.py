"""A node whose event loop is blocked: its connections are kept alive, and a warning says what blocks it, and where.

In the BEAM nothing can keep the ticks of a node back. Here any code can that takes long and awaits nothing: all that
runs on the loop does so in one thread. So while there are connections another thread, one a node, asks the loop for an
answer again and again. As long as none comes:

- after a part of the tick time, it has the streams give their peers signs of life (`keep_alive`, of those that can);
- after `blocked_warning` seconds it says, once, which process blocks and the line it is at; and the loop, when it goes
  on, how long that took. OTP has the like in `erlang:system_monitor/2`: `long_schedule`.

Nothing is done for this when messages come or go. It is a thread of this Python process on purpose: one that is stopped
(SIGSTOP) or hangs as a whole falls silent, and is taken for dead. So does one in which an extension keeps Python's lock
(the GIL) all the time: nothing of Python runs then. A handshake is not helped: it has `net_setuptime`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Final

from beamnode.node.blockers import depth_of, line_of, shown_stack, who_runs

if TYPE_CHECKING:
    from beamnode.node.network import Network
    from beamnode.node.session import Session

log = logging.getLogger("beamnode.node")

# Parts of the tick time. Its own last sign may be a fourth of it old when a loop is blocked; with these the next one
# comes when half of it has passed, at the latest.
SIGN_EVERY: Final = 1 / 4
SIGN_AFTER: Final = 1 / 8
LOOK_EVERY: Final = 1 / 16


class KeepAlive:
    """What a network has for its sessions that are up. The thread begins with the first of them and ends with the last.

    For the loop's thread, which says when sessions come and go.
    """

    def __init__(self, network: Network, blocked_warning: float | None) -> None:
        self._network = network
        self._warning = blocked_warning
        self._sessions: dict[Session, None] = {}
        self._watch: _Watch | None = None

    def add(self, session: Session) -> None:
        """It is up."""
        self._sessions[session] = None
        if self._watch is None:
            self._watch = _Watch(self._network, self._warning, self._sign)
        else:
            self._watch.look()

    def remove(self, session: Session) -> None:
        """It has ended, or never was up."""
        self._sessions.pop(session, None)
        if not self._sessions and self._watch is not None:
            self._watch.stop()
            self._watch = None

    def ticktime_changed(self) -> None:
        if self._watch is not None:
            self._watch.look()

    def _sign(self) -> None:
        """Of the other thread."""
        for session in list(self._sessions):
            session.keep_alive()


class _Watch:
    """The thread, and what it and the loop tell each other."""

    def __init__(self, network: Network, warning: float | None, sign: Callable[[], None]) -> None:
        self._network = network
        self._loop = network.loop
        self._warning = warning
        self._sign = sign
        self._signed = 0.0  # when last
        self._looks = threading.Event()
        self._over = False
        self._state = threading.Lock()  # of the next two
        self._asked: float | None = None  # since when the loop owes an answer
        self._warned = False  # about this time that it is blocked
        self._loop_thread = threading.get_ident()
        self._depth = 0  # of the loop's own frames, below those of what it runs
        self._loop.call_soon(self._answer)
        thread = threading.Thread(target=self._run, name=f"beamnode keeps {network.node} alive", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("nothing keeps the connections of %s alive while its loop is blocked: %s", network.node, error)

    # --- The loop's thread --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look now: there is less time than there was."""
        self._looks.set()

    def stop(self) -> None:
        self._over = True
        self._looks.set()

    def _answer(self) -> None:
        self._loop_thread = threading.get_ident()
        self._depth = depth_of(sys._getframe().f_back)
        with self._state:
            asked, warned = self._asked, self._warned
            self._asked, self._warned = None, False
        if warned and asked is not None:
            log.warning(
                "the event loop of %s goes on: it was blocked for %.1f s", self._network.node, monotonic() - asked
            )

    # --- The other thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            while not self._over:
                self._looks.wait(self._pause())
                self._looks.clear()
                if not self._over:
                    self._look()

    def _ticktime(self) -> float:
        ticktime = self._network.ticktime
        return min(ticktime.seconds, ticktime.time / 1000)

    def _pause(self) -> float:
        pause = self._ticktime() * LOOK_EVERY
        return pause if self._warning is None else min(pause, self._warning)

    def _look(self) -> None:
        now, asked = monotonic(), self._asked
        if asked is None:
            self._asked = now
            self._loop.call_soon_threadsafe(self._answer)
            return
        blocked, ticktime = now - asked, self._ticktime()
        if blocked >= ticktime * SIGN_AFTER and now - self._signed >= ticktime * SIGN_EVERY:
            self._signed = now
            self._sign()
        if self._warning is not None and blocked >= self._warning and not self._warned:
            self._warn(asked, blocked)

    def _warn(self, asked: float, blocked: float) -> None:
        frames = self._frames() if self._loop.is_running() else []
        if not frames:  # it is not run now, or waits in the system, or has no turn of the processor: nobody to blame
            return
        who, line, stack = who_runs(self._loop, self._network.runtime), line_of(frames), shown_stack(frames)
        with self._state:
            if self._asked is not asked:  # it has gone on meanwhile
                return
            self._warned = True
        log.warning(
            "the event loop of %s is blocked, for %.1f s so far, by %s at %s: nothing else runs on it meanwhile; "
            "await what takes long, or run it in a thread (asyncio.to_thread)",
            self._network.node,
            blocked,
            who,
            line,
        )
        log.debug("what blocks the event loop of %s:\n%s", self._network.node, stack)

    def _frames(self) -> list[FrameType]:
        """Of what the loop runs now, innermost first."""
        frames = []
        frame = sys._current_frames().get(self._loop_thread)
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames[: max(len(frames) - self._depth, 0)]
