"""The table: beamnode's figures beside those of an Erlang node, each against the same Erlang peer.

    .venv/bin/python -m bench --rounds 5 --only rtt,inbound --otp 27 --loop uvloop --quick

A round runs the scenarios in random order. Each starts a peer, a measured Erlang node and a measured Python node for
each event loop, and measures these in random order, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from beamnode.etf import Atom
from beamnode.testing.peers import ErlNode, PeerDied
from bench import chart, report
from bench.scenarios import SCENARIOS, Scenario
from bench.setting import ROOT, BenchError, PythonNode, Setting, cores, cpu_seconds, loops, on_core, progress

SCENARIO_SECONDS: Final = 300.0
WARM_UP_PARTS: Final = 5  # a fifth of a scenario runs before it, unmeasured
SETTLE_SECONDS: Final = 0.3  # after nodes have met, and between two measurements

Samples = dict[str, dict[str, list[float]]]  # by figure and measured node, one value a round


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        names = _chosen(options.only)
        python_loops = loops(options.loop)
        with Setting(options.otp, options.busy_wait, options.tls) as setting:
            samples, codec = _run(setting, [SCENARIOS[name] for name in names], python_loops, options)
            result = report.result(samples, options, codec)
    except (BenchError, PeerDied) as error:
        progress(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        progress("bench: stopped")
        return 130
    print(report.table(result))
    report.save(result, ROOT / "bench/results/last.json")
    if options.chart is None and not options.only and not options.quick and not options.tls:
        options.chart = ROOT / "docs/performance.svg"
    if options.chart:
        options.chart.write_text(chart.svg(result), encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5; with --quick: 1")
    parser.add_argument("--only", help=f"some scenarios: {','.join(SCENARIOS)}")
    parser.add_argument("--otp", type=int, default=25, help="the release of the peer and the yardstick (default: 25)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="default: each that is installed")
    parser.add_argument(
        "--cores",
        choices=("two", "one", "free"),
        default="two",
        help="the peer and the measured node on a core each (default), on one, or wherever the system puts them",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, once: does it run at all?")
    parser.add_argument(
        "--no-busy-wait", dest="busy_wait", action="store_false", help="schedulers of Erlang do not spin"
    )
    parser.add_argument("--tls", action="store_true", help="all of them over TLS (1.3), with certificates both ways")
    parser.add_argument("--seed", type=int, default=None, help="of the random order")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="draw the ratios, as SVG (a whole run: docs/performance.svg)"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    options.seed = random.randrange(1 << 32) if options.seed is None else options.seed
    return options


def _chosen(only: str | None) -> list[str]:
    names = only.split(",") if only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise BenchError(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return names


def _run(
    setting: Setting, scenarios: list[Scenario], python_loops: list[str], options: argparse.Namespace
) -> tuple[Samples, str]:
    order = random.Random(options.seed)
    samples: Samples = {figure.key: {} for scenario in scenarios for figure in scenario.figures}
    codec = ""
    for number in range(1, options.rounds + 1):
        progress(f"round {number} of {options.rounds}")
        for scenario in order.sample(scenarios, len(scenarios)):
            codec = _on_fresh_nodes(setting, scenario, python_loops, order, options, samples)
    return samples, codec


def _on_fresh_nodes(
    setting: Setting,
    scenario: Scenario,
    python_loops: list[str],
    order: random.Random,
    options: argparse.Namespace,
    samples: Samples,
) -> str:
    """One scenario of one round; the codec that was measured."""
    its_core, our_core = cores(options.cores)
    with ExitStack() as nodes:
        with on_core(its_core):
            peer = nodes.enter_context(setting.erlang("peer"))
        with on_core(our_core):
            beam = nodes.enter_context(setting.measured_erlang())
            pythons = [setting.python(loop) for loop in python_loops]
        try:
            _compare(peer, beam, pythons, scenario, order, options, samples)
            return pythons[0].codec
        finally:
            for python in pythons:
                python.signal()
            for python in pythons:
                python.kill()


def _compare(
    peer: ErlNode,
    beam: ErlNode,
    pythons: list[PythonNode],
    scenario: Scenario,
    order: random.Random,
    options: argparse.Namespace,
    samples: Samples,
) -> None:
    rows: list[tuple[str, ErlNode | PythonNode]] = [("beam", beam), *((node.loop, node) for node in pythons)]
    for _, node in rows:
        if not peer.eval("net_kernel:connect_node(Node)", Node=Atom(node.name)):
            raise BenchError(f"the peer cannot connect to {node.name}")
    n = scenario.quick_amount if options.quick else scenario.amount
    for row, node in order.sample(rows, len(rows)):
        _measure(peer, node.name, scenario, n // WARM_UP_PARTS)
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(node.pid)
        answer = _measure(peer, node.name, scenario, n)
        cpu = cpu_seconds(node.pid) - before
        values = {figure.key: figure.of(answer, n, cpu) for figure in scenario.figures}
        for key, value in values.items():
            samples[key].setdefault(row, []).append(value)
        first = scenario.figures[0]
        progress(f"  {scenario.name:<11}{row:<8}{values[first.key]:10.1f} {first.unit}")


def _measure(peer: ErlNode, node: str, scenario: Scenario, n: int) -> Any:
    return peer.eval(scenario.call, SCENARIO_SECONDS, Node=Atom(node), N=n)


if __name__ == "__main__":
    sys.exit(main())
