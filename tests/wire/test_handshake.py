"""handshake.py: whole handshakes, both sides, and the cases of OTP's erl_distribution_wb_SUITE."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from beamnode.errors import (
    CookieMismatch,
    HandshakeError,
    NetworkError,
    NodeNameError,
    NotAllowedByPeer,
    ProtocolError,
    RefusedByPeer,
    UsageError,
)
from beamnode.wire.flags import DEFAULT, MANDATORY_25, Flag, expand
from beamnode.wire.handshake import (
    Accept,
    Acceptor,
    AcceptorEvent,
    Established,
    Initiator,
    InitiatorEvent,
    Named,
    PeerNamed,
    PeerProved,
    Refusal,
    State,
    StillWanted,
)
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
    parse_from_acceptor,
    parse_from_initiator,
)

VISIBLE = DEFAULT | Flag.PUBLISHED
LOW = 0xFFFFFFFF
LEAST = Flag.MANDATORY_25_DIGEST | Flag.UNLINK_ID | Flag.V4_NC
COOKIE = b"monster"

Machine = Initiator | Acceptor


@pytest.fixture(params=[1 << 20, 1], ids=["whole", "byte-by-byte"])
def piece(request: pytest.FixtureRequest) -> int:
    """How many bytes arrive at a time."""
    return int(request.param)


def new_initiator(
    flags: Flag = VISIBLE,
    cookie: bytes = COOKIE,
    peer_name: str = "b@host",
    dynamic_host: str | None = None,
    length_bytes: int = 2,
) -> Initiator:
    return Initiator(
        this_name="a@host",
        this_creation=11,
        peer_name=peer_name,
        flags=flags,
        cookie=cookie,
        challenge=0xFFFFFFFF,
        setup_timeout=7.0,
        now=0.0,
        dynamic_host=dynamic_host,
        length_bytes=length_bytes,
    )


def new_acceptor(flags: Flag = VISIBLE, length_bytes: int = 2) -> Acceptor:
    return Acceptor(
        this_name="b@host",
        this_creation=22,
        flags=flags,
        challenge=0,
        setup_timeout=7.0,
        now=0.0,
        length_bytes=length_bytes,
    )


def digest(challenge: int, cookie: bytes = COOKIE) -> bytes:
    return hashlib.md5(cookie + str(challenge).encode()).digest()


def feed(machine: Machine, data: bytes, piece: int = 1 << 20) -> None:
    for start in range(0, len(data), piece):
        machine.receive_data(data[start : start + piece], now=0.0)


def frame(*frames: FromInitiator | FromAcceptor, length_bytes: int = 2) -> bytes:
    bodies = map(build, frames)
    return b"".join(len(body).to_bytes(length_bytes, "big") + body for body in bodies)


def sent_by_acceptor(machine: Acceptor) -> list[FromAcceptor]:
    return [parse_from_acceptor(chunk[2:]) for chunk in machine.data_to_send()]


def sent_by_initiator(machine: Initiator) -> list[FromInitiator]:
    return [parse_from_initiator(chunk[2:]) for chunk in machine.data_to_send()]


def decide(machine: Machine, event: InitiatorEvent | AcceptorEvent, status: Accept, cookie: bytes) -> None:
    match machine, event:
        case Acceptor(), PeerNamed(dynamic=True):
            machine.accept_named("given@host", 33, cookie=cookie)
        case Acceptor(), PeerNamed():
            machine.accept(status, cookie=cookie)
        case Acceptor(), PeerProved():
            machine.acknowledge()
        case Initiator(), StillWanted():
            machine.answer_alive(True)


def shake(
    initiator: Initiator, acceptor: Acceptor, piece: int, status: Accept = Accept.OK, cookie: bytes = COOKIE
) -> tuple[list[InitiatorEvent], list[AcceptorEvent]]:
    """Carry bytes between the two until nothing moves; decide as a driver would."""
    left: list[InitiatorEvent] = []
    right: list[AcceptorEvent] = []
    moved = True
    while moved:
        moved = False
        for source, target in ((initiator, acceptor), (acceptor, initiator)):
            for chunk in source.data_to_send():
                feed(target, chunk, piece)
                moved = True
        while (event := initiator.next_event()) is not None:
            left.append(event)
            decide(initiator, event, status, cookie)
        while (happened := acceptor.next_event()) is not None:
            right.append(happened)
            decide(acceptor, happened, status, cookie)
    return left, right


# --- whole handshakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Accept.OK, Accept.OK_SIMULTANEOUS])
@pytest.mark.parametrize("length_bytes", [2, 4])
def test_two_nodes_meet(piece: int, length_bytes: int, status: Accept) -> None:
    initiator, acceptor = new_initiator(length_bytes=length_bytes), new_acceptor(length_bytes=length_bytes)
    left, right = shake(initiator, acceptor, piece, status)
    assert left == [Established("b@host", 22, VISIBLE, b"")]
    assert right == [PeerNamed("a@host", 11, VISIBLE, False), PeerProved(), Established("a@host", 11, VISIBLE, b"")]
    assert initiator.next_deadline() is None
    assert acceptor.next_deadline() is None


def test_a_connection_is_visible_only_if_both_are(piece: int) -> None:
    for left_flags, right_flags in ((DEFAULT, VISIBLE), (VISIBLE, DEFAULT), (DEFAULT, DEFAULT)):
        left, right = shake(new_initiator(left_flags), new_acceptor(right_flags), piece)
        assert left == [Established("b@host", 22, DEFAULT, b"")]
        assert right[-1] == Established("a@host", 11, DEFAULT, b"")


def test_both_come_to_the_same_flags_and_unknown_bits_survive(piece: int) -> None:
    ours, theirs = VISIBLE | Flag(1 << 60), LEAST | Flag.PUBLISHED | Flag(1 << 60) | Flag(1 << 61)
    for left_flags, right_flags in ((ours, theirs), (theirs, ours)):
        left, right = shake(new_initiator(left_flags), new_acceptor(right_flags), piece)
        assert isinstance(left[-1], Established)
        assert isinstance(right[-1], Established)
        assert left[-1].flags == right[-1].flags == expand(theirs) & ~(1 << 61)


def test_alive_and_still_wanted(piece: int) -> None:
    left, right = shake(new_initiator(), new_acceptor(), piece, Accept.ALIVE)
    assert left == [StillWanted(), Established("b@host", 22, VISIBLE, b"")]
    assert isinstance(right[-1], Established)


def test_alive_and_no_longer_wanted(piece: int) -> None:
    initiator, acceptor = new_initiator(), new_acceptor()
    feed(acceptor, b"".join(initiator.data_to_send()), piece)
    acceptor.accept(Accept.ALIVE, cookie=COOKIE)
    feed(initiator, b"".join(acceptor.data_to_send()), piece)
    assert initiator.next_event() == StillWanted()
    initiator.answer_alive(False)
    assert initiator.state is State.ENDED
    with pytest.raises(RefusedByPeer, match="'a@host' gave up"):
        feed(acceptor, b"".join(initiator.data_to_send()), piece)


def test_a_node_without_a_name_is_given_one(piece: int) -> None:
    initiator, acceptor = new_initiator(dynamic_host="host"), new_acceptor()
    left, right = shake(initiator, acceptor, piece)
    flags = DEFAULT | Flag.NAME_ME
    assert left == [Named("given@host", 33), Established("b@host", 22, flags, b"")]
    assert right[0] == PeerNamed("host", 0, flags, True)
    assert right[-1] == Established("given@host", 33, flags, b"")


def test_the_acceptor_confirms_name_me_and_hides() -> None:
    acceptor = new_acceptor()
    feed(acceptor, frame(SendName(DEFAULT | Flag.NAME_ME, 0, "host")))
    acceptor.accept_named("x@host", 5, cookie=COOKIE)
    assert sent_by_acceptor(acceptor) == [
        NamedStatus("x@host", 5),
        Challenge(DEFAULT | Flag.NAME_ME, 0, 22, "b@host"),
    ]


def test_names_are_latin_1_on_the_wire(piece: int) -> None:
    initiator = Initiator(
        this_name="å@host",
        this_creation=1,
        peer_name="ü@host",
        flags=DEFAULT,
        cookie=COOKIE,
        challenge=1,
        setup_timeout=7.0,
        now=0.0,
    )
    acceptor = Acceptor(this_name="ü@host", this_creation=2, flags=DEFAULT, challenge=2, setup_timeout=7.0, now=0.0)
    left, right = shake(initiator, acceptor, piece)
    assert left == [Established("ü@host", 2, DEFAULT, b"")]
    assert right[-1] == Established("å@host", 1, DEFAULT, b"")


def test_bytes_behind_the_last_frame_belong_to_the_channel() -> None:
    initiator = new_initiator()
    channel = b"\0\0\0\x05p" + bytes(100_000)
    feed(initiator, frame(Status("ok"), Challenge(DEFAULT, 1, 22, "b@host")))
    feed(initiator, frame(ChallengeAck(digest(0xFFFFFFFF))) + channel)
    assert initiator.next_event() == Established("b@host", 22, DEFAULT, channel)


def test_bytes_that_wait_for_the_acknowledgement_belong_to_the_channel() -> None:
    acceptor = new_acceptor()
    feed(acceptor, frame(SendName(DEFAULT, 11, "a@host")))
    acceptor.accept(Accept.OK, cookie=COOKIE)
    feed(acceptor, frame(ChallengeReply(5, digest(0))) + b"\0\0\0\0")
    assert isinstance(acceptor.next_event(), PeerNamed)
    assert acceptor.next_event() == PeerProved()
    acceptor.data_to_send()
    acceptor.acknowledge()
    assert sent_by_acceptor(acceptor) == [ChallengeAck(digest(5))]
    assert acceptor.next_event() == Established("a@host", 11, DEFAULT, b"\0\0\0\0")


# --- the cases of erl_distribution_wb_SUITE, the suite's node drawn by hand -------------------------------------------
# Version 6 is the new form of the name; version 5 the old one, with a complement since the challenge is new.


def suite_name(version: int, flags: Flag) -> FromInitiator:
    return SendName(flags, 11, "ccc@host") if version == 6 else OldSendName(5, Flag(flags & LOW), "ccc@host")


def suite_reply(version: int, flags: Flag, challenge: int) -> bytes:
    complement = [] if version == 6 else [Complement(Flag(flags & ~LOW), 11)]
    return frame(*complement, ChallengeReply(77, digest(challenge)))


@pytest.mark.parametrize("version", [5, 6])
@pytest.mark.parametrize("status", [Accept.OK, Accept.OK_SIMULTANEOUS, Accept.ALIVE])
def test_pending_up_md5(piece: int, version: int, status: Accept) -> None:
    """A second connection: `alive`, `true`, and the rest as ever; also the first one, and the one that wins."""
    acceptor = new_acceptor()
    feed(acceptor, frame(suite_name(version, LEAST)), piece)
    named = acceptor.next_event()
    assert isinstance(named, PeerNamed)
    assert (named.name, named.creation) == ("ccc@host", 11 if version == 6 else None)
    acceptor.accept(status, cookie=COOKIE)
    challenge = Challenge(VISIBLE, 0, 22, "b@host")
    if status is Accept.ALIVE:
        assert sent_by_acceptor(acceptor) == [Status("alive")]
        feed(acceptor, frame(Status("true")), piece)
        assert sent_by_acceptor(acceptor) == [challenge]
    else:
        assert sent_by_acceptor(acceptor) == [Status(status.value), challenge]
    feed(acceptor, suite_reply(version, LEAST, 0), piece)
    assert acceptor.next_event() == PeerProved()
    assert acceptor.data_to_send() == []  # the old connection has to go first
    acceptor.acknowledge()
    assert sent_by_acceptor(acceptor) == [ChallengeAck(digest(77))]
    chosen = LEAST | MANDATORY_25
    assert acceptor.next_event() == Established("ccc@host", 11, chosen, b"")


@pytest.mark.parametrize("refusal", list(Refusal))
def test_simultaneous_md5_refused(piece: int, refusal: Refusal) -> None:
    """The suite's node has the smaller name: it is told `nok` and goes on with the connection it accepted."""
    acceptor = new_acceptor()
    feed(acceptor, frame(SendName(LEAST, 11, "A@host")), piece)
    acceptor.refuse(refusal)
    assert sent_by_acceptor(acceptor) == [Status(refusal.value)]
    assert acceptor.state is State.ENDED
    assert acceptor.next_deadline() is None


