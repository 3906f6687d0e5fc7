"""Terms and their codec: the external term format, sans everything. See `terms` for the classes."""

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
    "Export",
    "Fun",
    "ImproperList",
    "LocalTerm",
    "NativeRecord",
    "Pid",
    "Port",
    "Reference",
    "a",
]
