"""The contract of carriers: how bytes travel between two nodes. TCP is one, memory another; yours fits in one file.

A `Carrier` listens and dials. Both end in a `Stream`, an ordered two-way pipe of bytes, joined to a `Receiver`, which
is yours. Everything is driven by callbacks: no task and no future belongs to a message.

    receiver.data_received(data)      bytes arrived, in order, in pieces of any size; they are yours until it returns
    receiver.pause_writing()          the peer reads slower than we write: hold back, or memory grows
    receiver.resume_writing()         room again
    receiver.connection_lost(error)   the end; called exactly once, and nothing is called after it

    stream.write(chunks)              after the end it does nothing
    stream.close()                    what was written still goes out (for `LINGER_SECONDS` at most), then the end
    stream.abort()                    what was not sent yet is thrown away; the end follows

The order of things: the carrier makes the stream, calls your factory with it, and only then may call the receiver it
got. The factory may write, close or abort at once. After its own `close` or `abort`, or while it has reading paused, a
receiver gets no data. When the peer closes, or shuts down its sending half, that is the end too: a node that cannot
speak is gone.

A receiver is called from the event loop only, in its thread, never from inside a call of its stream, except that
`pause_writing` may come from inside `write`. An exception that leaves a receiver (or the factory) ends its stream, and
is reported to the event loop's exception handler: neither `write` nor `dial` raises it.

What a new carrier owes besides: it maps the errors of the system to `NetworkError` (or `NodeNotFound`: no such host or
node) with a text that names the place and the cause, and it passes `beamnode.testing.carrier_contract`.
docs/carriers.md writes one.

What a node looks at where it is there, and does without elsewhere:

    stream.raw_socket          the socket of the system, whose options `net_kernel:setopts/2` sets
    stream.refusal(name)       why the peer cannot be the node of this name, as its certificate says; None: it can
    stream.keep_alive(sign)    a sign of life, from another thread, while the loop is blocked; see `SocketStream`, which
                               relies on each `write` bringing whole frames. Without it a node falls silent meanwhile
    carrier.family             a `socket.AddressFamily`, which epmd is told
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from beamnode.errors import NetworkError

Address: TypeAlias = tuple[str, int]
"""Host, as numbers where the carrier knows them, and port. Or the place, and 0: `("/run/nodes/a@h", 0)`, `("", 0)`."""

Chunk: TypeAlias = bytes | bytearray | memoryview
"""One piece of what is to be written. The carrier may keep it: do not change it after `write`."""

WRITE_HIGH_BYTES = 1024 * 1024
"""Unsent bytes above which a stream calls `pause_writing` (OTP: `dist_buf_busy_limit`, 1 MiB)."""

WRITE_LOW_BYTES = WRITE_HIGH_BYTES // 4
"""Unsent bytes at which it calls `resume_writing`."""

LINGER_SECONDS = 5.0
"""How long `close` may go on sending what was written before."""


class Receiver(Protocol):
    """What a stream calls. Implemented by whoever uses the stream."""

    def data_received(self, data: bytes | memoryview) -> None:
        """Take the next bytes. They are valid until this returns: copy what you keep."""

    def connection_lost(self, error: NetworkError | None) -> None:
        """Learn of the end: `None` after a close of either side or an abort of this one, else what broke it."""

    def pause_writing(self) -> None:
        """Hold back: more than `WRITE_HIGH_BYTES` are unsent. What is written all the same is kept, in memory."""

    def resume_writing(self) -> None:
        """Go on: at most `WRITE_LOW_BYTES` are unsent."""


class Stream(Protocol):
    """One connection: an ordered pipe of bytes each way."""

    @property
    def peer_address(self) -> Address:
        """The address of the other end, for people; known from the start, and still after the end."""

    @property
    def local_address(self) -> Address:
        """The address of this end."""

    @property
    def is_closing(self) -> bool:
        """Whether the end has come or has been asked for: nothing that is written now will be sent."""

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Send the chunks in order. Call it once per turn of the loop with everything: it makes few system calls."""

    def close(self) -> None:
        """Send what was written, then end. Wait for `connection_lost`. Once more, or after the end: nothing."""

    def abort(self) -> None:
        """End now. Wait for `connection_lost`. Once more, or after the end: nothing."""

    def pause_reading(self) -> None:
        """Stop calling `data_received`, so that the peer comes to a halt. An end may go unnoticed meanwhile."""

    def resume_reading(self) -> None:
        """Call `data_received` again. That, or pausing, once more: nothing."""


ReceiverFactory: TypeAlias = Callable[[Stream], Receiver]
"""Gives the receiver of a new stream."""


class Listener(Protocol):
    """A place where connections are accepted."""

    @property
    def port(self) -> int:
        """The port, which is what epmd is told; 0 of a carrier that goes by name."""

    @property
    def address(self) -> Address:
        """Where it listens; the host may be that of "every interface"."""

    async def close(self) -> None:
        """Accept no more; the place is free when this returns. Streams accepted before live on. Once more: nothing."""


class Carrier(Protocol):
    """A way to carry bytes: it listens and dials. Holds options only, no connection: nodes may share one."""

    @property
    def name(self) -> str:
        """The word for it in options and in `net_address`: "tcp", "tls", ..."""

    @property
    def handshake_length_bytes(self) -> int:
        """Size of the length before each frame of the handshake: 2, but 4 on TLS (WIRE.md 2.0)."""

    @property
    def by_name(self) -> bool:
        """Whether a node's name alone says where it is: then nobody is asked for its port, which is 0."""

    async def listen(self, accept: ReceiverFactory, *, node: str = "") -> Listener:
        """Accept connections from now on, each with the receiver that `accept` gives.

        Raises `NetworkError`, or `NameTakenError` when a node of that name is there already.

        `node` is the name of the node that listens, for carriers that make a place or a certificate of it.
        """

    async def dial(
        self, host: str, port: int, receiver_factory: ReceiverFactory, *, timeout: float, node: str = ""
    ) -> Stream:
        """Connect, within `timeout` seconds, to `host` and `port`, or with `by_name` to where `node` is.

        `node` is the name of the node that is meant, for carriers that find it by that, or check who answers.

        Raises `NodeNotFound` when there is no such host or node, `SetupTimeout` when the time is over, else
        `NetworkError`. Then, and when it is cancelled, nothing is left: a receiver that it got is told of the end.
        """
