"""A node that dials, and an acceptor that answers anything: see `handshakes.py`."""

from __future__ import annotations

from random import Random

from handshakes import CHALLENGE, COOKIE, PEER, PROOF, check, initiator

from beamnode.errors import BeamnodeError
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake import Accept, Acceptor, PeerNamed, PeerProved


def one_input(data: bytes) -> None:
    check(initiator, data)


def fresh(random: Random) -> bytes:
    """What an acceptor answers, spoiled now and then."""
    from hostile_terms import Hostile

    choice, way = random.randrange(32), random.randrange(8)
    flags = random.choice((DEFAULT, DEFAULT | Flag.PUBLISHED))
    machine = Acceptor(this_name=PEER, this_creation=8, flags=flags, challenge=CHALLENGE, setup_timeout=7, now=0)
    peer = initiator(choice)
    stream = b""
    try:
        for _ in range(3):
            for chunk in peer.data_to_send():
                machine.receive_data(chunk, 0)
            while (event := machine.next_event()) is not None:
                if isinstance(event, PeerNamed) and event.dynamic:
                    machine.accept_named(f"x@{event.name}", 5, cookie=COOKIE)
                elif isinstance(event, PeerNamed):
                    machine.accept(random.choice(list(Accept)), cookie=COOKIE)
                elif isinstance(event, PeerProved):
                    machine.acknowledge()
            for chunk in machine.data_to_send():
                stream += chunk
                peer.receive_data(chunk, 0)
    except BeamnodeError:
        stream += b"\0\x11a" + PROOF
    hostile = Hostile(random, "evil@127.0.0.1", PEER)
    return bytes((choice, way)) + (hostile.spoiled(stream) if hostile.chance(30) else stream)
