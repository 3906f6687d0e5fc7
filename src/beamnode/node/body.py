"""Process bodies: what runs a process. A coroutine on the node's loop, a function in a thread, or a block of user code.

A body waits for messages (`waiting`), is woken once for all that arrived, and is stopped when the rules in core have
ended its process. What a body raises decides what its process ends with.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from beamnode.core.process import NOTHING, Match, Process
from beamnode.errors import NotAliveError, ProcessExit, UsageError
from beamnode.etf import a
from beamnode.node.current import current
from beamnode.node.dictionary_keys import INITIAL_CALL
from beamnode.node.reasons import reason_of
from beamnode.node.reports import error_text, log_crash
from beamnode.node.waiting import Waiter

if TYPE_CHECKING:
    from beamnode.node.runtime import Runtime

log = logging.getLogger("beamnode.process")

LOOP_CHECK_SECONDS = 1.0  # how often a thread that waits for the loop looks whether there still is one
LOOP_ENDED = "the event loop of this process's node has ended"

# After so many messages taken without waiting a coroutine lets the others run: no await suspends while messages are
# there.
MESSAGES_PER_TURN = 500


class Output(Protocol):
    """What a process has printed and not sent yet; the floor of the services makes it."""

    def flush(self) -> None: ...


class Gate(Protocol):
    """What a process that has sent waits for: room in a full mailbox, or in the queue to a peer (`pressure.py`)."""

    waiting: dict[Callable[[], object], None]  # to be called, in this order, when there may be room

    @property
    def suspends(self) -> bool:
        """Whether it is to wait wherever it awaits something, not only where it receives."""

    @property
    def has_room(self) -> bool: ...


class Body(ABC):
    """What all bodies share: their process, their runtime, and how they are woken and stopped."""

    __slots__ = ("async_dist", "held_by", "output", "over", "process", "runtime", "wakes")

    on_loop = False  # whether its code runs on the event loop: then it is a LoopBody (and is asked so often)

    def __init__(self, runtime: Runtime, process: Process) -> None:
        self.runtime = runtime
        self.process = process
        self.over = False  # its code has returned or raised
        self.held_by: tuple[Gate, ...] = ()  # it has sent through these, which are full, and must wait
        self.wakes: tuple[Callable[[], object], ...] = ()  # what ends its waiting there
        self.async_dist = False  # True: no peer that does not read lets it wait
        self.output: Output | None = None  # text that it has printed and that is still here
        process.body = self

    @abstractmethod
    def wake(self, at_once: bool = False) -> None:
        """Messages have arrived while it waited; `at_once`: nothing runs that it would interrupt."""

    @abstractmethod
    def stop(self) -> None:
        """Its process has ended: bring the code to an end."""

    @property
    @abstractmethod
    def code_end(self) -> asyncio.Future[Any] | None:
        """Done when the code has returned or raised."""

    def check_alive(self) -> None:
        """Raise ProcessExit in code that still runs after its process has ended."""
        if not self.process.alive:
            raise ProcessExit(self.process.exit_reason)

    def hold(self, gate: Gate) -> None:
        """Let it wait for room at `gate` before it receives again."""
        if not any(known is gate for known in self.held_by):
            self.held_by += (gate,)

    def let_go(self, gate: Gate) -> None:
        """It need not wait for `gate` any more."""
        self.held_by = tuple(known for known in self.held_by if known is not gate)

    async def wait_for_room(self) -> None:
        """Wait until there is room wherever it has sent to. Errors: ProcessExit when it has ended meanwhile."""
        while self.held_by:
            gate = self.held_by[0]
            while not gate.has_room:  # also when others, who were woken before it, have filled it again
                await self._wait_at(gate)
            self.let_go(gate)

    async def _wait_at(self, gate: Gate) -> None:
        waiter = Waiter(self.runtime.loop)
        gate.waiting[waiter.wake] = None
        self.wakes += (waiter.wake,)
        try:
            await waiter
        finally:
            gate.waiting.pop(waiter.wake, None)
            self.wakes = tuple(wake for wake in self.wakes if wake != waiter.wake)
        self.check_alive()

    def ended(self, error: BaseException | None) -> None:
        """`finish`, for code that was called here: nobody who reads the traceback wants to know from where."""
        if error is not None and error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            error.__traceback__ = error.__traceback__.tb_next
        self.finish(error)

    def finish(self, error: BaseException | None) -> None:
        """The code has returned or raised; to be called on the loop."""
        self.over = True
        if self.output is not None:
            self.output.flush()  # before anybody learns of the end
        if error is None:
            reason: Any = a.normal
        elif isinstance(error, asyncio.CancelledError):
            reason = a.cancelled
        else:
            reason = reason_of(error)
            if self.process.alive and not isinstance(error, ProcessExit):
                self.log_crash(error)
        self.runtime.end(self.process, reason)

    def log_crash(self, error: BaseException) -> None:
        """Nobody else may hear of it: spawned code has no caller."""
        what = f"{self.process!r} ({describe_call(self.process)}) crashed: {error_text(error)}"
        log_crash(log, what, self.process, error)


class LoopBody(Body):
    """A body whose code runs on the event loop."""

    __slots__ = ("_waiter", "taken", "task", "waits")

    on_loop = True

    def __init__(self, runtime: Runtime, process: Process) -> None:
        super().__init__(runtime, process)
        self._waiter: Waiter | None = None
        self.waits = False  # whether a task is in `receive`
        self.taken = 0  # without waiting, since it waited last
        self.task: asyncio.Task[Any] | None = None

    @property
    def code_end(self) -> asyncio.Future[Any] | None:
        return self.task

    @property
    def waiter(self) -> Waiter:
        """What its task, or another one in its name, waits with."""
        if self._waiter is None:
            self._waiter = Waiter(self.runtime.loop)
        return self._waiter

    def wake(self, at_once: bool = False) -> None:
        if self._waiter is not None:
            self._waiter.wake(at_once)

    def stop(self) -> None:
        task = self.task
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
        if self._waiter is not None:
            self._waiter.wake()  # another task or thread that waits in the name of the process

    def hold(self, gate: Gate) -> None:
        super().hold(gate)
        self.taken = MESSAGES_PER_TURN  # the compiled `receive` leaves the next message to this one

    async def receive(self, match: Match | None, timeout: float | None) -> Any:
        """The next message (for which `match` is true); TimeoutError after `timeout` seconds."""
        process = self.process
        if self.held_by:
            await self.wait_for_room()
        if process.exit_reason is not NOTHING:
            raise ProcessExit(process.exit_reason)
        mailbox = process.mailbox
        mailbox.restart()
        message = mailbox.take(match)
        if message is NOTHING:
            self.taken = 0
            return await self._wait(match, timeout)
        self.taken += 1
        if self.taken >= MESSAGES_PER_TURN:
            self.taken = 0
            await asyncio.sleep(0)
        return message

    async def _wait(self, match: Match | None, timeout: float | None) -> Any:
        loop, process, waiter = self.runtime.loop, self.process, self.waiter
        if self.waits:
            raise UsageError(
                f"another task of {process.pid!r} waits in receive() already: a process receives in one place"
            )
        deadline = None if timeout is None else loop.time() + max(timeout, 0)
        while True:
            timer = None if deadline is None else loop.call_at(deadline, waiter.wake)
            self.waits = process.waiting = True
            try:
                await waiter
            finally:
                self.waits = process.waiting = False
                if timer is not None:
                    timer.cancel()
            self.check_alive()
            message = process.mailbox.take(match)
            if message is not NOTHING:
                return message
            if deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"no message within {timeout} s")


class CoroutineBody(LoopBody):
    """A spawned `async def`."""

    __slots__ = ()

    def start(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        if self.runtime.runner is not None:
            self.task = self.runtime.runner.start(self, function, args)
            return
        context = contextvars.copy_context()
        context.run(current.set, self)
        self.task = self.runtime.loop.create_task(self._run(function, args), context=context)

    def wake(self, at_once: bool = False) -> None:
        task: Any = self.task
        if self.runtime.runner is None or not task.resume(at_once):
            super().wake(at_once)

    def hold(self, gate: Gate) -> None:
        super().hold(gate)
        if gate.suspends and self.runtime.runner is not None and self.task is not None:
            task: Any = self.task
            task.hold(gate)

    def let_go(self, gate: Gate) -> None:
        super().let_go(gate)
        if self.runtime.runner is not None and self.task is not None:
            task: Any = self.task
            task.let_go(gate)

    async def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        error: BaseException | None = None
        try:
            if self.held_by:
                await self.wait_for_room()
            self.check_alive()  # it may have been ended before its first step
            await function(*args)
        except asyncio.CancelledError as cancelled:
            error = cancelled  # ours (the process has ended) or somebody's: the task is over either way
        except (Exception, SystemExit) as failure:
            error = failure  # `sys.exit()` ends the process, not the node
        except BaseException as failure:
            self.ended(failure)
            raise
        self.ended(error)


class BlockBody(LoopBody):
    """The body of `async with Node(...)`: user code that runs in a task which is not ours."""

    __slots__ = ("_stopped",)

    def __init__(self, runtime: Runtime, process: Process) -> None:
        super().__init__(runtime, process)
        self._stopped = False

    def finish(self, error: BaseException | None) -> None:
        """Who cancels the block, as asyncio does for Ctrl-C, orders its end: nothing that is linked crashes of that."""
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            error = ProcessExit(a.shutdown)
        super().finish(error)

    def log_crash(self, error: BaseException) -> None:
        """The exception goes on to whoever wrote `async with`."""

    def stop(self) -> None:
        """Cancels the user's task; `Node.__aexit__` turns that into ProcessExit."""
        task = self.task
        if task is not None and not task.done() and task is not asyncio.current_task():
            self._stopped = True
            task.cancel()
        if self._waiter is not None:
            self._waiter.wake()

    def take_stop(self) -> bool:
        """Whether the block was stopped from outside, and the task's cancellation was ours: it is taken back."""
        if self._stopped and self.task is not None:
            self.task.uncancel()
        return self._stopped


