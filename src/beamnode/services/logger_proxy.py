"""`logger_proxy`: log events of processes elsewhere whose group leader is here go to Python's `logging`.

All under the logger `beamnode.remote`, each as one record that begins with the pid it comes from; the record's
attributes `remote_node`, `remote_pid` and `remote_meta` have the rest. Source: logger_proxy.erl, logger.erl.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import Node, receive
from beamnode.services.io_format import FormatError, chardata_text, format_text
from beamnode.services.term_text import pid_text, term_text

log = logging.getLogger("beamnode.remote")

TEXT_CHARACTERS_MAX: Final = 64 * 1024  # of one record
_LEVELS: Final = {
    a.emergency: logging.CRITICAL,
    a.alert: logging.CRITICAL,
    a.critical: logging.CRITICAL,
    a.error: logging.ERROR,
    a.warning: logging.WARNING,
    a.notice: logging.INFO,
    a.info: logging.INFO,
    a.debug: logging.DEBUG,
}


async def run(node: Node) -> None:
    """Log for as long as the node is up."""
    while True:
        match await receive():
            case (a.log, Atom() as level, form, list() as args, dict() as meta):
                _emit(node.name, level, lambda form=form, args=args: format_text(form, args, own=node.name), meta)
            case (a.log, Atom() as level, message, dict() as meta):
                _emit(node.name, level, lambda message=message: message_text(message, node.name), meta)
            case other:
                logging.getLogger("beamnode.io").debug("logger_proxy got %s", shown(other))


def _emit(own: Atom, level: Atom, text: Any, meta: dict[Any, Any]) -> None:
    number = _LEVELS.get(level, logging.INFO)
    if not log.isEnabledFor(number):
        return
    pid = meta.get(a.pid)
    who = pid_text(pid, own) if isinstance(pid, Pid) else "somewhere"
    try:
        said = text()
    except FormatError as error:
        said = f"a log event that is no text ({error})"
    extra = {"remote_node": str(pid.node) if isinstance(pid, Pid) else None, "remote_pid": pid, "remote_meta": meta}
    log.log(number, "%s %s", who, said[:TEXT_CHARACTERS_MAX].rstrip("\n"), extra=extra)


def message_text(message: Any, own: Atom) -> str:
    """The text of what was logged: text, a report, or the message of an event (`{string, S}`, `{report, R}`)."""
    match message:
        case (a.string, text):
            return chardata_text(text)
        case (a.report, report):
            return report_text(report, own)
        case (form, list() as args) if not isinstance(form, Atom):
            return format_text(form, args, own=own)
        case dict():
            return report_text(message, own)
        case list() if message and all(isinstance(item, tuple) and len(item) == 2 for item in message):
            return report_text(message, own)
    return chardata_text(message)


def report_text(report: Any, own: Atom) -> str:
    """A report, one line a key; that of a crash begins with what crashed. Some hold a format and its arguments."""
    match report:
        case {a.format: form, a.args: list() as args}:
            return format_text(form, args, own=own)
    pairs = list(report.items()) if isinstance(report, dict) else report
    if not isinstance(pairs, list):
        return term_text(report, strings=True, wide=True, own=own)
    lines: list[str] = []
    for pair in pairs:
        match pair:
            case (a.label, (Atom() as module, Atom() as what)):
                lines.insert(0, f"{module} {what}:")
            case (a.report, [list() as crashed, *_]):
                lines += [_line(item, own) for item in crashed]
            case _:
                lines.append(_line(pair, own))
    return "\n".join(lines)


def _line(item: Any, own: Atom) -> str:
    match item:
        case (key, value):
            return f"    {_shown(key, own)}: {_shown(value, own)}"
    return f"    {_shown(item, own)}"


def _shown(term: Any, own: Atom) -> str:
    return term_text(term, strings=True, wide=True, own=own)
