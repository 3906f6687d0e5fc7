"""What a server defines (`Handlers`), and what its handlers may return or raise. Source: gen_server(3), callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from beamnode.errors import UsageError
from beamnode.etf import Atom, a
from beamnode.etf.shown import shown
from beamnode.node import self as own_pid
from beamnode.otp import gen

log = logging.getLogger("beamnode.gen_server")


class _NoReply:
    def __repr__(self) -> str:
        return "NO_REPLY"


NO_REPLY: Final = _NoReply()
"""What `handle_call` returns when the reply comes later, by `GenServer.reply(sender, value)`."""


class Stop(Exception):
    """Raise it (or return it) in a handler to end the server with `reason`; in `handle_call`, `reply` goes out last.

    It does so when `terminate` has run, as in OTP. In `init` it means that the server does not start: `start` raises
    StartFailed with the reason.
    """

    def __init__(self, reason: Any = a.normal, *, reply: Any = NO_REPLY) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


class Ignore(Exception):
    """Raise it (or return it) in `init`: the server chooses not to start. `start` raises it too."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Call `handle_continue(argument)` before the next message."""

    argument: Any


@dataclass(frozen=True, slots=True)
class Timeout:
    """Call `handle_info(a.timeout)` if no message comes within `seconds`."""

    seconds: float


Then: TypeAlias = Continue | Timeout | None
"""How a server goes on: at once, with the next message, or with a time limit. `a.hibernate` is None here."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What `handle_call` returns to reply and go on with a `Continue` or a `Timeout`."""

    value: Any
    then: Then | Atom = None


Class = TypeVar("Class", bound="type[Server]")


def blocking(server: Class) -> Class:
    """Run the handlers of a server class in a thread of its own, one at a time: they may block or compute.

    The node and the other processes go on meanwhile. `async def` handlers of the class stay on the event loop.
    """
    server.handlers_block = True
    return server


class Attributes:
    """Something whose attributes are its state, but for those that begin with an underscore."""

    def get_state(self) -> Any:
        """What `sys.get_state` and the log show."""
        return {Atom(name): value for name, value in vars(self).items() if not name.startswith("_")}

    def replace_state(self, function: Callable[[Any], Any]) -> Any:
        """What `sys.replace_state` does: `function` gets what `get_state` shows, and returns the new attributes."""
        new = function(self.get_state())
        if not isinstance(new, dict):
            raise UsageError(f"replace_state takes a function from the attributes to new ones, not to {shown(new)}")
        for name, value in new.items():
            setattr(self, str(name), value)
        return self.get_state()

    @classmethod
    def module_name(cls) -> Atom:
        """What `sys` and the log call its module."""
        return Atom(cls.__qualname__.rpartition(".")[2])


class Server(Attributes):
    """What every loop needs of a server. One instance is one server."""

    handlers_block: ClassVar[bool] = False
    wants_origin: ClassVar[bool] = False
    """Whether `origin` is kept: for servers that do what peers ask for, where the node's policy decides."""
    origin: Atom
    """With `wants_origin`: the node whose connection the message came through, whatever that says of itself."""
    terminate: Callable[..., Any]
    """Clean up: what else than the reason it gets, its behaviour says."""

    @classmethod
    def initial_call(cls, *_args: Any) -> tuple[Atom, Atom, int]:
        """What the process says it began with (`$initial_call`), as OTP's servers do: `{Module, init, 1}`."""
        return cls.module_name(), a.init, 1

    def init(self, *args: Any, **_kwargs: Any) -> Any:
        """Prepare the state, from the arguments of `start`. Raise Stop or Ignore not to start."""


class Handlers(Server):
    """What a GenServer defines. Each handler is a `def` or an `async def`.

    `handle_cast`, `handle_info`, `handle_continue` and `init` return nothing, a `Continue` or a `Timeout`.
    """

    def handle_call(self, request: Any, sender: gen.From) -> Any:
        """Answer a call: the result is the reply, unless it is NO_REPLY or a `Reply`."""
        raise UsageError(f"{self.module_name()} was called with {shown(request)}: it has no handle_call")

    def handle_cast(self, request: Any) -> Any:
        """React to a cast."""
        raise UsageError(f"{self.module_name()} was cast {shown(request)}: it has no handle_cast")

    def handle_info(self, message: Any) -> Any:
        """React to any other message."""
        log.error("%s %r got an unexpected message: %s", self.module_name(), own_pid(), shown(message))

    def handle_continue(self, argument: Any) -> Any:
        """Go on where a `Continue` left off."""
        raise UsageError(f"{self.module_name()} continues with {shown(argument)}: it has no handle_continue")

    def terminate(self, reason: Any) -> Any:
        """Clean up. Called when the server stops, by itself, by an exception or by `GenServer.stop`.

        Also when its parent (who called `start_link`) ends, if it traps exits. Not when an exit signal ends it.
        """
