"""The link protocol between nodes, every state with every signal, and links within one node.

One side of a link between nodes is in one of three states: there is none, it is active, or an unlink waits for its
acknowledgement. Source: `erl_dist_protocol`, "Link Protocol".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from test_signals import NODE, PEER, REMOTE, REMOTE_2, assert_no_ties, inbox, new_signals, sent, spawn

from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.errors import NoProcessError
from beamnode.etf import Pid, a
from beamnode.wire import control


class State(Enum):
    NONE = "none"
    ACTIVE = "active"
    UNLINKING = "unlinking"


NONE, ACTIVE, UNLINKING = State


def made(state: State, *, trap: bool = True) -> tuple[Signals, Process]:
    """A process whose link with REMOTE is in that state. The unlink that waits has the id 1."""
    signals = new_signals()
    process = spawn(signals, trap=trap)
    if state is not NONE:
        signals.link(process, REMOTE)
    if state is UNLINKING:
        signals.unlink(process, REMOTE)
    signals.outgoing.clear()
    return signals, process


def state_of(signals: Signals, process: Process) -> State:
    """The state, by the process; the index by node must agree with it."""
    entry = process.links.get(REMOTE)
    ties = signals._ties.get(PEER)
    indexed = ties is not None and ties.links.get((process.pid, REMOTE)) is process
    assert indexed is (entry is not None)
    if entry is None:
        return NONE
    return ACTIVE if entry.active else UNLINKING


Act = Callable[[Signals, Process], Any]


def receives(make: Callable[[Pid], Any]) -> Act:
    return lambda signals, process: signals.receive(PEER, make(process.pid))


INPUTS: dict[str, Act] = {
    "LINK": receives(lambda pid: control.Link(REMOTE, pid)),
    "UNLINK_ID": receives(lambda pid: control.UnlinkId(77, REMOTE, pid)),
    "ACK of ours": receives(lambda pid: control.UnlinkIdAck(1, REMOTE, pid)),
    "ACK of another": receives(lambda pid: control.UnlinkIdAck(2, REMOTE, pid)),
    "EXIT": receives(lambda pid: control.Exit(REMOTE, pid, a.boom)),
    "link": lambda signals, process: signals.link(process, REMOTE),
    "unlink": lambda signals, process: signals.unlink(process, REMOTE),
    "end": lambda signals, process: signals.end(process, a.boom),
    "node_down": lambda signals, process: signals.node_down(PEER),
}


def ack(pid: Pid) -> Any:
    return control.UnlinkIdAck(77, pid, REMOTE)


def unlink(pid: Pid) -> Any:
    return control.UnlinkId(1, pid, REMOTE)


def link(pid: Pid) -> Any:
    return control.Link(pid, REMOTE)


def exit_boom(pid: Pid) -> Any:
    return control.Exit(pid, REMOTE, a.boom)


# state, input -> next state, what is sent, the reason in the EXIT message that the (trapping) process gets
TRANSITIONS: dict[tuple[State, str], tuple[State, list[Callable[[Pid], Any]], Any]] = {
    (NONE, "LINK"): (ACTIVE, [], None),
    (NONE, "UNLINK_ID"): (NONE, [ack], None),
    (NONE, "ACK of ours"): (NONE, [], None),
    (NONE, "ACK of another"): (NONE, [], None),
    (NONE, "EXIT"): (NONE, [], None),
    (NONE, "link"): (ACTIVE, [link], None),
    (NONE, "unlink"): (NONE, [], None),
    (NONE, "end"): (NONE, [], None),
    (NONE, "node_down"): (NONE, [], None),
    (ACTIVE, "LINK"): (ACTIVE, [], None),
    (ACTIVE, "UNLINK_ID"): (NONE, [ack], None),
    (ACTIVE, "ACK of ours"): (ACTIVE, [], None),
    (ACTIVE, "ACK of another"): (ACTIVE, [], None),
    (ACTIVE, "EXIT"): (NONE, [], a.boom),
    (ACTIVE, "link"): (ACTIVE, [], None),
    (ACTIVE, "unlink"): (UNLINKING, [unlink], None),
    (ACTIVE, "end"): (NONE, [exit_boom], None),
    (ACTIVE, "node_down"): (NONE, [], a.noconnection),
    (UNLINKING, "LINK"): (UNLINKING, [], None),
    (UNLINKING, "UNLINK_ID"): (UNLINKING, [ack], None),
    (UNLINKING, "ACK of ours"): (NONE, [], None),
    (UNLINKING, "ACK of another"): (UNLINKING, [], None),
    (UNLINKING, "EXIT"): (NONE, [], None),
    (UNLINKING, "link"): (ACTIVE, [link], None),
    (UNLINKING, "unlink"): (UNLINKING, [], None),
    (UNLINKING, "end"): (NONE, [], None),
    (UNLINKING, "node_down"): (NONE, [], None),
}


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == {(state, given) for state in State for given in INPUTS}


@pytest.mark.parametrize(("state", "given"), TRANSITIONS, ids=lambda value: getattr(value, "value", value))
def test_every_state_with_every_input(state: State, given: str) -> None:
    after, records, reason = TRANSITIONS[state, given]
    signals, process = made(state)
    INPUTS[given](signals, process)
    assert state_of(signals, process) is after
    assert sent(signals) == [make(process.pid) for make in records]
    assert inbox(process) == ([] if reason is None else [(a.EXIT, REMOTE, reason)])


@pytest.mark.parametrize("given", ["EXIT", "node_down"])
def test_a_broken_link_ends_a_process_that_does_not_trap_exits(given: str) -> None:
    signals, process = made(ACTIVE, trap=False)
    other = spawn(signals, trap=True)
    signals.link(process, other.pid)
    INPUTS[given](signals, process)
    reason = a.boom if given == "EXIT" else a.noconnection
    assert process.exit_reason is reason
    assert inbox(other) == [(a.EXIT, process.pid, reason)]
    assert not sent(signals)
    assert_no_ties(signals)


def test_an_ack_of_an_unlink_before_the_last_one_ends_nothing() -> None:
    signals, process = made(UNLINKING)
    signals.link(process, REMOTE)
    signals.unlink(process, REMOTE)
    assert [type(record) for record in sent(signals)] == [control.Link, control.UnlinkId]
    signals.receive(PEER, control.UnlinkIdAck(1, REMOTE, process.pid))
    assert state_of(signals, process) is UNLINKING
    signals.receive(PEER, control.UnlinkIdAck(2, REMOTE, process.pid))
    assert state_of(signals, process) is NONE


def test_an_exit_after_linking_anew_is_that_of_the_link() -> None:
    """The peer's process ended before it saw our unlink and our second link."""
    signals, process = made(UNLINKING)
    signals.link(process, REMOTE)
    INPUTS["EXIT"](signals, process)
    INPUTS["ACK of ours"](signals, process)
    signals.receive(PEER, control.Exit(REMOTE, process.pid, a.noproc))
    assert inbox(process) == [(a.EXIT, REMOTE, a.boom)]
    assert state_of(signals, process) is NONE


