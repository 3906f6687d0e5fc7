"""How the shell looks at processes, of its own node or of another: what it asks, and what it makes of the answers.

The own node is asked directly, others by rpc: a node of Erlang's in one call for many processes, one of Python's once
for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import beamnode.sync as sync
from beamnode.etf import Atom, Export, Pid, a
from beamnode.node import ANCESTORS, INITIAL_CALL, LABEL, process_info, processes
from beamnode.node.introspection import ITEMS, Line

SECONDS: Final = 5.0  # for an answer

ORIGIN: Final = ("registered_name", "initial_call", "dictionary", "message_queue_len")
ALL: Final = (*ORIGIN, "status", "current_stacktrace", "reductions")

_FURTHER: Final = [
    *(a.registered_name, a.current_stacktrace, a.messages, a.memory, a.monitors, a.monitored_by),
]
_BEAM: Final = list(b"BEAM")
_MACHINERY: Final = ("beamnode.", "asyncio.", "threading", "concurrent.futures", "selectors", "queue")


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to see of one process."""

    pid: Pid
    name: Atom | None
    initial_call: Any
    dictionary: dict[Any, Any]
    messages: int
    status: str = ""
    stack: Sequence[Line] = ()
    reductions: int | None = None
    """None for processes of Python, which count none."""

    @property
    def label(self) -> Any:
        return self.dictionary.get(LABEL)

    @property
    def ancestors(self) -> list[Any]:
        found = self.dictionary.get(ANCESTORS)
        return found if isinstance(found, list) else []

    @property
    def is_supervisor(self) -> bool:
        call = self.initial_call
        return isinstance(call, tuple) and len(call) == 3 and call[0] is a.supervisor

    @property
    def place(self) -> Line | None:
        """The innermost line that is neither this library's nor of what Python waits with; else the innermost."""
        own = (line for line in self.stack if not line.module.startswith(_MACHINERY))
        return next(own, self.stack[0] if self.stack else None)


class Looks:
    """Asks `node`, or another one in its name."""

    def __init__(self, node: sync.Node) -> None:
        self._node = node

    def is_own(self, node: Atom | str) -> bool:
        return str(node) == self._node.name.name

    def pids(self, node: Atom | str) -> list[Pid]:
        """Of all processes of a node. Errors: those of `rpc`."""
        if self.is_own(node):
            return processes()
        found: list[Pid] = self._node.rpc(node, "erlang", "processes", [], timeout=SECONDS)
        return found

    def everything(self, pid: Pid) -> dict[str, Any] | None:
        """What is known of one process, by item; None when it has ended. Errors: those of `rpc`."""
        if self.is_own(pid.node):
            info: dict[str, Any] | None = process_info(pid, ITEMS)
            return info
        known: dict[str, Any] = {}
        for items in ([], [_FURTHER]):
            found = self._node.rpc(pid.node, "erlang", "process_info", [pid, *items], timeout=SECONDS)
            if type(found) is not list:
                return None
            known |= {str(item): value for item, value in found}
        return known | {"current_stacktrace": [_line(frame) for frame in known["current_stacktrace"]]}

    def some(self, pids: Sequence[Pid], items: Sequence[str] = ALL) -> list[Seen]:
        """Those that live, all of one node. Errors: those of `rpc`."""
        if not pids:
            return []
        if self.is_own(pids[0].node):
            return [seen for pid in pids if (seen := _seen_here(pid, items)) is not None]
        return self._seen_there(pids, [Atom(item) for item in items])

    def _seen_there(self, pids: Sequence[Pid], items: list[Atom]) -> list[Seen]:
        node, found = pids[0].node, []
        if self._node.rpc(node, "erlang", "system_info", [a.machine], timeout=SECONDS) == _BEAM:
            one = Export(a.erlang, a.process_info, 2)
            found = self._node.rpc(node, "lists", "zipwith", [one, [*pids], [items] * len(pids)], timeout=SECONDS)
        else:
            found = [self._node.rpc(node, "erlang", "process_info", [pid, items], timeout=SECONDS) for pid in pids]
        return [_seen_in(pid, dict(info)) for pid, info in zip(pids, found, strict=True) if type(info) is list]


def _seen_here(pid: Pid, items: Sequence[str]) -> Seen | None:
    info = process_info(pid, [item for item in items if item != "reductions"])
    if info is None:
        return None
    return Seen(
        pid,
        info["registered_name"],
        info["initial_call"],
        info["dictionary"],
        info["message_queue_len"],
        info.get("status", ""),
        info.get("current_stacktrace", ()),
    )


def _seen_in(pid: Pid, info: dict[Atom, Any]) -> Seen:
    """Of the terms that its node has answered with."""
    dictionary = {key: value for key, value in info[a.dictionary] if isinstance(key, Atom)}
    return Seen(
        pid,
        info[a.registered_name] or None,
        dictionary.get(INITIAL_CALL, info[a.initial_call]),
        dictionary,
        info[a.message_queue_len],
        str(info.get(a.status, "")),
        [_line(frame) for frame in info.get(a.current_stacktrace, ())],
        info.get(a.reductions) or None,
    )


def _line(frame: Any) -> Line:
    module, function, arity, where = frame
    known = dict(where)
    file = bytes(known[a.file]).decode("utf-8", "replace") if known.get(a.file) else ""
    return Line(str(module), str(function), arity if isinstance(arity, int) else len(arity), file, known.get(a.line, 0))
