"""The machine of `global_name_server`, the process behind OTP's module `global`, protocol version 8.

Its work: the full mesh (`global:sync/0` returns everywhere because every visible node answers here), the replica of the
table of global names, global locks, and the prevention of overlapping partitions. It is a machine as those of wire/ and
core/: it knows no socket, clock or process; whoever drives it hands in what happened and takes actions out.

    nodeup, nodedown        of visible connections, before and after all that came through them
    message                 all that is sent to the process: calls, casts, DOWN, plain messages
    call_answered, call_failed, connected      what came of the actions Call, RemoteCall, Connect
    next_deadline, handle_deadline             time

Every one of them returns the actions to take, in order (`global_actions`). The parts: `global_connect` (two partitions
become one), `global_locker` and `global_locks`, `global_names` and `global_resolver`, `global_partitions`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

from beamnode.core.guests import LimitHit, tell_nobody
from beamnode.etf.shown import shown
from beamnode.etf.terms import Atom, Pid, Reference, a
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.services.global_actions import (
    GEN_CALL,
    GEN_CAST,
    PROTOCOL_VERSION,
    Action,
    Connect,
    Disconnect,
    Outbox,
    Reply,
    Send,
)
from beamnode.services.global_connect import Connector
from beamnode.services.global_known import NODES_MAX, Known, is_node_name
from beamnode.services.global_locks import Locks
from beamnode.services.global_names import Names, Registration
from beamnode.services.global_partitions import SMALL_INTEGER_MIN, Partitions
from beamnode.services.global_tasks import Tasks
from beamnode.services.global_terms import TermTooDeep, check_term, term_key
from beamnode.services.global_waiters import Sender, Waiters

WHEREIS_RETRY_SECONDS_MAX: Final = 4.0  # global.erl: random_sleep(5)
WHEREIS_WAITING_MAX: Final = 1024  # questions that wait for the lock; more are answered at once
CONNECTING_MAX: Final = 2048  # nodes that we try to connect with at a time
_NO_ANSWER: Final = object()


class GlobalNameServer:
    """One node's server.

    `self_pid` is its process. `locker_pid` may be the same pid or another process; peers monitor it, and it is the
    sender of every Call, so replies and plain messages to either pid belong to this machine. `monitor(pid)` returns a
    reference whose DOWN comes in by `message`; a monitor of the own process never fires. `demonitor(ref)` must also
    drop a DOWN on its way. `unique_integer` only ever grows; `random` is uniform in [0, 1).
    """

    def __init__(
        self,
        this_node: Atom,
        self_pid: Pid,
        locker_pid: Pid,
        *,
        monitor: Callable[[Pid], Reference],
        demonitor: Callable[[Reference], None],
        random: Callable[[], float],
        unique_integer: Callable[[], int] | None = None,
        is_alive: Callable[[Pid], bool] = lambda _pid: True,
        connect_all: bool = True,
        prevent_overlapping_partitions: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        limit_hit: LimitHit = tell_nobody,
    ) -> None:
        unique_integer = unique_integer or itertools.count(SMALL_INTEGER_MIN + 1).__next__
        self.this_node = this_node
        self._pid = self_pid
        self._random = random
        self._connect_all = connect_all
        self._prevents = prevent_overlapping_partitions
        self._outbox = Outbox()
        self._syncers = Waiters(self._outbox, limits, limit_hit)
        self._leavers = Waiters(self._outbox, limits, limit_hit)
        self._known = Known(this_node, unconnected_max=limits.global_unconnected_max, limit_hit=limit_hit)
        self._locks = Locks(monitor, demonitor, limits, limit_hit)
        self._names = Names(self._locks, monitor, demonitor, is_alive, limits, limit_hit)
        self._tasks = Tasks(this_node, self._outbox, self._answer)
        self._connector = Connector(
            known=self._known,
            outbox=self._outbox,
            locks=self._locks,
            names=self._names,
            tasks=self._tasks,
            locker_pid=locker_pid,
            unique_integer=unique_integer,
            random=random,
            join=self._join,
            on_synced=self._syncers.done_with,
        )
        self._partitions = Partitions(
            known=self._known,
            outbox=self._outbox,
            forget=self._connector.forget,
            unique_integer=unique_integer,
            random=random,
            creation=self_pid.creation,
            enabled=connect_all and prevent_overlapping_partitions,
        )
        self._connecting: dict[Atom, bool] = {}  # Connect is under way; True: to say in_sync afterwards
        self._asked_again: list[tuple[float, tuple[Any, ...]]] = []  # whereis, while the global lock is set
        self._now = 0.0

    # --- What happens -------------------------------------------------------------------------------------------------

    def nodeup(self, node: Atom, connection_id: int, now: float) -> list[Action]:
        """A visible connection is up; to be told before anything that comes through it."""
        self._known.connection_ids[node] = connection_id
        if self._connect_all:
            self._connector.nodeup(node)
        return self._settle(now)

    def nodedown(self, node: Atom, connection_id: int, now: float) -> list[Action]:
        """A visible connection is gone; to be told after all that came through it and after the DOWNs of its pids."""
        if self._known.connection_ids.get(node) != connection_id:
            if node not in self._known.connection_ids:
                self._connector.drop_early(node)
            return self._settle(now)
        del self._known.connection_ids[node]
        if self._leavers.waits_for(node):
            self._partitions.left(node)
        else:
            self._partitions.disconnected(node)
        self._node_gone(node)
        self._leavers.done_with(node)
        return self._settle(now)

    def connected(self, node: Atom, ok: bool, now: float) -> list[Action]:
        """What came of a Connect."""
        is_joining = self._connecting.pop(node, False)
        if ok or node in self._known.connection_ids:
            if is_joining:
                self._outbox.cast(node, (a.in_sync, self.this_node, True))
            return self._settle(now)
        if is_joining:
            self._outbox.log("warning", f"'global' at {self.this_node} failed to connect to {node}")
            self._partitions.disconnected(node)  # the others must know: extra_nodedown
        self._node_gone(node)
        return self._settle(now)

    def call_answered(self, call_id: int, result: Any, now: float) -> list[Action]:
        """The answer to a Call, or the result of a RemoteCall."""
        self._tasks.answered(call_id, (result,))
        return self._settle(now)

    def call_failed(self, call_id: int, now: float) -> list[Action]:
        """A Call or RemoteCall that will have no answer."""
        self._tasks.answered(call_id, None)
        return self._settle(now)

    def message(self, term: Any, now: float) -> list[Action]:
        """Any message to the process (to the locker's pid, too), but for replies to its own calls."""
        self._now = now
        try:
            understood = isinstance(term, tuple) and self._message(term)
        except TermTooDeep:
            understood = False
        if not understood:
            text = f"The global_name_server received an unexpected message: {shown(term)}"
            self._outbox.log("warning", text)
        return self._settle(now)

    def next_deadline(self) -> float | None:
        """When `handle_deadline` wants to be called."""
        deadlines = [self._tasks.next_deadline(), self._partitions.next_deadline()]
        deadlines.extend(deadline for deadline, _ in self._asked_again)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> list[Action]:
        """That time has come."""
        self._now = now
        self._partitions.handle_deadline(now)
        due = [message for deadline, message in self._asked_again if deadline <= now]
        self._asked_again = [entry for entry in self._asked_again if entry[0] > now]
        for message in due:
            self._whereis(message)
        return self._settle(now)

    def leave(self, now: float) -> list[Action]:
        """Disconnect from every node without hurting the others' mesh: `global:disconnect/0`, and before a stop."""
        self._leave(None)
        return self._settle(now)

    def prepare_shutdown(self) -> None:
        """Say nothing of connections that end from now on (the message prepare_shutdown)."""
        self._connect_all = self._prevents = self._partitions.enabled = False

    # --- What it knows ------------------------------------------------------------------------------------------------

    def whereis_name(self, name: Any) -> Pid | None:
        """`global:whereis_name/1`"""
        return self._names.where(name)

    def registered_names(self) -> list[Any]:
        """`global:registered_names/0`"""
        return [registration.name for registration in self._names.all()]

    @property
    def known(self) -> list[Atom]:
        """The nodes of our partition, without this one."""
        return list(self._known.versions)

    @property
    def synced(self) -> list[Atom]:
        """The nodes that have the same names as we."""
        return list(self._connector.synced)

    def locks(self) -> list[tuple[Any, Any, list[Pid]]]:
        """`(resource id, requester id, holders)` of every lock that is set here."""
        return self._locks.all()

    # --- Messages -----------------------------------------------------------------------------------------------------

    def _message(self, term: tuple[Any, ...]) -> bool:
        """Whether the message was understood."""
        match term:
            case (kind, (Pid() as pid, tag), request) if kind is GEN_CALL:
                return self._call((pid, tag), request)
            case (kind, request) if kind is GEN_CAST:
                return isinstance(request, tuple) and self._cast(request)
        return self._info(term)

    def _call(self, sender: Sender, request: Any) -> bool:
        match request:
            case (a.sync, list() as nodes):
                self._sync(
                    sender, {node for node in nodes[:NODES_MAX] if isinstance(node, Atom) and is_node_name(node)}
                )
            case a.disconnect:
                self._leave(sender)
            case a.info:
                self._outbox.put(Reply(sender, self._state_term()))
            case _:
                answer = self._answer(sender[0], request)
                if answer is _NO_ANSWER:
                    return False
                self._outbox.put(Reply(sender, answer))
        return True

    def _answer(self, pid: Pid, request: Any) -> Any:
        """The answer to a call that can be answered at once."""
        match request:
            case (a.set_lock, (_, _) as lock_id):
                return self._locks.set(lock_id, pid)
            case (a.del_lock, (_, _) as lock_id):
                self._locks.delete(lock_id, pid)
                return True
            case (a.register, name, Pid() as named, method):
                return self._register(name, named, method, pid)
            case (a.register_ext, name, Pid() as named, method, Atom() as node):
                return self._register(name, named, method, pid, node)
            case (a.unregister, name):
                self._names.unregister(term_key(name))
                return a.ok
            case a.get_known:
                return list(self._known.versions)
            case a.get_synced:
                return list(self._connector.synced)
            case a.get_protocol_version:
                return PROTOCOL_VERSION
            case a.get_names_ext:
                return self._names.external_terms()
        return _NO_ANSWER

    def _register(self, name: Any, named: Pid, method: Any, holder: Pid, external_node: Atom | None = None) -> Atom:
        check_term(method)
        key = term_key(name)
        if not self._names.has_room(key, named.node):
            return a.no
        self._names.register(Registration(key, name, named, method), holder, None, external_node)
        return a.yes

    def _cast(self, request: tuple[Any, ...]) -> bool:
        connector = self._connector
        match request:
            case (_, Atom() as node, *_) if self._leavers.waits_for(node):
                pass  # of a session that has no future
            case (a.init_connect, version, Atom() as node, message):
                connector.init_connect(version, node, message)
            case (a.exchange, Atom() as node, names, _, tag):
                connector.exchange(node, names, tag)
            case (a.resolved, Atom() as node, operations, known, _, external, tag):
                connector.resolved(node, operations, known, external, tag)
            case (a.new_nodes, Atom(), operations, external, nodes, extra):
                connector.new_nodes(operations, external, nodes, extra)
            case (a.in_sync, Atom() as node, _):
                connector.in_sync(node)
            case (a.lock_set, Pid() as locker, is_set, _, tag):
                connector.lock_set(locker, is_set is True, tag)
            case (a.lock_set, Pid() as locker, is_set, _):
                connector.lock_set(locker, is_set is True, None)
            case (a.async_del_name | a.async_del_lock, _, _):
                pass  # of R13B
            case _:
                return False
        return True

    def _info(self, term: tuple[Any, ...]) -> bool:
        connector = self._connector
        match term:
            case (a.DOWN, Reference() as ref, a.process, _, _):
                self._locks.holder_down(ref)
                self._names.process_down(ref)
            case (a.whereis, _, (Pid(), _)):
                self._whereis(term)
            case (a.lost_connection, Atom(), int(), int(), Atom()):
                self._partitions.lost_connection(term, self._now)
            case (a.remove_connection, Atom() as node):
                self._partitions.remove_connection(node)
            case (a.init_connect_ack, Atom() as node, my_tag, his_tag):
                connector.init_connect_ack(node, my_tag, his_tag)
            case (a.cancel_connect, Atom() as node, tag):
                connector.cancel_connect(node, tag)
            case (a.lock_set, Pid() as locker, is_set, _):  # straight to the locker's pid, from one that has no session
                connector.lock_set(locker, is_set is True, None)
            case (a.prepare_shutdown, Pid() as pid, ref):
                self.prepare_shutdown()
                self._outbox.put(Send(pid, (ref, a.ok)))
            case (a.EXIT, Pid(), _):
                pass
            case _:
                return False
        return True

    def _whereis(self, term: tuple[Any, ...]) -> None:
        """`{whereis, Name, From}`: not while a partition's names may be changing."""
        pid = self._names.where(term[1])  # raises for what is no name, before it is kept
        if self._locks.is_global_lock_set() and len(self._asked_again) < WHEREIS_WAITING_MAX:
            self._asked_again.append((self._now + self._random() * WHEREIS_RETRY_SECONDS_MAX, term))
        else:
            self._outbox.put(Reply(term[2], a.undefined if pid is None else pid))

    def _state_term(self) -> tuple[Any, ...]:
        """The record `state` of global.erl."""
        conf = (a.conf, self._connect_all, self._prevents)
        known = self._known.as_term()
        resolvers = [(node, resolver.tag, self._pid) for node, resolver in self._connector.resolvers.items()]
        syncers = [self._pid] * len(self._syncers)
        locker = self._connector.locker.pid
        is_down = self._locks.global_lock_is_down
        return (
            a.state,
            conf,
            known,
            self.synced,
            resolvers,
            syncers,
            self.this_node,
            locker,
            self._pid,
            a.no_trace,
            is_down,
        )

    # --- sync, disconnect, connections --------------------------------------------------------------------------------

    def _sync(self, sender: Sender, nodes: set[Atom]) -> None:
        """Answer `ok` when every node is synced or gone (start_sync, sync_loop)."""
        nodes -= {self.this_node, *self._connector.synced}
        self._syncers.add(sender, a.ok, nodes)
        for node in sorted(nodes):
            if node not in self._known.connection_ids:
                self._connect(node, joining=False)

    def _leave(self, sender: Sender | None) -> None:
        """Take every node out of the mesh before its connection ends, so that no loss is reported."""
        nodes = list(self._known.connection_ids)
        self._leavers.add(sender, nodes, nodes)
        for node in nodes:
            self._partitions.left(node)
            self._outbox.put(Disconnect(node))

    def _node_gone(self, node: Atom) -> None:
        """What processes of the node held here is theirs no longer, and nobody waits for it."""
        self._locks.node_gone(node)
        self._names.node_gone(node)
        self._syncers.done_with(node)

    def _join(self, node: Atom) -> None:
        """Connect to a node of the other partition and tell it that we are in sync (sync_other)."""
        self._connect(node, joining=True)

    def _connect(self, node: Atom, joining: bool) -> None:
        if node not in self._connecting:
            if len(self._connecting) >= CONNECTING_MAX and node not in self._known.connection_ids:
                self._partitions.left(node)
                self._node_gone(node)
                return
            self._outbox.put(Connect(node))
        self._connecting[node] = self._connecting.get(node, False) or joining

    def _settle(self, now: float) -> list[Action]:
        """Let locker and resolvers go on as far as they can."""
        self._now = now
        self._tasks.run(now)
        return self._outbox.take()
