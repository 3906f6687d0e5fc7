"""`beamnode demo`: the tutorial session, played live, between two of our shells and then with iex. Nothing is canned.

Real programs are started and typed into; what they print is shown as it comes. The demo has an epmd port, a cookie and
node names of its own, so that it disturbs no cluster of this machine, and ends every process that it starts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pty
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from beamnode.errors import BeamnodeError

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers

ANSWER_SECONDS: Final = 20.0
START_SECONDS: Final = 60.0  # a slow machine may take a while to start an iex
SETTLE_SECONDS: Final = 0.3  # for what a peer prints after the line that asked for it

ONE: Final = "test1@127.0.0.1"
TWO: Final = "test2@127.0.0.1"

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_IEX_PROMPT: Final = re.compile(r"iex\(" + re.escape(TWO) + r"\)\d+> ?$")


class DemoFailed(BeamnodeError):
    """Something that the demo shows did not happen."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="watch nodes meet: two shells of ours, then one of ours and iex where it is installed",
        description="Play a session live: two shells of ours, then one of ours and iex, with an epmd and a cookie of "
        "their own.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play it."""
    environment = os.environ | {"ERL_EPMD_PORT": str(_free_port())}
    cookie = secrets.token_hex(10)
    _title(f"Two shells of ours, on our own epmd (port {environment['ERL_EPMD_PORT']})")
    with Shell(ONE, cookie, environment) as one:
        with Shell(TWO, cookie, environment) as two:
            _play_with_shell(one, two)
        if shutil.which("iex") is None:
            print("\n(iex is not installed: with it, the same would follow with Elixir.)")
        else:
            _title("The same with iex")
            with Iex(cookie, environment) as iex:
                _play_with_iex(one, iex)
    print("\nThat was it. Every line was typed into a program, and every answer was its own.")
    return 0


def _play_with_shell(one: Shell, two: Shell) -> None:
    _meet(one)
    if importlib.util.find_spec("cloudpickle") is None:
        print("(A function of the shell travels by value, which needs `pip install cloudpickle`.)")
    else:
        one.type(f'Node.spawn("{TWO}", lambda: print("printed here, by", Node.self()))')
    two.type("Node.list()")
    one.type('Process.whereis("net_kernel")')
    _part(one, two.kill)


def _play_with_iex(one: Shell, iex: Iex) -> None:
    _meet(one)
    one.type(f'Node.spawn("{TWO}", "Elixir.IO", "puts", ["printed here, by Elixir"])')
    one.type(f'node.rpc("{TWO}", "Elixir.Enum", "sum", [[1, 2, 3]])')
    one.type('register("here", self())')
    iex.type("Node.list()")
    iex.type(f':erpc.call(:"{ONE}", :math, :sqrt, [2.0])')
    iex.type(f'send({{:here, :"{ONE}"}}, {{:hello, self()}})')
    one.type("flush()")
    _part(one, iex.kill)


def _meet(one: Shell) -> None:
    one.type("Node.list()")
    one.type(f'Node.connect("{TWO}")')
    one.type("Node.list()")


def _part(one: Shell, kill: Callable[[], None]) -> None:
    one.type(f'Node.monitor("{TWO}")')
    print(f"\n    ({TWO} is killed)")
    kill()
    one.type("receive(timeout=10)")
    one.type("Node.list()")


class Shell:
    """A `beamnode shell` that is typed into through a pipe."""

    def __init__(self, name: str, cookie: str, environment: dict[str, str]) -> None:
        self._name = name
        command = [sys.executable, "-P", "-m", "beamnode", "shell", "--name", name, "--cookie", cookie]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            bufsize=1,
        )
        self._answered = threading.Event()
        self._mark = ""
        self._reader = threading.Thread(target=self._show_output, daemon=True)
        self._reader.start()

    def __enter__(self) -> Shell:
        self._send("None", START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def type(self, line: str) -> None:
        """Show the line, type it, and wait until it was run."""
        print(f"\n{self._name}> {line}", flush=True)
        self._send(line, ANSWER_SECONDS)
        time.sleep(SETTLE_SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(ANSWER_SECONDS)
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                with suppress(BrokenPipeError):  # a line that was on its way
                    end.close()

    def _send(self, line: str, seconds: float) -> None:
        assert self._process.stdin is not None
        self._answered.clear()
        self._mark = secrets.token_hex(8)
        try:
            self._process.stdin.write(f"{line}\nprint({self._mark!r})\n")
        except BrokenPipeError:
            raise DemoFailed(f"the shell of {self._name} has ended: what it said stands above") from None
        if not self._answered.wait(seconds) or self._process.poll() is not None:
            raise DemoFailed(f"the shell of {self._name} did not answer {line!r} within {seconds:g} s")

    def _show_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._mark and line.strip() == self._mark:
                self._answered.set()
            else:
                print(f"    {line}", end="", flush=True)
        self._answered.set()


class Iex:
    """A real iex in a terminal of its own (a pty), typed into."""

    def __init__(self, cookie: str, environment: dict[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["iex", "--name", TWO, "--cookie", cookie],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        self._text = ""
        self._prompted = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Iex:
        with self._failing_kills():
            self._wait_for_prompt(START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        os.close(self._terminal)

    def type(self, line: str) -> None:
        """Type the line, wait for the next prompt, and show what is on the screen since."""
        self._text = ""
        self._prompted.clear()
        os.write(self._terminal, f"{line}\n".encode())
        shown = self._wait_for_prompt(ANSWER_SECONDS)
        print(f"\niex({TWO})> {line}")
        for answer in shown.replace("\r", "").split("\n")[1:-1]:
            print(f"    {answer}")
        sys.stdout.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def _failing_kills(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def _wait_for_prompt(self, seconds: float) -> str:
        if not self._prompted.wait(seconds):
            raise DemoFailed(
                f"iex did not come back to its prompt within {seconds:g} s; it said: {self._text[-300:]!r}"
            )
        return self._text

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # it has ended
                return
            self._text = _ESCAPES.sub("", self._text + data.decode("utf-8", "replace"))
            if _IEX_PROMPT.search(self._text):
                self._prompted.set()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
