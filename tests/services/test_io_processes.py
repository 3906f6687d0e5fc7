"""services/user.py, io_client.py, standard_streams.py: who prints and asks where, between nodes of ours."""

from __future__ import annotations

import asyncio
import gc
import io as stdlib_io
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from beamnode import (
    Node,
    Pid,
    ProcessExit,
    StaticPorts,
    UsageError,
    a,
    exit,
    group_leader,
    io,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_monitor,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.services.console import Console
from beamnode.services.io_client import IoFailed
from beamnode.services.standard_streams import real
from beamnode.testing.peers import free_port

HOST = "127.0.0.1"


class Terminal(Console):
    """What a node's user has printed, and lines to be typed."""

    def __init__(self) -> None:
        super().__init__()
        self.printed = ""
        self.typed: asyncio.Queue[str] = asyncio.Queue()

    def write(self, text: str) -> None:
        self.printed += text

    async def read_line(self, prompt: str) -> str:
        self.write(prompt)
        return await self.typed.get()

    async def shows(self, text: str) -> None:
        async with asyncio.timeout(10):
            while text not in self.printed:
                await asyncio.sleep(0.005)


Test = Callable[[Node, Node, Terminal], Awaitable[None]]


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node, Terminal]]:
    """The body of the first; the other one's user is the terminal."""
    terminal = Terminal()
    nodes = StaticPorts({f"one@{HOST}": free_port(), f"two@{HOST}": free_port()})
    async with (
        Node(f"two@{HOST}", cookie="c", discovery=nodes, console=terminal) as two,
        Node(f"one@{HOST}", cookie="c", discovery=nodes) as one,
    ):
        assert await one.connect(two.name)
        yield one, two, terminal


def between_two(test: Test) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            async with asyncio.timeout(30), two_nodes() as (one, two, terminal):
                leader = await two.run_process(_user)
                group_leader(leader)
                await test(one, two, terminal)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def _user() -> Pid | None:
    return whereis("user")


async def ends(function: Callable[..., Any], *args: Any) -> Any:
    """Run it in a process; the reason that it ends with."""
    _, reference = spawn_monitor(function, *args)
    return (await receive(lambda got: got[1] == reference))[4]


@pytest.fixture(autouse=True)
def _streams_are_left_alone() -> Iterator[None]:
    before = (sys.stdout, sys.stdin, logging.Logger.callHandlers)
    yield
    assert (sys.stdout, sys.stdin, logging.Logger.callHandlers) == before


# --- print ------------------------------------------------------------------------------------------------------------


@between_two
async def test_print_goes_to_the_leader(one: Node, two: Node, terminal: Terminal) -> None:
    def in_a_thread() -> None:
        print("from", "a thread", sep="-")

    async def process() -> None:
        print("from a process")
        await asyncio.gather(child("first"), asyncio.create_task(child("second")))
        await asyncio.to_thread(in_a_thread)
        sys.stdout.write("written\n")
        sys.stdout.writelines(["several\n", "lines\n"])

    async def child(name: str) -> None:
        await asyncio.sleep(0)
        print("from task", name)

    assert await ends(process) is a.normal
    assert await ends(in_a_thread) is a.normal
    await io.put_chars("end")
    expected = "from a process\nfrom task second\nfrom task first\nfrom-a thread\nwritten\nseveral\nlines\n"
    assert terminal.printed == expected + "from-a thread\nend"


@between_two
async def test_a_line_without_its_end(one: Node, two: Node, terminal: Terminal) -> None:
    print("a", end="")
    print("b", end="")
    await terminal.shows("ab")
    print("c", end="", flush=True)
    print("d", end="")
    print(" done")
    await terminal.shows("abcd done\n")

    async def ends_in_the_middle() -> None:
        print("part", end="")

    assert await ends(ends_in_the_middle) is a.normal
    await io.put_chars("!")
    assert terminal.printed == "abcd done\npart!"
    print("x" * 100_000, end="")
    await terminal.shows("x" * 100_000)


