"""Terms as Erlang compares them: keys for tables of terms (`=:=`), and the order of pids that both lockers share."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final

from beamnode.etf.terms import Atom, Pid

TERM_DEPTH_MAX: Final = 64  # of a global name or a lock identity; deeper ones are refused as malformed


class TermTooDeep(ValueError):
    """A name or a lock identity that is nested deeper than `TERM_DEPTH_MAX`."""


def term_key(term: Any, depth: int = 0) -> Hashable:
    """A hashable value that is equal for two terms when `=:=` holds (so `1`, `1.0` and `true` are three).

    Raises `TermTooDeep`.
    """
    if isinstance(term, Atom | Pid):
        return term
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
    except TypeError:
        return (type(term), repr(term))  # an improper list, or a fun over a list
    return (type(term), term)


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
