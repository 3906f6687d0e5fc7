"""The face of the codec, and the choice of the kernel that is behind it: made once, told by `implementation`."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from beamnode.etf import codec_python
from beamnode.etf.environment import KERNEL_WANTED

__all__ = ["KERNELS", "decode", "decode_from", "encode", "encode_chunks", "encode_into", "implementation"]


def _compiled() -> ModuleType | None:
    """The kernel in C, unless it is not wanted or not there."""
    if KERNEL_WANTED not in ("", "off", "require"):
        raise ImportError(f"BEAMNODE_KERNEL is {KERNEL_WANTED!r}: it may be 'require', 'off' or unset")
    if KERNEL_WANTED == "off":
        return None
    try:
        from beamnode.etf import _kernel
    except ImportError as error:
        if KERNEL_WANTED == "require":
            raise ImportError(
                "BEAMNODE_KERNEL=require, but the compiled kernel of the codec cannot be imported: install a C compiler "
                "and the headers of this Python, then beamnode again (pip install --force-reinstall --no-cache-dir "
                f"beamnode); or unset BEAMNODE_KERNEL to use the Python codec ({error})"
            ) from error
        return None
    return _kernel


# The kernels that this installation has, by name, the one to use last; the tests run on each.
KERNELS: Final[dict[str, ModuleType]] = {"python": codec_python}
implementation: Final = "python" if (_kernel := _compiled()) is None else "cython"
if _kernel is None:
    from beamnode.etf.codec_python import decode, decode_from, encode, encode_chunks, encode_into
else:
    KERNELS[implementation] = _kernel
    from beamnode.etf._kernel import decode, decode_from, encode, encode_chunks, encode_into
