"""`print` and `input` inside a process follow its group leader.

While a node runs, `sys.stdout` and `sys.stdin` are stand-ins: for a process whose group leader is elsewhere (on another
node, or another IO server of this one) they speak the IO protocol with it; for all other code they are the streams that
were there before.

What a process prints is sent line by line, in order, without waiting for an answer; a part of a line when its end is
not printed soon. `print` never fails: what cannot be delivered is logged (debug). `input` is for processes that are
threads; `sys.stdout.buffer` and `sys.stderr` stay here.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any, Final, TextIO

from beamnode.core.signals import USER
from beamnode.errors import BeamnodeError, UsageError
from beamnode.etf import Pid, a
from beamnode.node import current_body_or_none
from beamnode.node.body import Body
from beamnode.services import io_client

log = logging.getLogger("beamnode.io")

_making: Final = threading.Lock()  # of a process's output, when two of its threads begin to print

PART_SECONDS: Final = 0.01  # a part of a line waits so long: for the rest, or for `input`, whose prompt it then is
LINE_CHARACTERS_MAX: Final = 16 * 1024  # a longer part is sent at once


def elsewhere(body: Body) -> Pid | None:
    """The group leader of the process, if that is not the console of this Python process."""
    leader = body.process.group_leader
    if leader is None:
        return None
    signals = body.runtime.signals
    if not signals.is_local(leader):
        return leader
    process = signals.lookup(leader)
    return None if process is None or process.name is USER else leader


class ProcessOutput:
    """What one process has printed and not sent yet. Any of its threads may write; nothing waits while it is locked."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._lock = threading.Lock()
        self._part = ""  # of a line
        self._timed = False  # whether somebody will look after the part

    def write(self, text: str) -> None:
        """Send what makes whole lines now, and the rest soon. Errors: NotAliveError when the loop has ended."""
        runtime = self._body.runtime
        with self._lock:
            lines, newline, self._part = (self._part + text).rpartition("\n")
            lines += newline
            if len(self._part) > LINE_CHARACTERS_MAX:
                lines, self._part = lines + self._part, ""
            to_time = bool(self._part) and not self._timed
            self._timed = self._timed or to_time
        if to_time:
            runtime.soon(self._look_later)
        if lines:
            runtime.soon(lambda: self._send(lines))  # never waits: the thread may hold what the loop wants

    def flush(self) -> None:
        """Send what is left; to be called on the loop."""
        text = self.take()
        if text:
            self._send(text)

    def take(self) -> str:
        """The part of a line that has not been sent, which now never will."""
        with self._lock:
            text, self._part = self._part, ""
        return text

    def _look_later(self) -> None:
        self._body.runtime.loop.call_later(PART_SECONDS, self._look)

    def _look(self) -> None:
        with self._lock:
            self._timed = False
        self.flush()

    def _send(self, text: str) -> None:
        body = self._body
        runtime, leader = body.runtime, elsewhere(body)
        if leader is None:  # it has changed meanwhile
            _write_here(text)
            return
        server = runtime.signals.whereis(USER)  # takes the answer, which nobody waits for
        asker = body.process.pid if server is None else server.pid
        data = text.encode("utf-8", "replace")
        request = (a.io_request, asker, runtime.identities.next_reference(), (a.put_chars, a.unicode, data))
        try:
            runtime.send(body.process, leader, request)
        except BeamnodeError as error:
            log.debug("%r has printed what cannot be delivered to %r: %s", body.process, leader, error)


def _write_here(text: str) -> None:
    stream = real(sys.stdout)
    if stream is not None:
        stream.write(text)


def _output_of(body: Body) -> ProcessOutput:
    output = body.output
    if not isinstance(output, ProcessOutput):
        with _making:
            output = body.output
            if not isinstance(output, ProcessOutput):
                output = body.output = ProcessOutput(body)
    return output


class _Stream(io.TextIOBase):
    """Stands for `target`, whose attributes are its own."""

    def __init__(self, target: TextIO) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} before {self.target!r}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.target.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.target.errors

    @property
    def newlines(self) -> Any:  # type: ignore[override]
        return self.target.newlines

    @property
    def closed(self) -> bool:
        return self.target.closed

    def close(self) -> None:
        self.target.close()

    def __del__(self) -> None:
        """A stand-in that nobody needs any more does not close what it stood for."""

    def isatty(self) -> bool:
        return self.leader() is None and self.target.isatty()

    def fileno(self) -> int:
        if self.leader() is not None:
            raise io.UnsupportedOperation("this process's standard streams are elsewhere: no descriptor")
        return self.target.fileno()

    def readable(self) -> bool:
        return self.target.readable()

    def writable(self) -> bool:
        return self.target.writable()

    @staticmethod
    def leader() -> Body | None:
        """The current process, if it prints elsewhere."""
        body = current_body_or_none()
        return None if body is None or elsewhere(body) is None else body


class Output(_Stream):
    """`sys.stdout`."""

    def write(self, text: str) -> int:
        body = self.leader()
        if body is None:
            return self.target.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        try:
            _output_of(body).write(text)
        except BeamnodeError as error:
            log.debug("%r has printed after the end of its node: %s", body.process, error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        body = self.leader()
        if body is None:
            self.target.flush()
        elif body.runtime.on_its_loop():  # in a thread the part of a line goes out soon, or as a prompt
            _output_of(body).flush()


class Input(_Stream):
    """`sys.stdin`."""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        body = self.leader()
        if body is None:
            return self.target.readline(size)
        if body.runtime.on_its_loop():
            raise UsageError(
                "input() would stop every process of this node while it waits: use `await io.get_line(prompt)` from "
                "`beamnode.io`, or spawn a plain `def`, which runs in a thread"
            )
        prompt = _output_of(body).take()
        return io_client.blocking(io_client.get_line, prompt) or ""

    def read(self, size: int | None = -1, /) -> str:
        if self.leader() is None:
            return self.target.read(-1 if size is None else size)
        return "".join(iter(self.readline, ""))

    def __next__(self) -> str:  # type: ignore[override]
        line = self.readline()
        if not line:
            raise StopIteration
        return line


def real(stream: TextIO | None) -> TextIO | None:
    """The stream that a stand-in stands for; any other is itself."""
    while isinstance(stream, _Stream):
        stream = stream.target
    return stream


class _Installation:
    """How many nodes want the stand-ins; with the last one they go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._output: Output | None = None
        self._input: Input | None = None

    def add(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                stdout, stdin = real(sys.stdout), real(sys.stdin)
                if stdout is not None:
                    sys.stdout = self._output = Output(stdout)
                if stdin is not None:
                    sys.stdin = self._input = Input(stdin)

    def remove(self) -> None:
        """Whoever has put another stream in its place meanwhile keeps that."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if self._output is not None and sys.stdout is self._output:
                sys.stdout = self._output.target
            if self._input is not None and sys.stdin is self._input:
                sys.stdin = self._input.target
            self._output = self._input = None


# The streams belong to the Python process, as the stand-ins do. (ARCHITECTURE.md, "Module-level state".)
_installation: Final = _Installation()

install = _installation.add
uninstall = _installation.remove
