"""Control messages: the signals between two nodes as typed records, to and from the tuples on the wire.

A signal travels as a control tuple `{Op, ...}` and, for some ops, a payload: a second term. The same record has several
tuples, by what the two nodes negotiated; which one is decided here and nowhere above. `to_wire` goes by the record's
class, `from_wire` by the op, each through one table:

| record         | ops, the first that was negotiated               | payload                    |
|----------------|--------------------------------------------------|----------------------------|
| `Send`         | 37 (only with priority), 22/23, 2/12             | message                    |
| `RegSend`      | 37 (only with priority), 6/16                    | message                    |
| `AliasSend`    | 37, 33/34                                        | message                    |
| `Exit`         | 24/25, 3/13                                      | reason (3/13: in the tuple)|
| `Exit2`        | 37 (priority, or to an alias), 26/27, 8/18       | reason (8/18: in the tuple)|
| `MonitorPExit` | 28, 21                                           | reason (21: in the tuple)  |
| `SpawnRequest` | 29/30                                            | arguments                  |
| others         | one op each                                      | none                       |

The second of a pair (`/`) carries a sequential trace token as well. Every op is understood on arrival, negotiated or
not, as in OTP. Obsolete ones are not: UNLINK (4) and NODE_LINK (5) close the connection, as every unknown op does.

Which node a sender or receiver belongs to is not checked here: that is known only to whoever owns the connection.

Sources: erl_dist_protocol "Protocol between Connected Nodes"; erts dist.c `erts_net_message`, `erts_dsig_send_*`;
WIRE.md 2.18 to 2.20 (ALTACT_SIG_SEND).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from beamnode.errors import ProtocolError
from beamnode.etf.shown import shown
from beamnode.etf.terms import Atom, Pid, Reference
from beamnode.wire.flags import Flag


class Op(IntEnum):
    """The first element of a control tuple (erts dist.h, `enum dop`)."""

    LINK = 1
    SEND = 2
    EXIT = 3
    REG_SEND = 6
    GROUP_LEADER = 7
    EXIT2 = 8
    SEND_TT = 12
    EXIT_TT = 13
    REG_SEND_TT = 16
    EXIT2_TT = 18
    MONITOR_P = 19
    DEMONITOR_P = 20
    MONITOR_P_EXIT = 21
    SEND_SENDER = 22
    SEND_SENDER_TT = 23
    PAYLOAD_EXIT = 24
    PAYLOAD_EXIT_TT = 25
    PAYLOAD_EXIT2 = 26
    PAYLOAD_EXIT2_TT = 27
    PAYLOAD_MONITOR_P_EXIT = 28
    SPAWN_REQUEST = 29
    SPAWN_REQUEST_TT = 30
    SPAWN_REPLY = 31
    SPAWN_REPLY_TT = 32
    ALIAS_SEND = 33
    ALIAS_SEND_TT = 34
    UNLINK_ID = 35
    UNLINK_ID_ACK = 36
    ALTACT_SIG_SEND = 37


# --- Records ----------------------------------------------------------------------------------------------------------
# Built once per signal, so plain slots: treat them as values. `token` is a sequential trace token, None for none.


@dataclass(slots=True)
class Send:
    """A message to a process. `sender` is None when the peer does not tell it (SEND_SENDER not negotiated)."""

    to: Pid
    message: Any
    sender: Pid | None = None
    token: Any = None
    priority: bool = False


@dataclass(slots=True)
class RegSend:
    """A message to whoever is registered as `name` on the receiving node."""

    sender: Pid
    name: Atom
    message: Any
    token: Any = None
    priority: bool = False


@dataclass(slots=True)
class AliasSend:
    """A message to a process alias."""

    sender: Pid
    alias: Reference
    message: Any
    token: Any = None
    priority: bool = False


@dataclass(slots=True)
class Link:
    """`sender` links itself to `to`. When `to` is dead, answer `Exit(to, sender, noproc)`."""

    sender: Pid
    to: Pid


@dataclass(slots=True)
class UnlinkId:
    """`sender` unlinks `to`: answer `UnlinkIdAck` with the same `id` before any other signal to `sender`."""

    id: int
    sender: Pid
    to: Pid


@dataclass(slots=True)
class UnlinkIdAck:
    """`sender` has seen the `UnlinkId` of that `id` from `to`."""

    id: int
    sender: Pid
    to: Pid


@dataclass(slots=True)
class Exit:
    """`sender`, linked with `to`, ended with `reason`: the exit signal of a link."""

    sender: Pid
    to: Pid
    reason: Any
    token: Any = None


@dataclass(slots=True)
class Exit2:
    """An exit signal that `sender` sent with `exit/2,3`; `to` an alias or a name only between nodes with ALTACT_SIG."""

    sender: Pid
    to: Pid | Reference | Atom
    reason: Any
    token: Any = None
    priority: bool = False


@dataclass(slots=True)
class GroupLeader:
    """`to` gets the group leader `leader`."""

    leader: Pid
    to: Pid


@dataclass(slots=True)
class MonitorP:
    """`sender` monitors `target`, a pid or a registered name. When it is dead, answer `MonitorPExit` with `noproc`."""

    sender: Pid
    target: Pid | Atom
    ref: Reference


@dataclass(slots=True)
class DemonitorP:
    """`sender` ends its monitor `ref` of `target` (the pid or the name with which it was made)."""

    sender: Pid
    target: Pid | Atom
    ref: Reference


@dataclass(slots=True)
class MonitorPExit:
    """`sender`, which `to` monitors as `ref`, ended with `reason`: the pid or name that was monitored."""

    sender: Pid | Atom
    to: Pid
    ref: Reference
    reason: Any


@dataclass(slots=True)
class SpawnRequest:
    """`sender` wants a process here: `module:function(*args)`. Always answer `SpawnReply` with `ref`.

    `options` are spawn options as terms (`link`, `monitor`, `{priority, P}`, ...); a monitor's reference is `ref`.
    `arity` is what the request says, and counts for nothing: OTP applies the function to `args`, however many they are.
    What is no list is told by the end of the process, with `badarg`.
    """

    ref: Reference
    sender: Pid
    group_leader: Pid
    module: Atom
    function: Atom
    arity: int
    options: list[Any]
    args: Any
    token: Any = None

    @property
    def mfa(self) -> tuple[Atom, Atom, int]:
        """Module, function and arity: one element of the control tuple."""
        return self.module, self.function, self.arity


@dataclass(slots=True)
class SpawnReply:
    """The answer to `SpawnRequest`: `result` is the new pid, or an atom that says why there is none.

    `flags`: 1 a link was made (`SPAWN_LINKED`), 2 a monitor was (`SPAWN_MONITORED`).
    """

    ref: Reference
    to: Pid
    flags: int
    result: Pid | Atom
    token: Any = None


SPAWN_LINKED: Final = 1
SPAWN_MONITORED: Final = 2

Record: TypeAlias = (
    Send
    | RegSend
    | AliasSend
    | Link
    | UnlinkId
    | UnlinkIdAck
    | Exit
    | Exit2
    | GroupLeader
    | MonitorP
    | DemonitorP
    | MonitorPExit
    | SpawnRequest
    | SpawnReply
)

Control: TypeAlias = tuple[Any, ...]

NO_PAYLOAD: Final[Any] = type("NoPayload", (), {"__slots__": (), "__repr__": lambda _: "NO_PAYLOAD"})()


# --- Elements and their types -----------------------------------------------------------------------------------------

_UNUSED: Final = Atom("")  # where a cookie was before R9B
_WORD_ATOMS: Final = {True: Atom("true"), False: Atom("false"), None: Atom("nil")}


def _pid(value: Any) -> Any:
    if type(value) is not Pid:
        raise ProtocolError(f"a pid was expected, not {shown(value)}")
    return value


def _reference(value: Any) -> Any:
    if type(value) is not Reference:
        raise ProtocolError(f"a reference was expected, not {shown(value)}")
    return value


def _atom(value: Any) -> Any:
    """An atom in the place of a name; `true`, `false` and `nil` arrive as Python's own and become atoms again."""
    if type(value) is Atom:
        return value
    if value is None or value is True or value is False:
        return _WORD_ATOMS[value]
    raise ProtocolError(f"an atom was expected, not {shown(value)}")


