"""The node among nodes: the table of connections, who dials, who is accepted, what follows when one comes or goes.

Signals leave through `transmit`: to a node that is up at once; to one that is not, the signal waits in the table while
a connection is made for it, unless the policy says no. Core is told of every connection that ends, exactly once.

Source: net_kernel.erl; its rules are in `core.connections`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from beamnode.carriers.base import Listener, Stream
from beamnode.carriers.options import Value
from beamnode.carriers.options import set as set_options
from beamnode.core.arrivals import Arrivals
from beamnode.core.connections import AutoConnect, Connections, Down, DownKind, NodesKind, TakeOver, Verdict, Want
from beamnode.errors import (
    BeamnodeError,
    EncodeError,
    HandshakeError,
    NetworkError,
    NodeNotFound,
    RefusedByPeer,
    SetupTimeout,
)
from beamnode.etf import Atom, a, decode, encode
from beamnode.etf.terms import on_one_line
from beamnode.limits import Limits
from beamnode.node.allowed import is_allowed
from beamnode.node.audit import Audit
from beamnode.node.bounds import Bounds
from beamnode.node.connection_log import ConnectionLog
from beamnode.node.dynamic_names import DynamicNames
from beamnode.node.guard import Gate, GuardedArrivals, SignalGuard
from beamnode.node.keep_alive import KeepAlive
from beamnode.node.names import NodeName, check_compatible, is_long_host
from beamnode.node.pending import Excess, Pending
from beamnode.node.reasons import sendable
from beamnode.node.routes import Route
from beamnode.node.runtime import Runtime
from beamnode.node.session import Session, Stage
from beamnode.node.ticktime import NetTicktime
from beamnode.wire import control
from beamnode.wire.channel import Channel
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake import Accept, Acceptor, Established, Initiator, PeerNamed, Refusal
from beamnode.wire.handshake_machine import Secret

log = logging.getLogger("beamnode.connection")


# What the other side is to have even when this node stops while it connects.
_MESSAGES = (control.Send, control.RegSend, control.AliasSend)
_TO_BE_TOLD = (*_MESSAGES, control.Exit, control.Exit2)

# Signals that are not worth a connection: they only end ties, and without a connection there is no tie.
_NOT_WORTH_DIALLING = frozenset(
    {
        control.Exit,
        control.UnlinkId,
        control.UnlinkIdAck,
        control.DemonitorP,
        control.MonitorPExit,
        control.SpawnReply,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How this node behaves towards others. Times in seconds; each is named after OTP's kernel parameter."""

    hidden: bool = False
    dist_auto_connect: AutoConnect = AutoConnect.ALWAYS
    net_ticktime: float = 60.0
    net_tickintensity: int = 4
    net_setuptime: float = 7.0
    strings: bool = False  # decode binaries that are valid UTF-8 to str
    blocked_warning: float | None = 1.0
    dist_buf_busy_limit: int = 1024 * 1024  # bytes that wait for one node (OTP: +zdbbl, in KiB)


