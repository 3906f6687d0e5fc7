"""What who is new to the library meets first: names that must be there, mistakes, and what is said of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("module", ["beamnode", "beamnode.otp.task", "beamnode.otp.task_supervisor", "beamnode.sync"])
def test_who_has_task_has_its_supervisor(module: str) -> None:
    """In a Python that has imported nothing else."""
    source = f"from {module} import Task; print(Task.Supervisor.__name__)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("TaskSupervisor\n", "")
