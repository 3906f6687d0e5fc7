"""services/remote_errors.py: what a failed remote call says."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode import Atom, RemoteError, a
from beamnode.services.remote_errors import reason_text, stack_lines


def exception(struct: str, **fields: Any) -> dict[Any, Any]:
    head = {Atom("__exception__"): True, Atom("__struct__"): Atom(struct)}
    return head | {Atom(name): value for name, value in fields.items()}


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (a.badarith, "badarith"),
        ((a.badmatch, 1), "(Atom('badmatch'), 1)"),
        ((a.ValueError, b"no"), "ValueError: no"),
        ((a.ValueError, "no"), "ValueError: no"),
        (exception("Elixir.RuntimeError", message=b"boom"), "RuntimeError: boom"),
        (exception("Elixir.KeyError", key=a.b, term=None, message=None), "KeyError (key=Atom('b'))"),
        (exception("Elixir.My.Error"), "My.Error"),
        ({Atom("__exception__"): True}, "exception"),
        ({1: 2}, "{1 keys}"),
        (b"x" * 1000, "b'" + "x" * 60 + "'..."),
    ],
)
def test_reasons(reason: Any, text: str) -> None:
    assert reason_text(reason) == text


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        ((a.lists, a.reverse, 1, [(a.file, list(b"lists.erl")), (a.line, 12)]), "at lists:reverse/1 (lists.erl:12)"),
        ((Atom("Elixir.Enum"), a.sum, [[1]], []), "at Enum.sum/1"),
        ((a.m, a.f, 2, [(a.file, "x.py")]), "at m:f/2 (x.py)"),
        ((a.m, a.f, 2, [(a.file, b"x.py"), (a.line, 0), 5, (1, 2)]), "at m:f/2 (x.py)"),
        ((a.m, Atom("evil\x1b[2J"), 0), "at m:evil\\x1b[2J/0"),
        (1, None),
        ((a.m, 1, 2, 3), None),
        ((a.m, a.f, 0, 7), "at m:f/0"),
        ((a.m, a.f, 0, [([], 1)]), "at m:f/0"),
    ],
)
def test_frames(frame: Any, line: str | None) -> None:
    assert list(stack_lines([frame])) == ([] if line is None else [line])


def test_the_text_of_an_error() -> None:
    error = RemoteError("it raised x", a.x, [(a.m, a.f, 1, []), (a.m, a.g, [], [])])
    assert str(error) == "it raised x\n    at m:f/1\n    at m:g/0"
    assert str(RemoteError("it", a.x)) == "it"
    assert str(RemoteError("it", a.x, a.no_stack)) == "it"
    assert str(RemoteError("it", a.x, [(a.m, a.f, 1, [])] * 100)).count("\n") == 20
