"""What is known of a Python process, in the shapes of `erlang:process_info/1,2` and of Elixir's `Process.info/1,2`.

All items that mean something are as OTP's. Some mean nothing here and are answered all the same, because tools ask for
lists of items and take no gaps: `reductions` and the sizes of heap and stack are 0, `garbage_collection` is empty,
`priority` is `normal`. `memory` counts what the node itself holds for a process (`introspection`), in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from beamnode.core.process import Origin, Process
from beamnode.core.signals import Signals
from beamnode.etf import Atom, Pid, a
from beamnode.node.introspection import Line, info_of, stack_of_process
from beamnode.otp.sys import sendable_state as sendable

UNDEFINED: Final = a.undefined

# Of `process_info/1`, in the order of OTP.
USUAL: Final = (
    *(a.current_function, a.initial_call, a.status, a.message_queue_len, a.links, a.dictionary, a.trap_exit),
    *(a.error_handler, a.priority, a.group_leader, a.total_heap_size, a.heap_size, a.stack_size, a.reductions),
    *(a.garbage_collection, a.suspending),
)

_CONSTANTS: Final[dict[Atom, Any]] = {
    a.binary: [],
    a.catchlevel: 0,
    a.error_handler: a.error_handler,
    a.garbage_collection: [],
    a.garbage_collection_info: [],
    a.heap_size: 0,
    a.last_calls: False,
    a.message_queue_data: a.on_heap,
    a.min_bin_vheap_size: 0,
    a.min_heap_size: 0,
    a.priority: a.normal,
    a.reductions: 0,
    a.sequential_trace_token: [],
    a.stack_size: 0,
    a.suspending: [],
    a.total_heap_size: 0,
}


def info(process: Process, signals: Signals, items: Any) -> Any:
    """`{Item, Value}` of an item, or the list of several. Errors: BadItem."""
    if type(items) is list:
        return [(item, _value(process, signals, item)) for item in items]
    if items is a.registered_name and process.name is None:
        return []
    return (items, _value(process, signals, items))


def usual_info(process: Process, signals: Signals) -> list[tuple[Atom, Any]]:
    """The list of `process_info/1`."""
    found = [(item, _value(process, signals, item)) for item in USUAL]
    return found if process.name is None else [(a.registered_name, process.name), *found]


class BadItem(Exception):
    """There is no such item."""


def _value(process: Process, signals: Signals, item: Any) -> Any:
    match item:
        case Atom():
            if item in _CONSTANTS:
                return _CONSTANTS[item]
            shape = _SHAPES.get(item.name)
            if shape is not None:
                return shape(process, signals)
        case (a.dictionary, key):
            try:
                return sendable((process.dictionary or {}).get(key, UNDEFINED))
            except TypeError:  # a list or a map, which is no key of a dict
                return UNDEFINED
    raise BadItem(item)


_Shape = Callable[[Process, Signals], Any]


def _as(name: str, shape: Callable[[Any], Any]) -> _Shape:
    return lambda process, signals: shape(info_of(process, signals, name))


def _or_undefined(value: Any) -> Any:
    return UNDEFINED if value is None else value


def _call(line: Line) -> tuple[Atom, Atom, int]:
    return Atom(line.module[:255]), Atom(line.function[:255]), line.arity


def _frame(line: Line) -> tuple[Any, ...]:
    return (*_call(line), [(a.file, list(line.file.encode("utf-8", "replace"))), (a.line, line.line)])


def _backtrace(process: Process, _signals: Signals) -> bytes:
    return "\n".join(str(line) for line in stack_of_process(process)).encode("utf-8", "replace")


def _monitor(target: Any) -> tuple[Atom, Any]:
    return a.process, target


def _message(message: Any) -> Any:
    return sendable(message.message if type(message) is Origin else message)


_SHAPES: Final[dict[str, _Shape]] = {
    "async_dist": lambda process, _signals: bool(getattr(process.body, "async_dist", False)),
    "backtrace": _backtrace,
    "current_function": _as("current_location", lambda line: UNDEFINED if line is None else _call(line)),
    "current_location": _as("current_location", lambda line: UNDEFINED if line is None else _frame(line)),
    "current_stacktrace": _as("current_stacktrace", lambda lines: [_frame(line) for line in lines]),
    "dictionary": _as("dictionary", lambda found: [(sendable(key), sendable(found[key])) for key in found]),
    "group_leader": _as("group_leader", lambda pid: pid),
    "initial_call": _as("initial_call", sendable),
    "label": _as("label", lambda label: sendable(_or_undefined(label))),
    "links": _as("links", list[Pid]),
    "memory": _as("memory", int),
    "message_queue_len": _as("message_queue_len", int),
    "messages": _as("messages", lambda messages: [_message(message) for message in messages]),
    "monitored_by": _as("monitored_by", list[Pid]),
    "monitors": _as("monitors", lambda targets: [_monitor(target) for target in targets]),
    "parent": _as("parent", _or_undefined),
    "registered_name": _as("registered_name", lambda name: [] if name is None else name),
    "status": _as("status", Atom),
    "trap_exit": _as("trap_exit", bool),
}
