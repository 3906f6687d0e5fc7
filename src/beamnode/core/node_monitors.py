"""Who is told of nodes that come and go. Local to each node.

Source: `erlang:monitor_node/2`, `net_kernel:monitor_nodes/2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.etf import Atom, a

VISIBLE = a.visible
HIDDEN = a.hidden


@dataclass(frozen=True, slots=True)
class Subscription:
    """One `monitor_nodes(True, ...)`: which nodes, and what to say about them.

    Without any option the messages are `{nodeup, Node}` and `{nodedown, Node}`; with one they carry a map as third
    element.
    """

    node_type: Atom = VISIBLE  # visible, hidden or all
    tell_node_type: bool = False
    nodedown_reason: bool = False
    connection_id: bool = False

    @property
    def informs(self) -> bool:
        return self.tell_node_type or self.nodedown_reason or self.connection_id

    def wants(self, node_type: Atom) -> bool:
        return self.node_type is a.all or self.node_type is node_type


class NodeMonitors:
    """The subscriptions of one node's processes. Messages go out in the order of subscribing."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._subscriptions: list[tuple[Process, Subscription]] = []
        self._watching: dict[Atom, dict[Process, int]] = {}

    def subscribe(self, process: Process, subscription: Subscription) -> None:
        """Subscribing twice means being told twice, as in OTP."""
        self._subscriptions.append((process, subscription))

    def unsubscribe(self, process: Process, subscription: Subscription) -> None:
        """End every subscription of `process` with the same options."""
        self._subscriptions = [entry for entry in self._subscriptions if entry != (process, subscription)]

    def monitor(self, process: Process, node: Atom) -> None:
        """One `{nodedown, node}` when the connection is lost; asked twice, told twice."""
        counts = self._watching.setdefault(node, {})
        counts[process] = counts.get(process, 0) + 1

    def demonitor(self, process: Process, node: Atom) -> None:
        counts = self._watching.get(node, {})
        if process in counts:
            counts[process] -= 1
            if counts[process] == 0:
                del counts[process]

    def forget(self, process: Process) -> None:
        """The process has ended."""
        self._subscriptions = [entry for entry in self._subscriptions if entry[0] is not process]
        for counts in self._watching.values():
            counts.pop(process, None)

    def node_up(self, node: Atom, node_type: Atom, connection_id: int) -> None:
        for process, subscription in list(self._subscriptions):
            if subscription.wants(node_type):
                self._tell(process, subscription, a.nodeup, node, node_type, connection_id, None)

    def node_down(self, node: Atom, node_type: Atom, connection_id: int, reason: Any) -> None:
        for process, subscription in list(self._subscriptions):
            if subscription.wants(node_type):
                self._tell(process, subscription, a.nodedown, node, node_type, connection_id, reason)
        self.tell_watchers(node)

    def tell_watchers(self, node: Atom) -> None:
        """`{nodedown, node}` to those who watch this one node: lost, or it could not be connected to."""
        for process, count in self._watching.pop(node, {}).items():
            for _ in range(count):
                if process.alive:
                    self._signals.deliver(process, (a.nodedown, node))

    def _tell(
        self,
        process: Process,
        subscription: Subscription,
        event: Atom,
        node: Atom,
        node_type: Atom,
        connection_id: int,
        reason: Any,
    ) -> None:
        if not process.alive:
            return
        if not subscription.informs:
            self._signals.deliver(process, (event, node))
            return
        info: dict[Atom, Any] = {}
        if subscription.tell_node_type:
            info[a.node_type] = node_type
        if subscription.connection_id:
            info[a.connection_id] = connection_id
        if subscription.nodedown_reason and event is a.nodedown:
            info[a.nodedown_reason] = reason
        self._signals.deliver(process, (event, node, info))
