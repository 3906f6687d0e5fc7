"""`beamnode epmd` and `beamnode names`, as people run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from beamnode.cli.main import main
from beamnode.testing import peers
from beamnode.testing.peers import Otp, free_port, wait_for

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path)}


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "beamnode", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )


@pytest.fixture
def served(epmd_port: int) -> Iterator[subprocess.Popen[str]]:
    """`beamnode epmd` in the foreground at ERL_EPMD_PORT."""
    process = start("epmd", "--address", "127.0.0.1")
    try:
        assert process.stdout
        assert process.stdout.readline() == f"epmd: up and running on port {epmd_port}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_names_prints_what_epmd_names_prints(
    otp: Otp, epmd: peers.Epmd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*otp.command("epmd"), "-port", str(epmd.port), "-names"]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for arguments in ([], ["127.0.0.1"], ["--port", str(epmd.port), "localhost"]):
        assert main(["names", *arguments]) == 0
        assert capsys.readouterr().out == expected


def test_names_lists_erlang_nodes(
    served: subprocess.Popen[str], epmd_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with peers.ErlNode.start(peers.find_otp(25), "a@127.0.0.1", cookie="c", epmd_port=epmd_port) as node:
        port = node.eval("{ok, [{_, Port}]} = erl_epmd:names({127,0,0,1}), Port")
        assert main(["names", "127.0.0.1"]) == 0
    assert capsys.readouterr().out == f"epmd: up and running on port {epmd_port} with data:\nname a at port {port}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["names"], "no epmd answers"),
        (["names", "host.invalid"], "no such host"),
        (["epmd", "--kill"], "no epmd answers"),
        (["epmd", "--stop", "a"], "no epmd answers"),
        (["epmd", "--stop", "a b"], "no node can have the name"),
        (["epmd", "--address", "localhost"], "no IP address"),
        (["epmd", "--address", "192.0.2.123"], "cannot listen"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_status_1(
    epmd_port: int, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("beamnode: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["names", "--port", "0"], ["epmd", "--port", "65536"], ["epmd", "--leave-after", "-1"]],
)
def test_a_misuse_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: beamnode" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, printed in ((["--version"], "beamnode 0."), (["--help"], "epmd"), (["epmd", "--help"], "--kill")):
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert raised.value.code == 0
        assert printed in capsys.readouterr().out


@pytest.mark.parametrize(("signal_", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_without_a_traceback(
    served: subprocess.Popen[str], epmd_port: int, signal_: signal.Signals, status: int
) -> None:
    wait_for(lambda: main(["names"]) == 0)  # the loop runs, so the handler is there
    served.send_signal(signal_)
    out, err = served.communicate(timeout=20)
    assert (served.returncode, out, err) == (status, "", "")


def test_a_second_one_says_that_one_runs_already(
    served: subprocess.Popen[str], epmd_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["epmd"]) == 1
    assert f"port {epmd_port} is taken" in capsys.readouterr().err
    assert main(["epmd", "--daemon"]) == 0
    assert main(["epmd", "--auto"]) == 0


def test_daemon_returns_once_it_listens_and_kill_ends_it(epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    process = start("epmd", "--daemon", "--address", "127.0.0.1", "--leave-after", "20")
    out, err = process.communicate(timeout=20)
    try:
        assert (process.returncode, out, err) == (0, "", "")
        assert main(["names"]) == 0
    finally:
        assert main(["epmd", "--kill"]) == 0
    assert capsys.readouterr().out.endswith("Killed\n")
    assert main(["names"]) == 1


def test_stop_needs_a_relaxed_command_check(capsys: pytest.CaptureFixture[str]) -> None:
    port = str(free_port())
    process = start("epmd", "--port", port, "--address", "127.0.0.1", "--relaxed-command-check")
    try:
        assert process.stdout
        process.stdout.readline()
        assert main(["epmd", "--port", port, "--stop", "nobody"]) == 1
        assert "knows no node 'nobody'" in capsys.readouterr().err
        assert main(["epmd", "--port", port, "--kill"]) == 0
        assert process.wait(20) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_a_reader_that_goes_away_is_no_traceback(served: subprocess.Popen[str], epmd_port: int) -> None:
    out, into = os.pipe()
    os.close(out)
    process = subprocess.Popen(
        [sys.executable, "-m", "beamnode", "names"], stdout=into, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT
    )
    os.close(into)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, b"")
