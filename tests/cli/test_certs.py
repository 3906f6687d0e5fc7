"""`beamnode certs`: what it writes, what it leaves alone, and that nodes meet with it."""

from __future__ import annotations

import asyncio
import builtins
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from beamnode import Epmd, Node
from beamnode.carriers.tls import Tls
from beamnode.carriers.tls_peers import hosts_of_file
from beamnode.cli.main import main
from beamnode.node.epmd_server import EpmdServer, open_listeners

HOST = "127.0.0.1"


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_what_it_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certs = tmp_path / "certs"
    assert main(["certs", "--dir", str(certs), f"a@{HOST}", "db.example.com", "b@myhost"]) == 0
    out = capsys.readouterr().out
    assert sorted(file.name for file in certs.iterdir()) == sorted(
        ["ca.pem", "ca-key.pem"]
        + [
            f"{name}{end}"
            for name in (f"a@{HOST}", "db.example.com", "b@myhost")
            for end in (".pem", "-key.pem", ".conf")
        ]
    )
    assert {mode(file) for file in certs.glob("*-key.pem")} == {0o600}
    assert f"erl -name a@{HOST} -proto_dist inet_tls -ssl_dist_optfile {certs}/a@{HOST}.conf" in out
    assert f"iex --name a@{HOST} --erl '-proto_dist inet_tls -ssl_dist_optfile {certs}/a@{HOST}.conf'" in out
    assert f"""Node("a@{HOST}", carrier=Tls.from_optfile('{certs}/a@{HOST}.conf'))""" in out
    assert "erl -sname b@myhost" in out
    assert "erl -name NAME@db.example.com" in out
    assert hosts_of_file(f"{certs}/db.example.com.pem") == ["db.example.com"]
    for name in (f"a@{HOST}", "db.example.com", "b@myhost"):
        Tls.from_optfile(certs / f"{name}.conf")


def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certs", "--dir", str(tmp_path), f"a@{HOST}"]
    assert main(command) == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    capsys.readouterr()
    assert main(command) == 0
    assert "already there, left as it is; --force makes it anew" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert main([*command, "--force"]) == 0
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"a@{HOST}.pem", f"a@{HOST}-key.pem"}


@pytest.mark.parametrize("name", ["a@", "@host", "a b@c", "../x", "a@b@c", "-x", "", "a@b/c", "a@b\nc"])
def test_names_that_cannot_be(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "--dir", str(tmp_path), "--", name]) == 1
    assert "is neither a node (name@host) nor a host" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_half_a_ca(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "--dir", str(tmp_path), "host"]) == 0
    (tmp_path / "ca-key.pem").unlink()
    assert main(["certs", "--dir", str(tmp_path), "other"]) == 1
    assert "but no ca-key.pem: bring it back" in capsys.readouterr().err
    (tmp_path / "ca-key.pem").write_text("nonsense")
    assert main(["certs", "--dir", str(tmp_path), "other"]) == 1
    assert "are no CA that can be used" in capsys.readouterr().err


def test_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["certs", "--dir", str(tmp_path / "file"), "host"]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_without_cryptography(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["certs", "--dir", str(tmp_path), "host"]) == 1
    assert "pip install 'beamnode[certs]'" in capsys.readouterr().err


def test_commands_over_tls(tmp_path: Path, epmd_port: int, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "--dir", str(tmp_path), f"n@{HOST}", "elsewhere.example"]) == 0
    capsys.readouterr()

    async def serve() -> None:
        tls = Tls.from_optfile(tmp_path / f"n@{HOST}.conf", listen_address=HOST)
        node = Node(f"n@{HOST}", cookie="secret", discovery=Epmd(epmd_port), carrier=tls)
        async with EpmdServer(open_listeners(epmd_port, [HOST])), node:
            await asyncio.to_thread(command)

    def command() -> None:
        cookie = ["--cookie", "secret", "--timeout", "5"]
        tls = ["--proto-dist", "inet_tls", "--ssl-dist-optfile"]
        mine, others = str(tmp_path / f"n@{HOST}.conf"), str(tmp_path / "elsewhere.example.conf")
        assert main(["ping", f"n@{HOST}", *cookie, *tls, mine]) == 0
        assert capsys.readouterr().out == "pong\n"
        assert main(["rpc", f"n@{HOST}", "erlang", "node", *cookie, *tls, mine]) == 0
        assert f"n@{HOST}" in capsys.readouterr().out
        assert main(["ping", f"n@{HOST}", *cookie]) == 1
        assert "pang: " in capsys.readouterr().out
        assert main(["ping", f"n@{HOST}", *cookie, *tls, others]) == 0, "its name is that of its certificate's host"
        capsys.readouterr()
        assert main(["ping", f"n@{HOST}", *cookie, *tls[:2]]) == 1
        assert "--proto-dist inet_tls needs certificates" in capsys.readouterr().err
        assert main(["ping", f"n@{HOST}", *cookie, *tls[2:], mine]) == 1
        assert "--ssl-dist-optfile is for TLS" in capsys.readouterr().err

    asyncio.run(serve())
