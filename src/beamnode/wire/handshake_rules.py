"""The handshake as two tables: in which state, on what, to which state. What is done on the way: `handshake.py`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, assert_never

from beamnode.wire.flags import Flag
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
)

# The theory
#
# The initiator says its name, the acceptor says whether it wants the connection (the status), then each proves that
# it knows the cookie without telling it. The acceptor sends a number; the initiator answers with the digest of cookie
# and number, and a number of its own; the acceptor answers that with a digest in its turn. So the one who dials proves
# first, and who dials without knowing the cookie learns no digest of it.
#
#     initiator                         acceptor
#        | send_name (flags, name) ------> |   the driver decides: ok, nok, not_allowed, alive, named
#        | <------------------- status     |
#        | [status true / false ---------> |   only after alive: "I have a connection with you; is it dead?"]
#        | <-- challenge (flags, name, n1) |
#        | [complement ------------------> |   only after the old send_name, which had room for half the flags]
#        | challenge_reply (n2, d(n1)) --> |   a wrong digest: the acceptor closes without a word
#        | <--------- challenge_ack (d(n2))|   the driver may first have to bury an old connection
#        |                                 |   and all that follows belongs to the channel
#
# Two kinds of input move a machine: frames that came from the peer, and what its driver calls. A state waits for one
# of the two. Frames that come while it is the driver's turn stay bytes in the buffer, as they would stay in OTP's
# socket. A frame without a row in the table is the peer's fault (ProtocolError), a call without one is the driver's
# (UsageError). Whatever raises ends the machine. A row may lead to a raise of its own (nok, not_allowed, false): then
# its next state is ENDED.
#
# The acceptor's states come in an ordinary form and one for peers that sent the old name (`_OLD`), because only those
# send a complement. A dynamic initiator (flag NAME_ME) has a state of its own on both sides: it must be given a name.
#
# Sources: dist_util (handshake_we_started/1, handshake_other_started/1), net_kernel (accept_pending).


class State(enum.Enum):
    """Where a handshake is; the value ends the sentence "... while this node was ..."."""

    # initiator
    AWAITING_STATUS = "waiting for its status"
    AWAITING_NAMED = "waiting for the name that it gives this node"
    DECIDING_STILL_WANTED = "deciding whether it still wants the connection"
    AWAITING_CHALLENGE = "waiting for its challenge"
    AWAITING_ACK = "waiting for its proof of the cookie (challenge_ack)"
    # acceptor
    AWAITING_NAME = "waiting for its name"
    DECIDING = "deciding whether to accept it"
    DECIDING_OLD = "deciding whether to accept it (it sent the old form of its name)"
    DECIDING_DYNAMIC = "deciding how to name it"
    AWAITING_ALIVE_REPLY = "waiting for its answer to status alive"
    AWAITING_ALIVE_REPLY_OLD = "waiting for its answer to status alive (it sent the old form of its name)"
    AWAITING_COMPLEMENT = "waiting for its complement"
    AWAITING_REPLY = "waiting for its proof of the cookie (challenge_reply)"
    PROVED = "waiting for an old connection to go away"
    # both
    ESTABLISHED = "connected with it"
    ENDED = "done with it"


class Input(enum.Enum):
    """What moves a machine: frames of the peer, and (below) what the driver calls. Values are for error texts."""

    NAME = "send_name"
    OLD_NAME = "send_name in its old form"
    DYNAMIC_NAME = "send_name that asks for a name"
    STATUS_OK = "status ok"  # and ok_simultaneous
    STATUS_ALIVE = "status alive"
    STATUS_NAMED = "status named"
    STATUS_NOK = "status nok"
    STATUS_NOT_ALLOWED = "status not_allowed"
    STATUS_TRUE = "status true"
    STATUS_FALSE = "status false"
    STATUS_UNKNOWN = "an unknown status"
    CHALLENGE = "challenge"
    COMPLEMENT = "complement"
    CHALLENGE_REPLY = "challenge_reply"
    CHALLENGE_ACK = "challenge_ack"

    ANSWER_TRUE = "answer_alive(True)"
    ANSWER_FALSE = "answer_alive(False)"
    ACCEPT = "accept"
    ACCEPT_ALIVE = "accept with ALIVE"
    ACCEPT_NAMED = "accept_named"
    REFUSE = "refuse"
    ACKNOWLEDGE = "acknowledge"


Rules = Mapping[tuple[State, Input], State]

INITIATOR_RULES: Final[Rules] = {
    (State.AWAITING_STATUS, Input.STATUS_OK): State.AWAITING_CHALLENGE,
    (State.AWAITING_STATUS, Input.STATUS_ALIVE): State.DECIDING_STILL_WANTED,
    (State.AWAITING_STATUS, Input.STATUS_NOK): State.ENDED,
    (State.AWAITING_STATUS, Input.STATUS_NOT_ALLOWED): State.ENDED,
    (State.AWAITING_STATUS, Input.STATUS_UNKNOWN): State.ENDED,
    (State.AWAITING_NAMED, Input.STATUS_NAMED): State.AWAITING_CHALLENGE,
    (State.AWAITING_NAMED, Input.STATUS_NOK): State.ENDED,
    (State.AWAITING_NAMED, Input.STATUS_NOT_ALLOWED): State.ENDED,
    (State.AWAITING_NAMED, Input.STATUS_UNKNOWN): State.ENDED,
    (State.DECIDING_STILL_WANTED, Input.ANSWER_TRUE): State.AWAITING_CHALLENGE,
    (State.DECIDING_STILL_WANTED, Input.ANSWER_FALSE): State.ENDED,
    (State.AWAITING_CHALLENGE, Input.CHALLENGE): State.AWAITING_ACK,
    (State.AWAITING_ACK, Input.CHALLENGE_ACK): State.ESTABLISHED,
}

ACCEPTOR_RULES: Final[Rules] = {
    (State.AWAITING_NAME, Input.NAME): State.DECIDING,
    (State.AWAITING_NAME, Input.OLD_NAME): State.DECIDING_OLD,
    (State.AWAITING_NAME, Input.DYNAMIC_NAME): State.DECIDING_DYNAMIC,
    (State.DECIDING, Input.ACCEPT): State.AWAITING_REPLY,
    (State.DECIDING, Input.ACCEPT_ALIVE): State.AWAITING_ALIVE_REPLY,
    (State.DECIDING, Input.REFUSE): State.ENDED,
    (State.DECIDING_OLD, Input.ACCEPT): State.AWAITING_COMPLEMENT,
    (State.DECIDING_OLD, Input.ACCEPT_ALIVE): State.AWAITING_ALIVE_REPLY_OLD,
    (State.DECIDING_OLD, Input.REFUSE): State.ENDED,
    (State.DECIDING_DYNAMIC, Input.ACCEPT_NAMED): State.AWAITING_REPLY,
    (State.DECIDING_DYNAMIC, Input.REFUSE): State.ENDED,
    (State.AWAITING_ALIVE_REPLY, Input.STATUS_TRUE): State.AWAITING_REPLY,
    (State.AWAITING_ALIVE_REPLY, Input.STATUS_FALSE): State.ENDED,
    (State.AWAITING_ALIVE_REPLY_OLD, Input.STATUS_TRUE): State.AWAITING_COMPLEMENT,
    (State.AWAITING_ALIVE_REPLY_OLD, Input.STATUS_FALSE): State.ENDED,
    (State.AWAITING_COMPLEMENT, Input.COMPLEMENT): State.AWAITING_REPLY,
    (State.AWAITING_REPLY, Input.CHALLENGE_REPLY): State.PROVED,
    (State.PROVED, Input.ACKNOWLEDGE): State.ESTABLISHED,
}

AWAITING_PEER: Final = frozenset(state for state in State if state.name.startswith("AWAITING_"))

_STATUSES: Final[Mapping[str, Input]] = {
    "ok": Input.STATUS_OK,
    "ok_simultaneous": Input.STATUS_OK,
    "alive": Input.STATUS_ALIVE,
    "nok": Input.STATUS_NOK,
    "not_allowed": Input.STATUS_NOT_ALLOWED,
    "true": Input.STATUS_TRUE,
    "false": Input.STATUS_FALSE,
}


def input_of(frame: FromInitiator | FromAcceptor) -> Input:
    """The input that a frame is to the tables."""
    match frame:
        case SendName(flags=flags):
            return Input.DYNAMIC_NAME if flags & Flag.NAME_ME else Input.NAME
        case OldSendName():
            return Input.OLD_NAME
        case Status(word):
            return _STATUSES.get(word, Input.STATUS_UNKNOWN)
        case NamedStatus():
            return Input.STATUS_NAMED
        case Challenge():
            return Input.CHALLENGE
        case Complement():
            return Input.COMPLEMENT
        case ChallengeReply():
            return Input.CHALLENGE_REPLY
        case ChallengeAck():
            return Input.CHALLENGE_ACK
        case _:
            assert_never(frame)
