"""What leaves on a channel: records in, chunks of bytes out, in order.

What stands before the terms of a message depends on what the two nodes negotiated; see `channel.py`. Messages to a
pid, a name or an alias take short cuts, which write what the common road writes.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from beamnode.errors import EncodeError
from beamnode.etf import encode_into
from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.wire import fragments
from beamnode.wire.control import NO_PAYLOAD, AliasSend, Record, RegSend, Send, to_wire
from beamnode.wire.flags import Flag
from beamnode.wire.fragments import FRAGMENT_BYTES
from beamnode.wire.frames import LENGTH_BYTES, TICK
from beamnode.wire.header import EMPTY_TABLE, NORMAL_HEADER, AtomCacheOut
from beamnode.wire.short_cuts import writers_for

VERSION: Final = 131
PASS_THROUGH: Final = 112

_TERMS_BYTES_MAX: Final = 0xFFFFFFFF - (1 << 20)  # what a length can say, less the largest header
_OWN_CHUNK_BYTES: Final = 16 * 1024  # from here on a message is handed out as it is, not gathered with others

_head: Final = struct.Struct(">IBB").pack  # frame length, version, kind


class Outbound:
    """The sending half of a channel; `flags` are those that both nodes have."""

    def __init__(self, flags: int) -> None:
        self.frames_written = 0  # and what they take, since the beginning; ticks included
        self.bytes_written = 0
        self._flags = flags
        self._cached = bool(flags & Flag.DIST_HDR_ATOM_CACHE)
        self._fragmented = bool(flags & Flag.FRAGMENTS)
        self._headed = self._cached or self._fragmented
        self._cache = AtomCacheOut()
        self._chunks: list[bytes | bytearray | memoryview] = []
        self._gathered = bytearray()  # small messages, after the chunks
        self._chunk_bytes = 0
        self._sequence_id = 0
        self._writers = writers_for(flags) if self._cached else {}

    def send(self, record: Record) -> None:
        """Encode a record and queue it for `data_to_send`; one that the peer does not know of is dropped, as OTP does.

        (`control.is_known_to` says beforehand which.) Raises EncodeError for what has no term or is too large for a
        frame; then nothing is queued and the channel is as it was.
        """
        if not self._headed:
            self._send_pass_through(record)
            return
        atoms: dict[Atom, int] | None = {} if self._cached else None
        begun = self._encode_control(record, atoms)
        if begun is None:
            return
        body, payload = begun
        control_bytes = len(body)
        if payload is not NO_PAYLOAD:
            encode_into(body, payload, atoms)
        size = len(body)
        if size > FRAGMENT_BYTES:
            self._queue_large(body, control_bytes, atoms)
            return
        table = self._cache.table(atoms) if atoms else EMPTY_TABLE
        length = 2 + len(table) + size
        self._gathered += _head(length, VERSION, NORMAL_HEADER)
        self._gathered += table
        if size < _OWN_CHUNK_BYTES:
            self._gathered += body
        else:
            self._own_chunk(body)
        self.frames_written += 1
        self.bytes_written += LENGTH_BYTES + length

    def send_to_pid(self, sender: Pid, to: Pid, message: Any) -> int:
        """`send` of a `Send`; the bytes that wait now."""
        self.send(Send(to, message, sender))
        return self.pending_bytes

    def send_to_name(self, sender: Pid, name: Atom, message: Any) -> int:
        """`send` of a `RegSend`; the bytes that wait now."""
        self.send(RegSend(sender, name, message))
        return self.pending_bytes

    def send_to_alias(self, sender: Pid, alias: Reference, message: Any) -> int:
        """`send` of an `AliasSend`; the bytes that wait now."""
        self.send(AliasSend(sender, alias, message))
        return self.pending_bytes

    def _encode_control(self, record: Record, atoms: dict[Atom, int] | None) -> tuple[bytearray, Any] | None:
        """The control tuple as bytes, to which the payload can be appended, and the payload; None: drop the record."""
        if atoms is not None and (writer := self._writers.get(type(record))) is not None:
            try:
                written = writer(record, atoms)
            except struct.error:  # a number that does not fit its field: the encoder tells which
                written = None
            if written is not None:
                return written, record.message  # type: ignore[union-attr]
            atoms.clear()
        wire = to_wire(record, self._flags)
        if wire is None:
            return None
        body = bytearray()
        encode_into(body, wire[0], atoms)
        return body, wire[1]

    def _queue_large(self, body: bytearray, control_bytes: int, atoms: dict[Atom, int] | None) -> None:
        """Queue a message of more than 64 KiB: in fragments where they were negotiated. Its bytes are not copied."""
        pieces = [(1, 0, len(body))]
        if self._fragmented:
            pieces = list(fragments.split(control_bytes, len(body)))
        if pieces[0][2] > _TERMS_BYTES_MAX:
            raise EncodeError(f"a message of {len(body)} bytes, too large for a frame")
        table = self._cache.table(atoms) if atoms else EMPTY_TABLE
        if len(pieces) == 1:
            self._queue_frame(bytes((VERSION, NORMAL_HEADER)) + table, body)
            return
        self._sequence_id += 1
        view = memoryview(body)
        for fragment_id, begin, end in pieces:
            kind = fragments.NEXT_FRAGMENT if begin else fragments.FIRST_FRAGMENT
            head = fragments.fragment_head(kind, self._sequence_id, fragment_id)
            self._queue_frame(head if begin else head + table, view[begin:end])

    def _send_pass_through(self, record: Record) -> None:
        wire = to_wire(record, self._flags)
        if wire is None:
            return
        body = bytearray((VERSION,))
        encode_into(body, wire[0])
        if wire[1] is not NO_PAYLOAD:
            body.append(VERSION)
            encode_into(body, wire[1])
        if len(body) > _TERMS_BYTES_MAX:
            raise EncodeError(f"a message of {len(body)} bytes, too large for a frame")
        self._queue_frame(bytes((PASS_THROUGH,)), body)

    def _queue_frame(self, head: bytes, body: bytearray | memoryview) -> None:
        length = len(head) + len(body)
        self._gathered += length.to_bytes(LENGTH_BYTES)
        self._gathered += head
        if length < _OWN_CHUNK_BYTES:
            self._gathered += body
        else:
            self._own_chunk(body)
        self.frames_written += 1
        self.bytes_written += LENGTH_BYTES + length

    def _own_chunk(self, body: bytearray | memoryview) -> None:
        self._chunks += (self._gathered, body)
        self._chunk_bytes += len(self._gathered) + len(body)
        self._gathered = bytearray()

    def data_to_send(self) -> list[bytes | bytearray | memoryview]:
        """What to write now, in order; the channel forgets it. The chunks are the caller's."""
        chunks = self._chunks
        if self._gathered:
            chunks.append(self._gathered)
            self._gathered = bytearray()
        self._chunks = []
        self._chunk_bytes = 0
        return chunks

    @property
    def pending_bytes(self) -> int:
        """What `data_to_send` would give now."""
        return self._chunk_bytes + len(self._gathered)

    def tick(self) -> None:
        """Queue a tick."""
        self._gathered += TICK
        self.frames_written += 1
        self.bytes_written += LENGTH_BYTES
