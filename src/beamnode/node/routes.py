"""The ways to other nodes: which carrier for which nodes, how they are found on it; and what a node listens on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final, Protocol, TypeAlias

from beamnode.carriers.base import Address, Carrier, Listener
from beamnode.carriers.tcp import Tcp
from beamnode.errors import UsageError
from beamnode.node.epmd import Epmd
from beamnode.node.epmd_discovery import Discovery, FixedRegistration, random_creation
from beamnode.node.names import NodeName

CARRIER_MEMBERS: Final = ("name", "handshake_length_bytes", "by_name", "listen", "dial")


@dataclass(frozen=True, slots=True)
class Route:
    """One way to other nodes: a carrier, and for which nodes it is.

    - `carrier`: how bytes travel.
    - `to`: which nodes: a pattern of names as shells have them (`"*@10.0.*"`), several, or a function of a name. They
      are dialled on the first route of the node that is for them, and accepted on each that is.
    - `discovery`: how nodes are found on it; by default as the node finds them. An epmd tells one port of a node, that
      of the first route on which it listens: where another is to be dialled, give its route a discovery of its own,
      `StaticPorts({...})` or `FixedPort(...)`.
    - `listen`: False: only dial on it.
    """

    carrier: Carrier
    to: str | Sequence[str] | Callable[[str], bool] = "*"
    discovery: Discovery | None = None
    listen: bool = True

    def leads_to(self, node: str) -> bool:
        """Whether it is for the node of this name."""
        if callable(self.to):
            return bool(self.to(node))
        patterns = (self.to,) if isinstance(self.to, str) else self.to
        return any(fnmatchcase(node, pattern) for pattern in patterns)

    @property
    def found_by(self) -> Discovery:
        """How nodes are found on it, once that is settled (`settled`)."""
        assert self.discovery is not None
        return self.discovery


Carriers: TypeAlias = Carrier | Route | Sequence[Carrier | Route]


def routes_of(carriers: Carriers | None) -> tuple[Route, ...]:
    """What a program gave as `carrier`. Errors: UsageError."""
    if carriers is None:
        return ()
    given = carriers if isinstance(carriers, Sequence) and not isinstance(carriers, str) else (carriers,)
    if not given:
        raise UsageError("carrier=[]: a node without a carrier reaches nobody; to listen on none, give listen=False")
    routes = tuple(each if isinstance(each, Route) else Route(each) for each in given)
    for route in routes:
        _check(route)
    return routes


def _check(route: Route) -> None:
    carrier, to = route.carrier, route.to
    lacking = [member for member in CARRIER_MEMBERS if not hasattr(carrier, member)]
    if isinstance(carrier, type) or len(lacking) == len(CARRIER_MEMBERS):
        raise UsageError(f"a carrier is an object such as Tcp(...), or a Route(Tcp(...), to=...), not {carrier!r}")
    if lacking:
        raise UsageError(f"{carrier!r} is no carrier: it has no {', no '.join(lacking)} (carriers/base.py)")
    patterns = (to,) if isinstance(to, str) or not isinstance(to, Sequence) else to
    if not callable(to) and not all(isinstance(each, str) for each in patterns):
        raise UsageError(f"Route(to=...) is a pattern of names, several, or a function of a name, not {to!r}")


def settled(routes: tuple[Route, ...], discovery: Discovery | None, name: NodeName) -> tuple[Route, ...]:
    """The routes with their discoveries; by default TCP, and an epmd, which is started where none runs."""
    if not routes or any(route.discovery is None and not route.carrier.by_name for route in routes):
        discovery = discovery or Epmd.from_environment(auto_start=True)
    if not routes:
        assert discovery is not None
        return (Route(Tcp(listen_ports=discovery.listen_port(name.alive, name.host)), discovery=discovery),)
    by_name = ByName()
    return tuple(
        replace(route, discovery=route.discovery or (by_name if route.carrier.by_name else discovery))
        for route in routes
    )


class ByName:
    """The discovery of carriers that know from a node's name where it is."""

    def listen_port(self, alive: str, host: str) -> int:
        """No port."""
        return 0

    async def register(
        self, alive: str, host: str, port: int, *, hidden: bool = False, family: socket.AddressFamily | None = None
    ) -> FixedRegistration:
        """Give a random creation. Nobody is told."""
        return FixedRegistration()

    async def resolve(self, alive: str, host: str) -> Address:
        """The host itself."""
        return host, 0


class _Listens(Protocol):
    async def listen(self, route: Route) -> Listener: ...


class Listening:
    """What a started node listens on, in the order of its routes, and where it is made known."""

    def __init__(self) -> None:
        self.listeners: list[tuple[Route, Listener]] = []
        self.creation = 0
        self._accepting = AsyncExitStack()
        self._known = AsyncExitStack()

    @classmethod
    async def open(cls, network: _Listens, routes: Sequence[Route], name: NodeName, *, hidden: bool) -> Listening:
        """Listen on the routes, and make the node known: each discovery is told of the first that has it.

        Errors: NameTakenError, EpmdError, NetworkError; then nothing is left open.
        """
        listening = cls()
        told: list[Discovery] = []
        try:
            for route in routes:
                listener = await network.listen(route)
                listening._accepting.push_async_callback(listener.close)
                listening.listeners.append((route, listener))
                if route.found_by not in told:
                    told.append(route.found_by)
                    await listening._register(route, listener, name, hidden)
        except BaseException:
            await listening.stop_accepting()
            await listening.close()
            raise
        listening.creation = listening.creation or random_creation()
        return listening

    async def _register(self, route: Route, listener: Listener, name: NodeName, hidden: bool) -> None:
        family = getattr(route.carrier, "family", None)
        registration = await route.found_by.register(name.alive, name.host, listener.port, hidden=hidden, family=family)
        self._known.push_async_callback(registration.close)
        self.creation = self.creation or registration.creation

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [listener.address for _, listener in self.listeners]

    async def stop_accepting(self) -> None:
        """Close what it listens on."""
        await self._accepting.aclose()

    async def close(self) -> None:
        """Take the names back."""
        await self._known.aclose()
