"""Calls and replies: how a process asks another and waits for the answer. Source: gen.erl."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, ImproperList, Pid, Reference, a
from beamnode.node import demonitor, monitor, receive_tagged, reference_in, self, send, tell_watcher
from beamnode.otp import names
from beamnode.otp.names import Server

CALL: Final = Atom("$gen_call")  # labels; named here because only a dotted name can stand in a `match`
CAST: Final = Atom("$gen_cast")
SYSTEM: Final = a.system

From: TypeAlias = tuple[Pid, Any]
"""Who calls, and the tag that its reply must carry."""

_ALIAS: Final = a.alias
_ALIAS_LIST: Final = (_ALIAS,)


def request(server: Server, label: Atom | Pid, request: Any, *, expected: bool = False) -> Reference:
    """Send `{label, From, request}` and monitor the server: `{[alias|Reference], Reply}` comes, or a DOWN.

    With `expected` it comes to `response` alone and not to the mailbox; `response`, or `demonitor(..., flush=True)`,
    must follow. Errors: ProcessExit with `noproc` for a `via` name that nobody has.
    """
    to = names.located(server)
    if to is None:
        raise ProcessExit(a.noproc)
    reference = monitor(to, alias="reply_demonitor", expected=expected)
    try:
        send(to, (label, (self(), tag_of(reference)), request))
    except BaseException:
        demonitor(reference, flush=True)
        raise
    return reference


def tag_of(reference: Reference) -> ImproperList:
    """What a From and its reply carry, when the reference is an alias."""
    return ImproperList(_ALIAS_LIST, reference)


async def call(server: Server, label: Atom | Pid, question: Any, timeout: float | None) -> Any:
    """Ask `question` and wait for the reply, at most `timeout` seconds.

    Errors: ProcessExit with the reason of a server that is not there (`noproc`), cannot be reached (`noconnection`),
    ends meanwhile, or is the caller itself (`calling_self`); TimeoutError, after which a late reply is dropped.
    """
    check_not_self(server)
    return await response(request(server, label, question, expected=True), timeout)


async def response(reference: Reference, timeout: float | None) -> Any:
    """Wait for the reply to a `request`, which is over afterwards. Errors: as `call`."""
    try:
        return opened(await receive_tagged(reference, timeout=timeout))
    finally:
        demonitor(reference, flush=True)


async def await_response(reference: Reference, timeout: float | None) -> Any:
    """As `response`, but after a TimeoutError the request goes on, and may be waited for again."""
    message = await receive_tagged(reference, timeout=timeout)
    demonitor(reference, flush=True)
    return opened(message)


def is_from(sender: Any) -> bool:
    """Whether it can be the From of a call: a pid and a tag."""
    return type(sender) is tuple and len(sender) == 2 and type(sender[0]) is Pid


def is_answer(message: Any, reference: Reference) -> bool:
    """Whether a message is the reply to the `request` that gave `reference`, or tells of the server's end."""
    return reference_in(message) == reference


def opened(message: Any) -> Any:
    """The reply in a message that `is_answer`. Errors: ProcessExit with the reason of the server."""
    if len(message) == 5:
        raise ProcessExit(message[4])
    return message[1]


def reply(sender: Any, answer: Any) -> None:
    """Answer the From of a call: `{Pid, Tag}`, where Tag may hold an alias to send to (WIRE.md, fact 6)."""
    send(reply_to(sender), (sender[1], answer))


def refuse(sender: Any, reason: Any) -> bool:
    """Let a call end for its caller as if the server had ended with `reason`, which it does not.

    False if the caller does not wait (any more): nobody was told.
    """
    tag = sender[1]
    reference = tag if type(tag) is Reference else alias_of(tag)  # before OTP 24 the monitor itself
    return reference is not None and tell_watcher(reference, reason)


def alias_of(tag: Any) -> Reference | None:
    """The alias in the tag of a From, `[alias|Ref]` or `[[alias|Ref]|_]`; None in every other tag."""
    if type(tag) is ImproperList:
        elements: Any = tag.elements
    elif type(tag) is list and tag:
        elements = tag
    else:
        return None
    first = elements[0]
    if first is _ALIAS and len(elements) == 1 and type(tag) is ImproperList:
        return tag.tail if type(tag.tail) is Reference else None
    if type(first) is ImproperList and tuple(first.elements) == _ALIAS_LIST and type(first.tail) is Reference:
        return first.tail
    return None


def reply_to(sender: Any) -> Pid | Reference:
    """Where the answer of a call goes."""
    pid, tag = sender
    if type(tag) is ImproperList and tag.elements == _ALIAS_LIST and type(tag.tail) is Reference:
        return tag.tail  # as all since OTP 24 have it
    return alias_of(tag) or pid


def check_not_self(server: Server) -> None:
    """Who calls itself waits for ever. Errors: ProcessExit with `calling_self`."""
    if names.pid_here(server) == self():
        raise ProcessExit(a.calling_self)
