"""One shell: its node, its names, and the process in which its lines run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Final, Self

import beamnode.sync as sync
from beamnode.errors import NotAliveError
from beamnode.etf import Pid, a
from beamnode.node import current_body_or_none, monitor, receive
from beamnode.shell.display import Display
from beamnode.shell.evaluator import Evaluator
from beamnode.shell.names import NodeNames, namespace

LINGER_SECONDS: Final = 2.0  # at the end of a pipe or of `-c`, for what was spawned and still prints


class Session:
    """Starts the node and stops it, as a `with` block.

    Its namespace is the module `__main__` meanwhile. When the process of the shell is ended by an exit signal, that is
    told, and the next line has a new one, as in Erlang's shell.
    """

    def __init__(self, node: sync.Node) -> None:
        self.node = node
        self._display = Display(node.name)
        names = namespace(node, self._display.show)
        self._node_names: NodeNames = names["Node"]
        self._main = ModuleType("__main__", "What was typed into the shell.")
        self._main.__dict__.update(names)
        self.evaluator = Evaluator(self._main.__dict__, sync.in_process, self._display.show, _has_ended)
        self._process: contextlib.AbstractContextManager[None] | None = None
        self._outer_main = sys.modules["__main__"]

    def __enter__(self) -> Self:
        self.node.start()
        sys.modules["__main__"] = self._main
        try:
            self._enter_process()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.modules["__main__"] = self._outer_main
        try:
            self._leave_process()
        finally:
            self.node.stop()

    def evaluate(self, source: str) -> bool:
        """Run what was typed; True if it did not raise. Errors: SystemExit, to leave."""
        if _has_ended():
            self._leave_process()
        if self._process is None and self.node.alive:
            self._enter_process()
        return self.evaluator.evaluate(source)

    def linger(self) -> None:
        """Wait a while for what the session has spawned: its output comes here."""
        if not _has_ended():
            self._node_names.wait_for_spawned(LINGER_SECONDS)

    def _enter_process(self) -> None:
        process = self.node.process()
        process.__enter__()
        self._process = process
        sync.spawn(_watch, sync.self(), self._tell_end)

    def _leave_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(NotAliveError):  # the node was stopped
                process.__exit__(None, None, None)

    def _tell_end(self, pid: Pid, reason: Any) -> None:
        show = self._display.show
        print(f"** the shell's process {show(pid)} was ended: {show(reason)}; the next line has a new one", flush=True)


async def _watch(pid: Pid, tell: Callable[[Pid, Any], None]) -> None:
    reference = monitor(pid)
    message = await receive(lambda got: got[1] == reference)
    if message[4] is not a.normal:
        tell(pid, message[4])


def _has_ended() -> bool:
    """Whether the current process, that of the shell, was ended (or there is none)."""
    body = current_body_or_none()
    return body is None or not body.process.alive
