"""What every test may ask for: a home folder, a cookie, an epmd port of its own, real peers on three releases."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from beamnode.testing.peers import OTPS, Epmd, ErlNode, Otp, find_otp, free_port

# How long one example takes says something about the machine, not about the code: pytest-timeout bounds a whole test.
hypothesis.settings.register_profile("beamnode", parent=hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("beamnode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whether the Python codec and channel keep references does not depend on the version of Python."""
    for item in items:
        if "leaves_nothing[python" in item.name:
            item.add_marker("one_python")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is HOME during the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def cookie() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def epmd_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port that is ERL_EPMD_PORT during the test; nothing listens there until the test starts something."""
    port = free_port()
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    return port


@pytest.fixture(scope="session", params=[pytest.param(n, marks=pytest.mark.otp, id=f"otp{n}") for n in OTPS])
def otp(request: pytest.FixtureRequest) -> Otp:
    """Each supported release in turn; a missing one is an error."""
    return find_otp(request.param)


@pytest.fixture
def epmd(otp: Otp, epmd_port: int) -> Iterator[Epmd]:
    """OTP's own epmd, on `epmd_port`."""
    with Epmd(otp, epmd_port) as running:
        yield running


@pytest.fixture
def start_peer(otp: Otp, epmd_port: int, cookie: str) -> Iterator[Callable[..., ErlNode]]:
    """`start_peer("a@127.0.0.1", **options)`: a node of `otp` with this test's cookie and epmd, killed at the end.

    Ask for `epmd` too, or put your own epmd on `epmd_port` first.
    """
    with ExitStack() as stack:

        def start(name: str, **options: Any) -> ErlNode:
            return stack.enter_context(ErlNode.start(otp, name, **{"cookie": cookie, "epmd_port": epmd_port} | options))

        yield start


@pytest.fixture(scope="session", autouse=True)
def _no_child_is_left() -> Iterator[None]:
    """Tests end what they started: when the last one is done, this process has no child."""
    yield
    deadline = time.monotonic() + 5
    while (left := _children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"the tests left running: {left}"


def _children() -> list[str]:
    """The living children of this process, as `pid (name)`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid_and_name, _, rest = stat.read_text().rpartition(") ")
        except OSError:  # it ended meanwhile
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and state != "Z":
            found.append(f"{pid_and_name})")
    return found
