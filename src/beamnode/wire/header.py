"""The distribution header: what stands before the terms of a message, and the atom cache that it keeps in step.

Each direction has a cache of 2048 slots, 8 segments of 256, written by the sender alone. A header lists the atoms of
its message by slot; the terms then name an atom by its place in that list (ATOM_CACHE_REF). An atom that is new to its
slot comes with its text.

    131, 68, table            a message in one frame (`fragments.py` has the heads of the other two kinds)
    table:                    N, flags, references of N atoms; N = 0: that byte alone, no flags
    flags:                    one nibble an atom, low nibble first: bit 3 new entry, bits 2-0 segment; one nibble more
                              whose bit 0 says that text lengths have two bytes; N // 2 + 1 bytes in all
    reference:                slot in the segment: 8, and for a new entry: length: 8 or 16, text in UTF-8

Source: erl_dist_protocol, "Normal Distribution Header"; erts external.c `erts_prepare_dist_ext`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from beamnode.errors import EncodeError, LimitExceeded, ProtocolError
from beamnode.etf.terms import Atom
from beamnode.limits import DEFAULT_LIMITS, Limits

NORMAL_HEADER: Final = 68
CACHE_SLOTS: Final = 2048
EMPTY_TABLE: Final = b"\x00"

_NEW_ENTRY: Final = 8
_SEGMENT: Final = 7
_TEXT_BYTES_SHORT: Final = 255
_ATOM_CHARACTERS_MAX: Final = 255  # of ours: OTP, MAX_ATOM_CHARACTERS
_TABLES_MAX: Final = 512  # remembered, in each direction: the bound that a peer can press on


class AtomCacheIn:
    """The peer's cache, as its headers tell it: `read_table` for every header, in the order of arrival."""

    __slots__ = ("_limits", "_slots", "_tables")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._slots: dict[int, Atom] = {}
        self._tables: dict[bytes, tuple[Atom, ...]] = {}  # tables without new entries, since the last new entry

    def read_table(self, buffer: bytes, at: int, end: int) -> tuple[Sequence[Atom], int]:
        """The atoms of the table that begins at `at`, and the place after it. `end` is where its frame ends.

        Raises ProtocolError (a table past `end`, an empty slot, a bad text) or LimitExceeded (`atom_characters_max`).
        """
        if at >= end:
            raise ProtocolError("a distribution header without a table of atoms")
        count = buffer[at]
        if not count:
            return (), at + 1
        known_end = at + 2 + (count >> 1) + count  # where the table ends if it has no new entry
        known = self._tables.get(buffer[at:known_end])
        if known is not None and known_end <= end:
            return known, known_end
        return self._read_new_table(buffer, at, end)

    def _read_new_table(self, buffer: bytes, at: int, end: int) -> tuple[Sequence[Atom], int]:
        count = buffer[at]
        flags_at = at + 1
        place = flags_at + (count >> 1) + 1
        if place + count > end:  # a byte an atom, at least
            raise ProtocolError("a distribution header that is longer than its frame")
        length_bytes = 2 if buffer[flags_at + (count >> 1)] >> (4 if count & 1 else 0) & 1 else 1
        slots = self._slots
        atoms: list[Atom] = []
        news = False
        for index in range(count):
            nibble = buffer[flags_at + (index >> 1)] >> (4 if index & 1 else 0) & 15
            if place >= end:
                raise ProtocolError("a distribution header that is longer than its frame")
            slot = (nibble & _SEGMENT) << 8 | buffer[place]
            place += 1
            if nibble & _NEW_ENTRY:
                slots[slot], place = self._read_text(buffer, place, end, length_bytes)
                news = True
            atom = slots.get(slot)
            if atom is None:
                raise ProtocolError(f"a reference to slot {slot} of the atom cache, which is empty")
            atoms.append(atom)
        if news or len(self._tables) >= _TABLES_MAX:
            self._tables.clear()
        if not news:
            self._tables[buffer[at:place]] = tuple(atoms)
        return atoms, place

    def _read_text(self, buffer: bytes, place: int, end: int, length_bytes: int) -> tuple[Atom, int]:
        begin = place + length_bytes
        after = begin + int.from_bytes(buffer[place:begin])
        if begin > end or after > end:
            raise ProtocolError("an atom in a distribution header that is longer than its frame")
        try:
            text = buffer[begin:after].decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("an atom in a distribution header that is not UTF-8") from error
        if len(text) > self._limits.atom_characters_max:
            raise LimitExceeded(f"an atom of {len(text)} characters", limit="atom_characters_max")
        return Atom(text), after


