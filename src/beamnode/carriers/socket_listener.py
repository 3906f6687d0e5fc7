"""A listening socket of the system whose connections become `SocketStream`s."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from beamnode.carriers.base import Address, ReceiverFactory
from beamnode.carriers.socket_stream import SocketStream, watch
from beamnode.carriers.texts import address_of

BACKLOG = 128  # as OTP

RETRY_SECONDS = 1.0  # how long nothing is accepted once the system has no room for another socket (asyncio: the same)

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NOTHING_THERE = (BlockingIOError, InterruptedError, ConnectionAbortedError)


class SocketListener:
    """Accepts from a socket that listens and does not block, which it owns from now on.

    `prepare` is called with each accepted socket, to set its options.
    """

    def __init__(
        self, listening: socket.socket, accept: ReceiverFactory, prepare: Callable[[socket.socket], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self._accept = accept
        self._prepare = prepare
        self._address = address_of(listening.getsockname())
        self._retry: asyncio.TimerHandle | None = None
        watch(self._loop, listening.fileno(), self._on_readable)

    @property
    def port(self) -> int:
        return self._address[1]

    @property
    def address(self) -> Address:
        return self._address

    async def close(self) -> None:
        """Accept no more; the port is free when this returns. Once more: nothing."""
        if self._socket.fileno() < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _on_readable(self) -> None:
        """Accept what waits, but no more than fits in the backlog: then it is the turn of others."""
        for _ in range(BACKLOG):
            if self._socket.fileno() < 0:  # a factory has closed it
                return
            try:
                connected, peer = self._socket.accept()
            except _NOTHING_THERE:
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise  # to the exception handler of the loop
                self._pause(error)
                return
            connected.setblocking(False)
            self._prepare(connected)
            SocketStream(connected, peer or self._address).open(self._accept)

    def _pause(self, error: OSError) -> None:
        """The system would go on telling of a connection that cannot be accepted: look again in a while."""
        self._loop.call_exception_handler(
            {"message": f"no connection accepted for {RETRY_SECONDS:g} s: no room for its socket", "exception": error}
        )
        self._loop.remove_reader(self._socket.fileno())
        self._retry = self._loop.call_later(RETRY_SECONDS, watch, self._loop, self._socket.fileno(), self._on_readable)
