"""The connect: what two servers of `global` say to each other from `nodeup` until their partitions are one.

    init_connect, init_connect_ack   the tags of both sides' sessions; the lockers begin
    (the lockers)                    both partitions are locked: `lock_is_set`
    exchange                         each side's names
    (the resolver)                   conflicts
    resolved                         what the other side has to do, and whom we know
    new_nodes                        to the rest of our own partition; each then says
    in_sync                          to every node that is new to it, once it is connected

A session with a node is told by its tags; what comes with an old tag is let go. `cancel_connect` starts a session anew
when the two sides' tags do not match. (global.erl: "Connection algorithm", "Messages in the protocol".)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from beamnode.etf.shown import shown
from beamnode.etf.terms import Atom, Pid, a
from beamnode.services.global_actions import (
    OVERLAP_PREVENTION_VERSION,
    PROTOCOL_VERSION,
    VERIFY_CONNECT_VERSION,
    Disconnect,
    Outbox,
)
from beamnode.services.global_known import VERSION_MAX, Known, NodeVersion, node_names, nodes_from_terms
from beamnode.services.global_locker import AddToKnown, Cancel, Him, Locker, LockSet, RemoveFromKnown
from beamnode.services.global_locks import LockId, Locks
from beamnode.services.global_names import (
    Names,
    Operation,
    Registration,
    external_names_from_terms,
    operations_from_terms,
    registrations_from_terms,
)
from beamnode.services.global_resolver import resolve
from beamnode.services.global_tasks import Task, Tasks
from beamnode.services.global_terms import is_tag

VERSION_MIN: Final = 5  # of the protocol: what OTP itself still speaks
EARLY_CONNECTS_MAX: Final = 1024  # init_connects of nodes that are not up: only with connect_all false, or from a liar

External = list[tuple[Hashable, Pid, Atom]]


@dataclass(slots=True)
class Resolution:
    """What the other side's `resolved` says."""

    operations: list[Operation]
    known: list[NodeVersion]
    external: External
    external_terms: list[Any]


@dataclass(slots=True)
class _Connect:
    """What is remembered of the connect with one node (OTP: the process dictionary of the server)."""

    my_tag: int | None = None  # None: the node is not up here
    his_tag: int | None = None
    version: int = PROTOCOL_VERSION
    early: tuple[int, int, Pid] | None = None  # init_connect that came before nodeup: version, tag, locker
    lock_id: LockId | None = None
    is_locked: bool = False  # waits for the other side's exchange
    his_names: list[Registration] | None = None  # came before the lock was set
    operations: list[Operation] | None = None  # our resolver's; waits for the other side's resolved
    resolution: Resolution | None = None  # came before our resolver was done


@dataclass(slots=True)
class Resolver:
    """A session's resolver: announced at nodeup, working once the names are exchanged."""

    tag: int
    task: Task | None = None


