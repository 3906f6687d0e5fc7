"""`io_lib:format/2`: control sequences such as `~p`, `~ts`, `~-10s`, `~.16b`. Source: io_lib_format.erl."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from beamnode.etf import Atom, ImproperList
from beamnode.services.term_text import term_text

WIDTH_MAX: Final = 64 * 1024  # characters that a field may be filled up to: the number comes from a peer

_SEQUENCE: Final = re.compile(r"~(-?\d+|\*)?(?:\.(\d+|\*)?(?:\.(\*|.))?)?([tlkK]*)(.)", re.DOTALL)


class FormatError(ValueError):
    """Format and arguments do not fit, or a text is none: Erlang's `badarg`."""


def format_text(form: Any, args: Any, *, own: Atom | None = None) -> str:
    """`lists:flatten(io_lib:format(form, args))`. Errors: FormatError."""
    if not isinstance(args, list):
        raise FormatError(f"the arguments of a format are a list, not {type(args).__name__}")
    text = form.name if isinstance(form, Atom) else chardata_text(form)
    arguments = iter(args)
    parts, position = [], 0
    while (start := text.find("~", position)) >= 0:
        parts.append(text[position:start])
        found = _SEQUENCE.match(text, start)
        if found is None:
            raise FormatError(f"the format ends within a control sequence: {text[start : start + 20]!r}")
        parts.append(_Field(found, arguments, own).text())
        position = found.end()
    parts.append(text[position:])
    if next(arguments, arguments) is not arguments:
        raise FormatError("there are more arguments than the format asks for")
    return "".join(parts)


def chardata_text(data: Any, encoding: str = "utf-8") -> str:
    """Text as Erlang carries it: a binary, a list of characters, both within each other. Errors: FormatError."""
    parts: list[str] = []
    waiting = [data]
    while waiting:
        item = waiting.pop()
        match item:
            case str():
                parts.append(item)
            case bytes():
                parts.append(_decoded(item, encoding))
            case bool():
                raise FormatError("an atom is no text")
            case int() if 0 <= item < 0xD800 or 0xDFFF < item < 0x110000:
                parts.append(chr(item))
            case list():
                waiting.extend(reversed(item))
            case ImproperList():
                waiting.append(item.tail)
                waiting.extend(reversed(item.elements))
            case _:
                raise FormatError(f"text is made of characters, binaries and lists of them, not {type(item).__name__}")
    return "".join(parts)


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(f"a binary that is no {encoding}: {error}") from None


class _Field:
    """One control sequence: `~F.P.PadModC`."""

    def __init__(self, found: re.Match[str], arguments: Iterator[Any], own: Atom | None) -> None:
        self._arguments = arguments
        self._own = own
        width, precision, pad, modifiers, self._control = found.groups()
        self._width = self._number(width)
        self._precision = self._number(precision)
        self._pad = self._character(self._next()) if pad == "*" else pad or " "
        self._wide = "t" in modifiers
        self._lists = "l" not in modifiers

    def _next(self) -> Any:
        missing = object()
        value = next(self._arguments, missing)
        if value is missing:
            raise FormatError("there are fewer arguments than the format asks for")
        return value

    def _number(self, text: str | None) -> int | None:
        if text is None:
            return None
        number = self._integer(self._next()) if text == "*" else int(text[:9])
        if abs(number) > WIDTH_MAX:
            raise FormatError(f"a field is at most {WIDTH_MAX} characters wide")
        return number

    def _integer(self, value: Any) -> int:
        if type(value) is not int:
            raise FormatError(f"~{self._control} takes an integer, not {type(value).__name__}")
        return value

    def _character(self, value: Any) -> str:
        code = self._integer(value)
        if not (0 <= code < 0xD800 or 0xDFFF < code < 0x110000):
            raise FormatError("that number is no character")
        return chr(code)

    def text(self) -> str:
        match self._control:
            case "~":
                return self._filled("~")
            case "n":
                return "\n" * (1 if self._width is None else max(self._width, 0))
            case "i":
                self._next()
                return ""
            case "c":
                return self._characters()
            case "s":
                return self._string()
            case "w" | "p" | "W" | "P":
                return self._term()
            case "b" | "B" | "x" | "X" | "#" | "+":
                return self._filled(self._based())
            case "e" | "f" | "g":
                return self._filled(self._float())
        raise FormatError(f"~{self._control} is no control sequence")

    def _characters(self) -> str:
        character = self._character(self._next())
        if not self._wide:
            character = chr(ord(character) & 0xFF)
        count = self._precision if self._precision is not None else abs(self._width or 1)
        return self._filled(character * count)

    def _string(self) -> str:
        value = self._next()
        text = _atom_name(value)
        if text is None:
            text = chardata_text(value, "utf-8" if self._wide else "latin-1")
        if self._precision is not None:
            text = text[: self._precision].ljust(self._precision)
        if self._width is not None and self._precision is None:
            text = text[: abs(self._width)]
        return self._filled(text)

    def _term(self) -> str:
        value = self._next()
        if self._control in "WP":
            self._integer(self._next())  # the depth
        strings = self._control in "pP" and self._lists
        text = term_text(value, strings=strings, wide=self._wide, own=self._own)
        return text if self._control in "pP" else self._filled(text)

    def _based(self) -> str:
        number = self._integer(self._next())
        base = self._precision or 10
        if not 2 <= base <= 36:
            raise FormatError("the base of a number lies in 2..36")
        prefix = ""
        if self._control in "xX":
            prefix = chardata_text(_prefix(self._next()))
        elif self._control in "#+":
            prefix = f"{base}#"
        digits = _digits(abs(number), base)
        return f"{'-' * (number < 0)}{prefix}{digits.lower() if self._control in 'bx+' else digits}"

    def _float(self) -> str:
        value = self._next()
        if type(value) is not float and type(value) is not int:
            raise FormatError(f"~{self._control} takes a number, not {type(value).__name__}")
        precision = 6 if self._precision is None else self._precision
        try:
            if self._control == "f":
                return f"{float(value):.{precision}f}"
            if self._control == "g" and 0.1 <= abs(value) < 10000.0:
                return f"{float(value):.{max(precision - 1, 1)}f}"
            mantissa, _, exponent = f"{float(value):.{max(precision - 1, 1)}e}".partition("e")
        except OverflowError:
            raise FormatError("that integer is no float") from None
        return f"{mantissa}e{int(exponent):+}"

    def _filled(self, text: str) -> str:
        """Padded to the width, or stars where it does not fit, as in Erlang."""
        width = self._width
        if width is None or (self._control == "c" and self._precision is None):
            return text
        if len(text) > abs(width):
            return "*" * abs(width)
        return text.rjust(width, self._pad) if width > 0 else text.ljust(-width, self._pad)


def _prefix(value: Any) -> Any:
    name = _atom_name(value)
    return value if name is None else name


def _atom_name(value: Any) -> str | None:
    """The text of an atom; None for any other term."""
    if isinstance(value, Atom):
        return value.name
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    return None


def _digits(number: int, base: int) -> str:
    if base == 16:
        return f"{number:X}"
    if number.bit_length() > 64 * 1024:
        raise FormatError("that integer has too many digits for this base: use 16")
    if base == 10 and number.bit_length() < 8192:
        return str(number)
    digits = []
    while True:
        number, rest = divmod(number, base)
        digits.append("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[rest])
        if not number:
            return "".join(reversed(digits))
