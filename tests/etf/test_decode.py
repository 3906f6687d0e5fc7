"""Known bytes, each also cut short at every byte; everything that OTP refuses; random bytes."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from etf_terms import all_terms, exact
from hypothesis import given, settings
from hypothesis import strategies as st

from beamnode.errors import DecodeError
from beamnode.etf import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    LocalTerm,
    NativeRecord,
    Pid,
    Port,
    Reference,
    a,
    codec,
)

# Hypothesis writes out every strategy inside a strategy, at length.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

NODE = b"w\x03a@b"
HEADER_ATOMS = (Atom("ok"), Atom("true"), None, a["a@b"])

KNOWN: list[tuple[bytes, Any]] = [
    (b"a\xff", 255),
    (b"b\xff\xff\xff\xfe", -2),
    (b"b\x7f\xff\xff\xff", 2**31 - 1),
    (b"n\x00\x00", 0),
    (b"n\x01\x01\x00", 0),  # minus zero is zero
    (b"n\x01\x02\x05", -5),  # any sign but 0 is minus
    (b"n\x03\x00\x05\x00\x00", 5),
    (b"n\x08\x01" + b"\xff" * 8, -(2**64) + 1),
    (b"o\x00\x00\x00\x03\x00\x00\x00\x01", 2**16),
    (b"o\x00\x00\x01\x00\x01" + b"\x00" * 255 + b"\x80", -(2**2047)),
    (b"F\x3f\xf8" + bytes(6), 1.5),
    (b"F\x80" + bytes(7), -0.0),
    (b"c1.50000000000000000000e+00" + bytes(5), 1.5),
    (b"c-1.5\x00" + b"?" * 26 + b"", -1.5),
    (b"d\x00\x02ok", Atom("ok")),
    (b"d\x00\x02\xe4a", Atom("äa")),
    (b"s\x01\xe9", Atom("é")),
    (b"s\x04true", True),
    (b"v\x00\x02\xc3\xa9", Atom("é")),
    (b"v\x01\xfe" + "é".encode() * 255, Atom("é" * 255)),
    (b"w\x02ok", Atom("ok")),
    (b"w\x00", Atom("")),
    (b"w\x05false", False),
    (b"w\x03nil", None),
    (b"w\x09undefined", Atom("undefined")),
    (b"R\x00", Atom("ok")),
    (b"R\x01", True),
    (b"R\x02", None),
    (b"m\x00\x00\x00\x00", b""),
    (b"m\x00\x00\x00\x03abc", b"abc"),
    (b"M\x00\x00\x00\x02\x03\xff\xff", BitString(b"\xff\xe0", 3)),  # the bits that do not count are 0
    (b"M\x00\x00\x00\x01\x08\xff", b"\xff"),
    (b"j", []),
    (b"k\x00\x00", []),
    (b"k\x00\x03\x00\x80\xff", [0, 128, 255]),
    (b"l\x00\x00\x00\x02a\x01a\x02j", [1, 2]),
    (b"l\x00\x00\x00\x00j", []),
    (b"l\x00\x00\x00\x00a\x07", 7),
    (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x01a\x02j", [1, 2]),  # [1 | [2]]
    (b"l\x00\x00\x00\x01a\x01k\x00\x01\x02", [1, 2]),
    (b"l\x00\x00\x00\x02a\x01a\x02a\x03", ImproperList((1, 2), 3)),
    (b"l\x00\x00\x00\x01a\x01h\x01j", ImproperList((1,), ([],))),
    (b"h\x00", ()),
    (b"h\x02a\x01h\x01w\x02ok", (1, (Atom("ok"),))),
    (b"i\x00\x00\x00\x01j", ([],)),
    (b"t\x00\x00\x00\x00", {}),
    (b"t\x00\x00\x00\x02w\x01aa\x01w\x01bt\x00\x00\x00\x00", {a.a: 1, a.b: {}}),
    (b"X" + NODE + struct.pack(">III", 1, 2, 2**32 - 1), Pid(a["a@b"], 1, 2, 2**32 - 1)),
    (b"XR\x03" + struct.pack(">III", 1, 2, 3), Pid(a["a@b"], 1, 2, 3)),  # a node's name by reference
    (b"XR\x01" + struct.pack(">III", 1, 2, 3), Pid(a["true"], 1, 2, 3)),
    (b"XR\x02" + struct.pack(">III", 1, 2, 3), Pid(a["nil"], 1, 2, 3)),
    (b"gd\x00\x03a@b" + struct.pack(">IIB", 1, 2, 3), Pid(a["a@b"], 1, 2, 3)),
    (b"f" + NODE + struct.pack(">IB", 9, 3), Port(a["a@b"], 9, 3)),
    (b"Y" + NODE + struct.pack(">II", 9, 4), Port(a["a@b"], 9, 4)),
    (b"x" + NODE + struct.pack(">QI", 2**63, 4), Port(a["a@b"], 2**63, 4)),
    (b"e" + NODE + struct.pack(">IB", 9, 3), Reference(a["a@b"], 3, (9,))),
    (b"r\x00\x02" + NODE + struct.pack(">BII", 3, 8, 9), Reference(a["a@b"], 3, (8, 9))),
    (b"Z\x00\x01" + NODE + struct.pack(">II", 7, 8), Reference(a["a@b"], 7, (8,))),
    (b"Z\x00\x05" + NODE + struct.pack(">6I", 7, 1, 2, 3, 4, 5), Reference(a["a@b"], 7, (1, 2, 3, 4, 5))),
    (b"qw\x01mw\x01fa\x02", Export(a.m, a.f, 2)),
    (b"qw\x03nilw\x04trueb\x00\x00\x00\x02", Export(a["nil"], a["true"], 2)),
    (
        b"p" + struct.pack(">IB16sII", 61, 2, b"u" * 16, 3, 1) + b"w\x01ma\x05b\x00\x00\x01\x00"
        b"X" + NODE + struct.pack(">III", 1, 2, 3) + b"k\x00\x01A",
        Fun(a.m, 2, b"u" * 16, 3, 5, 256, Pid(a["a@b"], 1, 2, 3), ([65],)),
    ),
    (
        b"C\x00\x00\x00\x02\x01w\x05mymodw\x05myrecw\x01aw\x01ba\x01w\x05hello",
        NativeRecord(a.mymod, a.myrec, ((a.a, 1), (a.b, a.hello)), True),
    ),
    (b"C\x00\x00\x00\x00\x00w\x01mw\x01r", NativeRecord(a.m, a.r, (), False)),
]


def decode_whole(data: bytes | bytearray | memoryview, **options: Any) -> Any:
    term, end = codec.decode_from(data, 0, HEADER_ATOMS, **options)
    assert end == len(data)
    return term


@pytest.mark.parametrize(("data", "term"), KNOWN, ids=repr)
def test_known_bytes(data: bytes, term: Any) -> None:
    assert exact(decode_whole(data)) == exact(term)
    assert type(decode_whole(data)) is type(term)
    assert decode_whole(data) == term


@pytest.mark.parametrize("make", [bytearray, memoryview, lambda data: memoryview(bytearray(data)).cast("b")])
@pytest.mark.parametrize(("data", "term"), KNOWN, ids=repr)
def test_known_bytes_in_other_buffers(data: bytes, term: Any, make: Any) -> None:
    assert exact(decode_whole(make(data))) == exact(term)


@pytest.mark.parametrize(("data", "term"), KNOWN, ids=repr)
def test_every_shorter_piece_is_refused(data: bytes, term: Any) -> None:
    nested = b"h\x02" + data + b"t\x00\x00\x00\x01" + data + data
    assert exact(decode_whole(nested)) == exact((term, {_key(data): term}))
    for whole in (data, nested):
        for size in range(len(whole)):
            for piece in (whole[:size], bytearray(whole[:size])):
                with pytest.raises(DecodeError):
                    codec.decode_from(piece, 0, HEADER_ATOMS)


def _key(data: bytes) -> Any:
    return next(iter(decode_whole(b"t\x00\x00\x00\x01" + data + b"j")))


def test_an_offset_into_a_longer_buffer() -> None:
    assert codec.decode_from(b"??h\x01a\x05??", 2) == ((5,), 6)
    assert codec.decode_from(bytearray(b"??h\x01a\x05??"), 2) == ((5,), 6)


def test_a_local_term_is_all_the_data_that_is_left() -> None:
    """Its length is not self-described, so it stands alone; OTP 27 and 29 alone could read it, and only their own."""
    assert decode_whole(b"y\x01\x02\x03\x04a\x05") == LocalTerm(b"\x01\x02\x03\x04a\x05")
    with pytest.raises(DecodeError, match="LOCAL_EXT inside"):
        codec.decode_from(b"h\x01y\x01\x02\x03\x04a\x05", 0)


REFUSED = {
    "no tag of ours": b"\x00",
    "version byte inside": b"\x83a\x01",
    "old fun": b"u" + bytes(40),
    "compressed inside": b"h\x01P" + struct.pack(">I", 2) + zlib.compress(b"a\x01"),
    "NaN": b"F\x7f\xf8" + bytes(6),
    "infinity": b"F\x7f\xf0" + bytes(6),
    "old float, infinite": b"c1.0e999\x00" + b"0" * 23,
    "old float, nan": b"cnan" + bytes(28),
    "old float, underscore": b"c1_0.0\x00" + b"0" * 25,
    "old float, no end": b"c1." + b"0" * 29,
    "atom of 256 characters": b"v\x01\x00" + b"a" * 256,
    "latin-1 atom of 256 characters": b"d\x01\x00" + b"a" * 256,
    "atom of 65535 bytes": b"v\xff\xff" + b"a" * 65535,
    "atom not UTF-8": b"w\x01\xff",
    "atom of a surrogate": b"w\x03\xed\xa0\x80",
    "header atom that is not there": b"R\x04",
    "node that is no atom": b"Xa\x01" + bytes(12),
    "node that is not there": b"XR\x09" + bytes(12),
    "reference of six words": b"Z\x00\x06" + NODE + bytes(28),
    "bitstring of no bytes": b"M\x00\x00\x00\x00\x03",
    "bitstring of no bits": b"M\x00\x00\x00\x01\x00\x01",
    "bitstring of nine bits": b"M\x00\x00\x00\x01\x09\x01",
    "arity 256": b"qw\x01mw\x01fb\x00\x00\x01\x00",
    "arity no integer": b"qw\x01mw\x01fw\x01a",
    "native record of unknown flags": b"C\x00\x00\x00\x00\x02w\x01mw\x01r",
    "native record, one name twice": b"C\x00\x00\x00\x02\x00w\x01mw\x01rw\x01aw\x01aa\x01a\x02",
    "one key twice": b"t\x00\x00\x00\x02a\x01a\x01a\x01a\x02",
    "one list key twice": b"t\x00\x00\x00\x02k\x00\x01Aa\x01l\x00\x00\x00\x01aAja\x02",
    "fun of another size": b"p"
    + struct.pack(">IB16sII", 0, 2, b"u" * 16, 3, 0)
    + b"w\x01ma\x05a\x01X"
    + NODE
    + bytes(12),
    "fun of 256 free variables": b"p" + struct.pack(">IB16sII", 0, 2, b"u" * 16, 3, 256) + bytes(600),
    "fun of no pid": b"p" + struct.pack(">IB16sII", 39, 2, b"u" * 16, 3, 0) + b"w\x01ma\x05a\x01a\x01",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=list(REFUSED))
def test_refused(data: bytes) -> None:
    for whole in (data, b"h\x02" + data + b"j", b"t\x00\x00\x00\x01" + data + b"j"):
        with pytest.raises(DecodeError):
            codec.decode_from(whole, 0, HEADER_ATOMS)


@pytest.mark.parametrize("tag", range(256))
def test_no_tag_leads_astray(tag: int) -> None:
    """Every tag before rubbish of every kind: a term or a DecodeError."""
    for filler in (b"", b"\x00" * 40, b"\xff" * 40, b"a\x01" * 20, b"\x00\x00\x00\x02" + b"w\x01a" * 20):
        decode_or_refuse(bytes((tag,)) + filler)


def decode_or_refuse(data: bytes) -> None:
    try:
        term, _ = codec.decode_from(data, 0, HEADER_ATOMS)
    except DecodeError:
        return
    out = bytearray()
    codec.encode_into(out, term)
    assert exact(codec.decode_from(bytes(out), 0)[0]) == exact(term)


tags_mostly = st.lists(st.one_of(st.sampled_from(b"CFMRXYZabcdefghijklmnopqrstvwxy\x00\x01\x02"), st.integers(0, 255)))


@given(st.one_of(st.binary(), tags_mostly.map(bytes)))
@settings(max_examples=500)
def test_random_bytes(data: bytes) -> None:
    decode_or_refuse(data)


@given(all_terms, st.data())
@settings(max_examples=200)
def test_mutated_terms(term: Any, data: st.DataObject) -> None:
    mutated = bytearray(codec.encode(term)[1:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.one_of(st.sampled_from(b"Caghijklmptw\x00\x01\xff"), st.integers(0, 255)))
    decode_or_refuse(bytes(mutated))


def test_binaries_become_str_if_asked() -> None:
    data = b"h\x02m\x00\x00\x00\x02\xc3\xa9m\x00\x00\x00\x01\xe9"
    assert decode_whole(data) == ("é".encode(), b"\xe9")
    assert decode_whole(data, strings=True) == ("é", b"\xe9")
    assert decode_whole(bytearray(data), strings=True) == ("é", b"\xe9")


def test_a_failed_buffer_can_be_resized() -> None:
    """The error does not hold on to the data: a channel's buffer is cut while the error lives."""
    for data in (bytearray(b"h\x02w\x03abcm\x00\x00\x00\x09abc"), bytearray(b"w\x03ab"), bytearray(b"h\x02a")):
        with pytest.raises(DecodeError) as caught:
            codec.decode_from(data, 0)
        del data[:2]
        assert caught.value


def test_error_texts_say_where() -> None:
    with pytest.raises(DecodeError, match="unknown tag 0 at byte 2"):
        codec.decode_from(b"h\x01\x00", 0)
    with pytest.raises(DecodeError, match="atom 7 of a header that has 0"):
        codec.decode_from(b"h\x01R\x07\x00", 0)
