"""Node names: `alive@host`, long or short.

A cluster uses long names or short names, never both: a long host is a full one (`db.example.org`, `10.0.0.7`, `::1`), a
short host has no dot (`db`). Sources: net_kernel.erl (`create_name`, `valid_name_head`, `validate_hostname`),
inet_tcp_dist.erl (`splitnode`).
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Self

from beamnode.errors import NodeNameError
from beamnode.etf.terms import Atom

NAME_CHARACTERS_MAX = 255  # a node name is an atom

_ALIVE = re.compile(r"[0-9A-Za-z_\-]+")
_HOST = re.compile("[!-\u00ff]+")


@dataclass(frozen=True, slots=True)
class NodeName:
    """A valid node name. Make one with `parse`."""

    alive: str  # the part that epmd knows
    host: str
    long: bool

    @classmethod
    def parse(cls, text: str | Atom, *, long: bool | None = None, host: str | None = None) -> Self:
        """The name that `text` says: `"py@127.0.0.1"`, or `"py"`, to which the host is added.

        - `long`: None takes the host's word for it: with a dot or a colon it is long, as 127.0.0.1 is; `"py"` alone is
          short. True and False are `erl -name` and `erl -sname`; False forbids a dotted host, as OTP does.
        - `host`: what to add to `"py"`; by default the name of this machine, which may ask the name server.

        Raises `NodeNameError`, whose text says what to change.
        """
        name = text.name if isinstance(text, Atom) else text
        if not isinstance(name, str):
            raise NodeNameError(f"a node name is a str like 'py@127.0.0.1', not {type(name).__name__}")
        alive, at, given_host = name.partition("@")
        _check_alive(name, alive)
        if at:
            if host is not None:
                raise NodeNameError(f"{name!r} has a host already: leave out host={host!r}")
            host = given_host
        elif host is None:
            host = full_host_name() if long else short_host_name()
        _check_host(name, host, long)
        if len(alive) + 1 + len(host) > NAME_CHARACTERS_MAX:
            raise NodeNameError(
                f"node name {name!r} is longer than {NAME_CHARACTERS_MAX} characters: use a shorter one"
            )
        return cls(alive, host, is_long_host(host) if long is None else long)

    @property
    def atom(self) -> Atom:
        """The whole name as the atom that the protocol uses."""
        return Atom(f"{self.alive}@{self.host}")

    def __str__(self) -> str:
        return f"{self.alive}@{self.host}"


def is_long_host(host: str) -> bool:
    """Whether `host` makes a long name: a full host name, or an address (also of IPv6)."""
    return "." in host or ":" in host


def check_compatible(this: NodeName, other: NodeName) -> None:
    """Raise `NodeNameError` when the two cannot be in one cluster; its text says how to start which of them."""
    other_is_long = is_long_host(other.host)
    if this.long and not other_is_long:
        raise NodeNameError(
            f"this node, {this}, has a long name, but {other} is a short one: give that node the name "
            f"{other.alive}@HOST, HOST being its full host name or its address (erl: -name, iex: --name), "
            f"or this node the short name {this.alive} (Node({this.alive!r}), --sname)"
        )
    if not this.long and other_is_long:
        raise NodeNameError(
            f"this node, {this}, has a short name, but {other} is a long one: give this node the name "
            f"{this.alive}@HOST, HOST being its full host name or its address (Node('{this.alive}@HOST'), --name), "
            f"or that node the short name {other.alive} (erl: -sname, iex: --sname)"
        )


def short_host_name() -> str:
    """The name of this machine up to its first dot, as OTP takes it for short names."""
    host = socket.gethostname().partition(".")[0]
    if not host:
        raise NodeNameError("this machine has no host name: give the host, as in 'py@127.0.0.1'")
    return host


def full_host_name() -> str:
    """The full name of this machine, as the resolver knows it; this may ask a name server, and wait for it."""
    host = socket.getfqdn()
    if not is_long_host(host):
        raise NodeNameError(
            f"this machine has no full host name (the resolver says {host!r}): "
            "give the host, as in 'py@127.0.0.1', or use a short name (--sname)"
        )
    return host


def _check_alive(name: str, alive: str) -> None:
    if not alive:
        raise NodeNameError(f"node name {name!r} lacks the part before the '@': write it like 'py@127.0.0.1'")
    if not _ALIVE.fullmatch(alive):
        wrong = "".join(dict.fromkeys(character for character in alive if not _ALIVE.fullmatch(character)))
        raise NodeNameError(
            f"node name {name!r}: {wrong!r} cannot stand before the '@'; use letters a-z and A-Z, digits, '_' and '-'"
        )


def _check_host(name: str, host: str, long: bool | None) -> None:
    if not host:
        raise NodeNameError(
            f"node name {name!r} lacks the host after the '@': write it like 'py@127.0.0.1', or 'py' alone"
        )
    if not _HOST.fullmatch(host) or "@" in host:
        raise NodeNameError(
            f"node name {name!r}: the host {host!r} has a character that no host has (a space, a second '@', ...)"
        )
    if long is False and "." in host:
        raise NodeNameError(
            f"node name {name!r} is to be short, but its host has a dot: use --name (long=True), "
            f"or {host.partition('.')[0]!r} as the host"
        )
