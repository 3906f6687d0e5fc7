"""The terminal of the Python process: where a node's `user` prints, and whom it asks.

A shell gives its node a console of its own (`Node(..., console=...)`).
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import select
import sys
import threading
from contextlib import suppress
from typing import TextIO

from beamnode.services.standard_streams import real

log = logging.getLogger("beamnode.io")


class Console:
    """The standard streams, as they are when they are used: programs and tests replace them.

    Input is read from the descriptor, no more than the line: what follows is left to others. (Lines of a pipe that a
    program's own `input()` has read ahead are lost to it.)
    """

    def __init__(self) -> None:
        self._reading = threading.Lock()  # held by the one thread that reads
        self._part = bytearray()  # of a line, or a whole one, whose reader was given up; the reading thread's
        self._untaken: list[str] = []  # lines that nobody waited for any more

    def write(self, text: str) -> None:
        """Show `text` now; characters that the stream has not become escapes. Errors: OSError, ValueError (closed)."""
        stream = real(sys.stdout)
        if stream is None:
            return
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()

    async def read_line(self, prompt: str) -> str:
        """The next line with its end; without one, the last; then "".

        When it is cancelled, what is typed from then on is left to others, and what was typed to the next call.
        """
        if prompt:
            self.write(prompt)
        if self._untaken:
            return self._untaken.pop(0)
        reader = _Reader(asyncio.get_running_loop(), self._reading, self._part, self._untaken)
        try:
            return await reader.answer
        finally:
            reader.give_up()

    def size(self) -> tuple[int, int] | None:
        """Columns and rows; None where it is no terminal."""
        stream = real(sys.stdout)
        try:
            size = None if stream is None else os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            return None
        return None if size is None else (size.columns, size.lines)


class _Reader:
    """A thread that waits for one line, and can be told not to."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, reading: threading.Lock, part: bytearray, untaken: list[str]
    ) -> None:
        self.answer: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._reading = reading
        self._part = part
        self._untaken = untaken
        self._given_up = False
        self._wake_out, self._wake_in = os.pipe()
        threading.Thread(target=self._run, name="beamnode console", daemon=True).start()

    def give_up(self) -> None:
        self._given_up = True
        os.close(self._wake_in)  # the thread sees the end of that pipe, and closes the other side

    def _run(self) -> None:
        with self._reading:
            try:
                line = None if self._given_up else self._read()
            except (OSError, ValueError) as error:
                log.debug("standard input cannot be read: %s", error)
                line = ""
            os.close(self._wake_out)
        if line is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._tell, line)

    def _tell(self, line: str) -> None:
        if not self.answer.done():
            self.answer.set_result(line)
        elif line:
            self._untaken.append(line)

    def _read(self) -> str | None:
        stream = real(sys.stdin)
        if stream is None:
            return ""
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):
            return stream.readline()
        return self._read_descriptor(stream, descriptor)

    def _read_descriptor(self, stream: TextIO, descriptor: int) -> str | None:
        part = self._part
        while not part.endswith(b"\n"):
            readable, _, _ = select.select([descriptor, self._wake_out], [], [])
            if self._wake_out in readable:
                return None
            byte = os.read(descriptor, 1)
            if not byte:
                break
            part += byte
        if self._given_up:
            return None
        line = codecs.decode(bytes(part), stream.encoding or "utf-8", "replace")
        part.clear()
        return line
