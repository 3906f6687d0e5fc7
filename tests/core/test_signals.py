"""Processes, names, messages and aliases of one node. The helpers here serve the other tests of `Signals` too."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode.core.identity import Identities
from beamnode.core.process import AliasKind, Process
from beamnode.core.signals import Signals
from beamnode.errors import NameTakenError, NoProcessError, ProcessExit, ProtocolError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.wire import control

NODE = Atom("n@h")
PEER = Atom("peer@h")
STRANGER = Atom("stranger@h")

REMOTE = Pid(PEER, 7, 0, 3)  # processes of the peer
REMOTE_2 = Pid(PEER, 8, 0, 3)
FORGED = Pid(STRANGER, 7, 0, 3)  # no process of the peer, nor ours
REF = Reference(PEER, 3, (1, 2, 3))


def new_signals(node: Atom = NODE, creation: int = 5) -> Signals:
    return Signals(Identities(node, creation))


def spawn(signals: Signals, *, trap: bool = False) -> Process:
    process = signals.spawn(group_leader=None, initial_call=None)
    process.trap_exit = trap
    return process


def inbox(process: Process) -> list[Any]:
    """Take every message out of a mailbox."""
    messages = list(process.mailbox)
    process.mailbox.clear()
    return messages


def sent(signals: Signals, node: Atom = PEER) -> list[Any]:
    """Take what is to be transmitted; all of it must be for `node`."""
    outgoing, signals.outgoing[:] = list(signals.outgoing), []
    assert all(to is node for to, _ in outgoing)
    return [record for _, record in outgoing]


def assert_no_ties(signals: Signals) -> None:
    """No table holds anything but the living, and nothing is held for a peer."""
    living = set(signals.processes())
    assert all(process.alive for process in living)
    assert set(signals.names.values()) <= living
    assert set(signals._aliases.values()) <= living
    for ties in signals._ties.values():
        assert not ties.links
        assert not ties.monitors
        assert not ties.watchers


@pytest.fixture
def signals() -> Signals:
    return new_signals()


@pytest.fixture
def process(signals: Signals) -> Process:
    return spawn(signals)


# --- Processes --------------------------------------------------------------------------------------------------------


def test_a_process_is_found_until_it_ends(signals: Signals, process: Process) -> None:
    assert signals.lookup(process.pid) is process
    assert signals.processes() == [process]
    signals.end(process, a.normal)
    assert signals.lookup(process.pid) is None
    assert signals.processes() == []
    assert signals.ended == [process]


def test_only_its_own_pid_finds_a_process(signals: Signals, process: Process) -> None:
    pid = process.pid
    assert signals.lookup(Pid(PEER, pid.id, pid.serial, pid.creation)) is None
    assert signals.lookup(Pid(NODE, pid.id, pid.serial, 6)) is None
    assert signals.lookup(Pid(NODE, pid.id, pid.serial + 1, pid.creation)) is None


def test_a_process_of_an_earlier_life_is_found_by_the_pid_of_that_life(signals: Signals, process: Process) -> None:
    signals.identities.renew(6)
    younger = spawn(signals)
    assert signals.lookup(process.pid) is process
    assert signals.lookup(younger.pid) is younger
    assert signals.lookup(Pid(NODE, process.pid.id, process.pid.serial, 6)) is None
    assert signals.lookup(Pid(NODE, younger.pid.id, younger.pid.serial, 5)) is None


def test_code_of_an_ended_process_can_tie_it_to_nothing(signals: Signals, process: Process) -> None:
    other = spawn(signals)
    signals.end(process, a.boom)
    for act in (
        lambda: signals.link(process, REMOTE),
        lambda: signals.link(process, other.pid),
        lambda: signals.monitor(process, REMOTE, alias=AliasKind.DEMONITOR),
        lambda: signals.monitor(process, other.pid),
        lambda: signals.alias(process),
    ):
        with pytest.raises(ProcessExit) as caught:
            act()
        assert caught.value.reason is a.boom
    signals.unlink(process, REMOTE)
    assert not signals.demonitor(process, REF)
    assert not signals.unalias(process, REF)
    assert not sent(signals)
    assert not signals._ties
    assert not other.links
    assert not other.watchers
    assert not signals._aliases


# --- Names ------------------------------------------------------------------------------------------------------------


def test_a_name_finds_its_process_until_it_is_taken_back(signals: Signals, process: Process) -> None:
    signals.register(a.server, process)
    assert signals.whereis(a.server) is process
    assert signals.registered() == [a.server]
    assert process.name is a.server
    signals.unregister(a.server)
    assert signals.whereis(a.server) is None
    assert process.name is None
    signals.register(a.server, spawn(signals))


def test_a_name_is_free_again_when_its_process_has_ended(signals: Signals, process: Process) -> None:
    signals.register(a.server, process)
    signals.end(process, a.normal)
    assert signals.whereis(a.server) is None
    assert signals.registered() == []
    signals.register(a.server, spawn(signals))


def test_a_name_and_a_process_have_one_another_only(signals: Signals, process: Process) -> None:
    other = spawn(signals)
    signals.register(a.server, process)
    with pytest.raises(NameTakenError):
        signals.register(a.server, other)
    with pytest.raises(UsageError):
        signals.register(a.second, process)
    with pytest.raises(UsageError):
        signals.register(a.server, process)
    assert signals.registered() == [a.server]
    assert other.name is None


@pytest.mark.parametrize("name", ["", "true", "nil", "a" * 255])
def test_any_atom_but_undefined_is_a_name(signals: Signals, process: Process, name: str) -> None:
    with pytest.raises(UsageError):
        signals.register(a.undefined, process)
    signals.register(Atom(name), process)
    assert signals.whereis(Atom(name)) is process


def test_what_has_no_name_or_has_ended_cannot_lose_or_get_one(signals: Signals, process: Process) -> None:
    with pytest.raises(NoProcessError):
        signals.unregister(a.server)
    signals.end(process, a.normal)
    with pytest.raises(NoProcessError):
        signals.register(a.server, process)
    assert signals.registered() == []


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_a_waiting_process_is_put_on_the_list_once(signals: Signals, process: Process) -> None:
    process.waiting = True
    signals.deliver(process, 1)
    signals.deliver_to_pid(process.pid, 2)
    assert signals.ready == [process]
    assert not process.waiting
    assert inbox(process) == [1, 2]


def test_messages_from_elsewhere_reach_pids_and_names(signals: Signals, process: Process) -> None:
    signals.register(a.server, process)
    signals.receive(PEER, control.Send(process.pid, 1, REMOTE))
    signals.receive(PEER, control.Send(process.pid, 2))
    signals.receive(PEER, control.RegSend(REMOTE, a.server, 3))
    assert inbox(process) == [1, 2, 3]


def test_messages_to_nobody_are_dropped(signals: Signals, process: Process) -> None:
    signals.end(process, a.normal)
    signals.deliver_to_pid(process.pid, 1)
    signals.deliver_to_pid(REMOTE, 1)
    signals.receive(PEER, control.Send(process.pid, 1, REMOTE))
    signals.receive(PEER, control.Send(FORGED, 1, REMOTE))
    signals.receive(PEER, control.RegSend(REMOTE, a.server, 1))
    signals.receive(PEER, control.AliasSend(REMOTE, signals.identities.next_reference(), 1))
    assert not process.mailbox
    assert not sent(signals)


def test_a_peer_may_set_a_group_leader(signals: Signals, process: Process) -> None:
    signals.receive(PEER, control.GroupLeader(REMOTE, process.pid))
    assert process.group_leader == REMOTE
    signals.end(process, a.normal)
    signals.receive(PEER, control.GroupLeader(REMOTE_2, process.pid))
    assert process.group_leader == REMOTE


# --- Aliases ----------------------------------------------------------------------------------------------------------


def test_an_explicit_alias_works_until_it_is_told_not_to(signals: Signals, process: Process) -> None:
    alias = signals.alias(process)
    for message in (1, 2):
        signals.deliver_to_alias(alias, message)
    signals.receive(PEER, control.AliasSend(REMOTE, alias, 3))
    assert signals.unalias(process, alias)
    assert not signals.unalias(process, alias)
    signals.deliver_to_alias(alias, 4)
    assert inbox(process) == [1, 2, 3]


def test_a_reply_alias_works_once(signals: Signals, process: Process) -> None:
    alias = signals.alias(process, AliasKind.REPLY)
    signals.deliver_to_alias(alias, 1)
    signals.deliver_to_alias(alias, 2)
    assert inbox(process) == [1]
    assert not signals._aliases


def test_the_alias_of_another_process_is_not_taken_away(signals: Signals, process: Process) -> None:
    alias = signals.alias(process)
    assert not signals.unalias(spawn(signals), alias)
    signals.deliver_to_alias(alias, 1)
    assert inbox(process) == [1]


@pytest.mark.parametrize("kind", AliasKind)
def test_aliases_end_with_their_process(signals: Signals, process: Process, kind: AliasKind) -> None:
    other = spawn(signals)
    aliases = [signals.alias(process, kind), signals.monitor(process, other.pid, alias=kind)]
    signals.end(process, a.normal)
    for alias in aliases:
        signals.deliver_to_alias(alias, 1)
    assert not process.mailbox
    assert not signals._aliases
    assert not other.watchers


KEPT = {AliasKind.EXPLICIT_UNALIAS, AliasKind.REPLY}


@pytest.mark.parametrize("kind", AliasKind)
@pytest.mark.parametrize("remote", [False, True])
def test_which_aliases_end_with_a_demonitor(signals: Signals, process: Process, kind: AliasKind, remote: bool) -> None:
    alias = signals.monitor(process, REMOTE if remote else spawn(signals).pid, alias=kind)
    assert signals.demonitor(process, alias)
    signals.deliver_to_alias(alias, 1)
    assert inbox(process) == ([1] if kind in KEPT else [])


@pytest.mark.parametrize("kind", AliasKind)
@pytest.mark.parametrize("remote", [False, True])
def test_which_aliases_end_with_the_message_of_their_monitor(
    signals: Signals, process: Process, kind: AliasKind, remote: bool
) -> None:
    target = spawn(signals)
    pid = REMOTE if remote else target.pid
    alias = signals.monitor(process, pid, alias=kind)
    if remote:
        signals.receive(PEER, control.MonitorPExit(REMOTE, process.pid, alias, a.boom))
    else:
        signals.end(target, a.boom)
    signals.deliver_to_alias(alias, 1)
    assert inbox(process) == [(a.DOWN, alias, a.process, pid, a.boom)] + ([1] if kind in KEPT else [])


@pytest.mark.parametrize("kind", AliasKind)
def test_which_monitors_end_with_a_message_through_their_alias(
    signals: Signals, process: Process, kind: AliasKind
) -> None:
    target = spawn(signals)
    alias = signals.monitor(process, target.pid, alias=kind)
    signals.deliver_to_alias(alias, 1)
    signals.deliver_to_alias(alias, 2)
    signals.end(target, a.boom)
    down = (a.DOWN, alias, a.process, target.pid, a.boom)
    assert (
        inbox(process)
        == {
            AliasKind.EXPLICIT_UNALIAS: [1, 2, down],
            AliasKind.REPLY: [1, down],
            AliasKind.DEMONITOR: [1, 2, down],
            AliasKind.REPLY_DEMONITOR: [1],
        }[kind]
    )


def test_a_reply_tells_the_peer_that_its_process_is_watched_no_more(signals: Signals, process: Process) -> None:
    alias = signals.monitor(process, REMOTE, alias=AliasKind.REPLY_DEMONITOR)
    signals.receive(PEER, control.AliasSend(REMOTE, alias, a.reply))
    assert sent(signals) == [
        control.MonitorP(process.pid, REMOTE, alias),
        control.DemonitorP(process.pid, REMOTE, alias),
    ]
    signals.node_down(PEER)
    assert inbox(process) == [a.reply]
    assert_no_ties(signals)


def test_an_alias_ended_by_hand_leaves_its_monitor(signals: Signals, process: Process) -> None:
    target = spawn(signals)
    alias = signals.monitor(process, target.pid, alias=AliasKind.REPLY_DEMONITOR)
    assert signals.unalias(process, alias)
    signals.deliver_to_alias(alias, 1)
    signals.end(target, a.boom)
    assert inbox(process) == [(a.DOWN, alias, a.process, target.pid, a.boom)]


# --- Hostile peers ----------------------------------------------------------------------------------------------------


def _signals_for(to: Pid, sender: Pid, ref: Reference) -> list[Any]:
    """Every record that makes or breaks a tie."""
    return [
        control.Link(sender, to),
        control.UnlinkId(1, sender, to),
        control.UnlinkIdAck(1, sender, to),
        control.Exit(sender, to, a.boom),
        control.Exit2(sender, to, a.boom),
        control.MonitorP(sender, to, ref),
        control.DemonitorP(sender, to, ref),
        control.MonitorPExit(sender, to, ref, a.boom),
    ]


@pytest.mark.parametrize("index", range(8))
def test_ties_are_made_and_broken_in_the_name_of_the_peer_and_with_this_node_only(
    signals: Signals, process: Process, index: int
) -> None:
    reference = signals.monitor(process, FORGED)
    signals.link(process, FORGED)
    signals.outgoing.clear()
    for record in (
        _signals_for(process.pid, FORGED, reference)[index],
        _signals_for(process.pid, process.pid, reference)[index],
        _signals_for(FORGED, REMOTE, reference)[index],
        _signals_for(REMOTE, REMOTE_2, reference)[index],
    ):
        with pytest.raises(ProtocolError):
            signals.receive(PEER, record)
    assert process.alive
    assert list(process.links) == [FORGED]
    assert list(process.monitors) == [reference]
    assert not process.watchers
    assert not signals.outgoing


@pytest.mark.parametrize("index", range(8))
def test_signals_for_processes_that_are_gone_or_of_another_life_leave_nothing(signals: Signals, index: int) -> None:
    gone = spawn(signals)
    signals.end(gone, a.normal)
    for pid in (gone.pid, Pid(NODE, 1, 0, 4)):
        record = _signals_for(pid, REMOTE, REF)[index]
        signals.receive(PEER, record)
        answers = {
            control.Link: [control.Exit(pid, REMOTE, a.noproc)],
            control.UnlinkId: [control.UnlinkIdAck(1, pid, REMOTE)],
            control.MonitorP: [control.MonitorPExit(pid, REMOTE, REF, a.noproc)],
        }
        assert sent(signals) == answers.get(type(record), [])
        assert not signals._ties


def test_an_exit_to_a_name_or_an_alias_of_ours_may_come_from_a_peer(signals: Signals) -> None:
    named, aliased = spawn(signals), spawn(signals)
    signals.register(a.server, named)
    alias = signals.alias(aliased)
    signals.receive(PEER, control.Exit2(REMOTE, a.server, a.boom))
    signals.receive(PEER, control.Exit2(REMOTE, alias, a.boom))
    signals.receive(PEER, control.Exit2(REMOTE, a.server, a.boom))
    signals.receive(PEER, control.Exit2(REMOTE, alias, a.boom))
    assert named.exit_reason is aliased.exit_reason is a.boom
    with pytest.raises(ProtocolError):
        signals.receive(PEER, control.Exit2(REMOTE, REF, a.boom))
