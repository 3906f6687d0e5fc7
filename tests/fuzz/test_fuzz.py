"""Every target on its saved inputs, on every Python; and for a few seconds under atheris, where that is (`run.py`)."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from targets import NAMES, target

SECONDS = 2
HERE = Path(__file__).parent


@pytest.mark.parametrize("name", NAMES)
def test_saved_inputs(name: str) -> None:
    chosen = target(name)
    files = chosen.corpus()
    assert len(files) >= 5
    for file in files:
        try:
            chosen.one_input(file.read_bytes())
        except Exception as error:
            error.add_note(f"scripts/fuzz {name} replay {file.relative_to(HERE.parents[1])}")
            raise


@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_the_grammar(name: str) -> None:
    chosen = target(name)
    for seed in range(100):
        chosen.one_input(chosen.fresh(Random(seed)))


def test_the_corpus_is_small() -> None:
    files = [path for path in (HERE / "corpus").rglob("*") if path.is_file()]
    assert len(files) < 300
    assert sum(path.stat().st_size for path in files) < 500 * 1024


@pytest.mark.one_python
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or sys.version_info >= (3, 14),
    reason="atheris comes for Linux on x86-64 and Python 3.11 to 3.13",
)
def test_a_few_seconds_of_fuzzing(tmp_path: Path) -> None:
    """Of every target, from the saved corpus on. What it finds is in the output: the traceback, and the input."""
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "all", str(SECONDS), str(tmp_path)], capture_output=True, text=True
    )
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-8000:]}\n{found}"
    assert done.stdout.count("nothing found") == len(NAMES)
    assert done.stderr.count("stat::number_of_executed_units") == len(NAMES)
