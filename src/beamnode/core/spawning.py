"""Spawn requests between nodes: what is asked of us, what we asked for, and the ties that come with it.

Source: `erl_dist_protocol` (SPAWN_REQUEST, SPAWN_REPLY), `erlang:spawn_request/5`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.errors import BeamnodeError, ProtocolError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.wire import control


@dataclass(slots=True)
class Pending:
    """A spawn that we asked for; `waiter` is the driver's."""

    process: Process
    node: Atom
    waiter: Any


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
        reference = self._signals.identities.next_reference()
        leader = process.group_leader or process.pid
        record = control.SpawnRequest(reference, process.pid, leader, module, function, len(args), options, args)
        self._pending[reference] = Pending(process, node, waiter)
        return record

    def abandon(self, reference: Reference, *, sent: bool) -> None:
        """Nobody waits any more: if it was sent, the process there loses its ties to us when the answer comes."""
        pending = self._pending.get(reference)
        if pending is not None and sent:
            pending.waiter = None
        else:
            self._pending.pop(reference, None)

    def receive_reply(self, node: Atom, record: control.SpawnReply) -> None:
        """SPAWN_REPLY: make the ties that it reports, or undo them if our process has ended meanwhile."""
        pending = self._pending.get(record.ref)
        if pending is None or pending.node is not node:
            raise ProtocolError(f"{node} answers a spawn request that it was not sent")
        del self._pending[record.ref]
        result = record.result
        if isinstance(result, Pid):
            if result.node is not node:
                raise ProtocolError(f"{node} says that it spawned {result!r}")
            self._tie(pending, record, result)
        self.answered.append((pending.waiter, result, record.ref))

    def _tie(self, pending: Pending, record: control.SpawnReply, pid: Pid) -> None:
        process, signals = pending.process, self._signals
        wanted = process.alive and pending.waiter is not None
        if record.flags & control.SPAWN_LINKED:
            if wanted:
                signals.add_remote_link(process, pid)
            else:
                reason = a.noproc if process.alive else process.exit_reason
                signals.outgoing.append((pid.node, control.Exit(process.pid, pid, reason)))
        if record.flags & control.SPAWN_MONITORED:
            if wanted:
                signals.add_remote_monitor(process, record.ref, pid)
            else:
                signals.outgoing.append((pid.node, control.DemonitorP(process.pid, pid, record.ref)))

    # --- Theirs -------------------------------------------------------------------------------------------------------

    def receive_request(self, node: Atom, record: control.SpawnRequest) -> None:
        if record.sender.node is not node:
            raise ProtocolError(f"{node} asks for a spawn in the name of {record.sender!r}")
        self.requests.append((node, record))

    def accept(self, record: control.SpawnRequest) -> Process | None:
        """Make the process that was asked for, tied as asked, and say so; None (and refused) if its name is taken."""
        signals = self._signals
        initial_call = (record.module, record.function, record.arity)
        process = signals.spawn(group_leader=record.group_leader, initial_call=initial_call, parent=record.sender)
        for option in record.options:
            if isinstance(option, tuple) and len(option) == 2 and option[0] is a.name:
                try:
                    signals.register(option[1], process)
                except (BeamnodeError, AttributeError):
                    signals.end(process, a.badarg)
                    self.refuse(record, a.badarg)
                    return None
        flags = 0
        if a.link in record.options:
            signals.add_remote_link(process, record.sender)
            flags |= control.SPAWN_LINKED
        if a.monitor in record.options:
            signals.add_remote_watcher(process, record.ref, record.sender)
            flags |= control.SPAWN_MONITORED
        reply = control.SpawnReply(record.ref, record.sender, flags, process.pid)
        signals.outgoing.append((record.sender.node, reply))
        return process

    def refuse(self, record: control.SpawnRequest, reason: Atom) -> None:
        reply = control.SpawnReply(record.ref, record.sender, 0, reason)
        self._signals.outgoing.append((record.sender.node, reply))

    def node_down(self, node: Atom) -> None:
        """What we asked `node` for will not be answered: `noconnection`."""
        lost = [reference for reference, pending in self._pending.items() if pending.node is node]
        for reference in lost:
            pending = self._pending.pop(reference)
            self.answered.append((pending.waiter, a.noconnection, reference))
