"""Our node and OTP's `-proto_dist inet_tls`: both ways, both versions; who is refused by whom, and what is said of it.

One real node for each release. It looks its options up for each connection, in a table that belongs to one of its
supervisors: `TlsWorld.they_use` has that write others into it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from support_otp import World, expect, until

from beamnode import Atom, Node, a, receive, register, self, send, spawn
from beamnode.carriers.tls import Tls
from beamnode.errors import TlsError
from beamnode.testing.peers import Otp
from support_certs import Certificates

pytestmark = pytest.mark.otp

VERSIONS = {"1.2": ["tlsv1.2"], "1.3": ["tlsv1.3"]}


class TlsWorld(World):
    """A world whose peer speaks TLS, with certificates that both sides can read."""

    def __init__(self, otp: Otp) -> None:
        super().__init__(otp)
        self._files = ExitStack()

    def __enter__(self) -> Self:
        directory = self.otp.make_directory()
        directory.chmod(0o755)
        self._files.callback(shutil.rmtree, directory)
        self.certificates = Certificates(directory)
        optfile = directory / "peer.conf"
        optfile.write_text(self.optfile(["tlsv1.3", "tlsv1.2"]))
        options = ["-proto_dist", "inet_tls", "-ssl_dist_optfile", self.otp.inside(optfile)]
        self._peer_options = {"extra_args": options}
        try:
            return super().__enter__()
        except BaseException:
            self._files.close()
            raise

    def __exit__(self, *_: object) -> None:
        with self._files:
            super().__exit__()

    def optfile(self, versions: list[str], cert: str | None = "good", ca: str = "ca", extra: str = "") -> str:
        """What it is told, as the term of an optfile."""
        inside = self.otp.inside
        files = "" if cert is None else f'{{certfile, "{inside(self.certificates.cert(cert))}"}}, '
        files += "" if cert is None else f'{{keyfile, "{inside(self.certificates.key(cert))}"}}, '
        files += f'{{cacertfile, "{inside(self.certificates.directory / f"{ca}.pem")}"}}'
        both = f"{files}, {{verify, verify_peer}}, {{versions, {[Atom(each) for each in versions]!r}}}{extra}"
        both = both.replace("Atom(", "").replace("')", "'")
        return f"[{{server, [{both}, {{fail_if_no_peer_cert, true}}]}}, {{client, [{both}]}}]."

    async def they_use(self, versions: list[str], cert: str | None = "good", ca: str = "ca", extra: str = "") -> None:
        """Other options, for connections to come."""
        await self.erl(
            "{ok, Tokens, _} = erl_scan:string(Text), {ok, Options} = erl_parse:parse_term(Tokens),"
            "sys:replace_state(ets:info(ssl_dist_opts, owner),"
            " fun (State) -> ets:insert(ssl_dist_opts, Options), State end), ok",
            Text=[ord(character) for character in self.optfile(versions, cert, ca, extra)],
        )

    def tls_node(self, cert: str | None = "good", ca: str = "ca", **options: Any) -> Node:
        return self.node(carrier=self.certificates.tls(cert, ca, **options), hidden=True)

    async def dialled_by_peer(self, node: Node) -> bool:
        return await self.erl("net_kernel:connect_node(Node)", Node=node.name) is True


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[TlsWorld]:
    with TlsWorld(otp) as world:
        yield world


@pytest.fixture(params=VERSIONS)
def versions(request: pytest.FixtureRequest) -> list[str]:
    return VERSIONS[request.param]


@pytest.fixture(params=["we dial", "they dial"])
def dial(request: pytest.FixtureRequest) -> Any:
    async def connect(world: TlsWorld, node: Node) -> None:
        if request.param == "we dial":
            assert await node.connect(world.name) is True, node.connect_error(world.name)
        else:
            assert await world.dialled_by_peer(node)
        await until(lambda: world.name in node.list("connected"))

    return connect


def the_tls(world: TlsWorld, node: Node) -> Any:
    """OpenSSL's object of the connection."""
    session = node.network.session(world.name)
    assert session is not None
    stream: Any = session._stream
    return stream._tls


def test_messages_of_every_size_and_ticks(world: TlsWorld, dial: Any, versions: list[str]) -> None:
    async def main() -> None:
        await world.they_use(["tlsv1.3", "tlsv1.2"])
        async with world.tls_node(versions=versions) as node:
            await dial(world, node)
            assert the_tls(world, node).version() == versions[0].upper().replace("TLSV", "TLSv")
            assert the_tls(world, node).getpeercert()["subject"] == ((("commonName", "good"),),)
            big = bytes(range(256)) * 40_000
            for message in (b"", b"x", b"y" * 16_384, b"z" * 100_000, big):
                assert await node.rpc(world.name, "lists", "reverse", [[message, 1]]) == [1, message]
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            session = node.network.session(world.name)
            assert session is not None
            received, _ = session.counters()
            session.tick()
            await world.erl("[begin net_kernel ! tick, timer:sleep(20) end || _ <- [1, 2, 3]], ok")
            await until(lambda: session.counters()[0] > received)
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
        await world.gone_there(node)

    asyncio.run(main())


