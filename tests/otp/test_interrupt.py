"""Ctrl-C in a program with a supervision tree: children end in order, within their times, and nothing else is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("interrupted_tree.py")
WAIT_SECONDS = 30.0

IN_ORDER = [
    "terminate 3 shutdown",
    "ERROR beamnode.supervisor Supervisor X: shutdown_error",
    "Reason: Atom('killed'), which it is when it does not end within 0.5 s: give it more (shutdown), or less to do",
    "terminate 2 shutdown",
    "terminated 2",
    "terminate 1 shutdown",
    "terminated 1",
]


def interrupted(*command: str) -> tuple[list[str], str, int]:
    """What a program says from Ctrl-C on: its lines, what it writes to stderr, how it ends."""
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also below a shell that ignores
    ) as program:
        try:
            assert program.stdout is not None
            while (line := program.stdout.readline()) != "up\n":
                assert line, "it has ended before it was up"
            os.killpg(program.pid, signal.SIGINT)  # as a terminal does
            out, err = program.communicate(timeout=WAIT_SECONDS)
        finally:
            program.kill()
    return out.splitlines(), err, program.returncode


def lines_of_the_end(out: list[str]) -> list[str]:
    """Without the parts that differ, and what the log says of the node itself."""
    wanted = []
    for line in out:
        if line.startswith("ERROR beamnode.supervisor Supervisor "):
            line = "ERROR beamnode.supervisor Supervisor X: " + line.rpartition(": ")[2]
        if not line.startswith(("Offender: ", "INFO beamnode.")):
            wanted.append(line)
    return wanted


@pytest.mark.parametrize("how", ["async", "sync"])
def test_a_tree_ends_in_order(how: str) -> None:
    out, err, status = interrupted(str(PROGRAM), how)
    assert lines_of_the_end(out) == IN_ORDER
    assert status == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert "beamnode.errors" not in err  # the one traceback is that of the interrupt
    assert out[-1].startswith("INFO beamnode.node node py@127.0.0.1 has stopped")


def test_an_application_ends_in_order() -> None:
    out, err, status = interrupted(str(PROGRAM), "application")
    assert lines_of_the_end(out) == ["prep_stop", *IN_ORDER, "stop"]
    assert (status, err.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")


def test_a_program_that_a_node_runs_ends_in_order(home: Path, epmd_port: int) -> None:
    node = ["--name", "run@127.0.0.1", "--cookie", "c"]
    out, err, status = interrupted("-m", "beamnode", "run", *node, str(PROGRAM))
    assert lines_of_the_end(out) == IN_ORDER
    assert (status, err) == (130, "")


@pytest.mark.parametrize("how", ["starting", "stream"])
def test_what_is_waited_for_is_given_up(how: str) -> None:
    """A supervisor whose child is still in its `init`, and a stream of tasks: nobody waits for them any more."""
    out, err, status = interrupted(str(PROGRAM), how)
    assert [line for line in out if not line.startswith("INFO")] == []
    assert (status, err.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    assert "another exception" not in err


def test_an_os_process_at_work_is_ended() -> None:
    """Ctrl-C reaches all processes of a terminal; those of the node ignore it, and end when the node does."""
    out, err, status = interrupted(str(PROGRAM), "process")
    assert lines_of_the_end(out) == []
    assert (status, err.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
