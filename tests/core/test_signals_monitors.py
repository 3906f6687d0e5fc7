"""Monitors, by pid and by name, of processes here and elsewhere: one message at most, and none after a demonitor."""

from __future__ import annotations

from typing import Any

import pytest
from test_signals import NODE, PEER, REF, REMOTE, REMOTE_2, assert_no_ties, inbox, new_signals, sent, spawn

from beamnode.core.process import AliasKind, Process
from beamnode.core.signals import Signals
from beamnode.errors import ProtocolError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.wire import control


@pytest.fixture
def signals() -> Signals:
    return new_signals()


@pytest.fixture
def process(signals: Signals) -> Process:
    return spawn(signals)


def down(reference: Reference, about: Any, reason: Any) -> tuple[Any, ...]:
    return (a.DOWN, reference, a.process, about, reason)


# --- Ours, on processes here ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["pid", "name", "name and node"])
def test_the_end_of_a_local_process_is_told_once(signals: Signals, process: Process, by: str) -> None:
    target = spawn(signals)
    signals.register(a.server, target)
    watched = {"pid": target.pid, "name": a.server, "name and node": (a.server, NODE)}[by]
    reference = signals.monitor(process, watched)
    signals.end(target, a.boom)
    signals.end(target, a.again)
    about = target.pid if by == "pid" else (a.server, NODE)
    assert inbox(process) == [down(reference, about, a.boom)]
    assert not process.monitors
    assert not sent(signals)


def test_who_is_not_there_is_noproc_at_once(signals: Signals, process: Process) -> None:
    gone = spawn(signals)
    signals.end(gone, a.boom)
    first, second = signals.monitor(process, gone.pid), signals.monitor(process, a.server)
    third = signals.monitor(process, (a.server, NODE))
    assert inbox(process) == [
        down(first, gone.pid, a.noproc),
        down(second, (a.server, NODE), a.noproc),
        down(third, (a.server, NODE), a.noproc),
    ]
    assert not process.monitors


def test_a_name_means_the_process_that_had_it_when_the_monitor_was_made(signals: Signals, process: Process) -> None:
    first, second = spawn(signals), spawn(signals)
    signals.register(a.server, first)
    reference = signals.monitor(process, a.server)
    signals.unregister(a.server)
    signals.register(a.server, second)
    signals.end(second, a.second)
    assert inbox(process) == []
    signals.end(first, a.first)
    assert inbox(process) == [down(reference, (a.server, NODE), a.first)]


def test_each_monitor_of_one_process_is_its_own(signals: Signals, process: Process) -> None:
    target = spawn(signals)
    first, second, third = (signals.monitor(process, target.pid) for _ in range(3))
    assert signals.demonitor(process, second)
    signals.end(target, a.boom)
    assert inbox(process) == [down(first, target.pid, a.boom), down(third, target.pid, a.boom)]


@pytest.mark.parametrize("by_name", [False, True])
def test_watching_oneself_is_nothing(signals: Signals, process: Process, by_name: bool) -> None:
    signals.register(a.server, process)
    reference = signals.monitor(process, a.server if by_name else process.pid, alias=AliasKind.EXPLICIT_UNALIAS)
    assert not process.monitors
    assert not process.watchers
    assert not signals.demonitor(process, reference)
    signals.deliver_to_alias(reference, 1)
    signals.end(process, a.boom)
    assert inbox(process) == []
    assert_no_ties(signals)


def test_another_tag_takes_the_place_of_down(signals: Signals, process: Process) -> None:
    reference = signals.monitor(process, a.server, tag=(a.my, 1))
    assert inbox(process) == [((a.my, 1), reference, a.process, (a.server, NODE), a.noproc)]


def test_no_message_comes_after_a_demonitor(signals: Signals, process: Process) -> None:
    target = spawn(signals)
    reference = signals.monitor(process, target.pid)
    assert signals.demonitor(process, reference)
    assert not signals.demonitor(process, reference)
    assert not target.watchers
    signals.end(target, a.boom)
    assert inbox(process) == []


