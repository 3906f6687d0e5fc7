"""One side of the handshake against any stream: what the two targets of it share.

Cookie and challenge are always the same, so that the digest which a peer must send is known beforehand, and inputs can
hold it: that is how the fuzzer comes behind it. Who is connected without it has found the worst of all bugs.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from targets import in_pieces

from beamnode.errors import BeamnodeError, SetupTimeout, UsageError
from beamnode.wire.flags import DEFAULT, Flag, without
from beamnode.wire.handshake import (
    Accept,
    Acceptor,
    Established,
    Initiator,
    Named,
    PeerNamed,
    PeerProved,
    Refusal,
    StillWanted,
)

ME, PEER = "me@127.0.0.1", "peer@127.0.0.1"
COOKIE: Final = b"secret"
CHALLENGE: Final = 0x01020304
PROOF: Final = hashlib.md5(COOKIE + str(CHALLENGE).encode()).digest()
STREAM_BYTES_MAX: Final = 2000  # less than what may pile up while the driver decides: that differs with the pieces


def flags_of(choice: int) -> Flag:
    """Bit 0: hidden; bit 1: without fragments; bit 2: without the cache of atoms."""
    flags = DEFAULT if choice & 1 else DEFAULT | Flag.PUBLISHED
    if choice & 2:
        flags = without(flags, Flag.FRAGMENTS)
    return without(flags, Flag.DIST_HDR_ATOM_CACHE) if choice & 4 else flags


def initiator(choice: int) -> Initiator:
    return Initiator(
        this_name=ME,
        this_creation=7,
        peer_name=PEER,
        flags=flags_of(choice),
        cookie=COOKIE,
        challenge=CHALLENGE,
        setup_timeout=7,
        now=0,
        dynamic_host="h" if choice & 8 else None,
    )


def acceptor(choice: int) -> Acceptor:
    return Acceptor(this_name=ME, this_creation=7, flags=flags_of(choice), challenge=CHALLENGE, setup_timeout=7, now=0)


def answer(machine: Any, event: Any, choice: int) -> None:
    """Decide as the choice says."""
    match event:
        case PeerNamed(dynamic=True, name=host):
            machine.accept_named(f"x@{host}", 5, cookie=COOKIE)
        case PeerNamed() if choice & 8:
            machine.refuse(Refusal.NOK)
        case PeerNamed():
            machine.accept(Accept.ALIVE if choice & 16 else Accept.OK, cookie=COOKIE)
        case PeerProved():
            machine.acknowledge()
        case StillWanted():
            machine.answer_alive(not choice & 16)
        case Named() | Established():
            pass
        case _:
            raise AssertionError(event)


def outcome(machine: Any, stream: bytes, way: int, choice: int) -> tuple[Any, ...]:
    """Feed it, cut that way: what it sent, and how it ended."""
    sent, left = b"".join(machine.data_to_send()), len(stream)
    for piece in in_pieces(stream, way):
        left -= len(piece)
        try:
            machine.receive_data(piece, 0)
            while (event := machine.next_event()) is not None:
                answer(machine, event, choice)
                sent += b"".join(machine.data_to_send())
                if isinstance(event, Established):
                    assert PROOF in stream, "a connection without the cookie"
                    assert machine.next_event() is None
                    rest = event.unused + stream[len(stream) - left :]
                    return sent, "established", event.name, event.creation, event.flags, rest
        except UsageError:
            raise
        except BeamnodeError as error:
            return sent + b"".join(machine.data_to_send()), type(error).__name__, str(error)
        sent += b"".join(machine.data_to_send())
        if machine.state.name == "ENDED":
            return sent, "refused"
    state = machine.state
    _ends(machine)
    return sent, state


def _ends(machine: Any) -> None:
    """Time ends it too."""
    try:
        machine.handle_deadline(100)
    except SetupTimeout:
        assert machine.next_deadline() is None
    else:
        raise AssertionError("a handshake that waits for ever")


def check(make: Any, data: bytes) -> None:
    """The first two bytes choose (the second, how the stream is cut); it comes to the same when it is not cut."""
    if len(data) < 2:
        return
    choice, way, stream = data[0], data[1], data[2 : 2 + STREAM_BYTES_MAX]
    whole = outcome(make(choice), stream, 0, choice)
    cut = outcome(make(choice), stream, way, choice)
    assert cut == whole, (cut, whole)
