"""The channel: an established connection without the connection. Bytes to control records, records to bytes, ticks.

    frame -> distribution header (atoms) -> control tuple, payload -> record        and back

What stands before the terms depends on what the two nodes negotiated:

- DIST_HDR_ATOM_CACHE or FRAGMENTS: a header, `131, 68`; without the atom cache it lists no atoms;
- FRAGMENTS: messages above 64 KiB in pieces, `131, 69` and `131, 70`;
- neither: `p`, then each term as it is on its own, with its version byte ("pass through").

As in OTP each node keeps to the form that was negotiated: another one closes the connection (WIRE.md, fact 5), and so
does a term that cannot be decoded. What follows the last term of a message is ignored, as OTP 25, 27 and 29 do.

The two halves are `inbound.py` and `outbound.py`, or the compiled ones where this installation has them
(`halves.py`).
"""

from __future__ import annotations

from beamnode.errors import PeerError
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire.control import Record
from beamnode.wire.flags import Flag
from beamnode.wire.halves import HALVES, chosen
from beamnode.wire.inbox import Inbox
from beamnode.wire.outbound import Chunk
from beamnode.wire.ticks import Ticker


class Channel:
    """One established connection, from just after the handshake until it is closed.

    Hand in all that arrives: `receive_data`, and ask for records until there is none (`next_event`); or, for a node,
    `deliver`. `send` records, or messages by `outbound`, and write what `data_to_send` gives. Call `handle_deadline` at
    `next_deadline()`. A PeerError or NetTickTimeout from any of them means: close the connection.

    `flags` are those that both nodes have. Whether the peer is visible is among them, unless `peer_published` says it.
    `net_ticktime` is in seconds of the clock of `now`.
    """

    def __init__(
        self,
        flags: Flag,
        *,
        net_ticktime: float = 60.0,
        net_tickintensity: int = 4,
        peer_published: bool | None = None,
        now: float,
        strings: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.flags = flags
        published = bool(flags & Flag.PUBLISHED) if peer_published is None else peer_published
        self.ticker = Ticker(net_ticktime, net_tickintensity, peer_published=published, now=now)
        inbound, outbound = HALVES[chosen]
        self._inbound = inbound(int(flags), strings=strings, limits=limits)
        self.outbound = outbound(int(flags))
        self._broken: PeerError | None = None

    # --- In -----------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take bytes from the peer; then call `next_event` until it gives None, or `deliver`.

        Raises once the channel is broken. What is kept of `data` is copied by then.
        """
        if self._broken is not None:
            raise self._broken
        self.ticker.bytes_in += len(data)
        self._inbound.receive_data(data)

    def next_event(self) -> Record | None:
        """The next record, decoded only now, or None until more has arrived.

        Raises a PeerError when the peer broke the protocol or a limit; from then on every call does.
        """
        if self._broken is not None:
            raise self._broken
        try:
            return self._inbound.next_record()
        except PeerError as error:
            self._broken = error
            raise

    def deliver(self, data: bytes | bytearray | memoryview, inbox: Inbox) -> None:
        """Take bytes from the peer, and hand over everything that is whole by now: the same, in one pass.

        Raises as `next_event` does, after what came before; and whatever the inbox raises.
        """
        if self._broken is not None:
            raise self._broken
        self.ticker.bytes_in += len(data)
        try:
            self._inbound.deliver(data, inbox)
        except PeerError as error:
            self._broken = error
            raise

    # --- Out ----------------------------------------------------------------------------------------------------------

    def send(self, record: Record) -> None:
        """Encode a record and queue it for `data_to_send`; one that the peer does not know of is dropped, as OTP does.

        (`control.is_known_to` says beforehand which.) Raises EncodeError for what has no term or is too large for a
        frame; then nothing is queued and the channel is as it was.
        """
        self.outbound.send(record)

    def data_to_send(self) -> list[Chunk]:
        """What to write now, in order; the channel forgets it. The chunks are the caller's."""
        return self.outbound.data_to_send()

    @property
    def pending_bytes(self) -> int:
        """What `data_to_send` would give now."""
        return self.outbound.pending_bytes

    # --- Time ---------------------------------------------------------------------------------------------------------

    def counters(self) -> tuple[int, int]:
        """Bytes received and sent so far."""
        return self.ticker.bytes_in, self.outbound.bytes_written

    @property
    def frames_read(self) -> int:
        """How many came so far that were no ticks: signals, or pieces of them."""
        return self._inbound.frames_read

    def next_deadline(self) -> float:
        """When to call `handle_deadline`, on the clock of `now`."""
        return self.ticker.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Queue a tick if one is due: write `data_to_send`. Raises NetTickTimeout when the peer was silent too long."""
        self.ticker.packets_out = self.outbound.frames_written
        if self.ticker.handle_deadline(now):
            self.tick()

    def excuse_silence(self) -> None:
        """Nothing came because nothing was read, which is no fault of the peer's: it counts as if it had."""
        self.ticker.excuse_silence()

    def tick(self) -> None:
        """Queue a tick that is not due, but shall be seen: write `data_to_send`."""
        self.outbound.tick()

    def set_ticktime(self, net_ticktime: float, net_tickintensity: int, now: float) -> None:
        """Change the tick time of a live connection (see `Ticker.set_ticktime`)."""
        self.ticker.set_ticktime(net_ticktime, net_tickintensity, now)
