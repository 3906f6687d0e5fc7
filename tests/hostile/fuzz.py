"""A fuzzer to be run by hand for as long as one likes; the tests run it for a few seconds.

It draws whole conversations, of which a change of bytes makes nothing else; for bytes there is `tests/fuzz`.

    python tests/hostile/fuzz.py --seconds 600 [--seed N] [--only TARGET,...] [--corpus DIR]
    python tests/hostile/fuzz.py --replay DIR/global-123.seed

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

from beamnode.errors import BeamnodeError
from beamnode.etf import Atom, Pid, Reference, a, decode, encode
from beamnode.services.global_actions import Action, Call, Connect, RemoteCall, Reply, Send
from beamnode.services.global_name_server import GlobalNameServer

ME, VICTIM = "evil@127.0.0.1", "victim@127.0.0.1"


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
    "halves": fuzz_halves,
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
