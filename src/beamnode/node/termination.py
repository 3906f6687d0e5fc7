"""SIGTERM: the nodes of this Python process leave their clusters in order, then the program ends, with status 143.

What the end of `async with Node` does is done: the body is cancelled, supervision trees end in their order, peers see
their connections closed, epmd gets the name back. The handler is that of the whole Python process: it is taken only
where nobody has one (the default action is in force) and in the main thread, and is given back with the last node. The
leaving has `SECONDS_MAX`; a second SIGTERM ends the program at once. A forked child is as if nobody had a handler.

The status is what shells report of a program that SIGTERM ended: who waits for it sees that it was interrupted.
Source: erl_signal_server.erl, whose answer to `sigterm` is `init:stop()`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

log = logging.getLogger("beamnode.node")

STATUS: Final = 128 + signal.SIGTERM
SECONDS_MAX: Final = 30.0  # trees have 10 of them, bodies 5, connections 5


class Terminated(SystemExit):
    """SIGTERM ends the program; raised where its nodes have left, or leave by way of it."""

    def __init__(self) -> None:
        super().__init__(STATUS)


class _Termination:
    """The handler, while it is ours, and whom it tells."""

    def __init__(self) -> None:
        self._leave: dict[object, Callable[[], None]] = {}
        self._hooked = False
        self._forking = threading.local()  # `mask`: the signals that a thread which forks had blocked
        self._limit: threading.Timer | None = None
        self._ends = False

    def add(self, node: object, leave: Callable[[], None]) -> None:
        """A node is up: have `leave` called, in the handler, which is in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._leave:
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                return
            try:
                signal.signal(signal.SIGTERM, self._handle)
            except ValueError:  # not in the main interpreter
                return
            self._ends = False
            self._watch_forks()
        self._leave[node] = leave

    def remove(self, node: object) -> None:
        """A node has left."""
        if self._leave.pop(node, None) is None or self._leave:
            return
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        with contextlib.suppress(ValueError):  # in another thread: without nodes the handler does the default
            if signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _watch_forks(self) -> None:
        """A forked child does not have the handler. It is no node, and Python forgets signals that come as it forks."""
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._begin_child)

    def _block(self) -> None:
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _begin_child(self) -> None:
        self._leave.clear()
        self._limit = None
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._unblock()

    def may_end(self) -> bool:
        """Whether all have left: true once, so that nothing raises `Terminated` into what the first one has begun."""
        if self._leave or self._ends:
            return False
        self._ends = True
        return True

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._limit is not None or not self._leave:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._limit = threading.Timer(SECONDS_MAX, _end_now)
        self._limit.daemon = True
        self._limit.start()
        for leave in list(self._leave.values()):
            leave()


def _end_now() -> None:
    """Also where the main thread never comes back to Python, so that no handler runs."""
    log.error("this program has not ended within %g s of SIGTERM: it is ended", SECONDS_MAX)
    os._exit(STATUS)


_termination: Final = _Termination()

add = _termination.add
remove = _termination.remove
may_end = _termination.may_end
