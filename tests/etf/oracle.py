"""An `erl` that says what it makes of our bytes: the oracle of the codec tests."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from beamnode.testing.peers import Otp

# Packets with a four-byte length on stdin and stdout. A request is an operation and its items, each after its length:
#   e  for each item: term_to_binary(binary_to_term(Item)), or nothing where that is `badarg`
#   s  for each two items: <<1>> where they are the same term, otherwise <<0>>
#   x  for each item, the source of an Erlang expression: term_to_binary of its value, or nothing where it has none
#   c  the same, compressed
_PROGRAM = """
Port = open_port({fd, 0, 1}, [binary, {packet, 4}]),
Try = fun(F) -> try F() catch _:_ -> <<>> end end,
Value = fun(Source) ->
    {ok, Tokens, _} = erl_scan:string(binary_to_list(Source) ++ "."),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    {value, V, _} = erl_eval:exprs(Expressions, erl_eval:new_bindings()),
    V
end,
Out = fun(T) -> term_to_binary(T, [{minor_version, 2}]) end,
Pairs = fun Pairs([A, B | Rest]) -> [{A, B} | Pairs(Rest)]; Pairs([]) -> [] end,
Answer = fun
    ($e, Items) -> [Try(fun() -> Out(erlang:binary_to_term(I)) end) || I <- Items];
    ($s, Items) -> [Try(fun() ->
            case erlang:binary_to_term(A) =:= erlang:binary_to_term(B) of true -> <<1>>; false -> <<0>> end
        end) || {A, B} <- Pairs(Items)];
    ($x, Items) -> [Try(fun() -> Out(Value(I)) end) || I <- Items];
    ($c, Items) -> [Try(fun() -> term_to_binary(Value(I), [compressed]) end) || I <- Items]
end,
Loop = fun Loop() ->
    receive {Port, {data, <<Op, Rest/binary>>}} ->
        Answers = Answer(Op, [I || <<Size:32, I:Size/binary>> <= Rest]),
        Port ! {self(), {command, [[<<(byte_size(A)):32>>, A] || A <- Answers]}},
        Loop()
    end
end,
Loop().
"""


class Oracle:
    """One `erl` of one release, asked in batches. A context manager; ends with the pipes."""

    def __init__(self, otp: Otp) -> None:
        self.release = otp.release
        arguments = ["-noinput", "-boot", "start_clean", "-eval", _PROGRAM]
        self._process = subprocess.Popen(
            [*otp.command("erl"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ERL_CRASH_DUMP_SECONDS": "0"},  # no dump where the tests are run
        )

    def reencode(self, *items: bytes) -> list[bytes]:
        """What OTP writes for the term that it reads in each; empty where it reads none."""
        return self._ask(b"e", items)

    def same(self, *pairs: tuple[bytes, bytes]) -> list[bool]:
        """Whether OTP reads the same term (`=:=`) in both."""
        return [answer == b"\x01" for answer in self._ask(b"s", [item for pair in pairs for item in pair])]

    def evaluate(self, *sources: str, compressed: bool = False) -> list[bytes]:
        """What OTP writes for the values of Erlang expressions."""
        return self._ask(b"c" if compressed else b"x", [source.encode() for source in sources])

    def _ask(self, operation: bytes, items: Iterable[bytes]) -> list[bytes]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = operation + b"".join(struct.pack(">I", len(item)) + item for item in items)
        self._process.stdin.write(struct.pack(">I", len(request)) + request)
        self._process.stdin.flush()
        answer = self._read(struct.unpack(">I", self._read(4))[0])
        answers = []
        at = 0
        while at < len(answer):
            (size,) = struct.unpack_from(">I", answer, at)
            answers.append(answer[at + 4 : at + 4 + size])
            at += 4 + size
        return answers

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        assert len(data) == size, f"erl of OTP {self.release} died"
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
