"""node/ticktime.py: the tick time changes while connections are up; on a clock of the test."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beamnode import FixedPort, Node, StaticPorts, UsageError, a
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node.ticktime import NetTicktime
from beamnode.otp import sys


class Clock:
    """As much of an event loop as is needed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Any] = []

    def call_later(self, delay: float, function: Any, *args: Any) -> Clock:
        self.timers.append((self.now + delay, function, args))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end + 1e-9:
            self.now, function, args = self.timers.pop(0)
            function(*args)
        self.now = end


class Connection:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ticks: list[float] = []
        self.waits: list[tuple[float, float, int]] = []

    def tick(self) -> None:
        self.ticks.append(round(self.clock.now, 3))

    def set_ticktime(self, net_ticktime: float, net_tickintensity: int) -> None:
        self.waits.append((self.clock.now, net_ticktime, net_tickintensity))


def make(seconds: float, intensity: int = 4) -> tuple[NetTicktime, Clock, Connection]:
    clock = Clock()
    connection = Connection(clock)
    return NetTicktime(seconds, intensity, clock, lambda: [connection]), clock, connection  # type: ignore[arg-type]


def test_longer() -> None:
    ticktime, clock, connection = make(4)
    assert ticktime.change(8000, 3000) is a.change_initiated
    assert connection.waits == [(0, 8, 4)]  # at once
    assert (ticktime.how, ticktime.seconds) == (a.longer, 8)
    clock.run(2.5)
    assert ticktime.change(20_000, 0) == (a.ongoing_change_to, 8000)
    clock.run(10)
    assert connection.ticks == [0, 1, 2, 3]  # as often as before
    assert ticktime.how is None
    assert not clock.timers


def test_shorter() -> None:
    ticktime, clock, connection = make(8)
    assert ticktime.change(4000, 2500) is a.change_initiated
    clock.run(2)
    assert connection.waits == []
    assert ticktime.seconds == 8
    clock.run(10)
    assert connection.ticks == [0, 1, 2, 3]  # as often as from then on
    assert connection.waits == [(3, 4, 4)]
    assert (ticktime.how, ticktime.seconds, ticktime.time) == (None, 4, 4000)


def test_at_once_and_not_at_all() -> None:
    ticktime, clock, connection = make(4)
    assert ticktime.change(4000, 1000) is a.unchanged
    assert ticktime.change(3999, 1000) is a.unchanged  # which is rounded up
    assert connection.ticks == []
    assert ticktime.change(2000, 0) is a.change_initiated
    assert connection.waits == [(0, 2, 4)]
    assert connection.ticks == [0]
    assert not clock.timers
    assert ticktime.change(1, 0) is a.change_initiated
    assert ticktime.time == 4  # a tick is a millisecond at least


def test_a_node_that_stops_changes_no_more() -> None:
    ticktime, clock, _ = make(4)
    ticktime.change(8000, 5000)
    ticktime.cancel()
    assert not clock.timers


def test_two_nodes_change_in_turn_and_stay_connected() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        ports = StaticPorts({"m@h": 1024, "n@h": 1025})
        second = Node("n@h", cookie="c", carrier=network.carrier("h"), discovery=ports, net_ticktime=0.4)
        async with Node("m@h", cookie="c", carrier=network.carrier("h"), discovery=ports, net_ticktime=0.4) as first:
            await second.start()
            assert await first.connect("n@h")
            assert first.set_net_ticktime(2, 0.5) is a.change_initiated
            assert (await sys.get_state("net_kernel"))[3][0::2] == (a.tick_change, 2000, a.longer)
            assert first.set_net_ticktime(3) == (a.ongoing_change_to, 2.0)
            await asyncio.sleep(0.3)
            assert second.set_net_ticktime(2, 0.2) is a.change_initiated
            await asyncio.sleep(1)
            assert first.list() == [second.name]
            assert first.connections()[0].id == 1
            assert first.set_net_ticktime(2) is a.unchanged
            assert first.net_ticktime == 2
            assert first.set_net_ticktime(0.4, 0.2) is a.change_initiated
            assert second.set_net_ticktime(0.4, 0.2) is a.change_initiated
            await asyncio.sleep(1)
            assert first.list() == [second.name]
            await second.shut_down()
        assert first.net_ticktime == 0.4  # what it was given

    asyncio.run(main())


def test_times_that_cannot_be() -> None:
    async def main() -> None:
        async with Node("m@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1)) as node:
            for seconds, transition in ((0, 1), (-1, 1), (1, -1), (float("nan"), 1)):
                with pytest.raises(UsageError, match="net_ticktime is more than 0 s"):
                    node.set_net_ticktime(seconds, transition)

    asyncio.run(main())
