"""The compiled kernel beside the Python one: the same terms, the same bytes, the same errors with the same words."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from etf_terms import all_terms, atoms, containers, leaves
from hypothesis import given, settings
from hypothesis import strategies as st

from beamnode.errors import DecodeError, EncodeError
from beamnode.etf import (
    Atom,
    BitString,
    ExactKey,
    Export,
    Fun,
    HashableList,
    ImproperList,
    LocalTerm,
    NativeRecord,
    Pid,
    Port,
    Reference,
    a,
    codec,
    codec_python,
)
from beamnode.etf.encode_python import HANDED_MIN
from beamnode.limits import DEFAULT_LIMITS, Limits

compiled = codec.KERNELS.get("cython")
pytestmark = [
    pytest.mark.skipif(compiled is None, reason="this installation has no compiled kernel"),
    # Hypothesis writes out every strategy inside a strategy, at length.
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]


@pytest.fixture(autouse=True, scope="module")
def kernel() -> None:
    """Here each test asks both kernels."""


def typed(term: Any) -> Any:
    """A form of `term` that is equal for two terms only if they are of the same types throughout, in the same order."""
    match term:
        case tuple() | list():
            return (type(term), *map(typed, term))
        case dict():
            return (type(term), *[(typed(key), typed(value)) for key, value in term.items()])
        case ImproperList():
            return (ImproperList, typed(term.elements), typed(term.tail))
        case ExactKey():
            return (ExactKey, typed(term.term))
        case Fun():
            return (Fun, *[typed(getattr(term, name)) for name in Fun.__slots__])
        case NativeRecord():
            return (NativeRecord, *[typed(getattr(term, name)) for name in NativeRecord.__slots__])
        case Pid() | Port() | Reference() | Export() | BitString():
            return (type(term), *[typed(getattr(term, name)) for name in type(term).__slots__])
        case Atom():
            return (Atom, id(term))
        case _:
            return (type(term), repr(term))


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), str(error), getattr(error, "limit", None)


def both(function: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    assert compiled is not None
    python, cython = (
        outcome(lambda kernel=kernel: getattr(kernel, function)(*arguments, **options))
        for kernel in (codec_python, compiled)
    )
    return python, cython


# --- Encoding ---------------------------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1
    DEEP = 2**40


class Shade(enum.StrEnum):
    DARK = "dark"


class Odd(int):
    def __int__(self) -> int:
        return 7


class Backwards(list[Any]):
    def __iter__(self) -> Any:
        return reversed(self)


class Real(float):
    pass


NODE = Atom("a@b")
moved: OrderedDict[Any, Any] = OrderedDict({1: 2, 3: 4})
moved.move_to_end(1)
STRANGE: list[Any] = [
    Point(1, a.x), Colour.RED, Colour.DEEP, Shade.DARK, Odd(3), Backwards([1, 2]), Real(1.5), moved,
    defaultdict(int, {1: 2}), HashableList([1]), ExactKey(1.0), {ExactKey(1.0): 1, 1: 2}, bytearray(b"abc"),
    memoryview(b"abcd")[::2], memoryview(bytes(8)).cast("I"), memoryview(b""), "", "text", "é", "\U0001f600" * 3,
    tuple(range(256)), [0] * 300, 2**63, -(2**63), 2**64, -(2**64) - 1, 2**2039, 2**2040, -(2**2040), 2**10_000,
    1e308, Port(NODE, 2**64 - 1, 0), Fun(a.m, 1, b"u" * 16, 1, 1, 1, Pid(NODE, 1, 2, 3), ([a.free],)),
    Export(a["true"], a["nil"], 255), Pid(a["true"], 0, 2**32 - 1, 0), Reference(NODE, 1, ()), Atom("é" * 255),
    NativeRecord(a.m, a.r, ((a.x, [1]),), True), Reference(NODE, 1, (Colour.RED,)), Pid(NODE, True, 2, 3),
]  # fmt: skip
UNFIT: list[Any] = [
    object(), {1, 2}, Real("nan"), 1j, float("nan"), float("-inf"), "\ud800", Atom("\ud800"), Atom("a" * 256),
    BitString(b"", 3), BitString(b"a", 8), BitString(b"a", 0), ImproperList((), 1), Pid(NODE, 2**32, 0, 0),
    Pid(NODE, -1, 0, 0), Pid(NODE, 0, 2**32, 0), Pid(NODE, 0, 0, -1), Pid("a@b", 1, 2, 3), Pid(None, 1, 2, 3),
    Pid(NODE, "1", 0, 0), Pid(NODE, 2**70, 0, 0), Port(NODE, 2**64, 0), Port(NODE, -1, 0),
    Reference(NODE, 1, (1,) * 6), Reference(NODE, 2**32, (1,)), Reference(NODE, 1, (2**32,)),
    Reference(NODE, 1, (b"",)), Export(a.m, a.f, 256), Export(a.m, a.f, -1), Export("m", a.f, 1), LocalTerm(b"x"),
    Fun(a.m, 1, b"short", 1, 1, 1, Pid(NODE, 1, 2, 3), ()), NativeRecord(a.m, a.r, ((a.x, 1), (a.x, 2)), True),
    memoryview(b""), Pid.__new__(Pid), int, a,
]  # fmt: skip
# (By index, since not all of them have a repr, and Hypothesis writes out what it samples from.)
strange = st.integers(0, len(STRANGE) - 1).map(lambda i: STRANGE[i])
unfit = st.integers(0, len(UNFIT) - 1).map(lambda i: UNFIT[i])
sendable = st.recursive(st.one_of(leaves, strange, all_terms), containers, max_leaves=12)
anything = st.recursive(st.one_of(leaves, strange, unfit), containers, max_leaves=12)
tables = st.one_of(
    st.none(),
    st.just({}),
    st.lists(atoms, max_size=5, unique=True),
    st.integers(252, 255).map(lambda count: [Atom(f"known{i}") for i in range(count)]),
).map(lambda names: names if names is None else {name: i for i, name in enumerate(names)})


@given(st.one_of(sendable, anything))
@settings(max_examples=400)
def test_encode(term: Any) -> None:
    for compressed in (False, True):
        python, cython = both("encode", term, compressed=compressed)
        assert cython == python


@given(st.one_of(sendable, anything), tables)
@settings(max_examples=400)
def test_encode_into(term: Any, table: dict[Atom, int] | None) -> None:
    """Also what is in the header's table then; after an error both arguments are as they were."""
    assert compiled is not None
    results = []
    for kernel in (codec_python, compiled):
        out, known = bytearray(b"before"), None if table is None else table.copy()
        result = outcome(lambda kernel=kernel, out=out, known=known: kernel.encode_into(out, term, known))
        if result is not None:
            assert out == b"before"
            assert known == table
        results.append((result, out, known if known is None else list(known.items())))
    assert results[1] == results[0]


