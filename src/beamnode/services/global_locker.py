"""The locker: the satellite that gets the lock on both partitions before two of their nodes exchange names.

Each of two connecting nodes has a locker. One of them (or both) picks the other, locks its own partition and the other
node under the id `{global, [LockerLow, LockerHigh]}`, which both sides share, and says so (`lock_set`, by way of the
other side's server). The other then locks its own partition and answers. When both are set, the servers exchange names;
they let go through `Cancel`. (global.erl: "The locker is a satellite process to global_name_server" ff.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from beamnode.etf.terms import Atom, Pid, a
from beamnode.services.global_actions import GEN_CAST, SERVER, VERIFY_CONNECT_VERSION, Outbox, Send
from beamnode.services.global_locks import (
    GLOBAL_RESOURCE,
    LockId,
    Locks,
    delete_global_lock,
    delete_lock,
    set_lock_once,
)
from beamnode.services.global_tasks import Receive, Steps, Task, Tasks
from beamnode.services.global_terms import sorted_pids, subtract, the_boss

ALONE_WAIT_SECONDS = 0.2  # "just to get started"
KNOWN_WAIT_SECONDS = 1.0  # and KNOWN_WAIT_PER_NODE_SECONDS for each known node, at most KNOWN_WAIT_SECONDS_MAX
KNOWN_WAIT_PER_NODE_SECONDS = 0.1
KNOWN_WAIT_SECONDS_MAX = 3.0

MAILBOX_MAX = 4096


@dataclass(frozen=True, slots=True)
class Him:
    """The other node of a connect: its locker, the version spoken with it, and the tags of both sides' sessions."""

    node: Atom
    locker: Pid
    version: int
    my_tag: int
    his_tag: Any


@dataclass(frozen=True, slots=True)
class Cancel:
    """Let go of the session `tag` with `node`; `then` is done before locks are given up."""

    node: Atom
    tag: int | None
    then: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class LockSet:
    """What the other locker says; `tag` is our tag of the session, None from a peer older than version 8."""

    locker: Pid
    is_set: bool
    tag: Any | None


@dataclass(frozen=True, slots=True)
class AddToKnown:
    nodes: tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class RemoveFromKnown:
    node: Atom


