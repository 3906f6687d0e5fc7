"""What peers ask a node about itself, as they ask one another: `erlang:processes/0`, `process_info/2`, `memory/0`, ...

By rpc, as in `rpc:call(Node, erlang, process_info, [Pid])` and `:rpc.call(node, Process, :info, [pid])`. Answered under
the node's policy: "exposed" and "everything" answer, "nothing" does not, a policy that is a function is asked.
Source: the modules `erlang`, `proc_lib`; Elixir's `Process` and `Node`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from beamnode.core.process import Process
from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import RaisedElsewhere
from beamnode.services import process_terms, system_terms
from beamnode.services.net_control import NetControl
from beamnode.services.observer_calls import ObserverCalls
from beamnode.services.system_terms import SystemTerms

UNDEFINED: Final = a.undefined


def install(node: NetControl) -> None:
    """Let peers ask `node`."""
    calls = ErlangCalls(node)
    modules: dict[str, Functions] = {
        "erlang": calls.erlang(),
        "proc_lib": calls.proc_lib(),
        "observer_backend": ObserverCalls(node, calls.system).functions(),
        "Elixir.Process": calls.elixir_process(),
        "Elixir.Node": calls.elixir_node(),
    }
    for module, functions in modules.items():
        for (name, arity), function in functions.items():
            node.serve_builtin(module, name, arity, _served(module, name, function), under_policy=True)


Functions = dict[tuple[str, int], Callable[..., Any]]


class ErlangCalls:
    """The answers of one node."""

    def __init__(self, node: NetControl) -> None:
        self._node = node
        self.system = SystemTerms(node)

    def erlang(self) -> Functions:
        system = self.system
        return {
            ("is_process_alive", 1): self.is_process_alive,
            ("memory", 0): system.memory,
            ("memory", 1): system.memory_of,
            ("node", 0): self.own_name,
            ("nodes", 0): self.nodes,
            ("nodes", 1): self.nodes,
            ("process_info", 1): self.process_info,
            ("process_info", 2): self.process_info,
            ("processes", 0): self.processes,
            ("registered", 0): self.registered,
            ("statistics", 1): system.statistics,
            ("system_info", 1): system.system_info,
            ("whereis", 1): self.whereis,
        }

    def proc_lib(self) -> Functions:
        return {("get_label", 1): self.label, ("translate_initial_call", 1): self.initial_call}

    def elixir_process(self) -> Functions:
        return {
            ("alive?", 1): self.is_process_alive,
            ("info", 1): self.elixir_info,
            ("info", 2): self.elixir_info,
            ("list", 0): self.processes,
            ("registered", 0): self.registered,
            ("whereis", 1): lambda name: _nil(self.whereis(name)),
        }

    def elixir_node(self) -> Functions:
        return {
            ("alive?", 0): lambda: True,
            ("list", 0): self.nodes,
            ("list", 1): self.nodes,
            ("self", 0): self.own_name,
        }

    # --- Processes ----------------------------------------------------------------------------------------------------

    def processes(self) -> list[Pid]:
        return [process.pid for process in self._node.runtime.signals.processes()]

    def process_info(self, pid: Any, *items: Any) -> Any:
        process, signals = self._process(pid), self._node.runtime.signals
        if process is None:
            return UNDEFINED
        return process_terms.info(process, signals, *items) if items else process_terms.usual_info(process, signals)

    def elixir_info(self, pid: Any, *items: Any) -> Any:
        found = self.process_info(pid, *items)
        return (a.registered_name, []) if items == (a.registered_name,) and found == [] else _nil(found)

    def is_process_alive(self, pid: Any) -> bool:
        return self._process(pid) is not None

    def registered(self) -> list[Atom]:
        return self._node.runtime.signals.registered()

    def whereis(self, name: Any) -> Any:
        if type(name) is not Atom:
            raise UsageError(f"a name is an atom, not {shown(name)}")
        process = self._node.runtime.signals.whereis(name)
        return UNDEFINED if process is None else process.pid

    def label(self, pid: Any) -> Any:
        process = self._process(pid)
        return UNDEFINED if process is None else process_terms.info(process, self._node.runtime.signals, a.label)[1]

    def initial_call(self, pid: Any) -> Any:
        process = self._process(pid)
        if process is None:
            return (a.proc_lib, a.init_p, 5)  # as OTP says of a process that it knows nothing of
        return process_terms.info(process, self._node.runtime.signals, a.initial_call)[1]

    def _process(self, pid: Any) -> Process | None:
        if type(pid) is not Pid or pid.node is not self._node.name:
            raise UsageError(f"{shown(pid)} is no pid of this node")
        return self._node.runtime.signals.lookup(pid)

    # --- Nodes --------------------------------------------------------------------------------------------------------

    def own_name(self) -> Atom:
        return self._node.name

    def nodes(self, kinds: Any = a.visible) -> list[Atom]:
        found: list[Atom] = []
        for kind in kinds if type(kinds) is list else [kinds]:
            found += [node for node in self._node.list(_kind(kind)) if node not in found]
        return found


def _kind(kind: Any) -> str:
    if type(kind) is not Atom:
        raise UsageError(f"nodes are listed by an atom, not by {shown(kind)}")
    return kind.name


def _nil(value: Any) -> Any:
    return None if value is UNDEFINED else value


def _served(module: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """What is called for a peer: on the loop, where no process moves meanwhile; a wrong argument is its `badarg`."""
    return partial(_call, Atom(module), Atom(name), function)


async def _call(module: Atom, name: Atom, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except (UsageError, process_terms.BadItem, system_terms.BadItem):
        raise RaisedElsewhere(a.badarg, [(module, name, list(args), [])]) from None
