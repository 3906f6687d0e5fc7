"""Servers of ours and real ones: what Erlang and Elixir of OTP 25, 27 and 29 see of ours, and we of theirs."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import (
    NO_REPLY,
    Atom,
    CallFailed,
    Epmd,
    GenServer,
    Node,
    Pid,
    ProcessExit,
    Stop,
    a,
    blocking,
    monitor,
    receive,
    self,
    send,
    trap_exit,
)
from beamnode.otp import sys
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PY = Atom("py@127.0.0.1")
CALL = ':"py@127.0.0.1"'

THEIRS = r"""
{module, theirs, Code} = begin
    Parse = fun (Text) -> {ok, Ts, _} = erl_scan:string(Text), {ok, Form} = erl_parse:parse_form(Ts), Form end,
    Forms = [Parse(Text) || Text <- [
        "-module(theirs).",
        "-behaviour(gen_server).",
        "-export([init/1, handle_call/3, handle_cast/2, terminate/2]).",
        "init(State) -> {ok, State}.",
        "handle_call(get, _, State) -> {reply, State, State}; "
        "handle_call(late, From, State) -> spawn(fun () -> gen_server:reply(From, late) end), {noreply, State}; "
        "handle_call(silent, _, State) -> {noreply, State}; "
        "handle_call({stop, Pid}, _, _) -> {stop, normal, replied, Pid}; "
        "handle_call({exit, Reason}, _, _) -> exit(Reason).",
        "handle_cast(State, _) -> {noreply, State}.",
        "terminate(_, Pid) when is_pid(Pid) -> Pid ! terminated; terminate(_, _) -> ok."]],
    {ok, Module, Binary} = compile:forms(Forms),
    {Loaded, Module} = code:load_binary(Module, "theirs.erl", Binary),
    {Loaded, Module, Binary}
