"""`user`: the group leader of a node's own processes, an IO server on the console of the Python process.

While it runs, `print`, `input` and `logging` in processes whose group leader is elsewhere go there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

from beamnode.errors import EncodeError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node import Node, demonitor, monitor, receive, send
from beamnode.services import logger_client, rpc_client, standard_streams
from beamnode.services.console import Console
from beamnode.services.io_server import IoServer, may_wait, wants_input

log = logging.getLogger("beamnode.io")

CALL_SECONDS: Final = 10.0  # for a function that a request names, on the asker's node


async def run(node: Node, console: Console | None = None) -> None:
    """Serve for as long as the node is up."""
    user = User(node, console or Console())
    standard_streams.install()
    logger_client.install()
    try:
        while True:
            match await receive():
                case (a.io_request, Pid() as asker, reply_as, request):
                    await user.handle(_Asked(asker, reply_as, request))
                case (a.io_reply, _, answer):  # to what a process here has printed elsewhere
                    if answer is not a.ok:
                        log.debug("what was printed on another node was refused there: %s", shown(answer))
                case (a.DOWN, Reference() as reference, _, _, _):
                    user.forget(reference)
                case other:
                    log.debug("user got %s", shown(other))
    finally:
        logger_client.uninstall()
        standard_streams.uninstall()
        user.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, who asks, and what it calls its question."""

    asker: Pid
    reply_as: Any
    request: Any


class User:
    """Output is printed at once. Who asks for input waits for those who asked before; who ends asks no more."""

    def __init__(self, node: Node, console: Console) -> None:
        self._node = node
        self._server = IoServer(console, node.name)
        self._waiting: dict[Reference, _Asked] = {}  # for input, in order; each asker is monitored
        self._reading: tuple[Reference, asyncio.Task[None]] | None = None
        self._calling: set[asyncio.Task[None]] = set()

    async def handle(self, asked: _Asked) -> None:
        waits = wants_input(asked.request)
        if (waits or may_wait(asked.request)) and not self._has_room(asked.asker):
            send(asked.asker, (a.io_reply, asked.reply_as, (a.error, a.system_limit)))
        elif waits:
            self._waiting[monitor(asked.asker)] = asked
            self._read_next()
        elif may_wait(asked.request):
            task = asyncio.create_task(self._answer(asked))
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)
        else:
            await self._answer(asked)

    def _has_room(self, asker: Pid) -> bool:
        """For one more request that is not answered at once; if not, the log says so."""
        network, count = self._node.network, len(self._waiting) + len(self._calling)
        if count < network.limits.io_requests_max:
            return True
        what = f"it prints or asks while {count} requests wait"
        network.bounds.log.hit("io_requests_max", asker.node.name, what, "answered {error, system_limit}")
        return False

    def forget(self, reference: Reference) -> None:
        """The asker has ended: what is typed from now on is for the next one."""
        self._waiting.pop(reference, None)
        if self._reading is not None and self._reading[0] == reference:
            self._reading[1].cancel()

    def close(self) -> None:
        self._waiting.clear()
        if self._reading is not None:
            self._reading[1].cancel()
        for task in self._calling:
            task.cancel()

    def _read_next(self) -> None:
        if self._reading is None and self._waiting:
            reference, asked = next(iter(self._waiting.items()))
            task = asyncio.create_task(self._answer(asked))
            self._reading = (reference, task)
            task.add_done_callback(lambda _: self._has_read(reference))

    def _has_read(self, reference: Reference) -> None:
        self._reading = None
        if self._waiting.pop(reference, None) is not None:
            demonitor(reference, flush=True)
        self._read_next()

    async def _answer(self, asked: _Asked) -> None:
        async def call(module: Atom, function: Atom, args: list[Any]) -> Any:
            where = asked.asker.node
            if where is self._node.name:
                raise UsageError(f"{module}:{function} is a function of Erlang, which this node does not have")
            return await rpc_client.call(self._node, where, module, function, args, CALL_SECONDS)

        try:
            answer = await self._server.answer(asked.request, call)
            send(asked.asker, (a.io_reply, asked.reply_as, answer))
        except EncodeError as error:
            log.debug("the answer to %r cannot be sent: %s", asked.asker, error)
        except Exception:
            log.exception("an IO request failed: %s", shown(asked.request))
            send(asked.asker, (a.io_reply, asked.reply_as, (a.error, a.request)))
