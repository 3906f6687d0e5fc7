"""Nodes of ours over TLS: what is logged and told of peers that are refused, strangers, TCP and TLS on one node."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, play, until

from beamnode import Epmd, FixedPort, Limits, NotAllowedByPeer, Route, Tcp, a
from beamnode.errors import SetupTimeout, TlsError
from support_certs import Certificates

HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    """What an operator reads."""
    return "\n".join(
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name == "beamnode.connection"
    )


def test_what_is_read_on_both_sides(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        good = cluster.node("good", carrier=certificates.tls())
        stranger = cluster.node("stranger", carrier=certificates.tls("stranger"))
        async with good, stranger:
            assert await stranger.connect(good.name) is False
            error = stranger.connect_error(good.name)
            assert isinstance(error, TlsError)
            assert "it does not trust the CA of this node's certificate" in str(error)
            await until(lambda: "did not become a node: TLS with 127.0.0.1:" in warnings(caplog))
            assert "its certificate was not issued by a CA in this node's cacertfile" in warnings(caplog)
            assert f"no connection with {good.name}: TLS with 127.0.0.1:" in warnings(caplog)

    play(main)


def test_each_reason_of_one_host_is_read(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """Who has mended one mistake sees the next one in the log, though it is the same minute."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node("good", carrier=certificates.tls()) as good:
            for name in ("stranger", "stranger", "expired"):
                client = certificates.options(name)
                async with cluster.node(name, carrier=certificates.tls(client=client)) as bad:
                    assert await bad.connect(good.name) is False
            await until(lambda: "its certificate has expired" in refusals(caplog))
            assert refusals(caplog).count("was not issued by a CA") == 1

    def refusals(caplog: pytest.LogCaptureFixture) -> str:
        lines = [record.getMessage() for record in caplog.records if record.name == "beamnode.audit"]
        return "\n".join(line for line in lines if line.startswith("refused connection from"))

    play(main)


def test_a_name_that_is_not_of_the_certificate_is_refused(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate of the cluster for one host does not make a node of another host."""

    async def main(cluster: Cluster) -> None:
        good = cluster.node("good", carrier=certificates.tls())
        posing = cluster.node("posing", carrier=certificates.tls(client=certificates.options("elsewhere")))
        async with good, posing:
            assert await posing.ping(good.name) is a.pang
            assert isinstance(posing.connect_error(good.name), NotAllowedByPeer)
            assert "over TLS, those of hosts that this node's certificate is for" in warnings(caplog)
            why = f"its certificate is for DNS:elsewhere.example, not for {HOST}, the host of that name"
            assert f"with posing@{HOST}: {why}" in caplog.text, "in the audit log"
            assert await good.ping(posing.name) is a.pong

    play(main)


def test_plain_and_tls_do_not_meet_and_say_why(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        tls = cluster.node("tls", carrier=certificates.tls())
        plain = cluster.node("plain")
        async with tls, plain:
            assert await plain.connect(tls.name) is False
            assert "speaks TLS, and this connection is plain TCP" in str(plain.connect_error(tls.name))
            await until(
                lambda: "does not speak TLS, which is expected here: it is a node over plain TCP" in warnings(caplog)
            )
            assert await tls.connect(plain.name) is False
            assert isinstance(tls.connect_error(plain.name), TlsError)
            await until(lambda: "speaks TLS, and this connection is plain TCP" in warnings(caplog))

    play(main)


def test_a_handshake_that_is_not_finished_is_bounded_in_time(certificates: Certificates) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node("n", carrier=certificates.tls(), net_setuptime=0.2) as node:
            address = node.listen_address
            assert address is not None
            with socket.create_connection((HOST, address[1])) as half:
                half.sendall(HALF_A_HELLO)
                half.settimeout(5)
                assert await asyncio.to_thread(half.recv, 1) == b""
        with socket.create_server((HOST, 0)) as silent:
            route = Route(certificates.tls(), discovery=FixedPort(silent.getsockname()[1]), listen=False)
            async with cluster.node("m", carrier=route, net_setuptime=0.2) as node:
                assert await node.connect(f"nobody@{HOST}") is False
                error = node.connect_error(f"nobody@{HOST}")
                assert isinstance(error, SetupTimeout)
                assert "was it started with -proto_dist inet_tls?" in str(error)

    play(main)


def test_strangers_in_the_handshake_cannot_fill_memory(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(cluster: Cluster) -> None:
        limits = Limits(handshakes_pending_max=8)
        node = cluster.node("n", carrier=certificates.tls(), limits=limits)
        async with node, cluster.node("m", carrier=certificates.tls()) as other:
            address = node.listen_address
            assert address is not None
            strangers = []
            for _ in range(40):
                stranger = socket.create_connection((HOST, address[1]))
                stranger.sendall(HALF_A_HELLO)
                stranger.settimeout(5)
                strangers.append(stranger)
                await asyncio.sleep(0)
            await until(lambda: len(node.network._accepting) == 8)
            assert await other.ping(node.name) is a.pong
            for stranger in strangers[:30]:
                assert await asyncio.to_thread(stranger.recv, 1) in (b"", b"\x15")
            for stranger in strangers:
                stranger.close()

    caplog.set_level(logging.INFO, "beamnode")
    play(main)
    assert len([record for record in caplog.records if "TLS" in record.getMessage()]) < 10, "nor the log"


def test_strangers_after_the_handshake_cannot_fill_the_log(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no certificate is asked for, they come so far."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def comes_and_goes(port: int) -> None:
        with socket.create_connection((HOST, port), timeout=5) as stranger, context.wrap_socket(stranger):
            pass

    async def main(cluster: Cluster) -> None:
        node = cluster.node("n", carrier=certificates.tls(server={"fail_if_no_peer_cert": False}))
        async with node:
            address = node.listen_address
            assert address is not None
            for _ in range(10):
                await asyncio.to_thread(comes_and_goes, address[1])
            await until(lambda: len(node.network._accepting) == 0)
            assert caplog.text.count("right after the TLS handshake") == 1

    play(main)


def test_tcp_inside_and_tls_outside(certificates: Certificates) -> None:
    async def main(cluster: Cluster) -> None:
        inside, outside = f"*_in@{HOST}", f"*_out@{HOST}"
        epmd = Epmd(cluster.epmd_port)
        async with cluster.node("x_out", carrier=certificates.tls()) as out, cluster.node("x_in") as plain:
            carriers = [Route(Tcp(listen_address=HOST), to=inside), Route(certificates.tls(), to=outside)]
            async with cluster.node("middle", carrier=carriers, discovery=epmd) as middle:
                assert await middle.ping(out.name) is a.pong
                assert await middle.ping(plain.name) is a.pong
                assert await middle.ping(f"nobody@{HOST}") is a.pang
                by = {entry.node: entry.address for entry in middle.connections()}
                assert out.listen_address is not None
                assert by[out.name] == (HOST, out.listen_address[1])
                tls: Any = middle.network.session(out.name)
                assert tls._stream._tls.version() == "TLSv1.3"

    play(main)