def test_they_change_their_keys_in_the_middle(world: TlsWorld, dial: Any, versions: list[str]) -> None:
    """TLS 1.2: renegotiation, each 2^28 records, here 50. TLS 1.3: key updates, by bytes."""

    async def main() -> None:
        often = "{renegotiate_at, 50}" if versions == ["tlsv1.2"] else "{key_update_at, 20000}"
        await world.they_use(versions, extra=f", {often}")
        async with world.tls_node() as node:
            await dial(world, node)
            spawn(echo)
            session = node.network.session(world.name)
            await world.erl(
                "Echo = {echo, Node}, Self = self(),"
                "[begin Echo ! {Self, {N, binary:copy(<<N>>, 3000)}},"
                " receive {echo, {N, B}} -> 3000 = byte_size(B) after 10000 -> error({lost, N}) end"
                " end || N <- lists:seq(1, 250)], ok",
                Node=node.name,
            )
            got = await node.rpc(world.name, "lists", "duplicate", [200, bytes(10_000)])
            assert got == [bytes(10_000)] * 200
            assert node.network.session(world.name) is session, "the same connection as before"
        await world.gone_there(node)

    asyncio.run(main())


async def echo() -> None:
    register("echo", self())
    while True:
        sender, message = await receive()
        send(sender, (a.echo, message))


WE_REFUSE = {  # their certificate, the CA that we ask for
    "another CA": (("good", "other-ca"), "its certificate was not issued by a CA in this node's cacertfile"),
    "expired": (("expired", "ca"), "its certificate has expired: renew it"),
    "another host": (
        ("elsewhere", "ca"),
        "its certificate is for DNS:elsewhere.example, not for 127.0.0.1",
    ),
}


@pytest.mark.parametrize("case", WE_REFUSE)
def test_whom_we_do_not_accept(
    world: TlsWorld, versions: list[str], case: str, caplog: pytest.LogCaptureFixture
) -> None:
    (theirs, ca), text = WE_REFUSE[case]

    async def main() -> None:
        await world.they_use(versions, theirs)
        async with world.tls_node(ca=ca) as node:
            assert await node.connect(world.name) is False
            error = node.connect_error(world.name)
            assert isinstance(error, TlsError)
            assert text in str(error)
            caplog.clear()
            assert not await world.dialled_by_peer(node)
            await until(lambda: text in caplog.text)
            assert all(each.levelno <= logging.WARNING for each in caplog.records)

    asyncio.run(main())


THEY_REFUSE = {
    "another CA": ("stranger", "it does not trust the CA of this node's certificate"),
    "expired": ("expired", "it says that this node's certificate has expired"),
    "another host": ("elsewhere", "most likely because that is not for the host in this node's name"),
}


@pytest.mark.parametrize("case", THEY_REFUSE)
def test_who_does_not_accept_us(
    world: TlsWorld, versions: list[str], case: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, text = THEY_REFUSE[case]

    async def main() -> None:
        await world.they_use(versions)
        async with world.tls_node(ours) as node:
            if ours != "elsewhere":  # OTP does not look at the host of who dials
                assert await node.connect(world.name) is False
                error = node.connect_error(world.name)
                assert isinstance(error, TlsError)
                assert text in str(error)
            assert not await world.dialled_by_peer(node)
            await until(lambda: text in caplog.text)

    asyncio.run(main())


def test_no_certificate(world: TlsWorld, versions: list[str], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await world.they_use(versions)
        tls = world.certificates.tls(client={"certfile": None, "keyfile": None})
        async with world.node(carrier=tls, hidden=True) as node:
            assert await node.connect(world.name) is False
            assert "it wants a certificate of this node" in str(node.connect_error(world.name))
            await world.they_use(versions, cert=None)
            assert not await world.dialled_by_peer(node)
            await until(lambda: "it has no certificate, and this node wants one" in caplog.text)

    asyncio.run(main())


def test_ours_change_without_a_restart(world: TlsWorld, tmp_path: Path) -> None:
    certificates = world.certificates

    def use(name: str) -> None:
        for kind in ("", "-key"):
            shutil.copy(certificates.directory / f"{name}{kind}.pem", tmp_path / f"new{kind}.pem")
            (tmp_path / f"new{kind}.pem").replace(tmp_path / f"node{kind}.pem")

    async def main() -> None:
        await world.they_use(["tlsv1.3", "tlsv1.2"])
        use("good")
        tls = Tls(
            certfile=tmp_path / "node.pem",
            keyfile=tmp_path / "node-key.pem",
            cacertfile=certificates.directory / "ca.pem",
        )
        async with world.node(carrier=tls, hidden=True) as node:
            for name, accepted in (("good", True), ("stranger", False), ("renewed", True), ("expired", False)):
                use(name)
                assert await world.dialled_by_peer(node) is accepted
                assert await node.connect(world.name) is accepted
                await node.disconnect(world.name)
                await world.gone_there(node)

    asyncio.run(main())


def test_more_goes_both_ways_than_buffers_hold(world: TlsWorld, versions: list[str]) -> None:
    async def main() -> None:
        await world.they_use(versions)
        async with world.tls_node() as node:
            assert await node.connect(world.name)
            register("sink", self())
            sizes = await asyncio.gather(
                *(node.rpc(world.name, "erlang", "byte_size", [bytes(3_000_000)]) for _ in range(8)),
                world.erl(
                    "[{sink, Node} ! binary:copy(<<N>>, 3000000) || N <- lists:seq(1, 8)], ok",
                    Node=node.name,
                ),
            )
            assert sizes == [3_000_000] * 8 + [a.ok]
            for number in range(1, 9):
                assert await expect() == bytes([number]) * 3_000_000

    asyncio.run(main())
