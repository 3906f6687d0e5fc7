"""`GenStatem`: a state machine in a process of its own, as OTP's gen_statem.

    class Door(GenStatem):
        callback_mode = "state_functions", "state_enter"

        def init(self, code):
            self.code = code
            return a.locked  # the first state

        def locked(self, event, content):
            match event, content:
                case "cast", (a.enter_code, code) if code == self.code:
                    return NextState(a.open, StateTimeout(10))
                case ("call", sender), a.state:
                    return KeepState(ReplyTo(sender, a.locked))

        def open(self, event, content):
            match event:
                case "enter":
                    print("welcome")  # `content` is the state from before
                case "state_timeout":
                    return NextState(a.locked)
                case "call", _:
                    return KeepState(Postpone())  # again, when it is locked

    door = await Door.start_link(1234, name="door")
    GenStatem.cast("door", (a.enter_code, 1234))
    await GenStatem.call("door", a.state)

Data are attributes. State functions are `def` or `async def`; what they may return is in `statem_results`, in which
order events come in `statem_engine`. Source: gen_statem.erl and its documentation, for names, order and defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from beamnode.errors import ProcessExit, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.otp import gen, names, server_loop
from beamnode.otp.child_specs import Supervised
from beamnode.otp.gen_server import CallFailed, GenServer
from beamnode.otp.handlers import Ignore, Server, Stop, blocking
from beamnode.otp.statem_loop import StatemLoop
from beamnode.otp.statem_results import (
    Action,
    CancelTimeout,
    Event,
    EventTimeout,
    EventType,
    GenericTimeout,
    KeepState,
    NextEvent,
    NextState,
    Postpone,
    RepeatState,
    ReplyTo,
    Result,
    StateTimeout,
    StopAndReply,
    UpdateTimeout,
)

__all__ = [
    "Action",
    "CancelTimeout",
    "Event",
    "EventTimeout",
    "EventType",
    "GenStatem",
    "GenericTimeout",
    "Ignore",
    "KeepState",
    "NextEvent",
    "NextState",
    "Postpone",
    "RepeatState",
    "ReplyTo",
    "Result",
    "StateTimeout",
    "Stop",
    "StopAndReply",
    "UpdateTimeout",
    "blocking",
    "enter_loop",
]

Mode: TypeAlias = str | Atom | tuple[str | Atom, ...]


class GenStatem(Server, Supervised):
    """Derive from it, and define `callback_mode`, `init`, and `handle_event` or a method for each state.

    A state function gets the type of the event and its content, `handle_event` the state besides. Types of events:
    `("call", sender)`, "cast", "info", "timeout" (event time-out), "state_timeout", `("timeout", name)`, "internal"
    (only by NextEvent), and in enter calls "enter", with the state from before as content. It returns `NextState`,
    `KeepState`, `RepeatState`, each with actions, `Stop` or `StopAndReply`; nothing means to keep the state. An event
    that it does not know is dropped then: a last `case _` that raises ends the machine instead, as in OTP.
    """

    callback_mode: ClassVar[Mode | Callable[..., Mode]] = ()
    """ "handle_event_function" or "state_functions", or a tuple of that and "state_enter"; or a method saying so.

    With "state_functions" the method of a state has its name: the state is an Atom or a str, or an Enum of them. With
    "handle_event_function" it is anything. "state_enter" asks for enter calls: at the start, after each change of
    state, and on RepeatState.
    """

    own_names: ClassVar[frozenset[str]] = frozenset()
    """What GenStatem itself defines: no state function has such a name."""

    def __init_subclass__(cls, **spec: Any) -> None:
        super().__init_subclass__(**spec)
        taken = sorted(
            name
            for name, value in vars(cls).items()
            if name in cls.own_names and name not in _CALLBACKS and inspect.isfunction(value)
        )
        if taken:
            raise UsageError(
                f"{cls.__name__}.{taken[0]} would hide {taken[0]} of GenStatem: let the state have another name, "
                "or use handle_event_function"
            )

    # --- What a machine defines ---------------------------------------------------------------------------------------

    def init(self, *args: Any, **_kwargs: Any) -> Any:
        """The first state, or `NextState` with actions. Raise Stop or Ignore not to start."""
        raise UsageError(f"{self.module_name()} has no init: it returns the first state")

    def handle_event(self, event: EventType, content: Any, state: Any) -> Any:
        """React to an event, with "handle_event_function"."""
        raise UsageError(f"{self.module_name()} got {shown(content)} in state {shown(state)}: it has no handle_event")

    def terminate(self, reason: Any, state: Any) -> Any:
        """Clean up. Called when the machine stops, by itself, by an exception or by `GenStatem.stop`.

        Also when its parent (who called `start_link`) ends, if it traps exits. Not when an exit signal ends it.
        """

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start(cls, *args: Any, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """Start a machine with `init(*args)`, and wait until that is done; its pid.

        The first enter call comes after that. Errors: as `GenServer.start`.
        """
        return await server_loop.start(cls, args, name, timeout, link=False, loop=StatemLoop)

    @classmethod
    async def start_link(cls, *args: Any, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """`start`, linked with the current process, its parent: when that ends, so does the machine."""
        return await server_loop.start(cls, args, name, timeout, link=True, loop=StatemLoop)

    # --- Using --------------------------------------------------------------------------------------------------------

    @staticmethod
    async def call(server: names.Server, request: Any, timeout: float | None = None) -> Any:
        """Send an event of type `("call", sender)` and wait for the reply, as OTP without a limit by default.

        Errors: CallFailed at once when the machine is not there or ends; TimeoutError after `timeout` seconds.
        """
        try:
            return await gen.call(server, gen.CALL, request, timeout)
        except ProcessExit as failure:
            if type(failure) is not ProcessExit:
                raise
            raise CallFailed(failure.reason, server, request, timeout, module=a.gen_statem) from None
        except TimeoutError:
            raise TimeoutError(f"{server!r} did not reply within {timeout} s") from None

    @staticmethod
    def cast(server: names.Server, content: Any) -> None:
        """Send an event of type "cast"; whether the machine is there is not asked."""
        names.tell(server, (gen.CAST, content))

    @staticmethod
    def reply(sender: gen.From, value: Any) -> None:
        """Answer a call, from any process. Inside the machine an action `ReplyTo` is as good, and sys sees it."""
        gen.reply(sender, value)

    @staticmethod
    def send_request(server: names.Server, request: Any) -> Reference:
        """Send a call without waiting. Use `receive_response`, `wait_response` or `check_response` afterwards."""
        return gen.request(server, gen.CALL, request)

    whereis = staticmethod(GenServer.whereis)
    stop = staticmethod(GenServer.stop)
    receive_response = staticmethod(GenServer.receive_response)
    wait_response = staticmethod(GenServer.wait_response)
    check_response = staticmethod(GenServer.check_response)


_CALLBACKS = frozenset(("init", "handle_event", "terminate", "callback_mode", "get_state", "replace_state"))

GenStatem.own_names = frozenset(name for name in dir(GenStatem) if not name.startswith("__"))


async def enter_loop(machine: GenStatem, state: Any, *actions: Action, parent: Pid | None = None) -> None:
    """Make the current process a machine, whose `init` is behind it; returns or raises at its end."""
    await StatemLoop(machine, parent).enter(NextState(state, *actions))
