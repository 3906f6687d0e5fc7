"""Strangers at the distribution port: noise, half a handshake, a wrong byte, floods. None of them knows the cookie.

How long a stranger holds a place: the set-up time runs from the accept and is started anew once, when the challenge is
sent (dist_util: reset_timer/1), not by bytes. So a peer that drips a byte now and then is gone after twice that time
(three times, when it bears the name of a node that is connected: it is asked first).
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_hostile import FRIEND, HEADED, HOST, VICTIM, Attacker, Victim, victim_of

from beamnode.errors import PeerError
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake_messages import ChallengeReply, SendName, Status, build

SETUPTIME = 1.0
LATE = 1.0  # allowed on top, on a busy machine
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with victim_of(setuptime=SETUPTIME, level="DEBUG") as running:
        yield running
        log = running.log()
        assert running.cookie not in log
        assert repr(running.cookie.encode())[2:-1] not in log


def framed(body: bytes) -> bytes:
    return struct.pack(">H", len(body)) + body


def send_name(attacker: Attacker, flags: Flag = HEADED) -> bytes:
    return framed(build(SendName(flags, attacker.creation, attacker.name)))


def read_challenge(attacker: Attacker) -> int:
    """The challenge of the victim, after `sok`."""
    attacker.socket.settimeout(5)
    data = b""
    while b"sok" not in data or len(data) < 5 + 2 + 19 + len(VICTIM):
        more = attacker.socket.recv(65536)
        assert more, "hung up"
        data += more
    at = data.index(b"sok") + 3 + 2
    assert data[at : at + 1] == b"N"
    return int(struct.unpack_from(">I", data, at + 9)[0])


def reply(attacker: Attacker, cookie: str, challenge: int, digest: bytes | None = None) -> bytes:
    right = hashlib.md5(cookie.encode() + b"%d" % challenge).digest()
    return framed(build(ChallengeReply(1234, right if digest is None else digest)))


@given(st.binary(max_size=3000))
@EXAMPLES
def test_random_bytes(victim: Victim, data: bytes) -> None:
    with Attacker(victim.port) as attacker:
        attacker.write(data)
    victim.check()


@given(st.binary(max_size=60), st.sampled_from(b"NnsraPc"))
@EXAMPLES
def test_a_frame_of_random_bytes(victim: Victim, data: bytes, tag: int) -> None:
    with Attacker(victim.port) as attacker:
        attacker.write(framed(bytes((tag,)) + data))
        attacker.drain()
    victim.check()


def test_every_beginning_of_a_handshake_then_a_close(victim: Victim) -> None:
    with Attacker(victim.port) as probe:
        first = send_name(probe)
    for length in range(len(first) + 1):
        with Attacker(victim.port) as attacker:
            attacker.write(send_name(attacker)[:length])
    for length in range(24):
        with Attacker(victim.port) as attacker:
            attacker.write(send_name(attacker))
            challenge = read_challenge(attacker)
            attacker.write(reply(attacker, victim.cookie, challenge)[:length])
            if length % 2:
                attacker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
    victim.check()


def test_every_beginning_of_a_handshake_then_silence(victim: Victim) -> None:
    """All at once, so that the test takes no longer than the set-up time."""
    with ExitStack() as stack:
        attackers = []
        for length in range(40):
            attacker = stack.enter_context(Attacker(victim.port))
            attacker.write(send_name(attacker)[:length])
            attackers.append(attacker)
        for length in range(23):
            attacker = stack.enter_context(Attacker(victim.port))
            attacker.write(send_name(attacker))
            attacker.write(reply(attacker, victim.cookie, read_challenge(attacker))[:length])
            attackers.append(attacker)
        start = time.monotonic()
        victim.check()
        for attacker in attackers:
            assert attacker.is_closed(max(0.05, start + 2 * SETUPTIME + LATE - time.monotonic()))
    time.sleep(0.1)
    assert victim.holdings()["handshakes"] == 0
    victim.check()


def test_every_byte_of_the_name_changed(victim: Victim) -> None:
    """Some of these are right handshakes, of another name or with other flags: each ends closed or is up."""
    with Attacker(victim.port) as probe:
        length = len(send_name(probe))
    for position in range(length):
        for change in (0x01, 0x80, 0xFF):
            with Attacker(victim.port) as attacker:
                data = bytearray(send_name(attacker))
                data[position] ^= change
                attacker.write(bytes(data))
                attacker.drain()
    victim.check()


def test_every_byte_of_the_reply_changed(victim: Victim) -> None:
    """A changed challenge (bytes 3 to 6) is another challenge; everything else is a wrong reply."""
    for position in [0, 1, 2, *range(7, 23)]:
        with Attacker(victim.port) as attacker:
            attacker.write(send_name(attacker))
            data = bytearray(reply(attacker, victim.cookie, read_challenge(attacker)))
            data[position] ^= 0x01
            attacker.write(bytes(data))
            assert attacker.is_closed(2 * SETUPTIME + LATE), position
    victim.check()


def test_a_wrong_cookie_gets_no_digest(victim: Victim) -> None:
    """The acceptor proves nothing to who has proved nothing."""
    with Attacker(victim.port) as attacker:
        attacker.write(send_name(attacker))
        challenge = read_challenge(attacker)
        attacker.write(reply(attacker, "wrong", challenge))
        attacker.socket.settimeout(5)
        assert attacker.socket.recv(100) == b""
    right = hashlib.md5(victim.cookie.encode() + b"%d" % challenge).digest()
    log = victim.log()
    assert right.hex() not in log
    assert repr(right)[2:-1] not in log
    victim.check()


def test_a_replay(victim: Victim) -> None:
    with Attacker(victim.port) as attacker:
        name = send_name(attacker)
        attacker.write(name)
        answer = reply(attacker, victim.cookie, read_challenge(attacker))
        assert attacker.write(answer)
        assert not attacker.is_closed(0.1)
        proof = answer[7:]
    for again in range(3):
        with Attacker(victim.port, f"evil{again}@{HOST}") as replayer:
            replayer.write(send_name(replayer))
            challenge = read_challenge(replayer)
            replayer.write(reply(replayer, victim.cookie, challenge, proof))
            assert replayer.is_closed(1)
    victim.check()


@pytest.mark.parametrize(
    "name",
    ["", "@", "a@", "@b", "ab", "a@b@c", "a\nERROR root forged@b", "x" * 300 + "@h", "a@b\0", VICTIM],
    ids=lambda name: repr(name[:12]),
)
def test_names_that_are_none(victim: Victim, name: str) -> None:
    with Attacker(victim.port, "placeholder@h") as attacker:
        text = name.encode()
        attacker.write(framed(struct.pack(">cQIH", b"N", HEADED, 1, len(text)) + text))
        assert attacker.is_closed(1)
    victim.check()
    assert not [line for line in victim.log().splitlines() if line.startswith("ERROR root")]


def test_the_name_of_a_node_that_is_connected(victim: Victim) -> None:
    """A stranger with the friend's name is asked, proves nothing, and the friend stays connected."""
    victim.check()
    for answer in (b"", framed(build(Status("true"))), framed(build(Status("false"))), framed(b"r" + bytes(20))):
        with Attacker(victim.port, FRIEND) as attacker:
            attacker.write(send_name(attacker))
            assert b"salive" in attacker.socket.recv(100)
            attacker.write(answer)
            if answer.endswith(b"true"):
                attacker.socket.recv(1000)  # the challenge
                attacker.write(reply(attacker, "wrong", 1))
                assert attacker.is_closed(1)
        assert FRIEND in victim.holdings()["nodes"]
    victim.check()


