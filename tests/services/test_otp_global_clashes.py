"""Two partitions have given a name to different processes and meet over an edge of ours: all agree in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from otp_support import Beam, Cluster, Clusters, Member, until

from beamnode import Node, Pid, a, monitor, receive
from beamnode.testing.peers import OTPS

pytestmark = pytest.mark.otp

REGISTER = "New = spawn(fun () -> receive stop -> ok end end), yes = global:register_name(Name, New), New"
ALIVE = "is_process_alive(P)"
MIXED = (27, 25, 29)


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    with Clusters() as clusters:
        yield clusters


@pytest.fixture
def cluster(request: pytest.FixtureRequest, clusters: Clusters) -> Cluster:
    return clusters.of(request.param)


async def waiting() -> None:
    """A process of ours that ends when it is told so."""
    while await receive() is not a.stop:
        pass


METHODS = {
    "random_exit_name": "fun global:random_exit_name/3",
    "random_notify_name": "fun global:random_notify_name/3",
    "notify_all_name": "fun global:notify_all_name/3",
    "the_first": "fun (_Name, P, _) -> P end",
    "crashing": "fun (_Name, _, _) -> error(unresolved) end",
}
TAKE = """
    Keep = fun Keep(Got) ->
        receive {ask, From} -> From ! {got, Got}, Keep(Got); Message -> Keep([Message | Got]) end
    end,
    New = spawn(fun () -> Keep([]) end),
    yes = global:register_name(clash, New, Method), New"""
GOT = "P ! {ask, self()}, receive {got, L} -> L after 1000 -> dead end"


# The edge is "low" or "high" by our name: of two connecting nodes the smaller resolves for both.
CASES = [(MIXED, "low", method) for method in METHODS]
CASES += [(MIXED, "high", method) for method in ("random_exit_name", "notify_all_name", "crashing")]
CASES += [((release,) * 3, "high", "random_exit_name") for release in OTPS]


@pytest.mark.parametrize(("cluster", "edge", "method"), CASES, indirect=["cluster"])
def test_a_clash_of_theirs_over_our_edge(cluster: Cluster, method: str, edge: str) -> None:
    """Both partitions have the name; ours is on the connecting edge. All agree, and as the method says."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        async with cluster.node(cluster.fresh_name("a" if edge == "low" else "z")) as py:
            await join(one, py)
            await two.connect(three)
            await cluster.meshed(one, py)
            await cluster.meshed(two, three)
            members: list[Member] = [*cluster.beams, py]
            holders = {}
            for beam in (one, three):
                source = f"Method = {METHODS[method]}, {TAKE}"
                holders[beam] = await beam.erl(source)
            left, right = holders[one], holders[three]
            await cluster.all_have({a.clash: left}, one, py)
            assert await py.connect(two.name)
            await cluster.meshed(*members)
            found = await cluster.names(one, a.clash)
            await cluster.all_have({a.clash: found.get(a.clash)}, *members)
            winner = found.get(a.clash)
            match method:
                case "random_exit_name" | "random_notify_name":
                    assert winner == left  # of the smaller node, as in OTP
                    lost = await three.erl(GOT, P=right)
                    assert lost == (a.dead if method == "random_exit_name" else [(a.global_name_conflict, a.clash)])
                case "notify_all_name":
                    assert winner is None
                    assert await one.erl(GOT, P=left) == [(a.global_name_conflict, a.clash, right)]
                    assert await three.erl(GOT, P=right) == [(a.global_name_conflict, a.clash, left)]
                case "the_first":
                    assert winner in (left, right)
                case "crashing":  # of the node that resolves, the smaller one: the other side's process stays
                    assert winner == (right if edge == "low" else left)
            for beam, pid in holders.items():
                await beam.erl("exit(P, kill)", P=pid)
            await cluster.all_have({a.clash: None}, *members)
            await cluster.no_locks(*members)

    asyncio.run(main())


async def join(beam: Beam, py: Node) -> None:
    assert await py.connect(beam.name)


OURS = [(MIXED, "ours to ours"), (MIXED, "ours to theirs"), *(((release,) * 3, "ours to theirs") for release in OTPS)]


@pytest.mark.parametrize(("cluster", "edge"), OURS, indirect=["cluster"])
def test_a_clash_with_a_process_of_ours(cluster: Cluster, edge: str) -> None:
    """The loser of `random_exit_name` is a process of the greater node: here ours is killed, there theirs."""

    async def main() -> None:
        await cluster.apart()
        one, two, three = cluster.beams
        async with cluster.node(cluster.fresh_name("a")) as low, cluster.node(cluster.fresh_name("z")) as high:
            await asyncio.gather(join(one, low), join(three, high), two.connect(three))
            await cluster.meshed(one, low)
            await cluster.meshed(two, three, high)
            members: list[Member] = [*cluster.beams, low, high]
            register = "global:register_name(Name, P)"
            pids = {}
            for node, beam, name in [(low, one, a.low), (high, two, a.high)]:
                pids[name] = await node.spawn(node.name, waiting)
                assert await beam.erl(register, Name=name, P=pids[name]) is a.yes
            theirs = {a.low: await two.erl(REGISTER, Name=a.low), a.high: await one.erl(REGISTER, Name=a.high)}
            assert await (high.connect(one.name) if edge == "ours to theirs" else high.connect(low.name))
            await cluster.meshed(*members)
            await cluster.all_have({a.low: pids[a.low], a.high: theirs[a.high]}, *members)
            await two.until("not is_process_alive(P)", P=theirs[a.low])

            async def ours_is_gone() -> bool:
                alive: bool = await low.run_process(answers, pids[a.high])
                return not alive

            await until(ours_is_gone)
            assert await one.erl(ALIVE, P=theirs[a.high]) is True
            await one.erl("P ! stop", P=theirs[a.high])
            await one.erl("P ! stop", P=pids[a.low])
            await cluster.all_have({a.low: None, a.high: None}, *members)
            await cluster.no_locks(*members)

    asyncio.run(main())


async def answers(pid: Pid) -> bool:
    """Whether the process is there: a monitor of one that is not fires at once."""
    reference = monitor(pid)
    try:
        await receive(lambda got: isinstance(got, tuple) and got[1] == reference, timeout=0.2)
    except TimeoutError:
        return True
    return False