class AtomCacheOut:
    """Our cache, which `table` keeps in step with what the peer has: send every table that it gives, in that order.

    Slots are given out one after the other. When all are taken, the one that was given longest ago is taken again, but
    never one that the same table uses: its terms need both atoms.
    """

    __slots__ = ("_next", "_slots", "_tables", "slots_of")

    def __init__(self) -> None:
        self._slots: list[Atom] = []
        self.slots_of: dict[Atom, int] = {}  # where the peer has which atom; read only
        self._next = 0
        self._tables: dict[tuple[Atom, ...], bytes] = {}  # tables without new entries, while their slots last

    def table(self, atoms: Iterable[Atom]) -> bytes:
        """The table for the atoms of one message, in the order in which its terms number them; at most 255.

        Raises EncodeError for an atom that cannot be sent, and then nothing has changed.
        """
        listed = tuple(atoms)
        known = self._tables.get(listed)
        if known is not None:
            return known
        if not listed:
            return EMPTY_TABLE
        slots_of = self.slots_of
        new = [atom for atom in listed if atom not in slots_of]
        if new:
            return self._table_with_new(listed, new)
        if len(self._tables) >= _TABLES_MAX:
            self._tables.clear()
        table = self._write([(slots_of[atom], None) for atom in listed], 1)
        self._tables[listed] = table
        return table

    def _table_with_new(self, listed: tuple[Atom, ...], new: list[Atom]) -> bytes:
        texts = {atom: _text(atom) for atom in new}  # all of them, before anything changes
        in_use = {self.slots_of[atom] for atom in listed if atom in self.slots_of}
        for atom in new:
            self._put(atom, in_use)
        length_bytes = 2 if any(len(text) > _TEXT_BYTES_SHORT for text in texts.values()) else 1
        return self._write([(self.slots_of[atom], texts.get(atom)) for atom in listed], length_bytes)

    def _put(self, atom: Atom, in_use: set[int]) -> None:
        """Give the atom a slot that is not in use by this table, and drop what was in it."""
        while self._next in in_use:
            self._next = (self._next + 1) % CACHE_SLOTS
        slot = self._next
        self._next = (slot + 1) % CACHE_SLOTS
        in_use.add(slot)
        if slot < len(self._slots):
            del self.slots_of[self._slots[slot]]
            self._tables.clear()
            self._slots[slot] = atom
        else:
            self._slots.append(atom)
        self.slots_of[atom] = slot

    @staticmethod
    def _write(entries: list[tuple[int, bytes | None]], length_bytes: int) -> bytes:
        """Each entry a slot and, when it is new, the text."""
        count = len(entries)
        nibbles = [slot >> 8 | (0 if text is None else _NEW_ENTRY) for slot, text in entries]
        nibbles.append(length_bytes - 1)
        if not count & 1:
            nibbles.append(0)
        table = bytearray((count,))
        table += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
        for slot, text in entries:
            table.append(slot & 255)
            if text is not None:
                table += len(text).to_bytes(length_bytes)
                table += text
        return bytes(table)


def _text(atom: Atom) -> bytes:
    if type(atom) is not Atom:
        raise EncodeError(f"{atom!r} where an Atom must stand")
    if len(atom.name) > _ATOM_CHARACTERS_MAX:
        raise EncodeError(f"an atom of {len(atom.name)} characters: the most are {_ATOM_CHARACTERS_MAX}")
    try:
        return atom.name.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(f"the atom {atom.name!a} has no UTF-8 form") from error
