"""Locks, names, resolve functions, reports of losses: the tables of the machine, by the messages that change them."""

from __future__ import annotations

from typing import Any

import pytest
from test_global_name_server import FOURTH, GEN_CALL, GLOBAL, ME, PEER, THIRD, Lone, pid, plain

from beamnode.etf.terms import Atom, Export, Fun, ImproperList, Pid, a
from beamnode.services import global_partitions
from beamnode.services.global_actions import Action, Disconnect, Exit, Log, Reply, Send
from beamnode.services.global_resolver import RESOLVER_CRASHED, resolve_it
from beamnode.services.global_terms import TERM_DEPTH_MAX, TermTooDeep, sorted_pids, term_key

# --- Terms ------------------------------------------------------------------------------------------------------------


def test_terms_are_told_apart_as_erlang_does() -> None:
    terms: list[Any] = [1, 1.0, True, None, [], (), [1], (1,), {}, {1: 2}, b"1", a.x, pid(ME), pid(ME, 2), [1, [2]]]
    terms += [ImproperList(([1],), 2), ImproperList(([2],), 2), {a.x: [1]}, {a.x: [1.0]}]
    assert len({term_key(term) for term in terms}) == len(terms)
    assert term_key([{a.x: [1], a.y: 2}]) == term_key([{a.y: 2, a.x: [1]}])


def test_depth_of_a_key_is_bounded() -> None:
    term: Any = a.x
    for _ in range(TERM_DEPTH_MAX):
        term = (term,)
    term_key(term)
    with pytest.raises(TermTooDeep):
        term_key([(term,)])


def test_pids_are_sorted_as_otp_sorts_them() -> None:
    order = [Pid(a["b@h"], 9, 0, 1), Pid(a["a@h"], 1, 1, 9), Pid(a["a@h"], 2, 1, 1), Pid(a["b@h"], 2, 1, 1)]
    assert sorted_pids(order[::-1]) == order
    assert sorted_pids([Pid(a["a@h"], 1, 0, 2), Pid(a["a@h"], 1, 0, 1)])[0].creation == 1


# --- Locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_requester_for_many_processes() -> None:
    me = Lone()
    lock, other = ([1, {}], a.me), ([1, {}], a.you)
    assert me.call((a.set_lock, lock), pid(PEER, 1)) is True
    assert me.call((a.set_lock, lock), pid(PEER, 1)) is True
    assert me.call((a.set_lock, lock), pid(PEER, 2)) is True
    assert me.call((a.set_lock, other), pid(PEER, 3)) is False
    assert me.call((a.set_lock, ([1.0, {}], a.you)), pid(PEER, 3)) is True  # another resource
    assert sorted(map(repr, me.monitored.values())) == sorted(map(repr, [pid(PEER, 1), pid(PEER, 2), pid(PEER, 3)]))
    assert me.call((a.del_lock, other), pid(PEER, 1)) is True  # always true, but it was not his
    assert me.call((a.del_lock, lock), pid(PEER, 9)) is True
    me.call((a.del_lock, lock), pid(PEER, 1))
    assert me.call((a.set_lock, other), pid(PEER, 3)) is False
    me.fire(pid(PEER, 2))
    assert me.call((a.set_lock, other), pid(PEER, 3)) is True
    assert me.server.locks() == [([1.0, {}], a.you, [pid(PEER, 3)]), ([1, {}], a.you, [pid(PEER, 3)])]


def test_locks_go_with_their_node() -> None:
    me = Lone()
    me.up(PEER)
    me.call((a.set_lock, (a.x, 1)), pid(PEER))
    me.call((a.set_lock, (a.y, 1)), pid(THIRD))
    me.down(PEER)
    assert me.server.locks() == [(a.y, 1, [pid(THIRD)])]
    assert list(me.monitored.values()) == [pid(THIRD)]


# --- Names ------------------------------------------------------------------------------------------------------------


def whereis(me: Lone, name: Any) -> list[Action]:
    return me.hear((a.whereis, name, (pid(PEER), a.tag)))


def test_register_unregister_down() -> None:
    me = Lone()
    me.call((a.set_lock, (GLOBAL, pid(PEER))), pid(PEER))
    assert me.call((a.register, [a.foo], pid(THIRD), a.m), pid(PEER)) is a.yes
    assert me.call((a.register, a.bar, pid(THIRD, 2), a.m), pid(PEER)) is a.yes
    assert me.call((a.register, a.bar, pid(THIRD, 3), a.m), pid(PEER)) is a.yes  # re_register
    me.call((a.del_lock, (GLOBAL, pid(PEER))), pid(PEER))
    assert list(me.monitored.values()) == [pid(THIRD), pid(THIRD, 3)]
    assert whereis(me, [a.foo]) == [Reply((pid(PEER), a.tag), pid(THIRD))]
    me.fire(pid(THIRD))
    assert whereis(me, [a.foo]) == [Reply((pid(PEER), a.tag), a.undefined)]
    assert me.server.registered_names() == [a.bar]
    assert me.call((a.unregister, a.bar)) is a.ok
    assert me.call((a.unregister, a.bar)) is a.ok
    assert me.monitored == {}


