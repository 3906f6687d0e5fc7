"""The kernel of the codec in readable Python: the functions that a compiled kernel has too.

`encode_into`, `encode_chunks` and `decode_from` know neither of the version byte, nor of compression, nor of what
follows a term: see `encode_python` and `decode_python`. `encode` and `decode` are for whole terms: see `whole`.
"""

from __future__ import annotations

from typing import Any

from beamnode.etf import whole
from beamnode.etf.decode_python import decode_from
from beamnode.etf.encode_python import encode_chunks, encode_into
from beamnode.limits import DEFAULT_LIMITS, Limits

__all__ = ["decode", "decode_from", "encode", "encode_chunks", "encode_into"]


def encode(term: Any, *, compressed: bool = False) -> bytes:
    """The bytes of `term`, version byte first, as `term_to_binary`. Raises `EncodeError`.

    With `compressed`, its zlib form where that is shorter; OTP does so for files and tables, never between nodes.
    """
    return whole.encode(encode_into, term, compressed)


def decode(data: bytes | bytearray | memoryview, *, strings: bool = False, limits: Limits = DEFAULT_LIMITS) -> Any:
    """The one term that `data` is, version byte first, as `binary_to_term`, but nothing may follow the term.

    With `strings`, binaries that are valid UTF-8 become `str`. Raises `DecodeError`.
    """
    return whole.decode(decode_from, data, strings, limits)
