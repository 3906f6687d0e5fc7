"""A node's life: start, stop, start again, in this loop or another; cancelled, interrupted; several at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, WAIT_SECONDS, Cluster, echo, expect, nothing_comes, play, until

from beamnode import (
    Atom,
    CookieError,
    Epmd,
    EpmdError,
    NetworkError,
    Node,
    NotAliveError,
    Pid,
    ProcessExit,
    SpawnError,
    UsageError,
    a,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    trap_exit,
)
from beamnode.carriers.tcp import Tcp
from beamnode.testing.peers import free_port, wait_for

pytestmark = pytest.mark.filterwarnings("error")


# --- Starting and stopping --------------------------------------------------------------------------------------------


def test_starting_and_stopping_twice_does_nothing() -> None:
    async def main(cluster: Cluster) -> None:
        node = cluster.node("n")
        assert await node.stop() is False
        assert (node.alive, repr(node), node.listen_address) == (False, f"<Node n@{HOST} stopped>", None)
        await node.start()
        creation, address = node.creation, node.listen_address
        await asyncio.gather(node.start(), node.start())
        assert (node.alive, repr(node)) == (True, f"<Node n@{HOST}>")
        assert (node.creation, node.listen_address) == (creation, address)
        assert await cluster.registered() == ["n"]
        assert sorted(await asyncio.gather(node.stop(), node.stop())) == [False, True]
        assert node.listen_address is None

    play(main)


def test_a_stopped_node_says_so() -> None:
    async def main(cluster: Cluster) -> None:
        node = cluster.node()
        for _ in range(2):  # never started; stopped
            other = f"other@{HOST}"
            assert await node.connect(other) is None
            assert await node.disconnect(other) is None
            assert await node.ping(other) is a.pang
            assert node.connect_error(other) is None
            assert [node.list(kind) for kind in ("visible", "hidden", "connected", "known")] == [[]] * 4
            assert node.list("this") == [node.name]
            with pytest.raises(NotAliveError):
                node.monitor(other)
            with pytest.raises(
                NotAliveError, match=r"is stopped: it cannot spawn|was never started: `await node.start"
            ):
                await node.spawn(other, "lists", "reverse", [[]])
            await node.start()
            await node.stop()

    play(main)


def test_processes_survive_a_stop_and_a_start() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            trap_exit()
            local, remote = spawn(echo), await two.spawn(one.name, echo)
            reference = monitor(remote)
            link(remote)
            two.monitor_nodes(nodedown_reason=True)
            two.monitor(one.name)
            creation, pid = two.creation, self()
            assert await two.stop() is True
            reason = {a.nodedown_reason: a.net_kernel_terminated}
            got = [await expect() for _ in range(4)]
            assert (a.DOWN, reference, a.process, remote, a.noconnection) in got
            assert (a.EXIT, remote, a.noconnection) in got
            assert got[-2:] == [(a.nodedown, one.name, reason), (a.nodedown, one.name)]
            await until(lambda: one.list() == [])

            send(remote, (self(), 1))  # harmless, as is a monitor
            send(("echo", one.name), 1)
            reference = monitor(remote)
            assert await expect() == (a.DOWN, reference, a.process, remote, a.noconnection)
            send(local, (self(), 1))
            assert await expect() == (a.echo, 1)

            await two.start()
            assert two.creation != creation
            assert self() == pid
            assert await two.connect(one.name) is True
            assert (await expect())[:2] == (a.nodeup, one.name)
            send(remote, (self(), 2))
            await nothing_comes()  # the echo there answers to the pid of another life: dropped there, or here
            send(local, (self(), 3))
            assert await expect() == (a.echo, 3)
            fresh = spawn(echo)
            assert fresh.creation == two.creation

    play(main)


def test_start_in_another_loop() -> None:
    """Processes and their loop are gone, the node is not."""
    node = Cluster(0).node("again")

    def visit(creations: list[int]) -> Any:
        async def main(cluster: Cluster) -> None:
            node._discovery, node._cookie = Epmd(cluster.epmd_port), None
            node.set_cookie(cluster.cookie)
            async with cluster.node() as other:
                await asyncio.gather(node.start(), node.start())
                pid = await node.spawn(node.name, echo)
                assert pid.creation == node.creation
                assert await node.spawn(other.name, echo)
                creations.append(node.creation)
                await asyncio.gather(node.stop(), node.stop())
                exits = node._required_runtime().signals.processes()
                for process in exits:
                    node._required_runtime().end(process, a.shutdown)

        return main

    creations: list[int] = []
    for _ in range(2):
        play(visit(creations))
    assert len(set(creations)) == 2


def test_a_node_whose_loop_has_ended_is_stopped_and_can_be_started() -> None:
    node = Node(f"left@{HOST}", cookie="c", discovery=Epmd(1), carrier=Tcp(listen_address=HOST))

    async def forget() -> None:
        class Nowhere:
            creation = 1

            async def close(self) -> None: ...

        async def register(*_: Any, **__: Any) -> Nowhere:
            return Nowhere()

        node._discovery = type(
            "D", (), {"listen_port": lambda *_: 0, "register": staticmethod(register), "resolve": None}
        )()
        await node.start()
        assert node._listening is not None
        await node._listening.stop_accepting()  # as the end of the program would

    asyncio.run(forget())
    assert not node.alive
    assert node.list() == []

    async def main(cluster: Cluster) -> None:
        assert await node.connect(f"x@{HOST}") is None
        assert await node.stop() is False
        node._discovery = Epmd(cluster.epmd_port)
        async with node:
            assert await node.ping(node.name) is a.pong

    play(main)


def test_stopping_lets_messages_out() -> None:
    """Also one whose connection is being made: where Erlang's sender waits, ours has gone on."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one:
            register("here", self())
            async with cluster.node():
                send(("here", one.name), a.hello)
            assert await expect() is a.hello
            async with cluster.node():
                send(("here", f"nobody@{HOST}"), a.hello)  # no reason to wait

    play(main)


