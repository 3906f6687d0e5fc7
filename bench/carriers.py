"""Unix sockets beside TCP on loopback: two Python nodes in two processes, the carriers in turns.

    .venv/bin/python -m bench.carriers --rounds 5 --loop uvloop

One node echoes, on both carriers at once; two clients in this process, one on each carrier, take turns in every round.
Trips: a small message there and back, one after the other. Stream: small messages one way, then one back. Large:
binaries of 1 MiB there and back. Figures are medians of the rounds, the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from beamnode import Node, StaticPorts, Tcp, a, receive, register, self, send
from beamnode.carriers.base import Carrier
from beamnode.carriers.unix import Unix
from bench.setting import loops

HOST: Final = "127.0.0.1"
ECHO: Final = f"echo@{HOST}"
COOKIE: Final = "bench"
TRIPS: Final = 5_000
STREAM: Final = 100_000
LARGE: Final = 100
LARGE_BYTES: Final = 1024 * 1024


async def echo(directory: str) -> None:
    carriers: list[Carrier] = [Tcp(listen_address=HOST), Unix(directory)]
    async with Node(ECHO, cookie=COOKIE, carrier=carriers, discovery=StaticPorts({}), hidden=True) as node:
        register("echo", self())
        print(node.listen_addresses()[0][1], flush=True)
        while True:
            match await receive():
                case (who, a.back, message):
                    send(who, message)
                case a.stop:
                    return


async def measure(node: Node) -> tuple[float, float, float]:
    """Seconds of a round trip, of a message of a stream, and of a large one both ways."""
    to, me = ("echo", ECHO), self()
    started = time.perf_counter()
    for number in range(TRIPS):
        send(to, (me, a.back, number))
        await receive()
    trip = (time.perf_counter() - started) / TRIPS
    started = time.perf_counter()
    for number in range(STREAM):
        send(to, (a.count, number))
        if number % 200 == 0:
            await asyncio.sleep(0)
    send(to, (me, a.back, a.done))
    await receive()
    stream = (time.perf_counter() - started) / STREAM
    data = bytes(LARGE_BYTES)
    started = time.perf_counter()
    for _ in range(LARGE):
        send(to, (me, a.back, data))
        await receive()
    return trip, stream, (time.perf_counter() - started) / LARGE


async def compare(directory: str, rounds: int, loop: str) -> None:
    command = [sys.executable, "-m", "bench.carriers", "--echo", directory, "--loop", loop]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    found: dict[str, list[tuple[float, float, float]]] = {"tcp": [], "unix": []}
    for _ in range(rounds):
        for carrier in (Tcp(listen_address=HOST), Unix(directory)):
            options = {} if carrier.by_name else {"discovery": StaticPorts({ECHO: port})}
            async with Node(f"{carrier.name}@{HOST}", cookie=COOKIE, carrier=carrier, hidden=True, **options) as node:
                assert await node.connect(ECHO)
                found[carrier.name].append(await measure(node))
    async with Node(f"last@{HOST}", cookie=COOKIE, carrier=Unix(directory), hidden=True):
        send(("echo", ECHO), a.stop)
        await process.wait()
    tcp, unix = ([median(column) for column in zip(*rows, strict=True)] for rows in found.values())
    print(f"\n{loop}, {rounds} rounds\n\n| | tcp | unix | unix / tcp |\n|---|--:|--:|--:|")
    for title, one, other in zip(("round trip", "message of a stream", "1 MiB both ways"), tcp, unix, strict=True):
        print(f"| {title} | {one * 1e6:,.2f} µs | {other * 1e6:,.2f} µs | {other / one:.2f} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", choices=loops(None))
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    for loop in [given.loop] if given.loop else loops(None):
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            if given.echo:
                runner.run(echo(given.echo))
                return
            with tempfile.TemporaryDirectory(prefix="bn") as directory:
                runner.run(compare(directory, given.rounds, loop))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


if __name__ == "__main__":
    main()
