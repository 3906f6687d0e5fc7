"""Frames: any pieces give the same frames, and nothing is held but what has arrived."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.errors import LimitExceeded
from beamnode.limits import Limits
from beamnode.wire.frames import TICK, FrameReader


def framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4) + body for body in bodies)


def taken(reader: FrameReader) -> list[bytes]:
    bodies = []
    while (place := reader.next_frame()) is not None:
        buffer, start, end = place
        bodies.append(buffer[start:end])
    return bodies


def test_a_tick_is_a_frame_without_bytes() -> None:
    reader = FrameReader()
    reader.receive_data(TICK + framed(b"x") + TICK)
    assert taken(reader) == [b"", b"x", b""]
    assert reader.held_bytes == 0


def test_byte_by_byte() -> None:
    reader = FrameReader()
    bodies = [b"abc", b"", b"defgh", bytes(300)]
    got = []
    for byte in framed(*bodies):
        reader.receive_data(bytes((byte,)))
        got += taken(reader)
    assert got == bodies


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 60)))
def test_any_pieces(bodies: list[bytes], sizes: list[int]) -> None:
    data = framed(*bodies)
    reader = FrameReader()
    got = []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        reader.receive_data(piece)
        if size % 2:  # not after every piece
            got += taken(reader)
    got += taken(reader)
    assert got == bodies
    assert reader.held_bytes == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pieces_that_the_caller_uses_again(kind: type) -> None:
    store = bytearray(framed(b"first", b"second"))
    reader = FrameReader()
    for begin, end in ((0, 3), (3, 11), (11, len(store))):
        reader.receive_data(kind(store)[begin:end])
        if kind is not bytes:
            store[begin:end] = bytes(end - begin)
    assert taken(reader) == [b"first", b"second"]


def test_large_pieces_of_a_large_frame() -> None:
    body = bytes(range(256)) * 4096
    data = framed(body, b"next")
    reader = FrameReader()
    for begin in range(0, len(data), 65536):
        assert taken(reader) == []
        reader.receive_data(data[begin : begin + 65536])
    assert taken(reader) == [body, b"next"]


def test_the_limit_and_one_past_it() -> None:
    reader = FrameReader(Limits(frame_bytes_max=10))
    reader.receive_data(framed(bytes(10)))
    assert taken(reader) == [bytes(10)]
    reader.receive_data((11).to_bytes(4)[:3])
    assert taken(reader) == []
    reader.receive_data((11).to_bytes(4)[3:])
    with pytest.raises(LimitExceeded) as caught:
        reader.next_frame()
    assert caught.value.limit == "frame_bytes_max"


def test_a_length_alone_costs_nothing() -> None:
    reader = FrameReader(Limits(frame_bytes_max=0xFFFFFFFF))
    tracemalloc.start()
    reader.receive_data(b"\xff\xff\xff\xff" + bytes(100))
    assert reader.next_frame() is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


def test_a_frame_in_single_bytes_costs_about_its_size() -> None:
    reader = FrameReader()
    size = 300_000
    reader.receive_data(size.to_bytes(4))
    tracemalloc.start()
    for _ in range(size - 1):
        reader.receive_data(b"x")
        assert reader.next_frame() is None
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * size


def test_many_small_frames_in_one_piece_take_linear_time() -> None:
    def seconds(count: int) -> float:
        reader = FrameReader()
        reader.receive_data(framed(b"x") * count)
        began = time.perf_counter()
        assert len(taken(reader)) == count
        return time.perf_counter() - began

    assert min(seconds(200_000) for _ in range(3)) < 40 * min(seconds(20_000) for _ in range(3)) + 0.1
