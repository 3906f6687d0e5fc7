"""Fragments: a large message in several frames, so that others, and ticks, need not wait for all of it.

The first fragment has the distribution header, the whole control message and the beginning of the payload; those that
follow have a piece of the payload each. Fragments are numbered down to 1; those of different messages may alternate,
those of one message come in order. The sequence id tells messages apart: OTP uses the sender's pid as a number.

    131, 69, SequenceId:64, FragmentId:64, N, flags and references of N atoms, control message, payload...
    131, 70, SequenceId:64, FragmentId:64, payload...

Source: erl_dist_protocol, "Distribution header for fragmented messages"; erts dist.c `erts_net_message`; WIRE.md 2.18.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

from beamnode.errors import LimitExceeded, ProtocolError
from beamnode.limits import DEFAULT_LIMITS, Limits

_SMALL_PIECE_BYTES: Final = 4096
FRAGMENT_BYTES: Final = 64 * 1024  # of terms in one fragment (dist.h: ERTS_DIST_FRAGMENT_SIZE)

VERSION: Final = 131
FIRST_FRAGMENT: Final = 69
NEXT_FRAGMENT: Final = 70

_HEAD: Final = Struct(">BBQQ")  # version, kind, sequence id, fragment id
HEAD_BYTES: Final = _HEAD.size


def fragment_head(kind: int, sequence_id: int, fragment_id: int) -> bytes:
    """The bytes in front of a fragment (after its frame's length); a first fragment's header table follows them."""
    return _HEAD.pack(VERSION, kind, sequence_id, fragment_id)


def read_fragment_head(buffer: bytes, start: int, end: int) -> tuple[int, int]:
    """Sequence id and fragment id of the fragment at `start`; its data begins `HEAD_BYTES` later."""
    if end - start < HEAD_BYTES:
        raise ProtocolError(f"a fragment of {end - start} bytes, shorter than its header")
    _, _, sequence_id, fragment_id = _HEAD.unpack_from(buffer, start)
    return sequence_id, fragment_id


def split(control_bytes: int, terms_bytes: int, fragment_bytes: int = FRAGMENT_BYTES) -> Iterator[tuple[int, int, int]]:
    """How to cut the encoded terms of one message: (fragment id, begin, end) for each, first fragment first.

    The first takes at least the control message, `control_bytes`, whole: a receiver decodes it from that one alone.
    """
    first_end = min(max(fragment_bytes, control_bytes), terms_bytes)
    rest = terms_bytes - first_end
    fragment_id = 1 + -(-rest // fragment_bytes)
    yield fragment_id, 0, first_end
    for begin in range(first_end, terms_bytes, fragment_bytes):
        fragment_id -= 1
        yield fragment_id, begin, min(begin + fragment_bytes, terms_bytes)


class _Sequence:
    """One message of which fragments are missing."""

    __slots__ = ("begun", "bytes", "expected_id", "pieces")

    def __init__(self, begun: Any, expected_id: int, piece: bytes, held_bytes: int) -> None:
        self.begun = begun
        self.expected_id = expected_id
        self.pieces: list[bytes | bytearray] = [piece]
        self.bytes = held_bytes

    def append(self, piece: bytes) -> None:
        """Keep a piece. Small ones are gathered: a million of one byte each shall cost a million bytes."""
        last = self.pieces[-1]
        if len(piece) >= _SMALL_PIECE_BYTES:
            self.pieces.append(piece)
        elif type(last) is bytearray and len(last) < FRAGMENT_BYTES:
            last += piece
        else:
            self.pieces.append(bytearray(piece))


class Assembler:
    """Puts payloads together, several at a time: `begin` with a first fragment, `add` each that follows.

    Holds what has arrived and nothing for what is announced; all that is unfinished together is at most
    `message_bytes_max`, in at most `fragment_sequences_max` messages.
    """

    __slots__ = ("_limits", "_sequences", "held_bytes")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._sequences: dict[int, _Sequence] = {}
        self.held_bytes = 0  # what all unfinished messages have so far

    def __len__(self) -> int:
        """How many messages are unfinished."""
        return len(self._sequences)

    def begin(self, sequence_id: int, fragment_id: int, begun: Any, piece: bytes, begun_bytes: int = 0) -> bool:
        """A first fragment. True: it is the whole message. Else `add` will give back `begun` when the message is.

        `piece` is where the payload begins; `begun`, which took `begun_bytes`, is what the caller wants to keep.

        Raises ProtocolError for a sequence that is open already and for fragment id 0, LimitExceeded for one too many.
        """
        if sequence_id in self._sequences:
            raise ProtocolError(f"a first fragment of sequence {sequence_id}, of which others are missing")
        if fragment_id <= 1:
            if fragment_id == 0:
                raise ProtocolError("fragments are numbered down to 1: there is none with number 0")
            return True
        if len(self._sequences) >= self._limits.fragment_sequences_max:
            raise LimitExceeded(
                f"messages in fragments at a time, more than fragment_sequences_max: {len(self._sequences) + 1}",
                limit="fragment_sequences_max",
            )
        self._hold(begun_bytes + len(piece))
        self._sequences[sequence_id] = _Sequence(begun, fragment_id - 1, piece, begun_bytes + len(piece))
        return False

    def add(self, sequence_id: int, fragment_id: int, piece: bytes) -> tuple[Any, bytes] | None:
        """A fragment that follows. When it was the last of its message: (what `begin` was given, the whole payload).

        Raises ProtocolError for a sequence that was not begun and for a fragment out of order, LimitExceeded when what
        is held grows past `message_bytes_max`.
        """
        sequence = self._sequences.get(sequence_id)
        if sequence is None or fragment_id != sequence.expected_id:
            raise ProtocolError(f"fragment {fragment_id} of sequence {sequence_id} is not the one to come")
        self._hold(len(piece))
        sequence.bytes += len(piece)
        if piece:
            sequence.append(piece)
        if fragment_id > 1:
            sequence.expected_id -= 1
            return None
        del self._sequences[sequence_id]
        self.held_bytes -= sequence.bytes
        return sequence.begun, b"".join(sequence.pieces)

    def _hold(self, piece_bytes: int) -> None:
        if self.held_bytes + piece_bytes > self._limits.message_bytes_max:
            raise LimitExceeded(
                f"messages in fragments that hold more than message_bytes_max: {self._limits.message_bytes_max} bytes",
                limit="message_bytes_max",
            )
        self.held_bytes += piece_bytes
