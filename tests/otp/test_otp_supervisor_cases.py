"""Our supervisor against OTP's: the same children, ends and calls have the same log, in hundreds of random cases.

A case is the flags of a supervisor, specifications and steps. Its children are of some kinds (what they do when they
are told to end) and have a plan (what their start function gives the first time, the second time, ...). The log has
every start, every end with its reason and every report, in order; after each step there is the answer, the log so far
and what `which_children` and `count_children` say.

A step is a call, or some of them in one go: the supervisor is suspended, children end, calls are sent, and it goes on
with all of that in its mailbox, in the same order here and there. In `erl` there is one scheduler, so that an end is
told to all before others run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pytest

from beamnode import (
    Atom,
    FixedPort,
    GenServer,
    Node,
    Pid,
    ProcessExit,
    StartFailed,
    a,
    exit,
    monitor,
    receive,
    send,
    spawn,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.etf import Reference
from beamnode.node import current_body
from beamnode.node import self as own_pid
from beamnode.otp import proc_lib, supervision, supervisor_server, sys
from beamnode.otp.supervisor import Supervisor
from beamnode.testing.peers import ErlNode, Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

CASES = int(os.environ.get("BEAMNODE_SUPERVISOR_CASES", "300"))

KID = r"""
-module(kid).
-export([init/1, start/3, log/2, run/1, all/1]).

init(Arg) -> {ok, Arg}.

start(Id, Kind, Plan) ->
    N = case get({n, Id}) of undefined -> 1; M -> M + 1 end,
    put({n, Id}, N),
    case if N =< length(Plan) -> lists:nth(N, Plan); true -> ok end of
        ok -> {ok, running(Id, Kind, N)};
        {info, Info} -> {ok, running(Id, Kind, N), Info};
        {exit, Reason} -> exit(Reason);
        Other -> Other
    end.

running(Id, Kind, N) ->
    Sup = self(),
    Pid = spawn_link(fun () -> process_flag(trap_exit, Kind =/= plain), Sup ! {ready, self()}, loop(Sup, Kind) end),
    receive {ready, Pid} -> ok end,
    collector ! {started, Sup, Id, N, Pid},
    receive {watched, Pid} -> Pid end.

loop(Sup, Kind) ->
    receive
        {crash, Reason} -> exit(Reason);
        {'EXIT', Sup, _} when Kind =/= stubborn -> exit(Kind);
        _ -> loop(Sup, Kind)
    end.

