"""handshake_messages.py: every frame as drawn in erl_dist_protocol, to and from bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.errors import ProtocolError
from beamnode.wire.flags import Flag
from beamnode.wire.handshake_messages import (
    Challenge,
    ChallengeAck,
    ChallengeReply,
    Complement,
    FromAcceptor,
    FromInitiator,
    NamedStatus,
    OldSendName,
    SendName,
    Status,
    build,
    parse_from_acceptor,
    parse_from_initiator,
)

DIGEST = bytes(range(16))

FROM_INITIATOR: list[tuple[FromInitiator, bytes]] = [
    (
        SendName(Flag(0x6D07DF7FBD), 0x01020304, "a@h"),
        b"N" + bytes.fromhex("0000006d07df7fbd 01020304 0003") + b"a@h",
    ),
    (SendName(Flag.NAME_ME, 0, "h"), b"N" + bytes.fromhex("0000000200000000 00000000 0001") + b"h"),
    (SendName(Flag(1 << 63), 1, "\xe5@h"), b"N" + bytes.fromhex("8000000000000000 00000001 0003") + b"\xe5@h"),
    (OldSendName(5, Flag(0x07DF7FBD), "a@h"), b"n" + bytes.fromhex("0005 07df7fbd") + b"a@h"),
    (Status("true"), b"strue"),
    (Status("false"), b"sfalse"),
    (Complement(Flag.SPAWN | Flag.V4_NC, 7), b"c" + bytes.fromhex("00000005 00000007")),
    (ChallengeReply(0xFFFFFFFF, DIGEST), b"r" + bytes.fromhex("ffffffff") + DIGEST),
]

FROM_ACCEPTOR: list[tuple[FromAcceptor, bytes]] = [
    (Status("ok"), b"sok"),
    (Status("ok_simultaneous"), b"sok_simultaneous"),
    (Status(""), b"s"),
    # as measured: WIRE.md 2.0
    (NamedStatus("2EBF8VAH0MT6I@vm", 9), b"snamed:\x00\x102EBF8VAH0MT6I@vm\x00\x00\x00\x09"),
    (NamedStatus("x@å", 9), b"snamed:\x00\x04x@\xc3\xa5\x00\x00\x00\x09"),
    (
        Challenge(Flag(0xD07DF7FBC), 0x0A0B0C0D, 0x01020304, "b@h"),
        b"N" + bytes.fromhex("0000000d07df7fbc 0a0b0c0d 01020304 0003") + b"b@h",
    ),
    (ChallengeAck(DIGEST), b"a" + DIGEST),
]


@pytest.mark.parametrize(("frame", "data"), FROM_INITIATOR)
def test_frames_of_the_initiator(frame: FromInitiator, data: bytes) -> None:
    assert build(frame) == data
    assert parse_from_initiator(data) == frame


@pytest.mark.parametrize(("frame", "data"), FROM_ACCEPTOR)
def test_frames_of_the_acceptor(frame: FromAcceptor, data: bytes) -> None:
    assert build(frame) == data
    assert parse_from_acceptor(data) == frame


@pytest.mark.parametrize("frame", [FROM_INITIATOR[0][0], FROM_INITIATOR[1][0]])
def test_what_follows_a_name_is_ignored(frame: FromInitiator) -> None:
    assert parse_from_initiator(build(frame) + b"more") == frame


@pytest.mark.parametrize("frame", [FROM_ACCEPTOR[3][0], FROM_ACCEPTOR[5][0]])
def test_what_follows_a_name_of_the_acceptor_is_ignored(frame: FromAcceptor) -> None:
    assert parse_from_acceptor(build(frame) + b"more") == frame


@pytest.mark.parametrize(("frame", "data"), [pair for pair in FROM_INITIATOR if isinstance(pair[0], SendName)])
def test_a_truncated_name_is_an_error_at_every_length(frame: FromInitiator, data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            parse_from_initiator(data[:length])


@pytest.mark.parametrize("index", [5, 6])
def test_frames_of_the_acceptor_truncated(index: int) -> None:
    data = FROM_ACCEPTOR[index][1]
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            parse_from_acceptor(data[:length])


def test_a_truncated_named_is_an_error_at_every_length() -> None:
    data = FROM_ACCEPTOR[3][1]
    for length in range(len(b"snamed:"), len(data)):
        with pytest.raises(ProtocolError):
            parse_from_acceptor(data[:length])


@pytest.mark.parametrize("frame", [Complement(Flag(0), 1), ChallengeReply(1, DIGEST)])
def test_frames_of_a_fixed_size_have_exactly_that(frame: FromInitiator) -> None:
    data = build(frame)
    for wrong in (data + b"x", *(data[:length] for length in range(len(data)))):
        with pytest.raises(ProtocolError):
            parse_from_initiator(wrong)


def test_an_ack_has_exactly_its_size() -> None:
    with pytest.raises(ProtocolError, match="16 bytes"):
        parse_from_acceptor(b"a" + DIGEST + b"x")
    for length in range(17):
        with pytest.raises(ProtocolError):
            parse_from_acceptor((b"a" + DIGEST)[:length])


def test_a_name_that_is_not_utf_8_cannot_be_given() -> None:
    with pytest.raises(ProtocolError, match="UTF-8") as caught:
        parse_from_acceptor(b"snamed:\x00\x03x@\xff\x00\x00\x00\x01")
    assert caught.value.__suppress_context__


def test_the_challenge_of_old_nodes_is_refused_with_a_reason() -> None:
    with pytest.raises(ProtocolError, match="OTP 25"):
        parse_from_acceptor(b"n" + bytes.fromhex("0005 07df7fbd 00000001") + b"a@h")


@pytest.mark.parametrize("data", [b"", b"x", b"ab", b"\x00"])
def test_unknown_frames(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_from_initiator(data)
    if data[:1] != b"a":
        with pytest.raises(ProtocolError):
            parse_from_acceptor(data)


def test_no_repr_shows_a_digest() -> None:
    secret = b"sixteen bytes!!!"
    assert repr(ChallengeReply(1, secret)) == "ChallengeReply(challenge=1)"
    assert repr(ChallengeAck(secret)) == "ChallengeAck()"


@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    for parse in (parse_from_initiator, parse_from_acceptor):
        try:
            frame = parse(data)
        except ProtocolError:
            continue
        assert parse(build(frame)) == frame
