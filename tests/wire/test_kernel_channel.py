"""The halves of a channel under a peer that means harm: each gives the same, holds what was sent, and leaks nothing."""

from __future__ import annotations

import contextlib
import gc
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_channel import CACHED, HERE, REF, THERE, framed, plain

from beamnode.errors import BeamnodeError, EncodeError, LimitExceeded, PeerError, ProtocolError
from beamnode.etf import Atom, Pid, Reference
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire.control import AliasSend, Exit, Link, Record, RegSend, Send
from beamnode.wire.halves import HALVES
from support_leaks import SMALLEST, growth

MIB = 1 << 20
CONTROL = plain((6, HERE, Atom(""), Atom("x")))


@pytest.fixture(params=HALVES)
def half(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return HALVES[request.param]


class Inbox:
    """Keeps what it is handed, as short tuples; raises at what `raises_at` says."""

    def __init__(self, raises_at: int = 0) -> None:
        self.node = THERE.node
        self.all: list[Any] = []
        self.raises_at = raises_at

    def _take(self, *what: Any) -> None:
        self.all.append(what)
        if len(self.all) == self.raises_at:
            raise ZeroDivisionError

    def record(self, record: Record) -> None:  # without `match`, which leaves memory behind on 3.11
        if isinstance(record, Send):
            self._take("to", record.to.id, record.message)
        elif isinstance(record, RegSend):
            self._take("name", record.name, record.message)
        elif isinstance(record, AliasSend):
            self._take("alias", record.alias, record.message)
        else:
            self._take(record)

    def message_to_pid(self, id: int, serial: int, creation: int, message: Any) -> None:
        self._take("to", id, message)

    def message_to_name(self, name: Atom, message: Any) -> None:
        self._take("name", name, message)

    def message_to_alias(self, alias: Reference, message: Any) -> None:
        self._take("alias", alias, message)

    def monitor(self, *what: Any) -> None:
        self._take("monitor", *what)

    def demonitor(self, *what: Any) -> None:
        self._take("demonitor", *what)


def inbound(half: tuple[Any, Any], limits: Limits = DEFAULT_LIMITS) -> Any:
    return half[0](int(CACHED), strings=False, limits=limits)


def first(sequence: int, fragment: int, terms: bytes, table: bytes = b"\0") -> bytes:
    return framed(b"\x83E" + struct.pack(">QQ", sequence, fragment) + table + terms)


def following(sequence: int, fragment: int, piece: bytes) -> bytes:
    return framed(b"\x83F" + struct.pack(">QQ", sequence, fragment) + piece)


def name_messages(*messages: Any) -> bytes:
    return b"".join(framed(b"\x83D\0" + CONTROL + plain(message)) for message in messages)


# --- Found once -------------------------------------------------------------------------------------------------------

# Slot 0 is referred to, and then filled with another atom, by the same header.
OLD = b"\x83D\x01\x08\x00\x03old"
REFILLING = b"\x02\x80\x00\x00\x00\x03new"
ATOMS = b"h\x02\x52\x00\x52\x01"


@pytest.mark.parametrize(
    "frame",
    [
        framed(b"\x83D" + REFILLING + CONTROL + b"qw\1aw\1ba\1" + b"x"),
        framed(b"\x83D" + REFILLING + CONTROL + ATOMS),
        framed(b"\x83D" + REFILLING + CONTROL + b"h\x02" + ATOMS + b"t\0\0\0\1t\0\0\0\0a\1"),
        framed(b"\x83D" + REFILLING + plain((1, THERE, HERE)) + b"x"),
        framed(b"\x83D" + REFILLING + b"h\x04a\x03" + plain(HERE, THERE) + ATOMS),
        first(1, 1, CONTROL + ATOMS, REFILLING),
        first(1, 2, b"h\x04a\x03" + plain(HERE, THERE) + b"t\0\0\0\1t\0\0\0\0" + ATOMS, REFILLING)
        + following(1, 1, b""),
    ],
)
def test_a_header_that_fills_a_slot_that_it_referred_to(half: tuple[Any, Any], frame: bytes) -> None:
    inbox = Inbox()
    inbound(half).deliver(framed(OLD + CONTROL + b"\x52\0") + frame, inbox)
    assert inbox.all[0] == ("name", Atom("x"), Atom("old"))
    assert len(inbox.all) == 2
    text = repr(inbox.all[1])
    assert "new" not in text or text.index("old") < text.index("new")


def test_a_table_is_not_known_after_its_atoms_were_replaced(half: tuple[Any, Any]) -> None:
    inbox = Inbox()
    known = framed(b"\x83D\x01\x00\x00" + CONTROL + b"\x52\0")
    data = framed(OLD + CONTROL + b"\x52\0") + known + known
    data += framed(b"\x83D\x01\x08\x00\x01b" + CONTROL + b"a\1") + known
    inbound(half).deliver(data, inbox)
    assert [message for _, _, message in inbox.all] == [Atom("old")] * 3 + [1, Atom("b")]


ODD_CONTROL = b"h\x04a\x03" + plain(HERE, THERE) + b"t\0\0\0\1t\0\0\0\0a\1"  # only the Python codec knows its map key


@pytest.mark.parametrize("begun", [CONTROL, ODD_CONTROL], ids=["common", "odd"])
@pytest.mark.parametrize("again", [CONTROL + b"a\1", ODD_CONTROL], ids=["common", "odd"])
@pytest.mark.parametrize("fragment", [0, 1, 2])
def test_a_sequence_that_is_open_is_not_begun_again(
    half: tuple[Any, Any], begun: bytes, again: bytes, fragment: int
) -> None:
    there = inbound(half)
    inbox = Inbox()
    there.deliver(first(1, 3, begun), inbox)
    with pytest.raises(ProtocolError):
        there.deliver(first(1, fragment, again), inbox)
    assert not inbox.all


def test_odd_and_common_sequences_share_their_limits(half: tuple[Any, Any]) -> None:
    there = inbound(half, Limits(fragment_sequences_max=2))
    there.deliver(first(1, 3, CONTROL) + first(2, 3, ODD_CONTROL), Inbox())
    with pytest.raises(LimitExceeded) as raised:
        there.deliver(first(3, 3, ODD_CONTROL), Inbox())
    assert raised.value.limit == "fragment_sequences_max"
    there = inbound(half, Limits(message_bytes_max=1000))
    there.deliver(first(1, 3, CONTROL + bytes(800)), Inbox())
    with pytest.raises(LimitExceeded) as raised:
        there.deliver(first(2, 3, ODD_CONTROL + bytes(200)), Inbox())
    assert raised.value.limit == "message_bytes_max"


@pytest.mark.parametrize("size", [1, 7, 40, 10_000])
@pytest.mark.parametrize("raises_at", [1, 2, 3])
def test_what_an_inbox_raised_at_does_not_come_again(half: tuple[Any, Any], size: int, raises_at: int) -> None:
    there, inbox = inbound(half), Inbox(raises_at)
    data = name_messages(1, 2, 3)
    raised = 0
    for begin in (*range(0, len(data), size), len(data)):
        try:
            there.deliver(data[begin : begin + size], inbox)
        except ZeroDivisionError:
            raised += 1
    there.deliver(b"", inbox)
    assert raised == 1
    assert [message for _, _, message in inbox.all] == [1, 2, 3]


@pytest.mark.parametrize("wrong", [None, 1, HERE.node, (1, 2), object()], ids=repr)
def test_a_sender_that_is_none_is_an_error_of_ours(half: tuple[Any, Any], wrong: Any) -> None:
    outbound = half[1](int(CACHED))
    for call in (
        lambda: outbound.send_to_pid(wrong or 5, THERE, 1),
        lambda: outbound.send_to_name(wrong, Atom("x"), 1),
        lambda: outbound.send_to_alias(wrong, REF, 1),
    ):
        with pytest.raises((EncodeError, AttributeError)):
            call()
        assert outbound.pending_bytes == 0
    try:
        outbound.send_to_alias(HERE, wrong, 1)
    except EncodeError:
        assert outbound.pending_bytes == 0
    outbound.data_to_send()
    assert outbound.send_to_name(HERE, Atom("x"), 1) == outbound.pending_bytes > 0


class Again(Inbox):
    """Calls the half that hands over to it: not allowed, and whatever comes of it, or an exception, but no crash."""

    def __init__(self, there: Any, data: bytes) -> None:
        super().__init__()
        self.there, self.data = there, data

    def _take(self, *what: Any) -> None:
        super()._take(*what)
        if len(self.all) < 50:
            for call, arguments in (
                (self.there.deliver, (self.data[:70], self)),
                (self.there.receive_data, (self.data[:30],)),
                (self.there.next_record, ()),
                (self.there.deliver, (b"", self)),
            ):
                with contextlib.suppress(BufferError, RecursionError, PeerError):
                    call(*arguments)


@pytest.mark.parametrize("size", [1, 45, 1000])
def test_an_inbox_that_calls_its_channel_again(half: tuple[Any, Any], size: int) -> None:
    data = name_messages(*range(20))
    there = inbound(half)
    inbox = Again(there, data)
    for piece in pieces(data, size):
        with contextlib.suppress(BufferError, PeerError):
            there.deliver(piece, inbox)
    assert inbox.all


# --- What is held -----------------------------------------------------------------------------------------------------


def peak(run: Callable[[], Any]) -> int:
    """The most bytes of memory that a call had in use at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_sequences_that_announce_4_gib_each(half: tuple[Any, Any]) -> None:
    there = inbound(half)
    frames = [first(number, 2**62, CONTROL + b"m\xff\xff\xff\xff" + b"x" * 20) for number in range(4096)]

    def run() -> None:
        for frame in frames:
            there.deliver(frame, Inbox())

    assert peak(run) < 8 * MIB
    with pytest.raises(LimitExceeded):
        there.deliver(first(5000, 2, CONTROL), Inbox())


@pytest.mark.one_python
@pytest.mark.parametrize("announced", [b"m\x7f\xff\xff\xff", b"l\0\x7f\xff\xff", b"h\2m\0\1\0\0"], ids=["m", "l", "h"])
def test_two_hundred_thousand_fragments_of_a_byte(half: tuple[Any, Any], announced: bytes) -> None:
    there = inbound(half)
    count = 200_000
    data = b"".join(following(1, 2**62 - 1 - number, b"j") for number in range(count))

    def run() -> None:
        there.deliver(first(1, 2**62, CONTROL + announced), Inbox())
        for begin in range(0, len(data), 65_536):
            there.deliver(data[begin : begin + 65_536], Inbox())

    assert peak(run) < 3 * count


def test_a_frame_of_a_gibibyte_that_drips(half: tuple[Any, Any]) -> None:
    there = inbound(half)

    def run() -> None:
        there.deliver((1 << 30).to_bytes(4), Inbox())
        for _ in range(20_000):
            there.deliver(b"x", Inbox())

    assert peak(run) < 200_000
    with pytest.raises(LimitExceeded):
        inbound(half).deliver(((1 << 30) + 1).to_bytes(4), Inbox())


# --- What is left behind ----------------------------------------------------------------------------------------------


BIG = [bytes(70_000), b"small", bytes(65_536)]
RECORDS: list[Record] = [
    *(Send(THERE, (Atom("m"), 300, 2.5), HERE), Send(HERE, [b"x" * 100], HERE), RegSend(HERE, Atom("x"), {1: REF})),
    *(AliasSend(HERE, REF, BIG), Link(HERE, THERE), Exit(HERE, THERE, BIG), Send(THERE, BIG, HERE)),
]
BAD = [
    Send(THERE, object(), HERE),
    Send(THERE, [BIG, {1}], HERE),
    RegSend(HERE, Atom("x" * 256), 1),
    AliasSend(HERE, Reference(Atom("n"), 2**32, (1,)), BIG),
    Send(THERE, 1, Pid(Atom("n"), 2**40, 1, 1)),
]


def stream(half: tuple[Any, Any]) -> bytes:
    outbound = half[1](int(CACHED))
    for record in RECORDS * 2:
        outbound.send(record)
    return b"".join(outbound.data_to_send())


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


ENDS = {
    "whole": b"",
    "in the middle": None,
    "an unknown term": framed(b"\x83D\0" + CONTROL + b"\xff"),
    "an empty slot": framed(b"\x83D\x02\x08\x00\x01a\x00" + CONTROL),
    "a bad text": framed(b"\x83D\x02\x88\x00\x00\x01a\x01\x01\xff" + CONTROL),
    "sequences": b"".join(first(number, 3, CONTROL + b"m\xff\xff\xff\xff" + bytes(90_000)) for number in range(3)),
    "out of order": first(7, 3, CONTROL + b"m\0\2\0\0" + bytes(70_000)) + following(7, 1, b""),
    "no payload": first(7, 2, CONTROL) + following(7, 1, b""),
    "a bad payload": first(7, 2, CONTROL + b"l\0\0\0\2m\0\1\0\0" + bytes(65_536)) + following(7, 1, b"\xff" * 9),
    "an odd payload": first(7, 2, CONTROL + b"l\0\0\0\2m\0\1\0\0" + bytes(65_536))
    + following(7, 1, b"t\0\0\0\1t\0\0\0\0a\1j"),
    "twice": first(7, 2, CONTROL) * 2,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("raises_at", [0, 3], ids=["", "raises"])
def test_receiving_leaves_nothing(half: tuple[Any, Any], end: bytes | None, raises_at: int) -> None:
    data = stream(half)
    data = data[: -len(data) // 3] if end is None else data + end

    def run() -> None:
        for size in (len(data), 60_000):
            there, inbox = inbound(half), Inbox(raises_at)
            for piece in (*pieces(data, size), b""):
                try:
                    there.deliver(memoryview(piece), inbox)
                except ZeroDivisionError:
                    pass
                except PeerError:
                    break

    kept = [HERE.node, THERE.node, None, DEFAULT_LIMITS]
    before = [sys.getrefcount(each) for each in kept]
    assert growth(run, 20) < SMALLEST
    assert all(abs(sys.getrefcount(each) - count) < 20 for each, count in zip(kept, before, strict=True))


def test_sending_leaves_nothing(half: tuple[Any, Any]) -> None:
    outbound = half[1](int(CACHED))

    def run() -> None:
        for record in RECORDS:
            outbound.send(record)
        for record in BAD:
            with pytest.raises(BeamnodeError):
                outbound.send(record)
        outbound.send_to_pid(HERE, THERE, BIG)
        outbound.send_to_name(HERE, Atom("x"), [1, 2])
        outbound.send_to_alias(HERE, REF, {1: 2})
        for wrong in (object(), [BIG, object()]):
            for call, to in ((outbound.send_to_pid, THERE), (outbound.send_to_name, REF.node)):
                with pytest.raises(EncodeError):
                    call(HERE, to, wrong)
            with pytest.raises(EncodeError):
                outbound.send_to_alias(HERE, REF, wrong)
        outbound.data_to_send()
        half[1](int(CACHED)).send(RECORDS[0])  # dropped with what waits

    kept = [HERE, THERE, REF, HERE.node, *BIG, BIG]
    before = [sys.getrefcount(each) for each in kept]
    assert growth(run, 20) < SMALLEST
    assert all(abs(sys.getrefcount(each) - count) < 20 for each, count in zip(kept, before, strict=True))