@between_two
async def test_what_is_printed_comes_before_what_is_sent_later(one: Node, two: Node, terminal: Terminal) -> None:
    seen = []

    async def witness() -> None:
        for _ in range(100):
            await receive()
            seen.append(terminal.printed.count("\n"))

    group_leader(await two.run_process(_user))
    pid = two.runtime.spawn(witness, ()).pid
    for number in range(100):
        print("line", number)
        send(pid, number)
    async with asyncio.timeout(5):
        while len(seen) < 100:
            await asyncio.sleep(0.005)
    assert terminal.printed == "".join(f"line {number}\n" for number in range(100))


def test_our_own_console(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing changes for code outside of processes, and for those whose leader is here."""

    async def main() -> None:
        async with two_nodes() as (_one, two, terminal):
            assert group_leader() == whereis("user")
            assert sys.stdout.encoding == real(sys.stdout).encoding  # type: ignore[union-attr]
            print("body")
            await ends(speak)
            await asyncio.get_running_loop().run_in_executor(None, print, "no process")
            group_leader(await two.run_process(_user))
            print("elsewhere")
            await terminal.shows("elsewhere\n")
            assert terminal.printed == "elsewhere\n"

    async def speak() -> None:
        print("process")
        await io.fwrite("~p~n", [{a.x: 1}])
        await io.put_chars("characters\n", "user")

    asyncio.run(main())
    assert capsys.readouterr().out == "body\nprocess\n#{x => 1}\ncharacters\nno process\n"


def test_streams_that_others_have_replaced_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with two_nodes():
            stand_in = sys.stdout
            monkeypatch.setattr(sys, "stdout", stdlib_io.StringIO())
            monkeypatch.undo()
            assert sys.stdout is stand_in
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "stdout", mine := stdlib_io.StringIO())
                await io.put_chars("to the new one")
                assert mine.getvalue() == "to the new one"

    before = sys.stdout
    asyncio.run(main())
    gc.collect()
    assert sys.stdout is before
    assert not sys.stdout.closed


@between_two
async def test_a_leader_that_is_gone(one: Node, two: Node, terminal: Terminal) -> None:
    """Printing never fails."""
    await two.stop()
    print("nobody sees it")
    logging.getLogger("app").warning("nor this")
    await asyncio.to_thread(print, "nor that")
    with pytest.raises(IoFailed) as caught:
        await io.put_chars("lost")
    assert caught.value.reason is a.terminated
    await asyncio.sleep(0.05)
    assert terminal.printed == ""


@between_two
async def test_a_process_as_leader(one: Node, two: Node, terminal: Terminal) -> None:
    """Any process of our own can be one."""
    got: list[Any] = []

    async def server() -> None:
        while True:
            _, asker, reply_as, request = await receive()
            got.append(request)
            send(asker, (a.io_reply, reply_as, a.ok))

    group_leader(spawn(server))
    print("mine")
    await io.put_chars("yours")
    assert got == [(a.put_chars, a.unicode, b"mine\n"), (a.put_chars, a.unicode, "yours")]


# --- input ------------------------------------------------------------------------------------------------------------


@between_two
async def test_input(one: Node, two: Node, terminal: Terminal) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(input("name? "))
        answers.append(sys.stdin.readline())
        answers.append(io.blocking(io.get_chars, "two: ", 2))
        answers.append(input())
        try:
            input("last? ")
        except EOFError:
            answers.append("the end")

    for line in ("jöe\n", "line\n", "xyz\n"):
        terminal.typed.put_nowait(line)
    _, reference = spawn_monitor(ask)
    await terminal.shows("last? ")
    terminal.typed.put_nowait("")
    assert (await receive(lambda got: got[1] == reference))[4] is a.normal
    assert answers == ["jöe", "line\n", "xy", "z", "the end"]
    assert terminal.printed == "name? two: last? "


@between_two
async def test_input_on_the_loop(one: Node, two: Node, terminal: Terminal) -> None:
    with pytest.raises(UsageError, match=r"await io\.get_line"):
        input("name? ")
    with pytest.raises(UsageError, match=r"await io\.get_line"):
        io.blocking(io.get_line, "name? ")
    terminal.typed.put_nowait("joe\n")
    assert await io.get_line("name? ") == "joe\n"
    terminal.typed.put_nowait("")
    assert await io.get_line() is None


@between_two
async def test_input_ends_with_its_process(one: Node, two: Node, terminal: Terminal) -> None:
    ended: list[Any] = []

    def ask() -> None:
        try:
            input("name? ")
        except ProcessExit as error:
            ended.append(error.reason)

    pid = spawn(ask)
    await terminal.shows("name? ")
    exit(pid, a.over)
    async with asyncio.timeout(5):
        while not ended:
            await asyncio.sleep(0.01)
    assert ended == [a.over]


@between_two
async def test_who_asks_waits_for_those_before(one: Node, two: Node, terminal: Terminal) -> None:
    async def ask(number: int) -> str | None:
        return await io.get_line(f"{number}? ")

    tasks = [asyncio.create_task(ask(number)) for number in range(3)]
    await terminal.shows("0? ")
    print("in between")
    await terminal.shows("in between\n")
    assert "1? " not in terminal.printed
    for line in ("a\n", "b\n", "c\n"):
        terminal.typed.put_nowait(line)
    assert await asyncio.gather(*tasks) == ["a\n", "b\n", "c\n"]


@between_two
async def test_who_ends_asks_no_more(one: Node, two: Node, terminal: Terminal) -> None:
    async def ask(prompt: str) -> None:
        await io.get_line(prompt)

    async def ask_by_hand() -> None:
        send(group_leader(), (a.io_request, self(), 1, (a.get_line, a.unicode, b"first? ")))
        await receive()

    pid = spawn(ask_by_hand)
    await terminal.shows("first? ")
    second = asyncio.create_task(io.get_line("second? "))
    exit(pid, a.kill)
    await terminal.shows("second? ")
    third = asyncio.create_task(io.get_line("third? "))
    await asyncio.sleep(0.05)
    third.cancel()
    await asyncio.sleep(0.05)
    terminal.typed.put_nowait("for the second\n")
    assert await second == "for the second\n"
    await asyncio.sleep(0.05)
    assert "third" not in terminal.printed


def test_standard_input_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The console takes the line that was asked for, no byte more; and nothing once the asker is gone."""
    out, into = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(out))
    os.write(into, b"first\nsec")

    async def main() -> None:
        async with two_nodes():
            assert await io.get_line() == "first\n"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(io.get_line(), 0.2)
            await asyncio.sleep(0.1)  # until the reader knows that nobody waits
            os.write(into, b"ond\nthird\n")
            assert await io.get_line() == "second\n"
            waiting = asyncio.create_task(io.get_line("then? "))
            assert await waiting == "third\n"
            unanswered = asyncio.create_task(io.get_line("never? "))
            await asyncio.sleep(0.1)
            unanswered.cancel()

    asyncio.run(main())
    os.write(into, b"for the program\n")
    assert sys.stdin.readline() == "for the program\n"
    sys.stdin.close()
    os.close(into)


