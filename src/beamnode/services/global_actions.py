"""What the machine of `global_name_server` asks of the process that drives it: small records, carried out in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from beamnode.etf.terms import Atom, Pid, a

SERVER: Final = a.global_name_server  # the registered name, on every node
GEN_CALL: Final = Atom("$gen_call")
GEN_CAST: Final = Atom("$gen_cast")

PROTOCOL_VERSION: Final = 8  # OTP 25 to 29 (global.erl: vsn)
VERIFY_CONNECT_VERSION: Final = 8  # from here on a connect is confirmed and can be cancelled
OVERLAP_PREVENTION_VERSION: Final = 7  # from here on peers understand lost_connection; also: known nodes have versions


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to a pid or a `(name, node)`; with `no_connect` drop it unless the connection is up already."""

    to: Pid | tuple[Atom, Atom]
    message: Any
    no_connect: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a gen call, by the rules of `gen:reply/2`; `sender` is its From: `(pid, tag)`, the tag in any shape."""

    sender: tuple[Pid, Any]
    value: Any


@dataclass(frozen=True, slots=True)
class Call:
    """A gen call of `global_name_server` at `node` without a time limit (its end is `call_answered` or `call_failed`).

    Connect if need be. The pid in From must be `from_pid`: the peer monitors it and ties the lock to it. It fails when
    the connection or the server there is gone.
    """

    node: Atom
    request: Any
    call_id: int
    from_pid: Pid


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """An `rpc:call` (erpc's spawn request) without a time limit; `call_failed` for whatever is a `badrpc`."""

    node: Atom
    module: Atom
    function: Atom
    arguments: tuple[Any, ...]
    call_id: int


@dataclass(frozen=True, slots=True)
class Connect:
    """See to a connection with `node`, or wait for the one that is being set up; then call `connected(node, ok)`."""

    node: Atom


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection with `node`; its `nodedown` comes afterwards as for every other end of a connection."""

    node: Atom


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit signal (`exit(pid, reason)`) for the loser of a name conflict."""

    pid: Pid
    reason: Any


@dataclass(frozen=True, slots=True)
class Log:
    """`level` is one of OTP's: `error`, `warning`, `info`, `debug`."""

    level: str
    text: str


Action: TypeAlias = Send | Reply | Call | RemoteCall | Connect | Disconnect | Exit | Log


class Outbox:
    """The actions that are waiting to be taken, and the few shapes in which the parts of the machine send."""

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def put(self, action: Action) -> None:
        self._actions.append(action)

    def take(self) -> list[Action]:
        """All actions since the last time, in order."""
        taken, self._actions = self._actions, []
        return taken

    def cast(self, node: Atom, request: Any) -> None:
        """A `gen_server:cast` to the server of `node`."""
        self.put(Send((SERVER, node), (GEN_CAST, request)))

    def volatile(self, node: Atom, message: Any) -> None:
        """A plain message to the server of `node`, which never makes a connection (gns_volatile_send)."""
        self.put(Send((SERVER, node), message, no_connect=True))

    def log(self, level: str, text: str) -> None:
        self.put(Log(level, text))
