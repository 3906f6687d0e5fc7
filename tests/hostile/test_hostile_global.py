"""`global_name_server` and a single bad member of the mesh: it must not crash the service, fill the memory, or make the
node dial without end. (That it can take names and locks, and break connections, is OTP's trust in members.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support_hostile import Attacker, Victim, term, victim_of

from beamnode import Atom, Pid, a
from beamnode.etf import Fun
from beamnode.limits import DEFAULT_LIMITS
from beamnode.otp import gen
from beamnode.services.global_name_server import CONNECTING_MAX
from beamnode.testing.peers import wait_for

SERVER = Atom("global_name_server")


@pytest.fixture
def victim() -> Iterator[Victim]:
    with victim_of(level="ERROR") as running:
        running.check()
        yield running


def slow(index: int) -> Atom:
    """A node that is looked for until the set-up time is over."""
    return Atom(f"slow{index}@127.0.0.1")


def flood(attacker: Attacker, make: Callable[[int], Any], count: int) -> None:
    chunk = bytearray()
    control = term((6, attacker.pid(), Atom(""), SERVER))
    for index in range(count):
        chunk += attacker.message(control, term(make(index)))
        if len(chunk) > 20_000 or index == count - 1:
            assert attacker.write(bytes(chunk))
            attacker.drain()
            chunk.clear()
    assert attacker.answers(60)


def at_rest(victim: Victim) -> dict[str, Any]:
    """What it holds when it asks for nobody any more and dials nobody, which takes a busy machine a while."""

    def rests() -> bool:
        held = victim.holdings()
        return (held["asking"], held["dialling"], held["entries"]) == (0, 0, 1)

    wait_for(rests)
    return victim.holdings()


def call(sender: Pid, request: Any) -> Any:
    return (gen.CALL, (sender, 1), request)


def cast(*request: Any) -> Any:
    return (gen.CAST, request)


@pytest.mark.parametrize("prefix", ["slow", "gone", "a\nb", "", "no at "], ids=repr)
def test_new_nodes_that_are_made_up(victim: Victim, prefix: str) -> None:
    before = victim.rss_mib()
    with victim.attack(timeout=60) as attacker:
        for part in range(2):
            names = [f"{prefix}{part}x{index}@127.0.0.1" for index in range(50_000)]
            if prefix == "no at ":
                names = [name.partition("@")[0] for name in names]
            nodes = [(Atom(name), 8) for name in names]
            attacker.reg_send("global_name_server", cast(a.new_nodes, attacker.node, [], [], nodes, []))
        assert attacker.answers(30)
        victim.check(2)
        assert victim.holdings()["asking_most"] <= DEFAULT_LIMITS.global_unconnected_max
    time.sleep(1.3)
    victim.check()
    held = at_rest(victim)
    assert held["tasks"] < 10
    assert held["rss_kib"] / 1024 - before < 80


def known_and_lost(e: Attacker, i: int) -> Any:
    if i % 2:
        return cast(a.new_nodes, e.node, [], [], [slow(i)], [])
    return (a.lost_connection, e.node, 1, i, slow(i - 1))


def locked_and_asked(e: Attacker, i: int) -> Any:
    if i == 0:
        return call(e.pid(), (a.set_lock, (a["global"], e.pid())))
    return (a.whereis, i, (e.pid(), 1))


def named(i: int) -> Atom:
    return Atom(f"n{i}@h")


def locker(pid: Pid) -> Any:
    return (a.locker, 1, {}, pid)


def large_fun(e: Attacker) -> Fun:
    return Fun(a.m, 3, bytes(16), 0, 0, 0, e.pid(), ([1] * 70_000,))


# What is sent so many times, and what it may cost in MiB.
FLOODS: dict[str, tuple[Callable[[Attacker, int], Any], int, int]] = {
    "register": (lambda e, i: call(e.pid(), (a.register, i, e.pid(), a.m)), 20_000, 40),
    "large methods": (lambda e, i: call(e.pid(), (a.register, a.one, e.pid(), bytes(60_000))), 500, 40),
    "too large methods": (lambda e, i: call(e.pid(), (a.register, i, e.pid(), bytes(100_000))), 500, 4),
    "large funs": (lambda e, i: call(e.pid(), (a.register, i, e.pid(), large_fun(e))), 50, 16),
    "locks": (lambda e, i: call(e.pid(), (a.set_lock, (i, e.pid()))), 70_000, 100),
    "large lock ids": (lambda e, i: call(e.pid(), (a.set_lock, (i, bytes(100_000)))), 500, 4),
    "in_sync": (lambda e, i: cast(a.in_sync, named(i), True), 20_000, 4),
    "early init_connect": (
        lambda e, i: cast(a.init_connect, (8, i), named(i), locker(Pid(named(i), 1, 0, 1))),
        20_000,
        8,
    ),
    "init_connect again": (lambda e, i: cast(a.init_connect, (8, i), e.node, locker(e.pid())), 10_000, 4),
    "large tags": (lambda e, i: cast(a.init_connect, (8, i << 900_000), e.node, locker(e.pid())), 200, 24),
    "exchange": (lambda e, i: cast(a.exchange, e.node, [], [], i), 20_000, 4),
    "lock_set": (lambda e, i: cast(a.lock_set, e.pid(i + 1), True, []), 20_000, 4),
    "known and lost": (known_and_lost, 10_000, 30),
    "lost_connection": (lambda e, i: (a.lost_connection, named(i), i, i, Atom(f"m{i}@h")), 70_000, 120),
    "large numbers": (lambda e, i: (a.lost_connection, named(i), 1 << 900_000, i, e.node), 200, 24),
    "remove_connection": (lambda e, i: (a.remove_connection, named(i)), 20_000, 4),
    "cancel_connect": (lambda e, i: (a.cancel_connect, e.node, i), 20_000, 4),
    "sync": (lambda e, i: call(e.pid(), (a.sync, [slow(j) for j in range(i, i + 50)])), 1000, 40),
    "whereis": (locked_and_asked, 20_000, 8),
    "forged nodeup": (lambda e, i: (a.nodeup, slow(i), {a.connection_id: i}), 20_000, 4),
    "forged nodedown": (lambda e, i: (a.nodedown, e.node, {a.connection_id: i}), 20_000, 4),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood(victim: Victim, what: str) -> None:
    make, count, allowed_mib = FLOODS[what]
    before = victim.rss_mib()
    with victim.attack(timeout=60) as attacker:
        flood(attacker, lambda index: make(attacker, index), count)
        victim.check(3)  # what is left of the flood is worked off meanwhile
        victim.check()
        assert victim.rss_mib() - before < allowed_mib
    victim.check(3)
    victim.check()
    wait_for(lambda: victim.holdings()["nodes"] == ["friend@127.0.0.1"])


@pytest.mark.parametrize(
    "make",
    [
        lambda e, i: call(Pid(slow(i), 1, 0, 1), a.get_known),
        lambda e, i: call(e.pid(), (a.register, i, Pid(slow(i), 1, 0, 1), a.m)),
        lambda e, i: call(Pid(slow(i), 1, 0, 1), (a.set_lock, (i, e.pid()))),
        lambda e, i: cast(a.lock_set, Pid(slow(i), 1, 0, 1), True, []),
        lambda e, i: (a.whereis, i, (Pid(slow(i), 1, 0, 1), 1)),
        lambda e, i: (a.prepare_shutdown, Pid(slow(i), 1, 0, 1), 1),
        lambda e, i: call(e.pid(), (a.sync, [slow(10 * i + j) for j in range(10)])),
    ],
    ids=["reply", "register", "lock", "lock_set", "whereis", "shutdown", "sync"],
)
def test_it_dials_so_many_nodes_at_a_time_and_no_more(victim: Victim, make: Callable[[Attacker, int], Any]) -> None:
    with victim.attack() as attacker:
        flood(attacker, lambda index: make(attacker, index), 3000)
        victim.check()
    held = victim.holdings()
    assert held["asking_most"] <= max(DEFAULT_LIMITS.dials_pending_max, CONNECTING_MAX)
    time.sleep(1.3)
    victim.check(2)
    at_rest(victim)


def test_the_names_of_a_node_that_goes_are_dropped_in_time(victim: Victim) -> None:
    """Each name's DOWN must not look through the mailbox that the others are in."""
    with victim.attack(timeout=60) as attacker:
        flood(attacker, lambda index: call(attacker.pid(), (a.register, index, attacker.pid(index + 1), a.m)), 40_000)
    time.sleep(0.1)
    start = time.monotonic()
    victim.check(5)
    assert time.monotonic() - start < 3
