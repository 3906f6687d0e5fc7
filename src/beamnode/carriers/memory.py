"""A network inside one process and one event loop, for tests: no socket, the same order every time, faults on demand.

    network = MemoryNetwork()
    one, two = network.carrier("one"), network.carrier("two")   # two hosts
    listener = await two.listen(accept)
    stream = await one.dial("two", listener.port, factory, timeout=1)
    network.stall("one", "two")      # nothing arrives any more; dialling takes until its timeout
    network.cut("one", "two")        # connections break, dialling fails
    network.heal()

Bytes are delivered by `loop.call_soon`, in pieces of up to `PIECE_BYTES`, in the order in which they were written, over
all connections of a network.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from beamnode.carriers.base import (
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Address,
    Chunk,
    Receiver,
    ReceiverFactory,
    Stream,
)
from beamnode.errors import NetworkError, NodeNotFound, SetupTimeout

PIECE_BYTES = 64 * 1024  # as TCP's receive buffer
FIRST_PORT = 1024

Pair: TypeAlias = frozenset[str]  # of two hosts; of one, for connections within it


class MemoryNetwork:
    """Hosts, what they listen on, and the state of the roads between them."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._listeners: dict[Address, MemoryListener] = {}
        self._streams: dict[MemoryStream, None] = {}  # those with something left to happen, in order of opening
        self._stalled: set[Pair] = set()
        self._cut: set[Pair] = set()
        self._last_port = FIRST_PORT - 1
        self._healed = asyncio.Event()

    def carrier(self, host: str) -> Memory:
        """The carrier of the nodes on `host`, which is how others dial it."""
        self._hosts.add(host)
        return Memory(self, host)

    def cut(self, one: str, two: str) -> None:
        """Break every connection between two hosts, on both sides, and refuse new ones until `heal`."""
        pair = frozenset((one, two))
        self._cut.add(pair)
        for stream in [stream for stream in self._streams if stream.pair == pair]:
            stream.lose(NetworkError(f"connection with {stream.peer_text} lost: cut"))

    def stall(self, one: str, two: str) -> None:
        """Deliver nothing between two hosts, neither bytes nor ends, until `heal`; nobody is told."""
        self._stalled.add(frozenset((one, two)))

    def heal(self) -> None:
        """End every cut and stall. What was stalled is delivered; what was cut stays lost."""
        self._cut.clear()
        self._stalled.clear()
        self._healed.set()
        self._healed = asyncio.Event()
        for stream in self._streams:
            stream.schedule()

    # --- for the classes below ----------------------------------------------------------------------------------------

    def is_stalled(self, pair: Pair) -> bool:
        return pair in self._stalled

    def next_port(self) -> int:
        self._last_port += 1
        return self._last_port

    def listen(self, address: Address, accept: ReceiverFactory) -> MemoryListener:
        listener = self._listeners[address] = MemoryListener(self, address, accept)
        return listener

    def unlisten(self, address: Address) -> None:
        self._listeners.pop(address, None)

    def forget(self, stream: MemoryStream) -> None:
        self._streams.pop(stream, None)

    async def connect(self, host: str, address: Address, receiver_factory: ReceiverFactory) -> MemoryStream:
        """Both streams of a new connection, the dialled one first. Waits while the road is stalled."""
        where = f"{address[0]}:{address[1]}"
        pair = frozenset((host, address[0]))
        await asyncio.sleep(0)
        while pair in self._stalled:
            await self._healed.wait()
        if address[0] not in self._hosts:
            raise NodeNotFound(f"cannot connect to {where}: there is no such host")
        listener = self._listeners.get(address)
        if pair in self._cut or listener is None:
            raise NetworkError(f"cannot connect to {where}: Connection refused")
        dialled = MemoryStream(self, (host, self.next_port()), address)
        accepted = MemoryStream(self, address, dialled.local_address)
        dialled.join(accepted)
        accepted.join(dialled)
        self._streams.update({dialled: None, accepted: None})
        dialled.open(receiver_factory)
        asyncio.get_running_loop().call_soon(accepted.open, listener.accept)
        return dialled


class Memory:
    """The carrier of one host of a `MemoryNetwork`."""

    name = "memory"
    handshake_length_bytes = 2
    by_name = False

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.network = network
        self.host = host

    async def listen(self, accept: ReceiverFactory, *, node: str = "") -> MemoryListener:
        """Listen on the next port of the network."""
        return self.network.listen((self.host, self.network.next_port()), accept)

    async def dial(
        self, host: str, port: int, receiver_factory: ReceiverFactory, *, timeout: float, node: str = ""
    ) -> Stream:
        """Connect to a listener on another host, or on this one. Errors: see `Carrier.dial`."""
        try:
            async with asyncio.timeout(timeout):
                return await self.network.connect(self.host, (host, port), receiver_factory)
        except TimeoutError as error:
            raise SetupTimeout(f"cannot connect to {host}:{port}: no answer within {timeout:g} s") from error