# --- the server -------------------------------------------------------------------------------------------------------


@between_two
async def test_user_is_started_again(one: Node, two: Node, terminal: Terminal) -> None:
    """Whoever has no leader of its own has the new one."""
    group_leader(self())  # back to something; the spawned one below inherits nothing of it
    user = await two.run_process(_user)
    assert user is not None
    reference = monitor(user)
    exit(user, a.kill)
    assert (await receive(lambda got: got[1] == reference))[4] is a.killed
    async with asyncio.timeout(5):
        while (again := await two.run_process(_user)) in (None, user):
            await asyncio.sleep(0.01)
    await io.put_chars("still here", again)
    assert terminal.printed == "still here"


@between_two
async def test_user_leaves_nothing_running(one: Node, two: Node, terminal: Terminal) -> None:
    """A function that makes text, on the node that asks, is given up as soon as the user ends."""
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def text() -> str:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            given_up.set()
        return ""

    one.expose(text, module="slow", name="text")
    user = group_leader()
    send(user, (a.io_request, self(), 1, (a.put_chars, a.unicode, a.slow, a.text, [])))
    await asyncio.wait_for(asked.wait(), 10)
    exit(user, a.kill)
    await asyncio.wait_for(given_up.wait(), 5)


@between_two
async def test_options_and_geometry(one: Node, two: Node, terminal: Terminal) -> None:
    await io.setopts({a.binary: False})
    options = await io.getopts()
    assert (options[a.binary], options[a.encoding]) == (False, a.unicode)
    terminal.typed.put_nowait("list\n")
    assert await io.get_line() == "list\n"
    assert await io.columns() in (None, *range(1, 1000))
    with pytest.raises(IoFailed) as caught:
        await io.setopts({a.nonsense: 1})
    assert caught.value.reason is a.enotsup
    with pytest.raises(IoFailed) as caught:
        await io.request((a.nonsense, 1))
    assert caught.value.reason is a.request
    with pytest.raises(IoFailed):
        await io.put_chars("x", "no_such_server")