log(#{msg := {report, #{label := {supervisor, progress}}}}, _) -> ok;
log(#{msg := {report, #{label := {supervisor, Context}, report := Report}}}, _) ->
    {offender, Offender} = lists:keyfind(offender, 1, Report),
    {id, Id} = lists:keyfind(id, 1, Offender),
    {reason, Reason} = lists:keyfind(reason, 1, Report),
    collector ! {log, {Context, Id, Reason}};
log(_, _) -> ok.

collect(Log, Names) ->
    receive
        {started, Sup, Id, N, Pid} ->
            monitor(process, Pid),
            Sup ! {watched, Pid},
            collect([{start, Id, N} | Log], Names#{Pid => {kid, Id, N}});
        {'DOWN', _, process, Pid, Reason} ->
            {kid, Id, N} = maps:get(Pid, Names),
            collect([{stop, Id, N, Reason} | Log], Names);
        {log, Entry} -> collect([Entry | Log], Names);
        {take, From} -> From ! {lists:reverse(Log), Names}, collect([], Names)
    end.

take() -> collector ! {take, self()}, receive {Log, _} when is_list(Log) -> Log end.

all(Cases) ->
    _ = [logger:remove_handler(Id) || Id <- logger:get_handler_ids()],
    ok = logger:add_handler(kid, kid, #{}),
    [run(Case) || Case <- Cases].

run({Flags, Specs, Steps}) ->
    process_flag(trap_exit, true),
    Collector = spawn_link(fun () -> collect([], #{}) end),
    register(collector, Collector),
    Seen = case supervisor:start_link(kid, {Flags, Specs}) of
        {ok, Sup} ->
            Before = see(Sup),
            States = steps(Sup, Steps, Before, []),
            End = try gen_server:stop(Sup) catch exit:Reason -> Reason end,
            [Before | States] ++ [{End, receive {'EXIT', Sup, Why} -> Why end, take()}];
        Other ->
            [{Other, take()}]
    end,
    Collector ! {take, self()},
    Names = receive {_, Found} -> Found end,
    unregister(collector),
    unlink(Collector),
    exit(Collector, kill),
    receive {'EXIT', _, _} -> ok after 0 -> ok end,
    {Seen, maps:to_list(Names)}.

steps(_, [], _, States) -> lists:reverse(States);
steps(Sup, [Step | Steps], {_, Which, _, _}, States) ->
    Answer = try step(Sup, Step, Which) catch exit:_ -> dead end,
    {_, NewWhich, Count, Log} = see(Sup),
    State = {Answer, NewWhich, Count, Log},
    steps(Sup, Steps, State, [State | States]).

step(Sup, {call, Request}, _) -> gen_server:call(Sup, Request, infinity);
step(Sup, {together, Items}, Which) ->
    ok = sys:suspend(Sup),
    Sent = [item(Sup, Item, Which) || Item <- Items],
    ok = sys:resume(Sup),
    [answer(One) || One <- Sent].

item(Sup, {call, Request}, _) -> gen_server:send_request(Sup, Request);
item(_, {crash, Id, Reason}, Which) when is_list(Which) ->
    case [Pid || {Found, Pid, _, _} <- Which, Found =:= Id, is_pid(Pid)] of
        [Pid] ->
            M = monitor(process, Pid),
            case Reason of kill -> exit(Pid, kill); _ -> Pid ! {crash, Reason} end,
            receive {'DOWN', M, _, _, Why} -> {down, Why} end;
        [] -> none
    end;
item(_, {crash, _, _}, dead) -> none.

answer({down, Why}) -> {down, Why};
answer(none) -> none;
answer(Request) ->
    case gen_server:receive_response(Request, infinity) of
        {reply, Reply} -> Reply;
        {error, _} -> dead
    end.

see(Sup) ->
    Which = try gen_server:call(Sup, which_children, infinity) catch exit:_ -> dead end,
    case is_list(Which) andalso lists:keymember(restarting, 2, Which) of
        true -> erlang:yield(), see(Sup);
        false ->
            Ask = fun(Request) -> try gen_server:call(Sup, Request, infinity) catch exit:_ -> dead end end,
            Specs = [Ask({get_childspec, Id}) || is_list(Which), {Id, _, _, _} <- Which],
            {none, Which, {Ask(count_children), Specs}, take()}
    end.
"""

COMPILE = """
{ok, Tokens, _} = erl_scan:string(binary_to_list(Text)),
Split = fun F([], [], Forms) -> lists:reverse(Forms);
            F([{dot, _} = Dot | Rest], Form, Forms) ->
                {ok, Parsed} = erl_parse:parse_form(lists:reverse([Dot | Form])), F(Rest, [], [Parsed | Forms]);
            F([Token | Rest], Form, Forms) -> F(Rest, [Token | Form], Forms) end,
{ok, Module, Code} = compile:forms(Split(Tokens, [], [])),
{module, Module} = code:load_binary(Module, "kid.erl", Code)
"""


@pytest.fixture(scope="module")
def erl(otp: Otp) -> Iterator[ErlNode]:
    with ErlNode.start(otp, extra_args=("+S", "1:1")) as node:
        node.eval(COMPILE, 30, Text=KID.encode())
        yield node


# --- Random cases -----------------------------------------------------------------------------------------------------

IDS: list[Any] = [a.one, a.two, (a.three, 3), 4, 4.0, b"five"]
ENDS: list[Any] = [a.normal, a.shutdown, (a.shutdown, a.because), a.boom, (a.boom, 1), a.kill]
FAILURES: list[Any] = [a.ignore, (a.error, a.no), (a.exit, a.never), (a.exit, a.normal), a.what, (a.info, a.more)]


class Cases:
    """Draws cases from a seed."""

    def __init__(self, seed: int, release: int) -> None:
        self.random = random.Random(seed)
        self.calls = [a.start_child, a.terminate_child, a.restart_child, a.delete_child]
        if release >= 28:  # older ones know no `which_child`, and end
            self.calls.append(a.which_child)

    def case(self) -> Any:
        draw = self.random
        auto = draw.choice([a.never, a.never, a.any_significant, a.all_significant])
        flags = {
            a.strategy: draw.choice([a.one_for_one, a.one_for_all, a.rest_for_one]),
            a.intensity: draw.randint(0, 5),
            a.period: 1000,
            a.auto_shutdown: auto,
        }
        ids = draw.sample(IDS, draw.randint(0, 5))
        specs = [self.spec(id, auto, start=draw.random() < 0.9) for id in ids]
        if specs and draw.random() < 0.02:
            specs.append(specs[0])  # twice the same id
        return flags, specs, [self.step(auto) for _ in range(draw.randint(1, 7))]

    def spec(self, id: Any, auto: Atom, *, start: bool) -> dict[Atom, Any]:
        draw = self.random
        restart = draw.choice([a.permanent, a.transient, a.temporary])
        significant = auto is not a.never and restart is not a.permanent and draw.random() < 0.6
        kind = draw.choice([a.plain, a.plain, a.shutdown, a.normal, a.odd, (a.shutdown, a.done), a.stubborn])
        shutdown = draw.choice([a.brutal_kill, 1, 2] if kind is a.stubborn else [a.brutal_kill, a.infinity, 60_000])
        plan = [a.ok] * start + [draw.choice([a.ok, *FAILURES]) for _ in range(draw.randint(0, 2))]
        spec = {
            a.id: id,
            a.start: (a.kid, a.start, [id, kind, plan]),
            a.restart: restart,
            a.shutdown: shutdown,
            a.significant: significant,
            a.type: draw.choice([a.worker, a.worker, a.supervisor]),
        }
        if draw.random() < 0.3:
            del spec[draw.choice([a.restart, a.type, a.significant])]
        if spec.get(a.significant) and a.restart not in spec:
            spec[a.restart] = restart
        if draw.random() < 0.3:
            spec[a.modules] = draw.choice([a.dynamic, [a.kid, a.other], []])
        if draw.random() < 0.03:
            spec[draw.choice([a.restart, a.shutdown, a.type, a.significant, a.modules, a.start])] = a.wrong
        if draw.random() < 0.01:
            del spec[draw.choice([a.id, a.start])]
        return spec

    def step(self, auto: Atom) -> Any:
        draw = self.random
        if draw.random() < 0.4:
            return self.call(auto)
        items = [self.crash() if draw.random() < 0.7 else self.call(auto) for _ in range(draw.randint(1, 4))]
        return (a.together, items)

    def crash(self) -> Any:
        return (a.crash, self.random.choice(IDS), self.random.choice(ENDS))

    def call(self, auto: Atom) -> Any:
        draw = self.random
        id = draw.choice(IDS)
        what = draw.choice(self.calls)
        if what is a.start_child:
            spec: Any = self.spec(id, auto, start=draw.random() < 0.7)
            if draw.random() < 0.2 and not spec.get(a.significant) and a.start in spec:
                kind = spec.get(a.type, a.worker)
                spec = (id, spec[a.start], spec.get(a.restart, a.permanent), spec.get(a.shutdown, 1000), kind, [])
            return (a.call, (what, spec))
        return (a.call, draw.choice([(what, id), (what, id), a.which_children, a.count_children]))


def _significant(id: Any, *plan: Any) -> dict[Atom, Any]:
    start = (a.kid, a.start, [id, a.plain, [a.ok, *plan]])
    return {a.id: id, a.start: start, a.restart: a.transient, a.significant: True}


CHOSEN: list[Any] = [  # rare ones: while a restart is tried again, a significant child ends, and calls are there
    (
        {a.strategy: strategy, a.intensity: 3, a.period: 1000, a.auto_shutdown: a.all_significant},
        [_significant(a.one, (a.error, a.no), (a.error, a.no)), _significant(a.two)],
        [(a.together, [(a.crash, a.one, a.boom), (a.crash, a.two, a.normal), *((a.call, call) for call in calls)])],
    )
    for strategy in (a.one_for_one, a.rest_for_one, a.one_for_all)
    for calls in [
        [a.which_children, a.count_children],
        [(a.restart_child, a.one), (a.delete_child, a.one), (a.start_child, _significant(a.one))],
        [(a.terminate_child, a.one), a.which_children, (a.restart_child, a.one), (a.delete_child, a.one)],
    ]
]


# --- Here -------------------------------------------------------------------------------------------------------------


class Here:
    """The same run, with our supervisor; `kid:start/3` is exposed, for children whose start is `{M, F, A}`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (supervision, supervisor_server):
            monkeypatch.setattr(module, "report", self.report)

    def report(self, context: Atom, _supervisor: str, child: supervision.Child, reason: Any) -> None:
        send(self.collector, (a.log, (context, child.spec.id, reason)))

    async def start(self, id: Any, kind: Any, plan: list[Any]) -> Any:
        key = repr(id)
        number = self.starts[key] = self.starts.get(key, 0) + 1
        match plan[number - 1] if number <= len(plan) else a.ok:
            case a.ok:
                return (a.ok, await self.running(id, kind, number))
            case (a.info, info):
                return (a.ok, await self.running(id, kind, number), info)
            case (a.exit, reason):
                raise ProcessExit(reason)
            case other:
                return other

    async def running(self, id: Any, kind: Any, number: int) -> Pid:
        pid: Pid = await proc_lib.start(_loop, own_pid(), kind, link=True)
        self.names[pid] = (a.kid, id, number)
        send(self.collector, (a.started, id, number, pid))
        runtime = current_body().runtime
        collector = runtime.signals.lookup(self.collector)
        assert collector is not None
        runtime.signals.monitor(collector, pid)
        return pid

    async def run(self, case: Any) -> Any:
        flags, specs, steps = case
        self.names: dict[Pid, Any] = {}
        self.starts: dict[str, int] = {}
        self.collector = spawn(self.collect)
        supervisor: Any = None

        class Case(Supervisor):
            def init(self) -> Any:
                return Supervisor.init(
                    specs,
                    strategy=flags[a.strategy],
                    max_restarts=flags[a.intensity],
                    max_seconds=flags[a.period],
                    auto_shutdown=flags[a.auto_shutdown],
                )

        try:
            supervisor = await Case.start_link()
        except StartFailed as failed:
            seen: list[Any] = [((a.error, failed.reason), await self.take())]
        else:
            state = await self.see(supervisor)
            seen = [state]
            for step in steps:
                try:
                    answer = await self.step(supervisor, step, state[1])
                except ProcessExit:
                    answer = a.dead
                state = (answer, *(await self.see(supervisor))[1:])
                seen.append(state)
            end: Any = a.ok
            try:
                await GenServer.stop(supervisor)
            except ProcessExit as error:
                end = error.reason
            why = (await receive(lambda got: got[0] is a.EXIT and got[1] == supervisor, timeout=5))[2]
            seen.append((end, why, await self.take()))
        exit(self.collector, a.kill)
        return seen, list(self.names.items())

    async def step(self, supervisor: Pid, step: Any, which: Any) -> Any:
        kind, what = step
        if kind is a.call:
            return await GenServer.call(supervisor, what, None)
        await sys.suspend(supervisor)
        sent = [await self.item(supervisor, item, which) for item in what]
        await sys.resume(supervisor)
        return [await self.answer(one) for one in sent]

    async def item(self, supervisor: Pid, item: Any, which: Any) -> Any:
        if item[0] is a.call:
            return GenServer.send_request(supervisor, item[1])
        _, id, reason = item
        pids = [child[1] for child in which if same(child[0], id) and isinstance(child[1], Pid)] if which else []
        if which is a.dead or not pids:
            return a.none
        reference = monitor(pids[0])
        if reason is a.kill:
            exit(pids[0], a.kill)
        else:
            send(pids[0], (a.crash, reason))
        return (a.down, (await receive(lambda got: got[1] == reference, timeout=5))[4])

    async def answer(self, sent: Any) -> Any:
        if not isinstance(sent, Reference):
            return sent
        try:
            return await GenServer.receive_response(sent, 10)
        except ProcessExit:
            return a.dead

    async def see(self, supervisor: Pid) -> Any:
        while True:
            which = await self.ask(supervisor, a.which_children)
            if which is a.dead or all(child[1] is not a.restarting for child in which):
                break
            await asyncio.sleep(0)
        count = await self.ask(supervisor, a.count_children)
        specs = [
            await self.ask(supervisor, (a.get_childspec, child[0])) for child in ([] if which is a.dead else which)
        ]
        return (a.none, which, (count, specs), await self.take())

    async def ask(self, supervisor: Pid, request: Any) -> Any:
        try:
            return await GenServer.call(supervisor, request, None)
        except ProcessExit:
            return a.dead

    async def take(self) -> Any:
        return await GenServer.call(self.collector, a.take)

    async def collect(self) -> None:
        log: list[Any] = []
        while True:
            match await receive():
                case (a.started, id, number, _):
                    log.append((a.start, id, number))
                case (a.DOWN, _, a.process, pid, reason):
                    log.append((a.stop, *self.names[pid][1:], reason))
                case (a.log, entry):
                    log.append(entry)
                case (_, sender, a.take):
                    GenServer.reply(sender, log)
                    log = []


async def _loop(acknowledge: Any, parent: Pid, kind: Any) -> None:
    trap_exit(kind is not a.plain)
    acknowledge(own_pid())
    while True:
        match await receive():
            case (a.crash, reason):
                exit(reason)
            case (a.EXIT, pid, _) if pid == parent and kind is not a.stubborn:
                exit(kind)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def shown(term: Any, names: dict[Any, Any]) -> Any:
    """The term with names instead of pids, as text: `4` and `4.0` are not the same."""
    match term:
        case Pid():
            return names.get(term, "a pid")
        case tuple():
            return tuple(shown(part, names) for part in term)
        case list():
            return [shown(part, names) for part in term]
        case dict():
            return sorted((repr(key), shown(value, names)) for key, value in term.items())
    return repr(term)


def test_random_cases(
    otp: Otp, erl: ErlNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "beamnode")
    seed = int(os.environ.get("BEAMNODE_SUPERVISOR_SEED", "0")) or time.time_ns()
    cases = Cases(seed, otp.release)
    drawn = [*CHOSEN, *(cases.case() for _ in range(CASES))]
    theirs = erl.eval("kid:all(Cases)", 120, Cases=drawn)

    async def main() -> list[Any]:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)) as node:
            here = Here(monkeypatch)
            node.expose(here.start, module="kid", name="start")
            trap_exit()
            return [await here.run(case) for case in drawn]

    ours = asyncio.run(main())
    assert len(theirs) == len(ours) == len(drawn)
    for number, (case, there, here) in enumerate(zip(drawn, theirs, ours, strict=True)):
        expected, got = (shown(seen, dict(names)) for seen, names in (there, here))
        for step, (want, have) in enumerate(zip_longest(expected, got)):
            if have != want:
                lines = [f"seed {seed}, case {number}, step {step} of", *map(repr, case), "theirs:", repr(want)]
                pytest.fail("\n".join([*lines, "ours:", repr(have)]), pytrace=False)
