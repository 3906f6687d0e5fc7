"""The version 6 handshake: `Initiator` and `Acceptor`, sans-I/O. The tables they follow: `handshake_rules.py`.

Source: OTP's dist_util (25.3 to 29), which accepts what these accept and closes where these raise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, assert_never

from beamnode.errors import (
    BeamnodeError,
    CookieMismatch,
    HandshakeError,
    NodeNameError,
    NotAllowedByPeer,
    RefusedByPeer,
)
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire.flags import Flag, expand, missing, without
from beamnode.wire.handshake_machine import (
    Established,
    Machine,
    Secret,
    check_own_name,
    has_valid_form,
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
    parse_from_acceptor,
    parse_from_initiator,
)
from beamnode.wire.handshake_rules import ACCEPTOR_RULES, INITIATOR_RULES, Input, State, input_of

__all__ = [
    "Accept",
    "Acceptor",
    "AcceptorEvent",
    "Established",
    "Initiator",
    "InitiatorEvent",
    "Named",
    "PeerNamed",
    "PeerProved",
    "Refusal",
    "State",
    "StillWanted",
]

_LOW_FLAGS: Final = Flag((1 << 32) - 1)
_QUOTED_CHARACTERS_MAX: Final = 40  # of a peer's text in an error's text


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StillWanted:
    """The peer has a connection with this node's name already: `answer_alive(True)` if ours is still wanted.

    True unless this attempt was given up meanwhile, for one of the peer's own (net_kernel: is_pending).
    """


@dataclass(frozen=True, slots=True)
class Named:
    """The peer gave this node its name and creation: the node is called so from now on. The handshake goes on."""

    name: str
    creation: int


@dataclass(frozen=True, slots=True)
class PeerNamed:
    """A peer wants a connection: call `accept`, `accept_named` or `refuse`, or close without a word.

    `dynamic`: the peer has no name yet, `name` is its host; call `accept_named`. `creation` is None, and `flags` are
    the low 32, when it sent the old form of its name. Nothing of this is proved yet.
    """

    name: str
    creation: int | None
    flags: Flag
    dynamic: bool


@dataclass(frozen=True, slots=True)
class PeerProved:
    """The peer knows the cookie: call `acknowledge()`, after an old connection with that node has gone."""


InitiatorEvent = StillWanted | Named | Established
AcceptorEvent = PeerNamed | PeerProved | Established


class Accept(enum.Enum):
    """How a connection is accepted (net_kernel: accept_pending)."""

    OK = "ok"
    OK_SIMULTANEOUS = "ok_simultaneous"  # and this node drops its own attempt towards that peer
    ALIVE = "alive"  # there is a connection with that name: the peer shall say whether it still wants this one


class Refusal(enum.Enum):
    """How a connection is refused."""

    NOK = "nok"  # this node's own attempt towards that peer goes on
    NOT_ALLOWED = "not_allowed"


# --- the one who dials ------------------------------------------------------------------------------------------------


class Initiator(Machine[FromAcceptor, InitiatorEvent]):
    """The side that dialled `peer_name`. Its name is in `data_to_send()` from the start.

    `flags` include PUBLISHED for a visible node. With `dynamic_host` the peer is asked to name this node, which is
    hidden then: `this_name` and `this_creation` are ignored, and `Named` tells them.

    Raises, while data comes: NotAllowedByPeer, RefusedByPeer, CookieMismatch, other HandshakeErrors, ProtocolError,
    LimitExceeded. An acceptor that does not accept the cookie closes without a word: call `receive_eof`.
    """

    rules = INITIATOR_RULES

    def __init__(
        self,
        *,
        this_name: str,
        this_creation: int,
        peer_name: str,
        flags: Flag,
        cookie: bytes | Secret,
        challenge: int,
        setup_timeout: float,
        now: float,
        limits: Limits = DEFAULT_LIMITS,
        length_bytes: int = 2,
        dynamic_host: str | None = None,
    ) -> None:
        self._peer_name: Final = peer_name
        self._dynamic_host: Final = dynamic_host
        super().__init__(
            state=State.AWAITING_STATUS if dynamic_host is None else State.AWAITING_NAMED,
            flags=flags if dynamic_host is None else without(flags, Flag.PUBLISHED) | Flag.NAME_ME,
            challenge=challenge,
            setup_timeout=setup_timeout,
            now=now,
            limits=limits,
            length_bytes=length_bytes,
        )
        self._secret: Final = Secret(cookie)
        self._peer_creation = 0
        self._chosen = Flag(0)
        if dynamic_host is None:
            check_own_name(this_name, this_creation, limits.atom_characters_max)
            self._queue(SendName(self._flags, this_creation, this_name))
        else:
            check_own_name(f"n@{dynamic_host}", 0, limits.atom_characters_max)
            self._queue(SendName(self._flags, 0, dynamic_host))

    def answer_alive(self, wanted: bool) -> None:
        """Answer `StillWanted`. With False the machine has ended: flush, then close."""
        self._told(Input.ANSWER_TRUE if wanted else Input.ANSWER_FALSE)
        self._queue(Status("true" if wanted else "false"))
        self._process_buffer()

    @property
    def _peer(self) -> str:
        return repr(self._peer_name)

    def _parse(self, frame: bytes) -> FromAcceptor:
        return parse_from_acceptor(frame)

    def _act(self, frame: FromAcceptor) -> None:
        match frame:
            case Status():
                self._on_status(frame)
            case NamedStatus():
                self._on_named(frame)
            case Challenge():
                self._on_challenge(frame)
            case ChallengeAck():
                self._on_ack(frame)
            case _:
                assert_never(frame)

    def _on_status(self, status: Status) -> None:
        match input_of(status):
            case Input.STATUS_OK:
                pass
            case Input.STATUS_ALIVE:
                self._events.append(StillWanted())
            case Input.STATUS_NOT_ALLOWED:
                raise NotAllowedByPeer(
                    f"{self._peer} does not allow this node: it demands a distribution flag that this node does not "
                    "offer, or allows only some names (net_kernel:allow/1 over there; over TLS, those of hosts that "
                    "this node's certificate is for)"
                )
            case Input.STATUS_NOK:
                raise RefusedByPeer(
                    f"{self._peer} answered nok: it is dialling this node itself and its attempt wins, "
                    "or it has the same name as this node"
                )
            case _:
                raise RefusedByPeer(f"{self._peer} answered with an unknown status, {_quoted(status.word)}")

    def _on_named(self, status: NamedStatus) -> None:
        name, _, host = status.name.partition("@")
        well_formed = has_valid_form(status.name, self._limits.atom_characters_max)
        if not name or not well_formed or host != self._dynamic_host:
            raise HandshakeError(
                f"{self._peer} named this node {_quoted(status.name)}: not a name at host {self._dynamic_host!r}"
            )
        self._events.append(Named(status.name, status.creation))

    def _on_challenge(self, challenge: Challenge) -> None:
        if challenge.name != self._peer_name:
            raise HandshakeError(
                f"{self._peer} was dialled, but {_quoted(challenge.name)} answered: "
                "the address or port found for that name is another node's"
            )
        self._check_flags(missing(challenge.flags))
        self._peer_creation = challenge.creation
        self._chosen = self._common(challenge.flags)
        self._queue(ChallengeReply(self._challenge, self._secret.digest(challenge.challenge)))
        self._restart_timer()

    def _on_ack(self, ack: ChallengeAck) -> None:
        if not self._secret.is_proved(self._challenge, ack.digest):
            raise CookieMismatch(_mismatch(f"{self._peer} does not prove that it knows the cookie"))
        self._events.append(Established(self._peer_name, self._peer_creation, self._chosen, self._take_unused()))

    def _meaning_of_eof(self) -> BeamnodeError:
        if self._state is State.AWAITING_ACK:
            return CookieMismatch(_mismatch(f"{self._peer} closed the connection when this node had proved its cookie"))
        return super()._meaning_of_eof()


# --- the one who is dialled -------------------------------------------------------------------------------------------


class Acceptor(Machine[FromInitiator, AcceptorEvent]):
    """The side that was dialled. Whom it talks to is in the event `PeerNamed`; the cookie comes with the decision.

    `flags` include PUBLISHED for a visible node. Raises, while data comes: CookieMismatch, RefusedByPeer (the peer
    withdrew), other HandshakeErrors, ProtocolError, LimitExceeded. The decisions raise UsageError when they do not
    fit, and the errors of `receive_data` for frames that had come too early.
    """

    rules = ACCEPTOR_RULES

    def __init__(
        self,
        *,
        this_name: str,
        this_creation: int,
        flags: Flag,
        challenge: int,
        setup_timeout: float,
        now: float,
        limits: Limits = DEFAULT_LIMITS,
        length_bytes: int = 2,
    ) -> None:
        self._peer_name = ""  # until it has said it
        super().__init__(
            state=State.AWAITING_NAME,
            flags=flags,
            challenge=challenge,
            setup_timeout=setup_timeout,
            now=now,
            limits=limits,
            length_bytes=length_bytes,
        )
        check_own_name(this_name, this_creation, limits.atom_characters_max)
        self._this_name: Final = this_name
        self._this_creation: Final = this_creation
        self._secret = Secret(b"")
        self._peer_creation = 0
        self._peer_flags = Flag(0)
        self._peer_challenge = 0

    def accept(self, status: Accept, *, cookie: bytes | Secret) -> None:
        """Answer `PeerNamed` of a peer that has a name; `cookie` is the one expected of that name."""
        self._told(Input.ACCEPT_ALIVE if status is Accept.ALIVE else Input.ACCEPT)
        self._secret = Secret(cookie)
        self._queue(Status(status.value))
        if status is not Accept.ALIVE:
            self._send_challenge()
        self._process_buffer()

    def accept_named(self, name: str, creation: int, *, cookie: bytes | Secret) -> None:
        """Answer `PeerNamed` of a peer without a name: `name` must be at the host that the event told."""
        check_own_name(name, creation, self._limits.atom_characters_max)
        if self._state is State.DECIDING_DYNAMIC and name.partition("@")[2] != self._peer_name:
            raise NodeNameError(f"{name!r} is not a name at the host {self._peer_name!r}: the peer would not take it")
        self._told(Input.ACCEPT_NAMED)
        self._secret = Secret(cookie)
        self._peer_name, self._peer_creation = name, creation
        # dist_util:publish_flag/3: NAME_ME goes back instead of PUBLISHED. OTP's initiators insist on it.
        self._flags = without(self._flags, Flag.PUBLISHED) | Flag.NAME_ME
        self._queue(NamedStatus(name, creation))
        self._send_challenge()
        self._process_buffer()

    def refuse(self, refusal: Refusal) -> None:
        """Answer `PeerNamed`: no. The machine has ended: flush, then close."""
        self._told(Input.REFUSE)
        self._queue(Status(refusal.value))

    def acknowledge(self) -> None:
        """Answer `PeerProved`: the last frame is queued and `Established` is the next event."""
        self._told(Input.ACKNOWLEDGE)
        self._queue(ChallengeAck(self._secret.digest(self._peer_challenge)))
        chosen = self._common(self._peer_flags)
        self._events.append(Established(self._peer_name, self._peer_creation, chosen, self._take_unused()))

    @property
    def _peer(self) -> str:
        return repr(self._peer_name) if self._peer_name else "a peer that has not said its name"

    def _parse(self, frame: bytes) -> FromInitiator:
        return parse_from_initiator(frame)

    def _act(self, frame: FromInitiator) -> None:
        match frame:
            case SendName(flags, creation, name):
                self._on_name(name, creation, flags)
            case OldSendName(flags=flags, name=name):
                self._on_name(name, None, flags)
            case Status():
                self._on_alive_reply(frame)
            case Complement():
                self._on_complement(frame)
            case ChallengeReply():
                self._on_reply(frame)
            case _:
                assert_never(frame)

    def _on_name(self, name: str, creation: int | None, flags: Flag) -> None:
        dynamic = self._state is State.DECIDING_DYNAMIC
        node_name = f"n@{name}" if dynamic else name
        if not has_valid_form(node_name, self._limits.atom_characters_max):
            raise HandshakeError(f"a peer called itself {_quoted(name)}: not a {'host' if dynamic else 'node'} name")
        self._peer_name, self._peer_creation, self._peer_flags = name, creation or 0, expand(flags)
        # The old form has room for the low flags only: the others are checked when the complement is here.
        lacking = missing(self._peer_flags)
        self._refuse_if_lacking(lacking & _LOW_FLAGS if creation is None else lacking)
        if name == self._this_name:  # OTP 25 to 29 say nok to it (net_kernel: erts_internal:new_connection/1 raises)
            self._queue(Status(Refusal.NOK.value))
            raise HandshakeError(f"{self._peer} dialled this node, which has the same name: give one of them another")
        self._events.append(PeerNamed(name, creation, self._peer_flags, dynamic))

    def _on_alive_reply(self, reply: Status) -> None:
        if input_of(reply) is not Input.STATUS_TRUE:
            raise RefusedByPeer(f"{self._peer} gave up its attempt, when told that it is connected already")
        self._send_challenge()

    def _on_complement(self, complement: Complement) -> None:
        self._peer_flags |= complement.high_flags
        self._peer_creation = complement.creation
        self._refuse_if_lacking(missing(self._peer_flags))

    def _on_reply(self, reply: ChallengeReply) -> None:
        if not self._secret.is_proved(self._challenge, reply.digest):
            raise CookieMismatch(_mismatch(f"{self._peer} dialled and does not prove that it knows the cookie"))
        self._peer_challenge = reply.challenge
        self._events.append(PeerProved())

    def _refuse_if_lacking(self, lacking: Flag) -> None:
        if lacking:
            self._queue(Status(Refusal.NOT_ALLOWED.value))
        self._check_flags(lacking)

    def _send_challenge(self) -> None:
        self._queue(Challenge(self._flags, self._challenge, self._this_creation, self._this_name))
        self._restart_timer()


def _mismatch(what: str) -> str:
    return (
        f"{what}: most likely the two nodes have different cookies. Give both the same one: here the argument "
        "`cookie` or ~/.erlang.cookie, there -setcookie (erl), --cookie (iex) or ~/.erlang.cookie"
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED_CHARACTERS_MAX else text[:_QUOTED_CHARACTERS_MAX] + "...")
