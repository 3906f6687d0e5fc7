"""core/process.py and core/signals.py: messages that are expected, and so kept beside the mailbox."""

from __future__ import annotations

from typing import Any

import pytest
from test_signals import NODE, PEER, REMOTE, inbox, new_signals, sent, spawn

from beamnode.core.process import NOTHING, AliasKind, Origin, Process, reference_in
from beamnode.core.signals import Signals
from beamnode.etf import Atom, ImproperList, Reference, a
from beamnode.wire.control import AliasSend, DemonitorP, MonitorPExit, Send

REF = Reference(NODE, 5, (1, 2, 3))


@pytest.fixture
def signals() -> Signals:
    return new_signals()


@pytest.fixture
def process(signals: Signals) -> Process:
    return spawn(signals)


def reply(reference: Reference, value: Any = a.value) -> tuple[Any, Any]:
    return ImproperList((a.alias,), reference), value


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ((ImproperList((a.alias,), REF), 1), True),
        ((ImproperList([a.alias], REF), 1), True),  # as it is decoded
        ((a.DOWN, REF, a.process, REMOTE, a.normal), True),
        ((Atom("another tag"), REF, a.process, REMOTE, a.normal), True),
        ((REF, 1), True),  # of a task of Elixir
        (Origin(a["other@h"], (REF, 1)), True),
        (([a.alias, REF], 1), False),
        ((ImproperList((a.other,), REF), 1), False),
        ((ImproperList((a.alias, a.alias), REF), 1), False),
        ((ImproperList((a.alias,), a.x), 1), False),
        ((a.DOWN, 1, a.process, REMOTE, a.normal), False),
        ([a.DOWN, REF, a.process, REMOTE, a.normal], False),
        ((), False),
        (REF, False),
    ],
)
def test_whose_answer_a_message_is(message: Any, found: bool) -> None:
    assert reference_in(message) == (REF if found else None)


@pytest.mark.parametrize("through", ["alias", "pid"])
def test_a_reply_goes_to_its_slot(signals: Signals, process: Process, through: str) -> None:
    process.waiting = True
    reference = signals.monitor(process, REMOTE, alias=AliasKind.REPLY_DEMONITOR, expected=True)
    slot = process.expected[reference]
    slot.waiter = a.waiter
    answer = reply(reference)
    record = AliasSend(REMOTE, reference, answer) if through == "alias" else Send(process.pid, answer, REMOTE)
    signals.receive(PEER, record)
    assert (slot.message, signals.answered) == (answer, [a.waiter])
    assert (inbox(process), signals.ready) == ([], [])
    assert bool(process.monitors) is (through == "pid")
    signals.deliver(process, reply(reference, a.second))
    assert (slot.message, signals.answered) == (answer, [a.waiter]), "the second one is dropped"
    signals.demonitor(process, reference, flush=True)
    assert not process.expected
    assert not process.aliases
    signals.deliver(process, reply(reference, a.third))
    assert inbox(process) == [reply(reference, a.third)]


@pytest.mark.parametrize("why", ["noproc", "noconnection", "its end", "its end there"])
def test_an_end_goes_to_its_slot(signals: Signals, process: Process, why: str) -> None:
    server = spawn(signals)
    target: Any = {"noproc": a.nobody, "its end": server.pid}.get(why, REMOTE)
    reference = signals.monitor(process, target, alias=AliasKind.REPLY_DEMONITOR, expected=True)
    match why:
        case "noconnection":
            signals.node_down(PEER)
        case "its end":
            signals.end(server, a.boom)
        case "its end there":
            signals.receive(PEER, MonitorPExit(REMOTE, process.pid, reference, a.boom))
    message = process.expected[reference].message
    assert message[:2] == (a.DOWN, reference)
    assert message[4] is (a.boom if "end" in why else Atom(why))
    assert (inbox(process), signals.answered) == ([], []), "nobody waits yet"


def test_what_others_wait_for_goes_to_the_mailbox(signals: Signals, process: Process) -> None:
    process.waiting = True
    signals.monitor(process, REMOTE, expected=True)
    other = signals.monitor(process, REMOTE)
    for message in (1, (a.x, 1), reply(other), (a.DOWN, other, a.process, REMOTE, a.normal)):
        signals.deliver(process, message)
    assert len(inbox(process)) == 4
    assert signals.ready == [process]


def test_what_was_given_up_is_looked_for_nowhere(signals: Signals, process: Process) -> None:
    reference = signals.monitor(process, REMOTE, expected=True)
    slot = process.expected[reference]
    sent(signals)
    assert signals.demonitor(process, reference, flush=True)
    assert sent(signals) == [DemonitorP(process.pid, REMOTE, reference)]
    assert (process.expected, slot.message) == ({}, NOTHING)
