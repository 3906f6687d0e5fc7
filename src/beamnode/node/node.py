"""`Node`: one node of the distribution in this Python process. Start it, use it, stop it, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from beamnode.carriers.base import Listener
from beamnode.core.connections import AutoConnect, NodesKind
from beamnode.core.identity import Identities
from beamnode.core.node_monitors import Subscription
from beamnode.core.process import Process, name_of
from beamnode.errors import BeamnodeError, NotAliveError, ProcessExit, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.node import collector, termination
from beamnode.node.allowed import allowed_nodes
from beamnode.node.asked import Asked
from beamnode.node.audit import Audit
from beamnode.node.body import BlockBody, Body, body_of, describe_call
from beamnode.node.cookie import Cookie, conceal, load_or_create
from beamnode.node.current import current
from beamnode.node.epmd_discovery import Discovery
from beamnode.node.exposed import (
    Callee,
    Exposed,
    Policy,
    PolicyHook,
    Run,
)
from beamnode.node.guard import Gate, Guard
from beamnode.node.names import NodeName, check_compatible
from beamnode.node.network import Network
from beamnode.node.options import Name, network_options
from beamnode.node.routes import Carriers, Listening, Route, routes_of, settled
from beamnode.node.runtime import Runtime, to_atom
from beamnode.node.service_processes import Service, ServiceProcesses
from beamnode.node.spawning import Spawner
from beamnode.node.workers import Workers
from beamnode.wire.handshake_machine import Secret

log = logging.getLogger("beamnode.node")

STOP_SECONDS = 5.0  # what stopping waits for: bytes to leave, bodies to end

Options = list[Any]  # of a spawn, as terms; named here because `list` is a method below
Call = tuple[Atom, Atom, list[Any]]
Result = TypeVar("Result")
Target = TypeVar("Target")


class Node:
    """A node of Erlang's distribution.

    `name` is `alive@host` (or `alive`, completed with this machine's short host name): with a dotted host or an
    address it is a long name. All times are in seconds.

    - `cookie`: the cluster's secret; default: `~/.erlang.cookie`, made with mode 0400 where there is none.
    - `hidden`: connect without becoming part of the mesh; others list this node as hidden.
    - `carrier`: how bytes travel: `Tcp(listen_address=..., listen_ports=range(9100, 9106))`, `Tcp6(...)`, `Tls(...)`,
      `Unix(directory)`. Or several: `Route(carrier, to="*@10.0.*")` says for which nodes one is; the first that is for
      a node dials it.
    - `listen`: False: accept no connections and register no name, only connect to others; then it is hidden too (OTP:
      `-dist_listen false`).
    - `discovery`: how nodes find each other: `Epmd(...)` (started by itself where none runs), `FixedPort(9100)`,
      `StaticPorts({...})`.
    - `dist_auto_connect`: "always", "never" or "once" (OTP's kernel parameter): whether a message, link, monitor or
      spawn that names a node connects to it.
    - `net_ticktime`, `net_tickintensity`, `net_setuptime`: OTP's kernel parameters of the same names.
    - `blocked_warning`: how long (seconds; None: for ever) code may block the event loop of a node with connections,
      before the log says which process that is, and the line; noticed within twice that.
    - `dist_buf_busy_limit`: so many bytes may wait for one node; then who sends to it waits until it is half of that
      (`send`; OTP's `+zdbbl`, which counts in KiB). Default: 1 MiB.
    - `strings`: binaries from peers that are valid UTF-8 arrive as `str`.
    - `limits`: the bounds on what peers can make this node hold.
    - `policy`: what peers may run here: "exposed" (the default), "nothing" (a client), "everything" (whoever knows the
      cookie is trusted, as by `iex`), or a function of the call (`node`, `module`, `function`, `args`) that gives one.
    - `guard`: a `Guard`, asked before peers spawn, call, send exit signals, send to registered names, and more.
    - `allowed`: the only nodes to connect with (`"a@h"`, `"h"` for a host, `"a@"` for a name), either way; as `allow`.
    - `cookies`: those of single nodes, by name; as `set_cookie(cookie, node)`.
    - `call_threads`, `call_processes`: the sizes of the pools for calls of peers (default: the CPUs + 4, at most 32;
      the CPUs). Threads whose call was given up do not count, up to four times as many in all.
    - `handle_sigterm`: SIGTERM has the node leave in order, as `async with` does at its end, then ends the program with
      status 143 (`termination.py`). False leaves that signal alone, and so does a program with a handler of its own.

    Use it as `async with Node(...) as node:`, whose body is a process of the node, or `start` and `stop` it.
    """

    def __init__(
        self,
        name: Name,
        *,
        cookie: str | bytes | Atom | Cookie | None = None,
        hidden: bool = False,
        carrier: Carriers | None = None,
        listen: bool = True,
        discovery: Discovery | None = None,
        dist_auto_connect: AutoConnect | str = AutoConnect.ALWAYS,
        net_ticktime: float = 60.0,
        net_tickintensity: int = 4,
        net_setuptime: float = 7.0,
        blocked_warning: float | None = 1.0,
        dist_buf_busy_limit: int = 1024 * 1024,
        strings: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        policy: Policy | PolicyHook | str = Policy.EXPOSED,
        guard: Guard | None = None,
        allowed: Sequence[Name] | None = None,
        cookies: Mapping[Name, str | bytes | Atom | Cookie] | None = None,
        call_threads: int | None = None,
        call_processes: int | None = None,
        handle_sigterm: bool = True,
        services: Sequence[Service] = (),
    ) -> None:
        self._parsed = NodeName.parse(name)
        self._name = self._parsed.atom
        given: dict[str, Any] = {"cookie": cookie, "cookies": cookies}
        cookie = cookies = None  # not to be seen in a traceback
        conceal(given)
        self._cookie: Cookie | None = given["cookie"]
        self._cookies = {self.checked_name(node): each for node, each in (given["cookies"] or {}).items()}
        self._allowed = allowed_nodes(allowed)
        self._routes = routes_of(carrier)
        self._listens = listen and (not self._routes or any(route.listen for route in self._routes))
        self._discovery = discovery
        if not isinstance(limits, Limits):
            raise UsageError(f"limits is a Limits(...), with those to change as keywords, not {shown(limits)}")
        self._limits = limits
        self._services = tuple(services)
        self._handle_sigterm = handle_sigterm
        self._terminated = False  # by SIGTERM
        self._options = network_options(
            hidden=hidden or not self._listens,
            dist_auto_connect=dist_auto_connect,
            net_ticktime=net_ticktime,
            net_tickintensity=net_tickintensity,
            net_setuptime=net_setuptime,
            blocked_warning=blocked_warning,
            dist_buf_busy_limit=dist_buf_busy_limit,
            strings=strings,
        )
        self._audit = Audit(self._name)
        self._gate = None if guard is None else Gate(guard, self._audit)
        self._exposed = Exposed(self._name, policy, self._audit, self._gate)
        self._workers = Workers(call_threads, call_processes)
        self._spawner = Spawner(self, self._exposed, self._workers)
        self._identities: Identities | None = None
        self._runtime: Runtime | None = None
        self._network: Network | None = None
        self._listening: Listening | None = None
        self._service_processes: ServiceProcesses | None = None
        self._block: BlockBody | None = None
        self._outer: Body | None = None
        self._lender: Process | None = None  # in whose name the node spawns when no process of its own is current
        self._changing: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def __repr__(self) -> str:
        if "_network" not in vars(self):  # an error in `__init__`, and a tool that shows variables
            return "<Node>"
        return f"<Node {self._name}{'' if self.alive else ' stopped'}>"

    # --- What it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Atom:
        return self._name

    @property
    def alive(self) -> bool:
        """Whether it is started."""
        return self._up() is not None

    @property
    def runtime(self) -> Runtime:
        """What runs its processes; for this floor only."""
        return self._required_runtime()

    def own_name(self, node: Name) -> bool:
        """Whether `node` is this node's name."""
        return _completed(node) is self._name

    @property
    def hidden(self) -> bool:
        return self._options.hidden

    @property
    def long_names(self) -> bool:
        """Whether it lives among long names (`db@db.example.org`) or short ones (`db@db`); they cannot be mixed."""
        return self._parsed.long

    @property
    def net_ticktime(self) -> float:
        """The time in seconds, also while it changes to that (`set_net_ticktime`)."""
        network = self._up()
        return self._options.net_ticktime if network is None else network.ticktime.time / 1000

    @property
    def network(self) -> Network:
        """What is between it and other nodes; for the floors above. Errors: NotAliveError."""
        return self._required_network()

    @property
    def creation(self) -> int:
        """The number that tells this life of the node from others of the same name."""
        return self._required_runtime().identities.creation

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port on which it is listening, the first of them; None while it is stopped, or does not listen."""
        return next(iter(self.listen_addresses()), None)

    def listen_addresses(self) -> Sequence[tuple[str, int]]:
        """Where it is listening, in the order of its carriers."""
        return [] if self._listening is None else self._listening.addresses

    @property
    def listening(self) -> Sequence[tuple[Route, Listener]]:
        """What it is listening on; for the floors above."""
        return [] if self._listening is None else self._listening.listeners

    # --- Start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, register the name, run the services. Starting a started node does nothing.

        Errors: NameTakenError, CookieError, EpmdError, NetworkError (the port), each saying what to do.
        """
        async with self._change():
            if self.alive:
                return
            if self._cookie is None:
                self._cookie = await asyncio.to_thread(load_or_create)
            routes = settled(self._routes, self._discovery, self._parsed)
            network = self._make_network(routes)
            listened = [route for route in routes if route.listen and self._listens]
            self._listening = await Listening.open(network, listened, self._parsed, hidden=self.hidden)
            self._go_up(network, self._listening.creation)
            self._terminated = False
            if self._handle_sigterm:
                termination.add(self, partial(self._on_sigterm, network.loop))

    def _make_network(self, routes: Sequence[Route]) -> Network:
        return Network(
            self._name,
            loop=asyncio.get_running_loop(),
            routes=routes,
            secret_for=self._secret_for,
            options=self._options,
            limits=self._limits,
            audit=self._audit,
            gate=self._gate,
            allowed=self._allowed,
        )

    def _go_up(self, network: Network, creation: int) -> None:
        if self._identities is None or self._runtime is None or self._runtime.loop is not network.loop:
            self._identities = Identities(self._name, creation)
            self._runtime = Runtime(self._identities, network.loop, self._transmit, self._spawner.requested)
            self._runtime.spawner = self._spawner
            self._runtime.end_node = self._end
            self._lender = None
        else:
            self._identities.renew(creation)
        network.join(self._runtime, creation)
        self._network = network
        self._service_processes = ServiceProcesses(self, self._runtime, self._services)
        log.info("node %s is up, listening on %s", self._name, self.listen_addresses() or "nothing")

    async def stop(self) -> bool:
        """Leave: close every connection, the port, and the name. False when it is stopped already.

        Its processes go on, as in Erlang, alone until it is started again; `async with` ends them too.
        """
        async with self._change():
            network, self._network = self._up(), None
            if network is None or self._runtime is None:
                return False
            services, self._service_processes = self._service_processes, None
            listening, self._listening = self._listening, None
            if services is not None:
                services.end()
            async with AsyncExitStack() as steps:  # the last one first; each is taken, even if this task is cancelled
                if listening is not None:
                    steps.push_async_callback(listening.close)
                steps.push_async_callback(network.close, STOP_SECONDS)
                if listening is not None:
                    steps.push_async_callback(listening.stop_accepting)
            self._workers.close()
            termination.remove(self)
            log.info("node %s has stopped", self._name)
            return True

    def _change(self) -> asyncio.Lock:
        """One start or stop at a time, in the loop that runs: a lock cannot be waited for in two."""
        loop = asyncio.get_running_loop()
        if self._changing is None or self._changing[0] is not loop:
            self._changing = (loop, asyncio.Lock())
        return self._changing[1]

    async def __aenter__(self) -> Self:
        if self._block is not None and not self._block.runtime.loop.is_closed():
            raise UsageError(f"`async with` {self._name} is being run already: a node has one body at a time")
        await self.start()
        runtime = self._required_runtime()
        process = runtime.signals.spawn(group_leader=None, initial_call=(a.beamnode, a.body, 0))
        self._block = BlockBody(runtime, process)
        self._block.task = asyncio.current_task()
        self._outer = current.get()
        current.set(self._block)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block = self._block
        assert block is not None
        current.set(self._outer)
        self._block = None
        killed = block.take_stop()
        reason = block.process.exit_reason
        block.finish(None if killed else error)
        await self.shut_down()
        if self._terminated and (error is None or isinstance(error, asyncio.CancelledError | ProcessExit)):
            raise termination.Terminated from None
        if killed and (error is None or isinstance(error, asyncio.CancelledError)):
            where = None if error is None else error.__traceback__  # what the block was doing then
            raise ProcessExit(reason).with_traceback(where) from None

    def _end(self, reason: Any) -> None:
        """What `end_node` does: ends the body of `async with`, which shuts the node down; or does that itself."""
        if self._block is not None:
            self._required_runtime().end(self._block.process, reason)
        else:
            self._shut_down_soon()

    def _shut_down_soon(self) -> asyncio.Task[None]:
        runtime = self._required_runtime()
        task = runtime.loop.create_task(self.shut_down(), context=contextvars.Context())
        runtime.ending.add(task)
        task.add_done_callback(runtime.ending.discard)
        return task

    def _on_sigterm(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the handler of the signal: the rest is done by the loop."""
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        log.info("node %s leaves, because of SIGTERM", self._name)
        self._terminated = True
        if self._block is not None:
            self._end(a.shutdown)
        else:
            self._shut_down_soon().add_done_callback(self._exit)

    def _exit(self, _done: object) -> None:
        if termination.may_end():
            raise termination.Terminated

    async def _close_floors(self) -> None:
        """What floors above want done while all processes are there (`before_shut_down`)."""
        runtime = self._required_runtime()
        while runtime.closing:
            function, seconds = runtime.closing.pop()
            try:
                async with asyncio.timeout(seconds):
                    await runtime.run_process(function)
            except TimeoutError:
                log.warning("%s has not ended within %s s: node %s goes on", name_of(function), seconds, self._name)
            except Exception:
                log.exception("%s failed as node %s shut down", name_of(function), self._name)

    async def _end_processes(self) -> None:
        """End every process but the services, and wait (a while) for their code to end."""
        runtime = self._required_runtime()
        services = set[Process]() if self._service_processes is None else self._service_processes.all
        ends: dict[asyncio.Future[Any], Process] = {}
        for process in runtime.signals.processes():
            if process in services:
                continue
            end = None if process.body is None else body_of(process).code_end
            runtime.end(process, a.shutdown)
            if end is not None and end is not asyncio.current_task():
                ends[end] = process
        if ends:
            _, pending = await asyncio.wait(ends, timeout=STOP_SECONDS)
            for end in pending:
                log.warning(
                    "%r (%s) does not end: a coroutine must let CancelledError pass, and a thread cannot be stopped",
                    ends[end],
                    describe_call(ends[end]),
                )

    # --- Others -------------------------------------------------------------------------------------------------------

    def list(self, kind: str = "visible") -> list[Atom]:
        """The nodes it is connected with: "visible", "hidden" or "connected" (both); or "this"; or "known" (all)."""
        network = self._up()
        if kind == "this":
            return [self._name]
        kinds: dict[str, NodesKind] = {
            "visible": "visible",
            "hidden": "hidden",
            "connected": "connected",
            "known": "known",
        }
        if kind not in kinds:
            raise UsageError(f"nodes are listed as 'visible', 'hidden', 'connected', 'this' or 'known', not {kind!r}")
        if network is None:
            return []
        nodes = network.nodes(kinds[kind])
        return [self._name, *nodes] if kind == "known" else nodes

    async def connect(self, node: Name) -> bool | None:
        """Connect to `node`: True if it is connected now, False if not, None when this node is stopped.

        Why not, is logged (a wrong cookie as an error), and `connect_error` tells it. Errors: NodeNameError for a name
        that cannot be a node of this cluster (malformed; a short name from a long one or the other way round).
        """
        atom, network = self.checked_name(node), self._up()
        return None if network is None else await network.connect(atom)

    def connection_id(self, node: Name) -> int | None:
        """The number of the connection with `node` that is up; None without one. No other ever has the same."""
        entry = None if self._network is None else self._network.connections.get(_completed(node))
        return entry.id if entry is not None and entry.is_up else None

    def connect_error(self, node: Name) -> BeamnodeError | None:
        """Why the last attempt to connect to `node` failed; None when it did not."""
        network = self._up()
        return None if network is None else network.failure(_completed(node))

    async def disconnect(self, node: Name) -> bool | None:
        """Close the connection with `node`: True, False if there was none, None when this node is stopped."""
        network = self._up()
        return None if network is None else network.disconnect(_completed(node))

    def monitor(self, node: Name, flag: bool = True) -> None:
        """The current process gets `(a.nodedown, node)` when the connection with `node` is lost or cannot be made."""
        connected = self.connection_id(node) is not None  # perhaps a C node, whose names are not of our kind
        atom, process = _completed(node) if connected else self.checked_name(node), self._own_process()
        self._required_runtime().on_loop(self._monitor, process, atom, flag)

    def _monitor(self, process: Process, node: Atom, flag: bool) -> None:
        runtime = self._required_runtime()
        if not flag:
            runtime.node_monitors.demonitor(process, node)
        elif node is not self._name:
            network = self._required_network()
            runtime.node_monitors.monitor(process, node)
            network.monitor(node)
        runtime.flush()

    def monitor_nodes(
        self,
        flag: bool = True,
        *,
        node_type: str | None = None,
        nodedown_reason: bool = False,
        connection_id: bool = False,
    ) -> None:
        """The current process gets `(a.nodeup, node)` and `(a.nodedown, node)` for visible nodes as they come and go.

        With an option the messages have a dict as third element: `node_type` ("visible", "hidden" or "all") says which
        nodes and adds the type, `nodedown_reason` adds why. Source: `net_kernel:monitor_nodes/2`.
        """
        if node_type not in (None, "visible", "hidden", "all"):
            raise UsageError(f"node_type is 'visible', 'hidden' or 'all', not {node_type!r}")
        subscription = Subscription(Atom(node_type or "visible"), node_type is not None, nodedown_reason, connection_id)
        process, runtime = self._own_process(), self._required_runtime()
        monitors = runtime.node_monitors
        runtime.on_loop(monitors.subscribe if flag else monitors.unsubscribe, process, subscription)

    # --- Cookies ------------------------------------------------------------------------------------------------------

    def get_cookie(self, node: Name | None = None) -> Atom:
        """The cookie for `node`; that of this node by default."""
        atom = self._name if node is None else _completed(node)
        return Atom(self._cookie_for(atom).value.decode("latin-1"))

    def set_cookie(self, cookie: str | bytes | Atom, node: Name | None = None) -> None:
        """Use `cookie` with `node` from now on; without one, with every node that has none of its own."""
        given: dict[str, Any] = {"cookie": cookie}
        cookie = b""  # not to be seen in a traceback
        conceal(given)
        if node is None or _completed(node) is self._name:
            self._cookie = given["cookie"]
        else:
            self._cookies[self.checked_name(node)] = given["cookie"]

    def _cookie_for(self, node: Atom) -> Cookie:
        cookie: Cookie | None = self._cookies.get(node, self._cookie)
        if cookie is None:
            raise NotAliveError("this node has no cookie yet: start it first, or give it one")
        return cookie

    def _secret_for(self, node: Atom) -> Secret:
        return Secret(self._cookie_for(node).value)

    # --- Processes ----------------------------------------------------------------------------------------------------

    async def spawn(self, node: Name, function: Callable[..., Any] | Name, *args: Any) -> Pid:
        """Start a process on `node`: `spawn(node, "module", "function", [args])`, or a Python function.

        A Python function must be exposed on the other node (`expose`), unless that node lives in this Python process.
        Errors: SpawnError when the node cannot be reached or refuses.
        """
        pid, _ = await self._spawner.spawn(self._sender(), node, function, args, [])
        return pid

    async def spawn_link(self, node: Name, function: Callable[..., Any] | Name, *args: Any) -> Pid:
        """`spawn`, linked with the current process from the start."""
        pid, _ = await self._spawner.spawn(self._own_process(), node, function, args, [a.link])
        return pid

    async def spawn_monitor(self, node: Name, function: Callable[..., Any] | Name, *args: Any) -> tuple[Pid, Reference]:
        """`spawn`, monitored by the current process from the start."""
        return await self._spawner.spawn(self._own_process(), node, function, args, [a.monitor])

    async def spawn_opt(
        self, node: Name, function: Callable[..., Any] | Name, *args: Any, options: Sequence[Any] = ()
    ) -> Pid | tuple[Pid, Reference]:
        """`spawn` with options as terms: `a.link`, `a.monitor`, `(a.priority, a.high)`, `(a.max_heap_size, words)`, ...

        With `a.monitor` the result is `(pid, reference)`. Errors: SpawnError with `badopt` for what is no option there.
        """
        if any(type(option) is tuple and option[:1] == (a.monitor,) for option in options):
            raise UsageError("the monitor of a spawn has no options here: give a.monitor")
        parent = self._own_process() if a.link in options or a.monitor in options else self._sender()
        pid, reference = await self._spawner.spawn(parent, node, function, args, [*options])
        return (pid, reference) if a.monitor in options else pid

    async def run_process(self, function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
        """Run `await function(*args)` in a process of its own, and give back its result, or raise its exception."""
        return await self._required_runtime().run_process(function, *args)

    async def find_exposed(self, asked: Asked) -> Callee | None:
        """What a peer's call asks for; None, and logged, when the policy refuses it or there is no such thing."""
        return await self._spawner.find(asked)

    async def run_exposed(self, callee: Callee) -> Any:
        """Run it where it belongs, on the loop or in a pool, as part of the current process."""
        return await self._spawner.run(callee)

    def serve_builtin(
        self, module: str, name: str, arity: int, function: Callable[..., Any], *, under_policy: bool = False
    ) -> None:
        """Let calls and spawns of `module:name/arity` run `function`: for services, whose own policy it then is.

        With `under_policy` it is the node's, as for what was exposed; which goes before it.
        """
        self._exposed.builtin(Atom(module), Atom(name), arity, function, under_policy)

    def end_unwatched(self) -> None:
        """The current process works for whoever monitors it: when nobody does any more, it ends with `killed`."""
        self._required_runtime().signals.end_unwatched(self._own_process())

    def tell_origin(self) -> None:
        """From now on the current process gets what peers send it as `Origin`: with the node that really sent it."""
        self._own_process().tells_origin = True

    async def shut_down(self) -> None:
        """End every process, then `stop`: what leaving `async with` does; first what `before_shut_down` was told."""
        if self._runtime is None:
            return
        try:
            await self._close_floors()
            await self._end_processes()
        finally:
            try:
                await self.stop()
            finally:
                await self._end_processes()  # what peers started meanwhile
                self._runtime.tables.clear()
                collector.ended(self._runtime)

    @overload
    def expose(
        self, target: Target, *, module: Name | None = None, name: Name | None = None, run: Run = None
    ) -> Target: ...

    @overload
    def expose(
        self, target: None = None, *, module: Name | None = None, name: Name | None = None, run: Run = None
    ) -> Callable[[Target], Target]: ...

    def expose(
        self, target: Any = None, *, module: Name | None = None, name: Name | None = None, run: Run = None
    ) -> Any:
        """Let peers call a function, the public functions of a module, or the public methods of an object.

        `module` and `name` are what peers call it (default: its import path). An `async def` runs on the event loop, a
        `def` in a thread; with `run="process"` in another OS process, which does not share anything with this one. Also
        a decorator: `@node.expose`, `@node.expose(module="Elixir.Demo")`.
        """
        if target is None:
            return partial(self.expose, module=module, name=name, run=run)
        self._exposed.expose(target, module, name, run)
        return target

    # --- Helpers ------------------------------------------------------------------------------------------------------

    def _transmit(self, node: Atom, record: Any) -> None:
        if self._network is not None:
            self._network.transmit(node, record)
        else:
            self._required_runtime().break_ties(node)

    def _up(self) -> Network | None:
        """The network while this node is started; an event loop that has ended has stopped it, in its way."""
        network = self._network
        return None if network is None or network.loop.is_closed() else network

    def _required_runtime(self) -> Runtime:
        if self._runtime is None:
            raise NotAliveError(f"node {self._name} was never started: `await node.start()`, or `async with node:`")
        return self._runtime

    def _required_network(self) -> Network:
        network = self._up()
        if network is None:
            raise NotAliveError(f"node {self._name} is stopped: `await node.start()` it again")
        return network

    def _own_process(self) -> Process:
        """The current process, which must be one of this node."""
        body = current.get()
        if body is None or body.runtime is not self._required_runtime():
            raise NotAliveError(
                f"the current process is not one of {self._name}: call this in its body or in a spawned one"
            )
        return body.process

    def _sender(self) -> Process:
        """The current process if it is ours, else one that only lends its name."""
        runtime = self._required_runtime()
        body = current.get()
        if body is not None and body.runtime is runtime:
            return body.process
        if self._lender is None or not self._lender.alive:
            self._lender = runtime.signals.spawn(group_leader=None, initial_call=(a.beamnode, a.lender, 0))
        return self._lender

    def checked_name(self, node: Name) -> Atom:
        """A name that a node of this cluster can have. Errors: NodeNameError."""
        parsed = NodeName.parse(node)
        check_compatible(self._parsed, parsed)
        return parsed.atom


def _completed(node: Name) -> Atom:
    """A node that a program named: with the host of this machine, where it gave none."""
    atom = to_atom(node)
    return atom if "@" in atom.name else NodeName.parse(atom).atom
