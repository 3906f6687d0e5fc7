"""The scenarios: what the peer is asked to run, what its answer measures, and the goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

CALLERS: Final = 64
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the ratio to the BEAM: of `unit` per second at least, of microseconds at most."""

    bound: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `of` makes it from the answer of the peer, how much was done, and the CPU seconds used."""

    key: str
    title: str
    unit: str
    of: Callable[[Any, int, float], float]
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """`call` is an Erlang expression over the variables Node and N."""

    name: str
    call: str
    amount: int
    quick_amount: int
    figures: tuple[Figure, ...]


def _percentile(percent: int) -> Callable[[Any, int, float], float]:
    return lambda samples, _n, _cpu: quantiles(samples, n=100)[percent - 1] / 1000


def _rate(scale: float) -> Callable[[Any, int, float], float]:
    return lambda nanoseconds, n, _cpu: n / nanoseconds * 1e9 / scale


def _cpu(_answer: Any, n: int, cpu: float) -> float:
    return cpu / n * 1e6


def _at_most(bound: float) -> Goal:
    return Goal(bound, at_least=False)


def _at_least(bound: float) -> Goal:
    return Goal(bound, at_least=True)


def _flow(name: str, title: str, call: str, goal: float, goal_cpu: float | None) -> Scenario:
    """Messages or calls, as many as possible."""
    rate = Figure(name, title, "thousand/s", _rate(1e3), _at_least(goal))
    cpu = Figure(f"{name}_cpu", f"{title}: processor", "µs each", _cpu, _at_most(goal_cpu) if goal_cpu else None)
    amounts = (50_000, 5_000) if "Callers" in call else (200_000, 20_000)
    return Scenario(name, call.replace("Callers", str(CALLERS)), *amounts, (rate, cpu))


def _bulk(name: str, title: str, function: str) -> Scenario:
    call = f"bench_peer:{function}(Node, N, binary:copy(<<7>>, {MIB}))"
    figures = (
        Figure(name, title, "MiB/s", _rate(1), _at_least(0.9)),
        Figure(f"{name}_cpu", f"{title}: processor", "µs each", _cpu),
    )
    return Scenario(name, call, 200, 20, figures)


def _round_trips(name: str, title: str, function: str, goal: Goal | None) -> Scenario:
    figures = (
        Figure(name, f"{title}, p50", "µs", _percentile(50), goal),
        Figure(f"{name}_p99", f"{title}, p99", "µs", _percentile(99)),
        Figure(f"{name}_cpu", f"{title}: processor", "µs each", _cpu),
    )
    return Scenario(name, f"bench_peer:{function}(Node, N)", 5_000, 1_000, figures)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        _round_trips("rtt", "Round trip, ours", "pings", _at_most(1.1)),
        _round_trips("rtt_in", "Round trip, the peer's", "pinged", None),
        _flow("inbound", "Messages in", 'bench_peer:inbound(Node, N, <<"payload">>)', 1.2, 1.0),
        _flow("outbound", "Messages out", 'bench_peer:outbound(Node, N, <<"payload">>)', 1.5, None),
        _bulk("bulk_in", "1 MiB binaries in", "inbound"),
        _bulk("bulk_out", "1 MiB binaries out", "outbound"),
        _flow("served", "gen_server calls served", "bench_peer:served(Node, Callers, N)", 1.0, 1.0),
        _flow("served_raw", "Plain requests served", "bench_peer:served_raw(Node, Callers, N)", 0.8, None),
    )
}

FIGURES: Final = {figure.key: figure for scenario in SCENARIOS.values() for figure in scenario.figures}
