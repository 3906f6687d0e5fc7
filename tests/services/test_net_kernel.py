"""services/net_kernel.py and rex.py: what peers ask them, and that nothing peers send ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from beamnode import (
    Atom,
    FixedPort,
    Node,
    Pid,
    Port,
    StaticPorts,
    UsageError,
    a,
    receive,
    register,
    self,
    send,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.errors import NotAllowedByPeer
from beamnode.otp import gen, sys
from beamnode.testing.peers import free_port

pytestmark = pytest.mark.filterwarnings("error")


def in_a_node(main: Callable[[Node], Awaitable[None]], name: str = "n@h.x", **options: Any) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node(name, cookie="c", carrier=carrier, discovery=FixedPort(1), **options) as node:
            await main(node)

    asyncio.run(whole())


async def ask(question: Any, timeout: float = 5) -> Any:
    return await gen.call("net_kernel", gen.CALL, question, timeout)


def test_what_net_kernel_answers() -> None:
    async def main(node: Node) -> None:
        assert await ask((a.is_auth, Atom("x@y.z"))) is a.yes
        assert await ask(a.longnames) is True
        assert await ask(a.nodename) == node.name
        assert await ask(a.ticktime) == 17_000  # milliseconds
        state = {a.started: a.static, a.name_type: a.static, a.name: node.name, a.name_domain: a.longnames}
        assert await ask(a.get_state) == state

    in_a_node(main, net_ticktime=17)


def test_short_names() -> None:
    async def main(_: Node) -> None:
        assert await ask(a.longnames) is False
        assert (await ask(a.get_state))[a.name_domain] is a.shortnames

    in_a_node(main, "n@h")


async def two(main: Callable[[Node, Node], Awaitable[None]], **options: Any) -> None:
    """Two nodes that are connected; the current process is one of the first."""
    network, ports = MemoryNetwork(), StaticPorts({"n@h": 1024, "m@h": 1025})
    async with AsyncExitStack() as stack:
        nodes = [
            Node(name, cookie="c", carrier=network.carrier("h"), discovery=ports, **options) for name in ("m@h", "n@h")
        ]
        await nodes[1].start()
        stack.push_async_callback(nodes[1].shut_down)
        first = await stack.enter_async_context(nodes[0])
        assert await first.connect("n@h")
        await main(first, nodes[1])


def test_its_state_has_the_shape_of_otp() -> None:
    async def main(first: Node, second: Node) -> None:
        state = await sys.get_state("net_kernel")
        pid = whereis("net_kernel")
        assert state[:6] == (a.state, first.name, a.shortnames, (a.tick, pid, 60_000, 4), 7000, a.sys_dist)
        assert list(state[6].values()) == list(state[7].values()) == [second.name]
        assert isinstance(next(iter(state[6])), Pid)
        assert isinstance(next(iter(state[7])), Port)
        address = (a.net_address, (list(b"h"), first.listen_address[1]), list(b"h"), a.memory, a.inet)
        listen = (a.listen, Port(first.name, 0, first.creation), pid, address, a.inet_memory_dist)
        assert state[8:] == ({}, [listen], [], 0, {}, a.net_sup, {})
        assert (await sys.get_state("net_kernel"))[6] == state[6]  # owners stay who they are

    asyncio.run(two(main))


def test_the_table_of_connections() -> None:
    async def main(first: Node, second: Node) -> None:
        await gen.call(("net_kernel", second.name), gen.CALL, a.longnames, 5)
        [row] = first.connections()
        [other] = second.connections()
        assert (row.node, row.state, row.type, row.creation, row.id) == (
            second.name,
            "up",
            "visible",
            second.creation,
            1,
        )
        assert row.bytes_in > 0
        assert row.bytes_out >= other.bytes_in > 0
        assert row.address is not None

    asyncio.run(two(main))


def test_connect_and_disconnect() -> None:
    async def main(first: Node, second: Node) -> None:
        assert await ask((a.connect, a.normal, second.name)) is True
        assert await ask((a.connect, a.normal, first.name)) is True
        assert await ask((a.disconnect, first.name)) is False
        assert await ask((a.disconnect, second.name)) is True
        assert first.list() == []
        assert await ask((a.disconnect, second.name)) is False
        assert await ask((a.connect, a.normal, second.name)) is True
        assert first.list() == [second.name]
        send("net_kernel", (gen.CAST, (a.async_disconnect, second.name)))
        await ask(a.longnames)
        assert first.list() == []
        assert await ask((a.connect, a.normal, Atom("nobody@h"))) is False

    asyncio.run(two(main))


def test_only_nodes_that_are_allowed() -> None:
    async def main(first: Node, second: Node) -> None:
        assert await ask(a.allowed) == (a.ok, [])
        assert await ask((a.allow, [1])) is a.error
        first.allow(["x@h"])
        assert await ask((a.allow, [Atom("y@"), Atom("x@h")])) is a.ok
        assert await ask(a.allowed) == (a.ok, [Atom("x@h"), Atom("y@")])
        assert first.allowed() == [Atom("x@h"), Atom("y@")]
        assert first.list() == [second.name]  # it stays
        await first.disconnect(second.name)
        assert await first.connect(second.name) is False
        assert "none of the nodes that are allowed" in str(first.connect_error(second.name))
        assert await second.connect(first.name) is False
        assert isinstance(second.connect_error(first.name), NotAllowedByPeer)
        first.allow(["h"])  # a host
        assert await second.connect(first.name) is True
        with pytest.raises(UsageError, match="a list of nodes"):
            first.allow("x@h")

    asyncio.run(two(main))


def test_verbose_and_options_without_a_socket() -> None:
    async def main(_: Node, second: Node) -> None:
        assert await ask((a.verbose, 2)) == 0
        assert await ask((a.verbose, 1)) == 2
        assert (await sys.get_state("net_kernel"))[11] == 1
        assert await ask((a.getopts, Atom("x@h"), [a.nodelay])) == (a.error, a.noconnection)
        assert await ask((a.getopts, second.name, [a.nodelay])) == (a.error, a.enotsup)
        assert await ask((a.setopts, a.new, [(a.nodelay, False)])) is a.ok
        for options in ([(a.nodelay, 5)], [(a.nonsense, True)], [5], [(a.sndbuf, True)]):
            assert await ask((a.setopts, a.new, options)) == (a.error, a.einval)

    asyncio.run(two(main))


def test_sockets_have_options() -> None:
    async def main() -> None:
        ports = StaticPorts({"m@127.0.0.1": free_port(), "n@127.0.0.1": free_port()})
        second = Node("n@127.0.0.1", cookie="c", discovery=ports)
        async with Node("m@127.0.0.1", cookie="c", discovery=ports) as first:
            await second.start()
            assert await ask((a.setopts, a.new, [(a.keepalive, True)])) is a.ok
            assert await first.connect(second.name)
            assert first.getopts(second.name, ["nodelay", "keepalive"]) == {"nodelay": True, "keepalive": True}
            assert await ask((a.setopts, second.name, [(a.nodelay, False)])) is a.ok
            got = await ask((a.getopts, second.name, [a.nodelay, a.keepalive]))
            assert got == (a.ok, [(a.nodelay, False), (a.keepalive, True)])
            assert await ask((a.getopts, second.name, [a.nonsense])) == (a.error, a.einval)
            await second.shut_down()

    asyncio.run(main())


def test_what_it_does_not_know_gets_no_answer_as_in_otp() -> None:
    async def main(_: Node) -> None:
        for question in (
            a.unknown, (a.is_auth,), [], {}, (a.connect, 1, 2), (a.disconnect, 1), (a.new_ticktime, 0, 1),
            (a.new_ticktime, a.x, a.y), (a.getopts, 1, 2), (a.setopts, a.new, 1),
        ):  # fmt: skip
            with pytest.raises(TimeoutError):
                await ask(question, 0.01)

    in_a_node(main)


NOISE = [
    a.noise, (), (1,), (gen.CALL, 1, 2), (gen.CALL, (), a.longnames), (gen.CALL, (1, 2, 3), a.longnames),
    (gen.CAST, a.x), (gen.CAST,), [1], {}, b"", 1.5,
    (gen.CALL, (1, 2), a.longnames), (gen.CALL, (None, []), a.ticktime),
]  # fmt: skip


@pytest.mark.parametrize("service", ["net_kernel", "rex"])
@pytest.mark.parametrize("noise", NOISE, ids=repr)
def test_noise_does_not_end_it(service: str, noise: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main(_: Node) -> None:
        before = whereis(service)
        send(service, noise)
        for _ in range(5):
            await asyncio.sleep(0)
        assert whereis(service) == before
        if service == "net_kernel":
            assert await ask(a.longnames) is True

    in_a_node(main)
    assert "Traceback" not in caplog.text


def test_rex_tells_its_features() -> None:
    async def main(node: Node) -> None:
        register("me", self())
        send("rex", (self(), a.features_request))
        assert await receive(timeout=5) == (a.features_reply, node.name, [a.erpc])

    in_a_node(main)


def test_numbers_that_are_none_do_not_end_it() -> None:
    async def main(node: Node) -> None:
        before = whereis("net_kernel")
        for request in (
            (a.setopts, a.new, [(a.sndbuf, 10**13)]),
            (a.setopts, a.new, [(a.sndbuf, -(10**400))]),
            (a.new_ticktime, 10**400, 10**400),
        ):
            try:
                await gen.call("net_kernel", gen.CALL, request, 1)
            except TimeoutError:
                continue
        assert await gen.call("net_kernel", gen.CALL, a.nodename, 5) is node.name
        assert whereis("net_kernel") == before

    in_a_node(main)
