"""Shells in terminals of their own: ours, and real iex."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beamnode.testing.peers import Otp
from support_terminal import Terminal

HOST: Final = "127.0.0.1"
CTRL_C: Final = "\x03"
CTRL_D: Final = "\x04"
TAB: Final = "\t"

BEAMNODE: Final = [sys.executable, "-m", "beamnode"]


def leave(shell: Terminal) -> None:
    """Ctrl-D at the next prompt: a terminal drops one that comes while no prompt reads."""
    shell.expect(r"\)\d+>")
    shell.press(CTRL_D)


@dataclass(frozen=True)
class Cluster:
    """An epmd's port, a cookie, and a home folder for our shells."""

    epmd_port: int
    cookie: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "ERL_EPMD_PORT": str(self.epmd_port)}

    def command(self, name: str, *arguments: str) -> list[str]:
        return [*BEAMNODE, "shell", "--name", f"{name}@{HOST}", "--cookie", self.cookie, *arguments]

    @contextlib.contextmanager
    def shell(self, name: str, **environment: str) -> Iterator[Terminal]:
        """`beamnode shell`, at its first prompt."""
        with Terminal(self.command(name), {**self.environment, **environment}) as terminal:
            terminal.expect(rf"\({name}@{HOST}\)1>")
            yield terminal

    @contextlib.contextmanager
    def iex(self, otp: Otp, name: str) -> Iterator[Terminal]:
        """`iex`, at its first prompt."""
        home = otp.make_directory()
        environment = {"HOME": otp.inside(home), "ERL_EPMD_PORT": str(self.epmd_port)}
        command = [*otp.command("iex"), "--name", f"{name}@{HOST}", "--cookie", self.cookie]
        try:
            with Terminal(command, environment, home) as terminal:
                terminal.expect(rf"iex\({name}@{HOST}\)1>")
                yield terminal
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def piped(self, name: str, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`beamnode shell` whose input is a pipe."""
        return subprocess.run(
            self.command(name, *arguments),
            input=lines,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
