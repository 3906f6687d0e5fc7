"""Servers of every behaviour, and what a peer may send them that means harm: none ends that OTP's would not."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from behaviours import MAX_CHILDREN, NAMES
from hostile_terms import Hostile, nested
from support_hostile import VICTIM, Attacker, Victim, victim_of

from beamnode import Atom, Pid, a
from beamnode.errors import DecodeError, EncodeError
from beamnode.etf import Export, Fun, ImproperList, decode, encode
from beamnode.otp import gen

SERVERS = (*NAMES, "application_controller")
HUGE = 1 << 5000
START = (a.victim, a.start_link, [])
DEEP = nested(1000, b"x")


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with victim_of(behaviours=True, level="INFO") as running:
        yield running


def check(victim: Victim) -> None:
    victim.check(5.0)
    assert victim.holdings()["ended"] == []


def is_term(value: Any) -> bool:
    """Whether it is no reason to close the connection."""
    try:
        decode(encode(value))
    except (EncodeError, DecodeError):
        return False
    return True


def call(attacker: Attacker, name: str, request: Any, sender: Any = None) -> None:
    reference = attacker.reference()
    usual = (attacker.pid(), ImproperList((a.alias,), reference))
    attacker.reg_send(name, (gen.CALL, usual if sender is None else sender, request))


def specs() -> list[Any]:
    """Child specifications with garbage in every place."""
    good = {a.id: a.x, a.start: START}
    fun = Fun(a.m, 1, bytes(16), 0, 0, 0, Pid(a["x@y"], 1, 0, 1), ())
    garbage = (a.nonsense, HUGE, -1, -HUGE, 1.5, 1e308, True, None, b"bin", [], {}, (), [1, 2], DEEP, fun)
    garbage += (ImproperList((a.a,), a.b), Export(a.os, a.system, 1), {a.a: {}}, {1: 2}, (1, 2, 3), {"": []})
    keys = (a.id, a.start, a.restart, a.shutdown, a.type, a.significant, a.modules, a.unknown)
    found: list[Any] = [{**good, key: each} for key in keys for each in garbage]
    found += [(a.x, *rest[:5]) for each in garbage for rest in _places((START, a.temporary, 1, a.worker, []), each)]
    found += [rest for each in garbage for rest in _places((START, a.temporary, 1, a.worker, []), each)]
    found += [{**good, a.start: rest} for each in garbage for rest in _places(START, each)]
    found += [{**good, a.modules: [each]} for each in garbage]
    return [*garbage, *found, {**good, b"key": 1}, {b"id": 1, b"start": START}]


def _places(values: tuple[Any, ...], wrong: Any) -> list[tuple[Any, ...]]:
    return [(*values[:i], wrong, *values[i + 1 :]) for i in range(len(values))]


@pytest.mark.parametrize("name", ["sup", "dynamic", "tasks", "partitions"])
def test_specifications_of_junk(victim: Victim, name: str) -> None:
    with victim.attack() as attacker:
        for number, spec in enumerate(specs()):
            call(attacker, name, (a.start_child, spec))
            if isinstance(spec, dict) and a.id in spec:  # with an id of its own, so that it is not there already
                call(attacker, name, (a.start_child, {**spec, a.id: (number, spec[a.id])}))
                call(attacker, name, (a.terminate_child, (number, spec[a.id])))
                call(attacker, name, (a.delete_child, (number, spec[a.id])))
            assert attacker.drain()
        assert attacker.answers(30)
    check(victim)


@pytest.mark.parametrize("name", SERVERS)
def test_requests_of_junk(victim: Victim, name: str) -> None:
    words = (a.which_children, a.count_children, a.start_child, a.terminate_child, a.restart_child, a.delete_child)
    words += (a.get_childspec, a.which_child, a.start_task, a.get, a.update, a.get_and_update, a.call, a.add_handler)
    words += (a.add_sup_handler, a.delete_handler, a.swap_handler, a.swap_sup_handler, a.sync_notify, a.which_handlers)
    words += (a.get_modules, a.which_applications, a.info, a.start, a.stop, a.cast, a.try_again_restart, a.notify)
    junk: tuple[Any, ...] = (a.x, HUGE, DEEP, [], {}, (), b"", ImproperList((1,), 2), {a.a: []}, [[]], 1.5)
    requests: list[Any] = [*words, *junk]
    requests += [(word, each) for word in words for each in junk]
    requests += [(word, each, each) for word in words for each in junk]
    requests += [(word, each, each, each) for word in words for each in junk]
    requests += [(a.start_task, [owner, a.nomonitor, *rest], a.x, HUGE) for owner in junk for rest in ((), (1,))]
    with victim.attack() as attacker:
        for request in requests:
            call(attacker, name, request)
            attacker.reg_send(name, (gen.CAST, request))
            attacker.reg_send(name, request)
            assert attacker.drain()
        assert attacker.answers(30)
    check(victim)


@pytest.mark.parametrize("name", SERVERS)
def test_senders_of_junk(victim: Victim, name: str) -> None:
    with victim.attack() as attacker:
        pids = (attacker.pid(), Pid(Atom(VICTIM), 1, 0, attacker.victim_creation), Pid(Atom(""), 1, 0, 1))
        pids += (Pid(a["no-such@127.0.0.1"], 1, 0, 1), Pid(a.noat, 1, 0, 1))
        tags = (attacker.reference(), ImproperList((a.alias,), attacker.reference()), a.x, HUGE, DEEP, [], {})
        tags += ([ImproperList((a.alias,), 1)], ImproperList((a.alias, 1), 2), [a.alias, attacker.reference()])
        for sender in [*((pid, tag) for pid in pids for tag in tags), (), (a.x, 1), [1, 2], (1, 2, 3), b""]:
            for request in (a.which_children, a.get_state, a.x):
                call(attacker, name, request, sender)
                attacker.reg_send(name, (a.system, sender, request))
        assert attacker.answers(30)
    check(victim)


@pytest.mark.parametrize("name", SERVERS)
def test_system_messages_of_junk(victim: Victim, name: str) -> None:
    junk = (a.x, HUGE, DEEP, [], {}, (), b"", ImproperList((1,), 2), True, (True, HUGE), (True, -1), a.get, a.print)
    requests: list[Any] = [(a.debug, each) for each in junk]
    requests += [(a.debug, (word, each)) for word in (a.trace, a.log, a.statistics, a.log_to_file) for each in junk]
    requests += [(a.replace_state, each) for each in junk]
    requests += [(a.change_code, each, each, each) for each in junk]
    requests += [a.get_status, a.get_state, a.resume, a.suspend, a.get_status, (a.debug, a.no_debug), a.resume, *junk]
    with victim.attack() as attacker:
        for request in requests:
            attacker.reg_send(name, (a.system, (attacker.pid(), attacker.reference()), request))
            assert attacker.drain()
        assert attacker.answers(30)
    check(victim)


@pytest.mark.parametrize("name", SERVERS)
def test_messages_at_random(victim: Victim, name: str) -> None:
    random = Random(f"otp {name}")
    with victim.attack() as attacker:
        hostile = Hostile(random, attacker.name, VICTIM, attacker.creation, attacker.victim_creation)
        for _ in range(400):
            word = random.choice((a.start_child, a.terminate_child, a.get, a.call))
            request = hostile.wrongly((word, hostile.term()))
            message = hostile.one_of(
                lambda request=request: hostile.call(request),
                lambda request=request: hostile.cast(request),
                lambda: (a.EXIT, hostile.own_pid(), hostile.term()),
                lambda: (a.DOWN, hostile.reference(), a.process, hostile.pid(), a.noproc),
                hostile.term,
            )
            if is_term(message):
                attacker.reg_send(name, message)
            assert attacker.drain()
        assert attacker.answers(30)
    check(victim)


def test_a_flood_of_children_stops_at_max_children(victim: Victim) -> None:
    before = victim.holdings()["processes"]
    spec = (START, a.temporary, 1, a.worker, [])
    with victim.attack() as attacker:
        for name in ("few", "tasks"):
            for _ in range(30 * MAX_CHILDREN):
                call(attacker, name, (a.start_child, spec))
                call(attacker, name, (a.start_task, [(attacker.node, a.x, attacker.pid()), a.nomonitor], None, None))
                assert attacker.drain()
        assert attacker.answers(30)
        assert victim.holdings()["processes"] <= before + 2 * MAX_CHILDREN
    check(victim)


def test_what_is_not_exposed_is_not_started(victim: Victim) -> None:
    with victim.attack() as attacker:
        for module, function in ((a.behaviours, a.secret), (a.os, a._exit), (a.victim, a.secret)):
            for start in ((module, function, []), (module, function, [1])):
                call(attacker, "sup", (a.start_child, {a.id: a.secret, a.start: start}))
                call(attacker, "dynamic", (a.start_child, (start, a.temporary, 1, a.worker, [])))
                call(attacker, "tasks", (a.start_child, (start, a.temporary, 1, a.worker, [])))
                owner = (Atom(VICTIM), a.x, Pid(Atom(VICTIM), 1, 0, attacker.victim_creation))
                call(attacker, "tasks", (a.start_task, [owner, [], start], None, None))
                for word in (a.get, a.update, a.get_and_update):
                    call(attacker, "agent", (word, start))
                attacker.reg_send("agent", (gen.CAST, (a.cast, start)))
        assert attacker.answers(30)
    check(victim)
    assert victim.holdings()["asked_for"] == []


def test_questions_of_junk(victim: Victim) -> None:
    random = Random("questions")
    functions = {
        a.erlang: ("process_info", "memory", "statistics", "system_info", "nodes", "whereis", "is_process_alive"),
        a.proc_lib: ("get_label", "translate_initial_call"),
        a.observer_backend: ("sys_info", "procs_info", "etop_collect", "vsn"),
        Atom("Elixir.Process"): ("info", "alive?", "whereis", "list"),
        Atom("Elixir.Node"): ("list", "self"),
    }
    items = (a.messages, a.dictionary, a.label, a.backtrace, a.links, a.monitors, a.memory, a.current_stacktrace)
    with victim.attack() as attacker:
        hostile = Hostile(random, attacker.name, VICTIM, attacker.creation, attacker.victim_creation)
        for module, names in functions.items():
            for name in names * 40:
                first = hostile.one_of(hostile.victim_pid, hostile.victim_pid, hostile.term)
                second = hostile.one_of(lambda: random.choice(items), lambda: list(items), hostile.term)
                args = [first, second][: random.randrange(3)]
                if not is_term(args):
                    continue
                reference = attacker.reference()
                head = (29, reference, attacker.pid(), attacker.pid(), (a.erpc, a.execute_call, 4), [a.monitor])
                attacker.control(head, [reference, module, Atom(name), args])
                assert attacker.drain()
        assert attacker.answers(30)
    check(victim)
