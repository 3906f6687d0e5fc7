"""The IO protocol with real nodes: they print and ask on our console, we print and ask on their IO servers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from beamnode import (
    Atom,
    BitString,
    Epmd,
    ImproperList,
    Node,
    Pid,
    ProcessExit,
    RemoteError,
    a,
    group_leader,
    io,
    receive,
)
from beamnode import self as own_pid
from beamnode.services.console import Console
from beamnode.services.io_format import format_text
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp

pytestmark = pytest.mark.otp

HOST = "127.0.0.1"


class Paper(Console):
    """What is printed on our console, and the lines that will be typed."""

    def __init__(self) -> None:
        super().__init__()
        self.printed = ""
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.printed += text

    async def read_line(self, prompt: str) -> str:
        self.write(prompt)
        return self.lines.pop(0) if self.lines else ""

    def size(self) -> tuple[int, int] | None:
        return (123, 45)

    async def shows(self, text: str) -> None:
        async with asyncio.timeout(10):
            while text not in self.printed:
                await asyncio.sleep(0.005)


@dataclass
class Scene:
    """A node of ours, its console, and a real one (with Elixir)."""

    node: Node
    paper: Paper
    peer: ErlNode

    async def rpc(self, module: str, function: str, *args: Any) -> Any:
        return await self.node.rpc(self.peer.name, module, function, args, timeout=20)

    async def erl(self, source: str, **bindings: Any) -> Any:
        call = f"apply(fun ({', '.join(bindings)}) -> {source} end, GIVEN)"
        return await asyncio.to_thread(self.peer.eval, call, 20, GIVEN=list(bindings.values()))

    async def logged_there(self, text: str) -> str:
        """What its standard output had when `text` was in it."""
        async with asyncio.timeout(10):
            while text not in (log := self.peer.log()):
                await asyncio.sleep(0.02)
        return log


@pytest.fixture(scope="module")
def peer(otp: Otp) -> Iterator[tuple[ErlNode, int, str]]:
    cookie = secrets.token_hex(8)
    with (
        peers.Epmd(otp) as epmd,
        ErlNode.start(otp, f"peer@{HOST}", cookie=cookie, epmd_port=epmd.port, boot="elixir") as node,
    ):
        yield node, epmd.port, cookie


def on_a_node(test: Callable[[Scene], Awaitable[None]]) -> Callable[[tuple[ErlNode, int, str]], None]:
    def run(peer: tuple[ErlNode, int, str]) -> None:
        async def main() -> None:
            beam, epmd_port, cookie = peer
            paper = Paper()
            name = f"py{secrets.token_hex(4)}@{HOST}"
            async with Node(name, cookie=cookie, discovery=Epmd(epmd_port), console=paper) as node:
                assert await node.connect(beam.name)
                await test(Scene(node, paper, beam))

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


# --- They print here --------------------------------------------------------------------------------------------------


@on_a_node
async def test_they_print_here(scene: Scene) -> None:
    for module, function, args, text in (
        ("Elixir.IO", "puts", ["hi żó"], "hi żó\n"),
        ("Elixir.IO", "write", ["no end"], "no end"),
        ("Elixir.IO", "inspect", [[1, {a.x: "y"}]], '[1, %{x: "y"}]\n'),
        ("io", "put_chars", [b"chars"], "chars"),
        ("io", "format", [b"~p ~ts~n", [[104, 105], "ż"]], '"hi" ż\n'),
        ("io", "fwrite", [list(b"~w~n"), [[104, 105]]], "[104,105]\n"),
        ("io", "write", [(a.x, 1)], "{x,1}"),
        ("io", "nl", [], "\n"),
    ):
        scene.paper.printed = ""
        await scene.rpc(module, function, *args)
        assert scene.paper.printed == text, (module, function)


@on_a_node
async def test_a_spawned_process_has_our_leader(scene: Scene) -> None:
    await scene.node.spawn(scene.peer.name, "Elixir.IO", "puts", ["from there"])
    await scene.paper.shows("from there\n")
    await scene.node.spawn(scene.peer.name, "erlang", "apply", [a.erlang, a.send, [own_pid(), a.here]])
    assert await receive(timeout=10) is a.here
    leader = await scene.rpc("erlang", "group_leader")
    assert leader == group_leader()
    assert leader.node is scene.node.name


@on_a_node
async def test_what_they_cannot_print(scene: Scene) -> None:
    """The errors are those of a real IO server: `badarg` in the caller."""
    for args in ([b"~p", []], [b"~s", [(1,)]], [b"~q", [1]]):
        with pytest.raises(RemoteError) as caught:
            await scene.rpc("io", "format", *args)
        assert caught.value.reason is a.badarg
    assert scene.paper.printed == ""


@on_a_node
async def test_they_print_with_functions_of_their_own(scene: Scene) -> None:
    request = (a.put_chars, a.unicode, a.lists, a.duplicate, [3, b"x"])
    assert await scene.rpc("io", "request", group_leader(), request) is a.ok
    assert scene.paper.printed == "xxx"
    failing = (a.put_chars, a.unicode, a.no_module, a.no_function, [])
    assert (await scene.rpc("io", "request", group_leader(), failing))[0] is a.error


# --- They ask here ----------------------------------------------------------------------------------------------------


@on_a_node
async def test_they_ask_here(scene: Scene) -> None:
    for module, function, args, lines, answer in (
        ("Elixir.IO", "gets", ["name? "], ["jöe\n"], "jöe\n".encode()),
        ("Elixir.IO", "read", [a.line], ["line\n"], b"line\n"),
        ("Elixir.IO", "getn", ["two? ", 2], ["abc\n"], b"ab"),
        ("io", "get_line", [list(b"name? ")], ["c\n"], b"c\n"),  # what was left of abc
        ("io", "get_line", [a.prompt], ["x\n"], b"x\n"),
        ("io", "get_chars", [b"", 3], ["abc\n"], b"abc"),
        ("io", "get_line", [b""], [], b"\n"),
        ("io", "get_line", [b""], [], a.eof),
        ("Elixir.IO", "gets", ["name? "], [], a.eof),
        ("io", "read", [b"term> "], ["{x, [1,\n", "2]}. rest\n"], (a.ok, (a.x, [1, 2]))),
        ("io", "get_line", [b""], [], b"rest\n"),
        ("io", "fread", [b"> ", list(b"~d ~s")], ["42 word\n"], (a.ok, [42, list(b"word")])),
    ):
        scene.paper.lines = list(lines)
        assert await scene.rpc(module, function, *args) == answer, (module, function, lines)
    assert "name? " in scene.paper.printed
    assert "term> " in scene.paper.printed


@on_a_node
async def test_options(scene: Scene) -> None:
    assert await scene.rpc("io", "columns") == (a.ok, 123)
    assert await scene.rpc("io", "rows") == (a.ok, 45)
    assert (a.binary, True) in await scene.rpc("io", "getopts")
    assert await scene.rpc("io", "setopts", [(a.binary, False)]) is a.ok
    scene.paper.lines = ["list\n"]
    assert await scene.rpc("io", "get_line", b"") == list(b"list\n")
    assert await scene.rpc("io", "setopts", [a.nonsense]) == (a.error, a.enotsup)
    assert await scene.rpc("io", "request", group_leader(), a.nonsense) == (a.error, a.request)


# --- We print and ask there -------------------------------------------------------------------------------------------


def talk() -> None:
    """In a process whose leader is an IO server of theirs."""
    print("printed", "żó")
    name = input("name? ")
    print("hello", name)
    sys.stdout.write("written\n")


async def talk_on_the_loop() -> None:
    print("printed", "żó")
    name = await io.get_line("name? ")
    assert name is not None
    await io.fwrite("~s ~ts~n", ["hello", name.strip()])
    await asyncio.to_thread(print, "written")


@on_a_node
async def test_we_print_and_ask_there(scene: Scene) -> None:
    """`StringIO` of Elixir is an IO server: its output tells what it was asked."""
    for function in (talk, talk_on_the_loop):
        scene.node.expose(function, module="py", name="talk")
        source = """
        {ok, Device} = 'Elixir.StringIO':open(<<"jöe\n"/utf8>>, [{capture_prompt, true}]),
        Before = group_leader(),
        group_leader(Device, self()),
        {_, Monitor} = spawn_monitor(Node, py, talk, []),
        group_leader(Before, self()),
        Reason = receive {'DOWN', Monitor, process, _, R} -> R after 10000 -> timeout end,
        {Reason, 'Elixir.StringIO':contents(Device)}
        """
        reason, (_, printed) = await scene.erl(source, Node=scene.node.name)
        assert (reason, printed.decode()) == (a.normal, "printed żó\nname? hello jöe\nwritten\n"), function


async def chatter(count: int) -> None:
    for number in range(count):
        print(number)


@on_a_node
async def test_many_lines_keep_their_order(scene: Scene) -> None:
    """They arrive before the end of the process does."""
    scene.node.expose(chatter, module="py", name="chatter")
    source = """
    {ok, Device} = 'Elixir.StringIO':open(<<>>),
    Before = group_leader(),
    group_leader(Device, self()),
    {_, Monitor} = spawn_monitor(Node, py, chatter, [3000]),
    group_leader(Before, self()),
    receive {'DOWN', Monitor, process, _, _} -> ok after 10000 -> timeout end,
    'Elixir.StringIO':contents(Device)
    """
    _, printed = await scene.erl(source, Node=scene.node.name)
    assert printed.decode().split() == [str(number) for number in range(3000)]


@on_a_node
async def test_their_user(scene: Scene) -> None:
    await io.put_chars("on their standard output\n", ("user", scene.peer.name))
    await scene.logged_there("on their standard output\n")
    leader = await scene.erl("whereis(user)")
    group_leader(leader)
    print("and printed")
    await io.put_chars("at last\n")
    await scene.logged_there("and printed\nat last\n")


def say_in_a_thread(text: bytes) -> str:
    print("thread:", text.decode())
    return "returned"


async def say(text: bytes) -> str:
    print("task:", text.decode(), end="")
    return "returned"


@on_a_node
async def test_calls_print_where_the_caller_does(scene: Scene) -> None:
    """Before the answer comes."""
    scene.node.expose(say_in_a_thread, module="py", name="say_in_a_thread")
    scene.node.expose(say, module="py", name="say")
    source = """
    Before = group_leader(),
    [begin
        {ok, Device} = 'Elixir.StringIO':open(<<>>),
        group_leader(Device, self()),
        Result = Call(py, F, [<<"text">>]),
        group_leader(Before, self()),
        {_, Printed} = 'Elixir.StringIO':contents(Device),
        {Result, Printed}
    end || F <- [say, say_in_a_thread], Call <- [fun (M, N, A) -> rpc:call(Node, M, N, A) end,
                                                 fun (M, N, A) -> erpc:call(Node, M, N, A) end]]
    """
    expected = [(b"returned", text) for text in (b"task: text", b"thread: text\n") for _ in range(2)]
    assert await scene.erl(source, Node=scene.node.name) == expected


# --- Formats, with OTP as the oracle ----------------------------------------------------------------------------------

FORMATS: list[tuple[bytes, list[Any]]] = [
    (b"~p ~w ~tp", [[104, 105], [104, 105], [104, 105]]),
    (b"~p ~w", [b"abc", b"abc"]),
    (b"~p", [(a.ok, [1, 2.5, -3e100, 1e-7, 1.0e22, 123456789.125], {a.k: b"v"}, b"", [], ())]),
    (b"~p ~p ~p", [Atom("hello world"), Atom("it's"), Atom("Up")]),
    (b"~p ~p ~p", [Atom("a@b_1"), Atom("\n"), a.end]),
    (b"~p ~p", [[10, 104, 34], [92, 27, 9]]),
    (b"~p", [ImproperList((1, [2]), a.tail)]),
    (b"~p", [BitString(b"\x01\xa0", 3)]),
    (b"~p ~p", [True, None]),
    (b"~s|~10s|~-10s|~.3s|~10.3s|~5..0s", [b"abc", b"abc", b"abc", b"abcdef", b"abcdef", b"ab"]),
    (b"~3s", [b"abcdef"]),
    (b"~10w|~-10w|~3w", [a.abc, a.abc, a.abcdef]),
    (b"~b ~B ~.16b ~.16B ~.36b", [-12, 12, 255, 255, 123456]),
    (b"~10b|~-10b|~5..0b|~2b", [42, 42, 42, 12345]),
    (b"~.16# ~.16+ ~# ~.16x ~x ~.16X", [255, 255, 7, 255, list(b"0x"), 7, list(b"p"), 255, a.p]),
    (b"~c ~3c ~5.2c", [97, 98, 99]),
    (b"~f ~.2f ~10.2f ~-10.2f|", [1.5, 2.345, 3.14159, 3.14159]),
    (b"~e ~.3e ~g ~g ~g", [12.5, 12.5, 1.5, 1.5e10, 0.001]),
    (b"~~ ~i ~n ~3n", [a.ignored]),
    (b"~lp ~ts ~*s", [[104, 105], "ż".encode(), 4, b"x"]),
]


@on_a_node
async def test_formats_are_those_of_otp(scene: Scene) -> None:
    for form, args in FORMATS:
        theirs = await scene.erl("unicode:characters_to_binary(io_lib:format(F, A))", F=form, A=args)
        assert format_text(form, args) == theirs.decode(), (form, args)


# --- Logging ----------------------------------------------------------------------------------------------------------


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> logging.LogRecord:
    async with asyncio.timeout(10):
        while True:
            for record in caplog.records:
                if record.name == "beamnode.remote" and text in record.getMessage():
                    return record
            await asyncio.sleep(0.01)


def test_their_log_events_come_here(peer: tuple[ErlNode, int, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(scene: Scene) -> None:
        where = scene.peer.name
        await scene.rpc("logger", "error", b"formatted ~p", [(a.x, 1)])
        record = await logged(caplog, "formatted {x,1}")
        assert (record.levelname, record.__dict__["remote_node"]) == ("ERROR", where)
        await scene.rpc("logger", "notice", b"a string")
        assert (await logged(caplog, "a string")).levelname == "INFO"
        await scene.rpc("logger", "alert", {a.what: b"report", a.n: 1})
        assert (await logged(caplog, "report")).levelname == "CRITICAL"
        await scene.rpc("error_logger", "warning_msg", list(b"old ~p~n"), [a.api])
        assert (await logged(caplog, "old api")).levelname == "WARNING"
        await scene.node.spawn(where, "erlang", "error", [a.crashed_there])
        crash = await logged(caplog, "crashed_there")
        assert crash.levelname == "ERROR"
        assert "Error in process" in crash.getMessage()
        await scene.node.spawn(where, "proc_lib", "init_p", [own_pid(), [], a.erlang, a.error, [a.in_proc_lib]])
        report = await logged(caplog, "in_proc_lib")
        assert report.getMessage().split("\n")[0].endswith("proc_lib crash:")
        assert report.levelname == "ERROR"

    on_a_node(test)(peer)


async def fails() -> None:
    logging.getLogger("app").warning("careful, %s", "please")
    raise ValueError("of python")


@on_a_node
async def test_our_log_records_go_there(scene: Scene) -> None:
    """A crash too, with its traceback."""
    scene.node.expose(fails, module="py", name="fails")
    pid = await scene.erl("group_leader(whereis(user), self()), spawn(Node, py, fails, [])", Node=scene.node.name)
    assert isinstance(pid, Pid)
    log = await scene.logged_there("ValueError: of python")
    assert "careful, please" in log
    assert "in fails" in log


# --- Lost nodes -------------------------------------------------------------------------------------------------------


@on_a_node
async def test_a_leader_whose_node_goes(scene: Scene) -> None:
    leader = await scene.erl("spawn(fun () -> receive _ -> receive stop -> ok end end end)")
    group_leader(leader)
    waiting = asyncio.create_task(io.get_line("never answered? "))
    await asyncio.sleep(0.1)
    await scene.node.disconnect(scene.peer.name)
    with pytest.raises(io.IoFailed) as caught:
        await waiting
    assert caught.value.reason is a.terminated
    print("nobody reads this")
    assert not isinstance(caught.value, ProcessExit)
