"""`beamnode demo` runs to its end, and leaves nothing: where no Erlang is installed, and with Erlang alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamnode.testing.peers import find_otp


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


def test_without_erlang(home: Path) -> None:
    output = play(home, "/nowhere")
    for line in (
        "    [Atom('two@127.0.0.1')]",
        "    Atom('pong')",
        "two@127.0.0.1 | got b'from one' from Pid<one@127.0.0.1",
        "b'from Python')",
        "Atom('noconnection'))",
        "(Atom('nodedown'), Atom('two@127.0.0.1'))",
        "(Neither elixir nor erl is installed",
    ):
        assert line in output
    assert output.endswith("That was it: both sides were real, and nothing of it is canned.\n")
    assert not (home / ".erlang.cookie").exists()


@pytest.mark.otp
def test_with_erlang(home: Path) -> None:
    folder = Path(find_otp(25).command("erl")[-1]).parent  # the others run in a root of their own
    output = play(home, f"{folder}:/usr/bin:/bin")
    assert "Neither elixir nor erl" not in output
    assert "got " in output
    assert output.endswith("nothing of it is canned.\n")
