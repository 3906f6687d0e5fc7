"""The encoder in readable Python: terms to the external term format. Source: `erl_ext_dist`.

It keeps a stack of its own, so that neither deep nor self-referring containers meet Python's recursion limit. The kinds
of value that messages are made of are written in the loop of `_encode`; the others have a row in `HANDLERS`. A handler
writes its term, or writes the head of a container and returns its elements as an iterator and what to do after them:
nothing (None), write these bytes, or fill in the size of the fun that began at this offset.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import chain
from math import isfinite
from typing import Any, Final

from beamnode.errors import EncodeError
from beamnode.etf import tags
from beamnode.etf.terms import (
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
)
from beamnode.limits import DEFAULT_LIMITS, KIB

AtomTable = dict[Atom, int]
Opened = tuple[Iterator[Any], bytes | int | None]
Handed = list[tuple[int, bytes]]  # binaries that are not copied, and the offsets they belong at
Handler = Callable[[bytearray, Any, AtomTable | None], Opened | None]

HEADER_ATOMS_MAX: Final = 255  # a distribution header counts its atoms in one byte
HANDED_MIN: Final = 64 * KIB  # bytes objects of this size and more are not copied by `encode_chunks`

_SMALL_INTEGERS: Final = [bytes((tags.SMALL_INTEGER_EXT, value)) for value in range(256)]
_SMALL_TUPLES: Final = [bytes((tags.SMALL_TUPLE_EXT, arity)) for arity in range(256)]
_ATOM_REFS: Final = [bytes((tags.ATOM_CACHE_REF, index)) for index in range(256)]
_NIL: Final = bytes((tags.NIL_EXT,))

_pack_integer: Final = struct.Struct(">Bi").pack
_pack_length: Final = struct.Struct(">BI").pack
_pack_float: Final = struct.Struct(">Bd").pack
_pack_pid: Final = struct.Struct(">III").pack
_pack_port: Final = struct.Struct(">QI").pack
_pack_size_into: Final = struct.Struct(">I").pack_into
_pack_fun: Final = struct.Struct(">BIB16sII").pack


def encode_into(out: bytearray, term: Any, atoms: AtomTable | None = None) -> None:
    """Append `term` to `out`, without the version byte.

    `atoms` is the atom table of a distribution header, atom -> index: an atom in it, or one that still finds room
    (it is added), is written as a reference to it. After an `EncodeError` both are as they were before.
    """
    start = len(out)
    known = 0 if atoms is None else len(atoms)
    try:
        _encode(out, term, atoms, None)
    except BaseException:
        del out[start:]
        _take_back(atoms, known)
        raise


def encode_chunks(term: Any, atoms: AtomTable | None = None) -> tuple[list[bytes], int]:
    """The bytes of `term`, without the version byte, in pieces to be written in order, and how many they are in all.

    Each `bytes` in it of 64 KiB or more is a piece of its own: the very object, not a copy. `atoms` as `encode_into`.
    """
    out = bytearray()
    handed: Handed = []
    known = 0 if atoms is None else len(atoms)
    try:
        _encode(out, term, atoms, handed)
    except BaseException:
        _take_back(atoms, known)
        raise
    chunks: list[bytes] = []
    begin = 0
    for at, binary in handed:
        chunks += (bytes(out[begin:at]), binary)
        begin = at
    if begin < len(out) or not chunks:
        chunks.append(bytes(out[begin:]))
    return chunks, sum(map(len, chunks))


def _take_back(atoms: AtomTable | None, known: int) -> None:
    """Of a header's table all but the first `known` atoms."""
    if atoms is not None:
        while len(atoms) > known:
            atoms.popitem()


