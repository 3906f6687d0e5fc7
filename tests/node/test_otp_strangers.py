"""Who dials our node and does not become a node: dropped in time, and in nobody's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import HOST, World

from beamnode import Limits, Node, a
from beamnode.testing.peers import Otp
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake_messages import SendName, build

pytestmark = pytest.mark.otp

SETUP_SECONDS = 1.0
STRANGERS = 300
HANDSHAKES_MAX = 64


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


def send_name(name: str) -> bytes:
    message = build(SendName(DEFAULT | Flag.PUBLISHED, 77, name))
    return len(message).to_bytes(2) + message


async def dial(node: Node, said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = node.listen_address
    assert address is not None
    reader, writer = await asyncio.open_connection(HOST, address[1])
    writer.write(said)
    return reader, writer


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b"reset"


@pytest.mark.parametrize("said", ["nothing", "half a name", "a name", "garbage", "a wrong digest"])
def test_half_a_handshake(world: World, said: str) -> None:
    """Each is closed when the set-up time is over (at once if what it says is wrong); the peer connects meanwhile."""
    name = send_name(f"stranger@{HOST}")
    data = {
        "nothing": b"",
        "half a name": name[:-3],
        "a name": name,
        "garbage": b"GET / HTTP/1.1\r\n\r\n",
        "a wrong digest": name + (21).to_bytes(2) + b"r" + bytes(20),
    }[said]
    at_once = said in ("garbage", "a wrong digest")

    async def main() -> None:
        async with world.node(net_setuptime=SETUP_SECONDS) as node:
            started = time.monotonic()
            reader, writer = await dial(node, data)
            ended = asyncio.create_task(read_to_end(reader))
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            answer = await asyncio.wait_for(ended, 10)
            seconds = time.monotonic() - started
            assert (seconds < 0.9) if at_once else (0.9 <= seconds < 3)
            assert answer[2:5] == (b"sok" if ("name" in said and "half" not in said) or "digest" in said else b"")
            assert node.list("known") == [node.name, world.name]
            writer.close()

    asyncio.run(main())


def test_three_hundred_strangers(world: World) -> None:
    """More than `handshakes_pending_max` at a time: real nodes get in all the same, and all strangers are gone soon."""
    limits = Limits(handshakes_pending_max=HANDSHAKES_MAX)

    async def main() -> None:
        async with world.node(net_setuptime=SETUP_SECONDS, limits=limits, hidden=True) as node:
            strangers: list[Any] = await asyncio.gather(
                *(dial(node, send_name(f"stranger{number}@{HOST}")) for number in range(STRANGERS))
            )
            assert len(node.list("known")) <= HANDSHAKES_MAX + 1
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            ends = await asyncio.wait_for(asyncio.gather(*(read_to_end(reader) for reader, _ in strangers)), 10)
            assert len(ends) == STRANGERS
            assert node.list("known") == [node.name, world.name]
            await node.disconnect(world.name)
            await world.gone_there(node)
            assert await node.ping(world.name) is a.pong
            for _, writer in strangers:
                writer.close()

    asyncio.run(main())
