"""What every carrier must do. A carrier's test file subclasses `CarrierContract` and gives it a `Site`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from beamnode.carriers.base import WRITE_HIGH_BYTES, Carrier, Listener, Stream
from beamnode.errors import NetworkError, SetupTimeout

MIB = 1024 * 1024


class Recorder:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.received = bytearray()
        self.pieces: list[bytes] = []
        self.lost: list[NetworkError | None] = []
        self.pauses: list[str] = []
        self.on_data: Callable[[bytes], None] | None = None

    def attach(self, stream: Stream) -> Recorder:
        self.stream = stream
        return self

    def data_received(self, data: bytes | memoryview) -> None:
        assert type(data) in (bytes, memoryview)
        data = bytes(data)  # valid during the call only
        assert data
        assert not self.lost, "data after the end"
        self.received += data
        self.pieces.append(data)
        if self.on_data:
            self.on_data(data)

    def connection_lost(self, error: NetworkError | None) -> None:
        assert error is None or isinstance(error, NetworkError)
        self.lost.append(error)

    def pause_writing(self) -> None:
        self.pauses.append("pause")

    def resume_writing(self) -> None:
        self.pauses.append("resume")


class Site:
    """One carrier that listens, one that dials (often the same), and the host to dial."""

    def __init__(self, listening: Carrier, dialling: Carrier, host: str) -> None:
        self.listening = listening
        self.dialling = dialling
        self.host = host


class Joined:
    """Two streams, joined: `near` dialled, `far` accepted."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.near = Recorder()
        self.far = Recorder()
        self.listener: Listener

    async def __aenter__(self) -> Joined:
        self.listener = await self.site.listening.listen(self.far.attach)
        self.near_stream = await self.site.dialling.dial(
            self.site.host, self.listener.port, self.near.attach, timeout=5
        )
        assert self.near.stream is self.near_stream
        await until(lambda: self.far.stream is not None)
        assert self.far.stream is not None
        self.far_stream = self.far.stream
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.close()
        for stream in (self.near_stream, self.far_stream):
            stream.abort()
        await until(lambda: bool(self.near.lost and self.far.lost))
        await asyncio.sleep(0.01)
        assert len(self.near.lost) == 1, "connection_lost exactly once"
        assert len(self.far.lost) == 1, "connection_lost exactly once"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


