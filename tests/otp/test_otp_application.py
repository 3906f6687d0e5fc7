"""Applications of ours and OTP's: both by the same steps, and what a peer may ask of ours."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import Atom, Epmd, Node, Pid, ProcessExit, a, monitor, receive, register, self, send, spawn_link, whereis
from beamnode.otp.application import Application, ApplicationError
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

PY = Atom("py@127.0.0.1")
PEER = Atom("peer@127.0.0.1")
WAIT_SECONDS = 10.0
CASES = 40

APP_SOURCE = r"""
{module, app} = begin
    Parse = fun (Text) -> {ok, Ts, _} = erl_scan:string(Text), {ok, Form} = erl_parse:parse_form(Ts), Form end,
    Forms = [Parse(Text) || Text <- [
        "-module(app).",
        "-behaviour(application).",
        "-export([start/2, stop/1, root/1]).",
        "start(normal, {Name, ok}) -> {ok, spawn_link(app, root, [Name])}; "
        "start(normal, {_, exit}) -> exit(because); "
        "start(normal, {_, normal}) -> exit(normal); "
        "start(normal, {_, Result}) -> Result.",
        "stop(_) -> ok.",
        "root(Name) -> register(Name, self()), receive {exit, Reason} -> exit(Reason) end."]],
    {ok, Module, Binary} = compile:forms(Forms),
    code:load_binary(Module, "app.erl", Binary)
