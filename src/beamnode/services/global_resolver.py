"""Name conflicts: two partitions meet and both have registered a name.

Of two connecting nodes the smaller resolves for both. OTP runs the resolve function on the node of its own partition's
process (`rpc:call(Node, global, resolve_it, [Method, Name, Pid1, Pid2])`), and so do we: another node, when the process
lives there, can run its function itself. For a process of this very node the function is imitated by `resolve_it`.
(global.erl: exchange_names, resolve_it, random_exit_name, random_notify_name, notify_all_name.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from beamnode.etf.shown import shown
from beamnode.etf.terms import Atom, Export, Fun, Pid, a
from beamnode.services.global_actions import Action, Exit, Log, Outbox, Send
from beamnode.services.global_names import Delete, Insert, Names, Operation, Registration
from beamnode.services.global_tasks import AskRemote, Steps

GLOBAL: Final = Atom("global")
RESOLVER_CRASHED: Final = (a.EXIT, a.undef)  # what `catch` makes of a function that is not there


def resolve_it(method: Any, name: Any, pid1: Pid, pid2: Pid) -> tuple[Any, list[Action]]:
    """What `global:resolve_it/4` gives on this node, and what must be done for it: peers call it here, too.

    OTP's three functions are known by their name; a fun of the module `global` itself is `random_exit_name`, the only
    one there that is taken as a value. Every other function counts as one that crashes.
    """
    smaller, greater = (pid1, pid2) if pid1.node < pid2.node else (pid2, pid1)
    match _function_name(method):
        case "random_exit_name":
            text = f"global: Name conflict terminating {shown((name, greater))}"
            return smaller, [Log("info", text), Exit(greater, a.kill)]
        case "random_notify_name":
            return smaller, [Send(greater, (a.global_name_conflict, name))]
        case "notify_all_name":
            return a.none, [
                Send(pid1, (a.global_name_conflict, name, pid2)),
                Send(pid2, (a.global_name_conflict, name, pid1)),
            ]
    return RESOLVER_CRASHED, []


def _function_name(method: Any) -> str | None:
    match method:
        case Export(module=module, function=function, arity=3) if module is GLOBAL:
            return function.name
        case Fun(module=module, arity=3) if module is GLOBAL:
            return "random_exit_name"
        case (module, Atom() as function) if module is GLOBAL:  # a legacy "tuple fun"
            return function.name
    return None


def resolve(
    this_node: Atom,
    his_node: Atom,
    his_names: list[Registration],
    names: Names,
    outbox: Outbox,
    done: Callable[[list[Operation], list[Operation]], None],
) -> Steps[None]:
    """Compare the names of the other partition with ours; `done(ours, his)` gets what either side has to do.

    A name that both sides gave to the same process needs nothing; a new one is inserted here. Of a conflict the greater
    node hears from the smaller.
    """
    ours: list[Operation] = []
    his: list[Operation] = []
    for entry in his_names:
        known = names.find(entry.key)
        if known is None:
            ours.append(Insert(entry))
        elif known.pid != entry.pid and this_node < his_node:
            winner = yield from _winner(this_node, entry, known, outbox)
            if winner == entry.pid:
                ours.append(Insert(entry))
            elif winner == known.pid:
                his.append(Insert(known))
            else:
                ours.append(Delete(entry.key, entry.name))
                his.append(Delete(entry.key, entry.name))
    # Newest first, as OTP's accumulators are.
    done(ours[::-1], his[::-1])


def _winner(this_node: Atom, entry: Registration, known: Registration, outbox: Outbox) -> Steps[Any]:
    """What the resolve function of our side's process says: one of the two pids, or `none`."""
    arguments = (known.method, known.name, entry.pid, known.pid)
    if known.pid.node is this_node:
        result, actions = resolve_it(*arguments)
        for action in actions:
            outbox.put(action)
    else:
        answer = yield AskRemote(known.pid.node, GLOBAL, a.resolve_it, arguments)
        result = RESOLVER_CRASHED if answer is None else answer[0]
    match result:
        case (a.EXIT, _):  # to rpc:call, what crashed is a badrpc like any other: the other partition's process wins
            outbox.log("info", f"global: badrpc received when conflicting name {shown(entry.name)} was found")
            return entry.pid
        case Pid() if result in (entry.pid, known.pid):
            return result
    if result is not a.none:
        text = f"global: Resolve method {shown(known.method)} for {shown(entry.name)} returned {shown(result)}"
        outbox.log("info", text)
    return a.none
