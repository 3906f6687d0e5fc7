"""Runs what is typed: complete lines of Python, `await` included, in the process of the shell."""

from __future__ import annotations

import ast
import asyncio
import codeop
import inspect
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import CodeType
from typing import Any, Final

from beamnode.errors import BeamnodeError, ProcessExit

_FLAGS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_FILE: Final = "<shell"  # what the names of typed "files" begin with
_LIBRARY: Final = str(Path(__file__).parents[1]) + os.sep
_PYTHON: Final = (str(Path(asyncio.__file__).parents[1]) + os.sep, "<frozen ")


class Evaluator:
    """One namespace, and how its results and errors are shown.

    `run` runs a coroutine as part of the shell's process and waits for it; `show` makes the text of a result;
    `has_ended` tells whether the shell's process was ended meanwhile, which whoever knows why has told.
    """

    def __init__(
        self,
        names: dict[str, Any],
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        show: Callable[[Any], str] = repr,
        has_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self.names = names
        self._run = run
        self._show = show
        self._has_ended = has_ended
        self._count = 0
        self._complete = codeop.CommandCompiler()
        self._complete.compiler.flags |= _FLAGS

    def is_complete(self, source: str) -> bool:
        """Whether `source` can be run as it is: also when it is wrong, which running it will tell.

        A block is complete when an empty line follows it.
        """
        try:
            return self._complete(source, "<shell>", "single") is not None
        except (SyntaxError, ValueError, OverflowError):
            return True

    def evaluate(self, source: str) -> bool:
        """Run `source`, print its results or its error; True if it did not raise. SystemExit goes on."""
        self._count += 1
        file = f"{_FILE} {self._count}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            for code, is_expression in _compiled(source, file):
                self._execute(code, is_expression)
        except SystemExit:
            raise
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            return False
        except BaseException as error:
            if not (isinstance(error, ProcessExit) and self._has_ended()):
                _print_error(error)
            return False
        finally:
            sys.stdout.flush()  # who types through a pipe wants to see it now
        return True

    def _execute(self, code: CodeType, is_expression: bool) -> None:
        result = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            result = self._run(result)
        if is_expression and result is not None:
            self.names["_"] = result
            print(self._show(result), flush=True)


def _compiled(source: str, file: str) -> list[tuple[CodeType, bool]]:
    """Each statement on its own, so that each expression's result is shown, as in Python's own shell."""
    tree = compile(source, file, "exec", ast.PyCF_ONLY_AST | _FLAGS)
    compiled: list[tuple[CodeType, bool]] = []
    for statement in tree.body:
        if isinstance(statement, ast.Expr):
            compiled.append((compile(ast.Expression(statement.value), file, "eval", _FLAGS), True))
        else:
            compiled.append((compile(ast.Module([statement], []), file, "exec", _FLAGS), False))
    return compiled


def _print_error(error: BaseException) -> None:
    """The traceback from the typed line on; the frames around it are nobody's business.

    Of what the library raises on purpose, such as the failure of a call, its own frames are left out as well, unless
    BEAMNODE_TRACEBACK is `full`. They stay where the error may be the library's.
    """
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(_FILE):
        trace = trace.tb_next
    shown = traceback.TracebackException(type(error), error, trace)
    if os.environ.get("BEAMNODE_TRACEBACK") != "full":
        _leave_out_the_library(shown, error)
    print("".join(shown.format()), end="", flush=True)


def _leave_out_the_library(shown: traceback.TracebackException, error: BaseException) -> None:
    """In `shown`, the text of `error`, and of what caused it; a cause of which nothing else is left, goes."""
    for side in ("__cause__", "__context__"):
        cause, text = getattr(error, side), getattr(shown, side)
        if cause is not None and text is not None:
            _leave_out_the_library(text, cause)
            if not text.stack and _is_told(cause):
                setattr(shown, side, None)
    if not _is_told(error):
        return
    kept, inside = [], False
    for frame in shown.stack:
        inside = frame.filename.startswith(_LIBRARY) or (inside and frame.filename.startswith(_PYTHON))
        if not inside:
            kept.append(frame)
    shown.stack[:] = kept


def _is_told(error: BaseException) -> bool:
    """Whether it tells a program something, and so its text matters, and not the place."""
    return isinstance(error, BeamnodeError | TimeoutError)
