"""`Task.Supervisor`: tasks that are started, ended and counted by a supervisor, for processes here and elsewhere.

    await Task.Supervisor.start_link(name="workers", max_children=100)
    task = await Task.Supervisor.async_nolink("workers", fetch, url)
    outcome = await Task.yield_(task, timeout=10)

A supervisor of this node runs Python functions, and what peers ask it for by module, function and arguments, where the
node's policy allows it: on the loop, in a thread or in an OS process, as it was exposed. One of another node, Elixir's
or ours, is given those three: `async_(("Workers", "iex@host"), "Elixir.Fetch", "get", [url])`. What Elixir asks of such
a supervisor is asked of ours in the same words. Source: Elixir's Task.Supervisor, DynamicSupervisor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import current_body, exit, link, reason_text
from beamnode.otp import child_specs, names, server_loop, supervision, task_process, task_stream
from beamnode.otp.child_specs import BadChildSpec, ChildSpec, Start, Supervised
from beamnode.otp.dynamic_server import DynamicServer, DynamicSetup
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.gen import From
from beamnode.otp.gen_server import GenServer
from beamnode.otp.supervision import MAX_RESTARTS, MAX_SECONDS
from beamnode.otp.supervisor import SupervisorError
from beamnode.otp.supervisor_base import Given
from beamnode.otp.task import AWAIT_SECONDS, SHUTDOWN_SECONDS, Task
from beamnode.otp.task_process import Call, Owner, Work
from beamnode.otp.task_stream import Outcome

Shutdown: TypeAlias = float | Literal["brutal_kill"] | None
Restart: TypeAlias = Literal["temporary", "transient", "permanent"]

SHUTDOWN_MILLISECONDS: Final = round(SHUTDOWN_SECONDS * 1000)

_SUPERVISOR: Final = Atom("Task.Supervisor")
_SUPERVISED: Final = Atom("Elixir.Task.Supervised")


class TaskSupervisor(Supervised):
    """A supervisor of tasks; the static methods use any, by its pid, its name, `(name, node)` or a `via` name."""

    child_defaults: ClassVar[dict[str, Any]] = {"type": "supervisor"}

    @staticmethod
    async def start_link(
        *,
        name: names.Name | None = None,
        max_children: int | None = None,
        max_restarts: int = MAX_RESTARTS,
        max_seconds: float = MAX_SECONDS,
    ) -> Pid:
        """Start a supervisor, linked with the current process; its pid.

        At most `max_children` tasks run at a time (None: as many as you like). More than `max_restarts` restarts of
        tasks in `max_seconds` end it. Errors: AlreadyStarted, UsageError.
        """
        setup = DynamicSupervisor.init(max_children=max_children, max_restarts=max_restarts, max_seconds=max_seconds)
        return await server_loop.start(TaskSupervisorServer, (setup, name), name, None, link=True)

    @classmethod
    def child_spec(cls, **options: Any) -> dict[str, Any]:
        """The specification of a child that `start_link(**options)` starts; its id is its name, if it has one."""
        spec = super().child_spec(**options)
        return {**spec, "id": child_specs.id_of_name(options.get("name"), spec["id"])}

    # --- Starting tasks -----------------------------------------------------------------------------------------------

    @staticmethod
    async def async_(
        supervisor: names.Server, function: Any, *args: Any, shutdown: Shutdown = SHUTDOWN_SECONDS
    ) -> Task:
        """Have a task started, linked to the current process as well, and go on; `Task.await_` gives the result.

        `function, *args` is a Python function, for a supervisor of this node, or a module, a function and a list.
        `shutdown` is how long it may take to end when the supervisor ends it.
        Errors: SupervisorError (`max_children`); CallFailed when the supervisor is not there; UsageError.
        """
        work = _checked(supervisor, task_process.work_of(function, args))
        pid = await _start(supervisor, task_process.own_owner(), shutdown)
        link(pid)
        return Task.with_work(pid, work)

    @staticmethod
    async def async_nolink(
        supervisor: names.Server, function: Any, *args: Any, shutdown: Shutdown = SHUTDOWN_SECONDS
    ) -> Task:
        """`async_`, not linked: a crash is told by `await_` or `yield_`, and the task outlives the current process.

        A server that does not await it gets `(task.ref, result)` or `(a.DOWN, task.ref, ...)` in `handle_info`.
        """
        work = _checked(supervisor, task_process.work_of(function, args))
        return Task.with_work(await _start(supervisor, task_process.own_owner(), shutdown), work)

    @staticmethod
    async def start_child(
        supervisor: names.Server,
        function: Any,
        *args: Any,
        restart: Restart = "temporary",
        shutdown: Shutdown = SHUTDOWN_SECONDS,
    ) -> Pid:
        """Have a task started whose result nobody waits for; its pid.

        With `restart` "transient" it is started again when it crashes, with "permanent" whenever it ends. Errors: as
        `async_`.
        """
        if restart not in ("temporary", "transient", "permanent"):
            raise UsageError(f'restart is "temporary", "transient" or "permanent", not {restart!r}')
        work = _checked(supervisor, task_process.work_of(function, args))
        start = [task_process.own_owner(), task_process.own_callers(), work]
        return _started(await _call(supervisor, (a.start_task, start, Atom(restart), _shutdown_term(shutdown))))

    @staticmethod
    def async_stream(
        supervisor: names.Server,
        iterable: Iterable[Any] | AsyncIterable[Any],
        function: Any,
        *args: Any,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = AWAIT_SECONDS,
        on_timeout: Literal["exit", "kill_task"] = "exit",
        zip_input_on_exit: bool = False,
        shutdown: Shutdown = SHUTDOWN_SECONDS,
    ) -> AsyncGenerator[Outcome, None]:
        """`Task.async_stream` with tasks of a supervisor: of a Python function with `args`, or of a module, a function
        and a list of arguments; each element comes before those. Errors: as `async_` has, when they are asked for.
        """
        options = task_stream.Options(max_concurrency, ordered, timeout, on_timeout, zip_input_on_exit)
        return _stream(supervisor, iterable, function, args, options, shutdown)

    @staticmethod
    def async_stream_nolink(
        supervisor: names.Server,
        iterable: Iterable[Any] | AsyncIterable[Any],
        function: Any,
        *args: Any,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = AWAIT_SECONDS,
        on_timeout: Literal["exit", "kill_task"] = "exit",
        zip_input_on_exit: bool = False,
        shutdown: Shutdown = SHUTDOWN_SECONDS,
    ) -> AsyncGenerator[Outcome, None]:
        """`async_stream`, not linked: a task that crashes is `(a.exit, reason)`, also where exits are not trapped."""
        options = task_stream.Options(max_concurrency, ordered, timeout, on_timeout, zip_input_on_exit, linked=False)
        return _stream(supervisor, iterable, function, args, options, shutdown)

    # --- The tasks there are ------------------------------------------------------------------------------------------

    @staticmethod
    async def children(supervisor: names.Server) -> list[Pid]:
        """The pids of the tasks that run."""
        found = await _call(supervisor, a.which_children)
        return [pid for _, pid, _, _ in found if isinstance(pid, Pid)]

    @staticmethod
    async def terminate_child(supervisor: names.Server, pid: Pid) -> None:
        """End a task, and wait for it. Errors: SupervisorError (`not_found`)."""
        if await _call(supervisor, (a.terminate_child, pid)) is not a.ok:
            raise SupervisorError(f"{pid!r} is no task of this supervisor", a.not_found)


# --- Asking -----------------------------------------------------------------------------------------------------------


async def _call(supervisor: names.Server, request: Any) -> Any:
    return await GenServer.call(supervisor, request, timeout=None)


async def _start(supervisor: names.Server, owner: Owner, shutdown: Shutdown) -> Pid:
    """Have a task started that waits to be told what to run. Who is cancelled meanwhile leaves none."""
    request = (a.start_task, [owner, a.monitor], a.temporary, _shutdown_term(shutdown))
    starting = asyncio.ensure_future(_call(supervisor, request))
    try:
        return _started(await asyncio.shield(starting))
    except asyncio.CancelledError:
        starting.add_done_callback(_end_unwanted)
        raise


def _end_unwanted(starting: asyncio.Future[Any]) -> None:
    """Nobody will tell it what to run: it would wait for a while, and end with a report."""
    if starting.cancelled() or starting.exception() is not None:
        return
    match starting.result():
        case (a.ok, Pid() as pid) if current_body().process.alive:
            exit(pid, a.shutdown)


def _started(answer: Any) -> Pid:
    match answer:
        case (a.ok, Pid() as pid):
            return pid
        case (a.error, a.max_children):
            text = "the supervisor has as many tasks as its max_children allows"
            raise SupervisorError(text, a.max_children)
        case (a.error, reason):
            raise SupervisorError(f"the supervisor did not start the task: {reason_text(reason)}", reason)
    raise SupervisorError(f"no supervisor of tasks answers like this: {shown(answer)}", answer)


def _stream(
    supervisor: names.Server,
    iterable: Iterable[Any] | AsyncIterable[Any],
    function: Any,
    args: tuple[Any, ...],
    options: task_stream.Options,
    shutdown: Shutdown,
) -> AsyncGenerator[Outcome, None]:
    _shutdown_term(shutdown)

    def work(element: Any) -> Work:
        return _checked(supervisor, task_process.work_for(element, function, args))

    async def start(owner: Owner) -> Pid:
        return await _start(supervisor, owner, shutdown)

    return task_stream.stream(iterable, work, start, options)


def _checked(supervisor: names.Server, work: Work) -> Work:
    if isinstance(work, Call) and not names.is_here(supervisor):
        raise UsageError(
            f"{shown(work.function)} cannot go to the supervisor {supervisor!r} of another node: give it the module, "
            "the function and a list of arguments that it can run there"
        )
    return work


def _shutdown_term(shutdown: Any) -> Any:
    if shutdown is None:
        return a.infinity
    if shutdown in ("brutal_kill", a.brutal_kill):
        return a.brutal_kill
    if not isinstance(shutdown, int | float) or shutdown < 0:
        raise UsageError(f'shutdown is a number of seconds, "brutal_kill" or None, not {shutdown!r}')
    return round(shutdown * 1000)


# --- The server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A task that is to be started, in the words of `{start_task, Args, Restart, Shutdown}`."""

    args: Any
    restart: Any
    shutdown: Any


