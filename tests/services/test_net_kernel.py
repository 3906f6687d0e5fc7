"""services/net_kernel.py and rex.py: what peers ask them, and that nothing peers send ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import Atom, FixedPort, Node, a, receive, register, self, send, whereis
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import gen

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
        assert await ask(a.ticktime) == 17
        state = {a.started: a.static, a.name_type: a.static, a.name: node.name, a.name_domain: a.longnames}
        assert await ask(a.get_state) == state

    in_a_node(main, net_ticktime=17)


def test_short_names() -> None:
    async def main(_: Node) -> None:
        assert await ask(a.longnames) is False
        assert (await ask(a.get_state))[a.name_domain] is a.shortnames

    in_a_node(main, "n@h")


def test_what_it_does_not_know_gets_no_answer_as_in_otp() -> None:
    async def main(_: Node) -> None:
        for question in (a.unknown, (a.is_auth,), [], {}):
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