def test_simultaneous_md5_our_own_attempt_goes_on(piece: int) -> None:
    initiator = new_initiator()
    feed(initiator, frame(Status("ok_simultaneous"), Challenge(LEAST, 9, 4, "b@host")), piece)
    assert sent_by_initiator(initiator)[1:] == [ChallengeReply(0xFFFFFFFF, digest(9))]


def test_simultaneous_md5_our_own_attempt_is_refused(piece: int) -> None:
    with pytest.raises(RefusedByPeer, match="its attempt wins"):
        feed(new_initiator(), frame(Status("nok")), piece)


@pytest.mark.parametrize("version", [5, 6])
def test_missing_compulsory_dflags(piece: int, version: int) -> None:
    acceptor = new_acceptor()
    with pytest.raises(HandshakeError, match=r"'ccc@host' lacks .*UTF8_ATOMS.*HANDSHAKE_23.*OTP 25"):
        feed(acceptor, frame(suite_name(version, Flag(0))), piece)
    assert sent_by_acceptor(acceptor) == [Status("not_allowed")]
    assert acceptor.next_event() is None


def test_dflag_mandatory_25(piece: int) -> None:
    acceptor = new_acceptor()
    feed(acceptor, frame(SendName(LEAST, 11, "ccc@host")), piece)
    assert acceptor.next_event() == PeerNamed("ccc@host", 11, LEAST | MANDATORY_25, False)


