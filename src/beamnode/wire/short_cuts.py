"""Short cuts for messages to a pid, a name or an alias: their control tuples, written and read without a codec.

The tuples as every node writes them with an atom cache: pids by NEW_PID_EXT, all atoms by ATOM_CACHE_REF. Then all but
a reference has its fixed place. What looks different takes the common road, which gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, TypeAlias

from beamnode.etf import decode_from, encode_into
from beamnode.etf.terms import Atom, Pid
from beamnode.wire.control import AliasSend, RegSend, Send
from beamnode.wire.flags import Flag

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

_UNUSED_COOKIE: Final = Atom("")

_Message: TypeAlias = Send | RegSend | AliasSend
Writer: TypeAlias = Callable[[Any, dict[Atom, int]], bytearray | None]
_Reader: TypeAlias = Callable[[bytes, int, int, Sequence[Atom]], tuple[_Message, int] | None]


def writers_for(flags: int) -> dict[type[Any], Writer]:
    """What writes the control tuple of a record and numbers its atoms; each gives None where the common road has to.

    They raise struct.error for a number that does not fit its field.
    """
    writers: dict[type[Any], Writer] = {RegSend: _write_reg_send}
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
    at_empty = atoms.setdefault(_UNUSED_COOKIE, 1)
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


READERS: Final[dict[bytes, _Reader]] = {
    _SEND_HEAD.to_bytes(4): _read_send,
    _REG_SEND_HEAD.to_bytes(4): _read_reg_send,
    _ALIAS_HEAD.to_bytes(4): _read_to_alias,
    _ALTACT_HEAD.to_bytes(4): _read_to_alias_altact,
}
