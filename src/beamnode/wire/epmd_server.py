"""The server side of epmd: the table that it keeps, and its end of one connection. Sans-I/O.

Source: erts/epmd/src/epmd_srv.c.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from beamnode.errors import LimitExceeded, ProtocolError
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire.epmd import (
    CREATION_MAX,
    CREATION_MIN,
    EPMD_PORT,
    EXTRA_BYTES_MAX,
    LENGTH,
    AliveAnswer,
    AliveRequest,
    DumpRequest,
    KillRequest,
    NamesAnswer,
    NamesRequest,
    NodeEntry,
    PortAnswer,
    PortRequest,
    Request,
    StopRequest,
    decode_request,
    encode_alive_answer,
    encode_names_answer,
    encode_port_answer,
    name_bytes,
    name_problem,
)

REMEMBERED_NAMES_MAX = 1000  # OTP: MAX_UNREG_COUNT
PACKET_TIMEOUT_SECONDS = 60.0  # OTP: -packet_timeout

# --- The table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """A node in the table: its counter of creations, whose connection it is, and a number for the DUMP answer."""

    node: NodeEntry
    counter: int
    owner: object
    serial: int

    @property
    def creation(self) -> int:
        """The creation to answer: 32 bits for nodes of version 6, 1 to 3 for older ones (epmd_srv.c: get_creation)."""
        return self.counter if self.node.version_high >= 6 else self.counter % 3 + 1


class EpmdRegistry:
    """Which names are taken, by whom, and which creation a name gets next: the rules of an epmd, without sockets.

    `new_creation()` is the entropy: it gives the first creation of a name that is not remembered, any integer of 32
    bits. A name that comes back gets the next one, so that two lives of a node are never confused. `port` is the
    port that this epmd serves, which the NAMES answer tells.
    """

    def __init__(self, port: int, new_creation: Callable[[], int]) -> None:
        self.port = port
        self._new_creation = new_creation
        self._registered: dict[str, Registered] = {}
        self._name_of_owner: dict[object, str] = {}
        self._remembered: dict[str, Registered] = {}  # the longest gone first
        self._serial = 0

    def __len__(self) -> int:
        """Tell how many nodes are registered."""
        return len(self._registered)

    def register(self, node: NodeEntry, owner: object) -> Registered | None:
        """Enter a node for `owner` (hashable: its connection); None: refused, the name is taken or not valid.

        Obliges you to call `unregister(owner)` when the connection ends.
        """
        if name_problem(node.name) or len(node.extra) > EXTRA_BYTES_MAX:
            return None
        if node.name in self._registered or owner in self._name_of_owner:
            return None
        before = self._remembered.pop(node.name, None)
        counter = self._new_creation() if before is None else before.counter + 1
        if not CREATION_MIN <= counter <= CREATION_MAX:
            counter = CREATION_MIN
        self._serial += 1
        entry = Registered(node, counter, owner, self._serial)
        self._registered[node.name] = entry
        self._name_of_owner[owner] = node.name
        return entry

    def unregister(self, owner: object) -> Registered | None:
        """Take out the node of `owner`, if it has one, and remember its name and creation for a while."""
        name = self._name_of_owner.pop(owner, None)
        if name is None:
            return None
        entry = self._registered.pop(name)
        self._remembered[name] = replace(entry, owner=None)
        if len(self._remembered) > REMEMBERED_NAMES_MAX:
            del self._remembered[next(iter(self._remembered))]
        return entry

    def lookup(self, name: str) -> Registered | None:
        """Find the node that has this name now."""
        return self._registered.get(name)

    def nodes(self) -> list[Registered]:
        """List the nodes that are registered, the newest first, as OTP's epmd does."""
        return list(reversed(self._registered.values()))

    def remembered(self) -> list[Registered]:
        """List the nodes that were, the longest gone first."""
        return list(self._remembered.values())


def encode_dump_answer(port: int, nodes: Iterable[Registered], remembered: Iterable[Registered]) -> bytes:
    """Give the answer to DUMP_REQ, for people. Each line has a NUL after it, as OTP's has."""
    parts = [EPMD_PORT.pack(port)]
    for entry in nodes:
        name = name_bytes(entry.node.name)
        parts.append(b"active name     <%b> at port %d, fd = %d\n\0" % (name, entry.node.port, entry.serial))
    for entry in remembered:
        name = name_bytes(entry.node.name)
        parts.append(b"old/unused name <%b>, port = %d, fd = %d \n\0" % (name, entry.node.port, entry.serial))
    return b"".join(parts)


# --- The server's end of one connection -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """This connection holds a registration from now on."""

    entry: Registered


@dataclass(frozen=True, slots=True)
class NodeUnregistered:
    """The registration of this connection is over."""

    entry: Registered


@dataclass(frozen=True, slots=True)
class NodeStopped:
    """A STOP_REQ took this registration from its node: close the connection `entry.owner` as well."""

    entry: Registered


@dataclass(frozen=True, slots=True)
class KillAccepted:
    """End the server, once the answer is written."""


