"""Maps whose keys a dict cannot hold as they are."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import struct
import sys
from typing import Any

import pytest
from etf_terms import exact
from hypothesis import given
from hypothesis import strategies as st

from beamnode.errors import DecodeError
from beamnode.etf import (
    Atom,
    ExactKey,
    HashableDict,
    HashableList,
    ImproperList,
    Reference,
    TermLimitExceeded,
    a,
    codec,
)
from beamnode.etf.keys import EQUAL_HASHES_MAX


def map_of(*pairs: tuple[Any, Any]) -> bytes:
    """A map of any keys, also of those that no dict of plain values can hold."""
    out = bytearray(b"\x83t" + len(pairs).to_bytes(4, "big"))
    for pair in pairs:
        for term in pair:
            out += codec.encode(term)[1:]
    return bytes(out)


UNHASHABLE: list[Any] = [
    [],
    [1, [2, [b"x"]]],
    {},
    {a.k: [1]},
    (1, [2]),
    ({1: {2: []}},),
    ImproperList(([1],), {}),
    ImproperList(({},), 1),
    [{"k": [()]}],
]


@pytest.mark.parametrize("key", UNHASHABLE, ids=repr)
def test_any_term_is_a_key(key: Any) -> None:
    data = map_of((key, a.value), (1, 2))
    term = codec.decode(data)
    assert type(term) is dict
    found = next(iter(term))
    assert found == codec.decode(codec.encode(key))
    assert term[found] is a.value
    assert codec.encode(term) == data
    assert exact(codec.decode(codec.encode(term))) == exact(term)


def test_lists_and_maps_as_keys_can_be_looked_up() -> None:
    term = codec.decode(map_of(([1, {2: 3}], b"found")))
    assert term[HashableList([1, HashableDict({2: 3})])] == b"found"
    assert next(iter(term)) == [1, {2: 3}]


ALIKE = [1, 1.0, True]
ALIKE_DEEP: list[Any] = [
    (1,),
    (1.0,),
    (True,),
    [1],
    [1.0],
    [True],
    {1: 1},
    {1.0: 1},
    {1: True},
    ImproperList((1,), True),
]


def test_keys_that_only_erlang_tells_apart() -> None:
    term = codec.decode(map_of((True, a.t), (1.0, a.f), (1, a.i)))
    assert term == {ExactKey(True): a.t, ExactKey(1.0): a.f, 1: a.i}
    assert term[1] is a.i
    assert list(term.values()) == [a.t, a.f, a.i]
    assert codec.decode(codec.encode(term)) == term
    assert codec.decode(map_of((0.0, 1), (-0.0, 2))) == {0.0: 1, ExactKey(-0.0): 2}


@given(st.permutations(ALIKE + ALIKE_DEEP))
def test_which_key_stays_plain_does_not_depend_on_the_order(keys: list[Any]) -> None:
    pairs = [(key, codec.encode(key)) for key in keys]
    term = codec.decode(map_of(*pairs))
    assert len(term) == len(keys)
    assert term == codec.decode(map_of(*sorted(pairs, key=lambda pair: pair[1])))
    for key, value in term.items():
        assert codec.encode(key) == value
    assert exact(codec.decode(codec.encode(term))) == exact(term)


def test_the_order_of_a_map_inside_a_key_does_not_matter() -> None:
    one, other = map_of((1, 2), (3, 4), (b"", [])), map_of((b"", []), (3, 4), (1, 2))
    with pytest.raises(DecodeError, match="twice"):
        codec.decode(b"\x83t\x00\x00\x00\x02" + one[1:] + b"a\x01" + other[1:] + b"a\x02")
    assert codec.decode(b"\x83t\x00\x00\x00\x01" + one[1:] + b"j") == codec.decode(
        b"\x83t\x00\x00\x00\x01" + other[1:] + b"j"
    )


@pytest.mark.parametrize("key", [*UNHASHABLE, *ALIKE, *ALIKE_DEEP, b"x", Atom("x")], ids=repr)
def test_a_key_that_comes_twice(key: Any) -> None:
    """`badarg` in OTP."""
    with pytest.raises(DecodeError, match="twice"):
        codec.decode(map_of((key, 1), (key, 1)))


def test_exact_keys() -> None:
    assert ExactKey(1) != ExactKey(1.0)
    assert ExactKey(1) != 1
    assert ExactKey((1, 2)) == ExactKey((1, 2))
    assert len({ExactKey(1), ExactKey(1.0), ExactKey(True), ExactKey(1)}) == 3
    assert codec.encode({ExactKey(1.0): 1}) == codec.encode({1.0: 1})
    assert repr(ExactKey(1.0)) == "ExactKey(1.0)"


@pytest.mark.parametrize(
    "value", [HashableList([1, 2]), HashableDict({1: 2}), ImproperList((1,), 2), ExactKey(1.0), Atom("x")], ids=repr
)
def test_copies(value: Any) -> None:
    hash(value)
    for twin in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert twin == value
        assert hash(twin) == hash(value)
        assert type(twin) is type(value)


@pytest.mark.parametrize(
    ("opening", "depth"),
    [(b"h\x01", 1), (b"l\x00\x00\x00\x01", 1), (b"l\x00\x00\x00\x01a\x01h\x01", 2)],
    ids=["tuples", "lists", "improper"],
)
def test_keys_as_deep_as_terms_may_be(opening: bytes, depth: int) -> None:
    """Hashing and comparing recurse in Python and in C; neither may fail on what the depth limit lets through."""
    levels = 1022 // depth
    closing = b"j" * levels if opening == b"l\x00\x00\x00\x01" else b""
    key = opening * levels + b"a\x01" + closing
    other = opening * levels + b"F\x3f\xf0" + bytes(6) + closing  # 1.0, so that the two are compared to the bottom
    for keys in ([key], [key, key], [key, other]):
        data = b"\x83t" + len(keys).to_bytes(4, "big") + b"".join(each + b"j" for each in keys)
        try:
            term = codec.decode(data)
        except DecodeError:
            assert len(keys) == 2
        else:
            assert len(term) == len(keys)
            assert codec.encode(term) == data


def test_maps_in_keys_of_maps_in_keys() -> None:
    def nested(levels: int) -> bytes:
        return b"\x83" + b"t\x00\x00\x00\x01" * levels + b"a\x01" * (levels + 1)

    assert codec.encode(codec.decode(nested(17))) == nested(17)
    with pytest.raises(TermLimitExceeded):
        codec.decode(nested(18))


def keys_of(keys: list[bytes]) -> bytes:
    return b"\x83t" + len(keys).to_bytes(4) + b"".join(key + b"j" for key in keys)


def big(number: int) -> bytes:
    return b"n" + bytes((10, 0)) + number.to_bytes(10, "little")


PRIME = sys.hash_info.modulus  # Python hashes its multiples to 0
CHOSEN = [big(PRIME * number) for number in range(1, 1001)]


@pytest.mark.parametrize("inside", [b"", b"h\1", b"h\2a\1"], ids=["integers", "in tuples", "in longer tuples"])
def test_keys_that_were_chosen_to_have_one_hash(inside: bytes) -> None:
    keys = [inside + key for key in CHOSEN]
    assert len(codec.decode(keys_of(keys[:EQUAL_HASHES_MAX]))) == EQUAL_HASHES_MAX
    with pytest.raises(TermLimitExceeded, match="the same hash"):
        codec.decode(keys_of(keys[: EQUAL_HASHES_MAX + 2]))
    with pytest.raises(TermLimitExceeded, match="the same hash"):
        codec.decode(b"\x83h\1" + keys_of(keys)[1:])


def test_references_differ_in_their_hash_by_each_of_their_parts() -> None:
    """A peer that monitors with references of the same words and other creations would hold up the node."""
    references = {Reference(a.n, creation, (1, 2, 3)) for creation in range(1000)}
    references |= {Reference(Atom(f"n{number}"), 1, (1, 2, 3)) for number in range(1000)}
    assert len({hash(each) for each in references}) == len(references)


def test_many_keys_that_share_their_hash_with_few() -> None:
    """Floats and integers that are equal in Python, and powers of two, are no attack."""
    both = [b"b" + number.to_bytes(4) for number in range(300)]
    both += [b"F" + struct.pack(">d", float(number)) for number in range(300)]
    assert len(codec.decode(keys_of(both))) == 600
    powers = [b"n" + bytes((250, 0)) + (1 << bit).to_bytes(250, "little") for bit in range(2000)]
    assert len(codec.decode(keys_of(powers))) == 2000


def test_maps_in_a_key_whose_entries_have_one_hash() -> None:
    """The hash of a map inside a key is taken in time in proportion to its size."""
    entries = keys_of(CHOSEN[:EQUAL_HASHES_MAX])[1:]
    (key,) = codec.decode(b"\x83t\0\0\0\1" + entries + b"a\1")
    assert key == codec.decode(b"\x83" + entries)
    assert hash(key) == hash(HashableDict(reversed(key.items())))


def test_the_collector_is_as_it_was_after_a_long_term() -> None:
    long = b"\x83l" + (300_000).to_bytes(4) + b"j" * 300_001
    for data in (long, long[:-1]):
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            try:
                with contextlib.suppress(DecodeError):
                    assert len(codec.decode(data)) == 300_000
                assert gc.isenabled() is enabled
            finally:
                gc.enable()
