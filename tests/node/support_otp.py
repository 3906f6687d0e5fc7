"""A real node with its epmd and cookie, and what the tests of our node against it share.

Each module makes one `World` per OTP release:

    @pytest.fixture(scope="module")
    def world(otp: Otp) -> Iterator[World]:
        with World(otp) as world:
            yield world

The peer has a module `support` (`PEER_MODULE`), compiled, for what must be fast there. Its calls block this thread, so
tests go through `await world.erl(...)`.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from beamnode import Atom, Epmd, ImproperList, NativeRecord, Node, Pid, a, receive, send
from beamnode import self as self_pid
from beamnode.etf import ExactKey
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port, wait_for

HOST = "127.0.0.1"
WAIT_SECONDS = 20.0  # for what must happen: long, because the machine may be busy

PEER_MODULE = r"""
-module(support).
-compile([export_all, nowarn_export_all]).

% Sends back what it gets.
echo() ->
    receive
        {From, Message} -> From ! {echo, Message}, echo();
        stop -> ok
    end.

% Is what comes back from an echo elsewhere what was sent?
comes_back(Echo, Term) ->
    Echo ! {self(), Term},
    receive {echo, Back} -> Back =:= Term after 20000 -> timeout end.

% Is what comes in one of ours? Tells the sender, with the term itself.
compare(Term) ->
    receive {From, Received} -> From ! {compared, Received =:= Term, Term} end.

local() -> fun echo/0.
closure(Value) -> fun (X) -> #{closed => Value, given => X} end.

% Counts `{Tag, 1}` to `{Tag, Count}`, which must come in order, then tells `Owner`.
count(Owner, Tag, Count) -> count(Owner, Tag, 1, Count).
count(Owner, Tag, N, Count) when N > Count -> Owner ! {counted, Tag, Count};
count(Owner, Tag, N, Count) ->
    receive {Tag, M} when M =:= N -> count(Owner, Tag, N + 1, Count);
            Other -> Owner ! {out_of_order, Tag, N, Other}
    end.

% The other side of it.
number(To, Tag, Count) -> number(To, Tag, 1, Count).
number(_, _, N, Count) when N > Count -> ok;
number(To, Tag, N, Count) -> To ! {Tag, N}, number(To, Tag, N + 1, Count).

% A process that keeps its messages, runs what it is told, and hands its messages out one by one (`Puppet`).
puppet() ->
    receive
        {'$run', From, Fun} -> From ! {self(), Fun()}, puppet();
        {'$sync', From} -> From ! {synced, self()}, puppet();
        {'$take', From, Milliseconds} ->
            From ! {self(), receive Message -> {message, Message} after Milliseconds -> nothing end},
            puppet()
    end.
order(Puppet, Request) ->
    Monitor = monitor(process, Puppet),
    Puppet ! Request,
    receive
        {Puppet, Result} -> demonitor(Monitor, [flush]), Result;
        {'DOWN', Monitor, process, _, Reason} -> {ended, Reason}
    end.

nodeup(Node) -> lists:member(Node, nodes(connected)).

% Waits for something to be true; false after `Seconds`.
until(Fun, Seconds) -> until_(Fun, erlang:monotonic_time(millisecond) + Seconds * 1000).
until_(Fun, Deadline) ->
    case Fun() of
        true -> true;
        _ -> case erlang:monotonic_time(millisecond) < Deadline of
                 true -> timer:sleep(2), until_(Fun, Deadline);
                 false -> false
             end
    end.
"""

_COMPILE = r"""
Compile = fun (Source) ->
    Split = fun Split(Text, Forms) ->
        case erl_scan:tokens([], Text, 1) of
            {done, {ok, Tokens, _}, Rest} -> {ok, Form} = erl_parse:parse_form(Tokens), Split(Rest, [Form | Forms]);
            _ -> lists:reverse(Forms)
        end
    end,
    {ok, Module, Binary} = compile:forms(Split(binary_to_list(Source) ++ "\n", [])),
    code:load_binary(Module, "support", Binary)
