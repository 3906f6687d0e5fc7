"""The blocking face: the names of `beamnode` without `await`, for scripts, notebooks, web workers and threads.

    with sync.Node("py@127.0.0.1", cookie="secret") as node:
        node.connect("iex@127.0.0.1")
        sync.GenServer.call(("counter", "iex@127.0.0.1"), (a.add, 1))

A `sync.Node` lives on an event loop of its own (uvloop's, where that is installed: `pip install beamnode[speed]`), in
a thread of its own, so that it stays alive while your code computes. It may be started where another loop runs (a
notebook), and is stopped when the program ends. After a fork it belongs to the parent: start one in each worker.

**Processes.** The thread that enters the `with` block is a process of the node: it has a pid and a mailbox. Methods of
the node (`rpc`, `connect`, `spawn`, `call`, ...) may be used by any thread. The functions that act on the current
process (`self`, `send`, `receive`, `GenServer.call`, ...) need one: another thread becomes a process, with a mailbox of
its own, in `with node.process():`. Threads of one process share its mailbox, so that only one may be in `receive` at a
time; calls may be made by several.

**Waiting.** Ctrl-C interrupts a wait: KeyboardInterrupt is raised, and nobody waits any more. A node that is stopped by
another thread ends every wait with ProcessExit or NotAliveError.
"""

from beamnode.node import (
    Timer,
    alias,
    async_dist,
    demonitor,
    exit,
    group_leader,
    is_process_alive,
    limit_mailbox,
    link,
    monitor,
    process_dictionary,
    process_info,
    processes,
    register,
    registered,
    self,
    send,
    send_after,
    send_nosuspend,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unalias,
    unlink,
    unregister,
    whereis,
)
from beamnode.node import receive_blocking as receive
from beamnode.otp.proc_lib import get_label, set_label
from beamnode.sync.behaviours import (
    Agent,
    Application,
    DynamicSupervisor,
    GenEvent,
    GenStatem,
    PartitionSupervisor,
    Registry,
    Supervisor,
)
from beamnode.sync.gen_server import GenServer
from beamnode.sync.node import Node
from beamnode.sync.node import current_node as current_node
from beamnode.sync.task import Task
from beamnode.sync.waiting import in_process

__all__ = [
    "Agent",
    "Application",
    "DynamicSupervisor",
    "GenEvent",
    "GenServer",
    "GenStatem",
    "Node",
    "PartitionSupervisor",
    "Registry",
    "Supervisor",
    "Task",
    "Timer",
    "alias",
    "async_dist",
    "demonitor",
    "exit",
    "get_label",
    "group_leader",
    "in_process",
    "is_process_alive",
    "limit_mailbox",
    "link",
    "monitor",
    "process_dictionary",
    "process_info",
    "processes",
    "receive",
    "register",
    "registered",
    "self",
    "send",
    "send_after",
    "send_nosuspend",
    "set_label",
    "spawn",
    "spawn_link",
    "spawn_monitor",
    "trap_exit",
    "unalias",
    "unlink",
    "unregister",
    "whereis",
]
