"""Python nodes in processes of their own, nothing of Erlang on the path: what comes of kill -9, of stops, of exits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Any, Self

import pytest
from test_python_nodes_cluster import HOST, WAIT_SECONDS, Cluster, expect, nothing_comes, play, until

from beamnode import Atom, Node, Pid, a, link, monitor, self, send, trap_exit

pytestmark = pytest.mark.filterwarnings("error")

# A node that connects to the names given, says `up`, and answers whoever writes to `here`.
PROGRAM = """
import asyncio, shutil, sys
from beamnode import Epmd, Node, Pid, a, exit, link, receive, register, self, send, spawn
from beamnode.carriers.tcp import Tcp
assert not any(map(shutil.which, ("epmd", "erl", "iex", "elixir")))

async def wait():
    await receive()

async def main(name, port, cookie, *others):
    carrier = Tcp(listen_address="127.0.0.1")
    async with Node(name, cookie=cookie, discovery=Epmd(int(port)), carrier=carrier, net_ticktime=4) as node:
        for other in others:
            assert await node.connect(other), node.connect_error(other)
        register("here", self())
        print("up", flush=True)
        while True:
            match await receive():
                case (a.echo, Pid() as sender, message):
                    send(sender, (a.echo, message))
                case (a.spawn, Pid() as sender):
                    send(sender, (a.spawned, spawn(wait)))
                case (a.link, Pid() as pid):
                    link(pid)
                    send(pid, a.linked)
                case (a.list, Pid() as sender):
                    send(sender, (a.nodes, node.list()))
                case (a.exit, reason):
                    exit(reason)
                case a.stop:
                    return

asyncio.run(main(*sys.argv[1:]))
"""


class Program:
    """One such process; killed at the end if it lives then."""

    def __init__(self, cluster: Cluster, alive: str, *others: Atom) -> None:
        self.name = Atom(f"{alive}@{HOST}")
        self._arguments = [self.name.name, str(cluster.epmd_port), cluster.cookie, *(other.name for other in others)]

    async def __aenter__(self) -> Self:
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": "/nowhere", "HOME": "/nowhere"}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", PROGRAM, *self._arguments, env=environment, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), WAIT_SECONDS) == b"up\n"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            await self.kill()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.communicate()

    async def wait(self) -> int:
        await asyncio.wait_for(self._process.communicate(), WAIT_SECONDS)
        assert self._process.returncode is not None
        return self._process.returncode

    def send(self, message: Any) -> None:
        send(("here", self.name), message)

    async def ask(self, question: Atom) -> Any:
        self.send((question, self_pid()))
        return (await expect())[1]


def self_pid() -> Pid:
    """`self()`, where a method hides it."""
    return self()


@pytest.mark.one_python
def test_they_meet_and_exchange_terms_and_a_large_binary() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(net_ticktime=4) as node, Program(cluster, "other") as other:
            assert await node.ping(other.name) is a.pong
            assert node.list() == [other.name]
            assert await other.ask(a.list) == [node.name]
            big = os.urandom(1_000_000) * 100
            for term in ({a.k: [1, 2.5, None]}, big):
                other.send((a.echo, self(), term))
                assert (await expect())[1] == term
            await nothing_comes(5.5)
            assert node.list() == [other.name]
            other.send(a.stop)
            assert await other.wait() == 0
            await until(lambda: node.list() == [])

    play(main)


def test_kill_9_is_noticed_at_once_by_links_monitors_and_node_monitors() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node, Program(cluster, "other") as other:
            node.monitor_nodes(nodedown_reason=True)
            assert await node.connect(other.name) is True
            assert (await expect())[0] is a.nodeup
            pid = await other.ask(a.spawn)
            trap_exit()
            link(pid)
            reference, named = monitor(pid), monitor(("here", other.name))
            node.monitor(other.name)
            other.send((a.echo, self(), 1))
            await expect()
            await other.kill()
            got = [await expect() for _ in range(5)]
            assert (a.EXIT, pid, a.noconnection) in got
            assert (a.DOWN, reference, a.process, pid, a.noconnection) in got
            assert (a.DOWN, named, a.process, (a.here, other.name), a.noconnection) in got
            reason = {a.nodedown_reason: a.connection_closed}
            assert got[-2:] == [(a.nodedown, other.name, reason), (a.nodedown, other.name)]
            send(pid, a.hello)
            assert await node.connect(other.name) is False
            async with Program(cluster, "other") as again:  # of the same name, in another life
                assert await node.connect(again.name) is True
                assert (await expect(lambda message: message[0] is a.nodeup))[1] == again.name
                reference = monitor(pid)
                assert await expect() == (a.DOWN, reference, a.process, pid, a.noproc)

    play(main)


@pytest.mark.parametrize("reason", [a.normal, (a.because, 1)])
def test_what_the_body_there_ends_with_is_told_here(reason: Any) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(), Program(cluster, "other") as other:
            trap_exit()
            other.send((a.link, self()))
            assert await expect() is a.linked
            reference = monitor(("here", other.name))
            if reason is a.normal:
                other.send(a.stop)
            else:
                other.send((a.exit, reason))
            got = [await expect(), await expect()]
            assert (a.DOWN, reference, a.process, (a.here, other.name), reason) in got
            assert [message[2] for message in got if message[0] is a.EXIT] == [reason]
            await other.wait()

    play(main)


def test_one_that_is_killed_does_not_tear_the_others_apart() -> None:
    """Four in a mesh, each connected to one other by hand; then two of them die, one after the other."""

    async def main(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            node: Node = await stack.enter_async_context(cluster.node("first"))
            programs = []
            for alive in ("second", "third", "fourth"):
                before = programs[-1].name if programs else node.name
                programs.append(await stack.enter_async_context(Program(cluster, alive, before)))
            names = {program.name for program in programs}
            await until(lambda: set(node.list()) == names, "no mesh but", node.list)
            node.monitor_nodes()
            for left in (2, 1):
                victim = programs.pop(0)
                names.remove(victim.name)
                await victim.kill()
                assert await expect() == (a.nodedown, victim.name)
                await nothing_comes(0.5)
                assert set(node.list()) == names
                assert len(names) == left
                for program in programs:
                    assert set(await program.ask(a.list)) == {node.name, *names} - {program.name}

    play(main)
