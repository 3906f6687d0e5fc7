"""Spawn requests, ours and a peer's: who gets what answer, with which ties, and what a hostile peer cannot do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_signals import FORGED, NODE, PEER, REF, REMOTE, STRANGER, assert_no_ties, inbox, new_signals, sent, spawn

from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.core.spawning import Spawning
from beamnode.errors import ProcessExit, ProtocolError
from beamnode.etf import Atom, ImproperList, Pid, Reference, a
from beamnode.wire import control
from beamnode.wire.control import SPAWN_LINKED, SPAWN_MONITORED, SpawnReply, SpawnRequest

WAITER = object()


@pytest.fixture
def signals() -> Signals:
    return new_signals()


@pytest.fixture
def spawning(signals: Signals) -> Spawning:
    return Spawning(signals)


@pytest.fixture
def process(signals: Signals) -> Process:
    return spawn(signals, trap=True)


def asked(spawning: Spawning, process: Process, *options: Any) -> Reference:
    return spawning.request(process, PEER, a.m, a.f, [1], list(options), WAITER).ref


def wanted(*options: Any, ref: Reference = REF) -> SpawnRequest:
    return SpawnRequest(ref, REMOTE, REMOTE, a.m, a.f, 2, list(options), [1, 2])


# --- Ours -------------------------------------------------------------------------------------------------------------


def test_what_a_request_says(spawning: Spawning, process: Process) -> None:
    record = spawning.request(process, PEER, a.m, a.f, [1, 2], [a.link], WAITER)
    assert record == SpawnRequest(record.ref, process.pid, process.pid, a.m, a.f, 2, [a.link], [1, 2])
    process.group_leader = REMOTE
    assert spawning.request(process, PEER, a.m, a.f, [], [], WAITER).group_leader == REMOTE


def test_an_ended_process_requests_nothing(signals: Signals, spawning: Spawning, process: Process) -> None:
    signals.end(process, a.boom)
    with pytest.raises(ProcessExit):
        asked(spawning, process)
    assert not spawning._pending


@pytest.mark.parametrize("ties", [0, SPAWN_LINKED, SPAWN_MONITORED, SPAWN_LINKED | SPAWN_MONITORED])
def test_a_reply_makes_the_ties_that_it_tells_of(
    signals: Signals, spawning: Spawning, process: Process, ties: int
) -> None:
    ref = asked(spawning, process, a.link, a.monitor)
    spawning.receive_reply(PEER, SpawnReply(ref, process.pid, ties, REMOTE))
    assert spawning.answered == [(WAITER, REMOTE, ref)]
    assert list(process.links) == ([REMOTE] if ties & SPAWN_LINKED else [])
    assert list(process.monitors) == ([ref] if ties & SPAWN_MONITORED else [])
    signals.receive(PEER, control.Exit(REMOTE, process.pid, a.boom))
    signals.receive(PEER, control.MonitorPExit(REMOTE, process.pid, ref, a.boom))
    assert inbox(process) == (
        ([(a.EXIT, REMOTE, a.boom)] if ties & SPAWN_LINKED else [])
        + ([(a.DOWN, ref, a.process, REMOTE, a.boom)] if ties & SPAWN_MONITORED else [])
    )
    assert not spawning._pending
    assert_no_ties(signals)


def test_a_refusal_is_the_answer(signals: Signals, spawning: Spawning, process: Process) -> None:
    ref = asked(spawning, process, a.link, a.monitor)
    spawning.receive_reply(PEER, SpawnReply(ref, process.pid, 0, a.notsup))
    assert spawning.answered == [(WAITER, a.notsup, ref)]
    assert_no_ties(signals)


def test_ties_with_a_process_that_has_ended_meanwhile_are_undone(
    signals: Signals, spawning: Spawning, process: Process
) -> None:
    ref = asked(spawning, process, a.link, a.monitor)
    signals.end(process, a.why)
    spawning.receive_reply(PEER, SpawnReply(ref, process.pid, SPAWN_LINKED | SPAWN_MONITORED, REMOTE))
    assert sent(signals) == [control.DemonitorP(process.pid, REMOTE, ref), control.Exit(process.pid, REMOTE, a.why)]
    assert spawning.answered == [(WAITER, REMOTE, ref)]
    assert_no_ties(signals)


def test_ties_that_nobody_waits_for_any_more_are_undone(signals: Signals, spawning: Spawning, process: Process) -> None:
    ref = asked(spawning, process, a.link, a.monitor)
    spawning.abandon(ref, sent=True)
    spawning.receive_reply(PEER, SpawnReply(ref, process.pid, SPAWN_LINKED | SPAWN_MONITORED, REMOTE))
    demonitor = control.DemonitorP(process.pid, REMOTE, ref)
    assert sent(signals) == [demonitor, control.Exit(process.pid, REMOTE, a.abandoned)]
    assert not spawning.answered
    assert not spawning._pending
    assert_no_ties(signals)


def test_a_link_made_by_hand_before_the_reply_is_the_link(
    signals: Signals, spawning: Spawning, process: Process
) -> None:
    """The new process may tell its pid to others, and they tell ours, before the reply is there."""
    ref = asked(spawning, process, a.link)
    signals.link(process, REMOTE)
    signals.unlink(process, REMOTE)
    spawning.receive_reply(PEER, SpawnReply(ref, process.pid, SPAWN_LINKED, REMOTE))
    assert not process.links[REMOTE].active, "the peer's process will see our unlink after its reply"
    abandoned = asked(spawning, process, a.link)
    spawning.abandon(abandoned, sent=True)
    signals.link(process, REMOTE)
    sent(signals)
    spawning.receive_reply(PEER, SpawnReply(abandoned, process.pid, SPAWN_LINKED, REMOTE))
    assert sent(signals) == [control.Exit2(process.pid, REMOTE, a.abandoned)]
    assert process.links[REMOTE].active


def test_what_was_not_sent_or_is_answered_is_abandoned_without_a_trace(spawning: Spawning, process: Process) -> None:
    ref = asked(spawning, process)
    spawning.abandon(ref, sent=False)
    spawning.abandon(ref, sent=True)
    assert not spawning._pending
    with pytest.raises(ProtocolError):
        spawning.receive_reply(PEER, SpawnReply(ref, process.pid, 0, REMOTE))


def test_a_lost_connection_answers_with_noconnection_once(spawning: Spawning, process: Process) -> None:
    ref, abandoned = asked(spawning, process, a.link), asked(spawning, process)
    elsewhere = spawning.request(process, STRANGER, a.m, a.f, [], [], WAITER).ref
    spawning.abandon(abandoned, sent=True)
    spawning.node_down(PEER)
    spawning.node_down(PEER)
    assert spawning.answered == [(WAITER, a.noconnection, ref)]
    assert list(spawning._pending) == [elsewhere]


def test_replies_that_answer_nothing_are_the_peers_fault(
    signals: Signals, spawning: Spawning, process: Process
) -> None:
    ref = asked(spawning, process, a.link)
    other = spawn(signals)
    for node, reply in [
        (PEER, SpawnReply(REF, process.pid, 0, REMOTE)),
        (STRANGER, SpawnReply(ref, process.pid, 0, FORGED)),
        (PEER, SpawnReply(ref, other.pid, 0, REMOTE)),
        (PEER, SpawnReply(ref, REMOTE, 0, REMOTE)),
    ]:
        with pytest.raises(ProtocolError):
            spawning.receive_reply(node, reply)
    assert list(spawning._pending) == [ref]
    assert not spawning.answered


@pytest.mark.parametrize(("flags", "result"), [(0, FORGED), (SPAWN_MONITORED, REMOTE), (4, REMOTE), (1 << 26, REMOTE)])
def test_replies_with_a_strange_pid_or_ties_not_asked_for_are_the_peers_fault(
    signals: Signals, spawning: Spawning, process: Process, flags: int, result: Pid
) -> None:
    ref = asked(spawning, process, a.link)
    with pytest.raises(ProtocolError):
        spawning.receive_reply(PEER, SpawnReply(ref, process.pid, flags, result))
    assert_no_ties(signals)


# --- Theirs -----------------------------------------------------------------------------------------------------------


def test_a_request_waits_for_the_driver(spawning: Spawning) -> None:
    record = wanted()
    spawning.receive_request(PEER, record)
    assert spawning.requests == [(PEER, record)]
    spawning.node_down(STRANGER)
    assert spawning.requests == [(PEER, record)]
    spawning.node_down(PEER)
    assert spawning.requests == []


@pytest.mark.parametrize(
    ("options", "ties"),
    [
        ((), 0),
        ((a.link,), SPAWN_LINKED),
        ((a.monitor,), SPAWN_MONITORED),
        ((a.monitor, a.link, a.monitor), SPAWN_LINKED | SPAWN_MONITORED),
        ((a.link, (a.priority, a.high), (a.max_heap_size, {a.size: 5}), (a.async_dist, True)), SPAWN_LINKED),
    ],
)
def test_what_a_peer_asks_for_is_made_and_answered(
    signals: Signals, spawning: Spawning, options: tuple[Any, ...], ties: int
) -> None:
    process = spawning.accept(wanted(*options))
    assert process is not None
    assert process.initial_call == (a.m, a.f, 2)
    assert process.group_leader == process.parent == REMOTE
    assert sent(signals) == [SpawnReply(REF, REMOTE, ties, process.pid)]
    signals.end(process, a.boom)
    exit_record = [control.Exit(process.pid, REMOTE, a.boom)] if ties & SPAWN_LINKED else []
    down_record = [control.MonitorPExit(process.pid, REMOTE, REF, a.boom)] if ties & SPAWN_MONITORED else []
    assert sent(signals) == exit_record + down_record
    assert_no_ties(signals)


def test_a_process_that_dies_at_once_does_so_after_the_reply(signals: Signals, spawning: Spawning) -> None:
    process = spawning.accept(wanted(a.link, a.monitor))
    assert process is not None
    signals.end(process, (a.undef, []))
    assert [type(record) for record in sent(signals)] == [SpawnReply, control.Exit, control.MonitorPExit]


def test_a_name_may_be_asked_for(signals: Signals, spawning: Spawning) -> None:
    process = spawning.accept(wanted((a.name, a.server), a.link))
    assert signals.whereis(a.server) is process
    sent(signals)
    assert spawning.accept(wanted((a.name, a.server), a.link)) is None
    assert sent(signals) == [SpawnReply(REF, REMOTE, 0, a.badarg)]
    assert signals.processes() == [process]


def test_the_ties_of_a_request_break_with_its_node(signals: Signals, spawning: Spawning) -> None:
    process = spawning.accept(wanted(a.link, a.monitor))
    assert process is not None
    signals.node_down(PEER)
    assert process.exit_reason is a.noconnection
    assert not sent(signals)
    assert not signals._ties


def test_a_peer_may_demonitor_by_the_reference_of_its_request(signals: Signals, spawning: Spawning) -> None:
    process = spawning.accept(wanted(a.monitor))
    assert process is not None
    signals.receive(PEER, control.DemonitorP(REMOTE, process.pid, REF))
    assert not process.watchers
    assert_no_ties(signals)


def test_two_requests_under_one_reference_leave_no_garbage(signals: Signals, spawning: Spawning) -> None:
    first, second = spawning.accept(wanted(a.monitor)), spawning.accept(wanted(a.monitor))
    assert first is not None
    assert second is not None
    signals.end(first, a.boom)
    signals.node_down(PEER)
    assert not second.watchers
    assert not signals._ties


@pytest.mark.parametrize(
    "option",
    [
        a.foo,
        "link",
        7,
        None,
        [],
        {a.link: True},
        (),
        (a.link, True),
        (a.monitor, a.x),
        (a.foo, a.bar),
        (a.priority,),
        (a.priority, 1, 2),
        ("priority", 1),
        ([], []),
        (a.name, "server"),
        (a.name, a.undefined),
        (a.name, None),
        (a.name, [a.server]),
        ImproperList((a.link,), a.monitor),
    ],
)
def test_what_is_no_option_is_refused_as_otp_refuses_it(signals: Signals, spawning: Spawning, option: Any) -> None:
    assert spawning.accept(wanted(a.link, option, (a.name, a.server))) is None
    assert sent(signals) == [SpawnReply(REF, REMOTE, 0, a.badopt)]
    assert not signals.processes()
    assert not signals.registered()
    assert_no_ties(signals)


@pytest.mark.parametrize(
    "change",
    [
        {"sender": FORGED},
        {"sender": Pid(NODE, 1, 0, 5)},
        {"ref": Reference(NODE, 5, (1, 2, 3))},
        {"ref": Reference(STRANGER, 5, (1, 2, 3))},
    ],
)
def test_requests_that_cannot_be_are_the_peers_fault(spawning: Spawning, change: dict[str, Any]) -> None:
    record = wanted()
    for name, value in change.items():
        setattr(record, name, value)
    with pytest.raises(ProtocolError):
        spawning.receive_request(PEER, record)
    assert not spawning.requests


@pytest.mark.parametrize(("args", "arity"), [([], 0), ([1], 1), ([1, 2, 3], 3), (5, 2)])
def test_the_arity_is_the_number_of_arguments_whatever_the_request_says(
    spawning: Spawning, args: Any, arity: int
) -> None:
    record = wanted()
    record.args = args
    spawning.receive_request(PEER, record)
    process = spawning.accept(record)
    assert process is not None
    assert process.initial_call == (a.m, a.f, arity)


LEAVES = st.one_of(
    st.integers(), st.none(), st.booleans(), st.binary(), st.floats(), st.sampled_from([a.link, a.monitor, a.name])
)
TERMS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner), st.tuples(inner, inner), st.dictionaries(LEAVES, inner)),
    max_leaves=8,
)
PIDS = st.builds(Pid, st.sampled_from([NODE, PEER, STRANGER]), st.integers(0, 3), st.just(0), st.sampled_from([3, 5]))
REFERENCES = st.builds(Reference, st.sampled_from([NODE, PEER, STRANGER]), st.just(5), st.tuples(st.integers(0, 3)))


@given(pid=PIDS, leader=PIDS, ref=REFERENCES, options=st.lists(TERMS), flags=st.integers(0, 7), result=PIDS)
def test_whatever_a_peer_asks_or_answers_it_is_served_refused_or_at_fault(
    pid: Pid, leader: Pid, ref: Reference, options: list[Any], flags: int, result: Pid
) -> None:
    signals = new_signals()
    spawning = Spawning(signals)
    spawning.request(spawn(signals), PEER, a.m, a.f, [], [a.link, a.monitor], WAITER)
    try:
        spawning.receive_request(PEER, SpawnRequest(ref, pid, leader, a.m, Atom("f"), 0, options, []))
    except ProtocolError:
        assert pid.node is not PEER or ref.node is not PEER
    for _, record in spawning.requests:
        spawning.accept(record)
    try:
        spawning.receive_reply(PEER, SpawnReply(ref, pid, flags, result))
    except ProtocolError:
        assert not spawning.answered
    signals.node_down(PEER)
    assert_no_ties(signals)
