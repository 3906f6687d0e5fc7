"""handshake_machine.py: the timer, the bound on a frame, and the cookie that nobody sees."""

from __future__ import annotations

import traceback

import pytest

from beamnode.errors import BeamnodeError, CookieMismatch, LimitExceeded, ProtocolError, SetupTimeout, UsageError
from beamnode.limits import Limits
from beamnode.wire.flags import DEFAULT
from beamnode.wire.handshake import Accept, Acceptor, Established, Initiator, PeerNamed, PeerProved, State
from beamnode.wire.handshake_machine import Secret
from beamnode.wire.handshake_messages import (
    Challenge,
    ChallengeAck,
    ChallengeReply,
    FromAcceptor,
    FromInitiator,
    SendName,
    Status,
    build,
)

COOKIE = b"open-sesame"
MAX = 100
LIMITS = Limits(handshake_frame_bytes_max=MAX)


def initiator(now: float = 0.0, length_bytes: int = 2) -> Initiator:
    return Initiator(
        this_name="a@host",
        this_creation=1,
        peer_name="b@host",
        flags=DEFAULT,
        cookie=COOKIE,
        challenge=1,
        setup_timeout=7.0,
        now=now,
        limits=LIMITS,
        length_bytes=length_bytes,
    )


def acceptor(now: float = 0.0, length_bytes: int = 2) -> Acceptor:
    return Acceptor(
        this_name="b@host",
        this_creation=1,
        flags=DEFAULT,
        challenge=2,
        setup_timeout=7.0,
        now=now,
        limits=LIMITS,
        length_bytes=length_bytes,
    )


def frame(one: FromInitiator | FromAcceptor) -> bytes:
    body = build(one)
    return len(body).to_bytes(2, "big") + body


NAME = frame(SendName(DEFAULT, 1, "a@host"))
CHALLENGE = frame(Challenge(DEFAULT, 2, 1, "b@host"))
REPLY = frame(ChallengeReply(1, Secret(COOKIE).digest(2)))
ACK = frame(ChallengeAck(Secret(COOKIE).digest(1)))


# --- digests, as erlang:md5/1 made them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookie", "challenge", "expected"),
    [
        (b"monster", 0, "12B449DE1B22903411908B8C56B73BE3"),
        (b"monster", 4294967295, "9DFFD90A48C46A8277429BFDEFC02EBE"),
        (b"\xe5", 1, "DEDFA1AA349A7A4771FA21E348A20319"),
    ],
)
def test_known_digests(cookie: bytes, challenge: int, expected: str) -> None:
    digest = bytes.fromhex(expected)
    secret = Secret(cookie)
    assert secret.digest(challenge) == digest
    assert secret.is_proved(challenge, digest)
    assert not secret.is_proved(challenge ^ 1, digest)
    assert not secret.is_proved(challenge, digest[:-1])


# --- the timer, reset where dist_util resets it -----------------------------------------------------------------------


def test_the_initiators_timer_starts_at_once_and_again_with_its_proof() -> None:
    machine = initiator(now=100.0)
    assert machine.next_deadline() == 107.0
    machine.receive_data(frame(Status("alive")), now=101.0)
    machine.answer_alive(True)
    assert machine.next_deadline() == 107.0
    machine.receive_data(CHALLENGE, now=103.0)
    assert machine.next_deadline() == 110.0
    machine.receive_data(ACK, now=104.0)
    assert machine.next_deadline() is None


def test_the_acceptors_timer_starts_at_once_and_again_with_its_challenge() -> None:
    machine = acceptor(now=100.0)
    assert machine.next_deadline() == 107.0
    machine.receive_data(NAME, now=101.0)
    assert machine.next_deadline() == 107.0
    machine.accept(Accept.ALIVE, cookie=COOKIE)
    assert machine.next_deadline() == 107.0
    machine.receive_data(frame(Status("true")), now=102.0)
    assert machine.next_deadline() == 109.0
    machine.receive_data(REPLY, now=103.0)
    assert machine.next_deadline() == 109.0  # an old connection has that long to go
    machine.acknowledge()
    assert machine.next_deadline() is None


def test_nothing_happens_before_the_deadline() -> None:
    machine = initiator()
    machine.handle_deadline(6.999)
    assert machine.next_deadline() == 7.0
    with pytest.raises(SetupTimeout, match="'b@host' for 7 s while this node was waiting for its status"):
        machine.handle_deadline(7.0)
    assert machine.state is State.ENDED
    assert machine.next_deadline() is None
    machine.handle_deadline(8.0)  # once is enough


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (b"", "a peer that has not said its name .* waiting for its name"),
        (NAME[:-1], "waiting for its name"),
        (NAME, "'a@host' .* deciding whether to accept it"),
    ],
)
def test_the_timeout_says_who_and_where(data: bytes, step: str) -> None:
    machine = acceptor()
    machine.receive_data(data, now=1.0)
    with pytest.raises(SetupTimeout, match=step):
        machine.handle_deadline(7.0)


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length_bytes", [2, 4])
@pytest.mark.parametrize("make", [initiator, acceptor])
def test_a_frame_may_be_as_long_as_the_limit_and_no_longer(
    make: type[Initiator] | type[Acceptor], length_bytes: int
) -> None:
    machine = make(length_bytes=length_bytes)  # type: ignore[call-arg]
    machine.receive_data(MAX.to_bytes(length_bytes, "big") + bytes(MAX - 1), now=0.0)
    assert machine.state is not State.ENDED
    machine = make(length_bytes=length_bytes)  # type: ignore[call-arg]
    with pytest.raises(LimitExceeded) as caught:
        machine.receive_data((MAX + 1).to_bytes(length_bytes, "big"), now=0.0)
    assert caught.value.limit == "handshake_frame_bytes_max"
    assert machine.state is State.ENDED


