"""Against OTP's own `term_to_binary` and `binary_to_term`, in every release that we support."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from etf_terms import exact, terms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Oracle
from test_decode import KNOWN, NODE, REFUSED

from beamnode.errors import DecodeError
from beamnode.etf import Atom, Export, Fun, NativeRecord, Pid, Port, Reference, a, codec
from beamnode.testing.peers import Otp

# Hypothesis writes out every strategy inside a strategy, at length.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture(scope="module")
def oracle(otp: Otp) -> Iterator[Oracle]:
    with Oracle(otp) as running:
        yield running


# --- Ours, read by OTP ------------------------------------------------------------------------------------------------


@given(batch=st.lists(terms, min_size=10, max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_otp_reads_what_we_write(oracle: Oracle, batch: list[Any]) -> None:
    if oracle.release == 25:
        batch = [term for term in batch if not has_both_zeros(term)]
    ours = [codec.encode(term) for term in batch]
    for term, mine, theirs in zip(batch, ours, oracle.reencode(*ours), strict=True):
        assert theirs, f"OTP refuses {mine!r}"
        assert exact(codec.decode(theirs)) == exact(term)
    again = [codec.encode(codec.decode(theirs)) for theirs in oracle.reencode(*ours)]
    assert all(oracle.same(*zip(ours, again, strict=True)))


def has_both_zeros(term: Any) -> bool:
    """A map with the keys 0.0 and -0.0, which are one in OTP 25 and two from 27 on."""
    data = codec.encode(term)
    return b"F" + bytes(8) in data and b"F\x80" + bytes(7) in data


def test_equal_bytes(oracle: Oracle) -> None:
    """Where the format leaves no choice, ours are OTP's bytes."""
    sources = [
        "[]", "{}", "#{}", "ok", "true", "''", "0", "255", "256", "-1", "2147483647", "2147483648", "-2147483648",
        "-2147483649", "1 bsl 2039", "1 bsl 2040", "-(1 bsl 100)", "1.5", "-0.0", "1.0e300", "<<>>", "<<1,2,3>>",
        "<<1:1>>", "<<255, 5:3>>", "{a, {b, [c, <<\"d\">>]}}", "[a | b]", "[a, b | c]", "[1000, 2000]",
        "list_to_tuple(lists:duplicate(255, x))", "list_to_tuple(lists:duplicate(256, x))",
        "list_to_atom(lists:duplicate(255, 233))", "list_to_atom(lists:duplicate(255, 128512))", "fun lists:map/2",
        "self()", "make_ref()", "#{a => 1}", "fun() -> ok end", "fun(X) -> X + 1 end",
    ]  # fmt: skip
    for source, theirs in zip(sources, oracle.evaluate(*sources), strict=True):
        assert codec.encode(codec.decode(theirs)) == theirs, source


# --- OTP's, read by us ------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    "\"abc\"", "lists:seq(0, 255)", "lists:seq(0, 300)", "[[] , [[]], {}]", "[$a | <<\"improper\">>]",
    "maps:from_list([{I, I * I} || I <- lists:seq(1, 100)])",
    "maps:from_list([{{I, [I]}, #{I => []}} || I <- lists:seq(1, 40)])",
    "#{1 => int, 1.0 => float, true => atom, <<1>> => binary, [1] => list, {1} => tuple, #{1 => 1} => map}",
    "#{{1, a} => 1, {1.0, a} => 2, {true, a} => 3, [1] => 4, [1.0] => 5}",
    "#{[1, [2, #{[] => {}}]] => #{#{} => #{#{} => #{}}}, fun lists:map/2 => self(), make_ref() => <<1:3>>}",
    "lists:foldl(fun(I, T) -> {I, [T]} end, nested, lists:seq(1, 500))",
    "lists:foldl(fun(I, T) -> #{I => T} end, nested, lists:seq(1, 1000))",
    "[self(), make_ref(), hd(erlang:ports()), alias(), spawn(fun() -> ok end)]",
    "[fun lists:map/2, fun erlang:self/0, fun() -> ok end, begin X = {env, [1]}, fun(Y) -> {X, Y} end end]",
    "[fun F(0) -> 1; F(N) -> N * F(N - 1) end, fun erl_eval:expr/2]",
    "[1 bsl N || N <- lists:seq(0, 130)] ++ [-(1 bsl N) || N <- lists:seq(0, 130)]",
    "[1 bsl 30000, -(1 bsl 2047)]",
    "[0.0, -0.0, 1.0e-308, 5.0e-324, 1.7976931348623157e308, 3.141592653589793]",
    "[true, false, nil, undefined, '', 'Elixir.Enum', '\\x{1f600}', list_to_atom(lists:duplicate(255, 1024))]",
    "[<<>>, <<1:1>>, <<0:7>>, <<1,2,3:3>>, binary:copy(<<7>>, 100000), <<\"utf8 \\x{e9}\"/utf8>>]",
    "list_to_tuple(lists:seq(1, 1000))",
    "erlang:system_info(otp_release)",
    "process_info(self())",
    "{error, {badarg, [{erlang, binary_to_term, [<<>>], [{file, \"x.erl\"}, {line, 1}]}]}}",
]  # fmt: skip
DISTANT = [  # terms of other nodes, as binary_to_term makes them
    codec.encode(term)
    for term in (
        Pid(a["x@y"], 2**32 - 1, 2**32 - 1, 2**32 - 1),
        Port(a["x@y"], 2**64 - 1, 2**32 - 1),
        Port(a["x@y"], 1, 1),
        *(Reference(a["x@y"], 2**32 - 1, (2**32 - 1,) * words) for words in range(1, 6)),
        Export(a.nowhere, a.nothing, 255),
        Fun(a.nowhere, 2, b"u" * 16, 3, 5, 2**27 - 1, Pid(a["x@y"], 1, 2, 3), (1, [a.x], {})),
    )
]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_we_read_what_otp_writes(oracle: Oracle, compressed: bool) -> None:
    """And what we write of it is the same term to OTP, `=:=`."""
    theirs = oracle.evaluate(*EXPRESSIONS, compressed=compressed)
    assert any(data[1] == 80 for data in theirs) is compressed
    ours = [codec.encode(codec.decode(data)) for data in theirs]
    for source, same in zip(EXPRESSIONS, oracle.same(*zip(theirs, ours, strict=True)), strict=True):
        assert same, source


