"""`Agent`: a process that keeps a state, which functions read and change, one at a time.

    await Agent.start_link(dict, name="cache")
    await Agent.update("cache", lambda state: state | {"a": 1})
    await Agent.get("cache", lambda state: state["a"])

A function gets the state. It is a `def`, which runs on the event loop and must be short, or an `async def`; or it is
named, as `module, function, args`, and gets the state before the other arguments: so agents of other nodes are used,
and those here by other nodes. What is named runs where the policy of the agent's node allows it; what does not run is
refused to who asked, and the agent goes on. The state may be any Python object.

A function that raises ends the agent, as in Elixir: its caller, links and monitors get the reason.
Source: Elixir's Agent and Agent.Server.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

from beamnode.errors import EncodeError, UsageError
from beamnode.etf import Atom, Export, Fun, Pid, a, encode
from beamnode.etf.shown import shown
from beamnode.node import Asked, Refused, reason_of, run_asked
from beamnode.node import self as own_pid
from beamnode.otp import gen, names, proc_lib, server_loop
from beamnode.otp.child_specs import Supervised
from beamnode.otp.gen_server import CALL_SECONDS, GenServer
from beamnode.otp.handlers import NO_REPLY, Handlers, Reply, Stop

log = logging.getLogger("beamnode.agent")

Function: TypeAlias = Callable[..., Any] | Export | Fun
Change: TypeAlias = Callable[[Any], Any]
"""What a server makes of the result of a function; the result is what its handler returns."""


class Agent(Supervised):
    """The functions of any agent: a pid, a name, `(name, node)`, `("via", registry, key)`; of ours or of Elixir."""

    server: ClassVar[type[Server]]
    """What runs the agents of a class: `BlockingServer` calls each `def` in a thread of the agent's own."""

    @classmethod
    async def start(
        cls,
        function: Callable[..., Any] | Atom | str,
        *args: Any,
        name: names.Name | None = None,
        timeout: float | None = None,
    ) -> Pid:
        """Start an agent with the state that `function(*args)` gives, called in the agent; its pid.

        Or with `module, function, args`. Errors: AlreadyStarted (`pid`: who has the name); StartFailed (`reason`: what
        the function ended with); TimeoutError.
        """
        return await server_loop.start(cls.server, _for_start(function, args), name, timeout, link=False)

    @classmethod
    async def start_link(
        cls,
        function: Callable[..., Any] | Atom | str,
        *args: Any,
        name: names.Name | None = None,
        timeout: float | None = None,
    ) -> Pid:
        """`start`, linked with the current process."""
        return await server_loop.start(cls.server, _for_start(function, args), name, timeout, link=True)

    @staticmethod
    async def get(
        agent: names.Server,
        module: Function | Atom | str,
        function: Atom | str | None = None,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = CALL_SECONDS,
    ) -> Any:
        """What a function of the state gives: `get(agent, function)` or `get(agent, module, function, args)`.

        Errors: CallFailed, when there is no such agent, it ends (of the function, perhaps) or refuses the function;
        TimeoutError; UsageError for a Python function that would have to travel.
        """
        return await GenServer.call(agent, (a.get, _for(agent, module, function, args)), timeout)

    @staticmethod
    async def update(
        agent: names.Server,
        module: Function | Atom | str,
        function: Atom | str | None = None,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = CALL_SECONDS,
    ) -> None:
        """Make what a function of the state gives the new state. Arguments and errors: as `get`."""
        await GenServer.call(agent, (a.update, _for(agent, module, function, args)), timeout)

    @staticmethod
    async def get_and_update(
        agent: names.Server,
        module: Function | Atom | str,
        function: Atom | str | None = None,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = CALL_SECONDS,
    ) -> Any:
        """Both: the function gives a tuple, of what is wanted and the new state. Arguments and errors: as `get`."""
        return await GenServer.call(agent, (a.get_and_update, _for(agent, module, function, args)), timeout)

    @staticmethod
    def cast(
        agent: names.Server,
        module: Function | Atom | str,
        function: Atom | str | None = None,
        args: Sequence[Any] = (),
    ) -> None:
        """`update` without waiting for it; whether there is such an agent is not asked."""
        GenServer.cast(agent, (a.cast, _for(agent, module, function, args)))

    @staticmethod
    async def stop(agent: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
        """Let an agent end with `reason`, and wait for it. Errors: ProcessExit, TimeoutError."""
        await proc_lib.stop(agent, reason, timeout)


class Server(Handlers):
    """The process of an agent: a server whose requests hold functions."""

    wants_origin = True

    def init(self, function: Callable[..., Any] | tuple[Atom, Atom, list[Any]], args: tuple[Any, ...]) -> Any:
        self._state: Any = None
        self._node = own_pid().node
        if callable(function):
            return self._apply(self._cast, function, args)
        return self._run(self._cast, self._asked(function, args))

    def handle_call(self, request: Any, sender: gen.From) -> Any:
        match request:
            case (a.get, function):
                change: Change = partial(self._get, sender)
            case (a.update, function):
                change = self._update
            case (a.get_and_update, function):
                change = partial(self._get_and_update, sender)
            case _:
                return self._refuse(sender, f"{shown(request)} is no call of an Agent")
        return self._do(change, function, sender)

    def handle_cast(self, request: Any) -> Any:
        match request:
            case (a.cast, function):
                return self._do(self._cast, function, None)
        return self._refuse(None, f"{shown(request)} is no cast of an Agent")

    # --- What becomes of a result -------------------------------------------------------------------------------------

    def _cast(self, result: Any) -> None:
        self._state = result

    def _update(self, result: Any) -> Atom:
        self._state = result
        return a.ok

    def _get(self, sender: gen.From, result: Any) -> Any:
        """The state of an agent here may be what no peer can be sent: that is no reason to lose it."""
        if sender[0].node is not self._node:
            try:
                encode(result)
            except (EncodeError, RecursionError) as error:
                return self._refuse(sender, f"{shown(result)} cannot be sent: {error}")
        return Reply(result)

    def _get_and_update(self, sender: gen.From, result: Any) -> Any:
        if type(result) is not tuple or len(result) != 2:
            raise Stop((a.bad_return_value, result))
        wanted, state = result
        reply = self._get(sender, wanted)
        if reply is not NO_REPLY:
            self._state = state
        return reply

    # --- Running a function -------------------------------------------------------------------------------------------

    def _do(self, change: Change, function: Any, sender: gen.From | None) -> Any:
        if callable(function):
            return self._apply(change, function, (self._state,))
        try:
            asked = self._asked(function, (self._state,))
        except UsageError as error:
            return self._refuse(sender, str(error))
        return self._run_for(sender, change, asked)

    def _apply(self, change: Change, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        result = function(*args)
        return self._later(change, result) if inspect.iscoroutine(result) else change(result)

    async def _later(self, change: Change, result: Coroutine[Any, Any, Any]) -> Any:
        return change(await result)

    async def _run(self, change: Change, asked: Asked) -> Any:
        return change(await run_asked(asked))

    async def _run_for(self, sender: gen.From | None, change: Change, asked: Asked) -> Any:
        try:
            return await self._run(change, asked)
        except Refused:  # which is in the log already
            if sender is not None:
                gen.refuse(sender, (a.undef, [(asked.module, asked.function, len(asked.args), [])]))
            return NO_REPLY

    def _asked(self, function: Any, first: tuple[Any, ...]) -> Asked:
        """What a peer, or this node, names. Errors: UsageError."""
        match function:
            case (Atom() as module, Atom() as name, list() as args):
                return Asked(self.origin, module, name, [*first, *args])
            case Export(module=module, function=name, arity=1):
                return Asked(self.origin, module, name, [*first])
            case Fun():
                raise UsageError(
                    "an anonymous function of Elixir or Erlang cannot run in a Python process: "
                    "give an Agent here a module, a function and arguments"
                )
        raise UsageError(f"{shown(function)} is no function of one argument, the state of an Agent")

    def _refuse(self, sender: gen.From | None, why: str) -> Any:
        log.warning("refused to %s: %s", self.origin, why)
        if sender is not None:
            gen.refuse(sender, reason_of(UsageError(why)))
        return NO_REPLY

    # --- What `sys` shows ---------------------------------------------------------------------------------------------

    def get_state(self) -> Any:
        return self._state

    def replace_state(self, function: Callable[[Any], Any]) -> Any:
        self._state = function(self._state)
        return self._state

    @classmethod
    def module_name(cls) -> Atom:
        return Atom("Agent")


class BlockingServer(Server):
    """The same for functions that block."""

    handlers_block = True


Agent.server = Server


def _for_start(function: Callable[..., Any] | Atom | str, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """What `Server.init` takes. Errors: UsageError."""
    if callable(function):
        return function, args
    if len(args) != 2:
        raise UsageError("an Agent is started with a function and its arguments, or with module, function, args")
    return _named(function, *args), ()


def _for(agent: names.Server, module: Any, function: Any, args: Sequence[Any]) -> Any:
    """What the request to an agent carries. Errors: UsageError."""
    if function is not None:
        return _named(module, function, args)
    if isinstance(module, Export | Fun):
        return module
    if not callable(module):
        raise UsageError(f"an Agent takes a function of its state, or module, function, args, not {shown(module)}")
    if args:
        raise UsageError("a function of an Agent's state gets the state alone: use a lambda or functools.partial")
    if not names.is_here(agent):
        raise UsageError("a Python function cannot travel to another node: name one there, as module, function, args")
    return module


def _named(module: Any, function: Any, args: Any) -> tuple[Atom, Atom, list[Any]]:
    if not isinstance(module, Atom | str) or not isinstance(function, Atom | str) or not isinstance(args, list | tuple):
        raise UsageError(
            "a function is named by a module, a function (each an Atom or a str) and a list of arguments, "
            f"not by {shown((module, function, args))}"
        )
    return Atom(str(module)), Atom(str(function)), list(args)
