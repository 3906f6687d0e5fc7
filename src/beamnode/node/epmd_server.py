"""Our own epmd: sockets, time and entropy around `wire.epmd_server`'s table and connections.

It listens where OTP's epmd does: on all interfaces, or on given addresses and loopback. Nothing that a peer sends ends
it; a peer that sends nonsense, or nothing in 60 s, loses its connection, and so does the longest idle one when there
are too many. Log: `beamnode.epmd`. Source: erts/epmd/src/epmd_srv.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import assert_never, cast

from beamnode.errors import EpmdError, PeerError
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.node.epmd_ask import IPV4_LOOPBACK, IPV6_LOOPBACK, reason_of
from beamnode.node.limit_log import LimitLog
from beamnode.wire import epmd_server as wire

_BACKLOG = 128
_CLOSE_TIMEOUT_SECONDS = 1.0

log = logging.getLogger("beamnode.epmd")


class EpmdRunsAlready(EpmdError):
    """The port is taken, most likely by another epmd."""


def open_listeners(port: int, addresses: Sequence[str] = ()) -> list[socket.socket]:
    """Open the sockets an epmd listens on; closing them is yours (or `EpmdServer.close`'s).

    No addresses: all interfaces, IPv4 and IPv6. Else those and the two loopback addresses. What IPv6 lacks is left out
    as long as something remains. Port 0 takes any port, the same for all. Raises EpmdRunsAlready, EpmdError.
    """
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for address, required in _places(addresses):
            try:
                listeners.append(_open_listener(address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise EpmdRunsAlready(f"port {port} is taken at {address}: an epmd runs there already") from error
                if required:
                    raise EpmdError(f"cannot listen at {address} port {port}: {reason_of(error)}") from error
                failure = error
            else:
                port = port or listeners[0].getsockname()[1]
        if not listeners:
            raise EpmdError(f"cannot listen at port {port} of any address: {failure}") from failure
    except EpmdError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _places(addresses: Sequence[str]) -> list[tuple[str, bool]]:
    """Say where to listen, and whether it is an error when that fails."""
    if not addresses:
        return [("0.0.0.0", False), ("::", False)]
    places = [(address, True) for address in dict.fromkeys(addresses)]
    given = {ip_address(address) for address in addresses}
    for everywhere, loopback in (("0.0.0.0", IPV4_LOOPBACK), ("::", IPV6_LOOPBACK)):
        if given.isdisjoint((ip_address(everywhere), ip_address(loopback))):
            places.append((loopback, False))
    return places


def _open_listener(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)  # here, not later: two that bind at the same time are told apart by it
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class EpmdServer:
    """An epmd on sockets that listen already (`open_listeners`). `start` it in the event loop that shall serve it.

    `leave_after_seconds`: end by itself that long after the last node has gone, or after the start when none came;
    None: stay. The other options are those of `wire.epmd_server.EpmdServerConnection`.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        leave_after_seconds: float | None = None,
        relaxed_command_check: bool = False,
        packet_timeout_seconds: float = wire.PACKET_TIMEOUT_SECONDS,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.port: int = listeners[0].getsockname()[1]
        self.registry = wire.EpmdRegistry(self.port, lambda: secrets.randbelow(2**32))
        self.relaxed_command_check = relaxed_command_check
        self.packet_timeout_seconds = packet_timeout_seconds
        self.limits = limits
        self._limit_log = LimitLog(limits, time.monotonic)
        self._listeners = list(listeners)
        self._leave_after_seconds = leave_after_seconds
        self._leave_timer: asyncio.TimerHandle | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: dict[wire.EpmdServerConnection, _Connection] = {}  # the oldest first
        self._closing = False
        self._closed = asyncio.Event()
        self._listening = True

    async def start(self) -> None:
        """Begin to serve. Obliges you to `close`, unless it closed by itself (`wait_closed`)."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            self._servers.append(await loop.create_server(lambda: _Connection(self), sock=listener, backlog=_BACKLOG))
        self._schedule_leave()
        log.info("epmd serves port %d", self.port)

    def close(self) -> None:
        """End it: stop listening, close every connection once what was written is out. Then `wait_closed`."""
        if self._closing:
            return
        self._closing = True
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        for server in self._servers:
            _stop_accepting(server)
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # refuse from now on: who reads the answer to a KILL_REQ may count on it
                listener.shutdown(socket.SHUT_RDWR)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._close_all)  # not at once: the answer to a KILL_REQ is not written yet
        loop.call_later(_CLOSE_TIMEOUT_SECONDS, self._abort_all)

    async def wait_closed(self) -> None:
        """Wait until it has ended: closed by you, killed by a KILL_REQ, or left by itself."""
        await self._closed.wait()

    async def __aenter__(self) -> EpmdServer:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, and wait for it."""
        self.close()
        await self.wait_closed()

    def _admit(self, connection: _Connection, machine: wire.EpmdServerConnection) -> None:
        self._connections[machine] = connection
        if not self._listening:  # accepted in the turn in which this server was closed
            connection.abort()
            return
        if len(self._connections) > self.limits.epmd_connections_max:
            idle = next(known for known in self._connections if not known.registered)  # the new one at the latest
            what = f"{len(self._connections)} connections at a time"
            self._limit_log.hit(
                "epmd_connections_max", f"epmd at port {self.port}", what, "the oldest idle one is closed"
            )
            self._connections[idle].abort()

    def _close_all(self) -> None:
        for server in self._servers:
            server.close()
        self._listening = False
        self._note_if_closed()
        for connection in list(self._connections.values()):
            connection.close()

    def _abort_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.abort()

    def _forget(self, machine: wire.EpmdServerConnection) -> None:
        self._connections.pop(machine, None)
        self._note_if_closed()

    def _note_if_closed(self) -> None:
        if not self._listening and not self._connections:
            self._closed.set()

    def _handle_event(self, event: wire.ServerEvent) -> None:
        match event:
            case wire.NodeRegistered(entry):
                log.info("%r is registered at port %d", entry.node.name, entry.node.port)
            case wire.NodeUnregistered(entry):
                log.info("%r has gone", entry.node.name)
            case wire.NodeStopped(entry):
                log.info("%r was stopped on request", entry.node.name)
                stopped = self._connections.get(cast(wire.EpmdServerConnection, entry.owner))
                if stopped is not None:
                    stopped.close()
            case wire.KillAccepted():
                log.info("killed on request")
                self.close()
            case _ as never:
                assert_never(never)
        self._schedule_leave()

    def _schedule_leave(self) -> None:
        if self._leave_timer is not None:
            self._leave_timer.cancel()
            self._leave_timer = None
        if self._leave_after_seconds is not None and not len(self.registry) and not self._closing:
            loop = asyncio.get_running_loop()
            self._leave_timer = loop.call_later(self._leave_after_seconds, self._leave)

    def _leave(self) -> None:
        log.info("no node for %g s: leaving", self._leave_after_seconds)
        self.close()


class _Connection(asyncio.Protocol):
    """Drives one `EpmdServerConnection` over one socket."""

    def __init__(self, server: EpmdServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._machine = wire.EpmdServerConnection(
            self._server.registry,
            self._loop.time(),
            peer_is_local=_peer_is_local(transport),
            relaxed_command_check=self._server.relaxed_command_check,
            packet_timeout_seconds=self._server.packet_timeout_seconds,
            limits=self._server.limits,
        )
        deadline = self._machine.next_deadline()
        assert deadline is not None, "a new connection has one"
        self._timer = self._loop.call_at(deadline, self._deadline_reached, deadline)
        self._server._admit(self, self._machine)

    def data_received(self, data: bytes) -> None:
        try:
            self._machine.receive_data(data, self._loop.time())
        except PeerError as error:
            log.debug("closing a connection: %s", error)
        self._take_events()  # before the answer: who reads it finds done what it says
        self._transport.writelines(self._machine.data_to_send())
        if self._machine.closing:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._machine.connection_lost()
        self._take_events()
        self._server._forget(self._machine)

    def close(self) -> None:
        """Close once all is written."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once; the machine is out of the table before the loop turns."""
        self._transport.abort()
        self._server._forget(self._machine)

    def _deadline_reached(self, deadline: float) -> None:
        self._machine.handle_deadline(max(deadline, self._loop.time()))  # timers may be early by the clock's resolution
        if self._machine.closing:
            self._transport.abort()

    def _take_events(self) -> None:
        while (event := self._machine.next_event()) is not None:
            self._server._handle_event(event)


def _peer_is_local(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the peer is on this host: from a loopback address, or from the very address it connected to."""
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not peer or not own:
        return False
    return ip_address(peer[0]).is_loopback or peer[0] == own[0]


def _stop_accepting(server: asyncio.Server) -> None:
    """Accept nothing more; close the server a turn of the loop later.

    A connection that was accepted in this turn becomes a transport in the next one, and for that asyncio needs the
    server still open: otherwise it drops the socket without closing it.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        # Loops that do not tell of descriptors, and uvloop, which has those of its servers to itself.
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.remove_reader(listening.fileno())
