"""Which kernel a Python process uses: what BEAMNODE_KERNEL says, and what is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from beamnode.etf import codec

ABSENT = "import sys; sys.modules['beamnode.etf._kernel'] = None; "
TELL = "import beamnode.etf; print(beamnode.etf.implementation, beamnode.etf.decode(beamnode.etf.encode(['term'])))"


@pytest.fixture(autouse=True, scope="module")
def kernel() -> None:
    """Other Python processes choose theirs here."""


def told(wanted: str | None, program: str = TELL) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "BEAMNODE_KERNEL"}
    if wanted is not None:
        environment["BEAMNODE_KERNEL"] = wanted
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


@pytest.mark.skipif("cython" not in codec.KERNELS, reason="this installation has no compiled kernel, or it is off")
@pytest.mark.parametrize("wanted", [None, "", "require"])
def test_the_compiled_kernel_where_there_is_one(wanted: str | None) -> None:
    assert told(wanted).stdout == "cython [b'term']\n"


@pytest.mark.parametrize(("wanted", "program"), [("off", TELL), (None, ABSENT + TELL), ("off", ABSENT + TELL)])
def test_the_python_codec(wanted: str | None, program: str) -> None:
    assert told(wanted, program).stdout == "python [b'term']\n"


def test_a_kernel_that_is_required_and_absent() -> None:
    result = told("require", ABSENT + TELL)
    assert result.returncode == 1
    assert "ImportError: BEAMNODE_KERNEL=require" in result.stderr
    assert "Install a C compiler" in result.stderr


def test_a_word_that_means_nothing() -> None:
    assert "ImportError: BEAMNODE_KERNEL is 'on': it may be require, off or unset" in told("on").stderr
