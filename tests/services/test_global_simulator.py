"""A cluster of `GlobalNameServer` machines on a simulated network and a virtual clock, drawn from a seed.

The network is Erlang's: between two nodes one connection at a time, signals in order, sends that connect by themselves,
`nodedown` after everything that came through the connection and after the DOWNs of its pids. The two ends of a
connection open and close at different times. Everything else (delays, who is first) is chance.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from beamnode.etf.terms import Atom, Pid, Reference, a
from beamnode.services import global_actions as actions
from beamnode.services.global_name_server import GlobalNameServer
from beamnode.services.global_resolver import resolve_it


class Connection:
    """One connection of two nodes, from its set-up until both ends have seen its end."""

    def __init__(self, network: Network, one: Node, other: Node, number: int) -> None:
        self.network = network
        self.number = number
        self.nodes = {one.name: one, other.name: other}
        self.is_open = {one.name: False, other.name: False}
        self.is_closed = {one.name: False, other.name: False}
        self.arrival = {one.name: 0.0, other.name: 0.0}  # of the last thing sent to it

    def peer(self, node: Node) -> Node:
        return next(other for name, other in self.nodes.items() if name is not node.name)

    def transmit(self, receiver: Node, event: Callable[[], None]) -> None:
        """Let `event` happen at the receiver after all that was sent to it before."""
        time = max(self.arrival[receiver.name], self.network.now + self.network.delay())
        self.arrival[receiver.name] = time
        self.network.at(time, event)

    def open(self) -> None:
        for node in self.nodes.values():
            self.transmit(node, lambda node=node: self._up(node))

    def _up(self, node: Node) -> None:
        if not node.is_alive or self.is_closed[node.name]:
            self._closed(node)
            return
        self.is_open[node.name] = True
        node.connection_up(self)

    def send(self, sender: Node, event: Callable[[Node], None]) -> None:
        receiver = self.peer(sender)

        def arrive() -> None:
            if self.is_open[receiver.name] and receiver.is_alive:
                event(receiver)

        self.transmit(receiver, arrive)

    def close(self, closer: Node) -> None:
        """Close at this end now; the other end sees it later."""
        if not self.is_closed[closer.name]:
            self._closed(closer)
            peer = self.peer(closer)
            self.transmit(peer, lambda: self._closed(peer))

    def cut(self) -> None:
        """The network is gone: each end finds out for itself."""
        for node in self.nodes.values():
            self.transmit(node, lambda node=node: self._closed(node))

    def _closed(self, node: Node) -> None:
        if self.is_closed[node.name]:
            return
        was_open = self.is_open[node.name]
        self.is_closed[node.name], self.is_open[node.name] = True, False
        if was_open and node.is_alive:
            node.connection_down(self)
        if all(self.is_closed.values()):
            self.network.connection_gone(self)


class Network:
    def __init__(self, seed: int, delay_seconds_max: float = 0.05) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.delay_seconds_max = delay_seconds_max
        self.nodes: dict[Atom, Node] = {}
        self.blocked: set[frozenset[Atom]] = set()
        self.connections: dict[frozenset[Atom], Connection] = {}
        self.waiting: dict[frozenset[Atom], list[Node]] = {}  # who wants to connect when the old connection is gone
        self.counter = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def delay(self) -> float:
        return self.random.uniform(0.0001, self.delay_seconds_max)

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self.counter), event))

    def start(self, name: str, **options: Any) -> Node:
        node = Node(self, Atom(name), **options)
        self.nodes[node.name] = node
        return node

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            deadlines = [(node.server.next_deadline(), node.name) for node in self.nodes.values() if node.is_alive]
            deadline, name = min(((d, n) for d, n in deadlines if d is not None), default=(end, None))
            if self._events and self._events[0][0] <= min(deadline, end):
                self.now, _, event = heapq.heappop(self._events)
                event()
            elif name is not None and deadline <= end:
                self.now = max(self.now, deadline)
                node = self.nodes[name]
                node.perform(node.server.handle_deadline(self.now))
            else:
                self.now = end
                return

    # --- Connections --------------------------------------------------------------------------------------------------

    def connect(self, node: Node, other: Atom) -> None:
        """Begin to connect, or wait for a connection that is coming or going."""
        key = frozenset((node.name, other))
        if key in self.connections:
            if self.connections[key].is_closed[node.name]:
                self.waiting.setdefault(key, []).append(node)
            return
        peer = self.nodes.get(other)
        if peer is None or not peer.is_alive or key in self.blocked:
            self.at(self.now + self.delay(), lambda: self._fail(node, key, other))
            return
        connection = Connection(self, node, peer, next(self.counter))
        self.connections[key] = connection
        connection.open()

    def _fail(self, node: Node, key: frozenset[Atom], other: Atom) -> None:
        if key not in self.connections and node.is_alive:
            node.connect_failed(other)

    def connection_gone(self, connection: Connection) -> None:
        key = frozenset(connection.nodes)
        del self.connections[key]
        waiting = self.waiting.pop(key, [])
        for node in connection.nodes.values():
            peer = connection.peer(node).name
            if node.is_alive and (node in waiting or node.wants.get(peer)):
                self.connect(node, peer)

    def cut(self, one: str, other: str) -> None:
        """Block the path between two nodes, and break what is there."""
        key = frozenset((Atom(one), Atom(other)))
        self.blocked.add(key)
        if key in self.connections:
            self.connections[key].cut()

    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_alive]


class Node:
    """A node: the machine, its driver, and some processes that hold names."""

    def __init__(self, network: Network, name: Atom, **options: Any) -> None:
        self.network = network
        self.name = name
        self.is_alive = True
        self.creation = next(network.counter)
        self.links: dict[Atom, Connection] = {}  # open at this end
        self.wants: dict[Atom, list[Any]] = {}  # nodes being connected: what to do when up (Connect: None)
        self.processes: dict[Pid, list[Any]] = {}
        self.monitors: dict[Reference, Pid] = {}
        self.watchers: dict[Pid, set[tuple[Atom, Reference]]] = {}
        self.calls: dict[int, Atom] = {}
        self.replies: dict[int, Any] = {}
        self.logs: list[str] = []
        self.heard: list[tuple[Atom, Any]] = []  # all messages that came from other nodes
        pid = self.spawn()
        options.setdefault("locker_pid", pid)
        self.server = GlobalNameServer(
            name,
            pid,
            monitor=self.monitor,
            demonitor=self.demonitor,
            random=network.random.random,
            is_alive=lambda pid: pid.node is not name or pid in self.processes,
            **options,
        )
        self.pid = pid

    def spawn(self) -> Pid:
        pid = Pid(self.name, next(self.network.counter), 0, self.creation)
        self.processes[pid] = []
        return pid

    # --- What tests do ------------------------------------------------------------------------------------------------

    def connect(self, other: str) -> None:
        if Atom(other) not in self.links:
            self._want(Atom(other), None)

    def disconnect(self, other: str) -> None:
        if Atom(other) in self.links:
            self.links[Atom(other)].close(self)

    def call(self, request: Any) -> int:
        """A call by a process of this node; the answer will be in `replies`."""
        number = next(self.network.counter)
        sender = (self.spawn(), ("test", number))
        self.perform(self.server.message((Atom("$gen_call"), sender, request), self.network.now))
        return number

    def crash(self) -> None:
        self.is_alive = False
        for connection in list(self.links.values()):
            connection.close(self)
        for connection in list(self.network.connections.values()):
            if self.name in connection.nodes:
                connection.close(self)

    def kill(self, pid: Pid) -> None:
        if self.processes.pop(pid, None) is not None:
            for node, ref in self.watchers.pop(pid, set()):
                self._down(node, ref, pid, a.killed)

    # --- The driver ---------------------------------------------------------------------------------------------------

    def perform(self, todo: list[actions.Action]) -> None:
        for action in todo:
            match action:
                case actions.Send(Pid() as pid, message, no_connect):
                    self._to(pid.node, lambda node, p=pid, m=message: node.deliver(self.name, p, m), no_connect)
                case actions.Send((_, node), message, no_connect):
                    self._to(node, lambda node, m=message: node.deliver(self.name, node.pid, m), no_connect)
                case actions.Reply((pid, (kind, number)), value):
                    if kind == "test":
                        self.replies[number] = value
                    else:
                        self._to(pid.node, lambda node, n=number, v=value: node.answer(n, v), True)
                case actions.Call(node, request, call_id, from_pid):
                    self.calls[call_id] = node
                    message = (Atom("$gen_call"), (from_pid, ("call", call_id)), request)
                    self._to(node, lambda node, m=message: node.deliver(self.name, node.pid, m))
                case actions.RemoteCall(node, _, _, arguments, call_id):
                    self.calls[call_id] = node
                    self._to(node, lambda node, x=arguments, n=call_id: node.resolve(self.name, x, n))
                case actions.Connect(node):
                    self.network.at(self.network.now, lambda node=node: self._join(node))
                case actions.Disconnect(node):
                    self.network.at(self.network.now, lambda node=node: self.disconnect(node.name))
                case actions.Exit(pid, _):
                    self._to(pid.node, lambda node, p=pid: node.kill(p))
                case actions.Log(_, text):
                    self.logs.append(text)

    def deliver(self, sender: Atom, pid: Pid, message: Any) -> None:
        self.heard.append((sender, message))
        if pid == self.pid:
            self.perform(self.server.message(message, self.network.now))
        elif pid in self.processes:
            self.processes[pid].append(message)

    def answer(self, call_id: int, value: Any) -> None:
        if self.calls.pop(call_id, None) is not None:
            self.perform(self.server.call_answered(call_id, value, self.network.now))

    def resolve(self, sender: Atom, arguments: tuple[Any, ...], call_id: int) -> None:
        result, todo = resolve_it(*arguments)
        self.perform(todo)
        self._to(sender, lambda node: node.answer(call_id, result))

    def connection_up(self, connection: Connection) -> None:
        peer = connection.peer(self).name
        self.links[peer] = connection
        waiting = self.wants.pop(peer, [])
        self.perform(self.server.nodeup(peer, connection.number, self.network.now))
        for event in waiting:
            if event is None:
                self.perform(self.server.connected(peer, True, self.network.now))
            else:
                self._to(peer, event)

    def connection_down(self, connection: Connection) -> None:
        peer = connection.peer(self).name
        del self.links[peer]
        self._lose(peer)
        self.perform(self.server.nodedown(peer, connection.number, self.network.now))
        for watchers in self.watchers.values():
            watchers -= {entry for entry in watchers if entry[0] is peer}

    def connect_failed(self, peer: Atom) -> None:
        waiting = self.wants.pop(peer, [])
        self._lose(peer)
        if None in waiting:
            self.perform(self.server.connected(peer, False, self.network.now))

    def _lose(self, peer: Atom) -> None:
        """Monitors and calls that end with the connection."""
        for ref in [ref for ref, pid in self.monitors.items() if pid.node is peer]:
            self._fire(ref, a.noconnection)
        for call_id in [call_id for call_id, node in self.calls.items() if node is peer]:
            del self.calls[call_id]
            self.perform(self.server.call_failed(call_id, self.network.now))

    def _to(self, peer: Atom, event: Callable[[Node], None], no_connect: bool = False) -> None:
        if peer is self.name:
            self.network.at(self.network.now, lambda: event(self) if self.is_alive else None)
        elif peer in self.links:
            self.links[peer].send(self, event)
        elif not no_connect:
            self._want(peer, event)

    def _join(self, peer: Atom) -> None:
        if peer in self.links:
            self.perform(self.server.connected(peer, True, self.network.now))
        else:
            self._want(peer, None)

    def _want(self, peer: Atom, event: Callable[[Node], None] | None) -> None:
        self.wants.setdefault(peer, []).append(event)
        self.network.connect(self, peer)

    # --- Monitors -----------------------------------------------------------------------------------------------------

    def monitor(self, pid: Pid) -> Reference:
        ref = Reference(self.name, self.creation, (next(self.network.counter), 0, 0))
        self.monitors[ref] = pid
        # After the step that asks for it: the machine is not to be entered twice.
        self.network.at(self.network.now, lambda: self._to(pid.node, lambda node: node.watched(self.name, pid, ref)))
        return ref

    def demonitor(self, ref: Reference) -> None:
        self.monitors.pop(ref, None)

    def watched(self, watcher: Atom, pid: Pid, ref: Reference) -> None:
        if pid in self.processes:
            self.watchers.setdefault(pid, set()).add((watcher, ref))
        else:
            self._down(watcher, ref, pid, a.noproc)

    def _down(self, watcher: Atom, ref: Reference, _pid: Pid, reason: Atom) -> None:
        self._to(watcher, lambda node: node._fire(ref, reason), True)

    def _fire(self, ref: Reference, reason: Atom) -> None:
        pid = self.monitors.pop(ref, None)
        if pid is not None and self.is_alive:
            self.perform(self.server.message((a.DOWN, ref, a.process, pid, reason), self.network.now))


def assert_meshed(nodes: list[Node]) -> None:
    """Everybody knows everybody, has everybody's names, is connected with everybody, and no lock is left."""
    names = {node.name for node in nodes}
    for node in nodes:
        others = names - {node.name}
        assert set(node.server.known) == others, f"{node.name} knows {node.server.known}"
        assert set(node.server.synced) == others, f"{node.name} is in sync with {node.server.synced}"
        assert set(node.links) == others, f"{node.name} is connected with {list(node.links)}"
        assert node.server.locks() == []
        assert node.server.next_deadline() is None or node.server.next_deadline() > node.network.now + 4


def assert_partitions_whole(nodes: list[Node]) -> None:
    """No two partitions overlap: whoever is known knows the same nodes."""
    partitions = {node.name: {node.name, *node.server.known} for node in nodes}
    for node in nodes:
        for other in node.server.known:
            assert partitions[other] == partitions[node.name], f"{node.name}: {partitions}"
        assert set(node.links) == set(node.server.known) == set(node.server.synced), f"{node.name}: {node.links}"
        assert node.server.locks() == []


def test_two_nodes_meet() -> None:
    network = Network(seed=1)
    one, two = network.start("one@h"), network.start("two@h")
    one.connect("two@h")
    network.run(1)
    assert_meshed([one, two])
    number = one.call((a.sync, [two.name]))
    assert one.replies[number] is a.ok
