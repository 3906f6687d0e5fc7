"""What the tests of Python nodes share: a cluster without Erlang, and `play`, which notices what is left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import Epmd, Node, Pid, a, receive, send
from beamnode.carriers.tcp import Tcp
from beamnode.node.epmd_server import EpmdServer, open_listeners

HOST = "127.0.0.1"
WAIT_SECONDS = 20.0  # for what must happen: long, because the machine may be busy


class Cluster:
    """A cookie, and an epmd of its own in this event loop."""

    def __init__(self, epmd_port: int) -> None:
        self.epmd_port = epmd_port
        self.cookie = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def node(self, alive: str | None = None, **options: Any) -> Node:
        """A node on loopback, not started yet; `alive` is its name without the host."""
        options = {
            "cookie": self.cookie,
            "discovery": Epmd(self.epmd_port),
            "carrier": Tcp(listen_address=HOST),
        } | options
        return Node(f"{alive or f'n{next(self._numbers)}'}@{HOST}", **options)

    async def registered(self) -> list[str]:
        """The names at epmd."""
        return sorted(name for name, _ in await Epmd(self.epmd_port).names(HOST))


def play(main: Callable[[Cluster], Awaitable[None]]) -> None:
    """Run `main(cluster)` in a fresh loop; when it is over no name, task, thread or file is left."""

    async def whole() -> None:
        async with EpmdServer(open_listeners(0, [HOST])) as server:
            cluster = Cluster(server.port)
            before = asyncio.all_tasks()
            await main(cluster)
            assert await cluster.registered() == []
            await until(lambda: asyncio.all_tasks() <= before, "tasks are left", asyncio.all_tasks)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what tests before this one have left is theirs
    files, threads = open_files(), set(threading.enumerate())
    asyncio.run(whole())
    gc.collect()
    deadline = time.monotonic() + 2
    while (left := set(threading.enumerate()) - threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"threads are left: {left}"
    assert open_files() - files == set(), "files are left open"


def open_files() -> set[str]:
    """This process's open files, by descriptor and what they are."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
        except OSError:  # the directory itself
            continue
    return found


async def until(
    predicate: Callable[[], Any], what: str = "it did not happen", more: Callable[[], Any] = lambda: ""
) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not predicate():
        assert time.monotonic() < deadline, f"{what} {more()}"
        await asyncio.sleep(0.005)


async def expect(match: Any = None) -> Any:
    """The next message, which must come."""
    return await receive(match, timeout=WAIT_SECONDS)


async def nothing_comes(seconds: float = 0.05) -> None:
    with pytest.raises(TimeoutError):
        raise AssertionError(f"nothing was to come, but {await receive(timeout=seconds)!r} did")


async def echo() -> None:
    """Send back what comes, until told to stop."""
    while True:
        match await receive():
            case (Pid() as sender, message):
                send(sender, (a.echo, message))
            case a.stop:
                return


# --- The net has no holes ---------------------------------------------------------------------------------------------


async def leave_a_task(_: Cluster) -> None:
    leave_a_task.kept = asyncio.create_task(asyncio.sleep(60))  # type: ignore[attr-defined]


async def leave_a_thread(_: Cluster) -> None:
    leave_a_thread.kept = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=leave_a_thread.kept.wait, daemon=True).start()  # type: ignore[attr-defined]


async def leave_a_socket(_: Cluster) -> None:
    leave_a_socket.kept = socket.create_server((HOST, 0))  # type: ignore[attr-defined]


async def leave_a_node(cluster: Cluster) -> None:
    await cluster.node().start()


@pytest.mark.parametrize("leave", [leave_a_task, leave_a_thread, leave_a_socket, leave_a_node])
def test_what_is_left_behind_is_noticed(leave: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_python_nodes_cluster.WAIT_SECONDS", 0.1)
    with pytest.raises(AssertionError):
        play(leave)
    if leave is leave_a_socket:
        leave_a_socket.kept.close()  # type: ignore[attr-defined]
    if leave is leave_a_thread:
        leave_a_thread.kept.set()  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what was left behind
