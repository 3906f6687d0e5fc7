"""What is known of a process, by the names of Erlang's items; and the place in Python code where it is.

Of the items of OTP all are here that a Python process has. `reductions` and the sizes of heaps are not: nothing counts
the first, and objects of Python belong to no process. Source: `erlang:process_info/2`; Elixir's `Process.info/2`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.core.sizes import messages_bytes
from beamnode.errors import UsageError
from beamnode.node.body import Body, ThreadBody
from beamnode.node.dictionary_keys import INITIAL_CALL, LABEL

FRAMES_MAX: Final = 50  # of one stack

_Frames = list[tuple[FrameType, int]]  # outermost first, each with the number of its line

_PACKAGE: Final = Path(__file__).parents[1]
_MACHINERY: Final = (str(_PACKAGE / "node"), str(_PACKAGE / "sync"))  # what every process runs in and waits in
_WORKER: Final = str(_PACKAGE / "otp" / "worker.py")
_WAITS: Final = (threading.__file__, str(Path(asyncio.__file__).parent), sys.modules["concurrent.futures"].__path__[0])


class Line(NamedTuple):
    """A line of Python code that a process is at."""

    module: str
    function: str
    arity: int
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}, in {self.module}.{self.function}"


# --- Where it is ------------------------------------------------------------------------------------------------------


def stack_of_process(process: Process) -> list[Line]:
    """The lines that a process is at, innermost first: where it waits or runs, what called that, and so on.

    What every process has, the frames of this library's runtime, is left out. Call it on the loop of the node, which
    no coroutine but that of the caller runs on then.
    """
    body = process.body
    frames = _own_code(_frames(body)) if isinstance(body, Body) else []
    return [_line(frame, number) for frame, number in reversed(frames[-FRAMES_MAX:])]


def _frames(body: Body) -> _Frames:
    task = getattr(body, "task", None)
    if task is None:
        thread = getattr(body, "thread", None)
        return [] if thread is None else _frames_of_thread(thread)
    frames = _frames_of_task(task)
    return frames + _frames_of_worker(f"beamnode {body.process.pid!r}")


def _frames_of_task(task: asyncio.Task[Any]) -> _Frames:
    """Of the coroutine, of what that awaits, and so on; into the tasks that it waits for."""
    frames: _Frames = []
    seen = set()
    while hasattr(task, "get_coro") and task not in seen and not task.done():
        seen.add(task)
        if task is asyncio.current_task(task.get_loop()):
            return frames + _frames_up_to(sys._getframe(), task.get_coro())
        awaited: Any = task.get_coro()
        while awaited is not None:
            frame, awaited = _suspended(awaited)
            if frame is not None:
                frames.append((frame, frame.f_lineno))
        task = getattr(task, "_fut_waiter", None)  # type: ignore[assignment]
    return frames


def _suspended(awaited: Any) -> tuple[FrameType | None, Any]:
    """The frame of a coroutine (or a generator of either kind) that waits, and what it awaits."""
    for prefix, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
        frame = getattr(awaited, f"{prefix}_frame", None)
        if frame is not None:
            return frame, getattr(awaited, inner, None)
    return None, None


def _frames_up_to(frame: FrameType | None, coroutine: Any) -> _Frames:
    """Of the running coroutine: all that it has called."""
    frames: _Frames = []
    outermost = _suspended(coroutine)[0]
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        if frame is outermost:
            break
        frame = frame.f_back
    return frames[::-1]


def _frames_of_thread(thread: threading.Thread) -> _Frames:
    frame = None if thread.ident is None else sys._current_frames().get(thread.ident)
    frames: _Frames = []
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return frames[::-1]


def _frames_of_worker(name: str) -> _Frames:
    """Of the thread in which a server whose handlers block runs one now."""
    for thread in threading.enumerate():
        if thread.name == name:
            frames = _frames_of_thread(thread)
            return frames[_last(frames, (_WORKER,)) + 1 :]
    return []


def _own_code(frames: _Frames) -> _Frames:
    """Without the frames that start a process, and without those in which it waits."""
    begin = 0
    while begin < len(frames) and frames[begin][0].f_code.co_filename.startswith((*_MACHINERY, threading.__file__)):
        begin += 1
    end = len(frames)
    for index in range(len(frames) - 1, begin - 1, -1):
        file = frames[index][0].f_code.co_filename
        if file.startswith(_MACHINERY):
            end = index
        elif not file.startswith(_WAITS):
            break
    return frames[begin:end]


def _last(frames: _Frames, files: tuple[str, ...]) -> int:
    return max((i for i, (frame, _) in enumerate(frames) if frame.f_code.co_filename.startswith(files)), default=-1)


def _line(frame: FrameType, number: int | None) -> Line:
    code = frame.f_code
    module = frame.f_globals.get("__name__")
    name = code.co_qualname
    return Line(str(module), name, code.co_argcount + code.co_kwonlyargcount, code.co_filename, number or 0)


# --- What it is -------------------------------------------------------------------------------------------------------


def _status(process: Process) -> str:
    body = process.body
    task = getattr(body, "task", None)
    if not process.alive:
        return "exiting"
    if isinstance(body, Body) and any(gate.suspends and not gate.has_room for gate in body.held_by):
        return "suspended"
    if isinstance(body, ThreadBody) or task is None:
        return "waiting" if process.waiting or body is None else "running"
    if task is asyncio.current_task(task.get_loop()):
        return "running"
    woken = body.waits and not process.waiting  # a message is there, and the loop will come to it
    return "waiting" if task._fut_waiter is not None and not woken else "runnable"


def _memory(process: Process) -> int:
    """What the node holds for it, in bytes: its record and tables, its frames, and an estimate of its messages.

    Not what variables are: objects of Python are shared, and belong to no process.
    """
    size = sys.getsizeof
    tables = (process.links, process.monitors, process.watchers, process.aliases, process.expected)
    total = size(process) + size(process.mailbox) + messages_bytes(process.mailbox) + sum(map(size, tables))
    total += 0 if process.dictionary is None else size(process.dictionary)
    body = process.body
    task = getattr(body, "task", None)
    total += 0 if body is None else size(body) + (size(body.__dict__) if hasattr(body, "__dict__") else 0)
    awaited = None if task is None else task.get_coro()
    while awaited is not None:
        total += size(awaited)
        awaited = _suspended(awaited)[1]
    return total


_Item = Callable[[Process, Signals], Any]

_USUAL: Final[dict[str, _Item]] = {
    "registered_name": lambda process, _: process.name,
    "initial_call": lambda process, _: (process.dictionary or {}).get(INITIAL_CALL, process.initial_call),
    "status": lambda process, _: _status(process),
    "message_queue_len": lambda process, _: len(process.mailbox),
    "links": lambda process, _: [pid for pid, entry in process.links.items() if entry.active],
    "monitors": lambda process, _: [monitor.down_object() for monitor in process.monitors.values()],
    "monitored_by": lambda process, _: [watcher.pid for watcher in process.watchers.values()],
    "dictionary": lambda process, _: dict(process.dictionary or {}),
    "label": lambda process, _: (process.dictionary or {}).get(LABEL),
    "trap_exit": lambda process, _: process.trap_exit,
    "group_leader": lambda process, signals: signals.leader_of(process),
    "parent": lambda process, _: process.parent,
}

_FURTHER: Final[dict[str, _Item]] = {
    "current_stacktrace": lambda process, _: stack_of_process(process),
    "current_location": lambda process, _: next(iter(stack_of_process(process)), None),
    "memory": lambda process, _: _memory(process),
    "messages": lambda process, _: list(process.mailbox),
}

ITEMS: Final = {**_USUAL, **_FURTHER}


def info_of(process: Process, signals: Signals, item: str | Iterable[str] | None = None) -> Any:
    """The value of an item, a dict of several, or (None) of those that cost next to nothing. Errors: UsageError."""
    if isinstance(item, str):
        return _item(item)(process, signals)
    chosen = _USUAL if item is None else {name: _item(name) for name in item}
    return {name: get(process, signals) for name, get in chosen.items()}


def _item(name: str) -> _Item:
    try:
        return ITEMS[name]
    except (KeyError, TypeError):
        raise UsageError(f"{name!r} is no item of a process: those are {', '.join(ITEMS)}") from None
