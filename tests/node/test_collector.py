"""Python's garbage collector has the program's thresholds, but for full collections while there are many processes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from beamnode import FixedPort, Node, receive, spawn
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import collector


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


async def idle() -> None:
    await receive()


def test_many_processes_make_full_collections_rarer_until_they_end() -> None:
    async def main() -> None:
        async with Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1)):
            for _ in range(900):
                spawn(idle)
            assert gc.get_threshold() == (700, 10, 10)
            for _ in range(4200):
                spawn(idle)
            assert gc.get_threshold() == (700, 10, 50)
        assert gc.get_threshold() == (700, 10, 10)

    asyncio.run(main())


def test_nodes_share_the_collector() -> None:
    one, two = object(), object()
    collector.grown(one, 5_000)
    collector.grown(two, 200_000_000)
    assert gc.get_threshold() == (700, 10, 2000), "at most"
    collector.grown(two, 10)
    collector.ended(two)
    assert gc.get_threshold() == (700, 10, 50)
    collector.ended(two)
    collector.ended(one)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("chosen", [(700, 10, 500), (700, 10, 0), (0, 0, 0)])
def test_what_the_program_has_chosen_stays(chosen: tuple[int, int, int]) -> None:
    gc.set_threshold(*chosen)
    node = object()
    collector.grown(node, 5_000)
    assert gc.get_threshold() == chosen
    collector.ended(node)
    assert gc.get_threshold() == chosen


def test_what_the_program_chooses_meanwhile_stays() -> None:
    node = object()
    collector.grown(node, 5_000)
    gc.set_threshold(700, 10, 20)
    collector.ended(node)
    assert gc.get_threshold() == (700, 10, 20)