class TaskSupervisorServer(DynamicServer):
    """A dynamic supervisor that also starts tasks: what peers ask for is run under the node's policy."""

    @classmethod
    def initial_call(cls, *_args: Any) -> tuple[Atom, Atom, int]:
        """As supervisors of OTP say it."""
        return a.supervisor, Atom("Elixir.Task.Supervisor"), 1

    async def init(self, setup: DynamicSetup, name: names.Name | None) -> None:  # type: ignore[override]
        """`setup` are the options of a dynamic supervisor."""
        await super().init(Given(setup, "Task.Supervisor"), (), {}, name)
        self._module = _SUPERVISOR
        self._name = supervision.supervisor_name(name, _SUPERVISOR)

    async def handle_call(self, request: Any, sender: From) -> Any:
        match request:
            case (a.start_task, args, restart, shutdown):
                return await self._start_child(_Asked(args, restart, shutdown))
        return await super().handle_call(request, sender)

    def _checked(self, given: Any) -> ChildSpec:
        if not isinstance(given, _Asked):
            return super()._checked(given)
        spec = {
            a.id: a.undefined,
            a.start: self._start_of(given.args),
            a.restart: a.temporary if given.restart is None else given.restart,
            a.shutdown: SHUTDOWN_MILLISECONDS if given.shutdown is None else given.shutdown,
            a.modules: [_SUPERVISED],
        }
        return child_specs.checked(spec, self.origin)

    def _start_of(self, args: Any) -> Start:
        """The function that starts the task. Errors: BadChildSpec."""
        match args:
            case [owner, (a.monitor | a.nomonitor) as watch] if task_process.is_owner(owner):
                return task_process.start_reply, (owner, watch is a.monitor)
            case [owner, list() as callers, work] if task_process.is_owner(owner):
                refused = task_process.refusal(work)
                if refused is not None:
                    raise BadChildSpec("it cannot run here", refused)
                return task_process.start_noreply, (owner, callers, work, self.origin)
        raise BadChildSpec("it is no task", (a.badarg, shown(args).encode()))
