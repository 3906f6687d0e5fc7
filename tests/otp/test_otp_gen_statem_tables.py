"""Random machines: a table of what a state does with an event, run by gen_statem of OTP 25, 27, 29 and by ours.

Both tell which state function was called with what, in order, who was answered what, in order, what `terminate` got,
and what `sys` has logged. Times are zero or a minute: what happens depends on no clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from beamnode import Atom, FixedPort, Node, Pid, ProcessExit, a, receive, self, send, trap_exit
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import sys
from beamnode.otp.gen_statem import (
    CancelTimeout,
    EventTimeout,
    GenericTimeout,
    GenStatem,
    KeepState,
    NextEvent,
    NextState,
    Postpone,
    RepeatState,
    ReplyTo,
    StateTimeout,
    Stop,
    StopAndReply,
    UpdateTimeout,
)
from beamnode.testing.peers import ErlNode, Otp

pytestmark = [pytest.mark.otp, pytest.mark.filterwarnings("error")]

CASES = 400
CALLS_MAX = 80  # of one machine; afterwards it keeps its state and does nothing
LONG = 60_000  # milliseconds

STATES = (a.s0, a.s1, a.s2)
CONTENTS = (0, 1, 2)
TIMEOUTS = (a.timeout, a.state_timeout, (a.timeout, a.one), (a.timeout, 2))
TYPES = (a.call, a.cast, a.info, a.internal, *TIMEOUTS)

TABLED = r"""
{module, tabled, Code} = begin
    Parse = fun (Text) -> {ok, Ts, _} = erl_scan:string(Text), {ok, Form} = erl_parse:parse_form(Ts), Form end,
    Forms = [Parse(Text) || Text <- [
        "-module(tabled).",
        "-export([init/1, callback_mode/0, handle_event/4, s0/3, s1/3, s2/3, terminate/3, run/2]).",
        "callback_mode() -> get(mode).",
        "init({Mode, Table, Left, Owner, State, Actions}) -> put(mode, Mode), "
        "    {ok, State, {Table, Left, Owner, []}, [action(A, none) || A <- Actions]}.",
        "s0(T, C, D) -> handle_event(T, C, s0, D).",
        "s1(T, C, D) -> handle_event(T, C, s1, D).",
        "s2(T, C, D) -> handle_event(T, C, s2, D).",
        "handle_event(cast, finish, _, _) -> stop;"
        "handle_event(Type, Content, State, {Table, Left, Owner, Seen}) -> "
        "    Plain = case Type of {call, _} -> call; _ -> Type end, "
        "    Data = {Table, Left - 1, Owner, [{Plain, Content, State} | Seen]}, "
        "    case maps:get({State, Plain, Content}, Table, keep) of "
        "        _ when Left =< 0 -> {keep_state, Data}; "
        "        keep -> {keep_state, Data}; "
        "        {keep, As} -> {keep_state, Data, actions(As, Type)}; "
        "        {repeat, As} -> {repeat_state, Data, actions(As, Type)}; "
        "        {next, Next, As} -> {next_state, Next, Data, actions(As, Type)}; "
        "        {stop, Reason} -> {stop, Reason, Data}; "
        "        {stop_and_reply, Reason, As} -> {stop_and_reply, Reason, actions(As, Type), Data}; "
        "        crash -> put(seen, element(4, Data)), error(crashed) "
        "    end.",
        "actions(As, Type) -> [action(A, Type) || A <- As, element(1, A) =/= reply orelse is_call(Type)].",
        "is_call({call, _}) -> true; is_call(_) -> false.",
        "action({reply, Value}, {call, From}) -> {reply, From, Value};"
        "action({postpone}, _) -> postpone;"
        "action({hibernate}, _) -> hibernate;"
        "action({cancel, Type}, _) -> {Type, cancel};"
        "action({update, Type, Content}, _) -> {Type, update, Content};"
        "action(Action, _) -> Action.",
        "terminate(Reason, State, {_, _, Owner, Seen}) -> "
        "    All = case get(seen) of undefined -> Seen; Later -> Later end, "
        "    End = case Reason of normal -> normal; {shutdown, _} -> Reason; _ -> crashed end, "
        "    Owner ! {ended, End, State, lists:reverse(All)}.",
        "run({Mode, Table, State, Actions, Events, Finish}, Left) -> "
        "    {ok, Pid} = gen_statem:start(tabled, {Mode, Table, Left, self(), State, Actions}, []), "
        "    try sys:log(Pid, {true, 1000}) catch exit:_ -> ok end, "
        "    [Pid ! message(E) || E <- Events], "
        "    Log = try sys:log(Pid, get) of {ok, L} -> L catch exit:_ -> ended end, "
        "    [gen_statem:cast(Pid, finish) || Finish], "
        "    collect([], [plain(E) || Log =/= ended, E <- Log]).",
        "plain({out, Reply, _}) -> {out, Reply};"
        "plain({What, {{call, _}, C}, State}) -> {What, {call, C}, State};"
        "plain({What, {{call, _}, C}, State, Next}) -> {What, {call, C}, State, Next};"
        "plain(E) -> E.",
        "message({call, Tag, Content}) -> {'$gen_call', {self(), {reply, Tag}}, Content};"
        "message({cast, Content}) -> {'$gen_cast', Content};"
        "message({info, Content}) -> Content.",
        "collect(Replies, Log) -> receive "
        "    {{reply, Tag}, Value} -> collect([{Tag, Value} | Replies], Log); "
        "    {ended, End, State, Seen} -> {End, State, Seen, lists:reverse(Replies), Log} "
        "    after 10000 -> {silent, lists:reverse(Replies)} end."]],
    {ok, Module, Binary} = compile:forms(Forms),
    {Loaded, Module} = code:load_binary(Module, "tabled.erl", Binary),
    logger:set_primary_config(level, none),
    {Loaded, Module, Binary}
