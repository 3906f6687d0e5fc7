"""channel.py against real nodes of every supported OTP, over plain blocking sockets, in every form of a message."""

from __future__ import annotations

import random
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from beamnode.etf import Atom, Pid, Reference, a
from beamnode.testing.peers import Epmd, ErlNode, Otp
from beamnode.wire.channel import Channel
from beamnode.wire.control import (
    SPAWN_LINKED,
    SPAWN_MONITORED,
    AliasSend,
    DemonitorP,
    Exit,
    Exit2,
    GroupLeader,
    Link,
    MonitorP,
    MonitorPExit,
    Record,
    RegSend,
    Send,
    SpawnReply,
    SpawnRequest,
    UnlinkId,
    UnlinkIdAck,
)
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake import Established, Initiator

HOST = "127.0.0.1"
TIMEOUT = 10.0
NO_CACHE, NO_FRAGMENTS = Flag.DIST_HDR_ATOM_CACHE, Flag.FRAGMENTS
FORMS = {
    "cached": DEFAULT,
    "cached, unfragmented": DEFAULT ^ NO_FRAGMENTS,
    "fragmented": DEFAULT ^ NO_CACHE,
    "pass through": DEFAULT ^ NO_CACHE ^ NO_FRAGMENTS,
    "old": DEFAULT ^ Flag.EXIT_PAYLOAD ^ Flag.SEND_SENDER ^ Flag.ALTACT_SIG,
}

pytestmark = pytest.mark.otp

Kind = TypeVar("Kind", bound=Record)


@pytest.fixture(scope="module")
def peer(otp: Otp) -> Iterator[ErlNode]:
    """A node with a process `echo`, which sends what it gets in `{Pid, Message}` back to the pid."""
    with ExitStack() as stack:
        epmd = stack.enter_context(Epmd(otp))
        node = stack.enter_context(ErlNode.start(otp, f"m@{HOST}", cookie="chips", epmd_port=epmd.port))
        node.eval("register(echo, spawn(fun Echo() -> receive {P, M} -> P ! M, Echo() end end))")
        node.epmd_port = epmd.port  # type: ignore[attr-defined]
        yield node


class World:
    """A connection to the node as a hidden node, driven by hand."""

    def __init__(self, peer: ErlNode, flags: Flag, *, lanes: bool = False) -> None:
        self.peer = peer
        self.name = f"py{secrets.token_hex(4)}@{HOST}"
        self.creation = random.getrandbits(32) | 4
        self.me = Pid(Atom(self.name), 1, 0, self.creation)
        self.socket = socket.create_connection((HOST, port_of(peer.epmd_port, "m")), timeout=TIMEOUT)  # type: ignore[attr-defined]
        up = self._handshake(flags)
        self.flags = up.flags
        self.channel = Channel(up.flags, now=0.0, lanes=lanes)
        self.channel.receive_data(up.unused, 0.0)
        self.echo = peer.eval("whereis(echo)")

    def _handshake(self, flags: Flag) -> Established:
        machine = Initiator(
            this_name=self.name,
            this_creation=self.creation,
            peer_name=f"m@{HOST}",
            flags=flags,
            cookie=b"chips",
            challenge=1,
            setup_timeout=TIMEOUT,
            now=time.monotonic(),
        )
        while True:
            for chunk in machine.data_to_send():
                self.socket.sendall(chunk)
            event = machine.next_event()
            if isinstance(event, Established):
                return event
            if event is None:
                machine.receive_data(self.socket.recv(4096), time.monotonic())

    def ref(self, number: int) -> Reference:
        return Reference(self.me.node, self.creation, (number, 0, 0))

    def send(self, *records: Record) -> None:
        for record in records:
            self.channel.send(record)
        self.socket.sendall(b"".join(self.channel.data_to_send()))

    def next(self, kind: type[Kind]) -> Kind:
        """The next record, which has to be of that kind."""
        while (record := self.channel.next_event()) is None:
            data = self.socket.recv(65536)
            assert data, f"the node closed the connection; its log:\n{self.peer.log()}"
            self.channel.receive_data(data, 0.0)
        assert isinstance(record, kind), record
        return record

    def got(self) -> Any:
        """The next message to the peer's process that evaluates."""
        return self.peer.eval("(fun() -> receive Got -> Got after 5000 -> nothing end end)()")

    def echoed(self, message: Any) -> Any:
        self.send(RegSend(self.me, Atom("echo"), (self.me, message)))
        got = self.next(Send)
        assert got.to == self.me
        assert got.sender == (self.echo if self.flags & Flag.SEND_SENDER else None)
        return got.message


