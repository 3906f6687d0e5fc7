"""Control messages: every record in every form that the negotiated flags give it, and what is not a control message."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode.errors import ProtocolError
from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.wire.control import (
    NO_PAYLOAD,
    PAYLOAD_OPS,
    AliasSend,
    DemonitorP,
    Exit,
    Exit2,
    GroupLeader,
    Link,
    MonitorP,
    MonitorPExit,
    Op,
    Record,
    RegSend,
    Send,
    SpawnReply,
    SpawnRequest,
    UnlinkId,
    UnlinkIdAck,
    carries_payload,
    from_wire,
    is_known_to,
    to_wire,
)
from beamnode.wire.flags import Flag

HERE = Pid(Atom("py@h"), 9, 0, 7)
THERE = Pid(Atom("ex@h"), 61, 1, 8)
REF = Reference(Atom("py@h"), 7, (1, 2, 3))
NAME = Atom("net_kernel")
EMPTY = Atom("")
TOKEN = (0, 17, 2, HERE, 1)
ARGS = [Atom("a"), 1]
OPTIONS = [Atom("link"), (Atom("priority"), Atom("high"))]
SPAWN = (REF, HERE, HERE, Atom("m"), Atom("f"), 2, OPTIONS, ARGS)
MFA = (Atom("m"), Atom("f"), 2)

NONE = Flag(0)
ALL = Flag((1 << 39) - 1)
MONITORS = Flag.DIST_MONITOR | Flag.DIST_MONITOR_NAME
OLD = ALL & ~Flag.ALTACT_SIG

ROWS: list[tuple[Record, Flag, tuple[Any, ...], Any]] = [
    (Send(THERE, "m", HERE), NONE, (2, EMPTY, THERE), "m"),
    (Send(THERE, "m", None), ALL, (2, EMPTY, THERE), "m"),
    (Send(THERE, "m", None, None, True), ALL, (2, EMPTY, THERE), "m"),
    (Send(THERE, "m", HERE), Flag.SEND_SENDER, (22, HERE, THERE), "m"),
    (Send(THERE, "m", HERE), ALL, (22, HERE, THERE), "m"),
    (Send(THERE, "m", HERE, TOKEN), NONE, (12, EMPTY, THERE, TOKEN), "m"),
    (Send(THERE, "m", HERE, TOKEN), OLD, (23, HERE, THERE, TOKEN), "m"),
    (Send(THERE, "m", HERE, None, True), OLD, (22, HERE, THERE), "m"),
    (Send(THERE, "m", HERE, None, True), ALL, (37, 1, HERE, THERE), "m"),
    (Send(THERE, "m", HERE, TOKEN, True), ALL, (37, 3, HERE, THERE, TOKEN), "m"),
    (RegSend(HERE, NAME, "m"), NONE, (6, HERE, EMPTY, NAME), "m"),
    (RegSend(HERE, NAME, "m"), ALL, (6, HERE, EMPTY, NAME), "m"),
    (RegSend(HERE, NAME, "m", TOKEN), ALL, (16, HERE, EMPTY, NAME, TOKEN), "m"),
    (RegSend(HERE, NAME, "m", None, True), OLD, (6, HERE, EMPTY, NAME), "m"),
    (RegSend(HERE, NAME, "m", None, True), ALL, (37, 9, HERE, NAME), "m"),
    (RegSend(HERE, NAME, "m", TOKEN, True), ALL, (37, 11, HERE, NAME, TOKEN), "m"),
    (AliasSend(HERE, REF, "m"), Flag.ALIAS, (33, HERE, REF), "m"),
    (AliasSend(HERE, REF, "m", TOKEN), OLD, (34, HERE, REF, TOKEN), "m"),
    (AliasSend(HERE, REF, "m"), Flag.ALTACT_SIG, (37, 4, HERE, REF), "m"),
    (AliasSend(HERE, REF, "m", None, True), ALL, (37, 5, HERE, REF), "m"),
    (AliasSend(HERE, REF, "m", TOKEN, True), ALL, (37, 7, HERE, REF, TOKEN), "m"),
    (AliasSend(HERE, REF, "m", None, True), OLD, (33, HERE, REF), "m"),
    (Link(HERE, THERE), NONE, (1, HERE, THERE), NO_PAYLOAD),
    (UnlinkId(5, HERE, THERE), NONE, (35, 5, HERE, THERE), NO_PAYLOAD),
    (UnlinkId(2**64 - 1, HERE, THERE), ALL, (35, 2**64 - 1, HERE, THERE), NO_PAYLOAD),
    (UnlinkIdAck(5, HERE, THERE), ALL, (36, 5, HERE, THERE), NO_PAYLOAD),
    (Exit(HERE, THERE, "r"), NONE, (3, HERE, THERE, "r"), NO_PAYLOAD),
    (Exit(HERE, THERE, "r"), ALL, (24, HERE, THERE), "r"),
    (Exit(HERE, THERE, "r", TOKEN), NONE, (13, HERE, THERE, TOKEN, "r"), NO_PAYLOAD),
    (Exit(HERE, THERE, "r", TOKEN), ALL, (25, HERE, THERE, TOKEN), "r"),
    (Exit2(HERE, THERE, "r"), NONE, (8, HERE, THERE, "r"), NO_PAYLOAD),
    (Exit2(HERE, THERE, "r"), ALL, (26, HERE, THERE), "r"),
    (Exit2(HERE, THERE, "r", TOKEN), NONE, (18, HERE, THERE, TOKEN, "r"), NO_PAYLOAD),
    (Exit2(HERE, THERE, "r", TOKEN), ALL, (27, HERE, THERE, TOKEN), "r"),
    (Exit2(HERE, THERE, "r", None, True), OLD, (26, HERE, THERE), "r"),
    (Exit2(HERE, THERE, "r", None, True), ALL, (37, 17, HERE, THERE), "r"),
    (Exit2(HERE, THERE, "r", TOKEN, True), ALL, (37, 19, HERE, THERE, TOKEN), "r"),
    (Exit2(HERE, REF, "r"), ALL, (37, 20, HERE, REF), "r"),
    (Exit2(HERE, REF, "r", None, True), ALL, (37, 21, HERE, REF), "r"),
    (Exit2(HERE, NAME, "r", None, True), ALL, (37, 25, HERE, NAME), "r"),
    (GroupLeader(HERE, THERE), NONE, (7, HERE, THERE), NO_PAYLOAD),
    (MonitorP(HERE, THERE, REF), MONITORS, (19, HERE, THERE, REF), NO_PAYLOAD),
    (MonitorP(HERE, NAME, REF), ALL, (19, HERE, NAME, REF), NO_PAYLOAD),
    (DemonitorP(HERE, THERE, REF), MONITORS, (20, HERE, THERE, REF), NO_PAYLOAD),
    (DemonitorP(HERE, NAME, REF), ALL, (20, HERE, NAME, REF), NO_PAYLOAD),
    (MonitorPExit(HERE, THERE, REF, "r"), MONITORS, (21, HERE, THERE, REF, "r"), NO_PAYLOAD),
    (MonitorPExit(NAME, THERE, REF, "r"), ALL, (28, NAME, THERE, REF), "r"),
    (SpawnRequest(*SPAWN), Flag.SPAWN, (29, REF, HERE, HERE, MFA, OPTIONS), ARGS),
    (SpawnRequest(*SPAWN, TOKEN), ALL, (30, REF, HERE, HERE, MFA, OPTIONS, TOKEN), ARGS),
    (SpawnReply(REF, THERE, 3, HERE), NONE, (31, REF, THERE, 3, HERE), NO_PAYLOAD),
    (SpawnReply(REF, THERE, 0, Atom("notsup"), TOKEN), ALL, (32, REF, THERE, 0, Atom("notsup"), TOKEN), NO_PAYLOAD),
]


def arrived(record: Record, control: tuple[Any, ...]) -> Record:
    """The record that the receiver sees: what the op cannot say is lost."""
    if isinstance(record, Send) and control[0] in (2, 12):
        return Send(record.to, record.message, None, record.token)
    if isinstance(record, Send | RegSend | AliasSend | Exit2) and control[0] != 37:
        record = type(record)(**{**{name: getattr(record, name) for name in record.__slots__}, "priority": False})
    return record


@pytest.mark.parametrize(("record", "flags", "control", "payload"), ROWS)
def test_to_wire_and_back(record: Record, flags: Flag, control: tuple[Any, ...], payload: Any) -> None:
    flags |= Flag.BIG_SEQTRACE_LABELS
    assert to_wire(record, flags) == (control, payload)
    assert to_wire(record, int(flags)) == (control, payload)
    assert is_known_to(flags, record)
    assert all(type(element) is not Op for element in control)
    assert type(to_wire(record, flags)[0][0]) is int  # type: ignore[index]
    assert carries_payload(control) is (payload is not NO_PAYLOAD)
    assert from_wire(control, payload) == arrived(record, control)


def test_every_op_has_a_row() -> None:
    assert {row[2][0] for row in ROWS} == {int(op) for op in Op}
    assert {row[2][0] for row in ROWS if row[3] is not NO_PAYLOAD} == PAYLOAD_OPS


@pytest.mark.parametrize(
    ("record", "flags"),
    [
        (AliasSend(HERE, REF, "m"), NONE),
        (Exit2(HERE, REF, "r"), OLD),
        (Exit2(HERE, NAME, "r", None, True), OLD),
        (SpawnRequest(*SPAWN), NONE),
        *(
            (record, flags)
            for flags in (NONE, Flag.DIST_MONITOR, Flag.DIST_MONITOR_NAME, Flag.EXIT_PAYLOAD)
            for record in (MonitorP(HERE, THERE, REF), DemonitorP(HERE, NAME, REF), MonitorPExit(NAME, THERE, REF, "r"))
        ),
    ],
)
def test_what_the_peer_does_not_know(record: Record, flags: Flag) -> None:
    assert to_wire(record, flags) is None
    assert not is_known_to(flags, record)


@pytest.mark.parametrize(
    ("token", "sent"),
    [
        ((0, 17, 2, HERE, 1), True),
        ((0, -(1 << 27), 2, HERE, 1), True),
        ((0, 1 << 27, 2, HERE, 1), False),
        ((0, True, 2, HERE, 1), False),
        ((0, Atom("label"), 2, HERE, 1), False),
        (Atom("token"), False),
    ],
)
def test_a_trace_token_with_a_label_that_the_peer_cannot_take_is_left_out(token: Any, sent: bool) -> None:
    old = OLD & ~Flag.BIG_SEQTRACE_LABELS
    assert to_wire(Send(THERE, "m", HERE, token), old) == (
        ((23, HERE, THERE, token), "m") if sent else ((22, HERE, THERE), "m")
    )
    assert to_wire(Send(THERE, "m", HERE, token), ALL) == ((23, HERE, THERE, token), "m")


@pytest.mark.parametrize(
    "control",
    [
        None,
        1,
        [],
        (),
        [1, HERE, THERE],
        (Atom("link"), HERE, THERE),
        (True, HERE, THERE),
        (1.0, HERE, THERE),
        (HERE,),
        (0, HERE, THERE),
        (4, HERE, THERE),  # UNLINK: obsolete
        (5,),  # NODE_LINK
        (9, HERE, THERE),
        (38, HERE, THERE),
        (-1, HERE, THERE),
        (2**70, HERE),
    ],
)
def test_no_control_message(control: Any) -> None:
    for payload in (NO_PAYLOAD, "m"):
        with pytest.raises(ProtocolError):
            from_wire(control, payload)
    with pytest.raises(ProtocolError):
        carries_payload(control)


@pytest.mark.parametrize(("record", "flags", "control", "payload"), ROWS)
def test_wrong_size(record: Record, flags: Flag, control: tuple[Any, ...], payload: Any) -> None:
    for size in range(1, len(control)):
        with pytest.raises(ProtocolError):
            from_wire(control[:size], payload)
    if control[0] == 37:  # "might be extended with more elements in the future" (dist.c)
        assert from_wire((*control, TOKEN), payload) == from_wire(control, payload)
    else:
        with pytest.raises(ProtocolError):
            from_wire((*control, TOKEN), payload)


@pytest.mark.parametrize(("record", "flags", "control", "payload"), ROWS)
def test_payload_missing_or_too_many(record: Record, flags: Flag, control: tuple[Any, ...], payload: Any) -> None:
    with pytest.raises(ProtocolError):
        from_wire(control, "m" if payload is NO_PAYLOAD else NO_PAYLOAD)


FREE = {2: {1}, 12: {1, 3}, 6: {2}, 16: {2, 4}, 23: {3}, 34: {3}, 25: {3}, 27: {3}, 30: {6}, 32: {5}}
FREE |= {3: {3}, 8: {3}, 13: {3, 4}, 18: {3, 4}, 21: {4}}  # the places of cookies, tokens and reasons
FREE[37] = {4}


@pytest.mark.parametrize(("record", "flags", "control", "payload"), ROWS)
def test_wrong_types(record: Record, flags: Flag, control: tuple[Any, ...], payload: Any) -> None:
    for place in range(1, len(control)):
        broken = (*control[:place], 1.5, *control[place + 1 :])
        if place in FREE.get(control[0], ()):
            from_wire(broken, payload)
        else:
            with pytest.raises(ProtocolError):
                from_wire(broken, payload)


@pytest.mark.parametrize(
    "control",
    [
        (35, 0, THERE, HERE),
        (35, -1, THERE, HERE),
        (35, True, THERE, HERE),
        (35, 2**64, THERE, HERE),
        (36, 2**64, THERE, HERE),
        (31, REF, THERE, 1 << 27, HERE),
        (31, REF, THERE, -1, HERE),
        (29, REF, HERE, HERE, (Atom("m"), Atom("f")), []),
        (29, REF, HERE, HERE, (Atom("m"), "f", 1), []),
        (29, REF, HERE, HERE, (Atom("m"), Atom("f"), -1), []),
        (29, REF, HERE, HERE, [Atom("m"), Atom("f"), 1], []),
        (29, REF, HERE, HERE, MFA, (1,)),
        (37, -1, HERE, THERE),
        (37, 2, HERE, THERE),
        (37, 4, HERE, THERE),
        (37, 8, HERE, THERE),
        (37, 0, HERE, REF),
        (37, 0, HERE, NAME),
        (37, 12, HERE, REF),
        (37, 12, HERE, NAME),
    ],
)
def test_values_out_of_range(control: Any) -> None:
    with pytest.raises(ProtocolError):
        from_wire(control, [] if carries_payload(control) else NO_PAYLOAD)


@pytest.mark.parametrize("args", [[], [1], (1, 2), None])
def test_the_arguments_of_a_spawn_may_be_what_they_like(args: Any) -> None:
    assert from_wire((29, REF, HERE, HERE, MFA, []), args) == SpawnRequest(REF, HERE, HERE, *MFA, [], args)


def test_unknown_bits_of_altact_are_ignored() -> None:
    assert from_wire((37, 1 << 80, HERE, THERE), "m") == Send(THERE, "m", HERE)
    assert from_wire((37, 0xE0 | 4, HERE, REF), "m") == AliasSend(HERE, REF, "m")


@pytest.mark.parametrize(("value", "text"), [(None, "nil"), (True, "true"), (False, "false")])
def test_names_that_python_has_words_for(value: Any, text: str) -> None:
    name = Atom(text)
    assert from_wire((6, HERE, EMPTY, value), "m") == RegSend(HERE, name, "m")
    assert from_wire((37, 8, HERE, value), "m") == RegSend(HERE, name, "m")
    assert from_wire((19, HERE, value, REF)) == MonitorP(HERE, name, REF)
    assert from_wire((29, REF, HERE, HERE, (value, value, 0), []), []).mfa == (name, name, 0)  # type: ignore[union-attr]


def test_an_error_text_is_short_and_never_fails() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**10_000, b"x" * 10_000):
        with pytest.raises(ProtocolError) as caught:
            from_wire((1, value, THERE))
        assert len(str(caught.value)) < 600
