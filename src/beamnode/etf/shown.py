"""A term for logs and error texts: short whatever the term, on one line, and never an error.

`repr` is none of the three: a peer may send an integer of a million digits (ValueError), a thousand tuples in one
another (RecursionError), a gigabyte, or an atom that looks like a line of the log.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, Final

from beamnode.etf.terms import Atom, Export, ImproperList, Pid, Port, Reference, on_one_line

CHARACTERS_MAX: Final = 200
DEPTH_MAX: Final = 5
ELEMENTS_MAX: Final = 8
TEXT_MAX: Final = 60  # characters or bytes of one string
INTEGER_BITS_MAX: Final = 256


def shown(term: Any) -> str:
    """About what `repr` gives for a small term; of a large one the beginning."""
    text = _shown(term, DEPTH_MAX)
    if len(text) > CHARACTERS_MAX:
        text = f"{text[:CHARACTERS_MAX]}..."
    return on_one_line(text)


def _shown(term: Any, depth: int) -> str:
    match term:
        case bool() | None | float() | Atom() | Pid() | Port() | Reference() | Export():
            return repr(term)
        case int():
            bits = term.bit_length()
            return repr(term) if bits <= INTEGER_BITS_MAX else f"<an integer of {bits} bits>"
        case str() | bytes():
            return repr(term) if len(term) <= TEXT_MAX else f"{term[:TEXT_MAX]!r}..."
        case tuple() if len(term) == 1:
            return f"({_some(term, depth)},)"
        case tuple():
            return f"({_some(term, depth)})"
        case list():
            return f"[{_some(term, depth)}]"
        case ImproperList():
            return f"[{_some(term.elements, depth)} | {_some((term.tail,), depth)}]"
        case dict():
            return f"{{{len(term)} keys}}" if term else "{}"
        case type() | FunctionType():
            name = term.__qualname__.rpartition("<locals>.")[2][:TEXT_MAX]
            kind = "class" if isinstance(term, type) else "function"
            return name if name == "<lambda>" else f"<{kind} {name}>"
    return f"<{type(term).__name__}>"


def _some(elements: list[Any] | tuple[Any, ...], depth: int) -> str:
    """The first elements."""
    if not depth:
        return "..."
    some = [_shown(element, depth - 1) for element in elements[:ELEMENTS_MAX]]
    return ", ".join(some if len(elements) <= ELEMENTS_MAX else [*some, "..."])
