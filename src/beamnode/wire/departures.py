"""What waits to leave, and in which order: small messages pass the rest of large ones.

A large message leaves in fragments. The first, whose header introduces atoms to the peer's cache, is queued in its
place among all others. The rest has no header: it waits in the lane of its sender, and lanes take turns with each other
and with everything else. Signals between two processes keep their order, so whatever a process sends while it has a
lane goes behind what is in there, with its atoms spelled out: by the time it leaves, the cache has moved on. A signal
of which nobody can tell the sender goes behind all lanes.

Source: OTP does the same by suspending a sender in the middle of its message (erts dist.c `erts_dsig_send`,
ERTS_DSIG_SEND_PHASE_SEND), which here goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from beamnode.etf.terms import Pid

LANES_MAX: Final = 256  # messages of which the peer has a part; one more is sent whole. (Ours takes 4096 at a time.)

Chunk: TypeAlias = bytes | bytearray | memoryview


class Lane:
    """What one sender has in the queue since its large message: frames, in order."""

    __slots__ = ("frames", "sender")

    def __init__(self, sender: Pid) -> None:
        self.sender = sender
        self.frames: deque[tuple[Sequence[Chunk], int]] = deque()  # each with its size in bytes


class Lanes:
    """The lanes of one connection. A lane is there from the large message on until its last frame has left."""

    __slots__ = ("_begun", "_turns", "bytes_written", "frames_written", "open", "waiting_bytes")

    def __init__(self) -> None:
        self.open: dict[Pid, Lane] = {}  # by sender
        self.waiting_bytes = 0  # in all lanes
        self.frames_written = 0  # frames that have left, and what they take
        self.bytes_written = 0
        self._begun: list[Lane] = []  # whose first fragment is still in the outbound half
        self._turns: deque[Lane] = deque()  # whose first fragment has left: the next one first

    def begin(self, sender: Pid) -> Lane | None:
        """A lane for the rest of a message whose first fragment is queued in this moment; None: there are too many."""
        if len(self.open) >= LANES_MAX:
            return None
        lane = self.open[sender] = Lane(sender)
        self._begun.append(lane)
        return lane

    def add(self, lane: Lane, frame: Sequence[Chunk], size: int) -> None:
        """One whole frame of `size` bytes, behind all others of the lane."""
        lane.frames.append((frame, size))
        self.waiting_bytes += size

    def take_begun(self) -> list[Lane]:
        """Lanes whose first fragment is in what the outbound half gives now: `start` them when that has left."""
        begun, self._begun = self._begun, []
        return begun

    def start(self, lanes: Sequence[Lane]) -> None:
        """Let the frames of these lanes leave."""
        self._turns.extend(lane for lane in lanes if lane.frames)

    def next_frames(self, chunks: list[Chunk], size: int) -> int:
        """Append the next frame to `chunks`, each lane in turn; where there is one lane only, frames of `size` bytes.

        How many bytes that was; 0: no frame may leave now.
        """
        turns = self._turns
        while turns:
            lane = turns.popleft()
            if lane.frames:
                taken = self._leave(lane, chunks, 1 if turns else size)
                if lane.frames:
                    turns.append(lane)
                return taken
        return 0

    def take_all(self) -> list[Chunk]:
        """All frames of all lanes: they leave in the place of what called, behind every first fragment."""
        self._turns.clear()
        self._begun.clear()
        chunks: list[Chunk] = []
        for lane in list(self.open.values()):
            self._leave(lane, chunks, self.waiting_bytes)
        return chunks

    def _leave(self, lane: Lane, chunks: list[Chunk], size: int) -> int:
        """At least so many bytes of the lane's frames, if it has them; how many it was."""
        frames, taken = lane.frames, 0
        while frames and taken < size:
            frame, frame_bytes = frames.popleft()
            chunks += frame
            taken += frame_bytes
            self.frames_written += 1
        if not frames:
            del self.open[lane.sender]
        self.waiting_bytes -= taken
        self.bytes_written += taken
        return taken


class Half(Protocol):
    """The outbound half of a channel."""

    @property
    def pending_bytes(self) -> int: ...

    def data_to_send(self) -> list[Chunk]: ...


class _Run(NamedTuple):
    """Whole frames that were taken out of the outbound half."""

    chunks: list[Chunk]
    size: int
    begun: list[Lane]


class Departures:
    """Takes from the outbound half and from its lanes what is to be written next, so much at a time."""

    __slots__ = ("_half", "_lanes", "_run_bytes", "_runs")

    def __init__(self, half: Half, lanes: Lanes) -> None:
        self._half = half
        self._lanes = lanes
        self._runs: deque[_Run] = deque()
        self._run_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """All that `portion` would give, call after call."""
        return self._half.pending_bytes + self._run_bytes + self._lanes.waiting_bytes

    @property
    def in_turns(self) -> bool:
        """Whether there is more than what the outbound half has: then ask for portions."""
        return bool(self._runs or self._lanes.open)

    def set_aside(self) -> None:
        """Take what the outbound half has as one run: lanes have their turns between runs."""
        size = self._half.pending_bytes
        if size:
            self._runs.append(_Run(self._half.data_to_send(), size, self._lanes.take_begun()))
            self._run_bytes += size

    def portion(self, size: int) -> list[Chunk]:
        """What to write next: at least `size` bytes unless there are no more, cut where a frame ends."""
        self.set_aside()
        chunks: list[Chunk] = []
        while size > 0:
            left = size
            if self._runs:
                run = self._runs.popleft()
                self._run_bytes -= run.size
                self._lanes.start(run.begun)
                chunks += run.chunks
                size -= run.size
            size -= self._lanes.next_frames(chunks, 1 if self._runs else max(size, 1))
            if size == left:
                break
        return chunks

    def all(self) -> list[Chunk]:
        """Everything, in order."""
        return self.portion(self.waiting_bytes)
