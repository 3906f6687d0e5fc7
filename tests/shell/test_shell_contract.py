"""The session of the tutorial, line by line, in real terminals: with iex, and between two of our shells."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support_shell import CTRL_D, HOST, Cluster

from beamnode.testing.peers import Epmd, Otp, wait_for
from support_terminal import Terminal

pytestmark = pytest.mark.otp

ONE, TWO = f"test1@{HOST}", f"test2@{HOST}"
LINES = f"""
Node.self()
Node.list()
Node.connect("{TWO}")
Node.list()
Node.spawn("{TWO}", "Elixir.IO", "puts", ["hi"])
Process.whereis("net_kernel")
sys.get_state(Process.whereis("net_kernel"))
"""


@pytest.fixture
def cluster(epmd: Epmd, cookie: str, tmp_path: Path) -> Cluster:
    return Cluster(epmd.port, cookie, tmp_path)


def show_own_state(ours: Terminal) -> None:
    ours.run('Process.whereis("net_kernel")', r"<0\.\d+\.\d+>\n")
    ours.run('sys.get_state(Process.whereis("net_kernel"))', rf"\(Atom\('state'\),\s+Atom\('{ONE}'\)")
    ours.expect(r"\(Atom\('tick'\), <0\.\d+\.\d+>, 60000, 4\)")
    ours.expect(rf"<0\.\d+\.\d+>: Atom\('{TWO}'\)")
    ours.expect(r"\(Atom\('listen'\),\s+#Port<0\.\d+>,\s+<0\.\d+\.\d+>,\s+\(Atom\('net_address'\),")
    ours.expect(r"\(\(0, 0, 0, 0\), \d+\)")
    ours.expect(r"Atom\('inet_tcp_dist'\)")


def test_with_iex(cluster: Cluster, otp: Otp) -> None:
    with cluster.iex(otp, "test2") as iex, cluster.shell("test1") as ours:
        ours.run("Node.self()", rf"Atom\('{ONE}'\)\n")
        ours.run("Node.list()", r"\[\]\n")
        ours.run(f'Node.connect("{TWO}")', r"True\n")
        ours.run("Node.list()", rf"\[Atom\('{TWO}'\)\]\n")
        seen = len(ours.text)
        ours.type(f'Node.spawn("{TWO}", "Elixir.IO", "puts", ["hi"])')
        ours.expect(r"<[1-9]\d*\.\d+\.\d+>\n")
        ours.expect(r"\)6> ?")
        hi = re.compile(r"^(\(\S+\)\d+> ?)?hi$", re.MULTILINE)
        wait_until(lambda: hi.search(ours.text, seen) is not None, ours)
        show_own_state(ours)

        iex.type("Node.list()")
        iex.expect(rf'\[:"{ONE}"\]')
        iex.type("Process.whereis(:net_kernel) |> :sys.get_state()")
        iex.expect(rf'\{{:state, :"{TWO}"')
        iex.type(f':sys.get_state({{:net_kernel, :"{ONE}"}})')
        iex.expect(rf'\{{:state, :"{ONE}", :longnames,')
        iex.expect(r"\{:tick, #PID<\d+\.\d+\.\d+>, 60000, 4\}")
        iex.expect(r"\{:listen, #Port<\d+\.\d+>, #PID<\d+\.\d+\.\d+>,")
        iex.expect(r"\{:net_address, \{\{0, 0, 0, 0\}, \d+\}, (~c\"|')127\.0\.0\.1[\"'], :tcp,\s+:inet\}")

        iex.type(f'Node.spawn(:"{ONE}", :builtins, :print, ["from python"])')
        iex.expect(r"b'from python'\s*\n")
        ours.press(CTRL_D)
        assert ours.wait() == 0


def test_two_of_our_shells(cluster: Cluster) -> None:
    with cluster.shell("test2") as other, cluster.shell("test1") as ours:
        ours.run("Node.list()", r"\[\]\n")
        ours.run(f'Node.connect("{TWO}")', r"True\n")
        ours.run("Node.list()", rf"\[Atom\('{TWO}'\)\]\n")
        shown = len(other.text)
        ours.type(f'Node.spawn("{TWO}", lambda: print(Node.self()))')
        ours.expect(r"<[1-9]\d*\.\d+\.\d+>\n")
        wait_until(lambda: re.search(rf"{TWO}\n", ours.text) is not None, ours)
        show_own_state(ours)
        assert TWO not in other.text[shown:]
        other.run("Node.list()", rf"\[Atom\('{ONE}'\)\]\n")
        other.run("sys.get_state(('net_kernel', Node.list()[0]))[1]", rf"Atom\('{ONE}'\)\n")


def test_from_a_pipe(cluster: Cluster, otp: Otp) -> None:
    with cluster.iex(otp, "test2"):
        done = cluster.piped("test1", LINES)
    assert done.stderr == ""
    assert re.search(rf"^Atom\('{ONE}'\)\n\[\]\nTrue\n\[Atom\('{TWO}'\)\]\n", done.stdout)
    assert re.search(r"^<1\.\d+\.\d+>$", done.stdout, re.MULTILINE)
    assert re.search(r"^hi$", done.stdout, re.MULTILINE)
    assert re.search(r"^<0\.\d+\.\d+>$", done.stdout, re.MULTILINE)
    assert "net_address" in done.stdout
    assert ">>>" not in done.stdout
    assert ")1>" not in done.stdout


def test_by_value_from_code(cluster: Cluster) -> None:
    """The end of the code waits for what it has spawned."""
    code = f"Node.spawn('{TWO}', lambda: print(Node.self(), Node.list(), whereis('net_kernel') == node.spawn))"
    with cluster.shell("test2"):
        done = cluster.piped("test1", "", "-c", code)
    assert done.returncode == 0
    assert re.search(rf"^{TWO} \[Atom\('{ONE}'\)\] False$", done.stdout, re.MULTILINE)


def test_questions_of_processes_elsewhere(cluster: Cluster, otp: Otp, tmp_path: Path) -> None:
    """While a line is computed, and while the prompt is shown, with a line begun."""
    with cluster.iex(otp, "test2"), cluster.shell("test1") as ours:
        ours.run(f'Node.rpc("{TWO}", "Elixir.IO", "gets", ["first? "])', r"first\? ")
        ours.type("one")
        ours.expect(r"b'one\\n'\n")
        ours.type(f'def ask(): send(boss, Node.rpc("{TWO}", "Elixir.IO", "gets", ["second? "]))')
        ours.press("\r")
        begun = tmp_path / "begun"
        ours.run("import os, time; boss = self()", r"\)4>")
        wait = f"[time.sleep(0.02) for _ in iter(lambda: os.path.exists({str(begun)!r}), True)]"
        ours.run(f"pid = spawn(lambda: ({wait}, ask()))", r"\)5>")
        ours.press("'beg' + ")
        ours.expect(r"'beg' \+")
        begun.touch()
        ours.expect(r"second\? ")
        ours.type("two")
        ours.press("'un'\r")
        ours.expect(r"'begun'\n")
        ours.run("receive(timeout=5)", r"b'two\\n'\n")


def wait_until(predicate: Callable[[], bool], terminal: Terminal) -> None:
    try:
        wait_for(predicate)
    except TimeoutError:
        raise AssertionError(f"shown was:\n{terminal.text}") from None
