"""`b_serve.py` and `b_from_elixir.exs` of the contract, unchanged, with Elixir of each release."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beamnode.testing.peers import Epmd, Otp, wait_for
from contract_programs import contract

CONTRACT = contract()

pytestmark = pytest.mark.otp


def test_elixir_calls_python(otp: Otp, home: Path, epmd: Epmd) -> None:
    assert CONTRACT.is_dir(), f"{CONTRACT} is missing: set BEAMNODE_CONTRACT to the folder that has it"
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "ERL_EPMD_PORT": str(epmd.port), "LANG": "C.UTF-8"}
    serve = subprocess.Popen(
        [sys.executable, "-P", "-W", "error", str(CONTRACT / "b_serve.py")],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = otp.make_directory()
    try:
        script = Path(shutil.copy(CONTRACT / "b_from_elixir.exs", folder))
        wait_until_registered(epmd.port)
        done = subprocess.run(
            [*elixir(otp), *arguments(otp, otp.inside(script))],
            env=environment | {"HOME": otp.inside(folder)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1:] == ["from elixir ok"], done.stdout + done.stderr
        out, err = serve.communicate(timeout=20)
        assert out == "served ok\n", err
    finally:
        serve.kill()
        serve.communicate()
        shutil.rmtree(folder)


def elixir(otp: Otp) -> list[str]:
    return [*otp.command("elixir"), "--name", "ex@127.0.0.1", "--cookie", "secret"]


def arguments(otp: Otp, script: str) -> list[str]:
    """The compiler of OTP 25.2 cannot compile the script (a defect of its pass `beam_ssa_recv`): it is interpreted."""
    return ["-e", f'Code.eval_file("{script}")'] if otp.release == 25 else [script]


def wait_until_registered(port: int) -> None:
    import asyncio

    from beamnode import Epmd as EpmdClient

    wait_for(lambda: "py" in dict(asyncio.run(EpmdClient(port).names("127.0.0.1"))), 20)
