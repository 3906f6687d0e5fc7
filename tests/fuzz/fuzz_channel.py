"""Any stream on an open connection: both halves, cut anyhow, hand over the same, and what came can be sent on.

Three bytes choose: the flags that were negotiated; bit 0 `strings`, bit 1 narrow limits, bit 2 an inbox that raises,
bit 3 that each record is sent on by the short way; how the stream is cut. `fuzz_halves.py` says what is compared.
"""

from __future__ import annotations

from random import Random

from targets import in_pieces, oracle

# isort: split
from fuzz_halves import OPTIONAL, TIGHT, WIDE, Halves, Stream, compare

from beamnode.wire.flags import DEFAULT, Flag, without
from beamnode.wire.inbound import Inbound
from beamnode.wire.outbound import Outbound

_kernel = oracle("beamnode.wire._kernel")
HALVES: Halves = {"python": (Inbound, Outbound)}
if _kernel is not None:
    HALVES["cython"] = _kernel.Inbound, _kernel.Outbound
WITHOUT = (*OPTIONAL, Flag.DIST_HDR_ATOM_CACHE)


def flags_of(choice: int) -> Flag:
    flags = DEFAULT
    for bit, flag in enumerate(WITHOUT):
        if choice >> bit & 1:
            flags = without(flags, flag)
    return flags


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    mask, choice, way, stream = data[0], data[1], data[2], data[3:]
    compare(
        HALVES,
        flags_of(mask),
        stream,
        lambda: in_pieces(stream, way),
        strings=bool(choice & 1),
        limits=TIGHT if choice & 2 else WIDE,
        raises_at=frozenset((1, 3)) if choice & 4 else frozenset(),
        direct=bool(choice & 8),
    )


def fresh(random: Random) -> bytes:
    mask = random.choice((0, 0, 1, 32, 33, random.randrange(64)))
    choice, way = random.randrange(16), random.randrange(8)
    flags = flags_of(mask)
    cached, fragmented = bool(flags & Flag.DIST_HDR_ATOM_CACHE), bool(flags & Flag.FRAGMENTS)
    stream = Stream(random, big=False)
    data = b""
    for _ in range(random.randrange(1, 6)):
        if (cached or fragmented) and random.randrange(4):
            data += stream.frame(cached=cached, fragmented=fragmented)
        else:
            data += stream.hostile.lawful_frame(headed=cached or fragmented)
    return bytes((mask, choice, way)) + data[:4000]