big_binaries = st.sampled_from([bytes(HANDED_MIN - 1), bytes(HANDED_MIN), b"x" * (HANDED_MIN + 1)])
with_big_ones = st.recursive(
    st.one_of(leaves, big_binaries, big_binaries.map(bytearray)),
    lambda inner: st.one_of(
        containers(inner), inner.map(lambda term: Fun(a.m, 1, b"u" * 16, 1, 1, 1, Pid(NODE, 1, 2, 3), (term, b"y")))
    ),
    max_leaves=8,
)


@given(with_big_ones)
@settings(max_examples=50)
def test_encode_big_binaries(term: Any) -> None:
    assert compiled is not None
    outs = [bytearray(b"before"), bytearray(b"before")]
    for kernel, out in zip((codec_python, compiled), outs, strict=True):
        kernel.encode_into(out, term)
    assert outs[0] == outs[1]
    assert compiled.encode(term) == codec_python.encode(term)


@given(st.one_of(with_big_ones, anything), tables)
@settings(max_examples=200)
def test_encode_chunks(term: Any, table: dict[Atom, int] | None) -> None:
    """The same pieces; together the bytes that `encode_into` writes; and big binaries are the very objects."""
    assert compiled is not None
    results = []
    for kernel in (codec_python, compiled):
        known = None if table is None else table.copy()
        result = outcome(lambda kernel=kernel, known=known: kernel.encode_chunks(term, known))
        results.append((result, known if known is None else list(known.items())))
    assert results[1] == results[0]
    result = results[1][0]
    if isinstance(result[0], list):
        chunks, size = result
        out = bytearray()
        codec_python.encode_into(out, term, None if table is None else table.copy())
        assert b"".join(chunks) == out
        assert size == len(out)
        assert all(type(chunk) is bytes and chunk for chunk in chunks)


def test_big_binaries_are_handed_out() -> None:
    assert compiled is not None
    one, other, small = bytes(HANDED_MIN), b"x" * HANDED_MIN, bytes(HANDED_MIN - 1)
    fun = Fun(a.m, 1, b"u" * 16, 1, 1, 1, Pid(NODE, 1, 2, 3), (one, [other]))
    for kernel in (codec_python, compiled):
        for term in ([one, a.x, small, {a.k: other}, one], one, fun):
            chunks, size = kernel.encode_chunks(term)
            assert sum(map(len, chunks)) == size
            assert codec_python.decode_from(b"".join(chunks), 0) == (term, size)
            assert any(chunk is one for chunk in chunks)
        assert [len(chunk) for chunk in kernel.encode_chunks((1, small, one, other))[0][1::2]] == [HANDED_MIN] * 2


NESTED: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda term: (term,),
    "list": lambda term: [term],
    "map": lambda term: {1: term},
    "improper list": lambda term: ImproperList((term,), 1),
    "tail": lambda term: ImproperList((1,), (term,)),
}


def on_a_small_stack(call: Callable[[], None]) -> None:
    done: list[bool] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: done.append(call() is None))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done


