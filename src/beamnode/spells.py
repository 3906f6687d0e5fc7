"""Which of many like events are worth a line in a log.

Once per spell: what goes on is not written about again before the log has been silent about it for a while, and then
with how often it was. A spell is of one kind of event and of who did it; however many names peers invent, a kind has
only so many lines a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

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
