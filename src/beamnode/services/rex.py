"""`rex`: tells visible peers what rpc features this node has. Source: rpc.erl, `features_request`; WIRE.md 2.2."""

from __future__ import annotations

from beamnode.etf import Pid, a
from beamnode.node import Node, receive, send


async def run(node: Node) -> None:
    """Answer `{Pid, features_request}`, for as long as the node is up."""
    while True:
        match await receive():
            case (Pid() as asker, a.features_request):
                send(asker, (a.features_reply, node.name, [a.erpc]))
