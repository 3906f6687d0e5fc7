"""What a node spawns, here and elsewhere, and what peers spawn on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beamnode.core.process import Process
from beamnode.core.spawning import TUNING
from beamnode.errors import NotAliveError, ProcessExit, SpawnError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.node.asked import Asked
from beamnode.node.current import current_body
from beamnode.node.exposed import (
    ByValueRefused,
    Callee,
    Exposed,
    NotImported,
    by_value_refused,
    import_callee,
    remote_call,
)
from beamnode.node.runtime import to_atom
from beamnode.node.workers import Workers
from beamnode.wire.control import SpawnRequest

if TYPE_CHECKING:
    from beamnode.node.node import Node

log = logging.getLogger("beamnode.node")

Name = Atom | str
Options = list[Any]  # of a spawn, as terms
Call = tuple[Atom, Atom, list[Any]]


class Spawner:
    """The part of a `Node` that starts processes: what may run is in `exposed`, where it runs in `workers`."""

    def __init__(self, node: Node, exposed: Exposed, workers: Workers) -> None:
        self._node = node
        self._exposed = exposed
        self._workers = workers

    async def find(self, asked: Asked) -> Callee | None:
        """What a peer's call asks for; None, and logged, when the policy refuses it or there is no such thing."""
        try:
            return self._exposed.resolve(asked)
        except ByValueRefused:
            return None
        except NotImported as missing:
            return await self._import(missing.asked)

    async def run(self, callee: Callee) -> Any:
        """Run it where it belongs, on the loop or in a pool, as part of the current process."""
        return await self._workers.run(callee)

    async def _import(self, asked: Asked) -> Callee | None:
        """As part of a peer's call, an import may take its time, and must not take the loop's."""
        callee: Callee | None = await self._workers.run(Callee(import_callee, [asked]))
        return callee

    async def spawn(
        self,
        parent: Process,
        node: Name,
        function: Callable[..., Any] | Name,
        args: tuple[Any, ...],
        options: Options,
    ) -> tuple[Pid, Reference]:
        """Start a process in the name of `parent`; what `Node.spawn` says."""
        atom = self._node.checked_name(node)
        if callable(function):
            if atom is self._node.name:
                return self._spawn_here(parent, function, args, options)
            call = remote_call(atom, function, args)
        else:
            call = _checked_call(function, args)
            if atom is self._node.name:
                found = await self.find(Asked(atom, *call))
                if found is None:
                    raise SpawnError(f"{call[0]}:{call[1]} is not exposed on {atom}", a.undef)
                return self._spawn_here(parent, *self._body_call(found), options)
        if not self._node.alive:
            raise NotAliveError(f"{self._node.name} is stopped: it cannot spawn on {atom}")
        try:
            return await self._node.runtime.spawn_remote(parent, atom, call, options)
        except SpawnError as error:
            why = self._node.connect_error(atom) if error.reason is a.noconnection else None
            if why is not None:
                raise SpawnError(f"{error}: {why}", error.reason) from error
            if error.reason is a.notsup and callable(function):
                raise by_value_refused(atom, function) from error
            raise

    def _spawn_here(
        self, parent: Process, function: Callable[..., Any], args: tuple[Any, ...], options: Options
    ) -> tuple[Pid, Reference]:
        runtime = self._node.runtime
        named: Any = None
        for option in options:
            match option:
                case (a.name, Atom() as named):
                    pass
                case _ if option not in (a.link, a.monitor) and not (type(option) is tuple and option[0] in TUNING):
                    raise SpawnError(f"{option!r} is no option of a spawn", a.badopt)
        process = runtime.spawn(function, args, parent=parent, link=a.link in options, name=named)
        process.body.async_dist = (a.async_dist, True) in options
        pid = process.pid
        if a.monitor in options:
            return pid, runtime.signals.monitor(parent, pid)
        return pid, runtime.identities.next_reference()

    def requested(self, node: Atom, request: SpawnRequest) -> None:
        """A peer wants a process: it gets one, which dies at once with `undef` when there is no such function here."""
        runtime = self._node.runtime
        found: Callee | Asked | None
        if type(request.args) is not list:
            process = runtime.spawning.accept(request)
            if process is not None:
                call = [request.module, request.function, request.args]
                runtime.signals.end(process, (a.badarg, [(a.erlang, a.apply, call, [])]))
            return
        try:
            found = self._exposed.resolve_request(node, request)
        except NotImported as missing:
            found = missing.asked
        except ByValueRefused:
            runtime.spawning.refuse(request, a.notsup)
            return
        except Exception:  # whatever looking for it ran into: this request fails, and no other
            log.exception("looking for what %s wants to spawn failed", node)
            found = None
        process = runtime.spawning.accept(request)
        if process is None:
            return
        if isinstance(found, Asked):
            task = runtime.loop.create_task(self._start_imported(process, found, request))
            runtime.ending.add(task)
            task.add_done_callback(runtime.ending.discard)
        else:
            self._start_requested(process, found, request)

    async def _start_imported(self, process: Process, asked: Asked, request: SpawnRequest) -> None:
        found = await self._import(asked)
        if process.alive:
            self._start_requested(process, found, request)
            self._node.runtime.flush()

    def _start_requested(self, process: Process, found: Callee | None, request: SpawnRequest) -> None:
        runtime = self._node.runtime
        if found is None:
            runtime.signals.end(process, (a.undef, [(request.module, request.function, request.args, [])]))
            return
        try:
            runtime.start_body(process, *self._body_call(found))
        except RuntimeError as error:  # no more threads
            log.error("cannot run %s:%s for %s: %s", request.module, request.function, request.sender.node, error)
            runtime.signals.end(process, a.system_limit)
            return
        session = runtime.sessions.get(request.sender.node)
        if session is not None and session.pressure.busy:
            session.pressure.hold(process)  # it begins when that peer has read: else its calls fill the memory
        if (a.async_dist, True) in request.options:
            process.body.async_dist = True

    def _body_call(self, callee: Callee) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What runs as the body of a process of its own."""
        if callee.run is None:
            return callee.function, tuple(callee.args)
        return self._workers.run, (callee,)


class Refused(ProcessExit):
    """What a peer asks for does not run here: the policy is against it, or there is no such function."""


async def run_asked(asked: Asked) -> Any:
    """Run what a peer asks for as part of the current process, where the policy of its node allows it.

    On the loop, in a thread or in an OS process, as it was exposed. Errors: those of the function; Refused, a
    ProcessExit with `{undef, [{Module, Function, Args, []}]}`, when nothing was run.
    """
    spawner = current_body().runtime.spawner
    asked = asked.applied()
    callee = None if spawner is None else await spawner.find(asked)
    if spawner is None or callee is None:
        raise Refused((a.undef, [(asked.module, asked.function, asked.args, [])]))
    return await spawner.run(callee)


def _checked_call(module: Name, args: tuple[Any, ...]) -> Call:
    if len(args) != 2 or not isinstance(args[0], str | Atom) or not isinstance(args[1], list | tuple):
        raise UsageError(
            "spawn takes a module, a function and a list of arguments, or a Python function and its arguments"
        )
    return to_atom(module), to_atom(args[0]), list(args[1])
