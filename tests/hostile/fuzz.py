"""A fuzzer to be run by hand for as long as one likes; the tests run it for a few seconds.

    python tests/hostile/fuzz.py --seconds 600 [--seed N] [--only TARGET,...] [--corpus DIR]
    python tests/hostile/fuzz.py --replay DIR/channel-123.seed

Each target takes a random source and does one run: whatever comes, a machine may raise a `PeerError` (or what its
contract allows) and nothing else, and keeps its promises. A run is told by target and seed alone; those that fail are
written to the corpus folder as such, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzz_halves import fuzz_halves
from hostile_terms import Hostile

from beamnode.errors import BeamnodeError, EncodeError, PeerError, UsageError
from beamnode.etf import Atom, Pid, Reference, a, decode, encode
from beamnode.etf.shown import CHARACTERS_MAX, shown
from beamnode.limits import Limits
from beamnode.services.global_actions import Action, Call, Connect, RemoteCall, Reply, Send
from beamnode.services.global_name_server import GlobalNameServer
from beamnode.wire import epmd
from beamnode.wire.channel import Channel
from beamnode.wire.epmd_server import EpmdRegistry, EpmdServerConnection
from beamnode.wire.flags import DEFAULT, Flag, without
from beamnode.wire.handshake import (
    Accept,
    Acceptor,
    Established,
    Initiator,
    Named,
    PeerNamed,
    PeerProved,
    Refusal,
    StillWanted,
)

ME, VICTIM = "evil@127.0.0.1", "victim@127.0.0.1"
LIMITS = Limits(frame_bytes_max=1 << 20, inflated_bytes_max=1 << 20, fragment_sequences_max=8)
OPTIONAL = (
    Flag.PUBLISHED, Flag.DIST_HDR_ATOM_CACHE, Flag.FRAGMENTS, Flag.DIST_MONITOR, Flag.SEND_SENDER, Flag.EXIT_PAYLOAD,
    Flag.SPAWN, Flag.ALIAS, Flag.ALTACT_SIG, Flag.BIG_SEQTRACE_LABELS,
)  # fmt: skip


def in_pieces(random: Random, data: bytes) -> list[bytes]:
    """As a network might deliver it."""
    pieces = []
    while data:
        size = random.choice((1, 2, 3, 50, 5000, len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


# --- etf --------------------------------------------------------------------------------------------------------------


def fuzz_etf(random: Random) -> None:
    """Bytes decode or raise; what was decoded can be shown, encoded, and decoded again to the same."""
    hostile = Hostile(random, ME, VICTIM)
    data = b"\x83" + (hostile.odd_term() if hostile.chance(20) else hostile.encoded(hostile.term(6)))
    if hostile.chance(80):
        data = hostile.spoiled(data)
    if hostile.chance(5):
        data = b"\x83" + random.randbytes(random.randrange(40))
    strings = hostile.chance(30)
    try:
        value = decode(data, strings=strings, limits=LIMITS)
    except PeerError:
        return
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 12 * CHARACTERS_MAX
    again = encode(value)
    assert encode(decode(again, strings=strings)) == again


# --- channel ----------------------------------------------------------------------------------------------------------


def fuzz_channel(random: Random) -> None:
    """Records come, or a PeerError, once and for all; what came can be sent on through another channel."""
    hostile = Hostile(random, ME, VICTIM)
    flags = DEFAULT | Flag.PUBLISHED
    for flag in OPTIONAL:
        if hostile.chance(25):
            flags = without(flags, flag)
    cached, fragmented = bool(flags & Flag.DIST_HDR_ATOM_CACHE), bool(flags & Flag.FRAGMENTS)
    headed = cached or fragmented
    channel = Channel(flags, now=0, strings=hostile.chance(20), limits=LIMITS)
    onward = Channel(flags, now=0)
    data = b"".join(
        hostile.lawful_frame(headed=headed)
        if hostile.chance(70)
        else hostile.frame(headed=headed, cached=cached, fragmented=fragmented)
        for _ in range(random.randrange(1, 30))
    )
    if hostile.chance(10):
        data = hostile.spoiled(data)
    broken = False
    for piece in in_pieces(random, data):
        try:
            channel.receive_data(piece, 0)
            while (record := channel.next_event()) is not None:
                assert not broken
                try:
                    onward.send(record)
                except EncodeError as error:
                    _check_unsendable(error)
                onward.data_to_send()
        except PeerError:
            broken = True


def _check_unsendable(error: EncodeError) -> None:
    """What is too deep one level deeper, and an opaque local term, can be received and not be sent on."""
    assert "nested deeper" in str(error) or "LocalTerm" in str(error), error


# --- handshake --------------------------------------------------------------------------------------------------------


def fuzz_handshake(random: Random) -> None:
    """Both machines, talking to each other through somebody who changes bytes: they agree, or they end."""
    hostile = Hostile(random, ME, VICTIM)
    flags = without(DEFAULT, random.choice(OPTIONAL))
    same = hostile.chance(80)
    dynamic = "h" if hostile.chance(20) else None
    initiator = Initiator(
        this_name=ME,
        this_creation=7,
        peer_name=VICTIM,
        flags=flags,
        cookie=b"secret",
        challenge=random.getrandbits(32),
        setup_timeout=7,
        now=0,
        dynamic_host=dynamic,
    )
    acceptor = Acceptor(
        this_name=VICTIM, this_creation=8, flags=flags, challenge=random.getrandbits(32), setup_timeout=7, now=0
    )
    machines: dict[Any, Any] = {initiator: acceptor, acceptor: initiator}
    ends: list[Established] = []
    ended: set[Any] = set()
    spoil_at = random.randrange(6)
    for step in range(12):
        for machine, other in machines.items():
            for data in machine.data_to_send():
                sent = hostile.spoiled(data) if step == spoil_at else data
                for piece in in_pieces(random, sent):
                    if other in ended:
                        break
                    try:
                        other.receive_data(piece, 0)
                        _take_handshake_events(random, other, b"secret" if same else b"other", ends, ended)
                    except UsageError:
                        raise
                    except BeamnodeError:
                        ended.add(other)
        if len(ended) == 2:
            break
    for machine in machines:
        if machine not in ended:
            try:
                machine.handle_deadline(100)
            except BeamnodeError:
                ended.add(machine)
    assert same or not ends, "two cookies, and a connection"


def _take_handshake_events(
    random: Random, machine: Any, cookie: bytes, ends: list[Established], ended: set[Any]
) -> None:
    while (event := machine.next_event()) is not None:
        match event:
            case PeerNamed(dynamic=True, name=host):
                machine.accept_named(f"X{random.randrange(99)}@{host}", 5, cookie=cookie)
            case PeerNamed():
                if random.randrange(10):
                    machine.accept(random.choice(list(Accept)), cookie=cookie)
                else:
                    machine.refuse(random.choice(list(Refusal)))
                    ended.add(machine)
            case PeerProved():
                machine.acknowledge()
            case StillWanted():
                machine.answer_alive(True)
            case Established():
                ends.append(event)
                ended.add(machine)
            case Named():
                pass


# --- epmd -------------------------------------------------------------------------------------------------------------


def fuzz_epmd(random: Random) -> None:
    """Connections of one table with any bytes: each answers, waits or ends, and none can touch another's name."""
    hostile = Hostile(random, ME, VICTIM)
    registry = EpmdRegistry(4369, lambda: random.getrandbits(32))
    connections = []
    for _ in range(random.randrange(1, 12)):
        local = hostile.chance(80)
        connection = EpmdServerConnection(registry, 0, peer_is_local=local, relaxed_command_check=hostile.chance(30))
        connections.append(connection)
        name = random.choice(("a", "b", "c", "\u00e9", "x" * 255, "a b", ""))
        request = random.choice(
            (
                epmd.AliveRequest(epmd.NodeEntry(name or "n", random.randrange(65536))),
                epmd.PortRequest(name or "n"),
                epmd.NamesRequest(),
                epmd.DumpRequest(),
                epmd.KillRequest(),
                epmd.StopRequest(name or "n"),
            )
        )
        try:
            data = epmd.encode_request(request)
        except BeamnodeError:
            data = b"\0\1x"
        if hostile.chance(60):
            data = hostile.spoiled(data)
        if hostile.chance(10):
            data += random.randbytes(3)
        for piece in in_pieces(random, data):
            try:
                connection.receive_data(piece, 0)
            except PeerError:
                assert connection.closing
            while connection.next_event() is not None:
                pass
            connection.data_to_send()
        if hostile.chance(30):
            connection.connection_lost()
    assert len(registry) <= len(connections)
    for connection in connections:
        connection.connection_lost()
    assert len(registry) == 0


