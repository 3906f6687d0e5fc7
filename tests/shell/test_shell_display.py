"""How results are shown."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode import Atom, Pid, Reference, a
from beamnode.etf import Port
from beamnode.shell.display import DEPTH_MAX, WIDTH, Display

HERE, THERE, ELSEWHERE = Atom("here@h"), Atom("there@h"), Atom("elsewhere@h")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Pid(HERE, 85, 0, 1), "<0.85.0>"),
        (Pid(THERE, 85, 2, 1), "<1.85.2>"),
        (Port(HERE, 7, 1), "#Port<0.7>"),
        (Reference(HERE, 1, (1, 2, 3)), "#Ref<0.3.2.1>"),
        ([Pid(HERE, 1, 0, 1), (Pid(THERE, 2, 0, 1),)], "[<0.1.0>, (<1.2.0>,)]"),
        ({a.x: Pid(HERE, 1, 0, 1)}, "{Atom('x'): <0.1.0>}"),
        ((), "()"),
        ([], "[]"),
        ("text", "'text'"),
        (True, "True"),
        ({1}, "{1}"),
    ],
)
def test_values(value: Any, text: str) -> None:
    assert Display(HERE).show(value) == text


def test_other_nodes_keep_their_numbers() -> None:
    display = Display(HERE)
    shown = [display.show(Pid(node, 1, 0, 1)) for node in (THERE, ELSEWHERE, THERE, HERE)]
    assert shown == ["<1.1.0>", "<2.1.0>", "<1.1.0>", "<0.1.0>"]


def test_what_is_wide_is_broken_into_lines() -> None:
    value = {"first": ["x" * WIDTH, 2], "second": (1,)}
    assert Display(HERE).show(value) == "{'first': ['" + "x" * WIDTH + "',\n    2],\n 'second': (1,)}"
    fits = "x" * (WIDTH - 4)
    assert Display(HERE).show([fits]) == f"['{fits}']"
    assert "\n" in Display(HERE).show([fits, 1])


def test_what_holds_itself_ends() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert Display(HERE).show(value) == "[1, [...]]"
    both = {"a": value}
    value.append(both)
    assert Display(HERE).show(both) == "{'a': [1, [...], {...}]}"
    same = [1]
    assert Display(HERE).show((same, same)) == "([1], [1])"


def test_deep_containers_are_left_to_python() -> None:
    value: Any = Pid(HERE, 1, 0, 1)
    for _ in range(DEPTH_MAX + 10):
        value = [value]
    assert Display(HERE).show(value).strip("[]") == repr(Pid(HERE, 1, 0, 1))
