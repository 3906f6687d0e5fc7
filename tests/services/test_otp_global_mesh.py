"""The mesh of real nodes and ours: it forms by itself, from any connections, and `global:sync/0` returns everywhere."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from otp_support import Beam, Cluster, Clusters, Member, call, until, view_of

from beamnode import Node, a

pytestmark = pytest.mark.otp

MESH_SECONDS = 20.0  # 0.3 s, or 1.5 s where a partition of several waits for its turn; longer on a busy machine
RELEASES = [(25, 27, 29), (25, 25, 25), (27, 27, 27), (29, 29, 29)]


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    with Clusters() as clusters:
        yield clusters


@pytest.fixture(params=RELEASES, ids=str)
def cluster(request: pytest.FixtureRequest, clusters: Clusters) -> Cluster:
    return clusters.of(request.param)


async def dial(one: Member, other: Member) -> None:
    if isinstance(one, Beam):
        await one.connect(other)
    else:
        assert await one.connect(other.name) is True


def star_of_ours(beams: list[Beam], py: Node) -> list[list[tuple[Member, Member]]]:
    return [[(py, beam) for beam in beams]]


def star_of_theirs(beams: list[Beam], py: Node) -> list[list[tuple[Member, Member]]]:
    return [[(beam, py) for beam in beams]]


def chain(beams: list[Beam], py: Node) -> list[list[tuple[Member, Member]]]:
    one, two, three = beams
    return [[(one, two)], [(two, py)], [(py, three)]]


def ring_at_once(beams: list[Beam], py: Node) -> list[list[tuple[Member, Member]]]:
    around = [*beams, py, beams[0]]
    return [list(itertools.pairwise(around))]


def we_join_three(beams: list[Beam], py: Node) -> list[list[tuple[Member, Member]]]:
    one, two, three = beams
    return [[(one, two)], [(two, three)], [(py, two)]]


def three_join_us(beams: list[Beam], py: Node) -> list[list[tuple[Member, Member]]]:
    one, two, three = beams
    return [[(one, py)], [(two, py)], [(three, py)]]


ORDERS = [star_of_ours, star_of_theirs, chain, ring_at_once, we_join_three, three_join_us]


CASES = [(RELEASES[0], order, name) for order, name in zip(ORDERS, "azazaz", strict=True)]
CASES += [
    (releases, order, name)
    for releases in RELEASES[1:]
    for order, name in [(chain, "a"), (ring_at_once, "z"), (three_join_us, "a")]
]


# The greatest of the names is the boss of a partition, which is locked first.
@pytest.mark.parametrize(("cluster", "order", "name"), CASES, indirect=["cluster"])
def test_one_of_ours_and_three(cluster: Cluster, order: Any, name: str) -> None:
    async def main() -> None:
        await cluster.apart()
        async with cluster.node(cluster.fresh_name(name)) as py:
            for step in order(cluster.beams, py):
                await asyncio.gather(*itertools.starmap(dial, step))
            await cluster.meshed(*cluster.beams, py, timeout=MESH_SECONDS)
            await cluster.sync(*cluster.beams, py, timeout=MESH_SECONDS)
            assert set(py.list()) == {beam.name for beam in cluster.beams}
        await cluster.meshed(*cluster.beams)

    asyncio.run(main())


def test_sync_waits_for_a_mesh_that_is_forming(cluster: Cluster) -> None:
    """`global:sync/0` right after the dial: it returns when the mesh is there, not before and not never."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        await one.connect(two)
        await cluster.meshed(one, two)
        async with cluster.node() as py:
            assert await py.connect(three.name)
            await cluster.meshed(three, py)
            assert await py.connect(one.name)
            await cluster.sync(one, py, timeout=MESH_SECONDS)
            assert one.name in (await view_of(py)).synced
            assert py.name in (await one.view()).synced
            await cluster.meshed(*cluster.beams, py, timeout=MESH_SECONDS)

    asyncio.run(main())


MIXED_EDGES = ["ours dials", "theirs dials", "ours dials ours", "theirs dials theirs"]
EDGES = [(RELEASES[0], edge) for edge in MIXED_EDGES] + [(releases, "ours dials") for releases in RELEASES[1:]]


