"""The table of global names: this node's replica of it, and the operations that nodes send each other.

Every node has the whole table. A name goes when its process is gone (each node monitors it for itself), is registered
and unregistered by calls under the global lock, and travels in operations when partitions meet. (global.erl: ins_name,
do_ops, delete_global_name2.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from beamnode.core.guests import LimitHit, tell_nobody
from beamnode.etf.terms import Atom, Pid, Reference, a
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.services.global_locks import Locks
from beamnode.services.global_terms import TermTooDeep, check_term, term_key

MESSAGE_NAMES_MAX: Final = 256 * 1024  # of one message


@dataclass(frozen=True, slots=True)
class Registration:
    """A name and its process; `method` is the resolve function, a term that only a BEAM node can run."""

    key: Hashable
    name: Any
    pid: Pid
    method: Any

    @classmethod
    def from_term(cls, term: Any) -> Registration | None:
        """`{Name, Pid, Method}`, or None for any other shape."""
        match term:
            case (name, Pid() as pid, method):
                return cls.of(name, pid, method)
        return None

    @classmethod
    def of(cls, name: Any, pid: Pid, method: Any) -> Registration | None:
        """None for a name or a method that is nested too deep, or too large."""
        try:
            check_term(method)
            return cls(term_key(name), name, pid, method)
        except TermTooDeep:
            return None

    def to_term(self) -> tuple[Any, ...]:
        return (self.name, self.pid, self.method)


@dataclass(frozen=True, slots=True)
class Insert:
    """`{insert, {Name, Pid, Method}}`"""

    registration: Registration

    def to_term(self) -> tuple[Any, ...]:
        return (a.insert, self.registration.to_term())


@dataclass(frozen=True, slots=True)
class Delete:
    """`{delete, Name}`"""

    key: Hashable
    name: Any

    def to_term(self) -> tuple[Any, ...]:
        return (a.delete, self.name)


Operation: TypeAlias = Insert | Delete


def operations_from_terms(terms: Any) -> list[Operation]:
    """The operations of a message; elements of any other shape are left out."""
    found: list[Operation] = []
    for term in terms[:MESSAGE_NAMES_MAX] if isinstance(terms, list) else []:
        match term:
            case (a.insert, entry):
                registration = Registration.from_term(entry)
                if registration is not None:
                    found.append(Insert(registration))
            case (a.delete, name):
                try:
                    found.append(Delete(term_key(name), name))
                except TermTooDeep:
                    continue
    return found


def registrations_from_terms(terms: Any) -> list[Registration]:
    """The names of an `exchange`; elements of any other shape are left out."""
    entries = (Registration.from_term(term) for term in terms[:MESSAGE_NAMES_MAX]) if isinstance(terms, list) else ()
    return [entry for entry in entries if entry is not None]


def external_names_from_terms(terms: Any) -> list[tuple[Hashable, Pid, Atom]]:
    """`[{Name, Pid, RegNode}]` as `(key, pid, node)`; elements of any other shape are left out."""
    found = []
    for term in terms[:MESSAGE_NAMES_MAX] if isinstance(terms, list) else []:
        match term:
            case (name, Pid() as pid, Atom() as node):
                registration = Registration.of(name, pid, None)
                if registration is not None:
                    found.append((registration.key, pid, node))
    return found


class Names:
    """The replica. `monitor` and `demonitor` are the driver's."""

    def __init__(
        self,
        locks: Locks,
        monitor: Callable[[Pid], Reference],
        demonitor: Callable[[Reference], None],
        is_alive: Callable[[Pid], bool],
        limits: Limits = DEFAULT_LIMITS,
        limit_hit: LimitHit = tell_nobody,
    ) -> None:
        self._names_max = limits.global_names_max
        self._limit_hit = limit_hit
        self._locks = locks
        self._monitor = monitor
        self._demonitor = demonitor
        self._is_alive = is_alive
        self._names: dict[Hashable, tuple[Registration, Reference]] = {}
        self._watched: dict[Reference, tuple[Hashable, Pid]] = {}
        self._external: dict[
            Hashable, tuple[Any, Pid, Atom]
        ] = {}  # of C nodes: name, pid, the node that answers for it

    def where(self, name: Any) -> Pid | None:
        """The process of a name: None, too, when it is a process of this node that has ended just now."""
        found = self.find(term_key(name))
        return found.pid if found is not None and self._is_alive(found.pid) else None

    def has_room(self, key: Hashable, node: Atom) -> bool:
        """Whether a name of a process of `node` can be put in; if not, that is told."""
        if key in self._names or len(self._names) < self._names_max:
            return True
        what = f"there are {len(self._names)} global names, and it brings another"
        self._limit_hit("global_names_max", node.name, what, "that one is not known here")
        return False

    def find(self, key: Hashable) -> Registration | None:
        found = self._names.get(key)
        return None if found is None else found[0]

    def all(self) -> list[Registration]:
        return [registration for registration, _ in self._names.values()]

    def external_terms(self) -> list[tuple[Any, Pid, Atom]]:
        """`{Name, Pid, RegNode}` of the names that C nodes registered."""
        return list(self._external.values())

    def register(
        self, registration: Registration, holder: Pid | None, lock_id: Any, external_node: Atom | None = None
    ) -> None:
        """Put a name in, in the place of an older one of the same name.

        It goes again at once when the lock it was sent under is no longer set: the lock of the process `holder`, or
        with None the lock `lock_id` (insert_global_name: the sender went down and came up again meanwhile).
        """
        self._forget(registration.key)
        if not self.has_room(registration.key, registration.pid.node):
            return
        if external_node is not None:
            self._external[registration.key] = (registration.name, registration.pid, external_node)
        ref = self._monitor(registration.pid)
        self._names[registration.key] = (registration, ref)
        self._watched[ref] = (registration.key, registration.pid)
        if not self._locks.still_holds(holder, lock_id):
            self.unregister(registration.key)

    def unregister(self, key: Hashable) -> None:
        self._forget(key)

    def apply(self, operations: Iterable[Operation], external: list[tuple[Hashable, Pid, Atom]], lock_id: Any) -> None:
        """Run the operations of a meeting of partitions: C nodes' names, the other names, then deletions (do_ops)."""
        operations = list(operations)
        inserts = [operation.registration for operation in operations if isinstance(operation, Insert)]
        registered_by = {(key, pid): node for key, pid, node in external}
        external_keys = set()
        for entry in inserts:
            node = registered_by.get((entry.key, entry.pid))
            if node is not None:
                external_keys.add(entry.key)
                self.register(entry, None, lock_id, node)
        for entry in inserts:
            if entry.key not in external_keys:
                self.register(entry, None, lock_id)
        for operation in operations:
            if isinstance(operation, Delete):
                self.unregister(operation.key)

    def process_down(self, ref: Reference) -> None:
        """A monitor fired; unknown references are ignored."""
        if ref in self._watched:
            self._forget(self._watched[ref][0], fired=True)

    def node_gone(self, node: Atom) -> None:
        """Drop every name of a process of `node` (delete_node_resources)."""
        for key in [key for key, pid in self._watched.values() if pid.node is node]:
            self._forget(key)

    def _forget(self, key: Hashable, *, fired: bool = False) -> None:
        """`fired`: the monitor is over. To end it again would look through the mailbox, once for each of many names."""
        found = self._names.pop(key, None)
        if found is not None:
            del self._watched[found[1]]
            self._external.pop(key, None)
            if not fired:
                self._demonitor(found[1])
