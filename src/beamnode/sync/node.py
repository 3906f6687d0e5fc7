"""`sync.Node`: a node on an event loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack, cast

from beamnode.errors import NotAliveError, UsageError
from beamnode.etf import Atom, Pid, Reference
from beamnode.loops import new_event_loop
from beamnode.node import NodeOptions, blocking_body, conceal, current_body, termination
from beamnode.otp import gen_server, names
from beamnode.services.console import Console
from beamnode.services.net_control import ConnectionInfo
from beamnode.services.node import Node as AsyncNode
from beamnode.services.node import Remote
from beamnode.sync.waiting import wait

log = logging.getLogger("beamnode.node")

Result = TypeVar("Result")

JOIN_SECONDS: Final = 10.0  # for the loop's thread to end


def current_node() -> Node:
    """The node of the current process, if it is one of this module. Errors: NotAliveError."""
    face = current_body().runtime.face
    if not isinstance(face, Node):
        raise NotAliveError("the node of the current process is none of beamnode.sync: it has no blocking face")
    return face


async def _called(function: Callable[..., Result], *args: Any, **options: Any) -> Result:
    return function(*args, **options)


class Node:
    """`beamnode.Node`, blocking. Takes the same options; `with` starts and stops it."""

    def __init__(self, name: Atom | str, *, console: Console | None = None, **options: Unpack[NodeOptions]) -> None:
        conceal(cast(dict[str, Any], options))
        self._node = AsyncNode(name, console=console, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started_by = 0  # the process of the operating system
        self._changing = threading.RLock()
        self._handle_sigterm = options.get("handle_sigterm", True)
        self._stopping = False
        self._terminated = False  # by a SIGTERM that came as it stopped
        self._body: contextlib.AbstractContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<sync {vars(self).get('_node')!r}>"

    # --- Start and stop -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the node on a loop of its own. Errors: as `beamnode.Node.start`."""
        with self._changing:
            if self._loop is not None and not self._loop.is_closed():
                return
            loop = new_event_loop()
            thread = threading.Thread(
                target=_run_loop, args=(loop, self._node), name=f"beamnode {self.name}", daemon=True
            )
            thread.start()
            self._loop, self._thread, self._started_by = loop, thread, os.getpid()
            try:
                self._run(self._node.start())
            except BaseException:
                self._end_loop()
                raise
            self._node.runtime.face = self
            if self._handle_sigterm:
                termination.add(self, self._on_sigterm)
            atexit.register(self._stop_at_exit)

    def stop(self) -> bool:
        """Leave, and end the loop; False when it is stopped already, or its loop was. Its processes end with it.

        A SIGTERM meanwhile does not cut it short: SystemExit is raised at its end.
        """
        with self._changing:
            if self._loop is None:
                return False
            self._check_caller()
            atexit.unregister(self._stop_at_exit)
            self._stopping = True
            try:
                self._run(self._node.shut_down())
            except NotAliveError:
                if not self._loop.is_closed():
                    raise
                return False
            finally:
                self._end_loop()
                self._stopping = False
                termination.remove(self)
            if self._terminated:
                self._terminated = False
                raise termination.Terminated
            return True

    def _on_sigterm(self) -> None:
        """In the main thread, whatever that does: leave as `sys.exit` does, through the `with` block or `atexit`."""
        if not self._stopping:
            raise termination.Terminated
        self._terminated = True

    def _stop_at_exit(self) -> None:
        if self._started_by == os.getpid():
            with contextlib.suppress(termination.Terminated):  # the program ends as it is
                self.stop()

    def __enter__(self) -> Self:
        if self._body is not None:
            raise UsageError(f"`with` {self.name} is being run already; other threads use `with node.process():`")
        self.start()
        body = self.process()
        try:
            body.__enter__()
        except BaseException:
            self.stop()
            raise
        self._body = body
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        try:
            if body is not None:
                with contextlib.suppress(NotAliveError):  # the block has stopped the node
                    body.__exit__(kind, error, trace)
        finally:
            self.stop()

    @contextlib.contextmanager
    def process(self) -> Iterator[None]:
        """Make the calling thread a process of this node while the block lasts."""
        self._check_caller()
        with blocking_body(self._node):
            yield

    def _check_caller(self) -> None:
        """Errors: NotAliveError; UsageError where waiting would never end."""
        if self._loop is None:
            raise NotAliveError(f"node {self.name} is stopped: start it first")
        if self._started_by != os.getpid():
            raise UsageError(f"node {self.name} belongs to the process that was forked: start one in each worker")
        if threading.current_thread() is self._thread:
            raise UsageError("this code runs on the node's event loop: use the awaitable names of `beamnode` here")

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        try:
            self._check_caller()
        except BaseException:
            coroutine.close()
            raise
        assert self._loop is not None
        return wait(coroutine, self._loop)

    def _on_loop(self, function: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Call what does not wait, but reads or changes what belongs to the loop's thread."""
        if self._loop is None:
            return function(*args, **options)
        return self._run(_called(function, *args, **options))

    def _end_loop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(loop.stop)
            thread.join(JOIN_SECONDS)

    # --- What it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Atom:
        return self._node.name

    @property
    def alive(self) -> bool:
        return self._loop is not None and self._node.alive

    @property
    def hidden(self) -> bool:
        return self._node.hidden

    @property
    def long_names(self) -> bool:
        return self._node.long_names

    @property
    def net_ticktime(self) -> float:
        return self._node.net_ticktime

    @property
    def creation(self) -> int:
        return self._node.creation

    @property
    def listen_address(self) -> tuple[str, int] | None:
        return self._node.listen_address

    def registered(self) -> Sequence[Atom]:
        """The names of its processes."""
        return self._on_loop(lambda: self._node.runtime.signals.registered())

    # --- Other nodes --------------------------------------------------------------------------------------------------

    def list(self, kind: str = "visible") -> Sequence[Atom]:
        return self._on_loop(self._node.list, kind)

    def connect(self, node: Atom | str) -> bool | None:
        return None if self._loop is None else self._run(self._node.connect(node))

    def disconnect(self, node: Atom | str) -> bool | None:
        return None if self._loop is None else self._run(self._node.disconnect(node))

    def ping(self, node: Atom | str) -> Atom:
        return self._run(self._node.ping(node))

    def connect_error(self, node: Atom | str) -> Exception | None:
        return self._on_loop(self._node.connect_error, node)

    def connection_id(self, node: Atom | str) -> int | None:
        return self._on_loop(self._node.connection_id, node)

    def connections(self) -> Sequence[ConnectionInfo]:
        return self._on_loop(self._node.connections)

    def monitor(self, node: Atom | str, flag: bool = True) -> None:
        self._node.monitor(node, flag)

    def monitor_nodes(self, flag: bool = True, **options: Any) -> None:
        self._node.monitor_nodes(flag, **options)

    def set_net_ticktime(self, seconds: float, transition: float = 60.0) -> Any:
        return self._on_loop(self._node.set_net_ticktime, seconds, transition)

    def allow(self, nodes: Sequence[Atom | str]) -> None:
        self._on_loop(self._node.allow, nodes)

    def allowed(self) -> Sequence[Atom]:
        return self._on_loop(self._node.allowed)

    def getopts(self, node: Atom | str, names: Sequence[str]) -> dict[str, bool | int]:
        return self._on_loop(self._node.getopts, node, names)

    def setopts(self, node: Atom | str | None, options: Mapping[str, bool | int]) -> None:
        self._on_loop(self._node.setopts, node, options)

    def get_cookie(self, node: Atom | str | None = None) -> Atom:
        return self._node.get_cookie(node)

    def set_cookie(self, cookie: str | bytes | Atom, node: Atom | str | None = None) -> None:
        self._on_loop(self._node.set_cookie, cookie, node)

    # --- Processes and calls ------------------------------------------------------------------------------------------

    def spawn(self, node: Atom | str, function: Callable[..., Any] | Atom | str, *args: Any) -> Pid:
        return self._run(self._node.spawn(node, function, *args))

    def spawn_link(self, node: Atom | str, function: Callable[..., Any] | Atom | str, *args: Any) -> Pid:
        return self._run(self._node.spawn_link(node, function, *args))

    def spawn_monitor(
        self, node: Atom | str, function: Callable[..., Any] | Atom | str, *args: Any
    ) -> tuple[Pid, Reference]:
        return self._run(self._node.spawn_monitor(node, function, *args))

    def spawn_opt(
        self, node: Atom | str, function: Callable[..., Any] | Atom | str, *args: Any, options: Sequence[Any] = ()
    ) -> Pid | tuple[Pid, Reference]:
        return self._run(self._node.spawn_opt(node, function, *args, options=options))

    def expose(self, *args: Any, **where: Any) -> Any:
        return self._node.expose(*args, **where)

    def rpc(
        self,
        node: Atom | str,
        module: Atom | str,
        function: Atom | str,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:
        return self._run(self._node.rpc(node, module, function, args, timeout=timeout))

    def rpc_cast(self, node: Atom | str, module: Atom | str, function: Atom | str, args: Sequence[Any] = ()) -> None:
        self._run(self._node.rpc_cast(node, module, function, args))

    def multicall(
        self,
        nodes: Sequence[Atom | str],
        module: Atom | str,
        function: Atom | str,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Sequence[Any]:
        return self._run(self._node.multicall(nodes, module, function, args, timeout=timeout))

    def remote(self, node: Atom | str, *, timeout: float | None = None) -> Remote:
        """A proxy for calls that block: `node.remote("iex@h").Elixir.Enum.sum([1, 2, 3])`."""
        return Remote(cast(AsyncNode, self), node, timeout)

    def call(self, server: names.Server, request: Any, timeout: float | None = gen_server.CALL_SECONDS) -> Any:
        """`GenServer.call` for threads that are no process: each call is made by a process of its own."""
        return self._run(self._node.run_process(gen_server.GenServer.call, server, request, timeout))


def _run_loop(loop: asyncio.AbstractEventLoop, node: AsyncNode) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    except BaseException as error:  # SystemExit and the like, which asyncio lets pass
        log.exception("node %s stops, because its event loop was ended by %r", node.name, error)
        loop.run_until_complete(node.shut_down())
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            with contextlib.suppress(RuntimeError):  # at the end of the program no thread can be started for it
                loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Whoever waits for one of them in another thread learns that the node has stopped."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