@pytest.mark.parametrize(("cluster", "edge"), EDGES, indirect=["cluster"])
def test_two_partitions_become_one(cluster: Cluster, edge: str) -> None:
    """Two of ours and three of theirs; names of both sides are everywhere afterwards."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        async with cluster.node(cluster.fresh_name("a")) as low, cluster.node(cluster.fresh_name("z")) as high:
            left: list[Member] = [one, low]
            right: list[Member] = [two, three, high]
            await dial(one, low)
            await asyncio.gather(dial(two, three), dial(high, two))
            await cluster.meshed(*left)
            await cluster.meshed(*right)
            names = {}
            for beam, name in [(one, a.left), (two, a.right), (three, a.other_right)]:
                source = "New = spawn(fun () -> receive stop -> ok end end), yes = global:register_name(Name, New), New"
                names[name] = await beam.erl(source, Name=name)
            edges: dict[str, tuple[Member, Member]] = {
                "ours dials": (low, two),
                "theirs dials": (three, low),
                "ours dials ours": (high, low),
                "theirs dials theirs": (one, three),
            }
            await dial(*edges[edge])
            await cluster.meshed(*left, *right, timeout=MESH_SECONDS)
            await cluster.sync(*left, *right, timeout=MESH_SECONDS)
            for member in [*left, *right]:
                assert await cluster.names(member, *names) == names
            for name in names:
                await one.erl("global:unregister_name(Name)", Name=name)
            await cluster.no_locks(*left, *right)

    asyncio.run(main())


def test_their_state_has_us_as_one_of_them(cluster: Cluster) -> None:
    """The record that `sys:get_state(global_name_server)` gives, and what calls of ours tell."""

    async def main() -> None:
        await cluster.apart()
        one, *_ = cluster.beams
        async with cluster.node() as py:
            await dial(one, py)
            await cluster.meshed(one, py)
            known = await one.erl("element(3, sys:get_state(global_name_server))")
            assert known[py.name] == 8
            assert isinstance(known[(a.connection_id, py.name)], int)
            assert not {(a.pending, py.name), (a.removing, py.name)} & set(known)
            ours = "gen_server:call({global_name_server, Py}, Request)"
            assert await one.erl(ours, Py=py.name, Request=a.get_known) == [one.name]
            assert await one.erl(ours, Py=py.name, Request=a.get_synced) == [one.name]
            assert await one.erl(ours, Py=py.name, Request=a.get_protocol_version) == 8
            assert await one.erl(ours, Py=py.name, Request=a.get_names_ext) == []
            theirs = await one.erl("global:info()")
            info = await one.erl(ours, Py=py.name, Request=a.info)
            assert (info[0], info[1], len(info)) == (theirs[0], theirs[1], len(theirs))
            assert await one.erl(ours, Py=one.name, Request=a.get_known) == [py.name]

    asyncio.run(main())


def test_a_hidden_one_is_left_alone(cluster: Cluster) -> None:
    """No mesh, and no message of `global` or `rex` in either direction."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        await one.connect(two)
        await cluster.meshed(one, two)
        async with cluster.node(hidden=True) as py:
            assert await py.connect(one.name)
            await three.connect(py)
            for beam in (one, three):
                await beam.until("nodes(hidden) =:= [Py]", Py=py.name)
            before = await bytes_between(one, py)
            await two.connect(three)
            await cluster.meshed(one, two, three)
            await asyncio.sleep(0.5)
            assert await bytes_between(one, py) == before
            assert set(py.list("hidden")) == {one.name, three.name}
            assert py.list() == []
            view = await view_of(py)
            assert (view.known, view.synced) == (set(), set())
            assert await two.erl("nodes(hidden)") == []

    asyncio.run(main())


async def bytes_between(beam: Beam, py: Node) -> Any:
    """What has gone through the connection so far, both ways: whole messages, without ticks."""
    source = (
        """{ok, Info} = net_kernel:node_info(Node), {proplists:get_value(in, Info), proplists:get_value(out, Info)}"""
    )
    return await beam.erl(source, Node=py.name)


@pytest.mark.parametrize("cluster", RELEASES[:1], indirect=True)
def test_connect_all_false_keeps_to_its_own_connections(cluster: Cluster) -> None:
    """On our side only: like a real node started so, it is connected and not meshed, and the others go on."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        await one.connect(two)
        await cluster.meshed(one, two)
        async with cluster.node(connect_all=False) as py:
            assert await py.connect(one.name)
            await asyncio.sleep(0.5)
            assert py.list() == [one.name]
            assert (await view_of(py)).known == set()
            assert set(await two.erl("nodes()")) == {one.name}
            view = await one.view()
            assert (view.nodes, view.known) == ({two.name, py.name}, {two.name})
            await three.connect(two)

            async def all_three() -> bool:
                views = [await beam.view() for beam in cluster.beams]
                names = {beam.name for beam in cluster.beams}
                return all(view.known == names - {beam.name} for beam, view in zip(cluster.beams, views, strict=True))

            await until(all_three, MESH_SECONDS)
            assert py.list() == [one.name]
        await cluster.meshed(*cluster.beams)

    asyncio.run(main())


def test_the_same_name_again(cluster: Cluster) -> None:
    """Our node stops and starts, as itself and as a new one of the same name, and is taken in again each time."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        await one.connect(two)
        await two.connect(three)
        await cluster.meshed(*cluster.beams)
        name = cluster.fresh_name()
        py = cluster.node(name)
        for round in range(4):
            if round == 2:
                py = cluster.node(name)
            await py.start()
            await (dial(py, two) if round % 2 else dial(two, py))
            await cluster.meshed(*cluster.beams, py, timeout=MESH_SECONDS)
            await cluster.sync(*cluster.beams, py, timeout=MESH_SECONDS)
            if round == 1:
                await call(py, a.disconnect)
                await cluster.meshed(*cluster.beams)
                await dial(one, py)
                await cluster.meshed(*cluster.beams, py, timeout=MESH_SECONDS)
            await py.stop()
            await cluster.meshed(*cluster.beams)

    asyncio.run(main())
