"""Names and locks of `global` among real nodes and ours: everybody's replica is the same, and nobody keeps a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from otp_support import IDLE, Beam, Cluster, Member, call, until

from beamnode import Atom, Node, Pid, a, monitor, receive, self, send
from beamnode.testing.peers import find_otp

pytestmark = pytest.mark.otp

RELEASES = [(25, 27, 29), (25, 25, 25), (27, 27, 27), (29, 29, 29)]
REGISTER = "New = spawn(fun () -> receive stop -> ok end end), yes = global:register_name(Name, New), New"
ALIVE = "is_process_alive(P)"


@pytest.fixture(scope="module", params=RELEASES, ids=lambda releases: "-".join(map(str, releases)))
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param) as cluster:
        yield cluster
        cluster.logs_are_clean()


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
            question = "{global_name_server, Py} ! {whereis, N, {self(), tag}}, receive {tag, Found} -> Found =:= undefined end"
            for node in nodes:
                await one.until(question, Py=node.name, N=name)

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


# --- Clashes ----------------------------------------------------------------------------------------------------------

METHODS = {
    "random_exit_name": "fun global:random_exit_name/3",
    "random_notify_name": "fun global:random_notify_name/3",
    "notify_all_name": "fun global:notify_all_name/3",
    "the_first": "fun (_Name, P, _) -> P end",
    "crashing": "fun (_Name, _, _) -> error(unresolved) end",
}
TAKE = """
    Keep = fun Keep(Got) -> receive {ask, From} -> From ! {got, Got}, Keep(Got); Message -> Keep([Message | Got]) end end,
    New = spawn(fun () -> Keep([]) end),
    yes = global:register_name(clash, New, Method), New"""
GOT = "P ! {ask, self()}, receive {got, L} -> L after 1000 -> dead end"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("edge", ["low", "high"])  # of two connecting nodes the smaller resolves for both
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


@pytest.mark.parametrize("edge", ["ours to theirs", "ours to ours"])
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
