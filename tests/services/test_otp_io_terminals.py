"""Terminals: what Python prints, asks and logs in the `erl` or `iex` that spawned it, and what they do in ours."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from beamnode import Epmd, Node
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp
from support_terminal import Terminal

pytestmark = pytest.mark.otp

HOST = "127.0.0.1"
SHELL = f"shell@{HOST}"

# Run in a terminal of its own: a node that has functions of a peer run, which print and ask.
OURS = """
import asyncio, sys
from beamnode import Epmd, Node, a, io

async def main():
    name, peer, cookie, port = sys.argv[1:]
    async with Node(name, cookie=cookie, discovery=Epmd(int(port))) as node:
        await node.spawn(peer, "Elixir.IO", "puts", ["puts żó"])
        await asyncio.sleep(0.5)
        print("inspected:", await node.rpc(peer, "Elixir.IO", "inspect", [{a.x: [1, 2]}]))
        print("told:", await node.rpc(peer, "Elixir.IO", "gets", ["elixir asks: "]))
        print("told:", await node.rpc(peer, "io", "get_line", [b"erlang asks: "]))
        print("wide:", await io.columns())
        await node.rpc(peer, "logger", "warning", [b"a log event"])
        await asyncio.sleep(0.5)
    print("typed:", input("python asks: "))

asyncio.run(main())
"""


async def greet() -> None:
    print("hello from", "python")
    print("part ", end="")
    await asyncio.to_thread(print, "in a thread")
    logging.getLogger("app").warning("careful %s", "please")


def ask() -> None:
    name = input("your name? ")
    print(f"hello, {name}.")


async def fail() -> None:
    raise ValueError("kaboom")


@dataclass
class Place:
    """An epmd and a cookie."""

    otp: Otp
    epmd_port: int
    cookie: str

    @contextmanager
    def shell(self, program: str) -> Iterator[Terminal]:
        """`erl` or `iex`, as a person starts it."""
        options = {"erl": ["-name", SHELL, "-setcookie"], "iex": ["--name", SHELL, "--cookie"]}[program]
        home = self.otp.make_directory()
        environment = {"HOME": self.otp.inside(home), "ERL_EPMD_PORT": str(self.epmd_port)}
        try:
            with Terminal([*self.otp.command(program), *options, self.cookie], environment, home) as terminal:
                terminal.expect(r"[(@.\w)]+1> ")
                yield terminal
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def in_a_node(self, session: Callable[[], None]) -> None:
        """Run `session`, which blocks, while a node of ours serves."""

        async def main() -> None:
            async with Node(f"py@{HOST}", cookie=self.cookie, discovery=Epmd(self.epmd_port)) as node:
                for function in (greet, ask, fail):
                    node.expose(function, module="py")
                await asyncio.to_thread(session)

        asyncio.run(main())


@pytest.fixture(scope="module")
def place(otp: Otp) -> Iterator[Place]:
    with peers.Epmd(otp) as epmd:
        yield Place(otp, epmd.port, secrets.token_hex(8))


@pytest.mark.parametrize("program", ["erl", "iex"])
def test_python_in_their_terminal(place: Place, program: str) -> None:
    spawn, then_wait = {
        "erl": ("spawn('py@127.0.0.1', py, {}, [])", ", timer:sleep(3000)."),
        "iex": ('Node.spawn(:"py@127.0.0.1", :py, :{}, [])', "; Process.sleep(3000)"),
    }[program]
    end = "." if program == "erl" else ""
    with place.shell(program) as terminal:

        def session() -> None:
            terminal.type(spawn.format("greet") + end)
            # What is printed keeps its order; what is logged is another process's there, and may overtake it.
            terminal.expect(r"(?s)(?=.*careful please).*?hello from python\n.*?part in a thread\n")
            terminal.type(spawn.format("fail") + end)
            terminal.expect(r"py\.fail/0.*kaboom")
            terminal.expect(r"in fail\n")
            terminal.type(spawn.format("ask") + then_wait)
            terminal.expect(r"your name\? ")
            terminal.type("Jöe")
            terminal.expect(r"hello, Jöe\.")

        place.in_a_node(session)


def test_they_in_our_terminal(place: Place) -> None:
    """Prompts too, and the node takes from the terminal what it was asked for, no more."""
    with ErlNode.start(
        place.otp, f"peer@{HOST}", cookie=place.cookie, epmd_port=place.epmd_port, boot="elixir"
    ) as peer:
        command = [sys.executable, "-c", OURS, f"ours@{HOST}", peer.name, place.cookie, str(place.epmd_port)]
        with Terminal(command, {}) as terminal:
            terminal.expect(r"puts żó\n")
            terminal.expect(r"%\{x: \[1, 2\]\}\n")
            terminal.expect(r"elixir asks: ")
            terminal.type("jöe")
            terminal.expect(r"told: b'j\\xc3\\xb6e\\n'")
            terminal.expect(r"erlang asks: ")
            terminal.type("line")
            terminal.expect(r"told: b'line\\n'")
            terminal.expect(r"wide: 200")
            terminal.expect(r"<peer@127\.0\.0\.1\.\d+\.\d+> a log event")
            terminal.expect(r"python asks: ")
            terminal.type("the end")
            terminal.expect(r"typed: the end")
