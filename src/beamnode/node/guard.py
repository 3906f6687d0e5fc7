"""The guard: a program's own say in what peers do to its node, before it happens.

    class OnlyTheCounter(Guard):
        def to_name(self, node, name):
            return name is a.counter or name in NEEDED_NAMES

        def exit_signal(self, signal, reason):
            return False

        def link(self, signal):
            return False

        def spawn(self, asked):
            return asked.node is a["ops@h"]

    Node("py@h", guard=OnlyTheCounter())

A node without a guard pays nothing for it; one with a guard for those methods that it defines.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from beamnode.core.arrivals import Arrivals, Handlers
from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node.asked import Asked, plain
from beamnode.node.audit import Audit, exit_text, process_text
from beamnode.wire import control

log = logging.getLogger("beamnode.node")

NEEDED_NAMES: Final = frozenset({a.net_kernel, a.global_name_server, a.rex})
"""Whom peers send to so that nodes see each other, form a mesh, and call: without them `ping` is `pang`."""

_NO: Final = "the guard says no"
_FAILED: Final = "the guard failed"


@dataclass(frozen=True, slots=True)
class Signal:
    """What a process of a peer does to a process of this node."""

    node: Atom
    """The peer, whose connection it came through."""
    sender: Pid | None
    """Its process; of a change of group leader it is not said."""
    pid: Pid
    """The process here."""
    name: Atom | None
    """What that is registered as."""
    linked: bool = False
    """An exit signal through a link: the process there has ended, and theirs were tied."""


class Guard:
    """Says what peers may do. Every answer here is True; override what you want to decide.

    Each method is called on the event loop, in the middle of things: answer at once, True or False. A method that
    raises, or answers anything else (an `async def` does), has said False, and the log says that it failed. What is
    refused is a line of the audit log (`beamnode.audit`).

    It is asked about peers only, never about processes of its own node; and not about messages to pids and aliases,
    which only those have who were given them.
    """

    def spawn(self, asked: Asked) -> bool:
        """`asked.node` wants a process that runs `asked.module:asked.function(*asked.args)`. False: it gets `undef`.

        The policy of the node (`policy=`) decides after it. Calls that come as a spawn (`erpc`, `rpc`) go to `call`.
        """
        return True

    def call(self, asked: Asked) -> bool:
        """The same for a call (`rpc`, `erpc`, C nodes), and for what servers start or run because a peer asked."""
        return True

    def exit_signal(self, signal: Signal, reason: Any) -> bool:
        """An exit signal, of `exit/2` or through a link (`signal.linked`). False: nothing happens; the link is gone."""
        return True

    def to_name(self, node: Atom, name: Atom) -> bool:
        """A message to who is registered as `name`. False: it is dropped. (See NEEDED_NAMES.)"""
        return True

    def link(self, signal: Signal) -> bool:
        """A link, through which ends are told both ways. False: as if there were no such process (`noproc`)."""
        return True

    def monitor(self, signal: Signal) -> bool:
        """A monitor; every call of a GenServer makes one. False: as if there were no such process (`noproc`)."""
        return True

    def group_leader(self, signal: Signal, leader: Pid) -> bool:
        """From now on what the process prints goes to `leader`. False: as before."""
        return True


class Gate:
    """Asks a guard, makes sense of its answers, and tells the audit log."""

    def __init__(self, guard: Guard, audit: Audit) -> None:
        """Errors: UsageError for what is no guard."""
        if not isinstance(guard, Guard):
            raise UsageError(f"guard is an instance of a class derived from Guard, not {shown(guard)}")
        self._guard = guard
        self.audit = audit

    def decides(self, method: str) -> bool:
        """Whether the guard has that method of its own: else the answer is known."""
        return getattr(type(self._guard), method, None) is not getattr(Guard, method) or method in vars(self._guard)

    def may_run(self, kind: str, asked: Asked) -> bool:
        """A spawn or a call (`kind`, the name of the method)."""
        why = self._refusal(kind, asked)
        if why is not None:
            self.audit.refused(kind, plain(asked.node), str(asked), why)
        return why is None

    def may_exit(self, signal: Signal, process: Process, reason: Any) -> bool:
        why = self._refusal("exit_signal", signal, reason)
        if why is not None:
            self.audit.refused("exit", plain(signal.node), exit_text(process, signal.sender, reason), why)
        return why is None

    def may_send(self, node: Atom, name: Atom) -> bool:
        why = self._refusal("to_name", node, name)
        if why is not None:
            self.audit.refused_often("to_name", plain(node), f"message to {plain(name)}", why)
        return why is None

    def may_tie(self, kind: str, signal: Signal, process: Process) -> bool:
        """A link or a monitor (`kind`)."""
        why = self._refusal(kind, signal)
        if why is not None:
            self.audit.refused_often(kind, plain(signal.node), f"{kind} with {process_text(process)}", why)
        return why is None

    def may_lead(self, signal: Signal, process: Process, leader: Pid) -> bool:
        why = self._refusal("group_leader", signal, leader)
        if why is not None:
            self.audit.refused("group_leader", plain(signal.node), f"group leader of {process_text(process)}", why)
        return why is None

    def _refusal(self, method: str, *args: Any) -> str | None:
        """Why not; None: it may be."""
        try:
            answer = getattr(self._guard, method)(*args)
            if answer is True:
                return None
            if answer is False:
                return _NO
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(f"{method} answers True or False, not {type(answer).__name__}")
        except Exception:
            log.exception("%s.%s failed, which refuses what it was asked", type(self._guard).__name__, method)
            return _FAILED


# --- In the way of signals --------------------------------------------------------------------------------------------


class GuardedArrivals(Arrivals):
    """`Arrivals` where a guard decides about messages to names, or about monitors."""

    __slots__ = ("_gate", "_guards_names")

    def __init__(self, signals: Signals, peer: Atom, handlers: Handlers, gate: Gate) -> None:
        super().__init__(signals, peer, handlers)
        self._gate = gate
        self._guards_names = gate.decides("to_name")
        if gate.decides("monitor"):
            self.monitor = self._monitor

    def message_to_name(self, name: Atom, message: Any) -> None:
        if not self._guards_names or self._gate.may_send(self._peer, name):
            super().message_to_name(name, message)

    def _monitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self.record(control.MonitorP(sender, target, reference))


class SignalGuard:
    """Handlers of control records that ask first."""

    def __init__(self, gate: Gate, signals: Signals) -> None:
        self._gate = gate
        self._signals = signals

    def around(self, handlers: Mapping[type, Callable[[Atom, Any], None]]) -> dict[type, Callable[[Atom, Any], None]]:
        """The `handlers`, with this before those that the guard decides about."""
        asking: dict[type, tuple[str, Callable[[Atom, Any], bool]]] = {
            control.RegSend: ("to_name", lambda node, record: self._gate.may_send(node, record.name)),
            control.Exit: ("exit_signal", self._may_break_link),
            control.Exit2: ("exit_signal", self._may_exit),
            control.Link: ("link", self._may_link),
            control.MonitorP: ("monitor", self._may_monitor),
            control.GroupLeader: ("group_leader", self._may_lead),
        }
        guarded = dict(handlers)
        for kind, (method, may) in asking.items():
            if self._gate.decides(method):
                guarded[kind] = _asking(may, handlers[kind])
        return guarded

    def _may_break_link(self, node: Atom, record: control.Exit) -> bool:
        self._signals.demand_between(node, record.sender, record.to)
        process = self._signals.lookup(record.to)
        if process is None or record.sender not in process.links:
            return True
        if self._gate.may_exit(_signal(node, record.sender, process, linked=True), process, record.reason):
            return True
        self._signals.forget_link(process, record.sender)
        return False

    def _may_exit(self, node: Atom, record: control.Exit2) -> bool:
        self._signals.demand_between(node, record.sender, record.to)
        process = self._signals.receiver_of(record.to)
        return process is None or self._gate.may_exit(_signal(node, record.sender, process), process, record.reason)

    def _may_link(self, node: Atom, record: control.Link) -> bool:
        self._signals.demand_between(node, record.sender, record.to)
        process = self._signals.lookup(record.to)
        if process is None or self._gate.may_tie("link", _signal(node, record.sender, process), process):
            return True
        self._signals.outgoing.append((node, control.Exit(record.to, record.sender, a.noproc)))
        return False

    def _may_monitor(self, node: Atom, record: control.MonitorP) -> bool:
        self._signals.demand_between(node, record.sender, record.target)
        process = self._signals.receiver_of(record.target)
        if process is None or self._gate.may_tie("monitor", _signal(node, record.sender, process), process):
            return True
        answer = control.MonitorPExit(record.target, record.sender, record.ref, a.noproc)
        self._signals.outgoing.append((node, answer))
        return False

    def _may_lead(self, node: Atom, record: control.GroupLeader) -> bool:
        process = self._signals.lookup(record.to)
        return process is None or self._gate.may_lead(_signal(node, None, process), process, record.leader)


def _signal(node: Atom, sender: Pid | None, process: Process, *, linked: bool = False) -> Signal:
    return Signal(node, sender, process.pid, process.name, linked)


def _asking(may: Callable[[Atom, Any], bool], handler: Callable[[Atom, Any], None]) -> Callable[[Atom, Any], None]:
    def ask_first(node: Atom, record: Any) -> None:
        if may(node, record):
            handler(node, record)

    return ask_first
