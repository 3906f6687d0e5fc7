"""What a flood does to others: round trips, ticks and timers of a node while one peer sends as fast as it can.

    .venv/bin/python -m bench.fairness --seconds 10

Another peer, an Erlang node, pings an echo process of the node a millisecond after each answer, and a process of the
node waits for timers of 10 ms; first with nothing else to do, then while an Erlang node floods a process that counts,
then while a Python node does. `net_ticktime` is 4 s, so that a node that forgot its ticks would lose its peers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

from beamnode.etf import Atom
from beamnode.testing.peers import PeerDied
from bench.setting import BenchError, PythonNode, Setting, cpu_seconds, loops, progress, rss_bytes

TICKTIME_SECONDS: Final = 4
TIMER_MILLISECONDS: Final = 10
FLOOD_WINDOW: Final = 10_000  # of a Python flooder, which has nothing else to slow it down
WARM_UP_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 120.0
RATIO_GOAL: Final = 10.0
HEADER: Final = """\
| | messages/s | left waiting | MiB grown | CPU | trip p50, µs | p99, µs | to idle | timer late, ms: p50 | p99 | peers |
|---|--:|--:|--:|--:|--:|--:|---|--:|--:|---|"""


@dataclass(frozen=True, slots=True)
class Phase:
    title: str
    rate: float  # messages per second that the flooded process counted
    waiting: int  # messages in its mailbox at the end
    load: float  # of one processor, by the node
    growth: int  # of the memory of the node, bytes
    round_trips: list[int]  # nanoseconds
    timers: list[int]  # nanoseconds late
    connected: bool  # at the end, by both sides

    def row(self, idle: Phase) -> str:
        p50, p99 = _percentiles(self.round_trips)
        idle50, idle99 = _percentiles(idle.round_trips)
        late50, late99 = _percentiles(self.timers)
        cells = [
            self.title,
            f"{self.rate:,.0f}",
            f"{self.waiting:,}",
            f"{self.growth / 2**20:.0f}",
            f"{self.load:.2f}",
            f"{p50 / 1e3:,.0f}",
            f"{p99 / 1e3:,.0f}",
            "" if self is idle else _ratios(p50 / idle50, p99 / idle99),
            f"{late50 / 1e6:.2f}",
            f"{late99 / 1e6:.2f}",
            "all kept" if self.connected else "**lost**",
        ]
        return f"| {' | '.join(cells)} |"


def _ratios(at_p50: float, at_p99: float) -> str:
    verdict = "met" if max(at_p50, at_p99) < RATIO_GOAL else "**not met**"
    return f"{at_p50:.0f} × p50, {at_p99:.0f} × p99 (goal < {RATIO_GOAL:g}: {verdict})"


def _percentiles(samples: list[int]) -> tuple[float, float]:
    cuts = quantiles(samples, n=100)
    return cuts[49], cuts[98]


class Scene:
    """The node that is measured, the peer that pings it, and those that flood it."""

    def __init__(self, setting: Setting, loop: str, seconds: int) -> None:
        ticks = ("-kernel", "net_ticktime", str(TICKTIME_SECONDS))
        self.seconds = seconds
        self.pinging, self.flooding = setting.erlang("ping", *ticks), setting.erlang("flood", *ticks)
        self.node = setting.python(loop, TICKTIME_SECONDS)
        self.python_flooder = setting.python(loop, TICKTIME_SECONDS)
        self.target = Atom(self.node.name)
        for peer in (self.pinging, self.flooding):
            if not peer.eval("net_kernel:connect_node(Node)", Node=self.target):
                raise BenchError(f"{peer.name} cannot connect to {self.node.name}")

    def phases(self) -> list[Phase]:
        floods = (("An Erlang node floods", self._erlang_flood), ("A Python node floods", self._python_flood))
        progress("Idle")
        found = [self._observe("Idle", None)]
        for title, flood in floods:
            progress(title)
            with flood() as counter:
                time.sleep(WARM_UP_SECONDS)
                found.append(self._observe(title, counter))
        return found

    def _observe(self, title: str, counter: Any) -> Phase:
        """Look at round trips and timers for a while, and at what the flood did meanwhile."""
        began, cpu_before, rss_before = time.monotonic(), cpu_seconds(self.node.pid), rss_bytes(self.node.pid)
        counted_before = self._counted(counter)[0] if counter else 0
        pinger = self.pinging.eval("bench_peer:start_pinger(Node)", Node=self.target)
        late = self._ask(self.node, "{timers, Milliseconds, Seconds}", Milliseconds=TIMER_MILLISECONDS)
        round_trips = self.pinging.eval("bench_peer:stop_pinger(Pinger)", ANSWER_SECONDS, Pinger=pinger)
        counted, waiting = self._counted(counter) if counter else (0, 0)
        seconds = time.monotonic() - began
        return Phase(
            title=title,
            rate=(counted - counted_before) / seconds,
            waiting=waiting,
            load=(cpu_seconds(self.node.pid) - cpu_before) / seconds,
            growth=rss_bytes(self.node.pid) - rss_before,
            round_trips=round_trips,
            timers=late,
            connected=self._connected(),
        )

    def _ask(self, node: PythonNode, job: str, **values: Any) -> Any:
        call = f"bench_peer:ask(Node, {job}, {round(ANSWER_SECONDS * 1000)})"
        values |= {"Node": Atom(node.name), "Seconds": self.seconds}
        return self.pinging.eval(call, ANSWER_SECONDS, **values)

    def _counted(self, counter: Any) -> tuple[int, int]:
        """How many messages the process that is flooded has counted, and how many wait in its mailbox."""
        return self._ask(self.node, "{counted, Counter}", Counter=counter)  # type: ignore[no-any-return]

    def _connected(self) -> bool:
        """Whether the node and its Erlang peers still have each other."""
        peers = (self.pinging, self.flooding)
        listed = self._ask(self.node, "nodes")
        return all(self.target in peer.eval("nodes()") and Atom(peer.name) in listed for peer in peers)

    @contextmanager
    def _erlang_flood(self) -> Iterator[Any]:
        call = 'bench_peer:flood(Node, <<"payload">>)'
        flooder, counter = self.flooding.eval(call, ANSWER_SECONDS, Node=self.target)
        yield counter
        self.flooding.eval("bench_peer:stop_flood(Flooder)", ANSWER_SECONDS, Flooder=flooder)

    @contextmanager
    def _python_flood(self) -> Iterator[Any]:
        job = "{flood, Target, Seconds + 3, Window}"  # it ends by itself
        yield self._ask(self.python_flooder, job, Target=self.target, Window=FLOOD_WINDOW)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of each phase (default: 10)")
    parser.add_argument("--otp", type=int, default=25, help="the release of the peers (default: 25)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args(arguments)
    try:
        (loop,) = loops(options.loop)
        with Setting(options.otp) as setting:
            phases = Scene(setting, loop, options.seconds).phases()
    except (BenchError, PeerDied) as error:
        progress(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        progress("bench: stopped")
        return 130
    print(f"OTP {options.otp}, {loop}, net_ticktime {TICKTIME_SECONDS} s, {options.seconds} s a phase.\n\n{HEADER}")
    for phase in phases:
        print(phase.row(phases[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
