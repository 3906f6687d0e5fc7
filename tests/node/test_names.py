"""Node names: what is valid, which host is added, and who fits whom."""

from __future__ import annotations

import socket

import pytest

from beamnode.errors import NodeNameError
from beamnode.etf.terms import Atom
from beamnode.node import names
from beamnode.node.names import NodeName, check_compatible


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")
    monkeypatch.setattr(socket, "getfqdn", lambda: "box.example.org")


@pytest.mark.parametrize(
    ("text", "alive", "host", "long"),
    [
        ("py@127.0.0.1", "py", "127.0.0.1", True),
        ("py@db.example.org", "py", "db.example.org", True),
        ("py@::1", "py", "::1", True),
        ("py@localhost", "py", "localhost", False),
        ("Web_1-b@db-2", "Web_1-b", "db-2", False),
        ("py@h\xf6st", "py", "h\xf6st", False),
        (Atom("py@db"), "py", "db", False),
    ],
)
def test_parse(text: str | Atom, alive: str, host: str, long: bool) -> None:
    name = NodeName.parse(text)
    assert (name.alive, name.host, name.long) == (alive, host, long)
    assert str(name) == f"{alive}@{host}"
    assert name.atom is Atom(f"{alive}@{host}")
    assert name == NodeName.parse(str(name))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lacks the part before the '@'"),
        ("@host", "lacks the part before the '@'"),
        ("py@", "lacks the host"),
        ("p y@host", "' ' cannot stand before the '@'; use letters"),
        ("p.y!@host", "'.!' cannot stand before"),
        ("p\xe4@host", "cannot stand before"),
        ("py\n", "cannot stand before"),
        ("py@ho st", "a character that no host has"),
        ("py@host\n", "a character that no host has"),
        ("py@a@b", "a character that no host has"),
        ("py@\u4e2d", "a character that no host has"),
        ("p" * 128 + "@" + "h" * 127, "longer than 255 characters"),
        (b"py@host", "is a str like 'py@127.0.0.1', not bytes"),
        (None, "not NoneType"),
    ],
)
def test_names_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(NodeNameError) as caught:
        NodeName.parse(text)
    assert says in str(caught.value)


def test_the_longest_name() -> None:
    assert len(str(NodeName.parse("p" * 127 + "@" + "h" * 127))) == 255


@pytest.mark.usefixtures("machine")
def test_the_host_is_added() -> None:
    assert str(NodeName.parse("py")) == "py@box"
    assert not NodeName.parse("py").long
    assert str(NodeName.parse("py", long=False)) == "py@box"
    assert str(NodeName.parse("py", long=True)) == "py@box.example.org"
    assert NodeName.parse("py", long=True).long
    assert str(NodeName.parse("py", host="10.0.0.7")) == "py@10.0.0.7"
    assert NodeName.parse("py", host="10.0.0.7").long


def test_a_second_host_is_one_too_many() -> None:
    with pytest.raises(NodeNameError, match="has a host already"):
        NodeName.parse("py@here", host="there")


def test_a_machine_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    monkeypatch.setattr(socket, "getfqdn", lambda: "box")
    with pytest.raises(NodeNameError, match="give the host"):
        NodeName.parse("py")
    with pytest.raises(NodeNameError, match=r"no full host name.*--sname"):
        NodeName.parse("py", long=True)


def test_this_machine_has_a_short_name() -> None:
    assert "." not in names.short_host_name()


def test_the_domain_may_be_told() -> None:
    assert NodeName.parse("py@localhost", long=True).long  # as `erl -name py@localhost`
    assert not NodeName.parse("py@::1", long=False).long
    with pytest.raises(NodeNameError, match="its host has a dot: use --name"):
        NodeName.parse("py@db.example.org", long=False)


def test_compatible() -> None:
    long, other_long = NodeName.parse("a@10.0.0.1"), NodeName.parse("b@db.example.org")
    short, other_short = NodeName.parse("c@one"), NodeName.parse("d@two")
    check_compatible(long, other_long)
    check_compatible(short, other_short)
    with pytest.raises(NodeNameError, match=r"give that node the name c@HOST.*or this node the short name a "):
        check_compatible(long, short)
    with pytest.raises(NodeNameError, match=r"give this node the name c@HOST.*or that node the short name a "):
        check_compatible(short, long)
