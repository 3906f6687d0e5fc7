"""A thread that runs one function after the other, for a server whose handlers block."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

_Job: TypeAlias = tuple[asyncio.Future[Any], contextvars.Context, Callable[..., Any], tuple[Any, ...]]


class Worker:
    """Started with the first `run`; ends after `close`, when the function that it runs has returned.

    A daemon, because a function that never returns cannot be stopped, and shall not keep the program from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Call `function(*args)` in the thread, with the context of the caller."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put((future, contextvars.copy_context(), function, args))
        return future

    def close(self) -> None:
        """No more `run`."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, context, function, args = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = context.run(function, *args)
            except BaseException as failure:
                error = failure
            try:
                self._loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del job, future, context, function, args, result, error  # wait with empty hands


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration | KeyboardInterrupt):  # no future takes the one, the other is nobody's Ctrl-C
        future.set_exception(RuntimeError(f"a handler raised {error!r}"))
    else:
        future.set_exception(error)
