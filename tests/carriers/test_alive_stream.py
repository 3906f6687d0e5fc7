"""Signs of life from another thread: between frames, whole, in order, and never into what is closed."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from support_loops import Run

from beamnode.carriers.socket_stream import SocketStream
from beamnode.wire.frames import TICK, FrameReader
from contract import MIB, Recorder, until

FRAMES = 1500
KIB = 1024


class MeanSocket(socket.socket):
    """Takes as many bytes as it pleases, often none, as a full one does; yields to other threads before it answers."""

    random: random.Random | None = None
    most: Sequence[int] = (0, 1, 2, 3, 5, 100, 10_000, MIB)

    def send(self, data: Any, flags: int = 0) -> int:
        return self._take(b"".join([data]))

    def sendmsg(self, buffers: Sequence[Any], *rest: Any) -> int:  # type: ignore[override]
        return self._take(b"".join(buffers))

    def _take(self, data: bytes) -> int:
        chance = self.random or random
        time.sleep(chance.choice([0, 0, 0, 0.0001]))
        most = chance.choice(self.most)
        if not most:
            raise BlockingIOError
        taken = super().send(data[:most])
        time.sleep(chance.choice([0, 0, 0, 0.0001]))
        return taken


def opened(connected: socket.socket) -> tuple[SocketStream, Recorder]:
    connected.setblocking(False)
    stream, recorder = SocketStream(connected, None), Recorder()
    stream.open(recorder.attach)
    return stream, recorder


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def frames_of(data: bytes) -> tuple[list[bytes], int]:
    """The frames that are not ticks, and how many ticks there are; all must be whole."""
    bodies, ticks, at = [], 0, 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        at += 4 + length
        assert at <= len(data), "a frame is cut"
        bodies.append(data[at - length : at])
        ticks += not length
    return [body for body in bodies if body], ticks


def test_what_is_read_here_is_what_a_channel_reads() -> None:
    """`frames_of` agrees with the reader of the library."""
    reader = FrameReader()
    reader.receive_data(frame(b"abc") + TICK + frame(b"d"))
    read = []
    while (place := reader.next_frame()) is not None:
        read.append(bytes(place[0][place[1] : place[2]]))
    assert [body for body in read if body] == frames_of(frame(b"abc") + TICK + frame(b"d"))[0]


def test_between_frames_whatever_the_socket_takes(run: Run) -> None:
    """One thread writes frames, of any size and in any chunks, another one gives signs of life all the time."""
    seed = random.randrange(1000)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def main() -> None:
        one, other = socket.socketpair()
        mean = MeanSocket(fileno=one.detach())
        mean.random = random.Random(seed)
        stream, _ = opened(mean)
        _, far = opened(other)
        over = threading.Event()
        signs = 0

        def keep_alive() -> None:
            nonlocal signs
            while not over.is_set():
                signs += stream.keep_alive(TICK)

        helper = threading.Thread(target=keep_alive)
        helper.start()
        written = []
        for _ in range(FRAMES // 10):
            bodies = [chance.randbytes(chance.choice([1, 10, 100, 5000])) for _ in range(10)]
            written += bodies
            stream.write([part for body in bodies for part in (struct.pack(">I", len(body)), body)])
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await until(lambda: stream._unsent is None and signs > 0)
        over.set()
        await asyncio.to_thread(helper.join)
        await until(lambda: stream._unsent is None)
        stream.close()
        await until(lambda: bool(far.lost))
        assert far.lost == [None]
        bodies, ticks = frames_of(bytes(far.received))
        assert bodies == written
        assert ticks * len(TICK) == signs

    run(main())


def test_a_sign_of_which_a_part_was_taken_goes_on_by_itself(run: Run) -> None:
    """Nobody writes: the loop is told to look when the socket takes more."""

    async def main() -> None:
        one, other = socket.socketpair()
        mean = MeanSocket(fileno=one.detach())
        mean.most = (1,)
        stream, _ = opened(mean)
        _, far = opened(other)
        assert await asyncio.to_thread(stream.keep_alive, TICK) == len(TICK)
        await until(lambda: far.received == TICK)
        await until(lambda: stream._unsent is None)
        stream.abort()
        await until(lambda: bool(far.lost))

    run(main())


def test_what_waits_goes_on_while_the_loop_is_blocked(run: Run) -> None:
    """In its order; and the peer needs no other sign."""

    async def main() -> None:
        one, other = socket.socketpair()
        stream, near = opened(one)
        frames = [frame(bytes([n]) * 100 * KIB) for n in range(1, 30)]
        stream.write(frames)
        assert stream._unsent, "the socket took all at once"
        assert near.pauses == ["pause"]
        received = bytearray()
        other.setblocking(False)
        while len(received) < sum(map(len, frames)):  # in this very turn of the loop, which cannot help
            try:
                received += other.recv(64 * KIB)
            except BlockingIOError:
                assert stream.keep_alive(TICK) == 0
        assert bytes(received) == b"".join(frames)
        assert stream.keep_alive(TICK) == len(TICK)
        assert other.recv(KIB) == TICK
        await until(lambda: near.pauses == ["pause", "resume"])
        stream.write([b"more"])
        stream.close()
        assert other.recv(KIB) == b"more"
        other.close()
        await until(lambda: bool(near.lost))

    run(main())


def test_nothing_after_the_end(run: Run) -> None:
    """Not behind a close, nor into the file that has got the descriptor since."""

    async def main() -> None:
        one, other = socket.socketpair()
        stream, near = opened(one)
        stream.close()
        assert stream.keep_alive(TICK) == 0
        assert other.recv(KIB) == b""
        other.close()
        await until(lambda: bool(near.lost))
        assert stream.keep_alive(TICK) == 0
        one, other = socket.socketpair()
        stream, near = opened(one)
        descriptor = one.fileno()
        stream.abort()
        third, fourth = socket.socketpair()
        assert descriptor in (third.fileno(), fourth.fileno())
        assert stream.keep_alive(TICK) == 0
        await until(lambda: bool(near.lost))
        for end in (third, fourth):
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(KIB)
        for end in (other, third, fourth):
            end.close()

    run(main())


def test_the_loops_own_writing_comes_first(run: Run) -> None:
    """While the loop's thread is in a write another one neither waits for it nor writes."""

    async def main() -> None:
        one, other = socket.socketpair()
        stream, _ = opened(one)
        with stream._writing:
            assert await asyncio.to_thread(stream.keep_alive, TICK) == 0
        assert await asyncio.to_thread(stream.keep_alive, TICK) == len(TICK)
        stream.abort()
        await asyncio.sleep(0)
        other.close()

    run(main())


def test_a_peer_that_has_gone_is_for_the_loop_to_meet(run: Run) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        stream, near = opened(one)
        other.close()
        assert stream.keep_alive(TICK) == 0
        await until(lambda: bool(near.lost))

    run(main())
