"""Two Python nodes that dial each other at the same moment end with one connection, each time, over TCP and memory."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, expect, nothing_comes, play, until

from beamnode import Node, StaticPorts, a, receive, register, self, send
from beamnode.carriers.memory import MemoryNetwork

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.one_python]

TIMES = int(os.environ.get("BEAMNODE_TIMES", "1000"))


def dial_first(order: str, one: Node, two: Node) -> tuple[Node, Node]:
    return (one, two) if order == "the lesser name first" else (two, one)


@pytest.fixture(params=["the lesser name first", "the greater name first"])
def order(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def meet_and_part(first: Node, second: Node, delay: int) -> None:
    """Both dial, the second `delay` turns of the loop later; then one connection is up, and works both ways."""

    async def later() -> Any:
        for _ in range(delay):
            await asyncio.sleep(0)
        return await second.connect(first.name)

    assert await asyncio.gather(first.connect(second.name), later()) == [True, True]
    await until(lambda: first.list() == [second.name] and second.list() == [first.name])
    networks = [first._required_network(), second._required_network()]
    await until(lambda: all(len(network._sessions) == 1 for network in networks), "more than one connection is left")
    await first.disconnect(second.name)
    await until(lambda: first.list() == [] and second.list() == [])


def test_over_tcp(order: str) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node("a") as one, cluster.node("b") as two:
            two.monitor_nodes()
            first, second = dial_first(order, one, two)
            for number in range(TIMES // 2):  # and as many in the other order
                await meet_and_part(first, second, number % 25)
            for _ in range(TIMES // 2):
                assert [await expect(), await expect()] == [(a.nodeup, one.name), (a.nodedown, one.name)]
            await nothing_comes()

    play(main)


def in_memory() -> tuple[Node, Node]:
    """Two nodes on two hosts of a network without sockets."""
    network, places = MemoryNetwork(), {f"a@{HOST}": ("one", 0), f"b@{HOST}": ("two", 0)}
    nodes = []
    for name, (host, _) in places.items():
        nodes.append(Node(name, cookie="c", carrier=network.carrier(host), discovery=StaticPorts(places)))
    return nodes[0], nodes[1]


async def start_in_memory(*nodes: Node) -> None:
    """Start them, and tell each where they listen."""
    for node in nodes:
        await node.start()
    for node in nodes:
        assert isinstance(node._discovery, StaticPorts)
        assert node.listen_address is not None
        node._discovery.nodes[node.name.name] = node.listen_address  # type: ignore[index]


def test_over_memory(order: str) -> None:
    async def main(_: Cluster) -> None:
        one, two = in_memory()
        await start_in_memory(one, two)
        first, second = dial_first(order, one, two)
        for number in range(TIMES // 2):
            await meet_and_part(first, second, number % 25)
        await one.stop()
        await two.stop()

    play(main)


def test_messages_that_made_them_dial_arrive_all_in_order() -> None:
    """From both sides, while the attempts are being decided."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node("a") as one, cluster.node("b") as two:
            for number in range(TIMES // 20):
                both = await asyncio.gather(
                    one.run_process(exchange, two.name, number), two.run_process(exchange, one.name, number)
                )
                assert both == [list(range(20))] * 2
                await one.disconnect(two.name)
                await until(lambda: one.list() == [] and two.list() == [])

    async def exchange(other: Any, number: int) -> list[Any]:
        register("here", self())
        for _ in range(number % 7):
            await asyncio.sleep(0)
        for value in range(20):
            send(("here", other), value)
            if value % 5 == 0:
                await asyncio.sleep(0)
        return [await receive(timeout=20) for _ in range(20)]

    play(main)


def test_a_stalled_attempt_gives_way() -> None:
    """The peer dials again while our view of the connection is stale: it is asked, and the new one replaces it."""

    async def main(_: Cluster) -> None:
        one, two = in_memory()
        await start_in_memory(one, two)
        assert await one.connect(two.name)
        network = one._routes[0].carrier.network  # type: ignore[attr-defined]
        network.stall("one", "two")
        await two.disconnect(one.name)  # which `one` does not hear
        dialling = asyncio.create_task(two.connect(one.name))
        await asyncio.sleep(0.02)
        assert one.list() == [two.name]
        network.heal()
        assert await dialling is True
        assert await two.ping(one.name) is a.pong
        await one.stop()
        await two.stop()

    play(main)