class CarrierContract:
    def site(self) -> Site:
        raise NotImplementedError

    def half_close(self, stream: Any) -> bool:
        """Shut down the sending half as a foreign peer might; False where the carrier has no such thing."""
        return False

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Whose loop the tests run on."""
        return asyncio.new_event_loop()

    def run_main(self, main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(main)

    def run(self, body: Callable[[Joined], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Joined(self.site()) as joined:
                await body(joined)

        self.run_main(main())

    # --- bytes --------------------------------------------------------------------------------------------------------

    def test_order_and_bytes_both_ways(self) -> None:
        async def body(joined: Joined) -> None:
            for number in range(200):
                joined.near_stream.write([b"%d," % number])
                joined.far_stream.write([b"%d;" % number])
                if number % 7 == 0:
                    await asyncio.sleep(0)
            expected = b"".join(b"%d," % number for number in range(200))
            await until(lambda: len(joined.far.received) == len(expected) == len(joined.near.received))
            assert joined.far.received == expected
            assert joined.near.received == expected.replace(b",", b";")

        self.run(body)

    def test_many_small_chunks_of_every_kind_in_one_turn(self) -> None:
        async def body(joined: Joined) -> None:
            chunks = [(bytes, bytearray, memoryview)[n % 3](b"%08d" % n) for n in range(100_000)]
            joined.near_stream.write(chunks)
            await until(lambda: len(joined.far.received) == 800_000)
            assert joined.far.received == b"".join(b"%08d" % n for n in range(100_000))

        self.run(body)

    def test_large_writes_both_ways(self) -> None:
        async def body(joined: Joined) -> None:
            data = bytes(range(256)) * (64 * 1024)  # 16 MiB
            view = memoryview(data)
            pieces = [view[start : start + 300_000] for start in range(0, len(data), 300_000)]
            joined.near_stream.write([b"head", *pieces])
            joined.far_stream.write([data, b"tail"])
            await until(lambda: len(joined.far.received) == len(data) + 4 == len(joined.near.received), 30)
            assert joined.far.received == b"head" + data
            assert joined.near.received == data + b"tail"

        self.run(body)

    def test_the_factories_may_write_at_once(self) -> None:
        async def main() -> None:
            near, far = Recorder(), Recorder()

            def greet(recorder: Recorder, text: bytes) -> Callable[[Stream], Recorder]:
                def factory(stream: Stream) -> Recorder:
                    stream.write([text])
                    return recorder.attach(stream)

                return factory

            site = self.site()
            listener = await site.listening.listen(greet(far, b"from far"))
            stream = await site.dialling.dial(site.host, listener.port, greet(near, b"from near"), timeout=5)
            await until(lambda: near.received == b"from far" and far.received == b"from near")
            stream.close()
            await until(lambda: near.lost == [None] and far.lost == [None])
            await listener.close()

        self.run_main(main())

    def test_writing_nothing_is_nothing(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.write([])
            joined.near_stream.write([b""])
            joined.near_stream.write([b"", b""])
            joined.near_stream.write([b"x"])
            await until(lambda: joined.far.received == b"x")

        self.run(body)

    # --- flow ---------------------------------------------------------------------------------------------------------

    def test_a_slow_reader_pauses_the_writer(self) -> None:
        async def body(joined: Joined) -> None:
            joined.far_stream.pause_reading()
            written = 0
            while not joined.near.pauses:
                joined.near_stream.write([bytes(MIB)])
                written += MIB
                await asyncio.sleep(0.001)
                assert written < 256 * MIB
            assert joined.near.pauses == ["pause"]
            assert len(joined.far.received) <= MIB
            joined.near_stream.write([b"written while paused"])
            joined.far_stream.resume_reading()
            await until(lambda: joined.near.pauses == ["pause", "resume"], 30)
            await until(lambda: len(joined.far.received) == written + 20, 30)
            assert joined.far.received.endswith(b"\0written while paused")

        self.run(body)

    def test_little_unsent_pauses_nobody(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.write([bytes(WRITE_HIGH_BYTES // 2)])
            await until(lambda: len(joined.far.received) == WRITE_HIGH_BYTES // 2)
            assert joined.near.pauses == []

        self.run(body)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def test_close_sends_what_was_written(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.write([bytes(8 * MIB), b"last words"])
            joined.near_stream.close()
            assert joined.near_stream.is_closing
            assert joined.near.lost == [], "not from inside close"
            await until(lambda: bool(joined.far.lost), 30)
            assert joined.far.lost == [None]
            assert len(joined.far.received) == 8 * MIB + 10
            assert joined.far.received.endswith(b"last words")
            await until(lambda: joined.near.lost == [None])

        self.run(body)

    def test_abort_is_noticed_by_the_other_side(self) -> None:
        async def body(joined: Joined) -> None:
            joined.far_stream.abort()
            assert joined.far_stream.is_closing
            assert joined.far.lost == [], "not from inside abort"
            await until(lambda: bool(joined.near.lost and joined.far.lost))
            assert joined.far.lost == [None]
            assert joined.near_stream.is_closing

        self.run(body)

    def test_abort_with_much_unsent(self) -> None:
        async def body(joined: Joined) -> None:
            joined.far_stream.pause_reading()
            joined.near_stream.write([bytes(64 * MIB)])
            joined.near_stream.abort()
            await until(lambda: joined.near.lost == [None])
            joined.far_stream.resume_reading()
            await until(lambda: bool(joined.far.lost))
            assert len(joined.far.received) < 64 * MIB

        self.run(body)

    def test_half_close_of_the_peer_is_the_end(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.write([b"before"])
            if not self.half_close(joined.near_stream):
                pytest.skip("this carrier has no half close")
            await until(lambda: joined.far.lost == [None])
            assert joined.far.received == b"before"
            await until(lambda: joined.near.lost == [None])

        self.run(body)

    def test_everything_after_the_end_is_harmless(self) -> None:
        async def body(joined: Joined) -> None:
            peer_address = joined.near_stream.peer_address
            joined.near_stream.close()
            joined.near_stream.write([b"too late"])
            await until(lambda: bool(joined.near.lost and joined.far.lost))
            for stream in (joined.near_stream, joined.far_stream):
                assert stream.is_closing
                stream.write([b"too late"])
                stream.write([b"too", b"late"])
                stream.pause_reading()
                stream.resume_reading()
                stream.close()
                stream.abort()
                stream.close()
            await asyncio.sleep(0.01)
            assert joined.far.received == b""
            assert joined.near_stream.peer_address == peer_address

        self.run(body)

    def test_both_close_at_once(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.close()
            joined.far_stream.close()
            await until(lambda: joined.near.lost == [None] and joined.far.lost == [None])

        self.run(body)

    def test_close_from_inside_data_received(self) -> None:
        async def body(joined: Joined) -> None:
            def answer_and_close(_: bytes) -> None:
                joined.far_stream.write([b"bye"])
                joined.far_stream.close()

            joined.far.on_data = answer_and_close
            joined.near_stream.write([b"hello"])
            await until(lambda: joined.near.lost == [None])
            assert joined.near.received == b"bye"

        self.run(body)

    def test_an_exception_of_the_receiver_ends_the_stream(self) -> None:
        async def body(joined: Joined) -> None:
            reported: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

            def fail(_: bytes) -> None:
                raise ZeroDivisionError

            joined.far.on_data = fail
            joined.near_stream.write([b"hello"])
            await until(lambda: bool(joined.near.lost and joined.far.lost))
            assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]

        self.run(body)

    # --- listening and dialling ---------------------------------------------------------------------------------------

    def test_addresses(self) -> None:
        async def body(joined: Joined) -> None:
            assert joined.near_stream.peer_address == joined.far_stream.local_address
            assert joined.far_stream.peer_address == joined.near_stream.local_address
            assert joined.near_stream.peer_address[1] == joined.listener.port
            assert joined.listener.address[1] == joined.listener.port > 0
            assert not joined.near_stream.is_closing

        self.run(body)

    def test_dial_refused(self) -> None:
        async def main() -> None:
            site = self.site()
            listener = await site.listening.listen(Recorder().attach)
            await listener.close()
            with pytest.raises(NetworkError, match="refused") as caught:
                await site.dialling.dial(site.host, listener.port, Recorder().attach, timeout=5)
            assert str(listener.port) in str(caught.value)
            assert site.host in str(caught.value)
            assert not isinstance(caught.value, SetupTimeout)

        self.run_main(main())

    def test_a_closed_listener_accepts_no_more_but_its_streams_live(self) -> None:
        async def body(joined: Joined) -> None:
            await joined.listener.close()
            with suppress(NetworkError):  # refused, or closed unserved
                late = Recorder()
                await joined.site.dialling.dial(joined.site.host, joined.listener.port, late.attach, timeout=5)
                await until(lambda: bool(late.lost))
            joined.near_stream.write([b"still here"])
            await until(lambda: joined.far.received == b"still here")
            await joined.listener.close()  # once more is harmless

        self.run(body)

    def test_many_connections_at_once(self) -> None:
        async def main() -> None:
            site = self.site()
            accepted: list[Recorder] = []

            def accept(stream: Stream) -> Recorder:
                accepted.append(Recorder().attach(stream))
                return accepted[-1]

            listener = await site.listening.listen(accept)
            dialled = [Recorder() for _ in range(50)]
            streams = await asyncio.gather(
                *(site.dialling.dial(site.host, listener.port, one.attach, timeout=5) for one in dialled)
            )
            for number, stream in enumerate(streams):
                stream.write([b"%d" % number])
                stream.close()
            await until(lambda: len(accepted) == 50 and all(one.lost for one in accepted + dialled))
            assert sorted(int(one.received) for one in accepted) == list(range(50))
            await listener.close()

        self.run_main(main())

    def test_options_are_named(self) -> None:
        carrier = self.site().dialling
        assert carrier.name
        assert carrier.handshake_length_bytes in (2, 4)
