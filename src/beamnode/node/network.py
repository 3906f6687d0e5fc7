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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from beamnode.carriers.base import Listener, Stream
from beamnode.carriers.options import Value
from beamnode.carriers.options import set as set_options
from beamnode.core.arrivals import Arrivals
from beamnode.core.connections import AutoConnect, Connections, Down, DownKind, NodesKind, TakeOver, Verdict, Want
from beamnode.errors import (
    BeamnodeError,
    CookieMismatch,
    EncodeError,
    HandshakeError,
    NetworkError,
    NodeNameError,
    NodeNotFound,
    PeerError,
    RefusedByPeer,
    SetupTimeout,
    TlsError,
)
from beamnode.etf import Atom, a, decode, encode
from beamnode.etf.terms import on_one_line
from beamnode.limits import Limits
from beamnode.node.epmd_discovery import random_creation
from beamnode.node.names import NodeName, check_compatible, is_long_host
from beamnode.node.reasons import sendable
from beamnode.node.routes import Route
from beamnode.node.runtime import Runtime
from beamnode.node.session import Session
from beamnode.node.ticktime import NetTicktime
from beamnode.wire import control
from beamnode.wire.channel import Channel
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake import Accept, Acceptor, Established, Initiator, PeerNamed, Refusal

log = logging.getLogger("beamnode.connection")

FAILURES_KEPT_MAX = 256  # reasons of failed connects that `failure` can tell
DYNAMIC_HOSTS_MAX = 256  # whose peers get a name again that was given there before
DYNAMIC_NAME_BITS = 64  # as OTP: integer_to_list(rand:uniform(1 bsl 64), 36)

# What the other side is to have even when this node stops while it connects.
_TO_BE_TOLD = (control.Send, control.RegSend, control.AliasSend, control.Exit, control.Exit2)

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


