"""What a run found: medians, spreads and ratios, as JSON and as a Markdown table."""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.scenarios import FIGURES

LOOPS = ("asyncio", "uvloop")
PLACEMENTS = {
    "two": "a core for each node",
    "one": "one core for both nodes",
    "free": "nodes where the system puts them",
}


def result(samples: dict[str, dict[str, list[float]]], options: argparse.Namespace, codec: str) -> dict[str, Any]:
    """Everything that a run measured, and under which conditions. Ratios are taken within each round."""
    figures = {}
    for key, rows in samples.items():
        beam = rows["beam"]
        figures[key] = {
            row: {
                "values": values,
                "median": median(values),
                "ratios": (ratios := [value / yardstick for value, yardstick in zip(values, beam, strict=True)]),
                "ratio": median(ratios),
            }
            for row, values in rows.items()
        }
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "otp": options.otp,
        "python": platform.python_version(),
        "codec": codec,
        "processors": os.cpu_count(),
        "rounds": options.rounds,
        "quick": options.quick,
        "busy_wait": options.busy_wait,
        "cores": options.cores,
        "seed": options.seed,
        "figures": figures,
    }


def conditions(result: dict[str, Any]) -> str:
    spin = "" if result["busy_wait"] else " (without busy waiting)"
    return (
        f"OTP {result['otp']}{spin}, Python {result['python']}, codec: {result['codec']}, "
        f"{result['processors']} processors, {PLACEMENTS[result['cores']]}, "
        f"{result['rounds']} round(s){', quick' if result['quick'] else ''}"
    )


def table(result: dict[str, Any]) -> str:
    """Medians of the rounds, lowest and highest in brackets; the ratio is the median of those of the rounds."""
    loops = [loop for loop in LOOPS if any(loop in rows for rows in result["figures"].values())]
    lines = [
        f"{conditions(result)}.",
        "",
        f"| | unit | BEAM | {' | '.join(f'{loop} | ratio' for loop in loops)} | goal |",
        f"|---|---|--:|{'--:|--:|' * len(loops)}---|",
    ]
    for key, rows in result["figures"].items():
        figure = FIGURES[key]
        cells = [figure.title, figure.unit, _cell(rows["beam"]["values"])]
        for loop in loops:
            cells += [_cell(rows[loop]["values"]), _cell(rows[loop]["ratios"])]
        cells.append(_verdict(key, [rows[loop]["ratio"] for loop in loops]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(key: str, ratios: list[float]) -> str:
    goal = FIGURES[key].goal
    if goal is None:
        return ""
    return f"{goal} {', '.join('met' if goal.met(ratio) else '**not met**' for ratio in ratios)}"


def _cell(values: list[float]) -> str:
    low, middle, high = min(values), median(values), max(values)
    if len(values) == 1:
        return _number(middle)
    return f"{_number(middle)} ({_number(low)}–{_number(high)})"


def _number(value: float) -> str:
    """Three digits that count, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def save(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
