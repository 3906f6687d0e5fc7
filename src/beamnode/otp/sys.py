"""System messages: every behaviour answers them, whatever it is doing. Source: sys.erl; WIRE.md 2.7.

The first half is what a server does with one (`System`), the second what a caller sends.

`get_state` and `replace_state` are answered with `{ok, State}`, as OTP does from 26.1 on; callers of older releases
expect the plain state. The message does not say its sender's release, but the alias in it does: OTP 25 makes them of
three words, later releases (whose pids have 60 bits) of five. So a caller with three words gets the plain state.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Protocol

from beamnode.errors import BeamnodeError, ProcessExit
from beamnode.etf import Atom, Export, Fun, Pid, a, encode
from beamnode.etf.shown import shown
from beamnode.node import Origin, process_info, receive, self
from beamnode.otp import gen, names, proc_lib

log = logging.getLogger("beamnode.sys")

TIMEOUT_SECONDS: Final = 5.0
LOGGED_DEFAULT: Final = 10  # events that `log` keeps, as OTP
LOGGED_MAX: Final = 10_000
OLD_ALIAS_WORDS: Final = 3

_IN: Final = a["in"]
_OUT: Final = a.out


class Ordered(ProcessExit):
    """The end of a server by its parent's, or by a system message: nobody made a mistake here."""


class Behaviour(Protocol):
    """What system messages need of a server."""

    def get_state(self) -> Any: ...
    def replace_state(self, function: Callable[[Any], Any]) -> Any: ...
    def module_name(self) -> Atom: ...


