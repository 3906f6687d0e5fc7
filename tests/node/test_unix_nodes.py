"""Python nodes on unix sockets: names, lives and users."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, play, until

from beamnode import Node, NodeNotFound, a
from beamnode.carriers.unix import Unix
from beamnode.errors import NameTakenError, NetworkError, UsageError

OTHER = """
import asyncio, os, sys
from beamnode import Node
from beamnode.carriers.unix import Unix

_, directory, name, cookie, uid, listen, peer = sys.argv

async def main():
    carrier = Unix(directory, mode=0o666)
    async with Node(name, cookie=cookie, carrier=carrier, listen=listen == "listen") as node:
        print(node.creation, await node.ping(peer), node.connect_error(peer), flush=True)
        await asyncio.Event().wait()

with asyncio.Runner() as runner:
    runner.get_loop()
    if int(uid) != os.getuid():
        os.setgroups([])
        os.setuid(int(uid))
    runner.run(main())
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bn"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


class Other:
    """A node in a process of its own."""

    def __init__(
        self, directory: Path, alive: str, cookie: str, peer: str, uid: int = os.getuid(), listen: bool = True
    ) -> None:
        arguments = [directory, f"{alive}@{HOST}", cookie, str(uid), "listen" if listen else "", peer]
        self.process = subprocess.Popen([sys.executable, "-c", OTHER, *arguments], stdout=subprocess.PIPE, text=True)

    async def said(self) -> list[str]:
        """Its creation, and what came of its ping: pong or pang, and why."""
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        return line.strip().split(" ", 2)

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def on_unix(cluster: Cluster, directory: Path, alive: str, **options: Any) -> Node:
    return cluster.node(alive, **{"carrier": Unix(directory), "discovery": None} | options)


def test_nodes_meet_without_an_epmd_and_leave_nothing(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "beamnode.audit")

    async def main(cluster: Cluster) -> None:
        one, two = (on_unix(cluster, directory, alive) for alive in ("one", "two"))
        for _ in range(2):  # the second time with other creations
            async with one, two:
                assert await cluster.registered() == []
                assert one.listen_addresses() == [(str(directory / f"one@{HOST}"), 0)]
                assert await one.ping(two.name) is a.pong
                assert two.list() == [one.name]
                assert one.connect_error(two.name) is None
                assert await one.ping(f"three@{HOST}") is a.pang
                assert isinstance(one.connect_error(f"three@{HOST}"), NodeNotFound)
                file = directory / f"two@{HOST}"
                assert f"allowed connection to {file} with {two.name}" in caplog.messages
                assert f"allowed connection from {file} with {one.name}" in caplog.messages
            assert list(directory.iterdir()) == []

    play(main)


def test_the_name_of_a_living_node_is_not_given_again(directory: Path) -> None:
    async def main(cluster: Cluster) -> None:
        async with on_unix(cluster, directory, "one") as one, on_unix(cluster, directory, "two") as two:
            assert await two.ping(one.name) is a.pong
            with pytest.raises(NameTakenError, match=f"one@{HOST} runs already, and listens on {directory}/one@{HOST}"):
                await on_unix(cluster, directory, "one").start()
            assert two.list() == [one.name]
        with pytest.raises(UsageError, match="no place for a unix socket"):
            await on_unix(cluster, directory, "n" * 120).start()
        with pytest.raises(NetworkError, match="No such file or directory; make the directory first"):
            await on_unix(cluster, directory / "none", "one").start()

    play(main)


def test_a_node_that_was_killed_and_its_successor_and_a_stopped_one(directory: Path) -> None:
    async def main(cluster: Cluster) -> None:
        async with on_unix(cluster, directory, "one") as one:
            other, file = f"other@{HOST}", directory / f"other@{HOST}"
            with Other(directory, "other", cluster.cookie, str(one.name)) as first:
                creation, pinged, _ = await first.said()
                assert pinged == "pong"
                first.process.send_signal(signal.SIGSTOP)
                with pytest.raises(NameTakenError):  # it hears nothing now, but it lives
                    await on_unix(cluster, directory, "other").start()
            await until(lambda: one.list() == [])
            assert file.is_socket()
            assert await one.ping(other) is a.pang
            assert "Connection refused; the node that made it is gone" in str(one.connect_error(other))
            with Other(directory, "other", cluster.cookie, str(one.name)) as second:
                again, pinged, _ = await second.said()
                assert pinged == "pong"
                assert again != creation
                assert [str(node) for node in one.list()] == [other]
            await until(lambda: one.list() == [])

    play(main)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_nodes_of_other_users_come_in_where_the_mode_lets_them(directory: Path) -> None:
    nobody = 65534

    async def main(cluster: Cluster) -> None:
        async with on_unix(cluster, directory, "mine") as mine:
            with Other(directory, "theirs", cluster.cookie, str(mine.name), nobody, listen=False) as theirs:
                _, pinged, why = await theirs.said()
                assert pinged == "pang"
                assert why.startswith(f"cannot connect to {directory}/{mine.name}: Permission denied; who may connect")
        async with on_unix(cluster, directory, "ours", carrier=Unix(directory, mode=0o666)) as ours:
            with Other(directory, "theirs", cluster.cookie, str(ours.name), nobody, listen=False) as theirs:
                assert (await theirs.said())[1:] == ["pong", "None"]
                assert [str(node) for node in ours.list("hidden")] == [f"theirs@{HOST}"]
        directory.chmod(0o777)
        async with on_unix(cluster, directory, "mine") as mine:
            with Other(directory, "theirs", cluster.cookie, str(mine.name), nobody) as theirs:
                assert (await theirs.said())[1] == "pang"
                assert await mine.ping(f"theirs@{HOST}") is a.pong  # theirs is open to all

    play(main)
