"""What a program may ask of the node's connections, and what `net_kernel` answers with. Source: net_kernel(3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beamnode.carriers import options as socket_options
from beamnode.carriers.options import Value
from beamnode.core.connections import Connection
from beamnode.errors import NetworkError, UsageError
from beamnode.etf import Atom, a
from beamnode.node import Node as BareNode
from beamnode.node.session import Session

TRANSITION_SECONDS = 60.0  # as OTP


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One row of the table of connections, as it was when it was asked for."""

    node: Atom
    state: str
    """"pending" (being made), "up", or "up_pending": up, while the peer dials anew."""
    type: str
    """"visible" or "hidden", as the peer says it is; not settled while it is pending."""
    address: tuple[str, int] | None
    """Of the peer; None while it is pending."""
    bytes_in: int
    bytes_out: int
    creation: int
    """The peer's, 0 while it is pending."""
    id: int
    """No two connections of this life of the node have the same."""
    unsent_bytes: int
    """What waits here for the peer to read, or to be connected (`dist_buf_busy_limit`); its carrier may hold more."""
    busy: bool
    """Whether so much waits that processes that send to it wait too."""


class NetControl(BareNode):
    """The connections of a node: looked at and changed while it runs."""

    def connections(self) -> list[ConnectionInfo]:
        """Every connection, those that are still being made too; none while the node is stopped."""
        return [_info(entry) for entry in self.network.connections.connections()] if self.alive else []

    def set_net_ticktime(self, seconds: float, transition: float = TRANSITION_SECONDS) -> Any:
        """Change `net_ticktime` on all connections: do it on every node within `transition` seconds.

        The answer is `a.change_initiated`, `a.unchanged`, or `(a.ongoing_change_to, seconds)` while another change goes
        on. Until the transition is over the node ticks by the shorter time and waits by the longer one.
        """
        if not seconds > 0 or not transition >= 0:
            raise UsageError(f"net_ticktime is more than 0 s, its transition at least 0 s: not {seconds}, {transition}")
        answer = self.network.ticktime.change(max(round(seconds * 1000), 1), round(transition * 1000))
        return (answer[0], answer[1] / 1000) if isinstance(answer, tuple) else answer

    def allow(self, nodes: Sequence[Atom | str]) -> None:
        """From the first call on, connect only with nodes that were named in a call; others are refused.

        Instead of a node, `"host"` names all nodes of a host and `"name@"` all of a name. Existing connections stay.
        """
        if isinstance(nodes, str | bytes):
            raise UsageError(f"allow takes a list of nodes: allow([{nodes!r}])")
        for node in (node if isinstance(node, Atom) else Atom(node) for node in nodes):
            if node not in self.network.allowed:
                self.network.allowed.append(node)

    def allowed(self) -> list[Atom]:
        """What `allow` has named; nothing: every node that knows the cookie."""
        return list(self.network.allowed)

    def getopts(self, node: Atom | str, names: Sequence[str]) -> dict[str, Value]:
        """Options of the socket to a connected node: nodelay, keepalive, sndbuf, recbuf, tos, priority.

        Errors: NetworkError when there is no connection, or none over a socket; UsageError for an unknown option.
        """
        return socket_options.get(self._socket(node), names)

    def setopts(self, node: Atom | str | None, options: Mapping[str, Value]) -> None:
        """Change options of the socket to a connected node; None: of all connections to come. Errors: as `getopts`."""
        socket_options.check(options)
        if node is None:
            self.network.socket_options.update(options)
        else:
            socket_options.set(self._socket(node), options)

    def _socket(self, node: Atom | str) -> Any:
        session = self.network.session(Atom(str(node)))
        if session is None:
            raise NotConnected(f"there is no connection with {node}")
        connected = session.raw_socket
        if connected is None:
            raise NetworkError(f"the connection with {node} has no socket")
        return connected


class NotConnected(NetworkError):
    """There is no connection with that node."""

    reason = "noconnection"


def _info(entry: Connection) -> ConnectionInfo:
    session = entry.owner if isinstance(entry.owner, Session) else None
    bytes_in, bytes_out = (0, 0) if entry.counters is None else entry.counters()
    kind = a.hidden if entry.hidden else a.visible
    return ConnectionInfo(
        entry.node,
        entry.state.value,
        str(kind),
        entry.address,
        bytes_in,
        bytes_out,
        entry.creation,
        entry.id,
        0 if session is None else session.unsent_bytes,
        session is not None and session.pressure.busy,
    )