def test_the_digest_alone_is_what_otp_25_took_but_not_otp_26(piece: int) -> None:
    acceptor = new_acceptor()
    with pytest.raises(HandshakeError, match="demands: UNLINK_ID, V4_NC"):
        feed(acceptor, frame(SendName(Flag.MANDATORY_25_DIGEST, 11, "ccc@host")), piece)


def test_high_flags_of_the_old_form_are_checked_when_they_come(piece: int) -> None:
    acceptor = new_acceptor()
    feed(acceptor, frame(OldSendName(5, Flag(LEAST & LOW), "ccc@host")), piece)
    acceptor.accept(Accept.OK, cookie=COOKIE)
    acceptor.data_to_send()
    with pytest.raises(HandshakeError, match="V4_NC"):
        feed(acceptor, frame(Complement(Flag(0), 11)), piece)
    assert sent_by_acceptor(acceptor) == [Status("not_allowed")]


def test_an_initiator_that_sends_ahead_is_read_in_its_turn() -> None:
    acceptor = new_acceptor()
    feed(acceptor, frame(suite_name(5, LEAST)) + suite_reply(5, LEAST, 0))
    assert isinstance(acceptor.next_event(), PeerNamed)
    assert acceptor.next_event() is None
    acceptor.accept(Accept.OK, cookie=COOKIE)
    assert acceptor.next_event() == PeerProved()


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        ("nok", RefusedByPeer, "nok"),
        ("not_allowed", NotAllowedByPeer, "flag"),
        ("party", RefusedByPeer, "'party'"),
        ("", RefusedByPeer, "''"),
        ("x" * 500, RefusedByPeer, r"x{40}\.\.\."),
        ("true", ProtocolError, "status true while this node was waiting for its status"),
    ],
)
@pytest.mark.parametrize("dynamic_host", [None, "host"])
def test_statuses_that_end_an_attempt(
    piece: int, status: str, error: type[Exception], text: str, dynamic_host: str | None
) -> None:
    initiator = new_initiator(dynamic_host=dynamic_host)
    text = text if error is not ProtocolError or dynamic_host is None else "status true"
    with pytest.raises(error, match=text):
        feed(initiator, frame(Status(status)), piece)
    assert initiator.state is State.ENDED


