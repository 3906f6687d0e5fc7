"""What a node and its other peers feel while one peer attacks: ours, and an OTP node under the same bytes.

    .venv/bin/python -m bench.attacks [--only 'NAME; ...'] [--otp 27] [--seconds 5]

It prints the table of docs/hostile-peers.md. Each attack has a victim of its own, a process with default limits, whose
memory is read before it, at its worst and two seconds after the attackers have gone. Meanwhile a bystander, another
peer in a process of its own, asks `net_kernel` a question, waits for the answer, and asks again 10 ms later.
Attackers are bounded in time (`--seconds`) and bytes; an OTP node may take `OTP_BYTES_MAX` of address space
more than at its start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from beamnode.errors import BeamnodeError
from beamnode.testing.peers import Epmd, ErlNode, Otp, find_otp, free_port
from bench.setting import ROOT, progress

sys.path.append(str(ROOT / "tests/hostile"))  # the tests' attacker and victim

from support_hostile import BARE, FRIEND, HEADED, HOST, VICTIM, Attacker, term

from beamnode import Atom, Pid, a
from beamnode.otp import gen
from beamnode.wire.channel import Channel
from beamnode.wire.control import SpawnReply
from beamnode.wire.flags import DEFAULT

MIB: Final = 1 << 20
OTP_BYTES_MAX: Final = 4 << 30
CONNECTIONS: Final = 2000
NODES: Final = 300
ATOMS: Final = 1_200_000  # a BEAM has room for 1,048,576
QUESTION_SECONDS: Final = 0.01  # between the bystander's answer and its next question
SETTLE_SECONDS: Final = 2.0
HEADER: Final = """\
| attack | | what came of it | MiB before | peak | after | bystander p50, ms | worst |
|---|---|---|--:|--:|--:|--:|--:|"""


# --- Victims ----------------------------------------------------------------------------------------------------------


@dataclass
class Victim:
    """A node to be attacked; `mfa` is a function of it that waits for ever, `limited` one with a bounded mailbox."""

    kind: str
    port: int
    cookie: str
    pid: int
    mfa: tuple[Atom, Atom]
    limited: tuple[Atom, Atom] | None
    ended: Callable[[], bool]

    def memory(self, field: str) -> float:
        """`VmRSS` or `VmHWM`, in MiB; nothing once it is dead."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def attack(self, flags: Any = HEADED, **options: Any) -> Attacker:
        """An open channel to it."""
        return Attacker.open(self.port, self.cookie, flags, **options)


