"""docs/carriers.md: its files are written down and run as they stand; the example passes the contract suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from beamnode.testing.peers import free_port, wait_for
from test_guide import SECONDS, Block, Terminal, answers, assert_shown, output_of, sections

GUIDE: Final = Path(__file__).parents[1] / "docs" / "carriers.md"
BLOCKS: Final = [block for section in sections(GUIDE.read_text(encoding="utf-8")) for block in section.blocks]

LONG: Final = "BEAMNODE_LONG" in os.environ  # also on uvloop: every test makes processes
ON_UVLOOP: Final = """
import uvloop
import test_piped

class TestPipedOnUvloop(test_piped.TestPiped):
    new_loop = staticmethod(uvloop.new_event_loop)
"""


def file_name(block: Block) -> str:
    """The first line of every program says it."""
    name = re.match(r'"""(\w+\.py)', block.text)
    assert name is not None, f"line {block.line}"
    return name[1]


FILES: Final = {file_name(block): block.text for block in BLOCKS if block.language == "python"}
SHOWN: Final = {
    file_name(block): after.text
    for block, after in pairwise(BLOCKS)
    if block.language == "python" and after.language == "text"
}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """With the files of the guide, and an epmd of ours."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    terminal = Terminal(tmp_path, free_port())
    epmd = terminal.start(["-m", "beamnode", "epmd", "--address", "127.0.0.1"])
    try:
        wait_for(lambda: answers(terminal.epmd_port))
        yield terminal
    finally:
        epmd.terminate()
        epmd.communicate(timeout=SECONDS)


def test_the_guide_has_the_files_that_it_speaks_of() -> None:
    assert sorted(FILES) == ["meet.py", "mixed.py", "piped.py", "relay.py", "test_piped.py"]
    assert sorted(SHOWN) == ["meet.py", "mixed.py"]


@pytest.mark.parametrize("name", SHOWN)
def test_its_programs_print_what_it_says(name: str, terminal: Terminal) -> None:
    assert_shown(output_of(terminal.start([name])), SHOWN[name], name)


@pytest.mark.one_python
def test_its_carrier_passes_the_contract_suite(terminal: Terminal) -> None:
    if LONG:
        (terminal.folder / "test_on_uvloop.py").write_text(ON_UVLOOP, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(terminal.folder), *sys.path])}
    done = subprocess.run(
        command, cwd=terminal.folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= (60 if LONG else 30)
    assert "skipped" not in done.stdout
    assert "warning" not in done.stdout


@pytest.mark.one_python
def test_its_code_is_linted_and_formatted(terminal: Terminal) -> None:
    config = str(GUIDE.parents[1] / "pyproject.toml")
    files = [str(terminal.folder / name) for name in FILES]
    for command in (["check", "--ignore", "T20"], ["format", "--check"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", config, *files]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
