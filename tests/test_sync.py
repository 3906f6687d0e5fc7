"""sync.py: the blocking face, used by threads, interrupted, stopped, misused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import beamnode
from beamnode import AlreadyStarted, CallFailed, FixedPort, NotAliveError, Pid, ProcessExit, UsageError, a, sync
from beamnode.carriers.memory import MemoryNetwork
from beamnode.errors import NameTakenError

pytestmark = pytest.mark.filterwarnings("error")

Options = dict[str, Any]


def options() -> Options:
    return {"cookie": "c", "carrier": MemoryNetwork().carrier("h"), "discovery": FixedPort(1)}


@pytest.fixture
def node() -> Iterator[sync.Node]:
    before = set(threading.enumerate())
    with sync.Node("n@h", **options()) as node:
        yield node
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before  # no thread is left


class Counter(beamnode.GenServer):
    def init(self, start: int) -> None:
        self.count = start

    async def handle_call(self, request: Any, sender: Any) -> Any:
        match request:
            case a.get:
                return self.count
            case (a.add, int() as n):
                self.count += n
                return self.count
            case (a.sleep, seconds):
                await asyncio.sleep(seconds)
                return a.woken

    def handle_cast(self, request: Any) -> None:
        self.count = request


class Blocking(sync.GenServer):
    """Its handlers use the blocking names."""

    def init(self, other: Pid) -> None:
        self.other = other
        self.thread = threading.current_thread().name

    def handle_call(self, request: Any, sender: Any) -> Any:
        return (self.thread.startswith("beamnode"), sync.GenServer.call(self.other, request))


# --- A process --------------------------------------------------------------------------------------------------------


def test_the_thread_of_the_block_is_a_process(node: sync.Node) -> None:
    pid = sync.self()
    assert pid.node is node.name
    sync.send(pid, a.hello)
    assert sync.receive(timeout=1) is a.hello
    with pytest.raises(TimeoutError):
        sync.receive(timeout=0.01)
    sync.register("me", pid)
    assert sync.whereis("me") == pid
    assert a.me in node.registered()
    sync.send_after(pid, a.later, 0.01)
    assert sync.receive(lambda message: message is a.later, timeout=1) is a.later


def test_spawned_functions_are_threads_and_use_the_same_names(node: sync.Node) -> None:
    owner = sync.self()
    server = sync.GenServer.start(Counter, 5)

    def body() -> None:
        question = sync.receive(timeout=5)
        sync.send(owner, (question, sync.GenServer.call(server, (a.add, 1))))
        with pytest.raises(TimeoutError):
            sync.GenServer.call(server, (a.sleep, 0.2), timeout=0.02)
        sync.send(owner, a.timed_out)
        with pytest.raises(CallFailed):
            sync.GenServer.call("nobody", a.x)
        sync.send(owner, sync.receive(timeout=5))

    pid, reference = sync.spawn_monitor(body)
    sync.send(pid, a.question)
    assert sync.receive(timeout=5) == (a.question, 6)
    assert sync.receive(timeout=5) is a.timed_out
    sync.send(pid, a.last)
    assert sync.receive(timeout=5) is a.last
    assert sync.receive(timeout=5) == (a.DOWN, reference, a.process, pid, a.normal)


def test_servers(node: sync.Node) -> None:
    pid = sync.GenServer.start(Counter, 1, name="counter")
    assert sync.GenServer.call("counter", (a.add, 2)) == 3
    sync.GenServer.cast(pid, 9)
    assert sync.GenServer.multi_call([node.name], "counter", a.get) == ([(node.name, 9)], [])
    sync.GenServer.abcast([node.name], "counter", 10)
    request = sync.GenServer.send_request(pid, (a.sleep, 0.05))
    with pytest.raises(TimeoutError):
        sync.GenServer.wait_response(request, 0.01)
    assert sync.GenServer.receive_response(request, 5) is a.woken
    with pytest.raises(AlreadyStarted):
        sync.GenServer.start(Counter, 1, name="counter")
    other = Blocking.start(pid, name="blocking")
    assert sync.GenServer.call(other, a.get) == (True, 10)
    sync.GenServer.stop(pid)
    with pytest.raises(CallFailed) as error:
        sync.GenServer.call(pid, a.get)
    assert error.value.cause is a.noproc
    linked = Blocking.start_link(pid)
    sync.trap_exit()
    sync.exit(linked, a.kill)
    assert sync.receive(timeout=5) == (a.EXIT, linked, a.killed)
    with pytest.raises(UsageError, match="takes the class of a server"):
        sync.GenServer.start(5)


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_threads_that_become_processes(node: sync.Node) -> None:
    server = sync.GenServer.start(Counter, 0)

    def work(_: int) -> Pid:
        with node.process():
            for _ in range(20):
                sync.GenServer.call(server, (a.add, 1))
            sync.send(sync.self(), a.mine)
            assert sync.receive(timeout=5) is a.mine
            return sync.self()

    with ThreadPoolExecutor(8) as pool:
        pids = set(pool.map(work, range(16)))
    assert len(pids) == 16
    assert sync.GenServer.call(server, a.get) == 320


def test_threads_that_are_no_process_use_the_node(node: sync.Node) -> None:
    server = sync.GenServer.start(Counter, 0)

    def work(_: int) -> None:
        with pytest.raises(NotAliveError, match=r"with node\.process\(\)"):
            sync.self()
        node.call(server, (a.add, 1))
        assert node.ping(node.name) is a.pong
        assert node.list() == []
        assert node.connect("nobody@h") is False

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(50)))
    assert node.call(server, a.get) == 50


def test_a_wait_does_not_stop_the_node(node: sync.Node) -> None:
    server = sync.GenServer.start(Counter, 0)
    time.sleep(0.05)  # the program computes
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.call, server, (a.sleep, 0.2))
        assert node.call(sync.GenServer.start(Counter, 3), a.get, 0.15) == 3
        assert waiting.result() is a.woken


def test_stop_ends_the_waits_of_other_threads() -> None:
    node = sync.Node("n@h", **options())
    node.start()
    results: list[BaseException] = []
    ready = threading.Barrier(3)

    def wait(what: Any) -> None:
        try:
            with node.process():
                ready.wait()
                what()
        except BaseException as error:
            results.append(error)

    waits = (lambda: sync.receive(), lambda: sync.in_process(asyncio.sleep(60)))
    threads = [threading.Thread(target=wait, args=(what,)) for what in waits]
    for thread in threads:
        thread.start()
    ready.wait()
    time.sleep(0.05)
    assert node.stop() is True
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert {type(error) for error in results} <= {ProcessExit, NotAliveError}
    assert len(results) == 2
    assert node.stop() is False


# --- Start and stop ---------------------------------------------------------------------------------------------------


def test_a_stopped_node_says_so_and_starts_again() -> None:
    node = sync.Node("n@h", **options())
    assert (node.alive, node.list(), node.connect("x@h")) == (False, [], None)
    for act in (lambda: node.ping("x@h"), lambda: node.rpc("x@h", "m", "f", [])):
        with pytest.raises(NotAliveError, match="start it"):
            act()
    for _ in range(2):
        node.start()
        node.start()
        assert node.alive
        with pytest.raises(NotAliveError):
            sync.self()
        with node.process():
            sync.send(sync.self(), 1)
        assert node.stop() is True
        assert not node.alive


@pytest.mark.parametrize("then", ["stop", "at exit", "start"])
def test_the_end_of_its_loop_is_the_end_of_the_node(then: str, caplog: pytest.LogCaptureFixture) -> None:
    network = MemoryNetwork()
    common: Options = {"cookie": "c", "carrier": network.carrier("h"), "discovery": FixedPort(1)}
    node = sync.Node("n@h", **common)
    node.start()
    loop, thread = node._loop, node._thread
    assert loop is not None
    assert thread is not None
    runtime = node._node.runtime
    pid = node.spawn(node.name, threading.Event().wait, 0)

    def leave() -> None:
        raise SystemExit(3)

    loop.call_soon_threadsafe(leave)
    thread.join(10)
    assert not thread.is_alive()
    assert "node n@h stops, because its event loop was ended by SystemExit(3)" in caplog.text
    assert not node.alive
    assert runtime.signals.lookup(pid) is None
    with pytest.raises(NotAliveError):
        node.ping("x@h")
    match then:
        case "stop":
            assert node.stop() is False
        case "at exit":
            node._stop_at_exit()
        case "start":
            node.start()  # its port was freed
            assert node.alive
            assert node.stop() is True
    assert node.stop() is False


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    network = MemoryNetwork()
    before = threading.active_count()
    failing = sync.Node("n@h", cookie="c", carrier=network.carrier("h"), discovery=Refusing())
    with pytest.raises(NameTakenError, match="n@h is taken"), failing:
        raise AssertionError
    assert threading.active_count() == before
    assert not failing.alive


class Refusing(FixedPort):
    def __init__(self) -> None:
        super().__init__(1)

    async def register(self, *_: Any, **__: Any) -> Any:
        raise NameTakenError("n@h is taken")


def test_what_cannot_be(node: sync.Node) -> None:
    with pytest.raises(UsageError, match="is being run already"):
        node.__enter__()

    async def on_the_loop() -> str:
        texts = []
        for act in (lambda: node.ping("x@h"), lambda: sync.GenServer.call("x", 1), node.stop, lambda: sync.receive()):
            with pytest.raises(UsageError) as error:
                act()
            texts.append(str(error.value))
        return "\n".join(texts)

    text = sync.in_process(on_the_loop())
    assert text.count("runs on the") == 4
    assert text.count("awaitable names") + text.count("await receive") == 4


def test_it_works_where_another_loop_runs() -> None:
    """A notebook."""

    async def cell() -> Any:
        with sync.Node("n@h", **options()):
            return sync.GenServer.call(sync.GenServer.start(Counter, 4), a.get)

    assert asyncio.run(cell()) == 4


def test_an_exception_of_the_block_passes_and_the_node_stops() -> None:
    node = sync.Node("n@h", **options())
    with pytest.raises(KeyError), node:
        raise KeyError("block")
    assert not node.alive
    with node:
        node.stop()
    with pytest.raises(NotAliveError):
        sync.self()


# --- Programs ---------------------------------------------------------------------------------------------------------

HEAD = """
import os, signal, sys, threading, time
from beamnode import FixedPort, GenServer, a, sync
from beamnode.carriers.memory import MemoryNetwork
node = sync.Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1))
"""


def run(program: str, interrupt: bool = False) -> str:
    """What a program prints; when it says `waiting`, it gets a Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        first = ""
        if interrupt:
            assert process.stdout is not None
            while "waiting" not in (line := process.stdout.readline()):
                assert line, process.communicate()[1]
                first += line
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert err == ""
    assert process.returncode == 0
    return first + out


