"""`rex`: what peers ask of it by message: features, calls of C nodes and `erl_call`, `block_call`, broadcasts.

Source: rpc.erl, `handle_call`, `handle_cast`, `handle_info`; WIRE.md 2.2 and 2.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import Node, Origin, exit, group_leader, monitor, receive, send, spawn, spawn_monitor, whereis
from beamnode.otp import gen
from beamnode.services import cnode_output, erpc

log = logging.getLogger("beamnode.rpc")

Answer = Callable[[Any], None]

_NO_ROOM: Final = (a.badrpc, a.system_limit)


async def run(node: Node) -> None:
    """Answer for as long as the node is up."""
    rex = Rex(node)
    node.tell_origin()
    while True:
        try:
            message = await receive()
            if isinstance(message, Origin):
                rex.handle(message.message, message.node)
            else:
                rex.handle(message, node.name)
        except Exception:  # a message of a peer must not end the service
            log.exception("rex could not handle a message")


class Rex:
    """Calls run in processes of their own, so that none waits for another; but `block_call`s do, as in OTP."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._server = erpc.Server(node)
        self._server.install()
        self._blocked = asyncio.Lock()

    def handle(self, message: Any, origin: Atom) -> None:
        """One message, from a process of node `origin`; never waits. What it says of itself decides nothing."""
        match message:
            case (Pid() as asker, a.features_request):
                send(asker, (a.features_reply, self._node.name, [a.erpc]))
            case (gen.CALL, (Pid(), _) as sender, (a.call | a.block_call as kind, module, function, args, leader)):
                call = (module, function, args)
                if (
                    self._work_for(origin, self._answer_call, kind is a.block_call, origin, sender, call, leader)
                    is None
                ):
                    gen.reply(sender, _NO_ROOM)
            case (gen.CAST, (a.cast, module, function, args, leader)):
                worker = self._work_for(origin, self._server.cast_for, origin, module, function, args)
                if worker is not None:
                    _lead(leader, worker)
            case (Pid() as asker, (a.call, module, function, args, leader)):
                call = (module, function, args)
                if self._work_for(origin, self._answer_c_node, origin, asker, call, leader) is None:
                    _send_result(asker, _NO_ROOM)
            case (Pid() as asker, (a.sbcast, Atom() as name, message)):
                answer = self._node.name if self._pass_on(origin, name, message) else (a.nonexisting_name, name)
                send(asker, (a.rex, self._node.name, answer))
            case (Pid() as asker, (a.send, Atom() as name, message)):  # whoever is called `name` answers
                if not self._pass_on(origin, name, (asker, message)):
                    send(asker, (a.rex, self._node.name, (a.nonexisting_name, name)))
            case other:
                log.info("rex got %s", shown(other))

    def _pass_on(self, origin: Atom, name: Atom, message: Any) -> bool:
        """A message of `origin` to who is called `name`, which the guard has to let through as if it had come there."""
        pid = whereis(name)
        if pid is None or (origin is not self._node.name and not self._node.network.may_send(origin, name)):
            return False
        send(pid, message)
        return True

    def _work_for(self, origin: Atom, function: Callable[..., Any], *args: Any) -> Pid | None:
        """A process that works for `origin`; None, and logged, if that has as many as it may have."""
        signals = self._node.runtime.signals
        if origin is self._node.name:
            return spawn(function, *args)
        if not signals.guests.has_room(origin):
            return None
        pid = spawn(function, *args)
        process = signals.lookup(pid)
        if process is not None:
            signals.guests.came(process, origin)
        return pid

    async def _answer_call(
        self, block: bool, origin: Atom, sender: Any, call: tuple[Any, Any, Any], leader: Any
    ) -> None:
        """`'$gen_call'` `{call, ...}` and `{block_call, ...}`: given up when the caller's process ends."""
        client = sender[0]
        monitor(client)

        def answer(result: Any) -> None:
            gen.reply(sender, result)

        if not block:
            await self._work(origin, client, call, leader, answer)
            return
        async with self._blocked:
            await self._work(origin, client, call, leader, answer)

    async def _answer_c_node(self, origin: Atom, client: Pid, call: tuple[Any, Any, Any], leader: Any) -> None:
        """Of C nodes, which have no monitors: given up when the connection is lost."""
        if client.node is not self._node.name:
            self._node.monitor(client.node)
        if leader is a.send_stdout_to_caller:
            output = spawn(cnode_output.run, client)
            await self._work(origin, client, call, output, lambda result: cnode_output.end(output, result))
        else:
            await self._work(origin, client, call, leader, lambda result: _send_result(client, result))

    async def _work(self, origin: Atom, client: Pid, call: tuple[Any, Any, Any], leader: Any, answer: Answer) -> None:
        """Run the call in a process, and answer; when the client is gone, end that process."""
        outcome: list[Any] = []
        worker, ended = spawn_monitor(self._call, outcome, origin, *call)
        _lead(leader, worker)
        match await receive():
            case (a.DOWN, reference, _, _, reason) if reference == ended:
                answer(outcome[0] if outcome else (a.badrpc, (a.EXIT, reason)))
            case _:
                log.info("%s is given up: %s, which asked for it, is gone", shown(call), client.node)
                exit(worker, a.kill)

    async def _call(self, outcome: list[Any], asker: Atom, module: Any, function: Any, args: Any) -> None:
        outcome.append(erpc.badrpc(await self._server.outcome(asker, module, function, args)))


def _send_result(client: Pid, result: Any) -> None:
    send(client, (a.rex, result))


def _lead(leader: Any, pid: Pid) -> None:
    """Where it prints: `leader`, a pid, or the name `user` for the terminal of this node."""
    if isinstance(leader, Atom):
        leader = whereis(leader)
    if isinstance(leader, Pid):
        group_leader(leader, pid)