def test_links_of_two_processes_with_one_peer_are_two() -> None:
    signals = new_signals()
    first, second = spawn(signals, trap=True), spawn(signals, trap=True)
    for process in (first, second):
        signals.link(process, REMOTE)
        signals.link(process, REMOTE_2)
    signals.receive(PEER, control.Exit(REMOTE, first.pid, a.boom))
    assert list(first.links) == [REMOTE_2]
    assert list(second.links) == [REMOTE, REMOTE_2]
    signals.node_down(PEER)
    assert inbox(first) == [(a.EXIT, REMOTE, a.boom), (a.EXIT, REMOTE_2, a.noconnection)]
    assert inbox(second) == [(a.EXIT, REMOTE, a.noconnection), (a.EXIT, REMOTE_2, a.noconnection)]
    assert_no_ties(signals)


# --- Two nodes --------------------------------------------------------------------------------------------------------


class Wire:
    """Two nodes, a process on each, and what is under way between them."""

    def __init__(self) -> None:
        self.here, self.there = new_signals(), new_signals(PEER, 3)
        self.ours, self.theirs = spawn(self.here, trap=True), spawn(self.there, trap=True)

    def carry(self) -> None:
        """Everything arrives, both ways, until there is nothing more to say."""
        while self.here.outgoing or self.there.outgoing:
            for record in sent(self.here, PEER):
                self.there.receive(NODE, record)
            for record in sent(self.there, NODE):
                self.here.receive(PEER, record)

    def linked(self) -> tuple[bool, bool]:
        mine, his = self.ours.links.get(self.theirs.pid), self.theirs.links.get(self.ours.pid)
        return mine is not None and mine.active, his is not None and his.active


