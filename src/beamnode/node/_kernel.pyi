from collections.abc import Callable, Coroutine
from typing import Any

from beamnode.core.process import Match
from beamnode.node.waiting import Waiter as Waiter

def set_up(slow: Callable[..., Any], messages_per_turn: int) -> None: ...
def receive(match: Match | None = None, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]: ...
