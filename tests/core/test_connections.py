"""The table of connections: every row of it, and two tables that race each other through a simulated network."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamnode.core.connections import (
    AutoConnect,
    Connection,
    Connections,
    ConnectionState,
    DownKind,
    TakeOver,
    Verdict,
    Want,
)
from beamnode.errors import UsageError
from beamnode.etf.terms import Atom

ME = Atom("m@host")
LESS = Atom("a@host")
GREATER = Atom("z@host")


class Owner:
    """An attempt, a patience, a channel: anything with an identity."""

    def __eq__(self, other: object) -> bool:
        return True  # owners are compared by identity: equality must not matter

    __hash__ = object.__hash__


def dialled(table: Connections, node: Atom, owner: object) -> None:
    assert table.want(node) is Want.DIAL
    assert table.own(node, owner)


def made_up(table: Connections, node: Atom, *, hidden: bool = False) -> tuple[object, object]:
    owner, channel = Owner(), Owner()
    dialled(table, node, owner)
    assert table.up(node, owner, channel, hidden=hidden)
    return owner, channel


def entry_of(table: Connections, node: Atom) -> Connection:
    entry = table.get(node)
    assert entry is not None
    return entry


# --- wanting ----------------------------------------------------------------------------------------------------------


def test_want_dials_once_and_queues_the_rest_in_order() -> None:
    table, owner = Connections(), Owner()
    assert table.get(LESS) is None
    assert table.want(LESS, "s1") is Want.DIAL
    assert table.own(LESS, owner)
    assert table.want(LESS, "s2", waiter="w1") is Want.PENDING
    assert table.explicit_connect(LESS, "w2") is Want.PENDING
    assert table.want(LESS) is Want.PENDING
    up = table.up(LESS, owner, "channel", hidden=True, creation=7, flags=3, address="there", counters=lambda: (1, 2))
    assert up is not None
    assert up.queue == ["s1", "s2"]
    assert up.waiting == ["w1", "w2"]
    entry = entry_of(table, LESS)
    assert entry is up.connection
    assert (entry.hidden, entry.creation, entry.flags, entry.address) == (True, 7, 3, "there")
    assert entry.counters is not None
    assert entry.counters() == (1, 2)
    assert entry.is_up
    assert entry.queue == entry.waiting == []
    assert table.channels == {LESS: "channel"}
    assert table.want(LESS, "s3", "w3") is Want.UP
    assert table.explicit_connect(LESS, "w4") is Want.UP
    assert entry.queue == entry.waiting == []


def test_own_is_refused_to_whoever_comes_second() -> None:
    table = Connections()
    assert not table.own(LESS, Owner())
    dialled(table, LESS, Owner())
    assert not table.own(LESS, Owner())
    made_up(table, GREATER)
    assert not table.own(GREATER, Owner())


def test_own_after_the_peer_was_faster() -> None:
    table, accepted = Connections(), Owner()
    assert table.want(LESS, "s") is Want.DIAL
    assert table.accept(LESS, ME, accepted).verdict is Verdict.OK  # nothing competes: whatever the names
    assert not table.own(LESS, Owner())
    up = table.up(LESS, accepted, "channel", hidden=False)
    assert up is not None
    assert up.queue == ["s"]


def test_a_waiter_that_gave_up_is_not_told() -> None:
    table, owner = Connections(), Owner()
    table.explicit_connect(LESS, "w1")
    table.explicit_connect(LESS, "w2")
    table.own(LESS, owner)
    table.forget_waiter(LESS, "w1")
    table.forget_waiter(GREATER, "w1")
    down = table.down(LESS, owner)
    assert down is not None
    assert down.waiting == ["w2"]


# --- policies ---------------------------------------------------------------------------------------------------------


def test_never_dials_on_explicit_connects_only() -> None:
    table, owner = Connections(AutoConnect.NEVER), Owner()
    assert table.want(LESS, "s", "w") is Want.REFUSED
    assert table.get(LESS) is None
    assert table.explicit_connect(LESS) is Want.DIAL
    table.own(LESS, owner)
    assert table.want(LESS, "s") is Want.PENDING
    table.up(LESS, owner, "channel", hidden=False)
    assert table.want(LESS) is Want.UP
    table.down(LESS, owner)
    assert table.want(LESS) is Want.REFUSED


def test_once_bars_after_a_loss() -> None:
    table = Connections(AutoConnect.ONCE)
    owner, _ = made_up(table, LESS)
    table.down(LESS, owner)
    assert table.nodes("known") == [LESS]
    assert table.want(LESS, "s") is Want.REFUSED
    assert table.get(LESS) is None
    assert table.want(GREATER) is Want.DIAL


def test_once_an_explicit_connect_lifts_the_bar_even_when_it_fails() -> None:
    table = Connections(AutoConnect.ONCE)
    owner, _ = made_up(table, LESS)
    table.down(LESS, owner)
    attempt = Owner()
    assert table.explicit_connect(LESS) is Want.DIAL
    assert table.own(LESS, attempt)
    assert table.nodes("known") == [LESS]
    table.down(LESS, attempt)  # never was up: not barred
    assert table.want(LESS) is Want.DIAL


def test_once_the_peer_lifts_the_bar_by_connecting() -> None:
    table = Connections(AutoConnect.ONCE)
    owner, _ = made_up(table, LESS)
    table.down(LESS, owner)
    assert table.accept(LESS, ME, Owner()).verdict is Verdict.OK
    assert table.want(LESS, "s") is Want.PENDING


def test_once_a_failed_attempt_does_not_bar() -> None:
    table, owner = Connections(AutoConnect.ONCE), Owner()
    dialled(table, LESS, owner)
    table.down(LESS, owner)
    assert table.want(LESS) is Want.DIAL


def test_once_being_replaced_does_not_bar() -> None:
    table = Connections(AutoConnect.ONCE)
    owner, _ = made_up(table, LESS)
    replacement = Owner()
    table.accept(LESS, ME, replacement)
    table.down(LESS, owner)
    table.down(LESS, replacement)
    assert table.want(LESS) is Want.DIAL


# --- accepting --------------------------------------------------------------------------------------------------------


def test_accept_of_a_new_node() -> None:
    table, owner = Connections(), Owner()
    accepted = table.accept(LESS, ME, owner, hidden=True)
    assert (accepted.verdict, accepted.old_owner) == (Verdict.OK, None)
    assert accepted.verdict.value == "ok"
    entry = entry_of(table, LESS)
    assert (entry.state, entry.hidden) == (ConnectionState.PENDING, True)
    assert entry.owner is owner


def test_the_greater_name_wins_the_tie() -> None:
    table, ours = Connections(), Owner()
    dialled(table, LESS, ours)
    theirs = Owner()
    assert table.accept(LESS, ME, theirs).verdict is Verdict.NOK
    assert entry_of(table, LESS).owner is ours
    assert table.down(LESS, theirs) is None
    assert table.up(LESS, ours, "channel", hidden=False)


def test_the_lesser_name_hands_its_entry_over_whole() -> None:
    table, ours, theirs = Connections(), Owner(), Owner()
    assert table.want(GREATER, "s1", "w1") is Want.DIAL
    table.own(GREATER, ours)
    id_before = entry_of(table, GREATER).id
    accepted = table.accept(GREATER, ME, theirs)
    assert accepted.verdict is Verdict.OK_SIMULTANEOUS
    assert accepted.old_owner is ours
    assert table.want(GREATER, "s2") is Want.PENDING
    assert not table.still_pending(GREATER, ours)
    assert table.down(GREATER, ours) is None
    assert table.up(GREATER, ours, "channel", hidden=False) is None
    up = table.up(GREATER, theirs, "channel", hidden=False)
    assert up is not None
    assert (up.queue, up.waiting, up.connection.id) == (["s1", "s2"], ["w1"], id_before)


def test_names_compare_as_text() -> None:
    for mine, other, verdict in [
        ("b@x", "a@y", Verdict.NOK),
        ("a@y", "b@x", Verdict.OK_SIMULTANEOUS),
        ("a@x1", "a@x", Verdict.NOK),
        ("Z@x", "a@x", Verdict.OK_SIMULTANEOUS),
        ("a\xe4@x", "az@x", Verdict.NOK),
    ]:
        table = Connections()
        dialled(table, Atom(other), Owner())
        assert table.accept(Atom(other), Atom(mine), Owner()).verdict is verdict


def test_a_peer_of_our_own_name_is_refused() -> None:
    table = Connections()
    assert table.accept(ME, ME, Owner()).verdict is Verdict.NOK
    assert table.get(ME) is None


def test_a_conceded_entry_waits_for_the_peer() -> None:
    table, ours, patience, theirs = Connections(), Owner(), Owner(), Owner()
    assert table.want(GREATER, "s1", "w1") is Want.DIAL
    table.own(GREATER, ours)
    assert not table.concede(GREATER, Owner(), Owner())
    assert not table.concede(LESS, ours, Owner())
    assert table.concede(GREATER, ours, patience)
    assert not table.concede(GREATER, ours, Owner())
    assert table.down(GREATER, ours) is None
    assert table.want(GREATER, "s2") is Want.PENDING
    accepted = table.accept(GREATER, ME, theirs)
    assert (accepted.verdict, accepted.old_owner) == (Verdict.OK, None)
    assert table.down(GREATER, patience) is None
    up = table.up(GREATER, theirs, "channel", hidden=False)
    assert up is not None
    assert (up.queue, up.waiting) == (["s1", "s2"], ["w1"])


def test_patience_ends() -> None:
    table, ours, patience = Connections(), Owner(), Owner()
    assert table.want(GREATER, "s1", "w1") is Want.DIAL
    table.own(GREATER, ours)
    table.concede(GREATER, ours, patience)
    down = table.down(GREATER, patience, "why")
    assert down is not None
    assert (down.kind, down.queue, down.waiting, down.reason) == (DownKind.ATTEMPT_FAILED, ["s1"], ["w1"], "why")
    assert not down.was_up
    assert table.get(GREATER) is None


def test_a_conceded_entry_may_be_dialled_again() -> None:
    table, ours, again = Connections(), Owner(), Owner()
    dialled(table, GREATER, ours)
    table.concede(GREATER, ours, Owner())
    assert table.own(GREATER, again)
    assert table.still_pending(GREATER, again)
    assert table.accept(GREATER, ME, Owner()).verdict is Verdict.OK_SIMULTANEOUS


# --- alive ------------------------------------------------------------------------------------------------------------


def test_alive_and_taken_over() -> None:
    table = Connections()
    old, _ = made_up(table, LESS)
    old_id = entry_of(table, LESS).id
    new = Owner()
    assert table.accept(LESS, ME, new, hidden=True).verdict is Verdict.ALIVE
    assert entry_of(table, LESS).state is ConnectionState.UP_PENDING
    assert table.accept(LESS, ME, Owner()).verdict is Verdict.ALREADY_PENDING
    assert table.want(LESS, "s") is Want.UP  # the old channel still takes signals
    assert table.explicit_connect(LESS, "w") is Want.PENDING
    assert table.take_over(LESS, Owner()) is TakeOver.GONE
    assert table.take_over(LESS, new) is TakeOver.CLOSE_OLD
    down = table.down(LESS, old, "replaced")
    assert down is not None
    assert down.kind is DownKind.REPLACED
    assert down.was_up
    assert down.continues is new
    assert (down.connection.id, down.waiting, down.queue) == (old_id, [], [])
    assert table.channels == {}
    assert table.nodes("connected") == []
    assert table.take_over(LESS, new) is TakeOver.PROCEED
    assert table.want(LESS, "s") is Want.PENDING
    up = table.up(LESS, new, "second", hidden=False)
    assert up is not None
    assert (up.queue, up.waiting) == (["s"], ["w"])
    assert up.connection.id > old_id
    assert table.down(LESS, old) is None


def test_the_contender_leaves() -> None:
    table = Connections()
    old, channel = made_up(table, LESS)
    new = Owner()
    table.accept(LESS, ME, new)
    table.explicit_connect(LESS, "w")
    down = table.down(LESS, new)
    assert down is not None
    assert (down.kind, down.waiting, down.was_up) == (DownKind.CONTENDER_LEFT, ["w"], False)
    assert down.continues is None
    assert entry_of(table, LESS).state is ConnectionState.UP
    assert table.channels[LESS] is channel
    assert table.take_over(LESS, new) is TakeOver.GONE
    assert table.accept(LESS, ME, Owner()).verdict is Verdict.ALIVE
    assert entry_of(table, LESS).owner is old


def test_the_old_one_dies_by_itself_then_the_contender_fails() -> None:
    table = Connections()
    old, _ = made_up(table, LESS)
    new = Owner()
    table.accept(LESS, ME, new)
    first = table.down(LESS, old)
    assert first is not None
    assert (first.kind, first.continues) == (DownKind.REPLACED, None)  # it has proved nothing yet
    assert entry_of(table, LESS).owner is new
    table.want(LESS, "s")
    second = table.down(LESS, new)
    assert second is not None
    assert (second.kind, second.queue) == (DownKind.ATTEMPT_FAILED, ["s"])
    assert table.get(LESS) is None


def test_the_old_one_dies_by_itself_and_the_contender_goes_on_in_its_own_time() -> None:
    table = Connections()
    old, _ = made_up(table, LESS)
    new = Owner()
    table.accept(LESS, ME, new)
    table.down(LESS, old)
    assert table.take_over(LESS, new) is TakeOver.PROCEED
    assert table.up(LESS, new, "second", hidden=False)


def test_what_one_contender_asked_does_not_count_for_the_next() -> None:
    table = Connections()
    old, _ = made_up(table, LESS)
    first, second = Owner(), Owner()
    table.accept(LESS, ME, first)
    assert table.take_over(LESS, first) is TakeOver.CLOSE_OLD
    table.down(LESS, first)
    assert table.accept(LESS, ME, second).verdict is Verdict.ALIVE
    down = table.down(LESS, old)
    assert down is not None
    assert down.continues is None


def test_take_over_of_plain_attempts_and_of_nothing() -> None:
    table, owner = Connections(), Owner()
    assert table.take_over(LESS, owner) is TakeOver.GONE
    table.accept(LESS, ME, owner)
    assert table.take_over(LESS, owner) is TakeOver.PROCEED
    assert table.take_over(LESS, Owner()) is TakeOver.GONE


def test_still_pending() -> None:
    table, owner = Connections(), Owner()
    assert not table.still_pending(LESS, owner)
    dialled(table, LESS, owner)
    assert table.still_pending(LESS, owner)
    assert not table.still_pending(LESS, Owner())
    table.up(LESS, owner, "channel", hidden=False)
    assert not table.still_pending(LESS, owner)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_down_is_told_once() -> None:
    table = Connections()
    owner, _ = made_up(table, LESS)
    down = table.down(LESS, owner, "reason")
    assert down is not None
    assert (down.kind, down.was_up, down.reason) == (DownKind.LOST, True, "reason")
    assert table.down(LESS, owner) is None
    assert table.down(GREATER, owner) is None
    assert table.up(LESS, owner, "channel", hidden=False) is None


def test_down_of_an_entry_that_was_never_dialled() -> None:
    table = Connections()
    table.want(LESS, "s")
    down = table.down(LESS, None)
    assert down is not None
    assert (down.kind, down.queue) == (DownKind.ATTEMPT_FAILED, ["s"])
    owner, _ = made_up(table, LESS)
    assert table.down(LESS, None) is None
    assert entry_of(table, LESS).owner is owner


def test_nodes_in_the_order_of_connecting() -> None:
    table = Connections()
    names = [Atom(f"{letter}@h") for letter in "cabd"]
    owners = [made_up(table, name, hidden=name.name[0] == "b")[0] for name in names]
    dialled(table, Atom("p@h"), Owner())
    assert table.nodes() == [names[0], names[1], names[3]]
    assert table.nodes("hidden") == [names[2]]
    assert table.nodes("connected") == names
    assert table.nodes("known") == [*names, Atom("p@h")]
    table.down(names[0], owners[0])
    made_up(table, names[0])
    assert table.nodes("connected") == [*names[1:], names[0]]
    assert len(table.connections()) == 5
    with pytest.raises(UsageError, match="visible, hidden"):
        table.nodes("all")  # type: ignore[arg-type]


def test_ids_increase() -> None:
    table = Connections()
    ids = []
    for _ in range(3):
        owner, _channel = made_up(table, LESS)
        ids.append(entry_of(table, LESS).id)
        table.down(LESS, owner)
    assert ids == sorted(set(ids))


# --- two tables race --------------------------------------------------------------------------------------------------
#
# A model of two nodes: each has a table and a driver as thin as can be; attempts are pipes whose ends deliver one
# message at a time. A `World` can be copied, so every interleaving of every step can be walked.


@dataclass
class Attempt:
    """One try to connect: a pipe between the node that dialled and the other."""

    number: int
    dialler: int  # 0 or 1
    pipes: list[deque[Any]] = field(default_factory=lambda: [deque(), deque()])  # towards node 0, towards node 1
    open: list[bool] = field(default_factory=lambda: [True, True])  # at node 0, at node 1
    proved: bool = False  # the acceptor has checked the cookie, and waits for the end of the old connection


class Side:
    """A node: its table, and a driver that does what the table says."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.names = [Atom("a@host"), Atom("b@host")]
        self.table = Connections()
        self.to_send = 0  # signals numbered from 0
        self.received: list[int] = []
        self.refused: list[int] = []  # answered noconnection
        self.patience: list[object] = []
        self.waiters_told: list[tuple[str, bool]] = []
        self.waiters_made = 0
        self.ups = 0
        self.downs = 0

    @property
    def this(self) -> Atom:
        return self.names[self.me]

    @property
    def other(self) -> Atom:
        return self.names[1 - self.me]


