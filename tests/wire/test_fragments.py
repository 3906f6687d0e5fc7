"""Fragments: what is cut is put together again; anything out of order, or without end, is refused."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.errors import LimitExceeded, ProtocolError
from beamnode.limits import Limits
from beamnode.wire.fragments import (
    FIRST_FRAGMENT,
    FRAGMENT_BYTES,
    HEAD_BYTES,
    Assembler,
    fragment_head,
    read_fragment_head,
    split,
)


def test_the_head() -> None:
    head = fragment_head(FIRST_FRAGMENT, 0x0102030405060708, 3)
    assert head == bytes((131, 69, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 3))
    assert len(head) == HEAD_BYTES
    assert read_fragment_head(b"..." + head, 3, 3 + HEAD_BYTES) == (0x0102030405060708, 3)
    for end in range(3, 3 + HEAD_BYTES):
        with pytest.raises(ProtocolError):
            read_fragment_head(b"..." + head, 3, end)


@pytest.mark.parametrize(
    ("control", "terms", "expected"),
    [
        (1, 10, [(1, 0, 10)]),
        (1, 11, [(2, 0, 10), (1, 10, 11)]),
        (1, 20, [(2, 0, 10), (1, 10, 20)]),
        (1, 21, [(3, 0, 10), (2, 10, 20), (1, 20, 21)]),
        (15, 15, [(1, 0, 15)]),
        (15, 16, [(2, 0, 15), (1, 15, 16)]),  # the control message is never cut
        (15, 40, [(4, 0, 15), (3, 15, 25), (2, 25, 35), (1, 35, 40)]),
    ],
)
def test_split(control: int, terms: int, expected: list[tuple[int, int, int]]) -> None:
    assert list(split(control, terms, 10)) == expected


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 20))
def test_split_covers_everything_once(control: int, more: int, fragment: int) -> None:
    pieces = list(split(control, control + more, fragment))
    assert [piece[0] for piece in pieces] == list(range(len(pieces), 0, -1))
    assert [piece[1] for piece in pieces] == [0, *(piece[2] for piece in pieces[:-1])]
    assert pieces[-1][2] == control + more
    assert pieces[0][2] >= control


def test_otp_sends_300_kb_in_five_frames() -> None:
    assert len(list(split(40, 300_045, FRAGMENT_BYTES))) == 5  # WIRE.md 2.18


def test_one_fragment_is_the_whole_message() -> None:
    assembler = Assembler()
    assert assembler.begin(5, 1, "begun", b"abc")
    assert len(assembler) == 0
    assert assembler.held_bytes == 0


@given(st.data())
def test_interleaved_sequences(data: st.DataObject) -> None:
    messages = data.draw(st.lists(st.lists(st.binary(max_size=5), min_size=2, max_size=6), min_size=1, max_size=5))
    assembler = Assembler()
    waiting = {number: list(enumerate(reversed(pieces), 1))[::-1] for number, pieces in enumerate(messages)}
    done = {}
    while waiting:
        number = data.draw(st.sampled_from(sorted(waiting)))
        fragment_id, piece = waiting[number].pop(0)
        if fragment_id == len(messages[number]):
            assert not assembler.begin(number, fragment_id, f"begun {number}", piece)
        else:
            whole = assembler.add(number, fragment_id, piece)
            assert (whole is None) is (fragment_id > 1)
            if whole is not None:
                done[number] = whole
        if not waiting[number]:
            del waiting[number]
    assert done == {number: (f"begun {number}", b"".join(pieces)) for number, pieces in enumerate(messages)}
    assert len(assembler) == 0
    assert assembler.held_bytes == 0


@pytest.mark.parametrize("fragment_id", [4, 2, 1, 0, 2**64 - 1])
def test_out_of_order(fragment_id: int) -> None:
    assembler = Assembler()
    assembler.begin(1, 4, None, b"")
    with pytest.raises(ProtocolError):
        assembler.add(1, fragment_id, b"")


def test_a_fragment_of_no_sequence() -> None:
    with pytest.raises(ProtocolError):
        Assembler().add(1, 1, b"")


def test_after_the_last_fragment_the_sequence_is_gone() -> None:
    assembler = Assembler()
    assembler.begin(1, 2, None, b"a")
    assert assembler.add(1, 1, b"b") == (None, b"ab")
    with pytest.raises(ProtocolError):
        assembler.add(1, 1, b"")
    assert not assembler.begin(1, 2, None, b"a")  # the number may be used again


def test_a_sequence_that_begins_twice() -> None:
    assembler = Assembler()
    assembler.begin(1, 4, None, b"")
    for fragment_id in (4, 1):
        with pytest.raises(ProtocolError):
            assembler.begin(1, fragment_id, None, b"")


def test_number_zero() -> None:
    with pytest.raises(ProtocolError):
        Assembler().begin(1, 0, None, b"")


def test_sequences_at_the_limit_and_one_past_it() -> None:
    assembler = Assembler(Limits(fragment_sequences_max=3))
    for number in range(3):
        assembler.begin(number, 2, None, b"")
    assert assembler.begin(3, 1, None, b"")  # not one that has to be kept
    with pytest.raises(LimitExceeded) as caught:
        assembler.begin(3, 2, None, b"")
    assert caught.value.limit == "fragment_sequences_max"


def test_bytes_at_the_limit_and_one_past_it() -> None:
    assembler = Assembler(Limits(message_bytes_max=10))
    assembler.begin(1, 3, None, b"1234", begun_bytes=2)
    assembler.begin(2, 3, None, b"12")
    assert assembler.add(2, 2, b"12") is None
    assert assembler.held_bytes == 10
    with pytest.raises(LimitExceeded) as caught:
        assembler.add(1, 2, b"1")
    assert caught.value.limit == "message_bytes_max"
    with pytest.raises(LimitExceeded):
        assembler.begin(3, 3, None, b"1")
    assert assembler.add(2, 1, b"") == (None, b"1212")
    assert assembler.held_bytes == 6


def test_an_endless_message_costs_what_has_arrived() -> None:
    assembler = Assembler()
    tracemalloc.start()
    assembler.begin(1, 2**64 - 1, None, b"")
    for fragment_id in range(2**64 - 2, 2**64 - 2 - 100_000, -1):
        assert assembler.add(1, fragment_id, b"") is None
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20_000
