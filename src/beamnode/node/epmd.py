"""The client of epmd: registers a node, for as long as it lives, and finds others.

`Epmd` is the usual `Discovery` of a node; `FixedPort` and `StaticPorts` need no epmd. The neighbours: `epmd_ask` (one
question, one answer), `epmd_start` (our own epmd where none runs), `epmd_server` (what that one does).
Source: erl_epmd.erl.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from beamnode.errors import BeamnodeError, EpmdError, NameTakenError, NodeNameError, NodeNotFound
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.node import epmd_ask
from beamnode.node.epmd_ask import DEFAULT_PORT, IPV4_LOOPBACK, IPV6_LOOPBACK, LOOPBACKS, NoEpmd
from beamnode.node.epmd_discovery import Discovery, FixedPort, FixedRegistration, Registration, StaticPorts
from beamnode.node.epmd_start import ensure_epmd
from beamnode.wire import epmd as wire

__all__ = [
    "Discovery",
    "Epmd",
    "EpmdRegistration",
    "FixedPort",
    "FixedRegistration",
    "NoEpmd",
    "NodePort",
    "Registration",
    "StaticPorts",
    "ensure_epmd",
]

TIMEOUT_SECONDS = 10.0  # OTP: erl_epmd waits as long for an answer
RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 5.0
RETRIES_BEFORE_START = 3  # an epmd that is being restarted by others gets this chance before we start our own
START_ATTEMPTS = 3  # the epmd that was there may be leaving just now
CLOSE_TIMEOUT_SECONDS = 1.0

log = logging.getLogger("beamnode.epmd")

Answer = TypeVar("Answer")


class NodePort(NamedTuple):
    """Where a node listens, and with which versions of the distribution protocol, as it told its epmd."""

    port: int
    version_low: int
    version_high: int
    hidden: bool


class Epmd:
    """The epmd of each host, at `port`; registrations go to the one of this host.

    With `auto_start` our own epmd is started where none answers on this host; it listens on all interfaces, or on
    `addresses` and loopback. `timeout_seconds` bounds each question; starting an epmd has its own bound.
    """

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        addresses: Sequence[str] = (),
        *,
        auto_start: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.port = port
        self.addresses = tuple(addresses)
        self.auto_start = auto_start
        self.timeout_seconds = timeout_seconds
        self.limits = limits

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None, *, auto_start: bool = False) -> Epmd:
        """Make one as ERL_EPMD_PORT and ERL_EPMD_ADDRESS say (`env`, or the environment). Raises UsageError."""
        env = os.environ if env is None else env
        addresses = epmd_ask.addresses_of_text(env.get("ERL_EPMD_ADDRESS"))
        return cls(epmd_ask.port_of(env), addresses, auto_start=auto_start)

    def listen_port(self, alive: str, host: str) -> int:
        """Any port will do: epmd will tell it."""
        return 0

    async def register(
        self, alive: str, host: str, port: int, *, hidden: bool = False, family: socket.AddressFamily | None = None
    ) -> EpmdRegistration:
        """Register the name `alive` (without host) at this host's epmd, as listening at `port`.

        The registration lasts until you close it; when epmd goes away, it is renewed by itself. `family` is what the
        node listens with: it decides which loopback address is tried first. Raises NodeNameError, NameTakenError,
        and EpmdError when no epmd answers.
        """
        _check_name(alive)
        node = wire.NodeEntry(alive, port, wire.HIDDEN if hidden else wire.VISIBLE)
        loopbacks = (IPV6_LOOPBACK, IPV4_LOOPBACK) if family == socket.AF_INET6 else LOOPBACKS
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                if self.auto_start:
                    await ensure_epmd(self.port, self.addresses)
                return EpmdRegistration(self, loopbacks, node, await self._announce(loopbacks, node))
            except EpmdError:
                if not self.auto_start or attempt == START_ATTEMPTS:
                    raise
                await asyncio.sleep(RETRY_SECONDS_MIN * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        """Tell the port of `alive@host`, and `host` as it is: dial all its addresses, the node may not use each."""
        return host, (await self.port_please(alive, host)).port

    async def port_please(self, alive: str, host: str) -> NodePort:
        """Ask the epmd of `host` where the node `alive` listens. Each address of the host is asked until one knows.

        Raises NodeNotFound, which says what is missing: the host, an epmd there, or the node; EpmdError when what
        answered is no epmd; NodeNameError.
        """
        _check_name(alive)
        request = wire.encode_request(wire.PortRequest(alive))

        async def ask(address: str) -> NodePort:
            async with epmd_ask.connection(address, self.port) as (reader, writer):
                writer.write(request)
                answer = await epmd_ask.read_answer(reader, wire.decode_port_answer, self.limits)
            if answer.node is None:
                raise NodeNotFound(f"epmd of {host} knows no node {alive!r}: `epmd -names` there lists those it knows")
            node = answer.node
            return NodePort(node.port, node.version_low, node.version_high, node.hidden)

        try:
            return await self._ask_host(host, ask)
        except NoEpmd as error:
            raise NodeNotFound(str(error)) from error

    async def names(self, host: str = "localhost") -> list[tuple[str, int]]:
        """List (name, port) of the nodes of `host`. Raises NodeNotFound: no such host; EpmdError: no epmd there."""

        async def ask(address: str) -> wire.NamesAnswer:
            return await epmd_ask.ask_for_names(address, self.port, self.limits)

        return list((await self._ask_host(host, ask)).nodes)

    async def kill(self) -> None:
        """End the epmd of this host. Raises EpmdError: none there, or it refuses because nodes are registered."""
        answer = await self._command(wire.KillRequest())
        if answer != b"OK":
            raise EpmdError(f"epmd at port {self.port} refuses: nodes are registered; stop them first (`epmd -names`)")

    async def stop(self, alive: str) -> None:
        """Take a name from its node. Raises EpmdError: no such node, or epmd does not allow it.

        epmd allows it only when it was started with its command check relaxed.
        """
        _check_name(alive)
        answer = await self._command(wire.StopRequest(alive))
        if answer.startswith(b"NOEXIST"):
            raise EpmdError(f"epmd at port {self.port} knows no node {alive!r}: `epmd -names` lists those it knows")
        if answer != b"STOPPED":
            raise EpmdError(f"epmd at port {self.port} refuses: start it with its command check relaxed to allow this")

    async def _command(self, request: wire.Request) -> bytes:
        async def ask(address: str) -> bytes:
            async with epmd_ask.connection(address, self.port) as (reader, writer):
                writer.write(wire.encode_request(request))
                return await epmd_ask.read_to_end(reader, self.limits)

        return await self._ask_addresses(LOOPBACKS, ask)

    async def _announce(self, loopbacks: Sequence[str], node: wire.NodeEntry) -> _Announced:
        """Register once. Raises NameTakenError, EpmdError."""

        async def ask(address: str) -> _Announced:
            reader, writer = await epmd_ask.connect(address, self.port)
            try:
                writer.write(wire.encode_request(wire.AliveRequest(node)))
                answer = await epmd_ask.read_answer(reader, wire.decode_alive_answer, self.limits)
                if answer.creation is None:
                    raise NameTakenError(
                        f"the name {node.name!r} is taken: another live node of this host has it at epmd, port "
                        f"{self.port} (see `epmd -names` or `beamnode names`): stop that node or choose another name"
                    )
            except OSError as error:
                writer.transport.abort()
                reason = epmd_ask.reason_of(error)
                raise EpmdError(f"the connection to epmd at {address} port {self.port} broke: {reason}") from error
            except BaseException:
                writer.transport.abort()
                raise
            return _Announced(reader, writer, answer.creation)

        return await self._ask_addresses(loopbacks, ask)

    async def _ask_host(self, host: str, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                addresses = await epmd_ask.addresses_of_host(host)
        except TimeoutError:
            raise NodeNotFound(f"resolving the host {host!r} took over {self.timeout_seconds:g} s") from None
        try:
            return await self._ask_addresses(addresses, ask)
        except NoEpmd as error:
            raise NoEpmd(
                f"{host}: {error}: start a node there, or an epmd (`epmd -daemon`, `beamnode epmd --daemon`), or open "
                "that port in its firewall"
            ) from error

    async def _ask_addresses(self, addresses: Sequence[str], ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Ask each address in turn, with an equal share of the time, until one answers well.

        Raises the most telling of the failures: what an epmd said before what is no epmd before silence.
        """
        failures: list[EpmdError | NodeNotFound] = []
        share_seconds = self.timeout_seconds / len(addresses)
        for address in addresses:
            try:
                async with asyncio.timeout(share_seconds):
                    return await ask(address)
            except TimeoutError:
                failures.append(
                    NoEpmd(f"no epmd answers at {address} port {self.port}: nothing within {share_seconds:g} s")
                )
            except (EpmdError, NodeNotFound) as error:
                failures.append(error)
        raise min(failures, key=_vagueness)


