"""Event managers of ours and real ones: what Erlang and Elixir of OTP 25, 27, 29 see of ours, and we of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from behaviours_support import PEER, World

from beamnode import Atom, CallFailed, ProcessExit, a, monitor, receive, self, send, spawn_monitor, trap_exit
from beamnode.otp import sys
from beamnode.otp.gen_event import EventHandler, GenEvent, HandlerFailed, RemoveHandler, SwapHandler
from beamnode.testing.peers import Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

OURS = "{ours, 'py@127.0.0.1'}"
THEIRS = (Atom("theirs"), PEER)

TELLER = (
    "-behaviour(gen_event).",
    "-export([init/1, handle_event/2, handle_call/2, handle_info/2, terminate/2]).",
    "init({Owner, Old}) -> Owner ! {init, Old}, {ok, Owner};"
    "init(Owner) when is_pid(Owner) -> {ok, Owner};"
    "init(refuse) -> {error, refused};"
    "init(crash) -> error(crashed).",
    "handle_event(crash, _) -> error(crashed);"
    "handle_event(remove, _) -> remove_handler;"
    "handle_event(Event, Owner) -> Owner ! {event, Event}, {ok, Owner}.",
    "handle_call(crash, _) -> error(crashed);handle_call(Request, Owner) -> {ok, {Request, Owner}, Owner}.",
    "handle_info(Message, Owner) -> Owner ! {info, Message}, {ok, Owner}.",
    "terminate(Why, Owner) -> Owner ! {terminate, Why}, {terminated, Why}.",
)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    world = World(otp)
    world.load("teller", *TELLER)
    yield world
    world.close()


class Teller(EventHandler):
    def init(self, args: Any) -> None:
        if args is a.crash:
            raise RuntimeError("boom")
        self.owner = args[0] if isinstance(args, tuple) else args
        if isinstance(args, tuple):
            send(self.owner, (a.init, args[1]))

    async def handle_event(self, event: Any) -> Any:
        match event:
            case a.crash:
                raise RuntimeError("boom")
            case a.remove:
                return RemoveHandler()
            case (a.swap, handler):
                return SwapHandler(a.swapped_out, handler, self.owner)
        send(self.owner, (a.event, event))
        return None

    def handle_call(self, request: Any) -> Any:
        if request is a.crash:
            raise RuntimeError("boom")
        return (request, self.owner)

    def handle_info(self, message: Any) -> None:
        send(self.owner, (a.info, message))

    def terminate(self, why: Any) -> Any:
        send(self.owner, (a.terminate, why))
        return (a.terminated, why)


class Unlisted(Teller):
    pass


class Manager(GenEvent):
    handlers = (Teller,)


# --- Ours, seen from there --------------------------------------------------------------------------------------------


def test_erlang_uses_ours(world: World) -> None:
    async def main() -> None:
        await Manager.start(name="ours")
        me = self()
        assert await world.erl(f"gen_event:add_handler({OURS}, 'Teller', Owner)", Owner=me) is a.ok
        assert await world.erl(f"gen_event:add_handler({OURS}, {{'Teller', 2}}, Owner)", Owner=me) is a.ok
        assert await world.erl(f"gen_event:which_handlers({OURS})") == [(a.Teller, 2), a.Teller]
        assert await world.erl(f"gen_event:notify({OURS}, one)") is a.ok
        assert [await receive(timeout=5) for _ in range(2)] == [(a.event, a.one)] * 2
        assert await world.erl(f"gen_event:sync_notify({OURS}, two)") is a.ok
        assert [await receive(timeout=5) for _ in range(2)] == [(a.event, a.two)] * 2
        assert await world.erl(f"gen_event:call({OURS}, 'Teller', hello)") == (a.hello, me)
        assert await world.erl(f"gen_event:call({OURS}, {{'Teller', 2}}, hello, 5000)") == (a.hello, me)
        assert await world.erl(f"gen_event:call({OURS}, {{'Teller', 3}}, hello)") == (a.error, a.bad_module)
        request = f"R = gen_event:send_request({OURS}, 'Teller', hi), gen_event:receive_response(R, 5000)"
        assert await world.erl(request) == (a.reply, (a.hi, me))
        deleted = await world.erl(f"gen_event:delete_handler({OURS}, {{'Teller', 2}}, why)")
        assert deleted == (a.terminated, a.why)
        assert await receive(timeout=5) == (a.terminate, a.why)
        swapped = f"gen_event:swap_handler({OURS}, {{'Teller', out}}, {{{{'Teller', new}}, Owner}})"
        assert await world.erl(swapped, Owner=me) is a.ok
        assert [await receive(timeout=5) for _ in range(2)] == [
            (a.terminate, a.out),
            (a.init, (a.terminated, a.out)),
        ]
        assert await world.elixir(':gen_event.which_handlers({:ours, :"py@127.0.0.1"})') == [(a.Teller, a.new)]
        assert await world.erl(f"gen_event:stop({OURS})") is a.ok
        assert await receive(timeout=5) == (a.terminate, a.stop)

    world.run(main)


def test_a_peer_adds_only_what_is_listed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Manager.start(name="ours")
        await GenEvent.add_handler("ours", (Unlisted, 1), self())
        for module in ("os", "'Unlisted'", "[1]"):
            match await world.erl(f"gen_event:add_handler({OURS}, {module}, [])"):
                case (a.EXIT, (a.undef, [(_, a.init, [[]], []), *_])):
                    pass
                case other:
                    pytest.fail(repr(other))
        assert await world.erl(f"gen_event:call({OURS}, {{'Unlisted', 1}}, here)") == (a.here, self())
        match await world.erl(f"gen_event:swap_handler({OURS}, {{{{'Unlisted', 1}}, x}}, {{os, y}})"):
            case (a.error, (a.EXIT, (a.undef, _))):
                pass
            case other:
                pytest.fail(repr(other))
        match await world.erl(f"gen_event:add_handler({OURS}, 'Teller', crash)"):
            case (a.EXIT, ((a.RuntimeError, b"boom"), [(a.test_otp_gen_event, a.init, *_), *_])):
                pass
            case other:
                pytest.fail(repr(other))
        assert await GenEvent.which_handlers("ours") == []

    world.run(main)
    assert any("its class must be in `handlers`" in record.getMessage() for record in caplog.records)


SUPERVISING = f"""
    Parent = self(),
    {{P, Ref}} = spawn_monitor(fun () ->
        ok = gen_event:add_sup_handler({OURS}, {{'Teller', 1}}, Owner),
        ok = gen_event:add_sup_handler({OURS}, {{'Teller', 2}}, Owner),
        ok = gen_event:add_sup_handler({OURS}, {{'Teller', 3}}, Owner),
        deleted = element(2, gen_event:delete_handler({OURS}, {{'Teller', 1}}, deleted)),
        ok = gen_event:swap_sup_handler({OURS}, {{{{'Teller', 2}}, out}}, {{{{'Teller', 4}}, Owner}}),
        Got = [receive {{gen_event_EXIT, H, R}} -> {{H, R}} after 5000 -> none end || _ <- [1, 2]],
        ok = gen_event:notify({OURS}, remove),
        More = [receive {{gen_event_EXIT, H, R}} -> {{H, R}} after 5000 -> none end || _ <- [1, 2]],
        ok = gen_event:add_sup_handler({OURS}, 'Teller', Owner),
        exit({{Got, More}})
    end),
    receive {{'DOWN', Ref, process, P, Result}} -> {{P, Result}} end