def _pid_or_atom(value: Any) -> Any:
    return value if type(value) is Pid else _atom(value)


def _term(value: Any) -> Any:
    return value


def _list(value: Any) -> Any:
    if type(value) is not list:
        raise ProtocolError(f"a list was expected, not {shown(value)}")
    return value


def _mfa(value: Any) -> Any:
    if type(value) is not tuple or len(value) != 3:
        raise ProtocolError(f"module, function and arity were expected, not {shown(value)}")
    return _atom(value[0]), _atom(value[1]), _arity(value[2])


def _unsigned(bits: int, least: int = 0) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not int or not least <= value < 1 << bits:
            raise ProtocolError(f"an integer of {bits} bits, at least {least}, was expected, not {shown(value)}")
        return value

    return check


_arity: Final = _unsigned(27)


# --- The shape of each op ---------------------------------------------------------------------------------------------

_Element: TypeAlias = tuple[str, Callable[[Any], Any]]  # the record's field, and what checks its value


class _Layout(NamedTuple):
    """The shape of one op: who makes its record, the elements after the op in order, and the field in the payload."""

    make: Callable[..., Record]
    elements: tuple[_Element, ...]
    payload: _Element | None = None


def _spawn_request(mfa: tuple[Atom, Atom, int], **fields: Any) -> SpawnRequest:
    return SpawnRequest(module=mfa[0], function=mfa[1], arity=mfa[2], **fields)


