"""Reading the terms that have no elements: numbers, atoms, binaries, identifiers.

A leaf is a function of the data, the offset after its tag, the size of the data, the header's atoms and the limits; it
returns the term and the offset after it. Reading past the end by index or `struct` is left to the loop of
`decode_python`, which turns that into a `DecodeError`; slices, which do not fail there, are checked here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final

from beamnode.errors import DecodeError, LimitExceeded
from beamnode.etf import tags
from beamnode.etf.terms import Atom, BitString, Export, Pid, Port, Reference
from beamnode.limits import Limits

Octets = bytes | memoryview
Leaf = Callable[[Octets, int, int, Sequence[Any], Limits], tuple[Any, int]]

_u16: Final = struct.Struct(">H").unpack_from
_u32: Final = struct.Struct(">I").unpack_from
_i32: Final = struct.Struct(">i").unpack_from
_f64: Final = struct.Struct(">d").unpack_from
_u32_u32: Final = struct.Struct(">II").unpack_from
_u32_u8: Final = struct.Struct(">IB").unpack_from
_u64_u32: Final = struct.Struct(">QI").unpack_from
_u32_u32_u32: Final = struct.Struct(">III").unpack_from
_u32_u32_u8: Final = struct.Struct(">IIB").unpack_from


class TermLimitExceeded(LimitExceeded, DecodeError):
    """A term that presses on a bound of `limits.Limits`: a `DecodeError` too, since it was not decoded."""


def truncated(pos: int) -> DecodeError:
    return DecodeError(f"the term at byte {pos} is longer than the data")


# --- Atoms ------------------------------------------------------------------------------------------------------------

ATOM_VALUES: Final[dict[Any, Any]] = {Atom("true"): True, Atom("false"): False, Atom("nil"): None}
_VALUE_ATOMS: Final[dict[Any, Atom]] = {value: atom for atom, value in ATOM_VALUES.items()}

# UTF-8 names seen lately and the values they stand for, since making an atom of its bytes is the dearest part of a
# small term. A table of values, no state of any node; it is emptied when full, so that a peer cannot make it grow.
atom_values: Final[dict[Any, Any]] = {}
ATOM_VALUES_CACHED_MAX: Final = 4096


def new_atom_value(raw: bytes, limits: Limits) -> Any:
    """The value of an atom whose UTF-8 name is not in `atom_values`; puts it there."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise DecodeError(f"an atom that is not UTF-8: {raw[:40]!r}") from None
    value = _atom_value(name, limits)
    if len(atom_values) >= ATOM_VALUES_CACHED_MAX:
        atom_values.clear()
    atom_values[raw] = value
    return value


def _atom_value(name: str, limits: Limits) -> Any:
    if len(name) > limits.atom_characters_max:
        raise TermLimitExceeded(
            f"an atom of {len(name)} characters; at most {limits.atom_characters_max} are allowed",
            "atom_characters_max",
        )
    atom = Atom(name)
    return ATOM_VALUES.get(atom, atom)


def _read_utf8(data: Octets, start: int, length: int, size: int, limits: Limits) -> tuple[Any, int]:
    end = start + length
    if end > size:
        raise truncated(start)
    if length > 4 * limits.atom_characters_max:  # at most four bytes a character
        raise TermLimitExceeded(f"an atom of {length} bytes", "atom_characters_max")
    raw = bytes(data[start:end])
    if length <= limits.atom_characters_max:  # so many bytes are not more characters
        try:
            return atom_values[raw], end
        except KeyError:
            pass
    return new_atom_value(raw, limits), end


def _read_latin1(data: Octets, start: int, length: int, size: int, limits: Limits) -> tuple[Any, int]:
    end = start + length
    if end > size:
        raise truncated(start)
    return _atom_value(str(data[start:end], "latin-1"), limits), end


def _small_atom_utf8(data: Octets, pos: int, size: int, _atoms: Sequence[Any], limits: Limits) -> tuple[Any, int]:
    return _read_utf8(data, pos + 1, data[pos], size, limits)


def _atom_utf8(data: Octets, pos: int, size: int, _atoms: Sequence[Any], limits: Limits) -> tuple[Any, int]:
    return _read_utf8(data, pos + 2, _u16(data, pos)[0], size, limits)


def _small_atom(data: Octets, pos: int, size: int, _atoms: Sequence[Any], limits: Limits) -> tuple[Any, int]:
    return _read_latin1(data, pos + 1, data[pos], size, limits)


def _atom(data: Octets, pos: int, size: int, _atoms: Sequence[Any], limits: Limits) -> tuple[Any, int]:
    return _read_latin1(data, pos + 2, _u16(data, pos)[0], size, limits)


def _atom_cache_ref(data: Octets, pos: int, _size: int, atoms: Sequence[Any], _limits: Limits) -> tuple[Any, int]:
    index = data[pos]
    if index >= len(atoms):
        raise DecodeError(f"a reference to atom {index} of a header with {len(atoms)} atoms")
    atom = atoms[index]
    return ATOM_VALUES.get(atom, atom), pos + 1


