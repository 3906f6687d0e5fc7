"""A stream over a transport of asyncio, for what `socket_stream.py` cannot do: TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import cast

from beamnode.carriers.base import (
    LINGER_SECONDS,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Address,
    Chunk,
    Receiver,
    ReceiverFactory,
)
from beamnode.carriers.texts import address_of, connection_error

# Received into one buffer per stream and copied out: 1.5 us for a small message, against 15 us for `socket.recv` with
# asyncio's 256 KiB, which allocates and trims that much each time.
RECEIVE_BUFFER_BYTES = 64 * 1024

# Chunks are joined up to this size before they are written: copying 256 KiB is cheaper than another system call.
# (`transport.writelines` would not copy, but joins everything on 3.11 and forgets flow control on some 3.12 and 3.13.)
JOINED_BYTES_MAX = 256 * 1024


class TransportStream(asyncio.BufferedProtocol):
    """Both sides of the joint: a protocol to asyncio's transport, a `Stream` to the receiver."""

    def __init__(self, receiver_factory: ReceiverFactory) -> None:
        self._receiver_factory = receiver_factory
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._closing = False
        self._writing_paused = False
        self._linger: asyncio.TimerHandle | None = None
        self._peer_address: Address = ("", 0)
        self._local_address: Address = ("", 0)

    # --- the stream ---------------------------------------------------------------------------------------------------

    @property
    def peer_address(self) -> Address:
        return self._peer_address

    @property
    def local_address(self) -> Address:
        return self._local_address

    @property
    def is_closing(self) -> bool:
        return self._closing or self._transport is None or self._transport.is_closing()

    @property
    def raw_socket(self) -> socket.socket | None:
        """The socket, for its options (`carriers.options`); asyncio gives a view of it that cannot do more."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def write(self, chunks: Sequence[Chunk]) -> None:
        transport = self._transport
        if transport is None or self.is_closing:
            return
        if len(chunks) == 1:
            transport.write(chunks[0])
            return
        group: list[Chunk] = []
        group_bytes = 0
        for chunk in chunks:
            group.append(chunk)
            group_bytes += len(chunk)
            if group_bytes >= JOINED_BYTES_MAX:
                _write_group(transport, group)
                group = []
                group_bytes = 0
        if group:
            _write_group(transport, group)

    def close(self) -> None:
        transport = self._transport
        if transport is None or self.is_closing:
            return
        self._closing = True
        if not transport.can_write_eof():
            transport.close()
        else:
            # Read on, and throw it away, until the peer has closed too: a socket that is closed with unread bytes in
            # it resets the connection, and what the system has not delivered yet is lost.
            try:
                transport.write_eof()
            except OSError:  # the peer has reset it already
                transport.abort()
            else:
                transport.resume_reading()
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # --- the protocol -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self._peer_address = address_of(transport.get_extra_info("peername"))
        self._local_address = address_of(transport.get_extra_info("sockname"))
        try:
            self._receiver = self._receiver_factory(self)
        except BaseException:
            transport.close()
            raise  # to the exception handler of the loop
        if self._writing_paused:  # before there was anybody to tell
            self._call_receiver(self._receiver.pause_writing)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        receiver = self._receiver
        if receiver is not None and not self._closing:
            receiver.data_received(self._view[:nbytes])

    def eof_received(self) -> None:
        # The receiver hears of it now, also when what we wrote cannot be flushed. asyncio then closes the transport.
        self.close()
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
        self._end(exc)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._receiver is not None:
            self._call_receiver(self._receiver.pause_writing)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._receiver is not None:
            self._call_receiver(self._receiver.resume_writing)

    def _call_receiver(self, call: Callable[[], None]) -> None:
        """asyncio reports what such a call raises, and goes on, in the middle of writing: the stream ends soon."""
        try:
            call()
        except BaseException:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.abort)
            raise

    def _end(self, exc: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(connection_error(self._peer_address, exc))


def stop_accepting(server: asyncio.Server) -> None:
    """Accept nothing more; close the server a turn of the loop later.

    A connection that was accepted in this turn becomes a transport in the next one, and for that asyncio needs the
    server still open: otherwise it drops the socket without closing it.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        # Loops that do not tell of descriptors, and uvloop, which has those of its servers to itself.
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.remove_reader(listening.fileno())


def _write_group(transport: asyncio.Transport, group: list[Chunk]) -> None:
    transport.write(group[0] if len(group) == 1 else b"".join(group))
