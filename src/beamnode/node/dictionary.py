"""The process dictionary: terms that a process keeps about itself, where whoever looks at it from outside finds them.

OTP and Elixir keep in it where a process comes from: `$initial_call`, `$ancestors`, `$callers`, `$process_label`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beamnode.core.process import Process
from beamnode.etf import Pid
from beamnode.node.body import body_of
from beamnode.node.current import current_body


def process_dictionary() -> dict[Any, Any]:
    """The dictionary of the current process, itself: `process_dictionary()[a.key] = value`, `.get`, `.pop`.

    Peers see it with `process_info`. A process that never asks for it has none. Source: `erlang:put/2`, `get/1`.
    """
    process = current_body().process
    if process.dictionary is None:
        process.dictionary = {}
    return process.dictionary


def spawn_with_dictionary(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    dictionary: dict[Any, Any],
    *,
    link: bool = False,
    tells_origin: bool = False,
) -> Pid:
    """`spawn` (or `spawn_link`) of a process that has `dictionary` before its first step; it becomes its own.

    With `tells_origin` it gets what peers send it as `Origin`, from the first message on: a peer may guess its pid.
    """
    body = current_body()
    runtime, parent = body.runtime, body.process

    def make() -> Process:
        body_of(parent).check_alive()
        process = runtime.spawn(function, args, parent=parent, link=link, dictionary=dictionary)
        process.tells_origin = tells_origin
        return process

    process: Process = runtime.on_loop(make)
    return process.pid
