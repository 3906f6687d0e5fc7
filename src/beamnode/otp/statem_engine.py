"""The rules of gen_statem, without a process: what is handled next, and what a result does. Source: gen_statem.erl.

The order of events, from the front:

1. events that the last transition inserted (`NextEvent`), in the order of the actions;
2. after a change of state the postponed events, oldest first;
3. what waited in the queue before;
4. time-outs of zero, in the order in which they were started;
5. messages, among them the time-outs that have run off.

An event stays at the front of the queue until its transition is done: its state function, then the enter calls, whose
actions belong to the same transition. Then, in this order: the event goes, or is postponed; the event time-out is
cancelled, after a change of state the state time-out too; time-outs are started, of each type the last one that was
asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from beamnode.errors import UsageError
from beamnode.etf import Atom, a
from beamnode.etf.shown import shown
from beamnode.otp import gen
from beamnode.otp.sameness import same
from beamnode.otp.statem_results import (
    TIMEOUT_ACTIONS,
    Action,
    CancelTimeout,
    Event,
    EventType,
    KeepState,
    NextEvent,
    NextState,
    Postpone,
    RepeatState,
    ReplyTo,
    Result,
    TimeoutAction,
    UpdateTimeout,
    as_term,
    check_reply,
    check_timeout,
    event_type,
)

_START: Final[Event] = ("internal", a.init_state)  # the event that the start is, in logs
_IN: Final = a["in"]


class Outside(Protocol):
    """What the engine needs of the process that it runs in."""

    @property
    def debugging(self) -> bool:
        """Whether `note` wants to be called."""

    def reply(self, sender: gen.From, value: Any) -> None:
        """Answer a call."""

    def start_timer(self, running: Running, seconds: float, absolute: bool) -> Callable[[], Any]:
        """Let `Engine.run_off(running)` be called then; the result cancels that, if it is not too late."""

    def note(self, event: tuple[Any, ...]) -> None:
        """Something has happened, in the shape that sys has it."""


class Running:
    """A time-out that has been started."""

    __slots__ = ("cancel", "content", "type")

    def __init__(self, type: EventType, content: Any) -> None:
        self.type = type
        self.content = content
        self.cancel: Callable[[], Any] | None = None  # None: a time-out of zero


class Engine:
    """One machine: its state, its events, its time-outs."""

    def __init__(self, state: Any, *, enters: bool, outside: Outside) -> None:
        self.state = state
        self.queue: deque[Event] = deque((_START,))
        self.postponed: list[Event] = []
        self.timeouts: dict[EventType, Running] = {}
        self._zeros: deque[Running] = deque()  # some of them cancelled: `timeouts` knows
        self._enters = enters
        self._outside = outside
        self._begin()

    def _begin(self) -> None:
        """A transition begins; what its calls ask for gathers until its end."""
        self.target = self.state
        """The state that the next call is for: in enter calls, the new one."""
        self._postpones = False
        self._inserted: list[Event] = []
        self._asked: dict[EventType, TimeoutAction] = {}

    # --- What is next -------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """The event to call the state function with; None: wait for a message, then `arrived` or `run_off`."""
        if not self.queue:
            while self._zeros:
                running = self._zeros.popleft()
                if self.run_off(running):
                    break
            else:
                return None
        self._begin()
        return self.queue[0]

    def arrived(self, event: Event) -> None:
        """A message has come."""
        if self._outside.debugging:
            self._outside.note((_IN, _event_term(event), self.state))
        self.queue.append(event)

    def run_off(self, running: Running) -> bool:
        """The time of a time-out has come; whether it had not been cancelled."""
        if self.timeouts.get(running.type) is not running:
            return False
        del self.timeouts[running.type]
        self.arrived((running.type, running.content))
        return True

    # --- What a call does ---------------------------------------------------------------------------------------------

    def start(self, actions: tuple[Action, ...]) -> bool:
        """Begin with the actions that `init` has returned; the result is that of `apply`."""
        for action in actions:
            self._act(action, entering=False)
        self._postpones = False
        return self._go_on(enter=True)

    def apply(self, result: Result, *, entering: bool) -> bool:
        """Do what a state function returned, or an enter call (`entering`).

        True if an enter call for `target` is to be made now, with the state from before, `state`. Else the transition
        is done. Errors: UsageError for what may not be returned there.
        """
        if result is None:
            return self._go_on(enter=False)
        enter = isinstance(result, RepeatState)
        if isinstance(result, NextState):
            if not same(result.state, self.target):
                if entering:
                    raise UsageError(
                        f"the enter call of state {shown(self.target)} returned NextState({shown(result.state)}): "
                        "it cannot change the state; a NextEvent of the transition to it, or a time-out of 0, can"
                    )
                enter = True
            self.target = result.state
        elif not isinstance(result, KeepState | RepeatState):
            raise UsageError(
                f"in state {shown(self.target)} was returned {shown(result)}: a state function returns NextState, "
                "KeepState, RepeatState, Stop, StopAndReply, or nothing; data are attributes"
            )
        for action in result.actions:
            self._act(action, entering)
        return self._go_on(enter)

    def _go_on(self, enter: bool) -> bool:
        if enter and self._enters:
            return True
        self._finish()
        return False

    def _act(self, action: Any, entering: bool) -> None:
        match action:
            case ReplyTo():
                check_reply(action)
                self._outside.reply(action.sender, action.value)
            case Postpone(flag) if not (flag and entering):
                self._postpones = flag
            case NextEvent() if not entering:
                event = event_type(action.type), action.content
                if self._outside.debugging:
                    self._outside.note((_IN, _event_term(event), self.target))
                self._inserted.append(event)
            case Postpone() | NextEvent():
                raise UsageError(
                    f"{type(action).__name__} is no action of an enter call, which has no event of its own"
                )
            case _ if isinstance(action, TIMEOUT_ACTIONS):
                kind = check_timeout(action)
                self._asked.pop(kind, None)
                self._asked[kind] = action
            case Atom() if action is a.hibernate:
                pass
            case _:
                raise UsageError(f"{shown(action)} is no action of a state machine")

    # --- The end of a transition --------------------------------------------------------------------------------------

    def _finish(self) -> None:
        event = self.queue.popleft()
        changed = not same(self.state, self.target)
        if self._outside.debugging:
            verb = a.postpone if self._postpones else a.consume
            self._outside.note((verb, _event_term(event), self.state, self.target))
        self.state = self.target
        if self._postpones:
            self.postponed.append(event)
        if self.timeouts:
            self._cancel("timeout")
        if changed:
            self._cancel("state_timeout")
            self.queue.extendleft(reversed(self.postponed))
            self.postponed.clear()
        zeros = [running for kind in reversed(self._asked) if (running := self._start(kind, self._asked[kind]))]
        self._zeros.extend(reversed(zeros))
        self.queue.extendleft(reversed(self._inserted))

    def _start(self, kind: EventType, action: TimeoutAction) -> Running | None:
        """Do what an action says; the result is a time-out of zero that is new."""
        running = self.timeouts.get(kind)
        if isinstance(action, UpdateTimeout):
            if running is not None:
                running.content = action.content
                return None
            self.timeouts[kind] = running = Running(kind, action.content)
            return running
        self._cancel(kind)
        if isinstance(action, CancelTimeout) or action.seconds is None:
            return None
        self.timeouts[kind] = running = Running(kind, action.content)
        if self._outside.debugging:
            self._outside.note((a.start_timer, _timeout_term(kind, action), self.state))
        if action.seconds == 0:
            return running
        running.cancel = self._outside.start_timer(running, action.seconds, action.absolute)
        return None

    def _cancel(self, kind: EventType) -> None:
        running = self.timeouts.pop(kind, None)
        if running is not None and running.cancel is not None:
            running.cancel()

    def cancel_all(self) -> None:
        """The machine has ended: no timer of it is left."""
        for kind in list(self.timeouts):
            self._cancel(kind)


def _event_term(event: Event) -> Any:
    return as_term(event[0]), event[1]


def _timeout_term(kind: EventType, action: Any) -> Any:
    options = [(a.abs, True)] if action.absolute else []
    return as_term(kind), round(action.seconds * 1000), action.content, options