_SKIP: Final[_Element] = ("", _term)
_SENDER: Final[_Element] = ("sender", _pid)
_TO: Final[_Element] = ("to", _pid)
_NAME: Final[_Element] = ("name", _atom)
_ALIAS: Final[_Element] = ("alias", _reference)
_DEAD: Final[_Element] = ("sender", _pid_or_atom)
_TARGET: Final[_Element] = ("target", _pid_or_atom)
_REF: Final[_Element] = ("ref", _reference)
_TOKEN: Final[_Element] = ("token", _term)
_REASON: Final[_Element] = ("reason", _term)
_MESSAGE: Final[_Element] = ("message", _term)
_SPAWN: Final = (_REF, _SENDER, ("group_leader", _pid), ("mfa", _mfa), ("options", _list))
_ARGS: Final[_Element] = ("args", _term)
_SPAWNED: Final = (_REF, _TO, ("flags", _unsigned(27)), ("result", _pid_or_atom))

_LAYOUTS: Final[dict[int, _Layout]] = {
    Op.LINK: _Layout(Link, (_SENDER, _TO)),
    Op.SEND: _Layout(Send, (_SKIP, _TO), _MESSAGE),
    Op.EXIT: _Layout(Exit, (_SENDER, _TO, _REASON)),
    Op.REG_SEND: _Layout(RegSend, (_SENDER, _SKIP, _NAME), _MESSAGE),
    Op.GROUP_LEADER: _Layout(GroupLeader, (("leader", _pid), _TO)),
    Op.EXIT2: _Layout(Exit2, (_SENDER, _TO, _REASON)),
    Op.SEND_TT: _Layout(Send, (_SKIP, _TO, _TOKEN), _MESSAGE),
    Op.EXIT_TT: _Layout(Exit, (_SENDER, _TO, _TOKEN, _REASON)),
    Op.REG_SEND_TT: _Layout(RegSend, (_SENDER, _SKIP, _NAME, _TOKEN), _MESSAGE),
    Op.EXIT2_TT: _Layout(Exit2, (_SENDER, _TO, _TOKEN, _REASON)),
    Op.MONITOR_P: _Layout(MonitorP, (_SENDER, _TARGET, _REF)),
    Op.DEMONITOR_P: _Layout(DemonitorP, (_SENDER, _TARGET, _REF)),
    Op.MONITOR_P_EXIT: _Layout(MonitorPExit, (_DEAD, _TO, _REF, _REASON)),
    Op.SEND_SENDER: _Layout(Send, (_SENDER, _TO), _MESSAGE),
    Op.SEND_SENDER_TT: _Layout(Send, (_SENDER, _TO, _TOKEN), _MESSAGE),
    Op.PAYLOAD_EXIT: _Layout(Exit, (_SENDER, _TO), _REASON),
    Op.PAYLOAD_EXIT_TT: _Layout(Exit, (_SENDER, _TO, _TOKEN), _REASON),
    Op.PAYLOAD_EXIT2: _Layout(Exit2, (_SENDER, _TO), _REASON),
    Op.PAYLOAD_EXIT2_TT: _Layout(Exit2, (_SENDER, _TO, _TOKEN), _REASON),
    Op.PAYLOAD_MONITOR_P_EXIT: _Layout(MonitorPExit, (_DEAD, _TO, _REF), _REASON),
    Op.SPAWN_REQUEST: _Layout(_spawn_request, _SPAWN, _ARGS),
    Op.SPAWN_REQUEST_TT: _Layout(_spawn_request, (*_SPAWN, _TOKEN), _ARGS),
    Op.SPAWN_REPLY: _Layout(SpawnReply, _SPAWNED),
    Op.SPAWN_REPLY_TT: _Layout(SpawnReply, (*_SPAWNED, _TOKEN)),
    Op.ALIAS_SEND: _Layout(AliasSend, (_SENDER, _ALIAS), _MESSAGE),
    Op.ALIAS_SEND_TT: _Layout(AliasSend, (_SENDER, _ALIAS, _TOKEN), _MESSAGE),
    Op.UNLINK_ID: _Layout(UnlinkId, (("id", _unsigned(64, least=1)), _SENDER, _TO)),
    Op.UNLINK_ID_ACK: _Layout(UnlinkIdAck, (("id", _unsigned(64)), _SENDER, _TO)),
}

