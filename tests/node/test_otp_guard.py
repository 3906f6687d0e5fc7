"""Allowed nodes, cookies of single nodes, the guard, and limits that answer, with real Erlang nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import World, expect, until

from beamnode import Atom, Limits, a, receive, register, self, send
from beamnode.errors import NotAllowedByPeer
from beamnode.node import NEEDED_NAMES, Asked, Guard, Signal
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


async def wait_for_ever() -> None:
    await receive()


def test_allowed_nodes_in_both_directions(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """`net_kernel:allow/1` there, `allowed=` here; by node, by host, by name. What both sides say is the same."""

    async def main() -> None:
        strict = await asyncio.to_thread(world.start_peer, "strict")
        strict_name = Atom(strict.name)

        async def there(source: str, **bindings: Any) -> Any:
            call = f"apply(fun ({', '.join(bindings)}) -> {source} end, GIVEN)"
            return await asyncio.to_thread(strict.eval, call, 20, GIVEN=list(bindings.values()))

        async with world.node(hidden=True) as node:
            assert await there("net_kernel:allow([Name])", Name=Atom("someone@127.0.0.1")) is a.ok
            assert await node.connect(strict_name) is False
            assert isinstance(node.connect_error(strict_name), NotAllowedByPeer)
            assert await there("net_kernel:connect_node(Node)", Node=node.name) is False
            assert await there("net_kernel:allow([Name])", Name=node.name) is a.ok
            assert await node.connect(strict_name) is True

        for allowed, connects in (
            (["someone@127.0.0.1"], False),
            ([strict_name], True),
            (["127.0.0.1"], True),
            (["strict@"], True),
            (["strict@elsewhere", "elsewhere"], False),
        ):
            async with world.node(hidden=True, allowed=allowed) as node:
                await there("net_kernel:allow([Name])", Name=node.name)
                assert await there("net_kernel:connect_node(Node)", Node=node.name) is connects
                assert (strict_name in node.list("connected")) is connects
                await node.disconnect(strict_name)
                assert await node.connect(strict_name) is connects

    asyncio.run(main())
    assert "with strict@127.0.0.1: it is none of the nodes that are allowed here" in caplog.text


def test_cookies_given_at_the_start(world: World) -> None:
    """For this peer, in both directions; every other node has the node's own."""

    async def main() -> None:
        async with world.node(cookie="own", cookies={world.name: world.cookie}, hidden=True) as node:
            assert await node.ping(world.name) is a.pong
            await node.disconnect(world.name)
            await world.gone_there(node)
            assert await world.erl("net_kernel:connect_node(Node)", Node=node.name) is True
            async with world.node(cookie="own", hidden=True) as other:
                assert await other.connect(world.name) is False
                assert await other.connect(node.name) is True

    asyncio.run(main())


class Strict(Guard):
    """Peers may send to `counter`, and call what `ops` asks for; nobody ends what is here."""

    def to_name(self, node: Atom, name: Atom) -> bool:
        return name is a.counter or name in NEEDED_NAMES

    def exit_signal(self, signal: Signal, reason: Any) -> bool:
        return False

    def link(self, signal: Signal) -> bool:
        return False

    def monitor(self, signal: Signal) -> bool:
        return signal.name is a.counter

    def spawn(self, asked: Asked) -> bool:
        return asked.args == []

    def call(self, asked: Asked) -> bool:
        return asked.function is a.node


def test_a_guard(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node(guard=Strict(), hidden=True) as node:
            node.expose(wait_for_ever, module="here", name="wait")
            register("counter", self())
            given = {"Node": node.name, "Pid": self()}
            await world.erl("{counter, Node} ! one, {secret, Node} ! two, ok", **given)
            assert await expect() is a.one
            assert await world.erl("rpc:call(Node, erlang, node, [])", **given) is node.name
            refused = await world.erl("rpc:call(Node, erlang, processes, [])", **given)
            assert refused[:1] == (a.badrpc,)
            puppet = await world.puppet()
            watching = await puppet.run("spawn_monitor(Node, here, wait, [1])", **given)
            message = await puppet.next()
            assert (message[1], message[4][0]) == (watching[1], a.undef)
            pid = await world.erl("spawn(Node, here, wait, [])", **given)
            for reason in ("kill", "shutdown"):
                await puppet.run(f"exit(Pid, {reason}), exit(Other, {reason})", Other=pid, **given)
            await puppet.run("process_flag(trap_exit, true), link(Pid)", **given)
            assert await puppet.next() == (a.EXIT, self(), a.noproc)
            reference = await puppet.run("monitor(process, Other)", Other=pid)
            assert await puppet.next() == (a.DOWN, reference, a.process, pid, a.noproc)
            await puppet.run("monitor(process, {counter, Node})", **given)
            await puppet.run("Pid ! still_here", **given)
            assert await expect() is a.still_here
            assert node.runtime.signals.lookup(pid) is not None
            await puppet.nothing_comes()

    asyncio.run(main())
    assert "refused message to secret from peer@127.0.0.1: the guard says no" in caplog.text
    assert "refused erlang:processes/0 to peer@127.0.0.1: the guard says no" in caplog.text
    assert "refused here:wait/1 to peer@127.0.0.1: the guard says no" in caplog.text


def test_limits_answer_as_otp_understands_them(world: World) -> None:
    async def main() -> None:
        limits = Limits(processes_per_peer_max=3, ties_per_peer_max=5)
        async with world.node(limits=limits, hidden=True) as node:
            node.expose(wait_for_ever, module="here", name="wait")
            given = {"Node": node.name, "Pid": self()}
            puppet = await world.puppet()
            for _ in range(3):
                assert (await puppet.run("spawn_request(Node, here, wait, [], [])", **given)).node is world.name
                answer = await puppet.next()
                assert (answer[0], answer[2]) == (a.spawn_reply, a.ok)
            await puppet.run("spawn_request(Node, here, wait, [], [])", **given)
            assert (await puppet.next())[2:] == (a.error, a.system_limit)
            refused = await world.erl("rpc:call(Node, erlang, node, [])", **given)
            assert refused[0] is a.badrpc
            assert "system_limit" in repr(refused)
            await puppet.run("process_flag(trap_exit, true)")
            assert world.name not in node.runtime.signals._ties
            references = [await puppet.run("monitor(process, Pid)", **given) for _ in range(5)]
            await puppet.reached()
            late = await puppet.run("monitor(process, Pid)", **given)
            assert await puppet.next() == (a.DOWN, late, a.process, self(), a.system_limit)
            await puppet.run("link(Pid)", **given)
            assert await puppet.next() == (a.EXIT, self(), a.system_limit)
            await puppet.run("demonitor(Reference)", Reference=references[0])
            await puppet.run("link(Pid)", **given)
            await puppet.nothing_comes()

    asyncio.run(main())


def test_a_throttled_peer_waits_and_is_not_lost(world: World) -> None:
    """Longer than the tick time of both sides."""

    async def main() -> None:
        limits = Limits(signals_per_second_max=1000)
        async with world.node(limits=limits, hidden=True, net_ticktime=0.5) as node:
            await node.connect(world.name)
            connection = node.connection_id(world.name)
            session = node.network.session(world.name)
            assert session is not None
            flood = "[Pid ! N || N <- lists:seq(1, 2500)], ok"
            await world.erl(f"spawn(fun () -> {flood} end)", Pid=self())
            await until(lambda: session._pause is not None)
            got = [await expect(lambda message: type(message) is int) for _ in range(2500)]
            assert got == list(range(1, 2501))
            assert node.connection_id(world.name) == connection
            send((a.nobody, world.name), a.hello)

    asyncio.run(main())
