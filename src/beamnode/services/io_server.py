"""The server's side of the IO protocol: what each request does to a console, and its answer.

Source: the documentation of stdlib, "The Erlang I/O Protocol"; group.erl, user.erl.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from beamnode.errors import BeamnodeError
from beamnode.etf import Atom, a
from beamnode.etf.shown import shown
from beamnode.services.console import Console
from beamnode.services.io_format import FormatError, chardata_text, format_text
from beamnode.services.term_text import term_text

log = logging.getLogger("beamnode.io")

REQUESTS_DEPTH_MAX: Final = 20  # `requests` within `requests`
# Calls `module:function(args)` where the asker lives: requests name functions of Erlang, which cannot run here.
Call = Callable[[Atom, Atom, list[Any]], Awaitable[Any]]

_INPUT: Final = frozenset({a.get_line, a.get_chars, a.get_until, a.get_password})
_FORMATTERS: Final = frozenset({a.format, a.fwrite, a.write, a.print, a.nl})
_ENCODINGS: Final = {a.unicode: "utf-8", a.utf8: "utf-8", a.latin1: "latin-1"}
_UNKNOWN: Final = (a.error, a.request)


def wants_input(request: Any, depth: int = 0) -> bool:
    """Whether it waits for somebody to type."""
    match request:
        case (a.requests, list() as several):
            return depth < REQUESTS_DEPTH_MAX and any(wants_input(one, depth + 1) for one in several)
        case (Atom() as name, *_):
            return name in _INPUT
    return False


def may_wait(request: Any, depth: int = 0) -> bool:
    """Whether it waits for another node, which has to make the text."""
    match request:
        case (a.requests, list() as several):
            return depth < REQUESTS_DEPTH_MAX and any(may_wait(one, depth + 1) for one in several)
        case (a.put_chars, Atom(), module, function, _) | (a.put_chars, Atom() as module, function, _):
            return module is not a.io_lib or function not in _FORMATTERS
    return False


class IoServer:
    """Requests on one console. Its options are `binary` (what is read comes as binaries) and `encoding`."""

    def __init__(self, console: Console, own: Atom) -> None:
        self._console = console
        self._own = own
        self._binary = True
        self._encoding = a.unicode
        self._rest = ""  # of a line of which only some characters were asked for

    async def answer(self, request: Any, call: Call, depth: int = 0) -> Any:
        """Carry it out, with `call` for functions that it names. It waits if `wants_input` or `may_wait` say so."""
        match request:
            case (a.put_chars, Atom() as encoding, characters):
                return self._put(request, lambda: chardata_text(characters, _codec(encoding)))
            case (a.put_chars, Atom() as encoding, Atom() as module, Atom() as function, list() as args):
                return await self._put_result(request, encoding, (module, function, args), call)
            case (a.put_chars, characters):
                return self._put(request, lambda: chardata_text(characters, "latin-1"))
            case (a.put_chars, Atom() as module, Atom() as function, list() as args):
                return await self._put_result(request, a.latin1, (module, function, args), call)
            case (a.requests, list() as several) if depth < REQUESTS_DEPTH_MAX:
                return await self._answer_all(several, call, depth)
            case a.getopts:
                return self._options()
            case (a.setopts, list() as options):
                return self._set(options)
            case (a.get_geometry, a.columns | a.rows as side):
                size = self._console.size()
                return (a.error, a.enotsup) if size is None else size[side is a.rows]
        return await self._answer_input(request, call)

    async def _answer_all(self, several: list[Any], call: Call, depth: int) -> Any:
        """One after the other until one fails; the answer is that of the last."""
        answer: Any = a.ok
        for one in several:
            answer = await self.answer(one, call, depth + 1)
            if isinstance(answer, tuple) and answer[:1] == (a.error,):
                break
        return answer

    # --- Output -------------------------------------------------------------------------------------------------------

    def _put(self, request: Any, text: Callable[[], str]) -> Any:
        try:
            self._console.write(text())
        except FormatError as error:
            log.debug("cannot print %s: %s", shown(request), error)
            return (a.error, request)
        except (OSError, ValueError) as error:
            log.debug("cannot print, standard output is gone: %s", error)
            return (a.error, a.terminated)
        return a.ok

    async def _put_result(
        self, request: Any, encoding: Atom, function: tuple[Atom, Atom, list[Any]], call: Call
    ) -> Any:
        """Text that a function of Erlang makes. Those of `io_lib` that OTP's own clients use are known here."""
        wide, own = _codec(encoding) == "utf-8", self._own
        match function:
            case a.io_lib, a.format | a.fwrite, [form, values]:
                return self._put(request, lambda: format_text(form, values, own=own))
            case a.io_lib, a.write, [term]:
                return self._put(request, lambda: term_text(term, wide=wide, own=own))
            case a.io_lib, a.print, [term, *_]:
                return self._put(request, lambda: term_text(term, strings=True, wide=wide, own=own))
            case a.io_lib, a.nl, []:
                return self._put(request, lambda: "\n")
        try:
            text = await call(*function)
        except (BeamnodeError, TimeoutError) as error:
            log.info("cannot print what %s:%s makes: %s", *function[:2], error)
            return (a.error, request)
        return self._put(request, lambda: chardata_text(text, _codec(encoding)))

    # --- Input --------------------------------------------------------------------------------------------------------

    async def _answer_input(self, request: Any, call: Call) -> Any:
        match request:
            case (a.get_line, prompt) | (a.get_line, Atom(), prompt):
                return await self._get_line(request, prompt)
            case (a.get_chars, prompt, int() as count) | (a.get_chars, Atom(), prompt, int() as count):
                return await self._get_chars(request, prompt, count)
            case (a.get_until, Atom(), prompt, Atom() as module, Atom() as function, list() as args):
                return await self._get_until(request, prompt, (module, function, args), call)
            case (a.get_until, prompt, Atom() as module, Atom() as function, list() as args):
                return await self._get_until(request, prompt, (module, function, args), call)
            case (a.get_password, *_):
                return (a.error, a.enotsup)
        log.debug("no IO request: %s", shown(request))
        return _UNKNOWN

    async def _get_until(self, request: Any, prompt: Any, function: tuple[Atom, Atom, list[Any]], call: Call) -> Any:
        """What `io:read` and `io:fread` ask: lines are given to a function until it says `{done, Result, Rest}`."""
        shown_prompt = self._prompt(prompt)
        if shown_prompt is None:
            return (a.error, request)
        module, name, args = function
        continuation: Any = []
        text, self._rest = self._rest, ""
        while True:
            text = text or await self._read(shown_prompt)
            given = [ord(character) for character in text] if text else a.eof
            try:
                answer = await call(module, name, [continuation, given, *args])
            except (BeamnodeError, TimeoutError) as error:
                log.info("cannot read with %s:%s: %s", module, name, error)
                return _UNKNOWN
            match answer:
                case (a.done, result, rest):
                    self._rest = "" if rest is a.eof else chardata_text(rest)
                    return result
                case (a.more, continuation) if given is not a.eof:
                    text = ""
                case _:
                    return (a.error, a.get_until)

    async def _get_line(self, request: Any, prompt: Any) -> Any:
        shown_prompt = self._prompt(prompt)
        if shown_prompt is None:
            return (a.error, request)
        line, self._rest = self._rest, ""
        if not line.endswith("\n"):
            line += await self._read(shown_prompt)
        return self._answer_text(line)

    async def _get_chars(self, request: Any, prompt: Any, count: int) -> Any:
        shown_prompt = self._prompt(prompt)
        if shown_prompt is None or count < 0:
            return (a.error, request)
        while len(self._rest) < count:
            more = await self._read(shown_prompt)
            if not more:
                break
            self._rest += more
        text, self._rest = self._rest[:count], self._rest[count:]
        return self._answer_text(text) if text or count else self._as_term("")

    async def _read(self, prompt: str) -> str:
        try:
            return await self._console.read_line(prompt)
        except (OSError, ValueError) as error:
            log.debug("cannot read standard input: %s", error)
            return ""

    def _prompt(self, prompt: Any) -> str | None:
        """A prompt is an atom, text, or `{format, Format, Args}`. None if it is none of them."""
        try:
            match prompt:
                case Atom():
                    return prompt.name
                case (a.format, form, args):
                    return format_text(form, args, own=self._own)
            return chardata_text(prompt)
        except FormatError:
            return None

    def _answer_text(self, text: str) -> Any:
        return self._as_term(text) if text else a.eof

    def _as_term(self, text: str) -> Any:
        if self._binary:
            return text.encode(_ENCODINGS[self._encoding], "replace")
        return [ord(character) for character in text]

    # --- Options ------------------------------------------------------------------------------------------------------

    def _options(self) -> list[Any]:
        terminal = self._console.size() is not None
        return [
            (a.binary, self._binary),
            (a.encoding, self._encoding),
            *((side, terminal) for side in (a.terminal, a.stdin, a.stdout, a.stderr)),
        ]

    def _set(self, options: list[Any]) -> Any:
        binary, encoding = self._binary, self._encoding
        for option in options:
            match option:
                case a.binary | (a.binary, True) | (a.list, False):
                    binary = True
                case a.list | (a.binary, False) | (a.list, True):
                    binary = False
                case a.unicode | a.utf8 | (a.encoding, a.unicode | a.utf8):
                    encoding = a.unicode
                case a.latin1 | (a.encoding, a.latin1):
                    encoding = a.latin1
                case _:
                    return (a.error, a.enotsup)
        self._binary, self._encoding = binary, encoding
        return a.ok


def _codec(encoding: Atom) -> str:
    return _ENCODINGS.get(encoding, "utf-8")
