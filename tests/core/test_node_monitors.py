"""Who is told of nodes that come and go, with what, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode.core.identity import Identities
from beamnode.core.node_monitors import NodeMonitors, Subscription
from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.errors import ProcessExit
from beamnode.etf import Atom, a

PEER = Atom("peer@h")
OTHER = Atom("other@h")
ALL_ABOUT_IT = Subscription(a.all, tell_node_type=True, nodedown_reason=True, connection_id=True)


@pytest.fixture
def signals() -> Signals:
    return Signals(Identities(Atom("n@h"), 5))


@pytest.fixture
def monitors(signals: Signals) -> NodeMonitors:
    return NodeMonitors(signals)


@pytest.fixture
def process(signals: Signals) -> Process:
    return signals.spawn(group_leader=None, initial_call=None)


def inbox(process: Process) -> list[Any]:
    messages = list(process.mailbox)
    process.mailbox.clear()
    return messages


def empty(monitors: NodeMonitors) -> bool:
    return not monitors._subscriptions and not monitors._watching


def test_without_options_visible_nodes_are_told_of_in_pairs(monitors: NodeMonitors, process: Process) -> None:
    monitors.subscribe(process, Subscription())
    for node_type in (a.visible, a.hidden):
        monitors.node_up(PEER, node_type, 1)
        monitors.node_down(PEER, node_type, 1, a.connection_closed)
    assert inbox(process) == [(a.nodeup, PEER), (a.nodedown, PEER)]


@pytest.mark.parametrize(
    ("wanted", "told"), [("visible", ["visible"]), ("hidden", ["hidden"]), ("all", ["visible", "hidden"])]
)
def test_node_type_chooses_and_is_told(monitors: NodeMonitors, process: Process, wanted: str, told: list[str]) -> None:
    monitors.subscribe(process, Subscription(Atom(wanted), tell_node_type=True))
    monitors.node_up(PEER, a.visible, 1)
    monitors.node_up(PEER, a.hidden, 2)
    assert inbox(process) == [(a.nodeup, PEER, {a.node_type: Atom(name)}) for name in told]


def test_only_what_was_asked_for_is_told_and_a_reason_only_of_an_end(monitors: NodeMonitors, process: Process) -> None:
    monitors.subscribe(process, Subscription(nodedown_reason=True))
    monitors.subscribe(process, Subscription(connection_id=True))
    monitors.subscribe(process, ALL_ABOUT_IT)
    monitors.node_up(PEER, a.visible, 7)
    monitors.node_down(PEER, a.visible, 7, a.net_tick_timeout)
    everything = {a.node_type: a.visible, a.connection_id: 7}
    assert inbox(process) == [
        (a.nodeup, PEER, {}),
        (a.nodeup, PEER, {a.connection_id: 7}),
        (a.nodeup, PEER, everything),
        (a.nodedown, PEER, {a.nodedown_reason: a.net_tick_timeout}),
        (a.nodedown, PEER, {a.connection_id: 7}),
        (a.nodedown, PEER, {**everything, a.nodedown_reason: a.net_tick_timeout}),
    ]


def test_each_message_has_a_map_of_its_own(monitors: NodeMonitors, process: Process) -> None:
    monitors.subscribe(process, ALL_ABOUT_IT)
    monitors.subscribe(process, ALL_ABOUT_IT)
    monitors.node_up(PEER, a.visible, 7)
    first, second = inbox(process)
    assert first == second
    assert first[2] is not second[2]


def test_subscribed_twice_is_told_twice_and_ended_at_once(monitors: NodeMonitors, process: Process) -> None:
    for _ in range(2):
        monitors.subscribe(process, Subscription())
    monitors.subscribe(process, ALL_ABOUT_IT)
    monitors.node_up(PEER, a.visible, 1)
    assert [len(message) for message in inbox(process)] == [2, 2, 3]
    monitors.unsubscribe(process, Subscription())
    monitors.node_up(PEER, a.visible, 1)
    assert [len(message) for message in inbox(process)] == [3]
    monitors.unsubscribe(process, ALL_ABOUT_IT)
    monitors.unsubscribe(process, ALL_ABOUT_IT)
    assert empty(monitors)


def test_a_watched_node_is_told_of_as_often_as_it_was_asked_for_and_no_more(
    monitors: NodeMonitors, process: Process
) -> None:
    for _ in range(3):
        monitors.monitor(process, PEER)
    monitors.monitor(process, OTHER)
    monitors.demonitor(process, PEER)
    monitors.node_down(PEER, a.hidden, 1, a.connection_closed)
    assert inbox(process) == [(a.nodedown, PEER)] * 2
    monitors.node_down(PEER, a.hidden, 2, a.connection_closed)
    assert inbox(process) == []
    monitors.tell_watchers(OTHER)
    assert inbox(process) == [(a.nodedown, OTHER)]
    assert empty(monitors)


def test_a_demonitor_too_many_is_nothing(monitors: NodeMonitors, process: Process) -> None:
    monitors.demonitor(process, PEER)
    monitors.monitor(process, PEER)
    monitors.demonitor(process, PEER)
    monitors.demonitor(process, PEER)
    monitors.tell_watchers(PEER)
    assert inbox(process) == []
    assert empty(monitors)


def test_an_ended_process_is_told_nothing_and_forgotten(
    signals: Signals, monitors: NodeMonitors, process: Process
) -> None:
    witness = signals.spawn(group_leader=None, initial_call=None)
    for one in (process, witness):
        monitors.subscribe(one, Subscription())
        monitors.monitor(one, PEER)
    monitors.monitor(process, OTHER)
    signals.end(process, a.normal)
    monitors.node_up(PEER, a.visible, 1)
    monitors.forget(process)
    monitors.forget(process)
    monitors.node_down(PEER, a.visible, 1, a.connection_closed)
    assert inbox(process) == []
    assert inbox(witness) == [(a.nodeup, PEER), (a.nodedown, PEER), (a.nodedown, PEER)]
    monitors.forget(witness)
    assert empty(monitors)


def test_a_process_that_ends_between_its_end_and_its_being_forgotten_is_told_nothing(
    signals: Signals, monitors: NodeMonitors, process: Process
) -> None:
    monitors.monitor(process, PEER)
    signals.end(process, a.normal)
    monitors.tell_watchers(PEER)
    monitors.forget(process)
    assert inbox(process) == []
    assert empty(monitors)


def test_an_ended_process_cannot_subscribe(signals: Signals, monitors: NodeMonitors, process: Process) -> None:
    signals.end(process, a.boom)
    with pytest.raises(ProcessExit):
        monitors.subscribe(process, Subscription())
    with pytest.raises(ProcessExit):
        monitors.monitor(process, PEER)
    assert empty(monitors)
