"""`erpc`, the serving side: `erpc:execute_call/4` is how OTP 25 and later ask for a call, rpc and erpc alike.

A call is a spawn request with a monitor; the exit reason of the spawned process carries the answer (WIRE.md 2.3). When
nobody monitors the process any more, nobody waits: it ends. Served is what the node's policy allows. Source: erpc.erl.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from beamnode.errors import BeamnodeError, ProcessExit, Throw
from beamnode.etf import Atom, Pid, a, encode
from beamnode.etf.shown import shown
from beamnode.node import Asked, Callee, Node, RaisedElsewhere, current_body, reason_of, stack_of

log = logging.getLogger("beamnode.rpc")

RETURN: Final = Atom("return")

_OWN_FILES: Final = tuple(str(Path(__file__).parents[1] / folder) for folder in ("node", "services"))


class Server:
    """Runs calls that peers ask for; each in a process of its own, which its answer ends."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def install(self) -> None:
        """Let spawn requests for `erpc`'s entry points reach this server."""
        self._node.serve_builtin("erpc", "execute_call", 4, self.execute_call)
        self._node.serve_builtin("erpc", "execute_cast", 3, self.execute_cast)

    async def execute_call(self, mark: Any, module: Any, function: Any, args: Any) -> None:
        """`erpc:execute_call/4`: the process ends with the answer, and before when nobody monitors it any more."""
        self._node.end_unwatched()
        raise ProcessExit((mark, *await self.outcome(self._asker(), module, function, args)))

    async def execute_cast(self, module: Any, function: Any, args: Any) -> None:
        """`erpc:execute_cast/3`: nobody waits for the answer; an error is logged."""
        await self.cast_for(self._asker(), module, function, args)

    async def cast_for(self, asker: Atom, module: Any, function: Any, args: Any) -> None:
        """A cast of a process of node `asker`."""
        kind, *what = await self.outcome(asker, module, function, args)
        if kind is not RETURN and what[0] is not a.undef:  # a refusal has been logged
            log.error("%s, cast by %s, failed: %s", shown((module, function, args)), asker, shown(what))

    def _asker(self) -> Atom:
        """The node of who had the current process spawned."""
        parent = current_body().process.parent
        return parent.node if isinstance(parent, Pid) else self._node.name

    async def outcome(self, asker: Atom, module: Any, function: Any, args: Any) -> tuple[Any, ...]:
        """`{return, Value}`, `{throw, Value}`, `{exit, Reason}` or `{error, Reason, Stack}` of a call."""
        if not (isinstance(module, Atom) and isinstance(function, Atom) and isinstance(args, list)):
            return (a.error, a.badarg, [(a.erlang, a.apply, [module, function, args], [])])
        asked = Asked(asker, module, function, args).applied()
        callee = await self._node.find_exposed(asked)
        if callee is None:
            return (a.error, a.undef, [(asked.module, asked.function, asked.args, [])])
        outcome = await self._run(asked, callee)
        try:
            encode(outcome)
        except BeamnodeError as error:
            text = f"the result has no term: {error}".encode("utf-8", "replace")
            return (a.error, (a.badarg, text), [(asked.module, asked.function, len(asked.args), [])])
        return outcome

    async def _run(self, asked: Asked, callee: Callee) -> tuple[Any, ...]:
        try:
            return (RETURN, await self._node.run_exposed(callee))
        except Throw as thrown:
            return (a.throw, thrown.value)
        except RaisedElsewhere as raised:
            return (a.error, raised.error, raised.stack)
        except ProcessExit as ended:
            return (a.exit, ended.reason)
        except SystemExit as ended:  # it ends the call, not the node
            return (a.exit, (a.SystemExit, ended.code))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.info("%s, called by %s, raised %r", asked, asked.node, error, exc_info=error)
            frames = stack_of(_from_the_function(error.__traceback__))
            return (a.error, reason_of(error)[0], frames or [(asked.module, asked.function, len(asked.args), [])])


def badrpc(outcome: tuple[Any, ...]) -> Any:
    """As `rpc:call/4` shows it: a value, also one that was thrown, or `{badrpc, {'EXIT', Reason}}`."""
    match outcome:
        case (a.error, reason, stack):
            return (a.badrpc, (a.EXIT, (reason, stack)))
        case (a.exit, reason):
            return (a.badrpc, (a.EXIT, reason))
    return outcome[1]


def _from_the_function(trace: TracebackType | None) -> TracebackType | None:
    """Without the outermost frames, which are ours and none of the caller's business."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        trace = trace.tb_next
    return trace
