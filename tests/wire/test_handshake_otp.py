"""handshake.py against real nodes of every supported OTP, over plain blocking sockets."""

from __future__ import annotations

import random
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from beamnode.errors import CookieMismatch, HandshakeError, NetworkError, NotAllowedByPeer, RefusedByPeer
from beamnode.etf import Atom
from beamnode.testing.peers import Epmd, ErlNode, Otp
from beamnode.wire.flags import DEFAULT, Flag, expand
from beamnode.wire.handshake import (
    Accept,
    Acceptor,
    AcceptorEvent,
    Established,
    Initiator,
    InitiatorEvent,
    Named,
    PeerNamed,
    PeerProved,
    Refusal,
    StillWanted,
)
from beamnode.wire.handshake_messages import SendName, build

HOST = "127.0.0.1"
VISIBLE = DEFAULT | Flag.PUBLISHED
LEAST = Flag.MANDATORY_25_DIGEST | Flag.UNLINK_ID | Flag.V4_NC
SETUP_TIMEOUT = 10.0

pytestmark = pytest.mark.otp


class World:
    """One real node, the epmd it is registered at, and the cookie it knows."""

    def __init__(self, otp: Otp, epmd: Epmd, node: ErlNode, cookie: str) -> None:
        self.otp = otp
        self.epmd = epmd
        self.node = node
        self.cookie = cookie.encode()
        flags = node.eval("element(2, erts_internal:get_dflags())")
        self.flags = Flag(flags) | Flag.PUBLISHED
        self.port = self._port_of("m")

    def _port_of(self, name: str) -> int:
        with socket.create_connection((HOST, self.epmd.port), timeout=SETUP_TIMEOUT) as sock:
            sock.sendall(struct.pack(">HB", 1 + len(name), 122) + name.encode())
            answer = receive_exactly(sock, 4)
        assert answer[:2] == b"\x77\x00"
        return int.from_bytes(answer[2:4], "big")

    def connected(self, name: str, kind: str = "connected") -> bool:
        return bool(self.node.eval(f"lists:member('{name}', nodes({kind}))"))

    def wait_connected(self, name: str, kind: str = "connected") -> None:
        self.node.wait_until(f"lists:member('{name}', nodes({kind}))")

    def wait_gone(self, name: str) -> None:
        self.node.wait_until(f"not lists:member('{name}', nodes(connected))")

    def dial(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=SETUP_TIMEOUT)

    def initiator(self, name: str, **changed: Any) -> Initiator:
        given: dict[str, Any] = {
            "this_name": name,
            "this_creation": random.getrandbits(32) | 4,
            "peer_name": f"m@{HOST}",
            "flags": VISIBLE,
            "cookie": self.cookie,
            "challenge": random.getrandbits(32),
            "setup_timeout": SETUP_TIMEOUT,
            "now": time.monotonic(),
        }
        return Initiator(**given | changed)

    def acceptor(self, name: str, flags: Flag = VISIBLE) -> Acceptor:
        return Acceptor(
            this_name=name,
            this_creation=random.getrandbits(32) | 4,
            flags=flags,
            challenge=random.getrandbits(32),
            setup_timeout=SETUP_TIMEOUT,
            now=time.monotonic(),
        )

    @contextmanager
    def listening(self, name: str) -> Iterator[socket.socket]:
        """A listener that epmd knows under that name, by an ALIVE2_REQ."""
        short = name.partition("@")[0].encode()
        with socket.create_server((HOST, 0)) as listener, socket.create_connection((HOST, self.epmd.port)) as epmd:
            listener.settimeout(SETUP_TIMEOUT)
            body = struct.pack(">BHBBHHH", 120, listener.getsockname()[1], 77, 0, 6, 5, len(short)) + short + b"\0\0"
            epmd.sendall(len(body).to_bytes(2, "big") + body)
            assert receive_exactly(epmd, 2) == b"\x76\x00"
            yield listener


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    cookie = secrets.token_hex(8)
    with ExitStack() as stack:
        epmd = stack.enter_context(Epmd(otp))
        node = stack.enter_context(ErlNode.start(otp, f"m@{HOST}", cookie=cookie, epmd_port=epmd.port))
        yield World(otp, epmd, node, cookie)