def _encode(out: bytearray, root: Any, atoms: AtomTable | None, handed: Handed | None) -> None:
    stack: list[Opened] = []
    iterator: Iterator[Any] = iter((root,))
    tail: bytes | int | None = None
    handlers = HANDLERS
    depth_max = DEFAULT_LIMITS.term_depth_max
    try:
        while True:
            for term in iterator:
                kind = type(term)
                if kind is Atom:
                    if atoms is None:
                        try:
                            out += term._external
                        except AttributeError:
                            out += _external_atom(term)
                    else:
                        _append_atom(out, term, atoms)
                    continue
                if kind is int:
                    if 0 <= term <= 255:
                        out += _SMALL_INTEGERS[term]
                    elif -0x80000000 <= term <= 0x7FFFFFFF:
                        out += _pack_integer(98, term)
                    else:
                        _append_big(out, term)
                    continue
                if kind is bytes:
                    out += _pack_length(109, len(term))
                    if handed is None or len(term) < HANDED_MIN:
                        out += term
                    else:
                        handed.append((len(out), term))
                    continue
                if kind is tuple and len(term) < 256:
                    out += _SMALL_TUPLES[len(term)]
                    opened: Opened | None = (iter(term), None)
                else:
                    if kind is LocalTerm and stack:
                        raise EncodeError("a LocalTerm can only be sent on its own, not inside another term")
                    opened = (handlers.get(kind) or _handler_of(kind))(out, term, atoms)
                if opened is not None:
                    stack.append((iterator, tail))
                    iterator, tail = opened
                    if len(stack) > depth_max:
                        raise EncodeError(f"nested deeper than {depth_max} containers, or containing itself")
                    break
            else:
                if tail is not None:
                    _finish(out, tail, handed)
                if not stack:
                    return
                iterator, tail = stack.pop()
    except (EncodeError, struct.error, UnicodeEncodeError) as error:
        raise EncodeError(f"{_reason(error, term)}{_place(stack, iterator)}") from None


def _finish(out: bytearray, tail: bytes | int, handed: Handed | None) -> None:
    """What follows the last element: the end of a list, or the size of a fun, which counts its own four bytes."""
    if type(tail) is int:
        elsewhere = sum(len(binary) for at, binary in handed if at > tail) if handed else 0
        _pack_size_into(out, tail, len(out) - tail + elsewhere)
    else:
        out += tail  # type: ignore[arg-type]


# --- Errors -----------------------------------------------------------------------------------------------------------


def _reason(error: Exception, term: Any) -> str:
    if isinstance(error, struct.error):
        return f"a number in {type(term).__name__} does not fit its field ({error})"
    if isinstance(error, UnicodeEncodeError):
        return f"a str with a lone surrogate has no UTF-8 form ({error.reason})"
    return str(error)


def _place(stack: list[Opened], iterator: Iterator[Any]) -> str:
    """Where in the term the loop stood: `, at [2][0]`; empty for the term itself and for hopelessly deep ones."""
    open_iterators = [frame[0] for frame in stack[1:]] + [iterator]
    if not stack or len(open_iterators) > 20:
        return ""
    steps = []
    for each in open_iterators:
        # A tuple's or list's iterator tells its next index. Elements of maps stand in a list, all others in a tuple.
        state: tuple[Any, ...] = each.__reduce__()  # type: ignore[assignment]
        elements, index = state[1][0], state[2]
        if type(elements) is list:
            key = reprlib.repr(elements[(index - 1) & ~1])
            steps.append(f"[{key}]" if index % 2 == 0 else f"[the key {key}]")
        else:
            steps.append(f"[{index - 1}]")
    return ", at " + "".join(steps)


# --- Atoms and numbers ------------------------------------------------------------------------------------------------


def _external_atom(atom: Atom) -> bytes:
    """The bytes of an atom, which it then remembers."""
    name = atom.name
    if len(name) > DEFAULT_LIMITS.atom_characters_max:
        raise EncodeError(f"an atom of {len(name)} characters; OTP allows {DEFAULT_LIMITS.atom_characters_max}")
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise EncodeError(f"the atom {name!a} has a lone surrogate") from None
    if len(raw) < 256:
        external = bytes((tags.SMALL_ATOM_UTF8_EXT, len(raw))) + raw
    else:
        external = struct.pack(">BH", tags.ATOM_UTF8_EXT, len(raw)) + raw
    object.__setattr__(atom, "_external", external)
    return external


def _append_atom(out: bytearray, atom: Atom, atoms: AtomTable | None) -> None:
    """An atom by reference to the header's table if there is one with room, otherwise by name.

    Also for the atoms inside pids, references, ports and funs: real nodes send references there.
    """
    if type(atom) is not Atom:
        raise EncodeError(f"{reprlib.repr(atom)} where an Atom must stand (a node, module, function or field name)")
    if atoms is not None:
        index = atoms.get(atom)
        if index is not None:
            out += _ATOM_REFS[index]
            return
        if len(atoms) < HEADER_ATOMS_MAX:
            _external_atom(atom)  # refuses what cannot be sent
            index = atoms[atom] = len(atoms)
            out += _ATOM_REFS[index]
            return
    try:
        out += atom._external
    except AttributeError:
        out += _external_atom(atom)


