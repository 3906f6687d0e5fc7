"""The channel: an established connection without the connection. Bytes to control records, records to bytes, ticks.

    frame -> distribution header (atoms) -> control tuple, payload -> record        and back

What stands before the terms depends on what the two nodes negotiated:

- DIST_HDR_ATOM_CACHE or FRAGMENTS: a header, `131, 68`; without the atom cache it lists no atoms;
- FRAGMENTS: messages above 64 KiB in pieces, `131, 69` and `131, 70`;
- neither: `p`, then each term as it is on its own, with its version byte ("pass through").

As in OTP each node keeps to the form that was negotiated: another one closes the connection (WIRE.md, fact 5), and so
does a term that cannot be decoded. What follows the last term of a message is ignored, as OTP 25, 27 and 29 do.

Messages to a pid, a name or an alias take short cuts in both directions, which give what the common road gives.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, TypeAlias

from beamnode.errors import EncodeError, PeerError, ProtocolError
from beamnode.etf import decode, decode_from, encode_into
from beamnode.etf.terms import Atom, Pid
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire import fragments
from beamnode.wire.control import (
    NO_PAYLOAD,
    AliasSend,
    Control,
    Record,
    RegSend,
    Send,
    carries_payload,
    from_wire,
    to_wire,
)
from beamnode.wire.flags import Flag
from beamnode.wire.fragments import FRAGMENT_BYTES, HEAD_BYTES, Assembler
from beamnode.wire.frames import LENGTH_BYTES, TICK, FrameReader
from beamnode.wire.header import EMPTY_TABLE, NORMAL_HEADER, AtomCacheIn, AtomCacheOut
from beamnode.wire.ticks import Ticker

VERSION: Final = 131
PASS_THROUGH: Final = 112

_COMPRESSED: Final = b"P"
_EMPTY: Final = Atom("")
_TERMS_BYTES_MAX: Final = 0xFFFFFFFF - (1 << 20)  # what a length can say, less the largest header
_OWN_CHUNK_BYTES: Final = 16 * 1024  # from here on a message is handed out as it is, not gathered with others

_head: Final = Struct(">IBB").pack  # frame length, version, kind


class Channel:
    """One established connection, from just after the handshake until it is closed.

    Hand in all that arrives (`receive_data`) and ask for records until there is none (`next_event`); `send` records and
    write what `data_to_send` gives; call `handle_deadline` at `next_deadline()`. A PeerError or NetTickTimeout from any
    of them means: close the connection.

    `flags` are those that both nodes have. Whether the peer is visible is among them, unless `peer_published` says it.
    `net_ticktime` is in seconds of the clock of `now`.
    """

    def __init__(
        self,
        flags: Flag,
        *,
        net_ticktime: float = 60.0,
        net_tickintensity: int = 4,
        peer_published: bool | None = None,
        now: float,
        strings: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.flags = flags
        self._flags = int(flags)
        self._cached = bool(self._flags & Flag.DIST_HDR_ATOM_CACHE)
        self._fragmented = bool(self._flags & Flag.FRAGMENTS)
        self._headed = self._cached or self._fragmented
        self._strings = strings
        self._limits = limits
        published = bool(flags & Flag.PUBLISHED) if peer_published is None else peer_published
        self.ticker = Ticker(net_ticktime, net_tickintensity, peer_published=published, now=now)
        self._frames = FrameReader(limits)
        self._cache_in = AtomCacheIn(limits)
        self._assembler = Assembler(limits)
        self._broken: PeerError | None = None
        self._cache_out = AtomCacheOut()
        self._chunks: list[bytes | bytearray | memoryview] = []
        self._gathered = bytearray()  # small messages, after the chunks
        self._chunk_bytes = 0
        self._sequence_id = 0
        self._writers = _writers(self._flags) if self._cached else {}

    # --- In -----------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take bytes from the peer; then call `next_event` until it gives None. Raises once the channel is broken."""
        if self._broken is not None:
            raise self._broken
        self.ticker.bytes_in += len(data)
        self._frames.receive_data(data)

    def next_event(self) -> Record | None:
        """The next record, decoded only now, or None until more has arrived.

        Raises a PeerError when the peer broke the protocol or a limit; from then on every call does.
        """
        if self._broken is not None:
            raise self._broken
        try:
            while (place := self._frames.next_frame()) is not None:
                self.ticker.packets_in += 1
                buffer, start, end = place
                if start == end:
                    continue  # a tick
                record = self._read(buffer, start, end) if self._headed else self._read_pass_through(buffer, start, end)
                if record is not None:
                    return record
        except PeerError as error:
            self._broken = error
            raise
        return None

    def _read(self, buffer: bytes, start: int, end: int) -> Record | None:
        """The record of a frame with a distribution header; None for a fragment that is not its message's last."""
        kind = buffer[start + 1] if end - start > 1 and buffer[start] == VERSION else None
        if kind == NORMAL_HEADER:
            atoms, at = self._read_table(buffer, start + 2, end)
            return self._read_terms(buffer, at, end, atoms)
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
        return self._cache_in.read_table(buffer, at, end)

    def _read_terms(self, buffer: bytes, at: int, end: int, atoms: Any) -> Record:
        reader = _READERS.get(buffer[at : at + 4])
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
        control, at = self._decode(buffer, at, end, atoms)
        if not carries_payload(control):
            return from_wire(control)
        return from_wire(control, self._decode(buffer, at, end, atoms)[0])

    def _read_first_fragment(self, buffer: bytes, start: int, end: int) -> Record | None:
        sequence_id, fragment_id = fragments.read_fragment_head(buffer, start, end)
        atoms, at = self._read_table(buffer, start + HEAD_BYTES, end)
        control, at = self._decode(buffer, at, end, atoms)
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
        return from_wire(control, self._decode(terms, 0, len(terms), atoms)[0])

    def _decode(self, buffer: bytes, at: int, end: int, atoms: Any) -> tuple[Any, int]:
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
        return self._decode(buffer, at + 1, end, ())

    # --- Out ----------------------------------------------------------------------------------------------------------

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
        table = self._cache_out.table(atoms) if atoms else EMPTY_TABLE
        length = 2 + len(table) + size
        self._gathered += _head(length, VERSION, NORMAL_HEADER)
        self._gathered += table
        if size < _OWN_CHUNK_BYTES:
            self._gathered += body
        else:
            self._own_chunk(body)
        self.ticker.packets_out += 1
        self.ticker.bytes_out += LENGTH_BYTES + length

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
        table = self._cache_out.table(atoms) if atoms else EMPTY_TABLE
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
        self.ticker.packets_out += 1
        self.ticker.bytes_out += LENGTH_BYTES + length

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

    # --- Time ---------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to call `handle_deadline`, on the clock of `now`."""
        return self.ticker.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Queue a tick if one is due: write `data_to_send`. Raises NetTickTimeout when the peer was silent too long."""
        if self.ticker.handle_deadline(now):
            self.tick()

    def tick(self) -> None:
        """Queue a tick that is not due, but shall be seen: write `data_to_send`."""
        self._gathered += TICK
        self.ticker.packets_out += 1
        self.ticker.bytes_out += LENGTH_BYTES

    def set_ticktime(self, net_ticktime: float, net_tickintensity: int, now: float) -> None:
        """Change the tick time of a live connection (see `Ticker.set_ticktime`)."""
        self.ticker.set_ticktime(net_ticktime, net_tickintensity, now)


# --- Short cuts -------------------------------------------------------------------------------------------------------
# The control tuples of messages as every node writes them with an atom cache: pids by NEW_PID_EXT, all atoms by
# ATOM_CACHE_REF. Then all but a reference has its fixed place. What looks different takes the common road.

_PID: Final = 0x58_52  # NEW_PID_EXT, ATOM_CACHE_REF; then index: 8, id, serial, creation: 32 each
_ATOM: Final = 0x52  # ATOM_CACHE_REF; then index: 8
_REFERENCE: Final = 0x5A  # NEWER_REFERENCE_EXT; then count of words: 16, an atom, creation and words: 32 each
_SEND_HEAD: Final = 0x68_03_61_16  # a tuple of 3: SEND_SENDER, sender, receiver
_REG_SEND_HEAD: Final = 0x68_04_61_06  # a tuple of 4: REG_SEND, sender, '', name
_ALIAS_HEAD: Final = 0x68_03_61_21  # a tuple of 3: ALIAS_SEND, sender, alias
_ALTACT_HEAD: Final = 0x68_04_61_25  # a tuple of 4: ALTACT_SIG_SEND, flags, sender, alias
_TO_ALIAS: Final = b"\x61\x04"  # those flags

_send: Final = Struct(">IHBIIIHBIII")
_reg_send: Final = Struct(">IHBIIIBBBB")
_to_alias: Final = Struct(">IHBIII")  # up to the alias
_to_alias_altact: Final = Struct(">I2sHBIII")

_Message: TypeAlias = Send | RegSend | AliasSend
_Writer: TypeAlias = Callable[[Any, dict[Atom, int]], bytearray | None]
_Reader: TypeAlias = Callable[[bytes, int, int, Sequence[Atom]], tuple[_Message, int] | None]


def _writers(flags: int) -> dict[type[Any], _Writer]:
    """What writes the control tuple of a record and numbers its atoms; each gives None where the common road has to.

    They raise struct.error for a number that does not fit its field.
    """
    writers: dict[type[Any], _Writer] = {RegSend: _write_reg_send}
    if flags & Flag.SEND_SENDER:
        writers[Send] = _write_send
    if flags & (Flag.ALTACT_SIG | Flag.ALIAS):
        writers[AliasSend] = _write_to_alias_altact if flags & Flag.ALTACT_SIG else _write_to_alias
    return writers


def _write_send(record: Send, atoms: dict[Atom, int]) -> bytearray | None:
    sender, to = record.sender, record.to
    if sender is None or record.token is not None or record.priority:
        return None
    atoms[sender.node] = 0
    at_to = atoms.setdefault(to.node, 1)
    pid = sender.id, sender.serial, sender.creation
    return bytearray(_send.pack(_SEND_HEAD, _PID, 0, *pid, _PID, at_to, to.id, to.serial, to.creation))


def _write_reg_send(record: RegSend, atoms: dict[Atom, int]) -> bytearray | None:
    if record.token is not None or record.priority:
        return None
    sender = record.sender
    atoms[sender.node] = 0
    at_empty = atoms.setdefault(_EMPTY, 1)
    at_name = atoms.setdefault(record.name, len(atoms))
    pid = sender.id, sender.serial, sender.creation
    return bytearray(_reg_send.pack(_REG_SEND_HEAD, _PID, 0, *pid, _ATOM, at_empty, _ATOM, at_name))


def _write_to_alias(record: AliasSend, atoms: dict[Atom, int]) -> bytearray | None:
    if record.token is not None:
        return None
    sender = record.sender
    atoms[sender.node] = 0
    out = bytearray(_to_alias.pack(_ALIAS_HEAD, _PID, 0, sender.id, sender.serial, sender.creation))
    encode_into(out, record.alias, atoms)
    return out


def _write_to_alias_altact(record: AliasSend, atoms: dict[Atom, int]) -> bytearray | None:
    if record.token is not None or record.priority:
        return None
    sender = record.sender
    atoms[sender.node] = 0
    pid = sender.id, sender.serial, sender.creation
    out = bytearray(_to_alias_altact.pack(_ALTACT_HEAD, _TO_ALIAS, _PID, 0, *pid))
    encode_into(out, record.alias, atoms)
    return out


# The readers give a record that lacks its message, and where that begins, before `end`; None for the common road. They
# raise IndexError for an atom that the header does not list.


def _read_send(buffer: bytes, at: int, end: int, atoms: Sequence[Atom]) -> tuple[Send, int] | None:
    after = at + _send.size
    if after >= end:
        return None
    _, kind, i, id, serial, creation, kind2, j, id2, serial2, creation2 = _send.unpack_from(buffer, at)
    if kind != _PID or kind2 != _PID:
        return None
    return Send(Pid(atoms[j], id2, serial2, creation2), None, Pid(atoms[i], id, serial, creation)), after


def _read_reg_send(buffer: bytes, at: int, end: int, atoms: Sequence[Atom]) -> tuple[RegSend, int] | None:
    after = at + _reg_send.size
    if after >= end:
        return None
    _, kind, i, id, serial, creation, kind2, j, kind3, k = _reg_send.unpack_from(buffer, at)
    if kind != _PID or kind2 != _ATOM or kind3 != _ATOM or j >= len(atoms):
        return None
    return RegSend(Pid(atoms[i], id, serial, creation), atoms[k], None), after


def _read_to_alias(buffer: bytes, at: int, end: int, atoms: Sequence[Atom]) -> tuple[AliasSend, int] | None:
    if at + _to_alias.size >= end:
        return None
    _, kind, i, id, serial, creation = _to_alias.unpack_from(buffer, at)
    at += _to_alias.size
    if kind != _PID or buffer[at] != _REFERENCE or buffer[at + 3] != _ATOM:
        return None
    alias, after = decode_from(buffer, at, atoms)
    return None if after >= end else (AliasSend(Pid(atoms[i], id, serial, creation), alias, None), after)


def _read_to_alias_altact(buffer: bytes, at: int, end: int, atoms: Sequence[Atom]) -> tuple[AliasSend, int] | None:
    if buffer[at + 4 : at + 6] != _TO_ALIAS:
        return None
    return _read_to_alias(buffer, at + 2, end, atoms)  # from there on it is the same


_READERS: Final[dict[bytes, _Reader]] = {
    _SEND_HEAD.to_bytes(4): _read_send,
    _REG_SEND_HEAD.to_bytes(4): _read_reg_send,
    _ALIAS_HEAD.to_bytes(4): _read_to_alias,
    _ALTACT_HEAD.to_bytes(4): _read_to_alias_altact,
}
