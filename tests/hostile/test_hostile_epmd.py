"""Strangers at our epmd, beyond tests/node/test_epmd_server.py: floods, hoarders, and those who never close."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_hostile import HOST

from beamnode.limits import Limits
from beamnode.node.epmd_server import EpmdServer, open_listeners
from beamnode.wire.epmd import AliveRequest, NamesRequest, NodeEntry, PortRequest, encode_request


@contextmanager
def serving(**options: Any) -> Iterator[EpmdServer]:
    server = EpmdServer(open_listeners(0, [HOST]), **options)
    loops: list[asyncio.AbstractEventLoop] = []
    started = threading.Event()
    unhandled: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
        async with server:
            loops.append(asyncio.get_running_loop())
            started.set()
            await server.wait_closed()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(server.close)
        thread.join(10)
    assert not thread.is_alive()
    assert not unhandled


@pytest.fixture(scope="module")
def server() -> Iterator[EpmdServer]:
    with serving() as running:
        yield running


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=10)


def ask(port: int, data: bytes) -> bytes:
    with connect(port) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def is_well(port: int) -> bool:
    start = time.monotonic()
    answer = ask(port, encode_request(NamesRequest()))
    return struct.unpack_from(">I", answer)[0] == port and time.monotonic() - start < 1


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_random_requests(server: EpmdServer, requests: list[bytes]) -> None:
    for request in requests:
        with connect(server.port) as connection:
            connection.sendall(struct.pack(">H", len(request)) + request)
    assert is_well(server.port)


def test_every_beginning_of_a_registration_then_a_close(server: EpmdServer) -> None:
    data = encode_request(AliveRequest(NodeEntry("victim", 1234, extra=b"extra")))
    for length in range(len(data)):
        with connect(server.port) as connection:
            connection.sendall(data[:length])
    assert is_well(server.port)
    assert len(server.registry) == 0


def test_a_name_after_the_other_on_ten_thousand_connections(server: EpmdServer) -> None:
    """Names that were are remembered, so many and no more."""
    for index in range(2000):
        with connect(server.port) as connection:
            connection.sendall(encode_request(AliveRequest(NodeEntry(f"n{index}", 1))))
            assert connection.recv(100)[1] == 0
    deadline = time.monotonic() + 5
    while len(server.registry) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.registry) == 0
    assert len(server.registry.remembered()) == 1000
    assert is_well(server.port)


def test_hoarded_names_do_not_grow_past_the_connections() -> None:
    """Whoever may register can take every place; what is there stays, nothing grows, and it ends with the hoarder."""
    with serving(limits=Limits(epmd_connections_max=64)) as server, ExitStack() as stack:
        first = stack.enter_context(connect(server.port))
        first.sendall(encode_request(AliveRequest(NodeEntry("honest", 4242))))
        assert first.recv(100)[1] == 0
        for index in range(300):
            hoarder = stack.enter_context(connect(server.port))
            try:
                hoarder.sendall(encode_request(AliveRequest(NodeEntry(f"n{index}", 1))))
                hoarder.recv(100)
            except ConnectionError:
                continue
        assert len(server.registry) <= 64
        assert server.registry.lookup("honest") is not None
        stack.close()
        deadline = time.monotonic() + 5
        while len(server.registry) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(server.registry) == 0
        assert is_well(server.port)


def test_idle_connections_do_not_keep_others_out() -> None:
    """Hundreds that say nothing: the oldest go, so that a node can register and be found."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(600, soft // 2 - 200)
    with serving(limits=Limits(epmd_connections_max=100)) as server, ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(server.port))
        node = stack.enter_context(connect(server.port))
        node.sendall(encode_request(AliveRequest(NodeEntry("late", 4242))))
        assert node.recv(100)[1] == 0
        answer = ask(server.port, encode_request(PortRequest("late")))
        assert struct.unpack_from(">H", answer, 2)[0] == 4242
        assert is_well(server.port)
        assert len(server._connections) <= 101
    assert hard >= soft


def test_who_never_closes_after_the_answer(server: EpmdServer) -> None:
    """The answer comes, and the end, without a word of the client."""
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(connect(server.port))
            connection.sendall(encode_request(NamesRequest()))
            while connection.recv(65536):
                pass
        deadline = time.monotonic() + 5
        while server._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server._connections


def test_a_flood_of_connections_that_reset(server: EpmdServer) -> None:
    for _ in range(1000):
        connection = connect(server.port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    assert is_well(server.port)
    deadline = time.monotonic() + 5
    while server._connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server._connections
