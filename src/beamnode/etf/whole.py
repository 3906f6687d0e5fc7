"""Whole terms: the version byte and compression, around any kernel's `encode_into` and `decode_from`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

from beamnode.errors import DecodeError
from beamnode.etf import tags
from beamnode.etf.leaves_python import TermLimitExceeded
from beamnode.limits import Limits

_u32: Final = struct.Struct(">I")


def encode(encode_into: Callable[[bytearray, Any], None], term: Any, compressed: bool) -> bytes:
    out = bytearray((tags.VERSION,))
    encode_into(out, term)
    if compressed:
        shorter = bytes((tags.VERSION, tags.COMPRESSED)) + _u32.pack(len(out) - 1) + zlib.compress(memoryview(out)[1:])
        if len(shorter) < len(out):
            return shorter
    return bytes(out)


def decode(
    decode_from: Callable[..., tuple[Any, int]], data: bytes | bytearray | memoryview, strings: bool, limits: Limits
) -> Any:
    if not len(data) or data[0] != tags.VERSION:
        raise DecodeError("no external term: it must begin with byte 131")
    if len(data) > 1 and data[1] == tags.COMPRESSED:
        data, start = _inflated(data, limits), 0
    else:
        start = 1
    term, end = decode_from(data, start, strings=strings, limits=limits)
    if end != len(data):
        raise DecodeError(f"{len(data) - end} bytes follow the term")
    return term


def _inflated(data: bytes | bytearray | memoryview, limits: Limits) -> bytes:
    """What a compressed term expands to: never more than it claims, nor than the limit, and exactly what it claims."""
    if len(data) < 6:
        raise DecodeError("a compressed term without its size")
    (claimed,) = _u32.unpack_from(data, 2)
    if claimed > limits.inflated_bytes_max:
        raise TermLimitExceeded(
            f"a compressed term of {claimed} bytes; at most {limits.inflated_bytes_max} are allowed",
            "inflated_bytes_max",
        )
    inflater = zlib.decompressobj()
    try:
        # One byte more than claimed would be too many, and lets zlib reach the check sum at the end.
        inflated = inflater.decompress(memoryview(data)[6:], claimed + 1)
    except zlib.error as error:
        raise DecodeError(f"a compressed term that zlib cannot read: {error}") from None
    if len(inflated) != claimed or not inflater.eof or inflater.unused_data:
        raise DecodeError(f"a compressed term that is not the {claimed} bytes it claims, or is followed by others")
    return inflated