class World:
    def __init__(self, failures: bool = False) -> None:
        self.sides = [Side(0), Side(1)]
        self.attempts: list[Attempt] = []
        self.failures = failures

    # --- what a node does ---------------------------------------------------------------------------------------------

    def send(self, me: int) -> None:
        """A program sends the next signal."""
        side = self.sides[me]
        number = side.to_send
        side.to_send += 1
        match side.table.want(side.other, number):
            case Want.UP:
                self.put(side.table.channels[side.other], me, number)
            case Want.DIAL:
                self.dial(me)

    def connect(self, me: int) -> None:
        side = self.sides[me]
        waiter = f"w{side.waiters_made}"
        side.waiters_made += 1
        match side.table.explicit_connect(side.other, waiter):
            case Want.UP:
                side.waiters_told.append((waiter, True))
            case Want.DIAL:
                self.dial(me)

    def dial(self, me: int) -> None:
        attempt = Attempt(len(self.attempts), me)
        self.attempts.append(attempt)
        assert self.sides[me].table.own(self.sides[me].other, attempt)
        self.put(attempt, me, "name")

    def put(self, attempt: Attempt, me: int, message: Any) -> None:
        if attempt.open[me]:
            attempt.pipes[1 - me].append(message)

    def close(self, attempt: Attempt, me: int) -> None:
        """Close this end and report it."""
        if not attempt.open[me]:
            return
        attempt.open[me] = False
        attempt.pipes[me].clear()
        attempt.pipes[1 - me].append("closed")
        self.report_down(me, attempt)

    def report_down(self, me: int, owner: object) -> None:
        side = self.sides[me]
        down = side.table.down(side.other, owner)
        if down is None:
            return
        side.refused += down.queue
        side.waiters_told += [(waiter, down.kind is DownKind.CONTENDER_LEFT) for waiter in down.waiting]
        side.downs += down.was_up
        if isinstance(down.continues, Attempt):
            self.proceed(me, down.continues)

    # --- the handshake, in five messages ------------------------------------------------------------------------------

    def deliver(self, attempt: Attempt, me: int) -> None:
        message = attempt.pipes[me].popleft()
        if not attempt.open[me]:
            return
        side = self.sides[me]
        if message == "closed":
            self.close(attempt, me)
        elif isinstance(message, int):
            assert side.table.channels.get(side.other) is attempt, "a signal on what is not the channel"
            side.received.append(message)
        else:
            getattr(self, f"on_{message}")(attempt, me)

    def on_name(self, attempt: Attempt, me: int) -> None:
        side = self.sides[me]
        accepted = side.table.accept(side.other, side.this, attempt)
        match accepted.verdict:
            case Verdict.OK_SIMULTANEOUS:
                assert isinstance(accepted.old_owner, Attempt)
                self.put(attempt, me, "ok")
                self.close(accepted.old_owner, me)
            case Verdict.NOK:
                self.put(attempt, me, "nok")
                self.close(attempt, me)
            case Verdict.ALREADY_PENDING:
                self.close(attempt, me)
            case verdict:
                self.put(attempt, me, verdict.value)

    def on_ok(self, attempt: Attempt, me: int) -> None:
        self.put(attempt, me, "reply")

    def on_nok(self, attempt: Attempt, me: int) -> None:
        side = self.sides[me]
        patience = Owner()
        if side.table.concede(side.other, attempt, patience):
            side.patience.append(patience)
        self.close(attempt, me)

    def on_alive(self, attempt: Attempt, me: int) -> None:
        side = self.sides[me]
        if side.table.still_pending(side.other, attempt):
            self.put(attempt, me, "reply")
        else:
            self.close(attempt, me)

    def on_reply(self, attempt: Attempt, me: int) -> None:
        side = self.sides[me]
        match side.table.take_over(side.other, attempt):
            case TakeOver.GONE:
                self.close(attempt, me)
            case TakeOver.PROCEED:
                self.finish(attempt, me)
            case TakeOver.CLOSE_OLD:
                attempt.proved = True
                entry = entry_of(side.table, side.other)
                self.close(entry.channel, me)

    def proceed(self, me: int, attempt: Attempt) -> None:
        """The old connection ended, which was all that this attempt waited for."""
        side = self.sides[me]
        assert attempt.proved
        assert side.table.take_over(side.other, attempt) is TakeOver.PROCEED
        self.finish(attempt, me)

    def finish(self, attempt: Attempt, me: int) -> None:
        self.put(attempt, me, "ack")
        self.go_up(attempt, me)

    def on_ack(self, attempt: Attempt, me: int) -> None:
        self.go_up(attempt, me)

    def go_up(self, attempt: Attempt, me: int) -> None:
        side = self.sides[me]
        up = side.table.up(side.other, attempt, attempt, hidden=False)
        if up is None:
            self.close(attempt, me)
            return
        side.ups += 1
        for number in up.queue:
            self.put(attempt, me, number)
        side.waiters_told += [(waiter, True) for waiter in up.waiting]

    # --- walking ------------------------------------------------------------------------------------------------------

    def moves(self) -> list[tuple[int, int]]:
        """The deliveries that are possible: (attempt, node)."""
        return [(attempt.number, me) for attempt in self.attempts for me in (0, 1) if attempt.pipes[me]]

    def move(self, number: int, me: int) -> None:
        self.deliver(self.attempts[number], me)

    def end_patience(self) -> None:
        for side in self.sides:
            for patience in side.patience:
                self.report_down(side.me, patience)
            side.patience.clear()

    def state(self) -> Any:
        """Everything that matters, to visit each state once."""
        sides = []
        for side in self.sides:
            entry = side.table.get(side.other)
            described = entry and (
                entry.state,
                entry.conceded,
                getattr(entry.owner, "number", None),
                getattr(entry.pending_owner, "number", None),
                tuple(entry.queue),
                tuple(entry.waiting),
            )
            sides.append((described, side.to_send, tuple(side.received), tuple(side.refused), side.ups, side.downs))
            sides.append(tuple(side.waiters_told))
        pipes = tuple((tuple(one.pipes[0]), tuple(one.pipes[1]), tuple(one.open)) for one in self.attempts)
        return (tuple(sides), pipes)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check_converged(self) -> None:
        entries = [side.table.get(side.other) for side in self.sides]
        if entries[0] is None and entries[1] is None:
            assert not any(all(attempt.open) for attempt in self.attempts)
            return
        assert entries[0] is not None
        assert entries[1] is not None
        assert entries[0].state is entries[1].state is ConnectionState.UP
        assert entries[0].channel is entries[1].channel, "both are up on the same connection"
        assert [attempt for attempt in self.attempts if any(attempt.open)] == [entries[0].channel]

    def check_nothing_lost(self) -> None:
        for side, peer in (self.sides, self.sides[::-1]):
            assert peer.received == list(range(side.to_send))
            assert side.refused == []
            assert sorted(side.waiters_told) == [(f"w{number}", True) for number in range(side.waiters_made)]