@pytest.fixture
def name() -> str:
    """A name that no other test uses, greater than the node's own."""
    return f"py{secrets.token_hex(4)}@{HOST}"


# --- a driver, as simple as it can be ---------------------------------------------------------------------------------

Event = InitiatorEvent | AcceptorEvent
Decide = Callable[[Event], None]


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the peer closed after {data!r}"
        data += more
    return data


def drive(sock: socket.socket, machine: Initiator | Acceptor, decide: Decide, piece: int = 4096) -> list[Event]:
    """Run a handshake to its end; what it raises has been flushed first. Stops with `Established`."""
    events: list[Event] = []
    try:
        while True:
            while (event := machine.next_event()) is not None:
                events.append(event)
                if isinstance(event, Established):
                    return events
                decide(event)
            for chunk in machine.data_to_send():
                sock.sendall(chunk)
            deadline = machine.next_deadline()
            if deadline is None:
                return events
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = sock.recv(piece)
            except TimeoutError:
                machine.handle_deadline(time.monotonic())
                continue
            if data:
                machine.receive_data(data, time.monotonic())
            else:
                machine.receive_eof()
    finally:
        for chunk in machine.data_to_send():
            sock.sendall(chunk)


def nothing_to_decide(event: Event) -> None:
    assert isinstance(event, Named | Established), event


def accepting(machine: Acceptor, cookie: bytes, status: Accept = Accept.OK) -> Decide:
    def decide(event: Event) -> None:
        match event:
            case PeerNamed():
                machine.accept(status, cookie=cookie)
            case PeerProved():
                machine.acknowledge()

    return decide


def established(events: list[Event]) -> Established:
    last = events[-1]
    assert isinstance(last, Established)
    return last


