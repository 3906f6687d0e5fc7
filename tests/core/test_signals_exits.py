"""Exit signals: what each does to its receiver, and how the end of a process spreads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from test_signals import PEER, REF, REMOTE, REMOTE_2, STRANGER, assert_no_ties, inbox, new_signals, sent, spawn

from beamnode.core.process import NOTHING, Process
from beamnode.core.signals import Signals
from beamnode.etf import Pid, Reference, a
from beamnode.wire import control

REASONS = {"normal": a.normal, "kill": a.kill, "other": (a.some, "term")}
OTHER = REASONS["other"]


# --- One signal -------------------------------------------------------------------------------------------------------

# how, who sends, the reason, does the receiver trap -> (the reason it ends with, or NOTHING; the reason in its message)
TABLE: dict[tuple[str, str, str, bool], tuple[Any, Any]] = {
    ("exit/2", "self", "normal", False): (a.normal, NOTHING),
    ("exit/2", "self", "normal", True): (NOTHING, a.normal),
    ("exit/2", "self", "kill", False): (a.killed, NOTHING),
    ("exit/2", "self", "kill", True): (a.killed, NOTHING),
    ("exit/2", "self", "other", False): (OTHER, NOTHING),
    ("exit/2", "self", "other", True): (NOTHING, OTHER),
    **{
        (how, sender, reason, trap): effect
        for sender in ("local", "remote")
        for (how, reason, trap), effect in {
            ("exit/2", "normal", False): (NOTHING, NOTHING),
            ("exit/2", "normal", True): (NOTHING, a.normal),
            ("exit/2", "kill", False): (a.killed, NOTHING),
            ("exit/2", "kill", True): (a.killed, NOTHING),
            ("exit/2", "other", False): (OTHER, NOTHING),
            ("exit/2", "other", True): (NOTHING, OTHER),
            ("link", "normal", False): (NOTHING, NOTHING),
            ("link", "normal", True): (NOTHING, a.normal),
            ("link", "kill", False): (a.kill, NOTHING),
            ("link", "kill", True): (NOTHING, a.kill),
            ("link", "other", False): (OTHER, NOTHING),
            ("link", "other", True): (NOTHING, OTHER),
        }.items()
    },
}


@pytest.mark.parametrize(("how", "sender", "reason", "trap"), TABLE)
def test_what_an_exit_signal_does(how: str, sender: str, reason: str, trap: bool) -> None:
    signals = new_signals()
    process, other = spawn(signals, trap=trap), spawn(signals)
    if how == "link":
        signals.link(process, REMOTE if sender == "remote" else other.pid)
        sent(signals)
    pid = {"self": process.pid, "local": other.pid, "remote": REMOTE}[sender]
    match how, sender:
        case "exit/2", "remote":
            signals.receive(PEER, control.Exit2(REMOTE, process.pid, REASONS[reason]))
        case "exit/2", _:
            signals.exit(pid, process.pid, REASONS[reason])
        case "link", "remote":
            signals.receive(PEER, control.Exit(REMOTE, process.pid, REASONS[reason]))
        case _:
            signals.end(other, REASONS[reason])
    ends_with, told = TABLE[how, sender, reason, trap]
    assert process.exit_reason == ends_with
    assert inbox(process) == ([] if told is NOTHING else [(a.EXIT, pid, told)])
    assert not process.links
    assert not sent(signals)
    assert_no_ties(signals)


def test_an_exit_by_exit2_leaves_the_link() -> None:
    signals = new_signals()
    process, other = spawn(signals, trap=True), spawn(signals)
    signals.link(process, other.pid)
    signals.exit(other.pid, process.pid, a.boom)
    assert list(process.links) == [other.pid]


def test_an_exit_for_another_node_is_sent_there() -> None:
    signals = new_signals()
    process = spawn(signals)
    signals.exit(process.pid, REMOTE, a.kill)
    assert sent(signals) == [control.Exit2(process.pid, REMOTE, a.kill)]


def test_an_exit_for_a_process_that_has_ended_is_nothing() -> None:
    signals = new_signals()
    process, gone = spawn(signals), spawn(signals)
    signals.end(gone, a.normal)
    signals.exit(process.pid, gone.pid, a.kill)
    assert gone.exit_reason is a.normal
    assert not sent(signals)


def test_a_link_to_one_that_is_killed_breaks_with_killed() -> None:
    signals = new_signals()
    process, linked, trapping = spawn(signals, trap=True), spawn(signals), spawn(signals, trap=True)
    signals.link(process, linked.pid)
    signals.link(linked, trapping.pid)
    reference = signals.monitor(trapping, process.pid)
    signals.exit(trapping.pid, process.pid, a.kill)
    assert linked.exit_reason is a.killed
    assert inbox(trapping) == [
        (a.DOWN, reference, a.process, process.pid, a.killed),
        (a.EXIT, linked.pid, a.killed),
    ]


# --- The end of a process ---------------------------------------------------------------------------------------------


def test_an_end_is_told_to_everybody_once() -> None:
    signals = new_signals()
    process, linked, watching = spawn(signals), spawn(signals, trap=True), spawn(signals)
    signals.link(process, linked.pid)
    local = signals.monitor(watching, process.pid)
    watched = signals.monitor(process, watching.pid)
    signals.link(process, REMOTE)
    signals.receive(PEER, control.MonitorP(REMOTE_2, process.pid, REF))
    remote = signals.monitor(process, (a.server, PEER))
    signals.alias(process)
    signals.register(a.name, process)
    sent(signals)
    for reason in (OTHER, a.again):
        signals.end(process, reason)
    assert process.exit_reason == OTHER
    assert signals.ended == [process]
    assert inbox(linked) == [(a.EXIT, process.pid, OTHER)]
    assert inbox(watching) == [(a.DOWN, local, a.process, process.pid, OTHER)]
    assert sent(signals) == [
        control.Exit(process.pid, REMOTE, OTHER),
        control.MonitorPExit(process.pid, REMOTE_2, REF, OTHER),
        control.DemonitorP(process.pid, a.server, remote),
    ]
    assert not any([process.links, process.watchers, process.monitors, process.aliases])
    assert not any([linked.links, watching.monitors, watching.watchers])
    assert watched != remote
    assert_no_ties(signals)


def test_to_who_is_linked_and_watches_the_exit_comes_before_the_down() -> None:
    signals = new_signals()
    process, other = spawn(signals), spawn(signals, trap=True)
    reference = signals.monitor(other, process.pid)
    signals.link(other, process.pid)
    signals.receive(PEER, control.MonitorP(REMOTE, process.pid, REF))
    signals.receive(PEER, control.Link(REMOTE, process.pid))
    signals.end(process, a.boom)
    down = (a.DOWN, reference, a.process, process.pid, a.boom)
    assert inbox(other) == [(a.EXIT, process.pid, a.boom), down]
    assert [type(record) for record in sent(signals)] == [control.Exit, control.MonitorPExit]


def _chain(signals: Signals, length: int) -> list[Process]:
    processes = [spawn(signals) for _ in range(length)]
    for one, next_one in pairwise(processes):
        signals.link(one, next_one.pid)
    return processes


@pytest.mark.parametrize("first", [0, 5_000, 9_999])
def test_a_long_chain_of_links_ends_without_depth(first: int) -> None:
    signals = new_signals()
    chain = _chain(signals, 10_000)
    witness = spawn(signals, trap=True)
    signals.link(witness, chain[0].pid)
    signals.link(witness, chain[-1].pid)
    signals.end(chain[first], a.boom)
    assert all(process.exit_reason is a.boom for process in chain)
    assert sorted(message[1].id for message in inbox(witness)) == [chain[0].pid.id, chain[-1].pid.id]
    assert len(signals.ended) == 10_000
    assert signals.processes() == [witness]
    assert_no_ties(signals)


def test_a_long_chain_of_links_and_monitors_ends_with_a_lost_node() -> None:
    signals = new_signals()
    chain = _chain(signals, 10_000)
    for process in chain[::1000]:
        signals.link(process, REMOTE)
        signals.monitor(process, REMOTE)
    sent(signals)
    signals.node_down(PEER)
    assert not signals.processes()
    assert not sent(signals)
    assert not signals._ties


def test_a_ring_and_a_crowd_of_links_end_once_each() -> None:
    signals = new_signals()
    ring = _chain(signals, 50)
    for process in ring:
        for other in ring:
            signals.link(process, other.pid)
    signals.end(ring[7], a.boom)
    assert len(signals.ended) == len(set(signals.ended)) == 50
    assert_no_ties(signals)


def test_a_normal_end_stops_at_those_that_do_not_trap_exits() -> None:
    signals = new_signals()
    first, second, third = _chain(signals, 3)
    third.trap_exit = True
    signals.end(first, a.normal)
    assert second.alive
    assert not inbox(third)
    assert not first.links
    assert list(second.links) == [third.pid]


def test_two_that_watch_each_other_end_in_any_order() -> None:
    signals = new_signals()
    first, second = spawn(signals), spawn(signals)
    signals.link(first, second.pid)
    signals.monitor(first, second.pid)
    signals.monitor(second, first.pid)
    signals.end(first, a.boom)
    assert not second.alive
    assert not first.mailbox
    assert not second.mailbox
    assert_no_ties(signals)


def test_one_ending_costs_its_own_ties_only() -> None:
    """Counted, not timed: the tables of a process that many are tied to are not walked when one of them ends."""
    signals = new_signals()
    hub = spawn(signals, trap=True)

    class Counted(dict[Pid | Reference, Any]):
        walks = 0

        def items(self) -> Any:
            Counted.walks += 1
            return super().items()

        values = keys = __iter__ = items

    hub.links, hub.monitors, hub.watchers = Counted(), Counted(), Counted()
    leaves = [spawn(signals) for _ in range(100)]
    for leaf in leaves:
        signals.link(leaf, hub.pid)
        signals.monitor(leaf, hub.pid)
        signals.monitor(hub, leaf.pid)
    for leaf in leaves:
        signals.end(leaf, a.boom)
    assert Counted.walks == 0
    assert not any([hub.links, hub.monitors, hub.watchers])


# --- Lost connections -------------------------------------------------------------------------------------------------


def test_a_lost_node_breaks_each_tie_once_and_is_sent_nothing_more() -> None:
    signals = new_signals()
    process, linked = spawn(signals), spawn(signals)
    trapping = spawn(signals, trap=True)
    signals.link(process, linked.pid)
    for one in (process, linked, trapping):
        signals.link(one, REMOTE)
        signals.monitor(one, REMOTE_2)
    signals.receive(PEER, control.MonitorP(REMOTE, linked.pid, REF))
    signals.exit(trapping.pid, REMOTE, a.boom)
    signals.node_down(PEER)
    assert not sent(signals)
    assert process.exit_reason is linked.exit_reason is a.noconnection
    assert [message[0] for message in inbox(trapping)] == [a.EXIT, a.DOWN]
    assert signals.processes() == [trapping]
    signals.node_down(PEER)
    assert not inbox(trapping)
    assert not signals._ties


def test_a_lost_node_leaves_the_ties_with_others() -> None:
    signals = new_signals()
    elsewhere = Pid(STRANGER, 1, 0, 1)
    process = spawn(signals)
    signals.link(process, elsewhere)
    reference = signals.monitor(process, elsewhere)
    signals.node_down(PEER)
    assert process.alive
    assert list(process.links) == [elsewhere]
    assert list(process.monitors) == [reference]
    assert len(sent(signals, STRANGER)) == 2
