"""Names and locks of `global` among real nodes and ours: everybody's replica is the same, and nobody keeps a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from otp_support import IDLE, Beam, Cluster, Clusters, Member, call, until

from beamnode import Atom, Node, Pid, a, receive, self, send
from beamnode.testing.peers import find_otp

pytestmark = pytest.mark.otp

RELEASES = [(25, 27, 29), (25, 25, 25), (27, 27, 27), (29, 29, 29)]
REGISTER = "New = spawn(fun () -> receive stop -> ok end end), yes = global:register_name(Name, New), New"


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    with Clusters() as clusters:
        yield clusters


@pytest.fixture(params=RELEASES, ids=str)
def cluster(request: pytest.FixtureRequest, clusters: Clusters) -> Cluster:
    return clusters.of(request.param)


@asynccontextmanager
async def meshed(cluster: Cluster, *names: str) -> AsyncIterator[list[Node]]:
    """All real nodes and some of ours, in one mesh; nothing is locked at the end, and no name is left."""
    await cluster.apart()
    one, two, three = cluster.beams
    nodes = [cluster.node(cluster.fresh_name(name)) for name in names]
    try:
        await asyncio.gather(one.connect(two), two.connect(three))
        for node in nodes:
            await node.start()
            assert await node.connect(one.name)
        await cluster.meshed(*cluster.beams, *nodes)
        yield nodes
        await cluster.no_locks(*cluster.beams, *nodes)
        for beam in cluster.beams:
            await beam.until("global:registered_names() =:= []")
    finally:
        for node in nodes:
            await node.stop()


async def waiting(got: asyncio.Queue[Any] | None = None) -> None:
    """A process of ours that ends when it is told so, and keeps what else it hears."""
    while (message := await receive()) is not a.stop:
        if got is not None:
            got.put_nowait(message)


# --- Names ------------------------------------------------------------------------------------------------------------


def test_names_of_theirs(cluster: Cluster) -> None:
    """Registered, registered anew, unregistered, gone with the process: our replica follows."""

    async def main() -> None:
        async with meshed(cluster, "a", "z") as nodes:
            members: list[Member] = [*cluster.beams, *nodes]
            one, two, three = cluster.beams
            first = await one.erl(REGISTER, Name=a.first)
            await cluster.all_have({a.first: first}, *members)
            second = await three.erl(IDLE)
            assert await two.erl("global:register_name(first, P)", P=second) is a.no
            assert await two.erl("global:re_register_name(first, P)", P=second) is a.yes
            await cluster.all_have({a.first: second}, *members)
            assert await three.erl("global:unregister_name(first)") is a.ok
            await cluster.all_have({a.first: None}, *members)
            # Any term is a name.
            name = (a.worker, [1, b"x", {a.k: 2.5}], "ä".encode())
            third = await two.erl(REGISTER, Name=name)
            for member in members:
                if isinstance(member, Beam):
                    assert await member.erl("global:whereis_name(N)", N=name) == third
                else:
                    question = (
                        "{global_name_server, Py} ! {whereis, N, {self(), tag}}, receive {tag, Found} -> Found end"
                    )
                    assert await one.erl(question, Py=member.name, N=name) == third
            assert await one.erl("exit(P, kill)", P=third) is True
            for beam in cluster.beams:
                await beam.until("global:registered_names() =:= []")
            gone = "{global_name_server, Py} ! {whereis, N, {self(), tag}}, receive {tag, W} -> W =:= undefined end"
            for node in nodes:
                await one.until(gone, Py=node.name, N=name)

    asyncio.run(main())


def test_names_of_processes_of_ours(cluster: Cluster) -> None:
    async def main() -> None:
        async with meshed(cluster, "a", "z") as nodes:
            members: list[Member] = [*cluster.beams, *nodes]
            py = nodes[0]
            heard: asyncio.Queue[Any] = asyncio.Queue()
            pid = await py.spawn(py.name, waiting, heard)
            one, two, three = cluster.beams
            assert await two.erl("global:register_name(ours, P)", P=pid) is a.yes
            assert await three.erl("global:register_name(ours, P)", P=pid) is a.no
            await cluster.all_have({a.ours: pid}, *members)
            await one.erl("global:send(ours, hello)")
            assert await asyncio.wait_for(heard.get(), 10) is a.hello
            await one.erl("global:send(ours, stop)")
            await cluster.all_have({a.ours: None}, *members)
            # And with its node.
            pid = await py.spawn(py.name, waiting)
            assert await two.erl("global:register_name(ours, P)", P=pid) is a.yes
            await cluster.all_have({a.ours: pid}, *members)
            await py.stop()
            await cluster.all_have({a.ours: None}, *cluster.beams, nodes[1])
            nodes.pop(0)

    asyncio.run(main())


def test_names_reach_who_comes_later_and_go_with_their_node(cluster: Cluster) -> None:
    async def main() -> None:
        async with meshed(cluster, "m") as nodes:
            one, two, _ = cluster.beams
            release = two.node.otp.release
            name = cluster.fresh_name("victim").partition("@")[0]
            victim = await asyncio.to_thread(cluster.start_beam, find_otp(release), name)
            await victim.connect(one)
            await cluster.meshed(*cluster.beams, *nodes, victim)
            names = {a.doomed: await victim.erl(REGISTER, Name=a.doomed), a.here: await one.erl(REGISTER, Name=a.here)}
            await cluster.all_have(names, *cluster.beams, *nodes, victim)
            async with cluster.node() as late:
                assert await late.connect(victim.name)
                await cluster.meshed(*cluster.beams, *nodes, victim, late)
                await cluster.all_have(names, *cluster.beams, *nodes, late)
                await asyncio.to_thread(victim.node.kill)
                await cluster.all_have(names | {a.doomed: None}, *cluster.beams, *nodes, late)
                await cluster.meshed(*cluster.beams, *nodes, late)
            await one.erl("P ! stop", P=names[a.here])
            await cluster.all_have({a.here: None}, *cluster.beams, *nodes)

    asyncio.run(main())


# --- Locks ------------------------------------------------------------------------------------------------------------


def test_locks_are_for_one_at_a_time(cluster: Cluster) -> None:
    """`global:trans` from every real node at once, over our nodes too: no two are inside together."""

    async def main() -> None:
        async with meshed(cluster, "a", "z") as nodes:
            one, *_ = cluster.beams
            guard = await one.erl(
                """spawn(fun () ->
                    Loop = fun Loop(Inside, Most, Count) ->
                        receive
                            {enter, From} -> From ! ok, Loop(Inside + 1, max(Most, Inside + 1), Count + 1);
                            leave -> Loop(Inside - 1, Most, Count);
                            {ask, From} -> From ! {Inside, Most, Count}, Loop(Inside, Most, Count)
                        end
                    end, Loop(0, 0, 0) end)"""
            )
            work = """
                Me = self(),
                One = fun () ->
                    done = global:trans({shared, self()}, fun () ->
                        Guard ! {enter, self()}, receive ok -> ok end, timer:sleep(5), Guard ! leave, done
                    end), Me ! one
                end,
                [spawn(One) || _ <- [1, 2]], [receive one -> ok end || _ <- [1, 2]], done"""
            await asyncio.gather(*(beam.erl(work, Guard=guard) for beam in cluster.beams))
            state = "Guard ! {ask, self()}, receive S when is_tuple(S) -> S end"
            assert await one.erl(state, Guard=guard) == (0, 1, 6)
            await cluster.no_locks(*cluster.beams, *nodes, resources=[Atom("global"), a.shared])
            await one.erl("exit(Guard, kill)", Guard=guard)

    asyncio.run(main())


def test_a_lock_goes_with_its_holder(cluster: Cluster) -> None:
    async def main() -> None:
        async with meshed(cluster, "a", "z") as nodes:
            one, two, _ = cluster.beams
            holder = await one.erl(
                """Me = self(),
                New = spawn(fun () -> Me ! {set, global:set_lock({held, x})}, receive stop -> ok end end),
                receive {set, true} -> New end"""
            )
            assert await two.erl("global:set_lock({held, y}, [node() | nodes()], 0)") is False
            for node in nodes:
                assert await call(node, (a.set_lock, (a.held, a.y))) is False
            await one.erl("exit(P, kill)", P=holder)
            assert await two.erl("global:trans({held, self()}, fun () -> got_it end)") is a.got_it
            await cluster.no_locks(*cluster.beams, *nodes, resources=[Atom("global"), a.held])
            # One of a process of ours, set on a real node.
            ours = await nodes[0].spawn(nodes[0].name, hold_lock_at, one.name)
            await until(lambda: locked_by(one, ours), what="the lock is not set")
            assert await two.erl("global:set_lock({held, y}, [node() | nodes()], 0)") is False
            await one.erl("exit(P, kill)", P=ours)
            await cluster.no_locks(*cluster.beams, *nodes, resources=[Atom("global"), a.held])

    asyncio.run(main())


async def hold_lock_at(node: Atom) -> None:
    request = (a.set_lock, (a.held, a.ours))
    send((a.global_name_server, node), (Atom("$gen_call"), (self(), a.tag), request))
    assert await receive() == (a.tag, True)
    await receive()


async def locked_by(beam: Beam, pid: Pid) -> bool:
    return any(holder[0] == pid for _, _, holders in (await beam.view()).locks for holder in holders)
