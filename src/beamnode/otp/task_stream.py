"""A stream of tasks: some at a time, started as their outcomes are asked for. Source: Elixir's task/supervised.ex.

The tasks belong to a process of the stream's own, the keeper: it starts, monitors, times and kills them, so that
neither their messages nor their exit signals come to who reads the stream. The keeper is linked with that one: both
end with a linked task that crashes, unless the reader traps exits. What the keeper finds out the reader learns by a
list and an event, as both run on one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, TypeAlias

from beamnode.errors import NoProcessError, ProcessExit, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.node import (
    Timer,
    current_body,
    exit,
    link,
    monitor,
    receive,
    send,
    send_after,
    spawn_link,
    trap_exit,
    unlink,
)
from beamnode.node import self as own_pid
from beamnode.otp.task_process import Owner, Work, own_callers, own_owner

Outcome: TypeAlias = tuple[Atom, Any]
Start: TypeAlias = Callable[[Owner], Awaitable[Pid]]
"""Starts a task that waits to be told what to run (`task_process.start_reply`), in the keeper."""

_NOTHING: Final = object()
_CLOSE: Final = object()
_TIMEOUT: Final = object()


@dataclass(frozen=True, slots=True)
class Options:
    """How a stream runs its tasks; `Task.async_stream` says what they mean."""

    max_concurrency: int | None  # None: as many as there are CPUs
    ordered: bool
    timeout: float | None
    on_timeout: Literal["exit", "kill_task"]
    zip_input_on_exit: bool
    linked: bool = True  # with the keeper, and so with the reader

    def __post_init__(self) -> None:
        if self.max_concurrency is not None and (type(self.max_concurrency) is not int or self.max_concurrency < 1):
            raise UsageError(f"max_concurrency is an integer of 1 or more, not {self.max_concurrency!r}")
        if self.on_timeout not in ("exit", "kill_task"):
            raise UsageError(f'on_timeout is "exit" or "kill_task", not {self.on_timeout!r}')
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout >= 0):
            raise UsageError(f"timeout is a number of seconds, or None, not {self.timeout!r}")


def stream(
    iterable: Iterable[Any] | AsyncIterable[Any], work: Callable[[Any], Work], start: Start, options: Options
) -> AsyncGenerator[Outcome, None]:
    """The outcomes of `work(element)` for each element. Errors: UsageError for what cannot be iterated, or run."""
    if not isinstance(iterable, Iterable | AsyncIterable):
        raise UsageError(f"a stream of tasks is made of an iterable or an async iterable, not {iterable!r}")
    work(None)  # who gives something else than a function shall hear of it at once
    return _outcomes(iterable, work, start, options)


async def _outcomes(
    iterable: Iterable[Any] | AsyncIterable[Any], work: Callable[[Any], Work], start: Start, options: Options
) -> AsyncGenerator[Outcome, None]:
    changed = asyncio.Event()
    source = _Fed(iterable, changed) if isinstance(iterable, AsyncIterable) else _Plain(iterable)
    reader = _Reader(work, start, options, changed)
    try:
        while True:
            changed.clear()
            if (outcome := reader.take()) is not None:
                yield outcome
                continue
            element = source.take() if reader.has_room and not source.ended else _NOTHING
            if element is not _NOTHING:
                reader.start(element)
            elif source.ended and reader.is_idle:
                return
            else:
                await changed.wait()
    finally:
        source.close()
        await reader.close()


# --- Where the elements come from -------------------------------------------------------------------------------------


class _Plain:
    """An iterable."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterator = iter(iterable)
        self.ended = False

    def take(self) -> Any:
        element = next(self._iterator, _NOTHING)
        self.ended = element is _NOTHING
        return element

    def close(self) -> None:
        pass


class _Fed:
    """An async iterable, which a task of asyncio takes the next element of when it is wanted, and not before."""

    def __init__(self, iterable: AsyncIterable[Any], changed: asyncio.Event) -> None:
        self._iterable = iterable
        self._changed = changed
        self._wanted = asyncio.Event()
        self._fed: deque[Any] = deque()
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._exhausted = False

    @property
    def ended(self) -> bool:
        return self._exhausted and not self._fed

    def take(self) -> Any:
        if self._fed:
            return self._fed.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._task is None:
            self._task = asyncio.create_task(self._feed())
        self._wanted.set()
        return _NOTHING

    async def _feed(self) -> None:
        iterator = aiter(self._iterable)
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                self._fed.append(await anext(iterator))
                self._changed.set()
        except StopAsyncIteration:
            self._exhausted = True
        except Exception as error:
            self._error = error
        finally:
            self._changed.set()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


# --- Who reads the stream ---------------------------------------------------------------------------------------------


