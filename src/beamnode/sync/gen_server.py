"""`sync.GenServer`: servers whose handlers block, and the blocking functions of any server."""

# mypy: disable-error-code="assignment, override"
# (What is awaited in the behaviour blocks in its blocking class.)

from __future__ import annotations

from typing import Any

from beamnode.errors import UsageError
from beamnode.etf import Pid
from beamnode.otp import gen_server, names, server_loop
from beamnode.sync.face import Face
from beamnode.sync.waiting import blocking, in_process

_Awaitable = gen_server.GenServer


class GenServer(Face, gen_server.GenServer):
    """`beamnode.GenServer`, blocking: derive from it, or use its functions for any server.

    The handlers of a class that derives from it run in a thread of its server's own, as with `@blocking`: they may
    block, and use the names of `beamnode.sync`.
    """

    awaitable = _Awaitable
    handlers_block = True

    @classmethod
    def start(cls, *args: Any, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """`Counter.start(1)`; a class of awaitable handlers is started with `sync.GenServer.start(Counter, 1)`."""
        server, args = cls._class_to_start(args)
        return in_process(server_loop.start(server, args, name, timeout, link=False))

    @classmethod
    def start_link(cls, *args: Any, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """`start`, linked with the current process."""
        server, args = cls._class_to_start(args)
        return in_process(server_loop.start(server, args, name, timeout, link=True))

    @classmethod
    def _class_to_start(cls, args: tuple[Any, ...]) -> tuple[type[gen_server.Handlers], tuple[Any, ...]]:
        if cls is not GenServer:
            return cls, args
        if not args or not isinstance(args[0], type) or not issubclass(args[0], gen_server.Handlers):
            raise UsageError("sync.GenServer.start takes the class of a server, then what its init takes")
        return args[0], args[1:]

    call = staticmethod(blocking(_Awaitable.call))
    stop = staticmethod(blocking(_Awaitable.stop))
    receive_response = staticmethod(blocking(_Awaitable.receive_response))
    wait_response = staticmethod(blocking(_Awaitable.wait_response))
    multi_call = staticmethod(blocking(_Awaitable.multi_call))
