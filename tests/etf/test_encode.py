"""What Python values become: known bytes, atoms by reference, subclasses, and what cannot be sent."""

from __future__ import annotations

import enum
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import pytest

from beamnode.errors import EncodeError
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


class Colour(enum.IntEnum):
    RED = 1


class Shade(enum.StrEnum):
    DARK = "dark"


class Plain(enum.Enum):
    ONE = 1


Point = namedtuple("Point", "x y")
PID = Pid(a["a@b"], 1, 2, 3)
PID_BYTES = b"Xw\x03a@b" + b"\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03"

KNOWN: list[tuple[Any, bytes]] = [
    (0, b"a\x00"),
    (255, b"a\xff"),
    (256, b"b\x00\x00\x01\x00"),
    (-1, b"b\xff\xff\xff\xff"),
    (2**31 - 1, b"b\x7f\xff\xff\xff"),
    (-(2**31), b"b\x80\x00\x00\x00"),
    (2**31, b"n\x04\x00\x00\x00\x00\x80"),
    (-(2**31) - 1, b"n\x04\x01\x01\x00\x00\x80"),
    (2**2040 - 1, b"n\xff\x00" + b"\xff" * 255),
    (2**2040, b"o\x00\x00\x01\x00\x00" + b"\x00" * 255 + b"\x01"),
    (Colour.RED, b"a\x01"),
    (True, b"w\x04true"),
    (False, b"w\x05false"),
    (None, b"w\x03nil"),
    (Atom("nil"), b"w\x03nil"),
    (Atom("undefined"), b"w\x09undefined"),
    (Atom("é" * 127), b"w\xfe" + "é".encode() * 127),
    (Atom("é" * 128), b"v\x01\x00" + "é".encode() * 128),
    (Atom("\U0001f600" * 255), b"v\x03\xfc" + "\U0001f600".encode() * 255),
    (1.5, b"F\x3f\xf8" + bytes(6)),
    (-0.0, b"F\x80" + bytes(7)),
    ("é", b"m\x00\x00\x00\x02\xc3\xa9"),
    (Shade.DARK, b"m\x00\x00\x00\x04dark"),
    (b"ab", b"m\x00\x00\x00\x02ab"),
    (bytearray(b"ab"), b"m\x00\x00\x00\x02ab"),
    (memoryview(b"ab"), b"m\x00\x00\x00\x02ab"),
    (memoryview(b"abcd")[::2], b"m\x00\x00\x00\x02ac"),
    (memoryview(b"abcd").cast("H"), b"m\x00\x00\x00\x04abcd"),
    (BitString(b"\xff", 3), b"M\x00\x00\x00\x01\x03\xe0"),
    ([], b"j"),
    ([1, []], b"l\x00\x00\x00\x02a\x01jj"),
    (ImproperList((1,), 2), b"l\x00\x00\x00\x01a\x01a\x02"),
    ((), b"h\x00"),
    (Point(1, 2), b"h\x02a\x01a\x02"),
    ((1,) * 255, b"h\xff" + b"a\x01" * 255),
    ((1,) * 256, b"i\x00\x00\x01\x00" + b"a\x01" * 256),
    (Point(*[1] * 2), b"h\x02a\x01a\x01"),
    ({a.z: 1, a.a: 2}, b"t\x00\x00\x00\x02w\x01za\x01w\x01aa\x02"),  # as inserted
    (defaultdict(int, {1: 2}), b"t\x00\x00\x00\x01a\x01a\x02"),
    (OrderedDict({1: 2}), b"t\x00\x00\x00\x01a\x01a\x02"),
    (PID, PID_BYTES),
    (Port(a["a@b"], 5, 7), b"xw\x03a@b" + bytes(7) + b"\x05\x00\x00\x00\x07"),
    (Reference(a["a@b"], 7, (1, 2)), b"Z\x00\x02w\x03a@b\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x02"),
    (Export(a.m, a.f, 2), b"qw\x01mw\x01fa\x02"),
    (
        Fun(a.m, 1, b"u" * 16, 3, 4, 300, PID, (b"", [1])),
        b"p\x00\x00\x00\x46\x01" + b"u" * 16 + b"\x00\x00\x00\x03\x00\x00\x00\x02w\x01ma\x04b\x00\x00\x01\x2c"
        + PID_BYTES + b"m\x00\x00\x00\x00l\x00\x00\x00\x01a\x01j",
    ),
    (NativeRecord(a.m, a.r, ((a.x, 1), (a.y, ())), True), b"C\x00\x00\x00\x02\x01w\x01mw\x01rw\x01xw\x01ya\x01h\x00"),
    (LocalTerm(b"opaque"), b"yopaque"),
]  # fmt: skip


