"""node/epmd.py: the client, against OTP's own epmd of each release, against ours, and against what is no epmd."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from beamnode.errors import EpmdError, NameTakenError, NodeNameError, NodeNotFound, UsageError
from beamnode.etf import a
from beamnode.limits import Limits
from beamnode.node.epmd import Discovery, Epmd, FixedPort, NodePort, StaticPorts
from beamnode.node.epmd_ask import addresses_of_text, connect, port_of
from beamnode.node.epmd_server import EpmdServer, open_listeners
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, Otp, free_port

LOOPBACK = ["127.0.0.1"]


def own_server(port: int = 0, **options: Any) -> EpmdServer:
    return EpmdServer(open_listeners(port, LOOPBACK), **options)


async def until(condition: Callable[[], Awaitable[object]], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, "not true in time"
        await asyncio.sleep(0.02)


# --- against OTP's epmd -----------------------------------------------------------------------------------------------


def test_a_registration_is_seen_until_it_is_closed(epmd: peers.Epmd) -> None:
    async def run() -> None:
        ours = Epmd(epmd.port)
        registration = await ours.register("a", "127.0.0.1", 4242)
        hidden = await ours.register("b", "127.0.0.1", 4243, hidden=True)
        assert registration.registered
        assert registration.creation >= 4
        assert await ours.names() == [("b", 4243), ("a", 4242)]
        assert await ours.port_please("a", "127.0.0.1") == NodePort(4242, 5, 6, False)
        assert await ours.port_please("b", "localhost") == NodePort(4243, 5, 6, True)
        assert await ours.resolve("a", "localhost") == ("localhost", 4242)

        await registration.close()
        assert await ours.names() == [("b", 4243)]
        await registration.close()
        await hidden.close()

    asyncio.run(run())


def test_a_name_is_free_at_once_after_close_and_gets_another_creation(epmd: peers.Epmd) -> None:
    async def run() -> None:
        creations = set()
        for _ in range(20):
            registration = await Epmd(epmd.port).register("a", "127.0.0.1", 1)
            creations.add(registration.creation)
            await registration.close()
        assert len(creations) == 20

    asyncio.run(run())


def test_a_name_that_is_taken_is_refused_and_the_error_says_how_to_see_who_has_it(epmd: peers.Epmd) -> None:
    async def run() -> None:
        registration = await Epmd(epmd.port).register("a", "127.0.0.1", 1)
        with pytest.raises(NameTakenError, match=r"'a'.*another live node.*epmd -names"):
            await Epmd(epmd.port).register("a", "127.0.0.1", 2)
        await registration.close()

    asyncio.run(run())


def test_an_erlang_node_is_found_and_its_name_is_taken(epmd: peers.Epmd, start_peer: Callable[..., ErlNode]) -> None:
    node = start_peer("erl@127.0.0.1")
    listening = node.eval("{ok, [{_, Port}]} = erl_epmd:names({127,0,0,1}), Port")

    async def run() -> None:
        assert await Epmd(epmd.port).port_please("erl", "127.0.0.1") == NodePort(listening, 5, 6, False)
        with pytest.raises(NameTakenError):
            await Epmd(epmd.port).register("erl", "127.0.0.1", 1)
        registration = await Epmd(epmd.port).register("py", "127.0.0.1", 4242)
        assert await asyncio.to_thread(node.eval, 'erl_epmd:port_please("py", {127,0,0,1})') == (a.port, 4242, 6)
        await registration.close()

    asyncio.run(run())


def test_when_epmd_restarts_the_node_registers_again(
    otp: Otp, epmd_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "beamnode.epmd")
    with peers.Epmd(otp, epmd_port) as first:

        async def run() -> None:
            ours = Epmd(epmd_port)
            registration = await ours.register("a", "127.0.0.1", 4242)
            creation = registration.creation
            first.stop()
            await until(lambda: asyncio.sleep(0, not registration.registered))
            with pytest.raises(EpmdError):
                await ours.names()
            second = await asyncio.to_thread(peers.Epmd, otp, epmd_port)
            try:
                await until(lambda: asyncio.sleep(0, registration.registered))
                assert await ours.names() == [("a", 4242)]
                assert registration.creation == creation
                await registration.close()
                assert await ours.names() == []
            finally:
                second.stop()

        asyncio.run(run())
    assert "closed the registration of 'a'" in caplog.text
    assert "'a' is registered at epmd again" in caplog.text


def test_epmd_is_killed_and_a_name_stopped_on_request(epmd: peers.Epmd) -> None:
    async def run() -> None:
        ours = Epmd(epmd.port)
        registration = await ours.register("a", "127.0.0.1", 1)  # the name is there for as long as this is
        with pytest.raises(EpmdError, match="knows no node 'b'"):
            await ours.stop("b")
        await ours.stop("a")
        await ours.kill()

        async def has_gone() -> bool:
            try:
                await ours.names("127.0.0.1")
            except EpmdError as error:
                return "no epmd answers" in str(error)
            return False

        await until(has_gone)
        with pytest.raises(EpmdError, match="no epmd answers"):
            await ours.kill()
        await registration.close()

    asyncio.run(run())


def test_an_epmd_that_is_not_relaxed_refuses(otp: Otp, epmd_port: int) -> None:
    with peers.Epmd(otp, epmd_port, relaxed=False):

        async def run() -> None:
            ours = Epmd(epmd_port)
            registration = await ours.register("a", "127.0.0.1", 1)
            with pytest.raises(EpmdError, match="nodes are registered"):
                await ours.kill()
            with pytest.raises(EpmdError, match="refuses"):
                await ours.stop("a")
            assert registration.registered
            await registration.close()
            await ours.kill()

        asyncio.run(run())


# --- what can be missing ----------------------------------------------------------------------------------------------


def test_what_is_missing_is_said() -> None:
    async def run() -> None:
        nobody = Epmd(free_port())
        async with own_server() as server:
            ours = Epmd(server.port)
            with pytest.raises(NodeNotFound, match="knows no node 'a'"):
                await ours.port_please("a", "127.0.0.1")
            with pytest.raises(NodeNotFound, match="knows no node 'a'"):
                await ours.resolve("a", "localhost")
        with pytest.raises(NodeNotFound, match=f"no epmd answers at 127.0.0.1 port {nobody.port}"):
            await nobody.port_please("a", "127.0.0.1")
        with pytest.raises(NodeNotFound, match=r"no such host: 'host\.invalid'"):
            await ours.port_please("a", "host.invalid")
        for host in ("a" * 70 + ".invalid", "a..b", ""):
            with pytest.raises((NodeNotFound, EpmdError)):
                await nobody.port_please("a", host)
        with pytest.raises(EpmdError, match="no epmd answers"):
            await nobody.names()
        with pytest.raises(EpmdError, match="no epmd answers"):
            await nobody.register("a", "127.0.0.1", 1)

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "a b", "a" * 256, "a\0"])
def test_a_name_that_no_node_can_have_is_the_callers_fault(name: str) -> None:
    async def run() -> None:
        with pytest.raises(NodeNameError):
            await Epmd(1).register(name, "127.0.0.1", 1)
        with pytest.raises(NodeNameError):
            await Epmd(1).port_please(name, "127.0.0.1")

    asyncio.run(run())


@asynccontextmanager
async def impostor(answer: bytes, *, closes: bool = True) -> Any:
    """Something else than an epmd: says `answer` to whoever connects."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with suppress(OSError):
            if not closes:
                await reader.read()
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("answer", [b"", b"v", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"w\0\0", b"\xff" * 100_000])
def test_what_answers_but_is_no_epmd_is_an_error(answer: bytes) -> None:
    async def run() -> None:
        async with impostor(answer) as port:
            ours = Epmd(port, limits=Limits(epmd_response_bytes_max=1000))
            with pytest.raises(EpmdError):
                await ours.register("a", "127.0.0.1", 1)
            with pytest.raises(EpmdError):
                await ours.port_please("a", "127.0.0.1")
            if len(answer) < 4 or len(answer) > 1000:
                with pytest.raises(EpmdError):
                    await ours.names("127.0.0.1")

    asyncio.run(run())


