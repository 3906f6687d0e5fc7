"""SIGTERM: trees end in order, peers are told at once, the name is free; only where nobody else handles the signal."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_python_nodes_cluster import Cluster, expect, play

from beamnode import FixedPort, a, monitor, sync

TREE = str(Path(__file__).parents[1] / "otp" / "interrupted_tree.py")
WAIT_SECONDS = 30.0

IN_ORDER = [
    "terminate 3 shutdown",
    "ERROR beamnode.supervisor Supervisor: shutdown_error",
    "terminate 2 shutdown",
    "terminated 2",
    "terminate 1 shutdown",
    "terminated 1",
]

NODE = ["--name", "run@127.0.0.1", "--cookie", "c"]

BEGIN = """
import asyncio, os, signal, sys, time
from beamnode import FixedPort, Node, sync, receive, spawn
options = {"name": "py@127.0.0.1", "cookie": "c", "discovery": FixedPort(0)}
def say(*words): print(*words, flush=True)
"""

LOOP = """
async def main():
    async with Node(**options):
        try:
            say("up")
            await asyncio.sleep(60)
        finally:
            say("body")
if sys.argv[1:]:
    import uvloop
    uvloop.run(main())
else:
    try:
        asyncio.run(main())
    finally:
        say("outside")
"""

STARTED = """
async def main():
    node, other = Node(**options), Node(**{**options, "name": "other@127.0.0.1"})
    await node.start()
    await other.start()
    say("up")
    try:
        await asyncio.sleep(60)
    finally:
        say(node.alive, other.alive)
asyncio.run(main())
"""

NESTED = """
async def main():
    async with Node(**options) as one, Node(**{**options, "name": "other@127.0.0.1"}):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        try:
            say("up")
            await receive()
        finally:
            say("body", one.alive)
asyncio.run(main())
"""

STUBBORN = """
async def main():
    async with Node(**options):
        say("up")
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                say("no")
asyncio.run(main())
"""

LIMIT = """
from beamnode.node import termination
termination.SECONDS_MAX = 0.2
"""

OFF = """
async def main():
    async with Node(**options, handle_sigterm=False):
        say("up")
        await asyncio.sleep(60)
asyncio.run(main())
"""

OWN_HANDLER = """
def handle(*_):
    say("mine")
    sys.exit(7)
signal.signal(signal.SIGTERM, handle)
async def main():
    async with Node(**options):
        say("up")
        await asyncio.sleep(60)
asyncio.run(main())
"""

FORKED = """
async def main():
    async with Node(**options):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        say("up")
        await asyncio.sleep(60)
asyncio.run(main())
"""

SYNC_STARTED = """
node = sync.Node(**options)
node.start()
say("up")
try:
    time.sleep(60)
finally:
    say("alive", node.alive)
"""

SYNC_STOPPING = """
async def slow():
    try:
        await receive()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        say("slowly")
with sync.Node(**options):
    sync.spawn(slow)
    time.sleep(0.1)
say("not reached")
"""

SYNC_WAITS = """
with sync.Node(**options):
    say("up")
    sync.receive()
