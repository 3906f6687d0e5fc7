"""`sync.Task`: functions in processes of their own, whose results a thread waits for."""

# mypy: disable-error-code="assignment, override, misc"
# (What is awaited in the behaviour blocks in its blocking class.)

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from beamnode.otp import names, task, task_supervisor
from beamnode.otp.task_stream import Outcome
from beamnode.sync.face import Face
from beamnode.sync.waiting import blocking, in_process

_Task = task.Task
_TaskSupervisor = task_supervisor.TaskSupervisor
_END = object()


@dataclass(frozen=True)
class Task(Face, task.Task):
    """`beamnode.Task`, blocking. A `def` runs in a thread of its own, an `async def` on the event loop."""

    if TYPE_CHECKING:
        Supervisor: ClassVar[type[TaskSupervisor]]

    awaitable = _Task

    @staticmethod
    def async_(function: Callable[..., Any], *args: Any) -> Task:
        """As `beamnode.Task.async_`."""
        return _own(_Task.async_(function, *args))

    @staticmethod
    def completed(result: Any) -> Task:
        """As `beamnode.Task.completed`."""
        return _own(_Task.completed(result))

    def await_(self, timeout: float | None = task.AWAIT_SECONDS) -> Any:
        """As `beamnode.Task.await_`."""
        return in_process(_Task.await_(self, timeout))

    def yield_(self, timeout: float | None = task.AWAIT_SECONDS) -> Outcome | None:
        """As `beamnode.Task.yield_`."""
        return in_process(_Task.yield_(self, timeout))

    def shutdown(self, timeout: float | Literal["brutal_kill"] | None = task.SHUTDOWN_SECONDS) -> Outcome | None:
        """As `beamnode.Task.shutdown`."""
        return in_process(_Task.shutdown(self, timeout))

    await_many = staticmethod(blocking(_Task.await_many))

    @staticmethod
    def yield_many(
        tasks: Iterable[task.Task],
        timeout: float | None = task.AWAIT_SECONDS,
        *,
        limit: int | None = None,
        on_timeout: Literal["nothing", "ignore", "kill_task"] = "nothing",
    ) -> list[tuple[task.Task, Outcome | None]]:
        """As `beamnode.Task.yield_many`."""
        given = list(tasks)
        plain = [_Task(each.pid, each.ref, each.owner, each.mfa) for each in given]
        outcomes = in_process(_Task.yield_many(plain, timeout, limit=limit, on_timeout=on_timeout))
        return [(each, outcome) for each, (_, outcome) in zip(given, outcomes, strict=True)]

    @staticmethod
    def async_stream(
        iterable: Iterable[Any] | AsyncIterable[Any], function: Callable[..., Any], *args: Any, **options: Any
    ) -> Iterator[Outcome]:
        """As `beamnode.Task.async_stream`: an iterator. Elements that take time to come hold nobody else up."""
        return _stream(_Task.async_stream, _off_the_loop(iterable), function, *args, **options)


class TaskSupervisor(Face, task_supervisor.TaskSupervisor):
    """`beamnode.Task.Supervisor`, blocking."""

    awaitable = _TaskSupervisor

    @staticmethod
    def async_(supervisor: names.Server, function: Any, *args: Any, **options: Any) -> Task:
        """As `beamnode.Task.Supervisor.async_`."""
        return _own(in_process(_TaskSupervisor.async_(supervisor, function, *args, **options)))

    @staticmethod
    def async_nolink(supervisor: names.Server, function: Any, *args: Any, **options: Any) -> Task:
        """As `beamnode.Task.Supervisor.async_nolink`."""
        return _own(in_process(_TaskSupervisor.async_nolink(supervisor, function, *args, **options)))

    @staticmethod
    def async_stream(
        supervisor: names.Server,
        iterable: Iterable[Any] | AsyncIterable[Any],
        function: Any,
        *args: Any,
        **options: Any,
    ) -> Iterator[Outcome]:
        """As `beamnode.Task.Supervisor.async_stream`."""
        return _stream(_TaskSupervisor.async_stream, supervisor, _off_the_loop(iterable), function, *args, **options)

    @staticmethod
    def async_stream_nolink(
        supervisor: names.Server,
        iterable: Iterable[Any] | AsyncIterable[Any],
        function: Any,
        *args: Any,
        **options: Any,
    ) -> Iterator[Outcome]:
        """As `beamnode.Task.Supervisor.async_stream_nolink`."""
        elements = _off_the_loop(iterable)
        return _stream(_TaskSupervisor.async_stream_nolink, supervisor, elements, function, *args, **options)

    start_child = staticmethod(blocking(_TaskSupervisor.start_child))
    children = staticmethod(blocking(_TaskSupervisor.children))
    terminate_child = staticmethod(blocking(_TaskSupervisor.terminate_child))


Task.Supervisor = TaskSupervisor


def _own(plain: task.Task) -> Task:
    return Task(plain.pid, plain.ref, plain.owner, plain.mfa)


def _stream(function: Callable[..., AsyncGenerator[Outcome, None]], *args: Any, **options: Any) -> Iterator[Outcome]:
    return _read(function(*args, **options))


def _read(stream: AsyncGenerator[Outcome, None]) -> Iterator[Outcome]:
    """What is read with `async for`, as an iterator; who leaves it, or closes it, ends the stream."""
    try:
        while (outcome := in_process(_next(stream))) is not _END:
            yield outcome
    finally:
        in_process(_close(stream))


async def _next(stream: AsyncGenerator[Outcome, None]) -> Any:
    return await anext(stream, _END)


async def _close(stream: AsyncGenerator[Outcome, None]) -> None:
    await stream.aclose()


def _off_the_loop(iterable: Iterable[Any] | AsyncIterable[Any]) -> Iterable[Any] | AsyncIterable[Any]:
    """What computes its elements, or waits for them, does so in a thread."""
    if isinstance(iterable, Collection) or not isinstance(iterable, Iterable):
        return iterable
    return _in_threads(iter(iterable))


async def _in_threads(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    while (element := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield element
