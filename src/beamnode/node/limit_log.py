"""What the log says when somebody presses on a bound of `limits.Limits`: who, which, its value, and how to raise it.

Once per spell: who goes on pressing is not written about again before the log has been silent about it for a while, and
then with how often it was. A spell is of one peer and one bound; however many names peers invent, a bound has only so
many lines a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beamnode.core.process import Process
from beamnode.etf import Atom
from beamnode.etf.terms import on_one_line
from beamnode.limits import Limits

log = logging.getLogger("beamnode.limits")

SPELL_SECONDS: Final = 60.0  # between two lines about the same
LINES_PER_SPELL: Final = 10  # about one bound, and different peers
SPELLS_MAX: Final = 256  # remembered; the oldest goes first


@dataclass(slots=True)
class _Spell:
    since: float  # its last line
    unsaid: int = 0


class Spells:
    """Which of many like events are worth a line in a log. Keys come from peers, so few are kept."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spells: dict[tuple[str, str], _Spell] = {}
        self._lines: dict[str, _Spell] = {}  # of a kind: `unsaid` counts lines
        self._left_out: dict[str, int] = {}

    def worth_a_line(self, kind: str, who: str) -> int | None:
        """None: not now. Else how many like it were left out since the last line about it."""
        now = self._clock()
        spell = self._spells.get((kind, who))
        if spell is not None and now < spell.since + SPELL_SECONDS:
            spell.unsaid += 1
            return None
        if not self._room_for(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return None
        unsaid = 0 if spell is None else spell.unsaid
        self._spells.pop((kind, who), None)
        if len(self._spells) >= SPELLS_MAX:
            del self._spells[next(iter(self._spells))]
        self._spells[kind, who] = _Spell(now)
        return unsaid + self._left_out.pop(kind, 0)

    def _room_for(self, kind: str, now: float) -> bool:
        lines = self._lines.get(kind)
        if lines is None or now >= lines.since + SPELL_SECONDS:
            lines = self._lines[kind] = _Spell(now)
        if lines.unsaid >= LINES_PER_SPELL:
            return False
        lines.unsaid += 1
        return True


class LimitLog:
    """The lines of one node."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._spells = Spells(clock)

    def hit(self, limit: str, who: str, what: str, consequence: str) -> None:
        """`who` presses on the bound named `limit`: `what` it did, and what becomes of that."""
        unsaid = self._spells.worth_a_line(limit, who)
        if unsaid is None:
            return
        value = getattr(self._limits, limit)
        log.warning(
            "%s: %s, and %s is %d: %s%s. If this is no attack, allow more: Node(limits=Limits(%s=...))",
            on_one_line(who),
            what,
            limit,
            value,
            consequence,
            f" ({unsaid} more like this since the last line)" if unsaid else "",
            limit,
            extra={"limit": limit, "limit_value": value, "limit_peer": who},
        )

    def mailbox(self, process: Process, count: int, node: Atom | None) -> None:
        """A mailbox has grown past a mark; who calls this counts the spells."""
        log.warning(
            "%s has %d messages in its mailbox, the last one from %s: it takes them more slowly than they come. "
            "Nothing is dropped; limit_mailbox(...) in the process bounds it, and the mark of this warning is "
            "Node(limits=Limits(mailbox_warning_messages=...))",
            on_one_line(repr(process)),
            count,
            on_one_line(str(node)),
            extra={"limit": "mailbox_warning_messages", "limit_value": count, "limit_peer": str(node)},
        )
