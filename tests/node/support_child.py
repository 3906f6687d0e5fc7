"""Run as a program: a node of ours in a process of its own, to be stopped and killed from outside.

    python support_child.py NAME COOKIE EPMD_PORT PEER [NET_TICKTIME [hidden]]

It connects to PEER, prints `ready`, and answers what `child` is sent, `{From, Message}`, with
`{child, Message, self()}`. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

from beamnode import Epmd, Node, Pid, a, receive, register, self, send


async def main(
    name: str, cookie: str, epmd_port: str, peer: str, net_ticktime: str = "60", visibility: str = "visible"
) -> None:
    discovery, hidden = Epmd(int(epmd_port)), visibility == "hidden"
    async with Node(name, cookie=cookie, discovery=discovery, net_ticktime=float(net_ticktime), hidden=hidden) as node:
        register("child", self())
        assert await node.connect(peer) is True
        print("ready", flush=True)
        answering = asyncio.create_task(answer())
        await asyncio.to_thread(sys.stdin.read)
        answering.cancel()


async def answer() -> None:
    while True:
        match await receive():
            case (Pid() as sender, message):
                send(sender, (a.child, message, self()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
