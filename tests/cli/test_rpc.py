"""`beamnode rpc`, as people run it."""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beamnode import Atom, Epmd, Node, Throw, a
from beamnode.carriers.tcp import Tcp
from beamnode.cli.main import main
from beamnode.cli.rpc import term
from beamnode.node.epmd_server import EpmdServer, open_listeners

pytestmark = pytest.mark.filterwarnings("error")

HOST = "127.0.0.1"
NODE = ["rpc", f"n@{HOST}"]
COOKIE = ["--cookie", "secret"]


def echo(*terms: Any) -> list[Any]:
    return list(terms)


def throw() -> None:
    raise Throw(a.ball)


@pytest.fixture
def node(epmd_port: int, home: Path) -> Iterator[Node]:
    """A node `n@127.0.0.1` with the cookie `secret`, in a thread."""
    up, done = threading.Event(), threading.Event()
    served = Node(f"n@{HOST}", cookie="secret", discovery=Epmd(epmd_port), carrier=Tcp(listen_address=HOST))
    served.expose(echo, module="m")
    served.expose(throw, module="m")
    served.expose(asyncio.sleep, module="Elixir.M", name="sleep")

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


def test_a_result(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["1", "a:ok", "(a.x, [2.5, None])", '{"k": a["b c"]}', "a:'quoted one'", "'text'"]
    assert main([*NODE, "m", "echo", *arguments, *COOKIE]) == 0
    shown = [1, a.ok, (a.x, [2.5, None]), {"k": Atom("b c")}, Atom("quoted one"), "text"]
    assert capsys.readouterr() == (f"{shown!r}\n", "")
    deadline = time.monotonic() + 5
    while node.list("connected"):  # it leaves
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (["m", "nothing"], 1, "raised undef: there is no m:nothing/0"),
        (["m", "throw"], 1, "m:throw/0 on n@127.0.0.1 threw ball"),
        (["m", "throw", "1"], 1, "raised TypeError: throw() takes 0 positional arguments but 1 was given"),
        (["Elixir.M", "sleep", "30", "--timeout", "0.3"], 3, "M.sleep/1 on n@127.0.0.1 did not return within 0.3 s"),
    ],
)
def test_what_fails(call: list[str], status: int, text: str, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NODE, *call, *COOKIE]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("beamnode: ")
    assert text in err
    assert err.count("\n") == 1


def test_whom_it_cannot_reach(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rpc", f"other@{HOST}", "m", "echo", *COOKIE]) == 3
    assert "epmd of 127.0.0.1 knows no node 'other'" in capsys.readouterr().err
    assert main([*NODE, "m", "echo", "--cookie", "wrong"]) == 3
    text = capsys.readouterr().err
    assert "cookie" in text
    assert "wrong" not in text
    assert main(["rpc", "n@", "m", "echo", *COOKIE]) == 1
    assert capsys.readouterr().err.startswith("beamnode: node name ")


@pytest.mark.parametrize(
    "text", ["word", "a.b.c", "1 +", "f()", "object", "a[1]", "", "1e999", "{1}", "a:" + "x" * 256]
)
def test_what_is_no_argument(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no Python literal that can be sent"):
        term(text)
    with pytest.raises(SystemExit, match="2"):
        main([*NODE, "m", "f", text])
    assert "is no Python literal that can be sent" in capsys.readouterr().err


def test_terms() -> None:
    assert term("-5") == -5
    assert term(" [1, (2, 'x'), b'y', True]") == [1, (2, "x"), b"y", True]
    assert term("a.ok") is a.ok
    assert term("a:Elixir.Enum") is Atom("Elixir.Enum")
    assert term("a:") is Atom("")
