"""Frames: each message of an established connection behind its length, four bytes, big end first; length 0 is a tick.

The reader cuts frames out of whatever pieces the carrier delivers, without moving bytes: a frame is told by its place
in a buffer. Pieces of a frame that is still arriving are kept as they came and joined once, when it is whole.

Source: erl_dist_protocol, "Protocol between Connected Nodes".
"""

from __future__ import annotations

from typing import Final, TypeAlias

from beamnode.errors import LimitExceeded
from beamnode.limits import DEFAULT_LIMITS, Limits

LENGTH_BYTES: Final = 4
TICK: Final = bytes(LENGTH_BYTES)

_SMALL_PIECE_BYTES: Final = 4096  # pieces below this are gathered, so that a byte a piece costs a byte
_GATHERED_BYTES: Final = 65536

Place: TypeAlias = tuple[bytes, int, int]
"""A frame: a buffer, where the frame's first byte is in it, and the place after its last. A tick has none."""


class FrameReader:
    """Bytes in pieces of any size in, frames out: `receive_data(piece)`, then `next_frame()` until it gives None.

    Holds what has arrived and nothing more: a length is never allocated for, and one above `frame_bytes_max` raises
    LimitExceeded as soon as its four bytes are there.
    """

    __slots__ = ("_at", "_buffer", "_later", "_later_bytes", "_limit_bytes", "_wanted_bytes")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limit_bytes = limits.frame_bytes_max
        self._buffer = b""
        self._at = 0  # where the next frame's length begins in the buffer
        self._later: list[bytes | bytearray] = []  # pieces that belong after the buffer
        self._later_bytes = 0
        self._wanted_bytes = 0  # what the next frame needs, counted from `_at`: not worth a look before

    @property
    def held_bytes(self) -> int:
        """What has arrived and was not given out."""
        return len(self._buffer) - self._at + self._later_bytes

    def receive_data(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream. `bytes` are kept as they are, anything else is copied."""
        if self._at == len(self._buffer) and not self._later:
            self._buffer = piece if type(piece) is bytes else bytes(piece)
            self._at = 0
            return
        later = self._later
        self._later_bytes += len(piece)
        if len(piece) >= _SMALL_PIECE_BYTES:
            later.append(piece if type(piece) is bytes else bytes(piece))
        elif later and type(later[-1]) is bytearray and len(later[-1]) < _GATHERED_BYTES:
            later[-1] += piece
        else:
            later.append(bytearray(piece))

    def next_frame(self) -> Place | None:
        """The next whole frame, or None until more has arrived. A tick is a frame without bytes: start == end."""
        while True:
            buffer = self._buffer
            start = self._at + LENGTH_BYTES
            if start <= len(buffer):
                length = int.from_bytes(buffer[self._at : start])
                if length > self._limit_bytes:
                    raise LimitExceeded(
                        f"a frame of {length} bytes, more than frame_bytes_max allows: {self._limit_bytes}",
                        limit="frame_bytes_max",
                    )
                end = start + length
                if end <= len(buffer):
                    self._at = end
                    return buffer, start, end
                self._wanted_bytes = LENGTH_BYTES + length
            else:
                self._wanted_bytes = LENGTH_BYTES
            if not self._later or self.held_bytes < self._wanted_bytes:
                self._keep_tail()
                return None
            self._join()

    def _join(self) -> None:
        """Make one buffer of what is left of the current one and all the pieces after it."""
        self._buffer = b"".join((memoryview(self._buffer)[self._at :], *self._later))
        self._at = 0
        self._later.clear()
        self._later_bytes = 0

    def _keep_tail(self) -> None:
        """Let go of the frames that were given out: keep of the buffer only the beginning of the next."""
        if self._at:
            self._buffer = self._buffer[self._at :]
            self._at = 0
