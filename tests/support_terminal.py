"""A program on a terminal of its own (a pty): what it shows, and what is typed into it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07|\r")
# The pty becomes the terminal of the program's session: Ctrl-C is a signal then.
_CONTROLLING: Final = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
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
