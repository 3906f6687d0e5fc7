"""The kernel of the codec in readable Python: the two functions that a compiled kernel has too.

`encode_into(out, term, atoms)` and `decode_from(data, offset, atoms, strings=, limits=)`; neither knows of the version
byte, of compression, or of what follows a term. See `encode_python` and `decode_python`.
"""

from beamnode.etf.decode_python import decode_from
from beamnode.etf.encode_python import encode_into

__all__ = ["decode_from", "encode_into"]
