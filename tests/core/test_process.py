"""The mailbox: order, selective receive and its save pointer; and what a process and its monitors are called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.core import process as process_module
from beamnode.core.process import NOTHING, Link, Mailbox, Monitor, Process
from beamnode.errors import ProcessExit
from beamnode.etf import Atom, Pid, a

NODE = Atom("n@h")
PID = Pid(NODE, 1, 0, 5)


def filled(*messages: Any) -> Mailbox:
    mailbox = Mailbox()
    mailbox.extend(messages)
    return mailbox


class Counting:
    """A match that knows what it was asked about."""

    def __init__(self, wanted: Any) -> None:
        self.wanted = wanted
        self.seen: list[Any] = []

    def __call__(self, message: Any) -> bool:
        self.seen.append(message)
        return bool(message == self.wanted)


def test_messages_come_in_their_order() -> None:
    mailbox = filled(1, None, 3)
    assert [mailbox.take() for _ in range(4)] == [1, None, 3, NOTHING]


def test_a_selective_take_leaves_the_others_in_their_order() -> None:
    mailbox = filled(1, 2, 3, 2)
    assert mailbox.take(lambda message: message == 2) == 2
    assert list(mailbox) == [1, 3, 2]
    assert len(mailbox) == 3
    assert mailbox.take() == 1


def test_nothing_is_looked_at_twice_by_one_receive() -> None:
    mailbox, match = filled(1, 2), Counting(9)
    assert mailbox.take(match) is NOTHING
    mailbox.append(3)
    assert mailbox.take(match) is NOTHING
    assert mailbox.take(match) is NOTHING
    mailbox.append(9)
    assert mailbox.take(match) == 9
    assert match.seen == [1, 2, 3, 9]
    assert list(mailbox) == [1, 2, 3]


def test_a_new_receive_looks_at_everything_again() -> None:
    mailbox, match = filled(1, 2), Counting(9)
    mailbox.take(match)
    mailbox.restart()
    mailbox.take(match)
    assert match.seen == [1, 2, 1, 2]


def test_after_a_hit_the_next_take_starts_from_the_front() -> None:
    mailbox, match = filled(1, 2, 2), Counting(2)
    assert mailbox.take(match) == 2
    assert mailbox.take(match) == 2
    assert match.seen == [1, 2, 1, 2]


def test_another_match_starts_from_the_front() -> None:
    mailbox, first, second = filled(1, 2), Counting(9), Counting(1)
    assert mailbox.take(first) is NOTHING
    assert mailbox.take(second) == 1
    assert mailbox.take(first) is NOTHING
    assert first.seen == [1, 2, 2]


def test_a_take_without_match_forgets_how_far_it_was_looked() -> None:
    mailbox, match = filled(1, 2), Counting(9)
    mailbox.take(match)
    assert mailbox.take() == 1
    mailbox.append(9)
    assert mailbox.take(match) == 9
    assert match.seen == [1, 2, 2, 9]


def test_all_that_match_are_removed() -> None:
    mailbox = Mailbox()
    mailbox.extend([1, 2, 3, 4])

    def wanted(message: int) -> bool:
        return message == 5

    assert mailbox.take(wanted) is NOTHING
    assert mailbox.remove_all(lambda message: message % 2 == 0) == [2, 4]
    assert list(mailbox) == [1, 3]
    mailbox.append(5)
    assert mailbox.take(wanted) == 5  # which is nearer to the front now than what was looked at
    assert mailbox.remove_all(wanted) == []


def test_what_is_removed_is_the_first_that_matches() -> None:
    mailbox = filled(1, 2, 3, 2)
    match = Counting(9)
    mailbox.take(match)
    assert mailbox.take_first(lambda message: message == 2) == 2
    assert list(mailbox) == [1, 3, 2]
    assert mailbox.take(match) is NOTHING
    assert match.seen[4:] == [1, 3, 2], "the place that was looked at has moved"
    assert mailbox.take_first(lambda message: message == 9) is NOTHING


@pytest.mark.parametrize("arriving", [3, 50])
def test_many_new_messages_are_looked_at_in_order(monkeypatch: pytest.MonkeyPatch, arriving: int) -> None:
    monkeypatch.setattr(process_module, "_INDEXED_MAX", 10)
    mailbox, match = filled(*range(100)), Counting(-1)
    assert mailbox.take(match) is NOTHING
    mailbox.extend(range(100, 100 + arriving))
    mailbox.extend([-1, 7])
    assert mailbox.take(match) == -1
    assert match.seen == [*range(100 + arriving), -1]
    assert list(mailbox) == [*range(100 + arriving), 7]


@given(
    st.lists(st.one_of(st.integers(0, 5), st.tuples(st.sampled_from(["take", "none", "restart"]), st.integers(0, 5))))
)
def test_a_mailbox_gives_what_a_plain_list_would(steps: list[Any]) -> None:
    mailbox, model = Mailbox(), []
    matches = [Counting(wanted) for wanted in range(6)]
    for step in steps:
        match step:
            case int():
                mailbox.append(step)
                model.append(step)
            case ("none", _):
                assert mailbox.take() == (model.pop(0) if model else NOTHING)
            case ("restart", _):
                mailbox.restart()
            case ("take", wanted):
                expected = wanted if wanted in model else NOTHING
                if wanted in model:
                    model.remove(wanted)
                assert mailbox.take(matches[wanted]) == expected
        assert list(mailbox) == model


def test_a_link_is_active_until_an_unlink_is_under_way() -> None:
    link = Link()
    assert link.active
    link.unlink_id = 1
    assert not link.active


def test_a_monitor_calls_its_target_as_otp_does() -> None:
    assert Monitor(PID, NODE, a.DOWN).down_object() == PID
    assert Monitor(a.server, NODE, a.DOWN).down_object() == (a.server, NODE)


def test_a_process_is_alive_until_it_has_a_reason() -> None:
    process = Process(PID, None, None)
    assert process.alive
    process.check_alive()
    assert repr(process) == f"<Process {PID!r}>"
    process.name = a.server
    assert repr(process) == f"<Process {PID!r} server>"
    process.exit_reason = None  # the atom nil is a reason too
    assert not process.alive
    assert repr(process) == f"<Process {PID!r} server ended>"
    with pytest.raises(ProcessExit) as caught:
        process.check_alive()
    assert caught.value.reason is None