class _Reader:
    """The reader's side: what was started, what came of it, what is to be given next."""

    def __init__(self, work: Callable[[Any], Work], start: Start, options: Options, changed: asyncio.Event) -> None:
        self._work = work
        self._options = options
        self._max_concurrency = options.max_concurrency or os.cpu_count() or 1
        self._changed = changed
        self._body = current_body()
        self._keeper = _Keeper(start, options, self)
        self._elements: dict[int, Any] = {}  # of running tasks, by position
        self._outcomes: dict[int, Outcome] = {}  # not given yet
        self._started = 0
        self._given = 0
        self._failure: BaseException | None = None
        self._closed = asyncio.Event()
        self._pid = spawn_link(self._keeper.run, own_owner(), own_callers(), self._body.process.trap_exit)
        process = self._body.runtime.signals.lookup(self._pid)
        assert process is not None
        self._process = process
        process.body.code_end.add_done_callback(self._keeper_ended)

    @property
    def has_room(self) -> bool:
        return len(self._elements) < self._max_concurrency

    @property
    def is_idle(self) -> bool:
        return not self._elements and not self._outcomes

    def take(self) -> Outcome | None:
        """The next outcome, if there is one. Errors: what the stream failed with."""
        if self._failure is not None:
            raise self._failure
        position = self._given if self._options.ordered else next(iter(self._outcomes), -1)
        outcome = self._outcomes.pop(position, None)
        if outcome is not None:
            self._given += 1
        return outcome

    def start(self, element: Any) -> None:
        """Have a task started for it."""
        work = self._work(element)
        self._elements[self._started] = element
        self._tell(_Order(self._started, work))
        self._started += 1

    def ended(self, position: int, outcome: Outcome) -> None:
        """The keeper: a task has ended."""
        element = self._elements.pop(position)
        if outcome[0] is a.exit and self._options.zip_input_on_exit:
            outcome = (a.exit, (element, outcome[1]))
        self._outcomes[position] = outcome
        self._changed.set()

    def failed(self, failure: BaseException) -> None:
        """The keeper: this is the end of the stream."""
        self._failure = self._failure or failure
        self._changed.set()

    async def close(self) -> None:
        """Nobody reads on: kill what runs, and wait until it has ended."""
        if self._process.alive:
            self._tell(_CLOSE)
        await self._closed.wait()

    def _tell(self, message: Any) -> None:
        """Whoever is current: a stream that was left may be closed by the garbage collector."""
        self._body.runtime.send(self._body.process, self._pid, message)

    def _keeper_ended(self, _: object) -> None:
        self._closed.set()
        self.failed(ProcessExit(self._process.exit_reason))


# --- Who keeps the tasks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """To start a task; a class of its own, because no peer can send it."""

    position: int
    work: Work


class _Running:
    """A task of the stream."""

    __slots__ = ("outcome", "pid", "position", "timed_out", "timer")

    def __init__(self, position: int, pid: Pid, timer: Timer | None) -> None:
        self.position = position
        self.pid = pid
        self.timer = timer
        self.timed_out = False
        self.outcome: Outcome | None = None  # it has replied

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Keeper:
    """What runs in the keeper's process."""

    def __init__(self, start: Start, options: Options, reader: _Reader) -> None:
        self._start = start
        self._options = options
        self._reader = reader
        self._tasks: dict[Reference, _Running] = {}

    async def run(self, owner: Owner, callers: list[Any], traps: bool) -> None:
        trap_exit(traps)
        reader = monitor(owner[2])
        try:
            while True:
                message = await receive()
                match message:
                    case _Order():
                        await self._begin(message, owner, callers)
                    case (marker, Reference() as reference) if marker is _TIMEOUT:
                        self._time_out(reference)
                    case (Reference() as reference, result) if reference in self._tasks:
                        self._tasks[reference].outcome = (a.ok, result)
                    case (a.DOWN, reference, _, _, reason) if reference in self._tasks:
                        self._ended(reference, reason)
                    case (a.DOWN, reference, _, _, reason) if reference == reader:
                        self._leave(reason)
                    case _ if message is _CLOSE:
                        break
        except Exception as failure:
            current_body().check_alive()
            if type(failure) is ProcessExit:
                raise
            self._reader.failed(failure)
        finally:
            for task in self._tasks.values():
                task.cancel_timer()
        unlink(owner[2])  # it hears no more of this process
        await self._kill_all()

    async def _begin(self, order: _Order, owner: Owner, callers: list[Any]) -> None:
        options = self._options
        pid = await self._start(owner)
        if options.linked:
            with contextlib.suppress(NoProcessError):  # it has ended: its monitor will tell
                link(pid)
        reference = monitor(pid, alias="demonitor")
        timer = None if options.timeout is None else send_after(own_pid(), (_TIMEOUT, reference), options.timeout)
        self._tasks[reference] = _Running(order.position, pid, timer)
        send(pid, (owner[2], reference, reference, callers, order.work))

    def _time_out(self, reference: Reference) -> None:
        task = self._tasks.get(reference)
        if task is not None and not task.timed_out:
            task.timed_out = True
            unlink(task.pid)
            exit(task.pid, a.kill)

    def _ended(self, reference: Reference, reason: Any) -> None:
        task = self._tasks.pop(reference)
        task.cancel_timer()
        if task.outcome is not None:
            self._reader.ended(task.position, task.outcome)
        elif not task.timed_out:
            self._reader.ended(task.position, (a.exit, reason))
        elif self._options.on_timeout == "kill_task":
            self._reader.ended(task.position, (a.exit, a.timeout))
        else:
            text = f"a task of the stream did not end within {self._options.timeout} s: all of them were killed"
            raise TimeoutError(text)

    def _leave(self, reason: Any) -> NoReturn:
        """The reader has ended: linked tasks end with it, whatever its reason was."""
        if self._options.linked:
            for task in self._tasks.values():
                exit(task.pid, a.kill)
        raise ProcessExit(reason)

    async def _kill_all(self) -> None:
        trap_exit(True)
        for task in self._tasks.values():
            exit(task.pid, a.kill)
        while self._tasks:
            message = await receive(lambda got: type(got) is tuple and len(got) == 5 and got[1] in self._tasks)
            del self._tasks[message[1]]
