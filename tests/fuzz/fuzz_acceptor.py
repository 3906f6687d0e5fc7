"""A node that is dialled, and an initiator that says anything: see `handshakes.py`."""

from __future__ import annotations

from random import Random

from handshakes import CHALLENGE, COOKIE, ME, PEER, PROOF, acceptor, check, flags_of

from beamnode.wire.handshake import Initiator


def one_input(data: bytes) -> None:
    check(acceptor, data)


def fresh(random: Random) -> bytes:
    """What an initiator says, in the new or the old form, spoiled now and then."""
    from hostile_terms import Hostile

    choice, way = random.randrange(32), random.randrange(8)
    machine = Initiator(
        this_name=PEER,
        this_creation=8,
        peer_name=ME,
        flags=flags_of(random.randrange(8)),
        cookie=COOKIE,
        challenge=CHALLENGE,
        setup_timeout=7,
        now=0,
        dynamic_host=random.choice((None, None, "h")),
    )
    stream = b"".join(machine.data_to_send())
    if random.randrange(4) == 0:  # the old form of the name, and its complement
        low = int(flags_of(0)) & 0xFFFFFFFF
        body = b"n\0\5" + low.to_bytes(4) + PEER.encode()
        high = b"c" + (int(flags_of(0)) >> 32).to_bytes(4) + bytes(4)
        stream = len(body).to_bytes(2) + body + len(high).to_bytes(2) + high
    if choice & 16:
        stream += random.choice((b"\0\5strue", b"\0\6sfalse"))
    stream += b"\0\x15r\0\0\0\7" + PROOF + random.choice((b"", b"\0\0\0\0"))
    hostile = Hostile(random, "evil@127.0.0.1", ME)
    return bytes((choice, way)) + (hostile.spoiled(stream) if hostile.chance(30) else stream)
