"""TLS: the contract on both loops and families, who is let in, and what who is not let in is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support_loops import LOOPS, Run
from test_tcp import needs_ipv6

from beamnode.carriers.base import Stream
from beamnode.carriers.memory import MemoryNetwork
from beamnode.carriers.tcp import Tcp
from beamnode.carriers.tls import CertKey, Tls, Tls6
from beamnode.carriers.tls_peers import is_for_host, names_of
from beamnode.carriers.tls_stream import DECRYPTED_BYTES, TlsStream
from beamnode.errors import NetworkError, TlsError, UsageError
from contract import MIB, CarrierContract, Joined, Recorder, Site, until
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
        stream.raw_socket.shutdown(socket.SHUT_WR)
        return True


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


class Attempt:
    """One peer dials another: what each is told."""

    def __init__(self) -> None:
        self.near = Recorder()  # who dials
        self.far = Recorder()
        self.refused: NetworkError | None = None

    @classmethod
    async def make(cls, server: Tls, client: Tls, node: str = "far@127.0.0.1") -> Attempt:
        attempt = cls()
        listener = await server.listen(attempt.far.attach)
        try:
            stream = await client.dial("127.0.0.1", listener.port, attempt.near.attach, timeout=5, node=node)
        except NetworkError as error:
            attempt.refused = error
            await until(lambda: bool(attempt.far.lost))
        else:
            stream.write([b"hello"])
            await until(lambda: bool(attempt.far.lost) or attempt.far.received == b"hello")
            if attempt.far.lost:
                await until(lambda: bool(attempt.near.lost))
                attempt.refused = attempt.near.lost[0]
            stream.abort()
            await until(lambda: bool(attempt.far.lost))
        finally:
            await listener.close()
        return attempt

    @property
    def near_text(self) -> str:
        assert isinstance(self.refused, TlsError)
        return str(self.refused)

    @property
    def far_text(self) -> str:
        [error] = self.far.lost
        assert isinstance(error, TlsError)
        return str(error)


BOTH_VERSIONS = pytest.mark.parametrize("versions", [["tlsv1.2"], ["tlsv1.3"]], ids=["1.2", "1.3"])

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


# --- In the middle of things ------------------------------------------------------------------------------------------


def test_dialling_that_is_cancelled_leaves_nothing(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        silent = Recorder()
        listener = await Tcp().listen(silent.attach)
        task = asyncio.create_task(certificates.tls().dial("127.0.0.1", listener.port, Recorder().attach, timeout=5))
        await until(lambda: bool(silent.received))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: bool(silent.lost))
        await listener.close()

    run(main())


def test_what_was_decrypted_waits_while_reading_is_paused(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        tls = certificates.tls()
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            joined.far.on_data = lambda _: joined.far_stream.pause_reading()
            data = bytes(range(256)) * 4096  # 1 MiB
            joined.near_stream.write([data])
            while len(joined.far.received) < len(data):
                before = len(joined.far.received)
                joined.far_stream.resume_reading()
                await until(lambda before=before: len(joined.far.received) > before)  # type: ignore[misc]
                paused_at = len(joined.far.received)
                await asyncio.sleep(0.002)
                assert len(joined.far.received) == paused_at
            assert joined.far.received == data

    run(main())


class NewKeysFirst:
    """OpenSSL's object during a renegotiation: it writes nothing before something was read."""

    def __init__(self, tls: Any) -> None:
        self._tls = tls
        self.waits = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def write(self, data: Any) -> int:
        if self.waits:
            raise ssl.SSLWantReadError
        written: int = self._tls.write(data)
        return written

    def read(self, *args: Any) -> Any:
        self.waits = False
        return self._tls.read(*args)


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_cannot_be_written_before_new_keys_is_written_then(
    run: Run, certificates: Certificates, size: int
) -> None:
    async def main() -> None:
        tls = certificates.tls()
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            near: Any = joined.near_stream
            near._tls = NewKeysFirst(near._tls)
            near.write([b"a" * size])
            near.write([b"b"])
            await asyncio.sleep(0.01)
            assert joined.far.received == b""
            joined.far_stream.write([b"keys"])
            await until(lambda: joined.far.received == b"a" * size + b"b")

    run(main())


