"""Processes that run here for peers: spawned by them, or at work on what they asked for; so many for each at most."""

from __future__ import annotations

from collections.abc import Callable

from beamnode.core.process import Process
from beamnode.etf import Atom
from beamnode.limits import DEFAULT_LIMITS, Limits

LimitHit = Callable[[str, str, str, str], None]
"""Told of a bound that was hit: its name, who did it, what it did, and what becomes of that."""


def tell_nobody(_limit: str, _who: str, _what: str, _consequence: str) -> None:
    """Nobody wants to hear of limits."""


class Guests:
    """Those of one node. `of` says for whom each works; whoever ends is taken out by `left`."""

    def __init__(self) -> None:
        self.limits: Limits = DEFAULT_LIMITS
        self.limit_hit: LimitHit = tell_nobody
        self.of: dict[Process, Atom] = {}
        self._counts: dict[Atom, int] = {}

    def count(self, node: Atom) -> int:
        """How many work for `node`, whether it is connected or not."""
        return self._counts.get(node, 0)

    def has_room(self, node: Atom) -> bool:
        """Whether one more may work for `node`; if not, that is told."""
        if self.count(node) < self.limits.processes_per_peer_max:
            return True
        what = f"it wants one more process than the {self.count(node)} that work here for it"
        self.limit_hit("processes_per_peer_max", node.name, what, "refused with system_limit")
        return False

    def came(self, process: Process, node: Atom) -> None:
        """`process` works for `node` from now on, until it ends."""
        if process.alive:
            self.of[process] = node
            self._counts[node] = self.count(node) + 1

    def left(self, process: Process) -> None:
        """It has ended; if it worked for a peer, that one has room again."""
        node = self.of.pop(process, None)
        if node is None:
            return
        count = self._counts.pop(node) - 1
        if count:
            self._counts[node] = count
