"""Reads one term as Erlang's programs and configuration files write it: `[{server, [{depth, 2}]}].`

Strings in double quotes become `str`, binaries `bytes`, `fun m:f/1` an `ExternalFun`; the others as everywhere.
Source: erl_scan.erl, for what stands in such files; no variables, no expressions, no strings in triple quotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from beamnode.errors import UsageError
from beamnode.etf import Atom

DEPTH_MAX: Final = 64

_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s|%[^\n]*)+)
    |(?P<float>-?\d[\d_]*\.\d+(?:[eE][-+]?\d+)?)
    |(?P<based>-?\d+\#[0-9A-Za-z_]+)
    |(?P<integer>-?\d[\d_]*)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<quoted>'(?:[^'\\]|\\.)*')
    |(?P<character>\$(?:\\.|[^\\]))
    |(?P<fun>fun\s+(?P<module>[a-z][\w@]*)\s*:\s*(?P<function>[a-z][\w@]*)\s*/\s*(?P<arity>\d+))
    |(?P<atom>[a-zß-öø-ÿ][\w@]*)
    |(?P<mark><<|>>|=>|\#\{|[\[\]{},|.])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(?:x\{([0-9a-fA-F]+)\}|x([0-9a-fA-F]{2})|([0-7]{1,3})|\^(.)|(.))", re.DOTALL)
_ESCAPED: Final = {"b": "\b", "d": "\x7f", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "s": " ", "t": "\t", "v": "\v"}


@dataclass(frozen=True, slots=True)
class ExternalFun:
    """`fun module:function/arity`."""

    module: str
    function: str
    arity: int

    def __str__(self) -> str:
        return f"fun {self.module}:{self.function}/{self.arity}"


def read_term(text: str) -> Any:
    """The term of a text that ends with a dot. Errors: UsageError, with the line."""
    reader = _Reader(text)
    try:
        value = reader.term(0)
        reader.expect(".")
        if reader.kind:
            raise reader.error("more than one term")
    except (ValueError, OverflowError) as error:  # a digit that is none of its base, a character that is none
        raise reader.error(str(error)) from None
    return value


class _Reader:
    """The text, and the token that is next: its kind (empty at the end) and what it says."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.kind = ""
        self.token = ""
        self._match: re.Match[str] | None = None
        self._next()

    def error(self, what: str) -> UsageError:
        line = self._text.count("\n", 0, self._at - len(self.token)) + 1
        return UsageError(f"line {line}: {what}")

    def expect(self, mark: str) -> None:
        if not self._skip(mark):
            found = self.token if self.kind in ("mark", "atom") else self.kind  # a string may be a password
            raise self.error(f"{found} where {mark!r} is due" if found else f"it ends where {mark!r} is due")

    def term(self, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise self.error(f"more than {DEPTH_MAX} levels")
        kind, token, match = self.kind, self.token, self._match
        if kind == "mark":
            return self._container(depth)
        if not kind or match is None:
            raise self.error("it ends in the middle of a term, or is empty")
        self._next()
        match kind:
            case "atom":
                return {"true": True, "false": False}.get(token, Atom(token))
            case "quoted":
                return Atom(_unescaped(token[1:-1]))
            case "string":
                return self._strings(token)
            case "integer":
                return int(token.replace("_", ""))
            case "float":
                return float(token.replace("_", ""))
            case "based":
                base, _, digits = token.partition("#")
                number = int(digits.replace("_", ""), abs(int(base)))
                return -number if base.startswith("-") else number
            case "character":
                return ord(_unescaped(token[1:]))
        return ExternalFun(match["module"], match["function"], int(match["arity"]))

    def _container(self, depth: int) -> Any:
        if self._skip("["):
            return self._sequence("]", depth)
        if self._skip("{"):
            return tuple(self._sequence("}", depth))
        if self._skip("<<"):
            return self._binary()
        if self._skip("#{"):
            return self._map(depth)
        raise self.error(f"{self.token} where a term is due")

    def _sequence(self, end: str, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._skip(end):
            if found:
                self.expect(",")
            found.append(self.term(depth + 1))
        return found

    def _map(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while not self._skip("}"):
            if found:
                self.expect(",")
            key = self.term(depth + 1)
            self.expect("=>")
            if isinstance(key, list | dict):
                raise self.error("a key of a map that is a list or a map")
            found[key] = self.term(depth + 1)
        return found

    def _binary(self) -> bytes:
        """`<<>>`, `<<"text">>`, `<<1, 2>>`."""
        found = bytearray()
        first = True
        while not self._skip(">>"):
            if not first:
                self.expect(",")
            first = False
            part = self.term(0)
            if isinstance(part, str):
                found += part.encode("latin-1", "strict")
            elif isinstance(part, int) and 0 <= part <= 255:
                found.append(part)
            else:
                raise self.error("a binary of other things than bytes and text")
        return bytes(found)

    def _strings(self, token: str) -> str:
        """A string, and those that follow it at once."""
        text = _unescaped(token[1:-1])
        while self.kind == "string":
            text += _unescaped(self.token[1:-1])
            self._next()
        return text

    def _skip(self, mark: str) -> bool:
        if self.kind != "mark" or self.token != mark:
            return False
        self._next()
        return True

    def _next(self) -> None:
        while True:
            if self._at >= len(self._text):
                self.kind = self.token = ""
                return
            found = _TOKEN.match(self._text, self._at)
            if found is None:
                self.token = ""
                raise self.error(f"{self._text[self._at]!r} begins no term that is read here")
            self._at = found.end()
            kind = found.lastgroup
            self._match = found
            if found["fun"] is not None:
                kind = "fun"
            if kind != "space":
                self.kind, self.token = str(kind), found.group()
                return


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_one_unescaped, text)


def _one_unescaped(escape: re.Match[str]) -> str:
    braced, hexadecimal, octal, control, other = escape.groups()
    if braced or hexadecimal:
        return chr(int(braced or hexadecimal, 16))
    if octal:
        return chr(int(octal, 8))
    if control:
        return chr(ord(control) & 31)
    return _ESCAPED.get(other, other)
