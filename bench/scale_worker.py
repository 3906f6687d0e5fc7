"""One measurement of `bench.scale`, in a process of its own: `python -m bench.scale_worker WHAT COUNT`.

`bench_scale.erl` does the same. It prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from beamnode import FixedPort, Node, Pid, exit, receive, self, send, spawn, spawn_link, trap_exit
from beamnode.carriers.memory import MemoryNetwork
from beamnode.loops import new_event_loop
from beamnode.otp.supervisor import Supervisor
from bench.setting import rss_bytes


async def idle(count: int) -> dict[str, float]:
    """Start so many processes that wait for a message, until the last one waits."""
    started = 0

    async def wait() -> None:
        nonlocal started
        started += 1
        await receive()

    gc.collect()
    before = rss_bytes(os.getpid())
    began = time.perf_counter()
    for _ in range(count):
        spawn(wait)
    while started < count:
        await asyncio.sleep(0)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": (rss_bytes(os.getpid()) - before) / count}


async def ring(count: int) -> dict[str, float]:
    """A message that so many processes pass on, three times around; the quickest."""

    async def hop(to: Pid) -> None:
        while True:
            send(to, await receive())

    last = self()
    for _ in range(count):
        last = spawn(hop, last)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        send(last, "go")
        await receive()
        seconds.append(time.perf_counter() - began)
    return {"seconds": min(seconds)}


async def tree(count: int) -> dict[str, float]:
    """A supervisor with so many children: its start, the restart of one child, and of all of them."""
    trap_exit()
    began = time.perf_counter()
    one = await start_tree("one_for_one", count)
    start = time.perf_counter() - began
    restart_one = await crash(one, 1)
    every = await start_tree("one_for_all", count)
    return {"start": start, "restart_one": restart_one, "restart_all": await crash(every, count)}


async def start_tree(strategy: str, count: int) -> Pid:
    parent = self()

    async def child() -> None:
        send(parent, "started")
        await receive()

    async def start() -> Pid:
        return spawn_link(child)

    children: list[Any] = [{"id": number, "start": (start, ()), "shutdown": "brutal_kill"} for number in range(count)]
    pid: Pid = await Supervisor.start_link(children, strategy=strategy)
    for _ in range(count):
        await receive()
    return pid


async def crash(supervisor: Pid, count: int) -> float:
    """Seconds until the kill of one child has led to so many starts."""
    children = await Supervisor.which_children(supervisor)
    began = time.perf_counter()
    exit(children[0][1], "kill")
    for _ in range(count):
        await receive()
    return time.perf_counter() - began


async def main(measure: Callable[[int], Awaitable[dict[str, float]]], count: int) -> None:
    node = Node("scale@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1))
    async with node:
        print(json.dumps(await measure(count)), flush=True)
        os._exit(0)  # the end of a million processes is not what is measured


if __name__ == "__main__":
    what, count = sys.argv[1:]
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main({"idle": idle, "ring": ring, "tree": tree}[what], int(count)))
