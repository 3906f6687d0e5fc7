"""What the log says when somebody presses on a bound of `limits.Limits`: who, which, its value, and how to raise it.

Once per spell (`spells.py`), which is of one peer and one bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from beamnode.core.process import Process
from beamnode.etf import Atom
from beamnode.etf.terms import on_one_line
from beamnode.limits import Limits
from beamnode.spells import Spells

log = logging.getLogger("beamnode.limits")


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