class System:
    """The system side of one server: suspended or running, traced, logged, counted."""

    def __init__(
        self, server: Behaviour, parent: Pid | None, kind: Atom = a.gen_server, title: str = "generic server"
    ) -> None:
        self._server = server
        self._parent = parent
        self._kind = kind
        self._title = title
        self.rows: Callable[[], list[tuple[str, Any]]] = list
        """What `get_status` shows between the events and the state, by its headings."""
        self._suspended = False
        self._traced = False
        self._events: deque[Any] | None = None
        self._counts: _Counts | None = None
        self.debugging = False
        """Whether `note_in` and `note_out` want to be called."""

    async def handle(self, message: Any) -> None:
        """Answer a `{system, From, Request}`; while suspended, serve nothing else. Errors: Ordered, the end."""
        self._answer(message)
        while self._suspended:
            message = _plain(await receive(self._is_for_suspended))
            if message[0] is a.EXIT:
                raise Ordered(message[2])
            self._answer(message)

    def _is_for_suspended(self, message: Any) -> bool:
        message = _plain(message)
        if type(message) is not tuple or len(message) != 3:
            return False
        if message[0] is a.EXIT:
            return self._parent is not None and message[1] == self._parent
        return message[0] is gen.SYSTEM and gen.is_from(message[1])

    # --- What debugging sees ------------------------------------------------------------------------------------------

    def note_in(self, message: Any) -> None:
        """The server takes a message."""
        self.note((_IN, message), "got", message)

    def note_out(self, answer: Any, to: Pid) -> None:
        """The server has answered a call."""
        self.note((_OUT, answer, to), f"answered {to!r}:", answer)

    def note(self, event: tuple[Any, ...], verb: str, what: Any) -> None:
        """Something has happened: `event` is what `log` keeps of it, `verb` and `what` are what `trace` says."""
        if self._counts is not None:
            self._counts.messages_in += event[0] is _IN
            self._counts.messages_out += event[0] is _OUT
        if self._events is not None:
            self._events.append(event)
        if self._traced:
            log.info("*DBG* %s %r %s %s", self._server.module_name(), self_pid(), verb, shown(what))

    # --- Requests -----------------------------------------------------------------------------------------------------

    def _answer(self, message: Any) -> None:
        _, sender, request = message
        match request:
            case a.get_state:
                gen.reply(sender, self._state(sender, self._server.get_state))
            case (a.replace_state, function) if callable(function):
                gen.reply(sender, self._state(sender, lambda: self._server.replace_state(function)))
            case (a.terminate, reason):
                gen.reply(sender, a.ok)
                raise Ordered(reason)
            case _:
                gen.reply(sender, self._result(request))

    def _state(self, sender: gen.From, ask: Callable[[], Any]) -> Any:
        try:
            state = sendable_state(ask())
        except Exception as error:
            where = (self._server.module_name(), a.system_get_state)
            return (a.error, (a.callback_failed, where, (a.error, repr(error).encode("utf-8", "replace"))))
        return state if _wants_plain_state(sender) else (a.ok, state)

    def _result(self, request: Any) -> Any:
        match request:
            case a.get_status:
                return self._status()
            case (a.replace_state, _):
                return (a.error, (a.badarg, b"this is a Python process: it cannot run a function of another node"))
            case a.suspend:
                self._suspended = True
                return a.ok
            case a.resume:
                self._suspended = False
                return a.ok
            case (a.debug, what):
                answer = self._debug(what)
                self.debugging = self._traced or self._events is not None or self._counts is not None
                return answer
            case (a.change_code, _, _, _):
                return a.ok
        return (a.error, (a.unknown_system_msg, request))

    def _debug(self, what: Any) -> Any:
        match what:
            case (a.trace, bool() as flag):
                self._traced = flag
            case (a.log, flag):
                return self._log(flag)
            case (a.statistics, a.get):
                return (a.ok, a.no_statistics if self._counts is None else self._counts.as_terms())
            case (a.statistics, bool() as flag):
                self._counts = _Counts() if flag else None
            case a.no_debug:
                self._traced, self._events, self._counts = False, None, None
            case (a.log_to_file, False) | (a.remove, _):
                pass
            case (a.log_to_file, _):
                return (a.error, a.open_file)  # a peer does not write files here
            case _:
                return a.unknown_debug
        return a.ok

    def _log(self, flag: Any) -> Any:
        events = self._events
        match flag:
            case True:
                self._events = deque(events or (), LOGGED_DEFAULT)
            case (True, int() as count) if 1 <= count <= LOGGED_MAX:
                self._events = deque(events or (), count)
            case False:
                self._events = None
            case a.get:
                return (a.ok, sendable_state(list(events or ())))
            case a.print:
                for event in events or ():
                    log.info("*DBG* %s %r %s", self._server.module_name(), self_pid(), shown(event))
            case _:
                return a.unknown_debug
        return a.ok

    def _status(self) -> Any:
        """`{status, Pid, {module, Module}, [Dictionary, SysState, Parent, Debug, Formatted]}`, as gen_server's."""
        try:
            state = sendable_state(self._server.get_state())
        except Exception as error:
            state = repr(error).encode("utf-8", "replace")
        info = process_info() or {}
        running = a.suspended if self._suspended else a.running
        parent = self._parent or self_pid()
        header = f"Status for {self._title} {info.get('registered_name') or self_pid()}"
        data = [
            (_text("Status"), running),
            (_text("Parent"), parent),
            (_text("Logged events"), sendable_state(list(self._events or ()))),
            *((_text(heading), sendable_state(value)) for heading, value in self.rows()),
        ]
        shape = [(a.header, _text(header)), (a.data, data), (a.data, [(_text("State"), state)])]
        more: Callable[[], list[Any]] | None = getattr(self._server, "status_parts", None)
        shape += more() if more is not None else []
        dictionary = [(key, sendable_state(value)) for key, value in info.get("dictionary", {}).items()]
        misc = [dictionary, running, parent, self._debug_options(), shape]
        return (a.status, self_pid(), (a.module, self._kind), misc)

    def _debug_options(self) -> list[Any]:
        options: list[Any] = [(a.trace, True)] if self._traced else []
        if self._events is not None:
            options.append((a.log, len(self._events)))
        if self._counts is not None:
            options.append((a.statistics, self._counts.as_terms()))
        return options


def _plain(message: Any) -> Any:
    return message.message if type(message) is Origin else message


class _Counts:
    """What `statistics` counts."""

    def __init__(self) -> None:
        self.messages_in = 0
        self.messages_out = 0
        self._since = datetime.now()

    def as_terms(self) -> list[tuple[Atom, Any]]:
        return [
            (a.start_time, _local_time(self._since)),
            (a.current_time, _local_time(datetime.now())),
            (a.reductions, 0),
            (a.messages_in, self.messages_in),
            (a.messages_out, self.messages_out),
        ]


def _local_time(time: datetime) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (time.year, time.month, time.day), (time.hour, time.minute, time.second)


def _text(text: str) -> list[int]:
    return [ord(character) for character in text]


def _wants_plain_state(sender: gen.From) -> bool:
    pid, tag = sender
    alias = gen.alias_of(tag)
    return alias is not None and pid.node is not self().node and len(alias.words) == OLD_ALIAS_WORDS


def self_pid() -> Pid:
    return self()


