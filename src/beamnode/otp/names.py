"""Names of processes: what `name=` registers a server under, and whom a call may be sent to.

A name is an Atom or a str, registered on this node, or `("via", registry, key)`: `key` in a `NameRegistry`.
Source: gen.erl (`where/1`, `register_name/1`); Elixir's "Name registration" of GenServer.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, Protocol, TypeAlias, TypeGuard

from beamnode.errors import NameTakenError, NoProcessError, UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.node import register, self, send, unregister, whereis

_VIA: Final = a.via


class NameRegistry(Protocol):
    """What the second part of a `via` name offers: an object, a class or a module with these four functions."""

    def register_name(self, name: Any, pid: Pid, /) -> bool:
        """Give `pid` a name; False when another process has it."""

    def unregister_name(self, name: Any, /) -> Any:
        """Take a name back; nothing if nobody has it."""

    def whereis_name(self, name: Any, /) -> Pid | None:
        """Who has a name, or None."""

    def send(self, name: Any, message: Any, /) -> Any:
        """Send to who has a name. Errors: NoProcessError."""


Via: TypeAlias = tuple[Any, NameRegistry, Any]
Name: TypeAlias = Atom | str | Via
Server: TypeAlias = Pid | Name | tuple[Atom | str, Atom | str]
"""Who is called: a pid, a name of this node, `(name, node)`, or `("via", registry, key)`."""

Located: TypeAlias = Pid | Atom | str | tuple[Atom | str, Atom | str]


def is_via(name: Any) -> TypeGuard[Via]:
    """Whether it is `("via", registry, key)`."""
    return type(name) is tuple and len(name) == 3 and name[0] in ("via", _VIA) and hasattr(name[1], "whereis_name")


def located(server: Any) -> Located | None:
    """What messages to `server` are sent to; None when its `via` name belongs to nobody. Errors: UsageError."""
    if is_via(server):
        pid: Pid | None = server[1].whereis_name(server[2])
        return pid
    if isinstance(server, tuple):
        if len(server) != 2 or (str(server[0]) == "global" and "@" not in str(server[1])):
            raise UsageError(
                f"{server!r} does not name a server: use a pid, a name of this node, (name, node) or "
                '("via", registry, key); names of `global` are not supported yet'
            )
    elif not isinstance(server, Pid | Atom | str):
        raise UsageError(f"a server is a pid, a name, (name, node) or a `via` name, not {server!r}")
    return server  # type: ignore[no-any-return]


def pid_here(server: Any) -> Pid | None:
    """The pid of a server, where that is known on this node: one that was named elsewhere is None."""
    at = located(server)
    if at is None or isinstance(at, Pid):
        return at
    if isinstance(at, tuple):
        name, node = at
        return whereis(name) if str(node) == str(self().node) else None
    return whereis(at)


def is_here(server: Any) -> bool:
    """Whether what `server` means is of this node, or nobody. Errors: UsageError."""
    at = located(server)
    if isinstance(at, Pid):
        return at.node is self().node
    return not isinstance(at, tuple) or str(at[1]) == str(self().node)


def tell(server: Any, message: Any) -> None:
    """Send without asking whether there is such a server. Errors: UsageError."""
    at = located(server)
    if at is not None:
        send(at, message)


def check(name: Any) -> None:
    """Errors: UsageError for what a server cannot be registered under."""
    if not isinstance(name, Atom | str) and not is_via(name):
        raise UsageError(
            f'a server is registered under an Atom, a str or ("via", registry, key), not {name!r}: '
            "names of `global` are not supported yet"
        )


def claim(name: Name) -> Pid | None:
    """Register the current process; who has the name already, or None when it is ours now."""
    if isinstance(name, tuple):
        _, registry, key = name
        return None if registry.register_name(key, self()) else registry.whereis_name(key)
    try:
        register(name, self())
    except NameTakenError:
        return whereis(name)
    return None


def release(name: Name) -> None:
    """Take back the name of the current process; nothing when it has lost it."""
    if isinstance(name, tuple):
        name[1].unregister_name(name[2])
        return
    with contextlib.suppress(NoProcessError):
        unregister(name)
