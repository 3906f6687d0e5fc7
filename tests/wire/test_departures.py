"""Lanes: whatever leaves when, the peer gets the signals of each sender in order, and all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamnode.errors import EncodeError
from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.wire import channel as channel_module
from beamnode.wire import departures
from beamnode.wire.channel import Channel
from beamnode.wire.control import (
    AliasSend,
    Exit,
    GroupLeader,
    MonitorP,
    MonitorPExit,
    Record,
    RegSend,
    Send,
    SpawnReply,
    SpawnRequest,
)
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.halves import HALVES

THERE = Pid(Atom("ex@h"), 61, 1, 8)
ALIAS = Reference(Atom("ex@h"), 8, (1, 2, 3))
REF = Reference(Atom("py@h"), 7, (1, 2, 3))
PORTION = 256 * 1024
LARGE = bytes(1_000_000)
FORMS = {
    "cached": DEFAULT,
    "cached, unfragmented": Flag(DEFAULT.value & ~Flag.FRAGMENTS.value),
    "fragmented": Flag(DEFAULT.value & ~Flag.DIST_HDR_ATOM_CACHE.value),
    "old": Flag(DEFAULT.value & ~(Flag.SEND_SENDER | Flag.ALTACT_SIG | Flag.EXIT_PAYLOAD).value),
}


def sender(number: int) -> Pid:
    return Pid(Atom("py@h"), 100 + number, 0, 7)


@pytest.fixture(params=HALVES, autouse=True, scope="module")
def halves(request: pytest.FixtureRequest) -> Iterator[str]:
    """All of this file with the halves in Python, and with the compiled ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_module, "chosen", request.param)
        yield request.param


def pair(flags: Flag = DEFAULT) -> tuple[Channel, Channel]:
    return Channel(flags, now=0.0, lanes=True), Channel(flags, now=0.0)


def received(channel: Channel, chunks: list[Any]) -> list[Record]:
    channel.receive_data(b"".join(chunks), 0.0)
    records = []
    while (record := channel.next_event()) is not None:
        records.append(record)
    return records


def drained(here: Channel, there: Channel) -> list[Record]:
    records = []
    while chunks := here.departures.portion(1):
        records += received(there, chunks)
    assert here.pending_bytes == 0
    assert not here.departures.in_turns
    return records


def sent(channel: Channel, record: Record) -> None:
    """The way that messages take, or records."""
    match record:
        case Send(to, message, Pid() as by):
            channel.outbound.send_to_pid(by, to, message)
        case RegSend(by, name, message):
            channel.outbound.send_to_name(by, name, message)
        case AliasSend(by, alias, message):
            channel.outbound.send_to_alias(by, alias, message)
        case _:
            channel.send(record)


# --- Order, whatever happens ------------------------------------------------------------------------------------------


def made(kind: int, by: Pid, body: tuple[Any, ...]) -> Record:
    """One of the signals of a process; the last three kinds are of the node, or do not say whose they are."""
    return [
        Send(THERE, body, by),
        RegSend(by, Atom("name"), body),
        AliasSend(by, ALIAS, body),
        Exit(by, THERE, body),
        MonitorP(by, THERE, REF),
        SpawnRequest(REF, by, by, Atom("m"), Atom("f"), 1, [], [body]),
        MonitorPExit(Atom("name"), THERE, REF, body),
        SpawnReply(REF, THERE, 0, by),
        GroupLeader(by, Pid(Atom("ex@h"), body[1], 0, 8)),
    ][kind]


def whose(record: Record) -> Any:
    """Who has sent it, as the test knows: it is in the body, for those that do not tell."""
    body = record.message if isinstance(record, Send | RegSend | AliasSend) else None
    return body[0] if body is not None else getattr(record, "sender", None)


steps = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 8),
            st.integers(0, 3),
            st.sampled_from([0, 0, 10, 20_000, 65_000, 70_000, 200_000, 400_000]),
            st.tuples(st.integers(0, 3900), st.sampled_from([0, 1, 3, 100])),
        ),
        st.integers(1, PORTION),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps, st.sampled_from(list(FORMS.values())))
