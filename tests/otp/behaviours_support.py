"""A real node with Elixir and its epmd, for a module of tests, and nodes of ours beside it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from beamnode import Atom, Epmd, FixedPort, Node
from beamnode.carriers.memory import MemoryNetwork
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

PY: Final = Atom("py@127.0.0.1")
PEER: Final = Atom("peer@127.0.0.1")


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` in a node that is alone."""

    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


class World:
    """One real node of a release."""

    def __init__(self, otp: Otp) -> None:
        self.release = otp.release
        self.cookie = secrets.token_hex(8)
        self.epmd = peers.Epmd(otp, free_port())
        try:
            self.peer = ErlNode.start(otp, str(PEER), cookie=self.cookie, epmd_port=self.epmd.port, boot="elixir")
            self.peer.eval("logger:set_primary_config(level, none)")
        except BaseException:
            self.epmd.stop()
            raise

    def close(self) -> None:
        self.peer.kill()
        self.epmd.stop()

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run `main` in a node of ours that can reach it."""

        async def whole() -> None:
            async with Node(PY, cookie=self.cookie, discovery=Epmd(self.epmd.port)):
                await main()

        asyncio.run(whole())

    async def erl(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.eval, f"(fun () -> {source} end)()", 30, **bindings)

    async def elixir(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.elixir, source, 30, **bindings)

    def load(self, module: str, *forms: str) -> None:
        """Compile and load a module of these forms, each a text."""
        loaded = self.peer.eval(
            """
            (fun () ->
                Parse = fun (Text) ->
                    {ok, Tokens, _} = erl_scan:string(binary_to_list(Text)),
                    {ok, Form} = erl_parse:parse_form(Tokens),
                    Form
                end,
                {ok, Name, Binary} = compile:forms([Parse(Form) || Form <- Forms]),
                code:load_binary(Name, atom_to_list(Name) ++ ".erl", Binary)
            end)()
            """,
            Forms=[form.encode() for form in (f"-module({module}).", *forms)],
        )
        assert loaded == (Atom("module"), Atom(module))
