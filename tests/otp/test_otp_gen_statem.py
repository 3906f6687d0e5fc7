"""State machines of ours and real ones: what Erlang and Elixir of OTP 25, 27 and 29 see of ours, and we of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from behaviours_support import PEER, PY, World

from beamnode import Atom, CallFailed, Pid, ProcessExit, a, monitor, receive, self, send, trap_exit
from beamnode.otp import sys
from beamnode.otp.gen_statem import (
    GenericTimeout,
    GenStatem,
    KeepState,
    NextState,
    Postpone,
    ReplyTo,
    StateTimeout,
    Stop,
    StopAndReply,
)
from beamnode.testing.peers import Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

DOOR = "{door, 'py@127.0.0.1'}"
THEIRS = (Atom("theirs"), PEER)

LIGHT = (
    "-behaviour(gen_statem).",
    "-export([init/1, callback_mode/0, red/3, green/3, terminate/3]).",
    "callback_mode() -> [state_functions, state_enter].",
    "init(Owner) -> {ok, red, {Owner, 0}}.",
    "red(enter, Old, {Owner, N}) -> Owner ! {red, Old}, {keep_state, {Owner, N + 1}};"
    "red(cast, change, Data) -> {next_state, green, Data};"
    "red({call, _}, wait_for_green, _) -> {keep_state_and_data, postpone};"
    "red({call, From}, {later, Pid}, _) -> Pid ! {answer, From}, keep_state_and_data;"
    "red({call, From}, bye, _) -> {stop_and_reply, {shutdown, bye}, {reply, From, ok}};"
    "red({call, _}, crash, _) -> error(crashed);"
    "red(info, Message, {Owner, _}) -> Owner ! {info, Message}, keep_state_and_data.",
    "green(enter, Old, {Owner, _}) -> Owner ! {green, Old}, {keep_state_and_data, {state_timeout, 50, back}};"
    "green(state_timeout, back, Data) -> {next_state, red, Data};"
    "green({call, From}, wait_for_green, {_, N}) -> {keep_state_and_data, {reply, From, N}}.",
    "terminate(_, _, {Owner, _}) -> Owner ! ended.",
)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    world.load("light", *LIGHT)
    yield world
    world.close()


class Door(GenStatem):
    callback_mode = "state_functions", "state_enter"

    def init(self, owner: Pid) -> Any:
        self.owner = owner
        self.opened = 0
        return a.closed

    def closed(self, event: Any, content: Any) -> Any:
        match event, content:
            case "enter", old:
                send(self.owner, (a.closed, old))
            case "cast", a.open:
                self.opened += 1
                return NextState("open")
            case ("call", _), (a.go_through, _):
                return KeepState(Postpone())
            case ("call", sender), (a.later, Pid() as pid):
                send(pid, (a.answer, sender))
            case ("call", sender), a.bye:
                return StopAndReply((a.shutdown, a.bye), ReplyTo(sender, a.ok))
            case ("call", _), a.bye_too:
                return Stop((a.shutdown, a.bye), reply=a.ok)
            case ("call", _), a.crash:
                raise RuntimeError("stuck")
            case "info", message:
                send(self.owner, (a.info, message))
        return None

    async def open(self, event: Any, content: Any) -> Any:
        match event, content:
            case "enter", old:
                send(self.owner, (a.open, old))
                return KeepState(StateTimeout(0.05, a.enough), GenericTimeout("unused", 60))
            case "state_timeout", a.enough:
                return NextState(a.closed)
            case ("call", sender), (a.go_through, who):
                return KeepState(ReplyTo(sender, (who, self.opened)))


# --- Ours, seen from there --------------------------------------------------------------------------------------------


def test_erlang_and_elixir_use_ours(world: World) -> None:
    async def main() -> None:
        pid = await Door.start(self(), name="door")
        assert await receive(timeout=5) == (a.closed, a.closed)
        task = asyncio.create_task(world.erl(f"gen_statem:call({DOOR}, {{go_through, me}})"))
        while "go_through" not in repr(await sys.get_status(pid)):
            await asyncio.sleep(0.01)
        GenStatem.cast(pid, a.open)
        assert await task == (a.me, 1)
        assert await receive(timeout=5) == (a.open, a.closed)
        assert await receive(timeout=5) == (a.closed, "open")
        await world.erl(f"{DOOR} ! hello")
        assert await receive(timeout=5) == (a.info, a.hello)
        later = f"""
            Self = self(),
            Answering = spawn(fun () -> receive {{answer, From}} -> gen_statem:reply(From, Self) end end),
            Self =:= gen_statem:call({DOOR}, {{later, Answering}}, 5000)
        """
        assert await world.erl(later) is True
        request = f"""
            R = gen_statem:send_request({DOOR}, {{later, Pid}}),
            gen_statem:receive_response(R, 5000)
        """
        task = asyncio.create_task(world.erl(request, Pid=self()))
        match await receive(timeout=5):
            case (a.answer, sender):
                GenStatem.reply(sender, [1, 2])
        assert await task == (a.reply, [1, 2])
        text = ':gen_statem.call({:door, :"py@127.0.0.1"}, :bye)'
        assert await world.elixir(text) is a.ok

    world.run(main)


@pytest.mark.parametrize("request_", ["bye", "bye_too"])
def test_a_stop_replies_before_the_end(world: World, request_: str) -> None:
    async def main() -> None:
        pid = await Door.start(self(), name="door")
        reference = monitor(pid)
        assert await world.erl(f"gen_statem:call({DOOR}, {request_})") is a.ok
        assert (await receive(lambda got: got[0] is a.DOWN, timeout=5))[1:] == (
            reference,
            a.process,
            pid,
            (a.shutdown, a.bye),
        )

    world.run(main)


def test_ends_reach_the_caller(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Door.start(self(), name="door")
        failed = f"try gen_statem:call({DOOR}, crash, 5000) catch exit:R -> R end"
        match await world.erl(failed):
            case (
                ((a.RuntimeError, b"stuck"), [(a.test_otp_gen_statem, a.closed, *_), *_]),
                (a.gen_statem, a.call, of),
            ):
                assert of == [(a.door, PY), a.crash, 5000]
            case other:
                pytest.fail(repr(other))
        failed = f"try gen_statem:call({DOOR}, crash) catch exit:R -> R end"
        match await world.erl(failed):
            case (a.noproc, (a.gen_statem, a.call, _)):
                pass
            case other:
                pytest.fail(repr(other))

    world.run(main)
    [record] = [record for record in caplog.records if record.name == "beamnode.gen_statem"]
    lines = record.getMessage().splitlines()
    assert lines[1].startswith("Traceback")
    assert "crash" in lines[-3]
    assert lines[-2].startswith("State: Atom('closed'), data: owner=")
    assert "opened=0" in lines[-2]


def test_sys_of_ours_from_there(world: World) -> None:
    async def main() -> None:
        pid = await Door.start(self(), name="door")
        assert await world.erl(f"sys:get_state({DOOR})") == (a.closed, {a.owner: self(), a.opened: 0})
        later = GenStatem.send_request(pid, (a.go_through, a.me))
        assert await world.erl(f"sys:suspend({DOOR})") is a.ok
        assert await world.erl(f"gen_statem:cast({DOOR}, open), sys:get_state({DOOR})") == (
            a.closed,
            {a.owner: self(), a.opened: 0},
        )
        text = await status(world)
        for part in (
            '{header,"Status for state machine door"}',
            '{"Status",suspended}',
            "{module,gen_statem}",
            "{\"Modules\",['Door']}",
            '{"Postponed",[{{call,',
        ):
            assert part in text
        assert await world.erl(f"sys:resume({DOOR})") is a.ok
        assert await GenStatem.receive_response(later, 5) == (a.me, 1)
        assert await world.erl(f"sys:log({DOOR}, true), gen_statem:cast({DOOR}, nothing)") is a.ok
        assert (await sys.get_state(pid))[0] in (a.open, a.closed)
        ok, events = await world.erl(f"sys:log({DOOR}, get)")
        assert ok is a.ok
        assert [event[0] for event in events if event[1] == (a.cast, a.nothing)] == [a["in"], a.consume]
        assert await world.erl(f"gen_statem:stop({DOOR})") is a.ok

    world.run(main)


async def status(world: World) -> str:
    text = await world.erl(f'lists:flatten(io_lib:format("~0tp", [sys:get_status({DOOR})]))')
    return "".join(map(chr, text))


# --- Theirs, seen from here -------------------------------------------------------------------------------------------


def test_ours_use_theirs(world: World) -> None:
    async def main() -> None:
        trap_exit()
        ok, pid = await world.erl("gen_statem:start({local, theirs}, light, Owner, [])", Owner=self())
        assert ok is a.ok
        assert await receive(timeout=5) == (a.red, a.red)
        waiting = GenStatem.send_request(THEIRS, a.wait_for_green)
        assert await sys.get_state(THEIRS) == (a.red, (self(), 1))
        GenStatem.cast(THEIRS, a.change)
        assert await GenStatem.receive_response(waiting, 5) == 1
        assert await receive(timeout=5) == (a.green, a.red)
        assert await receive(timeout=5) == (a.red, a.green)
        call = asyncio.create_task(GenStatem.call(pid, (a.later, self()), 5))
        match await receive(timeout=5):
            case (a.answer, sender):
                await world.erl("gen_statem:reply(From, there)", From=sender)
        assert await call is a.there
        send(THEIRS, a.hello)
        assert await receive(timeout=5) == (a.info, a.hello)
        assert await GenStatem.call(THEIRS, a.bye) is a.ok
        assert await receive(timeout=5) is a.ended
        with pytest.raises(CallFailed) as failed:
            await GenStatem.call(THEIRS, a.bye, 1.5)
        assert failed.value.reason == (a.noproc, (a.gen_statem, a.call, [THEIRS, a.bye, 1500]))

    world.run(main)


def test_theirs_crashes_and_is_stopped(world: World) -> None:
    async def main() -> None:
        await world.erl("gen_statem:start({local, theirs}, light, Owner, [])", Owner=self())
        with pytest.raises(CallFailed) as failed:
            await GenStatem.call(THEIRS, a.crash)
        assert failed.value.cause[0] is a.crashed
        await world.erl("gen_statem:start({local, theirs}, light, Owner, [])", Owner=self())
        await GenStatem.stop(THEIRS, a.shutdown)
        with pytest.raises(ProcessExit, match="noproc"):
            await GenStatem.stop(THEIRS)

    world.run(main)
