"""The channel: records go in at one end and come out at the other, whatever was negotiated and however they travel."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamnode.errors import DecodeError, EncodeError, LimitExceeded, NetTickTimeout, PeerError, ProtocolError
from beamnode.etf import encode, encode_into
from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.limits import Limits
from beamnode.wire import channel as channel_module
from beamnode.wire import inbound as inbound_module
from beamnode.wire import outbound as outbound_module
from beamnode.wire.channel import Channel
from beamnode.wire.control import (
    AliasSend,
    DemonitorP,
    Exit,
    Exit2,
    GroupLeader,
    Link,
    MonitorP,
    MonitorPExit,
    Record,
    RegSend,
    Send,
    SpawnReply,
    SpawnRequest,
    UnlinkId,
    is_known_to,
)
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.halves import HALVES

HERE = Pid(Atom("py@h"), 9, 0, 7)
THERE = Pid(Atom("ex@h"), 61, 1, 8)
REF = Reference(Atom("py@h"), 7, (1, 2, 3))
LONG_REF = Reference(Atom("ex@h"), 8, (1, 2, 3, 4, 2**32 - 1))
BIG = RegSend(HERE, Atom("x"), (Atom("big"), [bytes(70_000), b"between"], bytes(65536), list(range(300)) * 60))
TOKEN = (0, 17, 2, HERE, 1)

CACHED = DEFAULT
UNFRAGMENTED = Flag(DEFAULT.value & ~Flag.FRAGMENTS.value)
FRAGMENTED = Flag(DEFAULT.value & ~Flag.DIST_HDR_ATOM_CACHE.value)
BARE = Flag(UNFRAGMENTED.value & ~Flag.DIST_HDR_ATOM_CACHE.value)
FORMS = {"cached": CACHED, "cached, unfragmented": UNFRAGMENTED, "fragmented": FRAGMENTED, "pass through": BARE}
forms = pytest.mark.parametrize("flags", FORMS.values(), ids=FORMS.keys())

RECORDS: list[Record] = [
    Send(THERE, (Atom("msg"), 1, b"payload"), HERE),
    Send(HERE, [1, 2.5, {Atom("k"): None}], HERE),
    Send(THERE, Atom("token"), HERE, TOKEN),
    Send(THERE, Atom("priority"), HERE, None, True),
    Send(THERE, b"", Pid(Atom("py@h"), 2**32 - 1, 2**32 - 1, 2**32 - 1)),
    RegSend(HERE, Atom("net_kernel"), (Atom("$gen_call"), (HERE, REF), True)),
    RegSend(HERE, HERE.node, Atom("")),
    RegSend(HERE, Atom(""), Atom("")),
    RegSend(HERE, Atom("nil"), None),
    RegSend(HERE, Atom("x"), 1, TOKEN),
    RegSend(HERE, Atom("x"), 1, None, True),
    AliasSend(HERE, REF, (REF, Atom("yes"))),
    AliasSend(HERE, LONG_REF, b""),
    AliasSend(HERE, LONG_REF, b"", TOKEN, True),
    Link(HERE, THERE),
    UnlinkId(2**64 - 1, HERE, THERE),
    Exit(HERE, THERE, Atom("noproc")),
    Exit2(HERE, THERE, Atom("kill")),
    Exit2(HERE, REF, Atom("kill"), None, True),
    GroupLeader(HERE, THERE),
    MonitorP(HERE, Atom("net_kernel"), REF),
    MonitorPExit(THERE, HERE, REF, (Atom("badmatch"), [1, 2, 3])),
    SpawnRequest(REF, HERE, HERE, Atom("m"), Atom("f"), 1, [Atom("link")], [10]),
    SpawnReply(REF, THERE, 2, HERE),
]


def pair(flags: Flag, **options: Any) -> tuple[Channel, Channel]:
    return Channel(flags, now=0.0), Channel(flags, now=0.0, **options)


def taken(channel: Channel) -> bytes:
    return b"".join(channel.data_to_send())


def events(channel: Channel) -> Iterator[Record]:
    while (record := channel.next_event()) is not None:
        yield record


def received(channel: Channel, data: bytes) -> list[Record]:
    channel.receive_data(data, 0.0)
    return list(events(channel))


def received_byte_by_byte(channel: Channel, data: bytes) -> list[Record]:
    return [record for byte in data for record in received(channel, bytes((byte,)))]


def framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4) + body for body in bodies)


def plain(*terms: Any) -> bytes:
    out = bytearray()
    for term in terms:
        encode_into(out, term)
    return bytes(out)


@pytest.fixture(params=HALVES, autouse=True, scope="module")
def halves(request: pytest.FixtureRequest) -> Iterator[str]:
    """All of this file with the halves in Python, and with the compiled ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_module, "chosen", request.param)
        yield request.param