def test_a_name_is_not_believed_when_its_lock_is_gone() -> None:
    me = Lone()
    me.call((a.set_lock, (GLOBAL, pid(PEER))), pid(PEER))
    assert me.call((a.register, a.foo, pid(THIRD), a.m), pid(PEER, 2)) is a.yes
    assert me.server.registered_names() == []
    me.fire(pid(PEER))  # the holder died: what still comes from it is late
    me.call((a.register, a.foo, pid(THIRD), a.m), pid(PEER))
    assert me.server.registered_names() == []
    me.call((a.set_lock, (GLOBAL, pid(PEER))), pid(PEER))
    me.call((a.del_lock, (GLOBAL, pid(PEER))), pid(PEER))
    me.call((a.register, a.foo, pid(THIRD), a.m), pid(PEER))
    assert me.server.registered_names() == [a.foo]


def test_names_of_c_nodes() -> None:
    me = Lone()
    c_node = pid(a["c17@h"])
    assert me.call((a.register_ext, a.ext, c_node, a.m, PEER)) is a.yes
    assert me.call(a.get_names_ext) == [(a.ext, c_node, PEER)]
    me.fire(c_node)
    assert me.call(a.get_names_ext) == []
    operations = [(a.insert, (a.ext, c_node, a.m)), (a.insert, (a.foo, pid(PEER), a.m))]
    me.cast(a.new_nodes, PEER, operations, [(a.ext, c_node, PEER), a.junk, (1, 2, 3)], [], [])
    assert me.call(a.get_names_ext) == [(a.ext, c_node, PEER)]
    assert me.server.registered_names() == [a.ext, a.foo]
    me.call((a.register, a.ext, pid(PEER), a.m))  # a process of a node takes the name over
    assert me.call(a.get_names_ext) == []


def test_whereis_waits_for_the_global_lock() -> None:
    me = Lone()
    me.call((a.register, a.foo, pid(THIRD), a.m))
    me.call((a.set_lock, (GLOBAL, 1)), pid(PEER))
    assert whereis(me, a.foo) == []
    assert me.wait(3) == []
    me.call((a.del_lock, (GLOBAL, 1)), pid(PEER))
    assert me.wait(4) == [Reply((pid(PEER), a.tag), pid(THIRD))]
    assert me.server.next_deadline() is None


def test_a_local_process_that_has_ended_is_not_found() -> None:
    me = Lone(is_alive=lambda process: process != pid(ME, 8))
    me.call((a.register, a.foo, pid(ME, 8), a.m))
    assert whereis(me, a.foo) == [Reply((pid(PEER), a.tag), a.undefined)]


def own(function: str) -> Export:
    return Export(GLOBAL, Atom(function), 3)


SMALL, GREAT = pid(a["a@h"]), pid(a["b@h"])
LOCAL_FUN = Fun(GLOBAL, 3, b"0" * 16, 0, 0, 1, pid(ME), ())
CONFLICTS: list[tuple[Any, Any, list[Action]]] = [
    (own("random_exit_name"), SMALL, [Exit(GREAT, a.kill)]),
    (LOCAL_FUN, SMALL, [Exit(GREAT, a.kill)]),
    ((GLOBAL, a.random_exit_name), SMALL, [Exit(GREAT, a.kill)]),
    (own("random_notify_name"), SMALL, [Send(GREAT, (a.global_name_conflict, a.foo))]),
    (
        own("notify_all_name"),
        a.none,
        [Send(GREAT, (a.global_name_conflict, a.foo, SMALL)), Send(SMALL, (a.global_name_conflict, a.foo, GREAT))],
    ),
    (own("whatever"), RESOLVER_CRASHED, []),
    (Export(a.mine, a.random_exit_name, 3), RESOLVER_CRASHED, []),
    (a.junk, RESOLVER_CRASHED, []),
]


@pytest.mark.parametrize(("method", "result", "actions"), CONFLICTS)
def test_resolve_functions(method: Any, result: Any, actions: list[Action]) -> None:
    found, todo = resolve_it(method, a.foo, GREAT, SMALL)
    assert found == result
    assert [action for action in todo if not isinstance(action, Log)] == actions


# --- Overlapping partitions -------------------------------------------------------------------------------------------


def partition_of_three(**options: Any) -> Lone:
    me = Lone(**options)
    me.meet(PEER, [(THIRD, 8)], [], [])
    me.up(THIRD, 2)
    me.server.connected(THIRD, True, me.now)
    me.cast(a.in_sync, THIRD, True)
    assert me.server.known == [PEER, THIRD]
    return me


def without_logs(todo: list[Action]) -> list[Action]:
    return [action for action in todo if not isinstance(action, Log)]


