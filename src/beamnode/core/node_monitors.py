"""Who is told of nodes that come and go. Local to each node.

Source: `erlang:monitor_node/2`, `net_kernel:monitor_nodes/2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beamnode.core.process import NO_TABLE, Process
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

    def message(self, event: Atom, node: Atom, facts: dict[Atom, Any]) -> tuple[Any, ...]:
        """What to say of `event`: of the `facts`, those that were asked for."""
        if not self.informs:
            return event, node
        asked = {
            a.node_type: self.tell_node_type,
            a.nodedown_reason: self.nodedown_reason,
            a.connection_id: self.connection_id,
        }
        return event, node, {fact: value for fact, value in facts.items() if asked[fact]}

    def wants(self, node_type: Atom) -> bool:
        return self.node_type is a.all or self.node_type is node_type


class NodeMonitors:
    """The subscriptions of one node's processes. Each process is told in the order of its subscribing.

    How often a process watches a node is kept by the process (`Process.node_monitors`), so that `forget`, which every
    ended process comes through, is free for those that have neither.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._subscriptions: dict[Process, list[Subscription]] = {}
        self._watching: dict[Atom, dict[Process, None]] = {}  # a set that keeps its order

    def subscribe(self, process: Process, subscription: Subscription) -> None:
        """Subscribing twice means being told twice, as in OTP."""
        process.check_alive()
        self._subscriptions.setdefault(process, []).append(subscription)

    def unsubscribe(self, process: Process, subscription: Subscription) -> None:
        """End every subscription of `process` with the same options."""
        kept = [other for other in self._subscriptions.pop(process, ()) if other != subscription]
        if kept:
            self._subscriptions[process] = kept

    def monitor(self, process: Process, node: Atom) -> None:
        """One `{nodedown, node}` when the connection is lost; asked twice, told twice."""
        process.check_alive()
        if process.node_monitors is NO_TABLE:
            process.node_monitors = {}
        process.node_monitors[node] = process.node_monitors.get(node, 0) + 1
        self._watching.setdefault(node, {})[process] = None

    def demonitor(self, process: Process, node: Atom) -> None:
        """Take one `monitor` back; without one nothing happens."""
        count = process.node_monitors.pop(node, 0)
        if count > 1:
            process.node_monitors[node] = count - 1
        elif count == 1:
            self._stop_watching(process, node)

    def forget(self, process: Process) -> None:
        """The process has ended."""
        self._subscriptions.pop(process, None)
        for node in process.node_monitors:
            self._stop_watching(process, node)
        process.node_monitors.clear()

    def _stop_watching(self, process: Process, node: Atom) -> None:
        watching = self._watching[node]
        del watching[process]
        if not watching:
            del self._watching[node]

    def node_up(self, node: Atom, node_type: Atom, connection_id: int) -> None:
        self._tell_all(a.nodeup, node, node_type, connection_id, None)

    def node_down(self, node: Atom, node_type: Atom, connection_id: int, reason: Any) -> None:
        self._tell_all(a.nodedown, node, node_type, connection_id, reason)
        self.tell_watchers(node)

    def tell_watchers(self, node: Atom) -> None:
        """`{nodedown, node}` to those who watch this one node: lost, or it could not be connected to."""
        for process in self._watching.pop(node, ()):
            for _ in range(process.node_monitors.pop(node)):
                if process.alive:
                    self._signals.deliver(process, (a.nodedown, node))

    def _tell_all(self, event: Atom, node: Atom, node_type: Atom, connection_id: int, reason: Any) -> None:
        facts = {a.node_type: node_type, a.connection_id: connection_id}
        if event is a.nodedown:
            facts[a.nodedown_reason] = reason
        for process, subscriptions in self._subscriptions.items():
            if not process.alive:  # its end is decided, and `forget` will be called
                continue
            for subscription in subscriptions:
                if subscription.wants(node_type):
                    self._signals.deliver(process, subscription.message(event, node, facts))