def common_road(flags: Flag) -> Channel:
    """A channel without short cuts out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_module, "chosen", "python")
        channel = Channel(flags, now=0.0)
    channel.outbound._writers = {}
    return channel


def send_directly(channel: Channel, record: Record) -> None:
    """`send`, but a message that has no more to it than that goes without a record."""
    out = channel.outbound
    match record:
        case Send(to, message, sender, None, False) if sender is not None:
            assert out.send_to_pid(sender, to, message) == channel.pending_bytes
        case RegSend(sender, name, message, None, False):
            assert out.send_to_name(sender, name, message) == channel.pending_bytes
        case AliasSend(sender, alias, message, None, False):
            assert out.send_to_alias(sender, alias, message) == channel.pending_bytes
        case _:
            channel.send(record)


class Seen:
    """An inbox that writes down what it is handed, whichever way: receivers as in `Send` and so on, without senders."""

    def __init__(self, node: Atom) -> None:
        self.node = node
        self.all: list[Any] = []
        self.short = 0

    def record(self, record: Record) -> None:
        match record:
            case Send(to, message):
                self.all.append(("to", to, message))
            case RegSend(_, name, message):
                self.all.append(("name", name, message))
            case AliasSend(_, alias, message):
                self.all.append(("alias", alias, message))
            case _:
                self.all.append(record)

    def _short(self, seen: Any) -> None:
        self.short += 1
        self.all.append(seen)

    def message_to_pid(self, id: int, serial: int, creation: int, message: Any) -> None:
        self._short(("to", Pid(self.node, id, serial, creation), message))

    def message_to_name(self, name: Atom, message: Any) -> None:
        self._short(("name", name, message))

    def message_to_alias(self, alias: Reference, message: Any) -> None:
        self._short(("alias", alias, message))

    def monitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self._short(MonitorP(sender, target, reference))

    def demonitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self._short(DemonitorP(sender, target, reference))


# --- Round trips ------------------------------------------------------------------------------------------------------


@forms
def test_every_record_twice(flags: Flag) -> None:
    here, there = pair(flags)
    for record in RECORDS * 2:  # the second time the atoms are in the cache
        here.send(record)
        assert received(there, taken(here)) == [record]
    assert here.pending_bytes == 0


@forms
def test_all_in_one_read_and_byte_by_byte(flags: Flag) -> None:
    here, there = pair(flags)
    for record in RECORDS * 3:
        here.send(record)
    assert here.pending_bytes > 0
    data = taken(here)
    assert received(there, data) == RECORDS * 3
    _, other = pair(flags)
    assert received_byte_by_byte(other, data) == RECORDS * 3


def test_the_bytes_of_a_message() -> None:
    here, _ = pair(CACHED)
    here.send(Send(THERE, (Atom("msg"), 1), HERE))
    pids = b"X\x52\x00\0\0\0\x09\0\0\0\0\0\0\0\x07" + b"X\x52\x01\0\0\0\x3d\0\0\0\x01\0\0\0\x08"
    terms = b"h\x03a\x16" + pids + b"h\x02\x52\x02a\x01"
    assert taken(here) == framed(b"\x83D\x03\x88\x08\x00\x04py@h\x01\x04ex@h\x02\x03msg" + terms)
    here.send(Send(THERE, (Atom("msg"), 1), HERE))
    assert taken(here) == framed(b"\x83D\x03\x00\x00\x00\x01\x02" + terms)
    here, _ = pair(FRAGMENTED)
    here.send(Link(HERE, THERE))
    assert taken(here) == framed(b"\x83D\x00" + plain((1, HERE, THERE)))
    here, _ = pair(BARE)
    here.send(RegSend(HERE, Atom("x"), 1))
    assert taken(here) == framed(b"p" + encode((6, HERE, Atom(""), Atom("x"))) + encode(1))


@pytest.mark.parametrize("flags", [CACHED, CACHED ^ Flag.ALTACT_SIG, CACHED ^ Flag.SEND_SENDER ^ Flag.ALTACT_SIG])
def test_short_cuts_write_what_the_common_road_writes(flags: Flag) -> None:
    short, shorter, common = Channel(flags, now=0.0), Channel(flags, now=0.0), common_road(flags)
    for record in [*RECORDS, BIG, *RECORDS, BIG]:
        short.send(record)
        send_directly(shorter, record)
        common.send(record)
        assert taken(short) == taken(shorter) == (expected := taken(common))
        assert short.outbound.frames_written == common.outbound.frames_written == shorter.outbound.frames_written
        assert short.counters() == shorter.counters() == common.counters()
        assert expected or not is_known_to(int(flags), record)


@forms
@pytest.mark.parametrize("node", [HERE.node, THERE.node], ids=["here", "there"])
def test_an_inbox_is_handed_what_the_records_say(flags: Flag, node: Atom, halves: str) -> None:
    records = [*RECORDS, BIG, MonitorP(THERE, HERE, LONG_REF), DemonitorP(THERE, HERE, LONG_REF), *RECORDS]
    here, there = pair(flags)
    for record in records:
        here.send(record)
    data = taken(here)
    expected = Seen(node)
    for record in received(there, data):
        expected.record(record)
    for size in (len(data), 1000, 7, 1):
        seen = Seen(node)
        there = Channel(flags, now=0.0)
        scratch = bytearray(size)
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            scratch[: len(piece)] = piece
            with memoryview(scratch)[: len(piece)] as view:
                there.deliver(view, seen)
            scratch[:] = bytes(size)  # the receive buffer of the carrier is used again
        assert seen.all == expected.all
        if halves == "cython" and flags & Flag.DIST_HDR_ATOM_CACHE:
            assert seen.short >= 15
    assert there.counters()[0] == len(data)


def test_what_an_inbox_raises_ends_the_delivery() -> None:
    class Failing(Seen):
        def record(self, record: Record) -> None:
            raise ZeroDivisionError

        def message_to_name(self, name: Atom, message: Any) -> None:
            raise ZeroDivisionError

    here, there = pair(CACHED)
    here.send(RegSend(HERE, Atom("x"), 1))
    with pytest.raises(ZeroDivisionError):
        there.deliver(taken(here), Failing(THERE.node))


@forms
def test_an_inbox_gets_what_came_before_an_error(flags: Flag) -> None:
    here, there = pair(flags)
    for record in RECORDS[:6]:
        here.send(record)
    seen = Seen(THERE.node)
    with pytest.raises(PeerError):
        there.deliver(taken(here) + framed(b"\x83D\0h\x01a\xff"), seen)
    assert len(seen.all) == 6
    with pytest.raises(PeerError):
        there.deliver(b"", seen)


def test_short_cuts_read_what_the_common_road_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in (CACHED, CACHED ^ Flag.ALTACT_SIG):
        here, there = pair(flags)
        for record in RECORDS * 2:
            here.send(record)
        data = taken(here)
        short = received(there, data)
        with monkeypatch.context() as patch:
            patch.setattr(inbound_module, "READERS", {})
            assert received(Channel(flags, now=0.0), data) == short


def test_atoms_as_text_in_a_message_with_atom_cache() -> None:
    control = (22, THERE, HERE)
    _, there = pair(CACHED)
    assert received(there, framed(b"\x83D\0" + plain(control, 1))) == [Send(HERE, 1, THERE)]


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_two_channels_stay_in_step_through_thousands_of_atoms(seed: int) -> None:
    rng = random.Random(seed)
    here, there = pair(CACHED)
    pool = [Atom(f"{'x' * rng.randint(0, 240)}\N{SNOWMAN}{number}") for number in range(5000)]
    for _ in range(60):
        message = rng.sample(pool[: rng.choice((5, 500, 5000))], rng.randint(0, 5) or rng.randint(0, 5))
        if rng.random() < 0.1:
            message = rng.sample(pool, 400)  # more than a header can list
        here.send(Send(THERE, message, HERE))
        if rng.random() < 0.3:
            with pytest.raises(EncodeError):
                here.send(Send(THERE, [rng.choice(pool), Atom("never seen"), object()], HERE))
        assert received(there, taken(here)) == [Send(THERE, message, HERE)]


def test_255_atoms_and_one_more() -> None:
    here, there = pair(CACHED)
    for count in (252, 253, 254, 300, 2000):
        message = [Atom(f"{count} {number}") for number in range(count)]
        here.send(Send(THERE, message, HERE))
        assert received(there, taken(here)) == [Send(THERE, message, HERE)]


def test_strings() -> None:
    here, there = pair(CACHED, strings=True)
    for record in (
        Send(THERE, b"text", HERE),
        RegSend(HERE, Atom("x"), [b"text", b"\xff"]),
        AliasSend(HERE, REF, b"t"),
    ):
        here.send(record)
    got: list[Any] = received(there, taken(here))
    assert [record.message for record in got] == ["text", ["text", b"\xff"], "t"]


# --- Large messages ---------------------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("size", [16_000, 16_384, 65_400, 65_500, 65_536, 131_072, 1_000_000])
def test_large_messages(flags: Flag, size: int) -> None:
    here, there = pair(flags)
    payload = random.Random(size).randbytes(size)
    records = [
        Send(THERE, payload, HERE),
        Exit(HERE, THERE, payload),
        RegSend(HERE, Atom("x"), [payload, Atom("new")]),
        SpawnRequest(REF, HERE, HERE, Atom("m"), Atom("f"), 1, [], [payload]),
        AliasSend(HERE, REF, payload),
        Link(HERE, THERE),
    ]
    for record in records:
        here.send(record)
    pending = here.pending_bytes
    chunks = here.data_to_send()
    assert pending == sum(map(len, chunks))
    data = b"".join(chunks)
    assert received(there, data) == records
    assert (b"\x83E" in data[:200]) is (size >= 65_500 and bool(flags & Flag.FRAGMENTS))
    _, other = pair(flags)
    got = []
    for begin in range(0, len(data), 4099):
        got += received(other, data[begin : begin + 4099])
    assert got == records


def test_a_message_in_fragments_is_not_copied() -> None:
    here, _ = pair(CACHED)
    payload = bytes(20_000_000)
    tracemalloc.start()
    here.send(Send(THERE, payload, HERE))
    chunks = here.data_to_send()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, chunks)) > len(payload)
    assert peak < 1.3 * len(payload)  # what the encoder made, and no more


def test_a_control_message_is_never_cut() -> None:
    flags = CACHED ^ Flag.EXIT_PAYLOAD
    here, there = pair(flags)
    record = Exit(HERE, THERE, bytes(300_000))
    here.send(record)
    data = taken(here)
    assert data[4:6] == b"\x83D"  # in one frame: there is nothing behind it to cut
    assert received(there, data) == [record]
    spawn = SpawnRequest(REF, HERE, HERE, Atom("m"), Atom("f"), 1, [bytes(100_000)], [bytes(100_000)])
    here.send(spawn)
    data = taken(here)
    assert data[4:6] == b"\x83E"
    assert received(there, data) == [spawn]


def fragments_of(record: Record, here: Channel, sequence_id: int) -> list[bytes]:
    """The frames of one message, under a sequence id of our choice."""
    here.send(record)
    data, frames = taken(here), []
    while data:
        end = 4 + int.from_bytes(data[:4])
        frames.append(data[:6] + sequence_id.to_bytes(8) + data[14:end])
        data = data[end:]
    return frames


def test_messages_in_fragments_may_alternate() -> None:
    here, there = pair(FRAGMENTED)
    records = [Send(THERE, bytes((number,)) * (200_000 + number * 70_000), HERE) for number in range(4)]
    queues = [fragments_of(record, here, 77 + number) for number, record in enumerate(records)]
    rng = random.Random(1)
    got = []
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        got += received(there, queue.pop(0))
        here.send(Link(HERE, THERE))
        assert received(there, taken(here)) == [Link(HERE, THERE)]  # another message, in between
    assert sorted(got, key=lambda record: record.message[0]) == records  # type: ignore[union-attr]


def test_fragments_out_of_order() -> None:
    here, _ = pair(FRAGMENTED)
    frames = fragments_of(Send(THERE, bytes(300_000), HERE), here, 1)
    for broken in (
        frames[1:],
        frames[:2] + frames[3:],
        [frames[0], frames[2]],
        [frames[0], frames[0]],
        [frames[0], frames[1], frames[1]],
        [*frames, frames[-1]],
        [*frames, frames[1]],
    ):
        _, there = pair(FRAGMENTED)
        with pytest.raises(ProtocolError):
            received(there, b"".join(broken))
    _, there = pair(FRAGMENTED)
    assert len(received(there, b"".join([*frames, *frames]))) == 2  # a sequence id may be used again


def test_fragments_over_bounds() -> None:
    here, _ = pair(FRAGMENTED)
    frames = fragments_of(Send(THERE, bytes(300_000), HERE), here, 1)
    total = sum(map(len, frames)) - 22 * (len(frames) - 1) - 4
    _, there = pair(FRAGMENTED, limits=Limits(message_bytes_max=total))
    assert len(received(there, b"".join(frames))) == 1
    _, there = pair(FRAGMENTED, limits=Limits(message_bytes_max=total - 1))
    with pytest.raises(LimitExceeded):
        received(there, b"".join(frames))
    _, there = pair(FRAGMENTED, limits=Limits(fragment_sequences_max=2))
    for number in range(3):
        frame = fragments_of(Send(THERE, bytes(100_000), HERE), here, number)[0]
        if number < 2:
            assert received(there, frame) == []
        else:
            with pytest.raises(LimitExceeded):
                received(there, frame)


def test_the_first_fragment_has_to_hold_the_control_message() -> None:
    terms = plain((22, THERE, HERE), 1)
    for cut in range(len(terms) - 2):
        _, there = pair(FRAGMENTED)
        first = b"\x83E" + (5).to_bytes(8) + (2).to_bytes(8) + b"\0" + terms[:cut]
        with pytest.raises(PeerError):
            received(there, framed(first))
    _, there = pair(FRAGMENTED)
    first = b"\x83E" + (5).to_bytes(8) + (2).to_bytes(8) + b"\0" + terms[:-2]
    assert received(there, framed(first, b"\x83F" + (5).to_bytes(8) + (1).to_bytes(8) + terms[-2:])) == [
        Send(HERE, 1, THERE)
    ]
    alone = b"\x83E" + (5).to_bytes(8) + (1).to_bytes(8) + b"\0" + terms
    assert received(there, framed(alone)) == [Send(HERE, 1, THERE)]
    link = b"\x83E" + (5).to_bytes(8) + (2).to_bytes(8) + b"\0" + LINK  # no payload, and yet another fragment
    assert received(there, framed(link, b"\x83F" + (5).to_bytes(8) + (1).to_bytes(8))) == [Link(THERE, HERE)]


# --- What OTP closes the connection for -------------------------------------------------------------------------------

LINK = plain((1, THERE, HERE))

REFUSED = {
    "pass through where a header was negotiated": (CACHED, b"p" + encode((1, THERE, HERE))),
    "a header where none was": (BARE, b"\x83D\0" + LINK),
    "a fragment where none were": (UNFRAGMENTED, b"\x83E" + bytes(15) + b"\1\0" + LINK),
    "the next fragment where none were": (UNFRAGMENTED, b"\x83F" + bytes(16) + LINK),
    "atoms where no cache was": (FRAGMENTED, b"\x83D\x01\x08\x00\x01a" + LINK),
    "an empty slot": (CACHED, b"\x83D\x01\x00\x00" + LINK),
    "another version": (CACHED, b"\x82D\0" + LINK),
    "another kind of header": (CACHED, b"\x83C\0" + LINK),
    "one byte": (CACHED, b"\x83"),
    "two bytes": (CACHED, b"\x83D"),
    "no terms": (CACHED, b"\x83D\0"),
    "a term with a version byte after a header": (CACHED, b"\x83D\0\x83" + LINK),
    "a term without one in pass through": (BARE, b"p" + LINK),
    "one byte, pass through": (BARE, b"p"),
    "no payload": (CACHED, b"\x83D\0" + plain((22, THERE, HERE))),
    "no payload, pass through": (BARE, b"p" + encode((22, THERE, HERE))),
    "a payload that is cut short": (CACHED, b"\x83D\0" + plain((22, THERE, HERE), b"abc")[:-1]),
    "a payload of an unknown tag": (CACHED, b"\x83D\0" + plain((22, THERE, HERE)) + b"\xff"),
    "an atom that the header does not list": (CACHED, b"\x83D\0" + plain((22, THERE, HERE)) + b"\x52\x00"),
    "no control message": (CACHED, b"\x83D\0" + plain([1, THERE, HERE])),
    "an obsolete op": (CACHED, b"\x83D\0" + plain((4, THERE, HERE))),
    "an unknown op": (CACHED, b"\x83D\0" + plain((99, THERE, HERE))),
}


@pytest.mark.parametrize(("flags", "body"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("after", [b"", framed(b"\x83D\0" + LINK) * 3])
def test_refused(flags: Flag, body: bytes, after: bytes) -> None:
    _, there = pair(flags)
    with pytest.raises(PeerError):
        received(there, framed(body) + after)
    _, there = pair(flags)
    with pytest.raises(PeerError):
        received_byte_by_byte(there, framed(body) + after)


def test_short_cuts_refuse_what_the_common_road_refuses() -> None:
    here, there = pair(CACHED)
    records = (Send(THERE, 1, HERE), RegSend(HERE, Atom("x"), 1), AliasSend(HERE, REF, 1))
    for record in records:
        here.send(record)
    assert len(received(there, taken(here))) == 3
    for record in records:
        here.send(record)
        frame = taken(here)[4:]
        assert frame[:2] == b"\x83D"
        for place in range(2, len(frame)):  # cut short, at every place, with another frame behind it
            _, other = pair(CACHED)
            fill = Channel(CACHED, now=0.0)
            for again in records:
                fill.send(again)
            received(other, taken(fill))
            with pytest.raises(PeerError):
                received(other, framed(frame[:place]) + framed(frame))
    _, there = pair(CACHED)
    for control in (b"h\x03a\x16X\x52\x00" + bytes(12) + b"X\x52\x00" + bytes(12), b"h\x04a\x06X\x52\x00" + bytes(12)):
        with pytest.raises(PeerError):
            received(Channel(CACHED, now=0.0), framed(b"\x83D\0" + control + b"\x52\0\x52\0a\1"))


def test_what_follows_the_last_term_is_ignored_as_in_otp() -> None:
    _, there = pair(CACHED)
    assert received(there, framed(b"\x83D\0" + LINK + b"more")) == [Link(THERE, HERE)]
    assert received(there, framed(b"\x83D\0" + plain((22, THERE, HERE), 1) + b"more")) == [Send(HERE, 1, THERE)]


def test_a_compressed_payload_ends_the_connection_as_in_otp() -> None:
    payload = encode(bytes(1000), compressed=True)
    assert payload[1:2] == b"P"
    _, there = pair(BARE)
    with pytest.raises(DecodeError, match="compressed"):
        received(there, framed(b"p" + encode((2, Atom(""), HERE)) + payload))
    _, there = pair(CACHED)
    with pytest.raises(DecodeError, match="compressed"):
        received(there, framed(b"\x83D\0" + plain((2, Atom(""), HERE)) + payload[1:]))


def test_a_broken_channel_stays_broken() -> None:
    _, there = pair(CACHED)
    good = framed(b"\x83D\0" + LINK)
    there.receive_data(good + framed(b"junk") + good, 0.0)
    assert there.next_event() == Link(THERE, HERE)  # what came before is still given out
    with pytest.raises(ProtocolError):
        there.next_event()
    with pytest.raises(ProtocolError):
        there.next_event()
    with pytest.raises(ProtocolError):
        there.receive_data(good, 0.0)


def test_a_frame_that_claims_4_gib_costs_nothing() -> None:
    _, there = pair(CACHED)
    tracemalloc.start()
    there.receive_data(b"\xff\xff\xff\xff" + bytes(100), 0.0)
    with pytest.raises(LimitExceeded):
        there.next_event()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000


# --- Errors of ours ---------------------------------------------------------------------------------------------------


@forms
def test_an_encode_error_leaves_the_channel_as_it_was(flags: Flag) -> None:
    here, there = pair(flags)
    _, fresh = pair(flags)
    good = Send(THERE, (Atom("fine"), 1), HERE)
    here.send(good)
    pending = here.pending_bytes
    for bad in (
        Send(THERE, (Atom("new"), object()), HERE),
        Send(THERE, Atom("x" * 256), HERE),
        RegSend(HERE, Atom("x" * 256), 1),
        Send(Pid(Atom("new2"), 2**32, 0, 0), 1, HERE),
        AliasSend(Pid(Atom("new2"), -1, 0, 0), REF, 1),
        AliasSend(HERE, Reference(Atom("new3"), 2**32, (1,)), 1),
        Exit(HERE, THERE, float("nan")),
    ):
        with pytest.raises(EncodeError):
            here.send(bad)
        assert here.pending_bytes == pending
    assert here.outbound.frames_written == 1
    here.send(good)
    fresh.send(good)
    fresh.send(good)
    data = taken(here)
    assert data == taken(fresh)
    assert received(there, data) == [good, good]


@forms
def test_a_message_too_large_for_a_frame(flags: Flag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound_module, "_TERMS_BYTES_MAX", 100_000)
    here, there = pair(flags)
    control = Send(THERE, Atom("fits"), HERE, (0, bytes(99_800), 1, HERE, 1))  # 99.8 kB of control message
    here.send(control)
    fragmented = bool(flags & Flag.FRAGMENTS)
    for record in (Send(THERE, [Atom("new"), bytes(100_001)], HERE), Exit(HERE, THERE, bytes(100_001))):
        if fragmented:
            here.send(record)
        else:
            with pytest.raises(EncodeError):
                here.send(record)
    with pytest.raises(EncodeError):
        here.send(Send(THERE, Atom("new too"), HERE, (0, bytes(100_001), 1, HERE, 1)))
    assert len(received(there, taken(here))) == (3 if fragmented else 1)


def test_what_the_peer_does_not_know_is_dropped() -> None:
    for flags in (CACHED ^ Flag.ALTACT_SIG ^ Flag.ALIAS, BARE ^ Flag.ALTACT_SIG ^ Flag.ALIAS):
        here, _ = pair(flags)
        here.send(AliasSend(HERE, REF, 1))
        assert here.data_to_send() == []


def test_chunks_are_the_callers() -> None:
    here, there = pair(CACHED)
    here.send(Link(HERE, THERE))
    chunks = here.data_to_send()
    here.send(Link(THERE, HERE))
    assert received(there, b"".join(chunks)) == [Link(HERE, THERE)]
    assert received(there, taken(here)) == [Link(THERE, HERE)]
    assert here.data_to_send() == []


# --- Time -------------------------------------------------------------------------------------------------------------


@forms
def test_ticks(flags: Flag) -> None:
    here, there = pair(flags | Flag.PUBLISHED)
    assert here.next_deadline() == 15.0
    here.handle_deadline(15.0)
    assert taken(here) == bytes(4)
    there.receive_data(bytes(4) * 3, 15.0)
    assert there.next_event() is None
    assert there.ticker.bytes_in == 12
    here.send(Link(HERE, THERE))
    here.handle_deadline(30.0)
    assert received(there, taken(here)) == [Link(HERE, THERE)]
    assert here.outbound.frames_written == 2
    here.handle_deadline(45.0)
    assert taken(here) == bytes(4)
    with pytest.raises(NetTickTimeout):
        here.handle_deadline(60.0)


def test_a_hidden_peer_is_ticked_when_it_is_silent() -> None:
    for options, ticked in (({}, True), ({"peer_published": True}, False)):
        here = Channel(CACHED, now=0.0, **options)
        here.send(Link(HERE, THERE))
        taken(here)
        here.handle_deadline(15.0)
        assert bool(taken(here)) is ticked
    here = Channel(CACHED | Flag.PUBLISHED, now=0.0)
    here.send(Link(HERE, THERE))
    taken(here)
    here.handle_deadline(15.0)
    assert taken(here) == b""


def test_the_beginning_of_a_frame_is_a_sign_of_life() -> None:
    here = Channel(CACHED, net_ticktime=8.0, now=0.0)
    here.receive_data((100_000).to_bytes(4), 0.0)
    for deadline in range(2, 40, 2):
        here.receive_data(b"x", deadline - 1)
        assert here.next_event() is None
        here.handle_deadline(deadline)
    here.set_ticktime(60.0, 4, 40.0)
    assert here.next_deadline() == 55.0


def test_counters_agree() -> None:
    here, there = pair(CACHED)
    for record in [*RECORDS, Send(THERE, bytes(200_000), HERE)]:
        here.send(record)
    here.handle_deadline(15.0)
    data = taken(here)
    received(there, data)
    assert here.counters()[1] == there.counters()[0] == len(data)


# --- Any bytes --------------------------------------------------------------------------------------------------------

PIECES = [
    *(b"\x83D", b"\x83E", b"\x83F", b"\x83P", b"p\x83", b"\0", b"\x01\x08\x00\x01a", b"\x01\x00\x00"),
    *(b"h\x03a\x16", b"h\x04a\x06", b"h\x04a\x25a\x04", b"h\x03a\x21", b"X", b"Z\x00\x03", b"\x52\x00", b"\x52\x01"),
    *(bytes(7) + b"\1", bytes(7) + b"\2", bytes(12), b"a\x01", b"j", b"m\0\0\0\1x"),
    *(LINK, plain((22, THERE, HERE), 1), plain((6, THERE, Atom(""), Atom("x"))), plain((37, 4, THERE, REF), 1)),
    *(plain((29, REF, THERE, THERE, (Atom("m"), Atom("f"), 0), [])), plain(HERE), plain(REF)),
]

bodies = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))


@settings(max_examples=400)
@given(
    st.sampled_from(list(FORMS.values())),
    st.lists(bodies, max_size=6),
    st.binary(max_size=8),
    st.booleans(),
)
def test_any_bytes_give_records_or_a_peer_error(flags: Flag, frames: list[bytes], tail: bytes, strings: bool) -> None:
    data = framed(*frames) + tail
    outcomes = []
    for step in (len(data) or 1, 1):
        there = Channel(flags, now=0.0, strings=strings)
        got: list[Any] = []
        try:
            for begin in range(0, len(data), step):
                there.receive_data(data[begin : begin + step], 0.0)
                got.extend(events(there))
        except PeerError:
            got.append("refused")
        outcomes.append(got)
    assert repr(outcomes[0]) == repr(outcomes[1])


@settings(max_examples=200)
@given(st.sampled_from(list(FORMS.values())), st.integers(0, 2**32), st.integers(1, 3))
def test_damaged_messages_give_records_or_a_peer_error(flags: Flag, seed: int, damages: int) -> None:
    rng = random.Random(seed)
    here, there = pair(flags)
    for _ in range(6):
        here.send(rng.choice(RECORDS))
    data = bytearray(taken(here))
    for _ in range(damages):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        received(there, bytes(data))
    except (ProtocolError, DecodeError, LimitExceeded):
        assert there.pending_bytes == 0
