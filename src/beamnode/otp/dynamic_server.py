"""The process of a dynamic supervisor: its children, by their pids. Source: dynamic_supervisor.ex."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import Asked, send
from beamnode.node import self as own_pid
from beamnode.otp import child_specs, gen, supervision
from beamnode.otp.child_specs import BadChildSpec, ChildSpec, Start
from beamnode.otp.handlers import Stop
from beamnode.otp.supervision import Child, Intensity, NotStarted, Started, report
from beamnode.otp.supervisor_base import SupervisorBase
from beamnode.otp.sys import sendable_state

RESTART: Final = Atom("$gen_restart")


@dataclass(frozen=True, slots=True)
class DynamicSetup:
    """What `DynamicSupervisor.init` gives."""

    max_restarts: int
    max_seconds: float
    max_children: int | None
    extra_arguments: list[Any]

    def intensity(self) -> Intensity:
        return Intensity(self.max_restarts, self.max_seconds)


class DynamicServer(SupervisorBase):
    """Run by the loop of servers; `DynamicSupervisor` is its face."""

    setup_type = DynamicSetup
    setup_text = "DynamicSupervisor.init(...)"

    async def init(self, make: Any, args: tuple[Any, ...], options: dict[str, Any], name: Any) -> Any:
        """Ask `make().init(*args, **options)` for the options."""
        setup = await self.setup_by(make, args, options, name)
        self._intensity = setup.intensity()
        self._max_children: int | None = setup.max_children
        self._extra: list[Any] = setup.extra_arguments
        self._children: dict[Pid, Child] = {}  # one that is restarting still by the pid it had
        return None

    async def terminate(self, reason: Any) -> None:
        await self._end(self._children.values())

    # --- Calls --------------------------------------------------------------------------------------------------------

    async def handle_call(self, request: Any, sender: gen.From) -> Any:
        match request:
            case (a.start_child, given):
                return await self._start_child(given)
            case (a.terminate_child, Pid() as pid):
                child = self._children.pop(pid, None)
                if child is None:
                    return (a.error, a.not_found)
                await self._end([child])
                return a.ok
            case a.which_children:
                return [self._listed(child) for child in self._children.values()]
            case a.count_children:
                return self._count()
        return (a.error, (a.unknown_request, sendable_state(request)))

    async def _start_child(self, given: Any) -> Any:
        try:
            spec = self._checked(given)
        except BadChildSpec as error:
            return (a.error, error.reason)
        if self._max_children is not None and len(self._children) >= self._max_children:
            return (a.error, a.max_children)
        child = Child(spec)
        try:
            started = await self._start(child)
        except NotStarted as error:
            return (a.error, _reason(error))
        return a.ignore if started.pid is None else started.as_answer()

    def _checked(self, given: Any) -> ChildSpec:
        """Of `{{Module, Function, Args}, Restart, Shutdown, Type, Modules}`, or of our own. Errors: BadChildSpec."""
        foreign = self.origin is not own_pid().node
        if isinstance(given, ChildSpec) and not foreign:
            return given
        if type(given) is not tuple or len(given) != 5:
            raise BadChildSpec(f"{shown(given)} is no child", (a.invalid_child_spec, sendable_state(given)))
        return child_specs.checked((a.undefined, *given), self.origin, foreign=foreign)

    def _listed(self, child: Child) -> tuple[Any, ...]:
        return (a.undefined, child.where(), child.spec.type, child.spec.modules)

    def _count(self) -> list[tuple[Atom, int]]:
        children = self._children.values()
        active = sum(not child.restarting for child in children)
        supervisors = sum(child.spec.type is a.supervisor for child in children)
        counts = (len(children), active, supervisors, len(children) - supervisors)
        return list(zip((a.specs, a.active, a.supervisors, a.workers), counts, strict=True))

    # --- Ends of children ---------------------------------------------------------------------------------------------

    async def handle_info(self, message: Any) -> None:
        match message:
            case (a.EXIT, Pid() as pid, reason):
                child = self._children.get(pid)
                if child is not None and not child.restarting:
                    await self._on_end(pid, child, reason)
            case (word, Pid() as pid) if word is RESTART:
                child = self._children.get(pid)
                if child is not None and child.restarting:  # nobody has ended it meanwhile
                    await self._restart(pid, child)
            case _:
                supervision.log.error("DynamicSupervisor received unexpected message: %s", shown(message))

    def handle_cast(self, request: Any) -> None:
        """Nothing, as in Elixir."""

    async def _on_end(self, pid: Pid, child: Child, reason: Any) -> None:
        restarts = supervision.to_restart(child.spec.restart, reason)
        if restarts or not supervision.is_orderly(reason):
            report(a.child_terminated, self._name, child, reason)
        if restarts:
            await self._restart(pid, child)
        else:
            del self._children[pid]

    async def _restart(self, pid: Pid, child: Child) -> None:
        """Start a child again, which was `pid`. Errors: Stop, when that happens too often.

        When it fails, the supervisor sees to its other messages before it tries again.
        """
        if not self._intensity.add():
            report(a.shutdown, self._name, child, a.reached_max_restart_intensity)
            del self._children[pid]
            raise Stop(a.shutdown)
        child.pid, child.restarting = None, True
        try:
            await self._start(child)
        except NotStarted as error:
            report(a.start_error, self._name, child, _reason(error))
            send(own_pid(), (RESTART, pid))
            return
        del self._children[pid]

    # --- Starting and ending ------------------------------------------------------------------------------------------

    async def _start(self, child: Child) -> Started:
        """Start it and keep it, if it did not choose otherwise. Errors: NotStarted."""
        started = await supervision.start(_with_extra(child.spec.start, self._extra))
        if started.pid is not None:
            child.pid, child.restarting = started.pid, False
            if child.is_temporary:
                child.spec = _without_arguments(child.spec)
            self._children[started.pid] = child
            supervision.report_progress(self._name, child)
        return started

    async def _end(self, children: Iterable[Child]) -> None:
        await supervision.end_at_once(children, self._name)

    # --- What system messages see -------------------------------------------------------------------------------------

    def get_state(self) -> Any:
        """What there is to see of it."""
        return {
            a.name: self._name,
            a.mod: self._module,
            a.strategy: a.one_for_one,
            a.max_restarts: self._intensity.max_restarts,
            a.max_seconds: self._intensity.max_seconds,
            a.max_children: a.infinity if self._max_children is None else self._max_children,
            a.extra_arguments: sendable_state(self._extra),
            a.children: [self._listed(child) for child in self._children.values()],
        }


def _reason(failure: NotStarted) -> Any:
    """As Elixir tells it: of what a start function raised without the `EXIT` that OTP's supervisor puts before it."""
    return failure.reason if failure.__cause__ is None else failure.reason[1]


def _with_extra(start: Start, extra: list[Any]) -> Start:
    """The same start with more arguments at the beginning."""
    if not extra:
        return start
    if isinstance(start, Asked):
        return replace(start, args=[*extra, *start.args])
    return (start[0], (*extra, *start[1]))


def _without_arguments(spec: ChildSpec) -> ChildSpec:
    """What is not started again needs no arguments, which may be big."""
    if isinstance(spec.start, Asked):
        return replace(spec, start=replace(spec.start, args=[]))
    return replace(spec, start=(spec.start[0], ()))
