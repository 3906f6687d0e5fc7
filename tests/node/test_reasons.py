"""node/reasons.py: Python exceptions as exit reasons of Erlang's shape."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode import Atom, ProcessExit, a
from beamnode.etf import decode, encode
from beamnode.node.reasons import STACK_FRAMES_MAX, reason_of, sendable


def caught(function: Any, *args: Any) -> BaseException:
    with pytest.raises(BaseException) as info:  # noqa: PT011
        function(*args)
    return info.value


def fail() -> None:
    raise ValueError("wrong")


def deep(levels: int) -> None:
    if levels == 0:
        fail()
    deep(levels - 1)


def test_an_exception_is_its_class_its_text_and_the_stack_innermost_first() -> None:
    (kind, text), stack = reason_of(caught(fail))
    assert (kind, text) == (a.ValueError, b"wrong")
    module, function, arity, [(_, file), (_, line)] = stack[0]
    assert (module, function, arity) == (a.test_reasons, a.fail, [])
    assert bytes(file).decode() == __file__
    assert line == fail.__code__.co_firstlineno + 1
    assert [frame[1] for frame in stack] == [a.fail, a.caught]
    assert decode(encode(reason_of(caught(fail)))) == reason_of(caught(fail))


def test_a_deep_stack_is_cut_at_its_outer_end() -> None:
    _, stack = reason_of(caught(deep, 100))
    assert len(stack) == STACK_FRAMES_MAX
    assert [frame[1] for frame in stack[:2]] == [a.fail, a.deep]


def test_process_exit_carries_its_reason() -> None:
    reason = (a.because, object())
    assert reason_of(ProcessExit(reason)) is reason


class Grüße(Exception):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Grüße("ä\udcff"), (Atom("Grüße"), "ä?".encode())),
        (KeyError("key"), (a.KeyError, b"'key'")),
        (ValueError(), (a.ValueError, b"")),
        (type("X" * 300, (Exception,), {})("long"), (Atom("X" * 255), b"long")),
        (Mute(), (a.Mute, b"Mute")),
    ],
)
def test_every_exception_has_a_reason_that_can_be_sent(error: Exception, said: Any) -> None:
    reason = reason_of(error)
    assert reason == (said, [])
    assert sendable(reason) is reason


def test_what_has_no_term_is_told_in_words() -> None:
    assert sendable((a.ok, [1, b"x"])) == (a.ok, [1, b"x"])
    tag, text = sendable((a.error, object()))
    assert tag is a.unencodable_reason
    assert b"Atom('error')" in text
    assert len(sendable({1: "x" * 5000, 2: object()})[1]) == 1000
