"""Both sides dial at the same moment, a thousand times: one connection is left each time, and it works."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import HOST, World, expect, until

from beamnode import Node, a, self, send
from beamnode.core.connections import Connections, Verdict
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp

ROUNDS = 1000
ROUND_SECONDS = 10.0
DIAL_APART_SECONDS_MAX = 0.003  # one side may begin a little later: the attempts meet at every stage of each other


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


# Each `go` by UDP makes the peer dial; it answers with what came of it when it lists the node, which must be once, and
# again when it does not list it any more.
DIALLER = """
{ok, Socket} = gen_udp:open(0, [binary, {ip, {127, 0, 0, 1}}, {active, true}]),
Pid = spawn(fun () ->
    Round = fun Round() ->
        receive
            {udp, _, Address, Port, <<"go">>} ->
                Result = net_kernel:connect_node(Node),
                true = support:until(fun () -> nodes(connected) =:= [Node] end, 5),
                gen_udp:send(Socket, Address, Port, atom_to_binary(Result)),
                Round();
            {udp, _, Address, Port, <<"gone">>} ->
                true = support:until(fun () -> nodes(connected) =:= [] end, 5),
                gen_udp:send(Socket, Address, Port, <<"gone">>),
                Round();
            {udp, _, Address, Port, <<"leave">>} ->
                gen_udp:send(Socket, Address, Port, atom_to_binary(erlang:disconnect_node(Node))),
                Round();
            {hello, From, N} ->
                From ! {hello_too, N},
                Round()
        end
    end,
    receive start -> Round() end
end),
gen_udp:controlling_process(Socket, Pid),
Pid ! start,
{ok, Port} = inet:port(Socket),
{Pid, Port}
"""


class Trigger(asyncio.DatagramProtocol):
    """Asks the dialler of the peer."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, _: Any) -> None:
        self.answers.put_nowait(data)

    async def ask(self, request: bytes, delay: float = 0) -> bytes:
        if delay:
            await asyncio.sleep(delay)
        self.transport.sendto(request)
        async with asyncio.timeout(ROUND_SECONDS):
            return await self.answers.get()


async def dial(world: World, node: Node, delay: float) -> bool | None:
    if delay:
        await asyncio.sleep(delay)
    return await node.connect(world.name)


@pytest.mark.parametrize("prefix", ["a", "z"], ids=["ours is smaller", "ours is greater"])
def test_simultaneous_connects(
    world: World, prefix: str, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    verdicts: Counter[Verdict] = Counter()
    accept = Connections.accept

    def counting(*args: Any, **named: Any) -> Any:
        accepted = accept(*args, **named)
        verdicts[accepted.verdict] += 1
        return accepted

    monkeypatch.setattr(Connections, "accept", counting)
    results: Counter[bytes] = Counter()

    async def main() -> None:
        chance = random.Random(prefix)
        async with world.node(world.fresh_name(prefix), hidden=True) as node:
            dialler, port = await world.erl(DIALLER, Node=node.name)
            loop = asyncio.get_running_loop()
            transport, trigger = await loop.create_datagram_endpoint(Trigger, remote_addr=(HOST, port))
            for number in range(ROUNDS):
                apart = chance.uniform(-DIAL_APART_SECONDS_MAX, DIAL_APART_SECONDS_MAX)
                ours, theirs = await asyncio.gather(
                    dial(world, node, max(apart, 0)), trigger.ask(b"go", max(-apart, 0))
                )
                assert ours is True, node.connect_error(world.name)
                results[theirs] += 1
                assert node.list("connected") == [world.name]
                send(dialler, (a.hello, self(), number))
                assert await expect() == (a.hello_too, number)
                if number % 2:
                    assert await node.disconnect(world.name) is True
                else:
                    assert await trigger.ask(b"leave") == b"true"
                await until(lambda: node.list("known") == [node.name])
                assert await trigger.ask(b"gone") == b"gone"
            transport.close()

    asyncio.run(main())
    record_property("verdicts", {verdict.value: count for verdict, count in verdicts.items()})
    record_property("their results", dict(results))
    print(verdicts, results)
    assert verdicts[Verdict.NOK if prefix == "z" else Verdict.OK_SIMULTANEOUS] > ROUNDS // 20
