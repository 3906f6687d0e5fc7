"""References and memory: after thousands of calls that succeed or fail nothing is left, and nothing is owned twice."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
from test_decode import KNOWN, REFUSED
from test_encode import KNOWN as KNOWN_TERMS

from beamnode.errors import DecodeError, EncodeError
from beamnode.etf import Atom, BitString, Export, ImproperList, Pid, Port, Reference, a, codec
from beamnode.limits import DEFAULT_LIMITS
from support_leaks import SMALLEST, growth

ROUNDS = 150
NODE = Atom("leaks@host")
PID = Pid(NODE, 2**31, 300, 400)
TERM: Any = [
    (1, -1, 300, 2**31, 2**64, -(2**64), 2**3000, 1.5, True, False, None, a.leaks, Atom("é" * 200)),
    {a.leaks: b"x" * 100, "é": bytearray(b"y" * 100), (PID, b"k"): [], "text": memoryview(b"abc")},
    [PID, Port(NODE, 2**40, 500), Reference(NODE, 600, (700, 800, 900)), Export(a.leaks, a.leaked, 3)],
    ImproperList((1000, [2000]), (3000,)),
    BitString(b"ab\xe0", 3),
    list(range(300)),
    b"z" * 200_000,
]
UNFIT = [
    object(),
    float("nan"),
    "\ud800",
    Atom("\udfff"),
    Pid(NODE, 2**32, 1, 1),
    Reference(NODE, 1, (2**32,)),
    {1: {2}},
]


def counts(objects: list[Any]) -> list[int]:
    gc.collect()  # what tests before this one left refers to small integers, too
    return [sys.getrefcount(each) for each in objects]


def alike(now: list[int], before: list[int]) -> bool:
    """Whether no count moved by one for each round; `None` and small integers always move a little."""
    return all(abs(one - other) < ROUNDS for one, other in zip(now, before, strict=True))


def parts(term: Any) -> list[Any]:
    """A term and all that is in it."""
    found = [term]
    for part in found:
        if isinstance(part, tuple | list):
            found += part
        elif isinstance(part, dict):
            found += [*part.keys(), *part.values()]
        elif isinstance(part, ImproperList):
            found += [part.elements, part.tail]
        elif isinstance(part, Pid | Port | Reference | Export | BitString):
            found += [getattr(part, name) for name in type(part).__slots__]
    return found


def refused(call: Callable[[], Any], kind: type[Exception]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except kind:
            return
        raise AssertionError

    return run


def test_encoding_leaves_nothing() -> None:
    def run() -> None:
        codec.encode(TERM)
        codec.encode_chunks(TERM, {})
        codec.encode_into(bytearray(b"before"), TERM, {a.leaks: 0})

    objects = parts(TERM)
    before = counts(objects)
    assert growth(run, ROUNDS) < SMALLEST
    assert alike(counts(objects), before)


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda value: type(value).__name__)
def test_encoding_that_fails_leaves_nothing(unfit: Any) -> None:
    term = [*TERM, unfit]
    table = {a.known: 0}
    out = bytearray(b"before")

    def run() -> None:
        for call in (
            lambda: codec.encode(term),
            lambda: codec.encode_into(out, term, table),
            lambda: codec.encode_chunks(term, table),
        ):
            refused(call, EncodeError)()

    objects = parts(TERM)
    before = counts(objects)
    assert growth(run, ROUNDS) < SMALLEST
    assert alike(counts(objects), before)
    assert out == b"before"
    assert table == {a.known: 0}


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("strings", [False, True], ids=["", "strings"])
def test_decoding_leaves_nothing(make: Any, strings: bool) -> None:
    table: dict[Atom, int] = {}
    out = bytearray()
    codec.encode_into(out, TERM, table)
    data, header = make(bytes(out)), list(table)
    objects = [*header, True, False, None, data, DEFAULT_LIMITS]
    whole = make(codec.encode(TERM))

    def run() -> None:
        codec.decode_from(data, 0, header, strings=strings)
        codec.decode(whole, strings=strings)

    run()
    before = counts(objects)
    assert growth(run, ROUNDS) < SMALLEST
    assert alike(counts(objects), before)


def test_what_is_decoded_is_owned_once() -> None:
    """Each object of a decoded term is referred to by its container alone (and what is kept: by a table as well)."""
    for part in parts(codec.decode(codec.encode(TERM))):
        if type(part) in (tuple, list, dict, float, Reference, Port, Export, ImproperList, BitString) and part != ():
            assert len(gc.get_referrers(part)) <= 2, part  # the list `parts` made is one
    data = codec.encode(b"once" * 100)
    assert sys.getrefcount(codec.decode(data)) == sys.getrefcount(object())
    assert sys.getrefcount(codec.decode(codec.encode(2**100))) == sys.getrefcount(object())


def test_decoding_that_fails_leaves_nothing() -> None:
    data = codec.encode(TERM)
    pieces = [data[:size] for size in [*range(1, 200), *range(200, len(data), len(data) // 20)]]
    bad = [
        b"\x83l\x00\x00\x00\x02" + known + refused + b"j" for known, _ in KNOWN[:60:5] for refused in REFUSED.values()
    ]
    limits_hit = [b"\x83" + b"h\x01" * 2000 + b"j", b"\x83n\x03\x00abc" * 2]

    def run() -> None:
        for whole in (*pieces[::25], *bad[::40], *limits_hit):
            refused(lambda whole=whole: codec.decode(whole), DecodeError)()

    run()
    header = [a.leaks, None, True]
    before = counts(header)
    for whole in (*pieces, *bad):
        refused(lambda whole=whole: codec.decode_from(whole, 1, header), DecodeError)()
    assert alike(counts(header), before)
    assert growth(run, 30) < SMALLEST


def test_known_terms_leave_nothing() -> None:
    datas = [data for data, _ in KNOWN]
    terms = [term for term, _ in KNOWN_TERMS]
    header = [Atom("ok"), Atom("true"), None, a["a@b"]]

    def run() -> None:
        for data in datas:
            codec.decode_from(b"h\x02" + data + b"t\x00\x00\x00\x01" + data + data, 0, header)
        for term in terms:
            codec.encode(term)

    assert growth(run, 30) < SMALLEST


def test_new_names_and_pids_do_not_pile_up() -> None:
    """What is kept to be found again is bounded: another 20,000 of each take the places of the last."""

    def run(begin: int) -> int:
        for i in range(begin, begin + 20_000):
            codec.decode(b"\x83h\x02w\x0c%012dXw\x0c%012d" % (i, i) + i.to_bytes(4) * 3)
        gc.collect()
        return sum(1 for each in gc.get_objects() if type(each) in (Atom, Pid))

    most = (
        2 * 4096 + 2 * 1024
    )  # names, in the tables of both kernels; pids and their nodes, in that of the compiled one
    assert run(0) < most + 500
    assert run(100_000) < most + 500


# --- Where memory runs out --------------------------------------------------------------------------------------------


def test_no_memory(kernel: str) -> None:
    """The allocation that fails is every one in turn: the right result or a MemoryError, and nothing left behind."""
    if kernel == "python":
        pytest.skip("nothing in it allocates by hand")
    failing = pytest.importorskip("_testcapi", reason="a CPython without its own test module")
    data = codec.encode(TERM)
    header = {a.leaks: 0}

    def attempt(call: Callable[[], Any], fail_at: int) -> Any:
        failing.set_nomemory(fail_at, fail_at + 1)
        try:
            return call()
        except (MemoryError, EncodeError, DecodeError):
            return None
        finally:
            failing.remove_mem_hooks()

    def run() -> None:
        for fail_at in range(80):
            made = attempt(lambda: codec.encode(TERM), fail_at)
            assert made is None or made == data
            term = attempt(lambda: codec.decode(data), fail_at)
            assert term is None or term[0] == TERM[0]
            table = header.copy()
            attempt(lambda table=table: codec.encode_into(bytearray(), [TERM, {1}], table), fail_at)
            attempt(lambda: codec.encode_chunks(TERM), fail_at)

    run()
    assert growth(run, 3) <= 2000
