"""Which process runs on an event loop, and the line it is at, as another thread sees it."""

from __future__ import annotations

import asyncio
import sysconfig
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from beamnode.node.body import Body, LoopBody, describe_call
from beamnode.node.current import current

if TYPE_CHECKING:
    from beamnode.node.runtime import Runtime

FRAMES_MAX: Final = 30  # of a stack in the log

_OURS: Final = str(Path(__file__).parents[1])
_PYTHONS: Final = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen "})
_PACKAGES: Final = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), "/usr/lib/python3/"})


def depth_of(frame: FrameType | None) -> int:
    """How many frames there are from this one on outwards."""
    depth = 0
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def line_of(frames: list[FrameType]) -> str:
    """The line to look at, of frames from the innermost on: of the program, else of a package, else the innermost."""
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith((_OURS, *_PYTHONS))]
    programs = [frame for frame in own if not frame.f_code.co_filename.startswith(_PACKAGES)]
    frame = (programs or own or frames)[0]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_qualname}"


def shown_stack(frames: list[FrameType]) -> str:
    """The innermost of them, as in a traceback."""
    walked = ((frame, frame.f_lineno) for frame in reversed(frames[:FRAMES_MAX]))
    return "".join(traceback.StackSummary.extract(walked).format()).rstrip()


def who_runs(loop: asyncio.AbstractEventLoop, runtime: Runtime) -> str:
    """The process whose code the loop runs now, in words; or what else it is."""
    task = asyncio.current_task(loop)
    if task is None:
        return "a callback, of no process,"
    body = _body_of(task, runtime)
    if body is None:
        return f"the task {task.get_name()!r}, of no process,"
    process = body.process
    name = "" if process.name is None else f"{process.name}, "
    described = f"{process.pid!r} ({name}{describe_call(process)})"
    return described if getattr(body, "task", None) is task else f"the task {task.get_name()!r} of {described}"


def _body_of(task: asyncio.Task[Any], runtime: Runtime) -> Body | None:
    """The body in whose context a task runs; where tasks do not tell theirs (Python 3.11), the one that it runs."""
    if hasattr(task, "get_context"):
        body: Body | None = task.get_context().get(current)
        return body
    bodies = (process.body for process in runtime.signals.processes())
    return next((body for body in bodies if isinstance(body, LoopBody) and body.task is task), None)
