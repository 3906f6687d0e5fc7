"""The `Node` that programs use: `node.Node` with the services that peers expect, and what needs them."""

from __future__ import annotations

from functools import partial
from typing import Unpack

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, a
from beamnode.node import Node as BareNode
from beamnode.node import NodeOptions, Service
from beamnode.otp import gen
from beamnode.services import global_process, net_kernel, rex


class Node(BareNode):
    __doc__ = f"""{BareNode.__doc__}
    - `connect_all`: False keeps this node out of the mesh that visible nodes form by themselves.
    - `prevent_overlapping_partitions`: False lets this node stay connected with nodes that others have lost.
    """

    def __init__(
        self,
        name: Atom | str,
        *,
        connect_all: bool = True,
        prevent_overlapping_partitions: bool = True,
        **options: Unpack[NodeOptions],
    ) -> None:
        mesh = partial(
            global_process.run,
            connect_all=connect_all,
            prevent_overlapping_partitions=prevent_overlapping_partitions,
        )
        services = (
            Service("net_kernel", net_kernel.run),
            Service("global_name_server", mesh),
            Service("rex", rex.run),
        )
        super().__init__(name, services=services, **options)

    async def ping(self, node: Atom | str) -> Atom:
        """Connect to `node` and ask its `net_kernel` for a sign of life: `a.pong`, or `a.pang` when there is none."""
        if self.own_name(node):
            return a.pong
        if not await self.connect(node):
            return a.pang
        question = (a.is_auth, self.name)
        try:
            answer = await self.run_process(gen.call, ("net_kernel", node), gen.CALL, question, None)
        except ProcessExit:
            answer = None
        if answer is a.yes:
            return a.pong
        await self.disconnect(node)
        return a.pang