"""


def test_a_supervisor_there_of_handlers_here(world: World) -> None:
    async def main() -> None:
        await Manager.start(name="ours")
        pid, (got, more) = await world.erl(SUPERVISING, Owner=self())
        assert got == [((a.Teller, 1), a.normal), ((a.Teller, 2), (a.swapped, (a.Teller, 4), pid))]
        assert more == [((a.Teller, 4), a.normal), ((a.Teller, 3), a.normal)]
        assert await receive(lambda got: got[0] is a.terminate and type(got[1]) is tuple, timeout=5) == (
            a.terminate,
            (a.stop, (got, more)),
        )
        assert await GenEvent.which_handlers("ours") == []

    world.run(main)


def test_a_crash_removes_one_handler(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Manager.start(name="ours")
        await GenEvent.add_sup_handler("ours", Teller, self())
        await GenEvent.add_handler("ours", (Teller, 2), self())
        match await world.erl(f"gen_event:call({OURS}, {{'Teller', 2}}, crash)"):
            case (a.error, (a.EXIT, ((a.RuntimeError, b"boom"), [(a.test_otp_gen_event, a.handle_call, *_), *_]))):
                pass
            case other:
                pytest.fail(repr(other))
        assert await world.erl(f"gen_event:sync_notify({OURS}, crash)") is a.ok
        match [await receive(timeout=5) for _ in range(3)]:
            case [
                (a.terminate, (a.error, (a.EXIT, _))),
                (a.terminate, (a.error, (a.EXIT, reason))),
                (a.gen_event_EXIT, a.Teller, (a.EXIT, the_same)),
            ] if the_same == reason:
                pass
            case other:
                pytest.fail(repr(other))
        assert await world.erl(f"gen_event:which_handlers({OURS})") == []

    world.run(main)
    first, second = (record.getMessage() for record in caplog.records if record.name == "beamnode.gen_event")
    assert "has removed its handler (Atom('Teller'), 2), which has crashed: RuntimeError('boom')" in first
    assert "Last event: Atom('crash')" in second
    assert "Traceback" in second


class Strange(EventHandler):
    def handle_call(self, request: Any) -> Any:
        return object()

    def terminate(self, why: Any) -> Any:
        return self


def test_what_has_no_term_is_an_error_there(world: World, caplog: pytest.LogCaptureFixture) -> None:
    deep = "lists:foldl(fun (_, T) -> {T} end, x, lists:seq(1, 1000))"

    async def main() -> None:
        await Manager.start(name="ours")
        await GenEvent.add_handler("ours", Strange, [])
        for request in ("call({0}, 'Strange', x)", "delete_handler({0}, 'Strange', x)"):
            match await world.erl("gen_event:" + request.format(OURS)):
                case (a.error, (a.EXIT, ((a.EncodeError, _), _))):
                    pass
                case other:
                    pytest.fail(repr(other))
        name = f"{{'Teller', {deep}}}"
        assert await world.erl(f"gen_event:add_handler({OURS}, {name}, Owner)", Owner=self()) is a.ok
        found = await world.erl(f"gen_event:call({OURS}, {name}, x)", Owner=self())
        assert found in ((a.error, a.bad_module), (a.x, self()))
        assert await world.erl(f"length(gen_event:which_handlers({OURS}))") == 1

    world.run(main)
    assert "cannot reply <object>" in caplog.text


def test_sys_of_ours_from_there(world: World) -> None:
    async def main() -> None:
        await Manager.start(name="ours")
        await GenEvent.add_handler("ours", Teller, self())
        state = [(a.Teller, False, {a.owner: self()})]
        assert await world.erl(f"sys:get_state({OURS})") == state
        text = await world.erl(f'lists:flatten(io_lib:format("~0tp", [sys:get_status({OURS})]))')
        for part in ("{module,gen_event}", '{header,"Status for event handler ours"}', "'Teller',false"):
            assert part in "".join(map(chr, text))
        asked = f"sys:suspend({OURS}), gen_event:notify({OURS}, late), sys:get_state({OURS})"
        assert await world.erl(asked) == state
        with pytest.raises(TimeoutError):
            await receive(timeout=0.05)
        assert await world.erl(f"sys:resume({OURS})") is a.ok
        assert await receive(timeout=5) == (a.event, a.late)

    world.run(main)


# --- Theirs, seen from here -------------------------------------------------------------------------------------------


def test_ours_use_theirs(world: World) -> None:
    async def main() -> None:
        trap_exit()
        me = self()
        ok, manager = await world.erl("gen_event:start({local, theirs})")
        assert ok is a.ok
        await GenEvent.add_handler(THEIRS, "teller", me)
        await GenEvent.add_sup_handler(manager, ("teller", 2), me)
        assert await GenEvent.which_handlers(THEIRS) == [(a.teller, 2), a.teller]
        GenEvent.notify(THEIRS, a.one)
        assert [await receive(timeout=5) for _ in range(2)] == [(a.event, a.one)] * 2
        await GenEvent.sync_notify(THEIRS, a.two)
        assert [await receive(timeout=0.001) for _ in range(2)] == [(a.event, a.two)] * 2
        assert await GenEvent.call(THEIRS, "teller", a.hello) == (a.hello, me)
        request = GenEvent.send_request(THEIRS, ("teller", 2), a.hello)
        assert await GenEvent.receive_response(request, 5) == (a.hello, me)
        assert await sys.get_state(THEIRS) == [(a.teller, 2, me), (a.teller, False, me)]
        with pytest.raises(HandlerFailed, match="bad_module"):
            await GenEvent.call(THEIRS, "nobody", a.hello)
        with pytest.raises(HandlerFailed, match="refused"):
            await GenEvent.add_handler(THEIRS, "teller", a.refuse)
        with pytest.raises(HandlerFailed, match="crashed"):
            await GenEvent.add_handler(THEIRS, "teller", a.crash)
        with pytest.raises(HandlerFailed, match="undef"):
            await GenEvent.add_handler(THEIRS, Teller, me)
        with pytest.raises(HandlerFailed, match="module_not_found"):
            await GenEvent.delete_handler(THEIRS, "nobody", a.why)
        with pytest.raises(HandlerFailed, match="crashed"):
            await GenEvent.call(THEIRS, "teller", a.crash)
        await receive(lambda got: got[0] is a.terminate, timeout=5)
        await GenEvent.swap_handler(THEIRS, (("teller", 2), a.out), (("teller", 3), me))
        assert [await receive(timeout=5) for _ in range(3)] == [
            (a.terminate, a.out),
            (a.gen_event_EXIT, (a.teller, 2), (a.swapped, (a.teller, 3), me)),
            (a.init, (a.terminated, a.out)),
        ]
        assert await GenEvent.delete_handler(THEIRS, ("teller", 3), a.why) == (a.terminated, a.why)
        assert [await receive(timeout=5) for _ in range(2)] == [
            (a.terminate, a.why),
            (a.gen_event_EXIT, (a.teller, 3), a.normal),
        ]
        reference = monitor(manager)
        await GenEvent.stop(THEIRS)
        down = await receive(lambda got: got[0] is a.DOWN, timeout=5)
        assert down == (a.DOWN, reference, a.process, manager, a.normal)
        assert await receive(timeout=5) == (a.EXIT, manager, a.normal)  # the link outlives the handler, in OTP
        with pytest.raises(CallFailed) as failed:
            await GenEvent.call(THEIRS, "teller", a.hello)
        assert failed.value.reason == (a.noproc, (a.gen_event, a.call, [THEIRS, a.teller, a.hello]))
        with pytest.raises(ProcessExit, match="noproc"):
            await GenEvent.which_handlers(THEIRS)

    world.run(main)


def test_a_supervisor_here_of_a_handler_there(world: World) -> None:
    async def main() -> None:
        await world.erl("{ok, _} = gen_event:start({local, theirs}), ok")
        me = self()

        async def supervise() -> None:
            await GenEvent.add_sup_handler(THEIRS, "teller", me)

        pid, reference = spawn_monitor(supervise)
        assert (await receive(lambda got: got[0] is a.DOWN, timeout=5))[:4] == (a.DOWN, reference, a.process, pid)
        assert await receive(timeout=5) == (a.terminate, (a.stop, a.normal))
        while await GenEvent.which_handlers(THEIRS):
            await asyncio.sleep(0.01)
        await GenEvent.stop(THEIRS)

    world.run(main)
