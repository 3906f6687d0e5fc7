"""What an event handler defines, and what it may return. Source: gen_event(3), callbacks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeAlias

from beamnode.errors import UsageError
from beamnode.etf import Atom, a
from beamnode.etf.shown import shown
from beamnode.otp.handlers import Attributes

log = logging.getLogger("beamnode.gen_event")


@dataclass(frozen=True, slots=True)
class RemoveHandler:
    """Returned by a handler: remove it, after its `terminate(a.remove_handler)`. A call is replied with `reply`."""

    reply: Any = None


@dataclass(frozen=True, slots=True)
class SwapHandler:
    """Returned by a handler: put another in its place, whose `init` gets `(new_args, terminated)`.

    `terminated` is what `terminate(args)` of this one returns. A call is replied with `reply`.
    """

    args: Any
    handler: Handler
    new_args: Any
    reply: Any = None


class EventHandler(Attributes):
    """Derive from it; one instance is one handler, its attributes are its state.

        class Alarms(EventHandler):
            def init(self, args):
                self.count = 0

            def handle_event(self, event):
                match event:
                    case (a.alarm, what):
                        self.count += 1

            def handle_call(self, request):
                return self.count

    Each may be `def` or `async def`; all handlers of a manager share its process, one after the other. An exception
    removes the handler, and no other.
    """

    def init(self, args: Any) -> Any:
        """Prepare the state. An exception means that the handler is not added; who adds it learns of that.

        `args` are those of `add_handler`; after a swap they are `(args, terminated)`.
        """

    def handle_event(self, event: Any) -> Any:
        """React to an event of `notify` or `sync_notify`. Returns nothing, `RemoveHandler()` or a `SwapHandler`."""
        raise UsageError(f"{self.module_name()} got the event {shown(event)}: it has no handle_event")

    def handle_call(self, request: Any) -> Any:
        """Answer a call: the result is the reply, unless it is a `RemoveHandler` or a `SwapHandler`, which have one."""
        raise UsageError(f"{self.module_name()} was called with {shown(request)}: it has no handle_call")

    def handle_info(self, message: Any) -> Any:
        """React to any other message to the manager, which all its handlers get. Returns as `handle_event`."""
        log.warning("%s got a message, and has no handle_info: %s", self.module_name(), shown(message))

    def terminate(self, why: Any) -> Any:
        """Clean up. The result goes to who deletes or swaps the handler.

        `why` is the argument of `delete_handler` or of a swap, `a.stop` (the manager ends), `a.remove_handler`,
        `(a.stop, reason)` (its supervisor has ended) or `(a.error, (a.EXIT, reason))` (it raised an exception).
        """


Handler: TypeAlias = "type[EventHandler] | Atom | str | tuple[type[EventHandler] | Atom | str, Any]"
"""Which handler: a class, or the name of one (OTP: module), or `(class, id)` where there are several of a class."""


def as_handler(handler: Handler, *, with_class: bool) -> Any:
    """A handler as it is sent: the class itself, or its name. Errors: UsageError."""
    match handler:
        case (kind, name):
            return _module(kind, with_class), name
        case _:
            return _module(handler, with_class)


def _module(kind: Any, with_class: bool) -> Any:
    if isinstance(kind, type) and issubclass(kind, EventHandler):
        return kind if with_class else kind.module_name()
    if not isinstance(kind, Atom | str):
        raise UsageError(f"an event handler is a class derived from EventHandler, or the name of one, not {kind!r}")
    return Atom(str(kind))


def check_result(result: Any, handler: EventHandler, function: str) -> None:
    """Errors: UsageError for what that function of a handler may not return."""
    if isinstance(result, SwapHandler) and function != "terminate":
        as_handler(result.handler, with_class=True)
    if function in ("handle_call", "terminate") or result is None or result is a.ok or result is a.hibernate:
        return
    if function == "init" or not isinstance(result, RemoveHandler | SwapHandler):
        raise UsageError(
            f"{function} of {handler.module_name()} returned {shown(result)}: the state is in the attributes"
        )
