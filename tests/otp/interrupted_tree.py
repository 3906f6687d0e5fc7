"""A program, mostly with a supervision tree, to be ended by Ctrl-C; its argument says which, none: run by a node."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

from beamnode import Application, FixedPort, GenServer, Node, Supervisor, Task, sync, trap_exit

HOW = sys.argv[1] if len(sys.argv) > 1 else "run"
SECONDS = {1: 0.0, 2: 0.1, 3: 60.0}  # that children need to end; the last one is not given them


def say(*words: object) -> None:
    print(*words, flush=True)


class Worker(GenServer):
    def init(self, number: int) -> None:
        trap_exit()
        self.number = number

    async def terminate(self, reason: Any) -> None:
        say("terminate", self.number, reason)
        await asyncio.sleep(SECONDS[self.number])
        say("terminated", self.number)


class BlockingWorker(sync.GenServer):
    def init(self, number: int) -> None:
        trap_exit()
        self.number = number

    def terminate(self, reason: Any) -> None:
        say("terminate", self.number, reason)
        time.sleep(min(SECONDS[self.number], 1.0))  # nothing stops a thread
        if self.number != 3:
            say("terminated", self.number)


def children(worker: Any) -> list[dict[str, Any]]:
    return [Supervisor.child_spec((worker, number), id=number, shutdown=0.5) for number in SECONDS]


class Starting(GenServer):
    async def init(self) -> None:
        say("up")
        await asyncio.sleep(60)


async def wait_for(seconds: int) -> None:
    if seconds == 60:
        say("up")
        await asyncio.sleep(seconds)


def compute(seconds: int) -> None:
    if seconds:
        say("up")
        time.sleep(seconds)


class Shop(Application):
    name = "shop"

    async def start(self, kind: Any, args: Any) -> Any:
        return await Supervisor.start_link(children(Worker), strategy="one_for_one")

    def prep_stop(self, state: Any) -> Any:
        say("prep_stop")
        return state

    def stop(self, state: Any) -> None:
        say("stop")


async def main() -> None:
    async with Node("py@127.0.0.1", cookie="c", discovery=FixedPort(0)) as node:
        if HOW == "application":
            await Application.start(Shop)
        elif HOW == "process":
            node.expose(compute, module="m", run="process")
            await Supervisor.start_link([Task.Supervisor.child_spec(name="tasks")], strategy="one_for_one")
            await Task.Supervisor.async_nolink("tasks", "m", "compute", [0])
            task = await Task.Supervisor.async_nolink("tasks", "m", "compute", [60])
            await task
        else:
            await Supervisor.start_link(children(Worker), strategy="one_for_one", name="top")
        say("up")
        await asyncio.Event().wait()


logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stdout)
if __name__ != "__main__":
    pass  # in an OS process of the node
elif HOW in ("async", "application", "process"):
    asyncio.run(main())
elif HOW == "sync":
    with sync.Node("py@127.0.0.1", cookie="c", discovery=FixedPort(0)):
        sync.Supervisor.start_link(children(BlockingWorker), strategy="one_for_one", name="top")
        say("up")
        sync.receive()
elif HOW == "starting":
    with sync.Node("py@127.0.0.1", cookie="c", discovery=FixedPort(0)):
        sync.Supervisor.start_link([Starting], strategy="one_for_one")
elif HOW == "stream":
    with sync.Node("py@127.0.0.1", cookie="c", discovery=FixedPort(0)):
        list(sync.Task.async_stream([1, 60], wait_for, timeout=None))
else:
    sync.Supervisor.start_link(children(BlockingWorker), strategy="one_for_one", name="top")
    say("up")
    sync.receive()
