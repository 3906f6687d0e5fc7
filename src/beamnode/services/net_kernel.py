"""`net_kernel`: the server that answers for the node's connections, to `net_adm:ping/1` and whoever asks about them.

Its state is shown in the shape of OTP's record (WIRE.md 2.7), for people and tools that look at it. Where OTP has a
process or a port for each connection and for the listener, that shows a pid or a port that nothing else has.
Source: net_kernel.erl, `handle_call`.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from beamnode.carriers.options import Value
from beamnode.core.connections import Connection
from beamnode.errors import NetworkError, UsageError
from beamnode.etf import Atom, Pid, Port, a
from beamnode.etf.shown import shown
from beamnode.node import Node, spawn
from beamnode.node import self as own_pid
from beamnode.otp import gen
from beamnode.otp.gen_server import NO_REPLY, GenServer, enter_loop
from beamnode.services.net_control import NetControl, NotConnected

log = logging.getLogger("beamnode.net_kernel")


async def run(node: Node) -> None:
    """Serve for as long as the node is up."""
    assert isinstance(node, NetControl)
    await enter_loop(NetKernel(node))


class NetKernel(GenServer):
    """What OTP's does not know gets no answer, there as here."""

    def __init__(self, node: NetControl) -> None:
        self._node = node
        self._verbose = 0
        self._owners: dict[int, Pid] = {}  # of connections, by their ids
        self._connecting: set[Pid] = set()  # processes that connect because that was asked for

    @classmethod
    def module_name(cls) -> Atom:
        return a.net_kernel

    # --- Calls --------------------------------------------------------------------------------------------------------

    def handle_call(self, request: Any, sender: gen.From) -> Any:
        node = self._node
        match request:
            case (a.is_auth, _):
                return a.yes
            case a.longnames:
                return node.long_names
            case a.nodename:
                return node.name
            case a.get_state:
                domain = a.longnames if node.long_names else a.shortnames
                return {a.started: a.static, a.name_type: a.static, a.name: node.name, a.name_domain: domain}
            case (a.verbose, level):
                before, self._verbose = self._verbose, level
                return before
            case a.ticktime | (a.new_ticktime, _, _):
                return self._ticktime(request)
            case a.allowed | (a.allow, _):
                return self._allow(request)
            case (a.connect, _, Atom()) | (a.disconnect, Atom()):
                return self._connection(request, sender)
            case (a.getopts, Atom() as other, list() as names):
                return self._options(lambda: (a.ok, _as_terms(node.getopts(other, _names(names)))))
            case (a.setopts, Atom() as other, list() as options):
                return self._options(lambda: self._set_options(other, options))
        log.info("net_kernel was asked for %s, and does not know it", shown(request))
        return NO_REPLY

    def handle_cast(self, request: Any) -> None:
        match request:
            case (a.async_disconnect, Atom() as other):
                self._node.network.disconnect(other)

    def handle_info(self, message: Any) -> None:
        log.info("net_kernel got %s", shown(message))

    def _ticktime(self, request: Any) -> Any:
        """Times are milliseconds."""
        ticktime = self._node.network.ticktime
        match request:
            case (_, int() as time, int() as transition) if time > 0 and transition >= 0:
                return ticktime.change(time, transition)
            case (_, _, _):
                return NO_REPLY
        return ticktime.time if ticktime.how is None else (a.ongoing_change_to, ticktime.time)

    def _allow(self, request: Any) -> Any:
        match request:
            case (_, [*nodes]) if all(isinstance(node, Atom) for node in nodes):
                self._node.allow(nodes)
                return a.ok
            case (_, _):
                return a.error
        return (a.ok, self._node.allowed())

    def _connection(self, request: Any, sender: gen.From) -> Any:
        match request:
            case (a.disconnect, other):
                return not self._node.own_name(other) and self._node.network.disconnect(other)
            case (_, _, other):
                return self._connect(other, sender)
        return NO_REPLY

    def _connect(self, other: Atom, sender: gen.From) -> Any:
        """In a process of its own, so that others are served meanwhile; no more of them than nodes may be dialled."""
        network, signals = self._node.network, self._node.runtime.signals
        if len(self._connecting) >= network.limits.dials_pending_max:
            self._connecting = {pid for pid in self._connecting if signals.lookup(pid) is not None}
        if len(self._connecting) >= network.limits.dials_pending_max:
            what = f"asks for a connection while {len(self._connecting)} who asked wait for theirs"
            network.bounds.log.hit("dials_pending_max", sender[0].node.name, what, "answered false")
            return False
        if network.connections.get(other) is None and not network.may_dial(other):
            return False

        async def connect() -> None:
            try:
                gen.reply(sender, await network.connect(other))
            finally:
                self._connecting.discard(own_pid())

        self._connecting.add(spawn(connect))
        return NO_REPLY

    def _options(self, act: Any) -> Any:
        try:
            return act()
        except (UsageError, OverflowError, TypeError, ValueError):  # a number that is none for a socket
            return (a.error, a.einval)
        except NotConnected:
            return (a.error, a.noconnection)
        except NetworkError:
            return (a.error, a.enotsup)

    def _set_options(self, other: Atom, options: list[Any]) -> Atom:
        self._node.setopts(None if other is a.new else other, dict(_option(option) for option in options))
        return a.ok

    # --- The state ----------------------------------------------------------------------------------------------------

    def get_state(self) -> Any:
        """`#state{}` of net_kernel.erl."""
        node = self._node
        entries = node.network.connections.connections()
        self._owners = {entry.id: self._owner(entry) for entry in entries}
        return (
            a.state,
            node.name,
            a.longnames if node.long_names else a.shortnames,
            self._tick(),
            round(node.network.options.net_setuptime * 1000),
            a.sys_dist,
            {self._owners[entry.id]: entry.node for entry in entries},
            {Port(node.name, entry.id, node.creation): entry.node for entry in entries if entry.is_up},
            {},
            [self._listen(route.carrier.name, listener.address) for route, listener in node.listening],
            node.allowed(),
            self._verbose,
            {},
            a.net_sup,
            {},
        )

    def _owner(self, entry: Connection) -> Pid:
        return self._owners.get(entry.id) or self._node.runtime.identities.next_pid()

    def _tick(self) -> Any:
        ticktime = self._node.network.ticktime
        if ticktime.how is None:
            return (a.tick, own_pid(), ticktime.time, ticktime.intensity)
        return (a.tick_change, own_pid(), ticktime.time, ticktime.intensity, ticktime.how)

    def _listen(self, carrier: str, address: tuple[str, int]) -> Any:
        """`#listen{listen, accept, address, module}`, with `#net_address{address, host, protocol, family}`."""
        node = self._node
        host, port = address
        family = a.local if host.startswith("/") else a.inet6 if ":" in host else a.inet
        module = Atom(f"{family}_{carrier}_dist")  # OTP: inet_tcp_dist, inet6_tcp_dist, inet_tls_dist, inet6_tls_dist
        here = [ord(character) for character in node.name.name.partition("@")[2]]
        place = (a.local, host.encode()) if family is a.local else (_ip(host), port)  # as inet:sockname/1
        net_address = (a.net_address, place, here, Atom(carrier), family)
        return (a.listen, Port(node.name, 0, node.creation), own_pid(), net_address, module)


def _ip(host: str) -> Any:
    """`{127,0,0,1}`, or eight words; what is no address as a charlist."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return [ord(character) for character in host]
    size = 1 if address.version == 4 else 2
    packed = address.packed
    return tuple(int.from_bytes(packed[index : index + size]) for index in range(0, len(packed), size))


def _names(names: list[Any]) -> list[str]:
    if not all(isinstance(name, Atom) for name in names):
        raise UsageError(f"names of options are atoms: {shown(names)}")
    return [name.name for name in names]


def _option(option: Any) -> tuple[str, Value]:
    match option:
        case (Atom() as name, bool() | int() as value):
            return name.name, value
    raise UsageError(f"an option is {{name, value}}, not {shown(option)}")


def _as_terms(options: dict[str, Value]) -> list[tuple[Atom, Value]]:
    return [(Atom(name), value) for name, value in options.items()]
