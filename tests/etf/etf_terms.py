"""What the codec tests share: strategies for terms, and a comparison as exact as Erlang's `=:=`."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from beamnode.etf import (
    Atom,
    BitString,
    ExactKey,
    Export,
    Fun,
    HashableList,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
)


def exact(term: Any) -> Any:
    """A form of `term` that is equal for two terms exactly if they are the same in Erlang: `1` is not `1.0`."""
    match term:
        case ExactKey():
            return exact(term.term)
        case float():
            return ("float", struct.pack(">d", term))
        case tuple():
            return ("tuple", *map(exact, term))
        case list():
            return ("list", *map(exact, term))
        case dict():
            return ("map", frozenset((exact(key), exact(value)) for key, value in term.items()))
        case ImproperList():
            return ("improper", exact(term.elements), exact(term.tail))
        case Fun():
            # Not its pid, which OTP forgets from 27 on and which never made two funs differ.
            return ("fun", term.module, term.arity, term.uniq, term.index, term.old_uniq, exact(term.free))
        case NativeRecord():
            return ("record", term.module, term.name, term.exported, exact(term.fields))
        case Atom(name="true" | "false" | "nil" as name):
            return exact({"true": True, "false": False, "nil": None}[name])
        case _:
            return (type(term).__name__, term)


u32 = st.integers(0, 2**32 - 1)
names = st.one_of(
    st.sampled_from(["ok", "error", "", "true", "nil", "a@b", "Elixir.Enum", "$gen_call"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3).map(lambda text: (text * 255)[:255]),
)
atoms = names.map(Atom)
nodes = st.sampled_from(["a@b", "node@127.0.0.1", "nœud@hôte"]).map(Atom)
integers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.builds(
        lambda sign, bits, off: sign * (2**bits + off),
        st.sampled_from([1, -1]),
        st.sampled_from([8, 27, 31, 32, 59, 63, 64, 2040, 2048]),
        st.integers(-1, 1),
    ),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
pids = st.builds(Pid, nodes, u32, u32, u32)
ports = st.builds(Port, nodes, st.integers(0, 2**64 - 1), u32)
references = st.builds(Reference, nodes, u32, st.lists(u32, min_size=1, max_size=5).map(tuple))
exports = st.builds(Export, names.map(Atom), names.map(Atom), st.integers(0, 255))
bit_strings = st.builds(
    lambda data, bits: BitString(data[:-1] + bytes([data[-1] & 0xFF00 >> bits & 0xFF]), bits),
    st.binary(min_size=1, max_size=20),
    st.integers(1, 7),
)
leaves = st.one_of(
    integers,
    floats,
    atoms,
    st.booleans(),
    st.none(),
    st.binary(max_size=40),
    pids,
    ports,
    references,
    exports,
    bit_strings,
)
keys = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.lists(inner, max_size=3).map(HashableList)),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tails = inner.filter(lambda term: not isinstance(term, list | ImproperList))
    return st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, max_size=6).map(tuple),
        st.lists(st.integers(0, 255), max_size=6),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(ImproperList, st.lists(inner, min_size=1, max_size=4).map(tuple), tails),
    )


funs = st.builds(
    Fun,
    module=st.just(Atom("lists")),
    arity=st.integers(0, 255),
    uniq=st.binary(min_size=16, max_size=16),
    index=u32,
    old_index=st.integers(0, 2**27 - 1),
    old_uniq=st.integers(0, 2**27 - 1),
    pid=pids,
    free=st.lists(leaves, max_size=3).map(tuple),
)
native_records = st.builds(
    NativeRecord,
    atoms,
    atoms,
    st.dictionaries(atoms, leaves, max_size=3).map(lambda fields: tuple(fields.items())),
    st.booleans(),
)

# What every OTP takes; `all_terms` has also what only some do, or what needs the fun's module.
terms = st.recursive(leaves, containers, max_leaves=20)
all_terms = st.recursive(st.one_of(leaves, funs, native_records), containers, max_leaves=20)
