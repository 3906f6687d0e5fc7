"""The names of the shell, on a node; what travels by value; and completion."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import beamnode.sync as sync
from beamnode import Atom, FixedPort, NotAliveError, ProcessExit, a
from beamnode.shell.names import SPAWNED_MAX, NodeNames, namespace
from beamnode.shell.session import Session
from beamnode.shell.terminal import ShellCompleter, may_run, next_indent
from beamnode.testing.peers import free_port

NAME = "names@127.0.0.1"


@pytest.fixture
def session(home: Path) -> Iterator[Session]:
    node = sync.Node(NAME, cookie="secret", policy="everything", discovery=FixedPort(free_port()))
    with Session(node) as session:
        yield session


@pytest.fixture
def names(session: Session) -> dict[str, Any]:
    return session.evaluator.names


def test_node(names: dict[str, Any]) -> None:
    node = names["Node"]
    assert node.self() is Atom(NAME)
    assert node.alive() is True
    assert node.list() == []
    assert node.ping(NAME) is a.pong
    assert repr(node) == f"<Node {NAME}>"
    assert names["node"] is node
    assert {"connect", "self", "spawn_link"} <= set(dir(node))
    with pytest.raises(AttributeError):
        node.nothing()


def test_process(names: dict[str, Any], session: Session) -> None:
    process = names["Process"]
    assert process.alive(process.whereis("net_kernel"))
    assert process.whereis("nobody") is None
    assert process.flag("trap_exit", True) is False
    with pytest.raises(ValueError, match="the one flag"):
        process.flag("priority", True)
    session.evaluate("pid = spawn_link(receive)")
    process.exit(names["pid"], "bad")
    assert sync.receive(timeout=5) == (a.EXIT, names["pid"], a.bad)
    assert process.alive(names["pid"]) is False


def test_sys(names: dict[str, Any]) -> None:
    assert names["sys"].get_state("net_kernel")[1] is Atom(NAME)
    assert {"get_state", "get_status", "suspend"} <= set(dir(names["sys"]))
    with pytest.raises(AttributeError, match="import sys as python_sys"):
        names["sys"].exc_info()


def test_exit(names: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        names["exit"]()
    with pytest.raises(ProcessExit):
        names["exit"](a.reason)


def test_flush(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    sync.send(sync.self(), [sync.self()])
    sync.send(sync.self(), "two")
    names["flush"]()
    names["flush"]()
    shown, two, rest = capsys.readouterr().out.split("\n")
    assert shown.startswith("[<0.")
    assert (two, rest) == ("'two'", "")


def test_what_is_typed_is_in_main_meanwhile(home: Path) -> None:
    before = sys.modules["__main__"]
    node = sync.Node(NAME, cookie="secret", discovery=FixedPort(free_port()))
    with Session(node) as session:
        session.evaluate("class Point: pass\npoint = Point()")
        point = session.evaluator.names["point"]
        assert isinstance(pickle.loads(pickle.dumps(point)), type(point))
    assert sys.modules["__main__"] is before


def test_names_that_travel_are_those_of_the_receiver(names: dict[str, Any], home: Path) -> None:
    """Unpickled, `Node` is the node of the process that uses it."""
    node = pickle.loads(pickle.dumps(names["Node"]))
    for name in ("Process", "sys"):
        assert type(pickle.loads(pickle.dumps(names[name]))) is type(names[name])
    assert node.self() is Atom(NAME)
    assert sync.current_node().name is Atom(NAME)
    other = sync.Node("other@127.0.0.1", cookie="secret", discovery=FixedPort(free_port()))
    other.start()
    try:
        with other.process():
            assert node.self() is Atom("other@127.0.0.1")
            assert node.list() == []
            assert sync.current_node() is other
            assert names["Node"].self() is Atom(NAME)
    finally:
        other.stop()


def test_no_node_is_current_outside_of_processes() -> None:
    with pytest.raises(NotAliveError):
        sync.current_node()


def test_lingering_is_bounded(names: dict[str, Any], session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamnode.shell.session.LINGER_SECONDS", 0.3)
    session.evaluate("import time; Node.spawn(Node.self(), time.sleep, 0.1); Node.spawn(Node.self(), receive)")
    begun = time.monotonic()
    session.linger()
    assert 0.25 < time.monotonic() - begun < 3
    begun = time.monotonic()
    session.linger()
    assert time.monotonic() - begun < 0.2


def test_the_node_of_a_namespace_need_not_be_started() -> None:
    names = namespace(sync.Node(NAME, cookie="secret"), repr)
    assert names["Node"].alive() is False


# --- Editing ----------------------------------------------------------------------------------------------------------


def completions(session: Session, text: str) -> list[str]:
    completer = ShellCompleter(session.node, session.evaluator.names)
    return [found.text for found in completer.get_completions(Document(text), CompleteEvent())]


def test_completion(session: Session) -> None:
    assert "whereis(" in completions(session, "x = where")
    assert completions(session, "Process.flag") == ["Process.flag("]
    assert "Node.connect(" in completions(session, "Node.conn")
    assert "sys.get_state(" in completions(session, "sys.get_st")
    assert completions(session, "send('net_ker") == ["net_kernel"]
    assert completions(session, 'Node.connect("names@') == [NAME]
    assert completions(session, "Node.connect('x', whereis('re") == ["rex"]
    assert "register(" in completions(session, "f('it\\'s', reg")
    assert completions(session, "") == []
    assert not any(name.rpartition(".")[2].startswith("_") for name in completions(session, "Node."))
    session.node.stop()
    assert completions(session, "send('net_ker") == []


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("1", True),
        ("def f():", False),
        ("def f():\n    return 1", False),
        ("def f():\n    return 1\n    ", True),
        ("f(\n1)", True),
        ("f(\n", False),
        ("f(\n1,\n", False),
    ],
)
def test_enter(session: Session, text: str, runs: bool) -> None:
    assert may_run(text, session.evaluator.is_complete) is runs


def test_indents() -> None:
    assert next_indent("x = 1") == ""
    assert next_indent("    x = 1") == "    "
    assert next_indent("  if x: ") == "      "


def test_what_was_spawned_is_not_remembered_without_end() -> None:
    class Spawning:
        def spawn(self, node: str, number: int) -> int:
            return number

    names_of_node = NodeNames(Spawning())  # type: ignore[arg-type]
    for number in range(SPAWNED_MAX + 5):
        names_of_node.spawn("n@h", number)  # type: ignore[arg-type]
    assert list(names_of_node._spawned) == list(range(5, SPAWNED_MAX + 5))