@pytest.mark.parametrize("depth", [1, 200, 255, 256, 257, 1023, 1024, 1025])
@pytest.mark.parametrize("wrap", [*NESTED.values(), None], ids=[*NESTED, "key"])
def test_depth(wrap: Callable[[Any], Any] | None, depth: int) -> None:
    """The kernel recurses in C, but never far."""
    term: Any = a.bottom
    for _ in range(depth if wrap else depth - 1):
        term = wrap(term) if wrap else (term,)
    if not wrap:
        term = {term: 1}

    def compare() -> None:
        python, cython = both("encode", term)
        assert cython == python
        if isinstance(python, bytes):
            results = both("decode", python)
            assert type(results[0]) is type(results[1]) is type(term)
            assert both("encode", results[1]) == (python, python)

    on_a_small_stack(compare)


# --- Decoding ---------------------------------------------------------------------------------------------------------

HEADERS: list[Any] = [
    (),
    [],
    [a.ok, a["true"], None, True, a["a@b"]],
    (a.ok, False, a["nil"]),
    (a.ok, "no atom", 5),
]
limits = st.one_of(
    st.just(DEFAULT_LIMITS),
    st.builds(
        lambda depth, elements, characters, integer: replace(
            DEFAULT_LIMITS,
            term_depth_max=depth,
            term_elements_max=elements,
            atom_characters_max=characters,
            integer_bytes_max=integer,
        ),
        st.sampled_from([1, 2, 3, 1024, 2**70]),
        st.sampled_from([1, 2, 5, 10, 1000]),
        st.sampled_from([1, 2, 3, 255, 1000, 2**70]),
        st.sampled_from([1, 7, 8, 9, 300]),
    ),
)
interesting = st.lists(st.one_of(st.sampled_from(b"CFMRXYZabcdefghijklmnopqrstvwxy\x00\x01\x02"), st.integers(0, 255)))


def agree(
    data: bytes, header: Any = (), strings: bool = False, limits: Limits = DEFAULT_LIMITS, offset: int = 0
) -> None:
    for make in (bytes, bytearray, memoryview):
        python, cython = both("decode_from", make(data), offset, header, strings=strings, limits=limits)
        assert typed(cython) == typed(python)
    for make in (bytes, bytearray, memoryview):
        python, cython = both("decode", make(b"\x83" + data), strings=strings, limits=limits)
        assert typed(cython) == typed(python)


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """The bytes of a term, whole or cut or with some changed."""
    out = bytearray()
    codec_python.encode_into(out, draw(sendable), draw(st.sampled_from([None, {}, {a.ok: 0}])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(out) - 1))
        out[at] = draw(st.one_of(st.sampled_from(b"CRXZaghijklmptw\x00\x01\xff"), st.integers(0, 255)))
    cut = draw(st.one_of(st.just(len(out)), st.integers(0, len(out))))
    return bytes(out[:cut])


@given(wires(), st.sampled_from(HEADERS), st.booleans(), limits)
@settings(max_examples=500)
def test_decode(data: bytes, header: Any, strings: bool, limits: Limits) -> None:
    agree(data, header, strings, limits)


@given(st.one_of(st.binary(), interesting.map(bytes)), st.sampled_from(HEADERS), st.integers(-3, 5))
@settings(max_examples=500)
def test_decode_rubbish(data: bytes, header: Any, offset: int) -> None:
    agree(data, header, offset=offset)


@given(all_terms)
@settings(max_examples=60)
def test_decode_every_shorter_piece(term: Any) -> None:
    data = codec_python.encode(term)[1:]
    for size in range(0, len(data), max(1, len(data) // 60)):
        agree(data[:size])


@given(st.lists(st.sampled_from([1, 1.0, True, a.x, b"x", (1,), (1.0,), HashableList([1]), 0.0, -0.0]), max_size=5))
def test_decode_maps_with_any_keys(keys: list[Any]) -> None:
    """Also with a key that comes twice, or that Python takes for another."""
    agree(b"t" + len(keys).to_bytes(4) + b"".join(codec_python.encode(key)[1:] + b"j" for key in keys))


@pytest.mark.parametrize("head", [b"h\xff", b"l\x00\x00\xff\xff", b"i\x00\x00\xff\xff", b"t\x00\x00\x7f\xff"], ids=repr)
def test_lengths_that_are_claimed_again_and_again(head: bytes) -> None:
    """Each container claims all the bytes that are left: together far more than there are."""
    data = head * 200 + bytes(70_000)
    agree(data)


def test_other_buffers() -> None:
    data = codec_python.encode((1, [b"x"]))
    for buffer in (
        memoryview(data * 2)[::2],
        memoryview(data).cast("b"),
        memoryview(data).cast("c"),
        b"",
        bytearray(),
        5,
        "a",
        None,
    ):
        python, cython = both("decode", buffer)
        assert cython == python
        python, cython = both("decode_from", buffer, 1)
        assert cython == python


def test_an_error_is_one_error() -> None:
    """What the kernel met before it gave up is no context of the error that is raised."""
    assert compiled is not None
    for call, kind in (
        (lambda: compiled.decode(b"\x83h\x02w\x02\xff\xffa\x01"), DecodeError),
        (lambda: compiled.encode(["\ud800"]), EncodeError),
        (lambda: compiled.encode([Atom("\ud801")]), EncodeError),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