end, byte_size(Code) > 0
"""


# --- Random tables ----------------------------------------------------------------------------------------------------


class Tables:
    """Machines at random. Where `mixed` is false, a type of time-out is always zero or always long in one machine.

    OTP before 29 loses a long time-out that replaces one of zero that is still to come (it arrives as an `info`).
    """

    def __init__(self, seed: int, *, mixed: bool) -> None:
        self.random = random.Random(seed)
        self.mixed = mixed

    def case(self) -> tuple[Any, ...]:
        """`{Mode, Table, State, Actions, Events, Finish}`: whether it is told to end after the events."""
        choose = self.random
        self.zeros = {kind: choose.random() < 0.6 for kind in TIMEOUTS}
        mode = choose.choice((a.handle_event_function, a.state_functions))
        table: dict[Any, Any] = {}
        for state in STATES:
            for kind in TYPES:
                for content in CONTENTS:
                    table[state, kind, content] = self.result(kind, enters=False)
            for old in STATES:
                table[state, a.enter, old] = self.result(a.enter, enters=True, state=state)
        events = [self.event(number) for number in range(choose.randint(3, 12))]
        modes = [mode, a.state_enter] if choose.random() < 0.7 else mode
        return modes, table, choose.choice(STATES), self.actions(2), events, True

    def event(self, number: int) -> Any:
        content = self.random.choice(CONTENTS)
        kind = self.random.choice((a.call, a.cast, a.info))
        return (kind, number, content) if kind is a.call else (kind, content)

    def result(self, kind: Any, *, enters: bool, state: Atom | None = None) -> Any:
        choose = self.random
        actions = self.actions(3, reply=kind is a.call, enters=enters)
        what = choose.random()
        if what < 0.01:
            return a.crash
        if what < 0.02:
            return (a.stop, (a.shutdown, choose.choice(CONTENTS)))
        if what < 0.03:
            return (a.stop_and_reply, a.normal, [(a.reply, 7), (a.reply, 8)] if kind is a.call else [])
        if what < 0.07 or (what < 0.12 and not enters):
            return (a.repeat, actions)
        if what < 0.55 and not enters:
            return (a.next, choose.choice(STATES), actions)
        if enters and what < 0.2:
            return (a.next, state, actions)
        return (a.keep, actions)

    def actions(self, count: int, *, reply: bool = False, enters: bool = False) -> list[Any]:
        choose = self.random
        actions = [self.action(enters) for _ in range(choose.randint(0, count))]
        if reply and choose.random() < 0.8:
            actions.insert(choose.randint(0, len(actions)), (a.reply, choose.choice(CONTENTS)))
        return actions

    def action(self, enters: bool) -> Any:
        choose = self.random
        content = choose.choice(CONTENTS)
        kinds = [a.time, a.time, a.time, a.cancel, a.update, a.hibernate, a.taken_back]
        if not enters:
            kinds += [a.postpone, a.postpone, a.next_event, a.next_event]
        kind = choose.choice(TIMEOUTS)
        match choose.choice(kinds):
            case a.time:
                time = 0 if (choose.random() < 0.6 if self.mixed else self.zeros[kind]) else LONG
                return (kind, time, content)
            case a.cancel:
                return (a.cancel, kind)
            case a.update:  # of a time-out that does not run it makes one of zero
                return (a.update, kind, content) if self.mixed or self.zeros[kind] else (a.hibernate,)
            case a.taken_back:
                return (a.postpone, False)
            case a.next_event:
                event = choose.choice((a.cast, a.info, a.internal, *TIMEOUTS))
                return (a.next_event, event, content)
            case plain:
                return (plain,)


# --- Ours -------------------------------------------------------------------------------------------------------------


class Tabled(GenStatem):
    def callback_mode(self) -> Any:  # type: ignore[override]
        return self.mode

    def init(self, mode: Any, table: Any, left: int, owner: Any, state: Atom, actions: list[Any]) -> Any:
        self.mode, self.table, self.left, self.owner = mode, table, left, owner
        self.seen: list[Any] = []
        return NextState(state, *(as_action(action, None) for action in actions))

    def s0(self, kind: Any, content: Any) -> Any:
        return self.handle_event(kind, content, a.s0)

    async def s1(self, kind: Any, content: Any) -> Any:
        return self.handle_event(kind, content, a.s1)

    def s2(self, kind: Any, content: Any) -> Any:
        return self.handle_event(kind, content, a.s2)

    def handle_event(self, kind: Any, content: Any, state: Any) -> Any:
        if content is a.finish:
            return Stop()
        plain = Atom(kind) if isinstance(kind, str) else a.call if kind[0] == "call" else (a.timeout, kind[1])
        self.seen.append((plain, content, state))
        self.left -= 1
        if self.left < 0:
            return None
        sender = kind[1] if plain is a.call else None
        match self.table.get((state, plain, content)):
            case (a.keep, actions):
                return KeepState(*as_actions(actions, sender))
            case (a.repeat, actions):
                return RepeatState(*as_actions(actions, sender))
            case (a.next, next_state, actions):
                return NextState(next_state, *as_actions(actions, sender))
            case (a.stop, reason):
                raise Stop(reason)
            case (a.stop_and_reply, reason, actions):
                return StopAndReply(reason, *as_actions(actions, sender))
            case a.crash:
                raise RuntimeError("crashed")

    def terminate(self, reason: Any, state: Any) -> None:
        end = reason if reason is a.normal or (len(reason) == 2 and reason[0] is a.shutdown) else a.crashed
        send(self.owner, (a.ended, end, state, self.seen))


def as_actions(actions: list[Any], sender: Any) -> list[Any]:
    return [as_action(action, sender) for action in actions if action[0] is not a.reply or sender is not None]


def as_action(action: Any, sender: Any) -> Any:
    match action:
        case (a.reply, value):
            return ReplyTo(sender, value)
        case (a.postpone,):
            return Postpone()
        case (a.postpone, flag):
            return Postpone(flag)
        case (a.hibernate,):
            return a.hibernate
        case (a.cancel, kind):
            return CancelTimeout(kind)
        case (a.update, kind, content):
            return UpdateTimeout(kind, content)
        case (a.next_event, kind, content):
            return NextEvent(kind, content)
        case (a.timeout, time, content):
            return EventTimeout(time / 1000, content)
        case (a.state_timeout, time, content):
            return StateTimeout(time / 1000, content)
        case ((a.timeout, name), time, content):
            return GenericTimeout(name, time / 1000, content)
    raise AssertionError(action)


async def run_here(case: Any) -> Any:
    mode, table, state, actions, events, finish = case
    pid = await Tabled.start(mode, table, CALLS_MAX, self(), state, actions)
    log = await log_of(pid, events)
    if finish:
        GenStatem.cast(pid, a.finish)
    replies: list[Any] = []
    while True:
        match await receive(timeout=10):
            case ((a.reply, tag), value):
                replies.append((tag, value))
            case (a.ended, end, last, seen):
                return end, last, seen, replies, log


async def log_of(pid: Pid, events: list[Any]) -> list[Any]:
    """Send the events; what the machine has logged after them, nothing if it has ended."""
    try:
        await sys.start_log(pid, 1000)
        send_all(pid, events)
        return [plain(event) for event in await sys.get_log(pid)]
    except ProcessExit:
        return []


def send_all(pid: Pid, events: list[Any]) -> None:
    for event in events:
        match event:
            case (a.call, tag, content):
                send(pid, (Atom("$gen_call"), (self(), (a.reply, tag)), content))
            case (a.cast, content):
                send(pid, (Atom("$gen_cast"), content))
            case (a.info, content):
                send(pid, content)


def plain(event: Any) -> Any:
    """An event of the log without who called."""
    match event:
        case (a.out, reply, _):
            return (a.out, reply)
        case (what, ((a.call, _), content), *states):
            return (what, (a.call, content), *states)
    return event


async def run_all_here(cases: list[Any]) -> list[Any]:
    carrier = MemoryNetwork().carrier("h")
    async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
        trap_exit()
        return [await run_here(case) for case in cases]


# --- Both -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def erl(otp: Otp) -> Iterator[ErlNode]:
    with ErlNode.start(otp) as node:
        assert node.eval(TABLED) is True
        yield node


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_machine_does_what_otp_does(
    erl: ErlNode, otp: Otp, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    tables = Tables(seed, mixed=otp.release >= 29)
    cases = [tables.case() for _ in range(CASES)]
    theirs = erl.eval("[tabled:run(C, Left) || C <- Cases]", 60, Cases=cases, Left=CALLS_MAX)
    caplog.set_level("CRITICAL")
    ours = asyncio.run(run_all_here(cases))
    for number, case in enumerate(cases):
        assert ours[number] == theirs[number], f"case {number} of seed {seed}: {case}"
    calls = [len(seen) for _, _, seen, *_ in ours]
    kinds = {kind for _, _, seen, *_ in ours for kind, _, _ in seen}
    assert kinds == {*TYPES, a.enter}
    assert sum(calls) > 5 * CASES
    assert sum(bool(log) for *_, log in ours) > CASES / 4
    assert {end for end, *_ in ours} >= {a.normal, a.crashed}


GAP = 100  # milliseconds between what must come one after the other


def test_time_outs_that_run_off_come_as_in_otp(erl: ErlNode) -> None:
    """Time-outs of all types, some cancelled by what comes before them, each `GAP` from the next."""
    one, two = TIMEOUTS[2:]
    table = {
        # after 1 gap: the event cancels the event time-out, the change the state time-out
        (a.s0, one, 0): (a.next, a.s1, [(a.timeout, GAP, 0), (a.update, two, 2)]),
        # after 2: restarted from the enter call of s1, which came before this
        (a.s1, a.enter, a.s0): (a.keep, [(a.state_timeout, 3 * GAP, 1)]),
        (a.s1, a.timeout, 0): (a.keep, [(one, 4 * GAP, 1)]),
        # after 3
        (a.s1, two, 2): (a.repeat, []),
        # after 4
        (a.s1, a.state_timeout, 1): (a.keep, [(a.postpone,), (a.timeout, GAP, 2)]),
        # after 5
        (a.s1, a.timeout, 2): (a.keep, [(one, 0, 2)]),
        (a.s1, one, 2): (a.next, a.s2, []),
        (a.s2, a.state_timeout, 1): (a.stop, (a.shutdown, 0)),
    }
    actions = [(one, GAP, 0), (a.state_timeout, 2 * GAP, 0), (a.timeout, 2 * GAP, 1), (two, 3 * GAP, 1)]
    case = ([a.state_functions, a.state_enter], table, a.s0, actions, [], False)
    theirs = erl.eval("tabled:run(C, Left)", 60, C=case, Left=CALLS_MAX)
    assert asyncio.run(run_all_here([case])) == [theirs]
    end, state, seen, _, _ = theirs
    assert (end, state) == ((a.shutdown, 0), a.s2)
    assert seen == [
        (a.enter, a.s0, a.s0),
        (one, 0, a.s0),
        (a.enter, a.s0, a.s1),
        (a.timeout, 0, a.s1),
        (two, 2, a.s1),
        (a.enter, a.s1, a.s1),
        (a.state_timeout, 1, a.s1),
        (a.timeout, 2, a.s1),
        (one, 2, a.s1),
        (a.enter, a.s1, a.s2),
        (a.state_timeout, 1, a.s2),
    ]
