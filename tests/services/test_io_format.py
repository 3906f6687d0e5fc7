"""services/term_text.py and services/io_format.py: terms and formats as text."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode import Atom, BitString, Export, ImproperList, Pid, Port, Reference, a
from beamnode.services.io_format import WIDTH_MAX, FormatError, chardata_text, format_text
from beamnode.services.term_text import DEPTH_MAX, term_text

HERE, THERE = Atom("h@127.0.0.1"), Atom("t@127.0.0.1")


@pytest.mark.parametrize(
    ("term", "written", "printed"),
    [
        (1, "1", "1"),
        (-12.5, "-12.5", "-12.5"),
        (1e22, "1.0e22", "1.0e22"),
        (1.5e-7, "1.5e-7", "1.5e-7"),
        (a.ok, "ok", "ok"),
        (Atom("Hello World"), "'Hello World'", "'Hello World'"),
        (Atom("it's"), r"'it\'s'", r"'it\'s'"),
        (a.end, "'end'", "'end'"),
        (Atom(""), "''", "''"),
        (True, "true", "true"),
        (None, "nil", "nil"),
        (b"abc", "<<97,98,99>>", '<<"abc">>'),
        (b"", "<<>>", "<<>>"),
        (b"\x00\x01", "<<0,1>>", "<<0,1>>"),
        ([104, 105, 10], "[104,105,10]", r'"hi\n"'),
        ([1, 2], "[1,2]", "[1,2]"),
        ([], "[]", "[]"),
        ((a.x, [True], ()), "{x,[true],{}}", "{x,[true],{}}"),
        (ImproperList((1, 2), a.b), "[1,2|b]", "[1,2|b]"),
        ({a.k: b"v"}, "#{k => <<118>>}", '#{k => <<"v">>}'),
        (BitString(b"\x01\xa0", 3), "<<1,5:3>>", "<<1,5:3>>"),
        (Pid(HERE, 85, 0, 1), "<0.85.0>", "<0.85.0>"),
        (Pid(THERE, 85, 1, 1), "<t@127.0.0.1.85.1>", "<t@127.0.0.1.85.1>"),
        (Port(HERE, 5, 1), "#Port<0.5>", "#Port<0.5>"),
        (Reference(HERE, 1, (1, 2, 3)), "#Ref<0.3.2.1>", "#Ref<0.3.2.1>"),
        (Export(a.lists, a.map, 2), "fun lists:map/2", "fun lists:map/2"),
    ],
)
def test_terms(term: Any, written: str, printed: str) -> None:
    assert term_text(term, own=HERE) == written
    assert term_text(term, strings=True, own=HERE) == printed


def test_wide_characters() -> None:
    assert term_text("ż".encode(), strings=True, wide=True) == '<<"ż"/utf8>>'
    assert term_text("ż".encode(), strings=True) == '<<"Å¼">>'
    assert term_text("→".encode(), strings=True) == "<<226,134,146>>"
    assert term_text([0x17C], strings=True, wide=True) == '"ż"'
    assert term_text([0x17C], strings=True) == "[380]"
    assert term_text(Atom("ż"), wide=True) == "'ż'"
    assert term_text(Atom("ż")) == r"'\x{17C}'"


def test_terms_of_peers_are_no_danger() -> None:
    """Depth and digits come from a peer."""
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    assert term_text(deep) == "[" * DEPTH_MAX + "..." + "]" * DEPTH_MAX
    assert term_text(-(1 << 100_000)).startswith("-16#10000")


@pytest.mark.parametrize(
    ("form", "args", "text"),
    [
        ("plain", [], "plain"),
        ("~p and ~w~n", [[104, 105], [104, 105]], '"hi" and [104,105]\n'),
        ("~s|~s|~ts", [[104, 105], b"bin", "ż".encode()], "hi|bin|ż"),
        ("~s", [a.atom], "atom"),
        ("~s", [[b"deep", [104, [105]], 33]], "deephi!"),
        ("~5s|~-5s|~.2s|~5..0s", [b"ab", b"ab", b"abcd", b"ab"], "   ab|ab   |ab|000ab"),
        ("~*s", [4, b"x"], "   x"),
        ("~c~3c~tc", [97, 98, 0x17C], "abbbż"),
        ("~b ~.16b ~.16B ~.2b", [-12, 255, 255, 5], "-12 ff FF 101"),
        ("~5..0b|~3b", [42, 123456], "00042|***"),
        ("~.16# ~.16+", [255, 255], "16#FF 16#ff"),
        ("~x", [15, b"0x"], "0x15"),
        ("~.16x", [255, b"0x"], "0xff"),
        ("~f ~.2f ~e ~.3e", [1.5, 2.345, 12.5, 12.5], "1.500000 2.35 1.25000e+1 1.25e+1"),
        ("~~ ~i~2n", [a.ignored], "~ \n\n"),
        ("~lp", [[104, 105]], "[104,105]"),
        ("~tp", ["ż".encode()], '<<"ż"/utf8>>'),
        ("~W ~P", [[1, 2], 9, [1, 2], 9], "[1,2] [1,2]"),
        ([126, 112, 10], [1], "1\n"),
        (Atom("~p"), [1], "1"),
    ],
)
def test_formats(form: Any, args: list[Any], text: str) -> None:
    assert format_text(form, args) == text


@pytest.mark.parametrize(
    ("form", "args"),
    [
        ("~p", []),
        ("", [1]),
        ("~", []),
        ("~q", [1]),
        ("~b", [1.5]),
        ("~b", [True]),
        ("~s", [(1,)]),
        ("~s", [[-1]]),
        ("~ts", [b"\xff"]),
        ("~c", [0xD800]),
        ("~.1b", [1]),
        ("~p", a.none),
        (f"~{WIDTH_MAX + 1}s", [b"x"]),
        ("~*s", [10**12, b"x"]),
        ("~f", [10**400]),
        ((1,), []),
    ],
)
def test_formats_that_do_not_fit(form: Any, args: Any) -> None:
    with pytest.raises(FormatError):
        format_text(form, args)


def test_chardata() -> None:
    assert chardata_text([[[b"a"], 98], ImproperList((99,), b"d"), "e"]) == "abcde"
    assert chardata_text(b"\xe9", "latin-1") == "é"
    deep: Any = b"x"
    for _ in range(50_000):
        deep = [deep]
    assert chardata_text(deep) == "x"
    for wrong in (a.atom, True, 0x110000, [1.5], {1: 2}, b"\xff"):
        with pytest.raises(FormatError):
            chardata_text(wrong)