@pytest.mark.parametrize(
    "wait",
    [
        "sync.receive()",
        "sync.receive(lambda message: message == 1, timeout=60)",
        "sync.GenServer.call(server, a.never, timeout=None)",
        "node.call(server, a.never, timeout=None)",
        "server2 = Slow.start()",
    ],
)
def test_ctrl_c_interrupts_a_wait(wait: str) -> None:
    out = run(
        f"""
        class Silent(GenServer):
            def handle_call(self, request, sender):
                return "here" if request is a.here else __import__("beamnode").NO_REPLY
        class Slow(sync.GenServer):
            def init(self): time.sleep(2)
        with node:
            server = sync.GenServer.start(Silent)
            print("waiting", flush=True)
            try:
                {wait}
            except KeyboardInterrupt:
                print("interrupted")
            sync.send(sync.self(), 1)
            print(sync.receive(timeout=1), sync.GenServer.call(server, a.here), sync.process_info()["monitors"])
        print(threading.active_count() <= 2)
        """,
        interrupt=True,
    )
    assert out == "interrupted\n1 here []\nTrue\n"


def test_ctrl_c_ends_a_program_and_its_node() -> None:
    out = run(
        """
        try:
            with node:
                print("waiting", flush=True)
                sync.receive()
        except KeyboardInterrupt:
            print(node.alive, threading.active_count())
        """,
        interrupt=True,
    )
    assert out == "False 1\n"


def test_a_node_that_nobody_stops_is_stopped_at_the_end_of_the_program() -> None:
    out = run(
        """
        import logging
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
        node.start()
        """
    )
    assert out.splitlines()[-1] == "node n@h has stopped"


def test_after_a_fork_the_node_belongs_to_the_parent() -> None:
    out = run(
        """
        import warnings
        warnings.simplefilter("ignore")
        node.start()
        child = os.fork()
        if not child:
            try:
                node.ping("x@h")
            except Exception as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(node.ping("n@h"))
        """
    )
    assert out == "node n@h belongs to the process that was forked: start one in each worker\npong\n"


def test_no_home_is_touched(home: Path) -> None:
    with sync.Node("n@h", **options()):
        pass
    assert list(home.iterdir()) == []
