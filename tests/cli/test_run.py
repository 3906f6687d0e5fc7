"""`beamnode run FILE_OR_MODULE`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beamnode import sync

HOST = "127.0.0.1"
NODE = ["--name", f"run@{HOST}", "--cookie", "secret"]

PROGRAM = """
import sys
import beamnode.sync as sync
import helper

@node.expose(module="demo")
def add(x, y):
    return x + y

if __name__ == "__main__":
    print(node.name, sync.self().node is node.name, sync.current_node() is node, sys.argv[1:], helper.HELP)
    if "raise" in sys.argv:
        raise ValueError("failed")
    if "exit" in sys.argv:
        sys.exit(3)
    print("up", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path, home: Path, epmd_port: int) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "serve.py").write_text(PROGRAM)
    (folder / "helper.py").write_text("HELP = 'helped'\n")
    return folder


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "beamnode", "run", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_a_file(folder: Path) -> None:
    done = run(str(folder / "serve.py"), *NODE)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == f"run@{HOST} True True [] helped\nup\n"


def test_a_module_and_arguments(folder: Path) -> None:
    done = run(*NODE, "--", "serve", "-v", "one", cwd=folder)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(f"run@{HOST} True True ['-v', 'one'] helped\n")


def test_how_it_ends(folder: Path) -> None:
    failed = run(*NODE, str(folder / "serve.py"), "raise")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Traceback")
    assert failed.stderr.endswith("ValueError: failed\n")
    assert run(*NODE, str(folder / "serve.py"), "exit").returncode == 3


@pytest.mark.parametrize(("program", "why"), [("no.py", "there is no file no.py"), ("no_module", "no_module")])
def test_no_such_program(folder: Path, program: str, why: str) -> None:
    done = run(program, *NODE, cwd=folder)
    assert done.returncode == 1
    assert why in done.stderr.splitlines()[-1]
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("end", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_staying(folder: Path, end: signal.Signals, status: int) -> None:
    command = [sys.executable, "-m", "beamnode", "run", str(folder / "serve.py"), *NODE, "--stay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as served:
        try:
            assert served.stdout is not None
            assert served.stdout.readline().startswith("run@")
            assert served.stdout.readline() == "up\n"
            with sync.Node(f"asks@{HOST}", cookie="secret") as node:
                assert node.rpc(f"run@{HOST}", "demo", "add", [1, 2], timeout=10) == 3
            served.send_signal(end)
            assert served.wait(20) == status
        finally:
            served.kill()
