"""The text of a report: one message for all there is to say of one event, the traceback of Python first.

What belongs together stays together, in this order: what happened, the traceback, what the reporter adds (the last
message, the state), then what is known of the process: label, ancestors, links, messages that nobody will read.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from beamnode.core.process import Process
from beamnode.errors import ProcessExit
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.etf.terms import on_one_line
from beamnode.node.dictionary_keys import ANCESTORS, CALLERS, LABEL

_OWN_FOLDERS: Final = tuple(str(Path(__file__).parents[1] / folder) for folder in ("node", "otp"))
_COMPILED: Final = (".pyx", ".pxi")  # where the frames of the compiled parts say they are
WRAPPERS_MAX: Final = 5  # of a reason, each in words
TEXT_MAX: Final = 500  # characters of what an exception says

_KEYS: Final = {"Label": LABEL, "Callers": CALLERS, "Ancestors": ANCESTORS}


def log_crash(log: logging.Logger, what: str, process: Process, error: BaseException) -> None:
    """Log that `error` has ended a process that nobody else speaks for.

    The record has the exception, for handlers that show it in their own way; its text is as in every report.
    """
    if not log.isEnabledFor(logging.ERROR):
        return
    file, line = _raised_at(error)
    exception = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, file, line, what, (), exception)
    record.exc_text = "\n".join([traceback_text(error), *_lines(about(process))])  # what `logging` puts below `what`
    log.handle(record)


def report_text(what: str, process: Process, error: BaseException | None, also: Iterable[tuple[str, str]] = ()) -> str:
    """The whole text of a report as one message; `also` are lines of the reporter, each a name and what it says."""
    trace = [] if error is None else [traceback_text(error)]
    return "\n".join([what, *trace, *_lines(also), *_lines(about(process))])


def _lines(said: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}: {text}" for name, text in said]


def _raised_at(error: BaseException) -> tuple[str, int]:
    """The line that raised it, which is more to a reader than that which logs it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (__file__, 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno or 0)


def traceback_text(error: BaseException) -> str:
    """The traceback from the first line on that is not this library's."""
    try:
        trace = from_users_code(error.__traceback__)
        return "".join(traceback.format_exception(type(error), error, trace)).rstrip("\n")
    except Exception as failure:  # its class may do anything when it is asked for a text
        return f"(no traceback: {type(failure).__name__} while showing {type(error).__name__})"


def error_text(error: BaseException) -> str:
    """Its `repr`, whatever that does."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


def from_users_code(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that run a process, unless there are no others."""
    outer = trace
    while trace is not None and _is_own(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return outer if trace is None else trace


def _is_own(file: str) -> bool:
    return file.startswith(_OWN_FOLDERS) or file.endswith(_COMPILED)


def about(process: Process) -> Iterable[tuple[str, str]]:
    """What is known of a process that has something to do with its end."""
    dictionary = process.dictionary or {}
    for name, key in _KEYS.items():
        if key in dictionary:
            yield name, shown(dictionary[key])
    links = [pid for pid, entry in process.links.items() if entry.active]
    if links:
        yield "Links", shown(links)
    if len(process.mailbox):
        yield "Unread messages", str(len(process.mailbox))


def reason_text(reason: Any, wrappers: int = WRAPPERS_MAX) -> str:
    """An exit reason on one line; that of an exception of Python as the exception, and where it was raised.

    What supervisors and calls wrap around the reason of another process is said in words.
    """
    match reason:
        case ((Atom() as kind, bytes() | str() as said), [(_, Atom() as function, _, list() as where), *_]):
            return on_one_line(f"{kind}: {_said(said)} ({_place(where)}in {function})")
        case ((Atom() as kind, bytes() | str() as said), []):
            return on_one_line(f"{kind}: {_said(said)}")
        case (a.undef, [(Atom() as module, Atom() as function, args, list()), *_]) if isinstance(args, list | int):
            arity = len(args) if isinstance(args, list) else args
            return on_one_line(f"undef: there is no function {module}:{function}/{arity}, or it may not be called")
        case (a.already_started, Pid() as pid):
            return f"it is running already, as {pid!r} (already_started)"
    return shown(reason) if wrappers <= 0 else _unwrapped(reason, wrappers - 1)


def _words(reason: Any) -> str | None:
    """`reason_text`, where that says more than the term."""
    text = reason_text(reason)
    return None if text == shown(reason) else text


ProcessExit.words = staticmethod(_words)  # type: ignore[method-assign]


def _unwrapped(reason: Any, wrappers: int) -> str:
    match reason:
        case (a.shutdown, (a.failed_to_start_child, id, why)):
            return f"child {shown(id)} did not start: {reason_text(why, wrappers)}"
        case (a.bad_return, (Atom() as module, a.init, value)):
            return on_one_line(f"{module}.init returned {shown(value)} (bad_return)")
        case (a.EXIT, why):
            return reason_text(why, wrappers)
        case (why, (Atom() as module, Atom() as function, list() as args)) if why is not a.shutdown:
            called = on_one_line(f"{module}:{function}")
            return f"{reason_text(why, wrappers)}, seen in {called} with {shown(args)}"
    return shown(reason)


def _said(text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return said[:TEXT_MAX]


def _place(where: list[Any]) -> str:
    match where:
        case [(Atom(name="file"), list() as file), (Atom(name="line"), int() as line)]:
            try:
                return f"{bytes(file).decode('utf-8', 'replace')}:{line}, "
            except (TypeError, ValueError):  # of a peer, and no text
                return ""
    return ""
