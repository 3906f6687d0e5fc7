"""What a channel hands over to the node above it."""

from __future__ import annotations

from typing import Any, Protocol

from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.wire.control import Record


class Inbox(Protocol):
    """Takes what arrives on one connection.

    A channel may hand over everything as records. Messages, and the monitors that come with every call, may also take
    the other methods, which do what `record` does with the records `Send`, `RegSend`, `AliasSend`, `MonitorP` and
    `DemonitorP`, but need none to be made.
    """

    node: Atom
    """This node: receivers that are not of it go by `record`."""

    def record(self, record: Record) -> None:
        """Any signal."""

    def message_to_pid(self, id: int, serial: int, creation: int, message: Any) -> None:
        """A message for the process of this node with that pid."""

    def message_to_name(self, name: Atom, message: Any) -> None:
        """A message for who is registered as `name`."""

    def message_to_alias(self, alias: Reference, message: Any) -> None:
        """A message through an alias."""

    def monitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        """`sender` monitors `target`."""

    def demonitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        """`sender` ends that monitor."""
