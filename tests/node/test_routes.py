"""node/routes.py: several carriers on one node, which of them leads to whom, and listening on none."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, play, until

from beamnode import CookieError, Epmd, FixedPort, Node, NotAllowedByPeer, Route, StaticPorts, Tcp, UsageError, a
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node.epmd_server import EpmdServer, open_listeners

INSIDE, OUTSIDE = f"*_in@{HOST}", f"*_out@{HOST}"


def test_each_node_is_dialled_on_the_first_route_that_is_for_it() -> None:
    async def main(cluster: Cluster) -> None:
        network, places = MemoryNetwork(), dict[str, Any]()
        tcp, epmd = Tcp(listen_address=HOST), Epmd(cluster.epmd_port)

        def memory(host: str, to: Any) -> Route:
            return Route(network.carrier(host), to=to, discovery=StaticPorts(places))

        middle = cluster.node("m", carrier=[memory("m", [INSIDE, "nobody@*"]), Route(tcp, discovery=epmd)])
        inside = cluster.node("a_in", carrier=memory("a", lambda node: node == middle.name.name))
        outside = cluster.node("a_out")
        async with middle, inside, outside:
            assert [address[0] for address in middle.listen_addresses()] == ["m", HOST]
            assert await cluster.registered() == ["a_out", "m"]
            places[inside.name.name] = inside.listen_address
            assert await middle.ping(inside.name) is a.pong
            assert await middle.ping(outside.name) is a.pong
            by = {entry.node: entry.address for entry in middle.connections()}
            assert by[inside.name] == ("a", 1025)
            assert by[outside.name] == outside.listen_address

    play(main)


def test_a_peer_that_comes_by_a_route_which_is_not_for_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        careful = cluster.node("c", carrier=Route(Tcp(listen_address=HOST), to=INSIDE))
        async with careful, cluster.node("a_in") as inside, cluster.node("a_out") as outside:
            assert await inside.ping(careful.name) is a.pong
            with caplog.at_level(logging.WARNING):
                assert await outside.ping(careful.name) is a.pang
            assert isinstance(outside.connect_error(careful.name), NotAllowedByPeer)
            assert f"with a_out@{HOST}: its connection came by tcp, which is not for it" in caplog.text
            assert await careful.connect(outside.name) is False
            assert "none of this node's carriers is for it" in str(careful.connect_error(outside.name))
            assert careful.list() == [inside.name]

    play(main)


def test_an_epmd_is_told_of_the_first_route_only() -> None:
    async def main(cluster: Cluster) -> None:
        async with EpmdServer(open_listeners(0, [HOST])) as other:
            one, two = Tcp(listen_address=HOST), Tcp(listen_address=HOST)
            async with cluster.node("n", carrier=[one, two, Route(one, discovery=Epmd(other.port))]) as node:
                ports = [port for _, port in node.listen_addresses()]
                assert await Epmd(cluster.epmd_port).names(HOST) == [("n", ports[0])]
                assert await Epmd(other.port).names(HOST) == [("n", ports[2])]
            assert await Epmd(other.port).names(HOST) == []

    play(main)


def test_a_route_that_cannot_listen_leaves_nothing_open() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node("n") as taken:
            assert taken.listen_address is not None
            carriers = [Tcp(listen_address=HOST), Tcp(listen_address=HOST, listen_ports=taken.listen_address[1])]
            node = cluster.node("two", carrier=carriers)
            with pytest.raises(Exception, match="the port is taken"):
                await node.start()
            await until(lambda: not node.alive)
            assert node.listen_addresses() == []

    play(main)


@pytest.mark.parametrize(
    ("carrier", "text"),
    [
        ([], "a node without a carrier reaches nobody; to listen on none, give listen=False"),
        (Tcp, r"a carrier is an object such as Tcp\(...\)"),
        ("tcp", r"a carrier is an object .*, not 'tcp'"),
        (Route("tcp"), r"a carrier is an object .*, not 'tcp'"),  # type: ignore[arg-type]
        (SimpleNamespace(name="mine", listen=1, by_name=True), "it has no handshake_length_bytes, no dial"),
        ([Route(Tcp)], "a carrier is an object"),  # type: ignore[arg-type]
        (Route(Tcp(), to=b"*"), r"Route\(to=...\) is a pattern of names, several, or a function of a name, not b'\*'"),  # type: ignore[arg-type]
        (Route(Tcp(), to=["*@a", Tcp]), r"Route\(to=...\) is a pattern"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_carrier(carrier: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Node("n@h", cookie="c", carrier=carrier)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"limits": {"connections_max": 5}}, UsageError, r"limits is a Limits"),
        ({"cookies": ["a@h"]}, CookieError, "cookies has the cookies of single nodes"),
        ({"net_ticktime": "60"}, UsageError, "net_ticktime must be more than 0 s, not '60'"),
    ],
)
def test_options_of_another_kind(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        Node("n@h", **({"cookie": "c"} | options))


NOWHERE: list[Any] = [{"listen": False}, {"carrier": [Route(Tcp(), listen=False), Route(Tcp(), listen=False)]}]


@pytest.mark.parametrize("options", NOWHERE)
def test_a_node_that_listens_on_nothing_has_a_creation_and_is_hidden(options: dict[str, Any]) -> None:
    """Visible, it would have the others try in vain to connect to it, and take their mesh apart (`global`)."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node("n", discovery=FixedPort(1), **options) as node:
            assert node.creation > 3
            assert node.listening == []
            assert node.hidden

    play(main)
