"""Terms and their codec: the external term format, sans everything. `terms` has the classes, `codec` the face.

`encode` and `decode` are for whole terms with the version byte; `encode_into`, `encode_chunks` and `decode_from` for
the channel, with the atoms of a distribution header; `implementation` says which kernel does it.
"""

from beamnode.etf.codec import decode, decode_from, encode, encode_chunks, encode_into, implementation
from beamnode.etf.keys import ExactKey, HashableDict, HashableList
from beamnode.etf.leaves_python import TermLimitExceeded
from beamnode.etf.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    LocalTerm,
    NativeRecord,
    Pid,
    Port,
    Reference,
    a,
)

__all__ = [
    "Atom",
    "BitString",
    "ExactKey",
    "Export",
    "Fun",
    "HashableDict",
    "HashableList",
    "ImproperList",
    "LocalTerm",
    "NativeRecord",
    "Pid",
    "Port",
    "Reference",
    "TermLimitExceeded",
    "a",
    "decode",
    "decode_from",
    "encode",
    "encode_chunks",
    "encode_into",
    "implementation",
]
