"""`Task`: a function in a process of its own, whose result is awaited. Source: Elixir's Task.

    task = Task.async_(fetch, url)
    page = await Task.await_(task, timeout=10)

    async for outcome in Task.async_stream(urls, fetch, max_concurrency=20):
        match outcome:
            case (a.ok, page): ...
            case (a.exit, reason): ...

An `async def` runs on the event loop, a `def` in a thread of its own. A task is linked to the process that has started
it, its owner, and only that may await it. Times are seconds, None is for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from beamnode.errors import ProcessExit, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.node import (
    Origin,
    TaggedMessages,
    alias,
    current_body,
    demonitor,
    exit,
    monitor,
    reason_text,
    receive_tagged,
    reference_in,
    send,
    unalias,
    unlink,
)
from beamnode.node import self as own_pid
from beamnode.otp import task_process, task_stream
from beamnode.otp.child_specs import Supervised
from beamnode.otp.task_stream import Outcome

if TYPE_CHECKING:
    from beamnode.otp.task_supervisor import TaskSupervisor

AWAIT_SECONDS: Final = 5.0  # as Elixir
SHUTDOWN_SECONDS: Final = 5.0

_MODULE: Final = Atom("Elixir.Task")
_AWAIT: Final = Atom("await")


class TaskFailed(ProcessExit):
    """A task ended before it replied: `cause` says why (`{nodedown, Node}` where its node was lost).

    `reason` is what Elixir's `Task` exits with, `{Cause, {'Elixir.Task', Function, [Task, Timeout]}}`.
    """

    def __init__(self, cause: Any, function: Atom, args: list[Any]) -> None:
        super().__init__((cause, (_MODULE, function, args)))
        self.cause = cause

    def __str__(self) -> str:
        return f"the task ended before it replied: {reason_text(self.cause)}"


class _Supervisor:
    """`Task.Supervisor`, which stands on `Task`, and so is imported when it is asked for."""

    def __get__(self, task: Task | None, cls: type[Task]) -> type[TaskSupervisor]:
        from beamnode.otp.task_supervisor import TaskSupervisor

        return TaskSupervisor


@dataclass(frozen=True)
class Task(Supervised, restart="temporary"):
    """One task that can be awaited: its process, the reference of its reply, its owner, what it runs."""

    pid: Pid | None
    ref: Reference
    owner: Pid
    mfa: tuple[Atom, Atom, int]

    if TYPE_CHECKING:
        Supervisor: ClassVar[type[TaskSupervisor]]
    else:
        Supervisor = _Supervisor()

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start(cls, function: Callable[..., Any], *args: Any) -> Pid:
        """Run `function(*args)` in a process of its own, linked to nobody, whose result nobody waits for; its pid."""
        work = task_process.work_of(function, args)
        return _start(work, link=False)

    @classmethod
    async def start_link(cls, function: Callable[..., Any], *args: Any) -> Pid:
        """`start`, linked to the current process: what a supervisor does with `{"start": (Task.start_link, ...)}`."""
        work = task_process.work_of(function, args)
        return _start(work, link=True)

    @staticmethod
    def async_(function: Callable[..., Any], *args: Any) -> Task:
        """Run `function(*args)` in a process that is linked to this one, and go on; `await_` gives the result.

        If it crashes, so does the current process, unless that traps exits; and the other way round.
        """
        work = task_process.work_of(function, args)
        return Task.with_work(task_process.start_reply(task_process.own_owner(), False), work)

    @staticmethod
    def with_work(pid: Pid, work: task_process.Work) -> Task:
        """Tell a process of `task_process.start_reply`, or one of Elixir, what to run; the task that it is now."""
        owner = own_pid()
        reference = monitor(pid, alias="demonitor")
        try:
            send(pid, (owner, reference, reference, task_process.own_callers(), work))
        except BaseException:
            demonitor(reference, flush=True)
            unlink(pid)
            exit(pid, a.kill)
            raise
        return Task(pid, reference, owner, task_process.mfa_of(work))

    @staticmethod
    def completed(result: Any) -> Task:
        """A task that has its result already, and no process: where a task is wanted and there is nothing to do."""
        reference = alias()
        unalias(reference)
        send(own_pid(), (reference, result))
        return Task(None, reference, own_pid(), (_MODULE, a.completed, 1))

    @staticmethod
    def async_stream(
        iterable: Iterable[Any] | AsyncIterable[Any],
        function: Callable[..., Any],
        *args: Any,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = AWAIT_SECONDS,
        on_timeout: Literal["exit", "kill_task"] = "exit",
        zip_input_on_exit: bool = False,
    ) -> AsyncGenerator[Outcome, None]:
        """Run `function(element, *args)` for each element, at most `max_concurrency` (the number of CPUs) at a time.

        Gives `(a.ok, value)` for each, in the order of the elements or, not `ordered`, as they end. Elements are taken
        when there is room and somebody asks for the next outcome, not before.

        The tasks are linked to the current process, which a crash ends; if it traps exits, that is `(a.exit, reason)`,
        with `zip_input_on_exit` `(a.exit, (element, reason))`. A task that takes more than `timeout` seconds is killed:
        that is a TimeoutError or, with `on_timeout="kill_task"`, `(a.exit, a.timeout)`. When the loop over the stream
        is left, the tasks that still run are killed.
        """
        options = task_stream.Options(max_concurrency, ordered, timeout, on_timeout, zip_input_on_exit)

        def work(element: Any) -> task_process.Work:
            return task_process.work_for(element, function, args)

        async def start(owner: task_process.Owner) -> Pid:
            return task_process.start_reply(owner, False)

        return task_stream.stream(iterable, work, start, options)

    # --- Waiting for it -----------------------------------------------------------------------------------------------

    async def await_(self, timeout: float | None = AWAIT_SECONDS) -> Any:
        """The result of a task; once, and in the process that has started it.

        Errors: TaskFailed when it ended without one (where the link has not ended the current process); TimeoutError
        after `timeout` seconds, and UsageError in another process. Elixir ends the owner after a time-out, and the task
        with it: here the task is killed and the owner goes on. So it is when the awaiting coroutine is cancelled.
        """
        self._check_owner()
        try:
            message = await receive_tagged(self.ref, timeout=timeout)
        except TimeoutError:
            self._abandon()
            raise TimeoutError(f"{self.name()} did not reply within {timeout} s: it was killed") from None
        except asyncio.CancelledError:
            self._abandon()
            raise
        if len(message) == 2:
            demonitor(self.ref, flush=True)
            return message[1]
        raise TaskFailed(_cause(message), _AWAIT, [self.as_term(), _milliseconds(timeout)])

    def __await__(self) -> Generator[Any, None, Any]:
        """`await task` is `await Task.await_(task)`."""
        return self.await_().__await__()

    @staticmethod
    async def await_many(tasks: Iterable[Task], timeout: float | None = AWAIT_SECONDS) -> list[Any]:
        """The results of many tasks, in their order, within `timeout` seconds altogether.

        Errors: as `await_`, with the first task that ends without a result; then, and in the other cases, all that
        have not replied are killed.
        """
        tasks = list(tasks)
        replies: dict[Reference, Any] = {}
        waiting = _by_reference(tasks)

        def take(reference: Reference, message: Any) -> None:
            task = waiting.pop(reference)
            if len(message) == 5:
                raise TaskFailed(_cause(message), a.await_many, [_as_terms(tasks), _milliseconds(timeout)])
            demonitor(task.ref, flush=True)
            replies[reference] = message[1]

        try:
            await _collect(waiting, len(waiting), timeout, take)
        except (TimeoutError, TaskFailed, asyncio.CancelledError) as error:
            for task in waiting.values():
                task._abandon()
            if isinstance(error, TimeoutError):
                text = f"{len(waiting)} of {len(tasks)} tasks did not reply within {timeout} s: they were killed"
                raise TimeoutError(text) from None
            raise
        return [replies[task.ref] for task in tasks]

    async def yield_(self, timeout: float | None = AWAIT_SECONDS) -> Outcome | None:
        """`(a.ok, result)`, `(a.exit, reason)`, or None after `timeout` seconds: then the task goes on.

        Errors: TaskFailed when its node is lost; UsageError in another process. The task is killed when the coroutine
        that waits for it is cancelled.
        """
        self._check_owner()
        try:
            message = await receive_tagged(self.ref, timeout=timeout)
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            self._abandon()
            raise
        return self._outcome(message, a["yield"], [self.as_term(), _milliseconds(timeout)])

    @staticmethod
    async def yield_many(
        tasks: Iterable[Task],
        timeout: float | None = AWAIT_SECONDS,
        *,
        limit: int | None = None,
        on_timeout: Literal["nothing", "ignore", "kill_task"] = "nothing",
    ) -> list[tuple[Task, Outcome | None]]:
        """Each task with what `yield_` would give, waiting `timeout` seconds altogether, or until `limit` have ended.

        `on_timeout` says what becomes of the others when the time is over: they go on, they go on and nobody will await
        them (`ignore`), or they are killed.
        """
        tasks = list(tasks)
        if on_timeout not in ("nothing", "ignore", "kill_task"):
            raise UsageError(f'on_timeout is "nothing", "ignore" or "kill_task", not {on_timeout!r}')
        waiting = _by_reference(tasks)
        wanted = len(waiting) if limit is None else min(limit, len(waiting))
        outcomes: dict[Reference, Outcome | None] = {}
        arguments = [_as_terms(tasks), _milliseconds(timeout)]
        timed_out = False

        def take(reference: Reference, message: Any) -> None:
            outcomes[reference] = waiting.pop(reference)._outcome(message, a.yield_many, arguments)

        try:
            await _collect(waiting, wanted, timeout, take)
        except TimeoutError:
            timed_out = True
        except asyncio.CancelledError:
            for task in waiting.values():
                task._abandon()
            raise
        if timed_out and on_timeout != "nothing":
            for reference, task in waiting.items():
                ending = task.ignore() if on_timeout == "ignore" else await task.shutdown("brutal_kill")
                outcomes[reference] = ending
        return [(task, outcomes.get(task.ref)) for task in tasks]

    async def shutdown(self, timeout: float | Literal["brutal_kill"] | None = SHUTDOWN_SECONDS) -> Outcome | None:
        """End a task: with reason `shutdown`, after `timeout` seconds by `kill`, with "brutal_kill" by that at once.

        `(a.ok, result)` if it had replied already, `(a.exit, reason)` if it ended otherwise, else None.
        """
        if self.pid is None:
            return self.ignore()
        self._check_owner()
        brutal = timeout == "brutal_kill"
        watch = monitor(self.pid, expected=True)
        try:
            unlink(self.pid)
            exit(self.pid, a.kill if brutal else a.shutdown)
            try:
                message = await receive_tagged(watch, timeout=None if brutal else timeout)  # type: ignore[arg-type]
            except TimeoutError:
                exit(self.pid, a.kill)
                message = await receive_tagged(watch)
        except asyncio.CancelledError:
            self._abandon()
            raise
        finally:
            demonitor(watch, flush=True)
        return self._ended(message, a.killed if brutal else a.shutdown, timeout)

    def ignore(self) -> Outcome | None:
        """Let a task go on, and never await it; `(a.ok, result)` or `(a.exit, reason)` if it has ended already."""
        self._check_owner()
        message = _taken(self.ref)
        if message is not None and len(message) == 5:
            return self._outcome(message, a.ignore, [self.as_term()])
        if self.pid is not None:
            unlink(self.pid)
        demonitor(self.ref, flush=True)
        return None if message is None else (a.ok, message[1])

    # --- For people and peers -----------------------------------------------------------------------------------------

    def as_term(self) -> dict[Atom, Any]:
        """The struct that Elixir has for it."""
        fields = {a.mfa: self.mfa, a.owner: self.owner, a.pid: self.pid, a.ref: self.ref}
        return {Atom("__struct__"): _MODULE, **fields}

    def name(self) -> str:
        """What logs and errors call it."""
        module, function, arity = self.mfa
        return f"the task {self.pid!r} ({module}.{function}/{arity})"

    # --- Inside -------------------------------------------------------------------------------------------------------

    def _check_owner(self) -> None:
        if current_body().process.pid != self.owner:
            raise UsageError(
                f"{self.name()} must be awaited by its owner, {self.owner!r}, who has started it, not by "
                f"{current_body().process.pid!r}"
            )

    def _outcome(self, message: Any, function: Atom, args: list[Any]) -> Outcome:
        if len(message) == 2:
            demonitor(self.ref, flush=True)
            return (a.ok, message[1])
        if message[4] is a.noconnection:
            raise TaskFailed(_cause(message), function, args)
        return (a.exit, message[4])

    def _ended(self, down: Any, wanted: Atom, timeout: Any) -> Outcome | None:
        """What `shutdown` says of a task that it saw end: `{'DOWN', _, process, Pid, Reason}`."""
        earlier = _taken(self.ref)
        demonitor(self.ref, flush=True)
        if earlier is not None and len(earlier) == 2:
            return (a.ok, earlier[1])
        reason = down[4]
        if reason is a.noproc and earlier is not None:
            reason = earlier[4]  # it had ended before, with this
        if reason is wanted:
            return None
        if reason is a.noconnection:
            how = a.brutal_kill if wanted is a.killed else _milliseconds(timeout)
            raise TaskFailed(_cause(down), a.shutdown, [self.as_term(), how])
        return (a.exit, reason)

    def _abandon(self) -> None:
        """Nobody awaits it any more: it ends, and leaves nothing behind here."""
        if not current_body().process.alive:
            return  # the link has ended it
        demonitor(self.ref, flush=True)
        if _taken(self.ref) is None and self.pid is not None:
            unlink(self.pid)
            exit(self.pid, a.shutdown)  # which its supervisor does not report
            exit(self.pid, a.kill)  # where it traps exits


def _start(work: task_process.Work, *, link: bool) -> Pid:
    owner, callers = task_process.own_owner(), task_process.own_callers()
    return task_process.start_noreply(owner, callers, work, own_pid().node, link=link)


# --- Messages ---------------------------------------------------------------------------------------------------------


async def _collect(
    waiting: Iterable[Reference], count: int, timeout: float | None, take: Callable[[Reference, Any], None]
) -> None:
    """Hand the first message of each of `count` tasks to `take`, as they come. Errors: TimeoutError."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    with TaggedMessages(waiting) as answers:
        for _ in range(count):
            take(*await answers.next(None if deadline is None else deadline - loop.time()))


def _taken(reference: Reference) -> Any:
    """The message of a task that is in the mailbox, taken out of it; None when there is none."""
    body = current_body()
    message = body.runtime.on_loop(body.process.mailbox.take_first, lambda got: reference_in(got) == reference)
    if type(message) is Origin:
        message = message.message
    return message if type(message) is tuple else None


def _by_reference(tasks: Sequence[Task]) -> dict[Reference, Task]:
    for task in tasks:
        task._check_owner()
    return {task.ref: task for task in tasks}


def _cause(down: Any) -> Any:
    """Why a task ended: the reason of its DOWN, or `{nodedown, Node}`."""
    _, _, _, who, reason = down
    if reason is a.noconnection:
        return (a.nodedown, who.node if isinstance(who, Pid) else who[1])
    return reason


def _as_terms(tasks: Iterable[Task]) -> list[Any]:
    return [task.as_term() for task in tasks]


def _milliseconds(seconds: float | None) -> Any:
    return a.infinity if seconds is None else round(seconds * 1000)


from beamnode.otp import task_supervisor as task_supervisor  # noqa: E402 - it needs `Task`, and sets `Task.Supervisor`