def test_our_loss_is_reported_to_everybody_else() -> None:
    me = partition_of_three()
    [report] = me.down(PEER)
    name, reporter, creation, operation, lost = report.message
    assert (report.to, report.no_connect) == ((a.global_name_server, THIRD), True)
    assert (name, reporter, lost) == (a.lost_connection, ME, PEER)
    assert creation & 0xFFFFFFFF == 7  # of our pid; above it what tells this life apart
    assert operation > 1000
    assert me.server.known == me.server.synced == [THIRD]


def test_a_report_is_passed_on_once_and_the_lost_node_removed() -> None:
    me = partition_of_three()
    me.meet(FOURTH, [], [], [], number=3)
    report = (a.lost_connection, PEER, 5, 10, THIRD)
    todo = me.hear(report)
    assert without_logs(todo) == [
        plain(THIRD, *report),
        plain(FOURTH, *report),
        plain(THIRD, a.remove_connection, ME),
    ]
    assert me.server.known == [PEER, FOURTH]
    assert me.hear(report) == []
    assert me.hear((a.lost_connection, PEER, 5, 9, THIRD)) == []
    assert len(me.hear((a.lost_connection, PEER, 5, 11, THIRD))) == 1  # newer: passed on; nothing left to remove
    assert len(me.hear((a.lost_connection, PEER, 6, 1, THIRD))) == 1  # another life of the reporter
    assert me.down(THIRD, 2) == []  # its end is no loss of ours
    me.up(THIRD, 4)
    assert len(me.down(THIRD, 4)) == 2  # but the next one is


def test_who_is_lost_itself_removes_the_reporter() -> None:
    me = partition_of_three()
    todo = me.hear((a.lost_connection, PEER, 5, 10, ME))
    assert plain(PEER, a.remove_connection, ME) in todo
    assert me.server.known == [THIRD]


def test_remove_connection_disconnects() -> None:
    me = partition_of_three()
    assert without_logs(me.hear((a.remove_connection, PEER))) == [Disconnect(PEER)]
    assert me.server.known == [THIRD]
    assert me.down(PEER) == []
    assert me.hear((a.remove_connection, PEER)) == []
    assert me.hear((a.remove_connection, FOURTH)) == []


def test_both_want_to_be_rid_of_each_other() -> None:
    me = partition_of_three()
    me.hear((a.lost_connection, PEER, 5, 10, THIRD))
    assert me.hear((a.remove_connection, THIRD)) == [Disconnect(THIRD)]
    assert me.down(THIRD, 2) == []


def test_nodes_too_old_for_it_are_disconnected_and_told_nothing() -> None:
    me = Lone()
    me.meet(PEER, [(THIRD, 6)], [], [])
    me.up(THIRD, 2)
    assert without_logs(me.hear((a.lost_connection, PEER, 5, 10, THIRD))) == [Disconnect(THIRD)]


@pytest.mark.parametrize("options", [{"prevent_overlapping_partitions": False}, {"connect_all": False}])
def test_without_prevention_nothing_is_said_or_heard(options: dict[str, bool]) -> None:
    me = Lone(**options)
    me.up(PEER)
    me.up(THIRD, 2)
    assert me.hear((a.lost_connection, PEER, 5, 10, THIRD)) == []
    me.cast(a.new_nodes, PEER, [], [], [(PEER, 8), (THIRD, 8)], [])
    assert me.down(THIRD, 2) == []
    # A node that asks to be disconnected is, all the same.
    assert Disconnect(PEER) in me.hear((a.remove_connection, PEER))


def test_reports_are_forgotten_after_an_hour() -> None:
    me = partition_of_three()
    report = (a.lost_connection, PEER, 5, 10, FOURTH)
    assert me.hear(report) == [plain(THIRD, *report)]
    assert me.server.next_deadline() == me.now + 3600
    assert me.hear(report) == []
    me.wait(3601)
    assert me.hear(report) == [plain(THIRD, *report)]


def test_reports_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_partitions, "LOSSES_MAX", 3)
    me = partition_of_three()
    for number in range(4):
        assert me.hear((a.lost_connection, PEER, 5, 1, Atom(f"x{number}@h"))) != []
    assert me.hear((a.lost_connection, PEER, 5, 1, Atom("x3@h"))) == []
    assert me.hear((a.lost_connection, PEER, 5, 1, Atom("x0@h"))) != []  # had to go


def test_leaving_tells_nobody() -> None:
    me = partition_of_three()
    assert without_logs(me.server.leave(me.now)) == [Disconnect(PEER), Disconnect(THIRD)]
    assert me.down(PEER) == []
    assert me.down(THIRD, 2) == []


def test_a_stale_nodedown_is_ignored() -> None:
    me = partition_of_three()
    assert me.down(PEER, 99) == []
    assert me.server.known == [PEER, THIRD]


def test_calls_without_an_answer_get_none() -> None:
    """As OTP: an unknown call is logged, and its caller waits."""
    me = Lone()
    [log] = me.hear((GEN_CALL, (pid(PEER), 1), a.whatever))
    assert isinstance(log, Log)
