"""`beamnode shell` in a terminal: editing, completion, Ctrl-C and Ctrl-D, output and questions around the prompt."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from support_shell import BEAMNODE, CTRL_C, HOST, TAB, Cluster, leave

from beamnode.testing.peers import free_port
from support_terminal import Terminal


@pytest.fixture
def cluster(cookie: str, tmp_path: Path) -> Cluster:
    """On an epmd of ours, which the first node starts, and which leaves after the last."""
    return Cluster(free_port(), cookie, tmp_path)


def test_lines_and_blocks(cluster: Cluster) -> None:
    with cluster.shell("one") as shell:
        shell.run("6 * 7", r"\b42\n")
        shell.type("def double(x):")
        shell.expect(r"\.\.\.")
        shell.type("y = x * 2")
        shell.type("return y")
        shell.type("")
        shell.run("double(4)", r"\b8\n")
        shell.press("double(\r5)")
        shell.type("")
        shell.expect(r"\b10\n")
        shell.run("await __import__('asyncio').sleep(0.01, 'sle' + 'pt')", r"'slept'\n")
        shell.run("double(", r"")
        shell.press(CTRL_C)
        shell.run("raise ValueError('ou' + 'ch')", r'File "<shell \d+>", line 1, in <module>\n')
        shell.expect(r"ValueError: ouch\n")
        shell.run("send(self(), (a.hello, self())); flush()", r"\(Atom\('hello'\), <0\.\d+\.0>\)\n")


def test_ctrl_c_and_ctrl_d(cluster: Cluster) -> None:
    with cluster.shell("one") as shell:
        shell.press("never_run")
        shell.expect("never_run")
        shell.press(CTRL_C)
        for waiting in (
            "__import__('time').sleep(60)",
            "receive()",
            "await __import__('asyncio').sleep(60)",
            "while True: pass",
        ):
            shell.run(waiting, "")
            if waiting.endswith("pass"):
                shell.type("")
            time.sleep(0.3)
            shell.press(CTRL_C)
            shell.expect(r"interrupted\n")
        shell.run("'al' + 'ive'", r"'alive'\n")
        assert "NameError" not in shell.text
        leave(shell)
        assert shell.wait() == 0


@pytest.mark.parametrize(("line", "status"), [("exit()", 0), ("quit()", 0), ("raise SystemExit(7)", 7)])
def test_leaving(cluster: Cluster, line: str, status: int) -> None:
    with cluster.shell("one") as shell:
        shell.type(line)
        assert shell.wait() == status


def test_history_is_kept_and_private(cluster: Cluster) -> None:
    with cluster.shell("one") as shell:
        shell.run("'first' + ' shell'", r"'first shell'\n")
        leave(shell)
        shell.wait()
    history = cluster.home / ".beamnode_history"
    assert history.stat().st_mode & 0o777 == 0o600
    with cluster.shell("one") as shell:
        shell.press("\x1b[A\r")
        shell.expect(r"'first shell'\n")


def test_completion(cluster: Cluster) -> None:
    with cluster.shell("one") as shell:
        shell.press("Node.connect_e" + TAB)
        shell.expect(r"connect_error\(")
        shell.press(CTRL_C)
        shell.press("whereis('net_k" + TAB)
        shell.expect(r"net_kernel")
        shell.press("') == whereis('net_' + 'kernel')\r")
        shell.expect(r"True\n")
        shell.press("Atom('one@" + TAB)
        shell.expect(rf"Atom\('one@{HOST}")
        shell.press("').name.upper()\r")
        shell.expect(rf"'ONE@{HOST}'\n")


def test_output_does_not_tear_the_prompt(cluster: Cluster) -> None:
    """It comes above what is being typed; a part of a line has a line of its own."""
    with cluster.shell("one") as shell:
        shell.run("import time, sys as python, logging", r"\)2>")
        shell.type("def late():")
        shell.type("time.sleep(0.5)")
        shell.type("print('printed')")
        shell.type("print('warned', file=python.stderr)")
        shell.type("logging.warning('logged')")
        shell.type("print('part', end='', flush=True)")
        shell.type("")
        shell.run("pid = spawn(late)", r"\)4>")
        shell.press("'beg' + ")
        shell.expect(r"printed\n")
        shell.expect(r"warned\n")
        shell.expect(r"logged\n")
        shell.expect(r"part\n")
        shell.press("'un'\r")
        shell.expect(r"'begun'\n")


def test_a_new_process_for_one_that_was_ended(cluster: Cluster) -> None:
    with cluster.shell("one") as shell:
        shell.run("old = self(); spawn(lambda: Process.exit(old, 'kill'))", r"was ended: Atom\('killed'\)")
        shell.run("self() != old and Process.alive(self())", r"True\n")
        shell.run(
            "old = self(); spawn(lambda: (receive(timeout=0.5) if 0 else None, Process.exit(old, 'kill')))", r"<0"
        )
        shell.run("spawn_link(lambda: exit(a.bad_luck)); receive(timeout=30)", r"was ended: Atom\('bad_luck'\)")
        shell.run("self() != old", r"True\n")
        shell.run("Node.stop(); Node.alive()", r"False\n")
        shell.run("Node.start(); Node.alive()", r"True\n")
        shell.run("self()", r"<0\.\d+\.\d+>\n")


def test_questions_of_processes(cluster: Cluster) -> None:
    """At the prompt, before a prompt, and given up with Ctrl-C at both."""
    with cluster.shell("one") as shell:
        shell.run("import asyncio, time; from beamnode import io; boss = self()", r"\)2>")
        shell.type("async def ask(seconds):")
        shell.type("await asyncio.sleep(seconds)")
        shell.type("import beamnode")
        shell.type("beamnode.send(boss, ('got', await io.get_line('who? ')))")
        shell.type("")
        shell.expect(r"\)3>")
        shell.run("pid = spawn(ask, 0.5)", r"\)4>")
        shell.press("'beg' + ")
        shell.expect(r"who\? ")
        shell.type("me")
        shell.press("'un'\r")
        shell.expect(r"'begun'\n")
        shell.run("receive(timeout=5)", r"\('got', 'me\\n'\)\n")
        shell.run("pid = spawn(ask, 0); time.sleep(0.5)", r"who\? ")
        time.sleep(0.7)
        shell.type("you")
        shell.run("receive(timeout=5)", r"\('got', 'you\\n'\)\n")
        shell.run("pid = spawn(ask, 0); time.sleep(0.5)", r"who\? ")
        time.sleep(0.7)
        shell.press(CTRL_C)
        shell.expect(r"\)\d+>")
        shell.run("receive(timeout=5)", r"\('got', None\)\n")
        shell.run("pid = spawn(ask, 0.5)", r"\)11>")
        shell.expect(r"who\? ")
        time.sleep(0.2)
        shell.press(CTRL_C)
        shell.expect(r"\)\d+>")
        shell.run("receive(timeout=5)", r"\('got', None\)\n")


def test_the_node_answers_while_a_line_computes(cluster: Cluster) -> None:
    """A line that never waits: the node, whose tick time is short, answers a call of another shell."""
    with cluster.shell("one") as busy:
        busy.run("import itertools", r"\)2>")
        busy.type("for number in itertools.count(): pass")
        busy.type("")
        time.sleep(0.5)
        asked = cluster.piped("two", f"sys.get_state(('net_kernel', 'one@{HOST}'))[1]\nNode.ping('one@{HOST}')\n")
        assert asked.stdout == f"Atom('one@{HOST}')\nAtom('pong')\n"
        busy.press(CTRL_C)
        busy.expect("interrupted")


def test_without_prompt_toolkit(cluster: Cluster) -> None:
    """It says once how to get it."""
    (cluster.home / "prompt_toolkit.py").write_text("raise ImportError('not here')")
    with cluster.shell("one", PYTHONPATH=str(cluster.home)) as shell:
        assert re.search(r"pip install 'beamnode\[shell\]'\n", shell.text)
        shell.run("6 * 7", r"\b42\n")
        shell.type("def double(x):")
        shell.type("    return x * 2")
        shell.type("")
        shell.run("double(4)", r"8\n")
        shell.expect(r"\)4>")
        shell.press("never_run")
        shell.expect("never_run")
        shell.press(CTRL_C)
        shell.expect(r"\)4>")
        shell.run("receive()", "")
        time.sleep(0.3)
        shell.press(CTRL_C)
        shell.expect(r"interrupted\n")
        shell.run("input('in? ')", r"in\? ")
        shell.type("typed")
        shell.expect(r"'typed'\n")
        assert shell.text.count("pip install") == 1
        leave(shell)
        assert shell.wait() == 0


def test_a_start_that_fails_shows_no_prompt(cluster: Cluster) -> None:
    command = [*BEAMNODE, "shell", "--name", "bad name@127.0.0.1"]
    with Terminal(command, cluster.environment) as shell:
        shell.expect(r"beamnode: node name 'bad name@127\.0\.0\.1': ' ' cannot stand before the '@'.*\n")
        assert shell.wait() == 1
