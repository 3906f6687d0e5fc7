"""The distribution header and the atom cache: two sides that stay in step, whatever atoms are sent."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamnode.errors import EncodeError, LimitExceeded, PeerError, ProtocolError
from beamnode.etf.terms import Atom
from beamnode.limits import Limits
from beamnode.wire.header import CACHE_SLOTS, AtomCacheIn, AtomCacheOut

A, B, C = Atom("a"), Atom("bb"), Atom("ccc")
LONG = Atom("\N{GREEK SMALL LETTER ALPHA}" * 200)  # 400 bytes


def read(cache: AtomCacheIn, table: bytes, around: bytes = b"") -> list[Atom]:
    atoms, after = cache.read_table(around + table + b"terms", len(around), len(around + table) + 5)
    assert after == len(around + table)
    return list(atoms)


def test_no_atoms_is_one_byte() -> None:
    assert AtomCacheOut().table([]) == b"\0"
    assert read(AtomCacheIn(), b"\0") == []


def test_the_bytes() -> None:
    out = AtomCacheOut()
    assert out.table([A, B]) == b"\x02\x88\x00\x00\x01a\x01\x02bb"
    assert out.table([A, B]) == b"\x02\x00\x00\x00\x01"
    assert out.table([B, C, A]) == b"\x03\x80\x00\x01\x02\x03ccc\x00"
    assert out.table([LONG]) == b"\x01\x18\x03" + (400).to_bytes(2) + LONG.name.encode()
    assert out.table([LONG, A]) == b"\x02\x00\x00\x03\x00"
    other = Atom("\N{GREEK SMALL LETTER BETA}" * 200)
    assert out.table([other, A, Atom("new")]) == (
        b"\x03\x08\x18\x04" + (400).to_bytes(2) + other.name.encode() + b"\x00" + b"\x05\x00\x03new"
    )


def test_a_captured_header() -> None:
    # The first message of a real node: three new atoms in three segments.
    table = b"\x03" + bytes((0xD | 0xA << 4, 0x8)) + b"\x37\x05a@vm1" + b"\x02\x00" + b"\xff\x03rex"
    cache = AtomCacheIn()
    assert read(cache, table) == [Atom("a@vm1"), Atom(""), Atom("rex")]
    assert read(cache, b"\x01\x05\x37") == [Atom("a@vm1")]
    assert read(cache, b"\x02\x02\x00\x02\xff") == [Atom(""), Atom("rex")]


def test_reading_is_the_same_wherever_the_table_stands() -> None:
    out, cache = AtomCacheOut(), AtomCacheIn()
    for around in (b"", b"before", bytes(1000)):
        for _ in range(3):
            assert read(cache, out.table([A, B, LONG]), around) == [A, B, LONG]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 254, 255])
def test_any_number_of_atoms(count: int) -> None:
    atoms = [Atom(f"atom {number}") for number in range(count)]
    out, cache = AtomCacheOut(), AtomCacheIn()
    first = out.table(atoms)
    assert first[0] == count
    assert read(cache, first) == atoms
    assert len(out.table(atoms)) == 1 + count // 2 + 1 + count
    assert read(cache, out.table(atoms)) == atoms
    assert read(cache, out.table(reversed(atoms))) == atoms[::-1]


@pytest.mark.parametrize("seed", range(8))
def test_thousands_of_atoms_stay_in_step(seed: int) -> None:
    rng = random.Random(seed)
    pool = [Atom(f"{'long ' * 20 if number % 50 == 0 else 'a'}\N{SNOWMAN}{number}") for number in range(7000)]
    out, cache = AtomCacheOut(), AtomCacheIn()
    for _ in range(1500):
        width = rng.choice((10, 300, 7000))
        atoms = rng.sample(pool[:width], rng.randint(0, min(255, width)))
        assert read(cache, out.table(atoms)) == atoms


def test_more_tables_than_are_remembered() -> None:
    out, cache = AtomCacheOut(), AtomCacheIn()
    pool = [Atom(f"t{number}") for number in range(60)]
    read(cache, out.table(pool))
    for _ in range(2):
        for first in pool:
            for second in pool[:20]:
                if first is not second:
                    assert read(cache, out.table([first, second])) == [first, second]


def test_a_full_cache_never_uses_one_slot_twice_in_a_table() -> None:
    out, cache = AtomCacheOut(), AtomCacheIn()
    pool = [Atom(f"x{number}") for number in range(CACHE_SLOTS + 200)]
    for begin in range(0, CACHE_SLOTS, 200):
        read(cache, out.table(pool[begin : begin + 200]))
    atoms = [*pool[:100], *pool[-155:]]  # the oldest, which are next to be dropped, together with new ones
    assert read(cache, out.table(atoms)) == atoms
    assert read(cache, out.table(atoms)) == atoms
    assert len(set(out.table(atoms)[1 + 128 :])) > 100


def test_an_atom_that_cannot_be_sent_changes_nothing() -> None:
    out, cache = AtomCacheOut(), AtomCacheIn()
    read(cache, out.table([A]))
    with pytest.raises(EncodeError):
        out.table([B, Atom("x" * 256)])
    with pytest.raises(EncodeError):
        out.table([B, Atom("\ud800")])
    with pytest.raises(EncodeError):
        out.table([B, "no atom"])  # type: ignore[list-item]
    assert out.table([B, A]) == b"\x02\x08\x00\x01\x02bb\x00"


@pytest.mark.parametrize("slot", [0, 1, 255, 256, 2047])
def test_a_slot_that_is_empty(slot: int) -> None:
    with pytest.raises(ProtocolError):
        read(AtomCacheIn(), bytes((1, slot >> 8, slot & 255)))


def test_a_new_entry_replaces_an_old_one() -> None:
    cache = AtomCacheIn()
    assert read(cache, b"\x01\x08\x05\x01a") == [A]
    assert read(cache, b"\x01\x00\x05") == [A]
    assert read(cache, b"\x01\x00\x05") == [A]  # from memory
    assert read(cache, b"\x02\x80\x00\x05\x05\x02bb") == [A, B]
    assert read(cache, b"\x01\x00\x05") == [B]


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x98"])
def test_texts_that_are_not_utf8(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(AtomCacheIn(), b"\x01\x08\x00" + bytes((len(text),)) + text)


def test_the_length_of_an_atom_at_the_limit_and_one_past_it() -> None:
    cache = AtomCacheIn(Limits(atom_characters_max=4))
    text = "\N{SNOWMAN}" * 4
    assert read(cache, b"\x01\x18\x00" + len(text.encode()).to_bytes(2) + text.encode()) == [Atom(text)]
    with pytest.raises(LimitExceeded) as caught:
        read(cache, b"\x01\x08\x00\x05aaaaa")
    assert caught.value.limit == "atom_characters_max"


def test_every_table_that_is_cut_short_is_refused() -> None:
    for atoms in ([A], [A, B], [A, LONG, C], [Atom(str(number)) for number in range(30)]):
        out = AtomCacheOut()
        for table in (out.table(atoms), out.table(atoms)):
            for end in range(len(table)):
                cache = AtomCacheIn()
                read(cache, AtomCacheOut().table(atoms))
                with pytest.raises(ProtocolError):
                    cache.read_table(table + bytes(100), 0, end)  # the next frame is in the buffer already
                with pytest.raises(ProtocolError):
                    cache.read_table(table[:end], 0, end)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes(tables: list[bytes]) -> None:
    cache = AtomCacheIn()
    for table in tables:
        try:
            atoms, after = cache.read_table(table, 0, len(table))
        except PeerError:
            continue
        assert 0 < after <= len(table)
        assert all(type(atom) is Atom for atom in atoms)
