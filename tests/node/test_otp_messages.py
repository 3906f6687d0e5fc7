"""Many messages, in order, and messages that are sent before there is a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support_otp import World, expect, until

from beamnode import Atom, Epmd, Pid, a, receive, register, self, send, spawn
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp

MANY = {25: 200_000, 27: 1_000_000, 29: 200_000}  # messages of each of two senders together
MANY_SECONDS = 100.0
SENT_AT_ONCE = 200  # then others may run


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


async def number(to: Pid, tag: Atom, count: int) -> None:
    for n in range(1, count + 1):
        send(to, (tag, n))
        if n % SENT_AT_ONCE == 0:
            await asyncio.sleep(0)


async def count(owner: Pid, tag: Atom, count: int) -> None:
    for n in range(1, count + 1):
        message = await receive()
        if message != (tag, n):
            send(owner, (a.out_of_order, tag, n, message))
            return
    send(owner, (a.counted, tag, count))


def test_many_messages_to_the_peer(world: World) -> None:
    """Two of our processes send at the same time; each one's messages arrive whole and in order."""
    each = MANY[world.otp.release] // 2

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            for tag in (a.one, a.two):
                to = await world.erl("spawn(support, count, [Owner, Tag, Count])", Owner=self(), Tag=tag, Count=each)
                spawn(number, to, tag, each)
            answers = {await expect(timeout=MANY_SECONDS) for _ in range(2)}
            assert answers == {(a.counted, a.one, each), (a.counted, a.two, each)}

    asyncio.run(main())


def test_many_messages_from_the_peer(world: World) -> None:
    each = MANY[world.otp.release] // 2

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            for tag in (a.one, a.two):
                to = spawn(count, self(), tag, each)
                await world.erl("spawn(support, number, [To, Tag, Count])", To=to, Tag=tag, Count=each)
            answers = {await expect(timeout=MANY_SECONDS) for _ in range(2)}
            assert answers == {(a.counted, a.one, each), (a.counted, a.two, each)}

    asyncio.run(main())


@pytest.mark.parametrize("by_name", [False, True])
def test_messages_before_there_is_a_connection(world: World, by_name: bool) -> None:
    """A thousand messages to a node that is not connected: all arrive, in order; more may join while it is set up."""

    async def main() -> None:
        async with world.node(hidden=True) as node:
            await node.connect(world.name)
            counter = await world.erl("spawn(support, count, [Owner, early, 1500])", Owner=self())
            await world.erl("register(early, Pid)", Pid=counter)
            await node.disconnect(world.name)
            await world.gone_there(node)
            to = ("early", world.name) if by_name else counter
            for n in range(1, 1001):
                send(to, (a.early, n))
            assert node.list("connected") == []
            n = 1000
            while not node.list("connected"):
                n += 1
                send(to, (a.early, n))
                await asyncio.sleep(0.0002)
            for late in range(n + 1, 1501):
                send(to, (a.early, late))
            assert await expect() == (a.counted, a.early, 1500)

    asyncio.run(main())


def test_messages_of_the_peer_before_there_is_a_connection(world: World) -> None:
    async def main() -> None:
        async with world.node(hidden=True) as node:
            counter = spawn(count, self(), a.early, 1000)
            register("early", counter)
            by_name = f"[{{early, '{node.name}'}} ! {{early, N}} || N <- lists:seq(1, 500)]"
            assert await world.erl(f"length({by_name})") == 500
            await world.erl("[Pid ! {early, N} || N <- lists:seq(501, 1000)], ok", Pid=counter)
            assert await expect() == (a.counted, a.early, 1000)
            await world.connected(seen_there=node.name.name)

    asyncio.run(main())


def test_both_send_before_there_is_a_connection(world: World) -> None:
    """Both dial at once, for the sake of messages: whichever attempt survives, none is lost."""

    async def main() -> None:
        async with world.node(hidden=True) as node:
            await node.connect(world.name)
            await world.connected(seen_there=node.name.name)
            for _ in range(20):
                theirs = await world.erl("spawn(support, count, [Owner, ours, 300])", Owner=self())
                ours = spawn(count, self(), a.theirs, 300)
                await node.disconnect(world.name)
                await world.gone_there(node)
                sending = asyncio.create_task(world.erl("support:number(Pid, theirs, 300)", Pid=ours))
                spawn(number, theirs, a.ours, 300)
                answers = {await expect() for _ in range(2)}
                assert answers == {(a.counted, a.ours, 300), (a.counted, a.theirs, 300)}
                await sending
                await until(lambda: node.list("connected") == [world.name])

    asyncio.run(main())


def test_messages_to_a_node_that_is_not_there_are_dropped(world: World) -> None:
    async def main() -> None:
        async with world.node(hidden=True) as node:
            for n in range(1000):
                send(("someone", f"nobody{n % 10}@127.0.0.1"), n)
            await until(lambda: node.list("known") == [node.name])
            assert await node.connect(world.name) is True

    asyncio.run(main())


class SlowEpmd(Epmd):
    """An epmd that takes its time to answer, as one behind a slow name server does."""

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        await asyncio.sleep(0.3)
        return await super().resolve(alive, host)


def test_the_peer_dials_while_we_look_for_it(world: World) -> None:
    """Our name is the greater, so its attempt is told `nok`. It then waits for ours, and keeps what it has to send."""

    async def main() -> None:
        async with world.node(world.fresh_name("z"), hidden=True, discovery=SlowEpmd(world.epmd_port)) as node:
            theirs = await world.erl("spawn(support, count, [Owner, ours, 100])", Owner=self())
            ours = spawn(count, self(), a.theirs, 100)
            spawn(number, theirs, a.ours, 100)
            await asyncio.sleep(0.05)
            assert node.list("connected") == []
            await world.erl("support:number(Pid, theirs, 100)", Pid=ours)
            answers = {await expect(timeout=5) for _ in range(2)}
            assert answers == {(a.counted, a.ours, 100), (a.counted, a.theirs, 100)}

    asyncio.run(main())
