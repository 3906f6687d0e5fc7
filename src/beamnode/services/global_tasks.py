"""Small processes inside the machine, as OTP's server has satellites (locker, resolvers): generators with a mailbox.

A body yields what it waits for and is resumed with what came of it. Nothing here knows a clock: `run(now)` resumes
whatever can go on, `next_deadline()` says when the next receive runs out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from beamnode.etf.terms import Atom, Pid
from beamnode.services.global_actions import Call, Outbox, RemoteCall


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the first message that `wanted` accepts; resumed with it, or with None after `timeout_seconds`."""

    wanted: Callable[[Any], bool] | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MultiCall:
    """`gen_server:multi_call`: resumed with a dict of the answers, from which nodes that cannot answer are missing."""

    nodes: tuple[Atom, ...]
    request: Any


@dataclass(frozen=True, slots=True)
class AskRemote:
    """`rpc:call`: resumed with `(result,)`, or with None for any badrpc."""

    node: Atom
    module: Atom
    function: Atom
    arguments: tuple[Any, ...]


Wait: TypeAlias = Receive | MultiCall | AskRemote
T = TypeVar("T")
Steps: TypeAlias = Generator[Wait, Any, T]


@dataclass(slots=True, eq=False)
class Task:
    """One such process. `pid` is the sender of its calls."""

    pid: Pid
    mailbox: deque[Any] = field(default_factory=deque)
    body: Steps[None] | None = None
    waiting: Wait | None = None
    deadline: float | None = None
    pending: set[int] = field(default_factory=set)
    answers: dict[Any, Any] = field(default_factory=dict)
    answer: tuple[Any] | None = None


class Tasks:
    """All tasks of one machine. `local_call(pid, request)` serves the calls that a task makes to this very node."""

    def __init__(self, this_node: Atom, outbox: Outbox, local_call: Callable[[Pid, Any], Any]) -> None:
        self._this_node = this_node
        self._outbox = outbox
        self._local_call = local_call
        self._tasks: list[Task] = []
        self._calls: dict[int, tuple[Task, Atom]] = {}
        self._last_call_id = 0

    def spawn(self, task: Task, body: Steps[None]) -> None:
        """Start `body`; it takes its first step in the next `run`."""
        task.body = body
        self._tasks.append(task)

    def kill(self, task: Task) -> None:
        """Never resume it again; answers to its calls are dropped. A task may be killed while it takes a step."""
        task.body = None
        if task in self._tasks:
            self._tasks.remove(task)
        for call_id in task.pending:
            self._calls.pop(call_id, None)

    def answered(self, call_id: int, answer: tuple[Any] | None) -> None:
        """The end of a call: `(value,)`, or None when it failed. Unknown ids are calls of killed tasks."""
        task, node = self._calls.pop(call_id, (None, None))
        if task is None:
            return
        task.pending.discard(call_id)
        task.answer = answer
        if answer is not None:
            task.answers[node] = answer[0]

    def next_deadline(self) -> float | None:
        return min((task.deadline for task in self._tasks if task.deadline is not None), default=None)

    def run(self, now: float) -> None:
        """Resume every task that can go on, until none can."""
        progress = True
        while progress:
            progress = False
            for task in list(self._tasks):
                while task.body is not None and self._step(task, now):
                    progress = True

    def _step(self, task: Task, now: float) -> bool:
        ready, value = self._outcome(task, now)
        if not ready:
            return False
        body = task.body
        assert body is not None
        task.waiting, task.deadline = None, None
        try:
            wait = body.send(value)
        except StopIteration:
            self.kill(task)
            return False
        if task.body is not None:
            self._await(task, wait, now)
        return True

    def _outcome(self, task: Task, now: float) -> tuple[bool, Any]:
        """Whether what the task waits for has come, and what it is resumed with."""
        match task.waiting:
            case None:
                return True, None
            case Receive(wanted, _):
                for index, message in enumerate(task.mailbox):
                    if wanted is None or wanted(message):
                        del task.mailbox[index]
                        return True, message
                return task.deadline is not None and task.deadline <= now, None
            case MultiCall():
                return not task.pending, task.answers
            case AskRemote():
                return not task.pending, task.answer

    def _await(self, task: Task, wait: Wait, now: float) -> None:
        """Note what the task waits for and start it."""
        task.waiting = wait
        match wait:
            case Receive(_, timeout_seconds):
                task.deadline = None if timeout_seconds is None else now + timeout_seconds
            case MultiCall(nodes, request):
                task.answers = {}
                for node in nodes:
                    if node is self._this_node:
                        task.answers[node] = self._local_call(task.pid, request)
                    else:
                        self._outbox.put(Call(node, request, self._new_call(task, node), task.pid))
            case AskRemote(node, module, function, arguments):
                task.answer = None
                call_id = self._new_call(task, node)
                self._outbox.put(RemoteCall(node, module, function, arguments, call_id))

    def _new_call(self, task: Task, node: Atom) -> int:
        self._last_call_id += 1
        self._calls[self._last_call_id] = (task, node)
        task.pending.add(self._last_call_id)
        return self._last_call_id
