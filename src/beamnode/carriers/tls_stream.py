"""TLS over any stream: to its receiver a `Stream`, to the stream below a `Receiver`.

OpenSSL works on two buffers in memory (`ssl.MemoryBIO`): what comes from below goes into one, what is to go below comes
out of the other. So there is one way to read, write, hold back and close sockets, that of the stream below.

In: everything that one call brought is decrypted into a buffer that all streams of a thread share, and handed on in one
call. Out: small writes become one record at once. Of large ones as much is encrypted as the stream below takes; the
rest waits as it is, so that a peer that reads slowly costs no time either.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from beamnode.carriers.base import (
    LINGER_SECONDS,
    WRITE_HIGH_BYTES,
    Address,
    Chunk,
    Receiver,
    ReceiverFactory,
    Stream,
)
from beamnode.carriers.texts import format_address
from beamnode.carriers.tls_texts import closed_after_handshake, closed_in_handshake, failure, no_tls
from beamnode.errors import NetworkError, TlsError

log = logging.getLogger("beamnode.connection")

RECORD_BYTES: Final = 16 * 1024  # of one record of TLS, at most
DECRYPTED_BYTES: Final = 256 * 1024  # handed on in one call, at most
ENCRYPTED_BYTES: Final = 64 * 1024  # handed down in one call, about
ENCRYPTED_IN_A_TURN_BYTES: Final = 1024 * 1024  # then others have their turn of the loop

_UNEXPECTED_MESSAGE: Final = b"\x15\x03\x03\0\x02\x02\x0a"  # the alert: a node over plain TCP knows it for TLS
_TLS_BEGINS_WITH: Final = b"\x16\x15"  # a record of the handshake, or an alert


class _DecryptedBuffer(threading.local):
    """What this thread decrypts into. A view of it is the receiver's until `data_received` returns."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(DECRYPTED_BYTES))


_decrypted = _DecryptedBuffer()


