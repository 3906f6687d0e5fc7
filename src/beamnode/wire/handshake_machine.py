"""What the two handshake machines share: frames out of a buffer, the turn of the table, the timer, the cookie."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, TypeVar

from beamnode.errors import (
    BeamnodeError,
    HandshakeError,
    LimitExceeded,
    NetworkError,
    NodeNameError,
    PeerError,
    ProtocolError,
    SetupTimeout,
    UsageError,
)
from beamnode.limits import Limits
from beamnode.wire.flags import Flag, expand, names
from beamnode.wire.handshake_messages import FromAcceptor, FromInitiator, build
from beamnode.wire.handshake_rules import AWAITING_PEER, Input, Rules, State, input_of

Frame = TypeVar("Frame", FromInitiator, FromAcceptor)
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class Established:
    """The handshake is over: `unused` are bytes for the channel that came with its last frame.

    `flags` are what both nodes can do. The connection is a visible one if they contain PUBLISHED, else a hidden one.
    """

    name: str
    creation: int
    flags: Flag
    unused: bytes = field(repr=False)


class Secret:
    """A cookie that shows itself to nobody: it makes digests and checks them.

    What hands cookies on hands on one of these: a variable of type `bytes` shows in tracebacks with variables.
    """

    __slots__ = ("_cookie",)

    def __init__(self, cookie: bytes | Secret) -> None:
        self._cookie: Final[bytes] = cookie._cookie if isinstance(cookie, Secret) else bytes(cookie)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled or copied")

    def digest(self, challenge: int) -> bytes:
        """MD5 of the cookie and the challenge as decimal digits (dist_util: gen_digest/2): 16 bytes."""
        return hashlib.md5(self._cookie + b"%d" % challenge, usedforsecurity=False).digest()

    def is_proved(self, challenge: int, digest: bytes) -> bool:
        """Whether the digest is that of this cookie and the challenge; takes the same time either way."""
        return hmac.compare_digest(self.digest(challenge), digest)


class Machine(Generic[Frame, Event]):
    """One handshake over one connection. The driver's duties, in this order, until `Established` or a raise:

    write what `data_to_send()` gives, after every other call and also after a raise; hand in what arrives; take
    events until there is none; call `handle_deadline` when `next_deadline()` has come. After a raise, or when it has
    refused or withdrawn: flush, then close. After `Established` all bytes belong to the channel.
    """

    rules: ClassVar[Rules]

    def __init__(
        self,
        *,
        state: State,
        flags: Flag,
        challenge: int,
        setup_timeout: float,
        now: float,
        limits: Limits,
        length_bytes: int,
    ) -> None:
        if not 0 <= challenge < 1 << 32:
            raise UsageError(f"a challenge has 32 bits, this one has {challenge.bit_length()}")
        if length_bytes not in (2, 4):
            raise UsageError("a handshake frame has a length of 2 bytes (TCP) or 4 (TLS)")
        self._state = state
        self._flags = flags
        self._challenge: Final = challenge
        self._setup_timeout: Final = setup_timeout
        self._limits: Final = limits
        self._length_bytes: Final = length_bytes
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self._events: deque[Event] = deque()
        self._now = now
        self._deadline: float | None = None
        self._restart_timer()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self._peer}: {self._state.name}>"

    @property
    def state(self) -> State:
        """Where the handshake is, for logs and tests."""
        return self._state

    # --- the verbs ---

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take bytes from the peer; then take the events and write what there is to send.

        Raises a PeerError: flush `data_to_send()` (a status may be in it), then close. Not to be called after
        `Established`, nor after the machine has ended: that raises UsageError.
        """
        if self._state in (State.ESTABLISHED, State.ENDED):
            raise UsageError(f"no more bytes for this handshake: it is {self._state.value}")
        self._now = now
        self._buffer += data
        self._process_buffer()

    def receive_eof(self) -> None:
        """The peer closed the connection: always raises, saying what that means at this step of the handshake."""
        try:
            raise self._meaning_of_eof()
        finally:
            self._end()

    def next_event(self) -> Event | None:
        """The next event, or None. Some ask for a decision: see each event."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> list[bytes]:
        """Frames to write, in order; taking them empties the list."""
        chunks, self._outgoing = self._outgoing, []
        return chunks

    def next_deadline(self) -> float | None:
        """When to call `handle_deadline`: seconds on the clock of `now`; None once the handshake is over."""
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """Raises SetupTimeout when the deadline has come, else does nothing."""
        if self._deadline is None or now < self._deadline:
            return
        text = f"no progress with {self._peer} for {self._setup_timeout:g} s while this node was {self._state.value}"
        self._end()
        raise SetupTimeout(text)

    # --- the turn of the table ---

    @property
    def _peer(self) -> str:
        raise NotImplementedError

    def _parse(self, frame: bytes) -> Frame:
        raise NotImplementedError

    def _act(self, frame: Frame) -> None:
        """What a frame does, in addition to the change of state, which has been made."""
        raise NotImplementedError

    def _meaning_of_eof(self) -> BeamnodeError:
        return NetworkError(f"{self._peer} closed the connection while this node was {self._state.value}")

    def _process_buffer(self) -> None:
        try:
            while self._state in AWAITING_PEER and (body := self._take_frame()) is not None:
                self._turn(self._parse(body))
            self._check_buffer()
        except PeerError:
            self._end()
            raise

    def _turn(self, frame: Frame) -> None:
        came = input_of(frame)
        next_state = self.rules.get((self._state, came))
        if next_state is None:
            raise ProtocolError(f"{self._peer} sent {came.value} while this node was {self._state.value}")
        self._state = next_state
        self._act(frame)

    def _told(self, call: Input) -> None:
        """The driver's turn: change the state, or raise UsageError and leave everything as it is."""
        next_state = self.rules.get((self._state, call))
        if next_state is None:
            raise UsageError(f"{call.value} does not fit here: this node is {self._state.value} ({self._peer})")
        self._state = next_state
        if next_state is State.ENDED:
            self._end()

    def _take_frame(self) -> bytes | None:
        start = self._length_bytes
        if len(self._buffer) < start:
            return None
        if start == 2 and self._buffer.startswith((b"\x16\x03", b"\x15\x03")):  # as lengths they were too much
            raise ProtocolError(
                f"{self._peer} speaks TLS, and this connection is plain TCP: both nodes need TLS (Tls(...), "
                "-proto_dist inet_tls), or neither"
            )
        length = int.from_bytes(self._buffer[:start], "big")
        if length > self._limits.handshake_frame_bytes_max:
            raise self._too_much(f"a handshake frame of {length} bytes")
        if len(self._buffer) < start + length:
            return None
        frame = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return frame

    def _check_buffer(self) -> None:
        """While the driver decides nothing is read; what piles up meanwhile is bounded by the same bound."""
        held_max = self._length_bytes + self._limits.handshake_frame_bytes_max
        if self._state is not State.ESTABLISHED and len(self._buffer) > held_max:
            raise self._too_much(f"{len(self._buffer)} bytes out of turn")

    def _too_much(self, what: str) -> LimitExceeded:
        bound = self._limits.handshake_frame_bytes_max
        text = f"{self._peer} sent {what} while this node was {self._state.value}; at most {bound} are read"
        return LimitExceeded(text, "handshake_frame_bytes_max")

    # --- what both sides do ---

    def _queue(self, frame: FromInitiator | FromAcceptor) -> None:
        body = build(frame)
        self._outgoing.append(len(body).to_bytes(self._length_bytes, "big") + body)

    def _restart_timer(self) -> None:
        """As dist_util:reset_timer/1. A driver's call counts from the last `now`: it decides on what just came."""
        self._deadline = self._now + self._setup_timeout

    def _end(self) -> None:
        self._state = State.ENDED
        self._deadline = None
        self._buffer.clear()

    def _check_flags(self, lacking: Flag) -> None:
        if lacking:
            raise HandshakeError(
                f"{self._peer} lacks distribution flags that this node demands: {', '.join(names(lacking))}. "
                "It must run OTP 25 or newer, or a library as new as that"
            )

    def _common(self, peer_flags: Flag) -> Flag:
        """What both can do (dist_util: adjust_flags/2). Only if both set PUBLISHED is the connection a visible one."""
        return expand(self._flags) & expand(peer_flags)

    def _take_unused(self) -> bytes:
        self._deadline = None
        unused = bytes(self._buffer)
        self._buffer.clear()
        return unused


def has_valid_form(name: str, characters_max: int) -> bool:
    """Whether a name is `name@host`, both parts there (dist_util: is_name_ok/2), and short enough for an atom.

    Line feeds and the like, which OTP takes, are refused: the name of a stranger goes into logs.
    """
    parts = name.split("@")
    return len(parts) == 2 and all(parts) and len(name) <= characters_max and name.isprintable()


def check_own_name(name: str, creation: int, characters_max: int) -> None:
    """Raise NodeNameError or UsageError for a name or creation that this node cannot send."""
    if not has_valid_form(name, characters_max):
        raise NodeNameError(f"{name!r} is not of the form name@host with at most {characters_max} characters")
    if not name.isascii() and any(ord(character) > 255 for character in name):
        raise NodeNameError(f"{name!r} has characters outside Latin-1, and node names travel as Latin-1")
    if not 0 <= creation < 1 << 32:
        raise UsageError(f"a creation has 32 bits, this one has {creation.bit_length()}")
