"""`beamnode demo` runs to its end, and leaves nothing: where no Elixir is installed, and with iex."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamnode.testing.peers import find_otp

END = "That was it. Every line was typed into a program, and every answer was its own.\n"


def play(home: Path, path: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "beamnode", "demo"],
        env={"HOME": str(home), "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_two_shells(home: Path) -> None:
    output = play(home, "/nowhere")
    for line in (
        "    [Atom('test2@127.0.0.1')]",
        "    printed here, by test2@127.0.0.1",
        "    [Atom('test1@127.0.0.1')]",
        "    <0.",
        "    (Atom('nodedown'), Atom('test2@127.0.0.1'))",
        "(iex is not installed",
    ):
        assert line in output
    assert output.endswith(END)
    assert not (home / ".erlang.cookie").exists()


@pytest.mark.otp
def test_with_iex(home: Path) -> None:
    folder = Path(find_otp(25).command("iex")[-1]).parent  # the others run in a root of their own
    output = play(home, f"{folder}:/usr/bin:/bin")
    for line in (
        "    printed here, by Elixir\n",
        '    [:"test1@127.0.0.1"]\n',
        "    1.4142135623730951\n",
        "    (Atom('hello'), <1.",
    ):
        assert line in output
    assert output.endswith(END)
