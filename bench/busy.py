"""What a peer that stops does to a node and to its other peers: 1 GB is sent to it, and round trips to another go on.

    .venv/bin/python -m bench.busy --otp 27 --loop asyncio --megabytes 1000

The peer is stopped (SIGSTOP), then processes of the node send it messages of 1 MiB: one process or eight, as coroutines
and as threads, or a process of an Erlang node, the BEAM, for comparison. For a few seconds the memory of the node is
looked at, and what its round trips with an echo process of another peer take, beside those before. Then the peer goes
on, and must get everything. The node has a core of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

from beamnode.etf import Atom
from beamnode.testing.peers import ErlNode, PeerDied, wait_for
from bench.setting import BenchError, PythonNode, Setting, cores, loops, on_core, progress, rss_bytes

MIB: Final = 1024 * 1024
PINGS: Final = 3_000
SETTLE_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 300.0
GROWTH_GOAL: Final = 64 * MIB
RATIO_GOAL: Final = 2.0
COLUMNS: Final = (
    "who sends",
    "MiB grown",
    "goal < 64",
    "trip p50, µs: before",
    "meanwhile",
    "ratio",
    "goal < 2",
    "p99: before",
    "meanwhile",
    "ratio",
    "all there after, s",
)
HEADER: Final = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    kind: str  # of `bench.measured` and `bench_peer`: how the senders run
    senders: int


CASES: Final = (
    Case("a coroutine", "coroutine", 1),
    Case("8 coroutines", "coroutine", 8),
    Case("a thread", "thread", 1),
    Case("8 threads", "thread", 8),
)
BEAM_CASES: Final = (Case("BEAM: a process", "process", 1), Case("BEAM: 8 processes", "process", 8))


class Scene:
    """One measured node, the peer that is stopped, and the one that pings."""

    def __init__(self, setting: Setting, start: Callable[[], PythonNode | ErlNode], messages: int) -> None:
        core, measured_core = cores("two")
        with on_core(measured_core):
            self.measured = start()
        self.node = Atom(self.measured.name or "")
        self.messages = messages
        with on_core(core):
            self.slow, self.pinging = setting.erlang("slow"), setting.erlang("ping")
        for peer in (self.slow, self.pinging):
            if not peer.eval("net_kernel:connect_node(Node)", Node=self.node):
                raise BenchError(f"{peer.name} cannot connect to {self.node}")
        self._trips(PINGS)

    def row(self, case: Case, rounds: int) -> str:
        progress(case.title)
        grown, *others = zip(*(self._press(case) for _ in range(rounds)), strict=True)
        return _row(case.title, max(grown), *(median(values) for values in others))

    def _press(self, case: Case) -> tuple[float, ...]:
        """Bytes grown; p50 and p99 before and meanwhile; seconds until all was there."""
        counter = self.slow.eval("bench_peer:start_counter()")
        before, idle = rss_bytes(self.measured.pid), self._trips(PINGS)
        self.slow.suspend()
        try:
            each = self.messages // case.senders
            job = f"{{press, {case.kind}, Counter, {case.senders}, {each}}}"
            self._ask(job, Counter=counter)
            time.sleep(SETTLE_SECONDS)
            meanwhile = self._trips(PINGS)
            grown = rss_bytes(self.measured.pid) - before
        finally:
            self.slow.resume()
        began = time.monotonic()
        wanted = each * case.senders
        wait_for(lambda: self.slow.eval("bench_peer:counted(Counter)", Counter=counter) == wanted, ANSWER_SECONDS)
        return grown, *_percentiles(idle), *_percentiles(meanwhile), time.monotonic() - began

    def _trips(self, count: int) -> list[int]:
        samples: list[int] = self.pinging.eval("bench_peer:pinged(Node, N)", ANSWER_SECONDS, Node=self.node, N=count)
        return samples

    def _ask(self, job: str, **values: Any) -> Any:
        call = f"bench_peer:ask(Node, {job}, {round(ANSWER_SECONDS * 1000)})"
        return self.pinging.eval(call, ANSWER_SECONDS, Node=self.node, **values)


def _row(title: str, grown: float, idle50: float, idle99: float, busy50: float, busy99: float, seconds: float) -> str:
    cells = [
        title,
        f"{grown / MIB:.1f}",
        _verdict(grown < GROWTH_GOAL),
        f"{idle50 / 1e3:,.0f}",
        f"{busy50 / 1e3:,.0f}",
        f"{busy50 / idle50:.2f}",
        _verdict(busy50 < RATIO_GOAL * idle50),
        f"{idle99 / 1e3:,.0f}",
        f"{busy99 / 1e3:,.0f}",
        f"{busy99 / idle99:.2f}",
        f"{seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def _percentiles(samples: list[int]) -> tuple[float, float]:
    cuts = quantiles(samples, n=100)
    return cuts[49], cuts[98]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="sent to the peer that is stopped (default: 1000)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of which medians are shown, and the most that it grew (default: 3)"
    )
    parser.add_argument("--otp", type=int, default=27, help="the release of the peers (default: 27)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args(arguments)
    rows = []
    try:
        (loop,) = loops(options.loop)
        with Setting(options.otp) as setting:
            scene = Scene(setting, lambda: setting.python(loop), options.megabytes)
            rows += [scene.row(case, options.rounds) for case in CASES]
            scene = Scene(setting, setting.measured_erlang, options.megabytes)
            rows += [scene.row(case, options.rounds) for case in BEAM_CASES]
    except (BenchError, PeerDied) as error:
        progress(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        progress("bench: stopped")
        return 130
    print(
        f"OTP {options.otp}, {loop}, {options.megabytes} messages of 1 MiB to a peer that is stopped; "
        f"medians of {options.rounds} rounds.\n\n{HEADER}"
    )
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
