"""handshake_rules.py: every state with every input, and with any bytes at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.errors import PeerError, ProtocolError, UsageError
from beamnode.limits import Limits
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake import Accept, Acceptor, Initiator, Refusal
from beamnode.wire.handshake_messages import (
    Challenge,
    ChallengeAck,
    ChallengeReply,
    Complement,
    FromAcceptor,
    FromInitiator,
    NamedStatus,
    OldSendName,
    SendName,
    Status,
    build,
)
from beamnode.wire.handshake_rules import (
    ACCEPTOR_RULES,
    AWAITING_PEER,
    INITIATOR_RULES,
    Input,
    Rules,
    State,
    input_of,
)

COOKIE = b"monster"
LIMITS = Limits(handshake_frame_bytes_max=600)
BUFFER_BYTES_MAX = 2 + 600

Machine = Initiator | Acceptor


def digest(challenge: int) -> bytes:
    return hashlib.md5(COOKIE + str(challenge).encode()).digest()


STATUSES = ["ok", "ok_simultaneous", "alive", "nok", "not_allowed", "true", "false", "what"]

TO_INITIATOR: list[FromAcceptor] = [
    *map(Status, STATUSES),
    NamedStatus("given@host", 5),
    Challenge(DEFAULT, 2, 3, "b@host"),
    ChallengeAck(digest(1)),
]

TO_ACCEPTOR: list[FromInitiator] = [
    *map(Status, STATUSES),
    SendName(DEFAULT, 3, "b@host"),
    SendName(DEFAULT | Flag.NAME_ME, 0, "host"),
    OldSendName(5, Flag(DEFAULT & 0xFFFFFFFF), "b@host"),
    Complement(Flag(DEFAULT & ~0xFFFFFFFF), 3),
    ChallengeReply(2, digest(1)),
]


def feed(machine: Machine, *frames: FromInitiator | FromAcceptor, piece: int = 1 << 20) -> None:
    for frame in frames:
        body = build(frame)
        data = len(body).to_bytes(2, "big") + body
        for start in range(0, len(data), piece):
            machine.receive_data(data[start : start + piece], now=0.0)


def initiator_in(state: State) -> Initiator:
    """An initiator that has come to that state by frames and calls."""
    dynamic = state is State.AWAITING_NAMED
    machine = Initiator(
        this_name="a@host",
        this_creation=4,
        peer_name="b@host",
        flags=DEFAULT,
        cookie=COOKIE,
        challenge=1,
        setup_timeout=7.0,
        now=0.0,
        limits=LIMITS,
        dynamic_host="host" if dynamic else None,
    )
    challenge = Challenge(DEFAULT, 2, 3, "b@host")
    match state:
        case State.DECIDING_STILL_WANTED:
            feed(machine, Status("alive"))
        case State.AWAITING_CHALLENGE:
            feed(machine, Status("ok"))
        case State.AWAITING_ACK:
            feed(machine, Status("ok"), challenge)
        case State.ESTABLISHED:
            feed(machine, Status("ok"), challenge, ChallengeAck(digest(1)))
        case State.ENDED:
            feed(machine, Status("alive"))
            machine.answer_alive(False)
    assert machine.state is state
    return machine


def acceptor_in(state: State) -> Acceptor:
    """An acceptor that has come to that state by frames and calls."""
    machine = Acceptor(
        this_name="a@host", this_creation=4, flags=DEFAULT, challenge=1, setup_timeout=7.0, now=0.0, limits=LIMITS
    )
    new, dynamic, old = TO_ACCEPTOR[8:11]
    if state is State.AWAITING_NAME:
        pass
    elif state in (State.DECIDING_OLD, State.AWAITING_ALIVE_REPLY_OLD, State.AWAITING_COMPLEMENT):
        feed(machine, old)
    elif state is State.DECIDING_DYNAMIC:
        feed(machine, dynamic)
    else:
        feed(machine, new)
    if state in (State.AWAITING_ALIVE_REPLY, State.AWAITING_ALIVE_REPLY_OLD):
        machine.accept(Accept.ALIVE, cookie=COOKIE)
    elif state is State.ENDED:
        machine.refuse(Refusal.NOK)
    elif state in (State.AWAITING_COMPLEMENT, State.AWAITING_REPLY, State.PROVED, State.ESTABLISHED):
        machine.accept(Accept.OK, cookie=COOKIE)
    if state in (State.PROVED, State.ESTABLISHED):
        feed(machine, ChallengeReply(2, digest(1)))
    if state is State.ESTABLISHED:
        machine.acknowledge()
    assert machine.state is state
    return machine


def states_of(rules: Rules) -> list[State]:
    return sorted({state for state, _ in rules} | set(rules.values()), key=lambda state: state.name)


MACHINES: list[tuple[Callable[[State], Machine], State]] = [
    *((initiator_in, state) for state in states_of(INITIATOR_RULES)),
    *((acceptor_in, state) for state in states_of(ACCEPTOR_RULES)),
]
LIVE_MACHINES = [(make, state) for make, state in MACHINES if state not in (State.ESTABLISHED, State.ENDED)]
SHAKES: list[tuple[Callable[[State], Machine], State, FromInitiator | FromAcceptor]] = [
    (make, state, frame)
    for make, state in MACHINES
    for frame in (TO_INITIATOR if make is initiator_in else TO_ACCEPTOR)
]

CALLS: dict[Input, Callable[[Any], None]] = {
    Input.ANSWER_TRUE: lambda machine: machine.answer_alive(True),
    Input.ANSWER_FALSE: lambda machine: machine.answer_alive(False),
    Input.ACCEPT: lambda machine: machine.accept(Accept.OK, cookie=COOKIE),
    Input.ACCEPT_ALIVE: lambda machine: machine.accept(Accept.ALIVE, cookie=COOKIE),
    Input.ACCEPT_NAMED: lambda machine: machine.accept_named("n@host", 9, cookie=COOKIE),
    Input.REFUSE: lambda machine: machine.refuse(Refusal.NOT_ALLOWED),
    Input.ACKNOWLEDGE: lambda machine: machine.acknowledge(),
}
INITIATOR_CALLS = {Input.ANSWER_TRUE, Input.ANSWER_FALSE}


@pytest.mark.parametrize("piece", [1 << 20, 1])
@pytest.mark.parametrize(("make", "state", "frame"), SHAKES)
def test_every_frame_in_every_state(
    make: Callable[[State], Machine], state: State, frame: FromInitiator | FromAcceptor, piece: int
) -> None:
    machine = make(state)
    next_state = machine.rules.get((state, input_of(frame)))
    if state in (State.ESTABLISHED, State.ENDED):
        with pytest.raises(UsageError):
            feed(machine, frame, piece=piece)
    elif state not in AWAITING_PEER:
        feed(machine, frame, piece=piece)  # the driver's turn: it is kept for later
        assert machine.state is state
    elif next_state is None:
        with pytest.raises(ProtocolError):
            feed(machine, frame, piece=piece)
        assert machine.state is State.ENDED
    elif next_state is State.ENDED:
        with pytest.raises(PeerError):
            feed(machine, frame, piece=piece)
        assert machine.state is State.ENDED
    else:
        feed(machine, frame, piece=piece)
        assert machine.state is next_state
    assert (machine.next_deadline() is None) == (machine.state in (State.ESTABLISHED, State.ENDED))


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize(("make", "state"), MACHINES)
def test_every_call_in_every_state(make: Callable[[State], Machine], state: State, call: Input) -> None:
    machine = make(state)
    if (call in INITIATOR_CALLS) != isinstance(machine, Initiator):
        return  # a call that this machine does not have
    machine.data_to_send()
    next_state = machine.rules.get((state, call))
    if next_state is None:
        with pytest.raises(UsageError):
            CALLS[call](machine)
        assert machine.state is state
        assert machine.data_to_send() == []
    else:
        CALLS[call](machine)
        assert machine.state is next_state
        assert machine.data_to_send() != []


@pytest.mark.parametrize("rules", [INITIATOR_RULES, ACCEPTOR_RULES])
def test_a_state_waits_for_the_peer_or_for_the_driver(rules: Rules) -> None:
    for state, came in rules:
        assert (state in AWAITING_PEER) == (came not in CALLS), (state, came)


@pytest.mark.parametrize(("make", "state"), MACHINES)
def test_every_state_says_how_it_is_doing(make: Callable[[State], Machine], state: State) -> None:
    assert state.name in repr(make(state))


# --- any bytes --------------------------------------------------------------------------------------------------------


def is_over(machine: Machine) -> bool:
    return machine.state in (State.ESTABLISHED, State.ENDED)


def survives(machine: Machine, data: bytes, piece: int) -> None:
    """Feed bytes: each call makes progress or raises a PeerError; nothing else, and no more is held than one frame."""
    for start in range(0, len(data), piece):
        if is_over(machine):
            return
        try:
            machine.receive_data(data[start : start + piece], now=1.0)
        except PeerError:
            assert is_over(machine)
        assert len(machine._buffer) <= BUFFER_BYTES_MAX
        while machine.next_event() is not None:
            pass


framed = st.binary(max_size=64).map(lambda body: len(body).to_bytes(2, "big") + body)
tagged = st.builds(bytes.__add__, st.sampled_from([b"N", b"n", b"s", b"c", b"r", b"a", b"snamed:"]), st.binary())
framed_tagged = tagged.map(lambda body: len(body).to_bytes(2, "big") + body)
known = st.sampled_from([*TO_INITIATOR, *TO_ACCEPTOR]).map(build).map(lambda body: len(body).to_bytes(2, "big") + body)
streams = st.lists(st.one_of(st.binary(max_size=2000), framed, framed_tagged, known), max_size=8).map(b"".join)


@given(st.sampled_from(LIVE_MACHINES), streams, st.sampled_from([1, 3, 1 << 20]))
def test_any_bytes_in_any_state(made: tuple[Callable[[State], Machine], State], data: bytes, piece: int) -> None:
    make, state = made
    survives(make(state), data, piece)


@given(st.sampled_from(SHAKES), st.data())
def test_frames_with_some_bits_turned(
    shake: tuple[Callable[[State], Machine], State, FromInitiator | FromAcceptor], data: st.DataObject
) -> None:
    make, state, frame = shake
    if state in (State.ESTABLISHED, State.ENDED):
        return
    body = build(frame)
    stream = bytearray(len(body).to_bytes(2, "big") + body)
    for index in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=4)):
        stream[index] ^= data.draw(st.integers(1, 255))
    survives(make(state), bytes(stream), data.draw(st.sampled_from([1, 1 << 20])))
