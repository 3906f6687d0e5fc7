"""The shell itself: lines from a terminal (with history, completion, colours), from a pipe, or from `-c`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Unpack

import beamnode.sync as sync
from beamnode.etf import Atom
from beamnode.node import NodeOptions
from beamnode.shell.session import Session

Read = Callable[[str], str]  # shows a prompt, gives what was typed; EOFError: no more; KeyboardInterrupt: forget that

PLAIN_NOTE = "For history, completion, colours and several lines: pip install 'beamnode[shell]'"


def run_shell(name: Atom | str, *, code: str | None = None, **options: Unpack[NodeOptions]) -> int:
    """Start a node, serve its shell until the input ends, stop it; the exit status (of `code`: 1 if it raised).

    Errors: those of `Node` and its start.
    """
    try:
        if code is not None:
            with Session(sync.Node(name, **options)) as session:
                succeeded = session.evaluate(code)
                session.linger()
                return 0 if succeeded else 1
        elif sys.stdin.isatty() and sys.stdout.isatty():
            _interact(name, options)
        else:
            with Session(sync.Node(name, **options)) as session:
                for source in complete_sources(session.evaluator.is_complete, _lines()):
                    session.evaluate(source)
                session.linger()
    except SystemExit as leaving:
        if leaving.code is not None and not isinstance(leaving.code, int):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    return 0


def _lines() -> Iterable[str]:
    """Of the standard input, reading no more than the line: what follows may be for whoever asks in our terminal."""
    try:
        raw = io.FileIO(sys.stdin.fileno(), closefd=False)
    except (OSError, ValueError):
        return sys.stdin
    return (line.decode("utf-8", "replace") for line in raw)


def complete_sources(is_complete: Callable[[str], bool], lines: Iterable[str]) -> Iterator[str]:
    """Statements out of lines: a block ends at an empty line, as when it is typed, or where it must."""
    source = ""
    for line in lines:
        source += line
        if not source.strip():
            source = ""
        elif is_complete(source.rstrip("\n") + ("" if line.strip() else "\n")):
            yield source
            source = ""
    if source.strip():
        yield source


def _interact(name: Atom | str, options: NodeOptions) -> None:
    """A terminal: prompt_toolkit where it is installed, else Python's own `input`."""
    with contextlib.ExitStack() as stack:
        try:
            from beamnode.shell.terminal import Terminal
        except ImportError:
            session = stack.enter_context(Session(sync.Node(name, **options)))
            read: Read = _plain_reader(session.evaluator.is_complete)
            note = f"\n{PLAIN_NOTE}"
        else:
            terminal = stack.enter_context(Terminal())
            session = stack.enter_context(Session(sync.Node(name, console=terminal.console, **options)))
            read, note = terminal.reader(session), ""
        node = session.node
        print(f"beamnode shell of {node.name}, Python {sys.version.split()[0]}. Ctrl-D leaves.{note}", flush=True)
        serve(session.evaluate, read, str(node.name))


def serve(evaluate: Callable[[str], bool], read: Read, name: str) -> None:
    """Read and run until the end of the input; prompts name the node and count, as iex does."""
    count = 1
    while True:
        try:
            source = read(f"({name}){count}> ")
            if source.strip():
                evaluate(source)
                count += 1
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _plain_reader(is_complete: Callable[[str], bool]) -> Read:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` edits lines with it

    def read(prompt: str) -> str:
        try:
            source = input(prompt)
            while not is_complete(source):
                source += "\n" + input("." * (len(prompt) - 1) + " ")
        except (KeyboardInterrupt, EOFError):
            print()  # the line that was begun
            raise
        return source

    return read
