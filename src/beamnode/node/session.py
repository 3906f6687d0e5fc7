"""One connection, or one attempt at it, over one stream: first a handshake machine drives it, then a channel.

The session moves bytes, deadlines and events between its stream and its machine. What they mean for the node, it asks
of and tells to the network (`network.py`), whose table of connections knows it as an owner.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from beamnode.carriers.base import Stream
from beamnode.carriers.texts import format_address
from beamnode.core.arrivals import Arrivals
from beamnode.core.process import Process
from beamnode.errors import BeamnodeError, NetworkError, PeerError, ProtocolError
from beamnode.etf import Atom, Pid
from beamnode.node import pressure
from beamnode.node.pressure import Pressed, Pressure
from beamnode.node.throttle import Throttle
from beamnode.wire.channel import Channel
from beamnode.wire.control import (
    Exit,
    MonitorP,
    MonitorPExit,
    Record,
    SpawnRequest,
    UnlinkIdAck,
    is_known_to,
)
from beamnode.wire.departures import Departures
from beamnode.wire.frames import TICK
from beamnode.wire.handshake import (
    Acceptor,
    Established,
    Initiator,
    Named,
    PeerNamed,
    PeerProved,
    StillWanted,
)
from beamnode.wire.outbound import Outbound

if TYPE_CHECKING:
    from socket import socket

    from beamnode.node.network import Network
    from beamnode.node.routes import Route

log = logging.getLogger("beamnode.connection")

# A program that sends and sends without giving the loop a turn: from here on it is written meanwhile.
WRITE_AT_ONCE_BYTES = 64 * 1024

# A deadline that comes so late comes after a blocked or stopped loop: what the peer has sent meanwhile is read first.
# (uvloop would call timers first.)
LATE_SECONDS = 0.1
READING_SECONDS = 0.001  # until then the loop has looked at its sockets, whatever loop it is

# Where large messages leave in pieces: so much in one write (a message of 1 MiB is one), and in one turn of the loop.
PORTION_BYTES = 1152 * 1024
WRITTEN_PER_TURN_BYTES = 2 * PORTION_BYTES

_ANSWERED = frozenset({MonitorP, SpawnRequest})  # records that somebody here waits to be answered

# What the node says in the name of a process that has done nothing: a peer has asked for it, or the process has ended.
_OF_THE_NODE = frozenset({UnlinkIdAck, Exit, MonitorPExit})


class Stage(Enum):
    """Where a session is."""

    DIALLING = "dialling"
    HANDSHAKE = "handshake"
    UP = "up"
    ENDED = "ended"


class Session:
    """A stream's receiver, and the owner of an entry in the table of connections.

    Made by `Network`, for a node that is dialled (`node` given) or for a stream that was accepted. Ends in exactly one
    call of `Network.session_ended`.
    """

    def __init__(self, network: Network, node: Atom | None, route: Route | None = None) -> None:
        self.network = network
        self.node = node
        self.route = route  # by which it comes; of one that is dialled once that is known
        self.outgoing = node is not None
        self.stage = Stage.DIALLING
        self._flag_bits = 0
        self.dialling: asyncio.Task[None] | None = None
        self._loop = network.loop
        self._stream: Stream | None = None
        self._machine: Initiator | Acceptor | None = None
        self._channel: Channel | None = None
        self._inbox: Arrivals | None = None
        self.outbound: Outbound | Pressed  # from the moment it is up
        self._timer: asyncio.TimerHandle | None = None
        self._kept_alive_bytes = 0  # written by `keep_alive`
        self._write_scheduled = False
        self._mailbox_mark = network.bounds.mailbox_mark
        self._throttle: Throttle | None = None
        self._pause: asyncio.TimerHandle | None = None  # while it is not read, because it brought too much
        self._write_at_once = WRITE_AT_ONCE_BYTES  # 0 while it is busy: then `queued` always looks
        self._writing_paused = False
        self._awaiting_bytes = 0  # of what waits, elsewhere, for this to be up
        self._busy_timer: asyncio.TimerHandle | None = None
        self.pressure = Pressure(network.options.dist_buf_busy_limit)
        self._gone: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Session {'to' if self.outgoing else 'from'} {self.node} {self.stage.value}>"

    @property
    def peer_address(self) -> tuple[str, int] | None:
        return None if self._stream is None else self._stream.peer_address

    @property
    def was_shaking_hands(self) -> bool:
        """Whether there is or was a stream, and it never came to a channel."""
        return self._stream is not None and self._channel is None

    @property
    def address_text(self) -> str:
        """Where the peer is, for logs."""
        return "no address" if self.peer_address is None else format_address(self.peer_address)

    @property
    def raw_socket(self) -> socket | None:
        """What it goes over, for its options; None where the carrier has none."""
        return getattr(self._stream, "raw_socket", None)

    def counters(self) -> tuple[int, int]:
        """Bytes received and sent since the handshake."""
        received, sent = (0, 0) if self._channel is None else self._channel.counters()
        return received, sent + self._kept_alive_bytes

    @property
    def unsent_bytes(self) -> int:
        """What waits here: besides it there is what the carrier holds, and what the system does."""
        return self._awaiting_bytes if self._channel is None else self._channel.pending_bytes

    # --- Before it is up ----------------------------------------------------------------------------------------------

    def awaited(self, record: Record, size: int) -> None:
        """A signal of `size` bytes waits for this to be up. Past the limit, who has sent it waits too."""
        self._awaiting_bytes += size
        if self.pressure.look(self._awaiting_bytes, self._loop.time()):
            self._tell_when_busy_long()
            self._write_at_once = 0
        process = self._sender(record) if self.pressure.busy else None
        if process is not None:
            if process.body in self.pressure.held:
                self.pressure.overdraft += size
            self.pressure.hold(process)

    def check_waits(self, record: Record) -> None:
        """Errors: BusyError for a process that should be waiting, when such have sent far too much."""
        process = self._sender(record)
        if process is not None and self.node is not None:
            self.pressure.should_wait(process, self.node)

    def _sender(self, record: Record) -> Process | None:
        """The process of this node whose doing the record is, if it lives."""
        if type(record) in _OF_THE_NODE:
            return None
        sender = getattr(record, "sender", None)
        return self.network.runtime.signals.lookup(sender) if isinstance(sender, Pid) else None

    def _hold_sender(self, record: Record) -> None:
        process = self._sender(record)
        if process is not None:
            self.pressure.hold(process)

    # --- The stream's side --------------------------------------------------------------------------------------------

    def attach(self, stream: Stream) -> Session:
        """The stream is there: the handshake begins. The stream's receiver is this session."""
        self._stream = stream
        self._gone = self._loop.create_future()
        if self.stage is Stage.ENDED:
            stream.abort()
            return self
        self.stage = Stage.HANDSHAKE
        self.network.set_new_options(self)
        now = self._loop.time()
        assert self.route is not None
        if self.node is None:
            self._machine = self.network.acceptor(self.route, now)
        else:
            self._machine = self.network.initiator(self.node, self.route, now)
        self._after_handshake_step()
        return self

    def data_received(self, data: bytes | memoryview) -> None:
        if self.stage is Stage.UP:
            self._receive_signals(data)
        elif self.stage is Stage.HANDSHAKE:
            self._step(self._receive_handshake, data)

    def connection_lost(self, error: NetworkError | None) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self.network.stream_gone(self)
        if self.stage is Stage.HANDSHAKE and error is None and self._machine is not None:
            self._step(self._machine.receive_eof)
        self.end(error or NetworkError(f"{self.peer_text} closed the connection"))

    def pause_writing(self) -> None:
        """The peer reads slower than we write: what is sent from now on waits here, where small messages pass large."""
        self._writing_paused = True
        if self._channel is not None:
            self._channel.ticker.pending = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writing_paused = False
        if self._channel is not None:
            self._channel.ticker.pending = False
        self._write_channel()

    # --- The handshake ------------------------------------------------------------------------------------------------

    def _step(self, step: Any, *args: Any) -> None:
        """Run one step of the handshake; what the peer does wrong ends the session, after what is left was sent.

        Errors are kept, and shown, without the frames that they came through: digests are among the variables there.
        """
        try:
            step(*args)
        except BeamnodeError as error:
            self._write_handshake()
            error.__context__ = error.__cause__ = None
            self.end(error.with_traceback(None))
        except Exception as error:
            log.error(
                "closing the connection with %s: an error of this library\n%s", self.peer_text, traceback.format_exc()
            )
            self.end(NetworkError(f"an error of this library: {type(error).__name__}"))

    def _receive_handshake(self, data: bytes | memoryview) -> None:
        assert self._machine is not None
        self._machine.receive_data(data, self._loop.time())
        self._after_handshake_step()

    def _after_handshake_step(self) -> None:
        machine = self._machine
        assert machine is not None
        while self.stage is Stage.HANDSHAKE and (event := machine.next_event()) is not None:
            self._on_handshake_event(event)
        if self.stage is Stage.HANDSHAKE:
            self._write_handshake()
            self._arm(machine.next_deadline())

    def _on_handshake_event(self, event: StillWanted | Named | PeerNamed | PeerProved | Established) -> None:
        network = self.network
        match event:
            case PeerNamed():
                assert isinstance(self._machine, Acceptor)
                network.decide(self, self._machine, event)
            case PeerProved():
                if network.may_take_over(self):
                    self.acknowledge()
            case StillWanted():
                assert isinstance(self._machine, Initiator)
                wanted = network.still_wanted(self)
                self._machine.answer_alive(wanted)
                if not wanted:
                    raise NetworkError("this attempt was given up for one of the peer's own")
            case Named():
                raise ProtocolError("the peer gave this node a name, which has one")
            case Established():
                self._establish(event)

    def refusal(self, name: str) -> str | None:
        """Why a peer that says this name cannot be accepted on this stream; None: it can."""
        if self.route is not None and not self.route.leads_to(name):
            return f"its connection came by {self.route.carrier.name}, which is not for it (Route(to=...))"
        proved: Callable[[str], str | None] | None = getattr(self._stream, "refusal", None)
        return None if proved is None else proved(name)

    def acknowledge(self) -> None:
        """An accepted peer has proved its cookie and nothing stands in its way: the last frame, and up."""
        assert isinstance(self._machine, Acceptor)
        self._machine.acknowledge()
        self._after_handshake_step()

    def continue_after_replaced(self) -> None:
        """The old connection of the same peer has ended: this one may go up."""
        self._step(self.acknowledge)

    def _establish(self, event: Established) -> None:
        self._write_handshake()
        self._disarm()
        now = self._loop.time()
        self._flag_bits = int(event.flags)
        assert self.node is not None
        self._channel = self.network.channel(event.flags, now)
        self._inbox = self.network.inbox(self.node)
        self.outbound = self._channel.outbound
        self._machine = None
        self.stage = Stage.UP
        if not self.network.session_up(self, event):
            self.end(ProtocolError("the connection is not wanted any more"))
            return
        if self.pressure.busy:
            self._write_channel()  # what has waited for this may all be what the peer does not know of
        self._arm(self._channel.next_deadline())
        self._throttle = self.network.bounds.throttle()
        if self.stage is Stage.UP:
            self.network.keep_alive.add(self)
        if event.unused:
            self._receive_signals(event.unused)

    def _write_handshake(self) -> None:
        if self._machine is not None and self._stream is not None:
            chunks = self._machine.data_to_send()
            if chunks:
                self._stream.write(chunks)

    # --- Up -----------------------------------------------------------------------------------------------------------

    def _receive_signals(self, data: bytes | memoryview) -> None:
        """The hot path in: every complete frame of one read, then one flush."""
        channel, inbox = self._channel, self._inbox
        assert channel is not None
        assert inbox is not None
        runtime = self.network.runtime
        runtime.begin_turn()
        try:
            channel.deliver(data, inbox)
        except PeerError as error:
            runtime.flush()
            log.error("closing the connection with %s: %s", self.node, error)
            self.end(error, abort=True)  # at once: a stream that closes in good order is there for a while
            error.__traceback__ = None  # its frames hold what came, and the channel, which holds the error
        except Exception as error:
            log.exception("closing the connection with %s: an error of this library", self.node)
            self.end(NetworkError(f"an error of this library: {error!r}"))
        finally:
            runtime.end_turn()
        if self._throttle is not None:
            self._maybe_pause(self._throttle, channel)
        signals = runtime.signals
        last, signals.last_receiver = signals.last_receiver, None
        if last is not None and len(last.mailbox) >= self._mailbox_mark:
            self.network.bounds.crowded(last, self.node)

    def _maybe_pause(self, throttle: Throttle, channel: Channel) -> None:
        """Do not read for a while, if it has brought more signals than it may."""
        seconds = throttle.pause_seconds(channel.frames_read, self._loop.time())
        if seconds > 0 and self._pause is None and self._stream is not None and self.stage is Stage.UP:
            self._stream.pause_reading()
            self._pause = self._loop.call_later(seconds, self._end_pause)
            self.network.bounds.throttled(self.node)

    def _end_pause(self) -> None:
        self._pause = None
        if self._stream is not None:
            self._stream.resume_reading()

    def send(self, record: Record) -> None:
        """Encode now, write once for all that is sent in this turn. (Messages go by `outbound` and `queued`.)

        What the peer does not know of, for want of a flag, is dropped; who waits for an answer gets it from
        `Network.untold`. Errors: EncodeError; nothing was sent then.
        """
        channel = self._channel
        if channel is None or self.stage is not Stage.UP:
            return
        assert self.node is not None
        if type(record) in _ANSWERED and not is_known_to(self._flag_bits, record):
            self.network.untold(self.node, record)
            return
        channel.send(record)
        if self.queued(channel.pending_bytes):
            self._hold_sender(record)

    def queued(self, pending_bytes: int) -> bool:
        """Something waits to be written, so much in all: at the end of this turn, or now if that is a lot.

        True: the connection is busy; `pressure.hold` the sender.
        """
        if pending_bytes >= self._write_at_once:
            self._write_channel()
            return self.pressure.busy
        if not self._write_scheduled:
            self._write_scheduled = True
            self.network.runtime.write_soon(self)
        return False

    def write(self) -> None:
        """The end of a turn: write what waits."""
        self._write_scheduled = False
        self._write_channel()

    def _write_channel(self) -> None:
        channel, stream = self._channel, self._stream
        if channel is None or stream is None:
            return
        departures = channel.departures
        if self._writing_paused:
            if channel.outbound.pending_bytes >= WRITE_AT_ONCE_BYTES:
                departures.set_aside()
        elif departures.in_turns:
            self._write_portions(departures, stream)
        else:
            chunks = channel.outbound.data_to_send()
            if chunks:
                stream.write(chunks)
            if not self.pressure.busy:
                return
        self._look_at_pressure(departures.waiting_bytes)

    def _write_portions(self, departures: Departures, stream: Stream) -> None:
        """Some of what waits, as long as the carrier takes it; the rest when it does again, or in another turn."""
        for _ in range(WRITTEN_PER_TURN_BYTES // PORTION_BYTES):
            stream.write(departures.portion(PORTION_BYTES))
            if self._writing_paused or not departures.in_turns:
                return
        if not self._write_scheduled:
            self._write_scheduled = True
            self.network.runtime.write_soon(self)

    def _look_at_pressure(self, waiting_bytes: int) -> None:
        """Busy, or not any more."""
        pressure, channel = self.pressure, self._channel
        now = self._loop.time()
        if not pressure.look(waiting_bytes, now):
            return
        assert channel is not None
        assert self.node is not None
        if pressure.busy:
            self._tell_when_busy_long()
            self._write_at_once = 0
            self.outbound = Pressed(self.node, pressure, channel, self.network.runtime)
        else:
            self._write_at_once = WRITE_AT_ONCE_BYTES
            self.outbound = channel.outbound
            pressure.tell_end(self.node, now)
            pressure.release()

    def _tell_when_busy_long(self) -> None:
        """The log says it when it has been busy for a while; one timer, however often that begins and ends."""
        if self._busy_timer is None:
            self._busy_timer = self._loop.call_later(pressure.LOGGED_SECONDS + 0.01, self._maybe_tell_busy)

    def _maybe_tell_busy(self) -> None:
        self._busy_timer = None
        if self.pressure.busy and not self.pressure.told:
            self.pressure.tell_begin(self.node, self.unsent_bytes, self._loop.time())
            if not self.pressure.told:  # it has begun anew meanwhile
                self._tell_when_busy_long()

    # --- Time ---------------------------------------------------------------------------------------------------------

    def _arm(self, deadline: float | None) -> None:
        if deadline is None:
            self._disarm()
        elif self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_deadline)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_deadline(self, after_reading: bool = False) -> None:
        self._timer = None
        machine = self._channel if self.stage is Stage.UP else self._machine
        if machine is None:
            return
        now, deadline = self._loop.time(), machine.next_deadline()
        if not after_reading and deadline is not None and now - deadline > LATE_SECONDS:
            self._timer = self._loop.call_later(READING_SECONDS, self._on_deadline, True)
            return
        if self._pause is not None and self._channel is not None:
            self._channel.excuse_silence()
        try:
            machine.handle_deadline(now)
        except NetworkError as error:
            self.end(error, abort=self.stage is Stage.HANDSHAKE)  # there is nothing to say to who says nothing
            return
        if self.stage is Stage.UP:
            self._write_channel()
        self._arm(machine.next_deadline())

    def tick(self) -> None:
        """Give the peer a sign of life now."""
        if self._channel is not None and self.stage is Stage.UP:
            self._channel.tick()
            self._write_channel()

    def keep_alive(self) -> None:
        """Have the stream give the peer a sign of life, if it can; for another thread, while the loop is blocked."""
        keep_alive = getattr(self._stream, "keep_alive", None)
        if keep_alive is not None and self.stage is Stage.UP:
            self._kept_alive_bytes += keep_alive(TICK)

    def set_ticktime(self, net_ticktime: float, net_tickintensity: int) -> None:
        """Wait that long (seconds) for signs of the peer from now on, and give it such as often as that asks for."""
        if self._channel is not None and self.stage is Stage.UP:
            self._channel.set_ticktime(net_ticktime, net_tickintensity, self._loop.time())
            self._disarm()
            self._arm(self._channel.next_deadline())
            self.network.keep_alive.ticktime_changed()

    # --- The end ------------------------------------------------------------------------------------------------------

    def end(self, cause: BeamnodeError, reason: Any = None, *, abort: bool = False) -> None:
        """Close, and tell the network once. `reason` is what `nodedown` says; by default that of `cause`."""
        if self.stage is Stage.ENDED:
            return
        was = self.stage
        self._disarm()
        if self._pause is not None:
            self._pause.cancel()
            self._end_pause()
        self.network.keep_alive.remove(self)
        if was is Stage.UP and not abort:
            self._write_all()
        self.stage = Stage.ENDED
        self.end_pressure()
        if self.dialling is not None and not self.dialling.done() and self.dialling is not asyncio.current_task():
            self.dialling.cancel()
        if self._stream is not None:
            if abort:
                self._stream.abort()
            else:
                self._stream.close()
        self._machine = None
        if reason is None:
            reason = Atom(getattr(cause, "reason", None) or "connection_closed")
        self.network.session_ended(self, cause, reason)

    def _write_all(self) -> None:
        """What was sent still goes out: the carrier holds it for a while."""
        if self._channel is not None and self._stream is not None:
            self._stream.write(self._channel.data_to_send())

    def end_pressure(self) -> None:
        """Nobody waits for this peer any more. What the channel still has is of no use."""
        if self._channel is not None:
            self._channel.data_to_send()
        if self._busy_timer is not None:
            self._busy_timer.cancel()
            self._busy_timer = None
        if self.pressure.look(0, self._loop.time()):
            self.pressure.tell_end(self.node, self._loop.time())
            self.pressure.release()

    def abort(self) -> None:
        """Do not wait any more for the stream of an ended session."""
        if self._stream is not None:
            self._stream.abort()

    async def gone(self) -> None:
        """Wait until the stream has ended too."""
        if self._gone is not None:
            await asyncio.shield(self._gone)

    @property
    def peer_text(self) -> str:
        """Who is at the other end, for logs and errors."""
        if self.node is not None:
            return str(self.node)
        return "a peer" if self._stream is None else f"a peer at {self._stream.peer_address[0]}"
