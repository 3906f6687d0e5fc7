"""The halves of a channel, of which there may be compiled ones: who says which this installation uses."""

from __future__ import annotations

from typing import Any, Final

from beamnode.etf import implementation
from beamnode.wire.inbound import Inbound
from beamnode.wire.outbound import Outbound

# By the name of the codec's kernel (`etf.implementation`), the ones to use last; the tests run on each.
HALVES: Final[dict[str, tuple[type[Inbound], type[Outbound]]]] = {"python": (Inbound, Outbound)}

if implementation == "cython":
    from beamnode.wire import _kernel

    compiled: Any = (_kernel.Inbound, _kernel.Outbound)  # no subclasses, but with all that a channel uses
    HALVES["cython"] = compiled

chosen: Final = implementation
