"""A fault at every byte of a session, in each direction: the nodes live, all are told once, nothing is left, they meet.

The suite cuts at every byte, and has a few of the other faults, at other places each time. All of them, at every byte:

    BEAMNODE_FAULTS=all python -m pytest tests/testing/test_faults.py --timeout 3600 -s
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from fault_session import Figures, Pair, lengths, run_all

from beamnode.errors import CookieMismatch
from beamnode.testing.fault_proxy import Corrupt, Cut, Delay, Fault, Plan, Split, Stall

pytestmark = pytest.mark.one_python

ALL = os.environ.get("BEAMNODE_FAULTS") == "all"
SAMPLE = 14  # places of a direction, where not all are taken
HANDSHAKE_BYTES_MIN = 80  # of each direction

Make = Callable[[int], Fault]


@pytest.fixture(autouse=True)
def _no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield
    for record in caplog.records:
        assert record.exc_info is None, record
        assert "an error of this library" not in record.getMessage()


def places(length: int, every: bool) -> range:
    """Those of a direction with so many bytes: all, or some, from a random one on."""
    step = 1 if every else length // SAMPLE
    return range(secrets.randbelow(step), length, step)


def plans(make: Make, both: tuple[int, int], *, every: bool = False) -> list[Plan]:
    forward, backward = (places(length, every or ALL) for length in both)
    return [Plan(forward=[make(at)]) for at in forward] + [Plan(backward=[make(at)]) for at in backward]


def run(make: Make, cookie: str, *, every: bool = False, side_by_side: int = 6, seconds: float = 5.0) -> Figures:
    begun = time.monotonic()
    planned = plans(make, asyncio.run(lengths(cookie)), every=every)
    figures = asyncio.run(run_all(planned, cookie, side_by_side=side_by_side, seconds=seconds))
    print(f"{type(make(0)).__name__}: {figures}, {time.monotonic() - begun:.1f} s")
    assert figures.sessions == len(planned)
    return figures


def test_a_cut_at_every_byte(cookie: str) -> None:
    """In good order at one, by a reset at the next; the next time the other way round."""
    odd = secrets.randbelow(2)
    figures = run(lambda at: Cut(at, reset=at % 2 == odd), cookie, every=True)
    assert figures.hit == figures.sessions
    assert 0 < figures.connected < figures.sessions


@pytest.mark.skipif(not ALL, reason="with BEAMNODE_FAULTS=all")
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_of_each_kind_at_every_byte(cookie: str, reset: bool) -> None:
    figures = run(lambda at: Cut(at, reset), cookie)
    assert figures.hit == figures.sessions


def test_a_stall_for_good(cookie: str) -> None:
    """The set-up time ends it, or the tick time."""
    figures = run(Stall, cookie, side_by_side=28, seconds=1.0)
    assert figures.hit == figures.sessions


@pytest.mark.parametrize(
    "make",
    [lambda at: Stall(at, 0.02), lambda at: Split(at, 1), lambda at: Split(at, 7), lambda at: Delay(at, 0.01)],
    ids=["a stall for a while", "single bytes", "odd sizes", "a delay"],
)
def test_what_breaks_nothing(cookie: str, make: Make) -> None:
    figures = run(make, cookie)
    assert figures.hit == figures.connected == figures.whole == figures.sessions


@pytest.mark.parametrize("bits", [1, 0x80, 0xFF] if ALL else [1 << secrets.randbelow(8)])
def test_a_corrupted_byte(cookie: str, bits: int) -> None:
    """It may make another lawful message; what holds then too is checked (`Pair.check`)."""
    figures = run(lambda at: Corrupt(at, bits), cookie, side_by_side=28, seconds=1.0)
    assert figures.hit == figures.sessions


def test_corruption_does_not_open_the_door(cookie: str) -> None:
    """With two cookies there is no connection, whatever becomes of the bytes of the handshake."""

    async def main() -> int:
        count = 0
        async with AsyncExitStack() as stack:
            pair = Pair(0, cookie, 0.5)
            await pair.start(stack)
            pair.two.set_cookie("another")
            step = 1 if ALL else 7
            for at, bits in itertools.product(range(secrets.randbelow(step), HANDSHAKE_BYTES_MIN, step), (1, 0x80)):
                for plan in (Plan(forward=[Corrupt(at, bits)]), Plan(backward=[Corrupt(at, bits)])):
                    assert not await pair.session(plan), plan
                    assert pair.two.list("connected") == pair.one.list("connected") == []
                    count += 1
            await pair.settle()
            assert not await pair.session(Plan())
            assert isinstance(pair.one.connect_error(pair.two_name), CookieMismatch)
        return count

    assert asyncio.run(main()) > 20
