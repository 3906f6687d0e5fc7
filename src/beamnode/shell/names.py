"""The names of the shell: `Node`, `Process`, `sys` as people know them from iex, and everything of `beamnode.sync`.

They block, so that a line shows its result; `await` works too, with the awaitable names of `beamnode`.

A function that is typed here may be spawned on another shell. It travels by value, with the values of the names it
uses; those of this file stand for the same name there, so that `lambda: print(Node.self())` prints the other's.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import beamnode.sync as sync
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.node import current_body, functions, process_dictionary
from beamnode.otp import proc_lib
from beamnode.otp import sys as otp_sys
from beamnode.shell.listing import Listing

SPAWNED_MAX: Final = 1000  # processes that are remembered for `wait_for_spawned`


class NodeNames:
    """`Node` of the shell: what Elixir's module of that name does, for the shell's node.

    Pickled, it is the node of whichever process uses it.
    """

    def __init__(self, node: sync.Node | None = None) -> None:
        self._node = node
        self._spawned: deque[Pid] = deque(maxlen=SPAWNED_MAX)

    def __reduce__(self) -> Any:
        return NodeNames, ()

    def __repr__(self) -> str:
        return f"<Node {self.self()}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._node or sync.current_node(), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(sync.Node)})

    def self(self) -> Atom:
        """The name of this node."""
        return current_body().runtime.identities.node if self._node is None else self._node.name

    def alive(self) -> bool:
        """Whether it is started."""
        return self._node is None or self._node.alive

    def spawn(self, node: Atom | str, function: Callable[..., Any] | Atom | str, *args: Any) -> Pid:
        """`Node.spawn(node, "Elixir.IO", "puts", ["hi"])`, or a Python function and its arguments."""
        pid = (self._node or sync.current_node()).spawn(node, function, *args)
        self._spawned.append(pid)
        return pid

    def wait_for_spawned(self, seconds: float) -> None:
        """Let what `spawn` has started come to its end, with what it still prints, for so long at most."""
        deadline = time.monotonic() + seconds
        references = [functions.monitor(pid) for pid in self._spawned]
        self._spawned.clear()
        for reference in references:
            with contextlib.suppress(TimeoutError):
                sync.receive(_end_of(reference), timeout=max(deadline - time.monotonic(), 0))


def _end_of(reference: Reference) -> Callable[[Any], bool]:
    return lambda message: type(message) is tuple and message[:2] == (a.DOWN, reference)


class ProcessNames:
    """`Process` of the shell."""

    whereis = staticmethod(functions.whereis)
    register = staticmethod(functions.register)
    unregister = staticmethod(functions.unregister)
    link = staticmethod(functions.link)
    unlink = staticmethod(functions.unlink)
    monitor = staticmethod(functions.monitor)
    demonitor = staticmethod(functions.demonitor)
    send = staticmethod(functions.send)
    send_after = staticmethod(functions.send_after)
    info = staticmethod(functions.process_info)
    group_leader = staticmethod(functions.group_leader)

    def __repr__(self) -> str:
        return "<Process>"

    @staticmethod
    def exit(pid: Pid, reason: Any) -> None:
        """Send an exit signal: `Process.exit(pid, "kill")`; a `str` is an atom, as nearly every reason is."""
        functions.exit(pid, Atom(reason) if isinstance(reason, str) else reason)

    alive = staticmethod(functions.is_process_alive)
    list = staticmethod(functions.processes)
    registered = staticmethod(functions.registered)
    set_label = staticmethod(proc_lib.set_label)

    @staticmethod
    def get(key: Any = None, default: Any = None) -> Any:
        """What the dictionary of the shell's process has under `key`; without one, all of it."""
        dictionary = process_dictionary()
        return dict(dictionary) if key is None else dictionary.get(key, default)

    @staticmethod
    def put(key: Any, value: Any) -> Any:
        """Put into that dictionary; what was there before, or None."""
        dictionary = process_dictionary()
        before, dictionary[key] = dictionary.get(key), value
        return before

    @staticmethod
    def delete(key: Any) -> Any:
        """Take out of that dictionary; what was there, or None."""
        return process_dictionary().pop(key, None)

    @staticmethod
    def flag(name: str, value: bool) -> bool:
        """`Process.flag("trap_exit", True)`; the value before."""
        if name != "trap_exit":
            raise ValueError("the one flag is 'trap_exit'")
        return functions.trap_exit(value)


class SysNames:
    """`sys` of the shell: system messages to servers, here and elsewhere."""

    def __repr__(self) -> str:
        return "<sys>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(otp_sys, name, None)
        if not inspect.iscoroutinefunction(function):
            raise AttributeError(f"`sys` of the shell has no {name!r}; Python's own is `import sys as python_sys`")
        return functools.wraps(function)(lambda *args, **options: sync.in_process(function(*args, **options)))

    def __dir__(self) -> list[str]:
        return [name for name in dir(otp_sys) if inspect.iscoroutinefunction(getattr(otp_sys, name))]


def leave(*reason: Any) -> None:
    """`exit()` leaves the shell; `exit(reason)` and `exit(pid, reason)` are Erlang's."""
    if not reason:
        raise SystemExit
    functions.exit(*reason)


def namespace(node: sync.Node, show: Callable[[Any], str]) -> dict[str, Any]:
    """What a line of the shell sees."""

    def flush() -> None:
        """Show the messages that have come to the shell, and throw them away."""
        while True:
            try:
                print(show(sync.receive(timeout=0)))
            except TimeoutError:
                return

    names: dict[str, Any] = {name: getattr(sync, name) for name in sync.__all__}
    this = NodeNames(node)
    listing = Listing(node, show)
    return names | {
        "__name__": "__main__",
        "Atom": Atom,
        "Node": this,
        "Pid": Pid,
        "Process": ProcessNames(),
        "Reference": Reference,
        "a": a,
        "exit": leave,
        "flush": flush,
        "i": listing.i,
        "node": this,
        "pinfo": listing.pinfo,
        "quit": leave,
        "sys": SysNames(),
        "tree": listing.tree,
    }
