"""One terminal for the prompt, for everything that is printed meanwhile, and for the questions of other processes.

While the prompt is shown, output goes above it, and a question hides it until it is answered. A question that is open
when a line has been run is answered before the next prompt. Everything here is called from several threads: the one
that types lines, the node's, and those of processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, TextIO

from prompt_toolkit.application import Application, get_app, in_terminal
from prompt_toolkit.application.current import set_app

from beamnode.services.console import Console

GATHER_SECONDS: Final = 0.01  # a part of a line waits so long for its rest
RETRY_SECONDS: Final = 0.01

Prompt = tuple[asyncio.AbstractEventLoop, Application[Any]]


class Screen:
    """Who has the terminal: nobody, the prompt (also while it only comes up), or questions."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._reserved = False  # for the prompt
        self._hidden = False  # the prompt, for a question
        self._prompt: Prompt | None = None
        self._questions = 0  # that have the terminal because there was no prompt
        self._pending: list[tuple[TextIO, str]] = []

    # --- The prompt ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def for_prompt(self) -> Iterator[None]:
        """Reserve the terminal, once no question is open."""
        with self._changed:
            self._changed.wait_for(lambda: not self._questions)
            self._reserved = True
        try:
            yield
        finally:
            with self._changed:
                self._reserved, self._prompt = False, None
                self._write_pending()

    def prompt_is_up(self) -> None:
        """To be called on the prompt's loop, before it is drawn."""
        with self._changed:
            self._prompt = (asyncio.get_running_loop(), get_app())
            if self._pending:
                self._show_soon()

    # --- Output -------------------------------------------------------------------------------------------------------

    def write(self, stream: TextIO, text: str) -> None:
        """Write now, or above the prompt."""
        with self._changed:
            if not self._reserved or self._hidden:
                stream.write(text)
                return
            self._pending.append((stream, text))
            if len(self._pending) == 1:
                self._show_soon()

    def _show_soon(self) -> None:
        if self._prompt is not None:
            loop, app = self._prompt
            with contextlib.suppress(RuntimeError):  # the prompt has just ended: `for_prompt` writes it
                loop.call_soon_threadsafe(lambda: loop.call_later(GATHER_SECONDS, self._show, app))

    def _show(self, app: Application[Any]) -> None:
        async def show() -> None:
            async with self._prompt_hidden(app):
                pass

        with set_app(app):
            app.create_background_task(show())

    @contextlib.asynccontextmanager
    async def _prompt_hidden(self, app: Application[Any]) -> AsyncIterator[None]:
        with set_app(app):
            async with in_terminal():
                with self._changed:
                    self._write_pending()
                    self._hidden = True
                try:
                    yield
                finally:
                    with self._changed:
                        self._hidden = False

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, []
        for stream, text in pending:
            stream.write(text)
        if pending and not pending[-1][1].endswith("\n"):
            pending[-1][0].write("\n")  # the prompt has lines of its own
        for stream in {id(stream): stream for stream, _ in pending}.values():
            stream.flush()

    # --- Questions ----------------------------------------------------------------------------------------------------

    async def ask(self, console: ScreenConsole, prompt: str) -> str:
        """Have `console` ask when the terminal is free for it: now, or above the prompt."""
        while True:
            with self._changed:
                free, shown = not self._reserved, self._prompt
                self._questions += free
            if free:
                try:
                    return await console.ask(prompt)
                finally:
                    with self._changed:
                        self._questions -= 1
                        self._changed.notify_all()
            if shown is not None:
                answer = await self._ask_above(console, prompt, shown)
                if answer is not None:
                    return answer
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask_above(self, console: ScreenConsole, prompt: str, shown: Prompt) -> str | None:
        """None when the prompt has ended before."""
        loop, app = shown

        async def ask() -> str | None:
            if not app.is_running:
                return None
            async with self._prompt_hidden(app):
                return await console.ask(prompt)

        asking = ask()
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, loop))
        except RuntimeError:
            asking.close()
            return None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return None


class ScreenConsole(Console):
    """The node's console on that screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._open: tuple[asyncio.AbstractEventLoop, asyncio.Task[str]] | None = None

    async def read_line(self, prompt: str) -> str:
        return await self._screen.ask(self, prompt)

    @property
    def is_asking(self) -> bool:
        return self._open is not None

    async def ask(self, prompt: str) -> str:
        """Ask now. What `give_up` ends is answered as the end of the input is."""
        task = asyncio.ensure_future(super().read_line(prompt))
        self._open = (asyncio.get_running_loop(), task)
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is None or own.cancelling():
                raise
            return ""
        finally:
            self._open = None

    def give_up(self) -> None:
        """End the open question: Ctrl-C."""
        if self._open is not None:
            loop, task = self._open
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)


class ScreenStream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` while there is a screen."""

    def __init__(self, screen: Screen, target: TextIO) -> None:
        self._screen = screen
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def __del__(self) -> None:
        """It does not close what it stands for."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.target.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.target.errors

    def write(self, text: str) -> int:
        self._screen.write(self.target, text)
        return len(text)

    def flush(self) -> None:
        self.target.flush()

    def isatty(self) -> bool:
        return self.target.isatty()

    def fileno(self) -> int:
        return self.target.fileno()

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def on_screen(screen: Screen) -> Iterator[None]:
    """Have all that is printed go through the screen. To be entered before a node starts, and left after it."""
    before = sys.stdout, sys.stderr
    streams = ScreenStream(screen, sys.stdout), ScreenStream(screen, sys.stderr)
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        if sys.stdout is streams[0]:
            sys.stdout = before[0]
        if sys.stderr is streams[1]:
            sys.stderr = before[1]
