"""What is complete, what is run, what is shown; and what a pipe makes of lines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import beamnode
from beamnode import FixedPort, sync
from beamnode.carriers.memory import MemoryNetwork
from beamnode.errors import ProcessExit
from beamnode.shell import session as shell_session
from beamnode.shell.evaluator import Evaluator
from beamnode.shell.run import complete_sources, serve


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@pytest.fixture
def evaluator() -> Evaluator:
    return Evaluator({"asyncio": asyncio}, run)


@pytest.mark.parametrize(
    ("source", "complete"),
    [
        ("1", True),
        ("", True),
        ("x = (", False),
        ("x = (\n1)", True),
        ("def f():", False),
        ("def f():\n    return 1", False),
        ("def f():\n    return 1\n", True),
        ("if 1:\n    2\nelse:", False),
        ("@property", False),
        ("'''text", False),
        ("await x", True),
        ("async with x:", False),
        ("1 +", True),  # wrong, and no line can mend it
        ("return )", True),
        ("'\x00'", True),
    ],
)
def test_complete(evaluator: Evaluator, source: str, complete: bool) -> None:
    assert evaluator.is_complete(source) is complete


def test_results(evaluator: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluator.evaluate("1 + 1; None; x = 5\n_ + x")
    assert evaluator.evaluate("await asyncio.sleep(0, 'slept')\n[y async for y in agen()] if 0 else 'not'")
    assert evaluator.evaluate("for i in range(2): print(i)")
    assert capsys.readouterr().out == "2\n7\n'slept'\n'not'\n0\n1\n"
    assert evaluator.names["x"] == 5


@pytest.mark.parametrize("source", ["1/0", "x = 1\n1/0", "def f(): 1/0\nf()", "await nothing", "1 +", "'\\N{nix}'"])
def test_errors(evaluator: Evaluator, capsys: pytest.CaptureFixture[str], source: str) -> None:
    assert not evaluator.evaluate(source)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert '"<shell 1>", line' in shown.out
    assert "evaluator.py" not in shown.out
    assert "Error: " in shown.out


def test_causes_are_shown(evaluator: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator.evaluate("try:\n    1/0\nexcept Exception as e:\n    raise ValueError('outer') from e\n")
    shown = capsys.readouterr().out
    assert shown.index("ZeroDivisionError") < shown.index("direct cause") < shown.index("ValueError: outer")


LIBRARY = str(Path(beamnode.__file__).parent)


@pytest.fixture
def shell() -> Iterator[Evaluator]:
    carrier = MemoryNetwork().carrier("h")
    with shell_session.Session(sync.Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1))) as session:
        yield session.evaluator


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Node.rpc('n@h', 'math', 'sqrt', [1])", "RemoteError: math:sqrt/1 on n@h raised undef: "),
        ("Node.rpc('no@h', 'math', 'sqrt', [1])", "RpcFailed: math:sqrt/1 on no@h could not be called: "),
        ("GenServer.call('nobody', 1)", "CallFailed: there is no process Atom('nobody') (noproc)"),
        ("receive(timeout=0)", "TimeoutError: no message within 0 s"),
        (
            "from beamnode import GenServer as Awaited\nawait Awaited.call('nobody', 1)",
            "CallFailed: there is no process ",
        ),
        ("send(self(), 1, 2)", "TypeError: send() takes "),
    ],
)
def test_what_the_library_says_is_shown_without_its_frames(
    shell: Evaluator, capsys: pytest.CaptureFixture[str], source: str, text: str
) -> None:
    shell.evaluate(source)
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("  File ")] == [
        f'  File "<shell 1>", line {source.count(chr(10)) + 1}, in <module>'
    ]
    assert text in "\n".join(shown)
    assert shown[0] == "Traceback (most recent call last):"
    assert sum(line.startswith("Traceback") for line in shown) == 1


def test_frames_of_what_was_typed_and_causes_stay(shell: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    shell.evaluate("def ask():\n    Node.rpc('n@h', 'm', 'f', [])\n")
    shell.evaluate("try:\n    1/0\nexcept Exception as e:\n    ask()\n")
    shown = capsys.readouterr().out
    assert shown.index("ZeroDivisionError") < shown.index("During handling") < shown.index("in ask")
    assert LIBRARY not in shown


def test_frames_of_the_library_are_shown_where_they_may_tell_something(
    shell: Evaluator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.evaluate("Node.list(['unhashable'])")
    shown = capsys.readouterr().out
    assert LIBRARY in shown
    assert "TypeError: unhashable type" in shown
    monkeypatch.setenv("BEAMNODE_TRACEBACK", "full")
    shell.evaluate("GenServer.call('nobody', 1)")
    assert LIBRARY in capsys.readouterr().out


def test_ctrl_c_is_told_and_leaving_goes_on(evaluator: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    assert not evaluator.evaluate("raise KeyboardInterrupt")
    assert capsys.readouterr().out == "interrupted\n"
    with pytest.raises(SystemExit):
        evaluator.evaluate("raise SystemExit(3)")


def test_the_end_of_the_process_is_told_by_others(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"ProcessExit": ProcessExit}
    assert not Evaluator(names, run, has_ended=lambda: True).evaluate("raise ProcessExit('killed')")
    assert capsys.readouterr().out == ""
    assert not Evaluator(names, run, has_ended=lambda: False).evaluate("raise ProcessExit('noproc')")
    assert "process exit: 'noproc'" in capsys.readouterr().out


def test_a_result_that_cannot_be_shown(evaluator: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    assert not evaluator.evaluate("class Bad:\n    def __repr__(self): raise ValueError('no text')\n\nBad()")
    assert "ValueError: no text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("a\n\nb\n", ["a\n", "b\n"]),
        ("a", ["a"]),
        ("def f():\n    return 1\n\nf()\n", ["def f():\n    return 1\n\n", "f()\n"]),
        ("def f():\n    return 1\nf()\ng\n", ["def f():\n    return 1\nf()\n", "g\n"]),
        ("x = [\n1,\n\n2]\ny\n", ["x = [\n1,\n\n2]\n", "y\n"]),
        ("if x:\n  a\nelse:\n  b\n", ["if x:\n  a\nelse:\n  b\n"]),
        ("# why\nx\n", ["# why\n", "x\n"]),
    ],
)
def test_statements_out_of_lines(evaluator: Evaluator, text: str, sources: list[str]) -> None:
    assert list(complete_sources(evaluator.is_complete, text.splitlines(keepends=True))) == sources


def test_prompts_name_the_node_and_count_what_was_run() -> None:
    prompts: list[str] = []
    typed = iter(["one", KeyboardInterrupt(), " ", "two", EOFError()])
    ran: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        got = next(typed)
        if isinstance(got, BaseException):
            raise got
        return got

    serve(lambda source: ran.append(source) is None, read, "n@h")
    assert ran == ["one", "two"]
    assert prompts == ["(n@h)1> ", "(n@h)2> ", "(n@h)2> ", "(n@h)2> ", "(n@h)3> "]
