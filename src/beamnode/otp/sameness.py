"""Whether two terms are the same, as Erlang's `=:=` says: in Python `1`, `1.0` and `True` are equal."""

from __future__ import annotations

from typing import Any


def same(one: Any, other: Any) -> bool:
    """Of one type and equal, in tuples all the way down; what is in lists and dicts is compared as Python does."""
    try:
        return _same(one, other)
    except RecursionError:  # of a peer: a thousand tuples in one another
        return one is other


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if type(one) is tuple:
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
