"""How a task waits for what the loop of its node brings, in Python; the compiled `Waiter` does the same, faster.

Where there is the compiled one, there also is a `Runner`, whose tasks run processes; else they run in asyncio's.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

from beamnode.etf.environment import compiled

if TYPE_CHECKING:
    from beamnode.node.body import Body


class Waiter:
    """What a task waits on in `receive`, one for all the waits of a body.

    To the task it is a future of another library than asyncio (`_asyncio_future_blocking` is asyncio's protocol for
    those), with one difference: `wake(at_once=True)`, from where no task runs, lets the task go on in that very call
    instead of in the next turn of the loop.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callback: Callable[[Waiter], object] | None = None  # the task's; None: it does not wait
        self._context: contextvars.Context | None = None
        self._cancelled: asyncio.CancelledError | None = None
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Waiter, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def wake(self, at_once: bool = False) -> None:
        """Let the task go on; nothing if it has been woken."""
        callback, self._callback = self._callback, None
        if callback is None:
            return
        assert self._context is not None
        if at_once:
            self._context.run(callback, self)
        else:
            self._loop.call_soon(callback, self, context=self._context)

    # --- What the task calls ------------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[Waiter], object], *, context: contextvars.Context) -> None:
        self._callback = callback
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        if self._callback is None:
            return False
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.wake()
        return True

    def result(self) -> None:
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise cancelled


class Runner(Protocol):
    """What makes the tasks of processes, one for a loop."""

    def start(self, body: Body, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Task[Any]:
        """A task that runs `await function(*args)`, in a context of its own, and then calls `body.finish`."""


def make_runner(_loop: asyncio.AbstractEventLoop) -> Runner | None:
    """None: there is none in Python."""
    return None


if not TYPE_CHECKING and (_kernel := compiled("beamnode.node._kernel")) is not None:
    Waiter = _kernel.Waiter
    make_runner = _kernel.Runner
