"""A stream over transports of asyncio: the contract, by way of a carrier that exists for this."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from support_loops import LOOPS
from test_tcp import TcpContract

from beamnode.carriers.base import Address, ReceiverFactory, Stream
from beamnode.carriers.tcp import Tcp
from beamnode.carriers.texts import cause_of
from beamnode.carriers.transport import TransportStream, stop_accepting
from beamnode.errors import NetworkError, NodeNotFound, SetupTimeout
from contract import Site


class TransportListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.address: Address = server.sockets[0].getsockname()
        self.port = self.address[1]

    async def close(self) -> None:
        stop_accepting(self._server)
        await asyncio.sleep(0)
        self._server.close()
        await asyncio.sleep(0)


class TransportTcp(Tcp):
    """TCP as asyncio carries it."""

    async def listen(self, accept: ReceiverFactory, *, node: str = "") -> Any:
        loop = asyncio.get_running_loop()
        return TransportListener(await loop.create_server(lambda: TransportStream(accept), "127.0.0.1", 0))

    async def dial(
        self, host: str, port: int, receiver_factory: ReceiverFactory, *, timeout: float, node: str = ""
    ) -> Stream:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                connected, _ = await self._connect_first(await self._resolved(host, port))
        except TimeoutError as error:
            raise SetupTimeout(f"cannot connect to {host}:{port}: no answer within {timeout:g} s") from error
        except socket.gaierror as error:
            raise NodeNotFound(f"cannot connect to {host}:{port}: {error}") from error
        except OSError as error:
            raise NetworkError(f"cannot connect to {host}:{port}: {cause_of(error)}") from error
        # Not to be cancelled: uvloop would forget the stream.
        opening = loop.create_task(loop.create_connection(lambda: TransportStream(receiver_factory), sock=connected))
        try:
            return (await asyncio.shield(opening))[1]
        except asyncio.CancelledError:
            (await opening)[1].abort()
            raise


class TestTransport(TcpContract):
    def site(self) -> Site:
        return Site(TransportTcp(), TransportTcp(), "127.0.0.1")

    def half_close(self, stream: Any) -> bool:
        stream._transport.write_eof()
        return True


class TestTransportOnUvloop(TestTransport):
    new_loop = staticmethod(LOOPS["uvloop"])