@between_two
async def test_user_survives_what_is_no_request(one: Node, two: Node, terminal: Terminal) -> None:
    leader = group_leader()
    down, refused = (a.DOWN, 1, 2, 3, 4), (a.io_reply, 1, (a.error, 1))
    for message in (1, (), (a.io_request,), (a.io_request, 1, 2, 3), refused, down):
        send(leader, message)
    send(leader, (a.io_request, self(), [1, 2], (a.nonsense, {})))
    assert await receive() == (a.io_reply, [1, 2], (a.error, a.request))
    await io.put_chars("alive")
    assert terminal.printed == "alive"


# --- inheritance ------------------------------------------------------------------------------------------------------


@between_two
async def test_leaders_are_inherited(one: Node, two: Node, terminal: Terminal) -> None:
    leader = group_leader()
    seen: list[Pid] = []

    async def child() -> None:
        seen.append(group_leader())

    await ends(child)
    two.expose(child, module="m", name="child")
    _, reference = await one.spawn_monitor(two.name, "m", "child", [])
    await receive(lambda got: got[1] == reference)
    await one.run_process(child)
    assert seen == [leader] * 3
    register("here", self())


# --- logging ----------------------------------------------------------------------------------------------------------


def test_log_records_travel(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Not to our own terminal, but to other handlers and to the leader's node; crashes too."""
    on_terminal = logging.StreamHandler()
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with two_nodes() as (_one, two, _):
            group_leader(await two.run_process(_user))
            logging.getLogger().addHandler(on_terminal)
            logging.getLogger("app.part").warning("careful %s", 1)
            await ends(crash)
            async with asyncio.timeout(5):
                while len([r for r in caplog.records if r.name == "beamnode.remote"]) < 2:
                    await asyncio.sleep(0.01)

    async def crash() -> None:
        raise ValueError("of a process")

    try:
        asyncio.run(main())
    finally:
        logging.getLogger().removeHandler(on_terminal)
    mine = [record for record in caplog.records if record.name == "app.part"]
    assert [record.getMessage() for record in mine] == ["careful 1"]
    warning, crashed = (record for record in caplog.records if record.name == "beamnode.remote")
    assert (warning.levelname, crashed.levelname) == ("WARNING", "ERROR")
    assert warning.getMessage().endswith("> careful 1")
    assert "ValueError: of a process" in crashed.getMessage()
    assert crashed.__dict__["remote_node"] == f"one@{HOST}"
    # What our node logs as the receiver is shown on its terminal; what travelled was not shown by the sender.
    assert "\ncareful 1" not in capsys.readouterr().err


def log_in_a_thread(owner: Any) -> None:
    for _ in range(5):
        logging.getLogger("prints").warning("from the thread")
    send(owner, a.done)


def test_a_log_handler_that_prints_does_not_stop_the_node() -> None:
    """The thread holds the handler's lock when it prints; the loop wants that lock to log: neither may wait."""

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(record.getMessage())
            time.sleep(0.05)

    logger, handler = logging.getLogger("prints"), Printing()
    logger.addHandler(handler)
    logger.propagate = False

    async def main() -> None:
        network = MemoryNetwork()
        discovery = StaticPorts({"n@h": ("h", 1024), "p@h": ("h", 1025)})
        options: Any = {"cookie": "c", "discovery": discovery, "hidden": True}
        async with (
            Node("n@h", carrier=network.carrier("h"), **options),
            Node("p@h", carrier=network.carrier("h"), **options) as there,
        ):
            await there.spawn("n@h", log_in_a_thread, self())
            for _ in range(20):
                logger.warning("from the loop")
                await asyncio.sleep(0.01)
            assert await receive(lambda message: message is a.done, timeout=20) is a.done

    try:
        asyncio.run(main())
    finally:
        logger.removeHandler(handler)
