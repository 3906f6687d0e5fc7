"""node/epmd_start.py: our own epmd where none runs, exactly one of it, and gone when it is no longer needed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from beamnode.errors import EpmdError
from beamnode.node import epmd_start
from beamnode.node.epmd import Epmd, ensure_epmd
from beamnode.node.epmd_start import epmd_answers
from beamnode.testing import peers
from beamnode.testing.peers import Otp, wait_for

LOOPBACK = ["127.0.0.1"]


def servers_of(port: int) -> list[int]:
    """The pids of our own epmds at that port."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"epmd" in words and b"--port" in words and str(port).encode() in words:
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def auto_port(epmd_port: int) -> Iterator[int]:
    """A free port; what was started there is ended after the test."""
    yield epmd_port
    for pid in servers_of(epmd_port):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gone(port: int) -> Callable[[], bool]:
    return lambda: not servers_of(port)


def test_it_is_started_once_and_leaves_when_no_node_comes(auto_port: int) -> None:
    async def run() -> None:
        assert not await epmd_answers(auto_port)
        assert await ensure_epmd(auto_port, LOOPBACK, leave_after_seconds=0.5)
        assert not await ensure_epmd(auto_port, LOOPBACK)
        assert len(servers_of(auto_port)) == 1

    asyncio.run(run())
    wait_for(gone(auto_port))


def test_it_is_detached(auto_port: int) -> None:
    asyncio.run(ensure_epmd(auto_port, LOOPBACK, leave_after_seconds=5))
    (pid,) = servers_of(auto_port)
    process = Path(f"/proc/{pid}")
    parent, _, session = process.joinpath("stat").read_text().rpartition(") ")[2].split()[1:4]
    assert int(parent) != os.getpid()
    assert int(session) not in (os.getsid(0), os.getpid())
    assert process.joinpath("cwd").readlink() == Path("/")
    for descriptor in "012":
        assert process.joinpath("fd", descriptor).readlink() == Path(os.devnull)
    kinds = {path.readlink().name.partition(":")[0] for path in process.joinpath("fd").iterdir()}
    assert "pipe" not in kinds


def test_a_registration_starts_it_and_it_leaves_after_the_last_node(auto_port: int) -> None:
    async def run() -> None:
        ours = Epmd(auto_port, LOOPBACK, auto_start=True)
        assert await ensure_epmd(auto_port, LOOPBACK, leave_after_seconds=1)
        first = await ours.register("a", "127.0.0.1", 1)
        second = await ours.register("b", "127.0.0.1", 2)
        await asyncio.sleep(1.5)
        await first.close()
        await asyncio.sleep(1.5)
        assert await ours.names("127.0.0.1") == [("b", 2)]
        await second.close()

    asyncio.run(run())
    wait_for(gone(auto_port))


NODE = """
import asyncio, sys
from beamnode.node.epmd import Epmd

async def run():
    registration = await Epmd(int(sys.argv[1]), ["127.0.0.1"], auto_start=True).register(sys.argv[2], "h", 1)
    print("registered", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(run())
"""


def test_nodes_that_start_at_once_share_one(auto_port: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", NODE, str(auto_port), f"n{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == b"registered\n"
        wait_for(lambda: len(servers_of(auto_port)) == 1)  # who came second is just leaving
        names = asyncio.run(Epmd(auto_port).names("127.0.0.1"))
        assert sorted(name for name, _ in names) == ["n0", "n1", "n2", "n3"]
    finally:
        for process in processes:
            process.communicate(timeout=20)
    assert all(process.returncode == 0 for process in processes)


def test_a_node_starts_another_when_its_own_was_killed(auto_port: int) -> None:
    async def run() -> None:
        ours = Epmd(auto_port, LOOPBACK, auto_start=True)
        registration = await ours.register("a", "127.0.0.1", 1)
        (pid,) = servers_of(auto_port)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        await asyncio.sleep(0.3)
        while not registration.registered and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert await ours.names("127.0.0.1") == [("a", 1)]
        assert servers_of(auto_port) not in ([], [pid])
        await registration.close()

    asyncio.run(run())


def test_otps_epmd_is_used_where_it_runs(otp: Otp, auto_port: int) -> None:
    with peers.Epmd(otp, auto_port):
        assert asyncio.run(ensure_epmd(auto_port)) is False
        assert servers_of(auto_port) == []


def test_what_is_no_epmd_at_the_port_is_told(auto_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epmd_start, "_PROBE_TIMEOUT_SECONDS", 0.3)
    mute = socket.create_server(("127.0.0.1", auto_port))
    with mute, pytest.raises(EpmdError, match=f"port {auto_port} does not answer as an epmd"):
        asyncio.run(ensure_epmd(auto_port))


@pytest.mark.parametrize(
    ("executable", "said"),
    [("", "cannot start one"), ("/nonexistent/python", "No such file"), ("/bin/false", "no reason told")],
)
def test_when_it_cannot_be_started_the_error_says_what_to_do(
    auto_port: int, monkeypatch: pytest.MonkeyPatch, executable: str, said: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(EpmdError, match=f"{said}.*epmd -daemon"):
        asyncio.run(ensure_epmd(auto_port))


def test_an_address_it_cannot_have_is_told(auto_port: int) -> None:
    with pytest.raises(EpmdError, match=r"cannot listen at 192\.0\.2\.123.*epmd -daemon"):
        asyncio.run(ensure_epmd(auto_port, ["192.0.2.123"]))


def test_a_start_that_never_ends_is_given_up(auto_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(EpmdError, match=r"took over 0\.5 s.*epmd -daemon"):
        asyncio.run(ensure_epmd(auto_port, timeout_seconds=0.5))