def walk(world: World, programs: dict[int, list[str]], check: Any) -> int:
    """Every interleaving of deliveries and of the programs' steps; how many states there are."""
    seen: set[Any] = set()
    ends = 0
    stack = [(world, {me: tuple(steps) for me, steps in programs.items()})]
    while stack:
        world, left = stack.pop()
        key = (world.state(), tuple(sorted(left.items())))
        if key in seen:
            continue
        seen.add(key)
        steps: list[tuple[str, Any]] = [("move", move) for move in world.moves()]
        steps += [("program", me) for me, todo in left.items() if todo]
        if not steps:
            ends += 1
            check(world)
        for kind, what in steps:
            copied = copy.deepcopy(world)
            still = dict(left)
            if kind == "move":
                copied.move(*what)
            else:
                getattr(copied, left[what][0])(what)
                still[what] = left[what][1:]
            stack.append((copied, still))
    assert ends
    return len(seen)


@pytest.mark.parametrize(
    "programs",
    [
        {0: ["send", "send"], 1: ["send", "send"]},
        {0: ["connect"], 1: ["connect"]},
        {0: ["connect", "send"], 1: ["send"]},
        {0: ["send"], 1: ["send", "connect", "send"]},
        {0: ["send", "send"], 1: []},
        {0: [], 1: ["connect", "send"]},
    ],
)
def test_every_interleaving_ends_with_one_connection_and_nothing_lost(programs: dict[int, list[str]]) -> None:
    def check(world: World) -> None:
        world.check_converged()
        world.check_nothing_lost()
        assert [side.ups - side.downs for side in world.sides] == [1, 1]

    assert walk(World(), programs, check) > 10


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_a_thousand_simultaneous_connects_leave_one_connection_each(data: st.DataObject) -> None:
    world = World()
    for me in data.draw(st.permutations([0, 1])):
        world.send(me)
    for _ in range(200):
        moves = world.moves()
        if not moves:
            break
        world.move(*data.draw(st.sampled_from(moves)))
    assert not world.moves()
    world.check_converged()
    world.check_nothing_lost()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_with_failures_the_tables_still_agree_and_every_signal_has_one_fate(data: st.DataObject) -> None:
    """Either end may close any attempt at any time; patience may end. Nothing stays half open or is told twice."""
    world = World()
    for _ in range(data.draw(st.integers(1, 60))):
        steps: list[tuple[Any, ...]] = [("send", 0), ("send", 1), ("connect", 0), ("connect", 1)]
        steps += [("move", *move) for move in world.moves()] * 3
        steps += [("cut", one.number, me) for one in world.attempts for me in (0, 1) if one.open[me]]
        steps += [("end_patience",)]
        match data.draw(st.sampled_from(steps)):
            case ("move", number, me):
                world.move(number, me)
            case ("cut", number, me):
                world.close(world.attempts[number], me)
            case ("end_patience",):
                world.end_patience()
            case (name, me):
                getattr(world, name)(me)
    while moves := world.moves():
        world.move(*data.draw(st.sampled_from(moves)))
    world.end_patience()
    while moves := world.moves():
        world.move(*moves[0])
    world.check_converged()
    for side, peer in (world.sides, world.sides[::-1]):
        assert peer.received == sorted(set(peer.received)), "in order, and once"
        assert not set(peer.received) & set(side.refused), "sent, or refused"
        assert len(side.refused) == len(set(side.refused))
        told = [waiter for waiter, _ in side.waiters_told]
        assert sorted(told) == sorted(f"w{number}" for number in range(side.waiters_made)), "told exactly once"
        assert 0 <= side.ups - side.downs <= 1
