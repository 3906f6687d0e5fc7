"""Callers that wait for nodes: `{sync, Nodes}` until they are in sync (or gone), `disconnect` until they are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from beamnode.core.guests import LimitHit, tell_nobody
from beamnode.etf.terms import Atom, Pid, a
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.services.global_actions import Outbox, Reply

Sender: TypeAlias = tuple[Pid, Any]  # From of a gen call


@dataclass(slots=True)
class Waiter:
    """A call, its answer, and the nodes that it still waits for. Without a sender nobody is answered."""

    sender: Sender | None
    answer: Any
    nodes: set[Atom]


class Waiters:
    """Calls that are answered when every node of theirs is done with."""

    def __init__(self, outbox: Outbox, limits: Limits = DEFAULT_LIMITS, limit_hit: LimitHit = tell_nobody) -> None:
        self._outbox = outbox
        self._waiters_max = limits.global_waiters_max
        self._limit_hit = limit_hit
        self._waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, sender: Sender | None, answer: Any, nodes: Iterable[Atom]) -> None:
        """Answered at once if there are no nodes; `{error, system_limit}` if too many wait already."""
        if len(self._waiters) >= self._waiters_max:
            who = "this node" if sender is None else sender[0].node.name
            what = f"it asks global to wait while {len(self._waiters)} others wait"
            self._limit_hit("global_waiters_max", who, what, "answered {error, system_limit}")
            if sender is not None:
                self._outbox.put(Reply(sender, (a.error, a.system_limit)))
            return
        self._waiters.append(Waiter(sender, answer, set(nodes)))
        self._answer()

    def waits_for(self, node: Atom) -> bool:
        return any(node in waiter.nodes for waiter in self._waiters)

    def done_with(self, node: Atom) -> None:
        """Nobody waits for the node any longer."""
        for waiter in self._waiters:
            waiter.nodes.discard(node)
        self._answer()

    def _answer(self) -> None:
        for waiter in self._waiters:
            if not waiter.nodes and waiter.sender is not None:
                self._outbox.put(Reply(waiter.sender, waiter.answer))
        self._waiters = [waiter for waiter in self._waiters if waiter.nodes]
