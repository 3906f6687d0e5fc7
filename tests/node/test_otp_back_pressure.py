"""A real node that does not read: who sends to it waits, others are served, and everything arrives when it reads on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support_otp import World, expect, until

from beamnode import Atom, Node, Pid, a, receive, self, send, send_wait, spawn, spawn_monitor
from beamnode.services.net_control import ConnectionInfo
from beamnode.testing.peers import ErlNode, Otp

pytestmark = pytest.mark.otp

LIMIT = 1024 * 1024
PIECE = bytes(256 * 1024)
COUNT = 120  # 30 MiB: more than the system takes


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


@pytest.fixture(scope="module")
def other(world: World) -> ErlNode:
    return world.start_peer("other")


@pytest.fixture
def suspended(world: World) -> Iterator[Callable[[bool], None]]:
    """Stops the peer, and lets it go on, at the end of the test at the latest."""

    def act(stop: bool) -> None:
        if stop:
            world.peer.suspend()
        else:
            world.peer.resume()

    yield act
    world.peer.resume()


def connection(node: Node, name: Atom) -> ConnectionInfo:
    (info,) = [info for info in node.connections() if info.node is name]
    return info


async def waits(to: Pid, tag: Any) -> None:
    for number in range(1, COUNT + 1):
        await send_wait(to, (tag, number, PIECE))


def in_a_thread(to: Pid, tag: Any) -> None:
    for number in range(1, COUNT + 1):
        send(to, (tag, number, PIECE))


COUNTER = """
    spawn(fun () ->
        Loop = fun Loop(Last, Left) when Left =:= 0 -> Owner ! {counted, Last};
                   Loop(Last, Left) ->
                       receive {Tag, N, _} ->
                           N = maps:get(Tag, Last, 0) + 1,
                           Loop(Last#{Tag => N}, Left - 1)
                       end
               end,
        Loop(#{}, Count)
    end)
"""


def test_senders_wait_and_others_are_served(world: World, other: ErlNode, suspended: Callable[[bool], None]) -> None:
    async def main() -> None:
        async with world.node() as node:
            assert await node.connect(world.name)
            assert await node.connect(other.name)
            counter = await world.erl(COUNTER, Owner=self(), Count=3 * COUNT)
            echo = await asyncio.to_thread(other.eval, "spawn(fun support:echo/0)")
            suspended(True)
            spawn(waits, counter, a.one)
            spawn(waits, counter, a.two)
            spawn(in_a_thread, counter, a.three)
            await until(lambda: connection(node, world.name).busy)
            for number in range(200):
                send(echo, (self(), number))
                assert await expect() == (a.echo, number)
            assert connection(node, world.name).unsent_bytes < LIMIT + 3 * len(PIECE) + 64 * 1024
            assert connection(node, world.name).busy
            suspended(False)
            assert await expect() == (a.counted, {a.one: COUNT, a.two: COUNT, a.three: COUNT})
            await until(lambda: not connection(node, world.name).busy)

    asyncio.run(main())


def test_small_messages_pass_a_large_one(world: World, suspended: Callable[[bool], None]) -> None:
    """100 MB, of which the peer has taken some when the others are sent; each process's own messages stay in order."""
    large = bytes(100_000_000)

    async def sends_large(to: Pid) -> None:
        send(to, (a.large, large))
        send(to, a.after_large)

    async def sends_small(to: Pid, tag: int) -> None:
        for number in range(20):
            send(to, (a.small, tag, number))

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            collect = """
                spawn(fun () ->
                    Owner ! {got, [receive {large, B} -> {large, byte_size(B)}; M -> M end || _ <- lists:seq(1, 102)]}
                end)
            """
            to = await world.erl(collect, Owner=self())
            suspended(True)
            spawn(sends_large, to)
            await until(lambda: connection(node, world.name).busy)
            for tag in range(5):
                spawn(sends_small, to, tag)
            await asyncio.sleep(0.05)
            suspended(False)
            match await expect():
                case (a.got, got):
                    assert got[100:] == [(a.large, len(large)), a.after_large]
                    for tag in range(5):
                        mine = [message[2] for message in got[:100] if message[1] == tag]
                        assert mine == list(range(20))

    asyncio.run(main())


def test_the_end_of_who_sent_a_large_message_comes_after_it(world: World) -> None:
    async def sends(to: Pid) -> None:
        await receive()
        send(to, (a.large, bytes(5_000_000)))

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            pid = spawn(sends, watcher := await (puppet := await world.puppet()).run("self()"))
            assert watcher == puppet.pid
            await puppet.run("process_flag(trap_exit, true), link(P), monitor(process, P)", P=pid)
            send(pid, a.go)
            first, *rest = [await puppet.next() for _ in range(3)]
            assert first == (a.large, bytes(5_000_000))
            assert {message[0] for message in rest} == {a.EXIT, a.DOWN}

    asyncio.run(main())


def test_a_peer_that_stays_stopped_is_lost_and_nobody_waits_for_it(
    world: World, suspended: Callable[[bool], None]
) -> None:
    async def main() -> None:
        async with world.node(net_ticktime=1.0, dist_auto_connect="never") as node:
            assert await node.connect(world.name)
            to = await world.erl("spawn(fun Loop() -> receive _ -> Loop() end end)")
            suspended(True)
            _, reference = spawn_monitor(waits, to, a.one)
            await until(lambda: connection(node, world.name).busy)
            await until(lambda: node.list("connected") == [])
            assert (await expect())[1] == reference
            suspended(False)
            await world.gone_there(node)

    asyncio.run(main())
