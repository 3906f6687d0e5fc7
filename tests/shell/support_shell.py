"""Shells in terminals of their own: ours, and real iex."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from beamnode.testing.peers import Otp

HOST: Final = "127.0.0.1"
CTRL_C: Final = "\x03"
CTRL_D: Final = "\x04"
TAB: Final = "\t"

BEAMNODE: Final = [sys.executable, "-m", "beamnode"]

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07|\r")
# The pty becomes the terminal of the program's session: Ctrl-C is a signal then.
_CONTROLLING: Final = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class ShellTerminal:
    """Runs `command` with a pty of 200 columns as its controlling terminal; leaving the `with` block ends it."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (50, 200))
        self._raw = bytearray()
        self._seen = 0  # characters of the text that `expect` has gone past
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CONTROLLING, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm", **env},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self._raw += data

    @property
    def text(self) -> str:
        """All that it has shown, without control sequences."""
        return _ESCAPES.sub("", bytes(self._raw).decode("utf-8", "replace"))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def type(self, line: str) -> None:
        self.press(line + "\r")

    def expect(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait until it shows `pattern` after what was expected before."""
        deadline = time.monotonic() + timeout
        while True:
            text = self.text
            found = re.compile(pattern).search(text, self._seen)
            if found is not None:
                self._seen = found.end()
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} was not shown within {timeout} s; shown was:\n{text}")
            time.sleep(0.02)

    def run(self, line: str, pattern: str) -> re.Match[str]:
        """Type a line at the prompt, and expect what it shows below."""
        self.type(line)
        self.expect(re.escape(line) + r"\s*\n")
        return self.expect(pattern)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit status, when it has left."""
        return self._process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        os.close(self._master)


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
    def shell(self, name: str, **environment: str) -> Iterator[ShellTerminal]:
        """`beamnode shell`, at its first prompt."""
        with ShellTerminal(self.command(name), {**self.environment, **environment}) as terminal:
            terminal.expect(rf"\({name}@{HOST}\)1>")
            yield terminal

    @contextlib.contextmanager
    def iex(self, otp: Otp, name: str) -> Iterator[ShellTerminal]:
        """`iex`, at its first prompt."""
        home = otp.make_directory()
        environment = {"HOME": otp.inside(home), "ERL_EPMD_PORT": str(self.epmd_port)}
        command = [*otp.command("iex"), "--name", f"{name}@{HOST}", "--cookie", self.cookie]
        try:
            with ShellTerminal(command, environment, home) as terminal:
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
