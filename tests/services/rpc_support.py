"""A real node with Elixir, its epmd and cookie, for the tests of calls in both directions."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from beamnode import Atom, Epmd, Node
from beamnode.carriers.tcp import Tcp
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp

HOST = "127.0.0.1"
WAIT_SECONDS = 20.0


class RpcWorld:
    """`name` is the peer's; nodes of ours are made with `node`."""

    def __init__(self, otp: Otp) -> None:
        self.otp = otp
        self.cookie = secrets.token_hex(8)
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.epmd_port = stack.enter_context(peers.Epmd(self.otp)).port
            self.peer = stack.enter_context(
                ErlNode.start(self.otp, f"b@{HOST}", cookie=self.cookie, epmd_port=self.epmd_port, boot="elixir")
            )
            self.name = Atom(self.peer.name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def node(self, **options: Any) -> Node:
        options = {
            "cookie": self.cookie,
            "discovery": Epmd(self.epmd_port),
            "carrier": Tcp(listen_address=HOST),
        } | options
        return Node(f"py{next(self._numbers)}@{HOST}", **options)

    async def erl(self, source: str, timeout: float = WAIT_SECONDS, **bindings: Any) -> Any:
        return await asyncio.to_thread(lambda: self.peer.eval(source, timeout, **bindings))

    async def elixir(self, source: str, timeout: float = WAIT_SECONDS, **bindings: Any) -> Any:
        return await asyncio.to_thread(lambda: self.peer.elixir(source, timeout, **bindings))


async def until(predicate: Callable[[], Any], what: str = "it did not happen") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not predicate():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)
