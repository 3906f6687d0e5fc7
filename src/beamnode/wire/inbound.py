"""What arrives on a channel: bytes in, records out, or messages straight to the mailboxes of their receivers.

What stands before the terms of a message depends on what the two nodes negotiated; see `channel.py`. Messages to a
pid, a name or an alias take short cuts, which give what the common road gives.
"""

from __future__ import annotations

from typing import Any, Final

from beamnode.errors import ProtocolError
from beamnode.etf import decode, decode_from
from beamnode.limits import Limits
from beamnode.wire import fragments
from beamnode.wire.control import Control, Record, carries_payload, from_wire
from beamnode.wire.flags import Flag
from beamnode.wire.fragments import HEAD_BYTES, Assembler
from beamnode.wire.frames import FrameReader
from beamnode.wire.header import NORMAL_HEADER, AtomCacheIn
from beamnode.wire.inbox import Inbox
from beamnode.wire.short_cuts import READERS

VERSION: Final = 131
PASS_THROUGH: Final = 112

_COMPRESSED: Final = b"P"


class Inbound:
    """The receiving half of a channel; `flags` are those that both nodes have."""

    def __init__(self, flags: int, *, strings: bool, limits: Limits, cache: AtomCacheIn | None = None) -> None:
        self._cached = bool(flags & Flag.DIST_HDR_ATOM_CACHE)
        self._fragmented = bool(flags & Flag.FRAGMENTS)
        self._headed = self._cached or self._fragmented
        self._strings = strings
        self._limits = limits
        self._frames = FrameReader(limits)
        self._cache = AtomCacheIn(limits) if cache is None else cache
        self._assembler = Assembler(limits)
        self.frames_read = 0  # without ticks

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream; what is kept of them is copied."""
        self._frames.receive_data(data)

    def next_record(self) -> Record | None:
        """The next record, decoded only now; None until more has arrived. Raises a PeerError."""
        while (place := self._frames.next_frame()) is not None:
            buffer, start, end = place
            if start == end:
                continue  # a tick
            self.frames_read += 1
            record = self.read_frame(buffer, start, end)
            if record is not None:
                return record
        return None

    def deliver(self, data: bytes | bytearray | memoryview, inbox: Inbox) -> None:
        """`receive_data`, then all the records to the inbox. Raises a PeerError, or what the inbox raises."""
        self.receive_data(data)
        while (record := self.next_record()) is not None:
            inbox.record(record)

    def read_frame(self, buffer: bytes, start: int, end: int) -> Record | None:
        """The record of a frame that is no tick; None for a fragment that is not its message's last."""
        return self._read(buffer, start, end) if self._headed else self._read_pass_through(buffer, start, end)

    def _read(self, buffer: bytes, start: int, end: int) -> Record | None:
        """The record of a frame with a distribution header; None for a fragment that is not its message's last."""
        kind = buffer[start + 1] if end - start > 1 and buffer[start] == VERSION else None
        if kind == NORMAL_HEADER:
            atoms, at = self._read_table(buffer, start + 2, end)
            return self.read_terms(buffer, at, end, atoms)
        if kind == fragments.FIRST_FRAGMENT and self._fragmented:
            return self._read_first_fragment(buffer, start, end)
        if kind == fragments.NEXT_FRAGMENT and self._fragmented:
            sequence_id, fragment_id = fragments.read_fragment_head(buffer, start, end)
            whole = self._assembler.add(sequence_id, fragment_id, buffer[start + HEAD_BYTES : end])
            return None if whole is None else self._read_payload(*whole)
        raise ProtocolError(f"a message that does not begin with a distribution header: {buffer[start : start + 2]!r}")

    def _read_table(self, buffer: bytes, at: int, end: int) -> tuple[Any, int]:
        if not self._cached and at < end and buffer[at]:
            raise ProtocolError("a distribution header with atoms: the atom cache was not negotiated")
        return self._cache.read_table(buffer, at, end)

    def read_terms(self, buffer: bytes, at: int, end: int, atoms: Any) -> Record:
        """The record of the terms behind a header with those atoms."""
        reader = READERS.get(buffer[at : at + 4])
        if reader is not None:
            try:
                short = reader(buffer, at, end, atoms)
            except IndexError:
                short = None
            if short is not None:
                record, at = short
                record.message, after = decode_from(buffer, at, atoms, strings=self._strings, limits=self._limits)
                if after > end:
                    raise ProtocolError("a term that is longer than its message")
                return record
        control, at = self.read_term(buffer, at, end, atoms)
        if not carries_payload(control):
            return from_wire(control)
        return from_wire(control, self.read_term(buffer, at, end, atoms)[0])

    def _read_first_fragment(self, buffer: bytes, start: int, end: int) -> Record | None:
        sequence_id, fragment_id = fragments.read_fragment_head(buffer, start, end)
        atoms, at = self._read_table(buffer, start + HEAD_BYTES, end)
        control, at = self.read_term(buffer, at, end, atoms)
        carries_payload(control)  # an error now rather than after all the fragments
        begun = (control, atoms)
        piece = buffer[at:end]
        if self._assembler.begin(sequence_id, fragment_id, begun, piece, begun_bytes=at - start):
            return self._read_payload(begun, piece)
        return None

    def _read_payload(self, begun: tuple[Control, Any], terms: bytes) -> Record:
        control, atoms = begun
        if not carries_payload(control):
            return from_wire(control)
        return from_wire(control, self.read_payload(terms, atoms))

    def read_payload(self, terms: bytes, atoms: Any) -> Any:
        """The term that a payload is."""
        return self.read_term(terms, 0, len(terms), atoms)[0]

    def read_term(self, buffer: bytes, at: int, end: int, atoms: Any) -> tuple[Any, int]:
        """A term that has to end before `end`, and where it does."""
        if at >= end:
            raise ProtocolError("a message that lacks a term")
        term, after = decode_from(buffer, at, atoms, strings=self._strings, limits=self._limits)
        if after > end:
            raise ProtocolError("a term that is longer than its message")
        return term, after

    def _read_pass_through(self, buffer: bytes, start: int, end: int) -> Record:
        if buffer[start] != PASS_THROUGH:
            raise ProtocolError(f"a message with a distribution header, which was not negotiated: {buffer[start]}")
        control, at = self._decode_versioned(buffer, start + 1, end)
        if not carries_payload(control):
            return from_wire(control)
        return from_wire(control, self._decode_versioned(buffer, at, end)[0])

    def _decode_versioned(self, buffer: bytes, at: int, end: int) -> tuple[Any, int]:
        if at >= end or buffer[at] != VERSION:
            raise ProtocolError("a message that lacks a term with its version byte")
        if buffer[at + 1 : at + 2] == _COMPRESSED:  # what is compressed is the last of its message
            return decode(buffer[at:end], strings=self._strings, limits=self._limits), end
        return self.read_term(buffer, at + 1, end, ())
