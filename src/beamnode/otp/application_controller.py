"""`application_controller`: who starts and stops the applications of a node. Source: application_controller.erl.

Each node that uses applications has one, registered under that name. What it is asked to do are objects of this Python
process, which no peer can send; peers may ask `which_applications`. The environment and what is loaded are tables of
the node (`Tables`), which outlive it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from beamnode.errors import BeamnodeError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import (
    before_shut_down,
    current_body,
    end_node,
    exit,
    group_leader,
    reason_text,
    send,
    spawn_link,
    trap_exit,
    whereis,
)
from beamnode.node import self as own_pid
from beamnode.otp import application_master, gen, server_loop
from beamnode.otp.application_master import STOP, Started, StartFailure
from beamnode.otp.handlers import NO_REPLY, Handlers

if TYPE_CHECKING:
    from beamnode.otp.application import Application

log = logging.getLogger("beamnode.application")

CONTROLLER: Final = a.application_controller
KINDS: Final = ("permanent", "transient", "temporary")
SHUT_DOWN_SECONDS: Final = 10.0  # for all applications together, when the node shuts down


class ApplicationError(BeamnodeError):
    """An application cannot be started, stopped or loaded; `reason` is the term that OTP has for it."""

    def __init__(self, text: str, reason: Any) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class Tables:
    """What a node knows of applications; any of its processes reads and changes it."""

    loaded: dict[Atom, type[Application]] = field(default_factory=dict)
    env: dict[Atom, dict[Atom, Any]] = field(default_factory=dict)
    persistent: dict[Atom, dict[Atom, Any]] = field(default_factory=dict)
    masters: dict[Pid, Atom] = field(default_factory=dict)


def tables() -> Tables:
    """Those of the node of the current process. Errors: NotAliveError."""
    found: Tables = current_body().runtime.tables.setdefault("application", Tables())
    return found


@dataclass(frozen=True, slots=True)
class Start:
    name: Atom
    kind: Atom


@dataclass(frozen=True, slots=True)
class StopIt:
    name: Atom


@dataclass(frozen=True, slots=True)
class Unload:
    name: Atom


class _StopAll:
    """The node shuts down."""


@dataclass(slots=True)
class _Entry:
    """One application that is not stopped."""

    kind: Atom
    master: Pid
    starting: list[gen.From] = field(default_factory=list)  # who waits for its start
    stopping: list[gen.From | None] = field(default_factory=list)  # who waits for its end; None is the end of the node
    running: bool = False
    failure: StartFailure | None = None
    later: list[tuple[Any, gen.From]] = field(default_factory=list)  # what was asked while it stopped


async def ensure_started() -> None:
    """The controller of this node is there."""
    if whereis(CONTROLLER) is None:
        with contextlib.suppress(server_loop.AlreadyStarted):  # by another process, meanwhile
            await server_loop.start(Controller, (), CONTROLLER, None, link=False)


async def which_applications() -> Any:
    """`{Name, Description, Vsn}` of those that run on this node, the last one started first: what peers may ask."""
    return [] if whereis(CONTROLLER) is None else await gen.call(CONTROLLER, gen.CALL, a.which_applications, None)


async def stop_all() -> None:
    """Stop the applications of this node, the last one started first."""
    if whereis(CONTROLLER) is not None:
        await gen.call(CONTROLLER, gen.CALL, _StopAll(), None)


class Controller(Handlers):
    """The server. Nothing that it does waits: masters tell it what has come of a start or a stop."""

    def init(self) -> None:
        trap_exit()
        if (user := whereis("user")) is not None:
            group_leader(user, own_pid())  # not that of whoever happened to come first
        self._tables = tables()
        self._tables.masters.clear()  # of one before, which was killed: they are ending
        self._entries: dict[Atom, _Entry] = {}  # in the order of their starts
        self._ended: set[Atom] = set()  # by themselves: may be stopped, as if they still ran
        self._closing: list[gen.From] = []  # who waits for all of them: the node shuts down
        self._gives_up = False
        before_shut_down(stop_all, SHUT_DOWN_SECONDS)

    def get_state(self) -> Any:
        return {name: entry.kind for name, entry in self._entries.items()}

    def handle_call(self, request: Any, sender: gen.From) -> Any:
        match request:
            case Start(name) | Unload(name) if name in self._entries and self._entries[name].stopping:
                self._entries[name].later.append((request, sender))
                return NO_REPLY
            case Start():
                return self._start(request, sender)
            case StopIt(name):
                return self._stop(name, sender)
            case Unload(name):
                return self._unload(name)
            case _StopAll():
                self._closing.append(sender)
                self._stop_next()
                return NO_REPLY
            case a.which_applications:
                return self._running()
            case a.info:
                return [
                    (a.running, self._running()),
                    (a.loaded, [_listed(each) for each in self._tables.loaded.items()]),
                ]
        log.warning("application_controller was asked %s, by %r: refused", shown(request), sender[0])
        return (a.error, a.notsup)

    def handle_cast(self, request: Any) -> None:
        log.warning("application_controller was cast %s: ignored", shown(request))

    def handle_info(self, message: Any) -> None:
        match message:
            case Started(name):
                self._on_started(name)
            case StartFailure(name):
                if name in self._entries:
                    self._entries[name].failure = message  # its master ends now, and then it has failed
            case (a.EXIT, Pid() as pid, reason):
                self._on_exit(pid, reason)
            case _:
                log.warning("application_controller got an unexpected message: %s", shown(message))

    # --- Starting -----------------------------------------------------------------------------------------------------

    def _start(self, request: Start, sender: gen.From) -> Any:
        name = request.name
        if self._closing:
            return ApplicationError(f"{name} cannot be started: the node shuts down", a.terminating)
        entry = self._entries.get(name)
        if entry is not None and entry.running:
            return ApplicationError(f"{name} is started already", (a.already_started, name))
        if entry is not None:
            entry.starting.append(sender)
            return NO_REPLY
        application = self._tables.loaded.get(name)
        if application is None:
            return ApplicationError(f"{name} is not loaded: Application.load its class", (a.not_loaded, name))
        missing = self._missing(application)
        if missing is not None:
            if missing[0] is a.not_running and request.kind is not a.temporary:
                self._give_up(name, request.kind, (a.application_start_failure, name, missing))
            return _lacking(name, missing)
        master = spawn_link(application_master.run, own_pid(), name, application)
        self._tables.masters[master] = name
        self._entries[name] = _Entry(request.kind, master, starting=[sender])
        return NO_REPLY

    def _missing(self, application: type[Application]) -> tuple[Atom, Atom] | None:
        """What it needs and is not there: `not_started`, or `not_running` when it was but has ended by itself."""
        optional = {_name(each) for each in application.optional_applications}
        needed = [name for name in map(_name, application.applications) if name not in optional]
        absent = [name for name in needed if not self._runs(name)]
        for name in absent:
            if name not in self._ended:
                return a.not_started, name
        return (a.not_running, absent[0]) if absent else None

    def _runs(self, name: Atom) -> bool:
        entry = self._entries.get(name)
        return entry is not None and entry.running and not entry.stopping

    def _on_started(self, name: Atom) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:  # it has ended since
            return
        self._entries[name] = entry  # the last one
        self._ended.discard(name)
        entry.running = True
        log.info("application %s is started (%s)", name, entry.kind)
        _answer(entry.starting, None)
        entry.starting.clear()
        self._go_on(entry)

    # --- Stopping -----------------------------------------------------------------------------------------------------

    def _stop(self, name: Atom, sender: gen.From) -> Any:
        entry = self._entries.get(name)
        if entry is None and name in self._ended:
            self._ended.discard(name)
            return None
        if entry is None:
            return ApplicationError(f"{name} is not started", (a.not_started, name))
        if not entry.running:  # OTP says not_started, and lets it go on starting
            entry.later.append((StopIt(name), sender))
            return NO_REPLY
        if not entry.stopping:
            send(entry.master, STOP)
        entry.stopping.append(sender)
        return NO_REPLY

    def _stop_next(self) -> None:
        """While the node shuts down: the last one, then the one before."""
        entry = next(reversed(self._entries.values()), None)
        if entry is None:
            for sender in self._closing:
                gen.reply(sender, None)
        elif entry.running and not entry.stopping:
            entry.stopping.append(None)
            send(entry.master, STOP)

    def _unload(self, name: Atom) -> Any:
        if name in self._entries:
            return ApplicationError(f"{name} runs: Application.stop it first", (a.running, name))
        self._tables.loaded.pop(name, None)
        self._tables.env.pop(name, None)
        return None

    def _on_exit(self, pid: Pid, reason: Any) -> None:
        name = self._tables.masters.pop(pid, None)
        if name is None:
            return
        entry = self._entries.pop(name)
        if not entry.running:
            self._on_failed(name, entry, reason)
        elif entry.stopping:
            log.info("application %s (%s) is stopped", name, entry.kind)
            _answer(entry.stopping, None)
        elif entry.kind is a.temporary or (entry.kind is a.transient and reason is a.normal):
            log.warning("application %s (%s) has ended: %s", name, entry.kind, reason_text(reason))
            self._ended.add(name)
        else:
            self._give_up(name, entry.kind, (a.application_terminated, name, reason))
        self._go_on(entry)

    def _on_failed(self, name: Atom, entry: _Entry, reason: Any) -> None:
        text = f"its master has ended: {reason_text(reason)}"
        if entry.failure is not None:
            text, reason = entry.failure.text, entry.failure.reason
        log.error("application %s (%s) has not started: %s", name, entry.kind, text)
        _answer(entry.starting, ApplicationError(f"{name} has not started: {text}", reason))
        match reason:
            case ((a.EXIT, a.normal), _) if entry.kind is a.transient:
                return
        if entry.kind is not a.temporary:
            self._give_up(name, entry.kind, (a.application_start_failure, name, reason))

    def _go_on(self, entry: _Entry) -> None:
        """A start or a stop is over: what has waited for that."""
        later, entry.later = entry.later, []
        for request, sender in later:
            answer = self.handle_call(request, sender)
            if answer is not NO_REPLY:
                gen.reply(sender, answer)
        if self._closing:
            self._stop_next()

    def _give_up(self, name: Atom, kind: Atom, reason: Any) -> None:
        if self._closing or self._gives_up:
            log.error("application %s (%s) has ended while the node shuts down: %s", name, kind, reason_text(reason))
            return
        self._gives_up = True
        log.critical("the node shuts down, because application %s is %s: %s", name, kind, reason_text(reason))
        end_node(reason)

    def terminate(self, reason: Any) -> None:
        """It was stopped by hand: its masters are not to hear `normal`, which would let them go on alone."""
        for entry in reversed(self._entries.values()):
            exit(entry.master, a.shutdown)

    def _running(self) -> list[Any]:
        names = [name for name, entry in self._entries.items() if entry.running]
        return [_listed((name, self._tables.loaded[name])) for name in reversed(names)]


def _name(application: Any) -> Atom:
    return Atom(str(application.name if isinstance(application, type) else application))  # type: ignore[attr-defined]


def _lacking(name: Atom, missing: tuple[Atom, Atom]) -> ApplicationError:
    why, needed = missing
    text = "has ended" if why is a.not_running else "is not started"
    return ApplicationError(
        f"{name} needs {needed}, which {text}: Application.ensure_all_started({str(name)!r}) starts both", missing
    )


def _listed(item: tuple[Atom, type[Application]]) -> tuple[Atom, list[int], list[int]]:
    """`{Name, Description, Vsn}`, as OTP lists applications."""
    name, application = item
    return name, list(application.description.encode()), list(application.vsn.encode())


def _answer(waiting: Sequence[gen.From | None], answer: Any) -> None:
    for sender in waiting:
        if sender is not None:
            gen.reply(sender, answer)
