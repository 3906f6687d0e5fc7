"""The loop of gen_event: a list of handlers, newest first, and what messages do to it. Source: gen_event.erl."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from beamnode.errors import EncodeError, UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import Origin, error_text, link, receive, report_text, send, trap_exit, unlink
from beamnode.otp import gen
from beamnode.otp.event_handlers import EventHandler, RemoveHandler, SwapHandler, as_handler, check_result
from beamnode.otp.sameness import same
from beamnode.otp.server_loop import Loop, reason_here
from beamnode.otp.sys import Ordered, System, sendable_state

if TYPE_CHECKING:
    from beamnode.otp.gen_event import GenEvent

_EXIT: Final = a.EXIT
_NO_REQUEST: Final = object()
_NO_ID: Final = False  # as in OTP, whose handlers without an id have this one


@dataclass(slots=True, eq=False)
class Installed:
    """A handler that a manager has."""

    handler: EventHandler
    module: Atom
    id: Any
    supervisor: Pid | None

    @property
    def term(self) -> Any:
        """What it is called: `Module`, or `{Module, Id}`."""
        return _plain((self.module, self.id))


@dataclass(frozen=True, slots=True)
class Crash:
    """What a handler's function came to when it raised an exception."""

    error: BaseException
    reason: Any

    @property
    def term(self) -> Any:
        return (_EXIT, self.reason)


