"""`sync.GenServer`: servers whose handlers block, and the blocking functions of any server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.otp import gen, gen_server, names, server_loop
from beamnode.sync.waiting import in_process


class GenServer(gen_server.Handlers):
    """`beamnode.GenServer`, blocking: derive from it, or use its functions for any server.

    The handlers of a class that derives from it run in a thread of its server's own, as with `@blocking`: they may
    block, and use the names of `beamnode.sync`.
    """

    handlers_block = True

    @classmethod
    def start(cls, *args: Any, name: Atom | str | None = None, timeout: float | None = None) -> Pid:
        """`Counter.start(1)`; a class of awaitable handlers is started with `sync.GenServer.start(Counter, 1)`."""
        server, args = cls._class_to_start(args)
        return in_process(server_loop.start(server, args, name, timeout, link=False))

    @classmethod
    def start_link(cls, *args: Any, name: Atom | str | None = None, timeout: float | None = None) -> Pid:
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

    @staticmethod
    def call(server: names.Server, request: Any, timeout: float | None = gen_server.CALL_SECONDS) -> Any:
        """As `beamnode.GenServer.call`."""
        return in_process(gen_server.GenServer.call(server, request, timeout))

    @staticmethod
    def cast(server: names.Server, request: Any) -> None:
        """As `beamnode.GenServer.cast`."""
        gen_server.GenServer.cast(server, request)

    @staticmethod
    def reply(sender: gen.From, value: Any) -> None:
        """As `beamnode.GenServer.reply`."""
        gen.reply(sender, value)

    @staticmethod
    def stop(server: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
        """As `beamnode.GenServer.stop`."""
        in_process(gen_server.GenServer.stop(server, reason, timeout))

    @staticmethod
    def send_request(server: names.Server, request: Any) -> Reference:
        """As `beamnode.GenServer.send_request`."""
        return gen_server.GenServer.send_request(server, request)

    @staticmethod
    def receive_response(request: Reference, timeout: float | None = None) -> Any:
        """As `beamnode.GenServer.receive_response`."""
        return in_process(gen_server.GenServer.receive_response(request, timeout))

    @staticmethod
    def wait_response(request: Reference, timeout: float | None = None) -> Any:
        """As `beamnode.GenServer.wait_response`."""
        return in_process(gen_server.GenServer.wait_response(request, timeout))

    check_response = staticmethod(gen_server.GenServer.check_response)

    @staticmethod
    def multi_call(
        nodes: Sequence[Atom | str], name: Atom | str, request: Any, timeout: float | None = None
    ) -> tuple[list[tuple[Atom, Any]], list[Atom]]:
        """As `beamnode.GenServer.multi_call`."""
        return in_process(gen_server.GenServer.multi_call(nodes, name, request, timeout))

    @staticmethod
    def abcast(nodes: Sequence[Atom | str], name: Atom | str, request: Any) -> None:
        """As `beamnode.GenServer.abcast`."""
        gen_server.GenServer.abcast(nodes, name, request)
