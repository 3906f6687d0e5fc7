"""What every carrier must do, as tests: each promise of `carriers/base.py`, for yours too.

    # test_mine.py
    from beamnode.testing.carrier_contract import CarrierContract, Site

    class TestMine(CarrierContract):
        def site(self):
            return Site(Mine(), Mine(), "127.0.0.1")

Run it with pytest. Nothing here imports it: each test is a method that may raise AssertionError, or `unittest.SkipTest`
where the carrier lacks what is tested. For pytest's explanations of failed assertions put
`pytest.register_assert_rewrite("beamnode.testing.carrier_contract")` before the import.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest import SkipTest

from beamnode.carriers.base import WRITE_HIGH_BYTES, Stream
from beamnode.errors import NetworkError, NodeNotFound, SetupTimeout
from beamnode.testing.carrier_recorder import (
    MIB,
    NOWHERE,
    Joined,
    Recorder,
    Site,
    dial_error,
    errors_reported,
    nothing_left_open,
    recorded,
    short_linger,
    until,
)

__all__ = ["CarrierContract", "Joined", "Recorder", "Site", "until"]


class CarrierContract:
    """Inherit from it and say what `site` is; the other hooks are for what a carrier may lack."""

    def site(self) -> Site:
        """A new pair of carriers that reach each other."""
        raise NotImplementedError

    def half_close(self, stream: Any) -> bool:
        """Shut down the sending half as a foreign peer might; False where the carrier has no such thing."""
        return False

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[tuple[Site, int]]:
        """A site, and a port at it, where nobody answers who dials."""
        raise SkipTest("this suite was not told of a place that does not answer")
        yield

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Whose loop the tests run on."""
        return asyncio.new_event_loop()

    def run_main(self, main: Coroutine[Any, Any, None]) -> None:
        Recorder.faults.clear()
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(main)
        assert Recorder.faults == []

    def run(self, body: Callable[[Joined], Awaitable[None]], swapped: bool = True) -> None:
        """Run `body` with a dialled `near` and an accepted `far`, then the other way round."""
        for turn in (False, True)[: 1 + swapped]:
            try:
                self.run_main(self._run(body, turn))
            except BaseException as error:
                error.add_note(f"near was {'accepted' if turn else 'dialled'}")
                raise

    async def _run(self, body: Callable[[Joined], Awaitable[None]], swapped: bool) -> None:
        async with Joined(self.site(), swapped) as joined:
            await body(joined)

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

        self.run(body, swapped=False)

    def test_many_small_chunks_of_every_kind_in_one_turn(self) -> None:
        async def body(joined: Joined) -> None:
            chunks = [(bytes, bytearray, memoryview)[n % 3](b"%08d" % n) for n in range(50_000)]
            joined.near_stream.write(chunks)
            await until(lambda: len(joined.far.received) == 400_000)
            assert joined.far.received == b"".join(b"%08d" % n for n in range(50_000))

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

        self.run(body, swapped=False)

    def test_the_factories_may_write_at_once(self) -> None:
        async def main() -> None:
            near, far = Recorder(), Recorder()

            def greet(recorder: Recorder, text: bytes) -> Callable[[Stream], Recorder]:
                def factory(stream: Stream) -> Recorder:
                    stream.write([text])
                    return recorder.attach(stream)

                return factory

            site = self.site()
            listener = await site.listen(greet(far, b"from far"))
            stream = await site.dial(listener, greet(near, b"from near"))
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
            joined.far_stream.pause_reading()
            joined.far.deaf = True
            pauses, written = joined.near.pauses, 0
            while pauses[-1:] != ["pause"]:  # one that ends by itself was of a moment: the system has taken more
                joined.near_stream.write([bytes(MIB)])
                written += MIB
                await asyncio.sleep(0.02)
                assert written < 64 * MIB, "nothing holds back who writes to somebody that does not read"
            before = pauses[:-1]
            assert before == ["pause", "resume"] * (len(before) // 2)
            joined.near_stream.write([b"written while paused"])
            assert pauses == [*before, "pause"]
            await asyncio.sleep(0.01)
            joined.far.deaf = False
            joined.far_stream.resume_reading()
            assert not joined.far.received, "data from inside resume_reading"
            joined.far_stream.resume_reading()
            await until(lambda: pauses[-1] == "resume", 30)
            await until(lambda: len(joined.far.received) == written + 20, 30)
            assert joined.far.received.endswith(b"\0written while paused")
            assert pauses == ["pause", "resume"] * (len(pauses) // 2)

        self.run(body)

    def test_reading_is_paused_and_resumed_from_inside_data_received(self) -> None:
        async def body(joined: Joined) -> None:
            loop, data = asyncio.get_running_loop(), bytes(range(256)) * 4096

            def resume() -> None:
                joined.far.deaf = False
                joined.far_stream.resume_reading()

            def pause(_: bytes) -> None:
                joined.far.deaf = True
                joined.far_stream.pause_reading()
                loop.call_later(0.0005, resume)

            joined.far.on_data = pause
            joined.near_stream.write([data])
            await until(lambda: len(joined.far.received) >= len(data), 30)
            assert joined.far.received == data

        self.run(body)

    def test_little_unsent_pauses_nobody(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.write([bytes(WRITE_HIGH_BYTES // 2)])
            await until(lambda: len(joined.far.received) == WRITE_HIGH_BYTES // 2)
            assert joined.near.pauses == []

        self.run(body)

    def test_a_factory_that_writes_much_is_paused_too(self) -> None:
        async def main() -> None:
            site, near, far = self.site(), Recorder(), Recorder()

            def factory(stream: Stream) -> Recorder:
                stream.write([bytes(16 * MIB)])
                return near.attach(stream)

            listener = await site.listen(far.attach)
            await site.dial(listener, factory)
            await until(lambda: len(far.received) == 16 * MIB and near.pauses == ["pause", "resume"], 30)
            for recorder in (near, far):
                assert recorder.stream is not None
                recorder.stream.abort()
            await until(lambda: bool(near.lost and far.lost))
            await listener.close()

        self.run_main(main())

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

    def test_close_sends_what_was_written_though_the_peer_writes_too(self) -> None:
        async def body(joined: Joined) -> None:
            joined.far_stream.write([bytes(4 * MIB)])
            await asyncio.sleep(0.001)
            joined.near_stream.write([bytes(4 * MIB), b"last words"])
            joined.near_stream.close()
            joined.near.deaf = True
            await until(lambda: bool(joined.far.lost and joined.near.lost), 30)
            assert len(joined.far.received) == 4 * MIB + 10

        self.run(body)

    def test_close_lingers_only_so_long(self) -> None:
        async def body(joined: Joined) -> None:
            joined.far_stream.pause_reading()
            joined.near_stream.write([bytes(32 * MIB)])
            with short_linger(joined.near_stream.stream) as seconds:
                joined.near_stream.close()
                await until(lambda: joined.near.lost == [None], seconds + 5)

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
            if not self.half_close(joined.near_stream.stream):
                raise SkipTest("this carrier has no half close")
            await until(lambda: joined.far.lost == [None])
            assert joined.far.received == b"before"
            await until(lambda: joined.near.lost == [None])

        self.run(body)

    def test_everything_after_the_end_is_harmless(self) -> None:
        async def body(joined: Joined) -> None:
            addresses = joined.near_stream.peer_address, joined.near_stream.local_address
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
            assert addresses == (joined.near_stream.peer_address, joined.near_stream.local_address)

        self.run(body)

    def test_both_close_at_once(self) -> None:
        async def body(joined: Joined) -> None:
            joined.near_stream.close()
            joined.far_stream.close()
            await until(lambda: joined.near.lost == [None] and joined.far.lost == [None])

        self.run(body, swapped=False)

    def test_close_and_abort_from_inside_data_received(self) -> None:
        async def body(joined: Joined, last: str) -> None:
            def answer_and_end(_: bytes) -> None:
                joined.far.deaf = True
                joined.far_stream.write([b"bye"])
                getattr(joined.far_stream, last)()
                assert joined.far.lost == [], f"not from inside {last}"

            joined.far.on_data = answer_and_end
            for _ in range(100):
                joined.near_stream.write([bytes(64 * 1024)])
                await asyncio.sleep(0)
            await until(lambda: bool(joined.near.lost) and joined.far.lost == [None])
            if last == "close":
                assert joined.near.received == b"bye"

        self.run(lambda joined: body(joined, "close"))
        self.run(lambda joined: body(joined, "abort"))

    def test_a_write_to_a_peer_that_is_gone_calls_nobody(self) -> None:
        async def body(joined: Joined) -> None:
            joined.far_stream.abort()
            while not joined.near.lost:
                before = len(joined.near.lost)
                joined.near_stream.write([bytes(100_000)])
                assert len(joined.near.lost) == before, "not from inside write"
                await asyncio.sleep(0)
            joined.near_stream.write([b"x"])

        self.run(body)

    def test_a_factory_may_end_its_stream(self) -> None:
        async def main(last: str) -> None:
            def ending(recorder: Recorder) -> Callable[[Stream], Recorder]:
                def factory(stream: Stream) -> Recorder:
                    getattr(stream, last)()
                    recorder.deaf = True
                    return recorder.attach(stream)

                return factory

            for ends_at in ("near", "far"):
                site, near, far = self.site(), Recorder(), Recorder()
                listener = await site.listen(ending(far) if ends_at == "far" else far.attach)
                await site.dial(listener, ending(near) if ends_at == "near" else near.attach)
                await until(lambda near=near, far=far: bool(near.lost and far.lost))  # type: ignore[misc]
                await listener.close()

        self.run_main(main("close"))
        self.run_main(main("abort"))

    # --- exceptions ---------------------------------------------------------------------------------------------------

    def test_an_exception_of_the_receiver_ends_the_stream(self) -> None:
        async def body(joined: Joined) -> None:
            reported = errors_reported()

            def fail(_: bytes) -> None:
                raise ZeroDivisionError

            joined.far.on_data = fail
            joined.near_stream.write([b"hello"])
            await until(lambda: bool(joined.near.lost and joined.far.lost))
            assert [type(error) for error in reported] == [ZeroDivisionError]

        self.run(body)

    def test_an_exception_of_flow_control_ends_the_stream(self) -> None:
        async def body(joined: Joined, which: str) -> None:
            reported = errors_reported()

            def fail() -> None:
                raise ZeroDivisionError

            setattr(joined.near, which, fail)
            joined.far_stream.pause_reading()
            joined.near_stream.write([bytes(32 * MIB)])
            joined.far_stream.resume_reading()
            await until(lambda: bool(joined.near.lost and joined.far.lost), 30)
            assert [type(error) for error in reported] == [ZeroDivisionError]

        self.run(lambda joined: body(joined, "on_pause"))
        self.run(lambda joined: body(joined, "on_resume"))

    def test_an_exception_at_the_end_is_reported(self) -> None:
        async def body(joined: Joined) -> None:
            reported = errors_reported()

            def fail() -> None:
                raise ZeroDivisionError

            joined.far.on_lost = fail
            joined.near_stream.close()
            await until(lambda: bool(joined.near.lost and joined.far.lost and reported))
            assert [type(error) for error in reported] == [ZeroDivisionError]

        self.run(body)

    def test_a_factory_that_fails_ends_its_stream(self) -> None:
        async def main() -> None:
            def fail(_: object) -> Recorder:
                raise ZeroDivisionError

            site, other, reported = self.site(), Recorder(), errors_reported()
            listener = await site.listen(fail)
            await site.dial(listener, other.attach)
            await until(lambda: len(other.lost) == 1)
            await listener.close()
            assert [type(error) for error in reported] == [ZeroDivisionError]

            site, other, reported = self.site(), Recorder(), errors_reported()
            listener = await site.listen(other.attach)
            assert (await site.dial(listener, fail)).is_closing
            await until(lambda: len(other.lost) == 1)
            await listener.close()
            assert [type(error) for error in reported] == [ZeroDivisionError]

        self.run_main(main())

    # --- listening and dialling ---------------------------------------------------------------------------------------

    def test_addresses(self) -> None:
        async def body(joined: Joined) -> None:
            near, far, listener = joined.near_stream, joined.far_stream, joined.listener
            for one, other in ((near.peer_address, far.local_address), (near.local_address, far.peer_address)):
                assert [type(value) for value in one] == [str, int] == [type(value) for value in other]
                assert one == other or NOWHERE in (one, other)
            assert listener.address[1] == listener.port
            assert listener.port > 0 or joined.site.dialling.by_name
            assert near.peer_address != NOWHERE
            assert near.peer_address[1] == listener.port
            assert not near.is_closing

        async def other_way(joined: Joined) -> None:
            assert joined.near_stream.peer_address != NOWHERE
            assert not joined.near_stream.is_closing

        self.run(body, swapped=False)
        self.run(other_way)

    def test_dial_refused(self) -> None:
        async def main() -> None:
            site = self.site()
            listener = await site.listen(Recorder().attach)
            await listener.close()
            near = Recorder()
            error = await dial_error(site.dial(listener, near.attach))
            assert not isinstance(error, SetupTimeout)
            if site.dialling.by_name:
                assert site.node in str(error)
            else:
                assert "refused" in str(error)
                assert str(listener.port) in str(error)
                assert site.host in str(error)
            assert near.stream is None

        self.run_main(main())

    def test_a_host_or_node_that_is_not_there(self) -> None:
        async def main() -> None:
            site, near = self.site(), Recorder()
            host, node = ("no-such-host.invalid", "") if not site.dialling.by_name else (site.host, f"none@{site.host}")
            error = await dial_error(site.dialling.dial(host, 1, near.attach, timeout=10, node=node))
            assert isinstance(error, NodeNotFound)
            assert (node or host) in str(error)
            assert near.stream is None

        self.run_main(main())

    def test_dialling_who_does_not_answer_takes_the_given_time(self) -> None:
        async def main() -> None:
            near = Recorder()
            async with self.silence() as (site, port):
                error = await dial_error(site.dialling.dial(site.host, port, near.attach, timeout=0.2, node=site.node))
                assert isinstance(error, SetupTimeout)
                assert "0.2 s" in str(error)
                assert near.stream is None
                dialling = asyncio.create_task(
                    site.dialling.dial(site.host, port, near.attach, timeout=60, node=site.node)
                )
                await asyncio.sleep(0.05)
                dialling.cancel()
                await asyncio.wait([dialling], timeout=5)
                assert dialling.cancelled()
                assert near.stream is None

        with nothing_left_open():
            self.run_main(main())

    def test_dialling_that_is_cancelled_leaves_nothing_behind(self) -> None:
        async def main() -> None:
            for turns in range(8):
                site, near, far = self.site(), Recorder(), list[Recorder]()
                listener = await site.listen(lambda stream, far=far: recorded(far, stream))  # type: ignore[misc]
                dialling = asyncio.create_task(site.dial(listener, near.attach))
                for _ in range(turns):
                    await asyncio.sleep(0)
                dialling.cancel()
                with suppress(asyncio.CancelledError):
                    (await dialling).abort()  # it was made before
                await until(lambda near=near: near.stream is None or len(near.lost) == 1)  # type: ignore[misc]
                await asyncio.sleep(0.005)
                await listener.close()
                await until(lambda far=far: all(one.lost for one in far))  # type: ignore[misc]

        with nothing_left_open():
            self.run_main(main())

    def test_a_closed_listener_accepts_no_more_but_its_streams_live(self) -> None:
        async def body(joined: Joined) -> None:
            await joined.listener.close()
            with suppress(NetworkError):  # refused, or closed unserved
                late = Recorder()
                await joined.site.dial(joined.listener, late.attach)
                await until(lambda: bool(late.lost))
            joined.near_stream.write([b"still here"])
            joined.far_stream.write([b"here too"])
            await until(lambda: joined.far.received == b"still here" and joined.near.received == b"here too")
            await joined.listener.close()  # once more is harmless

        self.run(body, swapped=False)

    def test_a_listener_that_closes_while_somebody_comes(self) -> None:
        async def main() -> None:
            for turns in [*range(6)] * 2:
                site, near, far = self.site(), Recorder(), list[Recorder]()
                listener = await site.listen(lambda stream, far=far: recorded(far, stream))  # type: ignore[misc]
                dialling = asyncio.create_task(site.dial(listener, near.attach))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await listener.close()
                try:
                    await dialling
                except NetworkError:
                    continue
                await until(lambda near=near, far=far: bool(near.lost or far))  # type: ignore[misc]
                assert near.stream is not None
                near.stream.abort()
                await until(lambda near=near, far=far: all(one.lost for one in [near, *far]))  # type: ignore[misc]

        with nothing_left_open():
            self.run_main(main())

    def test_one_carrier_serves_several_nodes(self) -> None:
        async def main() -> None:
            site, far = self.site(), [Recorder(), Recorder()]
            nodes = [site.node, f"more-{site.node}"]
            listeners = [await site.listen(one.attach, node) for one, node in zip(far, nodes, strict=True)]
            for number, (listener, node) in enumerate(zip(listeners, nodes, strict=True)):
                near = Recorder()
                stream = await site.dial(listener, near.attach, node=node)
                stream.write([b"for %d" % number])
                stream.close()
                await until(lambda near=near: near.lost == [None])  # type: ignore[misc]
                await listener.close()
            assert [one.received for one in far] == [b"for 0", b"for 1"]
            again = await site.listen(Recorder().attach, nodes[0])  # the place is free
            await again.close()

        self.run_main(main())

    def test_many_connections_at_once(self) -> None:
        async def main() -> None:
            site, accepted = self.site(), list[Recorder]()
            listener = await site.listen(lambda stream: recorded(accepted, stream))
            dialled = [Recorder() for _ in range(self.connections)]
            streams = await asyncio.gather(*(site.dial(listener, one.attach, 30) for one in dialled))
            for number, stream in enumerate(streams):
                stream.write([b"%d" % number])
                stream.close()
            count = len(dialled)
            await until(lambda: len(accepted) == count and all(one.lost for one in accepted + dialled), 30)
            assert sorted(int(one.received) for one in accepted) == list(range(count))
            await listener.close()

        self.run_main(main())

    connections = 50
    """How many are made at once."""

    def test_options_are_named(self) -> None:
        for carrier in (self.site().dialling, self.site().listening):
            assert carrier.name
            assert carrier.handshake_length_bytes in (2, 4)
            assert carrier.by_name in (True, False)
