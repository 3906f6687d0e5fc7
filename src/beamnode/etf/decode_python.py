"""The decoder in readable Python: the external term format to terms. Source: `erl_ext_dist`, and what OTP refuses.

One loop, `_decode`, with a stack of its own, so that a term's depth never meets Python's recursion limit. Terms without
elements are read by `leaves_python` (the most frequent ones in the loop itself); a container is opened by a function
which says how many elements follow and what to make of them. An element takes at least one byte, so a count is checked
against the bytes that are there before anything else.

Any bytes at all either decode or raise `DecodeError`; where it is a bound of `Limits` that was hit, its subclass
`TermLimitExceeded`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final

from beamnode.errors import DecodeError
from beamnode.etf import tags
from beamnode.etf.keys import KEY_DEPTH_MAX, KEY_LEVELS_MAX, HashableList, build_map
from beamnode.etf.leaves_python import (
    ATOM_VALUES,
    LEAVES,
    LEAVES_WITH_STRINGS,
    Octets,
    TermLimitExceeded,
    atom_values,
    read_atom,
    read_pid,
    read_small_int,
    truncated,
)
from beamnode.etf.terms import Atom, Fun, ImproperList, LocalTerm, NativeRecord
from beamnode.limits import DEFAULT_LIMITS, Limits

# What makes a container of its elements: given them, the offset after the last one, and how many map keys it is inside.
Build = Callable[..., Any]
Opened = tuple[int, Build, int]

_i32: Final = struct.Struct(">i").unpack_from
_u32: Final = struct.Struct(">I").unpack_from
_fun_head: Final = struct.Struct(">IB16sII").unpack_from
_record_head: Final = struct.Struct(">IB").unpack_from


def decode_from(
    data: bytes | bytearray | memoryview,
    offset: int,
    atoms: Sequence[Any] = (),
    *,
    strings: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Any, int]:
    """The term that begins at `offset` (without version byte), and the offset after it.

    `atoms` are those of the distribution header, which ATOM_CACHE_REF indexes: `Atom`s, or what they stand for
    (`True`, `False`, `None`) already. With `strings`, binaries that are valid UTF-8 become `str`. Every payload is
    copied once, so the term does not keep `data` alive. Raises `DecodeError`.
    """
    if type(data) is bytes:
        return _decode(data, offset, atoms, strings, limits)
    with memoryview(data) as view, view.toreadonly() as readonly, readonly.cast("B") as octets:
        try:
            return _decode(octets, offset, atoms, strings, limits)
        except DecodeError as error:
            failure = error
    # Not the frames of `_decode`: they may hold views of `data`, which could not be resized while the error lives.
    raise failure.with_traceback(None)


def _decode(data: Octets, pos: int, atoms: Sequence[Any], strings: bool, limits: Limits) -> tuple[Any, int]:
    size = len(data)
    depth_max = limits.term_depth_max
    leaves = LEAVES_WITH_STRINGS if strings else LEAVES
    # A name is looked up by its bytes: a slice of a view is none, and a name may be too long for an unusual limit.
    known_atom = 119 if type(data) is bytes and limits.atom_characters_max >= 255 else -1  # SMALL_ATOM_UTF8_EXT
    # The open container: its elements so far, what is to come, what to make of them, and how many map keys deep it is.
    items: list[Any] = []
    append = items.append
    coming = repeat(None, 1)
    build: Any = None
    frozen = 0
    stack: list[tuple[list[Any], repeat[None], Any, int]] = []  # the containers around it
    room = limits.term_elements_max
    try:
        while True:
            for _ in coming:
                tag = data[pos]
                if tag == 97:  # SMALL_INTEGER_EXT
                    append(data[pos + 1])
                    pos += 2
                elif tag == known_atom:
                    end = pos + 2 + data[pos + 1]
                    try:
                        append(atom_values[data[pos + 2 : end]])
                        pos = end
                    except KeyError:
                        value, pos = leaves[119](data, pos + 1, size, atoms, limits)  # type: ignore[misc]
                        append(value)
                elif tag == 82:  # ATOM_CACHE_REF
                    value = atoms[data[pos + 1]]
                    append(ATOM_VALUES.get(value, value))
                    pos += 2
                elif tag == 98:  # INTEGER_EXT
                    append(_i32(data, pos + 1)[0])
                    pos += 5
                elif (leaf := leaves[tag]) is not None:
                    value, pos = leaf(data, pos + 1, size, atoms, limits)
                    if type(value) is list and (frozen or (build is build_map and not len(items) & 1)):
                        value = HashableList(value)
                    append(value)
                else:
                    stack.append((items, coming, build, frozen))
                    if build is build_map or frozen:
                        frozen = _inside_key(build, len(items), frozen, len(stack))
                    if len(stack) > depth_max:
                        raise TermLimitExceeded(f"nested deeper than {depth_max} containers", "term_depth_max")
                    if tag == 104:  # SMALL_TUPLE_EXT
                        count = data[pos + 1]
                        build = tuple
                        pos += 2
                    else:
                        count, build, pos = _OPENERS[tag](data, pos + 1, size, atoms, limits, len(stack))
                    if count > size - pos:
                        raise truncated(pos)
                    room -= count
                    if room < 0:
                        raise _too_many(limits)
                    items = []
                    append = items.append
                    coming = repeat(None, count)
                    break
            else:
                if build is tuple:
                    value = tuple(items)
                elif build is list:
                    if data[pos] != 106:  # NIL_EXT
                        count, build, pos = _open_tail(data, pos, size)
                        room -= count
                        if room < 0:
                            raise _too_many(limits)
                        coming = repeat(None, count)
                        continue
                    value = HashableList(items) if frozen else items
                    pos += 1
                elif stack:
                    value = build(items, pos, frozen)
                elif pos > size:  # a known atom cut short is found out here
                    raise truncated(size)
                else:
                    return items[0], pos
                items, coming, build, frozen = stack.pop()
                append = items.append
                append(value)
    except (IndexError, struct.error):
        if pos + 1 < size and data[pos] == tags.ATOM_CACHE_REF:
            raise DecodeError(f"atom {data[pos + 1]} of a header that has {len(atoms)}") from None
        raise truncated(min(pos, size)) from None


def _too_many(limits: Limits) -> TermLimitExceeded:
    return TermLimitExceeded(f"a term of more than {limits.term_elements_max} elements", "term_elements_max")


def _inside_key(build: Build, index: int, frozen: int, depth: int) -> int:
    """How many map keys around it the container has which now opens as element `index` of another."""
    if build is build_map and index % 2 == 0:
        frozen += 1
    if frozen > KEY_LEVELS_MAX:
        raise TermLimitExceeded(f"maps are keys of maps, {KEY_LEVELS_MAX} deep", "term_depth_max")
    if depth > KEY_DEPTH_MAX:
        raise TermLimitExceeded(f"a map key nested deeper than {KEY_DEPTH_MAX} containers", "term_depth_max")
    return frozen


# --- Lists ------------------------------------------------------------------------------------------------------------


def _open_list(data: Octets, pos: int, *_: object) -> Opened:
    return _u32(data, pos)[0], list, pos + 4


def _open_tail(data: Octets, pos: int, size: int) -> Opened:
    """What follows the elements of a list and is not its end. Another list there only goes on, at no more depth."""
    if data[pos] != tags.LIST_EXT:
        return 1, _build_with_tail, pos
    count, build, pos = _open_list(data, pos + 1)
    if count > size - pos:
        raise truncated(pos)
    return count, build, pos


def _build_with_tail(items: list[Any], _pos: int, frozen: int) -> Any:
    tail = items.pop()
    if isinstance(tail, list):  # of a STRING_EXT
        items += tail
        return HashableList(items) if frozen else items
    if not items:
        return tail  # a list of no elements is its tail, in OTP too
    return _hashed(ImproperList(tuple(items), tail), frozen)


# --- Other containers -------------------------------------------------------------------------------------------------


def _hashed(value: Any, frozen: int) -> Any:
    """`value`; inside a map key it takes its hash now, so that no hash is ever taken through many levels of Python."""
    if frozen:
        hash(value)
    return value


def _open_large_tuple(data: Octets, pos: int, *_: object) -> Opened:
    return _u32(data, pos)[0], tuple, pos + 4


def _open_map(data: Octets, pos: int, *_: object) -> Opened:
    return 2 * _u32(data, pos)[0], build_map, pos + 4


def _open_fun(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits, _depth: int) -> Opened:
    length, arity, uniq, index, free_count = _fun_head(data, pos)
    end = pos + length
    if free_count > tags.FREE_VARIABLES_MAX:
        raise DecodeError(f"a fun with {free_count} free variables; OTP allows {tags.FREE_VARIABLES_MAX}")
    module, pos = read_atom(data, pos + 29, size, atoms, limits)
    old_index, pos = read_small_int(data, pos)
    old_uniq, pos = read_small_int(data, pos)
    pid, pos = read_pid(data, pos, size, atoms, limits)

    def build(items: list[Any], pos: int, frozen: int) -> Fun:
        if pos != end:
            raise DecodeError(f"a fun that ends at byte {pos} and claims to end at {end}")
        return _hashed(Fun(module, arity, uniq, index, old_index, old_uniq, pid, tuple(items)), frozen)  # type: ignore[no-any-return]

    return free_count, build, pos


def _open_native_record(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits, _depth: int) -> Opened:
    count, flags = _record_head(data, pos)
    if flags > 1:
        raise DecodeError(f"a native record with flags {flags}")  # `badarg` in OTP 29
    module, pos = read_atom(data, pos + 5, size, atoms, limits)
    name, pos = read_atom(data, pos, size, atoms, limits)
    names: list[Atom] = []
    for _ in repeat(None, count):
        field, pos = read_atom(data, pos, size, atoms, limits)
        names.append(field)
    if len(set(names)) != count:
        raise DecodeError("a native record with two fields of one name")

    def build(items: list[Any], _pos: int, frozen: int) -> NativeRecord:
        fields = tuple(zip(names, items, strict=True))
        return _hashed(NativeRecord(module, name, fields, flags == 1), frozen)  # type: ignore[no-any-return]

    return count, build, pos


def _open_local(data: Octets, pos: int, size: int, _atoms: Sequence[Any], _limits: Limits, depth: int) -> Opened:
    """Only its maker knows where a LOCAL_EXT ends, so it can be no element: it is all the data that is left.

    (What OTP 27 and 29 write after the tag is a check sum of four bytes and a term whose identifiers have no node; the
    documentation leaves it unspecified. No node sends it to another: bit 36 of the flags is for internal use.)
    """
    if depth > 1:
        raise DecodeError(f"a LOCAL_EXT inside another term at byte {pos - 1}")
    term = LocalTerm(bytes(data[pos:]))
    return 0, lambda *_: term, size


_OPENERS: Final[dict[int, Callable[..., Opened]]] = {
    tags.LARGE_TUPLE_EXT: _open_large_tuple,
    tags.LIST_EXT: _open_list,
    tags.LOCAL_EXT: _open_local,
    tags.MAP_EXT: _open_map,
    tags.NATIVE_RECORD_EXT: _open_native_record,
    tags.NEW_FUN_EXT: _open_fun,
}