def read_atom(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Atom, int]:
    """An atom where nothing else may stand (a node, a module, ...): an `Atom` even for `true`, `false` and `nil`."""
    tag = data[pos]
    leaf = _ATOM_LEAVES.get(tag)
    if leaf is None:
        raise DecodeError(f"tag {tag} at byte {pos} where an atom must stand")
    value, end = leaf(data, pos + 1, size, atoms, limits)
    return (value if type(value) is Atom else _VALUE_ATOMS[value]), end


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _small_integer(data: Octets, pos: int, _size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[int, int]:
    return data[pos], pos + 1


def _integer(data: Octets, pos: int, _size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[int, int]:
    return _i32(data, pos)[0], pos + 4


def _small_big(data: Octets, pos: int, size: int, _atoms: Sequence[Any], limits: Limits) -> tuple[int, int]:
    return _read_big(data, pos + 1, data[pos], size, limits)


def _large_big(data: Octets, pos: int, size: int, _atoms: Sequence[Any], limits: Limits) -> tuple[int, int]:
    return _read_big(data, pos + 4, _u32(data, pos)[0], size, limits)


def _read_big(data: Octets, pos: int, length: int, size: int, limits: Limits) -> tuple[int, int]:
    """Sign and magnitude, the least byte first. Any sign but 0 is minus, and leading zeros are allowed, as in OTP."""
    end = pos + 1 + length
    if end > size:
        raise truncated(pos)
    if length > limits.integer_bytes_max:
        raise TermLimitExceeded(
            f"an integer of {length} bytes; at most {limits.integer_bytes_max} are allowed", "integer_bytes_max"
        )
    magnitude = int.from_bytes(data[pos + 1 : end], "little")
    return (-magnitude if data[pos] else magnitude), end


def _new_float(data: Octets, pos: int, _size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[float, int]:
    value = _f64(data, pos)[0]
    if not isfinite(value):
        raise DecodeError(f"a float that is no number at byte {pos}")
    return value, pos + 8


_FLOAT_TEXT: Final = re.compile(rb"[+-]?\d+\.\d+([eE][+-]?\d+)?\0")


def _float(data: Octets, pos: int, size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[float, int]:
    """The form of before OTP R11: 31 bytes of text, filled with zeros (OTP does not look at what follows the first)."""
    end = pos + 31
    if end > size:
        raise truncated(pos)
    text = _FLOAT_TEXT.match(data[pos:end])
    value = float(text[0][:-1]) if text else float("nan")
    if not isfinite(value):
        raise DecodeError(f"a float that is no number at byte {pos}")
    return value, end


def read_small_int(data: Octets, pos: int) -> tuple[int, int]:
    """An integer where OTP writes none but small ones: arities, indexes and the like."""
    if data[pos] == tags.SMALL_INTEGER_EXT:
        return data[pos + 1], pos + 2
    if data[pos] == tags.INTEGER_EXT:
        return _i32(data, pos + 1)[0], pos + 5
    raise DecodeError(f"tag {data[pos]} at byte {pos} where a small integer must stand")


# --- Binaries and strings ---------------------------------------------------------------------------------------------


def _binary(data: Octets, pos: int, size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[bytes, int]:
    end = pos + 4 + _u32(data, pos)[0]
    if end > size:
        raise truncated(pos)
    value = data[pos + 4 : end]
    return (value if type(value) is bytes else bytes(value)), end


def _binary_or_str(
    data: Octets, pos: int, size: int, _atoms: Sequence[Any], _limits: Limits
) -> tuple[bytes | str, int]:
    end = pos + 4 + _u32(data, pos)[0]
    if end > size:
        raise truncated(pos)
    value = data[pos + 4 : end]
    try:
        return str(value, "utf-8"), end
    except UnicodeDecodeError:
        return bytes(value), end


def _bit_binary(data: Octets, pos: int, size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[Any, int]:
    length, bits = _u32_u8(data, pos)
    end = pos + 5 + length
    if end > size:
        raise truncated(pos)
    if not length or not 1 <= bits <= 8:
        raise DecodeError(f"a bitstring of {length} bytes, {bits} bits in its last, at byte {pos}")
    if bits == 8:
        return bytes(data[pos + 5 : end]), end
    raw = bytearray(data[pos + 5 : end])
    raw[-1] &= 0xFF00 >> bits  # the bits that do not count are no part of the term
    return BitString(bytes(raw), bits), end


def _nil(_data: Octets, pos: int, _size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[list[Any], int]:
    return [], pos


def _string(data: Octets, pos: int, size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[list[int], int]:
    """Not a text but a list of small integers, which OTP writes shorter."""
    end = pos + 2 + _u16(data, pos)[0]
    if end > size:
        raise truncated(pos)
    return list(data[pos + 2 : end]), end


# --- Identifiers ------------------------------------------------------------------------------------------------------


def _new_pid(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Pid, int]:
    node, pos = read_atom(data, pos, size, atoms, limits)
    number, serial, creation = _u32_u32_u32(data, pos)
    return Pid(node, number, serial, creation), pos + 12


def _pid(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Pid, int]:
    node, pos = read_atom(data, pos, size, atoms, limits)
    number, serial, creation = _u32_u32_u8(data, pos)
    return Pid(node, number, serial, creation), pos + 9


def read_pid(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Pid, int]:
    """A pid where nothing else may stand (the creator of a fun)."""
    if data[pos] == tags.NEW_PID_EXT:
        return _new_pid(data, pos + 1, size, atoms, limits)
    if data[pos] == tags.PID_EXT:
        return _pid(data, pos + 1, size, atoms, limits)
    raise DecodeError(f"tag {data[pos]} at byte {pos} where a pid must stand")


def _v4_port(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Port, int]:
    node, pos = read_atom(data, pos, size, atoms, limits)
    number, creation = _u64_u32(data, pos)
    return Port(node, number, creation), pos + 12


def _new_port(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Port, int]:
    node, pos = read_atom(data, pos, size, atoms, limits)
    number, creation = _u32_u32(data, pos)
    return Port(node, number, creation), pos + 8


def _port(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Port, int]:
    node, pos = read_atom(data, pos, size, atoms, limits)
    number, creation = _u32_u8(data, pos)
    return Port(node, number, creation), pos + 5


_WORDS: Final = [struct.Struct(f">{count}I") for count in range(tags.REFERENCE_WORDS_MAX + 1)]


def _word_count(data: Octets, pos: int) -> int:
    count: int = _u16(data, pos)[0]
    if count > tags.REFERENCE_WORDS_MAX:
        raise DecodeError(f"a reference of {count} words; OTP allows {tags.REFERENCE_WORDS_MAX}")
    return count


def _newer_reference(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Reference, int]:
    words = _WORDS[_word_count(data, pos)]
    node, pos = read_atom(data, pos + 2, size, atoms, limits)
    creation = _u32(data, pos)[0]
    return Reference(node, creation, words.unpack_from(data, pos + 4)), pos + 4 + words.size


def _new_reference(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Reference, int]:
    words = _WORDS[_word_count(data, pos)]
    node, pos = read_atom(data, pos + 2, size, atoms, limits)
    return Reference(node, data[pos], words.unpack_from(data, pos + 1)), pos + 1 + words.size


def _reference(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Reference, int]:
    node, pos = read_atom(data, pos, size, atoms, limits)
    word, creation = _u32_u8(data, pos)
    return Reference(node, creation, (word,)), pos + 5


def _export(data: Octets, pos: int, size: int, atoms: Sequence[Any], limits: Limits) -> tuple[Export, int]:
    module, pos = read_atom(data, pos, size, atoms, limits)
    function, pos = read_atom(data, pos, size, atoms, limits)
    arity, pos = read_small_int(data, pos)
    if not 0 <= arity <= tags.ARITY_MAX:
        raise DecodeError(f"an arity of {arity}")
    return Export(module, function, arity), pos


# --- The table --------------------------------------------------------------------------------------------------------


def _unknown(data: Octets, pos: int, _size: int, _atoms: Sequence[Any], _limits: Limits) -> tuple[Any, int]:
    tag = data[pos - 1]
    if tag == tags.COMPRESSED:
        raise DecodeError("a compressed term inside another term")
    raise DecodeError(f"unknown tag {tag} at byte {pos - 1}")


_ATOM_LEAVES: Final[dict[int, Leaf]] = {
    tags.ATOM_CACHE_REF: _atom_cache_ref,
    tags.ATOM_EXT: _atom,
    tags.ATOM_UTF8_EXT: _atom_utf8,
    tags.SMALL_ATOM_EXT: _small_atom,
    tags.SMALL_ATOM_UTF8_EXT: _small_atom_utf8,
}

# Indexed by tag; None for a container.
LEAVES: Final[list[Leaf | None]] = [_unknown] * 256
for _tag in tags.CONTAINERS:
    LEAVES[_tag] = None
for _tag, _leaf in {
    **_ATOM_LEAVES,
    tags.BINARY_EXT: _binary,
    tags.BIT_BINARY_EXT: _bit_binary,
    tags.EXPORT_EXT: _export,
    tags.FLOAT_EXT: _float,
    tags.INTEGER_EXT: _integer,
    tags.LARGE_BIG_EXT: _large_big,
    tags.NEWER_REFERENCE_EXT: _newer_reference,
    tags.NEW_FLOAT_EXT: _new_float,
    tags.NEW_PID_EXT: _new_pid,
    tags.NEW_PORT_EXT: _new_port,
    tags.NEW_REFERENCE_EXT: _new_reference,
    tags.NIL_EXT: _nil,
    tags.PID_EXT: _pid,
    tags.PORT_EXT: _port,
    tags.REFERENCE_EXT: _reference,
    tags.SMALL_BIG_EXT: _small_big,
    tags.SMALL_INTEGER_EXT: _small_integer,
    tags.STRING_EXT: _string,
    tags.V4_PORT_EXT: _v4_port,
}.items():
    LEAVES[_tag] = _leaf

LEAVES_WITH_STRINGS: Final = LEAVES.copy()
LEAVES_WITH_STRINGS[tags.BINARY_EXT] = _binary_or_str
