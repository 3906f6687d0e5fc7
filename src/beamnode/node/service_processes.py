"""The processes that a started node runs under well-known names; each is started again when it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beamnode.core.process import Process
from beamnode.errors import ProcessExit, UsageError
from beamnode.etf import Atom, a
from beamnode.node.runtime import Runtime

if TYPE_CHECKING:
    from beamnode.node.node import Node

log = logging.getLogger("beamnode.node")

PAUSE_SECONDS = 0.1  # before a service that has ended is started again


@dataclass(frozen=True, slots=True)
class Service:
    """A process that every node runs under a well-known name; restarted when it crashes."""

    name: str
    run: Callable[[Node], Coroutine[Any, Any, None]]


class ServiceProcesses:
    """Those of one life of a node: they run from now on, until `end`."""

    def __init__(self, node: Node, runtime: Runtime, services: Sequence[Service]) -> None:
        self._node = node
        self._runtime = runtime
        self._processes: dict[str, Process] = {}
        for service in services:
            self._start(service)

    @property
    def all(self) -> set[Process]:
        return set(self._processes.values())

    def end(self) -> None:
        """End them, for good."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            self._runtime.end(process, a.shutdown)

    def _start(self, service: Service) -> None:
        """Its process, and another one when that ends: any peer may send it an exit signal `kill`."""
        try:
            process = self._runtime.spawn(self._serve, (service,), name=Atom(service.name))
        except UsageError as error:
            log.error("service %s of node %s cannot be started: %s", service.name, self._node.name, error)
            return
        process.body.async_dist = True  # one peer that does not read is no reason not to serve others
        process.trap_exit = True  # a process that is linked to it does not take it along
        self._processes[service.name] = process
        loop = self._runtime.loop
        process.body.task.add_done_callback(
            lambda _: loop.call_later(PAUSE_SECONDS, self._start_again, service, process)
        )

    def _start_again(self, service: Service, ended: Process) -> None:
        if self._processes.get(service.name) is ended:  # not when the node has stopped meanwhile
            log.warning("service %s of node %s has ended, and is started again", service.name, self._node.name)
            self._start(service)

    async def _serve(self, service: Service) -> None:
        try:
            await service.run(self._node)
        except ProcessExit:
            raise
        except Exception:
            log.exception("service %s of node %s failed", service.name, self._node.name)
            raise ProcessExit(a.error) from None
