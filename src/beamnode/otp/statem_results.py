"""What a state function returns: what becomes of the state, and the actions of that transition.

The units of time are seconds; OTP's are milliseconds. Source: gen_statem(3), `state_callback_result()`, `action()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from beamnode.errors import UsageError
from beamnode.etf import Atom
from beamnode.etf.shown import shown
from beamnode.otp import gen
from beamnode.otp.handlers import NO_REPLY, Stop

EventType: TypeAlias = str | tuple[str, Any]
"""`("call", sender)`, "cast", "info", "internal", "timeout", "state_timeout" or `("timeout", name)`; also "enter"."""

Event: TypeAlias = tuple[EventType, Any]
"""Its type and its content."""

_PLAIN: Final = frozenset(("cast", "info", "internal", "timeout", "state_timeout"))
_TIMEOUTS: Final = frozenset(("timeout", "state_timeout"))


# --- Actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Answer a call."""

    sender: gen.From
    value: Any


@dataclass(frozen=True, slots=True)
class Postpone:
    """Handle this event again after the next change of state. `Postpone(False)` takes an earlier one back."""

    flag: bool = True


@dataclass(frozen=True, slots=True)
class NextEvent:
    """Insert an event that is handled before all that wait."""

    type: EventType | Atom | tuple[Atom, Any]
    content: Any


@dataclass(frozen=True, slots=True)
class EventTimeout:
    """An event of type "timeout" if no other comes within `seconds`. Any event cancels it.

    As in all time-outs: 0 seconds is before any message that is there already; None cancels; with `absolute` it is a
    time of the event loop's clock (`asyncio.get_running_loop().time()`).
    """

    seconds: float | None
    content: Any = None
    absolute: bool = False

    @property
    def type(self) -> EventType:
        return "timeout"


@dataclass(frozen=True, slots=True)
class StateTimeout:
    """An event of type "state_timeout" in so many seconds. A change of state cancels it."""

    seconds: float | None
    content: Any = None
    absolute: bool = False

    @property
    def type(self) -> EventType:
        return "state_timeout"


@dataclass(frozen=True, slots=True)
class GenericTimeout:
    """An event of type `("timeout", name)` in so many seconds. Only another action of that name cancels it."""

    name: Any
    seconds: float | None
    content: Any = None
    absolute: bool = False

    @property
    def type(self) -> EventType:
        return ("timeout", self.name)


@dataclass(frozen=True, slots=True)
class CancelTimeout:
    """Cancel the time-out of a type: "timeout", "state_timeout" or `("timeout", name)`; nothing if none runs."""

    type: EventType


@dataclass(frozen=True, slots=True)
class UpdateTimeout:
    """Change what the time-out of a type brings, not when. If none runs, it comes at once."""

    type: EventType
    content: Any


TimeoutAction: TypeAlias = EventTimeout | StateTimeout | GenericTimeout | CancelTimeout | UpdateTimeout
Action: TypeAlias = ReplyTo | Postpone | NextEvent | TimeoutAction | Atom
"""`a.hibernate` is accepted and means nothing here."""

TIMEOUT_ACTIONS: Final = (EventTimeout, StateTimeout, GenericTimeout, CancelTimeout, UpdateTimeout)


# --- Results ----------------------------------------------------------------------------------------------------------


class _WithActions:
    __slots__ = ("actions",)

    def __init__(self, *actions: Action) -> None:
        self.actions = actions

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.actions))})"


class KeepState(_WithActions):
    """Stay in the state, and do these actions. A state function that returns nothing does this, without any."""

    __slots__ = ()


class RepeatState(_WithActions):
    """Stay in the state, but make its enter call again."""

    __slots__ = ()


class NextState(_WithActions):
    """Go to a state (or stay, if it is the same). Postponed events are handled again after a change.

    `init` returns it too, to start with actions.
    """

    __slots__ = ("state",)

    def __init__(self, state: Any, *actions: Action) -> None:
        super().__init__(*actions)
        self.state = state

    def __repr__(self) -> str:
        return f"NextState({', '.join(map(repr, (self.state, *self.actions)))})"


class StopAndReply(Stop):
    """Return it (or raise it) to send replies, then end with `reason`."""

    def __init__(self, reason: Any, *replies: ReplyTo) -> None:
        super().__init__(reason)
        self.replies = replies


Result: TypeAlias = NextState | KeepState | RepeatState | Stop | None


def replies_of(stop: Stop, event: Event | None) -> tuple[ReplyTo, ...]:
    """What a `Stop` sends, when `event` is handled. Errors: UsageError for what is no reply."""
    if isinstance(stop, StopAndReply):
        for reply in stop.replies:
            check_reply(reply)
        return stop.replies
    if stop.reply is NO_REPLY:
        return ()
    if event is None or isinstance(event[0], str) or event[0][0] != "call":
        raise UsageError(f"Stop was to reply {shown(stop.reply)}, but the event is no call: use StopAndReply")
    return (ReplyTo(event[0][1], stop.reply),)


def check_reply(action: Any) -> None:
    """Errors: UsageError for what is no reply to the From of a call."""
    if not isinstance(action, ReplyTo) or not gen.is_from(action.sender):
        raise UsageError(f"a reply is ReplyTo(sender, value), where a call came from sender, not {_shown(action)}")


def event_type(given: Any) -> EventType:
    """A type of event as state functions get it. Errors: UsageError for what is none."""
    match given:
        case str() | Atom() if str(given) in _PLAIN:
            return str(given)
        case (str() | Atom() as kind, name) if str(kind) == "timeout":
            return ("timeout", name)
        case (str() | Atom() as kind, sender) if str(kind) == "call" and gen.is_from(sender):
            return ("call", sender)
    raise UsageError(
        f'{shown(given)} is no type of an event: those are ("call", sender), "cast", "info", "internal", "timeout", '
        '"state_timeout" and ("timeout", name)'
    )


def check_timeout(action: TimeoutAction) -> EventType:
    """The type of the time-out. Errors: UsageError for what is none, a name that is not hashable, a negative time."""
    kind = event_type(action.type)
    if kind not in _TIMEOUTS if type(kind) is str else kind[0] != "timeout":
        raise UsageError(f"events of type {shown(action.type)} are no time-outs")
    try:
        hash(kind)
    except TypeError:
        raise UsageError(f"{shown(action.type)}: the name of a time-out must be hashable") from None
    if not isinstance(action, CancelTimeout | UpdateTimeout) and action.seconds is not None:
        number = isinstance(action.seconds, int | float) and action.seconds == action.seconds
        if not number or (action.seconds < 0 and not action.absolute):
            raise UsageError(f"a time-out of {shown(action.seconds)} seconds: those are 0 or more, or None")
    return kind


def as_term(given: Any) -> Any:
    """A type of event as OTP has it, for logs."""
    return Atom(given) if type(given) is str else (Atom(given[0]), given[1])


def _shown(action: Any) -> str:
    return repr(action)[:200] if isinstance(action, ReplyTo) else shown(action)