end,
Compile(Source)
"""


class OwnEpmd:
    """`beamnode epmd`, in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "beamnode", "epmd", "--port", str(self.port), "--address", HOST]
        self._process = subprocess.Popen([*command, "--relaxed-command-check"])

    def __enter__(self) -> Self:
        wait_for(lambda: self._answers())
        return self

    def _answers(self) -> bool:
        try:
            asyncio.run(Epmd(self.port).names(HOST))
        except Exception:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class World:
    """An epmd (OTP's own; ours where the peer is OTP 27), a cookie, and `peer`, a node of that release.

    `peer_options` go to `ErlNode.start`.
    """

    def __init__(self, otp: Otp, peer_name: str = "peer", **peer_options: Any) -> None:
        self.otp = otp
        self.cookie = secrets.token_hex(8)
        self.epmd_port = 0
        self.peer: ErlNode
        self._peer_name = peer_name
        self._peer_options = peer_options
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            epmd = stack.enter_context(OwnEpmd() if self.otp.release == 27 else peers.Epmd(self.otp))
            self.epmd_port = epmd.port
            self._stack = stack
            self.peer = self.start_peer(self._peer_name, **self._peer_options)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- the Erlang side

    @property
    def name(self) -> Atom:
        """The peer's name."""
        return Atom(self.peer.name)

    def start_peer(self, name: str | None, **options: Any) -> ErlNode:
        """One more node, or one again; it ends with the world at the latest."""
        full = name if name is None or "@" in name else f"{name}@{HOST}"
        options = {"cookie": self.cookie, "epmd_port": self.epmd_port} | options
        node = self._stack.enter_context(ErlNode.start(self.otp, full, **options))
        node.eval(_COMPILE, 30, Source=PEER_MODULE)
        return node

    async def erl(self, source: str, timeout: float = WAIT_SECONDS, **bindings: Any) -> Any:
        """What the peer says to `source`; its variables are its own, and forgotten."""
        call = f"apply(fun ({', '.join(bindings)}) -> {source} end, GIVEN)"
        return await asyncio.to_thread(self.peer.eval, call, timeout, GIVEN=list(bindings.values()))

    async def erl_until(self, source: str, **bindings: Any) -> None:
        """Wait until `source` is true there."""
        waiting = f"support:until(fun () -> {source} end, {WAIT_SECONDS:.0f})"
        assert await self.erl(waiting, 2 * WAIT_SECONDS, **bindings) is True, f"never came true: {source}"

    async def puppet(self) -> Puppet:
        """A process there that does what it is told."""
        return Puppet(self, await self.erl("spawn(fun support:puppet/0)"))

    async def connected(self, *, seen_there: str | None = None) -> list[Atom]:
        """The nodes that the peer is connected with; with `seen_there`, first wait until that node is among them."""
        if seen_there is not None:
            await self.erl_until("support:nodeup(Node)", Node=Atom(seen_there))
        nodes: list[Atom] = await self.erl("nodes(connected)")
        return nodes

    async def settled(self, node: Node) -> None:
        """Wait until `global`, on both sides, has nothing more to say: its messages would connect them anew."""
        if not node.hidden:
            assert await self.erl("global:sync()") is a.ok
            await asyncio.sleep(0.1)  # then it gives back its locks

    async def gone_there(self, node: Node | Atom) -> None:
        """Wait until the peer has noticed that `node` is not connected any more."""
        name = node.name if isinstance(node, Node) else node
        await self.erl_until("not support:nodeup(Node)", Node=name)

    # --- our side

    def fresh_name(self, prefix: str = "py") -> str:
        return f"{prefix}{next(self._numbers)}@{HOST}"

    def node(self, name: str | None = None, **options: Any) -> Node:
        """A node of ours that knows the cookie and the epmd."""
        options = {"cookie": self.cookie, "discovery": Epmd(self.epmd_port)} | options
        return Node(name or self.fresh_name(), **options)


