"""A node to be attacked: a program of its own, so that its memory can be measured and its death cannot hide.

`python victim.py '{"name": ..., "port": ..., "cookie": ..., "friend": ..., "friend_port": ..., "setuptime": ...}'`

It answers each line on its standard input with a line of JSON: what it holds at the moment. It ends with its input.
Everything that is logged goes to standard error, at level DEBUG unless `level` says otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from typing import Any

import behaviours

from beamnode import Node, limit_mailbox, receive
from beamnode.carriers.tcp import Tcp
from beamnode.errors import NodeNotFound
from beamnode.limits import Limits
from beamnode.node.epmd_discovery import FixedRegistration


class Directory:
    """Discovery without epmd: knows the friend; whoever is called `slow...` is looked for in vain and for long."""

    def __init__(self, port: int, friend: str, friend_port: int) -> None:
        self._port = port
        self._known = {friend: friend_port}
        self.asking = 0
        self.asking_most = 0

    def listen_port(self, alive: str, host: str) -> int:
        return self._port

    async def register(self, *_: object, **__: object) -> FixedRegistration:
        return FixedRegistration()

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        self.asking += 1
        self.asking_most = max(self.asking_most, self.asking)
        try:
            if alive.startswith("slow"):
                await asyncio.sleep(3600)
            if f"{alive}@{host}" not in self._known:
                raise NodeNotFound(f"no node {alive}@{host}")
            return host, self._known[f"{alive}@{host}"]
        finally:
            self.asking -= 1


async def wait_for_ever(*_: object) -> None:
    """Exposed as `victim:wait/1`."""
    await receive()


async def sleep(*_: object) -> None:
    """Exposed as `victim:sleep/1`: a process that never receives."""
    await asyncio.sleep(3600)


async def sleep_with_limit(*_: object) -> None:
    """Exposed as `victim:limited/1`: the same with a mailbox of 1000 messages, which drops what is too much."""
    limit_mailbox(1000)
    await asyncio.sleep(3600)


async def add(one: int, two: int) -> int:
    """Exposed as `victim:add/2`."""
    return one + two


def sleep_in_thread(*_: object) -> None:
    """Exposed as `victim:thread/1`: a process that is a thread."""
    from beamnode.sync import receive as receive_blocking

    receive_blocking()


def without_traceback(record: logging.LogRecord) -> bool:
    """Exposed functions may crash on what peers give them: no bug of the library."""
    if "(victim." in record.getMessage():
        record.exc_info = None
    return True


def holdings(node: Any, directory: Directory) -> dict[str, Any]:
    """What could leak."""
    gc.collect()
    network = node._network
    signals = node._runtime.signals
    return {
        "sessions": len(network._sessions),
        "handshakes": len(network._accepting),
        "dialling": len(network._dialling),
        "entries": len(network.connections.connections()),
        "nodes": [str(name) for name in node.list("connected")],
        "processes": len(signals.processes()),
        "registered": sorted(str(name) for name in signals.registered()),
        "ties": len(signals._ties),
        "watchers": sum(len(process.watchers) for process in signals.processes()),
        "tasks": len(asyncio.all_tasks()),
        "timers": len([timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]),
        "asking": directory.asking,
        "asking_most": directory.asking_most,
        "fds": len(os.listdir("/proc/self/fd")),
        "rss_kib": rss_kib(),
        "ended": behaviours.ended,
        "asked_for": behaviours.asked_for,
    }


def rss_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def main(given: dict[str, Any]) -> None:
    logging.basicConfig(level=given.get("level", "DEBUG"), format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("beamnode.process").addFilter(without_traceback)
    directory = Directory(given["port"], given["friend"], given["friend_port"])
    node = Node(
        given["name"],
        cookie=given["cookie"],
        carrier=Tcp(listen_address="127.0.0.1", listen_ports=given["port"]),
        discovery=directory,
        net_setuptime=given.get("setuptime", 1.0),
        net_ticktime=given.get("ticktime", 60.0),
        strings=given.get("strings", False),
        limits=Limits(**given.get("limits", {})),
    )
    node.expose(wait_for_ever, module="victim", name="wait")
    node.expose(sleep, module="victim", name="sleep")
    node.expose(sleep_with_limit, module="victim", name="limited")
    node.expose(add, module="victim", name="add")
    node.expose(sleep_in_thread, module="victim", name="thread")
    await node.start()
    if given.get("behaviours"):
        await behaviours.start(node)
    print(json.dumps("up"), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(holdings(node, directory)), flush=True)
    await node.stop()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