@pytest.mark.parametrize("given", ["x@other", "@host", "host", "x@host@host", "", "x" * 251 + "@host"])
def test_names_that_may_not_be_given(piece: int, given: str) -> None:
    with pytest.raises(HandshakeError, match="named this node"):
        feed(new_initiator(dynamic_host="host"), frame(NamedStatus(given, 1)), piece)


def test_another_node_answers(piece: int) -> None:
    with pytest.raises(HandshakeError, match=r"'b@host' was dialled, but 'c@host' answered"):
        feed(new_initiator(), frame(Status("ok"), Challenge(VISIBLE, 1, 1, "c@host")), piece)


def test_the_acceptor_lacks_flags(piece: int) -> None:
    initiator = new_initiator()
    initiator.data_to_send()
    with pytest.raises(HandshakeError, match=r"'b@host' lacks .* V4_NC\."):
        feed(initiator, frame(Status("ok"), Challenge(VISIBLE & ~Flag.V4_NC, 1, 1, "b@host")), piece)
    assert initiator.data_to_send() == []


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("a", DEFAULT),
        ("a@", DEFAULT),
        ("@host", DEFAULT),
        ("a@b@c", DEFAULT),
        ("", DEFAULT),
        ("a@" + "h" * 254, DEFAULT),
        ("", DEFAULT | Flag.NAME_ME),
        ("a@host", DEFAULT | Flag.NAME_ME),
        ("h" * 300, DEFAULT | Flag.NAME_ME),
    ],
)
def test_names_that_are_none(piece: int, name: str, flags: Flag) -> None:
    acceptor = new_acceptor()
    with pytest.raises(HandshakeError, match="called itself"):
        feed(acceptor, frame(SendName(flags, 1, name)), piece)
    assert acceptor.data_to_send() == []  # OTP closes without a word