PAYLOAD_OPS: Final = frozenset(
    {int(op) for op, layout in _LAYOUTS.items() if layout.payload is not None} | {int(Op.ALTACT_SIG_SEND)}
)

# ALTACT_SIG_SEND says in a bit field what it is (WIRE.md 2.20).
_PRIORITY: Final = 1
_WITH_TOKEN: Final = 2
_TO_ALIAS: Final = 4
_TO_NAME: Final = 8
_IS_EXIT: Final = 16


# --- From the wire ----------------------------------------------------------------------------------------------------


def carries_payload(control: Any) -> bool:
    """Does a second term follow this control tuple? Raises ProtocolError when it is no control tuple."""
    op = control[0] if type(control) is tuple and control else None
    if type(op) is int and (op in _LAYOUTS or op == Op.ALTACT_SIG_SEND):
        return op in PAYLOAD_OPS
    raise ProtocolError(f"not a control message of this protocol: {shown(control)}")


def from_wire(control: Any, payload: Any = NO_PAYLOAD) -> Record:
    """The record of a decoded control tuple and its payload (`NO_PAYLOAD` where `carries_payload` says so).

    Raises ProtocolError for an unknown op, a wrong arity, an element of the wrong type, a payload too many or too few.
    """
    if carries_payload(control) is (payload is NO_PAYLOAD):
        raise ProtocolError(f"the payload is missing, or does not belong here: {shown(control)}")
    op = control[0]
    if op == Op.ALTACT_SIG_SEND:
        return _from_altact(control, payload)
    layout = _LAYOUTS[op]
    if len(control) != len(layout.elements) + 1:
        raise ProtocolError(f"a control message of the wrong size: {shown(control)}")
    fields = {name: check(value) for (name, check), value in zip(layout.elements, control[1:], strict=True) if name}
    if layout.payload is not None:
        name, check = layout.payload
        fields[name] = check(payload)
    return layout.make(**fields)


