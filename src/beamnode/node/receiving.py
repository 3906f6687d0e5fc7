"""`receive`, of which there may be a compiled one (`etf.implementation`): who says which this installation uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamnode.etf import implementation

if implementation == "cython" and not TYPE_CHECKING:
    from beamnode.node import functions
    from beamnode.node._kernel import receive, set_up
    from beamnode.node.body import MESSAGES_PER_TURN

    set_up(functions.receive, MESSAGES_PER_TURN)
else:
    from beamnode.node.functions import receive

__all__ = ["receive"]