class Network:
    """Everything between this node and the others."""

    def __init__(
        self,
        node: Atom,
        *,
        loop: asyncio.AbstractEventLoop,
        routes: Sequence[Route],
        secret_for: Callable[[Atom], Secret],
        options: NetworkOptions,
        limits: Limits,
        audit: Audit,
        gate: Gate | None,
        allowed: Iterable[Atom],
    ) -> None:
        self.node = node
        self.loop = loop
        self.options = options
        self.limits = limits
        self.connections = Connections(options.dist_auto_connect)
        self.runtime: Runtime  # set by Node: each needs the other
        self._handlers: dict[type, Callable[[Atom, Any], None]] = {}
        self.creation = 0
        self.open = False  # until `join`
        self._routes = routes
        self._secret_for = secret_for
        self._sessions: set[Session] = set()
        self.bounds = Bounds(limits, loop.time)
        self._accepting: Pending[Session] = Pending(limits)  # accepted, not up (yet), stream still there
        self._dialling: set[Session] = set()  # dialled, not up yet
        self._failures: dict[Atom, BeamnodeError] = {}
        self.ticktime = NetTicktime(options.net_ticktime, options.net_tickintensity, loop, self._up_sessions)
        self.keep_alive = KeepAlive(self, options.blocked_warning)
        self.socket_options: dict[str, Value] = {}  # of connections to come
        self.allowed = list(allowed)  # empty: every node that has the cookie
        self._audit = audit
        self._said = ConnectionLog(audit, self.bounds, loop.time)
        self._gate = gate
        self._dynamic_names = DynamicNames(limits.dynamic_names_kept_max)

    def join(self, runtime: Runtime, creation: int) -> None:
        """Open, with the runtime that this network carries signals for, and the creation of this life of the node."""
        self.runtime = runtime
        runtime.sessions = self.connections.channels
        self.creation = creation
        self.open = True
        signals, spawning = runtime.signals, runtime.spawning
        signals.set_limits(self.limits, self.bounds.log.hit)
        exits = self._audit.around_exits(signals, signals.handlers[control.Exit2])
        handlers = {**signals.handlers, control.Exit2: exits}
        self._handlers = {
            **(handlers if self._gate is None else SignalGuard(self._gate, signals).around(handlers)),
            control.SpawnRequest: spawning.receive_request,
            control.SpawnReply: spawning.receive_reply,
        }

    # --- What programs ask --------------------------------------------------------------------------------------------

    async def connect(self, node: Atom) -> bool:
        """Connect and wait for it. What went wrong is logged, and `failure` tells it."""
        if node is self.node:
            return True
        waiter: asyncio.Future[bool] = self.loop.create_future()
        answer = self.connections.explicit_connect(node, waiter)
        if answer is Want.UP:
            return True
        if answer is Want.DIAL:
            self._dial(node)
        try:
            return await waiter
        finally:
            self.connections.forget_waiter(node, waiter)

    def disconnect(self, node: Atom) -> bool:
        """Close the connection; False when there is none."""
        session = self.connections.channels.get(node)
        if session is None:
            return False
        session.end(NetworkError(f"disconnected from {node}"), a.disconnect)
        return True

    def nodes(self, kind: NodesKind) -> list[Atom]:
        return self.connections.nodes(kind)

    def failure(self, node: Atom) -> BeamnodeError | None:
        """Why the last attempt to connect to `node` failed; None when it did not."""
        return self._failures.get(node)

    def session(self, node: Atom) -> Session | None:
        """The session of a node that is up."""
        session: Session | None = self.connections.channels.get(node)
        return session

    def _up_sessions(self) -> list[Session]:
        return list(self.connections.channels.values())

    def set_new_options(self, session: Session) -> None:
        """What was said of connections to come, for one that has come."""
        connected = session.raw_socket
        if self.socket_options and connected is not None:
            try:
                set_options(connected, self.socket_options)
            except NetworkError as error:
                log.warning("%r: %s", session, error)

    def monitor(self, node: Atom) -> None:
        """Somebody watches `node`: connect, or tell at once that it is down."""
        if self.connections.want(node) is Want.DIAL:
            self._dial(node)
        elif self.connections.get(node) is None:
            self.runtime.node_monitors.tell_watchers(node)

    # --- Signals out --------------------------------------------------------------------------------------------------

    def transmit(self, node: Atom, record: control.Record) -> None:
        """Send, now or when a connection has been made for it. Errors: EncodeError, in either case."""
        session = self.connections.channels.get(node)
        if session is not None:
            session.send(record)
        elif self.open:
            self._transmit_later(node, record)

    def _transmit_later(self, node: Atom, record: control.Record) -> None:
        if type(record) in _NOT_WORTH_DIALLING and self.connections.get(node) is None:
            return
        if self.connections.get(node) is None and not self.may_dial(node):
            self.runtime.break_ties(node)
            return
        attempt = self._attempt(node)
        if attempt is not None and isinstance(record, _MESSAGES):
            attempt.check_waits(record)
        snapshot, size = _snapshot(record)
        answer = self.connections.want(node, snapshot)
        if answer is Want.DIAL:
            self._dial(node)
            attempt = self._attempt(node)
        if attempt is not None:
            attempt.awaited(record, size)
        if answer is Want.REFUSED:
            log.info(
                "no connection to %s: dist_auto_connect is %s",
                on_one_line(node.name),
                self.connections.auto_connect.value,
            )
            self.runtime.break_ties(node)

    def _attempt(self, node: Atom) -> Session | None:
        """The attempt that a connection to `node` hangs on now."""
        entry = self.connections.get(node)
        return entry.owner if entry is not None and isinstance(entry.owner, Session) else None

    def may_dial(self, node: Atom) -> bool:
        """Whether `node` may be dialled because a peer has us do so, and not the program."""
        limits = self.limits
        for limit, count in (
            ("dials_pending_max", len(self._dialling)),
            ("connections_max", self.connections.up_count),
        ):
            if count >= getattr(limits, limit):
                self.bounds.log.hit(limit, node.name, f"wanted while there are {count} others", "it is not dialled")
                return False
        return True

    def untold(self, node: Atom, record: control.Record) -> None:
        """`node` cannot be told this, for want of a flag: monitors and spawns get their answer from here."""
        if isinstance(record, control.MonitorP):
            answer = control.MonitorPExit(record.target, record.sender, record.ref, a.notsup)
            self.runtime.signals.receive(node, answer)
        elif isinstance(record, control.SpawnRequest):
            self.runtime.spawning.receive_reply(node, control.SpawnReply(record.ref, record.sender, 0, a.notsup))
        self.loop.call_soon(self.runtime.flush)

    # --- Dialling -----------------------------------------------------------------------------------------------------

    def _dial(self, node: Atom) -> None:
        session = Session(self, node)
        self._sessions.add(session)
        self._dialling.add(session)
        self.connections.own(node, session)
        session.dialling = self.loop.create_task(self._open_stream(session, node))

    async def _open_stream(self, session: Session, node: Atom) -> None:
        timeout = self.options.net_setuptime
        try:
            alive, _, host = node.name.partition("@")
            if not alive or not host:
                raise NodeNotFound(f"{node.name!r} is not a node name: it must be name@host")
            check_compatible(_named(self.node), _named(node))
            if not self.is_allowed(node):
                raise NetworkError(f"cannot connect to {node}: it is none of the nodes that are allowed here")
            route = session.route = self.route_to(node)
            async with asyncio.timeout(timeout):
                address, port = await route.found_by.resolve(alive, host)
            await route.carrier.dial(address, port, session.attach, timeout=timeout, node=node.name)
        except TimeoutError:
            session.end(SetupTimeout(f"cannot connect to {node}: the epmd there did not answer within {timeout:g} s"))
        except BeamnodeError as error:
            session.end(error)
        except Exception as error:
            log.exception("dialling %s failed in an unforeseen way", on_one_line(node.name))
            session.end(NetworkError(f"cannot connect to {node}: {error!r}"))

    def is_allowed(self, node: Atom) -> bool:
        """Whether `allowed` has the node, if it has anything."""
        return not self.allowed or is_allowed(node, self.allowed)

    def route_to(self, node: Atom) -> Route:
        """The way to dial `node`. Errors: NetworkError when none is for it."""
        for route in self._routes:
            if route.leads_to(node.name):
                return route
        raise NetworkError(f"cannot connect to {node}: none of this node's carriers is for it; give it a Route")

    def initiator(self, node: Atom, route: Route, now: float) -> Initiator:
        """The handshake machine of a stream that was dialled."""
        return Initiator(
            this_name=self.node.name,
            this_creation=self.creation,
            peer_name=node.name,
            flags=self._flags(),
            cookie=self._secret_for(node),
            challenge=secrets.randbits(32),
            setup_timeout=self.options.net_setuptime,
            now=now,
            limits=self.limits,
            length_bytes=route.carrier.handshake_length_bytes,
        )

    def still_wanted(self, session: Session) -> bool:
        assert session.node is not None
        return self.connections.still_pending(session.node, session)

    # --- Accepting ----------------------------------------------------------------------------------------------------

    async def listen(self, route: Route) -> Listener:
        """Listen. Cancelling this does not cancel the carrier: asyncio would leave its socket in the event loop."""
        listening = self.loop.create_task(route.carrier.listen(partial(self._accept, route), node=self.node.name))
        try:
            return await asyncio.shield(listening)
        except asyncio.CancelledError:
            await (await listening).close()
            raise

    def _accept(self, route: Route, stream: Stream) -> Session:
        session = Session(self, None, route)
        self._sessions.add(session)
        excess = self._accepting.add(session, stream.peer_address)
        if not self.open:
            session.end(NetworkError("this node is stopping"), abort=True)
        elif excess is not None:
            self._close_oldest(excess)
        return session.attach(stream)

    def _close_oldest(self, excess: Excess[Session]) -> None:
        """Not the new one: who floods this port with connections shall not keep others out."""
        what = f"{excess.count} handshakes at a time from there, {len(self._accepting)} in all"
        self.bounds.log.hit(excess.limit, excess.address or "this machine", what, "the oldest of them is closed")
        oldest = excess.oldest
        oldest.end(NetworkError("too many handshakes at a time, of which this is the oldest"), abort=True)
        oldest.abort()  # it may have ended before, with a stream that waits for the peer to close
        self._accepting.discard(oldest)

    def acceptor(self, route: Route, now: float) -> Acceptor:
        """The handshake machine of a stream that was accepted."""
        return Acceptor(
            this_name=self.node.name,
            this_creation=self.creation,
            flags=self._flags(),
            challenge=secrets.randbits(32),
            setup_timeout=self.options.net_setuptime,
            now=now,
            limits=self.limits,
            length_bytes=route.carrier.handshake_length_bytes,
        )

    def decide(self, session: Session, machine: Acceptor, peer: PeerNamed) -> None:
        """A peer has said its name: what becomes of its attempt."""
        hidden = not peer.flags & Flag.PUBLISHED
        name, creation = self._dynamic_names.give(peer.name, self.connections) if peer.dynamic else (peer.name, 0)
        node = Atom(name)
        if not self.is_allowed(node):
            raise self._not_allowed(session, machine, name, "it is none of the nodes that are allowed here")
        if self._is_full_for(node):
            raise self._not_allowed(session, machine, name, "this node has as many connections as it may have")
        why = session.refusal(name)
        if why is not None:
            raise self._not_allowed(session, machine, name, why)
        before = self._attempt(node)
        accepted = self.connections.accept(node, self.node, session, hidden)
        if accepted.verdict is Verdict.ALREADY_PENDING:
            session.end(HandshakeError(f"{name} dialled again while an attempt of its is being decided"), abort=True)
            return
        if accepted.verdict is Verdict.NOK:
            machine.refuse(Refusal.NOK)
            # Nobody's fault: the two dialled at the same time.
            raise NetworkError(f"refused {name}: the attempt of this node to connect to it goes on")
        session.node = node
        if before is not None and before.stage is Stage.ENDED:
            before.end_pressure()  # it has conceded
        if peer.dynamic:
            machine.accept_named(name, creation, cookie=self._secret_for(node))
            return
        if isinstance(accepted.old_owner, Session):
            accepted.old_owner.end(
                NetworkError(f"{name} dialled at the same time, and its attempt goes on"), abort=True
            )
        machine.accept(Accept(accepted.verdict.value), cookie=self._secret_for(node))

    def _not_allowed(self, session: Session, machine: Acceptor, name: str, why: str) -> NetworkError:
        """Tell the peer so, and the log; who dials on and on, in a line a spell."""
        machine.refuse(Refusal.NOT_ALLOWED)
        self._said.refused(session, name, why)
        return NetworkError(f"refused {name}: {why}")

    def _is_full_for(self, node: Atom) -> bool:
        """Whether there are so many connections that `node`, which is not among them, cannot have one."""
        count = self.connections.up_count
        if count < self.limits.connections_max or node in self.connections.channels:
            return False
        self.bounds.log.hit(
            "connections_max", node.name, f"it connects while there are {count} others", "it is refused"
        )
        return True

    def may_take_over(self, session: Session) -> bool:
        """An accepted peer has proved its cookie. False: not yet (or never); the session is told when."""
        assert session.node is not None
        match self.connections.take_over(session.node, session):
            case TakeOver.PROCEED if not self._is_full_for(session.node):
                return True
            case TakeOver.PROCEED:
                full = NetworkError(f"refused {session.node}: this node has as many connections as it may have")
                self.loop.call_soon(lambda: session.end(full, abort=True))
            case TakeOver.CLOSE_OLD:
                old = self.connections.channels[session.node]
                cause = NetworkError(f"{session.node} has connected anew")
                self.loop.call_soon(lambda: old.end(cause, a.connection_closed, abort=True))
            case TakeOver.GONE:
                self.loop.call_soon(lambda: session.end(HandshakeError("the attempt has lost its claim"), abort=True))
        return False

    # --- What sessions tell -------------------------------------------------------------------------------------------

    def channel(self, flags: Flag, now: float) -> Channel:
        options = self.options
        return Channel(
            flags,
            net_ticktime=self.ticktime.seconds,
            net_tickintensity=self.ticktime.intensity,
            now=now,
            strings=options.strings,
            limits=self.limits,
            lanes=True,
        )

    def inbox(self, peer: Atom) -> Arrivals:
        """What takes all that comes from `peer`."""
        if self._gate is not None and (self._gate.decides("to_name") or self._gate.decides("monitor")):
            return GuardedArrivals(self.runtime.signals, peer, self._handlers, self._gate)
        return Arrivals(self.runtime.signals, peer, self._handlers)

    def may_send(self, peer: Atom, name: Atom) -> bool:
        """Whether the guard lets messages of `peer` through to who is registered as `name`."""
        return self._gate is None or not self._gate.decides("to_name") or self._gate.may_send(peer, name)

    def session_up(self, session: Session, event: Established) -> bool:
        """The handshake is done: what waited goes out first, then everybody is told. False: it is not wanted."""
        self._accepting.discard(session)
        self._dialling.discard(session)
        assert session.node is not None
        hidden = not event.flags & Flag.PUBLISHED
        up = self.connections.up(
            session.node,
            session,
            session,
            hidden=hidden,
            creation=event.creation,
            flags=int(event.flags),
            address=session.peer_address,
            counters=session.counters,
        )
        if up is None:
            return False
        self._failures.pop(session.node, None)
        self._said.connected(session, hidden)
        for record in up.queue:
            try:
                session.send(record)
            except EncodeError as error:  # what waited has a term, but it may be too large for a frame
                log.error("a %s for %s is lost: %s", type(record).__name__, session.node, error)
        for waiter in up.waiting:
            _settle(waiter, True)
        self.runtime.node_monitors.node_up(session.node, a.hidden if hidden else a.visible, up.connection.id)
        self.runtime.flush()
        return True

    def session_ended(self, session: Session, cause: BeamnodeError, reason: Atom) -> None:
        """A session is over, for whatever reason: told once by each."""
        self._sessions.discard(session)
        self._dialling.discard(session)
        self._said.ended(session, cause)
        if session.node is None:
            self._said.stranger(session, cause)
            return
        if session.outgoing and isinstance(cause, RefusedByPeer) and self._concede(session):
            return
        down = self.connections.down(session.node, session, reason)
        if down is not None:
            self._tell_down(down, cause, session)

    def stream_gone(self, session: Session) -> None:
        """The stream of a session has ended, now or a while after the session: told once by each that had one."""
        self._accepting.discard(session)

    def _concede(self, session: Session) -> bool:
        """The peer's own attempt is on its way here: hold the entry open for it, for a while.

        Who sends meanwhile waits at the pressure of this attempt, which has ended.
        """
        assert session.node is not None
        node = session.node
        if not self.connections.concede(node, session, session):
            return False

        def give_up() -> None:
            down = self.connections.down(node, session, a.setup_timer_timeout)
            session.end_pressure()
            if down is not None:
                self._tell_down(down, SetupTimeout(f"{node} said that it is dialling this node, and never came"))

        self.loop.call_later(self.options.net_setuptime, give_up)
        return True

    def _tell_down(self, down: Down, cause: BeamnodeError, session: Session | None = None) -> None:
        node, entry = down.connection.node, down.connection
        if down.kind is DownKind.CONTENDER_LEFT:
            self._said.failed(node, cause, session)
            for waiter in down.waiting:
                _settle(waiter, True)
            return
        if down.was_up:
            self._said.lost(node, cause)
            self.runtime.break_ties(node)
            node_type = a.hidden if entry.hidden else a.visible
            self.runtime.node_monitors.node_down(node, node_type, entry.id, down.reason)
            if entry.flags & Flag.NAME_ME:
                self._dynamic_names.take_back(node, entry.creation)
        else:
            self._note_failure(node, cause)
            self._said.failed(node, cause, session)
            self.runtime.break_ties(node)
            self.runtime.node_monitors.tell_watchers(node)
            for waiter in down.waiting:
                _settle(waiter, False)
        self.runtime.flush()
        if isinstance(down.continues, Session):
            down.continues.continue_after_replaced()

    def _note_failure(self, node: Atom, cause: BeamnodeError) -> None:
        self._failures.pop(node, None)
        self._failures[node] = cause
        if len(self._failures) > self.limits.failures_kept_max:
            del self._failures[next(iter(self._failures))]

    # --- The end ------------------------------------------------------------------------------------------------------

    async def close(self, timeout: float) -> None:
        """End every connection and attempt; what was sent still goes out, each step within `timeout` seconds."""
        await self._let_messages_out(timeout)
        self.open = False
        self.ticktime.cancel()
        sessions = list(self._sessions)
        for session in sessions:
            session.end(NetworkError("this node is stopping"), a.net_kernel_terminated)
        for entry in self.connections.connections():
            down = self.connections.down(entry.node, entry.owner, a.net_kernel_terminated)
            if down is not None:
                self._tell_down(down, NetworkError("this node is stopping"))
        try:
            async with asyncio.timeout(timeout):
                for session in sessions:
                    await session.gone()
        except TimeoutError:
            log.info("not every peer of %s has taken what was sent to it", self.node)
        finally:
            for session in sessions:
                session.abort()

    async def _let_messages_out(self, timeout: float) -> None:
        """Messages that wait for their connection: in Erlang their sender would still be waiting in `!`."""
        waiters: list[asyncio.Future[bool]] = []
        for entry in self.connections.connections():
            if not entry.is_up and any(isinstance(record, _TO_BE_TOLD) for record in entry.queue):
                waiters.append(self.loop.create_future())
                self.connections.explicit_connect(entry.node, waiters[-1])
        if waiters:
            await asyncio.wait(waiters, timeout=timeout)

    def _flags(self) -> Flag:
        return DEFAULT if self.options.hidden else DEFAULT | Flag.PUBLISHED


def _named(node: Atom) -> NodeName:
    alive, _, host = node.name.partition("@")
    return NodeName(alive, host, is_long_host(host))


def _snapshot(record: control.Record) -> tuple[control.Record, int]:
    """`record` with a payload that cannot change while it waits, and the bytes of that. Errors: EncodeError."""
    if isinstance(record, _MESSAGES):
        encoded = encode(record.message)
        return dataclasses.replace(record, message=decode(encoded)), len(encoded)
    if isinstance(record, control.SpawnRequest):
        encoded = encode((record.args, record.options))
        args, options = decode(encoded)
        return dataclasses.replace(record, args=args, options=options), len(encoded)
    if isinstance(record, control.Exit2):
        encoded = encode(record.reason)
        return dataclasses.replace(record, reason=decode(encoded)), len(encoded)
    if isinstance(record, control.Exit | control.MonitorPExit):
        encoded = encode(sendable(record.reason))
        return dataclasses.replace(record, reason=decode(encoded)), len(encoded)
    return record, 0


def _settle(waiter: asyncio.Future[bool], answer: bool) -> None:
    if not waiter.done():
        waiter.set_result(answer)