def _from_altact(control: Control, payload: Any) -> Record:
    """ALTACT_SIG_SEND: `{37, Flags, Sender, To}` and a token if bit 2 says so. Later bits and elements are ignored."""
    bits = control[1] if len(control) >= 4 else None
    if type(bits) is not int or bits < 0 or (bits & _WITH_TOKEN and len(control) < 5):
        raise ProtocolError(f"a control message of the wrong size or without flags: {shown(control)}")
    sender = _pid(control[2])
    token = control[4] if bits & _WITH_TOKEN else None
    priority = bool(bits & _PRIORITY)
    if bits & _TO_ALIAS and bits & _TO_NAME:
        raise ProtocolError(f"a signal to an alias and to a name at once: {shown(control)}")
    check = _reference if bits & _TO_ALIAS else _atom if bits & _TO_NAME else _pid
    to = check(control[3])
    if bits & _IS_EXIT:
        return Exit2(sender, to, payload, token, priority)
    if bits & _TO_ALIAS:
        return AliasSend(sender, to, payload, token, priority)
    if bits & _TO_NAME:
        return RegSend(sender, to, payload, token, priority)
    return Send(to, payload, sender, token, priority)


# --- To the wire ------------------------------------------------------------------------------------------------------


class _Choice(NamedTuple):
    """Usable when all bits of `needs` are negotiated: `op`, and `op_with_token` for a record with a trace token."""

    needs: int
    op: int
    op_with_token: int


def _choice(needs: int, op: Op, op_with_token: Op | None = None) -> _Choice:
    return _Choice(int(needs), int(op), int(op_with_token or op))


_MONITORS: Final = int(Flag.DIST_MONITOR) | int(Flag.DIST_MONITOR_NAME)
_EXIT_PAYLOAD: Final = int(Flag.EXIT_PAYLOAD)
_ALTACT_SIG: Final = int(Flag.ALTACT_SIG)
_BIG_LABELS: Final = int(Flag.BIG_SEQTRACE_LABELS)

# For each record the ops that can carry it, best first: the first whose flags are negotiated is taken.
_CHOICES: Final[dict[type[Any], tuple[_Choice, ...]]] = {
    Send: (_choice(Flag.SEND_SENDER, Op.SEND_SENDER, Op.SEND_SENDER_TT), _choice(0, Op.SEND, Op.SEND_TT)),
    RegSend: (_choice(0, Op.REG_SEND, Op.REG_SEND_TT),),
    AliasSend: (_choice(Flag.ALIAS, Op.ALIAS_SEND, Op.ALIAS_SEND_TT),),
    Link: (_choice(0, Op.LINK),),
    UnlinkId: (_choice(0, Op.UNLINK_ID),),  # UNLINK_ID is mandatory in our handshake
    UnlinkIdAck: (_choice(0, Op.UNLINK_ID_ACK),),
    Exit: (_choice(_EXIT_PAYLOAD, Op.PAYLOAD_EXIT, Op.PAYLOAD_EXIT_TT), _choice(0, Op.EXIT, Op.EXIT_TT)),
    Exit2: (_choice(_EXIT_PAYLOAD, Op.PAYLOAD_EXIT2, Op.PAYLOAD_EXIT2_TT), _choice(0, Op.EXIT2, Op.EXIT2_TT)),
    GroupLeader: (_choice(0, Op.GROUP_LEADER),),
    MonitorP: (_choice(_MONITORS, Op.MONITOR_P),),
    DemonitorP: (_choice(_MONITORS, Op.DEMONITOR_P),),
    MonitorPExit: (
        _choice(_MONITORS | _EXIT_PAYLOAD, Op.PAYLOAD_MONITOR_P_EXIT),
        _choice(_MONITORS, Op.MONITOR_P_EXIT),
    ),
    SpawnRequest: (_choice(Flag.SPAWN, Op.SPAWN_REQUEST, Op.SPAWN_REQUEST_TT),),
    SpawnReply: (_choice(0, Op.SPAWN_REPLY, Op.SPAWN_REPLY_TT),),
}


