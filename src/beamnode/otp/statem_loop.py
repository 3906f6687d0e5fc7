"""The loop of gen_statem: takes messages, calls state functions, does what the engine says. Source: gen_statem.erl."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NoReturn

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import Origin, receive, send_after
from beamnode.otp import gen
from beamnode.otp.handlers import Stop
from beamnode.otp.server_loop import Loop
from beamnode.otp.statem_engine import Engine, Running
from beamnode.otp.statem_results import EventType, NextState, Result, as_term, replies_of
from beamnode.otp.sys import Ordered, System

if TYPE_CHECKING:
    from beamnode.otp.gen_statem import GenStatem

CALLS_PER_TURN: Final = 500  # a machine that gives itself events for ever lets others run now and then

MODES: Final = ("handle_event_function", "state_functions")

_EXIT: Final = a.EXIT
_OUT: Final = a.out


class RunOff:
    """What a timer of the machine sends to it: it takes its place among the messages."""

    __slots__ = ("running",)

    def __init__(self, running: Running) -> None:
        self.running = running


class StatemLoop(Loop):
    """What runs one machine, in its process."""

    log = logging.getLogger("beamnode.gen_statem")

    def __init__(self, server: GenStatem, parent: Pid | None) -> None:
        super().__init__(server, parent)
        self._server: GenStatem = server
        self._by_state = self._enters = False
        self._engine: Engine | None = None
        self._system = System(self, parent, a.gen_statem, "state machine")
        self._system.rows = self._rows
        self._called = 0  # state functions, since another process could run

    @property
    def engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _check(self, begun: Any) -> None:
        if isinstance(begun, Stop):
            raise begun
        if begun is None:
            raise UsageError(f"init of {self._server.module_name()} returned nothing: it returns the first state")
        self._by_state, self._enters = callback_mode(self._server)

    async def enter(self, begun: NextState) -> None:
        """Serve without `init`."""
        self._check(begun)
        await self.serve(begun)

    async def _run(self, begun: Any) -> NoReturn:
        state, actions = (begun.state, begun.actions) if isinstance(begun, NextState) else (begun, ())
        self._engine = engine = Engine(state, enters=self._enters, outside=self)
        if self.debugging:
            self.note((a.enter, self.module_name(), state))
        if engine.start(actions):
            await self._make_enter_calls(engine)
        while True:
            event = engine.next_event()
            if event is None:
                self._called = 0
                await self._on_message(engine, await receive())
                continue
            self._last = event
            if engine.apply(await self._result(*event), entering=False):
                await self._make_enter_calls(engine)

    async def _make_enter_calls(self, engine: Engine) -> None:
        while engine.apply(await self._result("enter", engine.state), entering=True):
            pass

    async def _on_message(self, engine: Engine, message: Any) -> None:
        """Make an event of a message, or do what it is for."""
        if type(message) is Origin:
            self._server.origin, message = message.node, message.message
        if type(message) is RunOff:
            engine.run_off(message.running)
            return
        size = len(message) if type(message) is tuple else 0
        label = message[0] if size else None
        if label is gen.CALL and size == 3 and gen.is_from(message[1]):
            engine.arrived((("call", message[1]), message[2]))
        elif label is gen.CAST and size == 2:
            engine.arrived(("cast", message[1]))
        elif label is gen.SYSTEM and size == 3 and gen.is_from(message[1]):
            await self._system.handle(message)
        elif label is _EXIT and size == 3 and self._parent is not None and message[1] == self._parent:
            raise Ordered(message[2])
        else:
            engine.arrived(("info", message))

    async def _result(self, kind: EventType, content: Any) -> Result:
        """Call the state function of the engine's target. Errors: Stop, whose replies have gone out."""
        engine = self.engine
        self._called += 1
        if self._called >= CALLS_PER_TURN:
            self._called = 0
            await asyncio.sleep(0)
        try:
            if self._by_state:
                result = await self._call(self._function(engine.target), kind, content)
            else:
                result = await self._call(self._server.handle_event, kind, content, engine.target)
            if isinstance(result, Stop):
                raise result
        except Stop as stop:
            event = None if kind == "enter" else (kind, content)
            for reply in replies_of(stop, event):
                self.reply(reply.sender, reply.value)
            engine.state = engine.target
            raise
        return result  # type: ignore[no-any-return]

    def _function(self, state: Any) -> Callable[..., Any]:
        name = state_name(state)
        own = name is None or name.startswith("__") or name in self._server.own_names
        function: Callable[..., Any] | None = None if own else getattr(self._server, str(name), None)
        if not callable(function):
            raise UsageError(
                f"{self.module_name()} has no method for state {shown(state)}: with state_functions a state is an Atom "
                "or a str (or an Enum of them), and has a method of that name, which GenStatem itself does not use"
            )
        return function

    # --- What the engine asks for (Outside) ---------------------------------------------------------------------------

    @property
    def debugging(self) -> bool:
        return self._system.debugging

    def reply(self, sender: gen.From, value: Any) -> None:
        self._runtime.send(self._process, gen.reply_to(sender), (sender[1], value))
        if self.debugging:
            self.note((_OUT, value, sender))

    def start_timer(self, running: Running, seconds: float, absolute: bool) -> Callable[[], Any]:
        if absolute:
            seconds -= self._runtime.loop.time()
        return send_after(self._process.pid, RunOff(running), max(seconds, 0)).cancel

    def note(self, event: tuple[Any, ...]) -> None:
        self._system.note(event, str(event[0]), event[1:])

    # --- What sys and the log ask for ---------------------------------------------------------------------------------

    def module_name(self) -> Atom:
        return self._server.module_name()

    def get_state(self) -> Any:
        """`{State, Data}`, as OTP's."""
        return self._state_term(), self._server.get_state()

    def replace_state(self, function: Callable[[Any], Any]) -> Any:
        """Errors: UsageError for what is no pair of a state and the attributes."""
        shown_state = self._state_term()
        new = function((shown_state, self._server.get_state()))
        if type(new) is not tuple or len(new) != 2:
            raise UsageError(f"replace_state takes a function from (state, data) to new ones, not to {shown(new)}")
        data = self._server.replace_state(lambda _: new[1])
        if new[0] != shown_state:
            self.engine.state = new[0]
        return self._state_term(), data

    def _state_term(self) -> Any:
        """The state, as the atom that it is called by, where it is one to OTP."""
        state = self.engine.state
        name = state_name(state) if self._by_state or isinstance(state, Enum) else None
        return state if name is None else Atom(name)

    def _rows(self) -> list[tuple[str, Any]]:
        engine = self.engine
        timeouts = [(as_term(running.type), running.content) for running in engine.timeouts.values()]
        return [
            ("Modules", [self.module_name()]),
            ("Time-outs", (len(timeouts), timeouts)),
            ("Postponed", [(as_term(kind), content) for kind, content in reversed(engine.postponed)]),
        ]

    async def _terminate(self, reason: Any) -> None:
        await self._call(self._server.terminate, reason, self.engine.state)

    def _shown_state(self) -> str:
        engine = self._engine
        if engine is None:
            return "(none yet)"
        lines = [f"{shown(self._state_term())}, data: {super()._shown_state()}"]
        queued = list(engine.queue)[1:]
        for heading, events in (("Queued", queued), ("Postponed", engine.postponed)):
            if events:
                lines.append(f"{heading}: {shown(events)}")
        if engine.timeouts:
            lines.append(f"Time-outs: {shown(list(engine.timeouts))}")
        return "\n".join(lines)

    def _close(self) -> None:
        super()._close()
        if self._engine is not None:
            self._engine.cancel_all()


def callback_mode(server: GenStatem) -> tuple[bool, bool]:
    """Whether states have functions of their own, and whether there are enter calls. Errors: UsageError."""
    given = server.callback_mode
    given = given() if callable(given) else given
    parts = [str(part) for part in (given if isinstance(given, tuple | list) else (given,))]
    modes = [part for part in parts if part in MODES]
    if len(modes) != 1 or any(part not in (*MODES, "state_enter") for part in parts):
        raise UsageError(
            f"the callback_mode of {server.module_name()} is {shown(given)}: it must be one of {', '.join(MODES)}, "
            'or a tuple of that and "state_enter"'
        )
    return modes[0] == "state_functions", "state_enter" in parts


def state_name(state: Any) -> str | None:
    """What the method of a state is called; None for a state that has none."""
    if isinstance(state, Enum):
        state = state.value
    return str(state) if isinstance(state, str | Atom) else None
