"""The mesh: visible Python nodes meet each other by themselves, and stay apart where they were told to."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from beamnode import Node, StaticPorts, a, receive
from beamnode.carriers.memory import MemoryNetwork

pytestmark = pytest.mark.filterwarnings("error")


class World:
    """Nodes `n1@h1`, `n2@h2`, and so on, each on a host of its own, on a network in memory."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.network = MemoryNetwork()
        self._places: dict[str, Any] = {}
        self._stack = stack

    async def node(self, **options: Any) -> Node:
        number = len(self._places) + 1
        carrier = self.network.carrier(f"h{number}")
        options = {"cookie": "c", "carrier": carrier, "discovery": StaticPorts(self._places)} | options
        node = Node(f"n{number}@h{number}", **options)
        self._places[node.name.name] = 0
        await self._stack.enter_async_context(node)
        self._places[node.name.name] = node.listen_address
        return node


async def until_lists(nodes: list[Node], *, connected: bool = False) -> None:
    """Wait until each of them is connected with all the others and nobody else."""
    names = {node.name for node in nodes}
    async with asyncio.timeout(10):
        for node in nodes:
            while set(node.list("connected" if connected else "visible")) != names - {node.name}:
                await asyncio.sleep(0.005)


def in_world(main: Any) -> None:
    async def whole() -> None:
        async with AsyncExitStack() as stack:
            await main(World(stack))

    asyncio.run(whole())


def test_three_nodes_meet_by_themselves() -> None:
    async def main(world: World) -> None:
        one, two, three = [await world.node() for _ in range(3)]
        assert await one.connect(two.name) is True
        assert await two.connect(three.name) is True
        await until_lists([one, two, three])

    in_world(main)


def test_two_meshes_become_one() -> None:
    async def main(world: World) -> None:
        nodes = [await world.node() for _ in range(6)]
        for first, second in ((0, 1), (1, 2), (3, 4), (4, 5)):
            await nodes[first].connect(nodes[second].name)
        await until_lists(nodes[:3])
        await until_lists(nodes[3:])
        await nodes[0].connect(nodes[5].name)
        await until_lists(nodes)

    in_world(main)


@pytest.mark.parametrize("options", [{"hidden": True}, {"connect_all": False}])
def test_who_stays_out_meets_nobody_it_does_not_connect_to(options: dict[str, bool]) -> None:
    async def main(world: World) -> None:
        one, two = await world.node(), await world.node()
        loner = await world.node(**options)
        await one.connect(two.name)
        await until_lists([one, two])
        assert await loner.connect(two.name) is True
        await asyncio.sleep(0.2)
        assert loner.list("connected") == [two.name]
        assert one.list("connected") == [two.name]
        assert loner.name in two.list("connected")

    in_world(main)


def test_a_node_that_stops_leaves_the_others_together() -> None:
    async def main(world: World) -> None:
        nodes = [await world.node() for _ in range(4)]
        for node in nodes[1:]:
            await node.connect(nodes[0].name)
        await until_lists(nodes)
        await nodes[0].stop()
        await asyncio.sleep(0.3)
        await until_lists(nodes[1:])
        await nodes[0].start()
        world._places[nodes[0].name.name] = nodes[0].listen_address
        await nodes[0].connect(nodes[3].name)
        await until_lists(nodes)

    in_world(main)


@pytest.mark.parametrize("prevent", [True, False])
def test_a_lost_connection_within_the_mesh_is_a_lost_node_when_partitions_must_not_overlap(prevent: bool) -> None:
    """OTP: `prevent_overlapping_partitions`. `n3` hears that `n1` has lost `n2`, and so leaves one of them."""

    async def main(world: World) -> None:
        one, two, three = [await world.node(prevent_overlapping_partitions=prevent) for _ in range(3)]
        await one.connect(two.name)
        await two.connect(three.name)
        await until_lists([one, two, three])
        three.monitor_nodes()
        world.network.cut("h1", "h2")
        if prevent:
            assert (await receive(timeout=5))[0] is a.nodedown
            async with asyncio.timeout(5):
                while len(three.list()) == 2:
                    await asyncio.sleep(0.005)
        else:
            await asyncio.sleep(0.3)
            assert set(three.list()) == {one.name, two.name}
            assert (one.list(), two.list()) == ([three.name], [three.name])

    in_world(main)
