"""Ticks: with a `net_ticktime` of 4 s a connection stays up while both live, however busy or idle, and no longer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest
from support_otp import Child, Puppet, World, expect, unordered

from beamnode import Atom, a, link, monitor, self, send, trap_exit
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp

TICKTIME = 4
# Silence is noticed T to T + T/4 after the last byte, which is at most T/4 old when a node is stopped.
EARLIEST_SECONDS = TICKTIME * 0.75
LATEST_SECONDS = TICKTIME * 1.25 + 1.5  # and what a busy machine adds
IDLE_SECONDS = 15
EXTRA_ARGS = ["-kernel", "net_ticktime", str(TICKTIME)]
LARGE_BYTES = 100 * 1024 * 1024


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp, extra_args=EXTRA_ARGS) as world:
        yield world


def test_who_lives_stays_and_who_is_silent_goes(world: World) -> None:
    """Idle connections, a stopped peer and a stopped node of ours, all at the same time: each has to wait."""

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(idle_connections_stay(world))
            tasks.create_task(a_stopped_peer_is_dropped(world))
            tasks.create_task(a_stopped_node_of_ours_is_dropped(world))

    asyncio.run(main())


async def idle_connections_stay(world: World) -> None:
    """Of a visible and of a hidden node of ours: without the ticks of one side it would be over after 5 s."""
    visible, hidden = world.node(net_ticktime=TICKTIME), world.node(net_ticktime=TICKTIME, hidden=True)
    async with visible, hidden:
        for node in (visible, hidden):
            assert await node.connect(world.name)
        connections = [node.connection_id(world.name) for node in (visible, hidden)]
        await asyncio.sleep(IDLE_SECONDS)
        assert [node.connection_id(world.name) for node in (visible, hidden)] == connections
        for node in (visible, hidden):
            assert await world.erl("support:nodeup(Node)", Node=node.name) is True


async def a_stopped_peer_is_dropped(world: World) -> None:
    """SIGSTOP: all that is tied to it is told, with the reason `net_tick_timeout`. It can come back."""
    peer = await asyncio.to_thread(world.start_peer, "stopped", extra_args=EXTRA_ARGS)
    async with world.node(net_ticktime=TICKTIME, hidden=True) as node:
        node.monitor_nodes(node_type="all", nodedown_reason=True)
        trap_exit()
        echo = await node.spawn(peer.name, "support", "echo", [])
        link(echo)
        watched = monitor(echo)
        await expect(lambda message: message[0] is a.nodeup)
        await asyncio.sleep(1)
        peer.suspend()
        stopped = time.monotonic()
        messages = [await expect() for _ in range(3)]
        assert EARLIEST_SECONDS < time.monotonic() - stopped < LATEST_SECONDS
        info = {a.node_type: a.hidden, a.nodedown_reason: a.net_tick_timeout}
        assert unordered(messages) == unordered(
            [
                (a.EXIT, echo, a.noconnection),
                (a.DOWN, watched, a.process, echo, a.noconnection),
                (a.nodedown, Atom(peer.name), info),
            ]
        )
        peer.resume()
        assert await node.ping(peer.name) is a.pong
    await asyncio.to_thread(peer.kill)


async def a_stopped_node_of_ours_is_dropped(world: World) -> None:
    """SIGSTOP of our process: the peer takes it for dead in time, and it can come back too."""
    puppet = await world.puppet()
    async with Child(world, TICKTIME, hidden=True) as child:
        await puppet.run("net_kernel:monitor_nodes(true, [{node_type, hidden}, nodedown_reason])")
        await puppet.run("{child, Node} ! {self(), 1}", Node=child.name)
        tag, _, pid = await puppet.next()
        assert tag is a.child
        await puppet.run("monitor(process, Pid)", Pid=pid)
        await asyncio.sleep(1)
        os.kill(child.process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        down = await next_about(puppet, child.name)
        assert EARLIEST_SECONDS < time.monotonic() - stopped < LATEST_SECONDS
        assert (down[0], dict(down[2])[a.nodedown_reason]) == (a.nodedown, a.net_tick_timeout)
        os.kill(child.process.pid, signal.SIGCONT)
        await puppet.run("{child, Node} ! {self(), 2}", Node=child.name)
        while (message := await puppet.next())[0] is not a.child:
            assert message[0] in (a.nodeup, a.nodedown, a.DOWN)
        assert message == (a.child, 2, pid)


async def next_about(puppet: Puppet, node: Atom) -> tuple[Atom, ...]:
    """The next node message about `node`, among those about others."""
    while True:
        message = await puppet.next()
        if message[:2] == (a.nodedown, node):
            return message


def test_a_hundred_megabytes(world: World) -> None:
    """There and back; the connection stays up while it takes its time, and for some ticks after."""
    block = os.urandom(1 << 20)
    large = block * (LARGE_BYTES // len(block))

    async def main() -> None:
        async with world.node(net_ticktime=TICKTIME) as node:
            await node.connect(world.name)
            connection = node.connection_id(world.name)
            echo = await world.erl("spawn(fun support:echo/0)")
            started = time.monotonic()
            send(echo, (self(), large))
            tag, back = await expect(timeout=60)
            seconds = time.monotonic() - started
            assert tag is a.echo
            assert back == large
            print(f"{LARGE_BYTES >> 20} MiB there and back in {seconds:.1f} s")
            await asyncio.sleep(TICKTIME / 2)
            assert node.connection_id(world.name) == connection
            assert await world.erl("support:nodeup(Node)", Node=node.name) is True

    asyncio.run(main())