def _append_big(out: bytearray, value: int) -> None:
    magnitude = abs(value)
    size = (magnitude.bit_length() + 7) // 8
    if size < 256:
        out += bytes((tags.SMALL_BIG_EXT, size, value < 0))
    else:
        out += struct.pack(">BIB", tags.LARGE_BIG_EXT, size, value < 0)
    out += magnitude.to_bytes(size, "little")


def _append_small_int(out: bytearray, value: int) -> None:
    out += _SMALL_INTEGERS[value] if 0 <= value <= 255 else _pack_integer(tags.INTEGER_EXT, value)


def _encode_int(out: bytearray, value: int, _atoms: AtomTable | None) -> None:
    value = int(value)  # an IntEnum, say
    if -0x80000000 <= value <= 0x7FFFFFFF:
        _append_small_int(out, value)
    else:
        _append_big(out, value)


def _encode_float(out: bytearray, value: float, _atoms: AtomTable | None) -> None:
    if not isfinite(value):
        raise EncodeError(f"the float {value} has no term: Erlang has neither NaN nor infinities")
    out += _pack_float(tags.NEW_FLOAT_EXT, value)


def _encode_constant(out: bytearray, value: bool | None, atoms: AtomTable | None) -> None:
    _append_atom(out, _CONSTANTS[value], atoms)


_CONSTANTS: Final = {True: Atom("true"), False: Atom("false"), None: Atom("nil")}

# --- Binaries and containers ------------------------------------------------------------------------------------------


def _encode_bytes(out: bytearray, value: bytes | bytearray, _atoms: AtomTable | None) -> None:
    out += _pack_length(tags.BINARY_EXT, len(value))
    out += value


def _encode_memoryview(out: bytearray, value: memoryview, _atoms: AtomTable | None) -> None:
    out += _pack_length(tags.BINARY_EXT, value.nbytes)
    out += value if value.c_contiguous else value.tobytes()


def _encode_str(out: bytearray, value: str, _atoms: AtomTable | None) -> None:
    raw = value.encode()
    out += _pack_length(tags.BINARY_EXT, len(raw))
    out += raw


def _encode_bit_string(out: bytearray, value: BitString, _atoms: AtomTable | None) -> None:
    data, bits = value.data, value.bits
    if not data or not 1 <= bits <= 7:
        raise EncodeError(
            f"a BitString of {len(data)} bytes and {bits} bits in the last: 1 to 7 bits of a last byte count"
        )
    out += _pack_length(tags.BIT_BINARY_EXT, len(data))
    out.append(bits)
    out += data
    out[-1] &= 0xFF00 >> bits & 0xFF  # the bits that do not count are sent as 0, as OTP does


def _encode_tuple(out: bytearray, value: tuple[Any, ...], _atoms: AtomTable | None) -> Opened:
    items = tuple(value)  # a plain one of a named tuple
    out += _SMALL_TUPLES[len(items)] if len(items) < 256 else _pack_length(tags.LARGE_TUPLE_EXT, len(items))
    return iter(items), None


def _encode_list(out: bytearray, value: list[Any], _atoms: AtomTable | None) -> Opened | None:
    items = tuple(value)  # as it is now: another thread may hold it too
    if not items:
        out += _NIL
        return None
    out += _pack_length(tags.LIST_EXT, len(items))
    return iter(items), _NIL


def _encode_improper_list(out: bytearray, value: ImproperList, _atoms: AtomTable | None) -> Opened:
    if not value.elements:
        raise EncodeError("an ImproperList needs at least one element before its tail")
    out += _pack_length(tags.LIST_EXT, len(value.elements))
    return iter((*value.elements, value.tail)), None