def test_what_does_not_answer_is_given_up_in_time() -> None:
    async def run() -> None:
        async with impostor(b"", closes=False) as port:
            ours = Epmd(port, timeout_seconds=0.4)
            started = time.monotonic()
            with pytest.raises(EpmdError, match=r"nothing within 0.2 s|refused"):
                await ours.register("a", "127.0.0.1", 1)
            with pytest.raises(NodeNotFound, match=r"nothing within 0.4 s"):
                await ours.port_please("a", "127.0.0.1")
            assert time.monotonic() - started < 5

    asyncio.run(run())


def test_a_connection_that_reached_itself_is_no_epmd(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    from_itself = partial(asyncio.open_connection, local_addr=("127.0.0.1", port))
    monkeypatch.setattr(asyncio, "open_connection", from_itself)
    with pytest.raises(EpmdError, match="reached itself"):
        asyncio.run(connect("127.0.0.1", port))


# --- against our own --------------------------------------------------------------------------------------------------


def test_hosts_of_ipv6_and_each_address_of_a_host_are_asked() -> None:
    async def run() -> None:
        async with EpmdServer(open_listeners(0, ["::1"])) as server:
            ours = Epmd(server.port)
            registration = await ours.register("a", "::1", 7, family=socket.AF_INET6)
            for host in ("::1", "localhost", "127.0.0.1"):
                assert (await ours.port_please("a", host)).port == 7
            await registration.close()

    asyncio.run(run())


def test_a_lost_registration_is_renewed_when_another_holder_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with own_server(relaxed_command_check=True) as server:
            ours = Epmd(server.port)
            registration = await ours.register("a", "127.0.0.1", 1)
            await ours.stop("a")
            usurper = await ours.register("a", "127.0.0.1", 2)
            await until(lambda: asyncio.sleep(0, "is taken" in caplog.text))
            assert not registration.registered
            await usurper.close()
            await until(lambda: asyncio.sleep(0, registration.registered))
            assert (await ours.port_please("a", "127.0.0.1")).port == 1
            await registration.close()

    asyncio.run(run())


def test_closing_while_epmd_is_away_ends_the_renewing() -> None:
    async def run() -> None:
        server = own_server()
        await server.start()
        registration = await Epmd(server.port).register("a", "127.0.0.1", 1)
        server.close()
        await server.wait_closed()
        await until(lambda: asyncio.sleep(0, not registration.registered))
        await registration.close()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(run())


def test_the_pauses_between_attempts_grow_and_stay_below_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def run() -> None:
        server = own_server()
        await server.start()
        ours = Epmd(server.port)
        registration = await ours.register("a", "127.0.0.1", 1)
        real_sleep = asyncio.sleep

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            await real_sleep(0)

        monkeypatch.setattr(asyncio, "sleep", sleep)
        server.close()
        await server.wait_closed()
        while len(pauses) < 8:
            await real_sleep(0.01)
        await registration.close()

    asyncio.run(run())
    assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


# --- the environment, and discovery without epmd ----------------------------------------------------------------------


def test_the_environment_says_where_epmd_is() -> None:
    assert Epmd.from_environment({}).port == 4369
    ours = Epmd.from_environment({"ERL_EPMD_PORT": "4370", "ERL_EPMD_ADDRESS": "127.0.0.1, ::1 192.0.2.1"})
    assert (ours.port, ours.addresses, ours.auto_start) == (4370, ("127.0.0.1", "::1", "192.0.2.1"), False)


@pytest.mark.parametrize("text", ["x", "0", "65536", "-1", "²", "9" * 5000])
def test_a_port_that_is_none_is_the_users_fault(text: str) -> None:
    with pytest.raises(UsageError, match="ERL_EPMD_PORT"):
        port_of({"ERL_EPMD_PORT": text})


def test_an_address_that_is_none_is_the_users_fault() -> None:
    with pytest.raises(UsageError, match="'localhost' is no IP address"):
        addresses_of_text("127.0.0.1,localhost")


def test_without_epmd_nodes_are_found_at_a_fixed_port_or_in_a_table() -> None:
    async def run() -> None:
        fixed: Discovery = FixedPort(9100)
        static: Discovery = StaticPorts({"a@one": 9101, "b@two": ("192.0.2.1", 9102)})
        anywhere: Discovery = Epmd(1)
        assert fixed.listen_port("a", "one") == 9100
        assert await fixed.resolve("a", "one") == ("one", 9100)
        assert await static.resolve("a", "one") == ("one", 9101)
        assert await static.resolve("b", "two") == ("192.0.2.1", 9102)
        assert (static.listen_port("b", "two"), static.listen_port("c", "two")) == (9102, 0)
        assert anywhere.listen_port("a", "one") == 0
        with pytest.raises(NodeNotFound, match="'c@two'"):
            await static.resolve("c", "two")
        creations = set()
        for discovery in (fixed, static):
            for _ in range(50):
                registration = await discovery.register("a", "one", 1)
                creations.add(registration.creation)
                await registration.close()
        assert len(creations) == 100
        assert all(4 <= creation < 2**32 for creation in creations)

    asyncio.run(run())
