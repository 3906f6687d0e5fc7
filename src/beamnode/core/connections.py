"""The table of connections, one entry a node: what OTP's net_kernel keeps in `sys_dist`, and its rules.

It decides and does nothing: it tells the driver whether to dial, whom to refuse, which attempt to drop, who is to be
told. The driver dials, accepts, runs handshakes, closes, and reports back. Every attempt to connect, ours (we dialled)
or the peer's (we accepted), is an `owner`: any object of the driver's, compared by identity.

| state      | what happens                           | next       | what the driver learns                         |
|------------|----------------------------------------|------------|------------------------------------------------|
| (none)     | `want`, `explicit_connect`             | PENDING    | DIAL (then `own`), or REFUSED and no entry     |
| (none)     | `accept`                               | PENDING    | OK                                             |
| PENDING    | `accept`, our name is the greater      | PENDING    | NOK                                            |
| PENDING    | `accept`, our name is the less         | PENDING    | OK_SIMULTANEOUS: the accepted attempt owns it  |
| PENDING    | `concede` by the owner                 | PENDING    | waits for the peer's attempt, which gets OK    |
| PENDING    | `up` by the owner                      | UP         | what was queued, who waits                     |
| PENDING    | `down` by the owner                    | (none)     | ATTEMPT_FAILED: what was queued, who waits     |
| UP         | `accept`                               | UP_PENDING | ALIVE                                          |
| UP         | `down` by the owner                    | (none)     | LOST; policy ONCE bars the node                |
| UP_PENDING | `accept`                               | UP_PENDING | ALREADY_PENDING                                |
| UP_PENDING | `down` by the pending owner            | UP         | CONTENDER_LEFT                                 |
| UP_PENDING | `down` by the owner                    | PENDING    | REPLACED: a new entry of the pending owner     |

**Tie-break.** Two nodes that dial each other at once must end with one connection, so both apply one rule: the attempt
dialled by the node of the *greater* name survives. An acceptor with a pending attempt says `nok` when its own name is
the greater one, else `ok_simultaneous`, and drops its own attempt. The entry passes on whole: id, waiters and queue.

**A lost tie, told early.** The `nok` may arrive here before the peer's own attempt does. OTP then fails everything that
waits; we keep the entry, which the driver holds open for a while (`concede`), and greet whoever comes.

**Alive.** A peer that dials while we believe that it is connected either has lost the connection before we noticed, or
has dropped that attempt meanwhile. It is asked (`alive`): it answers from its own `still_pending`. When it insists and
has proved its cookie, `take_over` says to close the old connection; the end of that hands the entry over.

Sources: net_kernel.erl (`accept_pending`, `is_pending`, `wait_pending`, `nodeup`, the `nodedown` family,
`do_auto_connect`, `do_explicit_connect`), dist_util.erl (`mark_pending`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from beamnode.errors import UsageError
from beamnode.etf.terms import Atom


class ConnectionState(Enum):
    """OTP: `connection_state()`."""

    PENDING = "pending"  # an attempt is under way, or expected
    UP = "up"
    UP_PENDING = "up_pending"  # up, while an attempt of the peer waits to replace it


class AutoConnect(Enum):
    """Whether a signal to a node that is not connected makes us dial (OTP: `dist_auto_connect`)."""

    ALWAYS = "always"
    ONCE = "once"  # not after a connection was lost, until an explicit connect or until the peer connects
    NEVER = "never"  # on explicit connects only


class Want(Enum):
    """The answer to `want` and `explicit_connect`."""

    UP = "up"  # connected: use the channel; nothing was queued
    PENDING = "pending"  # under way: signal and waiter were queued
    DIAL = "dial"  # a new entry, with signal and waiter queued: dial, and call `own` with the attempt, at once
    REFUSED = "refused"  # auto-connect is off for this node: noconnection; nothing was queued


class Verdict(Enum):
    """What becomes of an attempt of the peer; the value is the status that the handshake sends."""

    OK = "ok"
    OK_SIMULTANEOUS = "ok_simultaneous"  # drop the attempt `Accepted.old_owner`; go on with this one
    NOK = "nok"  # send it and close: our own attempt is the one that survives
    ALIVE = "alive"  # ask the peer; if it insists and its cookie is right, call `take_over`
    ALREADY_PENDING = "already_pending"  # close, sending nothing: another attempt is at ALIVE already


class DownKind(Enum):
    """What ended; see `Connections.down`."""

    ATTEMPT_FAILED = "attempt_failed"  # never was up; the entry is gone
    LOST = "lost"  # was up: nodedown; the entry is gone, or barred
    REPLACED = "replaced"  # was up: nodedown; the attempt that waited to replace it owns a new entry now, pending
    CONTENDER_LEFT = "contender_left"  # the attempt that waited to replace it is gone; still up


NodesKind: TypeAlias = Literal["visible", "hidden", "connected", "known"]


@dataclass(slots=True, eq=False)
class Connection:
    """One entry. Read it; only `Connections` changes it."""

    node: Atom
    id: int  # never used twice in a table; a tie-break keeps it, the end of a connection ends it
    state: ConnectionState
    owner: object | None  # None: not dialled yet
    hidden: bool  # what the attempt announced; settled at `up`
    conceded: bool = False  # the owner is no attempt but a patience; see `Connections.concede`
    pending_owner: object | None = None
    takeover_asked: bool = False  # the pending owner has called `take_over` and waits for the old channel's end
    channel: Any = None  # and what follows: given at `up`
    creation: int = 0
    flags: int = 0
    address: Any = None
    counters: Callable[[], tuple[int, int]] | None = None  # (received, sent) so far
    waiting: list[Any] = field(default_factory=list)
    queue: list[Any] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        return self.state is not ConnectionState.PENDING


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to `accept`."""

    verdict: Verdict
    old_owner: object | None = None  # drop this attempt (its `down` will be None); with OK_SIMULTANEOUS only


