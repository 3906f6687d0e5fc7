"""A thread of the program as a process of a node whose loop runs in another thread (`beamnode.sync`)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from beamnode.etf import a
from beamnode.node.body import LoopBody
from beamnode.node.current import current
from beamnode.node.termination import Terminated

if TYPE_CHECKING:
    from beamnode.core.process import Process
    from beamnode.node.node import Node
    from beamnode.node.runtime import Runtime


class GuestBody(LoopBody):
    """Code in a thread that is not ours: it waits on the loop through the functions of `beamnode.sync`.

    It cannot be stopped from outside; after its process has ended, its next call raises ProcessExit.
    """

    __slots__ = ("thread",)

    def __init__(self, runtime: Runtime, process: Process) -> None:
        super().__init__(runtime, process)
        self.thread: threading.Thread | None = None  # for who asks where it is

    def leave(self, error: BaseException | None) -> None:
        """The block is over; its exception goes on to whoever wrote the block, so it is not logged here."""
        if isinstance(error, KeyboardInterrupt | Terminated):
            self.runtime.end(self.process, a.shutdown)
        else:
            self.finish(error)

    def log_crash(self, error: BaseException) -> None:
        """The exception goes on."""


@contextlib.contextmanager
def blocking_body(node: Node) -> Iterator[None]:
    """Make the calling thread a process of `node` while the block lasts; what leaves the block ends the process."""
    runtime = node.runtime
    body: GuestBody = runtime.on_loop(
        lambda: GuestBody(runtime, runtime.signals.spawn(group_leader=None, initial_call=(a.beamnode, a.body, 0)))
    )
    body.thread = threading.current_thread()
    outer = current.get()
    current.set(body)
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        current.set(outer)
        runtime.on_loop(body.leave, failure)
