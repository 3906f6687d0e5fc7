"""`beamnode ping`, as people run it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamnode import Epmd, Node
from beamnode.carriers.tcp import Tcp
from beamnode.cli.main import main
from beamnode.node.epmd_server import EpmdServer, open_listeners

pytestmark = pytest.mark.filterwarnings("error")

HOST = "127.0.0.1"


@pytest.fixture
def node(epmd_port: int, home: Path) -> Iterator[Node]:
    """A node `n@127.0.0.1` with the cookie `secret`, in a thread."""
    up, done = threading.Event(), threading.Event()
    served = Node(f"n@{HOST}", cookie="secret", discovery=Epmd(epmd_port), carrier=Tcp(listen_address=HOST))

    async def serve() -> None:
        async with EpmdServer(open_listeners(epmd_port, [HOST])), served:
            up.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert up.wait(10)
        yield served
    finally:
        done.set()
        thread.join()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    return out.removesuffix("\n")


def test_pong(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", f"n@{HOST}", "--cookie", "secret"]) == 0
    assert said(capsys) == "pong"
    deadline = time.monotonic() + 10
    while node.list("connected"):  # until this node has seen that it left
        assert time.monotonic() < deadline, node.list("connected")
        time.sleep(0.01)


def test_the_cookie_of_the_file(node: Node, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".erlang.cookie").write_text("secret")
    (home / ".erlang.cookie").chmod(0o400)
    assert main(["ping", f"n@{HOST}"]) == 0
    assert said(capsys) == "pong"


def test_a_wrong_cookie(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", f"n@{HOST}", "--cookie", "wrong"]) == 1
    text = said(capsys)
    assert text.startswith("pang: ")
    assert "cookie" in text
    assert "wrong" not in text
    assert "secret" not in text


def test_no_such_node(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", f"other@{HOST}", "--cookie", "secret"]) == 1
    assert said(capsys) == f"pang: epmd of {HOST} knows no node 'other': `epmd -names` there lists those it knows"


def test_no_epmd(home: Path, epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", f"n@{HOST}", "--cookie", "c"]) == 1
    text = said(capsys)
    assert text.startswith(f"pang: {HOST}: no epmd answers at {HOST} port {epmd_port}")
    assert "start a node there" in text


def test_no_such_host(home: Path, epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", "n@no.such.host.invalid", "--cookie", "c"]) == 1
    text = said(capsys)
    assert text.startswith("pang: ")
    assert "no.such.host.invalid" in text


@pytest.mark.parametrize("name", ["", "@x", "a b@c.d", "n@"])
def test_what_is_no_name(name: str, home: Path, epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", name, "--cookie", "c"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("beamnode: node name ")


def test_a_name_without_a_host_means_this_host(home: Path, epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", "n", "--cookie", "c"]) == 1
    text = said(capsys)
    assert text.startswith("pang: ")
    assert socket.gethostname().partition(".")[0] in text


def test_a_cookie_file_that_others_can_read(home: Path, epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / ".erlang.cookie"
    file.write_text("secret")
    file.chmod(0o644)
    os.utime(file, (1, 1))
    assert main(["ping", f"n@{HOST}"]) == 1
    assert f"chmod 400 {file}" in capsys.readouterr().err


def test_a_node_that_does_not_answer_in_time(home: Path, epmd_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, epmd_port)):  # mute
        assert main(["ping", f"n@{HOST}", "--cookie", "c", "--timeout", "0.2"]) == 1
    assert said(capsys) == f"pang: n@{HOST} did not answer within 0.2 s"


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_that_is_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ping", f"n@{HOST}", "--timeout", seconds])
    assert "argument --timeout: " in capsys.readouterr().err


def test_ctrl_c(home: Path, epmd_port: int) -> None:
    with socket.create_server((HOST, epmd_port)) as mute:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "beamnode", "ping", f"n@{HOST}", "--cookie", "c"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        mute.settimeout(20)
        accepted, _ = mute.accept()  # it asks
        with accepted:
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == (b"", b"")
            assert process.returncode == 130