@dataclass(frozen=True, slots=True)
class Up:
    """The answer to `up`: first send `queue` on the channel, in order; then tell `waiting` true; then nodeup."""

    connection: Connection
    waiting: list[Any]
    queue: list[Any]


class TakeOver(Enum):
    """The answer to `take_over`."""

    PROCEED = "proceed"  # the entry is this owner's: send the ack and go up
    CLOSE_OLD = "close_old"  # close the old channel, report its `down`, whose `continues` says: proceed
    GONE = "gone"  # this owner has no claim: close it


@dataclass(frozen=True, slots=True)
class Down:
    """The answer to `down`. Given once per connection or attempt; tell each of its lists as written.

    `connection` is what ended (CONTENDER_LEFT: what goes on), with its id, channel and so on as they were.
    """

    kind: DownKind
    connection: Connection
    reason: Any
    waiting: list[Any]  # connects to be told false (ATTEMPT_FAILED) or true (CONTENDER_LEFT)
    queue: list[Any]  # signals that will not be sent: noconnection, in this order
    continues: object | None = (
        None  # REPLACED: the owner that was told CLOSE_OLD and proceeds now; None: it has not asked
    )

    @property
    def was_up(self) -> bool:
        """Whether links, monitors and nodedown messages to this node fire."""
        return self.kind is DownKind.LOST or self.kind is DownKind.REPLACED


