"""Calls on other nodes, as `erpc` of OTP 23 and later makes them.

A call is a spawn request for `erpc:execute_call/4` with a monitor; the exit reason of that process carries the answer
(WIRE.md 2.3). To give up, the monitor is taken back. Source: erpc.erl.
"""

from __future__ import annotations

import asyncio
from typing import Any

from beamnode.errors import SpawnError
from beamnode.etf import Atom, Reference, a
from beamnode.node import Node, demonitor, receive_tagged
from beamnode.node import self as own_pid
from beamnode.services.remote_errors import (
    RemoteError,
    RemoteExit,
    RemoteThrow,
    RpcFailed,
    call_text,
    reason_text,
)

Name = Atom | str


async def call(node: Node, where: Name, module: Name, function: Name, args: list[Any], timeout: float | None) -> Any:
    """Call `module:function(args)` on `where` and wait for the result, at most `timeout` seconds.

    Errors: RemoteError, RemoteExit, RemoteThrow as it ended there; RpcFailed at once when it cannot be called;
    TimeoutError, after which the other node is told that nobody waits.
    """
    return await node.run_process(_call, node, where, Atom(str(module)), Atom(str(function)), args, timeout)


async def cast(node: Node, where: Name, module: Name, function: Name, args: list[Any]) -> None:
    """Have `module:function(args)` called on `where`, and do not wait for the result. Errors: RpcFailed."""
    what = [Atom(str(module)), Atom(str(function)), args]
    try:
        await node.spawn(where, a.erpc, a.execute_cast, what)
    except SpawnError as error:
        raise _failed(node, where, f"{call_text(module, function, len(args))} on {where}", error) from error


async def _call(node: Node, where: Name, module: Atom, function: Atom, args: list[Any], timeout: float | None) -> Any:
    what = f"{call_text(module, function, len(args))} on {where}"
    mark = own_pid()
    reference: Reference | None = None
    try:
        async with asyncio.timeout(timeout):
            _, reference = await node.spawn_monitor(where, a.erpc, a.execute_call, [mark, module, function, args])
            message = await receive_tagged(reference)
    except SpawnError as error:
        raise _failed(node, where, what, error) from error
    except TimeoutError:
        if reference is not None:
            demonitor(reference)
        raise TimeoutError(f"{what} did not return within {timeout} s") from None
    return _result(message[4], mark, what)


def _failed(node: Node, where: Name, what: str, error: SpawnError) -> RpcFailed:
    why = node.connect_error(where) if error.reason is a.noconnection else None
    return RpcFailed(f"{what} could not be called: {reason_text(error.reason) if why is None else why}", error.reason)


def _result(reason: Any, mark: Any, what: str) -> Any:
    """What the end of the process there means. Source: `erpc:call_result/4`."""
    match reason:
        case (said, Atom(name="return"), value) if said == mark:
            return value
        case (said, a.throw, value) if said == mark:
            raise RemoteThrow(f"{what} threw {reason_text(value)}", value)
        case (said, a.exit, why) if said == mark:
            raise RemoteExit(f"{what} exited: {reason_text(why)}", why)
        case (said, a.error, why, stack) if said == mark:
            raise RemoteError(f"{what} raised {reason_text(why, stack)}", why, stack)
        case (said, a.error, (a.erpc, why)) if said == mark:
            raise RpcFailed(f"{what} could not be called: {reason_text(why)}", why)
        case a.noconnection:
            raise RpcFailed(f"{what}: the connection was lost", reason)
        case (a.undef, [(a.erpc, a.execute_call, *_), *_]):
            raise RpcFailed(f"{what} could not be called: that node serves no calls", a.undef)
    raise RemoteExit(f"{what} was ended: {reason_text(reason)}", reason)
