"""Exit reasons of Python exceptions, in the shape that Erlang gives its own: `{Error, Stacktrace}`."""

from __future__ import annotations

import traceback
from pathlib import PurePath
from types import TracebackType
from typing import Any

from beamnode.errors import EncodeError, ProcessExit
from beamnode.etf import Atom, a, encode
from beamnode.etf.shown import shown

STACK_FRAMES_MAX = 20  # innermost ones, as erlang's backtrace_depth limits its own


def reason_of(error: BaseException) -> Any:
    """What a process ends with when `error` left its body.

    `ProcessExit` carries its reason; any other exception becomes `{{ClassName, Text}, Stack}` where Stack lists
    `{Module, Function, [], [{file, Charlist}, {line, N}]}`, innermost first, as `erlang` stack traces do.
    """
    if isinstance(error, ProcessExit):
        return error.reason
    return ((Atom(type(error).__name__[:255]), _text(error)), stack_of(error.__traceback__))


def stack_of(trace: TracebackType | None) -> list[Any]:
    """A Python traceback as an Erlang stack trace."""
    frames = traceback.extract_tb(trace)[-STACK_FRAMES_MAX:]
    return [
        (
            Atom(PurePath(frame.filename).stem[:255] or "python"),
            Atom(frame.name[:255]),
            [],
            [(a.file, list(frame.filename.encode())), (a.line, frame.lineno or 0)],
        )
        for frame in reversed(frames)
    ]


def sendable(reason: Any) -> Any:
    """`reason`, or what stands for it when it has no term: `{unencodable_reason, Repr}`."""
    try:
        encode(reason)
    except EncodeError:
        return (a.unencodable_reason, _words(reason).encode("utf-8", "replace")[:1000])
    return reason


def _words(reason: Any) -> str:
    try:
        return repr(reason)
    except (RecursionError, ValueError):  # of a peer: too deep, or an integer of too many digits
        return shown(reason)


def _text(error: BaseException) -> bytes:
    try:
        text = str(error)
    except Exception:  # its class is at fault; the process has to end all the same
        text = type(error).__name__
    return text.encode("utf-8", "replace")
