"""The rules of `Signals` against OTP's own: a scenario of local processes has the same effects here and in `erl`.

A scenario is a list of steps, each done by one of the processes. After each step both sides tell what it returned, and
of every process its mailbox or the reason that it ended with. In `erl` each process is an interpreter of steps which
leaves all other messages in its mailbox; there is one scheduler, so that an end is told to all before others run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_signals import inbox, new_signals, spawn

from beamnode.core.process import AliasKind, Process
from beamnode.core.signals import Signals
from beamnode.errors import NameTakenError, NoProcessError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.testing.peers import ErlNode, Otp

pytestmark = pytest.mark.otp

NODE = Atom("nonode@nohost")
PROCESSES = 4

RUN = """
Do = fun
    ({link, P}) -> try link(P) catch error:noproc -> noproc end;
    ({unlink, P}) -> unlink(P);
    ({monitor, T}) -> {ref, monitor(process, T)};
    ({monitor, T, Kind}) -> {ref, monitor(process, T, [{alias, Kind}])};
    ({monitor_tag, T, Tag}) -> {ref, monitor(process, T, [{tag, Tag}])};
    ({demonitor, R, false}) -> demonitor(R, [info]);
    ({demonitor, R, true}) -> demonitor(R, [info, flush]);
    ({alias, Kind}) -> {ref, alias([Kind])};
    ({unalias, R}) -> unalias(R);
    ({send, T, M}) -> try T ! M catch error:badarg -> badarg end;
    ({exit, P, Reason}) -> exit(P, Reason);
    ({stop, Reason}) -> exit(Reason);
    ({trap, Flag}) -> process_flag(trap_exit, Flag);
    ({register, Name, P}) -> try register(Name, P) catch error:badarg -> badarg end;
    ({unregister, Name}) -> try unregister(Name) catch error:badarg -> badarg end
end,
Body = fun Loop() ->
    receive
        {do, From, Tag, Step} -> From ! {Tag, Do(Step)}, Loop();
        {sync, From, Tag} -> From ! {Tag, ok}, Loop()
    end
end,
Ask = fun(P, Message, Tag) ->
    M = monitor(process, P),
    P ! Message,
    receive
        {Tag, Result} -> demonitor(M, [flush]), Result;
        {'DOWN', M, _, _, _} -> dead
    end
end,
See = fun(P, M) ->
    case process_info(P, messages) of
        {messages, Messages} -> {alive, Messages};
        undefined -> receive {'DOWN', M, _, _, Reason} -> self() ! {'DOWN', M, process, P, Reason}, {ended, Reason} end
    end
end,
Replace = fun
    R({process, N}, Ps, Rs) -> element(1, lists:nth(N + 1, Ps));
    R({ref, N}, Ps, Rs) -> lists:nth(N rem length(Rs) + 1, Rs);
    R(T, Ps, Rs) when is_tuple(T) -> list_to_tuple([R(E, Ps, Rs) || E <- tuple_to_list(T)]);
    R(T, _, _) -> T
end,
Run = fun(Count, Steps) ->
    Ps = [spawn_monitor(Body) || _ <- lists:seq(1, Count)],
    OneStep = fun({N, Step}, {Rs, Seen}) ->
        {P, _} = lists:nth(N + 1, Ps),
        Tag = make_ref(),
        Result = Ask(P, {do, self(), Tag, Replace(Step, Ps, Rs)}, Tag),
        [begin T = make_ref(), Ask(Q, {sync, self(), T}, T) end || _ <- Ps, {Q, _} <- Ps],
        NewRs = case Result of {ref, R} -> Rs ++ [R]; _ -> Rs end,
        {NewRs, [{Result, [See(Q, M) || {Q, M} <- Ps]} | Seen]}
    end,
    {Refs, Seen} = lists:foldl(OneStep, {[make_ref()], []}, Steps),
    [exit(P, kill) || {P, _} <- Ps],
    [receive {'DOWN', M, _, _, _} -> ok end || {_, M} <- Ps],
    {[P || {P, _} <- Ps], Refs, lists:reverse(Seen)}
