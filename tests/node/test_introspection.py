"""node/introspection.py: what is known of a process, and the line of Python code that it is at."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    FixedPort,
    GenServer,
    Node,
    Pid,
    UsageError,
    a,
    blocking,
    process_info,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_monitor,
    sync,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node.introspection import ITEMS, Line
from beamnode.testing.peers import free_port

pytestmark = pytest.mark.filterwarnings("error")

THIS_FILE = __file__


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


def line_of(function: Any, text: str) -> int:
    """The number of the line of `function` that contains `text`."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def own_lines(pid: Pid) -> list[tuple[str, int]]:
    """Where it is in this file, innermost first."""
    return [(line.function, line.line) for line in stack(pid) if line.file == THIS_FILE]


def stack(pid: Pid | None) -> list[Line]:
    lines: list[Line] = process_info(pid, "current_stacktrace")
    return lines


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# --- Where a process is -----------------------------------------------------------------------------------------------


async def inner() -> None:
    await receive(lambda message: message is a.go)  # with a match


async def outer(argument: int, *, option: int = 1) -> None:
    await inner()
    await receive()  # any message
    task = asyncio.create_task(in_a_task())
    await task  # for what it runs


async def in_a_task() -> None:
    await asyncio.sleep(60)  # in a task


def test_a_coroutine_that_waits() -> None:
    async def main() -> None:
        pid = spawn(outer, 1)
        await asyncio.sleep(0)
        assert own_lines(pid) == [("inner", line_of(inner, "with a match")), ("outer", line_of(outer, "inner()"))]
        assert stack(pid)[0].file == THIS_FILE
        assert stack(pid)[1][:3] == ("test_introspection", "outer", 2)
        assert process_info(pid, "current_location") == stack(pid)[0]
        assert process_info(pid, "status") == "waiting"
        send(pid, a.go)
        await asyncio.sleep(0.01)
        assert own_lines(pid) == [("outer", line_of(outer, "any message"))]
        assert stack(pid)[0].file == THIS_FILE
        send(pid, 1)
        await asyncio.sleep(0.01)
        sleeping = ("in_a_task", line_of(in_a_task, "in a task"))
        assert own_lines(pid) == [sleeping, ("outer", line_of(outer, "for what it runs"))]

    in_a_node(main)


def blocked() -> None:
    sync.receive()  # blocked


def asking(server: Pid) -> None:
    sync.GenServer.call(server, a.what)  # asking


def busy(begun: threading.Event, end: threading.Event) -> None:
    begun.set()
    end.wait()  # busy


def test_a_thread_that_calls_is_where_it_calls() -> None:
    async def silent() -> None:
        await receive()
        send(asks, a.heard)
        await receive()

    async def main() -> None:
        nonlocal asks
        asks = self()
        pid = spawn(asking, spawn(silent))
        assert await receive(timeout=10) is a.heard
        await until(lambda: stack(pid)[0].function == "asking")
        assert [(line.function, line.line) for line in stack(pid)] == [("asking", line_of(asking, "# asking"))]

    asks: Any = None
    in_a_node(main)


def test_a_thread() -> None:
    async def main() -> None:
        begun, end = threading.Event(), threading.Event()
        pid = spawn(blocked)
        await until(lambda: process_info(pid, "status") == "waiting")
        assert own_lines(pid) == [("blocked", line_of(blocked, "# blocked"))]
        assert stack(pid)[0].file == THIS_FILE
        assert len(stack(pid)) == 1
        send(pid, a.end)
        pid = spawn(busy, begun, end)
        await asyncio.to_thread(begun.wait)
        assert process_info(pid, "status") == "running"
        assert own_lines(pid)[-1][0] == "busy"
        end.set()

    in_a_node(main)


class Waiting(GenServer):
    async def handle_cast(self, request: Any) -> None:
        await receive(lambda message: message is request)  # in a handler


@blocking
class Computing(GenServer):
    def handle_cast(self, request: Any) -> None:
        begun, end = request
        begun.set()
        end.wait()  # in the handler


def test_a_server() -> None:
    async def main() -> None:
        pid = await Waiting.start()
        await asyncio.sleep(0.01)
        assert stack(pid)[0].module == "beamnode.otp.server_loop"
        assert process_info(pid, "initial_call") == (a.Waiting, a.init, 1)
        GenServer.cast(pid, a.go)
        await asyncio.sleep(0.01)
        assert own_lines(pid) == [("Waiting.handle_cast", line_of(Waiting, "in a handler"))]
        send(pid, a.go)
        begun, end = threading.Event(), threading.Event()
        pid = await Computing.start()
        assert own_lines(pid) == []
        GenServer.cast(pid, (begun, end))
        await asyncio.to_thread(begun.wait)
        await until(lambda: ("Computing.handle_cast", line_of(Computing, "in the handler")) in own_lines(pid))
        end.set()
        await until(lambda: not own_lines(pid))
        await until(lambda: stack(pid)[0].module == "beamnode.otp.server_loop")

    in_a_node(main)


def test_the_current_process_itself() -> None:
    async def main() -> None:
        async def looks(owner: Pid) -> None:
            send(owner, await here())

        async def here() -> Any:
            return stack(None), process_info(item="status")

        spawn(looks, self())
        found, status = await receive(timeout=5)
        names = [line.function.rpartition(".")[2] for line in found]
        assert (names[:3], status) == (["stack", "here", "looks"], "running")

    in_a_node(main)


def test_one_that_runs_only_pythons_own_code() -> None:
    async def main() -> None:
        pid = spawn(asyncio.sleep, 60)
        await asyncio.sleep(0)
        assert [line.function for line in stack(pid)] == ["sleep"]

    in_a_node(main)


def test_a_guest() -> None:
    node = sync.Node("guest@127.0.0.1", cookie="c", discovery=FixedPort(free_port()))
    node.start()
    try:
        with node.process():
            assert stack(None)[0].function == "stack"
            assert process_info(item="status") == "running"
            assert "test_a_guest" in [line.function for line in stack(sync.self())]
    finally:
        node.stop()


def test_one_that_has_not_begun_and_one_that_was_woken() -> None:
    async def main() -> None:
        pid = spawn(outer, 1)
        assert process_info(pid, "status") == "runnable"
        await asyncio.sleep(0)
        send(pid, 1)
        assert process_info(pid, ("status", "message_queue_len")) == {"status": "runnable", "message_queue_len": 1}

    in_a_node(main)


# --- What a process is ------------------------------------------------------------------------------------------------


def test_every_item() -> None:
    async def main() -> None:
        register("main", self())
        pid, _ = spawn_monitor(outer, 1)
        send(pid, {"some": "message"})
        await asyncio.sleep(0)
        info = process_info(pid, ITEMS)
        assert set(info) == set(ITEMS)
        assert info["messages"] == [{"some": "message"}]
        assert info["monitored_by"] == [self()]
        assert info["memory"] > sys.getsizeof(object())
        assert process_info(item="registered_name") is a.main
        assert process_info(item=["monitors"]) == {"monitors": [pid]}
        assert set(process_info()) < set(ITEMS)
        with pytest.raises(UsageError, match="'nonsense' is no item of a process"):
            process_info(pid, "nonsense")

    in_a_node(main)


def test_more_is_held_for_who_has_more() -> None:
    async def main() -> None:
        pid = spawn(outer, 1)
        await asyncio.sleep(0)
        before = process_info(pid, "memory")
        for number in range(10_000):
            send(pid, number)
        assert process_info(pid, "memory") >= before + 10_000 * 8

    in_a_node(main)
