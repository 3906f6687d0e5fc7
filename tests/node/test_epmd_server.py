"""node/epmd_server.py: our epmd, asked by OTP's clients and nodes of each release, and by hostile ones."""

from __future__ import annotations

import asyncio
import os
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from beamnode.errors import EpmdError
from beamnode.etf import Atom, a
from beamnode.limits import Limits
from beamnode.node.epmd import Epmd
from beamnode.node.epmd_server import EpmdRunsAlready, EpmdServer, open_listeners
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port, wait_for
from beamnode.wire.epmd import (
    AliveRequest,
    DumpRequest,
    KillRequest,
    NamesRequest,
    NodeEntry,
    PortRequest,
    StopRequest,
    encode_request,
)

StartPeer = Callable[..., ErlNode]


@contextmanager
def serving(port: int = 0, send_buffer_bytes: int | None = None, **options: Any) -> Iterator[EpmdServer]:
    """Our server on loopback, in a thread of its own, so that the test may block."""
    listeners = open_listeners(port, ["127.0.0.1"])
    for listener in listeners:
        if send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    server = EpmdServer(listeners, **options)
    loops: list[asyncio.AbstractEventLoop] = []
    started = threading.Event()

    async def run() -> None:
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
        if thread.is_alive():
            loops[0].call_soon_threadsafe(server.close)
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def server(epmd_port: int) -> Iterator[EpmdServer]:
    """Our own server, on `epmd_port`, relaxed as the real one of the tests is."""
    with serving(epmd_port, relaxed_command_check=True) as running:
        yield running


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the other side closes, or resets."""
    data = b""
    try:
        while more := connection.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def ask(port: int, data: bytes) -> bytes:
    with connect(port) as connection:
        connection.sendall(data)
        return read_to_end(connection)


def register(port: int, node: NodeEntry) -> socket.socket:
    connection = connect(port)
    connection.sendall(encode_request(AliveRequest(node)))
    assert connection.recv(100)[1] == 0
    return connection


def names_are_empty(port: int) -> bool:
    return len(ask(port, encode_request(NamesRequest()))) == 4


def run_epmd(otp: Otp, port: int, *arguments: str) -> str:
    """What the `epmd` of that release prints."""
    done = subprocess.run(
        [*otp.command("epmd"), "-port", str(port), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        check=False,
    )
    return done.stdout.decode()


# --- OTP's clients ----------------------------------------------------------------------------------------------------


def test_epmd_names_of_otp_lists_our_nodes(otp: Otp, server: EpmdServer) -> None:
    with register(server.port, NodeEntry("one", 1)), register(server.port, NodeEntry("zwei_ü", 65535)):
        assert run_epmd(otp, server.port, "-names") == (
            f"epmd: up and running on port {server.port} with data:\nname zwei_ü at port 65535\nname one at port 1\n"
        )


def test_epmd_stop_and_kill_of_otp_work_when_relaxed(otp: Otp, server: EpmdServer) -> None:
    with register(server.port, NodeEntry("foobar", 1)) as node:
        assert run_epmd(otp, server.port, "-stop", "nobody") == "NOEXIST\n"
        assert run_epmd(otp, server.port, "-stop", "foobar") == "STOPPED\n"
        assert node.recv(1) == b""
    with register(server.port, NodeEntry("foobar", 1)):
        assert run_epmd(otp, server.port, "-kill") == "Killed\n"
    with pytest.raises(OSError, match="refused"):
        connect(server.port)


def test_epmd_stop_and_kill_of_otp_are_refused_while_nodes_live(otp: Otp, epmd_port: int) -> None:
    with serving(epmd_port):
        with register(epmd_port, NodeEntry("foobar", 1)):
            assert "not allowed" in run_epmd(otp, epmd_port, "-kill")
            assert "STOPPED" not in run_epmd(otp, epmd_port, "-stop", "foobar")
            assert b"name foobar" in ask(epmd_port, encode_request(NamesRequest()))
        wait_for(lambda: b"foobar" not in ask(epmd_port, encode_request(NamesRequest())))
        assert run_epmd(otp, epmd_port, "-kill") == "Killed\n"


@pytest.mark.parametrize(
    "data",
    [
        encode_request(NamesRequest()),
        encode_request(DumpRequest()),
        encode_request(PortRequest("foo")),
        encode_request(PortRequest("foo"))[:2] + b"zfo\0",
        encode_request(PortRequest("bar")),
        encode_request(PortRequest("nobody")),
        encode_request(PortRequest("a" * 256)),
        encode_request(StopRequest("foo")),
        encode_request(KillRequest()),
        b"\0\x0fx\0\1M\0\0\6\0\5\0\3foo\0",
        encode_request(AliveRequest(NodeEntry("a\0b", 1))),
        b"\0\0",
        b"\0\x01q",
        b"\0\x01nn",
        b"\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_we_answer_as_otp_does(epmd_port: int, otp: Otp, data: bytes) -> None:
    nodes = [
        NodeEntry("foo", 4242),
        NodeEntry("bar", 1, 72, 1, 7, 4, b"\0extra\0"),
        NodeEntry("old", 2, version_high=5),
    ]
    answers = []
    with peers.Epmd(otp, epmd_port, relaxed=False), serving() as ours:
        for port in (epmd_port, ours.port):
            register(port, NodeEntry("gone", 9)).close()
            wait_for(partial(names_are_empty, port))
            connections = [register(port, node) for node in nodes]
            answer = ask(port, data)
            answers.append(re.sub(rb"fd = \d+", b"fd", answer.replace(port.to_bytes(4, "big"), b"port")))
            for connection in connections:
                connection.close()
    assert answers[0] == answers[1]


def test_we_refuse_a_name_as_otp_does_but_close_then(epmd_port: int, otp: Otp) -> None:
    requests = [
        encode_request(AliveRequest(NodeEntry(name, 1, version_high=version)))
        for version in (5, 6)
        for name in ("taken", "a" * 256, "a" * 1021, "\udc80")
    ]
    with peers.Epmd(otp, epmd_port), serving() as ours:
        for port in (epmd_port, ours.port):
            with register(port, NodeEntry("taken", 1)):
                for request in requests:
                    with connect(port) as connection:
                        connection.sendall(request)
                        expected = b"y\x01\0c" if request[8] == 5 else b"v\x01\0\0\0c"
                        assert connection.recv(100) == expected
                        if port == ours.port:
                            assert connection.recv(100) == b""


# --- OTP's nodes ------------------------------------------------------------------------------------------------------


def test_two_erlang_nodes_meet_through_our_epmd(server: EpmdServer, start_peer: StartPeer) -> None:
    first, second = start_peer("a@127.0.0.1"), start_peer("b@127.0.0.1", start_epmd=True)
    assert first.eval("net_adm:ping('b@127.0.0.1')") is a.pong
    assert second.eval("nodes()") == [Atom("a@127.0.0.1")]
    ok, names = first.eval("net_adm:names('127.0.0.1')")
    assert ok is a.ok
    assert sorted(bytes(name) for name, _ in names) == [b"a", b"b"]
    entry = server.registry.lookup("a")
    assert entry is not None
    assert (entry.node.type, entry.node.protocol, entry.node.version_high, entry.node.version_low) == (77, 0, 6, 5)
    assert first.eval("erlang:system_info(creation)") == entry.creation

    second.kill()
    wait_for(lambda: server.registry.lookup("b") is None)
    again = start_peer("b@127.0.0.1")
    assert again.eval("net_adm:ping('a@127.0.0.1')") is a.pong


def test_an_erlang_node_cannot_take_a_name_twice(server: EpmdServer, start_peer: StartPeer) -> None:
    start_peer("a@127.0.0.1")
    with pytest.raises(peers.PeerDied, match=r"a@127\.0\.0\.1|in use"):
        start_peer("a@127.0.0.1")


def test_an_erlang_node_comes_back_when_our_epmd_restarts(epmd_port: int, start_peer: StartPeer) -> None:
    with serving(epmd_port):
        start_peer("a@127.0.0.1")
    with serving(epmd_port) as second:
        wait_for(lambda: second.registry.lookup("a"))


# --- hostile ones -----------------------------------------------------------------------------------------------------


def test_whatever_bytes_come_the_server_lives(server: EpmdServer) -> None:
    source = random.Random(20_25)
    with register(server.port, NodeEntry("foo", 1)):
        for _ in range(500):
            with connect(server.port) as connection:
                length = source.choice([0, 1, 2, 3, 10, 100, 3000])
                data = source.randbytes(length)
                if source.random() < 0.5:
                    data = len(data).to_bytes(2, "big") + data
                connection.sendall(data)
                if source.random() < 0.3:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert ask(server.port, encode_request(PortRequest("foo")))[:2] == b"w\0"
    wait_for(lambda: len(server.registry) == 0)


@pytest.mark.parametrize("extra_length", [1, 5, 255, 1019, 1020, 1021, 1100, 2000, 10_000])
def test_buffer_overrun_2(server: EpmdServer, extra_length: int) -> None:
    body = b"x\x12\x8bM\0\0\x05\0\x05\0\x05gurka" + extra_length.to_bytes(2, "big") + b"\xff" * extra_length
    with connect(server.port) as connection:
        connection.sendall(len(body).to_bytes(2, "big") + body)
        try:
            answer = connection.recv(2)
        except ConnectionResetError:
            answer = b""
    if extra_length <= 1020:
        assert answer == b"y\0"
    else:
        assert answer in (b"", b"y\1")


def test_a_node_that_resets_its_connection_is_no_zombie(server: EpmdServer) -> None:
    for _ in range(20):
        connection = connect(server.port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(encode_request(AliveRequest(NodeEntry("test", 1))))
        connection.close()

    def is_free() -> bool:
        with connect(server.port) as connection:
            connection.sendall(encode_request(AliveRequest(NodeEntry("test", 1))))
            return connection.recv(100)[1] == 0

    wait_for(is_free)


def test_who_completes_no_request_is_closed() -> None:
    with serving(packet_timeout_seconds=0.3) as server:
        silent, halting, node = connect(server.port), connect(server.port), register(server.port, NodeEntry("a", 1))
        halting.sendall(b"\0\x64only a few bytes")
        started = time.monotonic()
        assert read_to_end(silent) == read_to_end(halting) == b""
        assert 0.1 < time.monotonic() - started < 5
        time.sleep(0.3)
        assert b"name a" in ask(server.port, encode_request(NamesRequest()))
        for connection in (silent, halting, node):
            connection.close()


def test_who_does_not_read_the_answer_is_closed() -> None:
    with serving(send_buffer_bytes=4096, packet_timeout_seconds=0.5) as server:
        nodes = [register(server.port, NodeEntry(f"{n:03}" + "\N{IMP}" * 252, n)) for n in range(200)]
        with socket.socket() as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            mute.connect(("127.0.0.1", server.port))
            started = time.monotonic()
            wait_for(lambda: len(server._connections) == 201)
            mute.sendall(encode_request(NamesRequest()))
            wait_for(lambda: len(server._connections) == 200)
            assert time.monotonic() - started > 0.3
        for node in nodes:
            node.close()


def test_past_the_limit_the_oldest_idle_connection_goes_and_no_node() -> None:
    with serving(limits=Limits(epmd_connections_max=4)) as server:
        nodes = [register(server.port, NodeEntry(name, 1)) for name in "ab"]
        idle = [connect(server.port) for _ in range(2)]
        assert ask(server.port, encode_request(NamesRequest())).count(b"name ") == 2
        assert read_to_end(idle[0]) == b""
        assert not select.select([idle[1]], [], [], 0.1)[0], "the younger one is still open"
        nodes += [register(server.port, NodeEntry(name, 1)) for name in "cd"]
        assert read_to_end(idle[1]) == b""
        assert ask(server.port, encode_request(NamesRequest())) == b"", "only nodes are left, and they stay"
        assert len(server.registry) == 4
        for connection in [*nodes, *idle]:
            connection.close()


# --- where it listens, when it leaves ---------------------------------------------------------------------------------


def addresses(*given: str) -> set[str]:
    listeners = open_listeners(0, given)
    found = {listener.getsockname()[0] for listener in listeners}
    ports = {listener.getsockname()[1] for listener in listeners}
    for listener in listeners:
        listener.close()
    assert len(ports) == 1
    return found


def test_it_listens_everywhere_or_where_told_and_on_loopback() -> None:
    assert addresses() == {"0.0.0.0", "::"}
    assert addresses("127.0.0.1") == addresses("::1") == addresses("127.0.0.1", "::1") == {"127.0.0.1", "::1"}
    assert addresses("127.0.0.2") == {"127.0.0.2", "127.0.0.1", "::1"}
    assert addresses("0.0.0.0") == {"0.0.0.0", "::1"}


def test_a_port_or_an_address_that_cannot_be_had_is_an_error() -> None:
    with serving() as server:
        for given in ((), ("127.0.0.1",), ("127.0.0.2",)):
            with pytest.raises(EpmdRunsAlready, match=str(server.port)):
                open_listeners(server.port, ["127.0.0.1", *given])
    with pytest.raises(EpmdError, match=r"192\.0\.2\.123"):
        open_listeners(0, ["192.0.2.123"])


def test_otps_epmd_finds_the_port_taken_and_leaves(otp: Otp, server: EpmdServer) -> None:
    assert run_epmd(otp, server.port) == ""
    assert ask(server.port, encode_request(NamesRequest())) == server.port.to_bytes(4, "big")


def test_it_leaves_a_while_after_its_last_node() -> None:
    with serving(leave_after_seconds=0.5) as server:
        node = register(server.port, NodeEntry("a", 1))
        time.sleep(0.8)
        second = register(server.port, NodeEntry("b", 1))
        node.close()
        time.sleep(0.8)
        second.close()
        left = time.monotonic()
        wait_for(lambda: refuses(server.port))
        assert 0.4 < time.monotonic() - left < 5


def test_it_leaves_when_no_node_ever_came() -> None:
    with serving(leave_after_seconds=0.3) as server:
        ask(server.port, encode_request(NamesRequest()))
        wait_for(lambda: refuses(server.port))


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_our_client_and_our_server_in_one_loop() -> None:
    async def run() -> None:
        async with EpmdServer(open_listeners(0, ["127.0.0.1"])) as server:
            ours = Epmd(server.port)
            registrations = [await ours.register(f"n{n}", "127.0.0.1", n) for n in range(50)]
            assert len({registration.creation for registration in registrations}) == 50
            assert sorted(await ours.names("127.0.0.1")) == sorted((f"n{n}", n) for n in range(50))
            await asyncio.gather(*(registration.close() for registration in registrations))
            assert len(server.registry) == 0

    asyncio.run(run())


def test_running_out_of_file_descriptors_does_not_end_it(epmd_port: int) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80)); "
        "from beamnode.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "epmd", "--port", str(epmd_port), "--address", "127.0.0.1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_for(lambda: not refuses(epmd_port))
        node = register(epmd_port, NodeEntry("a", 1))
        idle = [connect(epmd_port) for _ in range(100)]
        assert b"name a" in ask(epmd_port, encode_request(NamesRequest()))
        for connection in [node, *idle]:
            connection.close()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_port_zero_takes_a_free_port() -> None:
    with serving() as server:
        assert server.port not in (0, free_port())