# --- global_name_server -----------------------------------------------------------------------------------------------


class _Monitors:
    """What the machine watches, and the DOWNs for it."""

    def __init__(self) -> None:
        self.watched: dict[Reference, Pid] = {}
        self._count = 0

    def monitor(self, pid: Pid) -> Reference:
        self._count += 1
        reference = Reference(Atom(VICTIM), 1, (self._count, 0, 0))
        self.watched[reference] = pid
        return reference

    def demonitor(self, reference: Reference) -> None:
        self.watched.pop(reference, None)


def fuzz_global(random: Random) -> None:
    """The machine takes any message; what it wants sent can be sent; when everybody has gone it holds nothing."""
    hostile = Hostile(random, ME, VICTIM, victim_creation=1)
    monitors = _Monitors()
    own = Pid(Atom(VICTIM), 2, 0, 1)
    machine = GlobalNameServer(
        Atom(VICTIM),
        own,
        own,
        monitor=monitors.monitor,
        demonitor=monitors.demonitor,
        random=random.random,
        prevent_overlapping_partitions=hostile.chance(80),
    )
    nodes = [Atom(ME), Atom("friend@127.0.0.1"), Atom("third@127.0.0.1")]
    up: dict[Atom, int] = {}
    todo: list[Action] = []
    now = 0.0
    for step in range(random.randrange(5, 120)):
        node = random.choice(nodes)
        kind = random.randrange(100)
        if kind < 6 and node not in up:
            up[node] = step
            todo += machine.nodeup(node, step, now)
        elif kind < 10 and node in up:
            todo += _gone(machine, monitors, node, up, now)
        elif kind < 20:
            now += random.choice((0.1, 1.0, 5.0, 4000.0))
            if (deadline := machine.next_deadline()) is not None and deadline <= now:
                todo += machine.handle_deadline(now)
        elif kind < 26:
            todo += _whole_connect(hostile, machine, now)
        elif kind < 40 and todo:
            todo += _acted(random, machine, todo.pop(0), now, up)
        else:
            todo += machine.message(_received(hostile.service_message()), now)
        for action in todo:
            if isinstance(action, Send | Reply):
                encode(action.message if isinstance(action, Send) else (action.sender, action.value))
        assert sum(isinstance(action, Connect) for action in todo) <= 5000
    while todo:
        todo += _acted(random, machine, todo.pop(0), now, up, ok=False)
    for node in list(up):
        todo += _gone(machine, monitors, node, up, now)
    while todo:
        todo += _acted(random, machine, todo.pop(0), now, up, ok=False)
    assert machine.synced == [], machine.synced
    assert not machine._connecting
    for reference, pid in list(monitors.watched.items()):
        machine.message((a.DOWN, reference, a.process, pid, a.noconnection), now)
    assert machine.registered_names() == []
    assert machine.locks() == [] or all(own in holders for _, _, holders in machine.locks())