def _check_name(alive: str) -> None:
    problem = wire.name_problem(alive)
    if problem is not None:
        raise NodeNameError(f"no node can have the name {alive!r}: {problem}")


def _vagueness(error: EpmdError | NodeNotFound) -> int:
    return 0 if isinstance(error, NodeNotFound) else 2 if isinstance(error, NoEpmd) else 1


class _Announced(NamedTuple):
    """A registration as epmd sees it: it ends with this connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    creation: int


class EpmdRegistration:
    """A name registered at this host's epmd until `close`. Made by `Epmd.register`.

    When epmd goes away, it registers again, first after 0.1 s and then with growing pauses of 5 s at most; the creation
    of that is ignored, as OTP does, since the pids of this node carry the first one.
    """

    def __init__(self, epmd: Epmd, loopbacks: Sequence[str], node: wire.NodeEntry, announced: _Announced) -> None:
        self.node = node
        self.registered = True  # whether epmd has it at the moment
        self._epmd = epmd
        self._loopbacks = loopbacks
        self._creation = announced.creation
        self._reader, self._writer = announced.reader, announced.writer
        self._closed = False
        self._keeper = asyncio.create_task(self._keep(), name=f"beamnode: epmd registration of {node.name}")

    @property
    def creation(self) -> int:
        """The creation of this life of the node, from the first registration."""
        return self._creation

    async def close(self) -> None:
        """End the registration; epmd has freed the name when this returns, if it answers within a second."""
        if self._closed:
            return
        self._closed = True
        self._keeper.cancel()
        self.registered = False
        try:
            await asyncio.wait([self._keeper])
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    if not self._writer.is_closing():  # while it is renewed; uvloop would raise
                        self._writer.write_eof()
                    await self._until_closed()
        finally:
            self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._until_closed()
            self.registered = False
            self._writer.close()
            log.warning("epmd at port %d closed the registration of %r: renewing it", self._epmd.port, self.node.name)
            await self._renew()
            self.registered = True
            log.info("%r is registered at epmd again", self.node.name)

    async def _until_closed(self) -> None:
        while await self._reader.read(1024):
            pass  # epmd says nothing to a registered node: whatever it is, it is not for us

    async def _renew(self) -> None:
        pause_seconds = RETRY_SECONDS_MIN
        failures = 0
        while True:
            await asyncio.sleep(pause_seconds)
            try:
                if self._epmd.auto_start and failures >= RETRIES_BEFORE_START:
                    await ensure_epmd(self._epmd.port, self._epmd.addresses)
                announced = await self._epmd._announce(self._loopbacks, self.node)
            except BeamnodeError as error:
                failures += 1
                pause_seconds = min(2 * pause_seconds, RETRY_SECONDS_MAX)
                level = logging.WARNING if isinstance(error, NameTakenError) or failures == 1 else logging.DEBUG
                log.log(level, "%r cannot be registered at epmd, trying again: %s", self.node.name, error)
            else:
                self._reader, self._writer = announced.reader, announced.writer
                return