def _encode_dict(out: bytearray, value: dict[Any, Any], _atoms: AtomTable | None) -> Opened:
    items = list(chain.from_iterable(tuple(value.items())))
    out += _pack_length(tags.MAP_EXT, len(items) // 2)
    return iter(items), None


# --- Identifiers, funs, records ---------------------------------------------------------------------------------------


def _encode_pid(out: bytearray, pid: Pid, atoms: AtomTable | None) -> None:
    out.append(tags.NEW_PID_EXT)
    _append_atom(out, pid.node, atoms)
    out += _pack_pid(pid.id, pid.serial, pid.creation)


def _encode_port(out: bytearray, port: Port, atoms: AtomTable | None) -> None:
    # OTP 27 and 29 write every port so; 25 does only from 2**28 on, but reads both.
    out.append(tags.V4_PORT_EXT)
    _append_atom(out, port.node, atoms)
    out += _pack_port(port.id, port.creation)


def _encode_reference(out: bytearray, reference: Reference, atoms: AtomTable | None) -> None:
    words = reference.words
    if len(words) > tags.REFERENCE_WORDS_MAX:
        raise EncodeError(f"a Reference of {len(words)} words; OTP allows {tags.REFERENCE_WORDS_MAX}")
    out += struct.pack(">BH", tags.NEWER_REFERENCE_EXT, len(words))
    _append_atom(out, reference.node, atoms)
    out += struct.pack(f">{len(words) + 1}I", reference.creation, *words)


def _encode_export(out: bytearray, export: Export, atoms: AtomTable | None) -> None:
    if not 0 <= export.arity <= tags.ARITY_MAX:
        raise EncodeError(f"an Export of arity {export.arity}: an arity is 0 to {tags.ARITY_MAX}")
    out.append(tags.EXPORT_EXT)
    _append_atom(out, export.module, atoms)
    _append_atom(out, export.function, atoms)
    out += _SMALL_INTEGERS[export.arity]


def _encode_fun(out: bytearray, fun: Fun, atoms: AtomTable | None) -> Opened:
    if len(fun.free) > tags.FREE_VARIABLES_MAX:
        raise EncodeError(f"a Fun with {len(fun.free)} free variables; OTP allows {tags.FREE_VARIABLES_MAX}")
    if type(fun.uniq) is not bytes or len(fun.uniq) != 16 or type(fun.pid) is not Pid:
        raise EncodeError("the `uniq` of a Fun must be 16 bytes and its `pid` a Pid")
    start = len(out) + 1
    out += _pack_fun(tags.NEW_FUN_EXT, 0, fun.arity, fun.uniq, fun.index, len(fun.free))
    _append_atom(out, fun.module, atoms)
    _append_small_int(out, fun.old_index)
    _append_small_int(out, fun.old_uniq)
    _encode_pid(out, fun.pid, atoms)
    return iter(tuple(fun.free)), start


def _encode_native_record(out: bytearray, record: NativeRecord, atoms: AtomTable | None) -> Opened:
    if len({name for name, _ in record.fields}) != len(record.fields):
        raise EncodeError(f"a field name comes twice in a NativeRecord {record.name}")
    out += struct.pack(">BIB", tags.NATIVE_RECORD_EXT, len(record.fields), bool(record.exported))
    _append_atom(out, record.module, atoms)
    _append_atom(out, record.name, atoms)
    for name, _ in record.fields:
        _append_atom(out, name, atoms)
    return iter(tuple([value for _, value in record.fields])), None


def _encode_local(out: bytearray, term: LocalTerm, _atoms: AtomTable | None) -> None:
    out.append(tags.LOCAL_EXT)
    out += term.data


HANDLERS: Final[dict[type, Handler]] = {
    Atom: _append_atom,
    BitString: _encode_bit_string,
    Export: _encode_export,
    Fun: _encode_fun,
    ImproperList: _encode_improper_list,
    LocalTerm: _encode_local,
    NativeRecord: _encode_native_record,
    Pid: _encode_pid,
    Port: _encode_port,
    Reference: _encode_reference,
    bool: _encode_constant,
    bytearray: _encode_bytes,
    bytes: _encode_bytes,
    dict: _encode_dict,
    float: _encode_float,
    int: _encode_int,
    list: _encode_list,
    memoryview: _encode_memoryview,
    str: _encode_str,
    tuple: _encode_tuple,
    type(None): _encode_constant,
}


def _handler_of(kind: type) -> Handler:
    """For a subclass (an `IntEnum`, a named tuple, a `defaultdict`): what its nearest known ancestor has."""
    for ancestor in kind.__mro__:
        handler = HANDLERS.get(ancestor)
        if handler is not None:
            return handler
    hint = "; send its name or its value" if issubclass(kind, Enum) else ""
    raise EncodeError(f"a value of type {kind.__module__}.{kind.__qualname__} has no term{hint}")
