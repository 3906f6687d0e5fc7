"""The master of an application: its group leader, and who ends what is left of it. Source: application_master.erl.

Two processes, as in OTP: the master (`run`), which passes on what the application prints, and the starter, which calls
the callbacks and is the parent of the root supervisor. What they tell each other and the controller are objects of this
Python process, which no peer can send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import (
    current_body,
    exit,
    group_leader,
    link,
    reason_of,
    reason_text,
    receive,
    self,
    send,
    spawn_link,
    trap_exit,
    unlink,
    whereis,
)
from beamnode.otp.handlers import Ignore
from beamnode.otp.proc_lib import StartFailed

if TYPE_CHECKING:
    from beamnode.otp.application import Application

log = logging.getLogger("beamnode.application")

USER: Final = a.user


class _Word:
    """A message without contents."""


STOP: Final = _Word()


@dataclass(frozen=True, slots=True)
class Started:
    """To the controller: the callback `start` has given a pid."""

    name: Atom


@dataclass(frozen=True, slots=True)
class StartFailure:
    """To the controller: it has not. `text` is for people, `reason` OTP's term."""

    name: Atom
    text: str
    reason: Any


async def run(controller: Pid, name: Atom, application: type[Application]) -> None:
    """The master. Ends with the reason of the root supervisor, `normal` after a stop."""
    trap_exit()
    if whereis(USER) is not None:
        group_leader(self(), self())
    starter = spawn_link(_start, self(), controller, name, application)
    while True:
        message = await receive()
        match message:
            case (a.io_request, _, _, _):
                _relay(message)
            case (a.EXIT, pid, reason) if pid == starter:
                break
            case (a.EXIT, pid, reason) if pid == controller:
                send(starter, STOP)
            case _ if message is STOP:
                send(starter, STOP)
    _kill_rest()
    await _relay_rest()
    raise ProcessExit(reason)


def _relay(request: Any) -> None:
    if whereis(USER) is not None:
        send(USER, request)
        return
    _, sender, reference, _ = request
    if isinstance(sender, Pid):
        send(sender, (a.io_reply, reference, (a.error, a.terminated)))


def _kill_rest() -> None:
    """Every process of this node that has the master as its group leader."""
    master = self()
    for process in current_body().runtime.signals.processes():
        if process.group_leader == master and process.pid != master:
            unlink(process.pid)
            exit(process.pid, a.kill)


async def _relay_rest() -> None:
    """What the application printed last is in the mailbox."""
    while True:
        try:
            message = await receive(timeout=0)
        except TimeoutError:
            return
        if type(message) is tuple and len(message) == 4 and message[0] is a.io_request:
            _relay(message)


# --- The starter ------------------------------------------------------------------------------------------------------


async def _start(master: Pid, controller: Pid, name: Atom, application: type[Application]) -> None:
    trap_exit()
    root: Pid | None = None
    state: Any = []
    try:
        instance = application()
        start = getattr(instance, "start", None)
        if start is not None:
            root, state = _checked(await _called(start, a.normal, application.args))
            link(root)
    except (Exception, SystemExit) as error:
        call = (Atom(application.__name__), a.start, [a.normal, application.args])
        text, reason = _failure(error, call)
        send(controller, StartFailure(name, text, reason))
        raise ProcessExit(reason) from None
    send(controller, Started(name))
    await _serve(master, instance, root, state)


async def _serve(master: Pid, application: Application, root: Pid | None, state: Any) -> None:
    """Wait for the end of the root supervisor, or bring it about."""
    while True:
        message = await receive()
        match message:
            case (a.EXIT, pid, reason) if pid == root:
                await _stopped(application, await _prepared(application, state))
                raise ProcessExit(reason)
            case (a.EXIT, pid, reason) if pid == master:
                break
            case _ if message is STOP:
                reason = a.shutdown
                break
    state = await _prepared(application, state)
    if root is not None:
        exit(root, reason)
        await receive(lambda got: type(got) is tuple and len(got) == 3 and got[:2] == (a.EXIT, root))
    await _stopped(application, state)
    raise ProcessExit(a.normal if message is STOP else reason)


class _NoPid(Exception):
    """A start gave no pid: what it gave."""


def _checked(result: Any) -> tuple[Pid, Any]:
    match result:
        case Pid():
            return result, []
        case (Pid() as pid, state) | (a.ok, Pid() as pid, state):
            return pid, state
        case (a.ok, Pid() as pid):
            return pid, []
    raise _NoPid(result)


def _failure(error: BaseException, call: tuple[Atom, Atom, list[Any]]) -> tuple[str, Any]:
    """For people, and as OTP says it."""
    where = f"{call[0]}.start"
    match error:
        case _NoPid(args=((a.error, reason),)):
            return f"{where} returned {shown((a.error, reason))}", (reason, call)
        case _NoPid(args=(result,)):
            text = f"{where} returned {shown(result)}: it has to return the pid of the root supervisor, or (pid, state)"
            return text, (a.bad_return, (call, result))
        case StartFailed():
            return f"{where} ended: {reason_text(error.reason)}", (error.reason, call)
        case Ignore():
            return f"the root supervisor of {where} chose not to start", (a.bad_return, (call, a.ignore))
        case ProcessExit(reason=a.normal):
            return f"{where} ended with normal", ((a.EXIT, a.normal), call)
        case ProcessExit():
            return f"{where} ended: {reason_text(error.reason)}", (a.bad_return, (call, (a.EXIT, error.reason)))
    log.error("%s failed", where, exc_info=error)
    return f"{where} raised {error!r}", (a.bad_return, (call, (a.EXIT, reason_of(error))))


async def _prepared(application: Application, state: Any) -> Any:
    prepare = getattr(application, "prep_stop", None)
    if prepare is None:
        return state
    try:
        return await _called(prepare, state)
    except Exception:
        log.exception("%s.prep_stop failed", type(application).__name__)
        return state


async def _stopped(application: Application, state: Any) -> None:
    stop = getattr(application, "stop", None)
    if stop is None:
        return
    try:
        await _called(stop, state)
    except Exception:
        log.exception("%s.stop failed", type(application).__name__)


async def _called(callback: Callable[..., Any], *args: Any) -> Any:
    result = callback(*args)
    while hasattr(type(result), "__await__"):
        result = await result
    return result
