"""What one connection brings, handed to the rules: messages into mailboxes on the shortest way, all else as records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from beamnode.core.process import NO_MAILBOX, Mailbox, Process
from beamnode.core.signals import Signals
from beamnode.etf import Atom, Pid, Reference
from beamnode.wire.control import Record

Handlers = Mapping[type, Callable[[Atom, Any], None]]


class Arrivals:
    """The inbox (`wire.inbox`) of the connection with `peer`. `handlers` has one for every class of record."""

    __slots__ = ("_handlers", "_names", "_peer", "_signals", "demonitor", "monitor", "node")

    def __init__(self, signals: Signals, peer: Atom, handlers: Handlers) -> None:
        self.node = signals.node
        self._signals = signals
        self._names = signals.names
        self._peer = peer
        self._handlers = handlers
        self.monitor: Callable[[Pid, Pid | Atom, Reference], None] = partial(signals.remote_monitor, peer)
        self.demonitor: Callable[[Pid, Pid | Atom, Reference], None] = partial(signals.remote_demonitor, peer)

    def record(self, record: Record) -> None:
        self._handlers[type(record)](self._peer, record)

    def message_to_pid(self, id: int, serial: int, creation: int, message: Any) -> None:
        process = self._signals.lookup_by(id, serial, creation)
        if process is not None:
            self._deliver(process, message)

    def message_to_name(self, name: Atom, message: Any) -> None:
        process = self._names.get(name)
        if process is not None:
            self._deliver(process, message)

    def _deliver(self, process: Process, message: Any) -> None:
        """`Signals.deliver_from`, with the common case written out: it is there once for every message."""
        self._signals.last_receiver = process
        if process.expected or process.tells_origin:
            self._signals.deliver_from(self._peer, process, message)
            return
        mailbox = process.mailbox
        if mailbox is NO_MAILBOX:
            mailbox = process.mailbox = Mailbox()
        mailbox.append(message)
        if process.waiting:
            process.waiting = False
            self._signals.ready.append(process)

    def message_to_alias(self, alias: Reference, message: Any) -> None:
        self._signals.deliver_to_alias(alias, message, self._peer)
