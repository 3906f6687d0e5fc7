"""Callers that wait for nodes: `{sync, Nodes}` until they are in sync (or gone), `disconnect` until they are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from beamnode.etf.terms import Atom, Pid, a
from beamnode.services.global_actions import Outbox, Reply

Sender: TypeAlias = tuple[Pid, Any]  # From of a gen call


@dataclass(slots=True)
class Waiter:
    """A call, its answer, and the nodes that it still waits for. Without a sender nobody is answered."""

    sender: Sender | None
    answer: Any
    nodes: set[Atom]


WAITERS_MAX: Final = 1024  # whoever comes then is answered `{error, system_limit}`


class Waiters:
    """Calls that are answered when every node of theirs is done with."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, sender: Sender | None, answer: Any, nodes: Iterable[Atom]) -> None:
        """Answered at once if there are no nodes."""
        if len(self._waiters) >= WAITERS_MAX:
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
