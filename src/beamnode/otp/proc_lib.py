"""Processes that are started with an answer: whoever starts one knows when it is ready, or why it is not.

Source: proc_lib.erl (`start/5`, `init_ack/2`, `stop/3`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from beamnode.errors import ProcessExit
from beamnode.etf import Pid, a
from beamnode.etf.shown import shown
from beamnode.node import current_body, demonitor, exit, monitor, receive_tagged, send, spawn, spawn_link, unlink
from beamnode.otp import gen, names


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

    def acknowledge(result: Any) -> None:
        send(reference, (gen.tag_of(reference), result))

    pid = (spawn_link if link else spawn)(function, acknowledge, *args)
    reference = monitor(pid, alias="reply_demonitor", expected=True)
    try:
        message = await receive_tagged(reference, timeout=timeout)
    except BaseException:
        unlink(pid)
        exit(pid, a.kill)
        raise
    finally:
        demonitor(reference, flush=True)
    if len(message) == 2:
        return message[1]
    if link:
        _drop_exit_message(pid)
    raise StartFailed(message[4])


async def stop(server: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
    """Let a process that answers system messages end with `reason`, and wait for its end.

    Errors: ProcessExit when it is not there (`noproc`, `noconnection`), ends with another reason, or is the caller
    itself (`calling_self`); TimeoutError: it goes on ending.
    """
    gen.check_not_self(server)
    to = names.located(server)
    if to is None:
        raise ProcessExit(a.noproc)
    reference = monitor(to, expected=True)
    try:
        request = gen.request(to, gen.SYSTEM, (a.terminate, reason), expected=True)
        try:
            message = await receive_tagged(reference, timeout=timeout)
        finally:
            demonitor(request, flush=True)
    finally:
        demonitor(reference, flush=True)
    if message[4] != reason:
        raise ProcessExit(message[4])


def _drop_exit_message(pid: Pid) -> None:
    """A starter that traps exits learns of the failure from `start`; its EXIT message would tell it twice."""
    mailbox = current_body().process.mailbox
    mailbox.take_first(lambda got: isinstance(got, tuple) and len(got) == 3 and got[:2] == (a.EXIT, pid))
