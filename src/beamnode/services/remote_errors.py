"""How a call on another node can fail, with what that node told of it, in words for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from beamnode.errors import BeamnodeError
from beamnode.etf import Atom, a
from beamnode.etf.shown import shown

STACK_LINES_MAX = 20


class RemoteCallError(BeamnodeError):
    """A remote call that did not return: `reason` as a term, `stack` as the other node told it (or None).

    Its text is one line that says what happened, then one for each frame there.
    """

    def __init__(self, text: str, reason: Any, stack: Any = None) -> None:
        super().__init__("\n    ".join([text, *stack_lines(stack)]))
        self.reason = reason
        self.stack = stack


class RemoteError(RemoteCallError):
    """The function raised an error there (Erlang's class `error`)."""


class RemoteExit(RemoteCallError):
    """The function exited there, or its process was killed."""


class RemoteThrow(RemoteCallError):
    """The function threw a value there, `reason`."""


class RpcFailed(RemoteCallError):
    """The call could not be made: no connection, or the other node does not serve calls."""


def reason_text(reason: Any, stack: Any = None) -> str:
    """What an error was, in a few words: `RuntimeError: boom`, `badarith`, `undef: there is no lists:nothing/1`."""
    match reason:
        case dict() if reason.get(Atom("__exception__")) is True:
            return _exception_text(reason)
        case (Atom() as kind, bytes() | str() as text) if kind.name[:1].isupper():  # of Python
            return f"{kind.name}: {_text(text)}"
        case a.undef if (frame := _first_frame(stack)) is not None:
            return f"undef: there is no {frame}"
        case Atom():
            return reason.name
    return shown(reason)


def stack_lines(stack: Any) -> Iterator[str]:
    """`at lists:reverse/1 (lists.erl:12)` for each frame of an Erlang stack trace, innermost first."""
    for frame in stack[:STACK_LINES_MAX] if isinstance(stack, list) else ():
        where = _location(frame)
        if (call := _call(frame)) is not None:
            yield f"at {call}{f' ({where})' if where else ''}"


def call_text(module: Any, function: Any, arity: int) -> str:
    """`lists:reverse/1`, or `Enum.sum/1` of Elixir."""
    name = _text(module)
    if name.startswith("Elixir."):
        return f"{name.removeprefix('Elixir.')}.{_text(function)}/{arity}"
    return f"{name}:{_text(function)}/{arity}"


def _exception_text(exception: dict[Any, Any]) -> str:
    """Of an Elixir exception: its name, and its message or else its fields."""
    name = _text(exception.get(Atom("__struct__"), "exception")).removeprefix("Elixir.")
    message = exception.get(a.message)
    if isinstance(message, bytes | str):
        return f"{name}: {_text(message)}"
    hidden = (Atom("__exception__"), Atom("__struct__"))
    fields = [
        f"{_text(key)}={shown(value)}" for key, value in exception.items() if key not in hidden and value is not None
    ]
    return f"{name} ({', '.join(fields)})" if fields else name


def _first_frame(stack: Any) -> str | None:
    return _call(stack[0]) if isinstance(stack, list) and stack else None


def _call(frame: Any) -> str | None:
    match frame:
        case (Atom() as module, Atom() as function, int() | list() as arguments, *_):
            return call_text(module, function, arguments if isinstance(arguments, int) else len(arguments))
    return None


def _location(frame: Any) -> str:
    info = frame[3] if isinstance(frame, tuple) and len(frame) == 4 and isinstance(frame[3], list) else []
    found = {item[0]: item[1] for item in info if isinstance(item, tuple) and len(item) == 2 and type(item[0]) is Atom}
    file, line = found.get(a.file), found.get(a.line)
    if file is None:
        return ""
    return f"{_text(file)}:{line}" if isinstance(line, int) and line else _text(file)


def _text(text: Any) -> str:
    """Of an atom, a binary or a charlist, safe to print."""
    match text:
        case Atom():
            plain = text.name
        case bytes():
            plain = text.decode("utf-8", "replace")
        case list() if all(isinstance(point, int) and 0 <= point < 0x110000 for point in text):
            plain = "".join(map(chr, text))
        case _:
            plain = str(text)
    return (
        plain if plain.isprintable() else "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in plain)
    )
