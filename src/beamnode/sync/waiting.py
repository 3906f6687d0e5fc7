"""How a thread waits for what runs on a node's loop, and how awaitable names become blocking ones."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from beamnode.errors import NotAliveError, UsageError
from beamnode.node import current_body

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

LOOP_CHECK_SECONDS: Final = 1.0  # how often a thread that waits looks whether the loop is still there
CANCEL_SECONDS: Final = 1.0
CANCEL_CHECK_SECONDS: Final = 0.001
STOPPED: Final = "the node was stopped while this was waited for"


def in_process(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine of the awaitable names in the name of the current process, and wait for its result."""
    runtime = current_body().runtime
    if runtime.on_its_loop():
        coroutine.close()
        raise UsageError("this code runs on the event loop: use the awaitable names of `beamnode` here")
    return wait(coroutine, runtime.loop)


def blocking(function: Callable[Arguments, Coroutine[Any, Any, Result]]) -> Callable[Arguments, Result]:
    """The blocking form of an awaitable name: the same arguments, docstring, result and errors."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        return in_process(function(*args, **options))

    return call


def wait(coroutine: Coroutine[Any, Any, Result], loop: asyncio.AbstractEventLoop) -> Result:
    """The result of a coroutine on another thread's loop, or its exception; Ctrl-C cancels it."""
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # the loop is closed
        coroutine.close()
        raise NotAliveError(STOPPED) from None
    try:
        while not future.done():
            concurrent.futures.wait((future,), LOOP_CHECK_SECONDS)
            if loop.is_closed() and not future.done():
                raise NotAliveError(STOPPED)
        return future.result()
    except concurrent.futures.CancelledError:
        raise NotAliveError(STOPPED) from None
    except BaseException:
        if future.cancel():
            _let_it_end(coroutine, loop)
        raise


def _let_it_end(coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
    """Wait, not for long, for the last steps of what was cancelled: they may need the process that is current here.

    A server that was being started is ended, a stream can be closed.
    """
    deadline = time.monotonic() + CANCEL_SECONDS
    while getattr(coroutine, "cr_frame", None) is not None and not loop.is_closed() and time.monotonic() < deadline:
        time.sleep(CANCEL_CHECK_SECONDS)