def _received(value: Any) -> Any:
    """As it arrives; `undefined` for what cannot travel (a Python dict may have keys that are one key on the wire)."""
    try:
        return decode(encode(value))
    except BeamnodeError:
        return a.undefined


def _whole_connect(hostile: Hostile, machine: GlobalNameServer, now: float) -> list[Action]:
    """As a peer that does nearly everything right, with the tag that it would have been told."""
    me, locker = hostile.me, hostile.own_pid()
    tag = machine._connector._tag(me)
    todo = machine.message((Atom("$gen_cast"), (a.init_connect, (8, 77), me, (a.locker, a.x, {}, locker))), now)
    todo += machine.message((Atom("$gen_cast"), (a.lock_set, locker, True, [], tag)), now)
    names = hostile.some(lambda: (hostile.term(2), hostile.pid(), hostile.term(2)), 6)
    todo += machine.message((Atom("$gen_cast"), (a.exchange, me, names, [], tag)), now)
    operations = [(a.insert, name) for name in names]
    known = hostile.some(hostile.node)
    todo += machine.message((Atom("$gen_cast"), (a.resolved, me, operations, known, a.unused, [], tag)), now)
    return todo


def _gone(machine: GlobalNameServer, monitors: _Monitors, node: Atom, up: dict[Atom, int], now: float) -> list[Action]:
    todo = []
    for reference, pid in list(monitors.watched.items()):
        if pid.node is node:
            del monitors.watched[reference]
            todo += machine.message((a.DOWN, reference, a.process, pid, a.noconnection), now)
    return todo + machine.nodedown(node, up.pop(node), now)


