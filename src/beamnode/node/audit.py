"""The audit log: who of the peers asked for what, and what came of it. Logger `beamnode.audit`, a line a decision.

What was refused is a WARNING: connections, calls, spawns, signals. What was allowed and has consequences is an INFO:
connections, calls, spawns, exit signals. Each record has the same as attributes: `audit_node` (this node),
`audit_peer`, `audit_kind` ("connect", "disconnect", "spawn", "call", "exit", "to_name", "link", "monitor",
"group_leader"), `audit_what`, `audit_outcome` ("allowed" or "refused"; "ended" of a connection) and `audit_why`.

Of a call there is the function, and of its arguments their number only: they may hold secrets. What peers can send by
the thousand is written once a spell (`spells.Spells`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.etf import Atom, Pid
from beamnode.etf.shown import shown
from beamnode.etf.terms import on_one_line
from beamnode.node.asked import plain
from beamnode.spells import Spells
from beamnode.wire import control

log = logging.getLogger("beamnode.audit")

Handler = Callable[[Atom, Any], None]

_PREPOSITIONS: Final = {"spawn": "to", "call": "to", "connect": "with"}  # signals come from a peer


class Audit:
    """The lines of one node."""

    def __init__(self, node: Atom) -> None:
        self._node = node.name
        self._spells = Spells(monotonic)

    @staticmethod
    def tells_of_allowed() -> bool:
        """Whether the log is so detailed: where the words for it would cost something."""
        return log.isEnabledFor(logging.INFO)

    def allowed(self, kind: str, peer: str, what: str) -> None:
        """What a peer wanted is done."""
        self._line(logging.INFO, "allowed", kind, peer, what, "")

    def refused(self, kind: str, peer: str, what: str, why: str) -> None:
        """It is not."""
        self._line(logging.WARNING, "refused", kind, peer, what, why)

    def refused_often(self, kind: str, peer: str, what: str, why: str, key: str = "") -> None:
        """The same, of what may come by the thousand; `key` stands for all that are alike (default: peer and what)."""
        unsaid = self._spells.worth_a_line(kind, key or f"{peer} {what}")
        if unsaid is not None:
            more = f" ({unsaid} more were refused since the last line)" if unsaid else ""
            self._line(logging.WARNING, "refused", kind, peer, what, why + more)

    def around_exits(self, signals: Signals, handler: Handler) -> Handler:
        """What `exit/2` of peers does, as the `handler` of their control records does it."""

        def exit_signal(node: Atom, record: control.Exit2) -> None:
            process = signals.receiver_of(record.to)
            handler(node, record)
            if process is not None and self.tells_of_allowed():
                self.allowed("exit", plain(node), exit_text(process, record.sender, record.reason))

        return exit_signal

    def ended(self, peer: str, why: str) -> None:
        """A connection that was allowed is gone."""
        log.info(
            "connection with %s ended: %s",
            *map(on_one_line, (peer, why)),
            extra=self._fields("disconnect", peer, "connection", "ended", why),
        )

    def _line(self, level: int, outcome: str, kind: str, peer: str, what: str, why: str) -> None:
        text = on_one_line(f"{outcome} {what} {_PREPOSITIONS.get(kind, 'from')} {peer}{': ' if why else ''}{why}")
        log.log(level, "%s", text, extra=self._fields(kind, peer, what, outcome, why))

    def _fields(self, kind: str, peer: str, what: str, outcome: str, why: str) -> dict[str, str]:
        return {
            "audit_node": self._node,
            "audit_peer": on_one_line(peer),
            "audit_kind": kind,
            "audit_what": on_one_line(what),
            "audit_outcome": outcome,
            "audit_why": on_one_line(why),
        }


def process_text(process: Process) -> str:
    """A process of this node: its pid, and its name if it has one."""
    return f"{process.pid!r}" if process.name is None else f"{process.pid!r} ({plain(process.name)})"


def exit_text(process: Process, sender: Pid | Atom | None, reason: object) -> str:
    """An exit signal."""
    return f"exit signal {shown(reason)} of {shown(sender)} for {process_text(process)}"
