"""What a bad peer can make a node hold, measured: the memory of a node in a process of its own, and its peak."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_hostile import BARE, HEADED, Attacker, Victim, term, victim_of

from beamnode import Atom, a
from beamnode.errors import LimitExceeded
from beamnode.etf import decode
from beamnode.limits import Limits
from beamnode.testing.peers import wait_for

MIB = 1024 * 1024


@pytest.fixture
def victim() -> Iterator[Victim]:
    """Each test its own: the peak counts from its start."""
    with victim_of(level="ERROR") as running:
        running.check()
        yield running


def peak_mib(victim: Victim) -> float:
    status = Path(f"/proc/{victim.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def head(attacker: Attacker) -> bytes:
    return term((6, attacker.pid(), Atom(""), a.rex))


def fragments(count: int, data: bytes) -> Iterator[bytes]:
    """Frames of a message whose last fragment never comes, a megabyte at a time."""
    chunk = bytearray()
    for number in range(count):
        body = struct.pack(">BBQQ", 131, 70, 7, (1 << 62) - 1 - number) + data
        chunk += struct.pack(">I", len(body)) + body
        if len(chunk) > MIB or number == count - 1:
            yield bytes(chunk)
            chunk.clear()


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, (1 << 30) + 1], ids=["4GiB", "past the limit"])
def test_a_frame_that_claims_too_much_is_closed_at_once(victim: Victim, claimed: int) -> None:
    before = peak_mib(victim)
    with victim.attack() as attacker:
        attacker.write(struct.pack(">I", claimed) + bytes(1000))
        assert attacker.is_closed()
    victim.check()
    assert peak_mib(victim) - before < 4


def test_a_frame_that_claims_a_gibibyte_and_drips(victim: Victim) -> None:
    before = peak_mib(victim)
    with victim.attack() as attacker:
        attacker.write(struct.pack(">I", 1 << 30))
        for _ in range(5000):
            attacker.write(b"x")
        victim.check()
        assert peak_mib(victim) - before < 4


@pytest.mark.parametrize(("data", "allowed_mib"), [(b"", 4), (b"x", 4), (b"x" * 10, 14)], ids=["0", "1", "10"])
def test_half_a_million_tiny_fragments(victim: Victim, data: bytes, allowed_mib: int) -> None:
    """They cost about their bytes, and not an object each."""
    before = peak_mib(victim)
    with victim.attack(timeout=60) as attacker:
        first = struct.pack(">BBQQ", 131, 69, 7, 1 << 62) + b"\0" + head(attacker) + b"m\x7f\xff\xff\xff"
        attacker.frame(first)
        for chunk in fragments(500_000, data):
            attacker.write(chunk)
        assert attacker.answers(30)
        assert peak_mib(victim) - before < allowed_mib
    victim.check()


def test_more_sequences_than_allowed(victim: Victim) -> None:
    before = peak_mib(victim)
    with victim.attack() as attacker:
        for sequence in range(5000):
            body = struct.pack(">BBQQ", 131, 69, sequence, 1 << 62) + b"\0" + head(attacker) + b"m\x7f\xff\xff\xff"
            if not attacker.frame(body):
                break
        assert attacker.is_closed()
    victim.check()
    assert peak_mib(victim) - before < 8


def test_unfinished_messages_are_let_go_with_their_connection(victim: Victim) -> None:
    for _ in range(5):
        with victim.attack(timeout=60) as attacker:
            body = struct.pack(">BBQQ", 131, 69, 7, 1 << 62) + b"\0" + head(attacker) + b"m\x7f\xff\xff\xff"
            attacker.frame(body + bytes(60_000))
            for chunk in fragments(400, bytes(60_000)):
                attacker.write(chunk)
            assert attacker.answers(30)
        victim.check()
    assert victim.rss_mib() < 90  # 5 times 24 MB would be 145


def test_a_zip_bomb_is_not_even_inflated(victim: Victim) -> None:
    """A hundred kilobytes that would be a hundred million empty lists: OTP takes no compressed term either."""
    count = 100 * MIB
    bomb = zlib.compress(b"l" + struct.pack(">I", count) + b"j" * count + b"j")
    assert len(bomb) < 120_000
    before = peak_mib(victim)
    with victim.attack(BARE) as attacker:
        data = b"p\x83" + head(attacker) + b"\x83P" + struct.pack(">I", count + 6) + bomb
        attacker.frame(data)
        assert attacker.is_closed()
        victim.check()
        assert peak_mib(victim) - before < 4


@pytest.mark.parametrize(
    "data",
    [
        b"l\0\0\0\x05" + b"j" * 6,
        b"h\5" + b"j" * 5,
        b"l\0\0\0\2h\3jjjjj",
        b"t\0\0\0\2a\1ja\2h\1j",
        b"l\0\0\0\3jjjl\0\0\0\2jjj",  # a list that goes on in another
    ],
)
def test_a_term_of_too_many_elements(data: bytes) -> None:
    with pytest.raises(LimitExceeded) as raised:
        decode(b"\x83" + data, limits=Limits(term_elements_max=4))
    assert raised.value.limit == "term_elements_max"


def test_a_term_of_as_many_elements_as_allowed() -> None:
    assert decode(b"\x83l\0\0\0\2h\2jja\1j", limits=Limits(term_elements_max=4)) == [([], []), 1]


def test_a_thousand_half_open_connections(victim: Victim) -> None:
    before = victim.rss_mib()
    attackers = [Attacker(victim.port) for _ in range(1000)]
    try:
        assert victim.rss_mib() - before < 40  # 256 receive buffers of 64 KiB, and what is being closed
        victim.check()
    finally:
        for attacker in attackers:
            attacker.socket.close()
    wait_for(lambda: victim.holdings()["fds"] < 15)


def nothing_is_left(held: dict[str, Any]) -> bool:
    return len(held["nodes"]) == 1 and held["fds"] < 15 and held["ties"] == 1


def test_a_hundred_connections_that_are_up(victim: Victim) -> None:
    """Who knows the cookie can have as many as it likes; they leave nothing behind."""
    for _ in range(2):
        attackers = [victim.attack(HEADED) for _ in range(100)]
        assert len(victim.holdings()["nodes"]) == 101
        victim.check()
        for attacker in attackers:
            attacker.socket.close()
        wait_for(lambda: nothing_is_left(victim.holdings()))
    assert victim.rss_mib() < 60


def test_what_breaks_the_connection_is_let_go_with_it(victim: Victim) -> None:
    """At once, and not when Python collects garbage the next time."""

    def resident_mib() -> float:
        status = Path(f"/proc/{victim.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    before = resident_mib()
    with victim.attack(timeout=60) as attacker:
        attacker.frame(b"\x83D\0" + head(attacker) + b"m\x7f\xff\xff\xff" + bytes(100 * MIB))
        assert attacker.is_closed(30)
    wait_for(lambda: resident_mib() - before < 30)
    victim.check()
