"""The fault proxy itself, between a client and a server that echoes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode.testing.fault_proxy import Corrupt, Cut, Delay, FaultProxy, Plan, Split, Stall

HELLO = bytes(range(100))


class Echo:
    """Sends back what comes, and notes it and the end."""

    def __init__(self) -> None:
        self.received = b""
        self.ends: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.received += data
                writer.write(data)
                await writer.drain()
            self.ends.append("eof")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            writer.close()


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Echo, FaultProxy], Awaitable[None]]


def through(*plans: Plan) -> Callable[[Talk], None]:
    """Run the talk of a client through a proxy with those plans."""

    def runner(talk: Talk) -> None:
        async def main() -> None:
            echo = Echo()
            server = await asyncio.start_server(echo, "127.0.0.1")
            async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1], plans) as proxy:
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                try:
                    await talk(reader, writer, echo, proxy)
                finally:
                    writer.close()
                async with asyncio.timeout(5):
                    while proxy.open_connections:
                        await asyncio.sleep(0.001)
            server.close()

        asyncio.run(main())

    return runner


async def read(reader: asyncio.StreamReader) -> bytes:
    """All until the end."""
    return await asyncio.wait_for(reader.read(), 5)


async def end_of(echo: Echo) -> str:
    """How its one connection ended."""
    async with asyncio.timeout(5):
        while not echo.ends:
            await asyncio.sleep(0.001)
    (end,) = echo.ends
    return end


def test_without_a_plan_everything_passes() -> None:
    @through()
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        writer.write(HELLO * 10_000)
        writer.write_eof()
        assert await read(reader) == HELLO * 10_000
        assert await end_of(echo) == "eof"
        connection = proxy.connections[0]
        assert (connection.forwarded, connection.backwarded, connection.hit) == (1_000_000, 1_000_000, [])


def test_a_cut_forward() -> None:
    @through(Plan(forward=[Cut(10)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        writer.write(HELLO)
        assert HELLO[:10].startswith(await read(reader))
        assert await end_of(echo) == "eof"
        assert echo.received == HELLO[:10]
        assert proxy.connections[0].hit == [Cut(10)]


def test_a_cut_backward_at_once() -> None:
    @through(Plan(backward=[Cut(0)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        assert await read(reader) == b""


def test_a_reset() -> None:
    @through(Plan(backward=[Cut(5, reset=True)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        writer.write(HELLO)
        with pytest.raises(ConnectionResetError):
            await read(reader)
        assert await end_of(echo) == "reset"


def test_a_stall_for_good_stops_one_direction() -> None:
    @through(Plan(forward=[Stall(10)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        writer.write(HELLO)
        assert await reader.readexactly(10) == HELLO[:10]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert proxy.open_connections == 1
        await proxy.close()


def test_a_stall_for_a_while() -> None:
    @through(Plan(forward=[Stall(10, 0.05)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        begun = time.monotonic()
        writer.write(HELLO)
        assert await reader.readexactly(100) == HELLO
        assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize("fault", [Split(3, 1), Split(50, 7), Delay(90, 0.01)])
def test_what_changes_no_byte(fault: Split | Delay) -> None:
    @through(Plan(forward=[fault], backward=[fault]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        writer.write(HELLO)
        assert await reader.readexactly(100) == HELLO
        assert proxy.connections[0].hit == [fault, fault]


def test_corruption_is_of_one_byte() -> None:
    @through(Plan(forward=[Corrupt(7, 0x81), Corrupt(8)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        writer.write(HELLO)
        assert await reader.readexactly(100) == HELLO[:7] + bytes((7 ^ 0x81, 8 ^ 1)) + HELLO[9:]


def test_the_next_connection_has_the_next_plan() -> None:
    @through(Plan(forward=[Cut(0)]), Plan(forward=[Corrupt(0)]))
    async def _(reader: Any, writer: Any, echo: Echo, proxy: FaultProxy) -> None:
        assert await read(reader) == b""
        for expected in (b"\x01", b"\0"):
            again, sender = await asyncio.open_connection("127.0.0.1", proxy.port)
            sender.write(b"\0")
            assert await again.readexactly(1) == expected
            sender.close()


def test_nobody_listens() -> None:
    async def main() -> None:
        server = await asyncio.start_server(Echo(), "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with FaultProxy("127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            with pytest.raises(ConnectionResetError):
                await read(reader)
            writer.close()

    asyncio.run(main())
