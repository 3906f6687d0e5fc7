"""Random commands to an event manager: gen_event of OTP 25, 27, 29 and ours answer them alike.

Both tell each call of a handler's function, in order, what the commands are answered, and what a supervisor hears. A
crash, of which the reasons differ, is `crashed` on both sides.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import Atom, FixedPort, Node, Pid, a, receive, register, self, send
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import gen
from beamnode.otp.gen_event import EventHandler, GenEvent, RemoveHandler, SwapHandler
from beamnode.testing.peers import ErlNode, Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

CASES = 150
COMMANDS = 12

MODULES = (a.h1, a.h2, a.h3)
COLLECTOR = "collector"

HANDLERS = r"""
begin
    Parse = fun (Text) -> {ok, Ts, _} = erl_scan:string(Text), {ok, Form} = erl_parse:parse_form(Ts), Form end,
    Load = fun (Name, Texts) ->
        {ok, Module, Binary} = compile:forms([Parse(Text) || Text <- Texts]),
        {module, Module} = code:load_binary(Module, atom_to_list(Name) ++ ".erl", Binary)
    end,
    [Load(Name, [
        "-module(" ++ atom_to_list(Name) ++ ").",
        "-export([init/1, handle_event/2, handle_call/2, handle_info/2, terminate/2]).",
        "me() -> " ++ atom_to_list(Name) ++ ".",
        "tell(What) -> collector ! {seen, me(), What}.",
        "init(Args) -> tell({init, Args}), "
        "    case Args of crash -> error(boom); {crash, _} -> error(boom); _ -> {ok, Args} end.",
        "handle_event(Script, S) -> tell({event, S}), act(Script, S, event).",
        "handle_info({script, Script}, S) -> tell({info, S}), act(Script, S, event).",
        "handle_call(Script, S) -> tell({call, S}), act(Script, S, call).",
        "act(Script, S, Kind) -> case {proplists:get_value(me(), Script), Kind} of "
        "    {undefined, event} -> {ok, S}; "
        "    {undefined, call} -> {ok, {reply, me()}, S}; "
        "    {remove, event} -> remove_handler; "
        "    {remove, call} -> {remove_handler, bye}; "
        "    {{swap, A1, H2, A2}, event} -> {swap_handler, A1, S, H2, A2}; "
        "    {{swap, A1, H2, A2}, call} -> {swap_handler, swapped, A1, S, H2, A2}; "
        "    {crash, _} -> error(boom) end.",
        "terminate(crash, _) -> error(boom); "
        "terminate(Why, S) -> tell({terminate, Why, S}), {terminated, me()}."]) || Name <- [h1, h2, h3]],
    Load(commands, [
        "-module(commands).",
        "-export([run/1]).",
        "run(Commands) -> {P, Ref} = spawn_monitor(fun () -> exit({done, all(Commands)}) end), "
        "    receive {'DOWN', Ref, process, P, {done, Result}} -> Result end.",
        "all(Commands) -> register(collector, self()), {ok, M} = gen_event:start(), "
        "    Seen = [begin R = do(M, C), Has = gen_event:which_handlers(M), plain({R, Has, flush()}) end "
        "        || C <- Commands], "
        "    gen_event:stop(M), {Seen, plain(flush())}.",
        "do(M, {add, H, A}) -> gen_event:add_handler(M, H, A);"
        "do(M, {add_sup, H, A}) -> gen_event:add_sup_handler(M, H, A);"
        "do(M, {delete, H, A}) -> gen_event:delete_handler(M, H, A);"
        "do(M, {swap, H1, A1, H2, A2}) -> gen_event:swap_handler(M, {H1, A1}, {H2, A2});"
        "do(M, {swap_sup, H1, A1, H2, A2}) -> gen_event:swap_sup_handler(M, {H1, A1}, {H2, A2});"
        "do(M, {notify, S}) -> gen_event:notify(M, S);"
        "do(M, {sync, S}) -> gen_event:sync_notify(M, S);"
        "do(M, {info, S}) -> M ! {script, S}, ok;"
        "do(M, {call, H, S}) -> gen_event:call(M, H, S).",
        "flush() -> receive X -> [X | flush()] after 0 -> [] end.",
        "plain({'EXIT', _}) -> crashed;"
        "plain(P) when is_pid(P) -> pid;"
        "plain(T) when is_tuple(T) -> list_to_tuple(plain(tuple_to_list(T)));"
        "plain(L) when is_list(L) -> [plain(E) || E <- L];"
        "plain(T) -> T."]),
    logger:set_primary_config(level, none),
    true
