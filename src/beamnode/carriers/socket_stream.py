"""A stream over a socket of the system, driven by the loop's `add_reader` and `add_writer`: no transport in between.

In: one `recv_into` per readiness (more where large things arrive), into a buffer that all streams of a thread share,
and one call of the receiver, which gets a view of it. An idle stream holds no buffer. Out: `write` hands everything to
the system at once, in one `sendmsg`; what the system does not take waits as it is, neither joined nor copied, for the
socket to be writable.

All this is done by the loop's thread. One call is for another one, while the loop is blocked: `keep_alive`. So whatever
sends, keeps what was not sent, or closes, does it under a lock, of which the loop's thread finds that nobody has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic

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
from beamnode.errors import UsageError

# How much is read at a time follows from how long the receiver was busy with the last that was: a flood of small
# messages is taken in small portions, so that others on the same loop wait a little only, and something large in large
# ones. A turn of the loop goes on reading a stream only while all of it together took no time.
LEAST_READ_BYTES = 8 * 1024
FIRST_READ_BYTES = 16 * 1024
RECEIVE_BUFFER_BYTES = 256 * 1024
READS_PER_TURN = 8
BUSY_SECONDS = 0.0005  # then the next portion is half as large
IDLE_SECONDS = BUSY_SECONDS / 4  # below that the next one, in this turn, is twice as large

# A peer that sends one small message after the other has each of them wake this process, which costs both sides more
# than the message. So after so many reads within a millisecond that brought little and led to no answer, the stream is
# not read for two: 400,000 messages a second then come 800 at a time, not one or 20, and the peer, whose system tells
# it to wait for us now and then, sends many at a time as well. A stream of 10,000 a second is never kept waiting, nor
# are calls, which are answered. (docs/performance.md has the figures.)
STREAM_READS = 16
STREAM_SECONDS = 0.001
REST_SECONDS = 0.002
GATHERED_BYTES = 2048  # a rest was worth it if so much came meanwhile
LARGE_READ_BYTES = 64 * 1024  # no stream of small messages brings so much at once

# Neighbours below this are joined before they are written: 1000 of 40 bytes take 0.36 of the time of a `sendmsg` of all
# of them, 1000 of 256 bytes 0.6, of 1 KiB 1.0; above that, joining costs more.
SMALL_CHUNK_BYTES = 1024

CHUNKS_PER_CALL = 256  # of one `sendmsg`; the system's own limit (IOV_MAX) is 1024


class _ReceiveBuffer(threading.local):
    """What this thread receives into. A view of it is the receiver's until `data_received` returns."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_BUFFER_BYTES))


_received = _ReceiveBuffer()


