"""Every kind of term, in messages, there and back: each side says whether it is the same, Erlang with `=:=`."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from support_otp import HOST, World, echo, exact, expect

from beamnode import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    a,
    alias,
    monitor,
    self,
    send,
    spawn,
)
from beamnode.etf import ExactKey, HashableDict, HashableList, encode
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


def improper(*terms: Any) -> ImproperList:
    return ImproperList(terms[:-1], terms[-1])


NESTED_LEVELS = 900  # limits.term_depth_max is 1024


def nested(levels: int) -> Any:
    term: Any = a.bottom
    for level in range(levels):
        term = [term] if level % 3 == 0 else (term, level) if level % 3 == 1 else {a.deeper: term}
    return term


NESTED = f"""
lists:foldl(fun (L, T) -> case L rem 3 of 0 -> [T]; 1 -> {{T, L}}; 2 -> #{{deeper => T}} end end,
            bottom, lists:seq(0, {NESTED_LEVELS - 1}))
"""

# A Python value, and the Erlang expression that is the same term.
SAME: list[tuple[Any, str]] = [
    (0, "0"),
    (255, "255"),
    (256, "256"),
    (-1, "-1"),
    (2**31 - 1, "(1 bsl 31) - 1"),
    (-(2**31), "-(1 bsl 31)"),
    (2**31, "1 bsl 31"),
    (2**59, "1 bsl 59"),
    (-(2**59) - 1, "-(1 bsl 59) - 1"),
    (2**64, "1 bsl 64"),
    (2 ** (8 * 255) - 1, "(1 bsl (8 * 255)) - 1"),
    (-(2 ** (8 * 256)), "-(1 bsl (8 * 256))"),
    (
        functools.reduce(lambda x, _: x * x + 1, range(16), 3),
        "lists:foldl(fun (_, X) -> X * X + 1 end, 3, lists:seq(1, 16))",
    ),
    (0.0, "0.0"),
    (-0.0, "-0.0"),
    (1.0, "1.0"),
    (1.7976931348623157e308, "1.7976931348623157e308"),
    (5e-324, "<<F/float>> = <<1:64>>, F"),
    (a.ok, "ok"),
    (Atom(""), "''"),
    (Atom("with space"), "'with space'"),
    (Atom("ÿé"), "'\xff\xe9'"),
    (
        Atom("Ünïcödé Ж 漢 🐍"),
        "list_to_atom([$\\x{dc}, $n, $\\x{ef}, $c, $\\x{f6}, $d, $\\x{e9}, 32, 1046, 32, 28450, 32, 128013])",
    ),
    (Atom("x" * 255), "list_to_atom(lists:duplicate(255, $x))"),
    (Atom("漢" * 255), "list_to_atom(lists:duplicate(255, 28450))"),
    (Atom("🐍" * 255), "list_to_atom(lists:duplicate(255, 128013))"),
    (True, "true"),
    (False, "false"),
    (None, "nil"),
    (a.undefined, "undefined"),
    (b"", "<<>>"),
    (b"bytes\0\xff", "<<98, 121, 116, 101, 115, 0, 255>>"),
    (b"x" * 70_000, 'binary:copy(<<"x">>, 70000)'),
    (BitString(b"\xa0", 3), "<<5:3>>"),
    (BitString(b"ab\x80", 1), '<<"ab", 1:1>>'),
    ([], "[]"),
    ([1, 2, 3], "[1, 2, 3]"),
    ([97, 98], '"ab"'),
    ([255] * 65535, "lists:duplicate(65535, 255)"),
    ([255] * 65536, "lists:duplicate(65536, 255)"),
    ([256, a.ok, []], "[256, ok, []]"),
    (improper(1, 2), "[1 | 2]"),
    (improper(a.a, b"b", improper(1.5, a.tail), 7), '[a, <<"b">>, [1.5 | tail] | 7]'),
    ((), "{}"),
    ((1, (2, (3,))), "{1, {2, {3}}}"),
    (tuple(range(300)), "list_to_tuple(lists:seq(0, 299))"),
    ({}, "#{}"),
    ({a.key: b"value", b"bin": [a.list]}, '#{key => <<"value">>, <<"bin">> => [list]}'),
    ({1: a.int, 2.5: a.float, (1, 2): a.tuple, None: None}, "#{1 => int, 2.5 => float, {1, 2} => tuple, nil => nil}"),
    ({1: a.int, ExactKey(1.0): a.float, ExactKey(True): a.atom}, "#{1 => int, 1.0 => float, true => atom}"),
    ({0: a.int, ExactKey(0.0): a.float, ExactKey(False): a.atom}, "#{0 => int, 0.0 => float, false => atom}"),
    ({HashableList([1, HashableList([2])]): 1, HashableList(): 2}, "#{[1, [2]] => 1, [] => 2}"),
    ({HashableDict({a.k: 1}): 1, HashableDict(): 2}, "#{#{k => 1} => 1, #{} => 2}"),
    ({n: n * n for n in range(1000)}, "maps:from_list([{N, N * N} || N <- lists:seq(0, 999)])"),
    (Export(a.lists, a.reverse, 1), "fun lists:reverse/1"),
    (Export(a.no_such_module, a.f, 255), "fun no_such_module:f/255"),
    (
        Pid(Atom("third@elsewhere"), 1234, 5, 77),
        'binary_to_term(<<131, 88, 119, 15, "third@elsewhere", 1234:32, 5:32, 77:32>>)',
    ),
    (
        Port(Atom("third@elsewhere"), 2**40 + 1, 3),
        'binary_to_term(<<131, 120, 119, 15, "third@elsewhere", ((1 bsl 40) + 1):64, 3:32>>)',
    ),
    (
        Reference(Atom("third@elsewhere"), 9, (1, 2, 3)),
        'binary_to_term(<<131, 90, 3:16, 119, 15, "third@elsewhere", 9:32, 1:32, 2:32, 3:32>>)',
    ),
]

# What only Erlang makes; it comes as one of these classes and goes back as it came.
FOREIGN: list[tuple[type, str]] = [
    (Pid, "self()"),
    (Pid, "whereis(init)"),
    (Port, "hd(erlang:ports())"),
    (Reference, "make_ref()"),
    (Reference, "alias()"),
    (Reference, "monitor(process, self(), [{alias, explicit_unalias}])"),
    (Fun, "X = {closed, over, self()}, fun (Y) -> {X, Y} end"),
    (Fun, "fun () -> fun (X) when X > 1.5 -> <<X:3>> end end"),
    (Fun, "support:local()"),
    (Fun, "support:closure(<<7>>)"),
    (Fun, "support:closure({lists:seq(1, 1000), #{[] => support:local()}})"),
    (list, "[self(), make_ref(), fun erlang:node/0, support:closure(#{[] => 1})]"),
]


def test_the_same_terms(world: World) -> None:
    """What Python means by a value is what Erlang means by an expression, both ways, and echoes are faithful."""

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            echoes = spawn(echo)
            for value, expression in SAME:
                label = expression if len(expression) < 100 else expression[:100]
                expected = exact(value)
                judge = await world.erl(f"T = begin {expression} end, spawn(fun () -> support:compare(T) end)")
                send(judge, (self(), value))
                _, same, theirs = await expect()
                assert same is True, f"ours arrives as another term: {label}"
                assert exact(theirs) == expected, f"theirs arrives as another term: {label}"
                assert await world.erl(f"support:comes_back(Echo, begin {expression} end)", Echo=echoes) is True, label

    asyncio.run(main())


def test_deep_nesting(world: World) -> None:
    value = nested(NESTED_LEVELS)

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            judge = await world.erl(f"T = begin {NESTED} end, spawn(fun () -> support:compare(T) end)")
            send(judge, (self(), value))
            _, same, theirs = await expect()
            assert same is True
            assert encode(theirs) == encode(value)
            assert await world.erl(f"support:comes_back(Echo, begin {NESTED} end)", Echo=spawn(echo)) is True

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "expression"), FOREIGN)
def test_terms_that_erlang_makes(world: World, kind: type, expression: str) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            assert await world.erl(f"support:comes_back(Echo, begin {expression} end)", Echo=spawn(echo)) is True
            await world.erl(f"Pid ! begin {expression} end, ok", Pid=self())
            assert isinstance(await expect(), kind)

    asyncio.run(main())


def test_terms_that_we_make(world: World) -> None:
    """Our own identities come back as what they were, and Erlang takes them for pids and references of ours."""

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            local = spawn(echo)
            echoes = await world.erl("spawn(fun support:echo/0)")
            for term in (self(), local, alias(), monitor(local), {self(): [local]}):
                send(echoes, (self(), term))
                assert await expect() == (a.echo, term)
            facts = await world.erl(
                "{is_pid(P), node(P) =:= N, is_reference(R), node(R) =:= N}", P=local, R=alias(), N=node.name
            )
            assert facts == (True, True, True, True)

    asyncio.run(main())


def test_pids_of_a_third_node(world: World) -> None:
    """A pid that one node hands to us, and we to another, is good for sending, by who has never met its node too."""
    other = world.start_peer("third")

    async def main() -> None:
        async with world.node() as node:
            await node.connect(other.name)
            far = await asyncio.to_thread(other.eval, "spawn(fun support:puppet/0)")
            near = await world.puppet()
            await near.run("Pid ! {hello, self()}", Pid=far)
            message = await asyncio.to_thread(other.eval, "support:order(P, {'$take', self(), 5000})", P=far)
            assert message == (a.message, (a.hello, near.pid))
            send(near.pid, (a.pid, far))
            assert await near.next() == (a.pid, far)
            assert await near.run(f"node(Pid) =:= 'third@{HOST}'", Pid=far) is True

    with other:
        asyncio.run(main())


RECORD = NativeRecord(a.mymod, a.myrec, ((a.a, 1), (a.b, a.hello)), True)


def test_native_records(world: World) -> None:
    """OTP 29 has them. An older node closes the connection, also when OTP 29 itself sends one; that is all."""

    async def main() -> None:
        async with world.node(hidden=True) as node:
            await node.connect(world.name)
            echoes = await world.erl("spawn(fun support:echo/0)")
            if world.otp.release >= 29:
                send(echoes, (self(), RECORD))
                assert exact(await expect()) == exact((a.echo, RECORD))
                binary = encode(RECORD)
                assert (
                    await world.erl("support:comes_back(Echo, binary_to_term(B))", Echo=spawn(echo), B=binary) is True
                )
            else:
                node.monitor(world.name)
                send(echoes, (self(), RECORD))
                assert await expect() == (a.nodedown, world.name)
                send(echoes, (self(), a.again))
                assert await expect() == (a.echo, a.again)

    asyncio.run(main())


def test_funs_can_still_be_called(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            await world.erl("N = 40, Pid ! fun (X) -> X + N end, Pid ! support:closure(2), ok", Pid=self())
            evaluated, compiled = await expect(), await expect()
            assert await world.erl("{F(2), G(40)}", F=evaluated, G=compiled) == (42, {a.closed: 2, a.given: 40})
            puppet = await world.puppet()
            send(puppet.pid, (Atom("$run"), self(), Export(a.erlang, a.node, 0)))
            assert await expect() == (puppet.pid, world.name)

    asyncio.run(main())


# --- Atoms ------------------------------------------------------------------------------------------------------------


def test_more_atoms_than_the_cache_holds(world: World) -> None:
    """5,000 different atoms, most used again later: each cache has 2,048 places."""
    chance = random.Random(5)
    atoms = [Atom(f"cached {number} {'é' * (number % 3)}") for number in range(5000)]

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            echoes = await world.erl("spawn(fun support:echo/0)")
            ours = spawn(echo)
            rounds = [chance.sample(atoms, 40) for _ in range(300)] + [atoms[n : n + 50] for n in range(0, 5000, 50)]
            for chosen in rounds:
                send(echoes, (self(), chosen))
            for chosen in rounds:
                assert await expect() == (a.echo, chosen)
            assert await world.erl(
                "lists:all(fun (C) -> support:comes_back(Echo, C) end, Rounds)", Echo=ours, Rounds=rounds
            )

    asyncio.run(main())


@pytest.mark.parametrize("count", [253, 254, 255, 256, 257, 3000])
def test_many_atoms_in_one_message(world: World, count: int) -> None:
    """A header has room for 255; the rest stands in the message itself. Long atoms change the header's form."""

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            echoes = await world.erl("spawn(fun support:echo/0)")
            ours = spawn(echo)
            for width in (0, 200, 255):
                atoms = [Atom(f"{count} {number}".ljust(width, "漢")) for number in range(count)]
                for _ in range(2):
                    send(echoes, (self(), atoms))
                    assert await expect() == (a.echo, atoms)
                    assert await world.erl("support:comes_back(Echo, Atoms)", Echo=ours, Atoms=atoms) is True

    asyncio.run(main())
