"""Three nodes under random operations, with signals under way that arrive late or never: what must hold in the end.

The network is a model: between two nodes there is a connection with a queue each way. It can be cut; each side notices
that at a time of its own, may read what is still in its queue until then, and what it sends is lost. A signal for a
node without a connection makes one, or, if that cannot be reached, breaks the ties with it, as `node/network.py` does.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_signals import new_signals

from beamnode.core.process import AliasKind, Process
from beamnode.core.signals import Signals
from beamnode.core.spawning import Spawning
from beamnode.errors import NameTakenError, NoProcessError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.wire import control

NAMES = [Atom(f"{name}@h") for name in "xyz"]
PAIRS = [(0, 1), (0, 2), (1, 2)]
NOT_WORTH_DIALLING = (
    control.Exit,
    control.UnlinkId,
    control.UnlinkIdAck,
    control.DemonitorP,
    control.MonitorPExit,
    control.SpawnReply,
)

NODES = st.integers(0, 2)
SOME = st.integers(0, 1000)
REASONS = st.sampled_from([a.normal, a.kill, a.boom])
SERVERS = st.sampled_from([a.one, a.two])
KINDS = st.sampled_from([None, None, *AliasKind])


@dataclass
class Connection:
    """One between two nodes: its queues by receiver, and who has noticed that it is cut."""

    queues: dict[Atom, deque[Any]]
    alive: bool = True
    noticed: set[Atom] = field(default_factory=set)


@dataclass
class Watch:
    """A monitor that somebody made: `losses` is how often its node had been lost to the watching one before."""

    process: Process
    node: Atom
    target: Pid | None  # None: by name
    losses: int
    ended: bool = False  # by hand, or by its alias


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.signals = {name: new_signals(name, creation) for creation, name in enumerate(NAMES, 4)}
        self.spawning = {name: Spawning(signals) for name, signals in self.signals.items()}
        self.connections: dict[frozenset[Atom], Connection] = {}
        self.unreachable: set[frozenset[Atom]] = set()
        self.losses: Counter[tuple[Atom, Atom]] = Counter()  # (who lost, whom)
        self.processes: list[Process] = []
        self.by_pid: dict[Pid, Process] = {}
        self.watches: dict[Reference, Watch] = {}
        self.asked: list[tuple[Atom, Reference]] = []
        self.aliases: list[Reference] = []

    # --- The network --------------------------------------------------------------------------------------------------

    def connection(self, node: Atom, peer: Atom) -> Connection | None:
        """The connection with `peer` as `node` sees it."""
        found = self.connections.get(frozenset((node, peer)))
        return None if found is None or node in found.noticed else found

    def notice(self, node: Atom, peer: Atom) -> None:
        """`node` sees that its connection with `peer` is cut."""
        connection = self.connection(node, peer)
        if connection is not None and not connection.alive:
            connection.noticed.add(node)
            connection.queues[node].clear()
            self.break_ties(node, peer)

    def break_ties(self, node: Atom, peer: Atom) -> None:
        self.losses[node, peer] += 1
        self.signals[node].node_down(peer)
        assert all(to is not peer for to, _ in self.signals[node].outgoing)
        assert peer not in self.signals[node]._ties
        self.spawning[node].node_down(peer)

    def transmit(self, node: Atom, peer: Atom, record: Any) -> None:
        connection = self.connection(node, peer)
        if connection is None:
            if isinstance(record, NOT_WORTH_DIALLING):
                return
            if frozenset((node, peer)) in self.unreachable:
                self.break_ties(node, peer)
                return
            self.notice(peer, node)
            connection = Connection({node: deque(), peer: deque()})
            self.connections[frozenset((node, peer))] = connection
        if connection.alive:
            connection.queues[peer].append(record)

    def flush(self) -> None:
        """What `Runtime.flush` does, for all nodes."""
        again = True
        while again:
            again = False
            for node, signals in self.signals.items():
                outgoing, signals.outgoing = signals.outgoing, []
                for peer, record in outgoing:
                    again = True
                    self.transmit(node, peer, record)
                requests, self.spawning[node].requests = self.spawning[node].requests, []
                for _, request in requests:
                    again = True
                    process = self.spawning[node].accept(request)
                    if process is not None:
                        self.add(process)

    def receive(self, node: Atom, peer: Atom) -> bool:
        """One record that waits at `node`, if there is one."""
        connection = self.connection(node, peer)
        if connection is None or not connection.queues[node]:
            return False
        record = connection.queues[node].popleft()
        match record:
            case control.SpawnRequest():
                self.spawning[node].receive_request(peer, record)
            case control.SpawnReply():
                self.receive_reply(node, peer, record)
            case _:
                if isinstance(record, control.AliasSend):
                    self.end_watch_by_alias(record.alias)
                self.signals[node].receive(peer, record)
        self.flush()
        return True

    def receive_reply(self, node: Atom, peer: Atom, record: control.SpawnReply) -> None:
        process = self.by_pid[record.to]
        self.spawning[node].receive_reply(peer, record)
        if record.ref in process.monitors:
            assert isinstance(record.result, Pid)
            self.watches[record.ref] = Watch(process, peer, record.result, self.losses[node, peer])

    # --- Who is there -------------------------------------------------------------------------------------------------

    def add(self, process: Process) -> None:
        self.processes.append(process)
        self.by_pid[process.pid] = process

    def any_of_all(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    def living(self, number: int) -> tuple[Signals, Process] | None:
        """Some living process and its node."""
        found = [process for process in self.processes if process.alive]
        if not found:
            return None
        process = found[number % len(found)]
        return self.signals[process.pid.node], process

    # --- Operations ---------------------------------------------------------------------------------------------------

    @initialize()
    def two_on_each(self) -> None:
        for signals in list(self.signals.values()) * 2:
            self.add(signals.spawn(group_leader=None, initial_call=None))

    @rule(node=NODES, trap=st.booleans())
    def spawn(self, node: int, trap: bool) -> None:
        process = self.signals[NAMES[node]].spawn(group_leader=None, initial_call=None)
        process.trap_exit = trap
        self.add(process)

    @rule(who=SOME, step=st.integers(1, 2), options=st.lists(st.sampled_from([a.link, a.monitor]), unique=True))
    def spawn_elsewhere(self, who: int, step: int, options: list[Atom]) -> None:
        if (found := self.living(who)) is not None:
            signals, process = found
            node = NAMES[(NAMES.index(signals.node) + step) % 3]
            record = self.spawning[signals.node].request(process, node, a.m, a.f, [], list(options), object())
            self.asked.append((signals.node, record.ref))
            self.transmit(signals.node, node, record)
            self.flush()

    @precondition(lambda self: self.asked)
    @rule(which=SOME)
    def abandon(self, which: int) -> None:
        node, reference = self.asked[which % len(self.asked)]
        self.spawning[node].abandon(reference, sent=True)

    @rule(who=SOME, whom=SOME)
    def link(self, who: int, whom: int) -> None:
        if (found := self.living(who)) is not None:
            signals, process = found
            other = self.any_of_all(whom)
            try:
                signals.link(process, other.pid)
            except NoProcessError:
                assert not other.alive
            self.flush()

    @rule(who=SOME, whom=SOME)
    def unlink(self, who: int, whom: int) -> None:
        if (found := self.living(who)) is not None:
            signals, process = found
            signals.unlink(process, self.any_of_all(whom).pid)
            self.flush()

    @rule(who=SOME, whom=SOME, kind=KINDS)
    def monitor(self, who: int, whom: int, kind: AliasKind | None) -> None:
        if (found := self.living(who)) is not None:
            target = self.any_of_all(whom).pid
            self.watch(*found, target, target.node, target, kind)

    @rule(who=SOME, name=SERVERS, node=NODES, kind=KINDS)
    def monitor_name(self, who: int, name: Atom, node: int, kind: AliasKind | None) -> None:
        if (found := self.living(who)) is not None:
            self.watch(*found, (name, NAMES[node]), NAMES[node], None, kind)

    def watch(
        self, signals: Signals, process: Process, target: Any, node: Atom, pid: Pid | None, kind: AliasKind | None
    ) -> None:
        losses = self.losses[signals.node, node]
        reference = signals.monitor(process, target, alias=kind)
        if kind is not None:
            self.aliases.append(reference)
        watch = Watch(process, node, pid, losses)
        itself = pid == process.pid or (pid is None and node is signals.node and process is signals.whereis(target[0]))
        watch.ended = itself
        self.watches[reference] = watch
        self.flush()

    @precondition(lambda self: self.watches)
    @rule(which=SOME, flush=st.booleans())
    def demonitor(self, which: int, flush: bool) -> None:
        reference, watch = list(self.watches.items())[which % len(self.watches)]
        before = self.downs(watch.process, reference)
        self.signals[watch.process.pid.node].demonitor(watch.process, reference, flush=flush)
        self.flush()
        watch.ended = True
        assert self.downs(watch.process, reference) == (0 if flush else before)

    @precondition(lambda self: self.aliases)
    @rule(who=SOME, which=SOME)
    def send_to_alias(self, who: int, which: int) -> None:
        alias = self.aliases[which % len(self.aliases)]
        if (found := self.living(who)) is not None:
            signals, process = found
            if alias.node is signals.node:
                self.end_watch_by_alias(alias)
                signals.deliver_to_alias(alias, a.hello)
            else:
                self.transmit(signals.node, alias.node, control.AliasSend(process.pid, alias, a.hello))
            self.flush()

    def end_watch_by_alias(self, alias: Reference) -> None:
        process = self.signals[alias.node]._aliases.get(alias)
        if process is not None and process.aliases[alias] is AliasKind.REPLY_DEMONITOR:
            self.watches[alias].ended = True

    @rule(who=SOME, whom=SOME, reason=REASONS)
    def exit(self, who: int, whom: int, reason: Atom) -> None:
        if (found := self.living(who)) is not None:
            signals, process = found
            signals.exit(process.pid, self.any_of_all(whom).pid, reason)
            self.flush()

    @rule(who=SOME, reason=REASONS)
    def end(self, who: int, reason: Atom) -> None:
        if (found := self.living(who)) is not None:
            signals, process = found
            signals.end(process, reason)
            self.flush()

    @rule(who=SOME, flag=st.booleans())
    def trap(self, who: int, flag: bool) -> None:
        if (found := self.living(who)) is not None:
            found[1].trap_exit = flag

    @rule(who=SOME, name=SERVERS)
    def register(self, who: int, name: Atom) -> None:
        if (found := self.living(who)) is not None:
            signals, process = found
            try:
                signals.register(name, process)
            except (NameTakenError, UsageError):
                assert signals.whereis(name) is not None or process.name is not None

    @rule(node=NODES, name=SERVERS)
    def unregister(self, node: int, name: Atom) -> None:
        signals = self.signals[NAMES[node]]
        if signals.whereis(name) is not None:
            signals.unregister(name)

    @rule(pair=st.sampled_from(PAIRS), turn=st.booleans(), count=st.integers(1, 4))
    def arrive(self, pair: tuple[int, int], turn: bool, count: int) -> None:
        node, peer = (NAMES[number] for number in (pair[::-1] if turn else pair))
        for _ in range(count):
            self.receive(node, peer)

    @rule(pair=st.sampled_from(PAIRS), first=st.sampled_from([None, 0, 1]))
    def cut(self, pair: tuple[int, int], first: int | None) -> None:
        nodes = [NAMES[number] for number in pair]
        connection = self.connections.get(frozenset(nodes))
        if connection is not None:
            connection.alive = False
            if first is not None:
                self.notice(nodes[first], nodes[1 - first])
                self.flush()

    @rule(pair=st.sampled_from(PAIRS), flag=st.booleans())
    def reach(self, pair: tuple[int, int], flag: bool) -> None:
        both = frozenset(NAMES[number] for number in pair)
        (self.unreachable.discard if flag else self.unreachable.add)(both)

    # --- What must hold -----------------------------------------------------------------------------------------------

    @staticmethod
    def downs(process: Process, reference: Reference) -> int:
        return sum(
            message[0] is a.DOWN and message[1] == reference
            for message in process.mailbox
            if isinstance(message, tuple)
        )

    @invariant()
    def tables_agree_with_the_processes(self) -> None:
        for node, signals in self.signals.items():
            living = signals.processes()
            assert all(process.alive for process in living)
            assert {alias for process in living for alias in process.aliases} == set(signals._aliases)
            assert {process.name for process in living if process.name is not None} == set(signals.names)
            kept = {
                (kind, key)
                for ties in signals._ties.values()
                for kind in ("links", "monitors", "watchers")
                for key in getattr(ties, kind)
            }
            held = {
                ("links", (process.pid, pid)) for process in living for pid in process.links if pid.node is not node
            }
            held |= {
                ("monitors", reference)
                for process in living
                for reference, monitor in process.monitors.items()
                if monitor.node is not node
            }
            held |= {
                ("watchers", reference)
                for process in living
                for reference, watcher in process.watchers.items()
                if watcher.pid.node is not node
            }
            assert kept == held
            assert not signals._dying
        for process in self.processes:
            assert process.alive or not any([process.links, process.monitors, process.watchers, process.aliases])

    @invariant()
    def nobody_is_told_twice(self) -> None:
        for reference, watch in self.watches.items():
            assert self.downs(watch.process, reference) <= 1

    def teardown(self) -> None:
        """Everybody notices, everything arrives; then all is as it must be."""
        busy = True
        while busy:
            busy = False
            for node in NAMES:
                for peer in NAMES:
                    if node is not peer:
                        self.notice(node, peer)
                        self.flush()
                        busy |= self.receive(node, peer)
        self.tables_agree_with_the_processes()
        for process in self.processes:
            if process.alive:
                self.check_ties(process)
        for reference, watch in self.watches.items():
            self.check_watch(reference, watch)
        assert not any(spawning._pending for spawning in self.spawning.values())
        for node, signals in self.signals.items():
            assert all(self.connection(node, peer) is not None for peer in signals._ties)

    def check_ties(self, process: Process) -> None:
        for pid, link in process.links.items():
            assert link.active
            assert self.by_pid[pid].alive
            assert self.by_pid[pid].links[process.pid].active
        for reference, monitor in process.monitors.items():
            watched = [other for other in self.processes if reference in other.watchers]
            assert [other.alive for other in watched] == [True]
            assert monitor.target in (watched[0].pid, watched[0].watchers[reference].target)
        for reference, watcher in process.watchers.items():
            assert reference in self.by_pid[watcher.pid].monitors

    def check_watch(self, reference: Reference, watch: Watch) -> None:
        """One message exactly when the monitor is over and was not ended by its owner; and never without a cause."""
        process = watch.process
        if watch.ended or not process.alive:
            assert reference not in process.monitors
            return
        told = self.downs(process, reference)
        assert told == (reference not in process.monitors)
        if watch.target is not None:
            node = process.pid.node
            lost = watch.node is not node and self.losses[node, watch.node] > watch.losses
            assert told <= (lost or not self.by_pid[watch.target].alive)
            assert told or self.by_pid[watch.target].alive


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=150, stateful_step_count=60)
