"""Plain TCP, over IPv4 (OTP: `inet_tcp_dist`) or IPv6 (`inet6_tcp_dist`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterable
from typing import Any

from beamnode.carriers.base import ReceiverFactory, Stream
from beamnode.carriers.socket_listener import BACKLOG, SocketListener
from beamnode.carriers.socket_stream import SocketStream
from beamnode.carriers.texts import cause_of, format_address
from beamnode.errors import NetworkError, NodeNotFound, SetupTimeout, UsageError


class Tcp:
    """The carrier "tcp". Options only; share it between nodes as you like.

    - `family`: `socket.AF_INET` or `socket.AF_INET6`; `Tcp6()` is short for the latter.
    - `listen_address`: one interface, or all of them (OTP: `inet_dist_use_interface`).
    - `listen_ports`: 0 for any, one port, or a range, of which the first free one is taken
      (OTP: `inet_dist_listen_min`, `inet_dist_listen_max`; mind that a `range` excludes its end).
    - `nodelay`: send small messages at once (OTP: `dist_nodelay`, true).
    - `keepalive`: have the system probe idle connections (off, as in OTP: a distribution has its ticks).
    """

    name = "tcp"
    handshake_length_bytes = 2
    by_name = False

    def __init__(
        self,
        *,
        family: socket.AddressFamily = socket.AF_INET,
        listen_address: str | None = None,
        listen_ports: int | range = 0,
        nodelay: bool = True,
        keepalive: bool = False,
    ) -> None:
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise UsageError(f"family must be socket.AF_INET or socket.AF_INET6, not {family!r}")
        self.family = family
        self.listen_address = listen_address
        self.listen_ports = _checked_ports(listen_ports)
        self.nodelay = nodelay
        self.keepalive = keepalive

    def __repr__(self) -> str:
        return f"{type(self).__name__}(family={self.family.name}, listen_ports={self.listen_ports!r})"

    async def listen(self, accept: ReceiverFactory, *, node: str = "") -> SocketListener:
        """Bind the first free port of `listen_ports` and accept connections on it. Raises `NetworkError`."""
        listening = self._bind_first(await self._resolved_listen_host())
        try:
            return SocketListener(listening, accept, self._set_options)
        except BaseException:
            listening.close()
            raise

    async def dial(
        self, host: str, port: int, receiver_factory: ReceiverFactory, *, timeout: float, node: str = ""
    ) -> Stream:
        """Connect to the first address of `host` that answers, within `timeout` seconds. Errors: see `Carrier.dial`."""
        where = format_address((host, port))
        if not 0 <= port <= 65535:
            raise UsageError(f"cannot connect to {where}: there is no such port")
        try:
            async with asyncio.timeout(timeout):
                connected, address = await self._connect_first(await self._resolved(host, port))
        except TimeoutError as error:
            if error.errno is not None:  # the system's own, sooner than ours
                raise NetworkError(f"cannot connect to {where}: {cause_of(error)}") from error
            raise SetupTimeout(f"cannot connect to {where}: no answer within {timeout:g} s") from error
        except (socket.gaierror, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a host name"
            raise NodeNotFound(
                f"cannot connect to {where}: the host does not resolve to an {self._family_text} address ({why}); "
                "check the host part of the node name, /etc/hosts and the name server"
            ) from error
        except OSError as error:
            raise NetworkError(f"cannot connect to {where}: {cause_of(error)}") from error
        self._set_options(connected)
        stream = SocketStream(connected, address)
        stream.open(receiver_factory)
        return stream

    @property
    def _family_text(self) -> str:
        return "IPv6" if self.family == socket.AF_INET6 else "IPv4"

    async def _resolved(self, host: str, port: int) -> list[Any]:
        """The addresses of a host, in the system's order, as `connect` wants them. No thread is asked for a number."""
        try:
            found = socket.getaddrinfo(host, port, self.family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, family=self.family, type=socket.SOCK_STREAM)
        return [address for *_, address in found]

    async def _connect_first(self, addresses: list[Any]) -> tuple[socket.socket, Any]:
        """A socket that is connected to the first address that answers, and that. Raises the OSError of the first."""
        first_error: OSError | None = None
        for address in addresses:
            try:
                return await self._connect(address), address
            except OSError as error:
                first_error = first_error or error
        raise first_error or OSError("the host has no address")

    async def _connect(self, address: Any) -> socket.socket:
        connected = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connected, address)
        except BaseException:
            connected.close()
            raise
        return connected

    def _set_options(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the peer is gone already (macOS: EINVAL), which the stream will tell
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(self.nodelay))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(self.keepalive))

    async def _resolved_listen_host(self) -> str:
        if self.listen_address is None:
            return "::" if self.family == socket.AF_INET6 else "0.0.0.0"
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.listen_address, 0, family=self.family, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NetworkError(
                f"cannot listen on {self.listen_address!r}: not an {self._family_text} address of this host "
                f"({error.strerror})"
            ) from error
        return str(found[0][4][0])

    def _bind_first(self, host: str) -> socket.socket:
        ports: Iterable[int] = [self.listen_ports] if isinstance(self.listen_ports, int) else self.listen_ports
        for port in ports:
            try:
                return self._bind(host, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    where = format_address((host, port))
                    raise NetworkError(f"cannot listen on {where}: {cause_of(error)}") from error
        if isinstance(self.listen_ports, int):
            raise NetworkError(f"cannot listen on {format_address((host, self.listen_ports))}: the port is taken")
        first, last = self.listen_ports[0], self.listen_ports[-1]
        raise NetworkError(f"cannot listen on {host}: every port from {first} to {last} is taken; widen listen_ports")

    def _bind(self, host: str, port: int) -> socket.socket:
        # IPV6_V6ONLY stays as the system has it, as in OTP: on Linux an IPv6 node then takes IPv4 peers too.
        listening = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)  # here, so that a port which another socket listens on is passed over
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
        return listening


class Tcp6(Tcp):
    """`Tcp` over IPv6 (OTP: `-proto_dist inet6_tcp`)."""

    def __init__(
        self,
        *,
        listen_address: str | None = None,
        listen_ports: int | range = 0,
        nodelay: bool = True,
        keepalive: bool = False,
    ) -> None:
        super().__init__(
            family=socket.AF_INET6,
            listen_address=listen_address,
            listen_ports=listen_ports,
            nodelay=nodelay,
            keepalive=keepalive,
        )


def _checked_ports(ports: int | range) -> int | range:
    if not isinstance(ports, int | range):
        raise UsageError(f"listen_ports is a port or a range of ports, such as range(9100, 9106), not {ports!r}")
    if isinstance(ports, range) and not ports:
        raise UsageError(f"listen_ports is empty: {ports!r}; the end of a range is not part of it")
    lowest, highest = (ports, ports) if isinstance(ports, int) else (min(ports), max(ports))
    if lowest < 0 or highest > 65535 or (isinstance(ports, range) and lowest == 0):
        raise UsageError(f"listen_ports must be 0 (any) or lie in 1..65535, not {ports!r}")
    return ports
