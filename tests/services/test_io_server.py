"""services/io_server.py: what each request of the IO protocol does, and its answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beamnode import Atom, UsageError, a
from beamnode.services.console import Console
from beamnode.services.io_server import REQUESTS_DEPTH_MAX, IoServer, may_wait, wants_input


class Paper(Console):
    """A console that keeps what is printed, and reads from a list of lines."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self.printed = ""
        self.lines = list(lines)

    def write(self, text: str) -> None:
        self.printed += text

    async def read_line(self, prompt: str) -> str:
        self.printed += prompt
        return self.lines.pop(0) if self.lines else ""

    def size(self) -> tuple[int, int] | None:
        return (80, 24)


async def no_call(module: Atom, function: Atom, args: list[Any]) -> Any:
    raise UsageError(f"{module}:{function} is not here")


def ask(paper: Paper, *requests: Any, call: Any = no_call) -> Any:
    """The answer to the last one."""

    async def main() -> Any:
        server = IoServer(paper, Atom("h@127.0.0.1"))
        answer = None
        for request in requests:
            answer = await server.answer(request, call)
        return answer

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "printed"),
    [
        ((a.put_chars, a.unicode, "ż\n".encode()), "ż\n"),
        ((a.put_chars, a.unicode, [0x17C, [b"x"]]), "żx"),
        ((a.put_chars, a.latin1, b"\xe9"), "é"),
        ((a.put_chars, b"\xe9"), "é"),
        ((a.put_chars, a.unicode, a.io_lib, a.format, [b"~p~n", [1]]), "1\n"),
        ((a.put_chars, a.unicode, a.io_lib, a.fwrite, [b"~p", [1]]), "1"),
        ((a.put_chars, a.io_lib, a.format, [b"~p", [1]]), "1"),
        ((a.put_chars, a.unicode, a.io_lib, a.write, [[104]]), "[104]"),
        ((a.put_chars, a.unicode, a.io_lib, a.print, [[104], 1, 80, 30]), '"h"'),
        ((a.put_chars, a.unicode, a.io_lib, a.nl, []), "\n"),
        ((a.requests, [(a.put_chars, a.unicode, b"1"), (a.put_chars, a.unicode, b"2")]), "12"),
        ((a.requests, []), ""),
    ],
)
def test_output(request_: Any, printed: str) -> None:
    paper = Paper()
    assert not wants_input(request_)
    assert not may_wait(request_)
    assert ask(paper, request_) is a.ok
    assert paper.printed == printed


def test_output_that_cannot_be() -> None:
    for request in (
        (a.put_chars, a.unicode, b"\xff"),
        (a.put_chars, a.unicode, (1,)),
        (a.put_chars, a.unicode, a.io_lib, a.format, [b"~p", []]),
        (a.put_chars, a.unicode, a.other, a.function, []),
    ):
        paper = Paper()
        assert ask(paper, request) == (a.error, request)
        assert paper.printed == ""
    bad = (a.put_chars, a.unicode, b"\xff")
    paper = Paper()
    several = (a.requests, [(a.put_chars, a.unicode, b"1"), bad, (a.put_chars, a.unicode, b"2")])
    assert ask(paper, several) == (a.error, bad)
    assert paper.printed == "1"


def test_output_that_the_asker_makes() -> None:
    async def call(module: Atom, function: Atom, args: list[Any]) -> Any:
        return [str(module).encode(), b":", str(function).encode(), args]

    paper = Paper()
    request = (a.put_chars, a.unicode, a.erl_pp, a.form, [b"!"])
    assert may_wait(request)
    assert may_wait((a.requests, [request]))
    assert ask(paper, request, call=call) is a.ok
    assert paper.printed == "erl_pp:form!"


def test_standard_output_that_is_gone() -> None:
    class Gone(Paper):
        def write(self, text: str) -> None:
            raise BrokenPipeError

    assert ask(Gone(), (a.put_chars, a.unicode, b"x")) == (a.error, a.terminated)


