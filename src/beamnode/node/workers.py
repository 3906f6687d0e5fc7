"""Where exposed functions run: `async def` on the loop, `def` in a pool of threads or, asked for, of processes.

Each node has pools of its own, made when they are first needed. The threads are daemons: a call that never returns does
not keep Python from ending, and when it was given up, another thread stands in for its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final

from beamnode.errors import ProcessExit, Throw, UsageError
from beamnode.node.exposed import Callee, import_path, loaded
from beamnode.node.reasons import reason_of

log = logging.getLogger("beamnode.rpc")

STAND_INS: Final = 4  # times the size of a pool of threads: so many in all, with those whose call was given up
STAND_IN_SECONDS: Final = 0.05  # until a stand-in is started: its asker may be giving up other calls as well
WARNING_SECONDS: Final = 60.0  # between two warnings of them


class RaisedElsewhere(ProcessExit):
    """An exception in another OS process: what is left of it is the reason and the stack, as terms."""

    def __init__(self, error: Any, stack: list[Any]) -> None:
        super().__init__((error, stack))
        self.error = error
        self.stack = stack


class Workers:
    """The pools of one node. All calls come from its loop."""

    def __init__(self, threads_max: int | None, processes_max: int | None) -> None:
        self._threads_max = _at_least_one("call_threads", threads_max) or min(32, (os.cpu_count() or 1) + 4)
        self._processes_max = _at_least_one("call_processes", processes_max)
        self._threads: ThreadPool | None = None
        self._processes: concurrent.futures.ProcessPoolExecutor | None = None
        self._in_processes: set[concurrent.futures.Future[Any]] = set()  # calls, begun or not

    async def run(self, callee: Callee) -> Any:
        """The result of a call, or its exception; as part of the current process.

        Cancelled, an `async def` is cancelled; what waits for a thread or a process never starts; what runs in one is
        left alone, and its result dropped.
        """
        if callee.run == "process":
            return await self._in_process(callee)
        if inspect.iscoroutinefunction(callee.function):
            return await callee.function(*callee.args)
        if self._threads is None or self._threads.loop is not asyncio.get_running_loop():
            self._threads = ThreadPool(self._threads_max)
        result = await self._threads.run(callee.function, callee.args)
        return await result if inspect.isawaitable(result) else result  # of a wrapper around an async def

    async def _in_process(self, callee: Callee) -> Any:
        module, name = import_path(callee.function)
        if loaded(module, name) is not callee.function:
            raise UsageError(f"{module}.{name} is another function than the one that was exposed with run='process'")
        if self._processes is None:
            context = multiprocessing.get_context("spawn")  # a fork would take locks along that threads hold
            self._processes = concurrent.futures.ProcessPoolExecutor(self._processes_max, context, _begin_worker)
        pool = self._processes
        try:
            call = pool.submit(_call, callee.function, callee.args)
            self._in_processes.add(call)
            call.add_done_callback(self._in_processes.discard)
            kind, value = await asyncio.wrap_future(call)
        except BrokenProcessPool as error:
            if self._processes is pool:
                self._processes = None  # the next call gets a new one
                pool.shutdown(wait=False)
            raise RuntimeError(
                f"the OS process that ran {module}.{name} has ended; a program that exposes functions with "
                "run='process' needs `if __name__ == '__main__':` around what it does when it is started"
            ) from error
        if kind == "return":
            return value
        if kind == "throw":
            raise Throw(value)
        if kind == "exit":
            raise ProcessExit(value)
        raise RaisedElsewhere(*value)

    def close(self) -> None:
        """End the pools; a later call makes new ones.

        A thread goes on to the end of its function. An OS process that is at work is told to end: nobody can get its
        result any more, and Python would wait for it before it ends itself.
        """
        threads, self._threads = self._threads, None
        processes, self._processes = self._processes, None
        if threads is not None:
            threads.close()
        if processes is not None:
            at_work = any(call.running() for call in tuple(self._in_processes))
            members = list((processes._processes or {}).values()) if at_work else []
            processes.shutdown(wait=False, cancel_futures=True)
            for member in members:
                member.terminate()


@dataclass(slots=True, eq=False)
class _Work:
    function: Callable[..., Any]
    call: Callable[[], Any]
    outcome: asyncio.Future[tuple[Any, BaseException | None]]
    since: float | None = None  # when it was begun, by the loop's clock


class ThreadPool:
    """At most `threads_max` daemon threads, started as they are needed. Its counters belong to the loop's thread.

    A thread whose call was given up goes on to the end of its function, which nothing can stop. It counts no more:
    another is started in its place, up to STAND_INS times as many threads in all. From then on calls wait.
    """

    def __init__(self, threads_max: int) -> None:
        self._max = threads_max
        self._started = 0  # threads, without those that were told to end
        self._unfinished = 0  # calls, begun or not
        self._given_up: dict[_Work, None] = {}  # begun, and nobody waits for them; the oldest first
        self._warned: float | None = None
        self._closed = False
        self.loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()

    async def run(self, function: Callable[..., Any], args: list[Any]) -> Any:
        """The result of `function(*args)`, called in a copy of this context, or its exception."""
        context = contextvars.copy_context()
        work = _Work(function, lambda: context.run(function, *args), self.loop.create_future())
        self._unfinished += 1
        self._grow()
        self._queue.put(work)
        try:
            result, error = await work.outcome
        except asyncio.CancelledError:
            if work.since is not None:
                self._given_up[work] = None
                self.loop.call_later(STAND_IN_SECONDS, self._grow)
            raise
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Every thread ends after what is queued; a pool that was closed is used no more."""
        for _ in range(self._started):
            self._queue.put(None)
        self._started = 0
        self._closed = True

    def _allowed(self) -> int:
        return min(self._max + len(self._given_up), self._max * STAND_INS)

    def _grow(self) -> None:
        """Start a thread if a call would wait without it and there may be one more."""
        if self._given_up and self._unfinished > self._max:
            self._warn()
        if self._started < min(self._allowed(), self._unfinished) and not self._closed:
            threading.Thread(target=self._serve, name=f"beamnode call {self._started + 1}", daemon=True).start()
            self._started += 1

    def _warn(self) -> None:
        now = self.loop.time()
        if self._warned is not None and now < self._warned + WARNING_SECONDS:
            return
        self._warned = now
        oldest = next(iter(self._given_up))
        log.warning(
            "%d calls of peers run on in their threads though nobody waits for them any more; the oldest, of %s.%s, "
            "for %.1f s. %s (call_threads=%d; with those that stand in for such ones, %d at most)",
            len(self._given_up),
            *import_path(oldest.function),
            now - (oldest.since or now),
            "Calls wait for a thread" if self._started == self._max * STAND_INS else "Other threads are started",
            self._max,
            self._max * STAND_INS,
        )

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            result, error = None, None
            try:
                work.since = self.loop.time()  # first: who gives it up looks at this next
                if not work.outcome.cancelled():
                    result = work.call()
            except BaseException as raised:
                error = raised
            try:
                self.loop.call_soon_threadsafe(self._finish, work, result, error)
            except RuntimeError:
                return  # the loop has ended
            del work, result, error  # while it waits, it keeps nothing alive

    def _finish(self, work: _Work, result: Any, error: BaseException | None) -> None:
        self._unfinished -= 1
        if not work.outcome.done():
            work.outcome.set_result((result, error))
        self._given_up.pop(work, None)
        if self._started > self._allowed():
            self._started -= 1
            self._queue.put(None)


def _call(function: Callable[..., Any], args: list[Any]) -> tuple[str, Any]:
    """In the other OS process: the result or what was raised, as something that can be pickled."""
    try:
        return "return", function(*args)
    except Throw as thrown:
        return "throw", thrown.value
    except ProcessExit as ended:
        return "exit", ended.reason
    except Exception as error:
        trace = error.__traceback__
        return "error", reason_of(error.with_traceback(None if trace is None else trace.tb_next))


def _begin_worker() -> None:
    """Ctrl-C is for the program that has started this process, which then ends it; killed, it cannot."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(program: Any) -> None:
    program.join()
    os._exit(1)


def _at_least_one(what: str, count: int | None) -> int | None:
    if count is not None and count < 1:
        raise UsageError(f"{what} must be at least 1, not {count!r}")
    return count
