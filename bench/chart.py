"""The ratios of a run as an SVG of bars: how fast beamnode is where the BEAM is 1. Longer is better in every row.

.venv/bin/python -m bench.chart bench/results/last.json > docs/performance.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.report import LOOPS, conditions
from bench.scenarios import FIGURES

WIDTH: Final = 860
LABEL: Final = 264  # where bars begin
RIGHT: Final = 70  # room for the figure behind a bar
BAR: Final = 14
ROW_GAP: Final = 14
TOP: Final = 74
COLOURS: Final = {"asyncio": "#3b7dd8", "uvloop": "#12a594"}
TEXT: Final = "#24292f"
MUTED: Final = "#6e7781"
GOAL: Final = "#bf5b04"


def svg(result: dict[str, Any]) -> str:
    """Every figure that has a goal. Figures of time and processor are turned over, so that longer is better."""
    figures = {key: rows for key, rows in result["figures"].items() if FIGURES[key].goal is not None}
    loops = [loop for loop in LOOPS if any(loop in rows for rows in figures.values())]
    speeds = {key: {loop: _speed(key, rows[loop]["ratio"]) for loop in loops} for key, rows in figures.items()}
    goals = {key: _speed(key, FIGURES[key].goal.bound) for key in figures}  # type: ignore[union-attr]
    longest = max([1.0, *goals.values(), *(value for row in speeds.values() for value in row.values())]) * 1.04
    scale = (WIDTH - LABEL - RIGHT) / longest
    row_height = BAR * len(loops) + ROW_GAP
    height = TOP + row_height * len(figures) + 34
    parts = [*_frame(height, result, loops), *_grid(longest, scale, TOP + row_height * len(figures))]
    for number, key in enumerate(figures):
        parts += _row(TOP + 6 + number * row_height, FIGURES[key].title, speeds[key], goals[key], scale)
    return "\n".join([*parts, "</svg>", ""])


def _speed(key: str, ratio: float) -> float:
    goal = FIGURES[key].goal
    return ratio if goal is not None and goal.at_least else 1 / ratio


def _frame(height: float, result: dict[str, Any], loops: list[str]) -> list[str]:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10" fill="#ffffff" stroke="#d0d7de"/>',
        _text(20, 28, "beamnode beside an Erlang node (= 1); longer is better", 'font-size="16" font-weight="600"'),
        _text(20, height - 13, conditions(result), f'fill="{MUTED}" font-size="11"'),
    ]
    x = 20.0
    for loop in loops:
        parts.append(f'<rect x="{x}" y="41" width="12" height="12" rx="2" fill="{COLOURS[loop]}"/>')
        parts.append(_text(x + 18, 51.5, loop, f'fill="{MUTED}"'))
        x += 90
    parts.append(f'<path d="M{x + 6} 40 V54" stroke="{GOAL}" stroke-width="3"/>')
    parts.append(_text(x + 18, 51.5, "goal", f'fill="{MUTED}"'))
    return parts


def _grid(longest: float, scale: float, bottom: float) -> list[str]:
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if longest / step <= 8)
    parts = []
    for number in range(int(longest / step) + 1):
        x = LABEL + number * step * scale
        parts.append(f'<path d="M{x:.1f} {TOP} V{bottom}" stroke="#eaeef2"/>')
        parts.append(_text(x, TOP - 5, f"{number * step:g}", f'fill="{MUTED}" font-size="11" text-anchor="middle"'))
    x = LABEL + scale
    parts.append(f'<path d="M{x:.1f} {TOP} V{bottom}" stroke="{TEXT}" stroke-width="1.5"/>')
    return parts


def _row(y: float, title: str, speeds: dict[str, float], goal: float, scale: float) -> list[str]:
    middle = y + BAR * len(speeds) / 2
    x, bottom = LABEL + goal * scale, y + BAR * len(speeds) + 1
    parts = [_text(LABEL - 12, middle + 4.5, title, 'text-anchor="end"')]
    behind = []
    for number, (loop, speed) in enumerate(speeds.items()):
        top, width = y + number * BAR, max(speed * scale, 1)
        parts.append(
            f'<rect x="{LABEL}" y="{top:.1f}" width="{width:.1f}" height="{BAR - 2}" rx="2" fill="{COLOURS[loop]}"/>'
        )
        x_text, y_text, size = LABEL + width + 7, top + BAR - 4, 'font-size="11"'
        behind.append(_text(x_text, y_text, f"{speed:.2f}", f'fill="#ffffff" stroke="#ffffff" stroke-width="4" {size}'))
        behind.append(_text(x_text, y_text, f"{speed:.2f}", f'fill="{MUTED}" {size}'))
    goal_mark = f'<path d="M{x:.1f} {y - 3:.1f} V{bottom:.1f}" stroke="{GOAL}" stroke-width="3"/>'
    return [*parts, goal_mark, *behind]


def _text(x: float, y: float, text: str, attributes: str) -> str:
    fill = "" if "fill=" in attributes else f' fill="{TEXT}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{fill} {attributes}>{escape(text)}</text>'


if __name__ == "__main__":
    sys.stdout.write(svg(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
