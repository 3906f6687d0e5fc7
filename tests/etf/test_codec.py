"""The face: version byte, compression, exactly one term; and the bounds, each at the limit and one past it."""

from __future__ import annotations

import gc
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from etf_terms import all_terms, exact
from hypothesis import given, settings

from beamnode.errors import DecodeError, EncodeError, LimitExceeded
from beamnode.etf import Atom, Fun, ImproperList, LocalTerm, Pid, TermLimitExceeded, a, codec, implementation, terms
from beamnode.limits import DEFAULT_LIMITS

# Hypothesis writes out every strategy inside a strategy, at length.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@given(all_terms)
@settings(max_examples=300)
def test_round_trip(term: Any) -> None:
    data = codec.encode(term)
    back = codec.decode(data)
    assert exact(back) == exact(term)
    assert codec.encode(back) == data
    assert exact(codec.decode(codec.encode(term, compressed=True))) == exact(term)
    assert exact(codec.decode(bytearray(data))) == exact(term)


@given(all_terms)
@settings(max_examples=200)
def test_round_trip_with_header_atoms(term: Any) -> None:
    table: dict[Atom, int] = {}
    out = bytearray()
    codec.encode_into(out, term, table)
    back, end = codec.decode_from(bytes(out), 0, list(table))
    assert end == len(out)
    assert exact(back) == exact(term)


