"""services/rex.py without peers: messages of C nodes, `block_call`s in turn, and what is nonsense."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import Atom, Node, Pid, StaticPorts, a, exit, receive, self, send, spawn, whereis
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import gen

pytestmark = pytest.mark.filterwarnings("error")


def play(test: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        discovery = StaticPorts({"n@h": ("h", 1024)})
        async with Node("n@h", cookie="c", carrier=network.carrier("h"), discovery=discovery) as node:
            node.expose(steps, module="m")
            node.expose(lambda: print("hello"), module="m", name="say")
            running.clear()
            await test(node)

    asyncio.run(main())


running: list[Any] = []


async def steps(number: int) -> int:
    running.append(("began", number))
    await asyncio.sleep(0.05)
    running.append(("ended", number))
    return number


async def rex(*call: Any) -> Any:
    return await gen.call("rex", gen.CALL, call, 5)


def test_block_calls_wait_for_each_other() -> None:
    async def test(node: Node) -> None:
        async def ask(number: int, owner: Any) -> None:
            send(owner, await rex(a.block_call, a.m, a.steps, [number], a.user))

        for number in (1, 2, 3):
            spawn(ask, number, self())
        assert [await receive(timeout=5) for _ in range(3)] == [1, 2, 3]
        assert running == [(what, number) for number in (1, 2, 3) for what in ("began", "ended")]

    play(test)


def test_who_dies_while_it_waits_for_its_turn_is_not_served() -> None:
    async def test(node: Node) -> None:
        async def ask(number: int) -> None:
            await rex(a.block_call, a.m, a.steps, [number], a.user)

        spawn(ask, 1)
        second = spawn(ask, 2)
        await asyncio.sleep(0.02)
        exit(second, a.kill)
        assert await rex(a.block_call, a.m, a.steps, [3], a.user) == 3
        assert ("ended", 2) not in running

    play(test)


def test_other_calls_do_not() -> None:
    async def test(node: Node) -> None:
        for number in (1, 2):
            send("rex", (self(), (a.call, a.m, a.steps, [number], a.user)))
        assert sorted([await receive(timeout=5), await receive(timeout=5)]) == [(a.rex, 1), (a.rex, 2)]
        assert [what for what, _ in running] == ["began", "began", "ended", "ended"]

    play(test)


def test_output_for_the_caller() -> None:
    async def test(node: Node) -> None:
        send("rex", (self(), (a.call, a.m, a.say, [], a.send_stdout_to_caller)))
        written = b""
        while (message := await receive(timeout=5))[0] is a.rex_stdout:
            written += message[1]
        assert written == b"hello\n"
        assert message[0] is a.rex

    play(test)


def test_nonsense(caplog: pytest.LogCaptureFixture) -> None:
    async def test(node: Node) -> None:
        before = whereis("rex")
        for message in (
            1,
            (self(), 1),
            (self(), (a.call, 1, 2, 3, 4)),
            (self(), (a.call, a.m, a.steps, a.no_list, a.user)),
            (self(), (a.sbcast, 1, 2)),
            (gen.CALL, (self(), 1), (a.call, a.m, a.steps, [[]], [1, 2])),
            (gen.CALL, 1, (a.call, a.m, a.steps, [1], a.user)),
            (gen.CAST, (a.cast, 1, 2, 3, 4)),
        ):
            send("rex", message)
        await asyncio.sleep(0.2)
        assert await rex(a.call, a.m, a.steps, [5], Atom("nobody here")) == 5
        assert whereis("rex") == before

    with caplog.at_level(logging.INFO, "beamnode.rpc"):
        play(test)
    assert "rex got 1" in caplog.text


def test_who_asks_is_told_by_the_connection_and_not_by_the_message() -> None:
    """A peer cannot be taken for another, or for this node itself, by what it writes into a From."""
    asked: list[Any] = []

    def policy(call: Any) -> str:
        asked.append(call.node)
        return "nothing"

    async def main() -> None:
        network = MemoryNetwork()
        discovery = StaticPorts({"n@h": ("h", 1024), "p@h": ("h", 1025)})
        options: Any = {"cookie": "c", "discovery": discovery, "hidden": True}
        async with (
            Node("n@h", carrier=network.carrier("h"), policy=policy, **options) as victim,
            Node("p@h", carrier=network.carrier("h"), **options) as peer,
        ):
            assert await peer.connect(victim.name)
            rex = ("rex", victim.name)
            forged = Pid(victim.name, 3, 0, victim.creation)
            send(rex, (gen.CAST, (a.cast, a.os, a.getpid, [], a.user)))
            send(rex, (gen.CALL, (forged, a.tag), (a.call, a.os, a.getpid, [], a.user)))
            send(rex, (forged, (a.call, a.os, a.getpid, [], a.user)))
            for _ in range(200):
                if len(asked) == 3:
                    break
                await asyncio.sleep(0.01)
            assert asked == [peer.name] * 3

    asyncio.run(main())
