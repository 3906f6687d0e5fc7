"""How a cluster of Python nodes grows: the time to a full mesh, the memory of a connection, messages across all.

    .venv/bin/python -m bench.cluster --sizes 2,10,50,100,200 --minutes 5
    .venv/bin/python -m bench.cluster --profile          what the join of 50 nodes spends its time on

Several nodes share a process (25 at most), and every connection has both its ends on this machine. All are visible;
each connects to the first, and `global` makes the mesh of it, as it does between Erlang nodes. Memory is that in RAM.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.setting import ROOT, START_SECONDS, BenchError, Setting, progress, rss_bytes

NODES_PER_PROCESS: Final = 25
PROFILED_SIZE: Final = 50
IDLE_SECONDS: Final = 2.0  # after the mesh is complete, before memory is read
TALK_MESSAGES: Final = 60_000  # in all
STAR: Final = 100  # connections of one node, to compare its memory with that of a BEAM
HEADER: Final = """\
| nodes | processes | connections | mesh, s | CPU, s | RSS, MiB | KiB an end: growth | whole | messages/s |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


class Worker:
    """A process of `bench.cluster_worker`."""

    def __init__(self, setting: Setting, setuptime: float, profile: Path | None = None) -> None:
        command = [sys.executable, "-m", "bench.cluster_worker", setting.cookie, str(setting.epmd.port), str(setuptime)]
        self._process = subprocess.Popen(
            [*command, *([str(profile)] if profile else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, order: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, deadline: float) -> dict[str, Any]:
        """The answer to the last order; TimeoutError when it does not come before `deadline` (time.monotonic)."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("a process of the cluster has died: its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def signal(self) -> None:
        self._process.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def all_answer(workers: list[Worker], deadline: float, order: str, **arguments: Any) -> list[dict[str, Any]]:
    """Give the same order to all at once, and wait for all answers."""
    for worker in workers:
        worker.tell(order, **arguments)
    return [worker.answer(deadline) for worker in workers]


def measure(setting: Setting, size: int, options: argparse.Namespace, profile: bool = False) -> dict[str, Any]:
    """One size; TimeoutError when it does not become a mesh, or loses messages, before the time is up."""
    per_process = min(NODES_PER_PROCESS, -(-size // 2))
    names = [f"c{number}_{size}@127.0.0.1" for number in range(size)]
    shares = [names[start : start + per_process] for start in range(0, size, per_process)]
    deadline = time.monotonic() + options.minutes * 60
    with ExitStack() as ending:
        workers = []
        for number in range(len(shares)):
            path = ROOT / f"bench/results/join-{number}.txt" if profile else None
            workers.append(Worker(setting, options.setuptime, path))
            ending.callback(workers[-1].kill)
        ending.callback(lambda: [worker.signal() for worker in workers])
        base = all_answer(workers, deadline, "nothing")
        for worker, share in zip(workers, shares, strict=True):
            worker.tell("start", names=share)
        started = [worker.answer(deadline) for worker in workers]
        began = time.monotonic()
        joined = all_answer(workers, deadline, "join", seed=names[0], connections=size - 1)
        mesh_seconds = max(answer["at"] for answer in joined) - began
        time.sleep(IDLE_SECONDS)
        idle = all_answer(workers, deadline, "nothing")
        rate = 0.0 if profile else _talk(workers, names, deadline)
    ends = size * (size - 1)
    return {
        "nodes": size,
        "processes": len(workers),
        "connections": ends // 2,
        "mesh_seconds": mesh_seconds,
        "cpu_seconds": _sum(joined, "cpu") - _sum(started, "cpu"),
        "rss_base": _sum(base, "rss"),
        "rss_started": _sum(started, "rss"),
        "rss_idle": _sum(idle, "rss"),
        "growth_per_end": (_sum(idle, "rss") - _sum(started, "rss")) / ends,
        "whole_per_end": _sum(idle, "rss") / ends,
        "messages_per_second": rate,
    }


def _sum(answers: list[dict[str, Any]], key: str) -> float:
    return sum(answer[key] for answer in answers)


def _talk(workers: list[Worker], names: list[str], deadline: float) -> float:
    """Every node sends to random others; messages a second until the last one has been counted."""
    all_answer(workers, deadline, "listen")
    each = -(-TALK_MESSAGES // len(names))
    began = time.monotonic()
    all_answer(workers, deadline, "talk", names=names, messages=each)
    while True:
        counts = all_answer(workers, deadline, "counted")
        if _sum(counts, "counted") == each * len(names):
            return each * len(names) / (max(count["at"] for count in counts) - began)
        time.sleep(0.05)


def star(setting: Setting, hub: str, pid: int, options: argparse.Namespace) -> float:
    """KiB by which the process `pid` of node `hub` grows with each of many idle connections."""
    deadline = time.monotonic() + options.minutes * 60
    grown = []
    for part in (STAR // 10, STAR):  # the first ones load and grow what is needed once
        worker = Worker(setting, options.setuptime)
        try:
            before = rss_bytes(pid)
            worker.tell("start", names=[setting.new_name("spoke") for _ in range(part)], hidden=True)
            worker.answer(deadline)
            worker.tell("join", seed=hub, connections=1)
            worker.answer(deadline)
            time.sleep(IDLE_SECONDS)
            grown.append((rss_bytes(pid) - before) / part / 1024)
            worker.signal()
            time.sleep(IDLE_SECONDS)
        finally:
            worker.kill()
    return grown[-1]


def compare_stars(setting: Setting, options: argparse.Namespace) -> str:
    with setting.erlang("hub") as beam:
        of_beam = star(setting, beam.name, beam.pid, options)
    hub = Worker(setting, options.setuptime)
    try:
        name = setting.new_name("hub")
        hub.tell("start", names=[name])
        hub.answer(time.monotonic() + START_SECONDS)
        of_ours = star(setting, name, hub.pid, options)
    finally:
        hub.kill()
    grown = f"a BEAM grows by {of_beam:.1f} KiB a connection, a Python node by {of_ours:.1f} KiB"
    return f"One node with {STAR} idle connections of hidden nodes: {grown}."


def row(result: dict[str, Any]) -> str:
    cells = [
        f"{result['nodes']}",
        f"{result['processes']}",
        f"{result['connections']:,}",
        f"{result['mesh_seconds']:.2f}",
        f"{result['cpu_seconds']:.2f}",
        f"{result['rss_idle'] / 2**20:.0f}",
        f"{result['growth_per_end'] / 1024:.1f}",
        f"{result['whole_per_end'] / 1024:.1f}",
        f"{result['messages_per_second']:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    results = []
    print(HEADER)
    try:
        with Setting(options.otp) as setting:
            for size in options.sizes:
                progress(f"{size} nodes")
                try:
                    results.append(measure(setting, size, options, options.profile))
                    print(row(results[-1]))
                except TimeoutError:
                    print(f"| {size} | not done within {options.minutes:g} minutes |")
            if not options.profile:
                progress(f"one node with {STAR} connections")
                print(f"\n{compare_stars(setting, options)}")
    except BenchError as error:
        progress(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        progress("bench: stopped")
        return 130
    path = ROOT / "bench/results/cluster.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=(__doc__ or "").partition("\n")[0])
    sizes = [2, 10, 50, 100, 200]
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=sizes)
    parser.add_argument("--minutes", type=float, default=5, help="at most, for each size (default: 5)")
    parser.add_argument("--setuptime", type=float, default=7, help="net_setuptime, seconds (default: OTP's, 7)")
    parser.add_argument("--otp", type=int, default=25, help="whose epmd, and whose node is compared (default: 25)")
    parser.add_argument("--profile", action="store_true", help=f"profile {PROFILED_SIZE} nodes that join")
    options = parser.parse_args(arguments)
    if options.profile:
        options.sizes = [PROFILED_SIZE]
    os.makedirs(ROOT / "bench/results", exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
