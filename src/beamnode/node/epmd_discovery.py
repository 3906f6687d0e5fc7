"""Discovery: how a node makes itself known and finds others. The contract, and the ways that need no epmd."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from typing import Protocol

from beamnode.errors import NodeNotFound
from beamnode.wire.epmd import CREATION_MAX, CREATION_MIN


class Registration(Protocol):
    """A node that is made known. It lasts until `close`; keep a reference to it."""

    @property
    def creation(self) -> int:
        """The creation of this life of the node: it goes into its pids, references and ports, and does not change."""
        ...

    async def close(self) -> None:
        """End it. Once this returns the name is free again. May be called again."""
        ...


class Discovery(Protocol):
    """What a node asks of its surroundings. OTP has the same three questions in an `epmd_module`."""

    def listen_port(self, alive: str, host: str) -> int:
        """Tell at which port the node `alive@host` must listen; 0: at any (OTP: listen_port_please)."""
        ...

    async def register(
        self, alive: str, host: str, port: int, *, hidden: bool = False, family: socket.AddressFamily | None = None
    ) -> Registration:
        """Make known that `alive@host` listens at `port` with `family`. Call it once the port is open.

        Raises NameTakenError, NodeNameError, EpmdError. Obliges you to close the registration.
        """
        ...

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        """Tell the address (or host name) and port at which `alive@host` listens. Raises NodeNotFound, EpmdError."""
        ...


class FixedRegistration:
    """A registration that nobody was told of: just a random creation."""

    def __init__(self) -> None:
        self._creation = random_creation()

    @property
    def creation(self) -> int:
        """The creation of this life of the node."""
        return self._creation

    async def close(self) -> None:
        """Do nothing: there is nobody to tell."""


class FixedPort:
    """No epmd: every node, on whatever host, listens at the same port (one node per address).

    OTP nodes do the same with `-start_epmd false -erl_epmd_port PORT`.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def listen_port(self, alive: str, host: str) -> int:
        """Tell the port of all nodes."""
        return self.port

    async def register(
        self, alive: str, host: str, port: int, *, hidden: bool = False, family: socket.AddressFamily | None = None
    ) -> FixedRegistration:
        """Give a random creation. Nobody is told."""
        return FixedRegistration()

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        """Tell the host itself and the port of all nodes."""
        return host, self.port


class StaticPorts:
    """No epmd: a table says where each node listens, `{"name@host": port}` or `{"name@host": (address, port)}`.

    The node's own name may be in it: then it listens at that port. The mapping is read at each call.
    """

    def __init__(self, nodes: Mapping[str, int | tuple[str, int]]) -> None:
        self.nodes = nodes

    def listen_port(self, alive: str, host: str) -> int:
        """Tell the port of this node in the table; 0 when it is not there."""
        place = self.nodes.get(f"{alive}@{host}", 0)
        return place if isinstance(place, int) else place[1]

    async def register(
        self, alive: str, host: str, port: int, *, hidden: bool = False, family: socket.AddressFamily | None = None
    ) -> FixedRegistration:
        """Give a random creation. Nobody is told."""
        return FixedRegistration()

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        """Tell what the table has. Raises NodeNotFound."""
        name = f"{alive}@{host}"
        place = self.nodes.get(name)
        if place is None:
            raise NodeNotFound(f"no node {name!r} in the table of static ports: add it there")
        return (host, place) if isinstance(place, int) else place


def random_creation() -> int:
    """Draw a creation, 4 to 2^32-1: a node without epmd makes its own (net_kernel: create_creation)."""
    return CREATION_MIN + secrets.randbelow(CREATION_MAX - CREATION_MIN + 1)
