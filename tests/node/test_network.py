"""node/network.py between Python nodes: cookies, when a connection is made by itself, ports, addresses, no epmd."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, expect, nothing_comes, play, until

from beamnode import (
    Atom,
    Epmd,
    FixedPort,
    Node,
    NodeNameError,
    SpawnError,
    StaticPorts,
    UsageError,
    a,
    demonitor,
    exit,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.carriers.tcp import Tcp, Tcp6
from beamnode.errors import CookieMismatch, NodeNotFound, SetupTimeout
from beamnode.testing.peers import free_port

pytestmark = pytest.mark.filterwarnings("error")


# --- Cookies ----------------------------------------------------------------------------------------------------------


def test_a_wrong_cookie_is_told_clearly_on_both_sides_and_harms_neither(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node(cookie="another") as two, cluster.node() as three:
            assert await two.connect(one.name) is False
            assert isinstance(two.connect_error(one.name), CookieMismatch)
            assert "cookie" in str(two.connect_error(one.name))
            assert await two.ping(one.name) is a.pang
            assert (one.list(), two.list()) == ([], [])
            assert await one.ping(three.name) is a.pong
            reference = monitor(("net_kernel", one.name))  # of three
            two_pid_error = None
            try:
                await two.spawn(one.name, "m", "f", [])
            except SpawnError as error:
                two_pid_error = error.reason
            assert two_pid_error is a.noconnection
            demonitor(reference)

    play(main)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    for node in ("n1", "n2"):
        assert any(f"no connection with {node}@{HOST}: " in text and "cookie" in text for text in errors), errors
    assert "another" not in caplog.text


def test_cookies_per_node() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(cookie="one") as one, cluster.node(cookie="two") as two:
            assert await one.connect(two.name) is False
            one.set_cookie("two", two.name)
            assert (one.get_cookie(), one.get_cookie(two.name)) == (a.one, a.two)
            assert await one.connect(two.name) is True
            one.set_cookie("three", two.name)  # for connections to come
            assert one.list() == [two.name]
            await one.disconnect(two.name)
            await until(lambda: two.list() == [])
            assert await one.connect(two.name) is False
            two.set_cookie("three", one.name)
            assert await two.connect(one.name) is True
            one.set_cookie(a.four)
            assert (one.get_cookie(), one.get_cookie(two.name), one.get_cookie("x@y.z")) == (a.four, a.three, a.four)

    play(main)


# --- By itself, once, never -------------------------------------------------------------------------------------------


def test_a_signal_connects_or_not_as_dist_auto_connect_says() -> None:
    async def main(cluster: Cluster) -> None:
        async with (
            cluster.node() as target,
            cluster.node(dist_auto_connect="always") as always,
            cluster.node(dist_auto_connect="never") as never,
            cluster.node(dist_auto_connect="once") as once,
        ):
            del once
            for node, connects in ((always, True), (never, False)):
                assert await node.run_process(watch, target.name) is (a.noproc if connects else a.noconnection)
                assert target.name in node.list() or not connects
                if not connects:
                    await node.run_process(poke, target.name)
                    assert node.list() == []
                    with pytest.raises(SpawnError) as error:
                        await node.spawn(target.name, "m", "f", [])
                    assert error.value.reason is a.noconnection
                    assert await node.ping(target.name) is a.pong  # asked for in words
                    assert await node.run_process(watch, target.name) is a.noproc

    async def poke(node: Atom) -> None:
        send(("nobody", node), 1)
        await asyncio.sleep(0.05)

    play(main)


async def watch(node: Atom) -> Any:
    """The reason that a monitor of a name nobody has gives."""
    reference = monitor(("nobody", node))
    return (await expect(lambda message: message[1] == reference))[4]


def test_once_is_barred_after_a_loss_until_asked_for_in_words() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(connect_all=False) as target, cluster.node(dist_auto_connect="once") as node:
            assert await node.run_process(watch, target.name) is a.noproc
            await target.disconnect(node.name)
            await until(lambda: node.list() == [])
            assert target.name in node.list("known")
            assert await node.run_process(watch, target.name) is a.noconnection
            node.monitor(target.name)
            assert await expect() == (a.nodedown, target.name)
            assert await node.connect(target.name) is True
            await target.disconnect(node.name)
            await until(lambda: node.list() == [])
            assert await target.connect(node.name) is True  # or the other side comes
            assert await node.run_process(watch, target.name) is a.noproc

    play(main)


# --- While it takes time ----------------------------------------------------------------------------------------------


def test_an_attempt_that_gets_no_answer_is_given_up() -> None:
    async def main(_: Cluster) -> None:
        network = MemoryNetwork()
        places: dict[str, Any] = {f"two@{HOST}": ("two", 1)}
        node = Node(
            f"one@{HOST}", cookie="c", carrier=network.carrier("one"), discovery=StaticPorts(places), net_setuptime=0.1
        )
        network.carrier("two")
        network.stall("one", "two")
        async with node:
            sending = asyncio.create_task(node.run_process(watch, f"two@{HOST}"))
            assert await node.connect(f"two@{HOST}") is False
            assert await sending is a.noconnection
            assert isinstance(node.connect_error(f"two@{HOST}"), SetupTimeout)
            assert "within 0.1 s" in str(node.connect_error(f"two@{HOST}"))

    play(main)


def test_a_peer_that_says_nothing_any_more_is_taken_for_dead() -> None:
    async def main(_: Cluster) -> None:
        network = MemoryNetwork()
        places: dict[str, Any] = {}
        nodes = [
            Node(f"{host}@{HOST}", cookie="c", carrier=network.carrier(host), net_ticktime=0.2, discovery=static)
            for host in ("one", "two")
            if (static := StaticPorts(places))
        ]
        async with nodes[0] as one, nodes[1] as two:
            assert two.listen_address is not None
            places[two.name.name] = two.listen_address
            two.monitor_nodes(nodedown_reason=True)
            assert await one.connect(two.name) is True
            assert await expect() == (a.nodeup, one.name, {})
            await nothing_comes(0.6)  # ticks keep it
            network.stall("one", "two")
            assert await expect() == (a.nodedown, one.name, {a.nodedown_reason: a.net_tick_timeout})
            await until(lambda: one.list() == [])
            network.heal()

    play(main)


def test_a_connect_that_nobody_waits_for_any_more_goes_on() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await one.connect(two.name)
            await until(lambda: one.list() == [two.name])

    play(main)


# --- Ports and addresses ----------------------------------------------------------------------------------------------


def test_a_range_of_ports() -> None:
    async def main(cluster: Cluster) -> None:
        with socket.create_server((HOST, 0)) as taken:
            first = taken.getsockname()[1]
            ports = range(first, min(first + 20, 65536))
            async with (
                cluster.node(carrier=Tcp(listen_address=HOST, listen_ports=ports)) as one,
                cluster.node(carrier=Tcp(listen_address=HOST, listen_ports=ports)) as two,
            ):
                listening = [one.listen_address, two.listen_address]
                assert all(address is not None and address[1] in ports[1:] for address in listening)
                assert await one.ping(two.name) is a.pong

    play(main)


def test_ipv6() -> None:
    async def main(cluster: Cluster) -> None:
        from beamnode.node.epmd_server import EpmdServer, open_listeners

        async with EpmdServer(open_listeners(0, ["::1"])) as server:
            options: dict[str, Any] = {
                "cookie": "c", "discovery": Epmd(server.port), "carrier": Tcp6(listen_address="::1"),
            }  # fmt: skip
            async with Node("one@::1", **options) as one, Node("two@::1", **options) as two:
                assert one.long_names
                assert one.listen_address is not None
                assert one.listen_address[0] == "::1"
                register("here", self())
                assert await one.ping(two.name) is a.pong
                await one.run_process(greet, two.name)
                assert await expect() is a.hello
        assert await cluster.registered() == []

    async def greet(node: Atom) -> None:
        send(("here", node), a.hello)

    play(main)


def test_fixed_port_without_epmd() -> None:
    """One port for all nodes, each at an address of its own."""
    port = free_port()

    def node(address: str) -> Node:
        return Node(f"n@{address}", cookie="c", discovery=FixedPort(port), carrier=at(address, port))

    async def main(_: Cluster) -> None:
        async with node("127.0.0.1") as one, node("127.0.0.2") as two:
            assert one.listen_address == ("127.0.0.1", port)
            assert await one.ping(two.name) is a.pong
            assert two.list() == [one.name]
            assert await one.connect("n@127.0.0.3") is False
            assert f"cannot connect to 127.0.0.3:{port}: Connection refused" in str(one.connect_error("n@127.0.0.3"))

    play(main)


def at(address: str, port: int) -> Tcp:
    return Tcp(listen_address=address, listen_ports=port)


def test_static_ports_without_epmd() -> None:
    places: dict[str, Any] = {f"one@{HOST}": free_port(), f"two@{HOST}": (HOST, free_port())}

    def node(alive: str) -> Node:
        return Node(f"{alive}@{HOST}", cookie="c", discovery=StaticPorts(places))

    async def main(_: Cluster) -> None:
        async with node("one") as one, node("two") as two:
            assert one.listen_address == ("0.0.0.0", places[one.name.name])
            assert await one.ping(two.name) is a.pong
            assert await one.connect(f"three@{HOST}") is False
            assert "no node 'three@127.0.0.1' in the table of static ports" in str(one.connect_error(f"three@{HOST}"))

    play(main)


def test_a_node_that_does_not_listen_dials_and_is_not_found() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node("one") as one:
            shy = cluster.node("shy", listen=False)
            await shy.start()
            assert (shy.listen_address, shy.hidden) == (None, True)
            assert await cluster.registered() == ["one"]
            assert await shy.ping(one.name) is a.pong
            assert await one.ping(shy.name) is a.pong
            await shy.disconnect(one.name)
            await until(lambda: one.list() == [])
            assert await one.ping(shy.name) is a.pang
            await shy.stop()

    play(main)


# --- Names ------------------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_resolve() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            assert await node.connect("x@no.such.host.invalid") is False
            error = node.connect_error("x@no.such.host.invalid")
            assert isinstance(error, NodeNotFound)
            assert "no.such.host.invalid" in str(error)

    play(main)


@pytest.mark.parametrize("name", ["", "@", "a b@h.x", "a@", "a@b@c", "x" * 300, "ä@h.x"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(NodeNameError):
        Node(name, cookie="c")

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            with pytest.raises(NodeNameError):
                await node.connect(name)
            if "@" not in name:
                with pytest.raises(UsageError):
                    send(("name", name), a.hello)
            elif len(name) < 256:
                send(("name", name), a.hello)  # as in Erlang: to nobody
                await nothing_comes()

    play(main)


def test_a_node_of_the_same_name_elsewhere_is_not_taken_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Two nodes of one name, known to each other by a mistake in a table: neither connects, both live."""

    async def main(_: Cluster) -> None:
        port = free_port()
        one = Node(f"same@{HOST}", cookie="c", discovery=StaticPorts({f"same@{HOST}": port}))
        async with one:
            other = Node(f"same@{HOST}", cookie="c", discovery=StaticPorts({f"same@{HOST}": 0}))
            async with other:
                assert await other.connect(one.name) is True  # itself
                assert (one.list(), other.list()) == ([], [])

    play(main)