@pytest.mark.parametrize(("term", "data"), KNOWN, ids=lambda value: repr(value)[:40])
def test_known_bytes(term: Any, data: bytes) -> None:
    out = bytearray(b"before")
    codec.encode_into(out, term)
    assert out == b"before" + data
    assert codec.encode(term) == b"\x83" + data


def test_atoms_by_reference() -> None:
    table = {a.x: 0}
    out = bytearray()
    codec.encode_into(out, (a.x, a.ok, True, None, a.ok, Pid(a["a@b"], 1, 2, 3)), table)
    assert out == b"h\x06R\x00R\x01R\x02R\x03R\x01XR\x04" + PID_BYTES[-12:]
    assert list(table.items()) == [(a.x, 0), (a.ok, 1), (a["true"], 2), (a["nil"], 3), (a["a@b"], 4)]


def test_atoms_by_reference_inside_everything_that_holds_atoms() -> None:
    node, m, f = (Atom(name) for name in ("a@b", "m", "f"))
    terms = [
        Port(node, 1, 2),
        Reference(node, 1, (2, 3)),
        Export(m, f, 2),
        Fun(m, 1, b"u" * 16, 3, 4, 5, Pid(node, 1, 2, 3), (f,)),
        NativeRecord(m, f, ((node, f),), False),
        {m: {f: [node]}},
    ]
    for term in terms:
        table: dict[Atom, int] = {}
        out = bytearray()
        codec.encode_into(out, term, table)
        assert b"w\x01" not in out
        assert codec.decode_from(bytes(out), 0, list(table)) == (term, len(out))


def test_a_full_table_leaves_atoms_by_name() -> None:
    table = {Atom(f"atom{i}"): i for i in range(254)}
    out = bytearray()
    codec.encode_into(out, [a.last, a.late, a.last], table)
    assert out == b"l\x00\x00\x00\x03R\xfew\x04lateR\xfej"
    assert len(table) == 255
    assert a.late not in table


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (object(), "type builtins.object"),
        ({1, 2}, "type builtins.set"),
        (Plain.ONE, "Plain has no term; send its name or its value"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1j, "complex"),
        (Atom("a" * 256), "256 characters"),
        (Atom("\ud800"), "surrogate"),
        ("\ud800", "surrogate"),
        (BitString(b"", 3), "1 to 7 bits"),
        (BitString(b"a", 8), "1 to 7 bits"),
        (ImproperList((), 1), "at least one"),
        (Pid(a.n, 2**32, 0, 0), "does not fit"),
        (Pid("a@b", 1, 2, 3), "where an Atom must stand"),  # type: ignore[arg-type]
        (Pid(a.n, "1", 0, 0), "does not fit"),  # type: ignore[arg-type]
        (Reference(a.n, 1, (1,) * 6), "6 words"),
        (Export(a.m, a.f, 256), "arity"),
        (Fun(a.m, 1, b"short", 1, 1, 1, PID, ()), "16 bytes"),
        (Fun(a.m, 1, b"u" * 16, 1, 1, 1, PID, (1,) * 256), "256 free"),
        (Fun(a.m, 1, b"u" * 16, 1, 2**31, 1, PID, ()), "does not fit"),
        (NativeRecord(a.m, a.r, ((a.x, 1), (a.x, 2)), True), "twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_has_no_term(term: Any, text: str) -> None:
    for whole in (term, [term], (1, {2: term}), Fun(a.m, 1, b"u" * 16, 1, 1, 1, PID, (term,))):
        out = bytearray(b"before")
        table = {a.known: 0}
        with pytest.raises(EncodeError, match=text):
            codec.encode_into(out, [a.new, whole], table)
        assert out == b"before"
        assert table == {a.known: 0}
        with pytest.raises(EncodeError, match=text):
            codec.encode(whole)


def test_a_local_term_stands_alone() -> None:
    with pytest.raises(EncodeError, match="on its own"):
        codec.encode([LocalTerm(b"x")])


def test_errors_say_where() -> None:
    with pytest.raises(EncodeError, match=r"set has no term, at \[1\]\[b'k'\]\[0\]$"):
        codec.encode((0, {b"k": [{1}]}))
    with pytest.raises(EncodeError, match=r", at \[the key \(1, <object"):
        codec.encode({0: 0, (1, object()): 1})


def test_a_changing_container_is_written_as_it_was() -> None:
    items: list[Any] = [1, 2]
    holder = [items, items]
    data = codec.encode(holder)
    items.append(3)
    assert codec.decode(data) == [[1, 2], [1, 2]]
