"""Any bytes: they decode, or raise `DecodeError`; both kernels do the same; what was decoded shows and encodes.

The first byte chooses: bit 0 `strings`, bit 1 a view instead of bytes, bit 2 a term of the channel (with the atoms of a
header, and without the version byte), bit 3 narrow limits. The rest is the term.
"""

from __future__ import annotations

from random import Random
from types import ModuleType
from typing import Any

from targets import oracle

from beamnode.errors import DecodeError
from beamnode.etf import Atom, codec_python
from beamnode.etf.shown import CHARACTERS_MAX, shown
from beamnode.limits import Limits

WIDE = Limits(inflated_bytes_max=1 << 20, term_elements_max=1 << 16)
NARROW = Limits(
    term_depth_max=8, term_elements_max=32, atom_characters_max=10, inflated_bytes_max=256, integer_bytes_max=8
)
ATOMS = (Atom("a"), True, None, Atom("victim@127.0.0.1"), Atom("\N{SNOWMAN}"))
KERNEL = oracle("beamnode.etf._kernel")


def decoded(kernel: ModuleType, choice: int, data: bytes) -> tuple[str, Any]:
    """How it ended, in words, and the value."""
    strings, limits = bool(choice & 1), NARROW if choice & 8 else WIDE
    given = memoryview(data) if choice & 2 else data
    try:
        if choice & 4:
            value, end = kernel.decode_from(given, 0, ATOMS, strings=strings, limits=limits)
            return f"a term that ends at {end}", value
        return "a term", kernel.decode(given, strings=strings, limits=limits)
    except DecodeError as error:
        return f"{type(error).__name__}: {error}", None


def exactly(value: Any) -> str:
    """A text that tells all values apart, types included; nothing for what is too deep for `repr`."""
    try:
        return repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of too many digits
        return ""


def one_input(data: bytes) -> None:
    if not data:
        return
    how, value = decoded(codec_python, data[0], data[1:])
    if KERNEL is not None:
        other_how, other = decoded(KERNEL, data[0], data[1:])
        assert other_how == how
        assert exactly(other) == exactly(value)
    if not how.startswith("a term"):
        return
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 12 * CHARACTERS_MAX
    again = codec_python.encode(value)
    strings = bool(data[0] & 1)
    assert codec_python.encode(codec_python.decode(again, strings=strings)) == again
    if KERNEL is not None:
        assert KERNEL.encode(value) == again


def fresh(random: Random) -> bytes:
    from hostile_terms import Hostile

    hostile = Hostile(random, "evil@127.0.0.1", "victim@127.0.0.1")
    choice = random.randrange(16)
    term = hostile.odd_term() if hostile.chance(20) else hostile.encoded(hostile.term(4))
    if hostile.chance(40):
        term = hostile.spoiled(term)
    return bytes((choice,)) + (b"" if choice & 4 else b"\x83") + term