ServerEvent = NodeRegistered | NodeUnregistered | NodeStopped | KillAccepted


class EpmdServerConnection:
    """What an epmd does with one connection: one request, one answer, and for a node the registration while it lasts.

    `peer_is_local`: the peer is on this host. Only such a peer may register, dump, kill or stop (epmd_srv.c); anybody
    may ask for ports and names. `relaxed_command_check`: KILL_REQ works while nodes live, and STOP_REQ works at all.
    `now`: when the connection was accepted, in seconds of any clock that does not go back.

    After each call write `data_to_send()`, take the events, and close the connection once `closing` is set and all is
    written. Call `connection_lost()` when it is gone, whatever the reason.
    """

    def __init__(
        self,
        registry: EpmdRegistry,
        now: float,
        *,
        peer_is_local: bool,
        relaxed_command_check: bool = False,
        packet_timeout_seconds: float = PACKET_TIMEOUT_SECONDS,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.closing = False
        self.registered = False
        self._registry = registry
        self._peer_is_local = peer_is_local
        self._relaxed = relaxed_command_check
        self._limits = limits
        self._deadline: float | None = now + packet_timeout_seconds
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self._events: deque[ServerEvent] = deque()

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes of the peer. Raises PeerError: close the connection (`closing` is set already)."""
        if self.closing:
            return
        try:
            self._receive(data)
        except (ProtocolError, LimitExceeded):
            self._end()
            raise

    def data_to_send(self) -> list[bytes]:
        """Give the chunks to write, in order, and forget them."""
        chunks, self._outgoing = self._outgoing, []
        return chunks

    def next_event(self) -> ServerEvent | None:
        """Give the next thing that happened; None: nothing more."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """Tell when `handle_deadline` is due; None for a registered node, which may be silent for ever."""
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """End a connection that brought no request, or did not take its answer, in time: abort it when `closing`."""
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._outgoing.clear()
            self._end()

    def connection_lost(self) -> None:
        """The connection is gone: so is its registration."""
        self._deadline = None
        self._end()

    def _receive(self, data: bytes) -> None:
        if self.registered:
            raise ProtocolError("bytes after a registration")
        self._buffer += data
        if len(self._buffer) < LENGTH.size:
            return
        length = LENGTH.unpack_from(self._buffer)[0]
        if length == 0:
            raise ProtocolError("an epmd request of no bytes")
        if length > self._limits.epmd_request_bytes_max:
            raise LimitExceeded(
                f"an epmd request of {length} bytes; {self._limits.epmd_request_bytes_max} are allowed",
                "epmd_request_bytes_max",
            )
        missing = LENGTH.size + length - len(self._buffer)
        if missing < 0:
            raise ProtocolError(f"{-missing} bytes after an epmd request")
        if missing == 0:
            body = bytes(self._buffer[LENGTH.size :])
            self._buffer.clear()
            self._answer(decode_request(body))

    def _answer(self, request: Request) -> None:
        if not self._peer_is_local and not isinstance(request, PortRequest | NamesRequest):
            raise ProtocolError(f"{type(request).__name__} from another host")
        match request:
            case AliveRequest(node):
                self._register(node)
                return
            case PortRequest(name):
                found = self._registry.lookup(name)
                self._outgoing.append(encode_port_answer(PortAnswer(found.node if found else None)))
            case NamesRequest():
                nodes = tuple((entry.node.name, entry.node.port) for entry in self._registry.nodes())
                self._outgoing.append(encode_names_answer(NamesAnswer(self._registry.port, nodes)))
            case DumpRequest():
                registry = self._registry
                self._outgoing.append(encode_dump_answer(registry.port, registry.nodes(), registry.remembered()))
            case KillRequest():
                self._kill()
            case StopRequest(name):
                self._stop(name)
            case _ as never:
                assert_never(never)
        self.closing = True

    def _register(self, node: NodeEntry) -> None:
        entry = self._registry.register(node, self)
        answer = AliveAnswer(None if entry is None else entry.creation)
        self._outgoing.append(encode_alive_answer(answer, node.version_high))
        if entry is None:
            self.closing = True
            return
        self.registered = True
        self._deadline = None
        self._events.append(NodeRegistered(entry))

    def _kill(self) -> None:
        if len(self._registry) and not self._relaxed:
            self._outgoing.append(b"NO")
            return
        self._outgoing.append(b"OK")
        self._events.append(KillAccepted())

    def _stop(self, name: str) -> None:
        if not self._relaxed:
            raise ProtocolError("a STOP_REQ, and the command check is not relaxed")
        entry = self._registry.lookup(name)
        if entry is None:
            self._outgoing.append(b"NOEXIST")
            return
        self._registry.unregister(entry.owner)
        self._outgoing.append(b"STOPPED")
        self._events.append(NodeStopped(entry))

    def _end(self) -> None:
        self.closing = True
        self.registered = False
        self._buffer.clear()
        entry = self._registry.unregister(self)
        if entry is not None:
            self._events.append(NodeUnregistered(entry))
