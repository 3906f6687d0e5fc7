"""What every supervisor does with a child: start it, judge what came of that, end it by OTP's protocol, report.

All of it acts on the current process, the supervisor's, which traps exits. Source: supervisor.erl
(`do_start_child_i`, `shutdown`, `wait_dynamic_children`, `add_restart`, `report_error`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node import (
    Asked,
    current_body,
    demonitor,
    exit,
    monitor,
    reason_of,
    reason_text,
    receive_tagged,
    run_asked,
    self,
    unlink,
)
from beamnode.otp.child_specs import ChildSpec, Start, id_term, start_term, with_arguments
from beamnode.otp.handlers import Ignore
from beamnode.otp.proc_lib import StartFailed
from beamnode.otp.server_loop import AlreadyStarted
from beamnode.otp.sys import sendable_state

log = logging.getLogger("beamnode.supervisor")

MAX_RESTARTS: Final = 3  # as Elixir
MAX_SECONDS: Final = 5.0

_NO_INFO: Final = object()
_ENDED_PER_TURN: Final = 100  # children that were ended without waiting, before others run


class Child:
    """A child of a supervisor: what it was told of it, and who it is now."""

    __slots__ = ("pid", "restarting", "spec")

    def __init__(self, spec: ChildSpec, pid: Pid | None = None) -> None:
        self.spec = spec
        self.pid = pid  # None: it does not run
        self.restarting = False  # it does not run, because a restart failed that will be tried again

    @property
    def is_temporary(self) -> bool:
        return self.spec.restart is a.temporary

    def where(self) -> Pid | Atom:
        """As `which_children` tells it: the pid, `restarting` or `undefined`."""
        if self.pid is not None:
            return self.pid
        return a.restarting if self.restarting else a.undefined


# --- Starting ---------------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """What a start function gave: a pid, or None when it chose not to start; and what else it told of it."""

    pid: Pid | None
    info: Any = _NO_INFO

    def as_answer(self) -> tuple[Any, ...]:
        """`{ok, Pid}`, `{ok, Pid, Info}` or `{ok, undefined}`."""
        pid = a.undefined if self.pid is None else self.pid
        return (a.ok, pid) if self.info is _NO_INFO else (a.ok, pid, self.info)


class NotStarted(Exception):
    """A start function failed; `reason` is what its supervisor answers and reports, as OTP's would."""

    def __init__(self, reason: Any) -> None:
        super().__init__(reason)
        self.reason = sendable_state(reason)


async def start(start: Start, more: Sequence[Any] = ()) -> Started:
    """Call a start function, with `more` arguments at the end, and judge what it gives.

    A pid, `(a.ok, pid)`, `(a.ok, pid, info)`, `a.ignore` and `(a.error, reason)`; what `start_link` of a server
    raises means the same. Errors: NotStarted, for all else too.
    """
    try:
        result = await _called(with_arguments(start, more) if more else start)
    except Ignore:
        return Started(None)
    except AlreadyStarted as error:
        raise NotStarted((a.already_started, error.pid)) from None
    except StartFailed as error:
        raise NotStarted(error.reason) from None
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        current_body().check_alive()  # its own end is no failure of the child
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
            raise
        raise NotStarted((a.EXIT, reason_of(error))) from error
    match result:
        case Pid() as pid:
            return Started(pid)
        case (a.ok, Pid() as pid):
            return Started(pid)
        case (a.ok, Pid() as pid, info):
            return Started(pid, info)
        case a.ignore | Ignore():
            return Started(None)
        case (a.error, reason):
            raise NotStarted(reason)
    if result is Ignore:
        return Started(None)
    if result is None and not isinstance(start, Asked):  # a `return` was forgotten: no reason of OTP's
        forgotten = UsageError(
            f"{shown(start[0])} returned nothing: a start function returns the pid of the child, linked with the "
            "current process (as start_link and spawn_link give it), or a.ignore"
        )
        raise NotStarted((a.EXIT, reason_of(forgotten)))
    raise NotStarted(result)


async def _called(start: Start) -> Any:
    if isinstance(start, Asked):
        return await run_asked(start)
    function, args = start
    result = function(*args)
    while hasattr(type(result), "__await__"):
        result = await result
    return result


# --- Restarts ---------------------------------------------------------------------------------------------------------


class Intensity:
    """How many restarts there may be in a time: `max_restarts` in `max_seconds`."""

    def __init__(self, max_restarts: int = MAX_RESTARTS, max_seconds: float = MAX_SECONDS) -> None:
        if type(max_restarts) is not int or max_restarts < 0:
            raise UsageError(f"max_restarts is an integer of 0 or more, not {shown(max_restarts)}")
        if type(max_seconds) not in (int, float) or not max_seconds > 0:
            raise UsageError(f"max_seconds is a number of seconds above 0, not {shown(max_seconds)}")
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
        self._restarts: deque[float] = deque()

    def add(self) -> bool:
        """There is another restart now: whether it may be done."""
        now = asyncio.get_running_loop().time()
        restarts = self._restarts
        while restarts and restarts[0] < now - self.max_seconds:
            restarts.popleft()
        restarts.append(now)
        return len(restarts) <= self.max_restarts


def to_restart(restart: Atom, reason: Any) -> bool:
    """Whether a child of this kind that ended with this reason is to be started again."""
    return restart is a.permanent or (restart is a.transient and not is_orderly(reason))


def is_orderly(reason: Any) -> bool:
    """`normal`, `shutdown` or `{shutdown, _}`: nothing went wrong."""
    return (
        reason is a.normal
        or reason is a.shutdown
        or (type(reason) is tuple and len(reason) == 2 and reason[0] is a.shutdown)
    )


