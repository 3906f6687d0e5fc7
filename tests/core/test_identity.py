"""Pids and references: never the same twice, in the widths that OTP takes, recognised in every life of the node."""

from __future__ import annotations

import pytest

from beamnode.core.identity import PID_ID_BITS, Identities
from beamnode.etf import Atom

NODE = Atom("n@h")


def test_pids_are_unique_where_the_id_wraps() -> None:
    identities = Identities(NODE, 5)
    identities._pids = (1 << PID_ID_BITS) - 3
    pids = [identities.next_pid() for _ in range(6)]
    assert len(set(pids)) == 6
    assert [(pid.id, pid.serial) for pid in pids] == [
        ((1 << PID_ID_BITS) - 2, 0),
        ((1 << PID_ID_BITS) - 1, 0),
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
    ]
    assert all(pid.node is NODE and pid.creation == 5 for pid in pids)


def test_the_widths_of_a_pid_hold_to_its_last_one() -> None:
    identities = Identities(NODE, 5)
    identities._pids = (1 << (PID_ID_BITS + 32)) - 2
    last = identities.next_pid()
    assert (last.id, last.serial) == ((1 << PID_ID_BITS) - 1, (1 << 32) - 1)


def test_the_first_pid_is_not_that_of_the_node_itself() -> None:
    assert Identities(NODE, 5).next_pid().id > 0


@pytest.mark.parametrize("before", [0, (1 << 18) - 2, (1 << 50) - 2, (1 << 82) - 4])
def test_references_are_unique_and_their_first_word_has_18_bits(before: int) -> None:
    identities = Identities(NODE, 5)
    identities._references = before
    references = [identities.next_reference() for _ in range(3)]
    assert len(set(references)) == 3
    for reference in references:
        assert len(reference.words) == 3
        assert reference.words[0] < 1 << 18
        assert all(0 <= word < 1 << 32 for word in reference.words)


def test_what_is_made_after_a_restart_has_the_new_creation() -> None:
    identities = Identities(NODE, 5)
    pid, reference = identities.next_pid(), identities.next_reference()
    identities.renew(9)
    new_pid, new_reference = identities.next_pid(), identities.next_reference()
    assert identities.creation == new_pid.creation == new_reference.creation == 9
    assert (pid.creation, reference.creation) == (5, 5)
    assert (new_pid.id, new_reference.words) != (pid.id, reference.words)