end
"""


def command(choose: random.Random) -> Any:
    handler, other = a_handler(choose), a_handler(choose)
    args = lambda: choose.choice((1, 2, 3, a.crash) if choose.random() < 0.3 else (1, 2, 3))  # noqa: E731
    match choose.choice(
        (a.add, a.add, a.add, a.add_sup, a.delete, a.swap, a.swap_sup, a.notify, a.sync, a.info, a.call)
    ):
        case (a.add | a.add_sup | a.delete) as what:
            return (what, handler, args())
        case (a.swap | a.swap_sup) as what:
            return (what, handler, args(), other, args())
        case a.call:
            return (a.call, handler, script(choose, args))
        case what:
            return (what, script(choose, args))


def a_handler(choose: random.Random) -> Any:
    module = choose.choice(MODULES)
    return module if choose.random() < 0.6 else (module, choose.choice((1, 2, False)))


def script(choose: random.Random, args: Any) -> list[Any]:
    """What each module does with an event."""
    whats = [(module, choose.choice((None, None, a.remove, a.crash, a.swap))) for module in MODULES]
    return [
        (module, (a.swap, args(), a_handler(choose), args()) if what is a.swap else what)
        for module, what in whats
        if what is not None
    ]


# --- Ours -------------------------------------------------------------------------------------------------------------


class Scripted(EventHandler):
    def init(self, args: Any) -> None:
        self.tell((a.init, args))
        if args is a.crash or (isinstance(args, tuple) and args[0] is a.crash):
            raise RuntimeError("boom")
        self.args = args

    def handle_event(self, event: Any) -> Any:
        self.tell((a.event, self.args))
        return self.act(event, None)

    async def handle_info(self, message: Any) -> Any:
        self.tell((a.info, self.args))
        return self.act(message[1], None)

    def handle_call(self, request: Any) -> Any:
        self.tell((a.call, self.args))
        return self.act(request, (a.reply, self.module_name()))

    def act(self, whole: list[Any], otherwise: Any) -> Any:
        for module, what in whole:
            if module is self.module_name():
                match what:
                    case a.remove:
                        return RemoveHandler(a.bye)
                    case (a.swap, args, handler, new_args):
                        return SwapHandler(args, handler, new_args, a.swapped)
                    case a.crash:
                        raise RuntimeError("boom")
        return otherwise

    def terminate(self, why: Any) -> Any:
        if why is a.crash:
            raise RuntimeError("boom")
        self.tell((a.terminate, why, self.args))
        return (a.terminated, self.module_name())

    def tell(self, what: Any) -> None:
        send(COLLECTOR, (a.seen, self.module_name(), what))


class H1(Scripted):
    @classmethod
    def module_name(cls) -> Atom:
        return a.h1


class H2(Scripted):
    @classmethod
    def module_name(cls) -> Atom:
        return a.h2


class H3(Scripted):
    @classmethod
    def module_name(cls) -> Atom:
        return a.h3


class Manager(GenEvent):
    handlers = (H1, H2, H3)


async def do(manager: Pid, command: Any) -> Any:
    match command:
        case (a.add, handler, args):
            request: Any = (a.add_handler, handler, args)
        case (a.add_sup, handler, args):
            request = (a.add_sup_handler, handler, args, self())
        case (a.delete, handler, args):
            request = (a.delete_handler, handler, args)
        case (a.swap, *rest):
            request = (a.swap_handler, *rest)
        case (a.swap_sup, *rest):
            request = (a.swap_sup_handler, *rest, self())
        case (a.sync, whole):
            request = (a.sync_notify, whole)
        case (a.call, handler, whole):
            request = command
        case (a.notify, whole):
            GenEvent.notify(manager, whole)
            return a.ok
        case (a.info, whole):
            send(manager, (a.script, whole))
            return a.ok
    return await gen.call(manager, self(), request, 5)


async def run_here(commands: list[Any]) -> Any:
    manager = await Manager.start()
    seen = []
    for one in commands:
        result = await do(manager, one)
        has = await GenEvent.which_handlers(manager)
        seen.append(plain((result, has, await flush())))
    await GenEvent.stop(manager)
    return seen, plain(await flush())


async def flush() -> list[Any]:
    messages = []
    while True:
        try:
            messages.append(await receive(timeout=0))
        except TimeoutError:
            return messages


def plain(term: Any) -> Any:
    match term:
        case (a.EXIT, _):
            return a.crashed
        case Pid():
            return a.pid
        case tuple():
            return tuple(plain(element) for element in term)
        case list():
            return [plain(element) for element in term]
    return term


async def run_all_here(cases: list[Any]) -> list[Any]:
    carrier = MemoryNetwork().carrier("h")
    async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
        register(COLLECTOR, self())
        return [await run_here(case) for case in cases]


# --- Both -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def erl(otp: Otp) -> Iterator[ErlNode]:
    with ErlNode.start(otp) as node:
        assert node.eval(HANDLERS) is True
        yield node


@pytest.mark.parametrize("seed", [1, 102])
def test_a_manager_does_what_otp_does(erl: ErlNode, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    choose = random.Random(seed)
    cases = [[command(choose) for _ in range(COMMANDS)] for _ in range(CASES)]
    theirs = erl.eval("[commands:run(C) || C <- Cases]", 60, Cases=cases)
    caplog.set_level("CRITICAL")
    ours = asyncio.run(run_all_here(cases))
    for number, case in enumerate(cases):
        for step in range(len(case)):
            assert ours[number][0][step] == theirs[number][0][step], f"case {number} of seed {seed}: {case[: step + 1]}"
        assert ours[number][1] == theirs[number][1], f"the end of case {number}: {case}"
    heard = [message for seen, _ in ours for _, _, messages in seen for message in messages]
    assert {reason for name, *_, reason in heard if name is a.gen_event_EXIT} >= {a.normal, a.crashed}
    assert {what[0] for name, _, what in heard if name is a.seen} == {a.init, a.event, a.info, a.call, a.terminate}