def test_close_while_reading_is_paused(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        tls = certificates.tls()
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            joined.near_stream.pause_reading()
            joined.near_stream.write([bytes(4 * MIB)])
            joined.near_stream.close()
            joined.far_stream.write([bytes(MIB)])
            await until(lambda: joined.near.lost == [None] and joined.far.lost == [None])
            assert len(joined.far.received) == 4 * MIB

    run(main())


@pytest.mark.parametrize("what", ["pause_writing", "resume_writing", "data_received"])
def test_a_receiver_that_fails_ends_its_stream(run: Run, certificates: Certificates, what: str) -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        tls = certificates.tls()
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            if what == "data_received":  # from where nothing below would see it
                joined.near.on_data = lambda _: joined.near_stream.pause_reading()
                joined.far_stream.write([bytes(4 * DECRYPTED_BYTES)])
                await until(lambda: bool(joined.near.received))
                joined.near.on_data = fail
                joined.near_stream.resume_reading()
            else:
                setattr(joined.near, what, fail)
                joined.far_stream.pause_reading()
                joined.near_stream.write([bytes(16 * MIB)])
                if what == "resume_writing":
                    joined.far_stream.resume_reading()
            await until(lambda: bool(joined.near.lost))
            assert [type(error) for error in reported] == [ZeroDivisionError]

    run(main())


@pytest.mark.parametrize("who", ["near", "far"])
def test_a_factory_that_fails_closes_the_connection(run: Run, certificates: Certificates, who: str) -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

        def fail(_: object) -> Recorder:
            raise ZeroDivisionError

        recorder = Recorder()
        tls = certificates.tls()
        listener = await tls.listen(fail if who == "far" else recorder.attach)
        with contextlib.suppress(TlsError):
            await tls.dial("127.0.0.1", listener.port, fail if who == "near" else recorder.attach, timeout=5)
        await until(lambda: bool(reported) and (bool(recorder.lost) or recorder.stream is None))
        assert [type(error) for error in reported] == [ZeroDivisionError]
        await listener.close()

    run(main())


def test_an_interrupt_in_the_receiver_loses_nothing(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        tls = certificates.tls()
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            stream: Any = joined.far_stream
            joined.near_stream.write([b"1"])
            await until(lambda: joined.far.received == b"1")

            def interrupt(_: bytes) -> None:
                joined.far.on_data = None
                raise KeyboardInterrupt

            joined.far.on_data = interrupt
            stream._below.pause_reading()
            joined.near_stream.write([bytes(DECRYPTED_BYTES), b"2"])
            record = bytearray()
            while len(record) < DECRYPTED_BYTES:
                await asyncio.sleep(0.001)
                try:
                    record += stream.raw_socket.recv(1 << 20)
                except BlockingIOError:
                    continue
            with pytest.raises(KeyboardInterrupt):
                stream.data_received(record)
            stream._below.resume_reading()
            await until(lambda: len(joined.far.received) == DECRYPTED_BYTES + 2)

    run(main())


@BOTH_VERSIONS
def test_close_says_so_to_the_peer(run: Run, certificates: Certificates, versions: list[str]) -> None:
    """`close_notify`: nobody in between can cut the last words off unseen."""

    async def main() -> None:
        recorder = Recorder()
        listener = await certificates.tls(versions=versions).listen(recorder.attach)

        def talk() -> bytes:
            context = certificates.tls(versions=versions)._client.current()  # type: ignore[union-attr]
            context.check_hostname = False
            with (
                socket.create_connection(("127.0.0.1", listener.port)) as plain,
                context.wrap_socket(plain, suppress_ragged_eofs=False) as peer,
            ):
                peer.sendall(b"hello")
                return peer.recv(100) + peer.recv(100)

        talking = asyncio.create_task(asyncio.to_thread(talk))
        await until(lambda: recorder.received == b"hello")
        assert recorder.stream is not None
        recorder.stream.write([b"bye"])
        recorder.stream.close()
        assert await talking == b"bye"
        await until(lambda: recorder.lost == [None])
        await listener.close()

    run(main())


def test_over_a_network_in_memory(run: Run, certificates: Certificates) -> None:
    """Below TLS may be any carrier: nothing of a socket is needed."""

    async def main() -> None:
        near, far = Recorder(), Recorder()
        await join_in_memory(certificates.tls(check_hostname=False), near, far)
        assert near.stream is not None
        near.stream.write([bytes(8 * MIB), b"end"])
        near.stream.close()
        await until(lambda: far.lost == [None])
        assert len(far.received) == 8 * MIB + 3

    run(main())


@BOTH_VERSIONS
def test_byte_by_byte(
    run: Run, certificates: Certificates, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamnode.carriers.memory.PIECE_BYTES", 1)

    async def main() -> None:
        near, far = Recorder(), Recorder()
        await join_in_memory(certificates.tls(check_hostname=False, versions=versions), near, far)
        assert near.stream is not None
        near.stream.write([b"hello"])
        await until(lambda: far.received == b"hello")
        near.stream.close()
        await until(lambda: near.lost == [None] and far.lost == [None])

    run(main())


class CutAfter:
    """A receiver between a stream and a `TlsStream`: after so many bytes the connection breaks."""

    def __init__(self, count: int, below: Stream, above: Callable[[Stream], TlsStream]) -> None:
        self._left = count
        self._below = below
        self._above = above(below)
        self.pause_writing = self._above.pause_writing
        self.resume_writing = self._above.resume_writing
        self.connection_lost = self._above.connection_lost

    def data_received(self, data: bytes | memoryview) -> None:
        if not self._left:
            return
        self._above.data_received(data[: self._left])
        self._left = max(self._left - len(data), 0)
        if not self._left:
            self._below.abort()


@BOTH_VERSIONS
@pytest.mark.parametrize("who", ["near", "far"])
def test_a_connection_that_breaks_at_any_byte_of_the_handshake(
    run: Run, certificates: Certificates, versions: list[str], who: str
) -> None:
    tls = certificates.tls(check_hostname=False, versions=versions)

    async def main() -> None:
        for count in range(1, 3000, 1 if os.environ.get("BEAMNODE_EVERY_BYTE") else 149):
            near, far = Recorder(), Recorder()
            await join_in_memory(tls, near, far, {who: partial(CutAfter, count)})
            if near.stream is not None:
                near.stream.write([b"hello"])
            await until(lambda far=far: bool(far.lost) or bool(far.received))  # type: ignore[misc]
            if far.received:
                return  # the handshake is shorter
            assert len(far.lost) == 1
            assert len(near.lost) == (near.stream is not None)

    run(main())


async def join_in_memory(
    tls: Tls, near: Recorder, far: Recorder, between: dict[str, Callable[..., Any]] | None = None
) -> None:
    """Two `TlsStream`s over a network in memory, after the handshake, if it comes so far."""
    network = MemoryNetwork()
    dialled: list[TlsStream] = []

    def accept(stream: Stream) -> TlsStream:
        return TlsStream(stream, tls.accepting(), far.attach)

    def dial(stream: Stream) -> TlsStream:
        dialled.append(TlsStream(stream, tls.dialling("far"), near.attach))
        return dialled[0]

    def with_between(who: str, factory: Callable[[Stream], TlsStream]) -> Any:
        return (lambda stream: between[who](stream, factory)) if between and who in between else factory

    listener = await network.carrier("far").listen(with_between("far", accept))
    await network.carrier("near").dial("far", listener.port, with_between("near", dial), timeout=1)
    [stream] = dialled
    assert stream.ready is not None
    with contextlib.suppress(TlsError):
        async with asyncio.timeout(10):
            await stream.ready


# --- Files and options ------------------------------------------------------------------------------------------------


def test_certificates_are_loaded_anew(
    run: Run, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = Certificates.__new__(Certificates)
    files.directory = tmp_path

    def put(name: str) -> None:
        for own, given in ((files.cert("node"), certificates.cert(name)), (files.key("node"), certificates.key(name))):
            new = tmp_path / "new"
            shutil.copy(given, new)
            new.replace(own)

    shutil.copy(certificates.directory / "ca.pem", tmp_path)
    put("good")
    tls = files.tls("node")

    async def main() -> None:
        async with Joined(Site(tls, tls, "127.0.0.1")) as old:
            assert await connects_with() == "good"
            put("renewed")
            assert await connects_with() == "renewed"
            assert "TLS server: certificates loaded anew" in caplog.text
            caplog.clear()
            files.cert("node").write_text("nothing that is PEM")
            assert await connects_with() == "renewed"
            assert await connects_with() == "renewed"
            broken = [record for record in caplog.records if "the old ones stay" in record.getMessage()]
            assert len(broken) == 2, "once for each side"
            assert {record.levelname for record in broken} == {"ERROR"}
            files.cert("node").unlink()
            assert await connects_with() == "renewed"
            put("expired")
            assert "has expired" in await connects_with()
            put("good")
            assert await connects_with() == "good"
            old.near_stream.write([b"as before"])
            await until(lambda: old.far.received == b"as before")

    async def connects_with() -> str:
        """The common name that who dials sees."""
        attempt = Attempt()
        listener = await tls.listen(attempt.far.attach)
        try:
            stream = await tls.dial("127.0.0.1", listener.port, attempt.near.attach, timeout=5)
        except TlsError as error:
            return str(error)
        finally:
            await listener.close()
        certificate = stream._tls.getpeercert()  # type: ignore[attr-defined]
        stream.abort()
        await until(lambda: bool(attempt.near.lost and attempt.far.lost))
        [[(_, name)]] = certificate["subject"]
        return str(name)

    run(main())


def test_nothing_secret_is_shown(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tls = certificates.tls("locked", password="open sesame", listen_ports=range(9000, 9010))
    shown = f"{tls!r} {tls._server.options!r} {CertKey('a', 'b', 'open sesame')!r} {caplog.text}"  # type: ignore[union-attr]
    assert "sesame" not in shown
    assert repr(tls) == "Tls(family=AF_INET, listen_ports=range(9000, 9010))"


def test_a_key_with_a_password(run: Run, certificates: Certificates) -> None:
    for password in ("open sesame", b"open sesame", lambda: "open sesame"):
        tls = certificates.tls("locked", password=password)
        assert run(Attempt.make(tls, tls)).refused is None


OPTIONS_THAT_CANNOT_BE: dict[str, tuple[dict[str, Any], str]] = {
    "no CA": ({"cacertfile": None}, "TLS server: peers are to be verified, but against which CA?"),
    "no file": ({"certfile": "/nowhere/a.pem"}, "cannot read /nowhere/a.pem: No such file or directory"),
    "a key without a certificate": ({"certfile": None}, "keyfile without certfile"),
    "another key": ({"keyfile": "renewed-key.pem"}, "is not that of the certificate in"),
    "no PEM": ({"certfile": __file__}, "has no certificate that can be used"),
    "no PEM of a CA": ({"cacertfile": __file__}, "has no certificate in PEM that can be used"),
    "no password": ({"certfile": "locked.pem", "keyfile": "locked-key.pem"}, "is encrypted: give its password"),
    "wrong password": (
        {"certfile": "locked.pem", "keyfile": "locked-key.pem", "password": "open barley"},
        "the password of the key in .*locked-key.pem is wrong",
    ),
    "an old version": ({"versions": ["tlsv1.1"]}, "versions: tlsv1.1 is not secure"),
    "no version": ({"versions": ["tlsv1.4"]}, "versions: there is no 'tlsv1.4'"),
    "no versions": ({"versions": []}, "versions is a list"),
    "no cipher": ({"ciphers": "ROT13"}, "OpenSSL knows none of ROT13"),
    "some ciphers of TLS 1.3": ({"ciphers": ["TLS_AES_128_GCM_SHA256"]}, "Python cannot leave out"),
    "a depth": ({"depth": -1}, "depth is how many CAs"),
    "verify": ({"verify": "verify_none"}, "verify is True or False"),
    "unknown": ({"server": {"cafile": "x"}}, "server has no option 'cafile'; known: certfile, "),
    "no server": ({"server": {"certfile": None, "keyfile": None}}, "a node that listens needs a certificate"),
    "a name": ({"client": {"server_name_indication": True}}, "server_name_indication is a host name, or False"),
}


@pytest.mark.parametrize("case", OPTIONS_THAT_CANNOT_BE)
def test_options_that_cannot_be(certificates: Certificates, case: str) -> None:
    options, text = OPTIONS_THAT_CANNOT_BE[case]
    options = {
        name: certificates.directory / value if str(value).endswith("pem") and "/" not in value else value
        for name, value in options.items()
    }
    with pytest.raises(UsageError, match=text) as raised:
        Tls(**(certificates.options() | options))
    assert "barley" not in str(raised.value)


def test_without_a_certificate_it_dials_only(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="cannot listen over TLS: it has no certificate"):
            await certificates.tls(None).listen(Recorder().attach)
        with pytest.raises(UsageError, match="cannot dial over TLS"):
            await certificates.tls(client=False).dial("127.0.0.1", 1, Recorder().attach, timeout=1)

    run(main())


def test_ciphers_of_tls_13_alone_leave_no_other_version(run: Run, certificates: Certificates) -> None:
    everything = ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]
    server = certificates.tls(ciphers=everything)
    assert run(Attempt.make(server, certificates.tls())).refused is None
    assert "no version" in run(Attempt.make(server, certificates.tls(versions=["tlsv1.2"]))).near_text


def test_renegotiation_is_for_verified_peers(certificates: Certificates) -> None:
    """OTP closes a connection of TLS 1.2 when it is refused new keys: see tests/node/test_otp_tls.py."""

    def options(**given: Any) -> int:
        contexts: Any = certificates.tls(server=given)._server
        return int(contexts.current().options)

    assert not options() & ssl.OP_NO_RENEGOTIATION
    assert options(verify=False) & ssl.OP_NO_RENEGOTIATION
    assert options(fail_if_no_peer_cert=False) & ssl.OP_NO_RENEGOTIATION
    assert options(client_renegotiation=False) & ssl.OP_NO_RENEGOTIATION
    assert options() & ssl.OP_NO_TICKET