def test_stopping_lets_a_large_message_out() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one:
            register("here", self())
            async with cluster.node() as two:
                assert await two.connect(one.name)
                send(("here", one.name), bytes(10_000_000))
            assert len(await receive(timeout=2)) == 10_000_000

    play(main)


def test_run_process_ends_with_the_node() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            early = asyncio.create_task(node.run_process(receive))
            await asyncio.sleep(0.02)
            late = asyncio.create_task(node.run_process(receive))
            await asyncio.sleep(0)  # it has not taken its first step
        for task in (early, late):
            with pytest.raises(ProcessExit):
                await asyncio.wait_for(task, WAIT_SECONDS)

    play(main)


# --- Cancelled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_start", [False, True])
def test_a_start_that_is_cancelled_leaves_nothing(auto_start: bool) -> None:
    async def main(cluster: Cluster) -> None:
        node = cluster.node(discovery=Epmd(cluster.epmd_port, auto_start=auto_start))
        steps = 0
        while True:
            task = asyncio.create_task(node.start())
            for _ in range(steps):
                await asyncio.sleep(0)
            steps += 1
            if task.done():
                await node.stop()
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not node.alive
            await until_nobody_is_registered(cluster)
        assert steps > 3

    play(main)


def test_a_stop_that_is_cancelled_still_stops() -> None:
    async def main(cluster: Cluster) -> None:
        done, steps = False, 0
        while not done:
            node, other = cluster.node(), cluster.node()
            await node.start()
            await other.start()
            await node.connect(other.name)
            task = asyncio.create_task(node.stop())
            for _ in range(steps):
                await asyncio.sleep(0)
            steps += 1
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            await other.stop()
            if steps > 1:  # before its first step it had not begun
                assert not node.alive
            else:
                await node.stop()
            await until_nobody_is_registered(cluster)

    play(main)


async def until_nobody_is_registered(cluster: Cluster) -> None:
    for _ in range(100):
        if not await cluster.registered():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{await cluster.registered()} are registered")