def test_the_longest_name(piece: int) -> None:
    acceptor = new_acceptor()
    name = "a@" + "h" * 253
    feed(acceptor, frame(SendName(DEFAULT, 1, name)), piece)
    assert acceptor.next_event() == PeerNamed(name, 1, DEFAULT, False)


def test_a_peer_of_our_own_name_is_refused(piece: int) -> None:
    acceptor = new_acceptor()
    with pytest.raises(HandshakeError, match="same name"):
        feed(acceptor, frame(SendName(DEFAULT, 1, "b@host")), piece)
    assert sent_by_acceptor(acceptor) == [Status("nok")]


def test_the_initiator_does_not_know_the_cookie(piece: int) -> None:
    initiator, acceptor = new_initiator(cookie=b"wrong"), new_acceptor()
    with pytest.raises(CookieMismatch, match=r"'a@host' dialled .* different cookies"):
        shake(initiator, acceptor, piece)
    assert acceptor.data_to_send() == []
    with pytest.raises(CookieMismatch, match=r"'b@host' closed .* different cookies"):
        initiator.receive_eof()
    assert initiator.state is State.ENDED


def test_the_acceptor_does_not_know_the_cookie(piece: int) -> None:
    initiator = new_initiator()
    feed(initiator, frame(Status("ok"), Challenge(DEFAULT, 1, 22, "b@host")), piece)
    with pytest.raises(CookieMismatch, match="'b@host' does not prove"):
        feed(initiator, frame(ChallengeAck(digest(0xFFFFFFFF, b"wrong"))), piece)
    assert initiator.next_event() is None


def test_the_stream_ends_at_another_step() -> None:
    initiator, acceptor = new_initiator(), new_acceptor()
    with pytest.raises(NetworkError, match="waiting for its status"):
        initiator.receive_eof()
    with pytest.raises(NetworkError, match="not said its name"):
        acceptor.receive_eof()
    assert acceptor.next_deadline() is None


@pytest.mark.parametrize("name", ["a", "a@", "a@b@c", "ж@host", "a@" + "h" * 254])
@pytest.mark.parametrize(
    "make",
    [
        lambda name: Initiator(
            this_name=name,
            this_creation=1,
            peer_name="b@h",
            flags=DEFAULT,
            cookie=b"",
            challenge=1,
            setup_timeout=1,
            now=0,
        ),
        lambda name: Acceptor(this_name=name, this_creation=1, flags=DEFAULT, challenge=1, setup_timeout=1, now=0),
    ],
)
def test_own_names_that_cannot_be_sent(make: Callable[[str], Machine], name: str) -> None:
    with pytest.raises(NodeNameError):
        make(name)


@pytest.mark.parametrize("name", ["x@other", "x", "host"])
def test_a_name_that_the_peer_would_not_take(name: str) -> None:
    acceptor = new_acceptor()
    feed(acceptor, frame(SendName(DEFAULT | Flag.NAME_ME, 0, "host")))
    with pytest.raises(NodeNameError):
        acceptor.accept_named(name, 1, cookie=COOKIE)
    acceptor.accept_named("x@host", 1, cookie=COOKIE)


def test_calls_out_of_turn_are_the_drivers_fault() -> None:
    acceptor = new_acceptor()
    with pytest.raises(UsageError, match="acknowledge does not fit here: this node is waiting for its name"):
        acceptor.acknowledge()
    assert acceptor.state is State.AWAITING_NAME
