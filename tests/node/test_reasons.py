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


def test_what_an_exit_says_of_an_exception() -> None:
    try:
        raise ValueError("no such user")
    except ValueError as error:
        reason = reason_of(error)
        place = f"{__file__}:{error.__traceback__.tb_lineno}"  # type: ignore[union-attr]
    said = f"ValueError: no such user ({place}, in test_what_an_exit_says_of_an_exception)"
    assert str(ProcessExit(reason)) == f"process exit: {said}"
    assert str(ProcessExit((reason, (a.gen_server, a.call, [a.users, 1, 5000])))) == (
        f"process exit: {said}, seen in gen_server:call with [Atom('users'), 1, 5000]"
    )
    assert "Atom('file')" in repr(ProcessExit(reason))


@pytest.mark.parametrize("file", [[a.x], [1114111], [-1]])
def test_what_an_exit_says_of_a_file_that_is_no_text(file: object) -> None:
    reason = ((a.Error, b"text"), [(a.m, a.f, [], [(a.file, file), (a.line, 1)])])
    assert str(ProcessExit(reason)) == "process exit: Error: text (in f)"


def test_what_an_exit_says_is_one_line_whatever_a_peer_says() -> None:
    kind = Atom("Error\x1b[2J")
    reason = ((kind, b"one\ntwo"), [(a.m, a.f, [], [(a.file, [10]), (a.line, 1)])])
    assert str(ProcessExit(reason)).isprintable()
    assert str(ProcessExit(((10**5000, b"text"), [(a.m, a.f, [], [(a.file, [65]), (a.line, 1)])]))) == (
        "process exit: <tuple>"
    )
