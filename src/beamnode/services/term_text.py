"""Terms as Erlang writes them: what `~w` and `~p` of `io:format` print, on one line.

Not `repr`: a peer may send integers of a million digits and terms as deep as the decoder lets them be.
Source: io_lib.erl (`write/1`), io_lib_pretty.erl, whose line breaks are not made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from beamnode.etf import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
)

DEPTH_MAX: Final = 100  # deeper is shown as `...`: Python's stack is no place for a term of depth 1000
DECIMAL_BITS_MAX: Final = 4096  # larger integers are written in base 16, which takes no quadratic time

_PLAIN_ATOM: Final = re.compile(r"[a-z][a-zA-Z0-9_@]*\Z")
_PLAIN_ATOM_UNICODE: Final = re.compile(r"[a-zß-öø-ÿ][\w@]*\Z")
_RESERVED: Final = frozenset(
    (
        *("after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case", "catch", "cond"),
        *("div", "else", "end", "fun", "if", "let", "maybe", "not", "of", "or", "orelse", "receive", "rem", "try"),
        *("when", "xor"),
    )
)
_ESCAPES: Final = {
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0B: "\\v",
    0x0C: "\\f",
    0x0D: "\\r",
    0x1B: "\\e",
    0x7F: "\\d",
    0x5C: "\\\\",
}
_DOUBLE: Final = '"'
_SPACES: Final = frozenset(b"\b\t\n\v\f\r\x1b")


def term_text(term: Any, *, strings: bool = False, wide: bool = False, own: Atom | None = None) -> str:
    """`~w` of the term; with `strings`, `~p`: lists and binaries that are text are shown so.

    `wide` is the modifier `t`: characters above 255 are text too. The processes of the node `own` begin with 0.
    """
    return _Writer(strings, wide, own).text(term, 0)


def quoted(text: str, quote: str, *, wide: bool = True) -> str:
    """Text between quotes, with what cannot stand in it escaped."""
    shown = [quote]
    for character in text:
        code = ord(character)
        if character == quote:
            shown.append(f"\\{character}")
        elif code in _ESCAPES:
            shown.append(_ESCAPES[code])
        elif code < 32 or 0x7F <= code < 0xA0 or (code > 255 and not wide):
            shown.append(f"\\x{{{code:X}}}")
        else:
            shown.append(character)
    shown.append(quote)
    return "".join(shown)


def atom_text(name: str, *, wide: bool = True) -> str:
    """An atom as it is written in a program: quoted where it must be."""
    plain = _PLAIN_ATOM_UNICODE if wide else _PLAIN_ATOM
    return name if plain.match(name) and name not in _RESERVED else quoted(name, "'", wide=wide)


def pid_text(pid: Pid, own: Atom | None) -> str:
    """`<0.85.0>` for a process of the node `own`; others begin with the name of their node."""
    return f"<{0 if pid.node is own else pid.node}.{pid.id}.{pid.serial}>"


def integer_text(number: int) -> str:
    return str(number) if number.bit_length() <= DECIMAL_BITS_MAX else f"{'-' * (number < 0)}16#{abs(number):X}"


def float_text(number: float) -> str:
    """The shortest digits that give the number back, with a point, as in Erlang."""
    digits, _, exponent = repr(number).partition("e")
    if "." not in digits:
        digits += ".0"
    return f"{digits}e{int(exponent)}" if exponent else digits


class _Writer:
    def __init__(self, strings: bool, wide: bool, own: Atom | None) -> None:
        self._strings = strings
        self._wide = wide
        self._own = own

    def text(self, term: Any, depth: int) -> str:
        match term:
            case True | False:
                return "true" if term else "false"
            case None:
                return "nil"
            case int():
                return integer_text(term)
            case float():
                return float_text(term)
            case Atom():
                return atom_text(term.name, wide=self._wide)
            case str():
                return self._binary(term.encode("utf-8", "replace"))
            case bytes():
                return self._binary(term)
        return self._container(term, depth) if depth < DEPTH_MAX else "..."

    def _container(self, term: Any, depth: int) -> str:
        inner = depth + 1
        match term:
            case tuple():
                return f"{{{self._all(term, inner)}}}"
            case list():
                return self._list(term, inner)
            case ImproperList():
                return f"[{self._all(term.elements, inner)}|{self.text(term.tail, inner)}]"
            case dict():
                pairs = (f"{self.text(key, inner)} => {self.text(value, inner)}" for key, value in term.items())
                return f"#{{{','.join(pairs)}}}"
            case NativeRecord():
                fields = ",".join(f"{self.text(key, inner)} = {self.text(value, inner)}" for key, value in term.fields)
                return f"#{self.text(term.module, inner)}:{self.text(term.name, inner)}{{{fields}}}"
        return self._identifier(term)

    def _identifier(self, term: Any) -> str:
        match term:
            case Pid():
                return pid_text(term, self._own)
            case Port():
                return f"#Port<{0 if term.node is self._own else term.node}.{term.id}>"
            case Reference():
                words = ".".join(str(word) for word in reversed(term.words))
                return f"#Ref<{0 if term.node is self._own else term.node}.{words}>"
            case Export():
                return f"fun {self.text(term.module, 0)}:{self.text(term.function, 0)}/{term.arity}"
            case Fun():
                return f"#Fun<{term.module}.{term.index}.{term.old_uniq}>"
            case BitString():
                last = term.data[-1] >> (8 - term.bits)
                return f"<<{','.join([*map(str, term.data[:-1]), f'{last}:{term.bits}'])}>>"
        return quoted(repr(term), "'")  # a Python object that was never a term

    def _all(self, terms: Iterable[Any], depth: int) -> str:
        return ",".join([self.text(term, depth) for term in terms])

    def _list(self, term: list[Any], depth: int) -> str:
        if self._strings and term and all(type(code) is int for code in term) and self._is_text(term):
            return quoted("".join(map(chr, term)), _DOUBLE, wide=self._wide)
        return f"[{self._all(term, depth)}]"

    def _binary(self, data: bytes) -> str:
        if self._strings and data:
            text = _utf8(data) if self._wide and not data.isascii() else None
            if text is not None and self._is_text([ord(character) for character in text]):
                return f"<<{quoted(text, _DOUBLE)}/utf8>>"
            if self._is_text(data):
                return f"<<{quoted(data.decode('latin-1'), _DOUBLE, wide=self._wide)}>>"
        return f"<<{','.join(map(str, data))}>>"

    def _is_text(self, codes: Sequence[int]) -> bool:
        """Whether OTP takes it for a string: printable characters; above 255 only with `t`."""
        for code in codes:
            if 32 <= code < 127 or 160 <= code < 256 or code in _SPACES:
                continue
            if not ((self._wide and 255 < code < 0xD800) or (self._wide and 0xDFFF < code < 0x110000)):
                return False
        return True


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
