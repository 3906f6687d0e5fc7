"""The stream over TLS in the middle of things: pauses, ends, failures, bytes one by one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support_loops import Run
from support_tls import BOTH_VERSIONS

from beamnode.carriers.base import Stream
from beamnode.carriers.memory import MemoryNetwork
from beamnode.carriers.tcp import Tcp
from beamnode.carriers.tls import Tls
from beamnode.carriers.tls_stream import DECRYPTED_BYTES, TlsStream
from beamnode.errors import TlsError
from contract import MIB, Joined, Recorder, Site, until
from support_certs import Certificates


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
            near: Any = joined.near.stream
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