def test_flush_takes_the_message_that_came_before(signals: Signals, process: Process) -> None:
    reference, other = (signals.monitor(process, a.server, tag=tag) for tag in ([a.any, "tag"], a.DOWN))
    signals.deliver(process, (a.DOWN, reference))
    signals.deliver(process, (1, reference, 3, 4, 5))
    assert not signals.demonitor(process, reference, flush=True)
    assert inbox(process) == [
        down(other, (a.server, NODE), a.noproc),
        (a.DOWN, reference),
        (1, reference, 3, 4, 5),
    ], "one message at most, as in OTP"


def test_flush_of_a_living_monitor_leaves_the_mailbox_alone(signals: Signals, process: Process) -> None:
    reference = signals.monitor(process, spawn(signals).pid)
    message = (1, reference, 3, 4, 5)
    signals.deliver(process, message)
    assert signals.demonitor(process, reference, flush=True)
    assert inbox(process) == [message]


def test_the_monitor_of_another_process_is_not_ended(signals: Signals, process: Process) -> None:
    target, other = spawn(signals), spawn(signals)
    reference = signals.monitor(process, target.pid)
    assert not signals.demonitor(other, reference, flush=True)
    assert not signals.demonitor(other, REF)
    signals.end(target, a.boom)
    assert inbox(process) == [down(reference, target.pid, a.boom)]


def test_the_end_of_the_watching_process_ends_its_monitors(signals: Signals, process: Process) -> None:
    target = spawn(signals)
    signals.monitor(process, target.pid)
    reference = signals.monitor(process, REMOTE)
    sent(signals)
    signals.end(process, a.boom)
    assert not target.watchers
    assert sent(signals) == [control.DemonitorP(process.pid, REMOTE, reference)]
    assert_no_ties(signals)


# --- Ours, on processes elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True])
def test_the_end_of_a_remote_process_is_told_once(signals: Signals, process: Process, by_name: bool) -> None:
    target: Pid | Atom = a.server if by_name else REMOTE
    reference = signals.monitor(process, (a.server, PEER) if by_name else REMOTE)
    assert sent(signals) == [control.MonitorP(process.pid, target, reference)]
    for _ in range(2):
        signals.receive(PEER, control.MonitorPExit(target, process.pid, reference, a.boom))
    signals.node_down(PEER)
    about = (a.server, PEER) if by_name else REMOTE
    assert inbox(process) == [down(reference, about, a.boom)]
    assert_no_ties(signals)


def test_a_lost_connection_is_told_once_to_each_monitor(signals: Signals, process: Process) -> None:
    first, second = signals.monitor(process, REMOTE), signals.monitor(process, (a.server, PEER))
    signals.node_down(PEER)
    signals.node_down(PEER)
    assert inbox(process) == [down(first, REMOTE, a.noconnection), down(second, (a.server, PEER), a.noconnection)]
    signals.receive(PEER, control.MonitorPExit(REMOTE, process.pid, first, a.boom))
    assert inbox(process) == []
    assert not sent(signals), "what was to be sent is lost with the connection"
    assert not signals._ties


def test_a_demonitor_of_a_remote_process_is_told_to_its_node(signals: Signals, process: Process) -> None:
    reference = signals.monitor(process, (a.server, PEER))
    assert signals.demonitor(process, reference)
    assert sent(signals)[1:] == [control.DemonitorP(process.pid, a.server, reference)]
    signals.receive(PEER, control.MonitorPExit(a.server, process.pid, reference, a.boom))
    signals.node_down(PEER)
    assert inbox(process) == []


def test_another_node_cannot_end_a_monitor(signals: Signals, process: Process) -> None:
    reference = signals.monitor(process, REMOTE)
    stranger = Atom("stranger@h")
    signals.receive(stranger, control.MonitorPExit(a.server, process.pid, reference, a.boom))
    assert inbox(process) == []
    assert list(process.monitors) == [reference]
    assert list(signals._ties) == [PEER]


# --- Theirs, on processes here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True])
def test_a_peer_is_told_once_of_an_end(signals: Signals, process: Process, by_name: bool) -> None:
    signals.register(a.server, process)
    target: Pid | Atom = a.server if by_name else process.pid
    signals.receive(PEER, control.MonitorP(REMOTE, target, REF))
    assert [watcher.pid for watcher in process.watchers.values()] == [REMOTE]
    signals.unregister(a.server)
    signals.end(process, a.boom)
    assert sent(signals) == [control.MonitorPExit(target, REMOTE, REF, a.boom)]
    assert_no_ties(signals)