@pytest.mark.parametrize("make", [initiator, acceptor])
@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x15\x03\x03\0\x02\x02\x0a"])
def test_a_peer_that_speaks_tls_is_told_from_what_it_says_first(
    make: type[Initiator] | type[Acceptor], data: bytes
) -> None:
    with pytest.raises(ProtocolError, match="speaks TLS, and this connection is plain TCP"):
        make().receive_data(data, now=0.0)  # type: ignore[call-arg]
    machine = make(length_bytes=4)  # type: ignore[call-arg]
    with pytest.raises(LimitExceeded):
        machine.receive_data(data, now=0.0)


def test_a_name_as_long_as_the_limit() -> None:
    machine = acceptor()
    name = "a@" + "h" * (MAX - 15 - 2)
    body = build(SendName(DEFAULT, 1, name))
    assert len(body) == MAX
    machine.receive_data(len(body).to_bytes(2, "big") + body, now=0.0)
    assert isinstance(machine.next_event(), PeerNamed)


@pytest.mark.parametrize("piece", [1, 50, 1000])
def test_a_peer_that_talks_while_it_should_wait_is_cut_off(piece: int) -> None:
    machine = acceptor()
    machine.receive_data(NAME, now=0.0)
    for _ in range((2 + MAX) // piece):  # as much as it may
        machine.receive_data(bytes(piece), now=0.0)
    with pytest.raises(LimitExceeded, match="out of turn"):
        machine.receive_data(bytes(piece), now=0.0)
    assert len(machine._buffer) == 0


@pytest.mark.parametrize("length_bytes", [0, 1, 3, 8])
def test_lengths_have_two_bytes_or_four(length_bytes: int) -> None:
    with pytest.raises(UsageError):
        acceptor(length_bytes=length_bytes)


@pytest.mark.parametrize("challenge", [-1, 1 << 32])
def test_a_challenge_has_32_bits(challenge: int) -> None:
    with pytest.raises(UsageError, match="32 bits"):
        Acceptor(this_name="b@h", this_creation=1, flags=DEFAULT, challenge=challenge, setup_timeout=7, now=0)


@pytest.mark.parametrize("creation", [-1, 1 << 32])
def test_a_creation_has_32_bits(creation: int) -> None:
    with pytest.raises(UsageError, match="32 bits"):
        Acceptor(this_name="b@h", this_creation=creation, flags=DEFAULT, challenge=1, setup_timeout=7, now=0)


def test_an_empty_chunk_is_nothing() -> None:
    machine = acceptor()
    machine.receive_data(b"", now=0.0)
    assert machine.next_event() is None
    assert machine.data_to_send() == []


# --- what nobody may see ----------------------------------------------------------------------------------------------


def shown(secret: bytes, text: str) -> bool:
    return any(form in text for form in (secret.decode("latin-1"), secret.hex(), repr(secret)))


def test_neither_cookie_nor_digest_in_any_repr() -> None:
    right = acceptor()
    right.receive_data(NAME, now=0.0)
    right.accept(Accept.OK, cookie=COOKIE)
    right.receive_data(REPLY, now=0.0)
    right.acknowledge()
    left = initiator()
    left.receive_data(frame(Status("ok")) + CHALLENGE, now=0.0)
    texts = [repr(left), repr(right), repr(left._secret), str(right._secret)]
    texts += [repr(event) for event in iter(right.next_event, None)]
    assert len(texts) == 7
    for text in texts:
        for secret in (COOKIE, Secret(COOKIE).digest(1), Secret(COOKIE).digest(2)):
            assert not shown(secret, text)


def test_neither_cookie_nor_digest_in_an_error() -> None:
    right = acceptor()
    right.receive_data(NAME, now=0.0)
    right.accept(Accept.OK, cookie=b"another-one")
    left = initiator()
    left.receive_data(frame(Status("ok")) + CHALLENGE, now=0.0)
    wrong = frame(ChallengeAck(Secret(b"another-one").digest(1)))
    for machine, data in ((right, REPLY), (left, wrong)):
        with pytest.raises(CookieMismatch) as caught:
            machine.receive_data(data, now=0.0)
        text = "".join(traceback.format_exception(caught.value))
        for secret in (COOKIE, b"another-one", data[-16:]):
            assert not shown(secret, text)


def test_unused_bytes_are_not_shown() -> None:
    assert "secret" not in repr(Established("b@host", 1, DEFAULT, b"secret"))


def test_bytes_after_the_end_are_the_drivers_mistake() -> None:
    machine = initiator()
    with pytest.raises(BeamnodeError):
        machine.receive_data(b"\0\0", now=0.0)
    with pytest.raises(UsageError):
        machine.receive_data(b"\0\0", now=0.0)


def test_a_machine_takes_any_kind_of_bytes() -> None:
    machine = acceptor()
    machine.receive_data(memoryview(NAME)[:5], now=0.0)
    machine.receive_data(bytearray(NAME[5:]), now=0.0)
    assert isinstance(machine.next_event(), PeerNamed)
    machine.accept(Accept.OK, cookie=COOKIE)
    machine.receive_data(REPLY, now=0.0)
    assert machine.next_event() == PeerProved()