class Connector:
    """All sessions. `join(node)` must connect a node of the other partition and say `in_sync` to it."""

    def __init__(
        self,
        known: Known,
        outbox: Outbox,
        locks: Locks,
        names: Names,
        tasks: Tasks,
        locker_pid: Pid,
        unique_integer: Callable[[], int],
        random: Callable[[], float],
        join: Callable[[Atom], None],
        on_synced: Callable[[Atom], None],
    ) -> None:
        self.known = known
        self.synced: list[Atom] = []
        self.resolvers: dict[Atom, Resolver] = {}
        self.locker = Locker(known.this_node, locker_pid, locks, tasks, outbox, random, self.lock_is_set)
        self._sessions: dict[Atom, _Connect] = {}
        self._outbox = outbox
        self._locks = locks
        self._names = names
        self._tasks = tasks
        self._unique_integer = unique_integer
        self._join = join
        self._on_synced = on_synced

    # --- Nodes come and go --------------------------------------------------------------------------------------------

    def nodeup(self, node: Atom) -> None:
        """Begin a session, unless the node is known already or one is going on (handle_nodeup)."""
        if node in self.known.versions or node in self.resolvers:
            return
        session = self._sessions.setdefault(node, _Connect())
        early, session.early = session.early, None
        session.my_tag = self._unique_integer()
        locker = (a.locker, a.no_longer_a_pid, self.known.as_term(), self.locker.pid)
        version = (PROTOCOL_VERSION, session.my_tag)
        self._outbox.cast(node, (a.init_connect, version, self.known.this_node, locker))
        self.resolvers[node] = Resolver(session.my_tag)
        if early is not None:
            self._init_connect(node, *early)

    def drop_early(self, node: Atom) -> None:
        """Forget an init_connect of a node that is not up, and whose connection is gone."""
        session = self._sessions.get(node)
        if session is not None and session.my_tag is None:
            del self._sessions[node]

    def forget(self, node: Atom) -> None:
        """The node is no longer one of us: end its session, take it out of what is known (handle_nodedown)."""
        self._cancel(node, self._tag(node))
        self.locker.post(RemoveFromKnown(node))
        self._sessions.pop(node, None)
        self.known.pending.pop(node, None)
        self.known.versions.pop(node, None)
        if node in self.synced:
            self.synced.remove(node)

    # --- Beginning a session ------------------------------------------------------------------------------------------

    def init_connect(self, version: Any, node: Atom, message: Any) -> None:
        """`{init_connect, {Vsn, HisTag}, Node, {locker, _, HisKnown, HisTheLocker}}`"""
        match version, message:
            case (int() as his_version, his_tag, *_), (a.locker, _, _, Pid() as his_locker) if (
                VERSION_MIN <= his_version <= VERSION_MAX and is_tag(his_tag) and his_locker.node is node
            ):
                self._init_connect(node, his_version, his_tag, his_locker)
            case _:
                self._outbox.log("info", f"Illegal global protocol version {shown(version)} Node: {shown(node)}")

    def _init_connect(self, node: Atom, his_version: int, his_tag: int, his_locker: Pid) -> None:
        if node in self.known.pending:
            self._out_of_sync(node, his_version, his_tag)
            return
        if node not in self.resolvers and len(self._sessions) - len(self.resolvers) >= EARLY_CONNECTS_MAX:
            return
        session = self._sessions.setdefault(node, _Connect())
        session.version = min(his_version, PROTOCOL_VERSION)
        session.his_tag = his_tag
        if session.my_tag is None or node not in self.resolvers:
            session.early = (his_version, his_tag, his_locker)
            return
        self.locker.post(Him(node, his_locker, session.version, session.my_tag, his_tag))
        if his_version >= VERIFY_CONNECT_VERSION:
            self._outbox.volatile(node, (a.init_connect_ack, self.known.this_node, his_tag, session.my_tag))
        self.known.pending[node] = his_version

    def _out_of_sync(self, node: Atom, his_version: int, his_tag: Any) -> None:
        """A second attempt of a node while the first is going on: both are cancelled, and one is begun."""
        if his_version < VERIFY_CONNECT_VERSION:
            self._outbox.put(Disconnect(node))
            self._outbox.log("error", f"'global' got an out of sync connection attempt from old node {node}")
            return
        self._send_cancel(node, his_tag)
        self._restart(node, self._tag(node))

    def init_connect_ack(self, node: Atom, my_tag: Any, his_tag: Any) -> None:
        """`{init_connect_ack, Node, HisMyTag, HisHisTag}`: begin anew unless both sides mean the same two tags.

        A late one, whose session has been ended by `in_sync` meanwhile, means nothing. (OTP 26 and later drop the names
        of `node` then, though it is a member already.)
        """
        session = self._sessions.get(node)
        if session is None or session.my_tag is None:
            return
        if (session.my_tag, session.his_tag) != (my_tag, his_tag):
            self._send_cancel(node, his_tag)
            self._restart(node, session.my_tag)

    def cancel_connect(self, node: Atom, tag: Any) -> None:
        """`{cancel_connect, Node, MyTag}`: the other side gave this session up."""
        my_tag = self._tag(node)
        if my_tag is not None and my_tag == tag:
            self._restart(node, my_tag)

    def _restart(self, node: Atom, tag: int | None) -> None:
        self._cancel(node, tag)
        self._sessions.pop(node, None)
        self.known.pending.pop(node, None)
        if node not in self.known.versions:
            # The connection stays up, so no DOWN tells of what that node holds here.
            self._locks.node_gone(node)
            self._names.node_gone(node)
        if tag is not None:
            self.nodeup(node)

    # --- Locks and names ----------------------------------------------------------------------------------------------

    def lock_set(self, locker: Pid, is_set: bool, tag: Any | None) -> None:
        """`{lock_set, Pid, IsSet, HisKnown, MyTag}`, for our locker; without a tag from peers before version 8."""
        if tag is None or tag == self._tag(locker.node):
            self.locker.post(LockSet(locker, is_set, tag))

    def lock_is_set(self, node: Atom, tag: int, lock_id: LockId) -> None:
        """From our locker: both partitions are locked."""
        session = self._session(node, tag)
        if session is None:
            return
        names = [entry.to_term() for entry in self._names.all()]
        self._outbox.cast(node, (a.exchange, self.known.this_node, names, [], session.his_tag))
        session.lock_id = lock_id
        session.is_locked = True
        self._resolve_when_ready(node, session)

    def exchange(self, node: Atom, names: Any, tag: Any) -> None:
        """`{exchange, Node, NameList, _NameExtList, MyTag}`: the other side has the lock, too."""
        session = self._session(node, tag)
        if session is not None:
            session.his_names = registrations_from_terms(names)
            self._resolve_when_ready(node, session)

    def _resolve_when_ready(self, node: Atom, session: _Connect) -> None:
        resolver = self.resolvers.get(node)
        if not session.is_locked or session.his_names is None or resolver is None:
            return
        his_names, session.his_names, session.is_locked = session.his_names, None, False
        done = partial(self._exchange_ops, node, resolver.tag)
        resolver.task = Task(self.locker.pid)
        body = resolve(self.known.this_node, node, his_names, self._names, self._outbox, done)
        self._tasks.spawn(resolver.task, body)

    def _exchange_ops(self, node: Atom, tag: int, ours: list[Operation], his: list[Operation]) -> None:
        """From our resolver."""
        session = self._session(node, tag)
        if session is None:
            return
        known = self.known.as_list(self.known.version(node))
        external = self._names.external_terms()
        operations = [operation.to_term() for operation in his]
        message = (a.resolved, self.known.this_node, operations, known, a.unused, external, session.his_tag)
        self._outbox.cast(node, message)
        session.operations = ours
        self._finish_when_resolved(node, session)

    def resolved(self, node: Atom, operations: Any, known: Any, external: Any, tag: Any) -> None:
        """`{resolved, Node, HisResolved, HisKnown, _Unused, Names_ext, MyTag}`"""
        session = self._session(node, tag)
        if session is not None:
            session.resolution = Resolution(
                operations_from_terms(operations),
                nodes_from_terms(known),
                external_names_from_terms(external),
                [term for term in external if external_names_from_terms([term])] if isinstance(external, list) else [],
            )
            self._finish_when_resolved(node, session)

    def _finish_when_resolved(self, node: Atom, session: _Connect) -> None:
        """Both sides know what to do: the partitions become one (global.erl: resolved/5)."""
        resolution = session.resolution
        if session.operations is None or resolution is None or session.lock_id is None:
            return
        operations = session.operations + resolution.operations
        new_nodes = self.known.with_versions([node, *resolution.known])
        his_known = [other for other in node_names(resolution.known) if other is not self.known.this_node]
        for other in his_known:
            self._join(other)
        self._names.apply(operations, resolution.external, session.lock_id)
        self._on_synced(node)
        for other in his_known:
            self._end_session(other)  # we hear from them with in_sync
        extra = [(a.vsn, session.version), (a.lock, session.lock_id)]
        terms = [operation.to_term() for operation in operations]
        tell = partial(
            self._tell_new_nodes, dict(self.known.versions), terms, resolution.external_terms, new_nodes, extra
        )
        # Told by the locker, because del_lock must come after new_nodes.
        self._end_session(node, tell)
        added = self.known.add(new_nodes)
        self.locker.post(AddToKnown(tuple(added)))
        if node not in self.synced:
            self.synced.insert(0, node)

    def _tell_new_nodes(
        self,
        partition: dict[Atom, int],
        operations: list[Any],
        external: list[Any],
        new_nodes: list[NodeVersion],
        extra: list[Any],
    ) -> None:
        """`new_nodes` to those who were known before."""
        for node, version in partition.items():
            nodes: list[Any] = list(new_nodes)
            if version < OVERLAP_PREVENTION_VERSION:
                nodes = node_names(new_nodes)
            self._outbox.cast(node, (a.new_nodes, self.known.this_node, operations, external, nodes, extra))

    # --- The rest of both partitions ----------------------------------------------------------------------------------

    def new_nodes(self, operations: Any, external: Any, nodes: Any, extra: Any) -> None:
        """`{new_nodes, Node, Ops, Names_ext, Nodes, ExtraInfo}`: our partition has met another."""
        added = self.known.add(nodes_from_terms(nodes))
        for node in added:
            self._join(node)
        lock_id = _extra_info(a.lock, extra)
        self._names.apply(operations_from_terms(operations), external_names_from_terms(external), lock_id)
        if added:
            self.locker.post(AddToKnown(tuple(node for node in added if node in self.known.versions)))

    def in_sync(self, node: Atom) -> None:
        """`{in_sync, Node, IsKnown}`: a node of the other partition has our names."""
        if node not in self.known.connection_ids and node not in self.known.versions:
            return  # it says so itself, through a connection: whoever speaks for another is a liar
        self._on_synced(node)
        if node not in self.synced:
            self.synced.insert(0, node)
        self._end_session(node)

    # --- Ending a session ---------------------------------------------------------------------------------------------

    def _session(self, node: Atom, tag: Any) -> _Connect | None:
        """The session of that tag; None, and an end to whatever has the tag, when it is not the present one."""
        session = self._sessions.get(node)
        if session is not None and session.my_tag is not None and session.my_tag == tag:
            return session
        self._cancel(node, tag)
        return None

    def _tag(self, node: Atom) -> int | None:
        session = self._sessions.get(node)
        return None if session is None else session.my_tag

    def _end_session(self, node: Atom, then: Callable[[], None] | None = None) -> None:
        """The session has done its work here; the other side is not told (cancel_resolved_locker)."""
        self.known.pending.pop(node, None)
        self._cancel(node, self._tag(node), then)
        self._sessions.pop(node, None)

    def _cancel(self, node: Atom, tag: Any, then: Callable[[], None] | None = None) -> None:
        """Stop locker and resolver of a session; tell the other side if the connect was going on (cancel_locker)."""
        session = self._sessions.get(node)
        if session is not None and session.my_tag == tag:  # no other one is, or will be, with the locker
            self.locker.post(Cancel(node, tag, then))
        if session is not None and session.my_tag == tag and self.known.pending.get(node, 0) >= VERIFY_CONNECT_VERSION:
            self._send_cancel(node, session.his_tag)
        resolver = self.resolvers.get(node)
        if resolver is not None and resolver.tag == tag:
            del self.resolvers[node]
            if resolver.task is not None:
                self._tasks.kill(resolver.task)

    def _send_cancel(self, node: Atom, his_tag: Any) -> None:
        self._outbox.volatile(node, (a.cancel_connect, self.known.this_node, his_tag))


def _extra_info(name: Atom, extra: Any) -> Any:
    """The value of `name` in a list of pairs, None when there is none."""
    for pair in extra if isinstance(extra, list) else []:
        if isinstance(pair, tuple) and len(pair) == 2 and pair[0] is name:
            return pair[1]
    return None
