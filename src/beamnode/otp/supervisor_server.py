"""The process of a supervisor: its children, in the order of their start, and what it does when one ends.

Source: supervisor.erl, function by function; children are found by id and by pid, both in a dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import current_body, send
from beamnode.node import self as own_pid
from beamnode.otp import child_specs, gen, supervision
from beamnode.otp.child_specs import BadChildSpec, id_term, key_of
from beamnode.otp.handlers import Stop
from beamnode.otp.supervision import Child, Intensity, NotStarted, report
from beamnode.otp.supervisor_base import SupervisorBase
from beamnode.otp.sys import sendable_state


@dataclass(frozen=True, slots=True)
class Setup:
    """What `Supervisor.init` gives: the children, in the order of their start, and how they are treated."""

    children: list[Any]
    strategy: Atom
    max_restarts: int
    max_seconds: float
    auto_shutdown: Atom

    def intensity(self) -> Intensity:
        return Intensity(self.max_restarts, self.max_seconds)


class SupervisorServer(SupervisorBase):
    """Run by the loop of servers; `Supervisor` is its face."""

    setup_type = Setup
    setup_text = "Supervisor.init(children, strategy=...)"

    async def init(self, make: Any, args: tuple[Any, ...], options: dict[str, Any], name: Any) -> Any:
        """Start all children, or none. `make().init(*args, **options)` tells which."""
        setup = await self.setup_by(make, args, options, name)
        self._strategy: Atom = setup.strategy
        self._auto_shutdown: Atom = setup.auto_shutdown
        self._intensity = setup.intensity()
        try:
            specs = child_specs.all_checked(setup.children, self.origin, auto_shutdown=self._auto_shutdown)
        except BadChildSpec as error:
            supervision.log.error("Supervisor %s does not start: %s", self._name, error)
            raise Stop((a.start_spec, error.reason)) from error
        self._children = {key: Child(spec) for key, spec in specs.items()}
        self._by_pid: dict[Pid, Child] = {}
        failed = await self._start_in_order(list(self._children.values()))
        if failed is not None:
            child, reason = failed
            await self._end(reversed(self._children.values()))
            raise Stop((a.shutdown, (a.failed_to_start_child, id_term(child.spec.id), reason)))
        return None

    async def terminate(self, reason: Any) -> None:
        await self._end(reversed(self._children.values()))

    # --- Calls --------------------------------------------------------------------------------------------------------

    async def handle_call(self, request: Any, sender: gen.From) -> Any:
        match request:
            case a.which_children:
                return self._which_children()
            case a.count_children:
                return self._count_children()
            case (a.start_child, spec):
                return await self._start_child(spec)
            case (
                a.terminate_child | a.restart_child | a.delete_child | a.get_childspec | a.which_child as what,
                id,
            ):
                child = self._find(id)
                return (a.error, a.not_found) if child is None else await self._with_child(what, child)
        return (a.error, (a.unknown_request, sendable_state(request)))

    def _find(self, id: Any) -> Child | None:
        try:
            return self._children.get(key_of(id))
        except BadChildSpec:
            return None

    async def _with_child(self, what: Atom, child: Child) -> Any:
        if what is a.get_childspec:
            return (a.ok, child.spec.as_term())
        if what is a.which_child:
            return (a.ok, self._listed(child))
        if what is a.terminate_child:
            await self._end([child])
            self._not_running(child)
            return a.ok
        if child.pid is not None:
            return (a.error, a.running)
        if child.restarting:
            return (a.error, a.restarting)
        if what is a.delete_child:
            del self._children[key_of(child.spec.id)]
            return a.ok
        try:
            return (await self._start(child)).as_answer()
        except NotStarted as error:
            return (a.error, error.reason)

    async def _start_child(self, given: Any) -> Any:
        foreign = self.origin is not own_pid().node
        try:
            spec = child_specs.checked(given, self.origin, auto_shutdown=self._auto_shutdown, foreign=foreign)
        except BadChildSpec as error:
            return (a.error, error.reason)
        except UsageError as error:  # a `child_spec` of its own that fails
            return (a.error, (a.invalid_child_spec, str(error)))
        key = key_of(spec.id)
        there = self._children.get(key)
        if there is not None:
            return (a.error, a.already_present if there.pid is None else (a.already_started, there.pid))
        child = Child(spec)
        try:
            started = await self._start(child)
        except NotStarted as error:
            match error.reason:
                case (a.already_started, Pid()):
                    return (a.error, error.reason)
            return (a.error, (error.reason, spec.as_record()))
        if child.is_temporary:  # it is not started again, so that nobody needs the arguments
            child.spec = spec.without_arguments()
        if started.pid is not None or not child.is_temporary:
            self._children[key] = child
        return started.as_answer()

    def _which_children(self) -> list[Any]:
        """The last one first, as OTP."""
        return [self._listed(child) for child in reversed(self._children.values())]

    def _listed(self, child: Child) -> tuple[Any, ...]:
        """An id is told as it was given, and to peers as a term."""
        spec = child.spec
        id = id_term(spec.id) if self.origin is not own_pid().node else spec.id
        return (id, child.where(), spec.type, spec.modules)

    def _count_children(self) -> list[Any]:
        lookup = current_body().runtime.signals.lookup
        own_node = own_pid().node
        children = self._children.values()
        pids = [child.pid for child in children if child.pid is not None]
        active = sum(pid.node is not own_node or lookup(pid) is not None for pid in pids)
        supervisors = sum(child.spec.type is a.supervisor for child in children)
        counts = (len(children), active, supervisors, len(children) - supervisors)
        return list(zip((a.specs, a.active, a.supervisors, a.workers), counts, strict=True))

    # --- Ends of children ---------------------------------------------------------------------------------------------

    async def handle_info(self, message: Any) -> None:
        match message:
            case (a.EXIT, Pid() as pid, reason):
                child = self._by_pid.pop(pid, None)
                if child is not None:
                    await self._on_end(child, reason)
            case _:
                supervision.log.error("Supervisor %s got an unexpected message: %s", self._name, shown(message))

    async def handle_cast(self, request: Any) -> None:
        match request:
            case (a.try_again_restart, id):
                child = self._find(id)
                if child is not None and child.restarting:
                    await self._restart(child)
            case _:
                supervision.log.error("Supervisor %s got an unexpected cast: %s", self._name, shown(request))

    async def _on_end(self, child: Child, reason: Any) -> None:
        restarts = supervision.to_restart(child.spec.restart, reason)
        if restarts or not supervision.is_orderly(reason):
            report(a.child_terminated, self._name, child, reason)
        if restarts:
            await self._restart(child)
            return
        self._not_running(child)
        if child.spec.significant and self._shuts_down():
            raise Stop(a.shutdown)

    def _shuts_down(self) -> bool:
        """Whether the end of a significant child ends the supervisor."""
        if self._auto_shutdown is a.all_significant:
            return not any(
                child.spec.significant and (child.pid is not None or child.restarting)
                for child in self._children.values()
            )
        return self._auto_shutdown is a.any_significant

    async def _restart(self, child: Child) -> None:
        """Start it again, and others with it as the strategy says. Errors: Stop, when that happens too often.

        When it fails, the supervisor sees to its other messages before it tries again.
        """
        if not self._intensity.add():
            report(a.shutdown, self._name, child, a.reached_max_restart_intensity)
            self._not_running(child)
            raise Stop(a.shutdown)
        if self._strategy is a.one_for_one:
            concerned = [child]
        else:
            concerned = list(self._children.values())
            if self._strategy is a.rest_for_one:
                concerned = list(dropwhile(lambda one: one is not child, concerned))
            child.pid = None
            await self._end(reversed(concerned))
            for one in concerned:
                self._not_running(one)
            concerned = [one for one in concerned if not one.is_temporary]
        failed = await self._start_in_order(concerned)
        if failed is not None:
            failed[0].pid, failed[0].restarting = None, True
            send(own_pid(), (gen.CAST, (a.try_again_restart, failed[0].spec.id)))

    def _not_running(self, child: Child) -> None:
        """It has ended, and is not started again now; of a temporary one nothing is kept."""
        child.pid, child.restarting = None, False
        if child.is_temporary:
            del self._children[key_of(child.spec.id)]

    # --- Starting and ending ------------------------------------------------------------------------------------------

    async def _start_in_order(self, children: Iterable[Child]) -> tuple[Child, Any] | None:
        """Start children; the first that fails, with the reason, which is reported."""
        for child in children:
            try:
                started = await self._start(child)
            except NotStarted as error:
                report(a.start_error, self._name, child, error.reason)
                return child, error.reason
            if started.pid is None and child.is_temporary:
                del self._children[key_of(child.spec.id)]
        return None

    async def _start(self, child: Child) -> supervision.Started:
        started = await supervision.start(child.spec.start)
        child.pid, child.restarting = started.pid, False
        if started.pid is not None:
            self._by_pid[started.pid] = child
            supervision.report_progress(self._name, child)
        return started

    async def _end(self, children: Iterable[Child]) -> None:
        """End those that run, in this order."""
        running = [child for child in children if child.pid is not None]
        for child in running:
            self._by_pid.pop(child.pid, None)  # type: ignore[arg-type]
        await supervision.end_in_order(running, self._name)

    # --- What system messages see -------------------------------------------------------------------------------------

    def get_state(self) -> Any:
        """What there is to see of it, and the children as `which_children` tells them."""
        return {
            a.name: self._name,
            a.module: self._module,
            a.strategy: self._strategy,
            a.intensity: self._intensity.max_restarts,
            a.period: self._intensity.max_seconds,
            a.auto_shutdown: self._auto_shutdown,
            a.children: [(id_term(id), *rest) for id, *rest in self._which_children()],
        }
