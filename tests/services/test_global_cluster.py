"""Whole clusters: they mesh, agree on names, never overlap, whatever the network does; seeds are in the test names."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from test_global_simulator import Network, Node, assert_meshed, assert_partitions_whole

from beamnode.etf.terms import Atom, Export, Pid, a

RANDOM_EXIT = Export(Atom("global"), a.random_exit_name, 3)


def start(network: Network, count: int, **options: Any) -> list[Node]:
    return [network.start(f"n{number}@{'h' if number % 2 else 'g'}", **options) for number in range(count)]


def meshed(network: Network, count: int, **options: Any) -> list[Node]:
    nodes = start(network, count, **options)
    for node in nodes[1:]:
        node.connect(nodes[0].name.name)
        network.run(10)
    network.run(60)
    assert_meshed(nodes)
    return nodes


@pytest.mark.parametrize("seed", range(40))
def test_all_at_once(seed: int) -> None:
    """Nodes that connect at the same time, in any pattern that hangs together, become one mesh."""
    network = Network(seed, delay_seconds_max=Random(seed).choice([0.002, 0.05, 0.4]))
    nodes = start(network, Random(seed).randint(2, 8))
    for index, node in enumerate(nodes[1:], 1):
        node.connect(network.random.choice(nodes[:index]).name.name)
    answers = []
    network.run(300)
    for node in nodes:
        answers.append((node, node.call((a.sync, [other.name for other in nodes]))))
    network.run(60)
    assert_meshed(nodes)
    assert all(node.replies.get(number) is a.ok for node, number in answers)


@pytest.mark.parametrize("seed", range(20))
def test_partitions_merge(seed: int) -> None:
    """Two meshes that meet by one connection become one mesh."""
    network = Network(seed)
    nodes = start(network, 7)
    for index in (1, 2, 4, 5, 6):
        nodes[index].connect(nodes[0 if index < 3 else 3].name.name)
        network.run(0.5)
    network.run(60)
    assert_meshed(nodes[:3])
    assert_meshed(nodes[3:])
    nodes[2].connect(nodes[5].name.name)
    network.run(60)
    assert_meshed(nodes)


@pytest.mark.parametrize("seed", range(40))
def test_joins_leaves_crashes(seed: int) -> None:
    """Nodes come, leave politely and crash at random; those that stay are one mesh again.

    One thing no seed here draws: a node that crashes between its `resolved` to one node and its `new_nodes` to another
    leaves the two half acquainted. It is in the protocol; OTP does the same.
    """
    network = Network(seed)
    nodes = meshed(network, 3)
    for number in range(12):
        action = network.random.random()
        alive = network.alive()
        if action < 0.5 or len(alive) < 3:
            node = network.start(f"x{number}@h")
            node.connect(network.random.choice(alive).name.name)
        elif action < 0.75:
            network.random.choice(alive).crash()
        else:
            node = network.random.choice(alive)
            node.perform(node.server.leave(network.now))
            network.run(5)
            node.crash()
        network.run(network.random.choice([0.01, 0.3, 2, 20]))
    network.run(200)
    assert len(nodes) == 3
    assert_partitions_whole(network.alive())
    # Whoever was hit while it joined is taken in again.
    first, *others = network.alive()
    for node in others:
        node.connect(first.name.name)
        network.run(20)
    network.run(60)
    assert_meshed(network.alive())


@pytest.mark.parametrize("seed", range(40))
def test_cut_links_leave_whole_partitions(seed: int) -> None:
    """Whatever links break in a mesh: what is left are whole meshes."""
    network = Network(seed)
    nodes = meshed(network, network.random.randint(3, 7))
    for _ in range(network.random.randint(1, 4)):
        one, other = network.random.sample(nodes, 2)
        network.cut(one.name.name, other.name.name)
        network.run(network.random.choice([0, 0.01, 1]))
    network.run(120)
    assert_partitions_whole(nodes)


def test_one_disconnect_of_three_isolates_one_node() -> None:
    """As measured with OTP: one dropped link of three nodes ends with one node, or all three, alone."""
    for seed in range(20):
        network = Network(seed)
        one, two, three = meshed(network, 3)
        one.disconnect(two.name.name)
        network.run(30)
        assert_partitions_whole([one, two, three])
        assert two.name not in one.links


def test_without_prevention_only_the_dropped_link_is_gone() -> None:
    network = Network(3)
    one, two, three = meshed(network, 3, prevent_overlapping_partitions=False)
    one.disconnect(two.name.name)
    network.run(30)
    assert set(three.links) == {one.name, two.name}
    assert set(one.links) == {three.name}
    assert not any(message[0] is a.lost_connection for _, message in three.heard)


def test_polite_leave_hurts_nobody() -> None:
    for seed in range(10):
        network = Network(seed)
        nodes = meshed(network, 4)
        number = nodes[1].call(a.disconnect)
        network.run(30)
        assert set(nodes[1].replies[number]) == {node.name for node in nodes} - {nodes[1].name}
        assert nodes[1].links == {}
        assert nodes[1].server.known == []
        assert_meshed([nodes[0], *nodes[2:]])


def test_connect_all_false_keeps_to_itself() -> None:
    network = Network(5)
    one, two, three = start(network, 3, connect_all=False)
    one.connect(two.name.name)
    two.connect(three.name.name)
    network.run(30)
    assert set(two.links) == {one.name, three.name}
    assert set(one.links) == {two.name}
    assert one.server.known == []
    assert one.heard == []


# --- Names ------------------------------------------------------------------------------------------------------------


def register(network: Network, node: Node, name: Any, pid: Pid, nodes: list[Node]) -> None:
    """What `global:register_name/2` does, by a process of `node`: lock everywhere, register everywhere, unlock."""
    sender = node.spawn()
    requests = [(a.set_lock, (Atom("global"), sender)), (a.register, name, pid, RANDOM_EXIT)]
    for request in [*requests, (a.del_lock, (Atom("global"), sender))]:
        for peer in nodes:
            message = (Atom("$gen_call"), (sender, ("test", 0)), request)
            node._to(peer.name, lambda to, m=message: to.deliver(node.name, to.pid, m))
        network.run(1)


def table(node: Node) -> dict[Any, Pid | None]:
    return {name: node.server.whereis_name(name) for name in node.server.registered_names()}


def test_names_reach_a_node_that_joins_later() -> None:
    network = Network(7)
    nodes = meshed(network, 3)
    pid = nodes[1].spawn()
    register(network, nodes[0], a.leader, pid, nodes)
    late = network.start("late@h")
    late.connect(nodes[2].name.name)
    network.run(30)
    assert table(late) == {a.leader: pid}
    nodes[1].kill(pid)
    network.run(1)
    assert [table(node) for node in [*nodes, late]] == [{}] * 4


@pytest.mark.parametrize("seed", range(20))
def test_conflict_is_resolved_the_same_everywhere(seed: int) -> None:
    """Both partitions hold a name: afterwards all nodes agree, and the process of the greater node is killed."""
    network = Network(seed)
    nodes = start(network, 6)
    left, right = nodes[:3], nodes[3:]
    for group in (left, right):
        for node in group[1:]:
            node.connect(group[0].name.name)
            network.run(10)
    network.run(30)
    holders = {}
    for group in (left, right):
        holder = network.random.choice(group)
        pid = holder.spawn()
        register(network, network.random.choice(group), a.leader, pid, group)
        register(network, group[0], (b"own", group[0].name), pid, group)
        assert all(table(node)[a.leader] == pid for node in group)
        holders[holder.name] = (holder, pid)
    network.random.choice(left).connect(network.random.choice(right).name.name)
    network.run(60)
    assert_meshed(nodes)
    winner, loser = holders[min(holders)], holders[max(holders)]
    for node in nodes:
        assert table(node)[a.leader] == winner[1]
        assert len(table(node)) == 2  # the loser's other name is gone with it
    assert loser[1] not in loser[0].processes
