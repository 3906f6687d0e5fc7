"""What a process is, to the rules: a mailbox, and what it is tied to. Its body (code that runs) lives in node/."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import islice
from typing import Any, Final

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, ImproperList, Pid, Reference, a

Match = Callable[[Any], bool]


class _Nothing(Enum):
    NOTHING = "nothing"


NOTHING: Final = _Nothing.NOTHING  # no message, where None would be one

_ALIAS: Final = a.alias

_INDEXED_MAX = 1000  # so many messages from the end are looked at by index, which a deque finds slowly in its middle


class Mailbox(deque[Any]):
    """Messages in the order of their arrival, taken from the front or, selectively, from anywhere.

    A selective receive that found nothing remembers how far it looked: only what arrives later is looked at by the next
    `take` with the same `match` (Erlang's save pointer). A `match` must not send anything to its own process.
    """

    __slots__ = ("_looked_at", "looked_with")

    def __init__(self) -> None:
        self.looked_with: Match | None = None
        self._looked_at = 0

    def owned_by(self, _process: Process) -> Mailbox:
        """The mailbox to put something into."""
        return self

    def take(self, match: Match | None = None) -> Any:
        """The first message, or the first for which `match` is true, removed from the mailbox; else NOTHING."""
        if match is None:
            self.looked_with = None
            return self.popleft() if self else NOTHING
        start = self._looked_at if match is self.looked_with else 0
        for index, message in self._from(start) if start else enumerate(self):
            if match(message):
                del self[index]
                self.looked_with = None
                return message
        self.looked_with = match
        self._looked_at = len(self)
        return NOTHING

    def _from(self, start: int) -> Iterable[tuple[int, Any]]:
        """The messages from `start` on, each with its index; `start` is near the end, most of the time."""
        if len(self) - start <= _INDEXED_MAX:
            return ((index, self[index]) for index in range(start, len(self)))
        return enumerate(islice(self, start, None), start)

    def restart(self) -> None:
        """The next `take` looks at every message again: a new receive begins."""
        self.looked_with = None

    def take_first(self, match: Match) -> Any:
        """Take the first message for which `match` is true, whoever else is receiving; else NOTHING."""
        for index, message in enumerate(self):
            if match(message):
                del self[index]
                self.looked_with = None
                return message
        return NOTHING

    def remove_all(self, match: Match) -> list[Any]:
        """Take every message for which `match` is true, in one pass, whoever else is receiving."""
        kept: list[Any] = []
        removed: list[Any] = []
        for message in self:
            (removed if match(message) else kept).append(message)
        if removed:
            self.clear()
            self.extend(kept)
            self.looked_with = None
        return removed


class _NoMailbox(Mailbox):
    """Stands for the mailbox of every process that was never sent anything."""

    __slots__ = ()

    def owned_by(self, process: Process) -> Mailbox:
        process.mailbox = Mailbox()
        return process.mailbox

    def take(self, match: Match | None = None) -> Any:
        return NOTHING

    def restart(self) -> None:
        pass

    def append(self, message: Any) -> None:
        raise TypeError("this mailbox belongs to nobody: put messages into that of `owned_by(process)`")

    appendleft = extend = insert = append  # type: ignore[assignment]


class _NoTable(dict[Any, Any]):
    """Stands for a table of a process that nothing was ever put into; `Process` says how that is done."""

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("this table belongs to no process: give the process one of its own first")

    setdefault = update = __setitem__  # type: ignore[assignment]


NO_MAILBOX: Final = _NoMailbox()
NO_TABLE: Final = _NoTable()


def reference_in(message: Any) -> Reference | None:
    """The reference that says whose answer a message is: of `{[alias|Reference], Reply}`, which gen.erl has servers
    send, of `{Reference, Reply}`, which tasks of Elixir send, or of `{'DOWN', Reference, process, Object, Reason}`,
    which a monitor leaves; None in every other message.
    """
    if type(message) is not tuple:
        return reference_in(message.message) if type(message) is Origin else None
    if len(message) == 2:
        reference = message[0]
        if type(reference) is ImproperList:
            alias = len(reference.elements) == 1 and reference.elements[0] is _ALIAS
            reference = reference.tail if alias else None
    else:
        reference = message[1] if len(message) == 5 else None
    return reference if type(reference) is Reference else None


class Slot:
    """A place beside the mailbox for the one message with a certain reference (`reference_in`).

    Who has asked something waits here for the answer, whatever the mailbox holds and whoever else waits: this is what
    the receive marker is to OTP. A second message with the same reference is dropped.
    """

    __slots__ = ("message", "waiter")

    def __init__(self) -> None:
        self.message: Any = NOTHING
        self.waiter: Any = None  # the driver's, while somebody waits; it gets it back in `Signals.answered`


class Origin:
    """A message and the node whose connection it came through, whatever it says itself: for who decides by that."""

    __slots__ = ("message", "node")

    def __init__(self, node: Atom, message: Any) -> None:
        self.node = node
        self.message = message


class Link:
    """One side of a link. `unlink_id` is not None while an unlink waits for its acknowledgement: not active then."""

    __slots__ = ("unlink_id",)

    def __init__(self) -> None:
        self.unlink_id: int | None = None

    @property
    def active(self) -> bool:
        return self.unlink_id is None


class Monitor:
    """A monitor that a process holds on `target` (a pid, or a registered name on `node`).

    `tag` is the first element of the message that tells of the end, `'DOWN'` unless asked otherwise.
    """

    __slots__ = ("node", "tag", "target", "watched")

    def __init__(self, target: Pid | Atom, node: Atom, tag: Any) -> None:
        self.target = target
        self.node = node
        self.tag = tag
        self.watched: Process | None = None  # a local one

    def down_object(self) -> Any:
        """What the message calls the target: the pid, or `{Name, Node}`."""
        return self.target if isinstance(self.target, Pid) else (self.target, self.node)


class Watcher:
    """A monitor that `pid`, here or elsewhere, holds on a process: by its pid or its registered name (`target`)."""

    __slots__ = ("pid", "target")

    def __init__(self, pid: Pid, target: Pid | Atom) -> None:
        self.pid = pid
        self.target = target


class AliasKind(Enum):
    """When an alias stops working by itself. Source: `erlang:alias/1`, `erlang:monitor/3`."""

    EXPLICIT_UNALIAS = "explicit_unalias"  # only when told
    REPLY = "reply"  # with the first message that came through it
    DEMONITOR = "demonitor"  # with its monitor
    REPLY_DEMONITOR = "reply_demonitor"  # with either, and the first message ends the monitor


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


class Process:
    """A local process: identity, mailbox, ties. Made by `Signals.spawn`, ended by `Signals.end` only.

    Most processes never need most of their tables, nor, while they wait for their first message, a mailbox: there is
    `NO_TABLE` and `NO_MAILBOX` until something must be put into one.
    """

    __slots__ = (
        "_arity",
        "_call",
        "aliases",
        "body",
        "dictionary",
        "ends_unwatched",
        "exit_reason",
        "expected",
        "group_leader",
        "links",
        "mailbox",
        "monitors",
        "name",
        "node_monitors",
        "parent",
        "pid",
        "tells_origin",
        "trap_exit",
        "waiting",
        "watchers",
    )

    def __init__(self, pid: Pid, group_leader: Pid | None, initial_call: Any, arity: int = 0) -> None:
        self.pid = pid
        self.mailbox: Mailbox = NO_MAILBOX
        self.expected: dict[Reference, Slot] = NO_TABLE  # messages that do not go to the mailbox
        self.links: dict[Pid, Link] = NO_TABLE
        self.monitors: dict[Reference, Monitor] = NO_TABLE
        self.watchers: dict[Reference, Watcher] = NO_TABLE
        self.aliases: dict[Reference, AliasKind] = NO_TABLE
        self.node_monitors: dict[Atom, int] = NO_TABLE  # how many times each; kept by core.node_monitors
        self.name: Atom | None = None
        self.trap_exit = False
        self.group_leader = group_leader
        self._call = initial_call
        self._arity = arity
        self.parent: Pid | None = None
        self.exit_reason: Any = NOTHING
        self.waiting = False  # the body waits for a message: whoever delivers one puts the process in `Signals.ready`
        self.body: Any = None  # the driver's
        self.dictionary: dict[Any, Any] | None = None  # None until something is put into it
        self.ends_unwatched = False  # it works for its watchers: without one it is killed
        self.tells_origin = False  # what peers send it comes as `Origin`

    @property
    def alive(self) -> bool:
        return self.exit_reason is NOTHING

    def add_link(self, pid: Pid) -> None:
        links = self.links
        if links is NO_TABLE:
            links = self.links = {}
        links[pid] = Link()

    def add_monitor(self, reference: Reference, monitor: Monitor) -> None:
        monitors = self.monitors
        if monitors is NO_TABLE:
            monitors = self.monitors = {}
        monitors[reference] = monitor

    def add_watcher(self, reference: Reference, watcher: Watcher) -> None:
        watchers = self.watchers
        if watchers is NO_TABLE:
            watchers = self.watchers = {}
        watchers[reference] = watcher

    def add_slot(self, reference: Reference) -> Slot:
        expected = self.expected
        if expected is NO_TABLE:
            expected = self.expected = {}
        slot = expected[reference] = Slot()
        return slot

    @property
    def initial_call(self) -> Any:
        """`{Module, Function, Arity}` of what it runs; of a Python function these are made when they are asked for."""
        call = self._call
        if callable(call):
            module = getattr(call, "__module__", None) or "python"
            self._call = call = (Atom(module), Atom(name_of(call)), self._arity)
        return call

    def check_alive(self) -> None:
        """Raise ProcessExit, its own, where code of an ended process goes on and would tie it to something."""
        if self.exit_reason is not NOTHING:
            raise ProcessExit(self.exit_reason)

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name is not None else ""
        return f"<Process {self.pid!r}{name}{'' if self.alive else ' ended'}>"
