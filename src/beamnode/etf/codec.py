"""Whole terms: the version byte, compression, and the choice of the kernel that does the rest."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

from beamnode.errors import DecodeError
from beamnode.etf import codec_python, tags
from beamnode.etf.leaves_python import TermLimitExceeded
from beamnode.limits import DEFAULT_LIMITS, Limits

# The kernels that this installation has, the one to use last; the tests run on each.
KERNELS: Final = {"python": codec_python}

implementation, _kernel = list(KERNELS.items())[-1]
encode_into = _kernel.encode_into
decode_from = _kernel.decode_from

_u32: Final = struct.Struct(">I")


def encode(term: Any, *, compressed: bool = False) -> bytes:
    """The bytes of `term`, version byte first, as `term_to_binary`. Raises `EncodeError`.

    With `compressed`, its zlib form where that is shorter; OTP does so for files and tables, never between nodes.
    """
    out = bytearray((tags.VERSION,))
    encode_into(out, term)
    if compressed:
        shorter = bytes((tags.VERSION, tags.COMPRESSED)) + _u32.pack(len(out) - 1) + zlib.compress(memoryview(out)[1:])
        if len(shorter) < len(out):
            return shorter
    return bytes(out)


def decode(data: bytes | bytearray | memoryview, *, strings: bool = False, limits: Limits = DEFAULT_LIMITS) -> Any:
    """The one term that `data` is, version byte first, as `binary_to_term`, but nothing may follow the term.

    With `strings`, binaries that are valid UTF-8 become `str`. Raises `DecodeError`.
    """
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
