"""TCP over IPv4 and IPv6: the contract, and what is TCP's own."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from support_loops import LOOPS, Run

from beamnode.carriers.tcp import Tcp, Tcp6
from beamnode.carriers.texts import format_address
from beamnode.errors import NetworkError, NodeNotFound, UsageError
from contract import MIB, CarrierContract, Joined, Recorder, Site, until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


class TcpContract(CarrierContract):
    family = socket.AF_INET
    host = "127.0.0.1"

    def site(self) -> Site:
        return Site(Tcp(family=self.family), Tcp(family=self.family), self.host)

    def half_close(self, stream: Any) -> bool:
        stream.raw_socket.shutdown(socket.SHUT_WR)
        return True

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[tuple[Site, int]]:
        with full_backlog(self.family, self.host) as port:
            yield self.site(), port


@contextmanager
def full_backlog(family: socket.AddressFamily, host: str) -> Iterator[int]:
    """A port that listens and takes nobody any more."""
    with socket.socket(family) as full, ExitStack() as waiting:
        full.bind((host, 0))
        full.listen(0)
        for _ in range(8):
            one = waiting.enter_context(socket.socket(family))
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield full.getsockname()[1]


class TestTcp(TcpContract):
    pass


class TestTcpOnUvloop(TestTcp):
    new_loop = staticmethod(LOOPS["uvloop"])


@needs_ipv6
class TestTcp6(TcpContract):
    family = socket.AF_INET6
    host = "::1"

    def test_a_listener_of_ipv6_is_what_the_system_says_to_ipv4(self) -> None:
        async def main() -> None:
            with open("/proc/sys/net/ipv6/bindv6only") as setting:
                only6 = setting.read().strip() == "1"
            listener = await Tcp6().listen(Recorder().attach)
            if only6:
                with pytest.raises(NetworkError):
                    await Tcp().dial("127.0.0.1", listener.port, Recorder().attach, timeout=5)
            else:
                (await Tcp().dial("127.0.0.1", listener.port, Recorder().attach, timeout=5)).close()
            await listener.close()

        self.run_main(main())

    def test_error_text_has_brackets(self) -> None:
        async def main() -> None:
            listener = await Tcp6(listen_address="::1").listen(Recorder().attach)
            await listener.close()
            with pytest.raises(NetworkError, match=rf"\[::1\]:{listener.port}: Connection refused"):
                await Tcp6().dial("::1", listener.port, Recorder().attach, timeout=5)

        self.run_main(main())


@needs_ipv6
@pytest.mark.one_python
class TestTcp6OnUvloop(TestTcp6):
    new_loop = staticmethod(LOOPS["uvloop"])


def test_socket_options(run: Run) -> None:
    async def options(tcp: Tcp) -> list[tuple[int, int]]:
        async with Joined(Site(tcp, tcp, "127.0.0.1")) as joined:
            sockets: list[Any] = [
                stream.raw_socket  # type: ignore[attr-defined]
                for stream in (joined.near_stream, joined.far_stream)
            ]
            return [
                (
                    one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                    one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                )
                for one in sockets
            ]

    assert run(options(Tcp())) == [(1, 0), (1, 0)]
    assert run(options(Tcp(nodelay=False, keepalive=True))) == [(0, 1), (0, 1)]


def test_listens_everywhere_or_on_one_interface(run: Run) -> None:
    async def main() -> None:
        everywhere = await Tcp().listen(Recorder().attach)
        one = await Tcp(listen_address="localhost").listen(Recorder().attach)
        assert everywhere.address == ("0.0.0.0", everywhere.port)
        assert one.address == ("127.0.0.1", one.port)
        await everywhere.close()
        await one.close()

    run(main())


def three_free_ports() -> range:
    """Below those that the system hands out by itself, so that nobody takes one in between."""
    for base in random.sample(range(10_000, 30_000), 100):
        try:
            for port in range(base, base + 3):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", port))
        except OSError:
            continue
        return range(base, base + 3)
    raise AssertionError("no three free ports in a row")


def test_a_range_of_ports_gives_the_first_free_one(run: Run) -> None:
    async def main() -> None:
        ports = three_free_ports()
        tcp = Tcp(listen_ports=ports)
        first = await tcp.listen(Recorder().attach)
        assert first.port == ports[0]
        second = await tcp.listen(Recorder().attach)
        third = await tcp.listen(Recorder().attach)
        assert second.port in ports
        assert third.port in ports
        assert len({first.port, second.port, third.port}) == 3
        with pytest.raises(NetworkError, match=f"every port from {ports[0]} to {ports[-1]} is taken"):
            await tcp.listen(Recorder().attach)
        with pytest.raises(NetworkError, match=f"0.0.0.0:{first.port}: the port is taken"):
            await Tcp(listen_ports=first.port).listen(Recorder().attach)
        for listener in (first, second, third):
            await listener.close()
        again = await Tcp(listen_ports=first.port).listen(Recorder().attach)
        await again.close()

    run(main())


@pytest.mark.parametrize("ports", [-1, 65536, range(0), range(5), range(65530, 65537), "9100"])
def test_ports_that_cannot_be(ports: Any) -> None:
    with pytest.raises(UsageError, match="listen_ports"):
        Tcp(listen_ports=ports)


def test_a_family_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="family"):
        Tcp(family=socket.AF_UNIX)


def test_an_interface_that_is_not_ours(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(NetworkError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
            await Tcp(listen_address="192.0.2.1").listen(Recorder().attach)
        with pytest.raises(NetworkError, match="not an IPv4 address of this host"):
            await Tcp(listen_address="::1").listen(Recorder().attach)

    run(main())


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "x..y", "::1"])
def test_a_host_that_is_not_there(run: Run, host: str) -> None:
    async def main() -> None:
        with pytest.raises(NodeNotFound, match="does not resolve to an IPv4 address"):
            await Tcp().dial(host, 1, Recorder().attach, timeout=10)

    run(main())


def test_a_port_that_cannot_be(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="no such port"):
            await Tcp().dial("127.0.0.1", 70000, Recorder().attach, timeout=5)

    run(main())


def test_a_reset_of_the_peer_has_a_text(run: Run) -> None:
    async def main() -> None:
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        peer = socket.create_connection(("127.0.0.1", listener.port))
        port = peer.getsockname()[1]
        await until(lambda: recorder.stream is not None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        await until(lambda: bool(recorder.lost))
        [error] = recorder.lost
        assert str(error) == f"connection with 127.0.0.1:{port} lost: Connection reset by peer"
        assert isinstance(error, NetworkError)
        assert isinstance(error.__cause__, OSError)
        await listener.close()

    run(main())


def test_the_end_of_the_peer_is_told_though_much_is_unsent(run: Run) -> None:
    async def main() -> None:
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        peer = socket.create_connection(("127.0.0.1", listener.port))
        await until(lambda: recorder.stream is not None)
        assert recorder.stream is not None
        recorder.stream.write([bytes(64 * MIB)])
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: recorder.lost == [None], 2)
        peer.close()
        await listener.close()

    run(main())


def test_addresses_as_people_write_them() -> None:
    assert format_address(("127.0.0.1", 4369)) == "127.0.0.1:4369"
    assert format_address(("::1", 4369)) == "[::1]:4369"
    assert repr(Tcp6(listen_ports=range(9000, 9010))) == "Tcp6(family=AF_INET6, listen_ports=range(9000, 9010))"
