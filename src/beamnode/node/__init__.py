"""The runtime: clock, entropy, event loop, and the nodes and processes that programs use.

What the floors above use of it is named here.
"""

from beamnode.core.process import AliasKind
from beamnode.node.current import current_body
from beamnode.node.epmd import Epmd
from beamnode.node.epmd_discovery import Discovery, FixedPort, StaticPorts, Unlisted
from beamnode.node.functions import (
    Timer,
    alias,
    demonitor,
    exit,
    group_leader,
    link,
    monitor,
    process_info,
    receive,
    receive_blocking,
    register,
    self,
    send,
    send_after,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unalias,
    unlink,
    unregister,
    whereis,
)
from beamnode.node.node import Node, NodeOptions, Service

__all__ = [
    "AliasKind",
    "Discovery",
    "Epmd",
    "FixedPort",
    "Node",
    "NodeOptions",
    "Service",
    "StaticPorts",
    "Timer",
    "Unlisted",
    "alias",
    "current_body",
    "demonitor",
    "exit",
    "group_leader",
    "link",
    "monitor",
    "process_info",
    "receive",
    "receive_blocking",
    "register",
    "self",
    "send",
    "send_after",
    "spawn",
    "spawn_link",
    "spawn_monitor",
    "trap_exit",
    "unalias",
    "unlink",
    "unregister",
    "whereis",
]