@given(all_terms)
@settings(max_examples=100)
def test_every_shorter_piece_is_refused(term: Any) -> None:
    data = codec.encode(term)
    for size in range(0, len(data), max(1, len(data) // 100)):
        with pytest.raises(DecodeError):
            codec.decode(data[:size])


def test_there_is_an_implementation() -> None:
    assert implementation in codec.KERNELS


@pytest.mark.parametrize("data", [b"", b"\x83", b"a\x01", b"\x82a\x01", b"\x83a\x01\x00", b"\x83\x83a\x01"])
def test_exactly_one_term(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data)


def test_compressed() -> None:
    term = [b"abc"] * 100
    data = codec.encode(term, compressed=True)
    assert data[:2] == b"\x83P"
    assert len(data) < 50
    assert codec.decode(data) == codec.decode(memoryview(data)) == term
    assert codec.encode(7, compressed=True) == codec.encode(7)  # where it would not be shorter, OTP does not either
    local = b"\x83P\x00\x00\x00\x03" + zlib.compress(b"yab")  # term_to_binary(T, [local, compressed])
    assert codec.decode(local) == LocalTerm(b"ab")


def compressed(inner: bytes, claimed: int | None = None) -> bytes:
    return b"\x83P" + (len(inner) if claimed is None else claimed).to_bytes(4, "big") + zlib.compress(inner)


REFUSED = {
    "more than claimed": compressed(b"h\x01a\x01", 3),
    "less than claimed": compressed(b"h\x01a\x01", 5),
    "more than one term": compressed(b"a\x01a\x01"),
    "a version byte inside": compressed(b"\x83a\x01"),
    "twice": compressed(compressed(b"a\x01")[1:]),
    "bytes after it": compressed(b"a\x01") + b"\x00",
    "no zlib data": b"\x83P\x00\x00\x00\x02rubbish",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=list(REFUSED))
def test_refused_compressed_terms(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data)


def test_every_shorter_compressed_piece_is_refused() -> None:
    data = codec.encode([b"abc"] * 100, compressed=True)
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            codec.decode(data[:size])


# --- Bounds -----------------------------------------------------------------------------------------------------------


def refused_for(name: str, data: bytes, **bounds: int) -> None:
    with pytest.raises(TermLimitExceeded) as caught:
        codec.decode(data, limits=replace(DEFAULT_LIMITS, **bounds))
    assert caught.value.limit == name
    assert isinstance(caught.value, DecodeError)
    assert isinstance(caught.value, LimitExceeded)


def test_inflated_bytes_max() -> None:
    data = codec.encode(bytes(1000), compressed=True)
    assert codec.decode(data, limits=replace(DEFAULT_LIMITS, inflated_bytes_max=1005)) == bytes(1000)
    refused_for("inflated_bytes_max", data, inflated_bytes_max=1004)


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    with pytest.raises(DecodeError, match="claims"):
        codec.decode(b"\x83P\x00\x00\x00\x10" + bomb)


def test_atom_characters_max() -> None:
    for text, raw in (
        (b"abc", b"w\x03abc"),
        (b"abc", b"v\x00\x03abc"),
        (b"abc", b"s\x03abc"),
        (b"abc", b"d\x00\x03abc"),
    ):
        codec.decode(b"\x83" + raw)  # it may be known already
        assert codec.decode(b"\x83" + raw, limits=replace(DEFAULT_LIMITS, atom_characters_max=3)) == Atom(text.decode())
        refused_for("atom_characters_max", b"\x83" + raw, atom_characters_max=2)
    wide = codec.encode(Atom("é" * 200))
    assert codec.decode(wide, limits=replace(DEFAULT_LIMITS, atom_characters_max=200)) == Atom("é" * 200)
    refused_for("atom_characters_max", wide, atom_characters_max=199)
    pid = codec.encode(Pid(Atom("é" * 200), 1, 2, 3))
    refused_for("atom_characters_max", pid, atom_characters_max=199)


def test_many_atoms_do_not_stay() -> None:
    from beamnode.etf import leaves_python

    for i in range(leaves_python.ATOM_VALUES_CACHED_MAX + 10):
        codec.decode(b"\x83w\x0a" + b"%010d" % i)
    assert len(leaves_python.atom_values) <= leaves_python.ATOM_VALUES_CACHED_MAX


@pytest.mark.parametrize("bits", [2040, 80_000])
def test_integer_bytes_max(bits: int) -> None:
    data = codec.encode(1 << (bits - 1))
    assert codec.decode(data, limits=replace(DEFAULT_LIMITS, integer_bytes_max=bits // 8)) == 1 << (bits - 1)
    refused_for("integer_bytes_max", data, integer_bytes_max=bits // 8 - 1)


@pytest.mark.parametrize(
    "head",
    [b"l\xff\xff\xff\xff", b"i\xff\xff\xff\xff", b"t\xff\xff\xff\xff", b"m\xff\xff\xff\xff", b"M\xff\xff\xff\xff\x01",
     b"o\xff\xff\xff\xff\x00", b"k\xff\xff", b"v\xff\xff", b"C\xff\xff\xff\xff\x00w\x01aw\x01b",
     b"l\x00\x00\x00\x00l\xff\xff\xff\xff", b"y\xff"[:0] + b"h\xff"],
    ids=repr,
)  # fmt: skip
def test_a_length_costs_nothing(head: bytes) -> None:
    """A claim of four billion elements in ten bytes is refused before anything is made for it."""
    with pytest.raises(DecodeError):
        codec.decode(b"\x83" + head + b"a\x01")


NESTED: dict[str, Any] = {
    "tuple": lambda inner: (inner,),
    "list": lambda inner: [inner],
    "map": lambda inner: {1: inner},
    "improper": lambda inner: ImproperList((1,), (inner,)),
    "fun": lambda inner: Fun(a.m, 1, b"u" * 16, 1, 1, 1, Pid(a.n, 1, 2, 3), (inner,)),
}


@pytest.mark.parametrize("wrap", NESTED.values(), ids=list(NESTED))
def test_term_depth_max(wrap: Any) -> None:
    depth = DEFAULT_LIMITS.term_depth_max
    step = 2 if isinstance(wrap(1), ImproperList) else 1
    term: Any = 1
    for _ in range(depth // step):
        term = wrap(term)
    data = codec.encode(term)
    assert codec.encode(codec.decode(data)) == data
    with pytest.raises(EncodeError, match="nested deeper"):
        codec.encode(wrap(term))
    refused_for("term_depth_max", data, term_depth_max=depth - 1)


def test_depth_does_not_depend_on_the_caller() -> None:
    """Not even where Python's own stack is nearly used up."""
    data = b"\x83" + b"h\x01" * 1024 + b"j"

    def deep(levels: int) -> bytes:
        return deep(levels - 1) if levels else codec.encode(codec.decode(data))

    used = len(__import__("inspect").stack())
    assert deep(sys.getrecursionlimit() - used - 40) == data


def test_depth_can_be_allowed() -> None:
    data = b"\x83" + b"l\x00\x00\x00\x01" * 100_000 + b"j" * 100_001
    term = codec.decode(data, limits=replace(DEFAULT_LIMITS, term_depth_max=100_000))
    assert len(term) == 1
    keyed = b"\x83" + b"t\x00\x00\x00\x01" + b"h\x01" * 100_000 + b"jj"
    refused_for("term_depth_max", keyed, term_depth_max=200_000)  # which C could not hash


def test_a_list_in_pieces_is_not_deep() -> None:
    """[1 | [1 | [1 | ...]]] as OTP never writes it: a flat list all the same."""
    data = b"\x83" + b"l\x00\x00\x00\x01a\x01" * 100_000 + b"j"
    assert codec.decode(data) == [1] * 100_000


@pytest.mark.parametrize("make", [list, dict])
def test_what_contains_itself(make: Any) -> None:
    term = make()
    if isinstance(term, list):
        term += [term, term]
    else:
        term[1] = term
    with pytest.raises(EncodeError, match="containing itself"):
        codec.encode(term)


def test_a_big_binary_is_copied_once() -> None:
    """Twice the payload, for the moment that the encoder holds both, but never more."""
    import tracemalloc

    size = 8 << 20
    payload = bytes(size)
    data = codec.encode((a.ok, payload))
    for buffer in (data, bytearray(data), memoryview(data)):
        tracemalloc.start()
        term, _ = codec.decode_from(buffer, 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert term[1] == payload
        assert peak < size * 1.1


def test_threads_that_make_the_same_atoms_get_the_same_objects() -> None:
    names = [f"made_at_once_{number}" for number in range(20_000)]
    barrier = threading.Barrier(4)

    def make() -> list[Atom]:
        barrier.wait()
        return [Atom(name) for name in names]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = [future.result() for future in [pool.submit(make) for _ in range(4)]]
    finally:
        sys.setswitchinterval(interval)
    assert all(len({id(atom) for atom in same}) == 1 for same in zip(*made, strict=True))


def test_a_term_that_other_threads_change_meanwhile() -> None:
    """What is written is some state of it, and no object is used that is gone."""
    items: list[Any] = []
    table: dict[Any, Any] = {}
    ended = threading.Event()

    def change() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            items[:] = [[str(number), (float(number),)] for _ in range(number % 50)]
            table.clear()
            table.update({f"{number}.{i}": [Atom(f"changing{number}")] for i in range(number % 20)})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=change) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            out = bytearray()
            try:
                codec.encode_into(out, [items, table, items], {})
            except RuntimeError:  # of Python: the size of the dictionary changed
                continue
            codec.decode(codec.encode((items, items)))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


def test_an_atom_that_nobody_uses_is_forgotten() -> None:
    count = len(terms._interned)
    Atom("nobody_keeps_this_one")
    gc.collect()
    assert len(terms._interned) <= count
