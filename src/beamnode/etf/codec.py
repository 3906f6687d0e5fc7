"""The face of the codec, and the choice of the kernel that is behind it: made once, told by `implementation`."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Final

from beamnode.etf import codec_python
from beamnode.etf.environment import compiled

__all__ = ["KERNELS", "decode", "decode_from", "encode", "encode_chunks", "encode_into", "implementation"]


_kernel = compiled("beamnode.etf._kernel")

# The kernels that this installation has, by name, the one to use last; the tests run on each.
KERNELS: Final[dict[str, ModuleType]] = {"python": codec_python} | ({"cython": _kernel} if _kernel else {})
implementation: Final = list(KERNELS)[-1]

if TYPE_CHECKING:
    from beamnode.etf.codec_python import decode, decode_from, encode, encode_chunks, encode_into
else:
    encode = KERNELS[implementation].encode
    decode = KERNELS[implementation].decode
    encode_into = KERNELS[implementation].encode_into
    encode_chunks = KERNELS[implementation].encode_chunks
    decode_from = KERNELS[implementation].decode_from