class Connections:
    """The connections of one node. `channels` is for the hot path: the channel of each node that is up."""

    def __init__(self, auto_connect: AutoConnect = AutoConnect.ALWAYS) -> None:
        self.auto_connect = auto_connect
        self.channels: dict[Atom, Any] = {}
        self._entries: dict[Atom, Connection] = {}
        self._order: list[Atom] = []  # of nodes that are up, in the order of their nodeup
        self._barred: set[Atom] = set()
        self._last_id = 0

    # --- what is known ------------------------------------------------------------------------------------------------

    def get(self, node: Atom) -> Connection | None:
        """The entry of `node`, pending or up."""
        return self._entries.get(node)

    @property
    def up_count(self) -> int:
        """How many nodes are up."""
        return len(self.channels)

    def nodes(self, kind: NodesKind = "visible") -> list[Atom]:
        """The nodes that are up, visible, hidden or both ("connected"), in the order in which they came up.

        "known" adds the nodes that are pending, then the barred ones. None of them contains this node itself.
        """
        if kind == "known":
            pending = [node for node, entry in self._entries.items() if not entry.is_up]
            barred = sorted(self._barred - self._entries.keys())
            return [*self._order, *pending, *barred]
        if kind == "connected":
            return list(self._order)
        if kind in ("visible", "hidden"):
            return [node for node in self._order if self._entries[node].hidden is (kind == "hidden")]
        raise UsageError(f"nodes are visible, hidden, connected or known, not {kind!r}")

    def connections(self) -> list[Connection]:
        """Every entry: pending ones, and those that are up."""
        return list(self._entries.values())

    # --- we want a connection -----------------------------------------------------------------------------------------

    def want(self, node: Atom, signal: Any = None, waiter: Any = None) -> Want:
        """A connection is wanted because something is to be sent (`do_auto_connect`).

        `signal` and `waiter` are kept when the answer is PENDING or DIAL, and given back by `up` or `down`.
        On DIAL the driver dials and calls `own` before it yields to the event loop.
        """
        entry = self._entries.get(node)
        if entry is None:
            if self.auto_connect is AutoConnect.NEVER or node in self._barred:
                return Want.REFUSED
            entry = self._new_entry(node, owner=None, hidden=False)
            answer = Want.DIAL
        elif entry.is_up:
            return Want.UP
        else:
            answer = Want.PENDING
        if signal is not None:
            entry.queue.append(signal)
        if waiter is not None:
            entry.waiting.append(waiter)
        return answer

    def explicit_connect(self, node: Atom, waiter: Any = None) -> Want:
        """A program asked for a connection (`do_explicit_connect`): no policy forbids it, and a bar is lifted.

        While an attempt waits to replace a connection that is up (UP_PENDING), the answer is PENDING, as in OTP.
        """
        entry = self._entries.get(node)
        if entry is None:
            entry = self._new_entry(node, owner=None, hidden=False)
            answer = Want.DIAL
        elif entry.state is ConnectionState.UP:
            return Want.UP
        else:
            answer = Want.PENDING
        if waiter is not None:
            entry.waiting.append(waiter)
        return answer

    def forget_waiter(self, node: Atom, waiter: Any) -> None:
        """A waiter gave up (its time is over); the attempt goes on."""
        entry = self._entries.get(node)
        if entry is not None:
            entry.waiting = [other for other in entry.waiting if other is not waiter]

    def own(self, node: Atom, owner: object) -> bool:
        """Make `owner`, an attempt that dials, the owner of an entry that has none (after DIAL) or has only a patience.

        False: it is not wanted (any more), drop it.
        """
        entry = self._entries.get(node)
        if entry is None or entry.is_up or (entry.owner is not None and not entry.conceded):
            return False
        entry.owner = owner
        entry.conceded = False
        return True

    def concede(self, node: Atom, owner: object, patience: object) -> bool:
        """The peer said `nok` to `owner`: it has an attempt of its own, which may not have arrived here yet.

        True: the entry stays pending, and `patience`, a new object of the driver's, holds it in place of `owner`. Drop
        the attempt; when the set-up time is over, report `down(node, patience, reason)` (which is None, and harmless,
        when the peer has come meanwhile). False: the attempt owned nothing; drop it, no more.
        """
        entry = self._entries.get(node)
        if entry is None or entry.is_up or entry.owner is not owner:
            return False
        entry.owner = patience
        entry.conceded = True
        return True

    # --- the peer wants a connection ----------------------------------------------------------------------------------

    def accept(self, node: Atom, this_name: Atom, owner: object, hidden: bool = False) -> Accepted:
        """The peer `node` dialled and has said its name (`accept_pending`); `owner` is the accepted attempt.

        From OK and OK_SIMULTANEOUS on it owns the entry, from ALIVE on it is its `pending_owner`: when it ends, report
        `down`. NOK and ALREADY_PENDING leave no trace. A peer that bears our own name gets NOK.
        """
        entry = self._entries.get(node)
        if node == this_name:
            return Accepted(Verdict.NOK)
        if entry is None:
            self._new_entry(node, owner, hidden)
            return Accepted(Verdict.OK)
        if entry.state is ConnectionState.UP:
            entry.state = ConnectionState.UP_PENDING
            entry.pending_owner = owner
            return Accepted(Verdict.ALIVE)
        if entry.state is ConnectionState.UP_PENDING:
            return Accepted(Verdict.ALREADY_PENDING)
        competes = entry.owner is not None and not entry.conceded
        if competes and this_name > node:
            return Accepted(Verdict.NOK)
        old_owner = entry.owner if competes else None
        entry.owner = owner
        entry.hidden = hidden
        entry.conceded = False
        return Accepted(Verdict.OK_SIMULTANEOUS, old_owner) if competes else Accepted(Verdict.OK)

    def still_pending(self, node: Atom, owner: object) -> bool:
        """Whether `owner`, which we dialled and was told `alive`, still wants to connect (`is_pending`)."""
        entry = self._entries.get(node)
        return entry is not None and not entry.is_up and entry.owner is owner

    def take_over(self, node: Atom, owner: object) -> TakeOver:
        """An accepted attempt that was told ALIVE has proved its cookie and wants the entry (`wait_pending`).

        Call it before the acknowledgement is sent. After CLOSE_OLD the `down` of the old one names this owner as
        `continues`; when the old one went down by itself before, the answer is PROCEED at once. For an attempt that
        got OK it answers PROCEED, so it may be called for every accepted one.
        """
        entry = self._entries.get(node)
        if entry is None:
            return TakeOver.GONE
        if entry.state is ConnectionState.PENDING and entry.owner is owner:
            return TakeOver.PROCEED
        if entry.state is ConnectionState.UP_PENDING and entry.pending_owner is owner:
            entry.takeover_asked = True
            return TakeOver.CLOSE_OLD
        return TakeOver.GONE

    # --- what happened ------------------------------------------------------------------------------------------------

    def up(
        self,
        node: Atom,
        owner: object,
        channel: Any,
        *,
        hidden: bool,
        creation: int = 0,
        flags: int = 0,
        address: Any = None,
        counters: Callable[[], tuple[int, int]] | None = None,
    ) -> Up | None:
        """The handshake of `owner` is done (`nodeup`). None: it owns nothing (any more), close it (`bad_request`)."""
        entry = self._entries.get(node)
        if entry is None or entry.is_up or entry.owner is not owner:
            return None
        entry.state = ConnectionState.UP
        entry.channel = channel
        entry.hidden = hidden
        entry.creation = creation
        entry.flags = flags
        entry.address = address
        entry.counters = counters
        self._order.append(node)
        self.channels[node] = channel
        done = Up(entry, entry.waiting, entry.queue)
        entry.waiting = []
        entry.queue = []
        return done

    def down(self, node: Atom, owner: object | None, reason: Any = None) -> Down | None:
        """An attempt or a connection has ended (`nodedown`); call it whenever one does, for whatever reason.

        `owner` None ends an entry that nobody owns (DIAL was answered, but dialling cannot even begin). The answer is
        None when the owner had no part in the table (any more): nobody is to be told.
        """
        entry = self._entries.get(node)
        if entry is None:
            return None
        if entry.state is ConnectionState.UP_PENDING and entry.pending_owner is owner:
            return self._contender_left(entry, reason)
        if entry.owner is not owner:
            return None
        if entry.state is ConnectionState.PENDING:
            del self._entries[node]
            return Down(DownKind.ATTEMPT_FAILED, entry, reason, entry.waiting, entry.queue)
        del self._entries[node]
        del self.channels[node]
        self._order.remove(node)
        if entry.state is ConnectionState.UP_PENDING:
            return self._replaced(entry, reason)
        if self.auto_connect is AutoConnect.ONCE:
            self._barred.add(node)
        return Down(DownKind.LOST, entry, reason, [], [])

    def _contender_left(self, entry: Connection, reason: Any) -> Down:
        entry.state = ConnectionState.UP
        entry.pending_owner = None
        entry.takeover_asked = False
        waiting, entry.waiting = entry.waiting, []
        return Down(DownKind.CONTENDER_LEFT, entry, reason, waiting, [])

    def _replaced(self, old: Connection, reason: Any) -> Down:
        """A new connection of the same node, which the waiting attempt owns; whoever waits, waits for that one now."""
        new = self._new_entry(old.node, old.pending_owner, old.hidden)
        new.waiting, old.waiting = old.waiting, []
        return Down(DownKind.REPLACED, old, reason, [], [], continues=new.owner if old.takeover_asked else None)

    def _new_entry(self, node: Atom, owner: object | None, hidden: bool) -> Connection:
        self._last_id += 1
        entry = Connection(node, self._last_id, ConnectionState.PENDING, owner, hidden)
        self._entries[node] = entry
        self._barred.discard(node)
        return entry