def test_receive_is_not_disturbed_by_connections() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            with pytest.raises(TimeoutError):
                await receive(timeout=0.01)
            await one.connect(two.name)
            with pytest.raises(TimeoutError):
                await receive(timeout=0.05)

    play(main)


def test_a_name_without_a_host_means_this_host_everywhere() -> None:
    async def main(cluster: Cluster) -> None:
        host = socket.gethostname().partition(".")[0]
        node = Node("one", cookie="c", discovery=Epmd(cluster.epmd_port), carrier=Tcp(listen_address=HOST))
        assert node.name is Atom(f"one@{host}")
        async with node:
            assert node.own_name("one")
            assert await node.ping("one") is a.pong
            assert await node.connect("two") is False
            assert node.connect_error("two") is node.connect_error(f"two@{host}") is not None
            assert await node.disconnect("two") is False
            node.set_cookie("d", "two")
            assert (node.get_cookie("two"), node.get_cookie(f"two@{host}"), node.get_cookie("one")) == (a.d, a.d, a.c)

    play(main)


# --- While a connection is being made ---------------------------------------------------------------------------------


def test_an_exit_without_a_term_does_not_harm_what_waits_with_it() -> None:
    async def dies_linked(to: Any) -> None:
        link(to)
        exit(object())  # no term: it would fail to be sent

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as two:
            register("here", self())
            trap_exit()
            target = self()
            async with cluster.node() as one:
                one_connects = asyncio.create_task(one.connect(two.name))
                spawn(dies_linked, target)
                await asyncio.sleep(0)
                send(("here", two.name), a.later)
                assert await asyncio.wait_for(one_connects, 10) is True
                assert one.list() == [two.name]
            assert await receive(lambda message: message is a.later, timeout=5) is a.later

    play(main)


def test_short_and_long_names_do_not_mix_by_a_message_either(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as long:
            send(("x", "n9@short"), 1)
            await until(lambda: isinstance(long.connect_error("n9@short"), NodeNameError), "it was not refused")
            assert long.list("known") == [long.name]

    play(main)
    assert "n9@short is a short one" in caplog.text


def test_a_node_without_its_host_is_told_at_once() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            with pytest.raises(UsageError, match="lacks its host"):
                send(("x", "n9"), 1)
            with pytest.raises(UsageError, match="lacks its host"):
                monitor(("x", "n9"))

    play(main)


def test_a_carrier_that_cannot_write_loses_its_connection_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two, cluster.node() as three:
            register("three", self())
            assert await two.connect(one.name)
            assert await two.connect(three.name)
            bad = two.network.session(one.name)
            assert bad is not None
            monkeypatch.setattr(bad, "_write_channel", fail)

            async def sender() -> None:
                send(("x", one.name), 1)
                send(("three", three.name), a.arrived)

            two.runtime.spawn(sender, ())
            assert await expect() is a.arrived
            await until(lambda: two.list() == [three.name])

    play(main)