def test_lines() -> None:
    paper = Paper("jöe\n", "rest")
    get = (a.get_line, a.unicode, b"name? ")
    assert wants_input(get)
    assert ask(paper, get) == "jöe\n".encode()
    assert paper.printed == "name? "
    assert ask(paper, get) == b"rest"
    assert ask(paper, get) is a.eof
    assert ask(Paper("x\n"), (a.get_line, [112, 62])) == b"x\n"
    assert ask(Paper("x\n"), (a.setopts, [(a.binary, False)]), get) == [120, 10]
    assert ask(Paper("é\n"), (a.setopts, [(a.encoding, a.latin1)]), get) == b"\xe9\n"


@pytest.mark.parametrize("prompt", [a["p> "], b"p> ", [112, b"> "], (a.format, b"~s> ", [b"p"])])
def test_prompts(prompt: Any) -> None:
    paper = Paper("x\n")
    assert ask(paper, (a.get_line, a.unicode, prompt)) == b"x\n"
    assert paper.printed == "p> "


def test_a_prompt_that_is_none() -> None:
    request = (a.get_line, a.unicode, (1, 2))
    assert ask(Paper("x\n"), request) == (a.error, request)


def test_characters() -> None:
    paper = Paper("abc\n", "d\n")
    assert ask(paper, (a.get_chars, a.unicode, b"", 2), (a.get_line, a.unicode, b"")) == b"c\n"
    assert ask(Paper("a\n", "b\n"), (a.get_chars, a.unicode, b"", 3)) == b"a\nb"
    assert ask(Paper("ab"), (a.get_chars, a.unicode, b"", 3)) == b"ab"
    assert ask(Paper(), (a.get_chars, a.unicode, b"", 3)) is a.eof
    assert ask(Paper(), (a.get_chars, a.unicode, b"", 0)) == b""
    request = (a.get_chars, a.unicode, b"", -1)
    assert ask(Paper("a\n"), request) == (a.error, request)


def test_get_until_calls_where_the_asker_is() -> None:
    given: list[Any] = []

    async def collect(module: Atom, function: Atom, args: list[Any]) -> Any:
        """Until a full stop."""
        assert (module, function, args[2:]) == (a.erl_scan, a.tokens, [1])
        given.append(args[1])
        so_far, data = args[0], args[1]
        if data is a.eof:
            return (a.done, a.eof, [])
        text = [*so_far, *data]
        return (a.done, (a.ok, text[: text.index(46)]), text[text.index(46) + 1 :]) if 46 in text else (a.more, text)

    request = (a.get_until, a.unicode, b"> ", a.erl_scan, a.tokens, [1])
    assert wants_input(request)
    assert ask(Paper("a\n", "b. c\n"), request, call=collect) == (a.ok, list(b"a\nb"))
    assert ask(Paper("b. c\n"), request, (a.get_line, a.unicode, b""), call=collect) == b" c\n"
    assert ask(Paper(), request, call=collect) is a.eof
    assert ask(Paper("x\n"), request) == (a.error, a.request)


def test_options() -> None:
    assert ask(Paper(), a.getopts)[:2] == [(a.binary, True), (a.encoding, a.unicode)]
    set_them = (a.setopts, [a.list, (a.encoding, a.latin1)])
    assert ask(Paper(), set_them) is a.ok
    assert ask(Paper(), set_them, a.getopts)[:2] == [(a.binary, False), (a.encoding, a.latin1)]
    assert ask(Paper(), (a.setopts, [(a.echo, False)])) == (a.error, a.enotsup)
    assert ask(Paper(), (a.get_geometry, a.columns)) == 80
    assert ask(Paper(), (a.get_geometry, a.rows)) == 24
    assert ask(Paper(), (a.get_password, a.unicode)) == (a.error, a.enotsup)


def test_what_is_no_request() -> None:
    deep: Any = a.getopts
    for _ in range(REQUESTS_DEPTH_MAX + 1):
        deep = (a.requests, [deep])
    for request in (a.nonsense, (a.put_chars,), (), 1, (a.requests, a.x), (a.get_geometry, a.depth), deep):
        assert ask(Paper(), request) == (a.error, a.request)
