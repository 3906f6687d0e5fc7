"""The loop of a server: takes messages, calls handlers, ends as they say. Source: gen_server.erl (`loop`, `terminate`).

A message costs no task, no turn of the event loop and no coroutine of its own: what is in the mailbox is handled in one
go, but for handlers that wait, and for the turns that `receive` gives to others now and then.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeAlias

from beamnode.errors import EncodeError, NameTakenError, ProcessExit, UsageError
from beamnode.etf import Pid, a
from beamnode.etf.shown import shown
from beamnode.node import (
    Origin,
    current_body,
    error_text,
    from_users_code,
    reason_of,
    reason_text,
    receive,
    report_text,
    self,
)
from beamnode.otp import gen, names, proc_lib
from beamnode.otp.handlers import NO_REPLY, Continue, Handlers, Ignore, Reply, Server, Stop, Then, Timeout
from beamnode.otp.names import Name
from beamnode.otp.sys import Ordered, System
from beamnode.otp.worker import Worker

_NO_MESSAGE: Final = object()
_EXIT: Final = a.EXIT
_INSTRUCTIONS: Final = (Stop, Reply, Continue, Timeout)  # what `handle_call` may return that is no reply

Rest: TypeAlias = Coroutine[Any, Any, None] | None


class AlreadyStarted(NameTakenError):
    """The name of a new server belongs to a process already: `pid`."""

    def __init__(self, text: str, pid: Pid) -> None:
        super().__init__(text)
        self.pid = pid


async def start(
    cls: type[Server],
    args: tuple[Any, ...],
    name: Name | None,
    timeout: float | None,
    *,
    link: bool,
    loop: type[Loop] | None = None,
) -> Pid:
    """Start a server, and wait until its `init` is done; its pid. Errors: as `GenServer.start` says.

    `loop` is what runs it, by default that of gen_server.
    """
    if name is not None:
        names.check(name)
    loop = loop or ServerLoop
    parent, initial_call = self() if link else None, cls.initial_call(*args)
    result = await proc_lib.start(
        *(_enter, loop, cls, args, name, parent),
        link=link,
        timeout=timeout,
        initial_call=initial_call,
        tells_origin=cls.wants_origin,
    )
    if isinstance(result, Exception):
        raise result
    pid: Pid = result
    return pid


async def enter_loop(server: Handlers, parent: Pid | None = None, then: Then = None) -> None:
    """Make the current process a server, whose `init` is behind it; returns or raises at its end."""
    await ServerLoop(server, parent).serve(then)


async def _enter(
    acknowledge: Callable[[Any], None],
    loop: type[Loop],
    cls: type[Server],
    args: tuple[Any, ...],
    name: Name | None,
    parent: Pid | None,
) -> None:
    if name is not None and (pid := names.claim(name)) is not None:
        acknowledge(AlreadyStarted(f"{name} is registered already, to {pid!r}: that server is running", pid))
        return
    await loop(cls(), parent).start(acknowledge, args, name)


class Loop(ABC):
    """What runs one server, in its process: the beginning and the end, which all behaviours have in common."""

    log = logging.getLogger("beamnode.gen_server")

    def __init__(self, server: Server, parent: Pid | None) -> None:
        self._server = server
        self._parent = parent
        body = current_body()
        self._process, self._runtime = body.process, body.runtime
        self._system = System(server, parent)
        if server.wants_origin:
            server.origin = self._process.pid.node
            self._process.tells_origin = True
        self._last: Any = _NO_MESSAGE  # for the log
        self._farewell: tuple[gen.From, Any] | None = None  # a reply that goes out when `terminate` has run
        self._worker = Worker(f"beamnode {self._process.pid!r}") if server.handlers_block else None

    async def start(self, acknowledge: Callable[[Any], None], args: tuple[Any, ...], name: Name | None) -> None:
        """Run `init`, say what came of it, and serve."""
        try:
            then = await self._call(self._server.init, *args)
            if then is Ignore or isinstance(then, Ignore):
                raise then
            self._check(then)
        except Ignore:
            self._close()
            if name is not None:
                names.release(name)
            acknowledge(Ignore(f"{self._server.module_name()} chose not to start"))
            return
        except Stop as stop:
            self._close()
            raise ProcessExit(stop.reason) from None
        except BaseException:
            self._close()
            raise
        acknowledge(self._process.pid)
        await self.serve(then)

    async def serve(self, begun: Any) -> None:
        """Do what `_run` does until the end; raises what the process ends with."""
        try:
            await self._run(begun)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._process.alive or task is None or task.cancelling():
                raise
            await self._end(error)  # of something that the handler waited for
        except (Exception, SystemExit) as error:
            await self._end(error)
        finally:
            self._close()

    @abstractmethod
    async def _run(self, begun: Any) -> NoReturn:
        """Handle messages; `begun` is what `init` returned."""

    @abstractmethod
    def _check(self, begun: Any) -> None:
        """Errors: Stop; UsageError for what `init` must not return."""

    def _reply(self, sender: gen.From, answer: Any) -> None:
        try:
            self._runtime.send(self._process, gen.reply_to(sender), (sender[1], answer))
        except (EncodeError, RecursionError) as error:
            if not self._server.wants_origin:
                raise
            # What peers have run here may give what has no term: no reason for others to lose the server.
            self.log.error("%s cannot reply %s to %r: %r", self._server.module_name(), shown(answer), sender[0], error)
            gen.refuse(sender, reason_of(error))
            return
        if self._system.debugging:
            self._system.note_out(answer, sender[0])

    def _start(self, handler: Callable[..., Any], *args: Any) -> Any:
        """Call a handler; what it returns, or gives when it is awaited (`_waits`)."""
        if self._worker is None or inspect.iscoroutinefunction(handler):
            return handler(*args)
        return self._worker.run(handler, args)

    async def _call(self, handler: Callable[..., Any], *args: Any) -> Any:
        result = self._start(handler, *args)
        while _waits(result):
            result = await result
        return result

    # --- The end ------------------------------------------------------------------------------------------------------

    async def _end(self, error: BaseException) -> NoReturn:
        """Clean up, log what is no orderly end, and raise what the process ends with."""
        if not self._process.alive:  # an exit signal has ended it, which the handler learned from a call here
            raise ProcessExit(self._process.exit_reason) from None
        reason = reason_here(error)
        try:
            await self._terminate(reason)
        except Exception as failure:
            error, reason = failure, reason_here(failure)
        if not _is_orderly(reason):
            self._log(error, reason)
        if self._farewell is not None and self._process.alive:
            self._reply(*self._farewell)
        raise ProcessExit(reason) from None

    async def _terminate(self, reason: Any) -> None:
        await self._call(self._server.terminate, reason)

    def _log(self, error: BaseException, reason: Any) -> None:
        """One message for all there is to say: a log reads best when what belongs together stays together."""
        process = self._process
        name = "" if process.name is None else f" ({process.name})"
        ended = reason_text(reason) if isinstance(error, Stop | ProcessExit) else error_text(error)
        last = self._last.message if type(self._last) is Origin else self._last
        also = [] if last is _NO_MESSAGE else [("Last message", shown(last))]
        what = f"{self._server.module_name()} {process.pid!r}{name} has ended: {ended}"
        shown_error = None if isinstance(error, Stop | Ordered) else error
        self.log.error("%s", report_text(what, process, shown_error, [*also, ("State", self._shown_state())]))

    def _shown_state(self) -> str:
        try:
            state = self._server.get_state()
            if isinstance(state, dict):
                return ", ".join(f"{key}={shown(value)}" for key, value in list(state.items())[:20]) or "(empty)"
            return shown(state)
        except Exception as error:
            return f"(get_state failed: {error!r})"

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class ServerLoop(Loop):
    """The loop of gen_server."""

    def __init__(self, server: Handlers, parent: Pid | None) -> None:
        super().__init__(server, parent)
        self._server: Handlers = server
        self._timeout: float | None = None

    async def _run(self, begun: Then) -> NoReturn:
        rest = self._go_on(begun)
        if rest is not None:
            await rest
        while True:
            timeout, self._timeout = self._timeout, None
            try:
                message = await receive(timeout=timeout)
            except TimeoutError:
                message = a.timeout
            self._last = message
            rest = self._handle(message, timeout)
            if rest is not None:
                await rest

    def _handle(self, message: Any, timeout: float | None) -> Rest:
        """Handle a message; what cannot be done without waiting is the result, to be awaited."""
        if type(message) is Origin:
            self._server.origin, message = message.node, message.message
        elif self._server.wants_origin:
            self._server.origin = self._process.pid.node
        size = len(message) if type(message) is tuple else 0
        label = message[0] if size else None
        if label is gen.CALL and size == 3 and gen.is_from(message[1]):
            if self._system.debugging:
                self._system.note_in(message)
            return self._on_call(message[2], message[1])
        if label is gen.CAST and size == 2:
            if self._system.debugging:
                self._system.note_in(message)
            return self._go_on(self._start(self._server.handle_cast, message[1]))
        if label is gen.SYSTEM and size == 3 and gen.is_from(message[1]):
            self._timeout = timeout  # it does not count as a message of the server
            return self._system.handle(message)
        if label is _EXIT and size == 3 and self._parent is not None and message[1] == self._parent:
            raise Ordered(message[2])
        if self._system.debugging:
            self._system.note_in(message)
        return self._go_on(self._start(self._server.handle_info, message))

    def _on_call(self, request: Any, sender: gen.From) -> Rest:
        try:
            answer = self._start(self._server.handle_call, request, sender)
        except Stop as stop:
            self._note_farewell(stop, sender)
            raise
        return self._answer_later(answer, sender) if _waits(answer) else self._answer(answer, sender)

    async def _answer_later(self, answer: Any, sender: gen.From) -> None:
        try:
            while _waits(answer):
                answer = await answer
        except Stop as stop:
            self._note_farewell(stop, sender)
            raise
        rest = self._answer(answer, sender)
        if rest is not None:
            await rest

    def _answer(self, answer: Any, sender: gen.From) -> Rest:
        """What `handle_call` returned."""
        if isinstance(answer, _INSTRUCTIONS):
            then: Any = answer
            answer = NO_REPLY
            if isinstance(then, Stop):
                self._note_farewell(then, sender)
            elif isinstance(then, Reply):
                answer, then = then.value, then.then
            if answer is not NO_REPLY:
                self._reply(sender, answer)
            return self._go_on(then)
        if answer is not NO_REPLY:
            self._reply(sender, answer)
        return None

    def _note_farewell(self, stop: Stop, sender: gen.From) -> None:
        if stop.reply is not NO_REPLY:
            self._farewell = sender, stop.reply

    def _go_on(self, then: Any) -> Rest:
        """What a handler returned, `handle_call` excepted."""
        if then is None:
            return None
        if isinstance(then, Continue) or _waits(then):
            return self._go_on_later(then)
        if isinstance(then, Timeout):
            self._timeout = then.seconds
        else:
            self._check(then)
        return None

    async def _go_on_later(self, then: Any) -> None:
        while True:
            if isinstance(then, Continue):
                then = self._start(self._server.handle_continue, then.argument)
            elif _waits(then):
                then = await then
            else:
                break
        self._go_on(then)

    def _check(self, then: Any) -> None:
        """Errors: Stop; UsageError for what only `handle_call` may return."""
        if isinstance(then, Stop):
            raise then
        if not (then is None or isinstance(then, Continue | Timeout) or then is a.hibernate or then is NO_REPLY):
            raise UsageError(
                f"a handler of {self._server.module_name()} returned {shown(then)}: "
                "all but handle_call return nothing, a Continue or a Timeout; the state is in the attributes"
            )


def _waits(result: Any) -> bool:
    """Whether a handler gives its result only when it is awaited."""
    return hasattr(type(result), "__await__")


def reason_here(error: BaseException) -> Any:
    """What a server ends with; the stack of an exception begins in its own code, not in this folder."""
    if isinstance(error, Stop):
        return error.reason
    return reason_of(error.with_traceback(from_users_code(error.__traceback__)))


def _is_orderly(reason: Any) -> bool:
    return reason in (a.normal, a.shutdown) or (
        isinstance(reason, tuple) and len(reason) == 2 and reason[0] is a.shutdown
    )