def test_a_slow_drip_does_not_hold_a_place(victim: Victim) -> None:
    with Attacker(victim.port) as attacker:
        start = time.monotonic()
        for byte in send_name(attacker):
            if not attacker.write(bytes((byte,))) or not attacker.drain():
                break
            time.sleep(0.2)
        assert SETUPTIME - 0.1 < time.monotonic() - start < SETUPTIME + LATE
    with Attacker(victim.port) as attacker:  # once the name is said, time starts anew, once
        start = time.monotonic()
        attacker.write(send_name(attacker))
        for byte in reply(attacker, victim.cookie, read_challenge(attacker)):
            if not attacker.write(bytes((byte,))) or not attacker.drain():
                break
            time.sleep(0.2)
        assert time.monotonic() - start < 2 * SETUPTIME + LATE
    victim.check()


def test_400_half_open_connections_do_not_keep_a_peer_out() -> None:
    """Past `handshakes_pending_max` the oldest goes; a peer that gets on with its handshake is never the oldest."""
    with victim_of(setuptime=3.0, level="ERROR") as victim, ExitStack() as stack:
        attackers = [stack.enter_context(Attacker(victim.port)) for _ in range(400)]
        assert victim.holdings()["handshakes"] <= 256
        victim.check(2.0)  # the friend has not been connected before
        with victim.attack() as late:
            assert late.answers()
        assert attackers[0].is_closed(1)
        assert not attackers[-1].is_closed(0.1)
        for attacker in attackers:
            assert attacker.is_closed(5)
        held = victim.holdings()
        assert (held["handshakes"], held["sessions"]) == (0, 1)
        assert held["fds"] < 15
        victim.check()


