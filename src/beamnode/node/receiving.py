"""`receive`, of which there may be a compiled one: who says which this installation uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamnode.etf.environment import compiled
from beamnode.node import functions
from beamnode.node.body import MESSAGES_PER_TURN

__all__ = ["receive"]

if TYPE_CHECKING:
    from beamnode.node.functions import receive
elif (_kernel := compiled("beamnode.node._kernel")) is None:
    receive = functions.receive
else:
    _kernel.set_up(functions.receive, MESSAGES_PER_TURN)
    receive = _kernel.receive
    receive.__doc__ = functions.receive.__doc__
