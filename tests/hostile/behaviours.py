"""Servers of every behaviour for a victim: registered, each under a parent that notes its end."""

from __future__ import annotations

from typing import Any

from beamnode import Node, Pid, a, receive, self, send, spawn, trap_exit
from beamnode.otp.agent import Agent
from beamnode.otp.application import Application
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.gen_event import EventHandler, GenEvent
from beamnode.otp.gen_server import GenServer
from beamnode.otp.gen_statem import GenStatem
from beamnode.otp.partition_supervisor import PartitionSupervisor
from beamnode.otp.registry import Registry
from beamnode.otp.supervisor import Supervisor
from beamnode.otp.task_supervisor import TaskSupervisor

NAMES = ("sup", "dynamic", "few", "tasks", "agent", "partitions", "machine", "events", "registry", "server")
MAX_CHILDREN = 20

ended: list[str] = []
asked_for: list[str] = []


class Quiet(GenServer):
    """A server that takes everything."""

    def handle_call(self, request: Any, sender: Any) -> Any:
        return a.ok

    def handle_cast(self, request: Any) -> None:
        pass

    def handle_info(self, message: Any) -> None:
        pass


class Machine(GenStatem):
    callback_mode = "handle_event_function"

    def init(self) -> Any:
        return a.on

    def handle_event(self, kind: Any, content: Any, state: Any) -> Any:
        return None


class Listener(EventHandler):
    def handle_event(self, event: Any) -> None:
        pass

    def handle_call(self, request: Any) -> Any:
        return a.ok


class Events(GenEvent):
    handlers = (Listener,)


class App(Application):
    name = "app"

    async def start(self, kind: Any, args: Any) -> Pid:
        return await Supervisor.start_link([], strategy="one_for_one")


async def start_quiet(*_: object) -> Any:
    """Exposed as `victim:start_link`: what supervisors may be asked to start."""
    return await Quiet.start_link()


async def secret(*_: object) -> Any:
    """Not exposed."""
    asked_for.append("secret")
    return await Quiet.start_link()


def first(state: Any, *_: object) -> Any:
    """Exposed as `victim:first`, for agents."""
    return state


async def start(node: Node) -> dict[str, Pid]:
    """Start one of each; their pids by their names."""
    node.expose(start_quiet, module="victim", name="start_link")
    node.expose(first, module="victim", name="first")
    starts: dict[str, Any] = {
        "sup": lambda: Supervisor.start_link([Quiet], strategy="one_for_one", name="sup", max_restarts=1000),
        "dynamic": lambda: DynamicSupervisor.start_link(name="dynamic", max_restarts=1000),
        "few": lambda: DynamicSupervisor.start_link(name="few", max_children=MAX_CHILDREN),
        "tasks": lambda: TaskSupervisor.start_link(name="tasks", max_children=MAX_CHILDREN),
        "agent": lambda: Agent.start_link(dict, name="agent"),
        "partitions": lambda: PartitionSupervisor.start_link(Quiet, name="partitions", partitions=2),
        "machine": lambda: Machine.start_link(name="machine"),
        "events": lambda: Events.start_link(name="events"),
        "registry": lambda: Registry.start_link(keys="unique", name="registry"),
        "server": lambda: Quiet.start_link(name="server"),
    }
    found: dict[str, Pid] = {}

    async def parent(name: str, to: Pid) -> None:
        trap_exit()
        pid = await starts[name]()
        if name == "events":
            await GenEvent.add_handler("events", Listener, None)
        send(to, (name, pid))
        while True:
            match await receive():
                case (a.EXIT, who, reason) if who == pid:
                    ended.append(f"{name}: {reason!r}"[:2000])

    async def main() -> None:
        for name in starts:
            spawn(parent, name, self())
            told, pid = await receive(timeout=10)
            found[told] = pid
        Application.load(App)
        await Application.start("app", "temporary")

    await node.run_process(main)
    return found