class SocketStream:
    """`Stream` over a connected socket that does not block, which it owns from now on. Then call `open`, once.

    Its states: open; closing, asked for or because the peer has closed (nothing more is written, what arrives is thrown
    away); ended (the socket is closed). The receiver is told of the end in a later turn of the loop.
    """

    __slots__ = (
        "_closing",
        "_descriptor",
        "_ended",
        "_linger",
        "_local_address",
        "_loop",
        "_peer_address",
        "_peer_closed",
        "_read_bytes",
        "_reading_paused",
        "_receiver",
        "_resting",
        "_socket",
        "_stream_reads",
        "_stream_since",
        "_unsent",
        "_unsent_bytes",
        "_writing",
        "_writing_paused",
        "_wrote",
    )

    def __init__(self, connected: socket.socket, peer: object) -> None:
        """`peer` is the address that was dialled, or that the system gave with the accepted socket."""
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._descriptor = connected.fileno()
        self._peer_address = address_of(_asked(connected.getpeername) or peer)
        self._local_address = address_of(_asked(connected.getsockname))
        self._receiver: Receiver | None = None
        self._unsent: deque[Chunk] | None = None  # there while the socket takes no more
        self._unsent_bytes = 0
        self._writing = threading.RLock()  # that of a signal handler, too, which may write while this thread does
        self._linger: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._peer_closed = False
        self._read_bytes = FIRST_READ_BYTES
        self._stream_reads = 0
        self._stream_since = 0.0
        self._resting = False
        self._wrote = False
        self._closing = False
        self._ended = False

    def open(self, receiver_factory: ReceiverFactory) -> None:
        """Get the receiver; from now on it is served. Errors: UsageError where the loop cannot watch sockets."""
        try:
            watch(self._loop, self._descriptor, self._on_readable)
        except BaseException:
            self._socket.close()
            raise
        try:
            self._receiver = receiver_factory(self)
        except BaseException as error:
            self._fail(error, "the factory of a stream's receiver failed")
        self._maybe_pause_writing()

    # --- The stream ---------------------------------------------------------------------------------------------------

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
    def raw_socket(self) -> socket.socket | None:
        """The socket, for its options (`carriers.options`), nothing else; None after the end."""
        return None if self._ended else self._socket

    def write(self, chunks: Sequence[Chunk]) -> None:
        if self._closing:
            return
        if len(chunks) != 1 or not chunks[0]:
            chunks = _with_small_ones_joined(chunks)
            if not chunks:
                return
        writing = self._writing
        writing.acquire()  # `with` takes twice the time
        try:
            if self._unsent is None:
                self._send_at_once(chunks)
            else:
                self._unsent.extend(chunks)
                self._unsent_bytes += sum(map(len, chunks))
        except OSError as error:
            self._end(error)
        finally:
            writing.release()
        if self._unsent_bytes > WRITE_HIGH_BYTES:
            self._maybe_pause_writing()

    def close(self) -> None:
        if self._closing:
            return
        self._start_closing()
        if self._reading_paused:
            self._reading_paused = False
            if not self._resting:
                self._loop.add_reader(self._descriptor, self._on_readable)
        if self._unsent is None:
            self._finish_sending()

    def abort(self) -> None:
        self._end(None)

    def pause_reading(self) -> None:
        if not self._closing and not self._reading_paused:
            self._reading_paused = True
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        if not self._closing and self._reading_paused:
            self._reading_paused = False
            if not self._resting:
                self._loop.add_reader(self._descriptor, self._on_readable)

    # --- In -----------------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        started = monotonic()
        for _ in range(READS_PER_TURN):
            count = self._read(self._read_bytes)
            busy = monotonic() - started
            if busy >= BUSY_SECONDS:
                self._read_bytes = max(self._read_bytes // 2, LEAST_READ_BYTES)
            if self._reading_paused or self._ended:
                return
            if count < FIRST_READ_BYTES and count < self._read_bytes:
                self._rest_in_a_stream(started, count)
                return
            if count >= LARGE_READ_BYTES:
                self._stream_reads = 0
            if busy >= IDLE_SECONDS:
                return
            if count == self._read_bytes:
                self._read_bytes = min(self._read_bytes * 2, RECEIVE_BUFFER_BYTES)

    def _rest_in_a_stream(self, started: float, count: int) -> None:
        """All that was there is read. Where that goes on and on, and is not answered, let more of it gather."""
        if self._wrote:
            self._wrote = False
            self._stream_reads = 0
            return
        if not self._stream_reads:
            self._stream_since = started
        self._stream_reads += 1
        if self._stream_reads > STREAM_READS:  # the first after a rest
            goes_on = count >= GATHERED_BYTES
        elif self._stream_reads == STREAM_READS:
            goes_on = started - self._stream_since < STREAM_SECONDS
        else:
            return
        self._stream_reads = 0
        if goes_on:
            self._loop.remove_reader(self._descriptor)
            self._resting = True
            self._loop.call_later(REST_SECONDS, self._end_rest)

    def _end_rest(self) -> None:
        self._resting = False
        if not self._reading_paused and not self._ended and not self._peer_closed:
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._stream_reads = STREAM_READS
            self._on_readable()

    def _read(self, most: int) -> int:
        """Receive once, and hand it on; how many bytes it was."""
        view = _received.view
        try:
            count = self._socket.recv_into(view, most)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._end(error)
            return 0
        if not count:
            self._receive_end()
            return 0
        if not self._closing and self._receiver is not None:
            try:
                self._receiver.data_received(view[:count])
            except (KeyboardInterrupt, SystemExit):
                raise  # of a process that ran in this call: not this stream's end
            except BaseException as error:
                self._fail(error, "the receiver of a stream failed")
        return count

    def _receive_end(self) -> None:
        """The peer has closed. The receiver hears of it now, also when what we wrote cannot be flushed."""
        self._peer_closed = True
        if self._unsent is None:
            self._end(None)
            return
        self._loop.remove_reader(self._descriptor)
        if not self._closing:
            self._start_closing()
        self._loop.call_soon(self._tell_end, None)

    # --- Out ----------------------------------------------------------------------------------------------------------

    def _send_at_once(self, chunks: Sequence[Chunk]) -> None:
        """Nothing waits: try the socket first. What it does not take waits from now on."""
        self._wrote = True
        total = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
        sent = self._send(chunks)
        if sent < total:
            self._unsent = deque(chunks)
            self._unsent_bytes = total
            self._forget(sent)
            self._loop.add_writer(self._descriptor, self._on_writable)

    def _send(self, chunks: Sequence[Chunk]) -> int:
        """How many bytes the system took: 0 when it is full."""
        try:
            if len(chunks) == 1:
                return self._socket.send(chunks[0])
            return self._socket.sendmsg(chunks[:CHUNKS_PER_CALL])
        except (BlockingIOError, InterruptedError):
            return 0

    def _forget(self, sent: int) -> None:
        """Drop what was sent from the front of what waits. Of a chunk sent in part, a view of the rest stays."""
        unsent = self._unsent
        assert unsent is not None
        self._unsent_bytes -= sent
        while sent:
            first_bytes = len(unsent[0])
            if sent < first_bytes:
                unsent[0] = memoryview(unsent[0])[sent:]
                return
            sent -= first_bytes
            unsent.popleft()

    def _send_on(self) -> None:
        """What the system takes of what waits."""
        if self._unsent:
            self._forget(self._send(list(islice(self._unsent, CHUNKS_PER_CALL))))

    def _on_writable(self) -> None:
        try:
            with self._writing:
                self._send_on()
                if not self._unsent:
                    self._unsent = None
                    self._loop.remove_writer(self._descriptor)
        except OSError as error:
            self._end(error)
            return
        if self._closing and self._unsent is None:
            self._finish_sending()
        if self._writing_paused and self._unsent_bytes <= WRITE_LOW_BYTES:
            self._writing_paused = False
            if self._receiver is not None and not self._ended:
                self._call_receiver(self._receiver.resume_writing)

    def _maybe_pause_writing(self) -> None:
        if self._unsent_bytes > WRITE_HIGH_BYTES and not self._writing_paused and self._receiver is not None:
            self._writing_paused = True
            self._call_receiver(self._receiver.pause_writing)

    def keep_alive(self, sign: bytes) -> int:
        """For another thread, while the loop is blocked: give the peer a sign of life; how many bytes of it are new.

        Where bytes wait for the socket, those go on, in their order. Else `sign` goes, which stands between two calls
        of `write`. Does nothing while the loop's thread is writing, and where the socket takes nothing.
        """
        if not self._writing.acquire(blocking=False):
            return 0
        try:
            if self._closing:
                return 0
            if self._unsent:
                self._send_on()
                return 0
            sent = self._send([sign])
            if not sent:
                return 0
            if sent < len(sign):
                self._let_rest_wait(sign[sent:])
            return len(sign)
        except OSError:  # the loop will meet it too
            return 0
        finally:
            self._writing.release()

    def _let_rest_wait(self, rest: bytes) -> None:
        """Of a sign of which the system took a part only. (An empty `_unsent` has its writer already.)"""
        if self._unsent is None:
            self._unsent = deque()
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody will send anything
                self._loop.call_soon_threadsafe(self._watch_writable)
        self._unsent.append(rest)
        self._unsent_bytes += len(rest)

    def _watch_writable(self) -> None:
        if self._unsent is not None and not self._ended:
            self._loop.add_writer(self._descriptor, self._on_writable)

    def _call_receiver(self, call: Callable[[], None]) -> None:
        """Call it in the middle of something else, which goes on whatever the receiver raises."""
        try:
            call()
        except BaseException as error:
            self._fail(error, f"{call.__qualname__} failed")

    # --- The end ------------------------------------------------------------------------------------------------------

    def _start_closing(self) -> None:
        with self._writing:
            self._closing = True
        self._linger = self._loop.call_later(LINGER_SECONDS, self._end, None)

    def _finish_sending(self) -> None:
        """All is sent that ever will be: say so, then read on, and throw it away, until the peer has closed too.

        A socket that is closed with unread bytes in it resets the connection, and what the system has not delivered yet
        is lost.
        """
        if self._peer_closed:
            self._end(None)
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # the peer has reset it already
            self._end(None)

    def _end(self, cause: BaseException | None) -> None:
        """Close the socket now, and tell the receiver soon. Once more: nothing."""
        if self._ended:
            return
        with self._writing:  # else the other thread might send into whatever gets this descriptor next
            self._ended = self._closing = True
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            try:
                self._loop.remove_reader(self._descriptor)
                self._loop.remove_writer(self._descriptor)
            finally:
                self._socket.close()
            self._unsent = None
            self._unsent_bytes = 0
        self._loop.call_soon(self._tell_end, cause)

    def _fail(self, error: BaseException, what: str) -> None:
        """End because of an error of the receiver's side, which the exception handler of the loop is told."""
        self._end(error)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise error
        self._loop.call_exception_handler({"message": what, "exception": error})

    def _tell_end(self, cause: BaseException | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(connection_error(self._peer_address, cause))


def _asked(name: Callable[[], object]) -> object:
    """An address; None when the peer is gone already, which the stream will tell."""
    try:
        return name()
    except OSError:
        return None


def watch(loop: asyncio.AbstractEventLoop, descriptor: int, on_readable: Callable[[], None]) -> None:
    """`loop.add_reader`. Errors: UsageError where the loop has no such thing (asyncio's on Windows)."""
    try:
        loop.add_reader(descriptor, on_readable)
    except NotImplementedError:
        raise UsageError(
            f"{type(loop).__name__} cannot watch sockets, which beamnode needs: "
            "run on asyncio.SelectorEventLoop or on uvloop"
        ) from None


def _with_small_ones_joined(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The same bytes in fewer chunks, none of them empty: neighbours below `SMALL_CHUNK_BYTES` become one."""
    fewer: list[Chunk] = []
    small: list[Chunk] = []
    for chunk in chunks:
        if len(chunk) < SMALL_CHUNK_BYTES:
            small.append(chunk)
            continue
        if small and (joined := b"".join(small)):
            fewer.append(joined)
        small.clear()
        fewer.append(chunk)
    if small and (joined := b"".join(small)):
        fewer.append(joined)
    return fewer
