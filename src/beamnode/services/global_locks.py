"""Global locks: the table of the locks that are set on this node, and how a task sets locks on other nodes.

A lock is `{ResourceId, LockRequesterId}`. A resource is held by one requester id at a time, possibly for several
processes, which are monitored: a lock never outlives its holders (global.erl: global_locks, handle_set_lock, set_lock).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from beamnode.core.guests import LimitHit, tell_nobody
from beamnode.etf.terms import Atom, Pid, Reference, a
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.services.global_tasks import MultiCall, Steps
from beamnode.services.global_terms import TermTooDeep, subtract, term_key, the_boss

GLOBAL_RESOURCE: Final = Atom("global")  # the lock that protects the name tables of a whole partition

LockId = tuple[Any, Any]  # (resource id, requester id)


@dataclass(slots=True)
class Lock:
    """A resource that is locked: by whom, and for which processes (each with its monitor)."""

    lock_id: LockId
    requester_key: Hashable
    holders: dict[Pid, Reference] = field(default_factory=dict)


class Locks:
    """The locks that are set here. `monitor` and `demonitor` (which also drops a DOWN on its way) are the driver's."""

    def __init__(
        self,
        monitor: Callable[[Pid], Reference],
        demonitor: Callable[[Reference], None],
        limits: Limits = DEFAULT_LIMITS,
        limit_hit: LimitHit = tell_nobody,
    ) -> None:
        self._held_max = limits.global_locks_max
        self._limit_hit = limit_hit
        self._monitor = monitor
        self._demonitor = demonitor
        self._locks: dict[Hashable, Lock] = {}
        self._held: dict[Reference, tuple[Hashable, Pid]] = {}
        # The last global lock went because its holder died: names that were sent under it are not to be believed.
        self.global_lock_is_down = False

    def can_set(self, lock_id: LockId) -> bool:
        """Whether the resource is free or held by the same requester. Raises `TermTooDeep`."""
        lock = self._locks.get(term_key(lock_id[0]))
        return lock is None or lock.requester_key == term_key(lock_id[1])

    def set(self, lock_id: LockId, pid: Pid) -> bool:
        """Lock for `pid`; False when another requester holds the resource. Raises `TermTooDeep`."""
        if not self.can_set(lock_id):
            return False
        if len(self._held) >= self._held_max:
            what = f"there are {len(self._held)} holders of global locks, and it wants one"
            self._limit_hit("global_locks_max", pid.node.name, what, "it does not get it")
            return False
        key = term_key(lock_id[0])
        lock = self._locks.setdefault(key, Lock(lock_id, term_key(lock_id[1])))
        if pid not in lock.holders:
            ref = self._monitor(pid)
            lock.holders[pid] = ref
            self._held[ref] = (key, pid)
        return True

    def delete(self, lock_id: LockId, pid: Pid) -> None:
        """Give up what `pid` holds of the lock, if it does. Raises `TermTooDeep`."""
        key = term_key(lock_id[0])
        lock = self._locks.get(key)
        if lock is not None and lock.requester_key == term_key(lock_id[1]):
            self._remove(key, lock, pid, down=False)

    def holder_down(self, ref: Reference) -> None:
        """A monitor fired; unknown references are ignored."""
        if ref in self._held:
            key, pid = self._held[ref]
            self._remove(key, self._locks[key], pid, down=True, fired=True)

    def node_gone(self, node: Atom) -> None:
        """Give up everything that processes of `node` hold (delete_node_resources)."""
        for key, pid in [held for held in self._held.values() if held[1].node is node]:
            self._remove(key, self._locks[key], pid, down=True)

    def is_global_lock_set(self) -> bool:
        return GLOBAL_RESOURCE in self._locks

    def still_holds(self, holder: Pid | None, lock_id: Any) -> bool:
        """Whether the global lock under which a name was sent is still in force (lock_still_set).

        `holder` is the process that registers; with None it is `lock_id` that must be the one set.
        """
        lock = self._locks.get(GLOBAL_RESOURCE)
        if lock is None:
            return not self.global_lock_is_down
        if holder is not None:
            return holder in lock.holders
        if not isinstance(lock_id, tuple) or len(lock_id) != 2 or lock_id[0] is not GLOBAL_RESOURCE:
            return False
        try:
            return lock.requester_key == term_key(lock_id[1])
        except TermTooDeep:
            return False

    def all(self) -> list[tuple[Any, Any, list[Pid]]]:
        """`(resource, requester, holders)` of every lock."""
        return [(*lock.lock_id, list(lock.holders)) for lock in self._locks.values()]

    def _remove(self, key: Hashable, lock: Lock, pid: Pid, down: bool, *, fired: bool = False) -> None:
        """`fired`: the monitor is over. To end it again would look through the mailbox, once for each of many locks."""
        ref = lock.holders.pop(pid, None)
        if ref is None:
            return
        del self._held[ref]
        if not fired:
            self._demonitor(ref)
        if not lock.holders:
            del self._locks[key]
            if key is GLOBAL_RESOURCE:
                self.global_lock_is_down = down


# --- On other nodes ---------------------------------------------------------------------------------------------------


def set_lock_once(locks: Locks, this_node: Atom, lock_id: LockId, nodes: Sequence[Atom]) -> Steps[bool]:
    """Set the lock on all `nodes` or on none; one attempt (global.erl: set_lock_on_nodes). Dead nodes do not count."""
    if not nodes:
        return True
    if len(nodes) > 1 and this_node in nodes and not locks.can_set(lock_id):
        return False  # no need to bother the others
    answers: dict[Atom, Any] = yield MultiCall(tuple(nodes), (a.set_lock, lock_id))
    if all(answer is not False for answer in answers.values()):
        return True
    if len(answers) > 1:
        yield from delete_lock(lock_id, [node for node, answer in answers.items() if answer is True])
    return False


def delete_lock(lock_id: LockId, nodes: Sequence[Atom]) -> Steps[None]:
    """Give the lock up on all `nodes`."""
    if nodes:
        yield MultiCall(tuple(nodes), (a.del_lock, lock_id))


def delete_global_lock(lock_id: LockId, nodes: Sequence[Atom]) -> Steps[None]:
    """Give the lock up on all `nodes`, on the boss last: who gets the boss then gets the others at once."""
    boss = the_boss(nodes)
    yield from delete_lock(lock_id, subtract(nodes, [boss]))
    yield from delete_lock(lock_id, [boss])