def test_the_order_of_each_sender_is_kept(todo: list[Any], flags: Flag) -> None:
    here, there = pair(flags)
    all_sent: list[Record] = []
    arrived: list[Record] = []
    for number, step in enumerate(todo):
        if isinstance(step, int):
            arrived += received(there, here.departures.portion(step))
            continue
        kind, who, size, (first, count) = step
        atoms = [Atom(f"atom {n}") for n in range(first, first + count)]
        record = made(kind, sender(who), (sender(who), number, atoms, bytes(size)))
        sent(here, record)
        all_sent.append(record)
        assert here.pending_bytes >= size or isinstance(record, MonitorP | SpawnReply | GroupLeader)
    arrived += drained(here, there)
    if not flags & Flag.SEND_SENDER:
        all_sent = [Send(r.to, r.message) if isinstance(r, Send) else r for r in all_sent]
    assert len(arrived) == len(all_sent)
    for who in range(4):
        mine = [record for record in all_sent if whose(record) == sender(who)]
        assert [record for record in arrived if whose(record) == sender(who)] == mine
    for at, record in enumerate(all_sent):  # what does not tell whose it is stays behind everything
        if isinstance(record, MonitorPExit | GroupLeader):
            before = arrived[: arrived.index(record)]
            assert all(other in before for other in all_sent[:at])
    received_bytes, sent_bytes = there.counters()[0], here.counters()[1]
    assert received_bytes == sent_bytes


# --- What passes what -------------------------------------------------------------------------------------------------


def test_small_messages_pass_the_rest_of_a_large_one() -> None:
    here, there = pair()
    sent(here, Send(THERE, LARGE, sender(0)))
    first = received(there, here.departures.portion(PORTION))
    for number in range(10):
        sent(here, Send(THERE, number, sender(1)))
    sent(here, Send(THERE, Atom("mine"), sender(0)))
    records = first + drained(here, there)
    assert [record.message for record in records] == [*range(10), LARGE, Atom("mine")]  # type: ignore[union-attr]


def test_large_ones_take_turns_with_each_other() -> None:
    here, there = pair()
    sizes = [1_000_000, 300_000, 600_000]
    for number, size in enumerate(sizes):
        sent(here, Send(THERE, bytes(size), sender(number)))
    assert [len(record.message) for record in drained(here, there)] == sorted(sizes)  # type: ignore[union-attr]


def test_the_large_is_not_starved_by_the_small() -> None:
    here, there = pair()
    sent(here, Send(THERE, LARGE, sender(0)))
    portions = 0
    while not any(record.message == LARGE for record in received(there, here.departures.portion(1))):  # type: ignore[union-attr]
        sent(here, Send(THERE, bytes(60_000), sender(1)))
        portions += 1
        assert portions < 40


def test_no_portion_is_much_larger_than_was_asked_for() -> None:
    here, there = pair()
    sent(here, Send(THERE, bytes(20_000_000), sender(0)))
    total = 0
    while chunks := here.departures.portion(PORTION):
        size = sum(map(len, chunks))
        assert size < PORTION + 2 * 65_600
        total += size
        received(there, chunks)
    assert total == here.counters()[1] > 20_000_000


def test_the_bytes_of_a_large_binary_are_not_copied() -> None:
    here, _ = pair()
    sent(here, Send(THERE, LARGE, sender(0)))
    sent(here, Send(THERE, LARGE, sender(0)))  # into its lane
    chunks = here.data_to_send()
    views = [chunk for chunk in chunks if isinstance(chunk, memoryview)]
    assert all(view.obj is LARGE for view in views)
    assert sum(map(len, views)) > 2 * len(LARGE) - 2 * 65_536


def test_too_many_lanes_send_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "LANES_MAX", 2)
    here, there = pair()
    for number in range(4):
        sent(here, Send(THERE, (number, LARGE), sender(number)))
    assert [record.message[0] for record in drained(here, there)] == [2, 3, 0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [10, 70_000])
def test_what_cannot_be_encoded_leaves_the_lane_as_it_was(size: int) -> None:
    here, there = pair()
    sent(here, Send(THERE, LARGE, sender(0)))
    before = here.pending_bytes
    with pytest.raises(EncodeError):
        sent(here, Send(THERE, [bytes(size), object()], sender(0)))
    assert here.pending_bytes == before
    sent(here, Send(THERE, Atom("after"), sender(0)))
    assert [record.message for record in drained(here, there)] == [LARGE, Atom("after")]  # type: ignore[union-attr]


def test_atoms_that_lose_their_slot_meanwhile() -> None:
    """The first fragment has told them; what the cache says later is of no matter to the rest."""
    here, there = pair()
    mine = [Atom(f"mine {number}") for number in range(200)]
    sent(here, Send(THERE, [mine, LARGE, mine], sender(0)))
    for number in range(30):
        sent(here, Send(THERE, [Atom(f"theirs {number} {n}") for n in range(100)], sender(1)))
    sent(here, Send(THERE, mine, sender(0)))
    records = drained(here, there)
    assert [record.message for record in records[30:]] == [[mine, LARGE, mine], mine]  # type: ignore[union-attr]


def test_without_fragments_a_large_message_is_one_frame() -> None:
    here, there = pair(FORMS["cached, unfragmented"])
    sent(here, Send(THERE, LARGE, sender(0)))
    assert not here.departures.in_turns
    sent(here, Send(THERE, 1, sender(1)))
    assert [record.message for record in drained(here, there)] == [LARGE, 1]  # type: ignore[union-attr]