def sendable_state(state: Any) -> Any:
    """The state as a term; what in it has none is shown by its repr, as a binary. Whatever it is, this is no error."""
    if _is_term(state):
        return state
    try:
        replaced = _replaced(state)
    except RecursionError:
        replaced = None
    return replaced if replaced is not None and _is_term(replaced) else shown(state).encode("utf-8", "replace")


def _is_term(value: Any) -> bool:
    try:
        encode(value)
    except (BeamnodeError, RecursionError):
        return False
    return True


def _replaced(state: Any) -> Any:
    match state:
        case dict():
            return {key if _is_term(key) else _words(key): _replaced(value) for key, value in state.items()}
        case tuple():
            return tuple(_replaced(value) for value in state)
        case list():
            return [_replaced(value) for value in state]
    return state if _is_term(state) else _words(state)


def _words(value: Any) -> bytes:
    try:
        text = repr(value)
    except RecursionError:
        raise
    except Exception:  # its class is at fault
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "replace")


# --- Callers ----------------------------------------------------------------------------------------------------------


async def get_state(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> Any:
    """The state of a server of any release, here or elsewhere. Errors: as `gen.call`."""
    return _opened(await gen.call(server, gen.SYSTEM, a.get_state, timeout))


async def get_status(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> Any:
    """`{status, Pid, {module, Module}, [Dictionary, SysState, Parent, Debug, Formatted]}` of a server."""
    return await gen.call(server, gen.SYSTEM, a.get_status, timeout)


async def replace_state(
    server: names.Server, function: Callable[[Any], Any] | Fun | Export, timeout: float | None = TIMEOUT_SECONDS
) -> Any:
    """Let a server replace its state by `function(state)`; the new state.

    A server of this node takes a Python function of the attributes, one of OTP a `Fun` or an `Export` of its own.
    """
    return _opened(await gen.call(server, gen.SYSTEM, (a.replace_state, function), timeout))


async def suspend(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> None:
    """Let a server answer system messages only, until `resume`."""
    await gen.call(server, gen.SYSTEM, a.suspend, timeout)


async def resume(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> None:
    """End a `suspend`."""
    await gen.call(server, gen.SYSTEM, a.resume, timeout)


async def trace(server: names.Server, flag: bool, timeout: float | None = TIMEOUT_SECONDS) -> None:
    """Let a server log what it gets and answers: ours in the logger `beamnode.sys`, level INFO."""
    await gen.call(server, gen.SYSTEM, (a.debug, (a.trace, flag)), timeout)


async def start_log(server: names.Server, count: int = LOGGED_DEFAULT, timeout: float | None = TIMEOUT_SECONDS) -> None:
    """Let a server keep its last `count` events, which `get_log` gives, until `no_debug`."""
    await gen.call(server, gen.SYSTEM, (a.debug, (a.log, (True, count))), timeout)


async def get_log(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> list[Any]:
    """The events that a server has kept, oldest first: `{in, Message}`, `{out, Reply, To}`; OTP's have more kinds."""
    events: list[Any] = _opened(await gen.call(server, gen.SYSTEM, (a.debug, (a.log, a.get)), timeout))
    return events


async def statistics(server: names.Server, flag: bool, timeout: float | None = TIMEOUT_SECONDS) -> None:
    """Let a server count its messages, or end that."""
    await gen.call(server, gen.SYSTEM, (a.debug, (a.statistics, flag)), timeout)


async def get_statistics(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> dict[str, Any] | None:
    """What a server has counted since `statistics(server, True)`; None when it does not count."""
    answer = _opened(await gen.call(server, gen.SYSTEM, (a.debug, (a.statistics, a.get)), timeout))
    return {str(name): value for name, value in answer} if isinstance(answer, list) else None


async def no_debug(server: names.Server, timeout: float | None = TIMEOUT_SECONDS) -> None:
    """End `trace`, `start_log` and `statistics`."""
    await gen.call(server, gen.SYSTEM, (a.debug, a.no_debug), timeout)


async def terminate(server: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
    """Let a server end with `reason`, and wait for it. Errors: as `proc_lib.stop`."""
    await proc_lib.stop(server, reason, timeout)


def _opened(answer: Any) -> Any:
    """OTP up to 26.0 answers with the plain state, later ones with `{ok, State}` (WIRE.md, fact 15)."""
    match answer:
        case (a.ok, state):
            return state
        case (a.error, reason):
            raise ProcessExit(reason)
    return answer
