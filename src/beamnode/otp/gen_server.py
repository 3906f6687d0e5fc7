"""`GenServer`: a process that keeps state and answers calls, in the protocol of OTP's gen_server.

    class Counter(GenServer):
        def init(self, start):
            self.count = start

        def handle_call(self, request, sender):
            match request:
                case (a.add, int() as n):
                    self.count += n
                    return self.count

    pid = await Counter.start(1, name="counter")
    await GenServer.call("counter", (a.add, 5))

Handlers are `def` or `async def`. What `handle_call` returns is the reply, unless it is `NO_REPLY` (then
`reply(sender, value)` answers later) or `Reply(value, then=...)`. An exception ends the server; its caller, links and
monitors get the reason, the log gets the traceback, the last message and the state.
Source: gen_server.erl; Elixir's GenServer for names and defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from beamnode.errors import ProcessExit
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node import demonitor, reason_text, send
from beamnode.otp import gen, names, proc_lib, server_loop
from beamnode.otp.child_specs import Supervised
from beamnode.otp.handlers import NO_REPLY, Continue, Handlers, Ignore, Reply, Stop, Then, Timeout, blocking
from beamnode.otp.proc_lib import StartFailed
from beamnode.otp.server_loop import AlreadyStarted, enter_loop

__all__ = [
    "CALL_SECONDS",
    "NO_REPLY",
    "AlreadyStarted",
    "CallFailed",
    "Continue",
    "GenServer",
    "Handlers",
    "Ignore",
    "Reply",
    "StartFailed",
    "Stop",
    "Then",
    "Timeout",
    "blocking",
    "enter_loop",
]

CALL_SECONDS: Final = 5.0  # as OTP


class CallFailed(ProcessExit):
    """A server was not there, or ended before it replied: `cause` says why (`noproc`, `noconnection`, its reason).

    `reason` is OTP's, `{Cause, {gen_server, call, [Server, Request, Timeout]}}`: what the caller ends with if it lets
    this pass. So it does not seem to end well, only because a server did.
    """

    def __init__(
        self,
        cause: Any,
        server: names.Server,
        request: Any,
        timeout: float | None,
        module: Atom = a.gen_server,
    ) -> None:
        milliseconds = a.infinity if timeout is None else round(timeout * 1000)
        super().__init__((cause, (module, a.call, [as_term(server), request, milliseconds])))
        self.cause = cause
        self._server = shown(as_term(server))

    def __str__(self) -> str:
        match self.cause:
            case a.noproc:
                return f"there is no process {self._server} (noproc)"
            case a.noconnection:
                return f"there is no connection with the node of {self._server} (noconnection)"
        return f"{self._server} did not reply: {reason_text(self.cause)}"


class GenServer(Handlers, Supervised):
    """Derive from it, and define the handlers that you need (`Handlers`); the static methods use any server."""

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start(cls, *args: Any, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """Start a server with `init(*args)`, and wait until that is done; its pid.

        Errors: AlreadyStarted (`pid`: who has the name); StartFailed (`reason`: what `init` ended with); Ignore, which
        `init` raised; TimeoutError, after which there is no server.
        """
        return await server_loop.start(cls, args, name, timeout, link=False)

    @classmethod
    async def start_link(cls, *args: Any, name: names.Name | None = None, timeout: float | None = None) -> Pid:
        """`start`, linked with the current process, its parent: when that ends, so does the server.

        A server that fails to start takes the current process along, unless that traps exits (as in OTP).
        """
        return await server_loop.start(cls, args, name, timeout, link=True)

    # --- Using --------------------------------------------------------------------------------------------------------

    @staticmethod
    async def call(server: names.Server, request: Any, timeout: float | None = CALL_SECONDS) -> Any:
        """Ask a server (pid, name, `(name, node)`) and wait for its reply; several tasks of a process may at a time.

        Errors: CallFailed, a ProcessExit, at once when the server is not there or ends; TimeoutError after `timeout`
        seconds (a reply that comes later is dropped).
        """
        try:
            return await gen.call(server, gen.CALL, request, timeout)
        except ProcessExit as failure:
            if type(failure) is not ProcessExit:
                raise
            raise CallFailed(failure.reason, server, request, timeout) from None
        except TimeoutError:
            raise TimeoutError(f"{server!r} did not reply within {timeout} s") from None

    @staticmethod
    def cast(server: names.Server, request: Any) -> None:
        """Tell a server something; whether it is there is not asked."""
        names.tell(server, (gen.CAST, request))

    @staticmethod
    def reply(sender: gen.From, value: Any) -> None:
        """Answer a call that `handle_call` left open with NO_REPLY. Any process of any node may do it."""
        gen.reply(sender, value)

    @staticmethod
    def whereis(server: names.Server) -> Pid | None:
        """The pid of a server of this node, by any of its names; None when there is none (or it is named elsewhere)."""
        return names.pid_here(server)

    @staticmethod
    async def stop(server: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
        """Let a server end, after its `terminate`, and wait for it.

        Errors: ProcessExit when it is not there or ends with another reason; TimeoutError.
        """
        await proc_lib.stop(server, reason, timeout)

    # --- Many requests at a time --------------------------------------------------------------------------------------

    @staticmethod
    def send_request(server: names.Server, request: Any) -> Reference:
        """Send a call without waiting. Use `receive_response`, `wait_response` or `check_response` afterwards."""
        return gen.request(server, gen.CALL, request)

    @staticmethod
    async def receive_response(request: Reference, timeout: float | None = None) -> Any:
        """The reply to a `send_request`, which is over afterwards. Errors: ProcessExit, TimeoutError."""
        return await gen.response(request, timeout)

    @staticmethod
    async def wait_response(request: Reference, timeout: float | None = None) -> Any:
        """As `receive_response`, but after a TimeoutError the reply may still be waited for."""
        return await gen.await_response(request, timeout)

    @staticmethod
    def check_response(message: Any, request: Reference) -> Any:
        """For a message that the process received: the reply to `request`, or NO_REPLY if it is another message.

        Errors: ProcessExit if it tells that the server has ended.
        """
        if not gen.is_answer(message, request):
            return NO_REPLY
        demonitor(request, flush=True)
        return gen.opened(message)

    @staticmethod
    async def multi_call(
        nodes: Sequence[Atom | str], name: Atom | str, request: Any, timeout: float | None = None
    ) -> tuple[list[tuple[Atom, Any]], list[Atom]]:
        """Call the server `name` on every node; the replies by node, and the nodes that gave none in time."""
        loop = asyncio.get_running_loop()
        requests = [(Atom(str(node)), gen.request((name, node), gen.CALL, request, expected=True)) for node in nodes]
        deadline = None if timeout is None else loop.time() + timeout
        replies: list[tuple[Atom, Any]] = []
        silent: list[Atom] = []
        try:
            for node, reference in requests:
                left = None if deadline is None else max(deadline - loop.time(), 0)
                try:
                    replies.append((node, await gen.response(reference, left)))
                except (ProcessExit, TimeoutError):
                    silent.append(node)
        finally:
            for _, reference in requests[len(replies) + len(silent) :]:
                demonitor(reference, flush=True)
        return replies, silent

    @staticmethod
    def abcast(nodes: Sequence[Atom | str], name: Atom | str, request: Any) -> None:
        """Cast to the server `name` on every node."""
        for node in nodes:
            send((name, node), (gen.CAST, request))


def as_term(server: names.Server) -> Any:
    """A server as OTP writes it in exit reasons."""
    if names.is_via(server):
        _, registry, key = server
        return (a.via, Atom(getattr(registry, "__name__", type(registry).__name__)), key)
    if isinstance(server, tuple):
        return tuple(Atom(str(part)) for part in server)
    return Atom(server) if isinstance(server, str) else server