def test_connections_that_were_refused_do_not_hold_places_either() -> None:
    """A stream that is closed waits a while for the peer to close, too: those are counted with the pending ones."""
    with victim_of(setuptime=3.0, level="ERROR", limits={"handshakes_pending_max": 50}) as victim, ExitStack() as stack:
        for _ in range(300):
            attacker = stack.enter_context(Attacker(victim.port))
            attacker.write(framed(b"junk"))
        victim.check()
        assert victim.holdings()["fds"] < 70


def test_a_thousand_connections_that_come_and_go(victim: Victim) -> None:
    for _ in range(2):
        before = victim.holdings()
        for index in range(1000):
            with Attacker(victim.port) as attacker:
                if index % 2:
                    attacker.write(send_name(attacker))
        victim.check()
        time.sleep(0.2)
    held = victim.holdings()
    assert held["handshakes"] == 0
    assert held["entries"] == 1
    assert held["fds"] <= before["fds"] + 2
    assert held["timers"] <= before["timers"] + 2
    assert held["rss_kib"] - before["rss_kib"] < 8 * 1024  # the second time: the first makes room for 256 at a time


def test_dynamic_names_do_not_pile_up(victim: Victim) -> None:
    """Who asks for a name and proves no cookie leaves no trace."""
    before = victim.holdings()
    for index in range(200):
        with Attacker(victim.port) as attacker:
            text = b"host%d" % index
            flags = int(DEFAULT | Flag.NAME_ME)
            attacker.write(framed(struct.pack(">cQIH", b"N", flags, 0, len(text)) + text))
            attacker.socket.settimeout(5)
            assert b"snamed:" in attacker.socket.recv(100)
    victim.check()
    time.sleep(0.1)
    assert victim.holdings()["entries"] == before["entries"]


def test_bytes_after_the_handshake_are_the_channels(victim: Victim) -> None:
    """Junk in the same segment as the last frame of the handshake closes the channel, not the node."""
    for junk in (b"\0\0\0\1x", secrets.token_bytes(3000), b"\xff" * 100, b"\0" * 4000):
        with Attacker(victim.port) as attacker:
            attacker.write(send_name(attacker))
            attacker.write(reply(attacker, victim.cookie, read_challenge(attacker)) + junk)
            attacker.drain()
    victim.check()


def test_a_flags_word_of_any_kind(victim: Victim) -> None:
    for bit in range(64):
        for flags in (Flag(1 << bit), Flag(HEADED.value ^ 1 << bit)):
            with suppress(PeerError, ConnectionError), victim.attack(flags) as attacker:
                attacker.answers()
    victim.check()
