"""Editing lines in a terminal, with prompt_toolkit (extra `shell`): history, completion, colours, several lines."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import rlcompleter
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.output import Output
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from pygments.lexers.python import PythonLexer

import beamnode.sync as sync
from beamnode.errors import BeamnodeError
from beamnode.shell.screen import Screen, ScreenConsole, on_screen
from beamnode.shell.session import Session

COMPLETIONS_MAX: Final = 1000
HISTORY: Final = ".beamnode_history"  # in the user's home folder
INDENT: Final = "    "

_WORD: Final = re.compile(r"[\w.]+$")
_LEXER: Final = PygmentsLexer(PythonLexer)


class Terminal:
    """The terminal of the Python process, as a `with` block around the node, which uses its `console`."""

    def __init__(self) -> None:
        self._screen = Screen()
        self.console = ScreenConsole(self._screen)
        self._output = _output()
        self._streams = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._streams.enter_context(on_screen(self._screen))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.close()

    def reader(self, session: Session) -> Callable[[str], str]:
        """What shows a prompt and gives back what was typed. Errors: EOFError (Ctrl-D), KeyboardInterrupt (Ctrl-C)."""
        prompts: PromptSession[str] = PromptSession(
            history=_history(),
            completer=ShellCompleter(session.node, session.evaluator.names),
            complete_while_typing=False,
            lexer=_LEXER,
            multiline=True,
            key_bindings=self._keys(session.evaluator.is_complete),
            output=self._output,
        )

        def read(prompt: str) -> str:
            try:
                with self._screen.for_prompt():
                    return prompts.prompt(prompt, prompt_continuation=_continuation, pre_run=self._screen.prompt_is_up)
            except KeyboardInterrupt:
                self.console.give_up()
                raise

        return read

    def _keys(self, is_complete: Callable[[str], bool]) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _enter(event: KeyPressEvent) -> None:
            """Run what is complete; open another line where it is not, indented as the one before."""
            buffer = event.current_buffer
            if not buffer.document.text_after_cursor.strip() and may_run(buffer.text, is_complete):
                buffer.validate_and_handle()
            else:
                buffer.insert_text("\n" + next_indent(buffer.document.current_line_before_cursor))

        @keys.add("tab", filter=Condition(lambda: not _typed_before().strip()))
        def _tab(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text(INDENT)

        @keys.add("<sigint>", filter=Condition(lambda: self.console.is_asking))
        def _interrupt(event: KeyPressEvent) -> None:
            """Ctrl-C while somebody asks: nothing is answered."""
            self.console.give_up()

        return keys


class ShellCompleter(Completer):
    """Names and attributes of the namespace; inside a string, node names and registered names."""

    def __init__(self, node: sync.Node, names: dict[str, Any]) -> None:
        self._node = node
        self._names = rlcompleter.Completer(names)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.current_line_before_cursor
        inside = _inside_string(line)
        word = _WORD.search(line)
        if inside is not None:
            for name in self._known_names():
                if name.startswith(inside):
                    yield Completion(name, start_position=-len(inside))
        elif word is not None:
            for match in self._matches(word[0]):
                yield Completion(match, start_position=-len(word[0]), display=match.rpartition(".")[2] or match)

    def _matches(self, word: str) -> Iterable[str]:
        """Without what begins with `_`, unless that is what is typed."""
        hidden = not word.rpartition(".")[2].startswith("_")
        for index in itertools.count():
            match = self._names.complete(word, index)
            if match is None or index == COMPLETIONS_MAX:
                return
            if not (hidden and match.rpartition(".")[2].startswith("_")):
                yield match

    def _known_names(self) -> list[str]:
        try:
            return sorted({str(name) for name in (*self._node.list("known"), *self._node.registered())})
        except BeamnodeError:  # the node was stopped
            return []


def may_run(text: str, is_complete: Callable[[str], bool]) -> bool:
    """Whether Enter at the end of `text` runs it: a block takes another line until that is empty."""
    lines = text.split("\n")
    ends_empty = len(lines) > 1 and not lines[-1].strip()
    return is_complete(text.rstrip() + "\n" if ends_empty else text)


def next_indent(line: str) -> str:
    """What the line after `line` begins with."""
    indent = line[: len(line) - len(line.lstrip())]
    return indent + INDENT if line.rstrip().endswith(":") else indent


def _inside_string(line: str) -> str | None:
    """What is typed of the string that the cursor is in; None outside of strings."""
    quote, start = "", 0
    for place, character in enumerate(line):
        if not quote and character in "\"'":
            quote, start = character, place + 1
        elif character == quote and line[place - 1] != "\\":
            quote = ""
    return line[start:] if quote else None


def _typed_before() -> str:
    """What stands before the cursor in its line."""
    return get_app().current_buffer.document.current_line_before_cursor


def _continuation(width: int, *_: object) -> str:
    return "." * (width - 1) + " "


def _output() -> Output:
    """On the terminal itself, not on what stands for `sys.stdout`; not every terminal tells where its cursor is."""
    output = create_output(stdout=sys.stdout)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False
    return output


def _history() -> History:
    """Readable by its owner only: what is typed may be secret. Where no file can be made, it ends with the shell."""
    try:
        path = Path.home() / HISTORY
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except (OSError, RuntimeError):
        return InMemoryHistory()
    return FileHistory(str(path))
