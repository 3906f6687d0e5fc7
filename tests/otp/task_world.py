"""A real node with Elixir, and ours beside it, for the tests of tasks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import task_functions

from beamnode import Atom, Epmd, Node, process_info
from beamnode.etf import Pid
from beamnode.node import current_body
from beamnode.otp.task_supervisor import TaskSupervisor
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

PY = Atom("py@127.0.0.1")
OURS = '{:tasks, :"py@127.0.0.1"}'
WAIT_SECONDS = 20.0


class World:
    """One real node with Elixir, and its epmd, for a release; it has a Task.Supervisor named `theirs`."""

    def __init__(self, otp: Otp) -> None:
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(
                otp, "peer@127.0.0.1", cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir"
            )
            self.peer.eval("logger:set_primary_config(level, none)")
            self.peer.elixir(
                "for {name, max} <- [theirs: :infinity, two: 2], do: "
                "({:ok, sup} = Task.Supervisor.start_link(name: name, max_children: max); Process.unlink(sup)); :ok"
            )
        except BaseException:
            self.epmd.stop()
            raise
        self.name = Atom(self.peer.name)
        self.theirs = ("theirs", self.name)

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()

    def node(self, name: Any = PY, **options: Any) -> Node:
        return Node(name, cookie=self.cookie, discovery=Epmd(self.epmd.port), **options)

    async def elixir(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.elixir, source, WAIT_SECONDS, **bindings)


def on_a_node(test: Callable[[World, Node], Awaitable[None]]) -> Callable[[World], None]:
    """The test is the body of a node that exposes `task_functions` as `:py`, with the supervisor `tasks`.

    At its end no task is left, nor another process, a task of asyncio, a monitor, or a message.
    """

    def run(world: World) -> None:
        async def main() -> None:
            async with world.node() as node:
                node.expose(task_functions, module="py")
                task_functions.marks.clear()
                supervisor = await TaskSupervisor.start_link(name="tasks", max_children=50)
                assert await node.connect(world.name)
                before = there_is()
                await test(world, node)
                await until(no_children)
                await until(nothing_but(before), lambda: there_is() ^ before)
                await until(only_tied_to(supervisor), own_ties)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def only_tied_to(supervisor: Pid) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return own_ties() == ([], 0, [supervisor])

    return check


def own_ties() -> tuple[Any, Any, Any]:
    info = process_info() or {}
    return info["monitors"], info["message_queue_len"], info["links"]


def there_is() -> set[Any]:
    processes = current_body().runtime.signals.processes()
    return {process.pid for process in processes} | asyncio.all_tasks()


def nothing_but(before: set[Any]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return there_is() <= before

    return holds


async def no_children() -> bool:
    return await TaskSupervisor.children("tasks") == []


async def until(predicate: Callable[[], Awaitable[object]], what: Any = "it did not happen") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await predicate():
        assert time.monotonic() < deadline, what() if callable(what) else what
        await asyncio.sleep(0.01)


async def marked(mark: Any) -> None:
    async def there() -> bool:
        return mark in task_functions.marks

    await until(there, mark)


async def children_of(world: World, count: int) -> bool:
    return len(await TaskSupervisor.children(world.theirs)) == count
