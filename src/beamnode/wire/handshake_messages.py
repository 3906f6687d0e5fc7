"""The frames of the version 6 handshake as records, to and from bytes. No state, no decisions.

A frame here is what stands behind its length. Source: erl_dist_protocol, "Distribution Handshake"; OTP's dist_util.
Names travel as Latin-1 (dist_util: atom_to_binary(Node, latin1), list_to_atom/1), save in the status `named:`, which
is UTF-8. Whatever stands behind a name is for extensions, and ignored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, assert_never

from beamnode.errors import ProtocolError
from beamnode.wire.flags import Flag

DIGEST_BYTES: Final = 16

_SEND_NAME: Final = struct.Struct(">QIH")  # flags, creation, bytes of the name
_OLD_SEND_NAME: Final = struct.Struct(">HI")  # version, low flags
_CHALLENGE: Final = struct.Struct(">QIIH")  # flags, challenge, creation, bytes of the name
_COMPLEMENT: Final = struct.Struct(">II")  # high flags, creation
_NAMED: Final = b"named:"


@dataclass(frozen=True, slots=True)
class SendName:
    """`N`, the initiator's first frame. With NAME_ME in the flags the name is a host, the creation 0."""

    flags: Flag
    creation: int
    name: str


@dataclass(frozen=True, slots=True)
class OldSendName:
    """`n`, the first frame of a node that does not know our version; its `Complement` brings the rest."""

    version: int
    flags: Flag  # the low 32 bits
    name: str


@dataclass(frozen=True, slots=True)
class Status:
    """`s`: from the acceptor `ok`, `ok_simultaneous`, `nok`, `not_allowed`, `alive`; after it a `true` or `false`."""

    word: str


@dataclass(frozen=True, slots=True)
class NamedStatus:
    """`s` with `named:`: the name and creation that the acceptor gives to an initiator which has none."""

    name: str
    creation: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """`N`, from the acceptor: who it is, what it can do, and a number to prove the cookie with."""

    flags: Flag
    challenge: int
    creation: int
    name: str


@dataclass(frozen=True, slots=True)
class Complement:
    """`c`: what did not fit into an `OldSendName`."""

    high_flags: Flag  # in their place: bits 32 to 63
    creation: int


@dataclass(frozen=True, slots=True)
class ChallengeReply:
    """`r`: the initiator's proof, and its own number."""

    challenge: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChallengeAck:
    """`a`: the acceptor's proof; the last frame."""

    digest: bytes = field(repr=False)


FromInitiator = SendName | OldSendName | Status | Complement | ChallengeReply
FromAcceptor = Status | NamedStatus | Challenge | ChallengeAck


def build(frame: FromInitiator | FromAcceptor) -> bytes:
    """The bytes of a frame, without its length. Names must be Latin-1, numbers fit their 32 or 64 bits."""
    match frame:
        case SendName(flags, creation, name):
            latin1 = name.encode("latin-1")
            return b"N" + _SEND_NAME.pack(flags, creation, len(latin1)) + latin1
        case OldSendName(version, flags, name):
            return b"n" + _OLD_SEND_NAME.pack(version, flags) + name.encode("latin-1")
        case Status(word):
            return b"s" + word.encode("latin-1")
        case NamedStatus(name, creation):
            utf8 = name.encode()
            return b"s" + _NAMED + struct.pack(">H", len(utf8)) + utf8 + struct.pack(">I", creation)
        case Challenge(flags, challenge, creation, name):
            latin1 = name.encode("latin-1")
            return b"N" + _CHALLENGE.pack(flags, challenge, creation, len(latin1)) + latin1
        case Complement(high_flags, creation):
            return b"c" + _COMPLEMENT.pack(high_flags >> 32, creation)
        case ChallengeReply(challenge, digest):
            return b"r" + struct.pack(">I", challenge) + digest
        case ChallengeAck(digest):
            return b"a" + digest
        case _:
            assert_never(frame)


def parse_from_initiator(frame: bytes) -> FromInitiator:
    """Read a frame that an acceptor received. Raises ProtocolError; no text of it quotes a digest."""
    tag, body = frame[:1], frame[1:]
    match tag:
        case b"N":
            return _parse_send_name(body)
        case b"n":
            return _parse_old_send_name(body)
        case b"s":
            return Status(body.decode("latin-1"))
        case b"c":
            _expect_length(body, _COMPLEMENT.size, "complement")
            high, creation = _COMPLEMENT.unpack(body)
            return Complement(Flag(high << 32), creation)
        case b"r":
            _expect_length(body, 4 + DIGEST_BYTES, "challenge_reply")
            return ChallengeReply(int.from_bytes(body[:4], "big"), body[4:])
        case _:
            raise ProtocolError(f"no frame of a handshake's initiator begins with {tag!r}")


def parse_from_acceptor(frame: bytes) -> FromAcceptor:
    """Read a frame that an initiator received. Raises ProtocolError; no text of it quotes a digest."""
    tag, body = frame[:1], frame[1:]
    match tag:
        case b"s":
            return _parse_named(body) if body.startswith(_NAMED) else Status(body.decode("latin-1"))
        case b"N":
            return _parse_challenge(body)
        case b"a":
            _expect_length(body, DIGEST_BYTES, "challenge_ack")
            return ChallengeAck(body)
        case b"n":
            raise ProtocolError("the peer sent the challenge of OTP 22 and older: it must be OTP 25 or newer")
        case _:
            raise ProtocolError(f"no frame of a handshake's acceptor begins with {tag!r}")


def _parse_send_name(body: bytes) -> SendName:
    _expect_at_least(body, _SEND_NAME.size, "send_name")
    flags, creation, length = _SEND_NAME.unpack_from(body)
    return SendName(Flag(flags), creation, _latin1_name(body, _SEND_NAME.size, length))


def _parse_old_send_name(body: bytes) -> OldSendName:
    _expect_at_least(body, _OLD_SEND_NAME.size, "send_name")
    version, flags = _OLD_SEND_NAME.unpack_from(body)
    return OldSendName(version, Flag(flags), body[_OLD_SEND_NAME.size :].decode("latin-1"))


def _parse_challenge(body: bytes) -> Challenge:
    _expect_at_least(body, _CHALLENGE.size, "challenge")
    flags, challenge, creation, length = _CHALLENGE.unpack_from(body)
    return Challenge(Flag(flags), challenge, creation, _latin1_name(body, _CHALLENGE.size, length))


def _parse_named(body: bytes) -> NamedStatus:
    start = len(_NAMED) + 2
    _expect_at_least(body, start, "status named")
    end = start + int.from_bytes(body[start - 2 : start], "big")
    _expect_at_least(body, end + 4, "status named")
    try:
        name = body[start:end].decode()
    except UnicodeDecodeError:
        raise ProtocolError("the name in the status named is not UTF-8") from None
    return NamedStatus(name, int.from_bytes(body[end : end + 4], "big"))


def _latin1_name(body: bytes, start: int, length: int) -> str:
    _expect_at_least(body, start + length, "node name")
    return body[start : start + length].decode("latin-1")


def _expect_at_least(body: bytes, size: int, what: str) -> None:
    if len(body) < size:
        raise ProtocolError(f"a {what} of at least {size} bytes was expected, {len(body)} came")


def _expect_length(body: bytes, size: int, what: str) -> None:
    if len(body) != size:
        raise ProtocolError(f"a {what} of {size} bytes was expected, {len(body)} came")