# --- Ending -----------------------------------------------------------------------------------------------------------


async def end(child: Child, supervisor: str) -> None:
    """End one child as its specification says, and wait for it; a report when it ends otherwise than it was told."""
    await end_in_order([child], supervisor)


async def end_in_order(children: Iterable[Child], supervisor: str) -> None:
    """End children one after the other, each when the one before has ended. Afterwards none has a pid.

    Forget the pids before: `EXIT` messages of the children may come.
    """
    exits = _Exits(children)
    for count, (pid, child) in enumerate(exits.children.items(), 1):
        reference = _order(child)
        try:
            reason = await _end_of(reference, child)
        finally:
            demonitor(reference, flush=True)
        exits.note(pid, reason, supervisor)
        if count % _ENDED_PER_TURN == 0:
            await asyncio.sleep(0)


async def end_at_once(children: Iterable[Child], supervisor: str) -> None:
    """End children all at the same time, and wait for them. Afterwards none has a pid.

    Forget the pids before: `EXIT` messages of the children may come.
    """
    exits = _Exits(sorted(children, key=_seconds))  # so that each is killed when its own time is over
    loop = asyncio.get_running_loop()
    began = loop.time()
    references: dict[Pid, Reference] = {}
    try:
        for count, (pid, child) in enumerate(exits.children.items(), 1):
            references[pid] = _order(child)
            if count % _ENDED_PER_TURN == 0:
                await asyncio.sleep(0)
        for count, (pid, child) in enumerate(exits.children.items(), 1):
            exits.note(pid, await _end_of(references[pid], child, loop.time() - began), supervisor)
            demonitor(references.pop(pid), flush=True)
            if count % _ENDED_PER_TURN == 0:
                await asyncio.sleep(0)
    finally:
        for reference in references.values():
            demonitor(reference, flush=True)


def _seconds(child: Child) -> float:
    shutdown = child.spec.shutdown
    if shutdown is None:
        return float("inf")
    return 0.0 if isinstance(shutdown, Atom) else shutdown


def _order(child: Child) -> Reference:
    """Tell a child to end."""
    assert child.pid is not None
    reference = monitor(child.pid, expected=True)
    exit(child.pid, a.kill if child.spec.shutdown is a.brutal_kill else a.shutdown)
    return reference


async def _end_of(reference: Reference, child: Child, gone: float = 0.0) -> Any:
    """Why it ended; what has not after its time, of which `gone` seconds are over, is killed."""
    shutdown = child.spec.shutdown
    timeout = None if shutdown is None or isinstance(shutdown, Atom) else max(shutdown - gone, 0)
    try:
        message = await receive_tagged(reference, timeout=timeout)
    except TimeoutError:
        assert child.pid is not None
        exit(child.pid, a.kill)
        message = await receive_tagged(reference)
    return message[4]


class _Exits:
    """Children that are being ended.

    Of one that ended just before, an `EXIT` message in the mailbox tells the reason. It is taken in one pass for all of
    them, since a mailbox may be long; for the same reason those of others stay: a supervisor does not know the pid.
    """

    def __init__(self, children: Iterable[Child]) -> None:
        self.children = {child.pid: child for child in children if child.pid is not None}
        self._told: dict[Pid, Any] = {}

    def note(self, pid: Pid, reason: Any, supervisor: str) -> None:
        """A child has ended, with this reason as its monitor says."""
        child = self.children[pid]
        unlink(pid)
        if reason is a.noproc:  # it had ended before: only the link knows why
            if pid not in self._told:
                self._take()
            reason = self._told.get(pid, reason)
        if not _as_told(child.spec, reason):
            report(a.shutdown_error, supervisor, child, reason)
        child.pid = None

    def _take(self) -> None:
        children = self.children
        messages = current_body().process.mailbox.remove_all(
            lambda got: (
                type(got) is tuple and len(got) == 3 and got[0] is a.EXIT and type(got[1]) is Pid and got[1] in children
            )
        )
        self._told.update((pid, reason) for _, pid, reason in messages)


def _as_told(spec: ChildSpec, reason: Any) -> bool:
    if reason is (a.killed if spec.shutdown is a.brutal_kill else a.shutdown):
        return True
    return spec.restart is not a.permanent and is_orderly(reason)


# --- Reports ----------------------------------------------------------------------------------------------------------


def supervisor_name(name: Any, module: Atom) -> str:
    """What reports call a supervisor: the name that it is registered under, or its pid and its module."""
    return f"{self()!r} ({module})" if name is None else str(name[2] if isinstance(name, tuple) else name)


def report(context: Atom, supervisor: str, child: Child, reason: Any) -> None:
    """One message for one event: `start_error`, `child_terminated`, `shutdown` or `shutdown_error`."""
    why = reason_text(reason)
    shutdown = child.spec.shutdown
    if context is a.shutdown_error and reason is a.killed and isinstance(shutdown, float):
        why += f", which it is when it does not end within {shutdown:g} s: give it more (shutdown), or less to do"
    log.error("Supervisor %s: %s\nReason: %s\nOffender: %s", supervisor, context, why, _described(child))


def report_progress(supervisor: str, child: Child) -> None:
    """A child has started."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("Supervisor %s: started %s", supervisor, _described(child))


def _described(child: Child) -> str:
    spec = child.spec
    module, function, args = start_term(spec.start)
    return (
        f"{shown(id_term(spec.id))} {child.where()!r}, {spec.type} started by {module}:{function} with {shown(args)}, "
        f"{spec.restart}, shutdown {spec.shutdown_term()}"
    )
