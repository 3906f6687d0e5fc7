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
from beamnode.etf import Atom
from beamnode.etf.shown import shown
from beamnode.etf.terms import on_one_line
from beamnode.node.dictionary_keys import ANCESTORS, CALLERS, LABEL

_OWN_FOLDERS: Final = tuple(str(Path(__file__).parents[1] / folder) for folder in ("node", "otp"))
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
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDERS):
        trace = trace.tb_next
    return outer if trace is None else trace


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


def reason_text(reason: Any) -> str:
    """An exit reason on one line; that of an exception of Python as the exception, and where it was raised."""
    match reason:
        case ((Atom() as kind, bytes() | str() as said), [(_, Atom() as function, _, list() as where), *_]):
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
            return on_one_line(f"{kind}: {text[:TEXT_MAX]} ({_place(where)}in {function})")
    return shown(reason)


def _place(where: list[Any]) -> str:
    match where:
        case [(Atom(name="file"), list() as file), (Atom(name="line"), int() as line)]:
            try:
                return f"{bytes(file).decode('utf-8', 'replace')}:{line}, "
            except (TypeError, ValueError):  # of a peer, and no text
                return ""
    return ""
