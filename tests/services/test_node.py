"""services/node.py: what the public `Node` adds: the services that peers expect, `ping`, the options of the mesh."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beamnode import Atom, Node, StaticPorts, a, exit, monitor, receive, register, self, whereis
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import Node as BareNode

pytestmark = pytest.mark.filterwarnings("error")

SERVICES = ("net_kernel", "global_name_server", "rex")


class World:
    """Nodes on a network in memory: `n1@h1`, `n2@h2`, and so on."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.places: dict[str, Any] = {}
        self._count = 0

    def node(self, kind: type[BareNode] = Node, **options: Any) -> Any:
        self._count += 1
        host = f"h{self._count}"
        name = f"n{self._count}@{host}"
        self.places[name] = (host, 1024 + len(self.places))
        discovery = StaticPorts(self.places)
        return kind(name, **{"cookie": "c", "carrier": self.network.carrier(host), "discovery": discovery} | options)

    def listen(self, *nodes: BareNode) -> None:
        """Let the others know where these, which are started, listen."""
        for node in nodes:
            self.places[node.name.name] = node.listen_address


def test_every_service_runs_under_its_name() -> None:
    async def main() -> None:
        async with World().node() as node:
            pids = [whereis(name) for name in SERVICES]
            assert None not in pids
            await node.stop()
            assert [whereis(name) for name in SERVICES] == [None] * 3
            await node.start()
            assert set(pids).isdisjoint(whereis(name) for name in SERVICES)

    asyncio.run(main())


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_killed_is_started_again(name: str) -> None:
    async def main() -> None:
        async with World().node():
            before = whereis(name)
            assert before is not None
            reference = monitor(before)
            exit(before, a.kill)
            assert (await receive(timeout=5))[1] == reference
            async with asyncio.timeout(5):
                while whereis(name) in (None, before):
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_ping() -> None:
    async def main() -> None:
        world = World()
        async with world.node() as one, world.node() as two:
            world.listen(one, two)
            assert await one.ping(two.name) is a.pong
            assert await one.ping(one.name) is a.pong
            assert await one.ping("nobody@nowhere") is a.pang
            await asyncio.gather(*(one.ping(two.name) for _ in range(50)))
        assert await one.ping(two.name) is a.pang  # stopped

    asyncio.run(main())


def test_a_node_whose_net_kernel_is_gone_gets_pang_and_is_disconnected_as_in_otp() -> None:
    async def main() -> None:
        world = World()
        async with world.node() as one, world.node(BareNode) as two:
            world.listen(one, two)
            assert await one.connect(two.name) is True
            assert await one.ping(two.name) is a.pang
            assert one.list() == []
            assert one.connect_error(two.name) is None

    asyncio.run(main())


def test_ping_from_outside_of_any_process_and_within_one() -> None:
    async def main() -> None:
        world = World()
        one, two = world.node(), world.node()
        await one.start()
        await two.start()
        world.listen(one, two)
        assert await one.ping(two.name) is a.pong
        async with two:
            register("me", self())
            assert await two.ping(one.name) is a.pong
            with pytest.raises(TimeoutError):
                await receive(timeout=0.01)  # nothing of it is left in the mailbox
        await one.stop()

    asyncio.run(main())


def test_a_ping_can_be_given_up() -> None:
    async def main() -> None:
        world = World()
        async with world.node() as one, world.node() as two:
            world.listen(one, two)
            assert await one.connect(two.name)
            world.network.stall("h1", "h2")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await one.ping(two.name)
            world.network.heal()
            assert await one.ping(Atom(two.name.name)) is a.pong

    asyncio.run(main())


def test_options_are_passed_on_and_unknown_ones_refused() -> None:
    assert Node("n@h", cookie="c", hidden=True).hidden
    with pytest.raises(TypeError, match="unexpected keyword argument 'connect'"):
        Node("n@h", connect=False)  # type: ignore[call-arg]
    for option in ("cookie", "hidden", "dist_auto_connect", "net_ticktime", "connect_all"):
        assert f"`{option}`" in (Node.__doc__ or "")
