"""A bad network between two nodes, for tests: a TCP proxy that cuts, stalls, splits, delays and corrupts, by plan.

    plan = Plan(forward=[Corrupt(at=70)], backward=[Cut(at=200, reset=True)])
    async with FaultProxy("127.0.0.1", port_of_two, [plan]) as proxy:
        one = Node("one@127.0.0.1", discovery=StaticPorts({"two@127.0.0.1": proxy.port}))
        ...
        proxy.connections[0].forwarded   # bytes that went from who dialled to who listens, so far

The first connection through the proxy gets the first plan, and so on; those after the last plan are left alone. So a
session is broken at a byte of your choice, and the next attempt of the node finds a healthy network.

Offsets count bytes of one direction of one connection from 0: `at` is the first byte that the fault concerns. Real OTP
nodes are sent through the proxy by an epmd of your own, whose entry for a node names the proxy's port.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

READ_BYTES = 64 * 1024

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection after `at` bytes, towards both sides: in good order, or with `reset` (a TCP RST)."""

    at: int
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Forward nothing after `at` bytes, for `seconds`; None: for good. The other direction goes on, nobody is told."""

    at: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """From byte `at` on forward in pieces of `size` bytes, each sent in a turn of the event loop of its own."""

    at: int
    size: int = 1


@dataclass(frozen=True, slots=True)
class Delay:
    """From byte `at` on forward every piece `seconds` after the one before it."""

    at: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Flip those bits of byte `at`."""

    at: int
    bits: int = 1


Fault: TypeAlias = Cut | Stall | Split | Delay | Corrupt


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to one connection: `forward` from who dialled to who listens, `backward` the other way."""

    forward: Sequence[Fault] = ()
    backward: Sequence[Fault] = ()


@dataclass(slots=True)
class Connection:
    """One connection through a proxy. `forwarded` and `backwarded` count bytes, `hit` lists the faults that came."""

    plan: Plan
    forwarded: int = 0
    backwarded: int = 0
    hit: list[Fault] = field(default_factory=list)
    over: bool = False


class FaultProxy:
    """Listens on a free port of loopback and forwards to `host` and `port`, as the plans say.

    Use it as an asynchronous context manager, or `start` it and `close` it; at its end its connections are reset.
    """

    def __init__(self, host: str, port: int, plans: Iterable[Plan] = ()) -> None:
        self.host = host
        self.port = 0  # of the proxy, once it is started
        self.connections: list[Connection] = []
        self._target_port = port
        self._plans = list(plans)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def plan(self, *plans: Plan) -> None:
        """Have these for the next connections, instead of what is left of the plans."""
        self._plans = list(plans)

    @property
    def open_connections(self) -> int:
        """Connections that are not over on both sides."""
        return len(self._tasks)

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", limit=READ_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Accept no more, and reset what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self._plans.pop(0) if self._plans else Plan())
        self.connections.append(connection)
        task = asyncio.create_task(self._run(connection, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from the moment it was accepted until both sides are closed."""
        writers = [writer]
        reset = True
        try:
            far_reader, far_writer = await asyncio.open_connection(self.host, self._target_port, limit=READ_BYTES)
            writers.append(far_writer)
            road = _Road(connection, (far_writer, writer))
            async with asyncio.TaskGroup() as group:
                group.create_task(_Pump(road, reader, is_forward=True).run())
                group.create_task(_Pump(road, far_reader, is_forward=False).run())
            reset = False
        except* (_Reset, OSError):
            pass  # one side broke, or the plan says so: the other learns it as a reset
        finally:
            connection.over = True
            for each in writers:
                _close(each, reset)


class _Reset(Exception):
    """The plan resets the connection."""


class _Road:
    """What the two directions of a connection share."""

    def __init__(self, connection: Connection, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.connection = connection
        self.writers = writers
        self.is_cut = False  # both sides were told of the end: what they still say is thrown away
        self.ended = asyncio.Event()  # one side has ended: what is stalled has nothing to wait for

    def tell_end(self, *writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            with contextlib.suppress(OSError):
                writer.write_eof()


class _Pump:
    """One direction of one connection."""

    def __init__(self, road: _Road, reader: asyncio.StreamReader, *, is_forward: bool) -> None:
        plan = road.connection.plan
        self._road = road
        self._reader = reader
        self._writer = road.writers[0 if is_forward else 1]
        self._is_forward = is_forward
        self._faults = sorted(plan.forward if is_forward else plan.backward, key=lambda fault: fault.at)
        self._offset = 0
        self._size = READ_BYTES
        self._pause_seconds = 0.0
        self._corrupt: Corrupt | None = None

    async def run(self) -> None:
        """Forward until the source ends, then tell the destination."""
        while True:
            while self._faults and self._faults[0].at <= self._offset and not self._corrupt:
                await self._begin(self._faults.pop(0))
            wanted = self._faults[0].at - self._offset if self._faults else READ_BYTES
            data = await self._reader.read(max(1, min(wanted, READ_BYTES)))
            if not data:
                break
            if not self._road.is_cut:
                await self._forward(data)
        self._road.ended.set()
        if not self._road.is_cut:
            self._road.tell_end(self._writer)

    async def _begin(self, fault: Fault) -> None:
        """A fault whose place has come."""
        road = self._road
        if isinstance(fault, Corrupt):
            self._corrupt = fault  # when the byte is there
            return
        if road.is_cut:
            return
        road.connection.hit.append(fault)
        match fault:
            case Cut(reset=True):
                raise _Reset
            case Cut():
                road.is_cut = True
                road.ended.set()
                road.tell_end(*road.writers)
            case Stall():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(road.ended.wait(), fault.seconds)
            case Split():
                self._size = fault.size
            case Delay():
                self._pause_seconds = fault.seconds

    async def _forward(self, data: bytes) -> None:
        if self._corrupt is not None:
            self._road.connection.hit.append(self._corrupt)
            data = bytes((data[0] ^ self._corrupt.bits,)) + data[1:]
            self._corrupt = None
        for at in range(0, len(data), self._size):
            piece = data[at : at + self._size]
            if self._pause_seconds or self._size < READ_BYTES:
                await asyncio.sleep(self._pause_seconds)
            self._writer.write(piece)
            self._offset += len(piece)
            if self._is_forward:
                self._road.connection.forwarded += len(piece)
            else:
                self._road.connection.backwarded += len(piece)
            await self._writer.drain()


def _close(writer: asyncio.StreamWriter, reset: bool) -> None:
    if not reset:
        writer.close()
        return
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
