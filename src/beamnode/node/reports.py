"""The text of a report: one message for all there is to say of one event, the traceback of Python first.

What belongs together stays together, in this order: what happened, the traceback, what the reporter adds (the last
message, the state), then what is known of the process: label, ancestors, links, messages that nobody will read.
A log record of a crash also has the exception, as its attribute `error`.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from beamnode.core.process import Process
from beamnode.etf import Atom
from beamnode.etf.shown import shown

_OWN_FOLDERS: Final = tuple(str(Path(__file__).parents[1] / folder) for folder in ("node", "otp"))
INITIAL_CALL: Final = Atom("$initial_call")
_KEYS: Final = {"Label": Atom("$process_label"), "Callers": Atom("$callers"), "Ancestors": Atom("$ancestors")}


def log_crash(
    log: logging.Logger,
    what: str,
    process: Process,
    error: BaseException,
    also: Iterable[tuple[str, str]] = (),
    *,
    trace: bool = True,
) -> None:
    """Log the end of a process by `error`: `what`, then all that helps to understand it. Never fails."""
    log.error("%s", crash_text(what, process, error if trace else None, also), extra={"error": error})


def crash_text(what: str, process: Process, error: BaseException | None, also: Iterable[tuple[str, str]] = ()) -> str:
    """The whole text; `also` are lines of the reporter, each a name and what it says."""
    lines = [what]
    if error is not None:
        lines.append(traceback_text(error))
    lines += [f"{name}: {said}" for name, said in (*also, *_about(process))]
    return "\n".join(lines)


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


def _about(process: Process) -> Iterable[tuple[str, str]]:
    dictionary = process.dictionary or {}
    for name, key in _KEYS.items():
        if key in dictionary:
            yield name, shown(dictionary[key])
    links = [pid for pid, entry in process.links.items() if entry.active]
    if links:
        yield "Links", shown(links)
    if len(process.mailbox):
        yield "Unread messages", str(len(process.mailbox))