class MemoryListener:
    """One port of one host; made by `Memory.listen`."""

    def __init__(self, network: MemoryNetwork, address: Address, accept: ReceiverFactory) -> None:
        self.accept = accept
        self._network = network
        self._address = address

    @property
    def port(self) -> int:
        return self._address[1]

    @property
    def address(self) -> Address:
        return self._address

    async def close(self) -> None:
        """Accept no more."""
        self._network.unlisten(self._address)


class MemoryStream:
    """One end of a connection. What it writes waits in `_unsent` until its peer takes it."""

    def __init__(self, network: MemoryNetwork, local_address: Address, peer_address: Address) -> None:
        self.pair: Pair = frozenset((local_address[0], peer_address[0]))
        self._network = network
        self._local_address = local_address
        self._peer_address = peer_address
        self._peer: MemoryStream = self
        self._receiver: Receiver | None = None
        self._opened = False
        self._closing = False
        self._lost = False
        self._error: NetworkError | None = None
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._last_word: _LastWord | None = None  # said to the peer behind everything unsent
        self._writing_paused = False
        self._reading_paused = False
        self._scheduled = False

    @property
    def peer_address(self) -> Address:
        return self._peer_address

    @property
    def local_address(self) -> Address:
        return self._local_address

    @property
    def is_closing(self) -> bool:
        return self._closing

    @property
    def peer_text(self) -> str:
        return f"{self._peer_address[0]}:{self._peer_address[1]}"

    def write(self, chunks: Sequence[Chunk]) -> None:
        if self._closing:
            return
        data = b"".join(chunks)
        self._unsent.extend(data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))
        self._unsent_bytes += len(data)
        self.schedule()
        self._maybe_pause_writing()

    def close(self) -> None:
        if not self._closing:
            self._finish(_LastWord(None))

    def abort(self) -> None:
        if not self._closing:
            self._unsent.clear()
            self._finish(
                _LastWord(NetworkError(f"connection with {self._peer.peer_text} lost: Connection reset by peer"))
            )

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._peer.schedule()

    # --- for the network and the other end ----------------------------------------------------------------------------

    def join(self, peer: MemoryStream) -> None:
        self._peer = peer

    def open(self, receiver_factory: ReceiverFactory) -> None:
        """Get the receiver; from now on it is served."""
        self._opened = True
        if self._lost:
            asyncio.get_running_loop().call_soon(self._tell_receiver)
        try:
            self._receiver = receiver_factory(self)
        except Exception as error:
            self._fail(error, "the factory of a stream's receiver failed")
            return
        self._maybe_pause_writing()
        self._peer.schedule()

    def schedule(self) -> None:
        """Have `_deliver` called soon, once."""
        if not self._scheduled and (self._unsent or self._last_word):
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def lose(self, error: NetworkError | None) -> None:
        """The end, for this side: the receiver is told soon, and nothing is sent or received any more."""
        if self._lost:
            return
        self._lost = True
        self._error = error
        self._closing = True
        if self._last_word is None:
            self._unsent.clear()
            self._network.forget(self)
        asyncio.get_running_loop().call_soon(self._tell_receiver)

    def _tell_receiver(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(self._error)

    def _finish(self, word: _LastWord) -> None:
        self._last_word = word
        self.schedule()
        self.lose(None)

    def _deliver(self) -> None:
        """Hand one piece, or the last word, to the peer."""
        self._scheduled = False
        peer = self._peer
        if peer._lost:
            self._network.forget(self)
            return
        if self._network.is_stalled(self.pair) or not peer._opened:
            return
        if self._unsent:
            if peer._reading_paused:
                return
            data = self._unsent.popleft()
            self._unsent_bytes -= len(data)
            self.schedule()
            peer._take(data)
            self._maybe_resume_writing()
        elif self._last_word is not None:
            word, self._last_word = self._last_word, None
            self._network.forget(self)
            peer.lose(word.error)

    def _take(self, data: bytes) -> None:
        if self._receiver is not None:
            self._call_receiver(partial(self._receiver.data_received, data))

    def _maybe_pause_writing(self) -> None:
        if self._unsent_bytes > WRITE_HIGH_BYTES and not self._writing_paused and self._receiver is not None:
            self._writing_paused = True
            self._call_receiver(self._receiver.pause_writing)

    def _maybe_resume_writing(self) -> None:
        if self._writing_paused and self._unsent_bytes <= WRITE_LOW_BYTES:
            self._writing_paused = False
            if self._receiver is not None:
                self._call_receiver(self._receiver.resume_writing)

    def _call_receiver(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._fail(error, "the receiver of a stream failed")

    def _fail(self, error: Exception, what: str) -> None:
        """End because of an error of the receiver's side, which the exception handler of the loop is told."""
        self.abort()
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


class _LastWord:
    """How an end is announced: `None` for an orderly one."""

    def __init__(self, error: NetworkError | None) -> None:
        self.error = error