def test_a_peer_that_monitors_nobody_is_told_noproc(signals: Signals) -> None:
    signals.receive(PEER, control.MonitorP(REMOTE, a.server, REF))
    assert sent(signals) == [control.MonitorPExit(a.server, REMOTE, REF, a.noproc)]


def test_a_peer_may_change_its_mind(signals: Signals, process: Process) -> None:
    signals.register(a.server, process)
    signals.receive(PEER, control.MonitorP(REMOTE, a.server, REF))
    signals.receive(PEER, control.DemonitorP(REMOTE, a.server, REF))
    signals.receive(PEER, control.DemonitorP(REMOTE, a.server, REF))
    signals.end(process, a.boom)
    assert not sent(signals)
    assert_no_ties(signals)


def test_a_peer_that_is_gone_is_not_told(signals: Signals, process: Process) -> None:
    signals.receive(PEER, control.MonitorP(REMOTE, process.pid, REF))
    signals.node_down(PEER)
    assert not process.watchers
    signals.end(process, a.boom)
    assert not sent(signals)


def test_a_reference_used_twice_is_forgotten_where_it_was_used_first(signals: Signals, process: Process) -> None:
    other = spawn(signals)
    for target in (process, process, other):
        signals.receive(PEER, control.MonitorP(REMOTE, target.pid, REF))
    assert not process.watchers
    signals.end(process, a.boom)
    assert not sent(signals)
    signals.end(other, a.boom)
    assert sent(signals) == [control.MonitorPExit(other.pid, REMOTE, REF, a.boom)]
    assert_no_ties(signals)


def test_a_peer_cannot_monitor_under_the_reference_of_another(signals: Signals, process: Process) -> None:
    mine = signals.monitor(spawn(signals), process.pid)
    for reference in (mine, Reference(Atom("stranger@h"), 1, (1, 2, 3))):
        with pytest.raises(ProtocolError):
            signals.receive(PEER, control.MonitorP(REMOTE, process.pid, reference))
    assert list(process.watchers) == [mine]


def test_monitors_of_a_peer_go_both_ways_at_once(signals: Signals, process: Process) -> None:
    signals.receive(PEER, control.MonitorP(REMOTE, process.pid, REF))
    signals.receive(PEER, control.Link(REMOTE_2, process.pid))
    process.trap_exit = True
    reference = signals.monitor(process, REMOTE)
    signals.node_down(PEER)
    assert inbox(process) == [(a.EXIT, REMOTE_2, a.noconnection), down(reference, REMOTE, a.noconnection)]
    assert not process.watchers
    assert_no_ties(signals)


# --- One watcher is told, and the process lives on --------------------------------------------------------------------


def test_one_watcher_here_is_told_what_is_no_end(signals: Signals, process: Process) -> None:
    server = spawn(signals)
    first, second = (signals.monitor(process, server.pid, alias=AliasKind.REPLY_DEMONITOR) for _ in range(2))
    assert signals.tell_watcher(server, first, a.refused)
    assert inbox(process) == [down(first, server.pid, a.refused)]
    assert list(process.monitors) == list(process.aliases) == list(server.watchers) == [second]
    assert not signals.tell_watcher(server, first, a.refused)
    assert not signals.tell_watcher(process, second, a.refused)
    signals.end(server, a.boom)
    assert inbox(process) == [down(second, server.pid, a.boom)]


@pytest.mark.parametrize("by_name", [False, True])
def test_one_watcher_elsewhere_is_told_what_is_no_end(signals: Signals, process: Process, by_name: bool) -> None:
    signals.register(a.server, process)
    target = a.server if by_name else process.pid
    signals.receive(PEER, control.MonitorP(REMOTE, target, REF))
    assert signals.tell_watcher(process, REF, a.refused)
    assert sent(signals) == [control.MonitorPExit(target, REMOTE, REF, a.refused)]
    assert_no_ties(signals)
    assert not signals.tell_watcher(process, REF, a.refused)
    signals.end(process, a.boom)
    assert not sent(signals)


def test_who_works_for_the_watcher_that_is_told_ends(signals: Signals, process: Process) -> None:
    worker = spawn(signals)
    reference = signals.monitor(process, worker.pid)
    signals.end_unwatched(worker)
    assert signals.tell_watcher(worker, reference, a.refused)
    assert worker.exit_reason is a.killed
