from collections.abc import Coroutine
from typing import Any

from beamnode.core.process import Match

def receive(match: Match | None = None, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]: ...
