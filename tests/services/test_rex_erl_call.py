"""`erl_call` of erl_interface against our node: a C node, whose calls come as messages to `rex`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import rpc_functions

from beamnode import Epmd, Node
from beamnode.carriers.tcp import Tcp
from beamnode.testing import peers
from beamnode.testing.peers import SYSTEM, Otp

pytestmark = pytest.mark.otp

HOST = "127.0.0.1"


def command(otp: Otp) -> list[str]:
    """In a root of its own it would not find the name of this host: it runs outside, with the libraries of the root."""
    if otp.root == SYSTEM:
        return otp.command("erl_call")
    (binary,) = (otp.root / "usr/lib/erlang/lib").glob("erl_interface-*/bin/erl_call")
    libraries = f"{otp.root}/lib/x86_64-linux-gnu:{otp.root}/usr/lib/x86_64-linux-gnu"
    (loader,) = {path.resolve() for path in otp.root.glob("lib64/ld-linux-*")}
    return [str(loader), "--library-path", libraries, str(binary)]


def play(otp: Otp, home: Path, test: Callable[[Node, Callable[..., Awaitable[str]]], Awaitable[None]]) -> None:
    async def main() -> None:
        with peers.Epmd(otp) as epmd:
            carrier = Tcp(listen_address=HOST)
            async with Node(f"py@{HOST}", cookie="secret", discovery=Epmd(epmd.port), carrier=carrier) as node:
                node.expose(rpc_functions, module="py")
                environment = {"PATH": os.environ["PATH"], "HOME": str(home), "ERL_EPMD_PORT": str(epmd.port)}

                async def erl_call(*arguments: str) -> str:
                    asked = [*command(otp), "-name", f"py@{HOST}", "-c", "secret", *arguments]
                    done = await asyncio.to_thread(
                        subprocess.run, asked, env=environment, capture_output=True, text=True, timeout=20
                    )
                    assert done.returncode == 0, done.stderr
                    text: str = done.stdout
                    return text

                await test(node, erl_call)

    asyncio.run(main())


def test_calls(otp: Otp, home: Path) -> None:
    async def test(node: Node, erl_call: Callable[..., Awaitable[str]]) -> None:
        assert float(await erl_call("-a", "py sqrt [16]")) == 4.0
        assert await erl_call("-a", "py add [1, 2]") == "3"
        assert "undef" in await erl_call("-a", "os getpid []")
        assert "badrpc" in await erl_call("-a", "py boom [1]")
        assert "ValueError" in await erl_call("-a", "py boom [1]")
        async with asyncio.timeout(10):  # that the program has ended may be known before its connection has
            while node.list("connected"):
                await asyncio.sleep(0.01)

    play(otp, home, test)


@pytest.mark.parametrize("function", ["say", "say_async"])
def test_fetch_stdout(function: str, otp: Otp, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the function prints, and nobody else at the same time, goes to the caller, before the result."""

    async def test(node: Node, erl_call: Callable[..., Awaitable[str]]) -> None:
        print("ours")
        more = "and more" if function == "say" else ""
        assert await erl_call("-fetch_stdout", "-a", f"py {function} [hello]") == f"hello\n{more}said"
        assert await erl_call("-no_result_term", "-fetch_stdout", "-a", f"py {function} [hi]") == f"hi\n{more}"

    play(otp, home, test)
    assert capsys.readouterr().out == "ours\n"