def test_terms_of_other_nodes(oracle: Oracle) -> None:
    """References of five words too, although OTP 25 makes none so long."""
    for ours, theirs in zip(DISTANT, oracle.reencode(*DISTANT), strict=True):
        assert exact(codec.decode(theirs)) == exact(codec.decode(ours))
    assert all(oracle.same(*[(ours, codec.encode(codec.decode(ours))) for ours in DISTANT]))


@st.composite
def sources(draw: st.DrawFn, depth: int = 3) -> str:
    """The source of a random Erlang term, made there."""
    inner = sources(depth=depth - 1)
    integer = st.integers(-(2**66), 2**66).map(str)
    leaf = st.one_of(
        integer,
        st.floats(-1e30, 1e30).map(lambda value: f"{value:.9e}"),
        st.sampled_from(["ok", "true", "nil", "self()", "make_ref()", "fun lists:map/2", "[]", "<<>>", "alias()"]),
        st.binary(max_size=5).map(lambda data: f"<<{','.join(map(str, data))}>>"),
        st.integers(1, 60).map(lambda bits: f"<<12345:{bits}>>"),
    )
    if depth == 0:
        return draw(leaf)
    many = st.lists(inner, max_size=3)
    pairs = st.lists(st.tuples(inner, inner), max_size=3)
    return draw(
        st.one_of(
            leaf,
            many.map(lambda items: f"[{','.join(items)}]"),
            many.map(lambda items: f"{{{','.join(items)}}}"),
            st.tuples(inner, leaf).map(lambda pair: f"[{pair[0]}|{pair[1]}]"),
            pairs.map(lambda items: f"#{{{','.join(f'{key}=>{value}' for key, value in items)}}}"),
            st.lists(st.integers(0, 255), max_size=5).map(str),
            inner.map(lambda source: f"(fun(V) -> fun() -> V end end)({source})"),
        )
    )


@given(batch=st.lists(sources(), min_size=5, max_size=15))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_we_read_whatever_otp_makes(oracle: Oracle, batch: list[str]) -> None:
    theirs = oracle.evaluate(*batch)
    ours = [codec.encode(codec.decode(data)) for data in theirs]
    for source, same in zip(batch, oracle.same(*zip(theirs, ours, strict=True)), strict=True):
        assert same, source


# --- Facts ------------------------------------------------------------------------------------------------------------


def test_known_bytes_are_known_to_otp(oracle: Oracle) -> None:
    """Our table of known bytes holds there too, so far as it knows these terms."""
    table = [(data, term) for data, term in KNOWN if b"R" not in data and not isinstance(term, NativeRecord)]
    for (data, term), theirs in zip(table, oracle.reencode(*[b"\x83" + data for data, _ in table]), strict=True):
        if data[:1] in b"gfer":
            continue  # below
        assert theirs, data
        assert exact(codec.decode(theirs)) == exact(term)