def test_a_body_that_is_cancelled_at_any_moment_leaves_nothing() -> None:
    async def program(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            await one.ping(two.name)
            spawn(echo)

    async def main(cluster: Cluster) -> None:
        for milliseconds in range(0, 30, 2):
            task = asyncio.create_task(program(cluster))
            await asyncio.sleep(milliseconds / 1000)
            task.cancel()
            await asyncio.wait([task])
            await until_nobody_is_registered(cluster)

    play(main)


# --- What a start says when it cannot ---------------------------------------------------------------------------------


def test_a_port_that_is_taken() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            assert node.listen_address is not None
            port = node.listen_address[1]
            with pytest.raises(NetworkError, match=f"cannot listen on {HOST}:{port}: the port is taken"):
                await cluster.node(carrier=Tcp(listen_address=HOST, listen_ports=port)).start()
            with pytest.raises(NetworkError, match=f"every port from {port} to {port} is taken; widen listen_ports"):
                await cluster.node(carrier=Tcp(listen_address=HOST, listen_ports=range(port, port + 1))).start()

    play(main)


def test_no_epmd_and_none_started() -> None:
    async def main(cluster: Cluster) -> None:
        port = free_port()
        with pytest.raises(EpmdError, match=rf"no epmd answers at 127\.0\.0\.1 port {port}|no epmd.*{port}"):
            await cluster.node(discovery=Epmd(port)).start()

    play(main)


def test_a_cookie_file_that_cannot_be_used(home: Path) -> None:
    file = home / ".erlang.cookie"
    file.write_text("secret")
    file.chmod(0o644)
    os.utime(file, (1, 1))

    async def main(cluster: Cluster) -> None:
        node = Node(f"n@{HOST}", discovery=Epmd(cluster.epmd_port), carrier=Tcp(listen_address=HOST))
        with pytest.raises(CookieError, match=f"chmod 400 {file}"):
            await node.start()
        with pytest.raises(NotAliveError, match="start it first, or give it one"):
            node.get_cookie()
        file.chmod(0o400)
        async with node:
            assert node.get_cookie() is a.secret

    play(main)


def test_without_a_cookie_the_file_is_made(home: Path) -> None:
    async def main(cluster: Cluster) -> None:
        discovery, carrier = Epmd(cluster.epmd_port), Tcp(listen_address=HOST)
        async with (
            Node(f"one@{HOST}", discovery=discovery, carrier=carrier) as one,
            Node(f"two@{HOST}", discovery=discovery, carrier=carrier) as two,
        ):
            assert re.fullmatch("[A-Z]{20}", one.get_cookie().name)
            assert await one.ping(two.name) is a.pong
        assert (home / ".erlang.cookie").stat().st_mode & 0o777 == 0o400

    play(main)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dist_auto_connect": "sometimes"}, "dist_auto_connect is 'always', 'once' or 'never', not 'sometimes'"),
        ({"net_ticktime": 0}, "net_ticktime must be more than 0 s, not 0"),
        ({"net_setuptime": -1}, "net_setuptime must be more than 0 s, not -1"),
        ({"net_tickintensity": 3}, r"net_tickintensity must lie in 4\.\.1000, not 3"),
        ({"cookie": ""}, "a cookie cannot be empty"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Node(f"n@{HOST}", **options)


# --- Several ----------------------------------------------------------------------------------------------------------


def test_ten_nodes_in_one_process() -> None:
    async def main(cluster: Cluster) -> None:
        nodes = [cluster.node() for _ in range(10)]
        await asyncio.gather(*(node.start() for node in nodes))
        first = nodes[0]
        assert await asyncio.gather(*(node.connect(first.name) for node in nodes)) == [True] * 10
        for node in nodes:
            await until(lambda node=node: len(node.list()) == 9)
        pids = [await first.spawn(node.name, echo) for node in nodes]
        assert [pid.node for pid in pids] == [node.name for node in nodes]
        await asyncio.gather(*(node.stop() for node in nodes))
        for node in nodes:
            runtime = node._required_runtime()
            for process in runtime.signals.processes():
                runtime.end(process, a.shutdown)

    play(main)


# --- A program of its own ---------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys, logging
from beamnode import Node, receive, spawn
logging.basicConfig(level=logging.WARNING)

async def wait():
    await receive()

async def main():
    async with Node("interrupted@127.0.0.1", cookie="c") as node:
        spawn(wait)
        print("up", flush=True)
        await receive()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_ends_a_program_quietly(number: signal.Signals, status: int, home: Path, epmd_port: int) -> None:
    async def main(cluster: Cluster) -> None:
        environment = {**os.environ, "ERL_EPMD_PORT": str(cluster.epmd_port), "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", PROGRAM, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stdout.readline() == b"up\n"
        assert await cluster.registered() == ["interrupted"]
        process.send_signal(number)
        output = (await asyncio.wait_for(process.stderr.read(), WAIT_SECONDS)).decode()
        assert await process.wait() == status
        await until_nobody_is_registered(cluster)
        if number == signal.SIGINT:
            assert output.count("Traceback") == 2  # asyncio's way: the CancelledError, then the KeyboardInterrupt
            assert output.endswith("KeyboardInterrupt\n")
            assert "Error:" not in output
            assert "never retrieved" not in output
        else:
            assert output == ""

    play(main)


def test_an_epmd_is_started_where_none_runs_with_no_erlang_on_the_path(home: Path, epmd_port: int) -> None:
    program = """
import asyncio, shutil
from beamnode import Epmd, Node, a
assert not any(map(shutil.which, ("epmd", "erl", "iex")))

async def main():
    async with Node("one@127.0.0.1") as one, Node("two@127.0.0.1") as two:
        assert await one.ping(two.name) is a.pong
        assert one.creation != two.creation
        await Epmd.from_environment().names()
    epmd = Epmd.from_environment()
    assert await epmd.names() == []
    await epmd.kill()

asyncio.run(main())
print("ok")
"""
    environment = {
        "HOME": str(home), "PATH": "/nowhere", "ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": HOST,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    wait_for(lambda: not answers(epmd_port))


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_a_restarted_epmd_learns_the_name_again(caplog: pytest.LogCaptureFixture) -> None:
    from beamnode.node.epmd_server import EpmdServer, open_listeners

    caplog.set_level(logging.INFO, "beamnode.epmd")

    async def main(cluster: Cluster) -> None:
        server = EpmdServer(open_listeners(0, [HOST]))
        port = server.port
        async with server:
            node, other = (cluster.node(alive, discovery=Epmd(port)) for alive in ("steady", "other"))
            await node.start()
            await other.start()
            creation = node.creation
            assert await node.connect(other.name)
        await asyncio.sleep(0.05)
        assert node.list() == [other.name]  # connections do not need an epmd
        assert await node.connect(f"x@{HOST}") is False
        assert "no epmd answers" in str(node.connect_error(f"x@{HOST}"))
        async with EpmdServer(open_listeners(port, [HOST])):
            for _ in range(400):
                names = [name for name, _ in await Epmd(port).names(HOST)]
                if sorted(names) == ["other", "steady"]:
                    break
                await asyncio.sleep(0.01)
            assert sorted(names) == ["other", "steady"]
            assert node.creation == creation
            await node.disconnect(other.name)
            await until(lambda: other.list() == [])
            assert await other.ping(node.name) is a.pong
            await node.stop()
            await other.stop()

    play(main)


def test_pids_and_names_tell_of_the_node() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node("who") as node:
            assert isinstance(self(), Pid)
            assert self().node is node.name is Atom(f"who@{HOST}")
            assert node.own_name(f"who@{HOST}")
            assert node.long_names
            with pytest.raises(SpawnError, match="is not exposed on who@"):
                await node.spawn(node.name, "lists", "reverse", [[]])

    play(main)
