"""The process `global_name_server`: hands what happens to its machine (`global_name_server.py`) and does as it says."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final

from beamnode.errors import BeamnodeError, EncodeError, NodeNameError, ProcessExit
from beamnode.etf import Atom, ImproperList, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node import Node, demonitor, exit, monitor, receive, receive_tagged, send, spawn
from beamnode.node import self as own_pid
from beamnode.otp import gen
from beamnode.services.global_actions import (
    SERVER,
    Action,
    Call,
    Connect,
    Disconnect,
    Exit,
    Log,
    RemoteCall,
    Reply,
    Send,
)
from beamnode.services.global_name_server import GlobalNameServer
from beamnode.services.global_resolver import resolve_it

log = logging.getLogger("beamnode.global")

_LEVELS: Final = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_CONNECTED: Final = object()  # from a helper process: what came of a Connect
_RETURNED: Final = object()  # and of a RemoteCall


async def run(node: Node, *, connect_all: bool = True, prevent_overlapping_partitions: bool = True) -> None:
    """Serve for as long as the node is up. The options are OTP's kernel parameters."""
    await GlobalProcess(node, connect_all, prevent_overlapping_partitions).run()


class GlobalProcess:
    """The driver: time, mailbox and connections on one side, the machine on the other."""

    def __init__(self, node: Node, connect_all: bool, prevent_overlapping_partitions: bool) -> None:
        self._node = node
        self._pid = own_pid()
        self._calls: dict[Reference, int] = {}
        self._machine = GlobalNameServer(
            node.name,
            self._pid,
            self._pid,
            monitor=monitor,
            demonitor=_demonitor,
            random=random.random,
            connect_all=connect_all,
            prevent_overlapping_partitions=prevent_overlapping_partitions,
            limits=node.network.limits,
            limit_hit=node.network.bounds.log.hit,
        )

    async def run(self) -> None:
        """Watch the visible nodes, and serve."""
        self._node.monitor_nodes(True, connection_id=True)
        clock = asyncio.get_running_loop().time
        self._node.serve_builtin("global", "resolve_it", 4, answer_resolve_it)
        await self._part()
        while True:
            deadline = self._machine.next_deadline()
            try:
                message = await receive(timeout=None if deadline is None else max(deadline - clock(), 0))
            except TimeoutError:
                actions = self._machine.handle_deadline(clock())
            else:
                actions = self._on_message(message, clock())
            for action in actions:
                await self._act(action)

    async def _part(self) -> None:
        """End the connections that are up already: this process follows one that has crashed.

        The peers count that one among the synced, with names and locks that are gone, and never answer a second
        `init_connect` on the same connection. (In OTP the whole node goes when `global_name_server` does.)
        """
        nodes = self._node.list()
        if nodes:
            log.warning("global of %s has lost its state: disconnecting from %s", self._node.name, nodes)
        for node in nodes:
            await self._node.disconnect(node)

    def _is_up(self, node: Atom, connection_id: Any) -> bool:
        return type(connection_id) is int and self._connection_id(node) == connection_id

    def _connection_id(self, node: Atom) -> int | None:
        try:
            return self._node.connection_id(node)
        except NodeNameError:  # what peers speak of need not be a name
            return None

    def _on_message(self, message: Any, now: float) -> list[Action]:
        machine = self._machine
        match message:
            # A peer can send what looks like these: without a look at the connections it could make us dial anybody.
            case (a.nodeup, Atom() as node, {a.connection_id: connection_id}):
                if not self._is_up(node, connection_id):
                    return []
                return machine.nodeup(node, connection_id, now)
            case (a.nodedown, Atom() as node, {a.connection_id: connection_id}):
                if self._is_up(node, connection_id):
                    return []
                return machine.nodedown(node, connection_id, now)
            case (ImproperList(elements=(a.alias,), tail=Reference() as reference), answer) if reference in self._calls:
                return machine.call_answered(self._calls.pop(reference), answer, now)
            case (a.DOWN, Reference() as reference, _, _, _) if reference in self._calls:
                return machine.call_failed(self._calls.pop(reference), now)
            case (kind, node, ok) if kind is _CONNECTED:
                # What came up and is gone again has no `nodedown` that the machine would believe.
                return machine.connected(node, ok and self._connection_id(node) is not None, now)
            case (kind, call_id, outcome) if kind is _RETURNED:
                if outcome is None:
                    return machine.call_failed(call_id, now)
                return machine.call_answered(call_id, outcome[0], now)
        return machine.message(message, now)

    async def _act(self, action: Action) -> None:
        match action:
            case Send(to, message, no_connect):
                if not no_connect or self._is_connected(to):
                    _send(to, message)
            case Reply(sender, value):
                gen.reply(sender, value)
            case Call(node, request, call_id):
                self._calls[gen.request((SERVER, node), gen.CALL, request)] = call_id
            case RemoteCall():
                spawn(self._call_remotely, action)
            case Connect(node):
                spawn(self._connect, node)
            case Disconnect(node):
                if self._connection_id(node) is not None:
                    await self._node.disconnect(node)
            case Exit(pid, reason):
                exit(pid, reason)
            case Log(level, text):
                log.log(_LEVELS[level], text)

    def _is_connected(self, to: Pid | tuple[Atom, Atom]) -> bool:
        node = to.node if isinstance(to, Pid) else to[1]
        return node is self._node.name or self._connection_id(node) is not None

    async def _connect(self, node: Atom) -> None:
        """In a process of its own: connecting takes time."""
        try:
            ok = await self._node.connect(node)
        except BeamnodeError as error:  # a name that cannot be a node of this cluster
            log.warning("cannot connect to %s: %s", shown(node), error)
            ok = False
        send(self._pid, (_CONNECTED, node, bool(ok)))

    async def _call_remotely(self, action: RemoteCall) -> None:
        """In a process of its own: `erpc:call`, whose answer is the exit reason of the process that it spawns."""
        outcome = None
        mark = a.beamnode_global
        arguments = [mark, action.module, action.function, list(action.arguments)]
        try:
            _, reference = await self._node.spawn_monitor(action.node, a.erpc, a.execute_call, arguments)
            message = await receive_tagged(reference)
        except BeamnodeError as error:
            log.warning("calling %s:%s on %s failed: %s", action.module, action.function, action.node, error)
        else:
            match message[4]:
                case (Atom() as said, Atom(name="return"), value) if said is mark:
                    outcome = (value,)
        send(self._pid, (_RETURNED, action.call_id, outcome))


async def answer_resolve_it(method: Any, name: Any, pid1: Any, pid2: Any) -> Any:
    """`global:resolve_it/4`, by rpc.

    Peers call it when two partitions have given a name to different processes, of which one is ours.
    """
    if not (isinstance(pid1, Pid) and isinstance(pid2, Pid)):
        raise ProcessExit(a.badarg)
    result, actions = resolve_it(method, name, pid1, pid2)
    for action in actions:
        match action:
            case Exit(pid, reason):
                exit(pid, reason)
            case Send(to, message):
                send(to, message)
            case Log(level, text):
                log.log(_LEVELS[level], text)
    return result


def _send(to: Pid | tuple[Atom, Atom], message: Any) -> None:
    try:
        send(to, message)
    except EncodeError as error:  # what one peer sent in a form that another does not know
        log.warning("a message to %s was dropped: %s", shown(to), error)


def _demonitor(reference: Reference) -> None:
    demonitor(reference, flush=True)