class Side(Protocol):
    """What one end of TLS is told by its carrier."""

    @property
    def is_server(self) -> bool: ...

    def start(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """A new connection, on the certificates as they are now."""

    def refusal_of_peer(self, connection: ssl.SSLObject) -> str | None:
        """What is wrong with a peer whose handshake OpenSSL is content with; None: nothing."""

    def refusal_of_name(self, connection: ssl.SSLObject, node: str) -> str | None:
        """Why the peer cannot be the node of this name; None: it can."""

    def silent_end(self, peer: Address) -> None:
        """The peer has gone after the handshake, and has said nothing."""


class TlsStream:
    """One end of a TLS connection. Make it as the receiver of the stream below.

    The factory gives the receiver at once where a connection was accepted, so that whoever counts and times what is not
    a node yet counts and times this, too; and after the handshake where one was dialled: then `ready` is settled.
    """

    __slots__ = (
        "_begun",
        "_below",
        "_below_is_full",
        "_closing",
        "_error",
        "_factory",
        "_handshaking",
        "_has_received",
        "_incoming",
        "_linger",
        "_loop",
        "_outgoing",
        "_peer_closed",
        "_reading_paused",
        "_receiver",
        "_sending_later",
        "_side",
        "_tls",
        "_unsent",
        "_unsent_bytes",
        "_woken",
        "_writing_paused",
        "ready",
    )

    def __init__(self, below: Stream, side: Side, factory: ReceiverFactory) -> None:
        self._loop = asyncio.get_running_loop()
        self._below = below
        self._side = side
        self._factory = factory
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None  # of an acceptor: from the peer's first byte on, nothing before
        self._receiver: Receiver | None = None
        self._begun = False
        self._handshaking = True
        self._has_received = False
        self._unsent: deque[Chunk] = deque()  # not encrypted yet
        self._unsent_bytes = 0
        self._below_is_full = False
        self._writing_paused = False
        self._reading_paused = False
        self._woken = False  # `_go_on_receiving` will be called
        self._sending_later = False
        self._peer_closed = False
        self._closing = False
        self._error: NetworkError | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.ready: asyncio.Future[None] | None = None
        if side.is_server:
            self._receiver = factory(self)
            self._maybe_pause_writing()
        else:
            self.ready = self._loop.create_future()
            try:
                self._tls = side.start(self._incoming, self._outgoing)
            except ValueError as error:  # a host name that cannot be one
                self._fail(failure(self.peer_address, error, dialled=True))
            else:
                self._shake_hands()

    # --- The stream ---------------------------------------------------------------------------------------------------

    @property
    def peer_address(self) -> Address:
        return self._below.peer_address

    @property
    def local_address(self) -> Address:
        return self._below.local_address

    @property
    def is_closing(self) -> bool:
        return self._closing or self._below.is_closing

    @property
    def raw_socket(self) -> socket.socket | None:
        """The socket at the bottom, for its options (`carriers.options`), nothing else."""
        return getattr(self._below, "raw_socket", None)

    def refusal(self, node: str) -> str | None:
        """Why the peer, by its certificate, cannot be the node of this name; None: it can."""
        return "its TLS handshake is not done" if self._tls is None else self._side.refusal_of_name(self._tls, node)

    def write(self, chunks: Sequence[Chunk]) -> None:
        if self._closing:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks) if sum(map(len, chunks)) <= RECORD_BYTES else None
        if data is not None and len(data) <= RECORD_BYTES and self._may_send_at_once:
            if data:
                self._send_at_once(data)
        else:
            chunks = [chunk for chunk in chunks if chunk]
            self._unsent.extend(chunks)
            self._unsent_bytes += sum(map(len, chunks))
            if not self._sending_later:
                self._send_unsent()
        if self._below_is_full or self._unsent_bytes:
            self._maybe_pause_writing()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._linger = self._loop.call_later(LINGER_SECONDS, self.abort)
        if self._reading_paused:
            self._reading_paused = False
            self._below.resume_reading()
        if not self._unsent:
            self._finish_sending()

    def abort(self) -> None:
        if self._handshaking and not self._below.is_closing:
            log.debug("gave up the TLS handshake with %s before it was done", format_address(self.peer_address))
        self._closing = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._below.abort()

    def pause_reading(self) -> None:
        if not self._closing and not self._reading_paused:
            self._reading_paused = True
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if not self._closing and self._reading_paused:
            self._reading_paused = False
            if self._tls is not None and self._has_more:
                self._wake()  # what waits here comes before what waits below
            else:
                self._below.resume_reading()

    # --- The receiver of the stream below -----------------------------------------------------------------------------

    def data_received(self, data: bytes | memoryview) -> None:
        if self._closing and not (self._handshaking and self._unsent):
            return
        if not self._begun and not self._begin(data):
            return
        self._incoming.write(data)
        if self._handshaking:
            self._shake_hands()
        if not self._handshaking:
            self._receive()

    def pause_writing(self) -> None:
        self._below_is_full = True

    def resume_writing(self) -> None:
        self._below_is_full = False
        self._send_unsent()

    def connection_lost(self, error: NetworkError | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._note_silent_end()
        if self._error is None and not self._closing:
            self._error = self._meaning_of_end(error)
        self._closing = True
        self._unsent.clear()
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(self._error or error or NetworkError("the connection was closed"))
        self._tell_end(self._error or error)

    def _meaning_of_end(self, error: NetworkError | None) -> NetworkError | None:
        """What to say of an end that no alert has announced."""
        dialled = not self._side.is_server
        if self._handshaking and self._tls is not None:
            return closed_in_handshake(self.peer_address, error, dialled=dialled)
        if error is not None and dialled and not self._has_received:
            return closed_after_handshake(self.peer_address, error)
        return error

    def _note_silent_end(self) -> None:
        """A peer that has dialled and leaves without a word: a client that checks this node last, as this library."""
        if not self._handshaking and not self._has_received and not self._closing:
            self._side.silent_end(self.peer_address)

    def _tell_end(self, error: NetworkError | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(error)

    # --- The handshake ------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes | memoryview) -> bool:
        """The peer's first bytes. Who has dialled and says nothing has cost nothing until now."""
        self._begun = True
        if data[0] not in _TLS_BEGINS_WITH:
            self._below.write([_UNEXPECTED_MESSAGE])
            self._fail(no_tls(self.peer_address, bytes(data[:64])))
            return False
        if self._tls is None:
            self._tls = self._side.start(self._incoming, self._outgoing)
        return True

    def _shake_hands(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert, which tells the peer
            self._fail(failure(self.peer_address, error, dialled=not self._side.is_server))
            return
        self._flush()
        refusal = self._side.refusal_of_peer(self._tls)
        if refusal is not None:
            self._fail(TlsError(f"TLS with {format_address(self.peer_address)}: {refusal}"))
            return
        self._handshaking = False
        try:
            if self.ready is not None:
                self._receiver = self._factory(self)
                self._maybe_pause_writing()
        finally:
            if self.ready is not None and not self.ready.done():
                self.ready.set_result(None)
        self._send_unsent()

    def _fail(self, error: NetworkError) -> None:
        """Close, so that the peer has a chance to read the alert; who waits for the handshake hears of it now."""
        self._error = error
        self._closing = True
        self._unsent.clear()
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(error)
        self._below.close()

    # --- In -----------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Decrypt what is there, and hand it on."""
        try:
            while self._has_more and not self._reading_paused and not self._closing:
                error: ssl.SSLError | None = None
                view = _decrypted.view
                count = 0
                try:
                    count, error = self._read_records(view)
                finally:
                    self._flush()
                if count and self._receiver is not None:
                    self._has_received = True
                    self._receiver.data_received(view[:count])
                if error is not None:
                    self._break(error)
                elif self._peer_closed:
                    self._receive_end()
                elif not count:
                    break
            if self._unsent:
                self._send_unsent()  # it may have waited for new keys, which what came has brought
        finally:
            if self._has_more and not self._reading_paused and not self._closing:
                self._wake()  # a process that ran in the receiver's call ended this one

    @property
    def _has_more(self) -> bool:
        assert self._tls is not None
        return bool(self._incoming.pending or self._tls.pending())

    def _read_records(self, view: memoryview) -> tuple[int, ssl.SSLError | None]:
        """How many bytes were decrypted, and what then went wrong."""
        tls, incoming = self._tls, self._incoming
        assert tls is not None
        read: Callable[[int, memoryview], int] = cast(Any, tls.read)
        count = 0
        try:
            while count <= DECRYPTED_BYTES - RECORD_BYTES and (incoming.pending or tls.pending()):
                more = read(RECORD_BYTES, view[count:] if count else view)
                if not more:
                    self._peer_closed = True
                    break
                count += more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return count, error
        return count, None

    def _wake(self) -> None:
        """Go on with what was decrypted, or could be, in a later turn: now something else is at work."""
        if not self._woken and not self._handshaking:
            self._woken = True
            self._loop.call_soon(self._go_on_receiving)

    def _go_on_receiving(self) -> None:
        self._woken = False
        if self.is_closing or self._reading_paused:
            return
        try:
            self._receive()
            if not self._reading_paused:
                self._below.resume_reading()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.abort()
            self._loop.call_exception_handler({"message": "the receiver of a stream failed", "exception": error})

    def _receive_end(self) -> None:
        """The peer has said that it sends no more. The receiver hears of it now; see `SocketStream`."""
        self._note_silent_end()
        if not self._closing:
            self._closing = True
            self._unsent.clear()
            self._finish_sending()
        self._loop.call_soon(self._tell_end, None)

    def _break(self, error: ssl.SSLError) -> None:
        """Bytes that are no TLS, or an alert of the peer."""
        if self._closing:
            return
        self._error = failure(
            self.peer_address, error, dialled=not self._side.is_server, established=self._has_received
        )
        self.abort()

    # --- Out ----------------------------------------------------------------------------------------------------------

    @property
    def _may_send_at_once(self) -> bool:
        return not self._unsent and not self._handshaking and not self._below_is_full

    def _send_at_once(self, data: Chunk) -> None:
        assert self._tls is not None
        try:
            sent = self._tls.write(data)
        except ssl.SSLWantReadError:  # the keys are being renewed
            sent = 0
        except ssl.SSLError as error:
            self._break(error)
            return
        self._below.write([self._outgoing.read()])
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._unsent_bytes = len(data) - sent

    def _send_unsent(self) -> None:
        """Encrypt and hand down what waits, until the stream below is full."""
        if self._handshaking or (self._closing and not self._unsent):
            return
        budget = ENCRYPTED_IN_A_TURN_BYTES
        while self._unsent and not self._below_is_full and not self._below.is_closing:
            if budget <= 0:
                self._send_later()
                return
            sent = self._encrypt_some()
            self._flush()
            if not sent:
                return
            budget -= sent
        if self._unsent:
            return
        if self._closing:
            self._finish_sending()
        elif self._writing_paused and not self._below_is_full:
            self._writing_paused = False
            if self._receiver is not None:
                self._call_receiver(self._receiver.resume_writing)

    def _send_later(self) -> None:
        if not self._sending_later:
            self._sending_later = True
            self._loop.call_soon(self._go_on_sending)

    def _go_on_sending(self) -> None:
        self._sending_later = False
        self._send_unsent()

    def _encrypt_some(self) -> int:
        """Move about `ENCRYPTED_BYTES` of what waits into `_outgoing`; how many it was."""
        unsent, tls = self._unsent, self._tls
        assert tls is not None
        taken: list[Chunk] = []
        taken_bytes = 0
        while unsent and taken_bytes < ENCRYPTED_BYTES:
            chunk = unsent.popleft()
            room = ENCRYPTED_BYTES - taken_bytes
            if len(chunk) > room:
                unsent.appendleft(memoryview(chunk)[room:])
                chunk = memoryview(chunk)[:room]
            taken.append(chunk)
            taken_bytes += len(chunk)
        data = memoryview(taken[0] if len(taken) == 1 else b"".join(taken))
        sent = 0
        try:
            while sent < taken_bytes:
                sent += tls.write(data[sent:])
        except ssl.SSLWantReadError:
            unsent.appendleft(data[sent:])
        except ssl.SSLError as error:
            self._break(error)
            return 0
        self._unsent_bytes -= sent
        return sent

    def _flush(self) -> None:
        """Hand down what OpenSSL has to say."""
        if self._outgoing.pending:
            self._below.write([self._outgoing.read()])

    def _maybe_pause_writing(self) -> None:
        is_full = self._below_is_full or self._unsent_bytes > WRITE_HIGH_BYTES
        if is_full and not self._writing_paused and not self._closing and self._receiver is not None:
            self._writing_paused = True
            self._call_receiver(self._receiver.pause_writing)

    def _call_receiver(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (KeyboardInterrupt, SystemExit):
            self.abort()
            raise
        except BaseException as error:
            self.abort()
            self._loop.call_exception_handler({"message": f"{call.__qualname__} failed", "exception": error})

    def _finish_sending(self) -> None:
        """All is sent that ever will be: say so, and close what is below."""
        if self._tls is not None and not self._handshaking:
            with contextlib.suppress(ssl.SSLError):  # it would also wait for the peer's word, which nobody needs
                self._tls.unwrap()
            self._flush()
        self._below.close()