end, byte_size(Code) > 0
"""


class World:
    """One real node with Elixir, and its epmd, for a release."""

    def __init__(self, otp: Otp) -> None:
        self.release = otp.release
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(
                otp, "peer@127.0.0.1", cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir"
            )
            self.peer.eval("logger:set_primary_config(level, none)")
        except BaseException:
            self.epmd.stop()
            raise

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()

    def node(self) -> Node:
        return Node(PY, cookie=self.cookie, discovery=Epmd(self.epmd.port))

    async def erl(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.eval, f"(fun () -> {source} end)()", 30, **bindings)

    async def elixir(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.elixir, source, 30, **bindings)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    yield world
    world.close()


class Counter(GenServer):
    def init(self, start: int) -> None:
        self.count = start
        self.name = "größe"

    async def handle_call(self, request: Any, sender: Any) -> Any:
        match request:
            case a.get:
                return self.count
            case (a.add, int() as n):
                self.count += n
                return self.count
            case a.crash:
                raise RuntimeError("boom")
            case a.never:
                return NO_REPLY
            case (a.slow, seconds):
                await asyncio.sleep(seconds)
                return a.woken

    def handle_cast(self, request: Any) -> None:
        match request:
            case (a.set, int() as n):
                self.count = n


@blocking
class Computing(GenServer):
    def handle_call(self, request: Any, sender: Any) -> Any:
        return sum(range(request))


@blocking
class Spinning(GenServer):
    def handle_call(self, request: Any, sender: Any) -> Any:
        end = time.monotonic() + request
        while time.monotonic() < end:
            pass
        return a.done


# --- Ours, seen from there --------------------------------------------------------------------------------------------


def test_elixir_calls_ours(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            pid = await Counter.start(1, name="counter")
            for server in (f"{{:counter, {CALL}}}", "pid"):
                assert await world.elixir(f"GenServer.call({server}, {{:add, 5}})", pid=pid) in (6, 11)
            await world.elixir(f"GenServer.cast({{:counter, {CALL}}}, {{:set, 100}})")
            assert await world.elixir(f"GenServer.call({{:counter, {CALL}}}, :get)") == 100
            assert await world.elixir(f"GenServer.multi_call([node(), {CALL}], :counter, :get)") == (
                [(PY, 100)],
                [Atom("peer@127.0.0.1")],
            )
            await world.elixir(f"GenServer.abcast([{CALL}], :counter, {{:set, 7}})")
            task = f"Task.async(fn -> GenServer.call({{:counter, {CALL}}}, {{:add, 1}}) end)"
            tasks = f"1..20 |> Enum.map(fn _ -> {task} end) |> Task.await_many() |> Enum.max()"
            assert await world.elixir(tasks) == 27
            await Computing.start(name="computing")
            assert await world.elixir(f"GenServer.call({{:computing, {CALL}}}, 1000)") == 499_500
            assert await world.erl(
                "R = gen_server:send_request({counter, 'py@127.0.0.1'}, get), gen_server:receive_response(R, 5000)"
            ) == (a.reply, 27)
            assert node.list() == [Atom("peer@127.0.0.1")]

    asyncio.run(main())


def test_noproc_and_crashes_reach_an_elixir_caller_at_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node():
            await Counter.start(1, name="counter")

            async def failed(server: str, request: str, timeout: int = 60_000) -> str:
                call = f"GenServer.call({{{server}, {CALL}}}, {request}, {timeout})"
                text = await world.elixir(f"try do {call} catch :exit, r -> Exception.format_exit(r) end")
                return str(text.decode())

            assert "no process" in await failed(":nobody", ":x")
            assert "time out" in await failed(":counter", ":never", 50)
            text = await failed(":counter", ":crash")
            assert '{:RuntimeError, "boom"}' in text
            assert "test_otp_gen_server.py:" in text
            assert "test_otp_gen_server.handle_call()" in text
            assert "no process" in await failed(":counter", ":get")

    asyncio.run(main())
    [record] = [record for record in caplog.records if record.name == "beamnode.gen_server"]
    assert record.getMessage().splitlines()[1].startswith("Traceback")


def test_process_info_is_local_there_as_for_every_node(world: World) -> None:
    """`Process.info` of a pid elsewhere is an ArgumentError in Elixir, whoever made the pid."""
    ask = "try do Process.info(pid) rescue ArgumentError -> :not_local end"

    async def main() -> None:
        async with world.node():
            pid = await Counter.start(1)
            assert await world.elixir(ask, pid=pid) is a.not_local
            assert await world.elixir(ask, pid=Pid(Atom("beam@127.0.0.1"), 100, 0, 7)) is a.not_local

    asyncio.run(main())


def test_links_monitors_and_kill(world: World) -> None:
    async def main() -> None:
        async with world.node():
            trap_exit()
            pid = await Counter.start_link(1)
            reference = monitor(pid)
            assert await world.elixir("Process.exit(pid, :kill)", pid=pid) is True
            got = [await receive(timeout=10), await receive(timeout=10)]
            assert (a.EXIT, pid, a.killed) in got
            assert (a.DOWN, reference, a.process, pid, a.killed) in got

            pid = await Counter.start(1)
            linked = """
                parent = self()
                watcher = spawn(fn ->
                  Process.flag(:trap_exit, true)
                  Process.link(pid)
                  ref = Process.monitor(pid)
                  send(parent, :ready)
                  first = receive do m -> m end
                  second = receive do m -> m end
                  send(parent, {:told, Enum.map([first, second], fn
                    {:EXIT, _, {{kind, text}, [{m, f, _, _} | _]}} -> {:link, kind, text, m, f}
                    {:DOWN, ^ref, :process, _, {{kind, text}, [{m, f, _, _} | _]}} -> {:monitor, kind, text, m, f}
                  end) |> Enum.sort()})
                end)
                receive do :ready -> :ok end
                _ = watcher
                seen = try do GenServer.call(pid, :crash) catch :exit, {reason, {GenServer, :call, _}} -> reason end
                {{:RuntimeError, "boom"}, _} = seen
                receive do {:told, told} -> told after 5000 -> :nothing end
            """
            place = (a.RuntimeError, b"boom", a.test_otp_gen_server, a.handle_call)
            assert await world.elixir(linked, pid=pid) == [(a.link, *place), (a.monitor, *place)]

            pid = await Counter.start(1)  # and the other way round: the end of a linked Elixir process ends ours
            reference = monitor(pid)
            await world.elixir("spawn(fn -> Process.link(pid); exit(:because) end)", pid=pid)
            assert await receive(timeout=10) == (a.DOWN, reference, a.process, pid, a.because)

    asyncio.run(main())


def test_a_thousand_calls_at_once_from_erlang(world: World) -> None:
    async def main() -> None:
        async with world.node():
            await Counter.start(0, name="counter")
            results = await world.erl(
                """
                Owner = self(),
                [spawn(fun () -> Owner ! {done, gen_server:call({counter, 'py@127.0.0.1'}, {add, 1}, 60000)} end)
                    || _ <- lists:seq(1, 1000)],
                lists:sort([receive {done, N} -> N end || _ <- lists:seq(1, 1000)]) =:= lists:seq(1, 1000)
                """
            )
            assert results is True

    asyncio.run(main())


def test_a_handler_that_computes_for_longer_than_the_tick_time(world: World) -> None:
    """The node stays in the peer's list, and answers other calls meanwhile."""

    async def main() -> None:
        async with world.node() as node:
            await Counter.start(1, name="counter")
            await Spinning.start(name="spinning")
            await node.connect("peer@127.0.0.1")
            assert node.set_net_ticktime(1, 0) is a.change_initiated
            assert await world.erl("net_kernel:set_net_ticktime(1, 0)") is a.change_initiated
            connection = node.connection_id("peer@127.0.0.1")
            spinning = GenServer.send_request("spinning", 3.0)
            for _ in range(5):
                assert await world.elixir(f"GenServer.call({{:counter, {CALL}}}, :get, 1000)") == 1
                await asyncio.sleep(0.4)
            assert await GenServer.receive_response(spinning, 10) is a.done
            assert await world.elixir(f"{CALL} in Node.list()") is True
            assert node.connection_id("peer@127.0.0.1") == connection
            assert await world.erl("net_kernel:set_net_ticktime(60, 0)") is a.change_initiated

    asyncio.run(main())


