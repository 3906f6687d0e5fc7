"""How many processes: spawns a second and bytes a process, a ring of them, a supervisor of them; beside the BEAM's.

    .venv/bin/python -m bench.scale --sizes 10000,100000,1000000 --rounds 3

Every measurement runs in an OS process of its own, the BEAM's and ours in turn, on one core each: our processes have no
other, and the BEAM's spawns are one process's. Ratios are taken within a round; shown are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from bench.setting import ROOT, BenchError, Setting, on_core, progress

ROWS: Final = ("beam", "python")
Round = dict[str, dict[str, float]]  # by row, then by figure


def measure(setting: Setting, what: str, count: int, row: str) -> dict[str, float]:
    """One measurement: its figures by name."""
    with on_core(max(os.sched_getaffinity(0))):
        if row == "beam":
            text = setting.run_erlang(f"bench_scale:{what}({count})", "+P", "4000000", "+S", "1")
        else:
            command = [sys.executable, "-m", "bench.scale_worker", what, str(count)]
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


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}"


def _bytes(_count: int, size: float) -> str:
    return f"{size:,.0f}"


def _each(count: int, seconds: float) -> str:
    return f"{seconds / count * 1e6:.2f}"


def _seconds(_count: int, seconds: float) -> str:
    return f"{seconds:.2f}"


def _milliseconds(_count: int, seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


FIGURES: Final[dict[str, list[tuple[str, str, Callable[[int, float], str]]]]] = {
    "idle": [("seconds", "{} spawned, a second", _rate), ("bytes", "{} idle, bytes each", _bytes)],
    "ring": [("seconds", "a message around a ring of {}, us a hop", _each)],
    "tree": [
        ("start", "a supervisor of {} started, s", _seconds),
        ("restart_one", "a child of {} restarted, ms", _milliseconds),
        ("restart_all", "all {} children restarted, s", _seconds),
    ],
}
"""Of what is measured: which figures, and how they are shown."""


def report(taken: dict[str, list[Round]]) -> str:
    """The table; a ratio is that of the figures as they were measured: seconds, or bytes."""
    lines = ["| | BEAM | beamnode | seconds or bytes, to the BEAM's |", "|---|--:|--:|--:|"]
    for key, rounds_taken in taken.items():
        what, _, size = key.partition(" ")
        for figure, title, shown in FIGURES[what]:
            cells = [title.format(f"{int(size):,}")]
            cells += [shown(int(size), median(one[row][figure] for one in rounds_taken)) for row in ROWS]
            cells.append(f"{median(one['python'][figure] / one['beam'][figure] for one in rounds_taken):.2f}")
            lines.append(f"| {' | '.join(cells)} |")
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
