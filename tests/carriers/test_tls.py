"""TLS: the contract on both loops and families, who is let in, and what who is not let in is told."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support_loops import LOOPS, Run
from support_tls import BOTH_VERSIONS, Attempt
from test_tcp import needs_ipv6

from beamnode.carriers.base import Stream
from beamnode.carriers.tcp import Tcp
from beamnode.carriers.tls import Tls, Tls6
from beamnode.carriers.tls_peers import is_for_host, names_of
from beamnode.errors import NetworkError, TlsError
from contract import CarrierContract, Joined, Recorder, Site, dial_error, errors_reported, until
from support_certs import Certificates


class TestTls(CarrierContract):
    @pytest.fixture(autouse=True)
    def _certificates(self, certificates: Certificates) -> None:
        self.certificates = certificates

    def carrier(self) -> Tls:
        return self.certificates.tls()

    def site(self) -> Site:
        return Site(self.carrier(), self.carrier(), "127.0.0.1")

    def half_close(self, stream: Any) -> bool:
        """Once the handshake is done: the stream of who accepts is there before."""
        if stream._handshaking:
            asyncio.get_running_loop().call_later(0.01, self.half_close, stream)
        else:
            stream.raw_socket.shutdown(socket.SHUT_WR)
        return True

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[tuple[Site, int]]:
        """A port that takes connections, and says nothing of TLS."""
        site = self.site()
        with socket.create_server((site.host, 0), family=site.dialling.family) as silent:  # type: ignore[attr-defined]
            yield site, silent.getsockname()[1]

    # A factory of who accepts is called before the TLS handshake: when it ends the stream, who dials is told by `dial`.

    def test_a_factory_may_end_its_stream(self) -> None:
        async def main(last: str, ends_at: str) -> None:
            def ending(stream: Stream) -> Recorder:
                getattr(stream, last)()
                recorders[ends_at].deaf = True
                return recorders[ends_at].attach(stream)

            site, recorders = self.site(), {"near": Recorder(), "far": Recorder()}
            factories = {who: recorder.attach for who, recorder in recorders.items()} | {ends_at: ending}
            listener = await site.listen(factories["far"])
            if ends_at == "near":
                await site.dial(listener, factories["near"])
                await until(lambda: bool(recorders["near"].lost))
            else:
                assert "during the TLS handshake" in str(await dial_error(site.dial(listener, factories["near"])))
                assert recorders["near"].stream is None
            await until(lambda: bool(recorders["far"].lost))
            await listener.close()

        for last in ("close", "abort"):
            for ends_at in ("near", "far"):
                self.run_main(main(last, ends_at))

    def test_a_factory_that_fails_ends_its_stream(self) -> None:
        async def main() -> None:
            def fail(_: object) -> Recorder:
                raise ZeroDivisionError

            site, reported = self.site(), errors_reported()
            listener = await site.listen(fail)
            assert "during the TLS handshake" in str(await dial_error(site.dial(listener, Recorder().attach)))
            await listener.close()
            assert [type(error) for error in reported] == [ZeroDivisionError]

            other, reported = Recorder(), errors_reported()
            listener = await site.listen(other.attach)
            assert (await site.dial(listener, fail)).is_closing
            await until(lambda: len(other.lost) == 1)
            await listener.close()
            assert [type(error) for error in reported] == [ZeroDivisionError]

        self.run_main(main())


@pytest.mark.one_python
class TestTlsOnUvloop(TestTls):
    new_loop = staticmethod(LOOPS["uvloop"])


@pytest.mark.one_python
class TestTls12(TestTls):
    def carrier(self) -> Tls:
        return self.certificates.tls(versions=["tlsv1.2"])


@pytest.mark.one_python
@needs_ipv6
class TestTls6(TestTls):
    def site(self) -> Site:
        tls = Tls6(**self.certificates.options("ipv6"))
        return Site(tls, tls, "::1")


# --- Who is let in ----------------------------------------------------------------------------------------------------


REFUSALS = {
    "server of another CA": (
        *("stranger", "good", "far@127.0.0.1"),
        "its certificate was not issued by a CA in this node's cacertfile",
        "it does not trust the CA of this node's certificate: put that CA into its cacertfile",
    ),
    "client of another CA": (
        *("good", "stranger", "far@127.0.0.1"),
        "it does not trust the CA of this node's certificate: put that CA into its cacertfile",
        "its certificate was not issued by a CA in this node's cacertfile",
    ),
    "server expired": (
        *("expired", "good", "far@127.0.0.1"),
        "its certificate has expired: renew it",
        "it says that this node's certificate has expired: renew it",
    ),
    "client expired": (
        *("good", "expired", "far@127.0.0.1"),
        "it says that this node's certificate has expired: renew it",
        "its certificate has expired: renew it",
    ),
    "client without one": (
        *("good", None, "far@127.0.0.1"),
        "it wants a certificate of this node",
        "it has no certificate, and this node wants one (fail_if_no_peer_cert): give it certfile and keyfile",
    ),
    "another host": (
        *("good", "good", "far@wrong.example"),
        "certificate is not valid for 'wrong.example'; issue one for the host in the node's name",
        "it does not accept this node's certificate",
    ),
}


@BOTH_VERSIONS
@pytest.mark.parametrize("case", REFUSALS)
def test_who_is_refused_and_what_both_are_told(
    run: Run, certificates: Certificates, case: str, versions: list[str]
) -> None:
    server, client, node, near_text, far_text = REFUSALS[case]
    attempt = run(
        Attempt.make(
            certificates.tls(server, versions=versions), certificates.tls(client, versions=versions), node=str(node)
        )
    )
    assert near_text in attempt.near_text
    assert far_text in attempt.far_text
    assert attempt.far.received == b""


@BOTH_VERSIONS
def test_another_address(
    run: Run, certificates: Certificates, versions: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    attempt = run(Attempt.make(certificates.tls("elsewhere", versions=versions), certificates.tls(versions=versions)))
    assert "its certificate is for DNS:elsewhere.example, not for 127.0.0.1" in attempt.near_text
    assert "right after the TLS handshake: it may not accept this node's certificate" in caplog.text


def test_no_version_in_common(run: Run, certificates: Certificates) -> None:
    attempt = run(Attempt.make(certificates.tls(versions=["tlsv1.3"]), certificates.tls(versions=["tlsv1.2"])))
    for text in (attempt.near_text, attempt.far_text):
        assert "the two have no version of TLS in common: compare `versions` on both sides" in text


def test_no_cipher_in_common(run: Run, certificates: Certificates) -> None:
    ciphers = ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    server, client = (certificates.tls(versions=["tlsv1.2"], ciphers=cipher) for cipher in ciphers)
    attempt = run(Attempt.make(server, client))
    assert "no cipher in common" in attempt.near_text
    assert "no cipher in common" in attempt.far_text


def test_a_host_that_cannot_be_one(run: Run, certificates: Certificates) -> None:
    attempt = run(Attempt.make(certificates.tls(), certificates.tls(), node="far@wrong..example"))
    assert "label" in attempt.near_text


@pytest.mark.parametrize(("depth", "refused"), [(0, True), (1, False)])
def test_depth_is_how_many_cas_stand_between(run: Run, certificates: Certificates, depth: int, refused: bool) -> None:
    attempt = run(Attempt.make(certificates.tls("deep"), certificates.tls(depth=depth)))
    assert (attempt.refused is not None) is refused
    if refused:
        assert "1 CAs stand between its certificate and the root: depth is 0" in attempt.near_text


def test_who_dials_may_be_anybody_where_that_is_asked_for(
    run: Run, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server = certificates.tls(server={"verify": False})
    assert "TLS without verification: whoever dials this node may be anybody" in caplog.text
    assert run(Attempt.make(server, certificates.tls(None))).refused is None
    optional = certificates.tls(server={"fail_if_no_peer_cert": False})
    assert run(Attempt.make(optional, certificates.tls(None))).refused is None
    assert "not issued by a CA" in run(Attempt.make(optional, certificates.tls("stranger"))).far_text
    caplog.clear()
    client = certificates.tls(client={"verify": False})
    assert "TLS without verification: whoever is dialled may be anybody" in caplog.text
    assert run(Attempt.make(certificates.tls("stranger", ca="ca"), client)).refused is None


def test_the_host_that_is_checked_can_be_another_or_none(run: Run, certificates: Certificates) -> None:
    server = certificates.tls("elsewhere")
    named = certificates.tls(client={"server_name_indication": "ELSEWHERE.example"})
    assert run(Attempt.make(server, named)).refused is None
    assert run(Attempt.make(server, certificates.tls(client={"server_name_indication": False}))).refused is None
    assert run(Attempt.make(server, certificates.tls(check_hostname=False))).refused is None
    assert run(Attempt.make(server, certificates.tls(), node="far@elsewhere.example")).refused is None


@pytest.mark.parametrize(
    ("node", "refused"), [("a@127.0.0.1", False), ("a@127.0.0.2", True), ("a@wrong.example", True)]
)
def test_who_dials_is_the_host_of_its_certificate(
    run: Run, certificates: Certificates, node: str, refused: bool
) -> None:
    async def main(**options: Any) -> str | None:
        tls = certificates.tls(**options)
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            joined.near_stream.write([b"x"])
            await until(lambda: bool(joined.far.received))
            refusal: str | None = joined.far_stream.refusal(node)  # type: ignore[attr-defined]
            return refusal

    found = run(main())
    assert (found is not None) is refused
    assert not refused or "its certificate is for DNS:127.0.0.1, IP Address:127.0.0.1, not for" in found
    assert run(main(server={"check_hostname": False})) is None


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        ([("DNS", "a.example")], "A.example", True),
        ([("DNS", "*.example.com")], "a.example.com", True),
        ([("DNS", "*.example.com")], "a.b.example.com", False),
        ([("DNS", "*.example.com")], "example.com", False),
        ([("DNS", "*.com")], "example.com", False),
        ([("DNS", "a*.example.com")], "ab.example.com", False),
        ([("DNS", "*")], "example", False),
        ([("DNS", "127.0.0.1")], "127.0.0.1", True),
        ([("IP Address", "127.0.0.1")], "127.0.0.1", True),
        ([("IP Address", "0:0:0:0:0:0:0:1")], "::1", True),
        ([("IP Address", "127.0.0.1")], "127.0.0.2", False),
        ([("DNS", "*.0.0.1")], "127.0.0.1", False),
        ([("URI", "a.example")], "a.example", False),
        ([], "common.example", True),
        ([("DNS", "a.example")], "common.example", False),
    ],
)
def test_which_hosts_a_certificate_is_for(names: list[Any], host: str, fits: bool) -> None:
    certificate = {"subject": ((("commonName", "common.example"),),), "subjectAltName": tuple(names)}
    assert is_for_host(certificate, host) is fits


def test_names_in_a_certificate_cannot_forge_a_log() -> None:
    assert names_of({"subjectAltName": (("DNS", "a\nERROR all is lost"),)}) == "DNS:a?ERROR all is lost"
    assert len(names_of({"subjectAltName": (("DNS", "a" * 10_000),)})) < 300
    assert names_of({"subject": ((("commonName", "me"),),)}) == "CN:me"
    assert names_of({}) == "nobody"


def test_contexts_of_the_program_are_used_as_they_are(run: Run, certificates: Certificates) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.cert("good"), certificates.key("good"))
    client = ssl.create_default_context(cafile=certificates.directory / "ca.pem")
    tls = Tls(server_context=server, client_context=client)
    assert run(Attempt.make(tls, tls)).refused is None
    assert client.check_hostname
    assert "IP address mismatch" in run(Attempt.make(tls, tls, node="far@127.0.0.2")).near_text


# --- Strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\0\x15N\0\0\0\x0d\x07\xdf\x7f\xbd", "it is a node over plain TCP: start it with -proto_dist inet_tls"),
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP"),
        (b"\xff\0\xff\0", r"it begins with b'\xff\x00\xff\x00'"),
        (b"\x16\x03\x01\0\x05hello", "TLS with"),
    ],
)
def test_who_does_not_speak_tls(run: Run, certificates: Certificates, data: bytes, text: str) -> None:
    async def main() -> str:
        recorder = Recorder()
        listener = await certificates.tls().listen(recorder.attach)
        with socket.create_connection(("127.0.0.1", listener.port)) as peer:
            peer.sendall(data)
            peer.settimeout(5)
            assert (await asyncio.to_thread(peer.recv, 100))[:2] == b"\x15\x03"  # an alert
        await until(lambda: bool(recorder.lost))
        await listener.close()
        [error] = recorder.lost
        assert isinstance(error, TlsError)
        return str(error)

    assert text in run(main())


def test_a_port_of_plain_tcp_that_is_dialled(run: Run, certificates: Certificates) -> None:
    async def main(answer: bytes | None) -> str:
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        if answer is not None:
            recorder.on_data = lambda _: (recorder.stream and recorder.stream.write([answer])) or None
        with pytest.raises(NetworkError) as raised:
            await certificates.tls().dial("127.0.0.1", listener.port, Recorder().attach, timeout=0.3)
        await until(lambda: bool(recorder.lost))
        await listener.close()
        return str(raised.value)

    assert "a node over plain TCP is as silent as that; was it started with -proto_dist inet_tls?" in run(main(None))
    assert "does not speak TLS, which is expected here" in run(main(b"\0\x03sok"))


def test_a_peer_that_closes_in_the_handshake(run: Run, certificates: Certificates) -> None:
    async def main() -> str:
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        recorder.on_data = lambda _: recorder.stream and recorder.stream.close()
        with pytest.raises(TlsError) as raised:
            await certificates.tls().dial("127.0.0.1", listener.port, Recorder().attach, timeout=5)
        await listener.close()
        return str(raised.value)

    assert "closed the connection during the TLS handshake: does it speak TLS" in run(main())


def test_a_connection_that_says_nothing_is_known_at_once_and_has_no_tls(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        recorder = Recorder()
        listener = await certificates.tls().listen(recorder.attach)
        with socket.create_connection(("127.0.0.1", listener.port)):
            await until(lambda: recorder.stream is not None)
            assert recorder.stream._tls is None  # type: ignore[union-attr]
        await until(lambda: recorder.lost == [None])
        await listener.close()

    run(main())


@BOTH_VERSIONS
def test_bytes_that_were_changed_on_the_way(run: Run, certificates: Certificates, versions: list[str]) -> None:
    async def main() -> str:
        tls = certificates.tls(versions=versions)
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            joined.near_stream.write([b"first"])
            await until(lambda: joined.far.received == b"first")
            joined.near_stream.raw_socket.send(b"\x17\x03\x03\0\x20" + bytes(32))  # type: ignore[attr-defined]
            await until(lambda: bool(joined.far.lost))
            assert joined.far.received == b"first"
            return str(joined.far.lost[0])

    assert "broke: " in run(main())
