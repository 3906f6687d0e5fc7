"""`GenEvent`: an event manager, a process with a list of handlers, as OTP's gen_event.

    class Alarms(EventHandler):
        def init(self, args):
            self.seen = []

        def handle_event(self, event):
            self.seen.append(event)

        def handle_call(self, request):
            return self.seen

    await GenEvent.start_link(name="alarms")
    await GenEvent.add_handler("alarms", Alarms, [])
    GenEvent.notify("alarms", (a.temperature, 80))
    await GenEvent.call("alarms", Alarms, a.seen)

Peers use a manager as one of their own (`gen_event:notify/2`, `call/3`, `delete_handler/3`, ...). What they may add or
swap in is what the class of the manager names, by the names of the classes:

    class AlarmManager(GenEvent):
        handlers = (Alarms,)

Then `gen_event:add_handler({alarms, Node}, 'Alarms', [])` works there. Others are refused as a module that does not
exist, with `{'EXIT', {undef, _}}`. Source: gen_event.erl and its documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from beamnode.errors import ProcessExit
from beamnode.etf import Pid, Reference, a
from beamnode.node import reason_text, self
from beamnode.otp import gen, names, server_loop
from beamnode.otp.child_specs import Supervised
from beamnode.otp.event_handlers import EventHandler, Handler, RemoveHandler, SwapHandler, as_handler
from beamnode.otp.event_loop import EventLoop
from beamnode.otp.gen_server import CallFailed, GenServer, as_term
from beamnode.otp.handlers import Server

__all__ = ["CALL_SECONDS", "EventHandler", "GenEvent", "Handler", "HandlerFailed", "RemoveHandler", "SwapHandler"]

CALL_SECONDS: Final = 5.0  # as OTP


class HandlerFailed(ProcessExit):
    """A handler was not there (`reason`: `bad_module`, `module_not_found`), failed to start, or crashed: its reason."""

    def __str__(self) -> str:
        return f"the event handler failed: {reason_text(self.reason)}"


class EventCallFailed(CallFailed):
    """The manager was not there, or ended before it replied."""

    def __init__(self, cause: Any, manager: names.Server, handler: Any, request: Any) -> None:
        ProcessExit.__init__(self, (cause, (a.gen_event, a.call, [as_term(manager), handler, request])))
        self.cause = cause


class GenEvent(Server, Supervised):
    """A manager. Use it as it is, or derive from it to say which handlers peers may add; the static methods use any.

    Handlers are called in its process, the one added last first. It traps exits.
    """

    handlers: ClassVar[Sequence[type[EventHandler]]] = ()
    """What may be added by name, and so by peers; programs on this node add any class."""

    child_defaults: ClassVar[dict[str, Any]] = {"modules": "dynamic"}

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start(cls, *, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """Start a manager without handlers; its pid. Errors: AlreadyStarted."""
        return await server_loop.start(cls, (), name, timeout, link=False, loop=EventLoop)

    @classmethod
    async def start_link(cls, *, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """`start`, linked with the current process, its parent: when that ends, so does the manager."""
        return await server_loop.start(cls, (), name, timeout, link=True, loop=EventLoop)

    # --- Events -------------------------------------------------------------------------------------------------------

    @staticmethod
    def notify(manager: names.Server, event: Any) -> None:
        """Send an event to all handlers; whether the manager is there is not asked."""
        names.tell(manager, (a.notify, event))

    @staticmethod
    async def sync_notify(manager: names.Server, event: Any) -> None:
        """Send an event, and wait until all handlers have had it. Errors: ProcessExit when the manager is not there."""
        await _ask(manager, (a.sync_notify, event))

    @staticmethod
    async def call(manager: names.Server, handler: Handler, request: Any, timeout: float | None = CALL_SECONDS) -> Any:
        """Ask one handler and wait for its reply.

        Errors: HandlerFailed, with `bad_module` where there is no such handler, or what it crashed with; CallFailed
        when the manager is not there or ends; TimeoutError after `timeout` seconds.
        """
        wanted = _handler(manager, handler)
        try:
            answer = await _ask(manager, (a.call, wanted, request), timeout)
        except ProcessExit as failure:
            if type(failure) is not ProcessExit:
                raise
            raise EventCallFailed(failure.reason, manager, as_handler(handler, with_class=False), request) from None
        except TimeoutError:
            raise TimeoutError(f"{manager!r} did not reply within {timeout} s") from None
        match answer:
            case (a.error, (a.EXIT, reason)):
                raise HandlerFailed(reason)
            case (a.error, a.bad_module):
                raise HandlerFailed(a.bad_module)
        return answer

    @staticmethod
    def send_request(manager: names.Server, handler: Handler, request: Any) -> Reference:
        """Send a call without waiting; afterwards use `receive_response`, `wait_response` or `check_response`.

        The errors of the handler are `{error, _}` there, as in OTP.
        """
        return gen.request(manager, self(), (a.call, _handler(manager, handler), request))

    # --- Handlers -----------------------------------------------------------------------------------------------------

    @staticmethod
    async def add_handler(manager: names.Server, handler: Handler, args: Any) -> None:
        """Add a handler, with `init(args)`. A class is known to a manager of another node by its name alone.

        Errors: HandlerFailed with what its `init` ended with, `{undef, _}` for a name that the manager does not know.
        """
        _check(await _ask(manager, (a.add_handler, _handler(manager, handler), args)))

    @staticmethod
    async def add_sup_handler(manager: names.Server, handler: Handler, args: Any) -> None:
        """`add_handler`, and be its supervisor: the manager is linked, and tells why the handler went.

        The message is `(a.gen_event_EXIT, handler, reason)`: `normal` (deleted, or removed by itself), `shutdown` (the
        manager ends), `{swapped, NewHandler, Pid}`, or `{'EXIT', Reason}`. When the current process ends, the handler
        is removed.
        """
        _check(await _ask(manager, (a.add_sup_handler, _handler(manager, handler), args, self())))

    @staticmethod
    async def delete_handler(manager: names.Server, handler: Handler, args: Any) -> Any:
        """Remove a handler; what its `terminate(args)` returned. Errors: HandlerFailed, `module_not_found`."""
        answer = await _ask(manager, (a.delete_handler, _handler(manager, handler), args))
        match answer:
            case (a.error, a.module_not_found):
                raise HandlerFailed(a.module_not_found)
            case (a.EXIT, reason):
                raise HandlerFailed(reason)
            case a.ok:
                return None
        return answer

    @staticmethod
    async def swap_handler(manager: names.Server, old: tuple[Handler, Any], new: tuple[Handler, Any]) -> None:
        """Replace `(handler, args)` by another, whose `init` gets `(args, what terminate of the old one returned)`.

        Where there is no old one, that is `a.error`. Errors: HandlerFailed, as `add_handler`.
        """
        (one, args), (other, other_args) = old, new
        request = (a.swap_handler, _handler(manager, one), args, _handler(manager, other), other_args)
        _check(await _ask(manager, request))

    @staticmethod
    async def swap_sup_handler(manager: names.Server, old: tuple[Handler, Any], new: tuple[Handler, Any]) -> None:
        """`swap_handler`, and be the supervisor of the new one."""
        (one, args), (other, other_args) = old, new
        request = (a.swap_sup_handler, _handler(manager, one), args, _handler(manager, other), other_args, self())
        _check(await _ask(manager, request))

    @staticmethod
    async def which_handlers(manager: names.Server) -> list[Any]:
        """The handlers, the one added last first: names of classes (OTP: modules), or `(name, id)`."""
        handlers: list[Any] = await _ask(manager, a.which_handlers)
        return handlers

    whereis = staticmethod(GenServer.whereis)
    stop = staticmethod(GenServer.stop)
    receive_response = staticmethod(GenServer.receive_response)
    wait_response = staticmethod(GenServer.wait_response)
    check_response = staticmethod(GenServer.check_response)


async def _ask(manager: names.Server, request: Any, timeout: float | None = None) -> Any:
    """Requests to a manager are labelled with who sends them."""
    return await gen.call(manager, self(), request, timeout)


def _handler(manager: names.Server, handler: Handler) -> Any:
    pid = names.pid_here(manager)
    return as_handler(handler, with_class=pid is not None and pid.node is self().node)


def _check(answer: Any) -> None:
    match answer:
        case a.ok:
            return
        case (a.EXIT, reason) | (a.error, (a.EXIT, reason)):
            raise HandlerFailed(reason)
    raise HandlerFailed(answer)