class Network:
    """Everything between this node and the others."""

    def __init__(
        self,
        node: Atom,
        *,
        loop: asyncio.AbstractEventLoop,
        routes: Sequence[Route],
        cookie_for: Callable[[Atom], bytes],
        options: NetworkOptions,
        limits: Limits,
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
        self._cookie_for = cookie_for
        self._sessions: set[Session] = set()
        self._accepting: dict[Session, None] = {}  # accepted, not up (yet), stream still there; the oldest first
        self._dialling: set[Session] = set()  # dialled, not up yet
        self._failures: dict[Atom, BeamnodeError] = {}
        self.ticktime = NetTicktime(options.net_ticktime, options.net_tickintensity, loop, self._up_sessions)
        self.socket_options: dict[str, Value] = {}  # of connections to come
        self.allowed: list[Atom] = []  # nobody said so yet: every node that has the cookie
        self._dynamic_names: dict[str, list[tuple[str, int]]] = {}

    def join(self, runtime: Runtime, creation: int) -> None:
        """Open, with the runtime that this network carries signals for, and the creation of this life of the node."""
        self.runtime = runtime
        runtime.sessions = self.connections.channels
        self.creation = creation
        self.open = True
        signals, spawning = runtime.signals, runtime.spawning
        self._handlers = {
            **signals.handlers,
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
        if len(self._dialling) >= self.limits.dials_pending_max and self.connections.get(node) is None:
            log.warning("no connection to %s: %d others are being made", on_one_line(node.name), len(self._dialling))
            self.runtime.break_ties(node)
            return
        match self.connections.want(node, _snapshot(record)):
            case Want.DIAL:
                self._dial(node)
            case Want.REFUSED:
                log.info(
                    "no connection to %s: dist_auto_connect is %s",
                    on_one_line(node.name),
                    self.connections.auto_connect.value,
                )
                self.runtime.break_ties(node)

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
        """Whether `allowed` has the node, its host (`"host"`) or its name (`"name@"`), if it has anything."""
        if not self.allowed:
            return True
        alive, _, host = node.name.partition("@")
        return any(allowed.name in (node.name, host, f"{alive}@") for allowed in self.allowed)

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
            cookie=self._cookie_for(node),
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
        self._accepting[session] = None
        if not self.open:
            session.end(NetworkError("this node is stopping"), abort=True)
        elif len(self._accepting) > self.limits.handshakes_pending_max:
            # Not the new one: who floods this port with connections shall not keep others out.
            oldest = next(iter(self._accepting))
            log.warning("%d handshakes at a time: closing the oldest, %r", len(self._accepting), oldest)
            oldest.end(NetworkError("too many handshakes at a time, of which this is the oldest"), abort=True)
            oldest.abort()  # it may have ended before, with a stream that waits for the peer to close
            self._accepting.pop(oldest, None)
        return session.attach(stream)

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
        name, creation = self._new_dynamic_name(peer.name) if peer.dynamic else (peer.name, 0)
        node = Atom(name)
        if not self.is_allowed(node):
            log.warning("refused %s: it is none of the nodes that are allowed here", name)
            machine.refuse(Refusal.NOT_ALLOWED)
            raise NetworkError(f"refused {name}: it is none of the nodes that are allowed here")
        why = session.refusal(name)
        if why is not None:
            log.warning("refused %s: %s", name, why)
            machine.refuse(Refusal.NOT_ALLOWED)
            raise NetworkError(f"refused {name}: {why}")
        accepted = self.connections.accept(node, self.node, session, hidden)
        if accepted.verdict is Verdict.ALREADY_PENDING:
            session.end(HandshakeError(f"{name} dialled again while an attempt of its is being decided"), abort=True)
            return
        if accepted.verdict is Verdict.NOK:
            machine.refuse(Refusal.NOK)
            # Nobody's fault: the two dialled at the same time.
            raise NetworkError(f"refused {name}: the attempt of this node to connect to it goes on")
        session.node = node
        if peer.dynamic:
            machine.accept_named(name, creation, cookie=self._cookie_for(node))
            return
        if isinstance(accepted.old_owner, Session):
            accepted.old_owner.end(
                NetworkError(f"{name} dialled at the same time, and its attempt goes on"), abort=True
            )
        machine.accept(Accept(accepted.verdict.value), cookie=self._cookie_for(node))

    def may_take_over(self, session: Session) -> bool:
        """An accepted peer has proved its cookie. False: not yet (or never); the session is told when."""
        assert session.node is not None
        match self.connections.take_over(session.node, session):
            case TakeOver.PROCEED:
                return True
            case TakeOver.CLOSE_OLD:
                old = self.connections.channels[session.node]
                cause = NetworkError(f"{session.node} has connected anew")
                self.loop.call_soon(lambda: old.end(cause, a.connection_closed, abort=True))
            case TakeOver.GONE:
                self.loop.call_soon(lambda: session.end(HandshakeError("the attempt has lost its claim"), abort=True))
        return False

    def _new_dynamic_name(self, host: str) -> tuple[str, int]:
        """For a peer that asks for a name: one that was given before at its host, or a random one."""
        pool = self._dynamic_names.get(host, [])
        while pool:
            name, creation = pool.pop()
            if self.connections.get(Atom(name)) is None:
                return name, creation
        return f"{_base36(secrets.randbits(DYNAMIC_NAME_BITS))}@{host}", random_creation()

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
        )

    def inbox(self, peer: Atom) -> Arrivals:
        """What takes all that comes from `peer`."""
        return Arrivals(self.runtime.signals, peer, self._handlers)

    def session_up(self, session: Session, event: Established) -> bool:
        """The handshake is done: what waited goes out first, then everybody is told. False: it is not wanted."""
        self._accepting.pop(session, None)
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
        log.info("connected with %s%s", session.node, " (hidden)" if hidden else "")
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
        if session.node is None:
            _log_stranger(cause)
            return
        if session.outgoing and isinstance(cause, RefusedByPeer) and self._concede(session):
            return
        down = self.connections.down(session.node, session, reason)
        if down is not None:
            self._tell_down(down, cause)

    def stream_gone(self, session: Session) -> None:
        """The stream of a session has ended, now or a while after the session: told once by each that had one."""
        self._accepting.pop(session, None)

    def _concede(self, session: Session) -> bool:
        """The peer's own attempt is on its way here: hold the entry open for it, for a while."""
        assert session.node is not None
        node, patience = session.node, object()
        if not self.connections.concede(node, session, patience):
            return False

        def give_up() -> None:
            down = self.connections.down(node, patience, a.setup_timer_timeout)
            if down is not None:
                self._tell_down(down, SetupTimeout(f"{node} said that it is dialling this node, and never came"))

        self.loop.call_later(self.options.net_setuptime, give_up)
        return True

    def _tell_down(self, down: Down, cause: BeamnodeError) -> None:
        node, entry = down.connection.node, down.connection
        if down.kind is DownKind.CONTENDER_LEFT:
            _log_failure(node, cause)
            for waiter in down.waiting:
                _settle(waiter, True)
            return
        if down.was_up:
            log.info("connection with %s lost: %s", node, cause)
            self.runtime.break_ties(node)
            node_type = a.hidden if entry.hidden else a.visible
            self.runtime.node_monitors.node_down(node, node_type, entry.id, down.reason)
            self._return_dynamic_name(entry.node, entry.creation, entry.flags)
        else:
            self._note_failure(node, cause)
            self.runtime.break_ties(node)
            self.runtime.node_monitors.tell_watchers(node)
            for waiter in down.waiting:
                _settle(waiter, False)
        self.runtime.flush()
        if isinstance(down.continues, Session):
            down.continues.continue_after_replaced()

    def _return_dynamic_name(self, node: Atom, creation: int, flags: int) -> None:
        if flags & Flag.NAME_ME:
            host = node.name.partition("@")[2]
            if host not in self._dynamic_names and len(self._dynamic_names) >= DYNAMIC_HOSTS_MAX:
                del self._dynamic_names[next(iter(self._dynamic_names))]
            self._dynamic_names.setdefault(host, []).append((node.name, max((creation + 1) & 0xFFFFFFFF, 4)))

    def _note_failure(self, node: Atom, cause: BeamnodeError) -> None:
        self._failures.pop(node, None)
        self._failures[node] = cause
        if len(self._failures) > FAILURES_KEPT_MAX:
            del self._failures[next(iter(self._failures))]
        _log_failure(node, cause)

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


def _snapshot(record: control.Record) -> control.Record:
    """`record` with a payload that cannot change while it waits. Errors: EncodeError."""
    if isinstance(record, control.Send | control.RegSend | control.AliasSend):
        return dataclasses.replace(record, message=decode(encode(record.message)))
    if isinstance(record, control.SpawnRequest):
        return dataclasses.replace(record, args=decode(encode(record.args)), options=decode(encode(record.options)))
    if isinstance(record, control.Exit2):
        return dataclasses.replace(record, reason=decode(encode(record.reason)))
    if isinstance(record, control.Exit | control.MonitorPExit):
        return dataclasses.replace(record, reason=decode(encode(sendable(record.reason))))
    return record


def _settle(waiter: asyncio.Future[bool], answer: bool) -> None:
    if not waiter.done():
        waiter.set_result(answer)


def _log_failure(node: Atom, cause: BeamnodeError) -> None:
    """A node that is not there is an everyday thing, as in OTP; a wrong cookie or a broken peer is not."""
    level = logging.INFO
    if isinstance(cause, CookieMismatch):
        level = logging.ERROR
    elif isinstance(cause, PeerError | SetupTimeout | TlsError | NodeNameError):
        level = logging.WARNING
    log.log(level, "no connection with %s: %s", on_one_line(node.name), on_one_line(str(cause)))


def _log_stranger(cause: BeamnodeError) -> None:
    if isinstance(cause, PeerError | SetupTimeout | TlsError):
        log.warning("closed a connection that did not become a node: %s", cause)
    else:
        log.debug("closed a connection that did not become a node: %s", cause)


def _base36(number: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text or "0"
