"""Peers that press on the limits: it stops there, others are served meanwhile, and the log stays readable."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest
from support_hostile import Attacker, Victim, term, victim_of

from beamnode import Atom, Reference, a
from beamnode.errors import PeerError
from beamnode.testing.peers import wait_for
from beamnode.wire.channel import Channel
from beamnode.wire.control import MonitorPExit
from beamnode.wire.flags import DEFAULT

TIES, PROCESSES, SIGNALS, SEQUENCES = 5000, 500, 1000, 50


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    limits = {
        "ties_per_peer_max": TIES,
        "processes_per_peer_max": PROCESSES,
        "fragment_sequences_max": SEQUENCES,
        "mailbox_warning_messages": 1000,
    }
    with victim_of(limits=limits) as running:
        running.check()
        yield running


class Reading:
    """Reads what the victim says to an attacker, in a thread of its own, so that neither waits for the other."""

    def __init__(self, attacker: Attacker) -> None:
        self._socket = attacker.socket.dup()
        self._socket.settimeout(60)  # a duplicate: whether it blocks, it shares with the other
        self.data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up: the attacker's own `close` does not, while there are two of its socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _read(self) -> None:
        try:
            while piece := self._socket.recv(1 << 20):
                self.data += piece
        except OSError:
            pass
        finally:
            self._socket.close()


def references(attacker: Attacker) -> Iterator[Reference]:
    for number in range(1 << 18):
        yield Reference(attacker.node, attacker.creation, (number, 0, 5))


def limit_lines(victim: Victim, limit: str) -> list[str]:
    return [line for line in victim.log().splitlines() if f"Limits({limit}=" in line]


def test_ties(victim: Victim) -> None:
    """Each that is one too many is answered; the others stay."""
    # Hidden, so that `global` says nothing to it.
    with victim.attack(DEFAULT, timeout=60) as attacker, Reading(attacker) as reading:
        name = Atom("net_kernel")
        for reference, _ in zip(references(attacker), range(2 * TIES), strict=False):
            attacker.control((19, attacker.pid(), name, reference))
        wait_for(lambda: len(refused(reading)) == TIES)
        victim.check()
        assert victim.holdings()["watchers"] == TIES
    assert len(limit_lines(victim, "ties_per_peer_max")) == 1
    wait_for(lambda: victim.holdings()["watchers"] == 0)


def refused(reading: Reading) -> list[Any]:
    """The monitors that ended with `system_limit` so far."""
    channel = Channel(DEFAULT, now=0.0)
    channel.receive_data(bytes(reading.data), 0.0)
    records = iter(channel.next_event, None)
    return [record for record in records if isinstance(record, MonitorPExit) and record.reason is a.system_limit]


def test_processes(victim: Victim) -> None:
    with victim.attack(timeout=60) as attacker, Reading(attacker):
        before = victim.holdings()["processes"]
        for reference, _ in zip(references(attacker), range(3 * PROCESSES), strict=False):
            call = (Atom("victim"), Atom("wait"), 1)
            attacker.control((29, reference, attacker.pid(), attacker.pid(), call, []), [1])
        wait_for(lambda: limit_lines(victim, "processes_per_peer_max"))
        victim.check()
        assert victim.holdings()["processes"] <= before + PROCESSES
        for _ in range(200):  # calls by message are counted with them
            call_by_message = (attacker.pid(), (Atom("call"), Atom("victim"), Atom("wait"), [1], Atom("user")))
            attacker.reg_send("rex", call_by_message)
        victim.check()
        assert victim.holdings()["processes"] <= before + PROCESSES
    assert len(limit_lines(victim, "processes_per_peer_max")) == 1
    with victim.attack() as another:  # has room of its own
        assert another.answers()


def test_a_flood_is_read_as_fast_as_allowed_and_the_others_as_ever() -> None:
    with victim_of(limits={"signals_per_second_max": SIGNALS}) as victim, victim.attack(timeout=60) as attacker:
        victim.check()
        message = term((6, attacker.pid(), Atom(""), Atom("nobody")))
        assert attacker.write(b"".join(attacker.message(message, term(number)) for number in range(3 * SIGNALS)))
        wait_for(lambda: limit_lines(victim, "signals_per_second_max"))
        victim.check()
        assert attacker.answers(30)  # after all that it has said before
        assert len(limit_lines(victim, "signals_per_second_max")) == 1


def test_fragments_in_flight(victim: Victim) -> None:
    with victim.attack() as attacker:
        for sequence in range(SEQUENCES + 1):
            first = b"\x83E" + sequence.to_bytes(8, "big") + (2).to_bytes(8, "big") + b"\0"
            attacker.frame(first + term((6, attacker.pid(), Atom(""), Atom("nobody"))) + b"m")
        assert attacker.is_closed()
    victim.check()
    (line,) = limit_lines(victim, "fragment_sequences_max")
    assert attacker.name in line
    assert "its connection is closed" in line


def test_strangers_do_not_fill_the_log(victim: Victim) -> None:
    """Two hundred wrong cookies under as many names: a few lines, in all of the logs together."""
    before = len(victim.log())
    for _ in range(200):
        with pytest.raises((PeerError, ConnectionError)):
            Attacker.open(victim.port, "wrong")
    victim.check()
    said = [line for line in victim.log()[before:].splitlines() if not line.startswith("DEBUG") and "cookie" in line]
    assert 1 <= len(said) <= 12
