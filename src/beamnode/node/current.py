"""The current process: the one ambient thing of the library. It is what `self()` answers.

It follows the context: an `async with Node(...)` body, a spawned coroutine or thread, and whatever tasks and threads
they start with a copy of their context (`asyncio.create_task`, `asyncio.to_thread`).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from beamnode.errors import NotAliveError

if TYPE_CHECKING:
    from beamnode.node.body import Body

current: ContextVar[Body | None] = ContextVar("beamnode_current", default=None)


def current_body() -> Body:
    """The body of the current process. Errors: NotAliveError outside of any process."""
    body = current.get()
    if body is None:
        raise NotAliveError(
            "no process is current here: call this inside `async with Node(...)`, in a function that was spawned, "
            "or in a thread inside `with node.process():`"
        )
    return body


def current_body_or_none() -> Body | None:
    """The body of the current process, if there is one."""
    return current.get()
