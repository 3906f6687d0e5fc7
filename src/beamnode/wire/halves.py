"""The halves of a channel, of which there may be compiled ones: who says which this installation uses."""

from __future__ import annotations

from typing import Final

from beamnode.wire.inbound import Inbound
from beamnode.wire.outbound import Outbound

HALVES: Final = {"python": (Inbound, Outbound)}

chosen = list(HALVES)[-1]