def test_what_we_refuse_otp_refuses(oracle: Oracle) -> None:
    lenient = {
        "arity 256",  # which crashes the virtual machine of 27
        "fun of no pid",  # which crashes that of 25
        "fun of another size",
        "old float, no end",  # 29 reads it
    }
    asked = {name: data for name, data in REFUSED.items() if name not in lenient and b"R" not in data}
    for name, theirs in zip(asked, oracle.reencode(*[b"\x83" + data for data in asked.values()]), strict=True):
        if oracle.release == 25 and name == "bitstring of no bytes":
            continue
        assert not theirs, name


def test_creations_of_old_identifiers(oracle: Oracle) -> None:
    """PID_EXT and the other old forms: OTP takes them with a creation of 0 to 3 and writes the new forms."""
    olds = [
        b"\x83g" + NODE + struct.pack(">IIB", 1, 2, 3),
        b"\x83f" + NODE + struct.pack(">IB", 9, 3),
        b"\x83e" + NODE + struct.pack(">IB", 9, 3),
        b"\x83r\x00\x02" + NODE + struct.pack(">BII", 3, 8, 9),
    ]
    for old, theirs in zip(olds, oracle.reencode(*olds), strict=True):
        assert codec.decode(theirs) == codec.decode(old)


def test_which_form_ports_take(oracle: Oracle) -> None:
    (small, big) = oracle.reencode(*[codec.encode(Port(a["x@y"], number, 7)) for number in (2**28 - 1, 2**28)])
    assert small[1] == (89 if oracle.release == 25 else 120)
    assert big[1] == 120


def test_creators_of_funs(oracle: Oracle) -> None:
    """OTP 25 keeps the pid of a fun; from 27 on every fun is by the pid 0.0 of the writing node."""
    fun = Fun(a.nowhere, 2, b"u" * 16, 3, 5, 6, Pid(a["x@y"], 1, 2, 3), ())
    (theirs,) = oracle.reencode(codec.encode(fun))
    creator = codec.decode(theirs).pid
    assert creator == (fun.pid if oracle.release == 25 else Pid(a["nonode@nohost"], 0, 0, 0))


def test_alias_references(oracle: Oracle) -> None:
    (alias,) = oracle.evaluate("alias()")
    assert len(codec.decode(alias).words) == (3 if oracle.release == 25 else 5)


def test_both_zeros_as_keys(oracle: Oracle) -> None:
    """Two keys from OTP 27 on; in 25 they are one, and such a map is `badarg`."""
    data = b"\x83t\x00\x00\x00\x02F" + bytes(8) + b"a\x01F\x80" + bytes(7) + b"a\x02"
    assert codec.encode(codec.decode(data)) == data
    assert bool(oracle.reencode(data)[0]) is (oracle.release > 25)


def test_native_records(oracle: Oracle) -> None:
    record = NativeRecord(a.mymod, a.myrec, ((a.b, Atom("hello")), (a.a, (1.0,))), True)
    for term in (record, NativeRecord(a.m, a.r, (), False), [record, {record: (record,)}]):
        ours = codec.encode(term)
        (theirs,) = oracle.reencode(ours)
        if oracle.release < 29:
            assert not theirs
        else:
            assert codec.decode(theirs) == term
            assert oracle.same((ours, theirs)) == [True]


def test_local_terms(oracle: Oracle) -> None:
    if oracle.release == 25:
        assert oracle.reencode(b"\x83y\x00\x00\x00\x00a\x01") == [b""]
        return
    source = "erlang:term_to_binary({a, self(), make_ref()}, [local])"
    (wrapped,) = oracle.evaluate(source)
    local = codec.decode(wrapped)  # a binary, whose bytes are the local form
    assert codec.encode(codec.decode(local)) == local
    assert oracle.same((local, codec.encode(codec.decode(local)))) == [True]


def test_compressed_terms(oracle: Oracle) -> None:
    """OTP reads ours; like us it insists on the claimed size, and reads none inside another term."""
    term = [b"abc"] * 100
    ours = codec.encode(term, compressed=True)
    assert codec.decode(oracle.reencode(ours)[0]) == term
    inner = codec.encode(term)[1:]
    for data in (
        b"\x83P" + struct.pack(">I", len(inner) + 1) + zlib.compress(inner),
        b"\x83P" + struct.pack(">I", len(inner) - 1) + zlib.compress(inner),
        b"\x83h\x01" + ours[1:],
    ):
        assert oracle.reencode(data) == [b""]
        with pytest.raises(DecodeError):
            codec.decode(data)
