"""The measured node in Python: the processes that `bench_peer.erl` has in its second half, on beamnode's public names.

    python -m bench.measured NAME COOKIE EPMD_PORT LOOP [TICKTIME [OPTFILE_OF_TLS]]

Writes the codec's name once it is up, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from beamnode import Epmd, GenServer, Node, Tcp, a, process_info, receive, register, self, send, send_after, spawn
from beamnode.carriers.base import Carrier
from beamnode.carriers.tls import Tls
from beamnode.etf import implementation

SENDS_PER_TURN = 200  # then the loop has its turn, as the scheduler has it after 4000 reductions of an Erlang process
PRESSED_BYTES = 1024 * 1024


class Adder(GenServer):
    def init(self) -> None:
        self.sum = 0

    def handle_call(self, request: Any, sender: Any) -> Any:
        match request:
            case (a.add, n):
                self.sum += n
                return self.sum


async def echo() -> None:
    while True:
        sender, i = await receive()
        send(sender, i)


async def raw() -> None:
    total = 0
    while True:
        sender, reference, (_, n) = await receive()
        total += n
        send(sender, (reference, total))


async def count(owner: Any, n: int) -> None:
    for _ in range(n):
        await receive()
    send(owner, (a.counted, self()))


counted: dict[Any, int] = {}  # by the pid of who counts


async def count_flood(owner: Any) -> None:
    """Count messages without end; `{count, From}` among them is answered when its turn comes."""
    me = self()
    counted[me] = 0
    while True:
        match await receive():
            case (a.count, asker):
                send(asker, (a.counted, me))
            case _:
                counted[me] += 1


async def tell_counted(owner: Any, counter: Any) -> None:
    """What a `count_flood` has counted so far, and what waits in its mailbox."""
    info = process_info(counter)
    assert info is not None
    send(owner, (a.counted, self(), (counted[counter], info["message_queue_len"])))


async def send_all(owner: Any, n: int, payload: Any) -> None:
    await receive()  # the word to go
    turn = SENDS_PER_TURN if len(payload) < 1024 else 1
    for i in range(1, n + 1):
        send(owner, (a.msg, i, payload))
        if i % turn == 0:
            await asyncio.sleep(0)


async def ping(owner: Any, target: Any, n: int) -> None:
    me, samples = self(), []
    for i in range(n):
        before = time.perf_counter_ns()
        send(target, (me, i))
        await receive()
        samples.append(time.perf_counter_ns() - before)
    send(owner, (a.pinged, me, samples))


async def time_timers(owner: Any, milliseconds: int, seconds: int) -> None:
    """How late a timer is, in nanoseconds: one after the other, for so many seconds."""
    samples, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        due = time.monotonic_ns() + milliseconds * 1_000_000
        send_after(self(), a.timer, milliseconds / 1000)
        await receive()
        samples.append(time.monotonic_ns() - due)
    send(owner, (a.timed, self(), samples))


async def flood(owner: Any, target: Any, seconds: int, window: int) -> None:
    """Send to a counting process of any node, with at most two windows of messages under way."""
    worker = await started(target, a.count)
    send(owner, (a.flooding, self(), worker))
    sent, until = 0, time.monotonic() + seconds
    send(worker, (a.count, self()))
    while time.monotonic() < until:
        for i in range(window):
            send(worker, (a.msg, i, b"payload"))
            if i % SENDS_PER_TURN == 0:
                await asyncio.sleep(0)
        sent += window
        await receive()  # the answer to the question before this window
        send(worker, (a.count, self()))
    send(owner, (a.flooded, self(), sent))


async def press(owner: Any, kind: Any, to: Any, senders: int, each: int) -> None:
    """Send so many messages of 1 MiB from each of so many processes."""
    for _ in range(senders):
        spawn(press_in_a_thread if kind is a.thread else press_in_a_task, to, each)
    send(owner, (a.pressing, self(), senders))


async def press_in_a_task(to: Any, n: int) -> None:
    for i in range(1, n + 1):
        send(to, (a.msg, i, bytes((i & 255,)) * PRESSED_BYTES))
        await asyncio.sleep(0)  # here it is withheld while the peer is busy


def press_in_a_thread(to: Any, n: int) -> None:
    for i in range(1, n + 1):
        send(to, (a.msg, i, bytes((i & 255,)) * PRESSED_BYTES))


async def started(node: Any, job: Any) -> Any:
    send(("bench", node), (self(), job))
    _, worker = await receive()
    return worker


async def list_nodes(owner: Any, node: Node) -> None:
    send(owner, (a.nodes, self(), node.list()))


async def commands(node: Node) -> None:
    jobs: dict[Any, Callable[..., Coroutine[Any, Any, None]]] = {
        a.count: count,
        a.send: send_all,
        a.ping: ping,
        a.timers: time_timers,
        a.flood: flood,
        a.counted: tell_counted,
        a.press: press,
    }
    while True:
        match await receive():
            case (owner, a.count):
                spawn(job, owner, count_flood)
            case (owner, a.nodes):
                spawn(job, owner, list_nodes, node)
            case (owner, (kind, *args)):
                spawn(job, owner, jobs[kind], *args)


async def job(owner: Any, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    send(owner, (a.started, self()))
    await function(owner, *args)


async def run(name: str, cookie: str, epmd_port: int, ticktime: float, optfile: str | None) -> None:
    carrier: Carrier = Tcp(listen_address="127.0.0.1")
    if optfile is not None:
        carrier = Tls.from_optfile(optfile, listen_address="127.0.0.1")
    async with Node(name, cookie=cookie, discovery=Epmd(epmd_port), carrier=carrier, net_ticktime=ticktime) as node:
        await Adder.start(name="bench_server")
        register("bench_echo", spawn(echo))
        register("bench_raw", spawn(raw))
        register("bench", spawn(commands, node))
        assert sys.__stdout__ is not None
        assert sys.__stdin__ is not None
        print(implementation, file=sys.__stdout__, flush=True)
        await asyncio.to_thread(sys.__stdin__.read)


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


def main() -> None:
    name, cookie, epmd_port, loop, *others = sys.argv[1:]
    ticktime, optfile = [*others, None, None][:2]
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(run(name, cookie, int(epmd_port), float(ticktime or 60.0), optfile))


if __name__ == "__main__":
    main()
