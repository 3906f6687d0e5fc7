"""A peer that knows the cookie and means harm: whatever it sends, its connection ends or works, and the node lives."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from random import Random

import pytest
from hostile_terms import SERVICES, Hostile, nested
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_hostile import BARE, FLAG_SETS, HEADED, VICTIM, Attacker, Victim, term, victim_of

from beamnode import Atom, Pid, Reference, a
from beamnode.etf import ImproperList, NativeRecord
from beamnode.otp import gen
from beamnode.wire.flags import Flag

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def frames_survived(victim: Victim, kind: str, random: Random, lawful: bool) -> None:
    """A connection's worth of hostile frames; afterwards it is closed or it works."""
    with victim.attack(FLAG_SETS[kind]) as attacker:
        hostile = Hostile(random, attacker.name, VICTIM, attacker.creation, attacker.victim_creation)
        headed, cached, fragmented = kind != "bare", kind in ("headed", "unfragmented"), kind in ("headed", "uncached")
        for _ in range(random.randrange(1, 60 if lawful else 20)):
            if lawful:
                data = hostile.lawful_frame(headed=headed)
            else:
                data = hostile.frame(headed=headed, cached=cached, fragmented=fragmented)
            if not attacker.write(data) or not attacker.drain():
                break
        attacker.answers()


@pytest.mark.parametrize("kind", FLAG_SETS)
@pytest.mark.parametrize("lawful", [True, False], ids=["lawful", "unlawful"])
def test_frames_that_are_right_in_most_places(victim: Victim, kind: str, lawful: bool) -> None:
    @given(st.randoms(use_true_random=True))
    @EXAMPLES
    def attack(random: Random) -> None:
        frames_survived(victim, kind, Random(random.getrandbits(64)), lawful)

    attack()
    victim.check()


@given(st.binary(max_size=2000))
@EXAMPLES
def test_random_bytes_into_an_open_channel(victim: Victim, data: bytes) -> None:
    with victim.attack() as attacker:
        attacker.write(data)
        attacker.drain()
    victim.check()


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x83D\0", b"\x83D", b"\x83E", b"\x83F", b"p", b"p\x83"]))
@EXAMPLES
def test_a_frame_of_random_bytes(victim: Victim, data: bytes, head: bytes) -> None:
    for flags in (HEADED, BARE):
        with victim.attack(flags) as attacker:
            attacker.frame(head + data)
            attacker.answers()
    victim.check()


# --- Found once, each by the fuzzer or by reading ---------------------------------------------------------------------

CALL, CAST = gen.CALL, gen.CAST
HUGE = 1 << 100_000  # too many digits for Python to print


@pytest.mark.parametrize(
    "make",
    [
        lambda e: (CALL, (1, 2), (a.is_auth, 1)),
        lambda e: (CALL, ((1,), 2), (a.is_auth, 1)),
        lambda e: (CALL, (a.foo, a.bar), a.nodename),
        lambda e: (CALL, (e.pid(), HUGE), (a.is_auth, HUGE)),
        lambda e: (CALL, (e.pid(), 1), HUGE),
        lambda e: (CALL, (e.pid(), 1), nested(1000, 1)),
        lambda e: (CALL, (e.pid(), nested(1020, 1)), a.nodename),
        lambda e: (CALL, (e.pid(), 1), Atom("x\nERROR root forged")),
        lambda e: (CALL, (Pid(Atom("x\nERROR root forged\n@h"), 1, 0, 1), 1), a.nodename),
        lambda e: (Pid(Atom("x\nERROR root forged\n@h"), 1, 0, 1), a.features_request),
        lambda e: (HUGE, nested(1000, HUGE)),
        lambda e: HUGE,
        lambda e: (CALL, (e.pid(), 1), NativeRecord(a.a, a.b, ((a.c, [HUGE]),), True)),
        lambda e: (CALL, (e.pid(), 1), (a.register, ImproperList(([1], HUGE), 1), e.pid(), 1)),
        lambda e: (CALL, (e.pid(), 1), (a.register, ImproperList((1,), nested(1000, 1)), e.pid(), 1)),
        lambda e: (CALL, (e.pid(), 1), (a.register, a.deep, e.pid(), nested(1019, 1))),
        lambda e: (CALL, (e.pid(), 1), (a.set_lock, (HUGE, [HUGE]))),
        lambda e: (CAST, (a.init_connect, (8, nested(1000, 1)), e.node, (a.locker, 1, 2, e.pid()))),
        lambda e: (CAST, (a.init_connect, (HUGE, 1), e.node, (a.locker, 1, 2, e.pid()))),
        lambda e: (a.lost_connection, e.node, HUGE, HUGE, Atom(VICTIM)),
        lambda e: (a.nodeup, e.node, {a.connection_id: [1]}),
        lambda e: (a.nodeup, Atom(""), {a.connection_id: 1}),
        lambda e: (a.nodedown, Atom("no name@@"), {a.connection_id: 1}),
        lambda e: (a.remove_connection, Atom("")),
    ],
)
def test_a_message_that_once_crashed_a_service(victim: Victim, make: Callable[[Attacker], object]) -> None:
    with victim.attack() as attacker:
        for name in SERVICES:
            attacker.reg_send(name, make(attacker))
        attacker.reg_send("global_name_server", (a.init_connect_ack, attacker.node, 5, nested(1000, 1)))
        assert attacker.answers()
        victim.check()
    assert not [line for line in victim.log().splitlines() if line.startswith("ERROR root")]


