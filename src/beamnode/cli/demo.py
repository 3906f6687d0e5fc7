"""`beamnode demo`: two Python nodes meet, then, where one is installed, an Elixir or Erlang node. Nothing is canned.

The demo has an epmd port, a cookie and node names of its own, so that it disturbs no cluster of this machine, and ends
every process that it starts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from beamnode.errors import BeamnodeError

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers
    from beamnode.services.node import Node

ANSWER_SECONDS = 10.0
START_SECONDS = 30.0  # a slow machine may take a while to start an Elixir

_ELIXIR = """
Process.register(self(), :greeter)
IO.puts("#{Node.self()} | Elixir #{System.version()} on OTP #{System.otp_release()}, up")
loop = fn loop ->
  receive do
    {:hello, from, text} ->
      IO.puts("#{Node.self()} | got #{inspect(text)} from #{inspect(from)}; Node.list() is #{inspect(Node.list())}")
      send(from, {:hi, self(), "from Elixir"})
  end
  loop.(loop)
end
loop.(loop)
"""

_ERLANG = """
register(greeter, self()),
io:format("~s | Erlang, OTP ~s, up~n", [node(), erlang:system_info(otp_release)]),
Loop = fun L() ->
  receive {hello, From, Text} ->
    io:format("~s | got ~p from ~p; nodes() is ~p~n", [node(), Text, From, nodes()]),
    From ! {hi, self(), <<"from Erlang">>}
  end,
  L()
end,
Loop().
"""


class DemoFailed(BeamnodeError):
    """Something that the demo shows did not happen."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="watch nodes meet: Python with Python, and with Elixir or Erlang where installed",
        description="Start a few nodes on this machine, with an epmd and a cookie of their own, and let them meet.",
    )
    parser.add_argument("--greeter", metavar="NAME", help=argparse.SUPPRESS)  # how the demo starts its second node
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play the demo; or be its second node."""
    import asyncio
    import secrets

    if arguments.greeter:
        asyncio.run(_be_greeter(arguments.greeter, os.environ["BEAMNODE_DEMO_COOKIE"]))
        return 0
    os.environ["ERL_EPMD_PORT"] = str(_free_port())
    asyncio.run(_play(secrets.token_hex(10)))
    return 0


async def _play(cookie: str) -> None:
    from beamnode.services.node import Node

    _title(f"Two Python nodes in two processes, on our own epmd (port {os.environ['ERL_EPMD_PORT']})")
    async with Node("one@127.0.0.1", cookie=cookie) as node:
        _show("Node.self()", node.name)
        _show("Node.list()", node.list())
        greeter = [sys.executable, "-P", "-m", "beamnode", "demo", "--greeter", "two@127.0.0.1"]
        await _meet(node, "two@127.0.0.1", greeter, cookie)
        installed = _installed_beam(cookie)
        if installed is None:
            print("\n(Neither elixir nor erl is installed: with one of them, the same would follow with it.)")
        else:
            title, name, command = installed
            _title(title)
            await _meet(node, name, command, cookie)
    print("\nThat was it: both sides were real, and nothing of it is canned.")


async def _meet(node: Node, other: str, command: list[str], cookie: str) -> None:
    """Start the other node, connect, list, exchange messages, kill it, be told."""
    from beamnode.etf import a
    from beamnode.node import monitor, receive, self, send

    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=os.environ | {"BEAMNODE_DEMO_COOKIE": cookie}, start_new_session=True
    )
    try:
        await _until_connected(node, other, process)
        _show(f'await node.connect("{other}")', await node.connect(other))
        _show("node.list()", node.list())
        _show(f'await node.ping("{other}")', await node.ping(other))
        send(("greeter", other), (a.hello, self(), "from one"))
        answer = await _expect(receive, "an answer of the greeter")
        _show(f'send(("greeter", "{other}"), (a.hello, self(), "from one")); await receive()', answer)
        monitor(answer[1])
        node.monitor(other)
        print(f"    now {other} is killed (kill -9 {process.pid})")
        process.kill()
        process.wait()
        for _ in range(2):
            _show("await receive()", await _expect(receive, "word of its end"))
        _show("node.list()", node.list())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def _until_connected(node: Node, other: str, process: subprocess.Popen[bytes]) -> None:
    import asyncio

    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await node.connect(other):
        if process.poll() is not None:
            raise DemoFailed(f"{other} ended with exit status {process.returncode} before it could be connected to")
        if asyncio.get_running_loop().time() > deadline:
            raise DemoFailed(f"{other} did not come up within {START_SECONDS:g} s: {node.connect_error(other)}")
        await asyncio.sleep(0.1)
    while not await _has_greeter(other):
        await asyncio.sleep(0.05)


async def _has_greeter(other: str) -> bool:
    """A monitor of a name that nobody has is answered at once."""
    from beamnode.node import demonitor, monitor, receive

    reference = monitor(("greeter", other))
    try:
        await receive(lambda message: isinstance(message, tuple) and message[1] == reference, timeout=0.2)
    except TimeoutError:
        return True
    finally:
        demonitor(reference, flush=True)
    return False


async def _expect(receive: Callable[..., Awaitable[Any]], what: str) -> Any:
    try:
        return await receive(timeout=ANSWER_SECONDS)
    except TimeoutError:
        raise DemoFailed(f"{what} did not come within {ANSWER_SECONDS:g} s") from None


async def _be_greeter(name: str, cookie: str) -> None:
    """The second Python node: answers who says hello, until it is killed."""
    from beamnode.etf import Pid, a
    from beamnode.node import receive, register, self, send
    from beamnode.services.node import Node

    async with Node(name, cookie=cookie) as node:
        print(f"{name} | Python {sys.version.split()[0]}, up", flush=True)
        register("greeter", self())
        while True:
            match await receive():
                case (a.hello, Pid() as sender, bytes() as text):
                    print(f"{name} | got {text!r} from {sender!r}; node.list() is {node.list()}", flush=True)
                    send(sender, (a.hi, self(), "from Python"))


def _installed_beam(cookie: str) -> tuple[str, str, list[str]] | None:
    """What to start beside us: Elixir, else Erlang, else nothing."""
    elixir, erl = shutil.which("elixir"), shutil.which("erl")
    if elixir is not None:
        name = "ex@127.0.0.1"
        return "The same with Elixir", name, [elixir, "--name", name, "--cookie", cookie, "-e", _ELIXIR]
    if erl is not None:
        name = "erl@127.0.0.1"
        command = [erl, "-noshell", "-name", name, "-setcookie", cookie, "-start_epmd", "false", "-eval", _ERLANG]
        return "The same with Erlang", name, command
    return None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def _show(what: str, result: Any) -> None:
    print(f">>> {what}\n    {result!r}", flush=True)
