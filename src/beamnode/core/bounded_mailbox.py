"""Mailboxes with a maximum length, for processes that others can flood.

Everything stays in the mailbox's own methods, so that a mailbox without a limit pays nothing for those that have one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, SupportsIndex

from beamnode.core.process import NOTHING, Mailbox, Match
from beamnode.core.sizes import messages_bytes

log = logging.getLogger("beamnode.process")


class WhenFull(Enum):
    """What happens to a message for a mailbox that is full."""

    BLOCK = "block"  # it is taken, and a sender of this node waits until there is room
    DROP = "drop"  # it is lost, and the log says so
    EXIT = "exit"  # the process ends with `{mailbox_full, Limit}`


class BoundedMailbox(Mailbox):
    """A mailbox of at most `limit` messages. `on_full` ends its process, `crowded` is where senders look afterwards."""

    __slots__ = ("crowded", "dropped", "limit", "on_full", "owner", "policy", "waiting")

    suspends = False  # who has to wait does so where it receives next, not before

    def __init__(
        self, limit: int, policy: WhenFull, owner: object, crowded: list[BoundedMailbox], on_full: Callable[[], None]
    ) -> None:
        super().__init__()
        self.limit = limit
        self.policy = policy
        self.owner = owner  # for the log
        self.crowded = crowded
        self.on_full = on_full
        self.dropped = 0  # since there was no room
        self.waiting: dict[Callable[[], object], None] = {}  # who wants to hear of room

    @property
    def has_room(self) -> bool:
        return len(self) < self.limit

    def append(self, message: Any, /) -> None:
        """Take a message, or do with it what the policy says."""
        if len(self) < self.limit:
            super().append(message)
        elif self.policy is WhenFull.BLOCK:
            super().append(message)
            self.crowded.append(self)
        elif self.policy is WhenFull.EXIT:
            log.error("%r ends: its mailbox is full (%s)", self.owner, self._held())
            self.on_full()
        else:
            self.dropped += 1
            if self.dropped == 1:
                log.warning("%r: its mailbox is full (%s): messages that come now are lost", self.owner, self._held())

    def _held(self) -> str:
        return f"{len(self)} messages, about {max(messages_bytes(self) // 1024, 1)} KiB"

    def popleft(self) -> Any:
        message = super().popleft()
        self._taken()
        return message

    def __delitem__(self, index: SupportsIndex, /) -> None:  # type: ignore[override]  # no slices in a deque
        super().__delitem__(index)
        self._taken()

    def take(self, match: Match | None = None) -> Any:
        if match is None:
            self.looked_with = None
            return self.popleft() if self else NOTHING
        return super().take(match)

    def remove_all(self, match: Match) -> list[Any]:
        removed = super().remove_all(match)
        self._taken()
        return removed

    def _taken(self) -> None:
        if len(self) >= self.limit:
            return
        if self.dropped:
            log.warning("%r: its mailbox has room again; %d messages were lost", self.owner, self.dropped)
            self.dropped = 0
        if self.waiting:
            self.release()

    def close(self) -> None:
        """Its process has ended: there is nobody to wait for any more."""
        self.policy, self.dropped = WhenFull.DROP, 1  # without a word in the log
        self.clear()
        self.release()

    def release(self) -> None:
        """Wake who waits for room."""
        waiting, self.waiting = self.waiting, {}
        for wake in waiting:
            wake()
