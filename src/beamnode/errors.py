"""The error tree: who is to blame, what happened, and what to change.

`BeamnodeError` is the root. Below it the first branch says whose fault it is:

- `UsageError`: the caller's. Nothing was sent; change the program.
- `PeerError`: the other side broke the protocol or a limit. The connection is closed, the node lives on.
- `NetworkError`: nobody's in particular: a node that is not there, a network that broke, a time that ran out.
- `ProcessExit`: not an error of the library at all, but an exit signal that reached the current process.

Sources are named where an error mirrors something of OTP.
"""

from __future__ import annotations

from typing import Any


class BeamnodeError(Exception):
    """The root of everything that beamnode raises on purpose."""


# --- The caller's -----------------------------------------------------------------------------------------------------


class UsageError(BeamnodeError):
    """The caller asked for something that cannot be; nothing was sent."""


class NodeNameError(UsageError, ValueError):
    """A node name that is malformed, or of the other name domain (short against long)."""


class CookieError(UsageError):
    """A cookie that cannot be used: unreadable, readable by others, empty, or not Latin-1."""


class EncodeError(UsageError, ValueError):
    """A Python value that has no term (an object, a NaN, an atom of more than 255 characters)."""


class NotAliveError(UsageError):
    """The operation needs a running node and this one is stopped, or no process is current."""


class NoProcessError(UsageError, LookupError):
    """A local name or pid that names no living process, where one is needed (Erlang's `badarg`)."""


class NameTakenError(UsageError):
    """A name that another process (or, at epmd, another node) holds already."""


class SpawnError(UsageError):
    """A remote node refused to spawn; `reason` is what it said (`notsup`, `badarg`, `system_limit`, ...)."""

    def __init__(self, text: str, reason: Any = None) -> None:
        super().__init__(text)
        self.reason = reason


# --- The peer's -------------------------------------------------------------------------------------------------------


class PeerError(BeamnodeError):
    """The peer sent something that the protocol or a limit does not allow: its connection is closed."""


class DecodeError(PeerError, ValueError):
    """Bytes that are not a term of the external term format, or one that exceeds a limit."""


class ProtocolError(PeerError):
    """Bytes or a message that the distribution protocol or the epmd protocol does not allow here."""


class LimitExceeded(PeerError):
    """The peer pressed on a bound of `limits.Limits`; `limit` is the name of the bound."""

    def __init__(self, text: str, limit: str) -> None:
        super().__init__(text)
        self.limit = limit


class HandshakeError(PeerError):
    """The handshake cannot succeed: the peer refused, is refused, or speaks another protocol."""


class CookieMismatch(HandshakeError):
    """The two nodes have different cookies. Neither the cookie nor a digest is part of the text."""


class NotAllowedByPeer(HandshakeError):
    """The peer answered `not_allowed`: it lacks a flag that it needs, or does not allow this node's name."""


class RefusedByPeer(HandshakeError):
    """The peer answered `nok` or an unknown status: it prefers its own attempt, or is connected already."""


# --- Nobody's ---------------------------------------------------------------------------------------------------------


class NetworkError(BeamnodeError):
    """A connection could not be made or was lost; `reason` is the word that `nodedown` carries for it."""

    reason = "connection_closed"


class SetupTimeout(NetworkError):
    """A step of the handshake took longer than the set-up time (OTP: `net_setuptime`, 7 s)."""

    reason = "setup_timer_timeout"


class BusyError(NetworkError):
    """Far too much waits for a peer that does not take it, and the process that sends on should wait: nothing was sent.

    Below that bound, `send` to a busy connection succeeds, and its process waits afterwards (`dist_buf_busy_limit`).
    """

    reason = "busy"


class NetTickTimeout(NetworkError):
    """The peer was silent for a whole `net_ticktime`: it is taken for dead."""

    reason = "net_tick_timeout"


class TlsError(NetworkError):
    """TLS was not agreed on, or one side does not accept the certificate of the other."""


class EpmdError(NetworkError):
    """epmd does not answer, or not as it should."""


class NodeNotFound(NetworkError):
    """epmd of that host knows no node of that name, or the host has no epmd, or there is no such host."""


# --- Exit signals -----------------------------------------------------------------------------------------------------


class ProcessExit(BeamnodeError):
    """The current process ends (or has ended) with `reason`, an Erlang term.

    Raised by `exit(reason)`, and inside a process whose end was ordered from outside. Let it pass.
    """

    def __init__(self, reason: Any) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"process exit: {self.words(self.reason) or self._shown()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()})"

    @staticmethod
    def words(reason: Any) -> str | None:
        """What a reason means, where that is known: `node.reports` sets it, which knows children that did not start."""
        return None

    def _shown(self) -> str:
        """Peers send reasons that `repr` cannot do: an integer of too many digits, a thousand tuples in one another."""
        try:
            text = repr(self.reason)
        except (RecursionError, ValueError):
            return f"<{type(self.reason).__name__}>"
        return text if len(text) <= 1000 else f"{text[:1000]}..."


class Throw(Exception):
    """Raise it in a function that a peer calls, to throw `value` to the caller (Erlang's class `throw`)."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value
