"""What only a stream over a socket of the system owes: system calls, memory, errors at awkward moments."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import socket
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from support_loops import Run

from beamnode.carriers import socket_listener, socket_stream
from beamnode.carriers.base import Stream
from beamnode.carriers.socket_stream import (
    CHUNKS_PER_CALL,
    FIRST_READ_BYTES,
    LEAST_READ_BYTES,
    READS_PER_TURN,
    RECEIVE_BUFFER_BYTES,
    SMALL_CHUNK_BYTES,
    STREAM_READS,
    SocketStream,
)
from beamnode.carriers.tcp import Tcp
from beamnode.errors import SetupTimeout, UsageError
from contract import MIB, Joined, Recorder, Site, until

KIB = 1024


class CountingSocket(socket.socket):
    """Writes down what each system call was given."""

    calls: list[tuple[str, int]]

    def send(self, data: Any, flags: int = 0) -> int:
        self.calls.append(("send", len(data)))
        return super().send(data, flags)

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        self.calls.append(("sendmsg", len(buffers)))
        return super().sendmsg(buffers, *rest)

    def recv_into(self, buffer: Any, *rest: Any) -> int:
        count = super().recv_into(buffer, *rest)
        self.calls.append(("recv_into", count))
        return count


def opened(connected: socket.socket) -> tuple[SocketStream, Recorder]:
    connected.setblocking(False)
    stream, recorder = SocketStream(connected, None), Recorder()
    stream.open(recorder.attach)
    return stream, recorder


def counted_pair() -> tuple[SocketStream, Recorder, CountingSocket, socket.socket]:
    """A stream over one end of a pair of unix sockets, and the other end, bare."""
    one, other = socket.socketpair()
    counting = CountingSocket(fileno=one.detach())
    counting.calls = []
    stream, recorder = opened(counting)
    return stream, recorder, counting, other


def errors_reported() -> list[dict[str, Any]]:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    return reported


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


# --- System calls -----------------------------------------------------------------------------------------------------


def test_one_write_is_one_call_and_so_is_one_read(run: Run) -> None:
    async def main() -> None:
        stream, recorder, counting, other = counted_pair()
        large = bytes(SMALL_CHUNK_BYTES)
        stream.write([b"x"] * 5000)
        stream.write([b"x"])
        stream.write([b"head", b"er", large, b"", b"tail", large])
        stream.write([b"", b""])
        assert counting.calls == [("send", 5000), ("send", 1), ("sendmsg", 4)]
        assert other.recv(MIB) == b"x" * 5001 + b"header" + large + b"tail" + large
        counting.calls.clear()
        other.send(b"y" * 1000)
        await until(lambda: len(recorder.received) == 1000)
        await asyncio.sleep(0.01)
        assert counting.calls == [("recv_into", 1000)]
        stream.abort()
        other.close()
        await until(lambda: recorder.lost == [None])

    run(main())


@pytest.mark.parametrize("quick", [True, False], ids=["a quick receiver", "a slow receiver"])
def test_a_turn_reads_more_for_who_is_quick_but_not_for_ever(
    run: Run, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_stream, "BUSY_SECONDS", 60.0 if quick else -1.0)
    monkeypatch.setattr(socket_stream, "IDLE_SECONDS", 15.0 if quick else -1.0)

    async def main() -> None:
        async with Joined(Site(Tcp(), Tcp(), "127.0.0.1")) as joined:
            turns: list[int] = []
            turn = 0

            def count_turn() -> None:
                nonlocal turn
                turn += 1
                asyncio.get_running_loop().call_soon(count_turn)

            count_turn()
            joined.far.on_data = lambda _: turns.append(turn)
            joined.far_stream.pause_reading()
            joined.near_stream.write([bytes(16 * MIB)])
            await asyncio.sleep(0.05)
            joined.far_stream.resume_reading()
            await until(lambda: len(joined.far.received) == 16 * MIB)
            most = max(turns.count(turn) for turn in set(turns))
            largest = max(map(len, joined.far.pieces))
            assert (1 < most <= READS_PER_TURN) if quick else most == 1
            assert largest == (RECEIVE_BUFFER_BYTES if quick else FIRST_READ_BYTES)
            assert quick or max(map(len, joined.far.pieces[1:])) == LEAST_READ_BYTES

    run(main())


def test_more_chunks_than_a_call_takes(run: Run) -> None:
    async def main() -> None:
        stream, recorder, counting, other = counted_pair()
        chunk = bytes(range(256)) * 8
        stream.write([chunk] * 3 * CHUNKS_PER_CALL)
        stream.write([b"last"])
        received = bytearray()
        other.setblocking(False)
        while len(received) < 3 * CHUNKS_PER_CALL * len(chunk) + 4:
            try:
                received += other.recv(MIB)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert received == chunk * 3 * CHUNKS_PER_CALL + b"last"
        assert all(count <= CHUNKS_PER_CALL for name, count in counting.calls if name == "sendmsg")
        stream.abort()
        other.close()
        await until(lambda: recorder.lost == [None])

    run(main())


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_large_chunks_are_not_copied(run: Run) -> None:
    async def main() -> None:
        stream, recorder, _, other = counted_pair()
        chunks = [bytes(MIB), *(bytearray(MIB) for _ in range(8)), memoryview(bytes(8 * MIB))]
        tracemalloc.start()
        stream.write(chunks)
        stream.write(chunks)
        held, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held <= most < 64 * KIB
        stream.abort()
        other.close()
        await until(lambda: recorder.lost == [None])

    run(main())


def test_an_idle_stream_holds_little(run: Run) -> None:
    async def main() -> None:
        accepted: list[Stream] = []

        def accept(stream: Stream) -> Recorder:
            accepted.append(stream)
            return Recorder()

        listener = await Tcp().listen(accept)
        await Tcp().dial("127.0.0.1", listener.port, Recorder().attach, timeout=5)
        tracemalloc.start()
        dialled = [await Tcp().dial("127.0.0.1", listener.port, Recorder().attach, timeout=5) for _ in range(100)]
        await until(lambda: len(accepted) == 101)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held / 200 < 8 * KIB
        for stream in dialled + accepted:
            stream.abort()
        await listener.close()
        await asyncio.sleep(0.01)

    run(main())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("end", ["close", "abort", "reset", "cancel"])
def test_no_descriptor_is_left(run: Run, end: str) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        before = open_descriptors()
        if end == "cancel":
            with socket.socket() as full:
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                waiting = [socket.create_connection(full.getsockname())]
                with pytest.raises(SetupTimeout):
                    await Tcp().dial("127.0.0.1", full.getsockname()[1], Recorder().attach, timeout=0.1)
                for one in waiting:
                    one.close()
        else:
            peer = socket.create_connection(listener.address)
            await until(lambda: recorder.stream is not None)
            assert recorder.stream is not None
            if end == "reset":
                reset(peer)
            else:
                getattr(recorder.stream, end)()
                peer.close()
            await until(lambda: bool(recorder.lost))
        await asyncio.sleep(0.01)
        assert open_descriptors() == before
        await listener.close()

    run(main())
    gc.collect()


# --- Errors at awkward moments ----------------------------------------------------------------------------------------


def test_a_reset_is_noticed_while_only_writing_is_watched(run: Run) -> None:
    async def main() -> None:
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        peer = socket.create_connection(listener.address)
        await until(lambda: recorder.stream is not None)
        assert recorder.stream is not None
        recorder.stream.pause_reading()
        recorder.stream.write([bytes(16 * MIB)])
        assert recorder.pauses == ["pause"]
        await asyncio.sleep(0.01)
        reset(peer)
        await until(lambda: bool(recorder.lost))
        assert "Connection reset by peer" in str(recorder.lost[0]) or "Broken pipe" in str(recorder.lost[0])
        assert recorder.pauses == ["pause"]
        await listener.close()

    run(main())


def test_an_error_in_write_is_told_later(run: Run) -> None:
    async def main() -> None:
        stream, recorder, _, other = counted_pair()
        other.close()
        stream.write([b"into nothing"])
        assert recorder.lost == []
        assert stream.is_closing
        assert stream.raw_socket is None
        stream.write([b"into nothing"])
        await until(lambda: bool(recorder.lost))
        assert "Broken pipe" in str(recorder.lost[0])

    run(main())


def test_the_end_in_the_factory_is_told(run: Run) -> None:
    async def main() -> None:
        recorder = Recorder()

        def factory(stream: Stream) -> Recorder:
            stream.abort()
            return recorder

        listener = await Tcp().listen(Recorder().attach)
        stream = await Tcp().dial("127.0.0.1", listener.port, factory, timeout=5)
        assert stream.is_closing
        await until(lambda: recorder.lost == [None])
        await listener.close()

    run(main())


def test_a_factory_that_fails_while_dialling_gives_an_ended_stream(run: Run) -> None:
    async def main() -> None:
        reported = errors_reported()

        def fail(_: Stream) -> Recorder:
            raise ZeroDivisionError

        listener = await Tcp().listen(Recorder().attach)
        stream = await Tcp().dial("127.0.0.1", listener.port, fail, timeout=5)
        assert stream.is_closing
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
        await listener.close()

    run(main())


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_a_receiver_that_fails_at_flow_control_loses_its_stream_only(run: Run, name: str) -> None:
    async def main() -> None:
        reported = errors_reported()
        stream, recorder, _, other = counted_pair()

        def fail() -> None:
            raise ZeroDivisionError

        setattr(recorder, name, fail)
        stream.write([bytes(2 * MIB)])
        other.setblocking(False)
        while not stream.is_closing:
            try:
                other.recv(MIB)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        await until(lambda: bool(recorder.lost))
        assert "ZeroDivisionError" in str(recorder.lost[0])
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
        other.close()

    run(main())


def test_what_the_factory_writes_counts_for_pausing(run: Run) -> None:
    async def main() -> None:
        recorder = Recorder()

        def accept(stream: Stream) -> Recorder:
            stream.write([bytes(16 * MIB)])
            return recorder.attach(stream)

        listener = await Tcp().listen(accept)
        with socket.create_connection(listener.address):
            await until(lambda: recorder.pauses == ["pause"])
            assert recorder.stream is not None
            recorder.stream.abort()
            await until(lambda: recorder.lost == [None])
        await listener.close()

    run(main())


def test_no_room_for_another_socket_pauses_accepting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_listener, "RETRY_SECONDS", 0.05)

    async def main() -> None:
        reported = errors_reported()
        recorder = Recorder()
        listener = await Tcp().listen(recorder.attach)
        peer = socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fill = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            with suppress(OSError):
                while True:
                    fill.append(os.dup(peer.fileno()))
            peer.connect(listener.address)
            await until(lambda: len(reported) >= 2)
            assert recorder.stream is None
        finally:
            for descriptor in fill:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: recorder.stream is not None)
        assert {context["exception"].errno for context in reported} == {errno.EMFILE}
        peer.close()
        await until(lambda: recorder.lost == [None])
        await listener.close()

    run(main())


def test_a_listener_that_waits_for_room_can_be_closed(run: Run) -> None:
    async def main() -> None:
        listener = await Tcp().listen(Recorder().attach)
        errors_reported()
        listener._pause(OSError(errno.EMFILE, "Too many open files"))
        await listener.close()
        await listener.close()

    run(main())


def test_a_loop_that_cannot_watch_sockets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(self, *_: Any) -> None:
            raise NotImplementedError

    async def main() -> None:
        with pytest.raises(UsageError, match="Proactor cannot watch sockets"):
            await Tcp().listen(Recorder().attach)
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(UsageError, match="uvloop"):
            await Tcp().dial("127.0.0.1", server.getsockname()[1], Recorder().attach, timeout=5)

    with asyncio.Runner(loop_factory=Proactor) as runner:
        runner.run(main())


def test_a_stream_of_small_messages_gathers_but_an_answered_one_does_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_stream, "STREAM_SECONDS", 0.5)
    monkeypatch.setattr(socket_stream, "REST_SECONDS", 0.5)  # that much, so that it is told from what a machine does

    async def main(answered: bool) -> int:
        stream, recorder, counting, other = counted_pair()
        if answered:
            recorder.on_data = lambda _: stream.write([b"yes"])
        for _ in range(50):
            other.send(bytes(300))
            await asyncio.sleep(0.002)
        await until(lambda: len(recorder.received) == 50 * 300)
        stream.abort()
        other.close()
        await until(lambda: recorder.lost == [None])
        return sum(name == "recv_into" for name, _ in counting.calls)

    assert run(main(answered=False)) <= STREAM_READS + 5
    assert run(main(answered=True)) >= 40