end,
ok
"""


@pytest.fixture(scope="module")
def erl(otp: Otp) -> Iterator[ErlNode]:
    with ErlNode.start(otp, extra_args=("+S", "1:1")) as node:
        node.eval(RUN)
        yield node


# --- Here -------------------------------------------------------------------------------------------------------------


class Here:
    """The same interpreter on `Signals`."""

    def __init__(self) -> None:
        self.signals = new_signals(NODE)
        self.processes = [spawn(self.signals) for _ in range(PROCESSES)]
        self.references = [self.signals.identities.next_reference()]

    def run(self, steps: list[Any]) -> tuple[list[Pid], list[Reference], list[Any]]:
        seen = []
        for number, step in steps:
            process = self.processes[number]
            result = self.do(process, self.replaced(step)) if process.alive else a.dead
            if isinstance(result, tuple):
                self.references.append(result[1])
            seen.append((result if process.alive else a.dead, [self.see(one) for one in self.processes]))
        return [process.pid for process in self.processes], self.references, seen

    def replaced(self, step: Any) -> Any:
        match step:
            case (a.process, int(number)):
                return self.processes[number].pid
            case (a.ref, int(number)):
                return self.references[number % len(self.references)]
            case tuple():
                return tuple(self.replaced(element) for element in step)
            case _:
                return step

    @staticmethod
    def see(process: Process) -> Any:
        if process.alive:
            return (a.alive, list(process.mailbox))
        return (a.ended, process.exit_reason)

    def do(self, process: Process, step: Any) -> Any:
        """What the BIF of that name would return; an exception of ours as the error that it stands for."""
        signals = self.signals
        match step:
            case (a.monitor, target):
                return (a.ref, signals.monitor(process, target))
            case (a.monitor, target, kind):
                return (a.ref, signals.monitor(process, target, alias=AliasKind(str(kind))))
            case (a.monitor_tag, target, tag):
                return (a.ref, signals.monitor(process, target, tag=tag))
            case (a.demonitor, reference, flush):
                return signals.demonitor(process, reference, flush=flush)
            case (a.alias, kind):
                return (a.ref, signals.alias(process, AliasKind(str(kind))))
            case (a.unalias, reference):
                return signals.unalias(process, reference)
            case (a.trap, flag):
                before, process.trap_exit = process.trap_exit, flag
                return before
            case (a.link, pid):
                try:
                    signals.link(process, pid)
                except NoProcessError:
                    return a.noproc
            case (a.unlink, pid):
                signals.unlink(process, pid)
            case (a.exit, pid, reason):
                signals.exit(process.pid, pid, reason)
            case (a.stop, reason):
                signals.end(process, reason)
            case (a.send, to, message):
                return self.send(to, message)
            case (a.register, name, pid):
                return self.register(name, pid)
            case (a.unregister, name):
                try:
                    signals.unregister(name)
                except NoProcessError:
                    return a.badarg
            case _:
                raise AssertionError(step)
        return True

    def send(self, to: Pid | Reference | Atom, message: Any) -> Any:
        if isinstance(to, Pid):
            self.signals.deliver_to_pid(to, message)
        elif isinstance(to, Reference):
            self.signals.deliver_to_alias(to, message)
        else:
            receiver = self.signals.whereis(to)
            if receiver is None:
                return a.badarg
            self.signals.deliver(receiver, message)
        return message

    def register(self, name: Atom, pid: Pid) -> Any:
        target = self.signals.lookup(pid)
        if target is None:
            return a.badarg
        try:
            self.signals.register(name, target)
        except (UsageError, NameTakenError):
            return a.badarg
        return True


def told(run: tuple[list[Pid], list[Reference], list[Any]]) -> list[Any]:
    """A run with pids and references by their numbers, and the messages of a mailbox in one order.

    Those of different senders come in any order. A step that its process does not survive has no result.
    """
    pids, references, seen = run
    number = {pid: (a.process, index) for index, pid in enumerate(pids)}
    number |= {reference: (a.ref, index) for index, reference in enumerate(references)}

    def plain(term: Any) -> Any:
        if isinstance(term, list):
            return sorted(map(plain, term), key=repr)
        if isinstance(term, tuple):
            return tuple(plain(element) for element in term)
        return number.get(term, term) if isinstance(term, Pid | Reference) else term

    return [plain(step) for step in seen]


def both(erl: ErlNode, steps: list[Any]) -> list[Any]:
    """What both sides tell, which must be the same; the result is that."""
    pids, references, seen = erl.eval("Run(Count, Steps)", Count=PROCESSES, Steps=steps)
    survived = [
        (result if state[number][0] is a.alive else a.dead, state)
        for (number, _), (result, state) in zip(steps, seen, strict=True)
    ]
    theirs = told((pids, references, survived))
    ours = told(Here().run(steps))
    assert len(ours) == len(theirs) == len(steps)
    for step, our_step, their_step in zip(steps, ours, theirs, strict=True):
        assert our_step == their_step, f"after {step!r} of {steps!r}"
    return ours


# --- Scenarios --------------------------------------------------------------------------------------------------------

WHO = st.integers(0, PROCESSES - 1)
PID = st.tuples(st.just(a.process), WHO)
REFERENCE = st.tuples(st.just(a.ref), st.integers(0, 8))
NAME = st.sampled_from([a.alpha, a.beta])
TARGET = st.one_of(PID, PID, NAME, st.tuples(NAME, st.just(NODE)))
REASON = st.sampled_from([a.normal, a.kill, a.killed, a.shutdown, (a.shutdown, 1), a.noproc, b"reason"])
ALIAS_OF_MONITOR = st.sampled_from([a.explicit_unalias, a.demonitor, a.reply_demonitor])


def step(name: Atom, *arguments: Any) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), *arguments)


STEPS = st.one_of(
    step(a.link, PID),
    step(a.link, PID),
    step(a.unlink, PID),
    step(a.monitor, TARGET),
    step(a.monitor, TARGET, ALIAS_OF_MONITOR),
    step(a.monitor_tag, TARGET, st.just(a.tagged)),
    step(a.demonitor, REFERENCE, st.booleans()),
    step(a.alias, st.sampled_from([a.explicit_unalias, a.reply])),
    step(a.unalias, REFERENCE),
    step(a.send, st.one_of(PID, NAME, REFERENCE, REFERENCE), st.sampled_from([a.hello, b"there"])),
    step(a.exit, PID, REASON),
    step(a.stop, REASON),
    step(a.trap, st.booleans()),
    step(a.trap, st.just(True)),
    step(a.register, st.one_of(NAME, st.just(a.undefined)), PID),
    step(a.unregister, NAME),
)
SCENARIOS = st.lists(st.tuples(WHO, STEPS), max_size=25)


def by(number: int, *words: Any) -> Any:
    return (number, words)


P0, P1, P2, P3 = ((a.process, number) for number in range(4))
MADE = (a.ref, 1)  # the first reference that the scenario makes


@settings(max_examples=300)
@given(SCENARIOS)
@example([by(0, a.exit, P0, a.normal)])
@example([by(0, a.trap, True), by(0, a.exit, P0, a.normal), by(1, a.exit, P0, a.kill)])
@example([by(0, a.link, P1), by(1, a.link, P2), by(2, a.trap, True), by(0, a.exit, P0, a.kill)])
@example([by(0, a.link, P1), by(0, a.stop, a.kill)])
@example([by(0, a.stop, a.boom), by(1, a.link, P0), by(2, a.trap, True), by(2, a.link, P0)])
@example([by(0, a.monitor, P0), by(0, a.demonitor, MADE, False), by(0, a.register, a.alpha, P0)])
@example([by(0, a.register, a.alpha, P0), by(0, a.monitor, a.alpha), by(0, a.demonitor, MADE, False)])
@example([by(0, a.monitor, P1), by(2, a.demonitor, MADE, True), by(1, a.stop, a.boom)])
@example([by(0, a.monitor, P1, a.reply_demonitor), by(1, a.stop, a.boom), by(2, a.send, MADE, a.late)])
@example([by(0, a.monitor, P1, a.reply_demonitor), by(2, a.send, MADE, a.reply), by(1, a.stop, a.boom)])
@example([by(0, a.monitor, P0, a.reply_demonitor), by(2, a.send, MADE, a.one), by(2, a.send, MADE, a.two)])
@example([by(0, a.monitor, a.alpha, a.demonitor), by(1, a.send, MADE, a.late), by(0, a.demonitor, MADE, True)])
@example([by(0, a.register, a.alpha, P1), by(2, a.monitor, a.alpha), by(0, a.unregister, a.alpha),
          by(0, a.register, a.alpha, P3), by(3, a.stop, a.boom), by(1, a.stop, a.boom)])  # fmt: skip
def test_a_scenario_has_the_same_effects(erl: ErlNode, steps: list[Any]) -> None:
    both(erl, steps)


def exit_table() -> list[tuple[str, list[Any]]]:
    """Every kind of exit signal: by exit/2 of itself or another, or by a link; with each reason; trapped or not."""
    table = []
    for reason in (a.normal, a.kill, a.boom):
        for trap in (False, True):
            prepared = [by(0, a.trap, trap), by(0, a.link, P1), by(2, a.trap, True), by(2, a.link, P0)]
            for how, last in {
                "itself": by(0, a.exit, P0, reason),
                "another": by(3, a.exit, P0, reason),
                "a link": by(1, a.stop, reason),
            }.items():
                table.append((f"{how}-{reason}-{'trapped' if trap else 'not trapped'}", [*prepared, last]))
    return table


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in exit_table()])
def test_every_exit_signal_does_what_it_does_in_otp(erl: ErlNode, steps: list[Any]) -> None:
    both(erl, steps)


@pytest.mark.parametrize("name", ["", "true", "nil", "undefined"])
def test_the_same_atoms_are_names(erl: ErlNode, name: str) -> None:
    theirs = erl.eval(
        """(fun() ->
            P = spawn(fun() -> receive stop -> ok end end),
            try register(Asked, P) catch error:badarg -> false after exit(P, kill) end
        end)()""",
        Asked=Atom(name),
    )
    signals = new_signals(NODE)
    try:
        signals.register(Atom(name), spawn(signals))
    except UsageError:
        assert theirs is False
    else:
        assert theirs is True


def test_who_is_linked_and_watches_is_told_in_otps_order(erl: ErlNode) -> None:
    theirs = erl.eval(
        """(fun() ->
            Old = process_flag(trap_exit, true),
            P = spawn(fun() -> receive stop -> exit(boom) end end),
            R = monitor(process, P), link(P), P ! stop,
            Next = fun() -> receive M when element(2, M) =:= P; element(2, M) =:= R -> element(1, M) end end,
            First = Next(),
            Second = Next(),
            process_flag(trap_exit, Old),
            [First, Second]
        end)()"""
    )
    signals: Signals = new_signals()
    watching, target = spawn(signals, trap=True), spawn(signals)
    signals.monitor(watching, target.pid)
    signals.link(watching, target.pid)
    signals.end(target, a.boom)
    assert theirs == [message[0] for message in inbox(watching)]
