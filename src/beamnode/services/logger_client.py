"""Log records of processes whose group leader is on another node go to `logger_proxy` there, as in OTP.

While a node runs, `Logger.callHandlers` looks at the current process first. A record of such a process is sent, and
skips only the handlers that write to this terminal (and the one of last resort); files, collectors and tests see it as
before. That is what OTP's filter `remote_gl` on its default handler does. The records of beamnode's own machinery stay
here, but for crashes.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from beamnode.errors import BeamnodeError
from beamnode.etf import Pid, a
from beamnode.node import current_body_or_none
from beamnode.node.body import Body
from beamnode.services.standard_streams import elsewhere, real

log = logging.getLogger("beamnode.io")

TEXT_CHARACTERS_MAX: Final = 256 * 1024
# What beamnode itself says of the processes of a program: their crashes, and what supervisors do about them.
CRASHES: Final = (
    "beamnode.process",
    "beamnode.gen_server",
    "beamnode.gen_statem",
    "beamnode.gen_event",
    "beamnode.supervisor",
    "beamnode.application",
    "beamnode.task",
)

_sending: ContextVar[bool] = ContextVar("beamnode_log_sending", default=False)
_formatter: Final = logging.Formatter()


def remote_leader(record: logging.LogRecord) -> tuple[Body, Pid] | None:
    """The current process and its group leader, if records like this one belong on that leader's node."""
    body = current_body_or_none()
    if body is None or _sending.get():
        return None
    if record.name.split(".", 1)[0] == "beamnode" and record.name not in CRASHES:
        return None
    leader = elsewhere(body)
    return None if leader is None or body.runtime.signals.is_local(leader) else (body, leader)


def send_record(body: Body, leader: Pid, record: logging.LogRecord) -> None:
    """`{log, Level, Text, Meta}` to `logger_proxy` on the leader's node. Never fails: it is a log call."""
    token = _sending.set(True)
    try:
        text = _formatter.format(record)[:TEXT_CHARACTERS_MAX].encode("utf-8", "replace")
        message = (a.log, level_of(record.levelno), text, _meta(body, leader, record))
        body.runtime.soon(lambda: _deliver(body, leader, message))  # never waits: the caller holds a handler's lock
    except Exception:
        logging.Handler().handleError(record)
    finally:
        _sending.reset(token)


def _deliver(body: Body, leader: Pid, message: Any) -> None:
    try:
        body.runtime.send(body.process, (a.logger_proxy, leader.node), message)
    except BeamnodeError as error:
        log.debug("a log record cannot be delivered to %s: %s", leader.node, error)


def level_of(number: int) -> Any:
    """Erlang's name of a level."""
    if number >= logging.CRITICAL:
        return a.critical
    if number >= logging.ERROR:
        return a.error
    if number >= logging.WARNING:
        return a.warning
    return a.info if number >= logging.INFO else a.debug


def _meta(body: Body, leader: Pid, record: logging.LogRecord) -> dict[Any, Any]:
    """No `domain`: the default handler of `erl` drops those that it does not know."""
    return {
        a.pid: body.process.pid,
        a.gl: leader,
        a.time: int(record.created * 1_000_000),
        a.logger: record.name.encode("utf-8", "replace"),
        a.file: list(record.pathname.encode("utf-8", "replace")),
        a.line: record.lineno,
    }


def _is_terminal(handler: logging.Handler) -> bool:
    """Whether it prints on this Python process's own terminal."""
    stream = getattr(handler, "stream", None) if isinstance(handler, logging.StreamHandler) else None
    own = (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    return stream is not None and real(stream) in [real(one) for one in own if one is not None]


def _call_other_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
    """As `Logger.callHandlers`, but for handlers that print on this terminal."""
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            if record.levelno >= handler.level and not _is_terminal(handler):
                handler.handle(record)
        at = at.parent if at.propagate else None


class _Installation:
    """How many nodes want records to travel; with the last one `Logger.callHandlers` is as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: Callable[..., None] | None = None
        self._ours: Callable[..., None] | None = None

    def add(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            before = logging.Logger.callHandlers

            def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
                where = remote_leader(record) if self._users else None
                if where is None:
                    before(logger, record)
                    return
                _call_other_handlers(logger, record)
                send_record(*where, record)

            self._before, self._ours = before, call_handlers
            logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        """Where another library has put its own in front of ours, that stays, and ours passes everything on."""
        with self._lock:
            self._users -= 1
            if not self._users and logging.Logger.callHandlers is self._ours and self._before is not None:
                logging.Logger.callHandlers = self._before  # type: ignore[method-assign]


_installation: Final = _Installation()

install = _installation.add
uninstall = _installation.remove
