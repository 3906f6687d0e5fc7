"""What is known of a Python node as a whole, in the shapes of `erlang:memory`, `statistics` and `system_info`.

What has no counterpart in Python is 0 or empty, so that a tool that adds up or shows it goes on. What there is:

- memory, in bytes: `total` is what the OS process has in RAM, `processes` an estimate of what the node holds for its
  processes (`introspection`; of many, from some), `system` the rest.
- statistics: `runtime` is the CPU time of the OS process and `wall_clock` the age of the node, in ms, each with what it
  grew by since somebody asked last; `run_queue` is what waits for the event loop; `io` counts the bytes of the
  connections that are up.
- system_info: a node is one scheduler, its event loop. `otp_release` is the oldest release whose protocol it speaks.
"""

from __future__ import annotations

import gc
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from beamnode.etf import Atom, a
from beamnode.node.introspection import info_of
from beamnode.services.net_control import NetControl

SAMPLE_MAX: Final = 500  # processes whose memory is looked at
OTP_RELEASE: Final = "25"
WORD_BYTES: Final = 8
PROCESS_LIMIT: Final = 1 << 28  # numbers of pids, before they begin anew with another serial

_STATM: Final = Path("/proc/self/statm")
_NO_COUNTERPART: Final = (a.atom, a.atom_used, a.binary, a.code, a.ets)


class BadItem(Exception):
    """There is no such item."""


class SystemTerms:
    """The answers of one node; remembers when it was asked for what counts from there."""

    def __init__(self, node: NetControl) -> None:
        self._node = node
        self._born = time.monotonic()
        self._runtime = 0
        self._wall_clock = 0

    # --- Memory -------------------------------------------------------------------------------------------------------

    def memory(self) -> list[tuple[Atom, int]]:
        """`erlang:memory/0`."""
        signals = self._node.runtime.signals
        processes = signals.processes()
        step = len(processes) // SAMPLE_MAX + 1
        sizes = [info_of(process, signals, "memory") for process in itertools.islice(processes, 0, None, step)]
        held = sum(sizes) * len(processes) // max(len(sizes), 1)
        total = max(_resident_bytes(), held)
        known = [(a.total, total), (a.processes, held), (a.processes_used, held), (a.system, total - held)]
        return known + [(item, 0) for item in _NO_COUNTERPART]

    def memory_of(self, items: Any) -> Any:
        """`erlang:memory/1`: of one kind, or of a list of kinds. Errors: BadItem."""
        known = dict(self.memory())
        try:
            return [(item, known[item]) for item in items] if type(items) is list else known[items]
        except (KeyError, TypeError):
            raise BadItem(items) from None

    # --- Statistics ---------------------------------------------------------------------------------------------------

    def statistics(self, item: Any) -> Any:
        """`erlang:statistics/1`. Errors: BadItem."""
        match item:
            case a.runtime:
                before, self._runtime = self._runtime, round(time.process_time() * 1000)
                return self._runtime, self._runtime - before
            case a.wall_clock:
                before, self._wall_clock = self._wall_clock, round((time.monotonic() - self._born) * 1000)
                return self._wall_clock, self._wall_clock - before
            case a.io:
                connections = self._node.connections()
                came, left = sum(one.bytes_in for one in connections), sum(one.bytes_out for one in connections)
                return (a.input, came), (a.output, left)
            case a.garbage_collection:
                return sum(generation["collections"] for generation in gc.get_stats()), 0, 0
            case a.reductions | a.exact_reductions | a.context_switches:
                return 0, 0
            case a.run_queue | a.total_run_queue_lengths | a.total_run_queue_lengths_all:
                return self._waiting()
            case a.run_queue_lengths | a.run_queue_lengths_all:
                return [self._waiting()]
            case a.total_active_tasks | a.total_active_tasks_all:
                return self._waiting() + 1
            case a.active_tasks | a.active_tasks_all:
                return [self._waiting() + 1]
            case a.scheduler_wall_time | a.scheduler_wall_time_all | a.microstate_accounting:
                return a.undefined  # as in OTP, where the flag of that name is not set
        raise BadItem(item)

    def _waiting(self) -> int:
        """Callbacks that are due; uvloop does not tell."""
        return len(getattr(self._node.runtime.loop, "_ready", ()))

    # --- The system ---------------------------------------------------------------------------------------------------

    def system_info(self, item: Any) -> Any:
        """`erlang:system_info/1`. Errors: BadItem."""
        match item:
            case (a.wordsize, a.internal | a.external):
                return WORD_BYTES
            case (a.allocator_sizes | a.allocator, _):
                return []
            case a.process_count:
                return len(self._node.runtime.signals.processes())
            case a.creation:
                return self._node.creation
            case a.dist_buf_busy_limit:
                return self._node.network.options.dist_buf_busy_limit
            case Atom() if item in _SYSTEM:
                return _SYSTEM[item]()
        raise BadItem(item)


def _resident_bytes() -> int:
    """What this OS process has in RAM; where the system does not say, the most that it had."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _text(text: str) -> list[int]:
    return [ord(character) for character in text]


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def _cpus() -> int:
    return os.cpu_count() or 1


_SYSTEM: Final[dict[Atom, Callable[[], Any]]] = {
    a.alloc_util_allocators: list,
    a.allocated_areas: list,
    a.allocator: lambda: (a.undefined, [], [], []),
    a.atom_count: lambda: 0,
    a.atom_limit: lambda: 1 << 20,
    a.build_type: lambda: a.opt,
    a.check_io: list,
    a.compat_rel: lambda: int(OTP_RELEASE),
    a.cpu_topology: lambda: a.undefined,
    a.dirty_cpu_schedulers: lambda: 0,
    a.dirty_cpu_schedulers_online: lambda: 0,
    a.dirty_io_schedulers: lambda: 0,
    a.emu_flavor: lambda: a.python,
    a.emu_type: lambda: a.opt,
    a.ets_count: lambda: 0,
    a.ets_limit: lambda: 0,
    a.kernel_poll: lambda: True,
    a.logical_processors: _cpus,
    a.logical_processors_available: _cpus,
    a.logical_processors_online: _cpus,
    a.machine: lambda: _text(_python()),
    a.multi_scheduling: lambda: a.disabled,
    a.otp_release: lambda: _text(OTP_RELEASE),
    a.port_count: lambda: 0,
    a.port_limit: lambda: 0,
    a.process_limit: lambda: PROCESS_LIMIT,
    a.scheduler_id: lambda: 1,
    a.schedulers: lambda: 1,
    a.schedulers_online: lambda: 1,
    a.smp_support: lambda: True,
    a.system_architecture: lambda: _text(f"{platform.machine()}-{sys.platform}"),
    a.system_version: lambda: _text(f"beamnode {version('beamnode')} [{_python()}] [{platform.platform()}]\n"),
    a.thread_pool_size: lambda: 0,
    a.threads: lambda: True,
    a.version: lambda: _text(version("beamnode")),
    a.wordsize: lambda: WORD_BYTES,
}
