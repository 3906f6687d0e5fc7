"""Asking a group leader: the client's side of the IO protocol. Programs know it as `beamnode.io`.

    from beamnode import io

    await io.put_chars("hello\\n")            # waits until it is printed, unlike print
    name = await io.get_line("name? ")       # None at the end of the input
    await io.fwrite("~p and ~ts~n", [{a.x: 1}, "text"])

Everything goes to the group leader of the current process, or to `leader`: a pid, a registered name such as `"user"`,
or `(name, node)`. A process that is a thread calls `io.blocking(io.get_line, "name? ")`.

Source: the documentation of stdlib, "The Erlang I/O Protocol"; io.erl.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from beamnode.errors import BeamnodeError, ProcessExit, UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.node import current_body, monitor, receive, send, wait_in_thread
from beamnode.node import self as own_pid
from beamnode.services.io_format import chardata_text, format_text

Device = Pid | Atom | str | tuple[Atom | str, Atom | str]
Result = TypeVar("Result")


class IoFailed(BeamnodeError):
    """The IO server refused a request, or is not there: `reason` is a term, such as `terminated` or `enotsup`."""

    def __init__(self, text: str, reason: Any) -> None:
        super().__init__(text)
        self.reason = reason


async def request(what: Any, leader: Device | None = None) -> Any:
    """Send one request of the IO protocol and wait for the answer, a term.

    Errors: IoFailed, with `terminated` when there is no such IO server or it ends meanwhile.
    """
    body = current_body()
    runtime = body.runtime
    if not runtime.on_its_loop():
        raise UsageError("this code runs in a thread: call io.blocking(io.get_line, prompt), which blocks")
    device = runtime.signals.leader_of(body.process) if leader is None else leader
    return await runtime.run_process(_ask, body.process.pid, device, what)


async def _ask(owner: Pid, device: Device, what: Any) -> Any:
    """In a process of its own, so that several tasks and threads of the `owner` can ask at a time."""
    owned, reference = monitor(owner), monitor(device)
    send(device, (a.io_request, own_pid(), reference, what))
    answer = await receive(lambda got: isinstance(got, tuple) and len(got) in (3, 5) and got[1] in (reference, owned))
    if answer[1] == owned:
        raise ProcessExit(answer[4])
    if len(answer) == 5:
        raise IoFailed(f"the IO server {device!r} is not there: {answer[4]!r}", a.terminated)
    match answer[2]:
        case (a.error, reason):
            raise IoFailed(f"the IO server {device!r} refuses {what!r:.100}: {reason!r:.200}", reason)
        case result:
            return result


def blocking(function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
    """Call a function of this module in a process that is a thread, and wait there for its result."""
    body = current_body()
    runtime = body.runtime
    if runtime.on_its_loop():
        raise UsageError(f"this code runs on the event loop: use `await io.{function.__name__}(...)`")
    body.check_alive()
    return cast(Result, wait_in_thread(runtime, function(*args)))


async def put_chars(text: str | bytes, leader: Device | None = None) -> None:
    """Print `text`, and wait until the IO server has it."""
    await request((a.put_chars, a.unicode, text), leader)


async def fwrite(form: str, args: Sequence[Any] = (), leader: Device | None = None) -> None:
    """`io:fwrite/2` (`io:format/2`): print `args` as the control sequences in `form` say (`~p`, `~ts`, `~n`, ...)."""
    own = current_body().runtime.identities.node
    await put_chars(format_text(form, list(args), own=own), leader)


async def get_line(prompt: str = "", leader: Device | None = None) -> str | None:
    """Ask for a line; it comes with its end. None at the end of the input."""
    return _text(await request((a.get_line, a.unicode, prompt), leader))


async def get_chars(prompt: str, count: int, leader: Device | None = None) -> str | None:
    """Ask for `count` characters; fewer at the end of the input, then None."""
    return _text(await request((a.get_chars, a.unicode, prompt, count), leader))


async def getopts(leader: Device | None = None) -> dict[Atom, Any]:
    """The options of the IO server, such as `a.binary` and `a.encoding`."""
    return dict(await request(a.getopts, leader))


async def setopts(options: dict[Atom, Any], leader: Device | None = None) -> None:
    """Change options of the IO server."""
    await request((a.setopts, list(options.items())), leader)


async def columns(leader: Device | None = None) -> int | None:
    """How wide the terminal is; None where there is none."""
    return await _geometry(a.columns, leader)


async def rows(leader: Device | None = None) -> int | None:
    """How many lines the terminal has; None where there is none."""
    return await _geometry(a.rows, leader)


async def _geometry(side: Atom, leader: Device | None) -> int | None:
    try:
        size: int = await request((a.get_geometry, side), leader)
    except IoFailed:
        return None
    return size


def _text(answer: Any) -> str | None:
    return None if answer is a.eof else chardata_text(answer)
