"""Calls and replies: how a process asks another and waits for the answer. Source: gen.erl."""

from __future__ import annotations

from typing import Any, Final

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, ImproperList, Pid, Reference, a
from beamnode.node import demonitor, monitor, receive, self, send

CALL: Final = Atom("$gen_call")  # labels; named here because only a dotted name can stand in a `match`
CAST: Final = Atom("$gen_cast")

Server = Pid | Atom | str | tuple[Atom | str, Atom | str]


def request(server: Server, label: Atom, request: Any) -> Reference:
    """Send `{label, From, request}` and monitor the server: `{[alias|Reference], Reply}` comes, or a DOWN."""
    reference = monitor(server, alias="reply_demonitor")
    send(server, (label, (self(), ImproperList((a.alias,), reference)), request))
    return reference


async def call(server: Server, label: Atom, question: Any, timeout: float | None) -> Any:
    """Ask `question` and wait for the reply, at most `timeout` seconds.

    Errors: ProcessExit with the reason of a server that is not there (`noproc`), cannot be reached (`noconnection`) or
    ends meanwhile; TimeoutError, after which a late reply is dropped.
    """
    reference = request(server, label, question)
    tag = ImproperList((a.alias,), reference)

    def answers(message: Any) -> bool:
        return isinstance(message, tuple) and (
            (len(message) == 2 and message[0] == tag)
            or (len(message) == 5 and message[1] == reference and message[0] is a.DOWN)
        )

    try:
        message = await receive(answers, timeout=timeout)
    finally:
        demonitor(reference, flush=True)
    if len(message) == 5:
        raise ProcessExit(message[4])
    return message[1]


def reply(sender: Any, answer: Any) -> None:
    """Answer the From of a call: `{Pid, Tag}`, where Tag may hold an alias to send to (WIRE.md, fact 6)."""
    pid, tag = sender
    send(_reply_to(pid, tag), (tag, answer))


def _reply_to(pid: Pid, tag: Any) -> Pid | Reference:
    """`[alias|Ref]` and `[[alias|Ref]|_]` name the alias; every other tag means the pid."""
    match tag:
        case ImproperList(elements=(a.alias,), tail=Reference() as reference):
            return reference
        case ImproperList(elements=(ImproperList(elements=(a.alias,), tail=Reference() as reference),)):
            return reference
    return pid