@pytest.mark.parametrize("words", ["ll", "lu/ul", "lul/", "lul/u", "lulu/lul", "lul/lulul", "l/lul", "lu/l", "/"])
@pytest.mark.parametrize("linked_before", [False, True])
def test_links_that_cross_end_alike_on_both_sides(words: str, linked_before: bool) -> None:
    wire = Wire()
    if linked_before:
        wire.here.link(wire.ours, wire.theirs.pid)
        wire.carry()
        assert wire.linked() == (True, True)
    here, _, there = words.partition("/")
    for word in here:
        (wire.here.link if word == "l" else wire.here.unlink)(wire.ours, wire.theirs.pid)
    for word in there:
        (wire.there.link if word == "l" else wire.there.unlink)(wire.theirs, wire.ours.pid)
    wire.carry()
    mine, his = wire.linked()
    assert mine is his
    wire.here.end(wire.ours, a.boom)
    wire.carry()
    assert inbox(wire.theirs) == ([(a.EXIT, wire.ours.pid, a.boom)] if mine else [])
    assert_no_ties(wire.here)
    assert_no_ties(wire.there)


def test_a_link_to_a_remote_process_that_is_gone_is_broken_with_noproc() -> None:
    wire = Wire()
    wire.there.end(wire.theirs, a.normal)
    wire.here.link(wire.ours, wire.theirs.pid)
    wire.carry()
    assert inbox(wire.ours) == [(a.EXIT, wire.theirs.pid, a.noproc)]
    assert_no_ties(wire.here)


# --- Within one node --------------------------------------------------------------------------------------------------


def test_a_link_within_a_node_is_on_both_sides_or_on_none() -> None:
    signals = new_signals()
    first, second = spawn(signals), spawn(signals)
    for _ in range(2):
        signals.link(first, second.pid)
    signals.link(second, first.pid)
    assert list(first.links) == [second.pid]
    assert list(second.links) == [first.pid]
    signals.unlink(second, first.pid)
    signals.unlink(first, second.pid)
    assert not first.links
    assert not second.links
    signals.end(first, a.boom)
    assert second.alive


def test_a_link_with_oneself_is_none() -> None:
    signals = new_signals()
    process = spawn(signals, trap=True)
    signals.link(process, process.pid)
    signals.unlink(process, process.pid)
    assert not process.links
    signals.end(process, a.boom)
    assert not process.mailbox


def test_a_link_to_a_local_process_that_is_gone() -> None:
    signals = new_signals()
    process, trapping, gone = spawn(signals), spawn(signals, trap=True), spawn(signals)
    signals.end(gone, a.normal)
    with pytest.raises(NoProcessError):
        signals.link(process, gone.pid)
    assert process.alive
    signals.link(trapping, gone.pid)
    assert inbox(trapping) == [(a.EXIT, gone.pid, a.noproc)]
    old = Pid(NODE, process.pid.id, process.pid.serial, 4)
    signals.link(trapping, old)
    assert inbox(trapping) == [(a.EXIT, old, a.noproc)]
    assert not process.links
    assert not trapping.links
