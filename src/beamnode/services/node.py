"""The `Node` that programs use: `node.Node` with the services that peers expect, and what needs them."""

from __future__ import annotations

from typing import Any

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, a
from beamnode.node import Node as BareNode
from beamnode.node import Service
from beamnode.otp import gen
from beamnode.services import net_kernel, rex

SERVICES = (Service("net_kernel", net_kernel.run), Service("rex", rex.run))


class Node(BareNode):
    __doc__ = BareNode.__doc__

    def __init__(self, name: Atom | str, **options: Any) -> None:
        super().__init__(name, services=SERVICES, **options)

    async def ping(self, node: Atom | str) -> Atom:
        """Connect to `node` and ask its `net_kernel` for a sign of life: `a.pong`, or `a.pang` when there is none."""
        if self.own_name(node):
            return a.pong
        if not await self.connect(node):
            return a.pang
        try:
            answer = await self.run_process(gen.call, ("net_kernel", node), gen.CALL, (a.is_auth, self.name), None)
        except ProcessExit:
            answer = None
        if answer is a.yes:
            return a.pong
        await self.disconnect(node)
        return a.pang
