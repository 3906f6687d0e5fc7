"""`beamnode shell`: `-c`, and starts that fail, each with one line that says why and what to do."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from beamnode import sync
from beamnode.cli.main import main
from beamnode.node import epmd_start
from beamnode.testing.peers import free_port

pytestmark = pytest.mark.usefixtures("home", "epmd_port")  # the first node starts an epmd, which leaves after the last

HOST = "127.0.0.1"


def shell(*arguments: str, code: str = "1") -> int:
    return main(["shell", *arguments, "-c", code])


def test_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("--name", f"n@{HOST}", "--cookie", "c", code="Node.self(); Node.get_cookie(); Node.hidden") == 0
    assert capsys.readouterr().out == f"Atom('n@{HOST}')\nAtom('c')\nFalse\n"


@pytest.mark.parametrize(
    ("code", "status"), [("1/0", 1), ("exit()", 0), ("raise SystemExit(4)", 4), ("raise SystemExit('why')", 1)]
)
def test_exit_status(code: str, status: int) -> None:
    assert shell("--name", f"n@{HOST}", "--cookie", "c", code=code) == status


def test_a_name_is_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("--hidden", code="Node.self(); Node.hidden") == 0
    assert re.fullmatch(r"Atom\('shell_\w+@[^.]+'\)\nTrue\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--name", "b d@127.0.0.1"), "' ' cannot stand before the '@'; use letters"),
        (("--name", "n@no-such-host.invalid"), "cannot be resolved, .* use the name of this machine, or an address"),
        (("--sname", "n@127.0.0.1"), "is to be short, but its host has a dot: use --name"),
        (("--name", "n@127.0.0.1", "--cookie", ""), "a cookie cannot be empty; leave it out"),
    ],
)
def test_a_start_that_fails(arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_failure(arguments, why, capsys)


def check_failure(arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell(*arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("beamnode: ")
    assert shown.err.count("\n") == 1
    assert re.search(why, shown.err), shown.err


def test_a_cookie_file_that_others_can_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".erlang.cookie"
    path.write_text("secret")
    path.chmod(0o644)
    check_failure(("--name", f"n@{HOST}"), f"its mode is 0644: chmod 400 {path}", capsys)


def test_a_cookie_file_that_cannot_be_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".erlang.cookie").mkdir(mode=0o700)
    check_failure(("--name", f"n@{HOST}"), "is not a regular file", capsys)


def test_a_name_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with sync.Node(f"n@{HOST}", cookie="c"):
        check_failure(("--name", f"n@{HOST}", "--cookie", "c"), "the name 'n' is taken: .*choose another name", capsys)


def test_something_else_in_the_place_of_epmd(
    epmd_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epmd_start, "_PROBE_TIMEOUT_SECONDS", 0.3)
    with socket.create_server((HOST, epmd_port)):
        check_failure(
            ("--name", f"n@{HOST}", "--cookie", "c"),
            f"port {epmd_port} does not answer as an epmd does: .*ERL_EPMD_PORT",
            capsys,
        )


def test_no_epmd_possible(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ERL_EPMD_PORT", str(free_port()))
    monkeypatch.setenv("ERL_EPMD_ADDRESS", "203.0.113.7")
    check_failure(
        ("--name", f"n@{HOST}", "--cookie", "c"), "start one by hand with `epmd -daemon` or `beamnode", capsys
    )


def test_misuse() -> None:
    with pytest.raises(SystemExit):
        main(["shell", "--name", "a@127.0.0.1", "--sname", "b"])
