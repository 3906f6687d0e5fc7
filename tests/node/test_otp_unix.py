"""Unix sockets with real nodes, and one node with several carriers among them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support_local_dist import local_distribution, start_local
from support_otp import until

from beamnode import Atom, Node, Pid, Route, Tcp, a, link, monitor, receive, register, self, send, spawn, trap_exit
from beamnode import Epmd as EpmdDiscovery
from beamnode.carriers.unix import Unix
from beamnode.errors import NameTakenError, NetworkError
from beamnode.testing.peers import Epmd, ErlNode, Otp, PeerDied, find_otp, free_port

HOST = "127.0.0.1"
pytestmark = pytest.mark.otp


@dataclass
class World:
    """A real node on a socket file."""

    otp: Otp
    directory: Path
    cookie: str
    peer: ErlNode

    @property
    def name(self) -> Atom:
        return Atom(self.peer.name)

    def node(self, alive: str = "py", **options: Any) -> Node:
        return Node(f"{alive}@{HOST}", **{"cookie": self.cookie, "carrier": Unix(self.directory)} | options)

    async def erl(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.peer.eval, f"(fun () -> {source} end)()", 30, **bindings)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    cookie = secrets.token_hex(8)
    with local_distribution(otp) as directory, start_local(otp, directory, f"erl@{HOST}", cookie) as peer:
        yield World(otp, directory, cookie, peer)


def test_they_meet_from_either_side_and_talk(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            assert sorted(path.name for path in world.directory.iterdir()) == [f"erl@{HOST}", f"py@{HOST}"]
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            assert await node.disconnect(world.name) is True
            assert await node.ping(world.name) is a.pong
            assert node.list() == [world.name]
            assert await world.erl("nodes()") == [node.name]
            large = secrets.token_bytes(3_000_000)
            back = await node.rpc(world.name, "erlang", "list_to_binary", [[large, large]])
            assert back == large + large
            register("here", self())
            await world.erl("{here, Node} ! {self(), Large}", Node=node.name, Large=large)
            match await receive(timeout=20):
                case (Pid() as sender, received):
                    assert received == large
                    send(sender, a.thanks)
        assert [path.name for path in world.directory.iterdir()] == [f"erl@{HOST}"]

    asyncio.run(main())


def test_links_monitors_and_the_end(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            trap_exit()
            pid = await world.erl("spawn(fun () -> receive {die, Reason} -> exit(Reason) end end)")
            link(pid)
            ref = monitor(pid)
            send(pid, (a.die, a.sad))
            signals = [await receive(timeout=20), await receive(timeout=20)]
            assert (a.EXIT, pid, a.sad) in signals
            assert (a.DOWN, ref, a.process, pid, a.sad) in signals

            async def sleep() -> None:
                await receive()

            ours = spawn(sleep)
            await world.erl("register(watcher, spawn(fun () -> R = monitor(process, P), receive {'DOWN', R, _, _, W} ->"
                            " receive {tell, T} -> T ! {was, W} end end end))", P=ours)  # fmt: skip
        async with world.node() as node:
            send((a.watcher, world.name), (a.tell, self()))
            match await receive(timeout=20):
                case (a.was, why):
                    assert why in (a.noconnection, a.shutdown, a.killed)
            assert node.list() == [world.name]

    asyncio.run(main())


def test_what_net_kernel_and_the_options_of_sockets_say(world: World) -> None:
    async def main() -> None:
        async with world.node() as node:
            assert await node.ping(world.name) is a.pong
            [listen] = await world.erl("element(10, sys:get_state({net_kernel, Node}))", Node=node.name)
            path = str(world.directory / f"py@{HOST}").encode()
            address = (a.net_address, (a.local, path), [ord(c) for c in HOST], a.unix, a.local)
            assert listen[3:] == (address, a.local_unix_dist)
            node.setopts(world.name, {"sndbuf": 100_000})
            assert node.getopts(world.name, ["sndbuf"])["sndbuf"] >= 100_000
            with pytest.raises(NetworkError, match="cannot set options of the socket: Operation not supported"):
                node.setopts(world.name, {"nodelay": True})
            asked = "gen_server:call({net_kernel, Node}, {getopts, node(), [nodelay]})"
            assert await world.erl(asked, Node=node.name) == (a.error, a.enotsup)
            [info] = node.connections()
            assert (info.state, info.address) == ("up", (world.otp.inside(world.directory / f"erl@{HOST}"), 0))

    asyncio.run(main())


def test_they_respect_each_others_names(world: World) -> None:
    async def main() -> None:
        with pytest.raises(NameTakenError, match=f"erl@{HOST} runs already"):
            await world.node("erl").start()
        async with world.node():
            with pytest.raises(PeerDied, match="in use by another Erlang node"):
                await asyncio.to_thread(start_local, world.otp, world.directory, f"py@{HOST}", world.cookie)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(world.directory / f"dead@{HOST}"))
        async with world.node("dead") as node:  # takes the file over
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
        (world.directory / f"erl@{HOST}").chmod(0o600)

    asyncio.run(main())


# --- A client node ----------------------------------------------------------------------------------------------------


def test_a_client_node_calls_is_called_back_and_comes_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node("client", listen=False) as node:
            assert not (world.directory / f"client@{HOST}").exists()
            assert await node.connect(world.name) is True
            assert await world.erl("{nodes(), nodes(hidden)}") == ([], [node.name])
            assert await node.rpc(world.name, "erlang", "node", []) is world.name
            register("client", self())
            await world.erl("{client, Node} ! hello", Node=node.name)
            assert await receive(timeout=20) is a.hello
            assert await world.erl("net_adm:ping(Node)", Node=node.name) is a.pong
            assert await world.erl("erlang:disconnect_node(Node)", Node=node.name) is True
            await until(lambda: node.list("connected") == [])
            assert await world.erl("net_kernel:connect_node(Node)", Node=node.name) is False  # it listens nowhere
            assert await node.connect(world.name) is True
            assert await world.erl("nodes(hidden)") == [node.name]

    asyncio.run(main())


# --- Several carriers -------------------------------------------------------------------------------------------------


@dataclass
class Mixed:
    """An OTP 27 node on TCP, `erl_out`, and an OTP 25 node on a unix socket and on TCP, `erl_in`."""

    epmd: Epmd
    directory: Path
    cookie: str
    outside: ErlNode
    inside: ErlNode

    def node(self, alive: str, **options: Any) -> Node:
        """On unix sockets for those inside, and on TCP for the others."""
        routes = [Route(Unix(self.directory), to=f"*in@{HOST}"), Tcp(listen_address=HOST)]
        given: dict[str, Any] = {"cookie": self.cookie, "discovery": EpmdDiscovery(self.epmd.port), "carrier": routes}
        return Node(f"{alive}@{HOST}", **given | options)


@pytest.fixture(scope="module")
def mixed() -> Iterator[Mixed]:
    cookie, otp25, otp27 = secrets.token_hex(8), find_otp(25), find_otp(27)
    with ExitStack() as stack:
        epmd = stack.enter_context(Epmd(otp27, free_port()))
        directory = stack.enter_context(local_distribution(otp25))
        outside = ErlNode.start(otp27, f"erl_out@{HOST}", cookie=cookie, epmd_port=epmd.port)
        stack.enter_context(outside)
        inside = start_local(otp25, directory, f"erl_in@{HOST}", cookie, "inet_tcp local", epmd_port=epmd.port)
        stack.enter_context(inside)
        yield Mixed(epmd, directory, cookie, outside, inside)


def test_one_mesh_over_unix_sockets_inside_and_tcp_outside(mixed: Mixed) -> None:
    async def main() -> None:
        async with mixed.node("py_in") as one, mixed.node("more_in") as two:
            everybody = {mixed.outside.name, mixed.inside.name, str(one.name), str(two.name)}
            assert await one.connect(mixed.outside.name) is True
            assert await one.connect(mixed.inside.name) is True
            assert await two.connect(one.name) is True
            for node in (one, two):
                await until(lambda node=node: {str(other) for other in node.list()} == everybody - {str(node.name)})
                by = {str(entry.node): entry.address for entry in node.connections()}
                assert by.pop(mixed.outside.name)[0] == HOST  # type: ignore[index]
                assert {str(Path(address[0]).parent) for address in by.values() if address} == {str(mixed.directory)}
            for peer in (mixed.outside, mixed.inside):
                await asyncio.to_thread(peer.wait_until, "length(nodes()) =:= 3")
                for node in (one, two):
                    assert await node.rpc(peer.name, "erlang", "node", []) == Atom(peer.name)
                    assert await asyncio.to_thread(peer.eval, "net_adm:ping(N)", N=node.name) is a.pong
            info = "element(2, lists:keyfind(address, 1, element(2, net_kernel:node_info(N))))"
            assert (await asyncio.to_thread(mixed.inside.eval, info, N=one.name))[3:] == (a.local, a.local)
            assert (await asyncio.to_thread(mixed.inside.eval, info, N=Atom(mixed.outside.name)))[3:] == (a.tcp, a.inet)

    asyncio.run(main())


def test_nodes_without_a_carrier_in_common_are_kept_apart_without_end_of_trying(
    mixed: Mixed, caplog: pytest.LogCaptureFixture
) -> None:
    """As in OTP: a mesh that cannot be whole is taken apart, `prevent_overlapping_partitions`."""

    async def main() -> None:
        local = {"carrier": Unix(mixed.directory), "discovery": None}
        await asyncio.to_thread(mixed.inside.eval, "[erlang:disconnect_node(Node) || Node <- nodes()]")
        async with mixed.node("py_in") as node, mixed.node("local_in", **local) as other:
            strangers = {Atom(mixed.outside.name), other.name}
            assert await node.connect(mixed.outside.name) is True
            assert await node.connect(other.name) is True
            await until(lambda: "in order to prevent overlapping partitions" in caplog.text)
            await until(lambda: not strangers <= set(node.list()))
            error = str(other.connect_error(mixed.outside.name))
            assert f"{mixed.outside.name}: no node has made such a file" in error
            await asyncio.sleep(1)
            assert not strangers <= set(node.list())
            assert caplog.text.count(f"no connection with {mixed.outside.name}") <= 2
            assert caplog.text.count("connected with") <= 6

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


def test_a_hidden_node_stands_between_nodes_without_a_carrier_in_common(mixed: Mixed) -> None:
    async def main() -> None:
        local = {"carrier": Unix(mixed.directory), "discovery": None}
        async with mixed.node("py_in", hidden=True) as node, mixed.node("local_in", **local) as other:
            assert await node.connect(mixed.outside.name) is True
            assert await node.connect(other.name) is True
            await asyncio.sleep(0.5)
            assert set(map(str, node.list("hidden"))) == {mixed.outside.name, str(other.name)}
            assert await node.rpc(mixed.outside.name, "erlang", "node", []) == Atom(mixed.outside.name)
            assert other.list() == []

    asyncio.run(main())