@contextmanager
def ours() -> Iterator[Victim]:
    """A node of this library, in a process of its own, with default limits."""
    port, cookie = free_port(), secrets.token_hex(8)
    given = {
        "name": VICTIM,
        "port": port,
        "cookie": cookie,
        "friend": FRIEND,
        "friend_port": 1,
        "setuptime": 7.0,
        "level": "CRITICAL",
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/hostile/victim.py"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert json.loads(process.stdout.readline()) == "up"
            yield Victim(
                "beamnode",
                port,
                cookie,
                process.pid,
                (a.victim, a.sleep),
                (a.victim, a.limited),
                lambda: process.poll() is not None,
            )
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@contextmanager
def erlang(otp: Otp) -> Iterator[Victim]:
    """A node of OTP as `erl` starts it, but for its log and the memory that it may take."""
    cookie = secrets.token_hex(8)
    with (
        Epmd(otp) as epmd,
        ErlNode.start(
            otp,
            VICTIM,
            cookie=cookie,
            epmd_port=epmd.port,
            hidden=True,
            extra_args=["-kernel", "logger_level", "emergency"],
        ) as node,
    ):
        port = node.eval("{ok, [{_, P} | _]} = erl_epmd:names({127,0,0,1}), P")
        size = next(int(line.split()[1]) for line in status(node.pid) if line.startswith("VmSize"))
        allowed = size * 1024 + OTP_BYTES_MAX
        resource.prlimit(node.pid, resource.RLIMIT_AS, (allowed, allowed))
        yield Victim(f"OTP {otp.release}", port, cookie, node.pid, (a.timer, a.sleep), None, lambda: not node.running)


def status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()


# --- The bystander ----------------------------------------------------------------------------------------------------


class Bystander:
    """Another peer, in a process of its own: `times` ends it and tells when it asked, and how long each answer took."""

    def __init__(self, victim: Victim) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.attacks", "--bystander", str(victim.port), victim.cookie],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"

    def times(self) -> list[tuple[float, float | None]]:
        """The last answer is None when the connection was lost, or nothing came for a long time."""
        out, _ = self._process.communicate(b"\n", timeout=120)
        return [(begun, taken) for begun, taken in json.loads(out)]


def be_bystander(port: int, cookie: str) -> None:
    """The program of the other process: it asks until its standard input has something to read."""
    times: list[tuple[float, float | None]] = []
    with Attacker.open(port, cookie, name=f"bystander@{HOST}", timeout=60.0) as peer:
        print("up", flush=True)
        stop = ask_until_told(peer, times)
    if not stop:
        sys.stdin.readline()
    print(json.dumps(times))


def ask_until_told(peer: Attacker, times: list[tuple[float, float | None]]) -> bool:
    import select

    while not select.select([sys.stdin], [], [], QUESTION_SECONDS)[0]:
        begun = time.monotonic()
        try:
            answered = peer.answers(60.0)
        except (AssertionError, OSError):
            answered = False
        times.append((begun, time.monotonic() - begun if answered else None))
        if not answered:
            return False
    return True


# --- Attacks ----------------------------------------------------------------------------------------------------------

Attack = Callable[[Victim, float], AbstractContextManager[str]]
"""Attacks for so many seconds at most; gives what came of it in words, and ends with what it holds open."""


@contextmanager
def connections(count: int, victim: Victim, begin: bytes = b"") -> Iterator[list[socket.socket]]:
    """Plain connections that say `begin`; those that are refused are left out."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                made.append(socket.create_connection((HOST, victim.port), timeout=2.0))
                made[-1].sendall(begin)
        yield made
    finally:
        for each in made:
            each.close()


def still_open(made: list[socket.socket]) -> int:
    count = 0
    for each in made:
        each.setblocking(False)
        try:
            count += bool(each.recv(100))
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count


def newcomer(victim: Victim) -> str:
    """How long another peer, that knows the cookie, takes to connect now."""
    begun = time.monotonic()
    try:
        with victim.attack(timeout=10.0):
            return f"a new peer connects in {(time.monotonic() - begun) * 1e3:.0f} ms"
    except (BeamnodeError, OSError) as error:
        return f"no new peer connects: {type(error).__name__}"


@contextmanager
def half_open(victim: Victim, _seconds: float) -> Iterator[str]:
    with connections(CONNECTIONS, victim) as made:
        held = still_open(made)
        yield f"{held:,} of {CONNECTIONS:,} held; {newcomer(victim)}"


@contextmanager
def slow_handshakes(victim: Victim, seconds: float) -> Iterator[str]:
    """The first frame of the handshake, a byte every now and then."""
    begin = b"\0\x30N" + (0xD07DF7FBD).to_bytes(8) + b"\0\0\0\7\0\x21"
    with connections(CONNECTIONS, victim, begin[:1]) as made:
        deadline, at = time.monotonic() + min(seconds, 4.0), 1  # both give a handshake 7 s
        while time.monotonic() < deadline and at < len(begin):
            for each in made:
                with contextlib.suppress(OSError):
                    each.send(begin[at : at + 1])
            at += 1
            time.sleep(0.3)
        held = still_open(made)
        yield f"{held:,} of {CONNECTIONS:,} held; {newcomer(victim)}"


@contextmanager
def wrong_cookie(victim: Victim, seconds: float) -> Iterator[str]:
    """The whole handshake, with a digest of nothing, one after the other as fast as one process can."""
    first = b"".join(Attacker(victim.port).initiator("x").data_to_send())
    count, begun = 0, time.monotonic()
    while time.monotonic() < begun + seconds:
        with contextlib.suppress(OSError), socket.create_connection((HOST, victim.port), timeout=10) as each:
            each.sendall(first)
            while len(each.recv(1000)) < 20:  # the status, then the challenge
                pass
            each.sendall(b"\0\x15r\0\0\0\7" + bytes(16))
            while each.recv(1000):
                pass
            count += 1
    yield f"{count / (time.monotonic() - begun):,.0f} refused/s"


@contextmanager
def garbage(victim: Victim, seconds: float) -> Iterator[str]:
    count, begun = 0, time.monotonic()
    while time.monotonic() < begun + seconds:
        with contextlib.suppress(OSError), socket.create_connection((HOST, victim.port), timeout=10) as each:
            each.sendall(b"\0\x40" + random.randbytes(64))
            while each.recv(1000):
                pass
            count += 1
    yield f"{count / (time.monotonic() - begun):,.0f} refused/s"


@contextmanager
def nodes(victim: Victim, _seconds: float) -> Iterator[str]:
    made = []
    try:
        for _ in range(NODES):
            made.append(victim.attack())
        grown = victim.memory("VmRSS")
        yield f"{sum(each.drain() for each in made)} of {NODES} held at {grown:.0f} MiB"
    finally:
        for each in made:
            each.socket.close()


def fate(attacker: Attacker, victim: Victim, seconds: float = 20.0) -> str:
    """Whether the connection that attacked still works."""
    try:
        answers = attacker.answers(seconds)
    except AssertionError:
        return "it does not answer the attacker any more"
    if answers:
        return "all taken"
    time.sleep(0.2)
    return "**the node died**" if victim.ended() else "connection closed"


def question(attacker: Attacker, junk: bytes) -> bytes:
    """A message to `net_kernel`, which decodes it, answers and forgets it."""
    head = term((6, attacker.pid(), Atom(""), a.net_kernel))
    sender = term((attacker.pid(), attacker.reference()))
    return attacker.message(head, b"h\3" + term(gen.CALL) + sender + b"h\2" + term(a.is_auth) + junk)


@contextmanager
def atom_flood(victim: Victim, seconds: float) -> Iterator[str]:
    """New atoms, a thousand in a message."""
    with victim.attack(timeout=30.0) as attacker:
        begun, sent = time.monotonic(), 0
        while sent < ATOMS and time.monotonic() < begun + 4 * seconds:
            names = (b"flood%08x" % number for number in range(sent, sent + 1000))
            atoms = b"".join(b"w" + bytes((len(name),)) + name for name in names)
            if not attacker.write(question(attacker, b"l" + struct.pack(">I", 1000) + atoms + b"j")):
                break
            attacker.drain()
            sent += 1000
        yield f"{sent:,} atoms: {fate(attacker, victim)}"


def one_message(junk: Callable[[], bytes], what: str, flags: Any = HEADED) -> Attack:
    @contextmanager
    def attack(victim: Victim, _seconds: float) -> Iterator[str]:
        with victim.attack(flags, timeout=30.0) as attacker:
            data = question(attacker, junk())
            begun = time.monotonic()
            attacker.write(data)
            outcome = fate(attacker, victim)
            yield f"{what}, {len(data):,} bytes: {outcome} after {time.monotonic() - begun:.1f} s"

    return attack


def zipped() -> bytes:
    count = 100 * MIB
    return b"P" + struct.pack(">I", count + 6) + zlib.compress(b"l" + struct.pack(">I", count) + b"j" * count + b"j", 9)


def elements() -> bytes:
    count = 16 * MIB - 100
    return b"l" + struct.pack(">I", count) + b"j" * count + b"j"


def deep() -> bytes:
    return b"h\1" * 2_000_000 + b"j"


def colliding() -> bytes:
    """Integers that Python hashes to 0, all of them, as keys of a map."""
    prime, count = (1 << 61) - 1, 20_000
    keys = b"".join(
        b"n" + bytes((10, 0)) + (prime * number).to_bytes(10, "little") + b"j" for number in range(1, count + 1)
    )
    return b"t" + struct.pack(">I", count) + keys


def endless_fragments(claimed: int) -> Attack:
    """Fragments of 64 KiB, of a message of which it is said that so many come; 512 MiB at most."""

    @contextmanager
    def attack(victim: Victim, seconds: float) -> Iterator[str]:
        with victim.attack(timeout=10.0) as attacker:
            head = term((6, attacker.pid(), Atom(""), a.net_kernel))
            attacker.frame(struct.pack(">BBQQ", 131, 69, 7, claimed) + b"\0" + head + b"m\x7f\xff\xff\xff")
            sent, begun = 0, time.monotonic()
            piece = bytes(64 * 1024)
            while sent < 512 * MIB and time.monotonic() < begun + 4 * seconds:
                number = claimed - 1 - sent // len(piece)
                if not attacker.frame(struct.pack(">BBQQ", 131, 70, 7, number) + piece):
                    break
                sent += len(piece)
            yield f"{sent // MIB} MiB: {fate(attacker, victim)}"

    return attack


def spawn_sink(attacker: Attacker, mfa: tuple[Atom, Atom]) -> Pid:
    """A process that never receives. To be called before anything is read from a new connection."""
    pid = attacker.pid()
    attacker.control((29, attacker.reference(), pid, pid, (*mfa, 1), []), [a.infinity])
    channel = Channel(attacker.flags & DEFAULT, now=0)
    while True:
        channel.receive_data(attacker.socket.recv(1000), 0)
        while (record := channel.next_event()) is not None:
            if isinstance(record, SpawnReply):
                assert isinstance(record.result, Pid), record
                return record.result


def mailbox(limited: bool) -> Attack:
    """Messages of 200 bytes to a process that never receives."""

    @contextmanager
    def attack(victim: Victim, seconds: float) -> Iterator[str]:
        mfa = victim.limited if limited else victim.mfa
        if mfa is None:
            yield "OTP has no such limit"
            return
        with victim.attack(timeout=10.0) as attacker:
            sink = spawn_sink(attacker, mfa)
            one = attacker.message(term((22, attacker.pid(), sink)), term((a.junk, bytes(170))))
            sent, begun = 0, time.monotonic()
            while sent < 2_000_000 and time.monotonic() < begun + seconds:
                if not attacker.write(one * 500):
                    break
                sent += 500
            answer = fate(attacker, victim)
            yield f"{sent:,} messages, {sent / (time.monotonic() - begun):,.0f}/s: {answer}"

    return attack


@contextmanager
def exit_signals(victim: Victim, seconds: float) -> Iterator[str]:
    """Exit signals with the reason `normal` to a process that lives, and to such as never lived."""
    with victim.attack(timeout=10.0) as attacker:
        sink = spawn_sink(attacker, victim.mfa)
        others = (Pid(Atom(VICTIM), number, 1, attacker.victim_creation) for number in range(1, 500))
        some = b"".join(
            attacker.message(term((26, attacker.pid(), to)), term(a.normal)) for other in others for to in (sink, other)
        )
        sent, begun = 0, time.monotonic()
        while sent < 5_000_000 and time.monotonic() < begun + seconds:
            if not attacker.write(some):
                break
            sent += 998
        answer = fate(attacker, victim)
        yield f"{sent:,} signals, {sent / (time.monotonic() - begun):,.0f}/s: {answer}"


@contextmanager
def nothing(_victim: Victim, seconds: float) -> Iterator[str]:
    time.sleep(seconds / 2)
    yield ""


ATTACKS: Final[dict[str, Attack]] = {
    "nothing": nothing,
    "half-open connections": half_open,
    "slow handshakes": slow_handshakes,
    "handshakes with a wrong cookie": wrong_cookie,
    "handshakes of garbage": garbage,
    "many nodes that know the cookie": nodes,
    "atom flood": atom_flood,
    "zip bomb": one_message(zipped, "100 Mi empty lists, compressed", BARE),
    "many elements": one_message(elements, "16 Mi empty lists"),
    "deep nesting": one_message(deep, "2,000,000 tuples in one another"),
    "colliding keys": one_message(colliding, "a map of 20,000 integers"),
    "endless fragments, of 8,194": endless_fragments(8194),
    "endless fragments, of 2^62": endless_fragments(1 << 62),
    "mailbox flood": mailbox(limited=False),
    "mailbox flood with a limit of 1000": mailbox(limited=True),
    "exit-signal flood": exit_signals,
}


# --- Running ----------------------------------------------------------------------------------------------------------


def measure(name: str, attack: Attack, victim: Victim, seconds: float) -> str:
    """A row of the table."""
    bystander = Bystander(victim)
    time.sleep(0.5)
    before = victim.memory("VmRSS")
    victim.forget_peak()
    begun = time.monotonic()
    with attack(victim, seconds) as outcome:
        time.sleep(0.5)
        peak = victim.memory("VmHWM")
    ended = time.monotonic()
    time.sleep(SETTLE_SECONDS)
    after = victim.memory("VmRSS")
    times = [taken for at, taken in bystander.times() if begun <= at <= ended]
    if victim.ended():
        memory, trips = f"{before:.0f} | | ", "| "
    else:
        memory = f"{before:.0f} | {peak:.0f} | {after:.0f}"
        trips = round_trips(times)
    return f"| {name} | {victim.kind} | {outcome} | {memory} | {trips} |"


def round_trips(times: list[float | None]) -> str:
    """Median and worst; a connection that was lost is said so."""
    taken = [each * 1e3 for each in times if each is not None]
    if len(taken) < 2:
        return f"| {'lost' if None in times else f'{taken[0]:.0f}' if taken else 'no answer'}"
    p50 = quantiles(taken, n=2)[0]
    return f"{p50:.1f} | {'lost' if None in times else f'{max(taken):.0f}'}"


def main() -> int:
    parser = argparse.ArgumentParser(description="attack a node of ours and one of OTP, and print what came of it")
    parser.add_argument("--only", default=";".join(ATTACKS), help=f"of {'; '.join(ATTACKS)}")
    parser.add_argument("--otp", type=int, default=27)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--bystander", nargs=2)
    given = parser.parse_args()
    if given.bystander:
        be_bystander(int(given.bystander[0]), given.bystander[1])
        return 0
    wanted = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    otp = find_otp(given.otp)
    print(HEADER, flush=True)
    for name in map(str.strip, given.only.split(";")):
        for make in (ours, lambda: erlang(otp)):
            progress(f"{name} ...")
            with make() as victim:
                print(measure(name, ATTACKS[name], victim, given.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
