"""The machine of `global_name_server` by itself, message by message, in the shapes captured between OTP nodes."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from beamnode.etf.terms import Atom, ImproperList, Pid, Reference, a
from beamnode.services.global_actions import (
    Action,
    Call,
    Connect,
    Disconnect,
    Log,
    RemoteCall,
    Reply,
    Send,
)
from beamnode.services.global_connect import EARLY_CONNECTS_MAX
from beamnode.services.global_name_server import GlobalNameServer
from beamnode.services.global_terms import sorted_pids

ME, PEER, THIRD, FOURTH = a["m@h"], a["p@h"], a["t@h"], a["z@h"]
GLOBAL = Atom("global")
GEN_CALL, GEN_CAST = Atom("$gen_call"), Atom("$gen_cast")


def pid(node: Atom, number: int = 1) -> Pid:
    return Pid(node, number, 0, 7)


class Lone:
    """One machine, with the peers played by the test. `now` stands still unless the test moves it."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.monitored: dict[Reference, Pid] = {}
        self.numbers = iter(range(1, 10**9))
        self.pid = pid(ME, 50)
        self.server = GlobalNameServer(
            ME,
            self.pid,
            self.pid,
            monitor=self.monitor,
            demonitor=lambda ref: self.monitored.pop(ref, None) and None,
            random=lambda: 0.5,
            unique_integer=iter(range(1000, 10**9)).__next__,
            **options,
        )

    def monitor(self, target: Pid) -> Reference:
        ref = Reference(ME, 7, (next(self.numbers), 0, 0))
        self.monitored[ref] = target
        return ref

    def up(self, node: Atom, number: int = 1) -> list[Action]:
        return self.server.nodeup(node, number, self.now)

    def down(self, node: Atom, number: int = 1) -> list[Action]:
        return self.server.nodedown(node, number, self.now)

    def hear(self, term: Any) -> list[Action]:
        return self.server.message(term, self.now)

    def cast(self, *request: Any) -> list[Action]:
        return self.hear((GEN_CAST, request))

    def call(self, request: Any, sender: Pid | None = None) -> Any:
        """The answer to a call that is answered at once; None when it is not."""
        origin = (sender or pid(PEER, 99), a.tag)
        replies = [action for action in self.hear((GEN_CALL, origin, request)) if isinstance(action, Reply)]
        assert all(reply.sender == origin for reply in replies)
        return replies[0].value if replies else None

    def wait(self, seconds: float) -> list[Action]:
        """Let time go on, deadline by deadline."""
        end, todo = self.now + seconds, []
        while (deadline := self.server.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            todo += self.server.handle_deadline(self.now)
        self.now = end
        return todo

    def fire(self, target: Pid) -> list[Action]:
        """DOWN for every monitor of a process."""
        todo: list[Action] = []
        for ref in [ref for ref, watched in self.monitored.items() if watched == target]:
            del self.monitored[ref]
            todo += self.hear((a.DOWN, ref, a.process, target, a.noproc))
        return todo

    def answer_calls(self, todo: list[Action], value: Any = True) -> list[Action]:
        """Answer the Calls among the actions, and those that come of it; everything else that came."""
        others: list[Action] = []
        while todo:
            action = todo.pop(0)
            if isinstance(action, Call):
                todo += self.server.call_answered(action.call_id, value, self.now)
            else:
                others.append(action)
        return others

    def meet(self, node: Atom, known: list[Any], names: list[Any], ops: list[Any], number: int = 1) -> list[Action]:
        """The whole connect with a node that leads it; what we sent after its `lock_set`."""
        self.up(node, number)
        tag = self.server._connector._tag(node)
        self.cast(a.init_connect, (8, 77), node, (a.locker, a.no_longer_a_pid, {}, pid(node)))
        lock_id = (GLOBAL, sorted_pids([self.pid, pid(node)]))
        assert self.call((a.set_lock, lock_id), pid(node)) is True
        todo = self.answer_calls(self.cast(a.lock_set, pid(node), True, [], tag))
        todo += self.cast(a.exchange, node, names, [], tag)
        todo += self.answer_calls(self.cast(a.resolved, node, ops, known, a.unused, [], tag))
        assert self.call((a.del_lock, lock_id), pid(node)) is True
        return todo


def to_server(node: Atom, *request: Any) -> Send:
    return Send((a.global_name_server, node), (GEN_CAST, request))


def plain(node: Atom, *message: Any) -> Send:
    return Send((a.global_name_server, node), message, no_connect=True)


# --- The connect ------------------------------------------------------------------------------------------------------


def test_both_sides_of_a_connect_as_captured() -> None:
    me = Lone()
    locker = (a.locker, a.no_longer_a_pid, {(a.connection_id, PEER): 1}, me.pid)
    assert me.up(PEER) == [to_server(PEER, a.init_connect, (8, 1000), ME, locker)]
    his_locker = pid(PEER)
    todo = me.cast(a.init_connect, (8, -576460752303423486), PEER, (a.locker, a.no_longer_a_pid, {}, his_locker))
    assert todo == [plain(PEER, a.init_connect_ack, ME, -576460752303423486, 1000)]
    assert me.hear((a.init_connect_ack, PEER, 1000, -576460752303423486)) == []

    # Alone: after 200 ms the locker locks its boss (this node) and the other node, under the id of both lockers.
    assert me.server.next_deadline() == pytest.approx(100.2)
    lock_id = (GLOBAL, [his_locker, me.pid])
    [call] = me.wait(0.3)
    assert call == Call(PEER, (a.set_lock, lock_id), call.call_id, me.pid)
    todo = me.server.call_answered(call.call_id, True, me.now)
    assert todo == [to_server(PEER, a.lock_set, me.pid, True, [], -576460752303423486)]

    todo = me.cast(a.lock_set, his_locker, True, [], 1000)
    assert todo == [to_server(PEER, a.exchange, ME, [], [], -576460752303423486)]
    todo = me.cast(a.exchange, PEER, [(a.foo, pid(PEER, 9), a.method)], [], 1000)
    assert todo == [to_server(PEER, a.resolved, ME, [], [], a.unused, [], -576460752303423486)]
    [call] = me.cast(a.resolved, PEER, [], [], a.unused, [], 1000)
    assert call == Call(PEER, (a.del_lock, lock_id), call.call_id, me.pid)  # the boss, last: this node's went before it
    assert me.server.call_answered(call.call_id, True, me.now) == []
    assert me.server.locks() == []
    assert me.server.known == me.server.synced == [PEER]
    assert me.server.whereis_name(a.foo) == pid(PEER, 9)
    assert me.server.next_deadline() is None


def test_the_passive_side_answers_and_holds_the_lock() -> None:
    me = Lone()
    todo = me.meet(PEER, [], [], [])
    assert todo == [
        to_server(PEER, a.lock_set, me.pid, True, [], 77),
        to_server(PEER, a.exchange, ME, [], [], 77),
        to_server(PEER, a.resolved, ME, [], [], a.unused, [], 77),
    ]
    assert me.server.locks() == []
    assert me.server.synced == [PEER]
    assert me.monitored == {}


def test_new_nodes_goes_to_our_partition_before_the_unlock_and_in_sync_to_theirs() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    me.up(FOURTH, 2)
    me.cast(a.init_connect, (8, 88), FOURTH, (a.locker, a.no_longer_a_pid, {}, pid(FOURTH)))
    lock_id = (GLOBAL, [pid(FOURTH), me.pid])
    calls = me.wait(1.2)  # 1 s and 100 ms for each known node
    assert [(call.node, call.request) for call in calls] == [(PEER, (a.set_lock, lock_id))]  # the boss of us two: p@h
    calls = me.server.call_answered(calls[0].call_id, True, me.now)
    assert [(call.node, call.request[0]) for call in calls] == [(FOURTH, a.set_lock)]
    me.server.call_answered(calls[0].call_id, True, me.now)
    me.cast(a.lock_set, pid(FOURTH), True, [THIRD], 1001)
    [resolved] = me.cast(a.exchange, FOURTH, [(a.foo, pid(THIRD), a.method)], [], 1001)
    assert resolved == to_server(FOURTH, a.resolved, ME, [], [(PEER, 8)], a.unused, [], 88)
    todo = me.cast(a.resolved, FOURTH, [(a.insert, (a.bar, pid(PEER), a.m))], [(THIRD, 8)], a.unused, [], 1001)
    operations = [(a.insert, (a.foo, pid(THIRD), a.method)), (a.insert, (a.bar, pid(PEER), a.m))]
    nodes = [(FOURTH, 8), (THIRD, 8)]
    told = to_server(PEER, a.new_nodes, ME, operations, [], nodes, [(a.vsn, 8), (a.lock, lock_id)])
    assert todo[:2] == [Connect(THIRD), told]
    assert [(call.node, call.request) for call in todo[2:]] == [(PEER, (a.del_lock, lock_id))]
    assert me.server.connected(THIRD, True, me.now) == [to_server(THIRD, a.in_sync, ME, True)]
    assert set(me.server.known) == {PEER, THIRD, FOURTH}
    assert set(me.server.synced) == {PEER, FOURTH}
    me.cast(a.in_sync, THIRD, True)
    assert set(me.server.synced) == {PEER, THIRD, FOURTH}


def test_new_nodes_from_our_partition() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    lock_id = (GLOBAL, [pid(PEER), pid(THIRD)])
    me.call((a.set_lock, lock_id), pid(PEER))
    operations = [(a.insert, (a.foo, pid(THIRD), a.m)), (a.delete, a.bar), (a.insert, a.junk)]
    extra = [(a.vsn, 8), (a.lock, lock_id)]
    assert me.cast(a.new_nodes, PEER, operations, [], [(THIRD, 8), (ME, 8)], extra) == [Connect(THIRD)]
    assert set(me.server.known) == {PEER, THIRD}
    assert me.server.whereis_name(a.foo) == pid(THIRD)
    # A nodeup of one who is known already begins nothing.
    assert me.up(THIRD, 2) == []


def test_operations_under_another_lock_are_not_believed() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    me.call((a.set_lock, (GLOBAL, [pid(PEER), pid(FOURTH)])), pid(PEER))
    extra = [(a.vsn, 8), (a.lock, (GLOBAL, [pid(PEER), pid(THIRD)]))]
    me.cast(a.new_nodes, PEER, [(a.insert, (a.foo, pid(THIRD), a.m))], [], [(THIRD, 8)], extra)
    assert me.server.registered_names() == []
    assert me.server.known == [PEER, THIRD]


def test_a_failed_connect_is_a_lost_connection() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    me.cast(a.new_nodes, PEER, [], [], [(THIRD, 8)], [])
    log, report = me.server.connected(THIRD, False, me.now)
    assert isinstance(log, Log)
    assert log.level == "warning"
    assert report.message[0] is a.lost_connection
    assert (report.to[1], report.message[4], report.no_connect) == (PEER, THIRD, True)
    assert me.server.known == [PEER]


def test_a_refused_lock_is_given_back_and_tried_again() -> None:
    me = Lone()
    me.up(PEER)
    me.cast(a.init_connect, (8, 77), PEER, (a.locker, a.no_longer_a_pid, {}, pid(PEER)))
    [call] = me.wait(0.2)
    assert me.server.call_answered(call.call_id, False, me.now) == []
    assert me.server.locks() == []
    assert me.server.next_deadline() == pytest.approx(me.now + 0.2)
    # The other side does not agree: the lock is given up on both nodes.
    [call] = me.wait(0.2)
    me.server.call_answered(call.call_id, True, me.now)
    [call] = me.cast(a.lock_set, pid(PEER), False, [], 1000)
    assert call.request[0] is a.del_lock
    # A node that is gone while it is asked does not count.
    me.server.call_failed(call.call_id, me.now)
    assert me.server.locks() == []


def test_out_of_sync_connects_begin_anew() -> None:
    me = Lone()
    me.up(PEER)
    me.cast(a.init_connect, (8, 77), PEER, (a.locker, a.no_longer_a_pid, {}, pid(PEER)))
    # The tags do not match.
    cancel, cancel_again, again = me.hear((a.init_connect_ack, PEER, 999, 78))
    assert cancel == plain(PEER, a.cancel_connect, ME, 78)
    assert cancel_again == plain(PEER, a.cancel_connect, ME, 77)
    assert again.message[1][1] == (8, 1001)
    # The other side gives up; an old tag means nothing.
    assert me.hear((a.cancel_connect, PEER, 1000)) == []
    [again] = me.hear((a.cancel_connect, PEER, 1001))
    assert again.message[1][1] == (8, 1002)
    # A second init_connect while the first is going on.
    me.cast(a.init_connect, (8, 79), PEER, (a.locker, a.no_longer_a_pid, {}, pid(PEER)))
    *cancels, again = me.cast(a.init_connect, (8, 80), PEER, (a.locker, a.no_longer_a_pid, {}, pid(PEER)))
    assert cancels == [plain(PEER, a.cancel_connect, ME, 80), plain(PEER, a.cancel_connect, ME, 79)]
    assert again.message[1][1] == (8, 1003)


def test_a_late_ack_after_in_sync_means_nothing() -> None:
    me = Lone()
    me.meet(PEER, [(THIRD, 8)], [(a.foo, pid(THIRD), a.m)], [])
    me.up(THIRD, 2)
    me.cast(a.in_sync, THIRD, True)
    assert me.hear((a.init_connect_ack, THIRD, 1001, 5)) == []
    assert me.server.whereis_name(a.foo) == pid(THIRD)


def test_init_connect_before_nodeup() -> None:
    me = Lone()
    assert me.cast(a.init_connect, (8, 77), PEER, (a.locker, a.no_longer_a_pid, {}, pid(PEER))) == []
    todo = me.up(PEER)
    assert [action.message[0] for action in todo] == [GEN_CAST, a.init_connect_ack]


def test_early_connects_are_bounded() -> None:
    me = Lone(connect_all=False)
    for number in range(EARLY_CONNECTS_MAX + 1):
        node = Atom(f"x{number}@h")
        me.cast(a.init_connect, (8, 1), node, (a.locker, a.no_longer_a_pid, {}, pid(node)))
    assert len(me.server._connector._sessions) == EARLY_CONNECTS_MAX


def test_older_peers() -> None:
    """Version 7 knows no ack and no tag in lock_set, newer ones are spoken to as 8."""
    me = Lone()
    me.up(PEER)
    locker = (a.locker, a.no_longer_a_pid, {}, pid(PEER))
    assert me.cast(a.init_connect, (7, 77), PEER, locker) == []
    assert me.answer_calls(me.wait(0.2)) == [to_server(PEER, a.lock_set, me.pid, True, [])]
    [exchange] = me.cast(a.lock_set, pid(PEER), True, [])
    assert exchange == to_server(PEER, a.exchange, ME, [], [], 77)
    me.up(THIRD, 2)
    [ack] = me.cast(a.init_connect, (9, 5, a.more), THIRD, (a.locker, a.no_longer_a_pid, {}, pid(THIRD)))
    assert ack.message == (a.init_connect_ack, ME, 5, 1001)
    for version in [(4, 1), 8, (), (a.x, 1)]:
        [log] = me.cast(a.init_connect, version, FOURTH, locker)
        assert log.level == "info"


def test_an_answer_for_who_has_no_session() -> None:
    """A lock_set to the locker for which there is nobody is refused at its pid (it would wait for ever)."""
    me = Lone()
    todo = me.hear((a.lock_set, pid(PEER), True, []))
    assert todo == [Send(pid(PEER), (a.lock_set, me.pid, False, []))]


# --- Conflicts --------------------------------------------------------------------------------------------------------


def test_a_conflict_is_resolved_where_our_process_lives() -> None:
    me = Lone()
    me.meet(a["b@h"], [], [(a.foo, pid(a["b@h"], 5), a.method)], [])
    me.up(PEER, 2)
    me.cast(a.init_connect, (8, 77), PEER, (a.locker, a.no_longer_a_pid, {}, pid(PEER)))
    me.call((a.set_lock, (GLOBAL, sorted_pids([me.pid, pid(PEER)]))), pid(PEER))
    me.answer_calls(me.cast(a.lock_set, pid(PEER), True, [], 1001))
    [call] = me.cast(a.exchange, PEER, [(a.foo, pid(PEER, 6), a.his), (a.bar, pid(PEER), a.his)], [], 1001)
    arguments = (a.method, a.foo, pid(PEER, 6), pid(a["b@h"], 5))
    assert call == RemoteCall(a["b@h"], GLOBAL, a.resolve_it, arguments, call.call_id)
    [resolved] = me.server.call_answered(call.call_id, pid(a["b@h"], 5), me.now)
    assert resolved.message[1][2] == [(a.insert, (a.foo, pid(a["b@h"], 5), a.method))]


def test_the_greater_node_leaves_conflicts_to_the_smaller() -> None:
    me = Lone()
    small = a["a@h"]
    me.call((a.register, a.foo, pid(THIRD), a.method))
    todo = me.meet(small, [], [(a.foo, pid(small, 6), a.his)], [(a.delete, a.foo)])
    assert todo[-1].message[1][:3] == (a.resolved, ME, [])
    assert me.server.registered_names() == []


# --- Calls ------------------------------------------------------------------------------------------------------------


def test_sync_waits_for_every_node() -> None:
    me = Lone()
    origin = (pid(ME, 9), ImproperList((a.alias,), Reference(ME, 7, (1, 2, 3))))
    done = Reply(origin, a.ok)
    assert me.hear((GEN_CALL, origin, (a.sync, []))) == [done]
    me.meet(PEER, [(THIRD, 8)], [], [])
    assert me.hear((GEN_CALL, origin, (a.sync, [ME, PEER]))) == [done]
    me.up(THIRD, 2)
    assert me.hear((GEN_CALL, origin, (a.sync, [THIRD, PEER]))) == []
    assert me.cast(a.in_sync, THIRD, True) == [done]
    # A node that cannot be reached, or goes, is waited for no longer.
    assert me.hear((GEN_CALL, origin, (a.sync, [FOURTH]))) == [Connect(FOURTH)]
    assert me.server.connected(FOURTH, False, me.now) == [done]
    me.up(FOURTH, 3)
    assert me.hear((GEN_CALL, origin, (a.sync, [FOURTH]))) == []
    assert done in me.down(FOURTH, 3)


def test_questions() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    assert me.call(a.get_known) == [PEER]
    assert me.call(a.get_synced) == [PEER]
    assert me.call(a.get_protocol_version) == 8
    assert me.call(a.get_names_ext) == []
    state = me.call(a.info)
    assert state[:3] == (a.state, (a.conf, True, True), {PEER: 8, (a.connection_id, PEER): 1})
    assert len(state) == 11
    assert me.hear((a.prepare_shutdown, pid(ME, 3), a.ref)) == [Send(pid(ME, 3), (a.ref, a.ok))]
    assert me.down(PEER) == []


def test_disconnect_answers_when_the_connections_are_gone() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    me.up(THIRD, 2)
    todo = me.hear((GEN_CALL, (pid(ME), a.tag), a.disconnect))
    assert [action for action in todo if isinstance(action, Disconnect)] == [Disconnect(PEER), Disconnect(THIRD)]
    assert not any(isinstance(action, Reply) for action in todo)
    assert me.cast(a.in_sync, PEER, True) == []  # was on its way
    assert me.down(PEER) == []
    assert me.down(THIRD, 2) == [Reply((pid(ME), a.tag), [PEER, THIRD])]
    assert me.server.known == me.server.synced == []
    assert me.call(a.disconnect) == []


def test_junk_is_logged_and_changes_nothing() -> None:
    me = Lone()
    me.meet(PEER, [], [], [])
    junk = [a.x, 5, [], (), (a.x,), b"", {}, [a.remove_connection, PEER], (GEN_CAST, a.x), (GEN_CAST, (a.new_nodes, 1))]
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    sender = (pid(PEER), 1)
    junk += [(GEN_CALL, sender, (a.set_lock, (deep, 1))), (GEN_CALL, sender, a.stop), (GEN_CALL, 1, a.info)]
    junk += [(a.whereis, deep, sender), (a.lost_connection, 1, 2, 3, 4), (a.DOWN, 1, 2, 3, 4)]
    for term in junk:
        [log] = me.hear(term)
        assert log.level == "warning", term
    assert me.server.known == [PEER]


def test_no_message_raises() -> None:
    """Every message of the protocol with every part replaced by anything."""
    random = Random(8)
    parts: list[Any] = [PEER, ME, THIRD, 1, -1, 1000, True, None, [], (), {}, b"x", [1], (a.x, 1), pid(PEER), pid(ME)]
    parts += [[(a.foo, pid(PEER), 1)], [(a.insert, (a.foo, pid(PEER), 1)), (a.delete, [[]])], [(PEER, 8), THIRD, 1]]
    parts += [(8, 1), (a.locker, 1, {}, pid(PEER)), [(a.lock, (GLOBAL, []))], (GLOBAL, [1]), (pid(PEER), 1), 1.0]
    casts = {a.init_connect: 3, a.exchange: 4, a.resolved: 6, a.new_nodes: 5, a.in_sync: 2, a.lock_set: 4}
    infos = {a.lost_connection: 4, a.remove_connection: 1, a.init_connect_ack: 3, a.cancel_connect: 2, a.whereis: 2}
    calls = {a.set_lock: 1, a.del_lock: 1, a.register: 3, a.register_ext: 4, a.unregister: 1, a.sync: 1}
    for _ in range(200):
        me = Lone()
        me.up(PEER)
        for _ in range(60):
            kind, table = random.choice([(0, casts), (1, infos), (2, calls)])
            name = random.choice(list(table))
            request = (name, *random.choices(parts, k=table[name]))
            term = [(GEN_CAST, request), request, (GEN_CALL, (pid(PEER), 1), request)][kind]
            for action in me.hear(term):
                if isinstance(action, Call | RemoteCall) and random.random() < 0.8:
                    me.server.call_answered(action.call_id, random.choice(parts), me.now)
            me.wait(random.choice([0, 0.2, 5]))
