"""Spawn requests between nodes: what is asked of us, what we asked for, and the ties that come with it.

Source: `erl_dist_protocol` (SPAWN_REQUEST, SPAWN_REPLY), `erlang:spawn_request/5`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from beamnode.core.process import Process
from beamnode.core.signals import UNDEFINED, Signals, demand_reference
from beamnode.errors import ProtocolError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.wire import control

# Options that tune the process of a BEAM: understood, and of no meaning here. Any other is `badopt`, as in OTP.
TUNING: Final = frozenset(
    {
        a.async_dist,
        a.fullsweep_after,
        a.max_heap_size,
        a.message_queue_data,
        a.min_bin_vheap_size,
        a.min_heap_size,
        a.priority,
        a.scheduler,
    }
)


@dataclass(slots=True)
class Pending:
    """A spawn that we asked for; `waiter` is the driver's, None once nobody waits any more."""

    process: Process
    node: Atom
    asked: int  # the ties, as flags of SPAWN_REPLY
    waiter: Any


@dataclass(slots=True)
class _Wanted:
    """What a peer's options ask for; `ties` as flags of SPAWN_REPLY."""

    ties: int = 0
    name: Atom | None = None


class Spawning:
    """Both directions of spawning for one node.

    `requests` are (node, record) that the driver must answer with `accept` or `refuse`; `answered` are (waiter,
    result, ref) of our own requests: a pid, or the atom that says why not.
    """

    def __init__(self, signals: Signals) -> None:
        self.requests: list[tuple[Atom, control.SpawnRequest]] = []
        self.answered: list[tuple[Any, Pid | Atom, Reference]] = []
        self._signals = signals
        self._pending: dict[Reference, Pending] = {}

    # --- Ours ---------------------------------------------------------------------------------------------------------

    def request(
        self,
        process: Process,
        node: Atom,
        module: Atom,
        function: Atom,
        args: list[Any],
        options: list[Any],
        waiter: Any,
    ) -> control.SpawnRequest:
        """A request to transmit to `node`; its `ref` is that of the monitor too, if `options` ask for one.

        The answer comes in `answered`. When it cannot be transmitted or nobody waits any more: `abandon`.
        """
        process.check_alive()
        reference = self._signals.identities.next_reference()
        leader = self._signals.leader_of(process)
        record = control.SpawnRequest(reference, process.pid, leader, module, function, len(args), options, args)
        self._pending[reference] = Pending(process, node, _ties_asked_for(options), waiter)
        return record

    def abandon(self, reference: Reference, *, sent: bool) -> None:
        """Nobody waits any more: if it was sent, the process there loses its ties to us when the answer comes.

        Linked, it gets an exit signal `abandoned` then (`erlang:spawn_request_abandon/1`).
        """
        pending = self._pending.get(reference)
        if pending is not None and sent:
            pending.waiter = None
        else:
            self._pending.pop(reference, None)

    def receive_reply(self, node: Atom, record: control.SpawnReply) -> None:
        """SPAWN_REPLY: make the ties that it reports, or undo them if our process has ended meanwhile."""
        pending = self._pending.get(record.ref)
        if pending is None or pending.node is not node or pending.process.pid != record.to:
            raise ProtocolError(f"{node} answers a spawn request that it was not sent")
        del self._pending[record.ref]
        result = record.result
        if isinstance(result, Pid):
            if result.node is not node or record.flags & ~pending.asked:
                raise ProtocolError(f"{node} says that it spawned {result!r} with ties {record.flags}")
            self._tie(pending, record, result)
        self._answer(record.ref, pending, result)

    def _answer(self, reference: Reference, pending: Pending, result: Pid | Atom) -> None:
        if pending.waiter is not None:
            self.answered.append((pending.waiter, result, reference))

    def _tie(self, pending: Pending, record: control.SpawnReply, pid: Pid) -> None:
        process, signals = pending.process, self._signals
        wanted = process.alive and pending.waiter is not None
        if record.flags & control.SPAWN_MONITORED:
            if wanted:
                signals.add_remote_monitor(process, record.ref, pid)
            else:
                signals.outgoing.append((pid.node, control.DemonitorP(process.pid, pid, record.ref)))
        if record.flags & control.SPAWN_LINKED:
            if wanted:
                signals.add_remote_link(process, pid)
            else:
                # Who has linked itself by hand meanwhile keeps that link.
                make = control.Exit2 if pid in process.links else control.Exit
                reason = a.abandoned if process.alive else process.exit_reason
                signals.outgoing.append((pid.node, make(process.pid, pid, reason)))

    # --- Theirs -------------------------------------------------------------------------------------------------------

    def receive_request(self, node: Atom, record: control.SpawnRequest) -> None:
        if record.sender.node is not node:
            raise ProtocolError(f"{node} asks for a spawn in the name of {record.sender!r}")
        demand_reference(node, record.ref)
        self.requests.append((node, record))

    def accept(self, record: control.SpawnRequest) -> Process | None:
        """Make the process that was asked for, tied as asked, and say so.

        None, and refused, if an option is none (`badopt`), its name is taken (`badarg`; OTP has no option `name`), or
        the peer has as many processes or ties here as it may have (`system_limit`).
        """
        signals = self._signals
        wanted = _wanted(record.options)
        if wanted is None:
            self.refuse(record, a.badopt)
            return None
        if wanted.name is not None and signals.whereis(wanted.name) is not None:
            self.refuse(record, a.badarg)
            return None
        node = record.sender.node
        if not signals.guests.has_room(node) or (wanted.ties and not signals.may_tie(node)):
            self.refuse(record, a.system_limit)
            return None
        arity = len(record.args) if type(record.args) is list else record.arity
        initial_call = (record.module, record.function, arity)
        process = signals.spawn(group_leader=record.group_leader, initial_call=initial_call, parent=record.sender)
        signals.guests.came(process, node)
        if wanted.name is not None:
            signals.register(wanted.name, process)
        if wanted.ties & control.SPAWN_LINKED:
            signals.add_remote_link(process, record.sender)
        if wanted.ties & control.SPAWN_MONITORED:
            signals.add_remote_watcher(process, record.ref, record.sender)
        reply = control.SpawnReply(record.ref, record.sender, wanted.ties, process.pid)
        signals.outgoing.append((record.sender.node, reply))
        return process

    def refuse(self, record: control.SpawnRequest, reason: Atom) -> None:
        reply = control.SpawnReply(record.ref, record.sender, 0, reason)
        self._signals.outgoing.append((record.sender.node, reply))

    def node_down(self, node: Atom) -> None:
        """What we asked `node` for will not be answered: `noconnection`. What it asked us for is lost."""
        self.requests[:] = [entry for entry in self.requests if entry[0] is not node]
        lost = [reference for reference, pending in self._pending.items() if pending.node is node]
        for reference in lost:
            self._answer(reference, self._pending.pop(reference), a.noconnection)


