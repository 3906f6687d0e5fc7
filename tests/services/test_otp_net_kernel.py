"""services/net_kernel.py: what real nodes see of it, and that changes of the tick time agree with theirs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import Atom, Epmd, Node, a
from beamnode.otp import gen, sys
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PEER = Atom("peer@127.0.0.1")
PY = Atom("py@127.0.0.1")


class World:
    def __init__(self, otp: Otp) -> None:
        self.release = otp.release
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(otp, PEER.name, cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir")
            self.peer.eval("logger:set_primary_config(level, none)")
        except BaseException:
            self.epmd.stop()
            raise

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()

    def node(self, **options: Any) -> Node:
        return Node(PY, cookie=self.cookie, discovery=Epmd(self.epmd.port), **options)

    async def erl(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.eval, f"(fun () -> {source} end)()", 30, **bindings)

    async def ask(self, request: str) -> Any:
        return await self.erl(f"gen_server:call({{net_kernel, 'py@127.0.0.1'}}, {request})")


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


def test_its_state_in_iex_has_the_shape_of_their_own(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            source = ':sys.get_state({:net_kernel, :"py@127.0.0.1"})'
            ours = await asyncio.to_thread(world.peer.elixir, source)
            theirs = await sys.get_state(("net_kernel", PEER))
            assert len(ours) == len(theirs) == 15
            assert ours[0] is theirs[0] is a.state
            assert (ours[1], theirs[1]) == (PY, PEER)
            assert ours[2] is theirs[2] is a.longnames
            assert shape(ours[3]) == shape(theirs[3])
            assert ours[4:6] == theirs[4:6] == (7000, a.sys_dist)
            assert list(ours[6].values()) == [PEER]
            assert list(theirs[6].values()) == [PY]
            for index in (6, 7):
                assert {type(key) for key in ours[index]} == {type(key) for key in theirs[index]}
            assert shape(ours[9]) == shape(theirs[9])
            assert ours[9][0][3][1][1] == node.listen_address[1]  # type: ignore[index]
            assert ours[10:] == theirs[10:] == ([], 0, {}, a.net_sup, {})
            name = ':"py@127.0.0.1" |> then(&:rpc.call(node(), :sys, :get_state, [{:net_kernel, &1}])) |> elem(1)'
            assert await asyncio.to_thread(world.peer.elixir, name) == PY

    asyncio.run(main())


def shape(term: Any) -> Any:
    """Types, names and sizes."""
    match term:
        case tuple() | list():
            if isinstance(term, list) and all(isinstance(element, int) for element in term):
                return str
            return type(term)(shape(element) for element in term)
        case Atom():
            return term
    return type(term)


def test_what_it_answers_is_what_theirs_answers(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(PEER)
            for request in ("{is_auth, x}", "longnames", "ticktime", "allowed", "{allow, [1]}", "{verbose, 0}",
                            "{disconnect, 'nobody@127.0.0.1'}", "{getopts, 'nobody@127.0.0.1', [nodelay]}",
                            "{setopts, 'nobody@127.0.0.1', [{nodelay, true}]}", "{new_ticktime, 60000, 0}",
                            "{setopts, new, [{nodelay, true}]}", "{connect, normal, 'peer@127.0.0.1'}"):  # fmt: skip
                theirs = await world.erl(f"gen_server:call(net_kernel, {request})")
                assert await world.ask(request) == theirs, request
            assert await world.ask("nodename") == PY
            if world.release > 25:
                theirs = await world.erl("gen_server:call(net_kernel, get_state)")
                assert await world.ask("get_state") == {**theirs, a.name: PY}
            theirs = await gen.call(("net_kernel", PEER), gen.CALL, (a.getopts, PY, [a.nodelay, a.keepalive]), 5)
            ours = await world.ask("{getopts, 'peer@127.0.0.1', [nodelay, keepalive]}")
            assert ours == theirs == (a.ok, [(a.nodelay, True), (a.keepalive, False)])
            assert await world.ask("{setopts, 'peer@127.0.0.1', [{keepalive, true}]}") is a.ok
            assert node.getopts(PEER, ["keepalive"]) == {"keepalive": True}
            assert await world.ask("{verbose, 1}") == 0

    asyncio.run(main())


def test_ours_asks_theirs_and_lists_it(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            assert node.connections() == []
            await node.connect(PEER)
            assert await gen.call(("net_kernel", PEER), gen.CALL, a.nodename, 5) is PEER
            [row] = node.connections()
            creation = await world.erl("erts_internal:get_creation()")
            assert (row.node, row.state, row.type, row.creation, row.id) == (PEER, "up", "visible", creation, 1)
            assert row.address is not None
            assert row.address[0] == "127.0.0.1"
            assert row.bytes_in > 100 < row.bytes_out

    asyncio.run(main())


def test_only_nodes_that_are_allowed(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            node.allow(["someone@127.0.0.1"])
            assert await world.erl("net_kernel:connect_node('py@127.0.0.1')") is False
            assert await node.connect(PEER) is False
            node.allow([PEER])
            assert await world.erl("net_kernel:connect_node('py@127.0.0.1')") is True
            assert node.list() == [PEER]

    asyncio.run(main())


def test_both_change_the_tick_time_and_stay_connected(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(PEER)
            assert await world.erl("net_kernel:set_net_ticktime(1, 0)") is a.change_initiated
            assert node.set_net_ticktime(1, 0) is a.change_initiated  # ours first would be the same
            connection = node.connection_id(PEER)
            await asyncio.sleep(1.5)
            assert await world.ask("{new_ticktime, 3000, 1000}") is a.change_initiated  # by a message, longer
            assert await world.ask("ticktime") == (a.ongoing_change_to, 3000)
            assert await world.erl("net_kernel:set_net_ticktime(3, 1)") is a.change_initiated
            await asyncio.sleep(2.5)
            assert await world.ask("ticktime") == 3000
            assert node.net_ticktime == 3
            assert node.connection_id(PEER) == connection
            assert await world.erl("net_kernel:set_net_ticktime(60, 0)") in (
                a.change_initiated,
                (a.ongoing_change_to, 3),
            )

    asyncio.run(main())


def test_a_peer_that_freezes_is_noticed_by_the_new_time(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(PEER)
            node.set_net_ticktime(0.4, 0)
            world.peer.suspend()
            try:
                for _ in range(100):
                    if not node.list():
                        break
                    await asyncio.sleep(0.05)
                assert node.list() == []
            finally:
                world.peer.resume()

    asyncio.run(main())
