"""Two nodes of ours, of which one is stopped (SIGSTOP) for twice the tick time, and goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_python_nodes_cluster import Cluster, expect, nothing_comes, play

from beamnode import Atom, Node, Pid, a, monitor, self, send, trap_exit

TICKTIME = 1.0
STOPPED_SECONDS = 2 * TICKTIME


@pytest.mark.one_python
def test_both_sides_notice_once_and_meet_again() -> None:
    """A visible node and a hidden one, side by side; whoever is stopped falls silent, with the thread that ticks."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node(net_ticktime=TICKTIME) as node, asyncio.TaskGroup() as tasks:
            for visibility in ("visible", "hidden"):
                name = Atom(f"{visibility}@127.0.0.1")
                tasks.create_task(node.run_process(is_stopped_and_comes_back, cluster, node, name, visibility))

    play(main)


async def is_stopped_and_comes_back(cluster: Cluster, node: Node, name: Atom, visibility: str) -> None:
    arguments = [name.name, cluster.cookie, str(cluster.epmd_port), node.name.name, str(TICKTIME), visibility]
    program = str(Path(__file__).with_name("support_alive.py"))
    with subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert await asyncio.to_thread(child.stdout.readline) == b"up\n"
            trap_exit()
            pid = await ask(name, a.watch)
            watched = monitor(pid)
            node.monitor(name)
            assert await ask(name, a.told) == []
            child.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            messages = [await expect() for _ in range(3)]
            assert sorted(messages, key=repr) == sorted(
                [
                    (a.EXIT, pid, a.noconnection),
                    (a.DOWN, watched, a.process, pid, a.noconnection),
                    (a.nodedown, name),
                ],
                key=repr,
            )
            await asyncio.sleep(STOPPED_SECONDS - (time.monotonic() - stopped))
            os.kill(child.pid, signal.SIGCONT)
            assert await node.ping(name) is a.pong
            told = await ask(name, a.told)
            assert Counter(message[:2] for message in told if message[0] is not a.DOWN) == {
                (a.EXIT, self()): 1,
                (a.nodedown, node.name): 1,
                (a.nodeup, node.name): 1,
            }
            assert [message[3:] for message in told if message[0] is a.DOWN] == [(self(), a.noconnection)]
            assert await ask(name, a.watch) == pid  # the same life of the same process, linked anew
            await nothing_comes()
        finally:
            child.kill()


async def ask(name: Atom, request: Any) -> Any:
    send(("alive", name), (self(), request))
    answered, answer = await expect()
    assert answered is request
    assert isinstance(answer, Pid | list)
    return answer