def _acted(
    random: Random, machine: GlobalNameServer, action: Action, now: float, up: dict[Atom, int], ok: bool | None = None
) -> list[Action]:
    """What comes of an action; `ok` None: whatever."""
    succeeds = bool(random.randrange(2)) if ok is None else ok
    match action:
        case Connect(node):
            return machine.connected(node, node in up, now)
        case Call(_, _, call_id) | RemoteCall(call_id=call_id):
            if succeeds:
                return machine.call_answered(call_id, random.choice((True, False, a.ok, [], (a.none,))), now)
            return machine.call_failed(call_id, now)
    return []


# --- running ----------------------------------------------------------------------------------------------------------

TARGETS: dict[str, Callable[[Random], None]] = {
    "etf": fuzz_etf,
    "channel": fuzz_channel,
    "halves": fuzz_halves,
    "handshake": fuzz_handshake,
    "epmd": fuzz_epmd,
    "global": fuzz_global,
}


def run(target: str, seed: int) -> str | None:
    """One run; the traceback if it failed."""
    try:
        TARGETS[target](Random(seed))
    except Exception:
        return traceback.format_exc()
    return None


def run_for(seconds: float, seed: int, targets: list[str], corpus: Path | None) -> tuple[dict[str, int], list[str]]:
    """Runs of each target in turn; how many of each, and what failed."""
    counts = dict.fromkeys(targets, 0)
    failures: list[str] = []
    random = Random(seed)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(failures) < 20:
        for target in targets:
            own_seed = random.getrandbits(48)
            counts[target] += 1
            failed = run(target, own_seed)
            if failed is not None:
                failures.append(f"{target} {own_seed}\n{failed}")
                if corpus is not None:
                    corpus.mkdir(parents=True, exist_ok=True)
                    (corpus / f"{target}-{own_seed}.seed").write_text(failures[-1])
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description="feed hostile input to the machines")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--only", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"))
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    if given.replay is not None:
        target, seed = given.replay.read_text().split()[:2]
        TARGETS[target](Random(int(seed)))
        return 0
    print(f"seed {given.seed}", flush=True)
    counts, failures = run_for(given.seconds, given.seed, given.only.split(","), given.corpus)
    print(", ".join(f"{target}: {count} runs" for target, count in counts.items()))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
