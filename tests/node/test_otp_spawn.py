"""Processes spawned across nodes: ours there, theirs here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from support_otp import HOST, Puppet, World, echo, expect, nothing_comes, until

from beamnode import (
    Atom,
    ImproperList,
    Node,
    Pid,
    SpawnError,
    a,
    exit,
    group_leader,
    monitor,
    process_info,
    receive,
    self,
    send,
    trap_exit,
    whereis,
)
from beamnode.node import current_body, receive_blocking
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


def on_a_node(test: Callable[[World, Node], Awaitable[None]]) -> Callable[[World], None]:
    """The test is the body of a node that exposes functions and is not connected yet."""

    def run(world: World) -> None:
        async def main() -> None:
            async with world.node() as node:
                for function in (answer, fail, leave, wait, answer_in_a_thread):
                    node.expose(function, module="py")
                await test(world, node)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def answer(owner: Pid, *terms: Any) -> None:
    send(owner, (a.answer, self(), list(terms), group_leader()))


def answer_in_a_thread(owner: Pid) -> None:
    send(owner, (a.ready, self()))
    send(owner, (a.answer, self(), receive_blocking(timeout=10), threading.current_thread() is threading.main_thread()))


async def fail(text: bytes) -> None:
    raise ValueError(text.decode())


async def leave(reason: Any) -> None:
    exit(reason)


async def wait() -> None:
    await receive(lambda message: message is a.stop)


# --- We spawn there ---------------------------------------------------------------------------------------------------


@on_a_node
async def test_spawn(world: World, node: Node) -> None:
    """It connects by itself, too."""
    pid = await node.spawn(world.name, "erlang", "send", [self(), (a.hello, [1, 2], b"x")])
    assert pid.node is world.name
    assert await expect() == (a.hello, [1, 2], b"x")
    assert node.list() == [world.name]
    echoes = await node.spawn(world.name, "support", "echo", [])
    send(echoes, (self(), 1))
    assert await expect() == (a.echo, 1)
    leader = await node.spawn(world.name, "support", "puppet", [])
    assert await Puppet(world, leader).run("group_leader()") == group_leader()


@on_a_node
async def test_spawn_monitor(world: World, node: Node) -> None:
    for function, args, reason in (
        ("exit", [(a.own, 1)], (a.own, 1)),
        ("node", [], a.normal),
        ("exit", [a.kill], a.kill),
    ):
        pid, reference = await node.spawn_monitor(world.name, "erlang", function, args)
        assert await expect() == (a.DOWN, reference, a.process, pid, reason)
    pid, reference = await node.spawn_monitor(world.name, "no_module", "f", [1, a.two])
    *down, (undef, [(module, function, args, _), *_]) = await expect()
    assert tuple(down) == (a.DOWN, reference, a.process, pid)
    assert (undef, module, function, args) == (a.undef, a.no_module, a.f, [1, a.two])


@on_a_node
async def test_spawn_link(world: World, node: Node) -> None:
    trap_exit()
    pid = await node.spawn_link(world.name, "erlang", "exit", [a.own])
    assert await expect() == (a.EXIT, pid, a.own)
    pid = await node.spawn_link(world.name, "support", "puppet", [])
    exit(pid, a.kill)
    assert await expect() == (a.EXIT, pid, a.killed)
    pid = await node.spawn_link(world.name, "support", "puppet", [])
    watched = monitor(pid)
    await world.settled(node)
    await node.disconnect(world.name)
    assert {await expect(), await expect()} == {
        (a.EXIT, pid, a.noconnection),
        (a.DOWN, watched, a.process, pid, a.noconnection),
    }
    await nothing_comes()
    assert await world.erl("support:until(fun () -> not is_process_alive(Pid) end, 5)", Pid=pid) is True


@on_a_node
async def test_spawn_where_it_cannot_be(world: World, node: Node) -> None:
    with pytest.raises(SpawnError) as caught:
        await node.spawn(f"nobody@{HOST}", "erlang", "self", [])
    assert caught.value.reason is a.noconnection


@on_a_node
async def test_many_spawns_at_once(world: World, node: Node) -> None:
    pids = await asyncio.gather(*(node.spawn(world.name, "erlang", "send", [self(), number]) for number in range(500)))
    assert len(set(pids)) == 500
    assert sorted([await expect() for _ in range(500)]) == list(range(500))


# --- They spawn here --------------------------------------------------------------------------------------------------


@on_a_node
async def test_their_spawn(world: World, node: Node) -> None:
    pid = await world.erl("spawn(Node, py, answer, [Owner, [10, 200], #{}])", Node=node.name, Owner=self())
    assert pid.node is node.name
    tag, who, terms, leader = await expect()
    assert (tag, who, terms, leader.node) == (a.answer, pid, [[10, 200], {}], world.name)
    assert node.list() == [world.name]
    pid = await world.erl("spawn(Node, py, answer_in_a_thread, [Owner])", Node=node.name, Owner=self())
    assert await expect() == (a.ready, pid)
    await world.erl("Pid ! hello_thread", Pid=pid)
    assert await expect() == (a.answer, pid, a.hello_thread, False)


@on_a_node
async def test_their_spawn_monitor(world: World, node: Node) -> None:
    puppet = await world.puppet()

    async def down(call: str) -> Any:
        pid, reference = await puppet.run(f"spawn_monitor(Node, {call})", Node=node.name)
        tag, told_reference, kind, told_pid, reason = await puppet.next()
        assert (tag, told_reference, kind, told_pid) == (a.DOWN, reference, a.process, pid)
        return reason

    assert await down("py, leave, [{own, [1]}]") == (a.own, [1])
    assert await down("py, leave, [normal]") is a.normal
    (kind, text), _ = await down('py, fail, [<<"broken">>]')
    assert (kind, text) == (a.ValueError, b"broken")
    assert (await down("py, leave, []"))[0][0] is a.TypeError
    assert await down("py, nothing, [1]") == (a.undef, [(a.py, a.nothing, [1], [])])
    assert await down("os, getpid, []") == (a.undef, [(a.os, a.getpid, [], [])])


@on_a_node
async def test_their_spawn_link(world: World, node: Node) -> None:
    puppet = await world.puppet()
    await puppet.run("process_flag(trap_exit, true)")
    pid = await puppet.run("spawn_link(Node, py, leave, [own])", Node=node.name)
    assert await puppet.next() == (a.EXIT, pid, a.own)
    pid = await puppet.run("spawn_link(Node, py, wait, [])", Node=node.name)
    watched = monitor(pid)
    await puppet.run("exit(over)")
    assert await expect() == (a.DOWN, watched, a.process, pid, a.over)


@on_a_node
async def test_their_spawn_opt(world: World, node: Node) -> None:
    """Options that say nothing here (priority, heap sizes) are taken; links and monitors are made."""
    puppet = await world.puppet()
    await puppet.run("process_flag(trap_exit, true)")
    call = "spawn_opt(Node, py, wait, [], [link, monitor, {priority, high}, {max_heap_size, 100000}])"
    pid, reference = await puppet.run(call, Node=node.name)
    info = process_info(pid)
    assert info is not None
    assert (info["links"], info["monitored_by"]) == ([puppet.pid], [puppet.pid])
    send(pid, a.stop)
    assert {await puppet.next(), await puppet.next()} == {
        (a.EXIT, pid, a.normal),
        (a.DOWN, reference, a.process, pid, a.normal),
    }


@on_a_node
async def test_their_spawn_request(world: World, node: Node) -> None:
    puppet = await world.puppet()
    request = "spawn_request(Node, py, wait, [], [monitor, {reply_tag, {here, it, is}}])"
    reference = await puppet.run(request, Node=node.name)
    tag, told, ok, pid = await puppet.next()
    assert (tag, told, ok) == ((a.here, a.it, getattr(a, "is")), reference, a.ok)
    exit(pid, a.over)
    assert await puppet.next() == (a.DOWN, reference, a.process, pid, a.over)
    quiet = await puppet.run("spawn_request(Node, py, wait, [], [{reply, no}])", Node=node.name)
    assert quiet != reference
    await puppet.nothing_comes(0.05)
    before = running(node, (a.py, a.wait, 0))
    abandoned = "R = spawn_request(Node, py, wait, [], [link, {reply, yes}]), spawn_request_abandon(R)"
    assert await puppet.run(abandoned, Node=node.name) is True
    # The link of a request that was given up is broken when the reply comes: exit reason `abandoned`.
    await until(lambda: running(node, (a.py, a.wait, 0)) == before)
    await puppet.nothing_comes(0.05)


def running(node: Node, call: tuple[Atom, Atom, int]) -> int:
    """How many processes of ours run it."""
    return sum(1 for process in node._required_runtime().signals.processes() if process.initial_call == call)


@on_a_node
async def test_rpc_finds_out_what_is_not_here(world: World, node: Node) -> None:
    """Nothing is exposed by itself: an rpc call ends at once, with an error and not in silence."""
    answer = await world.erl("catch rpc:call(Node, os, getpid, [], 5000)", Node=node.name)
    assert answer[0] is a.badrpc
    assert whereis("no_such_name") is None


@on_a_node
async def test_they_send_to_what_they_spawned_at_once(world: World, node: Node) -> None:
    """The pid is known before the function runs: no message is lost."""
    node.expose(echo, module="py")
    source = """
    [begin
        Pid = spawn(Node, py, echo, []),
        Pid ! {self(), N},
        receive {echo, N} -> Pid ! stop after 5000 -> error(lost) end
    end || N <- lists:seq(1, 300)], ok
    """
    assert await world.erl(source, Node=node.name) is a.ok
    await until(
        lambda: not any(p.initial_call == (a.py, a.echo, 0) for p in node._required_runtime().signals.processes())
    )


@on_a_node
async def test_arguments_that_are_not_what_the_request_says(world: World, node: Node) -> None:
    """Neither OTP nor ours closes the connection: what is called has the arguments that came, or `badarg` says so."""
    peer = await world.erl("node()")

    async def asked(where: Atom, arity: int, args: Any) -> Any:
        body = current_body()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        record = body.runtime.spawning.request(body.process, where, a.no_mod, a.f, [], [a.monitor], answer)
        record.arity, record.args = arity, args
        asker.network.transmit(where, record)
        pid = await asyncio.wait_for(answer, 10)
        down = await expect()
        assert down[:4] == (a.DOWN, record.ref, a.process, pid)
        reason, stack = down[4]
        return reason, stack[0][:3]

    async with world.node() as asker:
        for where in (peer, node.name):
            assert await asker.connect(where)
            connection = asker.connection_id(where)
            for arity, args in ((3, [1]), (1, [1, 2, 3]), (1, []), (0, [1]), (300, [1])):
                assert await asked(where, arity, args) == (a.undef, (a.no_mod, a.f, args))
            for args in ((1, 2), 5, ImproperList((1,), 2)):
                assert await asked(where, 2, args) == (a.badarg, (a.erlang, a.apply, [a.no_mod, a.f, args]))
            assert asker.connection_id(where) == connection