def port_of(epmd_port: int, name: str) -> int:
    with socket.create_connection((HOST, epmd_port), timeout=TIMEOUT) as sock:
        sock.sendall(struct.pack(">HB", 1 + len(name), 122) + name.encode())
        answer = sock.recv(4, socket.MSG_WAITALL)
    assert answer[:2] == b"\x77\x00"
    return int.from_bytes(answer[2:4])


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def world(peer: ErlNode, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(peer, request.param)
    with world.socket:
        yield world


def test_messages_there_and_back(world: World) -> None:
    for message in (a.ok, (a.msg, 1, b"payload"), [1, 2.5, {a.k: None}], world.me, world.ref(7), [], b"text"):
        assert world.echoed(message) == message
        assert world.echoed(message) == message


def test_to_a_pid(world: World) -> None:
    world.send(Send(world.echo, (world.me, a.hello), world.me))
    assert world.next(Send).message == a.hello


@pytest.mark.parametrize("size", [65_000, 65_536, 300_000, 5_000_000])
def test_large_messages(world: World, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    world.socket.settimeout(60)
    assert world.echoed([payload, a.new, payload]) == [payload, a.new, payload]
    assert world.echoed(a.small) == a.small


def test_thousands_of_atoms(world: World) -> None:
    rng = random.Random(1)
    atoms = [Atom(f"{'x' * rng.randint(0, 200)}\N{SNOWMAN}{number}") for number in range(4000)]
    for _ in range(60):
        message = rng.sample(atoms[: rng.choice((10, 400, 4000))], rng.choice((1, 5, 10)))
        assert world.echoed(message) == message
    for count in (250, 300, 3000):
        assert world.echoed(atoms[:count]) == atoms[:count]


def test_monitors(world: World) -> None:
    world.send(MonitorP(world.me, Atom("nobody"), world.ref(1)))
    assert world.next(MonitorPExit) == MonitorPExit(Atom("nobody"), world.me, world.ref(1), a.noproc)
    pid = world.peer.eval("spawn(fun() -> receive stop -> exit({bad, <<1>>}) end end)")
    world.send(MonitorP(world.me, pid, world.ref(2)), MonitorP(world.me, pid, world.ref(3)))
    world.send(DemonitorP(world.me, pid, world.ref(2)), Send(pid, a.stop, world.me))
    assert world.next(MonitorPExit) == MonitorPExit(pid, world.me, world.ref(3), (a.bad, b"\x01"))


def test_the_peer_monitors(world: World) -> None:
    world.peer.eval("monitor(process, Me)", Me=world.me)
    record = world.next(MonitorP)
    assert record.target == world.me
    world.send(MonitorPExit(world.me, record.sender, record.ref, (a.gone, b"x" * 100_000)))
    assert world.got() == (a.DOWN, record.ref, a.process, world.me, (a.gone, b"x" * 100_000))
    world.peer.eval("demonitor(monitor(process, {anna, node(Me)}))", Me=world.me)
    record = world.next(MonitorP)
    assert record.target == Atom("anna")
    assert world.next(DemonitorP) == DemonitorP(record.sender, Atom("anna"), record.ref)


def test_links(world: World) -> None:
    pid = world.peer.eval("spawn(fun() -> receive stop -> exit(why) end end)")
    world.send(Link(world.me, pid), UnlinkId(2**60 + 5, world.me, pid))
    assert world.next(UnlinkIdAck) == UnlinkIdAck(2**60 + 5, pid, world.me)
    world.send(Link(world.me, pid), Send(pid, a.stop, world.me))
    assert world.next(Exit) == Exit(pid, world.me, a.why)
    world.send(Link(world.me, pid))
    assert world.next(Exit) == Exit(pid, world.me, a.noproc)
    pid = world.peer.eval("spawn(fun() -> link(Me), receive stop -> ok end end)", Me=world.me)
    assert world.next(Link) == Link(pid, world.me)
    world.send(Exit(world.me, pid, a.broken))
    world.peer.wait_until("not is_process_alive(P)", P=pid)


def test_exits(world: World) -> None:
    trap = "spawn(fun() -> process_flag(trap_exit, true), Me ! ready, receive X -> Me ! {got, X} end end)"
    for reason in (a.normal, (a.bad, b"x" * 100_000)):
        pid = world.peer.eval(trap, Me=world.me)
        assert world.next(Send).message == a.ready
        world.send(Exit2(world.me, pid, reason))
        assert world.next(Send).message == (a.got, (a.EXIT, world.me, reason))
    world.peer.eval("exit(Me, {please, stop})", Me=world.me)
    record = world.next(Exit2)
    assert (record.to, record.reason) == (world.me, (a.please, a.stop))


def test_group_leader(world: World) -> None:
    pid = world.peer.eval("spawn(fun() -> receive stop -> ok end end)")
    world.send(GroupLeader(world.me, pid), RegSend(world.me, Atom("echo"), (world.me, a.done)))
    assert world.next(Send).message == a.done
    assert world.peer.eval("process_info(L, group_leader)", L=pid) == (a.group_leader, world.me)


def test_spawn(world: World) -> None:
    def request(number: int, options: list[Any], function: str, args: list[Any]) -> SpawnRequest:
        leader = world.echo
        return SpawnRequest(world.ref(number), world.me, leader, a.erlang, Atom(function), len(args), options, args)

    world.send(request(1, [a.monitor, a.link], "exit", [(a.bye, 1)]))
    reply = world.next(SpawnReply)
    assert (reply.ref, reply.to, reply.flags) == (world.ref(1), world.me, SPAWN_LINKED | SPAWN_MONITORED)
    assert isinstance(reply.result, Pid)
    assert world.next(Exit) == Exit(reply.result, world.me, (a.bye, 1))
    assert world.next(MonitorPExit) == MonitorPExit(reply.result, world.me, world.ref(1), (a.bye, 1))
    world.send(request(2, [a.nonsense], "exit", [1]))
    assert world.next(SpawnReply) == SpawnReply(world.ref(2), world.me, 0, a.badopt)
    world.peer.eval("spawn_request(node(Me), m, f, [10, <<1>>], [monitor])", Me=world.me)
    asked = world.next(SpawnRequest)
    assert asked.mfa == (a.m, a.f, 2)
    assert asked.args == [10, b"\x01"]
    assert asked.options == [a.monitor]
    world.send(SpawnReply(asked.ref, asked.sender, 0, a.notsup))
    assert world.got() == (a.spawn_reply, asked.ref, a.error, a.notsup)


def test_aliases(world: World) -> None:
    alias = world.peer.eval("alias()")
    world.send(AliasSend(world.me, alias, b"x"), AliasSend(world.me, alias, b"y" * 100_000))
    for message in (b"x", b"y" * 100_000):
        assert world.got() == message
    world.peer.eval("unalias(A), R ! {to, alias}", A=alias, R=world.ref(5))
    record = world.next(AliasSend)
    assert (record.alias, record.message) == (world.ref(5), (a.to, a.alias))
    world.send(AliasSend(world.me, alias, a.late), Send(record.sender, a.after, world.me))
    assert world.got() == a.after


def test_trace_tokens(world: World) -> None:
    world.peer.eval("seq_trace:set_token(label, 17), Me ! traced, seq_trace:set_token([])", Me=world.me)
    record = world.next(Send)
    assert record.message == a.traced
    assert record.token[1] == 17
    world.send(RegSend(world.me, Atom("echo"), (world.me, a.back), record.token))
    got = world.next(Send)
    assert got.message == a.back
    assert got.token[1] == 17
    world.peer.eval("echo ! {Me, untraced}", Me=world.me)  # its token is gone again
    assert world.next(Send).token is None


def test_priority(peer: ErlNode, otp: Otp) -> None:
    world = World(peer, DEFAULT)
    if not world.flags & Flag.ALTACT_SIG:
        world.socket.close()
        return
    with world.socket:
        world.peer.eval("erlang:send(Me, m, [priority]), erlang:send({n, node(Me)}, m, [priority])", Me=world.me)
        assert world.next(Send).priority
        assert world.next(RegSend) == RegSend(world.peer.eval("self()"), Atom("n"), a.m, None, True)
        world.peer.eval("erlang:exit(Me, r, [priority]), erlang:exit(R, r, [priority])", Me=world.me, R=world.ref(1))
        sender = world.peer.eval("self()")
        assert world.next(Exit2) == Exit2(sender, world.me, a.r, None, True)
        assert world.next(Exit2) == Exit2(sender, world.ref(1), a.r, None, True)
        alias = world.peer.eval("alias([priority])")
        world.send(AliasSend(world.me, alias, a.first, None, True), Exit2(world.me, alias, a.normal, None, True))
        world.send(RegSend(world.me, Atom("shell"), a.named, None, True), Send(sender, a.pid, world.me, None, True))
        assert [world.got() for _ in range(3)] == [a.first, a.named, a.pid]
        world.peer.eval("unalias(A)", A=alias)


@pytest.mark.parametrize("flags", [DEFAULT, DEFAULT ^ NO_CACHE], ids=["cached", "fragmented"])
def test_lanes(peer: ErlNode, flags: Flag) -> None:
    """Fragments of several messages alternate; between them small ones, with and without references to the cache."""
    world = World(peer, flags, lanes=True)
    rng = random.Random(6)
    sent: dict[int, list[Any]] = {number: [] for number in range(6)}
    arrived: dict[int, list[Any]] = {number: [] for number in range(6)}
    with world.socket:
        world.socket.settimeout(60)
        for number in range(150):
            by = rng.randrange(6)
            atoms = [Atom(f"{flags.value:x} {rng.randrange(3000)}") for _ in range(rng.choice((0, 2, 90)))]
            message = (by, number, atoms, rng.randbytes(rng.choice((0, 30, 1000, 70_000, 300_000))), atoms)
            sender = Pid(world.me.node, 10 + by, 0, world.creation)
            world.channel.outbound.send_to_pid(sender, world.echo, (world.me, message))
            sent[by].append(message)
            if rng.random() < 0.3:
                world.socket.sendall(b"".join(world.channel.departures.portion(rng.randrange(1, 400_000))))
        world.send()
        order = [world.next(Send).message for _ in range(150)]
    for message in order:
        arrived[message[0]].append(message)
    assert arrived == sent
    assert order != sorted(order, key=lambda message: message[1]), "small ones have passed large ones"
