"""How much memory the messages of a mailbox hold, roughly."""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import islice
from typing import Any, Final

SAMPLES: Final = 50
OBJECTS_MAX: Final = 1000  # that one message is followed into


def messages_bytes(messages: Collection[Any]) -> int:
    """An estimate, in bytes: what some messages hold, spread evenly, times as many as there are.

    What several messages have in common counts for each, as do atoms; classes and what only they know count nothing.
    """
    if not messages:
        return 0
    step = -(-len(messages) // SAMPLES)
    sizes = [_bytes_of(message) for message in islice(messages, 0, None, step)]
    return sum(sizes) * len(messages) // len(sizes)


def _bytes_of(message: Any) -> int:
    total = 0
    left = [message]
    for _ in range(OBJECTS_MAX):
        if not left:
            break
        one = left.pop()
        total += sys.getsizeof(one)
        if isinstance(one, dict):
            left += one.keys()
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
    return total
