"""Runs what is typed: complete lines of Python, `await` included, in the process of the shell."""

from __future__ import annotations

import ast
import codeop
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import Any, Final

from beamnode.errors import ProcessExit

_FLAGS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_FILE: Final = "<shell"  # what the names of typed "files" begin with


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
    """The traceback from the typed line on; the frames around it are nobody's business."""
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(_FILE):
        trace = trace.tb_next
    shown = traceback.TracebackException(type(error), error, trace)
    print("".join(shown.format()), end="", flush=True)
