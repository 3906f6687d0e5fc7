"""Spawn requests of a peer that means harm: what is not exposed, what does not fit, and far too many."""

from __future__ import annotations

import secrets
import time
from typing import Any

import pytest
from hostile_terms import nested
from support_hostile import VICTIM, Attacker, Victim

from beamnode import Atom, Pid, a
from beamnode.etf import ImproperList, NativeRecord

SPAWN = 29


def ask(
    attacker: Attacker,
    function: tuple[Any, ...] = (a.victim, a.wait, 1),
    options: Any = (),
    arguments: Any = (1,),
) -> None:
    listed = list(options) if isinstance(options, tuple) else options
    arguments = list(arguments) if isinstance(arguments, tuple) else arguments
    attacker.control((SPAWN, attacker.reference(), attacker.pid(), attacker.pid(), function, listed), arguments)


@pytest.mark.parametrize(
    "function",
    [(a.os, a.system, 1), (a.victim, a.gone, 1), (a.builtins, a.eval, 1), (a.asyncio, a.run, 1), (a.erlang, a.halt, 1)],
)
def test_what_is_not_exposed_is_not_run(victim: Victim, function: tuple[Atom, Atom, int]) -> None:
    before = victim.holdings()["processes"]
    with victim.attack() as attacker:
        ask(attacker, function, (a.monitor,))
        assert attacker.answers()
    victim.check()
    assert victim.holdings()["processes"] == before


@pytest.mark.parametrize("proof", [b"", bytes(32), secrets.token_bytes(32), "text", 1, None], ids=lambda p: repr(p)[:8])
def test_a_python_function_needs_the_proof_of_this_very_process(victim: Victim, proof: Any) -> None:
    with victim.attack() as attacker:
        for target in ((a.os, a.system), (a["asyncio"], a.run), (a["sys"], a["exit"])):
            ask(attacker, (a.beamnode, a.spawn, 4), (), (*target, ["true"], proof))
        assert attacker.answers()
    victim.check()


@pytest.mark.parametrize(
    "options",
    [
        (a.nonsense,),
        ((a.name, a.net_kernel),),
        ((a.name, [1]),),
        ((a.name, NativeRecord(a.a, a.b, ((a.c, [1]),), True)),),
        ((a.name, True),),
        ((a.name, a.undefined),),
        ((a.name, Atom("")),),
        ((a.name, a.one), (a.name, a.two)),
        ((a.link, a.link),),
        (a.link, a.link, a.monitor, a.monitor),
        (1, [], {}, ()),
        ((a.max_heap_size, 1 << 5000),),
        a.no_list,
        ImproperList((a.link,), a.monitor),
    ],
    ids=lambda options: repr(options)[:40],
)
def test_options_of_junk(victim: Victim, options: Any) -> None:
    with victim.attack() as attacker:
        ask(attacker, options=options)
        attacker.answers()
    victim.check()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ((a.victim, a.add, 1), (1,)),
        ((a.victim, a.add, 2), (1, a.x)),
        ((a.victim, a.add, 2), (1,)),
        ((a.victim, a.add, 0), ()),
        ((a.victim, a.add, 1 << 40), ()),
        ((a.victim, a.add, -1), ()),
        ((a.victim, a.add), ()),
        ((1, 2, 3), (1, 2, 3)),
        ((a.victim, a.add, 2), a.no_list),
        ((a.victim, a.add, 2), ImproperList((1,), 2)),
        ((a.victim, a.wait, 1), (bytes(10_000_000),)),
        ((a.gone, a.gone, 1), (bytes(10_000_000),)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_functions_and_arguments_that_do_not_fit(victim: Victim, function: Any, arguments: Any) -> None:
    with victim.attack() as attacker:
        ask(attacker, function, (a.monitor,), arguments)
        attacker.answers()
    victim.check()


@pytest.mark.parametrize("depth", [1000, *range(1015, 1024)])
def test_arguments_that_are_too_deep_for_the_reason_they_become_part_of(victim: Victim, depth: int) -> None:
    with victim.attack() as attacker:
        for function in ((a.gone, a.gone, 1), (a.victim, a.add, 1)):
            ask(attacker, function, (a.monitor, a.link), (nested(depth, 1),))
        ask(attacker, (a.erpc, a.execute_call, 4), (a.monitor,), (1, 2, 3, nested(depth, 1 << 100_000)))
        assert attacker.answers()
    victim.check()


@pytest.mark.parametrize("reason", [nested(1020, 1), 1 << 100_000, bytes(1_000_000)], ids=["deep", "huge", "long"])
def test_exit_reasons_that_cannot_be_printed(victim: Victim, reason: Any) -> None:
    """To every process there is: the services, and those that the attacker has made."""
    with victim.attack() as attacker:
        for _ in range(3):
            ask(attacker, options=(a.monitor,))
        assert attacker.answers()
        for number in range(1, 40):
            to = Pid(Atom(VICTIM), number, 0, attacker.victim_creation)
            attacker.control((26, attacker.pid(), to), reason)
        attacker.answers()
    victim.check()


def test_in_the_name_of_another(victim: Victim) -> None:
    for sender in (Pid(Atom(VICTIM), 1, 0, 1), Pid(Atom("other@127.0.0.1"), 1, 0, 1)):
        with victim.attack() as attacker:
            attacker.control((SPAWN, attacker.reference(), sender, sender, (a.victim, a.wait, 1), []), [1])
            assert attacker.is_closed()
    victim.check()


def test_ten_thousand_that_are_refused(victim: Victim) -> None:
    with victim.attack(timeout=60) as attacker:
        for index in range(10_000):
            ask(attacker, (a.gone, a.gone, 1), (a.link, a.monitor))
            if index % 500 == 0:
                attacker.drain()
        assert attacker.answers(30)
    victim.check()
    assert victim.holdings()["watchers"] <= 3


def test_ten_thousand_processes(victim: Victim) -> None:
    """They are linked with the attacker, and end with its connection."""
    before = victim.holdings()
    with victim.attack(timeout=60) as attacker:
        for index in range(10_000):
            ask(attacker, options=(a.link, a.monitor))
            if index % 500 == 0:
                attacker.drain()
        assert attacker.answers(30)
        held = victim.holdings()
        assert held["processes"] == before["processes"] + 10_000
        assert held["rss_kib"] - before["rss_kib"] < 120 * 1024
        victim.check()
    time.sleep(1)
    victim.check()
    held = victim.holdings()
    assert held["processes"] == before["processes"]
    assert held["tasks"] <= before["tasks"] + 1
    assert held["watchers"] == before["watchers"]


def test_a_thousand_threads(victim: Victim) -> None:
    before = victim.holdings()["processes"]
    with victim.attack(timeout=60) as attacker:
        for _ in range(1000):
            ask(attacker, (a.victim, a.thread, 1), (a.link,))
        assert attacker.answers(30)
        victim.check()
    time.sleep(1)
    victim.check()
    assert victim.holdings()["processes"] == before