class EventLoop(Loop):
    """What runs one manager, in its process, which traps exits."""

    log = logging.getLogger("beamnode.gen_event")

    def __init__(self, server: GenEvent, parent: Pid | None) -> None:
        super().__init__(server, parent)
        self._known = {handler.module_name(): handler for handler in server.handlers}
        self._installed: list[Installed] = []
        self._system = System(self, parent, a.gen_event, "event handler")
        trap_exit()

    def _check(self, begun: Any) -> None:
        """A manager has no state of its own: what `init` returns is nothing to it."""

    async def _run(self, begun: Any) -> NoReturn:
        while True:
            message = await receive()
            if type(message) is Origin:
                self._server.origin, message = message.node, message.message
            self._last = message
            size = len(message) if type(message) is tuple else 0
            if size == 3 and message[0] is gen.SYSTEM and gen.is_from(message[1]):
                await self._system.handle(message)
                continue
            if size == 3 and message[0] is _EXIT and self._parent is not None and message[1] == self._parent:
                raise Ordered(message[2])
            if self._system.debugging:
                self._system.note_in(message)
            await self._on_message(message)

    async def _on_message(self, message: Any) -> None:
        match message:
            case (a.notify, event):
                await self._notify("handle_event", event)
                return
            case (a.EXIT, sender, reason):
                await self._supervisor_ended(sender, reason)
            case (_, sender, request) if gen.is_from(sender):
                answer = await self._answer(request)
                if answer is not _NO_REQUEST:
                    self._reply_safely(sender, answer)
                    return
        await self._notify("handle_info", message)

    def _reply_safely(self, sender: gen.From, answer: Any) -> None:
        """What a handler replies need not have a term; the manager goes on."""
        try:
            self._reply(sender, answer)
        except (EncodeError, RecursionError) as error:
            self.log.error("%s cannot reply %s to %r: %r", self._who(), shown(answer), sender[0], error)
            self._reply(sender, (a.error, (_EXIT, reason_here(error))))

    async def _answer(self, request: Any) -> Any:
        """Do what is asked for; the answer, or `_NO_REQUEST`."""
        match request:
            case (a.sync_notify, event):
                return await self._notify("handle_event", event)
            case (a.call, handler, query):
                return await self._on_call(handler, query)
            case (a.add_handler, handler, args):
                return await self._add(handler, args, None)
            case (a.add_sup_handler, handler, args, Pid() as supervisor):
                return await self._add(handler, args, supervisor)
            case (a.delete_handler, handler, args):
                return await self._delete(handler, args)
            case (a.swap_handler, old, old_args, new, new_args):
                return await self._swap(old, old_args, new, new_args, None)
            case (a.swap_sup_handler, old, old_args, new, new_args, Pid() as supervisor):
                return await self._swap(old, old_args, new, new_args, supervisor)
            case a.which_handlers:
                return [installed.term for installed in self._installed]
            case a.get_modules:
                return sorted({installed.module for installed in self._installed}, key=str)
        return _NO_REQUEST

    # --- Events -------------------------------------------------------------------------------------------------------

    async def _notify(self, function: str, event: Any) -> Atom:
        """Let all handlers have an event, or a message, the newest first."""
        for installed in list(self._installed):
            result = await self._tried(installed.handler, function, event)
            if isinstance(result, Crash | RemoveHandler | SwapHandler):
                await self._after(installed, result, event)
        return a.ok

    async def _on_call(self, wanted: Any, query: Any) -> Any:
        installed = self._find(wanted)
        if installed is None:
            return (a.error, a.bad_module)
        result = await self._tried(installed.handler, "handle_call", query)
        if not isinstance(result, Crash | RemoveHandler | SwapHandler):
            return result
        await self._after(installed, result, query)
        return (a.error, result.term) if isinstance(result, Crash) else result.reply

    async def _after(self, installed: Installed, result: Crash | RemoveHandler | SwapHandler, last: Any) -> None:
        """A handler goes, for what its function came to; after a swap another stands in its place."""
        if isinstance(result, SwapHandler):
            place = self._installed.index(installed)
            key = as_handler(result.handler, with_class=True)
            swapped = (a.swapped, _term_of(key), installed.supervisor or False)
            terminated = await self._end_handler(installed, result.args, swapped)
            new, answer = await self._made(key, (result.new_args, terminated), installed.supervisor)
            if new is None:
                called = _plain(_term_of(key))
                self._tell_supervisor(called, installed.supervisor, a.crash)  # which is all that OTP says, too
                self.log.error("%s: %s could not be swapped in: %s", self._who(), shown(key), shown(answer))
            else:
                self._installed.insert(place, new)
        elif isinstance(result, Crash):
            await self._end_handler(installed, (a.error, result.term), result.term)
            self._log_crash(installed, result, last)
        else:
            await self._end_handler(installed, a.remove_handler, a.normal)

    # --- Handlers that come and go ------------------------------------------------------------------------------------

    async def _add(self, wanted: Any, args: Any, supervisor: Pid | None) -> Any:
        if supervisor is not None:
            link(supervisor)
        new, answer = await self._made(wanted, args, supervisor)
        if new is not None:
            self._installed.insert(0, new)
        return answer

    async def _delete(self, wanted: Any, args: Any) -> Any:
        installed = self._find(wanted)
        if installed is None:
            return (a.error, a.module_not_found)
        return await self._end_handler(installed, args, a.normal)

    async def _swap(self, old: Any, old_args: Any, new: Any, new_args: Any, supervisor: Pid | None) -> Any:
        """Without a supervisor the one of the old handler is that of the new one."""
        installed = self._find(old)
        terminated: Any = a.error  # as OTP, where there is no such handler
        if installed is not None:
            supervisor = supervisor or installed.supervisor
            terminated = await self._end_handler(installed, old_args, (a.swapped, _term_of(new), supervisor or False))
        answer = await self._add(new, (new_args, terminated), supervisor)
        return answer if answer is a.ok else (a.error, answer)

    async def _supervisor_ended(self, pid: Any, reason: Any) -> None:
        for installed in [one for one in self._installed if one.supervisor is not None and one.supervisor == pid]:
            await self._end_handler(installed, (a.stop, reason), a.shutdown)

    async def _made(self, wanted: Any, args: Any, supervisor: Pid | None) -> tuple[Installed | None, Any]:
        """A new handler, or None, and what to say of it."""
        kind, name = _key_of(wanted)
        found: type[EventHandler] | None = None
        if isinstance(kind, type):
            found = kind
        elif isinstance(kind, Atom):
            found = self._known.get(kind)
        if found is None:
            self.log.warning("%s: it has no handler %s: its class must be in `handlers`", self._who(), shown(kind))
            return None, (_EXIT, (a.undef, [(kind, a.init, [args], [])]))
        try:
            handler = found()
        except Exception as error:
            return None, Crash(error, reason_here(error)).term
        result = await self._tried(handler, "init", args)
        if isinstance(result, Crash):
            return None, result.term
        return Installed(handler, found.module_name(), name, supervisor), a.ok

    async def _end_handler(self, installed: Installed, why: Any, reason: Any) -> Any:
        """Remove a handler, after its `terminate(why)`, whose result this is; its supervisor learns `reason`."""
        result = await self._tried(installed.handler, "terminate", why)
        self._installed.remove(installed)
        self._tell_supervisor(installed.term, installed.supervisor, reason)
        if isinstance(result, Crash):
            return result.term
        return a.ok if result is None else result

    def _tell_supervisor(self, handler: Any, supervisor: Pid | None, reason: Any) -> None:
        if supervisor is not None:
            told = (a.gen_event_EXIT, handler, reason)
            send(supervisor, told if supervisor.node is self._process.pid.node else sendable_state(told))

    def _find(self, wanted: Any) -> Installed | None:
        module, name = _key_of(_term_of(wanted))
        for installed in self._installed:
            if installed.module == module and same(installed.id, name):
                return installed
        return None

    async def _tried(self, handler: EventHandler, function: str, argument: Any) -> Any:
        """What a function of a handler returns, or a `Crash`. Errors: only those that end the manager itself."""
        try:
            result = await self._call(getattr(handler, function), argument)
            check_result(result, handler, function)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._process.alive or task is None or task.cancelling():
                raise
            return Crash(error, a.cancelled)
        except (Exception, SystemExit) as error:
            if not self._process.alive:
                raise
            return Crash(error, reason_here(error))
        return result

    # --- The end ------------------------------------------------------------------------------------------------------

    async def _terminate(self, reason: Any) -> None:
        supervisors = {one.supervisor for one in self._installed if one.supervisor is not None}
        for installed in list(self._installed):
            await self._end_handler(installed, a.stop, a.shutdown)
        for supervisor in supervisors:
            if supervisor != self._parent:
                unlink(supervisor)  # the end of the manager is no end of theirs

    def _log_crash(self, installed: Installed, crash: Crash, last: Any) -> None:
        handler, said = shown(installed.term), error_text(crash.error)
        what = f"{self._who()} has removed its handler {handler}, which has crashed: {said}"
        also = [("Last event", shown(last)), ("State", _shown_state(installed.handler))]
        self.log.error("%s", report_text(what, self._process, crash.error, also))

    def _who(self) -> str:
        process = self._process
        return f"{self.module_name()} {process.pid!r}{'' if process.name is None else f' ({process.name})'}"

    def _shown_state(self) -> str:
        return f"handlers {shown([installed.term for installed in self._installed])}"

    # --- What sys asks for --------------------------------------------------------------------------------------------

    def module_name(self) -> Atom:
        return self._server.module_name()

    def get_state(self) -> Any:
        """`[{Module, Id, State}]`, as OTP's."""
        return [(one.module, one.id, one.handler.get_state()) for one in self._installed]

    def replace_state(self, function: Callable[[Any], Any]) -> Any:
        """`function` gets `(module, id, state)` of each handler and returns the new one; what fails stays."""
        for installed in self._installed:
            try:
                new = function((installed.module, installed.id, installed.handler.get_state()))
                if not same(new[:2], (installed.module, installed.id)):
                    raise UsageError("the module and the id of a handler stay what they are")
                installed.handler.replace_state(partial(_second, new[2]))
            except Exception as error:
                self.log.warning("%s: the state of %s stays: %r", self._who(), shown(installed.term), error)
        return self.get_state()


def _key_of(wanted: Any) -> tuple[Any, Any]:
    return wanted if type(wanted) is tuple and len(wanted) == 2 else (wanted, _NO_ID)


def _plain(wanted: Any) -> Any:
    module, name = _key_of(wanted)
    return module if name is _NO_ID else wanted


def _term_of(wanted: Any) -> Any:
    """What a handler is called, in messages: one of this node may be told by its class."""
    kind, _ = _key_of(wanted)
    return as_handler(wanted, with_class=False) if isinstance(kind, type) else wanted


def _second(new: Any, _old: Any) -> Any:
    return new


def _shown_state(handler: EventHandler) -> str:
    try:
        return shown(handler.get_state())
    except Exception as error:
        return f"(get_state failed: {error!r})"
