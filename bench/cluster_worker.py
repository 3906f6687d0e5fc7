"""Some nodes of a cluster, in one process; `cluster.py` gives the orders, one JSON line each, and gets one line back.

python -m bench.cluster_worker COOKIE EPMD_PORT SETUPTIME [PROFILE]
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import pstats
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

from beamnode import Epmd, Node, Tcp, a, receive, register, self, send, spawn
from bench.setting import cpu_seconds, rss_bytes

POLL_SECONDS = 0.02
SENDS_PER_TURN = 50


class Counter:
    """Messages that the nodes of this process have counted, and when the last one came."""

    def __init__(self) -> None:
        self.counted = 0
        self.last_at = 0.0


async def count(counter: Counter) -> None:
    register("bench", self())
    while True:
        await receive()
        counter.counted += 1
        counter.last_at = time.monotonic()


class Worker:
    def __init__(self, cookie: str, epmd_port: int, setuptime: float, profile: Path | None) -> None:
        self._cookie, self._epmd_port, self._setuptime, self._profile = cookie, epmd_port, setuptime, profile
        self._nodes: list[Node] = []
        self._counter = Counter()

    async def obey(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Run an order; every answer has the memory and the processor time of this process in it."""
        answer: dict[str, Any] = await getattr(self, order)(**arguments) or {}
        pid = os.getpid()
        return answer | {"rss": rss_bytes(pid), "cpu": cpu_seconds(pid)}

    async def nothing(self) -> None:
        """Only the figures."""

    async def start(self, names: list[str], hidden: bool = False) -> None:
        for name in names:
            node = Node(
                name,
                cookie=self._cookie,
                hidden=hidden,
                discovery=Epmd(self._epmd_port),
                carrier=Tcp(listen_address="127.0.0.1"),
                net_setuptime=self._setuptime,
            )
            await node.start()
            self._nodes.append(node)

    async def join(self, seed: str, connections: int) -> dict[str, Any]:
        """Connect every node to `seed`, and wait until each has so many connections."""
        if self._profile is None:
            return await self._join(seed, connections)
        profiler = cProfile.Profile()
        profiler.enable()
        try:
            return await self._join(seed, connections)
        finally:
            profiler.disable()
            with self._profile.open("w", encoding="utf-8") as out:
                for order in ("tottime", "cumulative"):
                    pstats.Stats(profiler, stream=out).strip_dirs().sort_stats(order).print_stats(45)

    async def _join(self, seed: str, connections: int) -> dict[str, Any]:
        for node in self._nodes:
            if node.name is not a[seed]:
                await node.connect(seed)
        while not all(len(node.list("connected")) == connections for node in self._nodes):
            await asyncio.sleep(POLL_SECONDS)
        return {"at": time.monotonic()}

    async def listen(self) -> None:
        """Let every node count what is sent to its process `bench`."""
        for node in self._nodes:
            await node.run_process(self._spawn_counter)

    async def _spawn_counter(self) -> None:
        spawn(count, self._counter)
        await asyncio.sleep(0)

    async def talk(self, names: list[str], messages: int) -> dict[str, Any]:
        """Let every node send so many messages to random others."""
        await asyncio.gather(*(node.run_process(self._talk, str(node.name), names, messages) for node in self._nodes))
        return {"at": time.monotonic()}

    async def _talk(self, own: str, names: list[str], messages: int) -> None:
        others = [(a.bench, a[name]) for name in names if name != own]
        for i in range(messages):
            send(random.choice(others), (a.msg, i, b"payload"))
            if i % SENDS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def counted(self) -> dict[str, Any]:
        return {"counted": self._counter.counted, "at": self._counter.last_at}


async def obey_orders(worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.__stdin__)
    while line := await reader.readline():
        answer = await worker.obey(**json.loads(line))
        print(json.dumps(answer), file=sys.__stdout__, flush=True)


def main() -> None:
    cookie, epmd_port, setuptime, *profile = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    worker = Worker(cookie, int(epmd_port), float(setuptime), Path(profile[0]) if profile else None)
    asyncio.run(obey_orders(worker))


if __name__ == "__main__":
    main()
