"""What one connection brings, handed to the rules: messages into mailboxes on the shortest way, all else as records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from beamnode.core.signals import Signals
from beamnode.etf import Atom, Pid, Reference
from beamnode.wire.control import Record

Handlers = Mapping[type, Callable[[Atom, Any], None]]


class Arrivals:
    """The inbox (`wire.inbox`) of the connection with `peer`. `handlers` has one for every class of record."""

    __slots__ = ("_handlers", "_peer", "_signals", "node")

    def __init__(self, signals: Signals, peer: Atom, handlers: Handlers) -> None:
        self.node = signals.node
        self._signals = signals
        self._peer = peer
        self._handlers = handlers

    def record(self, record: Record) -> None:
        self._handlers[type(record)](self._peer, record)

    def message_to_pid(self, id: int, serial: int, creation: int, message: Any) -> None:
        process = self._signals.lookup_by(id, serial, creation)
        if process is not None:
            self._signals.deliver_from(self._peer, process, message)

    def message_to_name(self, name: Atom, message: Any) -> None:
        process = self._signals.whereis(name)
        if process is not None:
            self._signals.deliver_from(self._peer, process, message)

    def message_to_alias(self, alias: Reference, message: Any) -> None:
        self._signals.deliver_to_alias(alias, message)

    def monitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self._signals.remote_monitor(self._peer, sender, target, reference)

    def demonitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self._signals.remote_demonitor(self._peer, sender, target, reference)