class ThreadBody(Body):
    """A spawned plain `def`, in a thread of its own. It cannot be killed; its next call here raises ProcessExit."""

    __slots__ = ("_returned", "_waiter", "thread")

    def __init__(self, runtime: Runtime, process: Process) -> None:
        super().__init__(runtime, process)
        self._waiter: concurrent.futures.Future[None] | None = None
        self.thread: threading.Thread | None = None
        self._returned: asyncio.Future[None] = runtime.loop.create_future()

    @property
    def code_end(self) -> asyncio.Future[Any] | None:
        return self._returned

    def start(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        context = contextvars.copy_context()
        context.run(current.set, self)
        name = f"beamnode {self.process.pid!r}"
        self.thread = threading.Thread(target=context.run, args=(self._run, function, args), name=name, daemon=True)
        self.thread.start()

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        error: BaseException | None = None
        try:
            result = function(*args)
            if inspect.iscoroutine(result):
                result.close()
                raise UsageError("this function returned a coroutine: spawn the `async def` itself, with its arguments")
        except BaseException as failure:
            error = failure
        try:
            self.runtime.loop.call_soon_threadsafe(self.ended, error)
        except RuntimeError:
            log.debug("%r returned after its loop was closed", self.process)

    def wake(self, at_once: bool = False) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def stop(self) -> None:
        self.wake()

    def finish(self, error: BaseException | None) -> None:
        self._returned.set_result(None)
        super().finish(error)

    def receive(self, match: Match | None, timeout: float | None) -> Any:
        """As `LoopBody.receive`, blocking the thread."""
        runtime = self.runtime
        message, waiter, deadline = runtime.on_loop(self._take_or_wait, match, timeout, True)
        while waiter is not None:
            left = LOOP_CHECK_SECONDS if deadline is None else max(deadline - runtime.loop.time(), 0)
            try:
                waiter.result(min(left, LOOP_CHECK_SECONDS))
            except concurrent.futures.TimeoutError:
                if runtime.loop.is_closed():
                    raise NotAliveError(LOOP_ENDED) from None
                if deadline is None or runtime.loop.time() < deadline:
                    continue
                message = runtime.on_loop(self._give_up, match)
                if message is NOTHING:
                    raise TimeoutError(f"no message within {timeout} s") from None
                return message
            message, waiter, _ = runtime.on_loop(self._take_or_wait, match, timeout, False)
        return message

    async def receive_on_loop(self, match: Match | None, timeout: float | None) -> Any:
        """`receive` for a coroutine that the thread waits for, and that acts in its name."""
        message, waiter, deadline = self._take_or_wait(match, timeout, True)
        while waiter is not None:
            left = None if deadline is None else max(deadline - self.runtime.loop.time(), 0)
            try:
                async with asyncio.timeout(left):
                    await asyncio.wrap_future(waiter)
            except TimeoutError:
                message = self._give_up(match)
                if message is NOTHING:
                    raise TimeoutError(f"no message within {timeout} s") from None
                return message
            except BaseException:
                self.process.waiting = False
                self._waiter = None
                raise
            message, waiter, _ = self._take_or_wait(match, timeout, False)
        return message

    def _take_or_wait(
        self, match: Match | None, timeout: float | None, first: bool
    ) -> tuple[Any, concurrent.futures.Future[None] | None, float | None]:
        self.check_alive()
        process = self.process
        if self._waiter is not None and not self._waiter.done():
            raise UsageError(
                f"another thread of {process.pid!r} waits in receive() already: a process receives in one place"
            )
        if first:
            process.mailbox.restart()
        message = process.mailbox.take(match)
        if message is not NOTHING:
            return message, None, None
        self._waiter = concurrent.futures.Future()
        process.waiting = True
        deadline = None if timeout is None else self.runtime.loop.time() + timeout
        return NOTHING, self._waiter, deadline

    def _give_up(self, match: Match | None) -> Any:
        self.process.waiting = False
        self._waiter = None
        self.check_alive()
        return self.process.mailbox.take(match)


def describe_call(process: Process) -> str:
    """What a process runs, for logs: `module.function/arity`."""
    call = (process.dictionary or {}).get(INITIAL_CALL, process.initial_call)
    if isinstance(call, tuple) and len(call) == 3:
        return f"{call[0]}.{call[1]}/{call[2]}"
    return str(call)


def body_of(process: Process) -> Body:
    body = process.body
    if not isinstance(body, Body):
        raise NotAliveError(f"{process.pid!r} has no body")
    return body
