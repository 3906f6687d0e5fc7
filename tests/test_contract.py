"""The programs of the contract run unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamnode import Epmd
from beamnode.testing.peers import wait_for
from contract_programs import contract

CONTRACT = contract()


@pytest.mark.parametrize(
    ("program", "last_line", "last_error"),
    [("a_session.py", "session ok", ""), ("a_counter.py", "counter ok", "RuntimeError: boom")],  # a crash is logged
)
def test_a_program_of_the_contract(program: str, last_line: str, last_error: str, home: Path, epmd_port: int) -> None:
    file = CONTRACT / program
    assert file.is_file(), f"{file} is missing: set BEAMNODE_CONTRACT to the folder that has it"
    environment = {
        "HOME": str(home), "PATH": "/nowhere", "ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)], env=environment, capture_output=True, text=True, timeout=60
    )
    try:
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == last_line
        assert last_error in done.stderr.splitlines()[-4:] if last_error else done.stderr == ""
    finally:
        end_epmd(epmd_port)


def end_epmd(port: int) -> None:
    """The program started one, which would leave by itself in a while."""
    import asyncio

    def ended() -> bool:
        try:
            asyncio.run(Epmd(port).kill())
        except Exception:
            return True
        return False

    wait_for(ended)