"""


class Program:
    """It has said "up", and gets SIGTERM when all have."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []

    def until_up(self) -> None:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()) != "up\n":
            assert line, f"it has ended before it was up: {self.process.communicate()}"
            self.lines.append(line.rstrip())

    def ends(self) -> tuple[list[str], str, int]:
        out, err = self.process.communicate(timeout=WAIT_SECONDS)
        return [*self.lines, *out.splitlines()], err, self.process.returncode

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def terminated(programs: dict[str, list[str]]) -> dict[str, tuple[list[str], str, int]]:
    """How each of them ends, side by side."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(Program(*command)) for name, command in programs.items()}
        for program in running.values():
            program.until_up()
        for program in running.values():
            program.process.send_signal(signal.SIGTERM)
        return {name: program.ends() for name, program in running.items()}


def lines_of_the_end(out: list[str]) -> list[str]:
    """Without what the log says besides, which has a test of its own (`test_interrupt.py`)."""
    wanted = []
    for line in out:
        if line.startswith("ERROR beamnode.supervisor Supervisor "):
            line = "ERROR beamnode.supervisor Supervisor: " + line.rpartition(": ")[2]
        if not line.startswith(("Offender: ", "Reason: ", "INFO beamnode.")):
            wanted.append(line)
    return wanted


@pytest.mark.one_python
def test_trees_end_in_order(home: Path, epmd_port: int) -> None:
    programs = {how: [TREE, how] for how in ("async", "sync")}
    programs["run"] = ["-m", "beamnode", "run", *NODE, TREE]
    ends = terminated(programs)
    assert {how: status for how, (_, _, status) in ends.items()} == dict.fromkeys(programs, 143)
    assert {how: err for how, (_, err, _) in ends.items()} == dict.fromkeys(programs, "")
    for how in programs:
        assert lines_of_the_end(ends[how][0]) == IN_ORDER
        assert ends[how][0][-1].endswith("has stopped")


@pytest.mark.one_python
def test_how_programs_end(home: Path, epmd_port: int) -> None:
    """On both loops; without a block; two nodes; threads; with handlers of their own; in a child that was forked."""
    shell = ["-m", "beamnode", "shell", *NODE, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    programs = {
        "asyncio": ["-c", BEGIN + LOOP],
        "uvloop": ["-c", BEGIN + LOOP, "uvloop"],
        "started": ["-c", BEGIN + STARTED],
        "nested": ["-c", BEGIN + NESTED],
        "limited": ["-c", BEGIN + LIMIT + STUBBORN],
        "off": ["-c", BEGIN + OFF],
        "own handler": ["-c", BEGIN + OWN_HANDLER],
        "forked": ["-W", "ignore::DeprecationWarning", "-c", BEGIN + FORKED],
        "sync started": ["-c", BEGIN + SYNC_STARTED],
        "sync waits": ["-c", BEGIN + SYNC_WAITS],
        "shell": shell,
    }
    ends = terminated(programs)
    limit = "this program has not ended within 0.2 s of SIGTERM: it is ended\n"
    assert ends == {
        "asyncio": (["body", "outside"], "", 143),
        "uvloop": (["body"], "", 143),
        "started": (["False False"], "", 143),
        "nested": (["body True"], "", 143),
        "limited": (["no"], limit, 143),
        "off": ([], "", -signal.SIGTERM),
        "own handler": (["mine"], ends["own handler"][1], 7),
        "forked": (["child -15"], "", 143),
        "sync started": (["alive True"], "", 143),
        "sync waits": ([], "", 143),
        "shell": ([], "", 143),
    }


def test_the_second_one_ends_at_once(home: Path) -> None:
    with Program("-c", BEGIN + STUBBORN) as program:
        program.until_up()
        program.process.send_signal(signal.SIGTERM)
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "no\n"
        program.process.send_signal(signal.SIGTERM)
        assert program.ends() == ([], "", -signal.SIGTERM)


def test_a_stop_is_not_cut_short() -> None:
    """The signal comes while the node stops, by itself: it stops as it would have, then the program ends."""
    with Program("-c", BEGIN + SYNC_STOPPING) as program:
        assert program.ends() == (["slowly"], "", 143)


def test_the_handler_is_ours_while_a_node_is_up() -> None:
    def handler() -> object:
        return signal.getsignal(signal.SIGTERM)

    async def main(cluster: Cluster) -> None:
        before = handler()
        async with cluster.node(handle_sigterm=False):
            assert handler() == before
        async with cluster.node() as one:
            ours = handler()
            assert ours not in (before, signal.SIG_DFL)
            async with cluster.node():
                await one.stop()
                assert handler() == ours
        assert handler() == signal.SIG_DFL
        async with cluster.node():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert handler() == signal.SIG_IGN  # who has set it since keeps it
        async with cluster.node():
            assert handler() == signal.SIG_IGN

        def in_a_thread() -> None:
            async def another_loop() -> None:
                async with cluster.node():
                    assert handler() == signal.SIG_DFL

            asyncio.run(another_loop())

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        await asyncio.to_thread(in_a_thread)

    saved = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        play(main)
        with sync.Node("py@127.0.0.1", cookie="c", discovery=FixedPort(0)):
            assert handler() != signal.SIG_DFL
        assert handler() == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, saved)


def test_a_peer_is_told_at_once_and_the_name_is_free() -> None:
    program = (
        BEGIN
        + """
from beamnode import Epmd, register, self
async def main():
    options = {"cookie": sys.argv[1], "discovery": Epmd(int(sys.argv[2]))}
    async with Node("leaves@127.0.0.1", **options) as node:
        register("leaving", self())
        assert await node.connect(sys.argv[3])
        say("up")
        await receive()
asyncio.run(main())
"""
    )

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            node.monitor_nodes(nodedown_reason=True)
            with Program("-c", program, cluster.cookie, str(cluster.epmd_port), node.name.name) as leaving:
                await asyncio.to_thread(leaving.until_up)
                name = (await expect())[1]
                watched = monitor(("leaving", name))
                assert await node.ping(name) is a.pong
                leaving.process.send_signal(signal.SIGTERM)
                down, nodedown = await expect(), await expect()
                assert down[:3] == (a.DOWN, watched, a.process)
                assert down[4] is a.shutdown  # it ended before its connection did
                assert nodedown[:2] == (a.nodedown, name)
                assert nodedown[2][a.nodedown_reason] is a.connection_closed
                assert await asyncio.to_thread(leaving.ends) == ([], "", 143)
                assert await cluster.registered() == ["n1"]

    play(main)