end, ok
"""


async def root(name: Any) -> None:
    register(name, self())
    _, reason = await receive()
    raise ProcessExit(reason)


class World:
    """One real node and its epmd, for a release."""

    def __init__(self, otp: Otp) -> None:
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(otp, PEER.name, cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir")
            self.peer.eval("logger:set_primary_config(level, none)")
            self.peer.eval(APP_SOURCE, 30)
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


# --- Both by the same steps -------------------------------------------------------------------------------------------


class Theirs:
    """The applications of the peer; `names` are those that this case is about."""

    def __init__(self, world: World, names: list[Atom]) -> None:
        self.world, self.names = world, names

    async def load(self, name: Atom, needs: list[Atom], optional: list[Atom], result: Any) -> Any:
        return await self.world.erl(
            """application:load({application, Name, [{description, ""}, {vsn, "1"}, {modules, []}, {registered, []},
                {applications, Needs}, {optional_applications, Optional}, {mod, {app, {Name, Result}}}]})""",
            Name=name,
            Needs=needs,
            Optional=optional,
            Result=result,
        )

    async def start(self, name: Atom) -> Any:
        return without_files(await self.world.erl("application:start(Name)", Name=name))

    async def ensure_all_started(self, name: Atom) -> Any:
        return without_files(await self.world.erl("application:ensure_all_started(Name)", Name=name))

    async def stop(self, name: Atom) -> Any:
        return await self.world.erl("application:stop(Name)", Name=name)

    async def unload(self, name: Atom) -> Any:
        return await self.world.erl("application:unload(Name)", Name=name)

    async def crash(self, name: Atom, reason: Any) -> Any:
        source = "case whereis(Name) of undefined -> ok; Pid -> Pid ! {exit, Reason}, ok end"
        return await self.world.erl(source, Name=name, Reason=reason)

    async def running(self) -> Any:
        return await self.world.erl(
            "[Name || {Name, _, _} <- application:which_applications(), lists:member(Name, Names)]", Names=self.names
        )

    async def registered(self, name: Atom) -> Any:
        return await self.world.erl("whereis(Name) =/= undefined", Name=name)


def without_files(answer: Any) -> Any:
    """What OTP does not know it looks for in files: `{"no such file or directory", "name.app"}`."""
    match answer:
        case (a.error, (list(), list() as file)) | (a.error, (Atom(), (list(), list() as file))):
            return (a.error, (a.not_loaded, Atom(bytes(file).decode().removesuffix(".app"))))
    return answer


class Ours:
    """The applications of this node, which answers as OTP does."""

    async def load(self, name: Atom, needs: list[Atom], optional: list[Atom], result: Any) -> Any:
        class App(Application):
            args = (name, result)

            def start(self, kind: Any, args: Any) -> Any:
                match result:
                    case a.ok:
                        return spawn_link(root, name)
                    case a.exit:
                        raise ProcessExit(a.because)
                    case a.normal:
                        raise ProcessExit(a.normal)
                return result

        App.name, App.applications, App.optional_applications = str(name), needs, optional
        App.__name__ = "app"
        return await self._done(Application.load, App)

    async def _done(self, function: Any, *args: Any) -> Any:
        try:
            result = function(*args)
            result = await result if hasattr(result, "__await__") else result
        except ApplicationError as error:
            return (a.error, error.reason)
        return a.ok if result is None else (a.ok, result)

    async def start(self, name: Atom) -> Any:
        return await self._done(Application.start, name)

    async def ensure_all_started(self, name: Atom) -> Any:
        return await self._done(Application.ensure_all_started, name)

    async def stop(self, name: Atom) -> Any:
        return await self._done(Application.stop, name)

    async def unload(self, name: Atom) -> Any:
        return await self._done(Application.unload, name)

    async def crash(self, name: Atom, reason: Any) -> Any:
        send(name, (a.exit, reason))
        return a.ok

    async def running(self) -> Any:
        return [name for name, _, _ in await Application.started_applications()]

    async def registered(self, name: Atom) -> Any:
        return whereis(name) is not None


RESULTS = [a.ok] * 8 + [(a.error, a.why), a.bad, a.exit, a.normal]


async def a_case(dice: random.Random, sides: list[Any], names: list[Atom]) -> None:
    """Some applications, each of which needs some of those before it, and steps with them."""
    log: list[Any] = []

    async def both(verb: str, *args: Any) -> Any:
        answers = [await getattr(side, verb)(*args) for side in sides]
        log.append((verb, args, answers))
        assert answers[0] == answers[1], log
        return answers[0]

    for index, name in enumerate(names):
        needs = dice.sample(names[:index], dice.randrange(min(index, 2) + 1))
        await both("load", name, needs, [each for each in needs if not dice.randrange(4)], dice.choice(RESULTS))
    for _ in range(dice.randrange(3, 12)):
        name = dice.choice(names)
        match dice.choice(["start", "ensure_all_started", "ensure_all_started", "stop", "crash", "unload"]):
            case "unload" if dice.randrange(3):
                continue
            case "crash":
                for side in sides:
                    await side.crash(name, a.why)
                    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
                    while name in await side.running() or await side.registered(name):
                        assert asyncio.get_running_loop().time() < deadline
            case verb:
                await both(verb, name)
        await both("running")
    for name in reversed(names):
        for side in sides:
            await side.stop(name)
            await side.unload(name)


def test_both_answer_the_same(world: World) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)

    async def main() -> None:
        async with world.node():
            for number in range(CASES):
                names = [Atom(f"app_{number}_{index}") for index in range(dice.randrange(2, 6))]
                await a_case(dice, [Theirs(world, names), Ours()], names)

    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)


# --- What a peer may ask ----------------------------------------------------------------------------------------------


class Shop(Application):
    name = "shop"
    description = "sells"
    vsn = "1.0"

    async def start(self, kind: Any, args: Any) -> Pid:
        return await DynamicSupervisor.start_link(name="ours")


def test_elixir_asks_which_applications_run_on_ours(world: World) -> None:
    ask = 'GenServer.call({:application_controller, :"py@127.0.0.1"}, :which_applications)'
    rpc = ':rpc.call(:"py@127.0.0.1", :application, :which_applications, [])'
    stop = 'GenServer.call({:application_controller, :"py@127.0.0.1"}, {:stop_application, :shop})'

    async def main() -> None:
        async with world.node():
            assert await world.elixir(rpc) == []
            await Application.start(Shop)
            shop = [(a.shop, list(b"sells"), list(b"1.0"))]
            assert await world.elixir(ask) == await world.elixir(rpc) == shop
            assert await world.elixir(stop) == (a.error, a.notsup)
            assert await world.elixir('DynamicSupervisor.count_children({:ours, :"py@127.0.0.1"})[:specs]') == 0

    asyncio.run(main())


def test_what_a_peers_call_starts_does_not_end_with_it(world: World) -> None:
    """The group leader of a call is the caller's, that of an application is not, and it outlives both."""

    async def start() -> Any:
        await Application.start(Shop)
        return Application.get_application()

    async def main() -> None:
        async with world.node() as node:
            node.expose(start, module="m", name="start")
            assert await world.elixir(':rpc.call(:"py@127.0.0.1", :m, :start, [])') is None
            reference = monitor("ours")
            await Application.stop("shop")
            assert (await receive(timeout=WAIT_SECONDS))[1] == reference

    asyncio.run(main())
