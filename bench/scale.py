"""How many processes: spawns a second and bytes a process, a ring of them, a supervisor of them; beside the BEAM's.

    .venv/bin/python -m bench.scale --sizes 10000,100000,1000000 --rounds 3

Every measurement runs in an OS process of its own, the BEAM's and ours in turn, on one core each: our processes have no
other, and the BEAM's spawns are one process's. "Python" has the garbage collector as Python sets it, "Python, rare gc"
with `gc.set_threshold(700, 10, 1000)`. Ratios are taken within a round; shown are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from bench.setting import ROOT, BenchError, Setting, on_core, progress

ROWS: Final = ("beam", "default", "rare")
TITLES: Final = {"beam": "BEAM", "default": "Python", "rare": "Python, rare gc"}
Round = dict[str, dict[str, float]]  # by row, then by figure


def measure(setting: Setting, what: str, count: int, row: str) -> dict[str, float]:
    """One measurement: its figures by name."""
    with on_core(max(os.sched_getaffinity(0))):
        if row == "beam":
            text = setting.run_erlang(f"bench_scale:{what}({count})", "+P", "4000000", "+S", "1")
        else:
            command = [sys.executable, "-m", "bench.scale_worker", what, str(count), row]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            if done.returncode:
                raise BenchError(f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}")
            text = done.stdout
    figures: dict[str, float] = json.loads(text.strip().splitlines()[-1])
    return figures


def rounds(setting: Setting, what: str, count: int, number: int) -> list[Round]:
    """All rows in turn, so many times."""
    result = []
    for _ in range(number):
        progress(f"{what} of {count:,}")
        result.append({row: measure(setting, what, count, row) for row in ROWS})
    return result


def line(title: str, taken: list[Round], row: str, figure: str, shown: Any) -> str:
    """One row of a table: medians, and the ratio to the BEAM's."""
    values = [each[row][figure] for each in taken]
    ratio = median(each[row][figure] / each["beam"][figure] for each in taken)
    return f"| {title} | {TITLES[row]} | {shown(median(values))} | {'' if row == 'beam' else f'{ratio:.2f}'} |"


def report(taken: dict[str, list[Round]]) -> str:
    lines = ["| what | where | figure | ratio to the BEAM's |", "|---|---|--:|--:|"]
    for key, each in taken.items():
        what, _, size = key.partition(" ")
        count = int(size)
        for row in ROWS:
            if what == "idle":
                lines.append(
                    line(f"{count:,} spawned, a second", each, row, "seconds", lambda s, n=count: f"{n / s:,.0f}")
                )
        for row in ROWS:
            if what == "idle":
                lines.append(line(f"{count:,} idle, bytes each", each, row, "bytes", lambda b: f"{b:,.0f}"))
            elif what == "ring":
                lines.append(
                    line(f"ring of {count:,}, us a hop", each, row, "seconds", lambda s, n=count: f"{s / n * 1e6:.2f}")
                )
        if what == "tree":
            for figure, title in (
                ("start", "started, s"),
                ("restart_one", "one restarted, ms"),
                ("restart_all", "all restarted, s"),
            ):
                scale = 1000 if title.endswith("ms") else 1
                for row in ROWS:
                    lines.append(
                        line(f"supervisor of {count:,}: {title}", each, row, figure, lambda s, k=scale: f"{s * k:.2f}")
                    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    taken: dict[str, list[Round]] = {}
    try:
        with Setting(options.otp) as setting:
            for size in options.sizes:
                taken[f"idle {size}"] = rounds(setting, "idle", size, options.rounds)
            taken[f"ring {options.ring}"] = rounds(setting, "ring", options.ring, options.rounds)
            taken[f"tree {options.tree}"] = rounds(setting, "tree", options.tree, options.rounds)
    except BenchError as error:
        progress(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        progress("bench: stopped")
        return 130
    print(report(taken))
    os.makedirs(ROOT / "bench/results", exist_ok=True)
    (ROOT / "bench/results/scale.json").write_text(json.dumps(taken, indent=1) + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=(__doc__ or "").partition("\n")[0])
    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=sizes)
    parser.add_argument("--ring", type=int, default=100_000, help="processes of the ring (default: 100000)")
    parser.add_argument("--tree", type=int, default=100_000, help="children of the supervisor (default: 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="of every measurement (default: 3)")
    parser.add_argument("--otp", type=int, default=25, help="whose BEAM is compared (default: 25)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
