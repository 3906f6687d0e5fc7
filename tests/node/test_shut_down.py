"""What floors above have a node do before it ends its processes, and how they end the node."""

from __future__ import annotations

import asyncio

import pytest

from beamnode import FixedPort, Node, ProcessExit, a, process_info, receive, spawn
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import before_shut_down, end_node

pytestmark = pytest.mark.filterwarnings("error")


def a_node() -> Node:
    return Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1))


async def idle() -> None:
    await receive()


def test_the_last_one_first_while_all_processes_are_there(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def main() -> None:
        node = a_node()
        for _ in range(2):
            async with node:
                pid = spawn(idle)

                async def first() -> None:
                    done.append("first" if process_info(pid) is not None else "late")  # noqa: B023

                async def fails() -> None:
                    done.append("fails")
                    raise ValueError("boom")

                async def hangs() -> None:
                    done.append("hangs")
                    await asyncio.sleep(1000)

                for function, seconds in ((first, 5.0), (fails, 5.0), (hangs, 0.01), (first, 5.0)):
                    before_shut_down(function, seconds)

    asyncio.run(main())
    assert done == ["hangs", "fails", "first"] * 2
    assert "hangs has not ended within 0.01 s" in caplog.text
    assert "fails failed as node n@h shut down" in caplog.text


def test_the_body_of_a_node_ends_with_the_reason() -> None:
    async def ender() -> None:
        end_node(a.enough)

    async def main() -> None:
        async with a_node():
            spawn(ender)
            await asyncio.sleep(10)

    with pytest.raises(ProcessExit) as failure:
        asyncio.run(main())
    assert failure.value.reason is a.enough


def test_a_body_may_end_its_own_node() -> None:
    async def main() -> None:
        async with a_node():
            end_node(a.enough)
            await receive()

    with pytest.raises(ProcessExit) as failure:
        asyncio.run(main())
    assert failure.value.reason is a.enough


def test_a_node_without_a_body_shuts_down() -> None:
    async def ender() -> None:
        end_node(a.enough)
        await receive()

    async def main() -> None:
        node = a_node()
        await node.start()
        with pytest.raises(ProcessExit):
            await node.run_process(ender)
        async with asyncio.timeout(10):
            while node.alive:
                await asyncio.sleep(0.01)
        await node.shut_down()  # nothing is left to do

    asyncio.run(main())
