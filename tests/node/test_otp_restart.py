"""Nodes that come back under the same name: real ones, and ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import HOST, World, echo, expect, nothing_comes

from beamnode import Atom, Pid, a, link, monitor, register, self, send, spawn, trap_exit
from beamnode.testing.peers import ErlNode, Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


# --- A peer -----------------------------------------------------------------------------------------------------------


def test_a_peer_is_started_again(world: World) -> None:
    """Its old pids are dead, though a process of the same number may live; names and new pids work."""
    first = world.start_peer("phoenix")

    async def main() -> None:
        async with world.node() as node:
            old = await _a_process_of(first)
            await node.connect(first.name)
            send(old, (self(), 1))
            assert await expect() == (a.echo, 1)
            watched = monitor(old)
            await asyncio.to_thread(first.kill)
            assert await expect() == (a.DOWN, watched, a.process, old, a.noconnection)
            second = await asyncio.to_thread(world.start_peer, "phoenix")
            await asyncio.to_thread(second.eval, "register(echo, spawn(fun support:echo/0))")
            new = await _a_process_of(second)
            assert new.creation != old.creation
            await _is_dead(Pid(old.node, new.id, new.serial, old.creation))
            await _is_dead(old)
            for to in (new, ("echo", second.name)):
                send(to, (self(), 2))
                assert await expect() == (a.echo, 2)
            assert node.list() == [Atom(second.name)]
            await asyncio.to_thread(second.kill)

    asyncio.run(main())


async def _a_process_of(peer: ErlNode) -> Pid:
    pid = await asyncio.to_thread(peer.eval, "spawn(fun support:echo/0)")
    assert isinstance(pid, Pid)
    return pid


async def _is_dead(pid: Pid) -> None:
    trap_exit()
    send(pid, (self(), a.lost))
    link(pid)
    assert await expect() == (a.EXIT, pid, a.noproc)
    watched = monitor(pid)
    assert await expect() == (a.DOWN, watched, a.process, pid, a.noproc)


def test_a_peer_that_leaves_the_distribution_and_comes_back(world: World) -> None:
    """`net_kernel:stop()`, `start`: its processes live on, but the pids of the earlier life mean nobody any more."""
    peer = world.start_peer(None, interface=None, cookie=None)

    async def main() -> None:
        async with world.node() as node:
            lives = []
            for _ in range(2):
                await asyncio.to_thread(peer.eval, START, Name=Atom(f"loner@{HOST}"), Cookie=Atom(world.cookie))
                assert await node.connect(f"loner@{HOST}") is True
                lives.append(await asyncio.to_thread(peer.eval, TELL, Here=self()))
                assert await expect() == (a.i_am, lives[-1])
                watched = monitor(lives[-1])
                await asyncio.sleep(0.05)
                if len(lives) == 1:
                    await asyncio.to_thread(peer.eval, "ok = net_kernel:stop()")
                    assert await expect() == (a.DOWN, watched, a.process, lives[0], a.noconnection)
            old, new = lives
            assert (old.id, old.serial) == (new.id, new.serial)
            assert old.creation != new.creation
            await _is_dead(old)
            send(new, (self(), 1))
            assert await expect() == (a.echo, 1)

    with peer:
        asyncio.run(main())


START = "{ok, _} = net_kernel:start([Name, longnames]), erlang:set_cookie(Cookie)"
TELL = """
case whereis(echo) of undefined -> register(echo, spawn(fun support:echo/0)); _ -> ok end,
Here ! {i_am, whereis(echo)}, whereis(echo)
"""


# --- Ours -------------------------------------------------------------------------------------------------------------


def test_our_node_is_stopped_and_started(world: World) -> None:
    """The peer sees it go and come back with another creation. Our processes live on, under their old pids."""

    async def main() -> None:
        node = world.node()
        async with node:
            puppet = await world.puppet()
            await node.connect(world.name)
            await puppet.run("net_kernel:monitor_nodes(true)")
            ours = spawn(echo)
            register("echo", ours)
            watched = await puppet.run("monitor(process, Pid)", Pid=ours)
            creation = node.creation
            assert await node.stop() is True
            messages = {await puppet.next(), await puppet.next()}
            assert messages == {(a.DOWN, watched, a.process, ours, a.noconnection), (a.nodedown, node.name)}
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pang
            local = self()
            send(ours, (local, a.alone))
            assert await expect() == (a.echo, a.alone)

            await node.start()
            assert node.creation != creation
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            assert await puppet.next() == (a.nodeup, node.name)
            young = spawn(echo)
            assert young.creation == node.creation
            for pid in (ours, young):
                await puppet.run("Pid ! {self(), 1}", Pid=pid)
                assert await puppet.next() == (a.echo, 1)
            await puppet.run("{echo, Node} ! {self(), 2}", Node=node.name)
            assert await puppet.next() == (a.echo, 2)
            watched = await puppet.run("monitor(process, Pid)", Pid=ours)
            await puppet.reached()
            send(ours, a.stop)
            assert await puppet.next() == (a.DOWN, watched, a.process, ours, a.normal)
        assert await puppet.next() == (a.nodedown, node.name)

    asyncio.run(main())


def test_pids_of_an_earlier_node_object(world: World) -> None:
    """Another `Node` of the same name has nothing to do with the first one's processes: `noproc`."""

    async def main() -> None:
        name = world.fresh_name()
        puppet = await world.puppet()
        async with world.node(name) as node:
            await node.connect(world.name)
            old = [spawn(echo) for _ in range(5)]
        await world.gone_there(node)
        async with world.node(name) as node:
            await node.connect(world.name)
            young = [spawn(echo) for _ in range(5)]
            assert {(pid.id, pid.serial) for pid in old} & {(pid.id, pid.serial) for pid in young}
            for pid in old:
                watched = await puppet.run("Pid ! {Me, lost}, monitor(process, Pid)", Pid=pid, Me=self())
                assert await puppet.next() == (a.DOWN, watched, a.process, pid, a.noproc)
            await nothing_comes(0.02)

    asyncio.run(main())


def test_stop_and_start_many_times(world: World) -> None:
    async def main() -> None:
        creations: list[Any] = []
        async with world.node() as node:
            for _ in range(10):
                assert await node.ping(world.name) is a.pong
                creations.append(node.creation)
                await node.stop()
                await node.start()
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
        assert len(set(creations)) == len(creations)

    asyncio.run(main())
