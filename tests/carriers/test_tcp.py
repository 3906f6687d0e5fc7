"""TCP over IPv4 and IPv6: the contract, and what is TCP's own."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from typing import Any

import pytest
from support_loops import LOOPS, Run

from beamnode.carriers import socket_stream
from beamnode.carriers.base import LINGER_SECONDS
from beamnode.carriers.tcp import Tcp, Tcp6
from beamnode.carriers.texts import format_address
from beamnode.errors import NetworkError, NodeNotFound, SetupTimeout, UsageError
from contract import MIB, CarrierContract, Joined, Recorder, Site, until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


class TestTcp(CarrierContract):
    def site(self) -> Site:
        return Site(Tcp(), Tcp(), "127.0.0.1")

    def half_close(self, stream: Any) -> bool:
        stream.raw_socket.shutdown(socket.SHUT_WR)
        return True


class TestTcpOnUvloop(TestTcp):
    new_loop = staticmethod(LOOPS["uvloop"])


@needs_ipv6
class TestTcp6(CarrierContract):
    def site(self) -> Site:
        return Site(Tcp6(), Tcp6(), "::1")

    def half_close(self, stream: Any) -> bool:
        stream.raw_socket.shutdown(socket.SHUT_WR)
        return True

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


@pytest.mark.parametrize("ports", [-1, 65536, range(0), range(5), range(65530, 65537)])
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


def test_a_host_that_does_not_answer_takes_the_given_time(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            waiting = [socket.socket() for _ in range(8)]  # fill its backlog
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            await asyncio.sleep(0.05)
            recorder = Recorder()
            try:
                with pytest.raises(SetupTimeout, match=f"127.0.0.1:{port}: no answer within 0.2 s"):
                    await Tcp().dial("127.0.0.1", port, recorder.attach, timeout=0.2)
            except pytest.fail.Exception:
                pytest.skip("this system's backlog is never full")
            finally:
                for one in waiting:
                    one.close()
            assert recorder.lost == []

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


def test_close_lingers_only_so_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LINGER_SECONDS > 1
    monkeypatch.setattr(socket_stream, "LINGER_SECONDS", 0.1)

    async def main() -> None:
        async with Joined(Site(Tcp(), Tcp(), "127.0.0.1")) as joined:
            joined.far_stream.pause_reading()
            joined.near_stream.write([bytes(64 * MIB)])
            joined.near_stream.close()
            await asyncio.sleep(0.05)
            assert joined.near.lost == []
            await until(lambda: joined.near.lost == [None], 5)

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


def test_a_factory_that_fails_closes_the_connection(run: Run) -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

        def fail(_: object) -> Recorder:
            raise ZeroDivisionError

        listener = await Tcp().listen(fail)
        near = Recorder()
        await Tcp().dial("127.0.0.1", listener.port, near.attach, timeout=5)
        await until(lambda: near.lost == [None])
        assert [type(error) for error in reported] == [ZeroDivisionError]
        await listener.close()

    run(main())


def test_addresses_as_people_write_them() -> None:
    assert format_address(("127.0.0.1", 4369)) == "127.0.0.1:4369"
    assert format_address(("::1", 4369)) == "[::1]:4369"
    assert repr(Tcp6(listen_ports=range(9000, 9010))) == "Tcp6(family=AF_INET6, listen_ports=range(9000, 9010))"


@pytest.mark.filterwarnings("error")
def test_a_connection_that_is_accepted_while_the_listener_closes_is_not_forgotten(run: Run) -> None:
    async def main() -> None:
        for turns in list(range(6)) * 20:
            listener = await Tcp(listen_address="127.0.0.1").listen(Recorder().attach)
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex(listener.address)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await listener.close()
        await asyncio.sleep(0.05)

    run(main())
    gc.collect()
