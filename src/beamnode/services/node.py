"""The `Node` that programs use: `node.Node` with the services that peers expect, and what needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Unpack, cast

from beamnode.errors import ProcessExit, UsageError
from beamnode.etf import Atom, a
from beamnode.node import Node as BareNode
from beamnode.node import NodeOptions, Service, conceal
from beamnode.otp import application_controller, gen
from beamnode.services import erlang_calls, global_process, logger_proxy, net_kernel, rex, rpc_client, user
from beamnode.services.console import Console
from beamnode.services.net_control import NetControl


class Node(NetControl):
    __doc__ = f"""{BareNode.__doc__}
    - `connect_all`: False keeps this node out of the mesh that visible nodes form by themselves.
    - `prevent_overlapping_partitions`: False lets this node stay connected with nodes that others have lost.
    - `console`: where its `user` prints and whom it asks; default: the standard streams.
    """

    def __init__(
        self,
        name: Atom | str,
        *,
        connect_all: bool = True,
        prevent_overlapping_partitions: bool = True,
        console: Console | None = None,
        **options: Unpack[NodeOptions],
    ) -> None:
        conceal(cast(dict[str, Any], options))
        mesh = partial(
            global_process.run,
            connect_all=connect_all,
            prevent_overlapping_partitions=prevent_overlapping_partitions,
        )
        services = (
            Service("user", partial(user.run, console=console)),
            Service("logger_proxy", logger_proxy.run),
            Service("net_kernel", net_kernel.run),
            Service("global_name_server", mesh),
            Service("rex", rex.run),
        )
        super().__init__(name, services=services, **options)
        erlang_calls.install(self)
        self.serve_builtin("application", "which_applications", 0, application_controller.which_applications)

    async def ping(self, node: Atom | str) -> Atom:
        """Connect to `node` and ask its `net_kernel` for a sign of life: `a.pong`, or `a.pang` when there is none."""
        if self.own_name(node):
            return a.pong
        if not await self.connect(node):
            return a.pang
        question = (a.is_auth, self.name)
        try:
            answer = await self.run_process(gen.call, ("net_kernel", node), gen.CALL, question, None)
        except ProcessExit:
            answer = None
        if answer is a.yes:
            return a.pong
        await self.disconnect(node)
        return a.pang

    async def rpc(
        self,
        node: Atom | str,
        module: Atom | str,
        function: Atom | str,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:
        """Call `module:function(args)` on `node`; its result, within `timeout` seconds (None: however long it takes).

        Errors: RemoteError, RemoteExit, RemoteThrow, as the function ended there; RpcFailed at once when the node or
        its service is not there; TimeoutError, after which the other node is told that nobody waits.
        """
        return await rpc_client.call(self, node, module, function, list(args), timeout)

    async def rpc_cast(
        self, node: Atom | str, module: Atom | str, function: Atom | str, args: Sequence[Any] = ()
    ) -> None:
        """Have `module:function(args)` called on `node`; what comes of it, nobody is told. Errors: RpcFailed."""
        await rpc_client.cast(self, node, module, function, list(args))

    async def multicall(
        self,
        nodes: Sequence[Atom | str],
        module: Atom | str,
        function: Atom | str,
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> list[Any]:
        """Call the same on many nodes at once; for each, in order, the result or the exception that `rpc` raises."""
        calls = [self.rpc(node, module, function, args, timeout=timeout) for node in nodes]
        return await asyncio.gather(*calls, return_exceptions=True)

    def remote(self, node: Atom | str, *, timeout: float | None = None) -> Remote:
        """A proxy for calls: `await node.remote("iex@h").Elixir.Enum.sum([1, 2, 3])`."""
        return Remote(self, node, timeout)


class Remote:
    """A path of names on another node; calling it is an `rpc` of the last name in the module of the others."""

    def __init__(self, local: Node, node: Atom | str, timeout: float | None, path: tuple[str, ...] = ()) -> None:
        self._local = local
        self._node = node
        self._timeout = timeout
        self._path = path

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(self._local, self._node, self._timeout, (*self._path, name))

    def __call__(self, *args: Any) -> Coroutine[Any, Any, Any]:
        if len(self._path) < 2:
            raise UsageError("a remote call needs a module and a function: node.remote(n).lists.reverse([1, 2])")
        module, function = ".".join(self._path[:-1]), self._path[-1]
        return self._local.rpc(self._node, module, function, args, timeout=self._timeout)

    def __repr__(self) -> str:
        return f"<remote {self._node} {'.'.join(self._path)}>"
