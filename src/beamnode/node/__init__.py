"""The runtime: clock, entropy, event loop, and the nodes and processes that programs use.

What the floors above use of it is named here.
"""

from beamnode.core.process import AliasKind, Origin, reference_in
from beamnode.node.asked import Asked
from beamnode.node.blocking import blocking_body
from beamnode.node.cookie import conceal
from beamnode.node.current import current_body, current_body_or_none
from beamnode.node.dictionary import process_dictionary, spawn_with_dictionary
from beamnode.node.dictionary_keys import ANCESTORS, CALLERS, INITIAL_CALL, LABEL
from beamnode.node.epmd import Epmd
from beamnode.node.epmd_discovery import Discovery, FixedPort, StaticPorts
from beamnode.node.exposed import Callee, Policy, PolicyHook
from beamnode.node.functions import (
    Timer,
    alias,
    async_dist,
    before_shut_down,
    demonitor,
    end_node,
    exit,
    group_leader,
    is_process_alive,
    limit_mailbox,
    link,
    monitor,
    process_info,
    processes,
    receive_blocking,
    register,
    registered,
    self,
    send,
    send_after,
    send_nosuspend,
    send_wait,
    spawn,
    spawn_link,
    spawn_monitor,
    tell_watcher,
    trap_exit,
    unalias,
    unlink,
    unregister,
    wait_in_thread,
    whereis,
)
from beamnode.node.guard import NEEDED_NAMES, Guard, Signal
from beamnode.node.node import Node
from beamnode.node.options import NodeOptions
from beamnode.node.reasons import reason_of, stack_of
from beamnode.node.receiving import receive
from beamnode.node.reports import error_text, from_users_code, reason_text, report_text
from beamnode.node.routes import Carriers, Route
from beamnode.node.service_processes import Service
from beamnode.node.spawning import Refused, run_asked
from beamnode.node.tagged import TaggedMessages, receive_tagged
from beamnode.node.workers import RaisedElsewhere

__all__ = [
    "ANCESTORS",
    "CALLERS",
    "INITIAL_CALL",
    "LABEL",
    "NEEDED_NAMES",
    "AliasKind",
    "Asked",
    "Callee",
    "Carriers",
    "Discovery",
    "Epmd",
    "FixedPort",
    "Guard",
    "Node",
    "NodeOptions",
    "Origin",
    "Policy",
    "PolicyHook",
    "RaisedElsewhere",
    "Refused",
    "Route",
    "Service",
    "Signal",
    "StaticPorts",
    "TaggedMessages",
    "Timer",
    "alias",
    "async_dist",
    "before_shut_down",
    "blocking_body",
    "conceal",
    "current_body",
    "current_body_or_none",
    "demonitor",
    "end_node",
    "error_text",
    "exit",
    "from_users_code",
    "group_leader",
    "is_process_alive",
    "limit_mailbox",
    "link",
    "monitor",
    "process_dictionary",
    "process_info",
    "processes",
    "reason_of",
    "reason_text",
    "receive",
    "receive_blocking",
    "receive_tagged",
    "reference_in",
    "register",
    "registered",
    "report_text",
    "run_asked",
    "self",
    "send",
    "send_after",
    "send_nosuspend",
    "send_wait",
    "spawn",
    "spawn_link",
    "spawn_monitor",
    "spawn_with_dictionary",
    "stack_of",
    "tell_watcher",
    "trap_exit",
    "unalias",
    "unlink",
    "unregister",
    "wait_in_thread",
    "whereis",
]
