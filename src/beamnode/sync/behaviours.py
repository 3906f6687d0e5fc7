"""The blocking classes of the behaviours: supervisors, agents, registries, machines, managers, applications.

Children of supervisors are started on the node's event loop. Give them as classes (of this face or of the awaitable
one) or as dicts whose start function does not block: `spawn_link` does not, `GenServer.start_link` of this face does.
"""

# mypy: disable-error-code="assignment, override, misc"
# (What is awaited in the behaviour blocks in its blocking class.)

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from beamnode.otp import (
    agent,
    application,
    dynamic_supervisor,
    gen_event,
    gen_statem,
    partition_supervisor,
    registry,
    supervisor,
)
from beamnode.sync.face import Face
from beamnode.sync.waiting import blocking

_Supervisor = supervisor.Supervisor
_DynamicSupervisor = dynamic_supervisor.DynamicSupervisor
_PartitionSupervisor = partition_supervisor.PartitionSupervisor
_Agent = agent.Agent
_Registry = registry.Registry
_GenStatem = gen_statem.GenStatem
_GenEvent = gen_event.GenEvent
_Application = application.Application


class Supervisor(Face, supervisor.Supervisor):
    """`beamnode.Supervisor`, blocking. The `init` of a class derived from it must not wait."""

    awaitable = _Supervisor

    which_children = staticmethod(blocking(_Supervisor.which_children))
    count_children = staticmethod(blocking(_Supervisor.count_children))
    start_child = staticmethod(blocking(_Supervisor.start_child))
    terminate_child = staticmethod(blocking(_Supervisor.terminate_child))
    restart_child = staticmethod(blocking(_Supervisor.restart_child))
    delete_child = staticmethod(blocking(_Supervisor.delete_child))
    get_childspec = staticmethod(blocking(_Supervisor.get_childspec))
    stop = staticmethod(blocking(_Supervisor.stop))


class DynamicSupervisor(Face, dynamic_supervisor.DynamicSupervisor):
    """`beamnode.DynamicSupervisor`, blocking. The `init` of a class derived from it must not wait."""

    awaitable = _DynamicSupervisor

    start_child = staticmethod(blocking(_DynamicSupervisor.start_child))
    terminate_child = staticmethod(blocking(_DynamicSupervisor.terminate_child))
    which_children = staticmethod(blocking(_DynamicSupervisor.which_children))
    count_children = staticmethod(blocking(_DynamicSupervisor.count_children))
    stop = staticmethod(blocking(_DynamicSupervisor.stop))


class PartitionSupervisor(Face, partition_supervisor.PartitionSupervisor):
    """`beamnode.PartitionSupervisor`, blocking."""

    awaitable = _PartitionSupervisor

    resize = staticmethod(blocking(_PartitionSupervisor.resize))
    which_children = staticmethod(blocking(_PartitionSupervisor.which_children))
    count_children = staticmethod(blocking(_PartitionSupervisor.count_children))
    stop = staticmethod(blocking(_PartitionSupervisor.stop))


class _BlockingAgent(agent.Agent):
    server = agent.BlockingServer


class Agent(Face, agent.Agent):
    """`beamnode.Agent`, blocking. The functions that its agents are given run in a thread of theirs: they may block.

    An `async def` runs on the event loop, and so does the function for an agent that was started by `beamnode.Agent`.
    """

    awaitable = _BlockingAgent
    server = agent.BlockingServer

    get = staticmethod(blocking(_Agent.get))
    update = staticmethod(blocking(_Agent.update))
    get_and_update = staticmethod(blocking(_Agent.get_and_update))
    stop = staticmethod(blocking(_Agent.stop))


class Registry(Face, registry.Registry):
    """`beamnode.Registry`, blocking; most of it never waits."""

    awaitable = _Registry


class GenStatem(Face, gen_statem.GenStatem):
    """`beamnode.GenStatem`, blocking. What a class derived from it defines runs in a thread of the machine's own."""

    awaitable = _GenStatem
    handlers_block = True
    own_names = _GenStatem.own_names | {"awaitable"}

    call = staticmethod(blocking(_GenStatem.call))
    stop = staticmethod(blocking(_GenStatem.stop))
    receive_response = staticmethod(blocking(_GenStatem.receive_response))
    wait_response = staticmethod(blocking(_GenStatem.wait_response))


class _BlockingEvents(gen_event.GenEvent):
    handlers_block = True


class GenEvent(Face, gen_event.GenEvent):
    """`beamnode.GenEvent`, blocking. The handlers of its managers run in a thread of the manager's own."""

    awaitable = _BlockingEvents
    handlers_block = True

    sync_notify = staticmethod(blocking(_GenEvent.sync_notify))
    call = staticmethod(blocking(_GenEvent.call))
    add_handler = staticmethod(blocking(_GenEvent.add_handler))
    add_sup_handler = staticmethod(blocking(_GenEvent.add_sup_handler))
    delete_handler = staticmethod(blocking(_GenEvent.delete_handler))
    swap_handler = staticmethod(blocking(_GenEvent.swap_handler))
    swap_sup_handler = staticmethod(blocking(_GenEvent.swap_sup_handler))
    which_handlers = staticmethod(blocking(_GenEvent.which_handlers))
    stop = staticmethod(blocking(_GenEvent.stop))
    receive_response = staticmethod(blocking(_GenEvent.receive_response))
    wait_response = staticmethod(blocking(_GenEvent.wait_response))


class _Functions(type(application.Application)):
    """Those of `Application`, on its class."""

    start = staticmethod(blocking(_Application.start))
    ensure_started = staticmethod(blocking(_Application.ensure_started))
    ensure_all_started = staticmethod(blocking(_Application.ensure_all_started))
    stop = staticmethod(blocking(_Application.stop))
    unload = staticmethod(blocking(_Application.unload))
    started_applications = staticmethod(blocking(_Application.started_applications))


class Application(application.Application, metaclass=_Functions):
    """`beamnode.Application`, blocking. The callbacks of a class derived from it run in threads: they may block."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("start", "prep_stop", "stop"):
            callback = vars(cls).get(name)
            if inspect.isfunction(callback) and not inspect.iscoroutinefunction(callback):
                setattr(cls, name, _in_a_thread(callback))


def _in_a_thread(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    async def call(*args: Any) -> Any:
        return await asyncio.to_thread(callback, *args)

    return call
