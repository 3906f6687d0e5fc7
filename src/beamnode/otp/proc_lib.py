"""Processes that are started with an answer: whoever starts one knows when it is ready, or why it is not.

They know where they come from: their dictionary holds `$ancestors`, the parent and its own ancestors (each by its
registered name, where it had one), and `$initial_call`. Any process may have a label, which says in logs and listings
what it is. Source: proc_lib.erl (`start/5`, `init_ack/2`, `stop/3`, `set_label/1`); Elixir's `Process.set_label/1`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, Pid, a
from beamnode.node import (
    ANCESTORS,
    INITIAL_CALL,
    LABEL,
    current_body,
    demonitor,
    exit,
    monitor,
    process_dictionary,
    process_info,
    reason_text,
    receive_tagged,
    send,
    spawn_with_dictionary,
    unlink,
)
from beamnode.otp import gen, names

InitialCall: TypeAlias = tuple[Atom, Atom, int]


class StartFailed(ProcessExit):
    """The process ended before it was ready; `reason` is what it ended with."""

    def __str__(self) -> str:
        return f"the process ended before it was ready: {reason_text(self.reason)}"


def set_label(label: Any) -> None:
    """Say what the current process is, for logs and listings: any term, mostly a text or a tuple."""
    process_dictionary()[LABEL] = label


def get_label(pid: Pid | None = None) -> Any:
    """The label of a process of this node (default: the current one); None when it has none, or has ended."""
    return (process_info(pid, "dictionary") or {}).get(LABEL)


def ancestors() -> list[Atom | Pid]:
    """What a process that the current one starts now has as `$ancestors`: the current one, and its own.

    Each by its registered name, where it had one, else by its pid.
    """
    process = current_body().process
    own = [] if process.dictionary is None else process.dictionary.get(ANCESTORS)
    return [process.pid if process.name is None else process.name, *(own if isinstance(own, list) else [])]


def origins(initial_call: InitialCall) -> dict[Any, Any]:
    """The dictionary that a process has from the start, when the current one starts it (`spawn_with_dictionary`)."""
    return {INITIAL_CALL: initial_call, ANCESTORS: ancestors()}


def call_of(function: Callable[..., Any], arity: int) -> InitialCall:
    """The `$initial_call` of a process that begins with a Python function."""
    module = getattr(function, "__module__", None) or "python"
    name = getattr(function, "__qualname__", None) or type(function).__name__
    return Atom(module[:255]), Atom(name[:255]), arity


async def start(
    function: Callable[..., Coroutine[Any, Any, None]],
    *args: Any,
    link: bool = False,
    timeout: float | None = None,
    initial_call: InitialCall | None = None,
    tells_origin: bool = False,
) -> Any:
    """Spawn `function(ack, *args)` and wait until it has called `ack(result)`, which is the result here.

    `initial_call` is its `$initial_call`; by default that names the function itself. `tells_origin`: as of
    `spawn_with_dictionary`.
    Errors: StartFailed with the reason of a process that ended first; TimeoutError, after which it is killed.
    With `link`, a process that ends with another reason than `normal` takes the current one along, unless that traps
    exits: then StartFailed is all that it hears of it.
    """

    def acknowledge(result: Any) -> None:
        send(reference, (gen.tag_of(reference), result))

    dictionary = origins(initial_call or call_of(function, len(args)))
    pid = spawn_with_dictionary(function, (acknowledge, *args), dictionary, link=link, tells_origin=tells_origin)
    reference = monitor(pid, alias="reply_demonitor", expected=True)
    try:
        message = await receive_tagged(reference, timeout=timeout)
    except BaseException:
        if current_body().process.alive:  # else it goes the way of links
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
