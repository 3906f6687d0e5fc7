"""Run as a program: a node of ours in a process of its own that is blocked, stopped or ended, and says what it hears.

    python support_alive.py NAME COOKIE EPMD_PORT PEER NET_TICKTIME [visible]

It connects to PEER, hidden if not told otherwise, and prints `up`. Its process `alive` answers `{From, Request}` with
`{Request, Answer}`: `watch` links and monitors From; `told` gives what else it was sent; `{block, Seconds}` blocks.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from beamnode import Epmd, Node, Pid, a, link, monitor, receive, register, self, send, trap_exit


async def main(
    name: str, cookie: str, epmd_port: str, peer: str, net_ticktime: str, visibility: str = "hidden"
) -> None:
    discovery, hidden = Epmd(int(epmd_port)), visibility == "hidden"
    async with Node(name, cookie=cookie, discovery=discovery, hidden=hidden, net_ticktime=float(net_ticktime)) as node:
        register("alive", self())
        trap_exit()
        assert await node.connect(peer) is True
        node.monitor_nodes(node_type="all", nodedown_reason=True)
        print("up", flush=True)
        told: list[Any] = []
        while True:
            match await receive():
                case (Pid() as sender, request):
                    send(sender, (request, answer(sender, request, told)))
                case other:
                    told.append(other)


def answer(sender: Pid, request: Any, told: list[Any]) -> Any:
    match request:
        case a.watch:
            link(sender)
            monitor(sender)
        case a.told:
            return told
        case (a.block, seconds):
            time.sleep(seconds)
    return self()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
