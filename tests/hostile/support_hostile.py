"""The attacker's tools: a raw socket that gets through the handshake; a victim, with a friend who asks how it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from beamnode import Atom, Node, Pid, Reference, a, receive, send
from beamnode import self as own_pid
from beamnode.carriers.tcp import Tcp
from beamnode.errors import ProcessExit
from beamnode.etf import encode
from beamnode.node.epmd_discovery import StaticPorts
from beamnode.otp import gen
from beamnode.testing.peers import free_port
from beamnode.wire.flags import DEFAULT, Flag, without
from beamnode.wire.handshake import Established, Initiator, StillWanted

Result = TypeVar("Result")

VISIBLE = DEFAULT | Flag.PUBLISHED
HEADED = VISIBLE
BARE = without(VISIBLE, Flag.DIST_HDR_ATOM_CACHE | Flag.FRAGMENTS)  # "pass through"
UNCACHED = without(VISIBLE, Flag.DIST_HDR_ATOM_CACHE)
UNFRAGMENTED = without(VISIBLE, Flag.FRAGMENTS)
FLAG_SETS = {"headed": HEADED, "bare": BARE, "uncached": UNCACHED, "unfragmented": UNFRAGMENTED}

ANSWER_SECONDS = 1.0  # what the victim may take to answer a friend, whatever goes on
HOST = "127.0.0.1"
VICTIM, FRIEND = f"victim@{HOST}", f"friend@{HOST}"

# What a victim must never log: each is a bug of ours that a peer has found.
BUGS = (
    "Traceback",
    "an error of this library",
    "never retrieved",
    "Fatal error",
    "Logging error",
    "Exception in callback",
    "was destroyed but it is pending",
)


def term(value: Any) -> bytes:
    """`value` without the version byte."""
    return encode(value)[1:]


class Attacker:
    """One TCP connection to a node, and what can be done with it. Blocking; use it as a context manager."""

    def __init__(self, port: int, name: str = "", *, timeout: float = 10.0) -> None:
        self.name = name or f"evil{secrets.token_hex(4)}@{HOST}"
        self.node = Atom(self.name)
        self.creation = 77
        self.victim_creation = 0  # known after the handshake
        self.flags = HEADED
        self.timeout = timeout
        self.socket = socket.create_connection((HOST, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._numbers = iter(range(1, 1 << 31))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @classmethod
    def open(cls, port: int, cookie: str, flags: Flag = HEADED, name: str = "", **options: Any) -> Attacker:
        """A connection that is through the handshake."""
        attacker = cls(port, name, **options)
        attacker.shake(cookie, flags)
        return attacker

    def initiator(self, cookie: str, flags: Flag = HEADED) -> Initiator:
        return Initiator(
            this_name=self.name,
            this_creation=self.creation,
            peer_name=VICTIM,
            flags=flags,
            cookie=cookie.encode(),
            challenge=secrets.randbits(32),
            setup_timeout=7,
            now=0,
        )

    def shake(self, cookie: str, flags: Flag = HEADED) -> None:
        """The whole handshake. Raises a PeerError, or ConnectionError when the other side hangs up."""
        self.flags = flags
        machine = self.initiator(cookie, flags)
        while True:
            self.write(b"".join(machine.data_to_send()))
            while (event := machine.next_event()) is not None:
                if isinstance(event, Established):
                    self.victim_creation = event.creation
                    return
                if isinstance(event, StillWanted):
                    machine.answer_alive(True)
                    self.write(b"".join(machine.data_to_send()))
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("hung up")
            machine.receive_data(data, 0)

    # --- writing ---

    def write(self, data: bytes) -> bool:
        """False when the other side has hung up."""
        self.socket.settimeout(self.timeout)
        try:
            self.socket.sendall(data)
        except (ConnectionError, BrokenPipeError):
            return False
        return True

    def frame(self, body: bytes) -> bool:
        return self.write(struct.pack(">I", len(body)) + body)

    def terms(self, *terms: bytes) -> bool:
        """One message of these encoded terms (without version bytes), in the form that was negotiated."""
        return self.write(self.message(*terms))

    def message(self, *terms: bytes) -> bytes:
        if self.flags & (Flag.DIST_HDR_ATOM_CACHE | Flag.FRAGMENTS):
            body = b"\x83D\x00" + b"".join(terms)
        else:
            body = b"p" + b"".join(b"\x83" + each for each in terms)
        return struct.pack(">I", len(body)) + body

    def control(self, *values: Any) -> bool:
        """One message of terms that are given as values."""
        return self.terms(*(term(value) for value in values))

    def reg_send(self, name: str, message: Any) -> bool:
        return self.control((6, self.pid(), Atom(""), Atom(name)), message)

    def answers(self, seconds: float = 5.0) -> bool:
        """Whether net_kernel answers through this very connection; False when the other side hangs up."""
        mark = secrets.token_bytes(16)
        seen = b""
        deadline = time.monotonic() + seconds
        self.reg_send("net_kernel", (gen.CALL, (self.pid(), mark), (a.is_auth, self.node)))
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                return False
            except TimeoutError:
                break
            if not data:
                return False
            seen = seen[-32:] + data
            if mark in seen:
                return True
        raise AssertionError("neither closed nor answered")

    # --- identities ---

    def pid(self, number: int = 1) -> Pid:
        return Pid(self.node, number, 0, self.creation)

    def reference(self) -> Reference:
        return Reference(self.node, self.creation, (next(self._numbers), 0, 0))

    # --- reading ---

    def is_closed(self, seconds: float = 5.0) -> bool:
        """Whether the other side hangs up within that time; what it says meanwhile is thrown away."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(1 << 20):
                    return True
            except ConnectionError:
                return True
            except TimeoutError:
                break
        return False

    def drain(self) -> bool:
        """Throw away what there is to read. False when the other side has hung up."""
        self.socket.settimeout(0)
        try:
            while self.socket.recv(1 << 20):
                pass
        except BlockingIOError:
            return True
        except ConnectionError:
            pass
        return False