class Dialling(threading.Thread):
    """`net_kernel:connect_node(name)` in the real node, while this test accepts; `answer()` is what it said."""

    def __init__(self, node: ErlNode, name: str) -> None:
        super().__init__(daemon=True)
        self._node, self._name, self._answer = node, name, None
        self.start()

    def run(self) -> None:
        self._answer = self._node.eval(f"net_kernel:connect_node('{self._name}')")

    def answer(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        return self._answer


# --- we dial ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [4096, 1])
@pytest.mark.parametrize(("flags", "kind"), [(VISIBLE, "visible"), (DEFAULT, "hidden")])
def test_we_dial_a_node(world: World, name: str, flags: Flag, kind: str, piece: int) -> None:
    with closing(world.dial()) as sock:
        up = established(drive(sock, world.initiator(name, flags=flags), nothing_to_decide, piece))
        assert up.name == f"m@{HOST}"
        assert up.creation == world.node.eval("erts_internal:get_creation()")
        assert up.flags == flags & world.flags
        world.wait_connected(name, kind)
    world.wait_gone(name)


def test_what_follows_is_the_channel(world: World, name: str) -> None:
    """The node speaks at once to a visible peer: frames with 4 bytes of length and a distribution header."""
    with closing(world.dial()) as sock:
        up = established(drive(sock, world.initiator(name), nothing_to_decide))
        start = (up.unused + receive_exactly(sock, max(0, 6 - len(up.unused))))[:6]
    assert int.from_bytes(start[:4], "big") > 2
    assert start[4:] in (b"\x83\x44", b"\x83\x45")


def test_the_digest_of_flags_is_enough(world: World, name: str) -> None:
    with closing(world.dial()) as sock:
        up = established(drive(sock, world.initiator(name, flags=LEAST), nothing_to_decide))
        assert up.flags == expand(LEAST)
        world.wait_connected(name)


@pytest.mark.parametrize("flags", [Flag(0), VISIBLE & ~Flag.MANDATORY_25_DIGEST & ~Flag.UTF8_ATOMS])
def test_without_mandatory_flags_we_are_not_allowed(world: World, name: str, flags: Flag) -> None:
    with closing(world.dial()) as sock, pytest.raises(NotAllowedByPeer):
        drive(sock, world.initiator(name, flags=flags), nothing_to_decide)


def test_with_the_wrong_cookie_the_node_hangs_up(world: World, name: str) -> None:
    with closing(world.dial()) as sock, pytest.raises(CookieMismatch, match="different cookies"):
        drive(sock, world.initiator(name, cookie=b"wrong"), nothing_to_decide)
    assert not world.connected(name)


def test_another_node_answers(world: World, name: str) -> None:
    with closing(world.dial()) as sock, pytest.raises(HandshakeError, match=f"'m@{HOST}' answered"):
        drive(sock, world.initiator(name, peer_name=f"other@{HOST}"), nothing_to_decide)


def test_a_node_refuses_its_own_name(world: World) -> None:
    with closing(world.dial()) as sock, pytest.raises(RefusedByPeer, match="same name"):
        drive(sock, world.initiator(f"m@{HOST}"), nothing_to_decide)


def test_a_name_that_is_none_is_hung_up_on(world: World, name: str) -> None:
    machine = world.initiator(name)
    machine.data_to_send()
    body = build(SendName(VISIBLE, 4, "nohost"))
    with closing(world.dial()) as sock:
        sock.sendall(len(body).to_bytes(2, "big") + body)
        with pytest.raises(NetworkError, match="waiting for its status"):
            drive(sock, machine, nothing_to_decide)


def test_the_node_gives_us_a_name(world: World) -> None:
    with closing(world.dial()) as sock:
        machine = world.initiator("ignored", dynamic_host=HOST)
        events = drive(sock, machine, nothing_to_decide)
        named = events[0]
        assert isinstance(named, Named)
        assert named.name.endswith(f"@{HOST}")
        assert named.creation > 0
        assert established(events).flags == DEFAULT & world.flags | Flag.NAME_ME
        world.wait_connected(named.name, "hidden")
    world.wait_gone(named.name)


# --- the node dials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [4096, 1])
@pytest.mark.parametrize("status", list(Accept))
@pytest.mark.parametrize(("flags", "kind"), [(VISIBLE, "visible"), (DEFAULT, "hidden")])
def test_a_node_dials_us(world: World, name: str, flags: Flag, kind: str, status: Accept, piece: int) -> None:
    with world.listening(name) as listener:
        dialling = Dialling(world.node, name)
        sock, _ = listener.accept()
        with sock:
            machine = world.acceptor(name, flags)
            events = drive(sock, machine, accepting(machine, world.cookie, status), piece)
            named = events[0]
            assert isinstance(named, PeerNamed)
            assert (named.name, named.flags, named.dynamic) == (f"m@{HOST}", world.flags, False)
            assert named.creation == established(events).creation
            assert established(events).flags == flags & world.flags
            assert dialling.answer() is True
            assert world.connected(name, kind)
            assert named.creation == world.node.eval("erts_internal:get_creation()")
    world.wait_gone(name)


def test_a_node_with_another_cookie_is_sent_away(world: World, name: str) -> None:
    with world.listening(name) as listener:
        dialling = Dialling(world.node, name)
        sock, _ = listener.accept()
        with sock:
            machine = world.acceptor(name)
            with pytest.raises(CookieMismatch, match=f"'m@{HOST}' dialled"):
                drive(sock, machine, accepting(machine, b"wrong"))
        assert dialling.answer() is False


def test_a_node_is_not_allowed(world: World, name: str) -> None:
    with world.listening(name) as listener:
        dialling = Dialling(world.node, name)
        sock, _ = listener.accept()
        with sock:
            machine = world.acceptor(name)
            assert len(drive(sock, machine, lambda _: machine.refuse(Refusal.NOT_ALLOWED))) == 1
        assert dialling.answer() is False


def test_a_node_does_not_take_another_name_than_it_dialled(world: World, name: str) -> None:
    with world.listening(name) as listener:
        dialling = Dialling(world.node, name)
        sock, _ = listener.accept()
        machine = world.acceptor(f"other@{HOST}")
        with sock, pytest.raises(NetworkError):
            drive(sock, machine, accepting(machine, world.cookie))
        assert dialling.answer() is False


def test_we_name_a_node(world: World, name: str) -> None:
    """`erl -name undefined`, which is what `erl -remsh` does where no name is given."""
    extra = ["-name", f"undefined@{HOST}", "-setcookie", world.cookie.decode()]
    with (
        ErlNode.start(world.otp, None, epmd_port=world.epmd.port, extra_args=extra) as nameless,
        world.listening(name) as listener,
    ):
        dialling = Dialling(nameless, name)
        sock, _ = listener.accept()
        with sock:
            machine = world.acceptor(name)
            given = f"given@{HOST}"

            def decide(event: Event) -> None:
                match event:
                    case PeerNamed():
                        machine.accept_named(given, 77, cookie=world.cookie)
                    case PeerProved():
                        machine.acknowledge()

            events = drive(sock, machine, decide)
            named = events[0]
            assert isinstance(named, PeerNamed)
            assert (named.name, named.creation, named.dynamic) == (HOST, 0, True)
            assert (established(events).name, established(events).creation) == (given, 77)
            assert Flag.PUBLISHED not in established(events).flags
            assert dialling.answer() is True
            assert nameless.eval("{node(), erts_internal:get_creation(), nodes(hidden)}") == (
                Atom(given),
                77,
                [Atom(name)],
            )


# --- the cases of erl_distribution_wb_SUITE ---------------------------------------------------------------------------


def test_pending_up_md5(world: World, name: str) -> None:
    """A second connection while one is up: `alive`, `true`; it goes on once the first is closed."""
    first, second = world.dial(), world.dial()
    with first, second:
        creation = 1000
        established(drive(first, world.initiator(name, this_creation=creation), nothing_to_decide))
        world.wait_connected(name)
        machine = world.initiator(name, this_creation=creation + 1)

        def decide(event: Event) -> None:
            assert event == StillWanted()
            machine.answer_alive(True)
            first.close()

        events = drive(second, machine, decide)
        assert events[0] == StillWanted()
        assert established(events).name == f"m@{HOST}"
        world.wait_connected(name)
    world.wait_gone(name)


def test_the_first_connection_lives_on_when_the_second_is_not_wanted(world: World, name: str) -> None:
    first, second = world.dial(), world.dial()
    with first, second:
        established(drive(first, world.initiator(name), nothing_to_decide))
        world.wait_connected(name)
        machine = world.initiator(name)
        assert drive(second, machine, lambda _: machine.answer_alive(False)) == [StillWanted()]
        assert second.recv(1) == b""
        assert world.connected(name)


def dialled_at_once(world: World, listener: socket.socket, name: str) -> tuple[socket.socket, Dialling]:
    """The node is dialling us and has sent its name, which nobody has read."""
    dialling = Dialling(world.node, name)
    theirs, _ = listener.accept()
    theirs.settimeout(SETUP_TIMEOUT)
    assert theirs.recv(1, socket.MSG_PEEK)
    return theirs, dialling


def test_simultaneous_md5_the_smaller_name_loses(world: World) -> None:
    name = f"A{secrets.token_hex(4)}@{HOST}"
    with world.listening(name) as listener:
        theirs, dialling = dialled_at_once(world, listener, name)
        with theirs:
            with closing(world.dial()) as ours, pytest.raises(RefusedByPeer, match="nok"):
                drive(ours, world.initiator(name), nothing_to_decide)
            machine = world.acceptor(name)
            events = drive(theirs, machine, accepting(machine, world.cookie, Accept.OK_SIMULTANEOUS))
            assert established(events).name == f"m@{HOST}"
            assert dialling.answer() is True


def test_simultaneous_md5_the_greater_name_wins(world: World) -> None:
    name = f"zz{secrets.token_hex(4)}@{HOST}"
    with world.listening(name) as listener:
        theirs, dialling = dialled_at_once(world, listener, name)
        with theirs, closing(world.dial()) as ours:
            up = established(drive(ours, world.initiator(name), nothing_to_decide))
            assert up.name == f"m@{HOST}"
            assert dialling.answer() is True
            machine = world.acceptor(name)
            with pytest.raises((NetworkError, OSError)):  # it has hung up on its own attempt
                drive(theirs, machine, accepting(machine, world.cookie, Accept.OK_SIMULTANEOUS))
            assert world.connected(name)
