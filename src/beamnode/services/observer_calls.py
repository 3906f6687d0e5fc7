"""`observer_backend`, as far as it goes without a BEAM: what `observer` and `etop` show of the system and of processes.

Their records, which are tuples here, are those of observer_backend.hrl. Source: observer_backend.erl.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from beamnode.core.process import Process
from beamnode.etf import Atom, Pid, a
from beamnode.node import self as own_pid
from beamnode.node import send
from beamnode.services import process_terms
from beamnode.services.net_control import NetControl
from beamnode.services.system_terms import SystemTerms

PROCESSES_PER_MESSAGE: Final = 10_000

_SYSTEM_ITEMS: Final = (
    *(a.logical_processors, a.logical_processors_online, a.logical_processors_available, a.schedulers),
    *(a.schedulers_online, a.otp_release, a.version, a.system_architecture, a.kernel_poll, a.smp_support, a.threads),
    *(a.thread_pool_size, a.process_count, a.atom_limit, a.atom_count, a.process_limit, a.port_limit, a.port_count),
    *(a.ets_limit, a.ets_count, a.dist_buf_busy_limit),
)
_PROCESS_ITEMS: Final = [
    *(a.registered_name, a.initial_call, a.memory, a.reductions, a.current_function, a.message_queue_len)
]
_MEMORY_KINDS: Final = [a.total, a.processes, a.ets, a.atom, a.code, a.binary]


class ObserverCalls:
    """The functions of `observer_backend` on one node."""

    def __init__(self, node: NetControl, system: SystemTerms) -> None:
        self._node = node
        self._system = system

    def functions(self) -> dict[tuple[str, int], Callable[..., Any]]:
        return {
            ("sys_info", 0): self.sys_info,
            ("procs_info", 1): self.procs_info,
            ("etop_collect", 1): self.etop_collect,
            ("vsn", 0): lambda: (a.ok, self._system.system_info(a.version)),
        }

    def sys_info(self) -> list[tuple[Atom, Any]]:
        """What the first page of `observer` shows."""
        ask = self._system
        (_, came), (_, left) = ask.statistics(a.io)
        return [
            (a.uptime, ask.statistics(a.wall_clock)[0]),
            (a.run_queue, ask.statistics(a.run_queue)),
            (a.io_input, came),
            (a.io_output, left),
            (a.schedulers_available, 1),
            (a.wordsize_internal, ask.system_info((a.wordsize, a.internal))),
            (a.wordsize_external, ask.system_info((a.wordsize, a.external))),
            (a.alloc_info, []),
            *((item, ask.system_info(item)) for item in _SYSTEM_ITEMS),
            *ask.memory(),
        ]

    def procs_info(self, collector: Pid) -> None:
        """Send `{procs_info, Self, [#etop_proc_info{}]}` to `collector`, the last with less than 10,000 of them."""
        records = self._processes()
        for begin in range(0, len(records) + 1, PROCESSES_PER_MESSAGE):
            send(collector, (a.procs_info, own_pid(), records[begin : begin + PROCESSES_PER_MESSAGE]))

    def etop_collect(self, collector: Pid) -> None:
        """Send `{Self, #etop_info{}}` to `collector`."""
        records = self._processes()
        now = time.time_ns() // 1000
        timestamp = (now // 10**12, now // 10**6 % 10**6, now % 10**6)
        memory = self._system.memory_of(_MEMORY_KINDS)
        queue = self._system.statistics(a.run_queue)
        unknown = a.undefined  # the wall clock, and what the schedulers have worked
        info: Any = (a.etop_info, timestamp, len(records), unknown, unknown, queue, [], memory, records)
        send(collector, (own_pid(), info))

    def _processes(self) -> list[tuple[Any, ...]]:
        own, signals = own_pid(), self._node.runtime.signals
        return [self._record(process) for process in signals.processes() if process.pid != own]

    def _record(self, process: Process) -> tuple[Any, ...]:
        """`#etop_proc_info{pid, mem, reds, name, runtime, cf, mq}`."""
        found = process_terms.info(process, self._node.runtime.signals, _PROCESS_ITEMS)
        registered, initial_call, memory, reductions, current, queue = (value for _, value in found)
        return a.etop_proc_info, process.pid, memory, reductions, registered or initial_call, 0, current, queue
