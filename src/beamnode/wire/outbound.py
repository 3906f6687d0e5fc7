"""What leaves on a channel: records in, chunks of bytes out, in order.

What stands before the terms of a message depends on what the two nodes negotiated; see `channel.py`. Messages to a
pid, a name or an alias take short cuts, which write what the common road writes. The rest of a large message waits in
a lane (`departures.py`), if there are any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from beamnode.errors import EncodeError
from beamnode.etf.codec import encode_chunks, encode_into
from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.wire import fragments
from beamnode.wire.control import NO_PAYLOAD, AliasSend, Record, RegSend, Send, SpawnReply, to_wire
from beamnode.wire.departures import Chunk, Lane, Lanes
from beamnode.wire.flags import Flag
from beamnode.wire.fragments import FRAGMENT_BYTES
from beamnode.wire.frames import LENGTH_BYTES, TICK
from beamnode.wire.header import EMPTY_TABLE, NORMAL_HEADER, AtomCacheOut
from beamnode.wire.short_cuts import writers_for

VERSION: Final = 131
PASS_THROUGH: Final = 112

_TERMS_BYTES_MAX: Final = 0xFFFFFFFF - (1 << 20)  # what a length can say, less the largest header
_OWN_CHUNK_BYTES: Final = 16 * 1024  # from here on a message is handed out as it is, not gathered with others

_NORMAL_HEAD: Final = bytes((VERSION, NORMAL_HEADER))

AtomTable: TypeAlias = dict[Atom, int]


class Outbound:
    """The sending half of a channel; `flags` are those that both nodes have.

    With `lanes`, `data_to_send` does not give what waits in there.
    """

    def __init__(self, flags: int, cache: AtomCacheOut | None = None, lanes: Lanes | None = None) -> None:
        self.frames_written = 0  # and what they take, since the beginning; ticks included
        self.bytes_written = 0
        self._flags = flags
        self._cached = bool(flags & Flag.DIST_HDR_ATOM_CACHE)
        self._fragmented = bool(flags & Flag.FRAGMENTS)
        self._headed = self._cached or self._fragmented
        self._cache = AtomCacheOut() if cache is None else cache
        self._chunks: list[Chunk] = []
        self._gathered = bytearray()  # small messages, after the chunks
        self._chunk_bytes = 0
        self._sequence_id = 0
        self._writers = writers_for(flags) if self._cached else {}
        self._lanes = lanes if self._fragmented else None

    def send(self, record: Record) -> None:
        """Encode a record and queue it for `data_to_send`; one that the peer does not know of is dropped, as OTP does.

        (`control.is_known_to` says beforehand which.) Raises EncodeError for what has no term or is too large for a
        frame; then nothing is queued and the channel is as it was.
        """
        if not self._headed:
            self._send_pass_through(record)
            return
        lane = self._lane_for(record) if self._lanes is not None and self._lanes.open else None
        atoms: AtomTable | None = {} if self._cached and lane is None else None
        begun = self._encode_control(record, atoms)
        if begun is None:
            return
        control, payload = begun
        chunks: list[Chunk] = [control]
        size = len(control)
        if payload is not NO_PAYLOAD:
            payload_chunks, payload_bytes = encode_chunks(payload, atoms)
            chunks += payload_chunks
            size += payload_bytes
        if lane is not None:
            self._queue_in_lane(lane, chunks, size, len(control))
        elif size > FRAGMENT_BYTES:
            self.queue_large(chunks, size, len(control), atoms, _sender_of(record))
        else:
            self._queue_frame(_NORMAL_HEAD + self._table(atoms), chunks, size)

    def send_to_pid(self, sender: Pid, to: Pid, message: Any) -> int:
        """`send` of a `Send`; the bytes that wait now, those in lanes included if the message joined them."""
        self.send(Send(to, message, sender))
        return self._all_pending()

    def send_to_name(self, sender: Pid, name: Atom, message: Any) -> int:
        """`send` of a `RegSend`; the bytes that wait now."""
        self.send(RegSend(sender, name, message))
        return self._all_pending()

    def send_to_alias(self, sender: Pid, alias: Reference, message: Any) -> int:
        """`send` of an `AliasSend`; the bytes that wait now."""
        self.send(AliasSend(sender, alias, message))
        return self._all_pending()

    def _all_pending(self) -> int:
        return self.pending_bytes if self._lanes is None else self.pending_bytes + self._lanes.waiting_bytes

    def _encode_control(self, record: Record, atoms: AtomTable | None) -> tuple[bytearray, Any] | None:
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

    def queue_large(
        self, chunks: Sequence[Chunk], size: int, control_bytes: int, atoms: AtomTable | None, sender: Pid | None
    ) -> None:
        """Queue a message of more than 64 KiB, in fragments where they were negotiated; its bytes are not copied.

        `chunks` are its terms, the control message first, `size` bytes in all. Raises EncodeError: see `send`.
        """
        if (control_bytes if self._fragmented else size) > _TERMS_BYTES_MAX:
            raise EncodeError(f"a message of {size} bytes, too large for a frame")
        if not self._fragmented:
            self._queue_frame(_NORMAL_HEAD + self._table(atoms), chunks, size)
            return
        first, *rest = self._in_fragments(chunks, size, control_bytes, self._table(atoms))
        self._queue_frame(*first)
        lane = self._lanes.begin(sender) if rest and self._lanes is not None and sender is not None else None
        for frame in rest:
            if lane is None:
                self._queue_frame(*frame)
            else:
                self._add_to_lane(lane, *frame)

    def _in_fragments(
        self, chunks: Sequence[Chunk], size: int, control_bytes: int, table: bytes
    ) -> Iterator[tuple[bytes, Sequence[Chunk], int]]:
        """The frames of one message: the head of each, its chunks, and their size."""
        pieces = list(fragments.split(control_bytes, size))
        if len(pieces) == 1:  # the control message alone is so large
            yield _NORMAL_HEAD + table, chunks, size
            return
        self._sequence_id += 1
        rest = list(reversed(chunks))
        for fragment_id, begin, end in pieces:
            kind = fragments.NEXT_FRAGMENT if begin else fragments.FIRST_FRAGMENT
            head = fragments.fragment_head(kind, self._sequence_id, fragment_id)
            yield head if begin else head + table, _taken(rest, end - begin), end - begin

    # --- Lanes --------------------------------------------------------------------------------------------------------

    def _lane_for(self, record: Record) -> Lane | None:
        """The lane that the record has to wait in, if its sender has one."""
        assert self._lanes is not None
        sender = _sender_of(record)
        if sender is not None:
            return self._lanes.open.get(sender)
        if type(record) is not SpawnReply:  # of the node, and before all that the new process sends
            self._queue_chunks(self._lanes.take_all())
        return None

    def _queue_in_lane(self, lane: Lane, chunks: Sequence[Chunk], size: int, control_bytes: int) -> None:
        """Queue a message that was encoded without the atom cache behind what its sender has sent before."""
        if size <= FRAGMENT_BYTES:
            self._add_to_lane(lane, _NORMAL_HEAD + EMPTY_TABLE, chunks, size)
            return
        for frame in self._in_fragments(chunks, size, control_bytes, EMPTY_TABLE):
            self._add_to_lane(lane, *frame)

    def _add_to_lane(self, lane: Lane, head: bytes, chunks: Sequence[Chunk], size: int) -> None:
        assert self._lanes is not None
        length = len(head) + size
        self._lanes.add(lane, [length.to_bytes(LENGTH_BYTES) + head, *chunks], LENGTH_BYTES + length)

    # --- Frames -------------------------------------------------------------------------------------------------------

    def _table(self, atoms: AtomTable | None) -> bytes:
        return self._cache.table(atoms) if atoms else EMPTY_TABLE

    def _send_pass_through(self, record: Record) -> None:
        wire = to_wire(record, self._flags)
        if wire is None:
            return
        control = bytearray((VERSION,))
        encode_into(control, wire[0])
        chunks: list[Chunk] = [control]
        size = len(control)
        if wire[1] is not NO_PAYLOAD:
            control.append(VERSION)
            payload_chunks, payload_bytes = encode_chunks(wire[1])
            chunks += payload_chunks
            size += 1 + payload_bytes
        if size > _TERMS_BYTES_MAX:
            raise EncodeError(f"a message of {size} bytes, too large for a frame")
        self._queue_frame(bytes((PASS_THROUGH,)), chunks, size)

    def _queue_frame(self, head: bytes, chunks: Sequence[Chunk], size: int) -> None:
        """Queue a frame of `head` and `size` bytes of chunks."""
        length = len(head) + size
        self._gathered += length.to_bytes(LENGTH_BYTES)
        self._gathered += head
        self._queue_chunks(chunks)
        self.frames_written += 1
        self.bytes_written += LENGTH_BYTES + length

    def _queue_chunks(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            if len(chunk) < _OWN_CHUNK_BYTES:
                self._gathered += chunk
            else:
                self._chunks += (self._gathered, chunk)
                self._chunk_bytes += len(self._gathered) + len(chunk)
                self._gathered = bytearray()

    def data_to_send(self) -> list[Chunk]:
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


def _sender_of(record: Record) -> Pid | None:
    """The process whose signal it is, where the record tells: a monitor of a name tells the name only."""
    sender = getattr(record, "sender", None)
    return sender if type(sender) is Pid else None


def _taken(rest: list[Chunk], size: int) -> list[Chunk]:
    """The next `size` bytes of `rest`, whose next chunk is its last element; they are taken out of it."""
    taken: list[Chunk] = []
    while size:
        chunk = rest.pop()
        if len(chunk) > size:
            view = memoryview(chunk)
            rest.append(view[size:])
            chunk = view[:size]
        taken.append(chunk)
        size -= len(chunk)
    return taken