class Locker:
    """The task. It calls `lock_is_set(node, tag, lock_id)` when both partitions are locked, and waits for Cancel."""

    def __init__(
        self,
        this_node: Atom,
        pid: Pid,
        locks: Locks,
        tasks: Tasks,
        outbox: Outbox,
        random: Callable[[], float],
        lock_is_set: Callable[[Atom, int, LockId], None],
    ) -> None:
        self.pid = pid
        self._this_node = this_node
        self._locks = locks
        self._outbox = outbox
        self._random = random
        self._lock_is_set = lock_is_set
        self._local: list[Him] = []  # candidates on this host: chosen before the others
        self._remote: list[Him] = []
        self._known: list[Atom] = []  # a copy, brought up to date by messages so that it changes where OTP's does
        self._just_synced = False
        self._task = Task(pid)
        tasks.spawn(self._task, self._loop())

    def post(self, message: Him | Cancel | LockSet | AddToKnown | RemoveFromKnown) -> None:
        """Put a message into the locker's mailbox.

        The locker may wait for long, for a peer that does not answer, and what a peer can send meanwhile must not pile
        up: a candidate that it has not seen yet is cancelled in the mailbox itself, and past `MAILBOX_MAX` messages
        `lock_set` is dropped (as if the other locker's try had come too late) and what is known is told at once.
        """
        mailbox = self._task.mailbox
        if isinstance(message, Cancel) and message.then is None:
            unseen = [
                him for him in mailbox if isinstance(him, Him) and (him.node, him.my_tag) == (message.node, message.tag)
            ]
            if unseen:
                mailbox.remove(unseen[0])
                return
        if len(mailbox) >= MAILBOX_MAX:
            if isinstance(message, LockSet):
                return
            if isinstance(message, AddToKnown | RemoveFromKnown):
                self._catch_up_known()
                self._update_known(message)
                return
        mailbox.append(message)

    def candidates(self) -> list[Him]:
        """The nodes that it is to lock with."""
        return [*self._local, *self._remote]

    # --- The loop -----------------------------------------------------------------------------------------------------

    def _loop(self) -> Steps[None]:
        while True:
            timeout_seconds = self._timeout_seconds()
            if not self._task.mailbox:
                self._just_synced = False
            message = yield Receive(timeout_seconds=timeout_seconds)
            if message is not None:
                yield from self._handle(message)
            elif not self._locks.is_global_lock_set():
                yield from self._select()

    def _timeout_seconds(self) -> float | None:
        if not self._local and not self._remote:
            return None
        if self._just_synced:
            return 0.0  # no reason to wait after a success
        if not self._known:
            return ALONE_WAIT_SECONDS
        # More than nothing, or others of the partition would have no chance while this node tries in vain.
        wait = KNOWN_WAIT_SECONDS + KNOWN_WAIT_PER_NODE_SECONDS * len(self._known)
        return min(wait, KNOWN_WAIT_SECONDS_MAX)

    def _handle(self, message: Any) -> Steps[None]:
        match message:
            case Him(node=node):
                candidates = self._local if _host(node) == _host(self._this_node) else self._remote
                candidates.insert(0, message)
            case Cancel(node, tag, None) if tag is not None:  # None: an old nodedown must not cancel a new nodeup
                self._remove(node, tag)
            case LockSet(is_set=True):
                yield from self._answer(message)
            case AddToKnown() | RemoveFromKnown():
                self._update_known(message)
            case _:
                pass  # a lock_set of an attempt that is over

    def _answer(self, message: LockSet) -> Steps[None]:
        """The other side has its locks: set ours, and tell."""
        him = self._find(message.locker.node)
        if him is None or message.tag not in (None, him.my_tag):
            self._outbox.put(Send(message.locker, (a.lock_set, self.pid, False, list(self._known))))
            return
        lock_id = self._lock_id(message.locker)
        is_set = yield from self._lock_nodes(lock_id, [])
        self._tell(him, is_set)
        if is_set:
            nodes = [self._this_node, *self._known]
            yield from self._hold(him, lock_id, nodes)
            self._remove(him.node, him.my_tag)

    def _select(self) -> Steps[None]:
        """Pick a candidate at random, lock, and wait for its answer."""
        candidates = self._local or self._remote
        candidates[:] = [him for him in candidates if him.node not in self._known]
        if not candidates:
            return
        him = candidates[int(self._random() * len(candidates))]
        lock_id = self._lock_id(him.locker)
        if (yield from self._lock_nodes(lock_id, [him.node])):  # locking his node too is what prevents a deadlock
            self._tell(him, True)
            yield from self._await_answer(him, lock_id, [self._this_node, him.node, *self._known])

    def _await_answer(self, him: Him, lock_id: LockId, nodes: Sequence[Atom]) -> Steps[None]:
        def of_this_session(message: Any) -> bool:
            match message:
                case LockSet(locker, _, tag):
                    return locker.node is him.node and tag in (None, him.my_tag)
                case Cancel(node, tag):
                    return node is him.node and tag == him.my_tag
            return False

        match (yield Receive(of_this_session)):
            case LockSet(is_set=True):
                yield from self._hold(him, lock_id, nodes)
                self._local = [other for other in self._local if other != him]
                self._remote = [other for other in self._remote if other != him]
            case LockSet():
                yield from delete_global_lock(lock_id, nodes)
            case Cancel(then=then):
                if then is not None:
                    then()
                yield from delete_global_lock(lock_id, nodes)
                self._remove(him.node, him.my_tag)

    def _hold(self, him: Him, lock_id: LockId, nodes: Sequence[Atom]) -> Steps[None]:
        """Both sides have the lock: keep it until the server says Cancel. What comes `then` goes before the unlock."""
        self._lock_is_set(him.node, him.my_tag, lock_id)

        def cancels(message: Any) -> bool:
            return isinstance(message, Cancel) and message.node is him.node and message.tag == him.my_tag

        cancel: Cancel = yield Receive(cancels)
        if cancel.then is not None:
            cancel.then()
        yield from delete_global_lock(lock_id, nodes)
        self._just_synced = True

    # --- The lock -----------------------------------------------------------------------------------------------------

    def _lock_id(self, his_locker: Pid) -> LockId:
        return (GLOBAL_RESOURCE, sorted_pids([self.pid, his_locker]))

    def _lock_nodes(self, lock_id: LockId, extra: list[Atom]) -> Steps[bool]:
        """Lock the boss, then this node and `extra`, then everybody else that is known (lock_nodes_safely)."""
        first = [the_boss([self._this_node, *self._known])]
        # To lock this node could stop one that has locked the boss already: only look whether it is possible.
        if first != [self._this_node] and not self._locks.can_set(lock_id):
            return False
        if not (yield from self._set(lock_id, first)):
            return False
        self._catch_up_known()  # the boss may have changed meanwhile: no matter
        second = subtract([self._this_node, *extra], first)
        if not (yield from self._set(lock_id, second)):
            yield from delete_lock(lock_id, first)
            return False
        if not (yield from self._set(lock_id, subtract(self._known, first))):
            yield from delete_lock(lock_id, first + second)
            return False
        return True

    def _set(self, lock_id: LockId, nodes: list[Atom]) -> Steps[bool]:
        return set_lock_once(self._locks, self._this_node, lock_id, nodes)

    def _tell(self, him: Him, is_set: bool) -> None:
        """Say `lock_set` to the other locker, by way of its server."""
        message: tuple[Any, ...] = (a.lock_set, self.pid, is_set, list(self._known))
        if him.version >= VERIFY_CONNECT_VERSION:
            message = (*message, him.his_tag)
        self._outbox.put(Send((SERVER, him.locker.node), (GEN_CAST, message)))

    # --- Who is known -------------------------------------------------------------------------------------------------

    def _update_known(self, message: AddToKnown | RemoveFromKnown) -> None:
        if isinstance(message, AddToKnown):
            self._known = [*message.nodes, *self._known]
        elif message.node in self._known:
            self._known.remove(message.node)

    def _catch_up_known(self) -> None:
        """Take the changes of `known` out of the mailbox, and nothing else (update_locker_known)."""
        mailbox = list(self._task.mailbox)
        self._task.mailbox.clear()
        for message in mailbox:
            if isinstance(message, AddToKnown | RemoveFromKnown):
                self._update_known(message)
            else:
                self._task.mailbox.append(message)

    def _find(self, node: Atom) -> Him | None:
        return next((him for him in self.candidates() if him.node is node), None)

    def _remove(self, node: Atom, tag: int) -> None:
        self._local = [him for him in self._local if (him.node, him.my_tag) != (node, tag)]
        self._remote = [him for him in self._remote if (him.node, him.my_tag) != (node, tag)]


def _host(node: Atom) -> str:
    return node.name.partition("@")[2]