class Friend:
    """A well-behaved node in a thread of its own, that asks the victim how it is. Blocking calls."""

    def __init__(self, cookie: str, port: int, victim_port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.node = Node(
            FRIEND,
            cookie=cookie,
            hidden=True,  # no part of the mesh: what is done to that must not keep it from asking
            carrier=Tcp(listen_address=HOST, listen_ports=port),
            discovery=StaticPorts({VICTIM: victim_port, FRIEND: port}),
        )
        self.run(self.node.start())

    def run(self, work: Coroutine[Any, Any, Result], seconds: float = 10.0) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        self.run(self.node.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def ping(self) -> float:
        """The seconds until pong; the connection is made where there is none."""
        start = time.monotonic()
        assert self.run(self.node.ping(VICTIM)) is a.pong, self.node.connect_error(VICTIM)
        return time.monotonic() - start

    def ask_services(self) -> None:
        """Every service answers."""
        self.run(self.node.run_process(self._ask_services))

    async def _ask_services(self) -> None:
        where = ("global_name_server", VICTIM)
        assert await gen.call(where, gen.CALL, a.get_protocol_version, ANSWER_SECONDS) == 8
        send(("rex", VICTIM), (own_pid(), a.features_request))
        answer = await receive(
            lambda got: isinstance(got, tuple) and got[0] is a.features_reply, timeout=ANSWER_SECONDS
        )
        assert answer == (a.features_reply, Atom(VICTIM), [a.erpc])


class Victim:
    """The program `victim.py`, and its friend."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.cookie = secrets.token_hex(16)
        self.port = free_port()
        friend_port = free_port()
        given = {
            "name": VICTIM,
            "port": self.port,
            "cookie": self.cookie,
            "friend": FRIEND,
            "friend_port": friend_port,
            **options,
        }
        self.log_file = folder / "victim.log"
        self._log = self.log_file.open("wb")
        self._seen = 0
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("victim.py")), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            assert self._read() == "up"
            self.friend = Friend(self.cookie, friend_port, self.port)
        except BaseException:
            self.close()
            raise

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the victim has died:\n{self.log()[-4000:]}"
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if hasattr(self, "friend"):
                self.friend.close()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def attack(self, flags: Flag = HEADED, name: str = "", **options: Any) -> Attacker:
        """An open channel."""
        return Attacker.open(self.port, self.cookie, flags, name, **options)

    def holdings(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        found = self._read()
        assert isinstance(found, dict)
        return found

    def rss_mib(self) -> float:
        return float(self.holdings()["rss_kib"]) / 1024

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def check(self, seconds: float = ANSWER_SECONDS) -> None:
        """It lives, answers in time, its services too, and has logged no bug since the last check.

        A service that was killed may be away for a moment: what counts is the answer within `seconds`.
        """
        start = time.monotonic()
        while True:
            try:
                self.friend.ping()
                self.friend.ask_services()
                break
            except (AssertionError, TimeoutError, ProcessExit):
                if time.monotonic() - start > seconds:
                    raise
                time.sleep(0.05)
        taken = time.monotonic() - start
        log = self.log()
        news, self._seen = log[self._seen :], len(log)
        for bug in BUGS:
            at = news.find(bug)
            assert at < 0, f"the victim logged a bug:\n{news[max(0, at - 500) : at + 3000]}"
        assert self.process.poll() is None
        assert taken < seconds, f"a ping took {taken:.1f} s"


@contextlib.contextmanager
def victim_of(**options: Any) -> Iterator[Victim]:
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(Path(folder), **options)
        try:
            yield victim
        finally:
            victim.close()
