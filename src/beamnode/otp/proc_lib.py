"""Processes that are started with an answer: whoever starts one knows when it is ready, or why it is not.

Source: proc_lib.erl (`start/5`, `init_ack/2`, `stop/3`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from beamnode.errors import ProcessExit
from beamnode.etf import Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node import demonitor, exit, monitor, receive, self, send, spawn, spawn_link, unlink
from beamnode.otp import gen


class StartFailed(ProcessExit):
    """The process ended before it was ready; `reason` is what it ended with."""

    def __str__(self) -> str:
        return f"the process ended before it was ready: {shown(self.reason)}"


async def start(
    function: Callable[..., Coroutine[Any, Any, None]], *args: Any, link: bool = False, timeout: float | None = None
) -> Any:
    """Spawn `function(ack, *args)` and wait until it has called `ack(result)`, which is the result here.

    Errors: StartFailed with the reason of a process that ended first; TimeoutError, after which it is killed.
    With `link`, a process that ends with another reason than `normal` takes the current one along, unless that traps
    exits: then StartFailed is all that it hears of it.
    """
    starter, mark = self(), object()

    def acknowledge(result: Any) -> None:
        send(starter, (mark, result))

    pid = (spawn_link if link else spawn)(function, acknowledge, *args)
    reference = monitor(pid)
    try:
        message = await receive(lambda got: _is_answer(got, mark, reference), timeout=timeout)
    except BaseException:
        unlink(pid)
        exit(pid, a.kill)
        raise
    finally:
        demonitor(reference, flush=True)
    if message[0] is mark:
        return message[1]
    if link:
        await _drop_exit_message(pid)
    raise StartFailed(message[4])


async def stop(server: gen.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
    """Let a process that answers system messages end with `reason`, and wait for its end.

    Errors: ProcessExit when it is not there (`noproc`, `noconnection`), ends with another reason, or is the caller
    itself (`calling_self`); TimeoutError: it goes on ending.
    """
    gen.check_not_self(server)
    reference = monitor(server)
    request = gen.request(server, gen.SYSTEM, (a.terminate, reason))
    try:
        message = await receive(lambda got: _is_down(got, reference), timeout=timeout)
    finally:
        demonitor(reference, flush=True)
        gen.abandon(request)
    if message[4] != reason:
        raise ProcessExit(message[4])


def _is_answer(message: Any, mark: object, reference: Reference) -> bool:
    if not isinstance(message, tuple):
        return False
    return (len(message) == 2 and message[0] is mark) or _is_down(message, reference)


def _is_down(message: Any, reference: Reference) -> bool:
    return isinstance(message, tuple) and len(message) == 5 and message[0] is a.DOWN and message[1] == reference


async def _drop_exit_message(pid: Pid) -> None:
    """A starter that traps exits learns of the failure from `start`; its EXIT message would tell it twice."""
    try:
        await receive(lambda got: isinstance(got, tuple) and len(got) == 3 and got[:2] == (a.EXIT, pid), timeout=0)
    except TimeoutError:
        return