def is_known_to(flags: int, record: Record) -> bool:
    """Can a peer with these negotiated flags be sent this record? `to_wire` gives None for those that cannot be.

    What that means is OTP's: `SpawnRequest` fails with `notsup`; `AliasSend`, and `Exit2` to an alias, are dropped in
    silence; so are `MonitorP`, `DemonitorP` and `MonitorPExit`, and a monitor then only watches over the connection.
    """
    return bool(_altact_bits(record, flags)) or _choose(record, flags) is not None


def to_wire(record: Record, flags: int) -> tuple[Control, Any] | None:
    """The control tuple and the payload (or `NO_PAYLOAD`) of a record, by the flags that both nodes have.

    None when the peer does not know of such a record (`is_known_to`): drop it. `flags` should be a plain int where
    speed matters: the operators of an IntFlag are slow.
    """
    token = _sendable_token(record, flags)
    bits = _altact_bits(record, flags)
    if bits:
        return _to_altact(record, bits, token)
    choice = _choose(record, flags)
    if choice is None:
        return None
    op = choice.op if token is None else choice.op_with_token
    layout = _LAYOUTS[op]
    control = (op, *(getattr(record, name) if name else _UNUSED for name, _ in layout.elements))
    return control, NO_PAYLOAD if layout.payload is None else getattr(record, layout.payload[0])


def _choose(record: Record, flags: int) -> _Choice | None:
    kind = type(record)
    choices = _CHOICES[kind]
    if kind is Send and record.sender is None:  # type: ignore[union-attr]
        return choices[-1]
    if kind is Exit2 and type(record.to) is not Pid:  # type: ignore[union-attr]
        return None  # only ALTACT_SIG_SEND can say so
    for choice in choices:
        if not choice.needs & ~flags:
            return choice
    return None


def _altact_bits(record: Record, flags: int) -> int:
    """The bits of ALTACT_SIG_SEND where that carries this record, or 0 (dist.c: `erts_dsig_send_msg`, `_exit2`)."""
    if not flags & _ALTACT_SIG:
        return 0
    match record:
        case AliasSend():
            return _TO_ALIAS | record.priority
        case RegSend(priority=True):
            return _TO_NAME | _PRIORITY
        case Send(priority=True) if record.sender is not None:
            return _PRIORITY
        case Exit2(to=Reference()):
            return _IS_EXIT | _TO_ALIAS | record.priority
        case Exit2(to=Atom()):
            return _IS_EXIT | _TO_NAME | record.priority
        case Exit2(priority=True):
            return _IS_EXIT | _PRIORITY
        case _:
            return 0


def _to_altact(record: Any, bits: int, token: Any) -> tuple[Control, Any]:
    to = (
        record.alias
        if bits & _TO_ALIAS and not bits & _IS_EXIT
        else record.name
        if type(record) is RegSend
        else record.to
    )
    payload = record.reason if bits & _IS_EXIT else record.message
    if token is None:
        return (int(Op.ALTACT_SIG_SEND), bits, record.sender, to), payload
    return (int(Op.ALTACT_SIG_SEND), bits | _WITH_TOKEN, record.sender, to, token), payload


def _sendable_token(record: Record, flags: int) -> Any:
    """The record's trace token; None where it has none, or has a label that the peer does not take.

    Without BIG_SEQTRACE_LABELS a label is an integer of 28 bits, signed (dist.c: `can_send_seqtrace_token`).
    """
    token = getattr(record, "token", None)
    if token is None or flags & _BIG_LABELS:
        return token
    label = token[1] if type(token) is tuple and len(token) > 1 else None
    return token if type(label) is int and -(1 << 27) <= label < 1 << 27 else None
