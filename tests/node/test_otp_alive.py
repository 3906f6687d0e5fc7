"""Nodes of ours and of OTP that are blocked, stopped for twice the tick time, and ended by SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from support_otp import Puppet, World, expect, unordered

from beamnode import Atom, Pid, a, link, monitor, self, trap_exit
from beamnode.testing.peers import ErlNode, Otp

pytestmark = pytest.mark.otp

TICKTIME = 2
STOPPED_SECONDS = 2.0 * TICKTIME
BLOCKED_SECONDS = 2.0 * TICKTIME
EXTRA_ARGS = ["-kernel", "net_ticktime", str(TICKTIME)]


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp, extra_args=EXTRA_ARGS) as world:
        yield world


class Child:
    """`support_alive.py`, and a process of the peer that watches it."""

    def __init__(self, world: World) -> None:
        self.name = Atom(world.fresh_name("child"))
        self.world = world
        self.puppet: Puppet
        self.pid: Pid
        arguments = [self.name.name, world.cookie, str(world.epmd_port), world.peer.name, str(TICKTIME)]
        program = str(Path(__file__).with_name("support_alive.py"))
        self.process = subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE)

    async def __aenter__(self) -> Self:
        try:
            await self.begin()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def begin(self) -> None:
        assert self.process.stdout is not None
        assert await asyncio.to_thread(self.process.stdout.readline) == b"up\n"
        self.puppet = await self.world.puppet()
        await self.puppet.run("process_flag(trap_exit, true)")
        self.pid = await self.ask(a.watch)
        await self.puppet.run("monitor(process, Pid)", Pid=self.pid)
        await self.puppet.run("monitor_node(Node, true)", Node=self.name)
        assert await self.ask(a.told) == []  # so the monitor is there, too

    async def ask(self, request: Any) -> Any:
        await self.tell(request)
        answered, answer = await self.puppet.next()
        assert answered == request
        return answer

    async def tell(self, request: Any) -> None:
        await self.puppet.run("{alive, Node} ! {self(), Request}", Node=self.name, Request=request)

    async def told_there(self, reason: Atom) -> None:
        """What the watching process is told of the end: each once."""
        messages = [await self.puppet.next() for _ in range(3)]
        kinds = unordered((message[0], message[-1]) for message in messages)
        assert kinds == unordered([(a.EXIT, reason), (a.DOWN, reason), (a.nodedown, self.name)])
        await self.puppet.nothing_comes()

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.communicate)


def test_blocked_stopped_and_ended(world: World) -> None:
    """All at the same time: each has to wait."""

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(a_blocked_node_stays(world))
            tasks.create_task(a_stopped_node_of_ours_comes_back(world))
            tasks.create_task(a_stopped_peer_comes_back(world))
            tasks.create_task(sigterm_tells_the_peer_at_once(world))

    asyncio.run(main())


async def a_blocked_node_stays(world: World) -> None:
    """For twice the tick time its loop does nothing."""
    async with Child(world) as child:
        started = time.monotonic()
        assert await child.ask((a.block, BLOCKED_SECONDS)) == child.pid
        assert time.monotonic() - started >= BLOCKED_SECONDS
        assert await child.ask(a.told) == []
        await child.puppet.nothing_comes()


async def a_stopped_node_of_ours_comes_back(world: World) -> None:
    """Its helper is stopped with it: OTP takes it for dead, then it notices too; each side is told once."""
    async with Child(world) as child:
        os.kill(child.process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        await child.told_there(a.noconnection)
        await asyncio.sleep(STOPPED_SECONDS - (time.monotonic() - stopped))
        os.kill(child.process.pid, signal.SIGCONT)
        assert await child.puppet.run("net_adm:ping(Node)", Node=child.name) is a.pong
        told = await child.ask(a.told)
        assert heads(told) == {
            (a.EXIT, child.puppet.pid): 1,
            (a.DOWN, a.noconnection): 1,
            (a.nodedown, world.name): 1,
            (a.nodeup, world.name): 1,
        }
        assert await child.ask(a.watch) == child.pid
        await child.puppet.nothing_comes()


async def a_stopped_peer_comes_back(world: World) -> None:
    """The other way round, and both of them dial when it goes on."""
    peer = await asyncio.to_thread(world.start_peer, world.fresh_name("stopped"), extra_args=EXTRA_ARGS)
    name = Atom(peer.name)
    async with world.node(net_ticktime=TICKTIME, hidden=True) as node:
        node.monitor_nodes(node_type="all", nodedown_reason=True)
        trap_exit()
        assert await node.connect(name)
        assert (await expect())[:2] == (a.nodeup, name)
        puppet = await puppet_of(peer)
        link(puppet)
        watched = monitor(puppet)
        watching = "fun () -> process_flag(trap_exit, true), monitor_node(Node, true) end"
        assert await on(peer, f"support:order(Puppet, {{'$run', self(), {watching}}})", puppet, Node=node.name) is True
        peer.suspend()
        stopped = time.monotonic()
        messages = [await expect() for _ in range(3)]
        assert unordered(message[:2] for message in messages) == unordered(
            [(a.EXIT, puppet), (a.DOWN, watched), (a.nodedown, name)]
        )
        await asyncio.sleep(STOPPED_SECONDS - (time.monotonic() - stopped))
        peer.resume()
        ours, theirs = await asyncio.gather(node.ping(name), on(peer, "net_adm:ping(Node)", puppet, Node=node.name))
        assert (ours, theirs) == (a.pong, a.pong)
        assert (await expect())[:2] == (a.nodeup, name)
        received = "element(2, process_info(Puppet, messages))"
        assert heads(await on(peer, received, puppet)) == {(a.EXIT, self()): 1, (a.nodedown, node.name): 1}
        with pytest.raises(TimeoutError):
            await expect(timeout=0.1)
    await asyncio.to_thread(peer.kill)


async def sigterm_tells_the_peer_at_once(world: World) -> None:
    """Not by a connection that is cut: its process has ended, in order, before that."""
    async with Child(world) as child:
        child.process.terminate()
        await child.told_there(a.shutdown)
        assert await asyncio.to_thread(child.process.wait) == 143
        names = await world.erl("net_adm:names()")
        assert child.name.name.partition("@")[0] not in str(names)


def heads(messages: list[Any]) -> Counter[Any]:
    """How often each thing was told: of links and nodes who it is, of monitors why."""
    return Counter((message[0], message[-1] if message[0] is a.DOWN else message[1]) for message in messages)


async def puppet_of(peer: ErlNode) -> Pid:
    pid: Pid = await asyncio.to_thread(peer.eval, "spawn(fun support:puppet/0)")
    return pid


async def on(peer: ErlNode, source: str, puppet: Pid, **bindings: Any) -> Any:
    call = f"apply(fun ({', '.join(['Puppet', *bindings])}) -> {source} end, GIVEN)"
    return await asyncio.to_thread(peer.eval, call, 20.0, GIVEN=[puppet, *bindings.values()])