@pytest.mark.parametrize("reason", [a.kill, a.boom, a.normal])
def test_a_service_that_is_killed_comes_back(victim: Victim, reason: Atom) -> None:
    """By exit/2 to its name, and to its pid, and by the end of a process that linked itself to it."""
    with victim.attack() as attacker:
        for name in SERVICES:
            attacker.control((37, 16 | 8, attacker.pid(), Atom(name)), reason)
        for number in range(1, 10):
            to = Pid(Atom(VICTIM), number, 0, attacker.victim_creation)
            attacker.control((1, attacker.pid(), to))
            attacker.control((24, attacker.pid(), to), reason)
            attacker.control((26, attacker.pid(), to), reason)
        time.sleep(0.3)
    victim.check()
    assert set(SERVICES) <= set(victim.holdings()["registered"])


def test_a_killed_global_name_server_starts_afresh(victim: Victim) -> None:
    """Its state is gone, so the nodes of the mesh are disconnected, and may come again."""
    with victim.attack() as attacker:
        attacker.control((37, 16 | 8, attacker.pid(), a.global_name_server), a.kill)
        assert attacker.is_closed()
    with victim.attack() as attacker:
        assert attacker.answers()
    victim.check()


# --- Bombs and floods -------------------------------------------------------------------------------------------------


def test_a_million_atoms_do_not_stay(victim: Victim) -> None:
    before = victim.rss_mib()
    with victim.attack(timeout=60) as attacker:
        for part in range(20):
            atoms = [Atom(f"flood_{part}_{index}") for index in range(50_000)]
            attacker.reg_send("rex", atoms)
        assert attacker.answers(30)
    victim.check()
    assert victim.rss_mib() - before < 64


def test_the_atoms_of_headers_do_not_stay(victim: Victim) -> None:
    """255 new atoms a message, in the same slots."""
    before = victim.rss_mib()
    with victim.attack(timeout=60) as attacker:
        message = term((6, attacker.pid(), Atom(""), a.rex)) + term(1)
        chunk = bytearray()
        for part in range(2000):
            table = b"\xff" + b"\x88" * 127 + b"\x08"
            for index in range(255):
                text = b"header_%d_%d" % (part, index)
                table += bytes((index, len(text))) + text
            body = b"\x83D" + table + message
            chunk += struct.pack(">I", len(body)) + body
        attacker.write(bytes(chunk))
        assert attacker.answers(30)
    victim.check()
    assert victim.rss_mib() - before < 32


@pytest.mark.parametrize("flags", [HEADED, BARE], ids=["headed", "bare"])
def test_a_compressed_term(victim: Victim, flags: Flag) -> None:
    """In no message of the distribution, as in OTP: it closes the connection."""
    with victim.attack(flags) as attacker:
        attacker.terms(term((6, attacker.pid(), Atom(""), a.rex)), b"P\0\0\0\2" + zlib.compress(b"a\1"))
        assert attacker.is_closed()
    victim.check()


def test_a_flood_of_ticks(victim: Victim) -> None:
    with victim.attack(timeout=60) as attacker:
        for _ in range(20):
            attacker.write(bytes(4 * 50_000))
        assert attacker.answers(10)
    victim.check()


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">BBQQ", 131, 70, 1, 1) + b"x",  # of a sequence that was not begun
        struct.pack(">BBQQ", 131, 69, 1, 0) + b"\0",  # number 0
        struct.pack(">BBQQ", 131, 69, 1, 2) + b"\0",  # without a control message
        struct.pack(">BBQ", 131, 69, 1),
        b"\x83E",
        b"\x83F",
        b"\x83G",
        b"\x83",
        b"D",
        b"\x83D",
        b"\x83D\x01\x00\x05",  # a slot that is empty
        b"\x83D\xff",
        b"\x83D\x01\x08\x00\xff",
        b"\x83D\x01\x08\x00\x02\xff\xfe",
    ],
    ids=repr,
)
def test_frames_that_close_the_connection(victim: Victim, body: bytes) -> None:
    with victim.attack() as attacker:
        attacker.frame(body)
        assert attacker.is_closed()
    victim.check()


def test_a_gap_between_fragments(victim: Victim) -> None:
    with victim.attack() as attacker:
        control = term((6, attacker.pid(), Atom(""), a.rex))
        attacker.frame(struct.pack(">BBQQ", 131, 69, 7, 5) + b"\0" + control + b"m\0\0\0\x09")
        attacker.frame(struct.pack(">BBQQ", 131, 70, 7, 3) + b"xxx")
        assert attacker.is_closed()
    victim.check()


def test_one_reference_for_two_monitors_leaves_nothing_behind(victim: Victim) -> None:
    before = victim.holdings()
    for _ in range(3):
        with victim.attack() as attacker:
            for number in range(100):
                reference = Reference(attacker.node, attacker.creation, (number, 0, 0))
                for name in SERVICES:
                    attacker.control((19, attacker.pid(), Atom(name), reference))
            assert attacker.answers()
        victim.check()
    assert victim.holdings()["watchers"] == before["watchers"]


def test_nothing_is_left_of_attackers(victim: Victim) -> None:
    """At the end of this module: no session, handshake, dial, timer or file descriptor of theirs."""
    time.sleep(0.5)
    victim.check()
    held = victim.holdings()
    assert held["nodes"] == ["friend@127.0.0.1"]
    assert held["sessions"] <= 2  # one may be dialling a node that was made up
    assert held["handshakes"] == 0
    assert held["ties"] <= 2
    assert held["fds"] < 15
    assert held["timers"] < 20


def test_binaries_as_str() -> None:
    """The same attack on a node that decodes binaries."""
    with victim_of(strings=True) as victim:
        for seed in range(15):
            frames_survived(victim, "headed", Random(seed), lawful=seed % 3 != 0)
        victim.check()