class Puppet:
    """A process of the peer, held on strings that do not need a connection."""

    def __init__(self, world: World, pid: Pid) -> None:
        self.pid = pid
        self._world = world

    async def run(self, source: str, **bindings: Any) -> Any:
        """What `source` gives when the process evaluates it; `(a.ended, reason)` when it ends of it."""
        request = f"{{'$run', self(), fun () -> {source} end}}"
        return await self._world.erl(f"support:order(Puppet, {request})", Puppet=self.pid, **bindings)

    async def next(self, timeout: float = WAIT_SECONDS) -> Any:
        """Its next message; TimeoutError when none comes. Asked again and again: the peer does one thing at a time."""
        deadline = time.monotonic() + timeout
        while True:
            match await self._world.erl("support:order(Puppet, {'$take', self(), 10})", Puppet=self.pid):
                case (a.message, message):
                    return message
                case a.nothing:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"no message within {timeout} s")
                case other:
                    raise AssertionError(f"the process has {other!r}")

    async def nothing_comes(self, seconds: float = 0.1) -> None:
        try:
            message = await self.next(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"nothing was to come, but {message!r} did")

    async def reached(self) -> None:
        """Wait until all signals between it and this node have arrived: the control channel may be faster than they."""
        send(self.pid, (Atom("$sync"), self_pid()))
        await expect(lambda message: message == (a.synced, self.pid))

    async def alive(self) -> bool:
        answer: bool = await self._world.erl("is_process_alive(Puppet)", Puppet=self.pid)
        return answer


class Child:
    """`support_child.py`: a node of ours in a process of its own, connected to the peer."""

    def __init__(self, world: World, net_ticktime: float = 60, hidden: bool = False) -> None:
        self.name = Atom(world.fresh_name("child"))
        arguments = [self.name.name, world.cookie, str(world.epmd_port), world.peer.name, str(net_ticktime)]
        arguments.append("hidden" if hidden else "visible")
        command = [sys.executable, str(Path(__file__).with_name("support_child.py")), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def __aenter__(self) -> Self:
        assert self.process.stdout is not None
        assert await asyncio.to_thread(self.process.stdout.readline) == b"ready\n"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.communicate)


async def echo() -> None:
    """As `support:echo/0`."""
    while True:
        match await receive():
            case (Pid() as sender, message):
                send(sender, (a.echo, message))
            case a.stop:
                return


async def until(predicate: Any, timeout: float = WAIT_SECONDS) -> None:
    """Wait for something on our side."""
    async with asyncio.timeout(timeout):
        while not predicate():
            await asyncio.sleep(0.005)


async def expect(match: Any = None, timeout: float = WAIT_SECONDS) -> Any:
    """The next message, which must come."""
    return await receive(match, timeout=timeout)


async def nothing_comes(seconds: float = 0.1) -> None:
    try:
        message = await receive(timeout=seconds)
    except TimeoutError:
        return
    raise AssertionError(f"nothing was to come, but {message!r} did")


def unordered(messages: Iterable[Any]) -> list[Any]:
    """For comparing messages that may come in any order."""
    return sorted(messages, key=repr)


def exact(term: Any) -> Any:
    """A form of `term` that is equal for two terms exactly if they are the same in Erlang: `1` is not `1.0`."""
    match term:
        case ExactKey():
            return exact(term.term)
        case float():
            return ("float", struct.pack(">d", term))
        case tuple() | list():
            return ("list" if isinstance(term, list) else "tuple", *map(exact, term))
        case dict():
            return ("map", frozenset((exact(key), exact(value)) for key, value in term.items()))
        case ImproperList():
            return ("improper", exact(term.elements), exact(term.tail))
        case NativeRecord():
            return ("record", term.module, term.name, term.exported, exact(term.fields))
        case _:
            return (type(term).__name__, term)