def test_sys_from_elixir(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            pid = await Counter.start(1, name="counter")
            server = f"{{:counter, {CALL}}}"
            state = await world.elixir(f":sys.get_state({server})")
            assert state == {a.count: 1, a.name: "größe".encode()}  # on each release, plain
            status = await world.erl(
                "lists:flatten(io_lib:format(\"~tp\", [sys:get_status({counter, 'py@127.0.0.1'})]))"
            )
            text = "".join(map(chr, status))
            for part in (
                '{header,"Status for generic server counter"}',
                '{"Status",running}',
                "count => 1",
                "'Counter',init,1",
            ):
                assert part in text
            assert await world.elixir(f":sys.suspend({server})") is a.ok
            late = f"try do GenServer.call({server}, :get, 50) catch :exit, {{:timeout, _}} -> :late end"
            assert await world.elixir(late) is a.late
            assert await world.elixir(f":sys.resume({server})") is a.ok
            assert await world.elixir(f":sys.trace({server}, true)") is a.ok
            assert await world.elixir(f":sys.statistics({server}, true)") is a.ok
            assert await world.elixir(f":sys.log({server}, true)") is a.ok
            assert await world.elixir(f"GenServer.call({server}, :get)") == 1
            ok, counts = await world.elixir(f":sys.statistics({server}, :get)")
            assert ok is a.ok
            assert dict(counts)[a.messages_in] == 1
            ok, events = await world.elixir(f":sys.log({server}, :get)")
            assert (ok, len(events), events[1][:2]) == (a.ok, 2, (a.out, 1))
            assert await world.elixir(f":sys.no_debug({server})") is a.ok
            refused = f"try do :sys.replace_state({server}, fn s -> s end) rescue e -> Exception.message(e) end"
            assert b"it cannot run a function of another node" in await world.elixir(refused)
            refused = f":sys.install({server}, {{fn _, _, _ -> :done end, 1}})"
            assert await world.elixir(refused) in (a.ok, a.unknown_debug)
            reference = monitor(pid)
            assert await world.elixir(f"GenServer.stop({server}, :shutdown)") is a.ok
            assert (await receive(timeout=5))[4] is a.shutdown
            del reference, node

    asyncio.run(main())


# --- Theirs, seen from here -------------------------------------------------------------------------------------------


def test_ours_calls_theirs(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            peer = Atom("peer@127.0.0.1")
            await node.connect(peer)
            assert await world.erl(THEIRS) is True
            pid = await world.erl("{ok, P} = gen_server:start({local, theirs}, theirs, 1, []), P")
            assert isinstance(pid, Pid)
            for server in (pid, ("theirs", peer)):
                assert await GenServer.call(server, a.get) == 1
                assert await GenServer.call(server, a.late) is a.late
                with pytest.raises(TimeoutError):
                    await GenServer.call(server, a.silent, timeout=0.05)
            GenServer.cast(pid, 2)
            assert await GenServer.multi_call([peer, node.name], "theirs", a.get, 5) == ([(peer, 2)], [node.name])
            GenServer.abcast([peer], "theirs", 3)
            requests = [GenServer.send_request(pid, a.get) for _ in range(100)]
            assert {await GenServer.receive_response(request, 5) for request in requests} == {3}
            assert await sys.get_state(pid) == 3
            assert (await sys.get_status(("theirs", peer)))[:3] == (a.status, pid, (a.module, a.gen_server))
            await sys.suspend(pid)
            with pytest.raises(TimeoutError):
                await GenServer.call(pid, a.get, timeout=0.05)
            await sys.resume(pid)
            await sys.start_log(pid)
            assert await GenServer.call(pid, a.get) == 3
            assert (await sys.get_log(pid))[0][0] == a["in"]
            for _ in range(2):
                with pytest.raises(CallFailed) as error:
                    await GenServer.call(("theirs", peer), (a.exit, a.because))
                assert error.value.cause in (a.because, a.noproc)
            assert error.value.cause is a.noproc

            pid = await world.erl("{ok, P} = gen_server:start(theirs, 1, []), P")
            await GenServer.stop(pid)
            with pytest.raises(ProcessExit) as ended:
                await GenServer.stop(pid)
            assert ended.value.reason is a.noproc

    asyncio.run(main())


def test_one_process_of_ours_asks_several_at_once(world: World) -> None:
    """Also one that answers to the pid, as what knows of no aliases does."""
    old = (
        "spawn(fun F() -> receive {'$gen_call', {From, Tag}, N} -> timer:sleep(10 * (5 - N)), From ! {Tag, N}, F() end "
        "end)"
    )

    async def main() -> None:
        async with world.node() as node:
            await node.connect("peer@127.0.0.1")
            await world.erl(THEIRS)
            pid = await world.erl("{ok, P} = gen_server:start(theirs, 1, []), P")
            olds = [await world.erl(old) for _ in range(5)]
            calls = [GenServer.call(server, n) for n, server in enumerate(olds)]
            others = [GenServer.call(pid, a.late), sys.get_state(pid)]
            assert await asyncio.gather(*calls, *others) == [0, 1, 2, 3, 4, a.late, 1]
            await sys.suspend(pid)  # until both are there, with their monitors
            ends = [GenServer.call(pid, (a.exit, a.because)), GenServer.call(pid, a.get), sys.resume(pid)]
            failed = await asyncio.gather(*ends, return_exceptions=True)
            assert [failure.cause for failure in failed if isinstance(failure, CallFailed)] == [a.because, a.because]
            with pytest.raises(TimeoutError):
                await receive(timeout=0)

    asyncio.run(main())


def test_a_reply_of_a_server_that_stops_comes_after_its_terminate(world: World) -> None:
    """Theirs does so, and ours as well; both messages travel between the same two processes, in order."""

    class Stopping(GenServer):
        def handle_call(self, request: Any, sender: Any) -> Any:
            self.owner = sender[0]
            return Stop(reply=a.replied)

        def terminate(self, reason: Any) -> None:
            send(self.owner, a.terminated)

    async def main() -> None:
        async with world.node() as node:
            await node.connect("peer@127.0.0.1")
            await world.erl(THEIRS)
            pid = await world.erl("{ok, P} = gen_server:start(theirs, 1, []), P")
            request = GenServer.send_request(pid, (a.stop, self()))
            assert await receive(timeout=5) is a.terminated
            assert GenServer.check_response(await receive(timeout=5), request) is a.replied
            await Stopping.start(name="stopping")
            ask = "gen_server:send_request({stopping, 'py@127.0.0.1'}, x)"
            order = f"{ask}, receive One -> receive {{_, Two}} -> {{One, Two}} end end"
            assert await world.erl(order) == (a.terminated, a.replied)

    asyncio.run(main())


def test_ours_calls_an_agent_and_state_of_every_shape(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect("peer@127.0.0.1")
            agent = await world.elixir("{:ok, p} = Agent.start(fn -> %{a: 1} end); p")
            assert await sys.get_state(agent) == {a.a: 1}
            got = await GenServer.call(agent, (a.get, (Atom("Elixir.Map"), a.get, [a.a])))
            assert got == 1
            await GenServer.stop(agent)

    asyncio.run(main())