def _ties_asked_for(options: list[Any]) -> int:
    link = control.SPAWN_LINKED if a.link in options else 0
    return link | control.SPAWN_MONITORED if any(map(_is_monitor, options)) else link


def _wanted(options: list[Any]) -> _Wanted | None:
    """A peer's options, understood; None if one of them is no option."""
    wanted = _Wanted()
    for option in options:
        if option is a.link:
            wanted.ties |= control.SPAWN_LINKED
        elif _is_monitor(option):
            wanted.ties |= control.SPAWN_MONITORED
        elif type(option) is not tuple or len(option) != 2 or type(option[0]) is not Atom:
            return None
        elif option[0] is a.name and type(option[1]) is Atom and option[1] is not UNDEFINED:
            wanted.name = option[1]
        elif not _is_tuning(*option):
            return None
    return wanted


def _is_monitor(option: Any) -> bool:
    """`monitor`, or `{monitor, Options}`, whose options are the business of who asks."""
    return option is a.monitor or (
        type(option) is tuple and len(option) == 2 and option[0] is a.monitor and type(option[1]) is list
    )


def _is_tuning(name: Atom, value: Any) -> bool:
    """Whether OTP would take it; it carries values of its own kinds, and answers `badopt` to any other."""
    if name is a.priority:
        return value in (a.low, a.normal, a.high, a.max)
    if name is a.max_heap_size and isinstance(value, dict):
        return True
    if name is a.message_queue_data:
        return value in (a.on_heap, a.off_heap)
    if name is a.async_dist:
        return isinstance(value, bool)
    return name in TUNING and type(value) is int and value >= 0
