"""The halves of a channel, of which there may be compiled ones: who says which this installation uses."""

from __future__ import annotations

from typing import Any, Final

from beamnode.etf.environment import compiled
from beamnode.wire.inbound import Inbound
from beamnode.wire.outbound import Outbound

# By name, the ones to use last; the tests run on each.
HALVES: Final[dict[str, tuple[type[Inbound], type[Outbound]]]] = {"python": (Inbound, Outbound)}

_kernel: Any = compiled("beamnode.wire._kernel")
if _kernel is not None:
    HALVES["cython"] = _kernel.Inbound, _kernel.Outbound  # no subclasses, but with all that a channel uses

chosen: Final = list(HALVES)[-1]
