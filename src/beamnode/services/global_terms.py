"""Terms as Erlang compares them: keys for tables of terms (`=:=`), and the order of pids that both lockers share."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final

from beamnode.errors import EncodeError
from beamnode.etf import encode
from beamnode.etf.terms import Atom, BitString, Fun, ImproperList, LocalTerm, NativeRecord, Pid

# Of a global name, its resolve function or a lock identity, which are kept for as long as their sender likes. Others
# are refused as malformed.
TERM_DEPTH_MAX: Final = 64
TERM_WEIGHT_MAX: Final = 64 * 1024  # elements, and bytes of those that have bytes

TAG_BITS_MAX: Final = 64  # OTP's tags and operation ids are integers of at most so many


class TermTooDeep(ValueError):
    """A term that is nested deeper than `TERM_DEPTH_MAX`, or weighs more than `TERM_WEIGHT_MAX`."""


def check_term(term: Any) -> None:
    """Raise `TermTooDeep` for a term that is too deep to be hashed and compared, or too large to be kept."""
    weight = 0
    waiting: list[tuple[Any, int]] = [(term, 0)]
    while waiting:
        value, depth = waiting.pop()
        own, inside = _parts(value)
        weight += 1 + own + len(inside)
        if depth > TERM_DEPTH_MAX:
            raise TermTooDeep(f"a term nested deeper than {TERM_DEPTH_MAX}")
        if weight > TERM_WEIGHT_MAX:
            raise TermTooDeep(f"a term that weighs more than {TERM_WEIGHT_MAX}")
        waiting.extend((element, depth + 1) for element in inside)


def _parts(value: Any) -> tuple[int, Sequence[Any]]:
    """The bytes that a term has itself, and its elements."""
    match value:
        case int():
            return value.bit_length() // 8, ()
        case str() | bytes():
            return len(value), ()
        case tuple() | list():
            return 0, value
        case dict():
            return 0, [*value, *value.values()]
        case ImproperList():
            return 0, (*value.elements, value.tail)
        case BitString() | LocalTerm():
            return len(value.data), ()
        case Fun():
            return len(value.uniq), value.free
        case NativeRecord():
            return 0, value.fields
    return 0, ()


def is_tag(term: Any) -> bool:
    """Whether a term can be the tag of a session, or a number of a lost connection: an integer of at most 64 bits."""
    return type(term) is int and term.bit_length() <= TAG_BITS_MAX


def term_key(term: Any, depth: int = 0) -> Hashable:
    """A hashable value that is equal for two terms when `=:=` holds (so `1`, `1.0` and `true` are three).

    Raises `TermTooDeep`.
    """
    if isinstance(term, Atom | Pid):
        return term
    if depth == 0:
        check_term(term)
    if depth >= TERM_DEPTH_MAX:
        raise TermTooDeep(f"a term nested deeper than {TERM_DEPTH_MAX}")
    if isinstance(term, list | tuple):
        kind = list if isinstance(term, list) else tuple
        return (kind, *(term_key(element, depth + 1) for element in term))
    if isinstance(term, dict):
        pairs = ((term_key(key, depth + 1), term_key(value, depth + 1)) for key, value in term.items())
        return (dict, frozenset(pairs))
    try:
        hash(term)
    except TypeError:  # an improper list, or a fun over a list
        return (type(term), _external_form(term))
    return (type(term), term)


def _external_form(term: Any) -> bytes:
    try:
        return encode(term)
    except EncodeError as error:
        raise TermTooDeep(f"a term that cannot be sent on: {error}") from None


def pid_order(pid: Pid) -> tuple[int, int, str, int]:
    """The sort key that puts pids into Erlang's term order: serial, id, node, creation (measured with OTP 25)."""
    return (pid.serial, pid.id, pid.node.name, pid.creation)


def sorted_pids(pids: Iterable[Pid]) -> list[Pid]:
    """`lists:sort/1` of pids."""
    return sorted(pids, key=pid_order)


def the_boss(nodes: Iterable[Atom]) -> Atom:
    """The greatest node, which everybody locks first and unlocks last (global.erl: the_boss)."""
    return max(nodes)


def subtract(nodes: Iterable[Atom], taken: Iterable[Atom]) -> list[Atom]:
    """Those of `nodes` that are not `taken`, in order."""
    gone = set(taken)
    return [node for node in nodes if node not in gone]
