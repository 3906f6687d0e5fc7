"""Links, monitors, exits, aliases and group leaders between our processes and those of real nodes, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support_otp import WAIT_SECONDS, Child, Puppet, World, expect, nothing_comes, unordered

from beamnode import (
    Atom,
    Node,
    Pid,
    ProcessExit,
    a,
    alias,
    demonitor,
    exit,
    group_leader,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
    unalias,
    unlink,
)
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[World]:
    with World(otp) as world:
        yield world


def on_a_node(test: Callable[[World, Node], Awaitable[None]]) -> Callable[[World], None]:
    """The test is the body of a node that is connected with the peer."""

    def run(world: World) -> None:
        async def main() -> None:
            async with world.node() as node:
                await node.connect(world.name)
                await test(world, node)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def obey(trapping: bool = False) -> None:
    """A process of ours that does what a message says: calls the function in it."""
    trap_exit(trapping)
    while True:
        match await receive():
            case (a.run, function):
                function()
            case (a.tell, Pid() as owner):
                send(owner, (a.got, await receive()))


def order(pid: Pid, function: Callable[[], Any]) -> None:
    send(pid, (a.run, function))


def raise_value_error() -> None:
    raise ValueError("no such thing")


async def ended_with(monitored: Any) -> Any:
    """The reason of the DOWN message of that monitor."""
    _, reference, kind, _, reason = await expect(lambda message: message[0] is a.DOWN)
    assert (reference, kind) == (monitored, a.process)
    return reason


# --- Links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("we_link", [True, False], ids=["we link", "they link"])
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("exit(normal)", a.normal),
        ("exit({shutdown, [1, 2.5]})", (a.shutdown, [1, 2.5])),
        ("exit(kill)", a.kill),
        ("exit(self(), kill), timer:sleep(1000)", a.killed),
    ],
)
def test_a_linked_process_there_ends(world: World, we_link: bool, end: str, reason: Any) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            trap_exit()
            puppet = await world.puppet()
            untrapping, watched = spawn_monitor(obey)
            if we_link:
                link(puppet.pid)
                order(untrapping, lambda: link(puppet.pid))
                await linked(puppet, 2)
            else:
                await puppet.run("link(One), link(Two)", One=self(), Two=untrapping)
            assert await puppet.run(end) == (a.ended, reason)
            assert await expect(lambda message: message[0] is a.EXIT) == (a.EXIT, puppet.pid, reason)
            if reason is a.normal:
                await nothing_comes()
            else:
                assert await ended_with(watched) == reason

    asyncio.run(main())


async def linked(puppet: Puppet, count: int) -> None:
    source = "length(element(2, process_info(Pid, links))) =:= Count"
    await puppet._world.erl_until(source, Pid=puppet.pid, Count=count)


@pytest.mark.parametrize("we_link", [True, False], ids=["we link", "they link"])
@pytest.mark.parametrize("reason", [a.normal, a.shutdown, (a.own, {b"term": [1.5]}), a.kill])
def test_a_linked_process_of_ours_ends(world: World, we_link: bool, reason: Any) -> None:
    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            trapping, untrapping = await world.puppet(), await world.puppet()
            await trapping.run("process_flag(trap_exit, true)")
            ours = spawn(obey)
            for puppet in (trapping, untrapping):
                if we_link:
                    order(ours, lambda pid=puppet.pid: link(pid))
                    await linked(puppet, 1)
                else:
                    await puppet.run("link(Pid)", Pid=ours)
                    await puppet.reached()
            reference = await untrapping_monitor(world, untrapping)
            order(ours, lambda: exit(reason))
            assert await trapping.next() == (a.EXIT, ours, reason)
            if reason is a.normal:
                assert await untrapping.alive()
            else:
                assert await reference == reason

    asyncio.run(main())


async def untrapping_monitor(world: World, puppet: Puppet) -> asyncio.Task[Any]:
    """Becomes the reason that `puppet` ends with."""
    watcher = await world.puppet()
    await watcher.run("monitor(process, Pid)", Pid=puppet.pid)

    async def reason() -> Any:
        return (await watcher.next())[4]

    return asyncio.create_task(reason())


@on_a_node
async def test_an_exception_of_ours(world: World, node: Node) -> None:
    """The reason is `{{Class, Text}, Stacktrace}`, which Erlang can print."""
    puppet = await world.puppet()
    await puppet.run("process_flag(trap_exit, true)")
    ours = spawn(obey)
    await puppet.run("link(Pid)", Pid=ours)
    await puppet.reached()
    order(ours, raise_value_error)
    _, _, ((kind, text), stack) = await puppet.next()
    assert (kind, text) == (a.ValueError, b"no such thing")
    assert stack[0][:3] == (a.test_otp_signals, a.raise_value_error, [])
    printed = "iolist_to_binary(erl_error:format_exception(error, element(1, R), element(2, R)))"
    assert b"raise_value_error" in await world.erl(printed, R=((kind, text), stack))


@on_a_node
async def test_an_error_of_theirs(world: World, node: Node) -> None:
    puppet = await world.puppet()
    watched = monitor(puppet.pid)
    await puppet.reached()
    await puppet.run("error({badthing, 1})")
    (what, stack) = await ended_with(watched)
    assert what == (a.badthing, 1)
    assert isinstance(stack, list)


@on_a_node
async def test_links_to_what_is_not_there(world: World, node: Node) -> None:
    """`noproc`, as an exit signal, both ways."""
    trap_exit()
    dead = await world.erl(
        "Pid = spawn(fun () -> ok end), true = support:until(fun () -> not is_process_alive(Pid) end, 5), Pid"
    )
    link(dead)
    assert await expect() == (a.EXIT, dead, a.noproc)
    ours, watched = spawn_monitor(obey)
    order(ours, lambda: exit(a.normal))
    assert await ended_with(watched) is a.normal
    puppet = await world.puppet()
    await puppet.run("process_flag(trap_exit, true), link(Pid)", Pid=ours)
    assert await puppet.next() == (a.EXIT, ours, a.noproc)


@on_a_node
async def test_unlink(world: World, node: Node) -> None:
    """After an unlink by either side, the end of either is no concern of the other; linking again works."""
    trap_exit()
    for we_unlink in (True, False):
        puppet = await world.puppet()
        await puppet.run("process_flag(trap_exit, true)")
        for _ in range(3):
            link(puppet.pid)
            await linked(puppet, 1)
            if we_unlink:
                unlink(puppet.pid)
            else:
                await puppet.run("unlink(Pid)", Pid=self())
                await puppet.reached()
            await linked(puppet, 0)
        await puppet.run("exit(over)")
        await nothing_comes()
        puppet = await world.puppet()
        link(puppet.pid)
        unlink(puppet.pid)
        link(puppet.pid)
        send(puppet.pid, a.go)
        assert await puppet.next() is a.go
        await puppet.run("exit(again)")
        assert await expect() == (a.EXIT, puppet.pid, a.again)


# --- Monitors ---------------------------------------------------------------------------------------------------------


@on_a_node
async def test_our_monitors(world: World, node: Node) -> None:
    for end, reason in {
        "exit(normal)": a.normal,
        "exit({shutdown, [1, 2.5]})": (a.shutdown, [1, 2.5]),
        "exit(self(), kill), timer:sleep(1000)": a.killed,
    }.items():
        puppet = await world.puppet()
        await puppet.run("register(watched, self())")
        by_pid, by_name = monitor(puppet.pid), monitor(("watched", world.name))
        tagged = monitor(puppet.pid, tag=(a.gone, 1))
        ended = monitor(puppet.pid)
        assert demonitor(ended) is True
        await puppet.reached()
        await puppet.run(end)
        messages = [await expect() for _ in range(3)]
        assert unordered(messages) == unordered(
            [
                (a.DOWN, by_pid, a.process, puppet.pid, reason),
                (a.DOWN, by_name, a.process, (a.watched, world.name), reason),
                ((a.gone, 1), tagged, a.process, puppet.pid, reason),
            ]
        )
        late, nobody = monitor(puppet.pid), monitor(("watched", world.name))
        assert await expect() == (a.DOWN, late, a.process, puppet.pid, a.noproc)
        assert await expect() == (a.DOWN, nobody, a.process, (a.watched, world.name), a.noproc)
        await nothing_comes(0.02)


@on_a_node
async def test_their_monitors(world: World, node: Node) -> None:
    puppet = await world.puppet()
    for reason in (a.normal, (a.shutdown, [1, 2.5]), a.kill):
        ours = spawn(obey)
        register("watched", ours)
        by_pid = await puppet.run("monitor(process, Pid)", Pid=ours)
        by_name = await puppet.run("monitor(process, {watched, Node})", Node=node.name)
        given_up = await puppet.run("monitor(process, Pid)", Pid=ours)
        assert await puppet.run("demonitor(Ref, [flush, info])", Ref=given_up) is True
        await puppet.reached()
        order(ours, lambda reason=reason: exit(reason))
        messages = [await puppet.next(), await puppet.next()]
        assert unordered(messages) == unordered(
            [
                (a.DOWN, by_pid, a.process, ours, reason),
                (a.DOWN, by_name, a.process, (a.watched, node.name), reason),
            ]
        )
        late = await puppet.run("monitor(process, Pid)", Pid=ours)
        assert await puppet.next() == (a.DOWN, late, a.process, ours, a.noproc)
        nobody = await puppet.run("monitor(process, {watched, Node})", Node=node.name)
        assert await puppet.next() == (a.DOWN, nobody, a.process, (a.watched, node.name), a.noproc)
    await puppet.nothing_comes()


@on_a_node
async def test_calls_to_who_is_not_there_fail_at_once(world: World, node: Node) -> None:
    error = "try gen_server:call({nobody, Node}, hello, 5000) catch exit:{Reason, _} -> Reason end"
    assert await world.erl(error, Node=node.name) is a.noproc


# --- The connection ends ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def everything_tied(world: World, node: Node) -> AsyncIterator[Puppet]:
    """Links and monitors both ways between us and a process there; afterwards each side must tell `noconnection`."""
    trap_exit()
    puppet = await world.puppet()
    await puppet.run("process_flag(trap_exit, true), link(Pid)", Pid=self())
    theirs = await puppet.run("monitor(process, Pid)", Pid=self())
    register("tied", self())
    by_name = await puppet.run("monitor(process, {tied, Node})", Node=node.name)
    ours = monitor(puppet.pid)
    await puppet.reached()
    yield puppet
    assert {await expect(), await expect()} == {
        (a.EXIT, puppet.pid, a.noconnection),
        (a.DOWN, ours, a.process, puppet.pid, a.noconnection),
    }
    assert {await puppet.next(), await puppet.next(), await puppet.next()} == {
        (a.EXIT, self(), a.noconnection),
        (a.DOWN, theirs, a.process, self(), a.noconnection),
        (a.DOWN, by_name, a.process, (a.tied, node.name), a.noconnection),
    }
    await puppet.nothing_comes(0.02)
    await nothing_comes(0.02)


@on_a_node
async def test_we_disconnect(world: World, node: Node) -> None:
    await world.settled(node)
    async with everything_tied(world, node):
        await node.disconnect(world.name)


@on_a_node
async def test_they_disconnect(world: World, node: Node) -> None:
    await world.settled(node)
    async with everything_tied(world, node):
        assert await world.erl("erlang:disconnect_node(Node)", Node=node.name) is True


def test_the_peer_is_killed(world: World) -> None:
    """`kill -9`: whoever is tied to it hears of it at once."""
    peer = world.start_peer("victim")

    async def main() -> None:
        async with world.node() as node:
            await node.connect(peer.name)
            node.monitor_nodes(nodedown_reason=True)
            trap_exit()
            theirs = await asyncio.to_thread(peer.eval, "spawn(fun support:echo/0)")
            link(theirs)
            by_pid, by_name = monitor(theirs), monitor(("init", peer.name))
            send(theirs, (self(), 1))
            assert await expect() == (a.echo, 1)
            bystander, watched = spawn_monitor(obey)
            order(bystander, lambda: link(theirs))
            await asyncio.sleep(0)
            await asyncio.to_thread(peer.kill)
            messages = [await expect() for _ in range(5)]
            assert (a.EXIT, theirs, a.noconnection) in messages
            assert (a.DOWN, by_pid, a.process, theirs, a.noconnection) in messages
            assert (a.DOWN, by_name, a.process, (a.init, Atom(peer.name)), a.noconnection) in messages
            assert (a.DOWN, watched, a.process, bystander, a.noconnection) in messages
            assert (a.nodedown, Atom(peer.name), {a.nodedown_reason: a.connection_closed}) in messages
            assert node.list() == []

    with peer:
        asyncio.run(main())


def test_we_are_killed(world: World) -> None:
    async def main() -> None:
        puppet = await world.puppet()
        async with Child(world) as child:
            await puppet.run("process_flag(trap_exit, true), {child, Node} ! {self(), 1}", Node=child.name)
            tag, _, pid = await puppet.next()
            assert tag is a.child
            await puppet.run("link(Pid), net_kernel:monitor_nodes(true, [nodedown_reason])", Pid=pid)
            by_pid = await puppet.run("monitor(process, Pid)", Pid=pid)
            child.process.kill()
            messages = [await puppet.next() for _ in range(3)]
            assert (a.EXIT, pid, a.noconnection) in messages
            assert (a.DOWN, by_pid, a.process, pid, a.noconnection) in messages
            assert (a.nodedown, child.name, [(a.nodedown_reason, a.connection_closed)]) in messages

    asyncio.run(main())


# --- exit/2 -----------------------------------------------------------------------------------------------------------


@on_a_node
async def test_our_exit_signals(world: World, node: Node) -> None:
    trapping, untrapping = await world.puppet(), await world.puppet()
    await trapping.run("process_flag(trap_exit, true)")
    watched = monitor(untrapping.pid)
    for reason in (a.normal, a.some, (a.some, [b"term"])):
        exit(trapping.pid, reason)
        assert await trapping.next() == (a.EXIT, self(), reason)
    exit(untrapping.pid, a.normal)
    assert await untrapping.run("ok") is a.ok
    exit(untrapping.pid, a.some)
    assert await ended_with(watched) is a.some
    watched = monitor(trapping.pid)
    exit(trapping.pid, a.kill)
    assert await ended_with(watched) is a.killed


@on_a_node
async def test_their_exit_signals(world: World, node: Node) -> None:
    puppet = await world.puppet()
    trapping, untrapping = spawn(obey, True), spawn(obey)
    await asyncio.sleep(0)  # until it traps exits
    for reason in (a.normal, a.some, (a.some, [b"term"])):
        send(trapping, (a.tell, self()))
        await puppet.run("exit(Pid, Reason)", Pid=trapping, Reason=reason)
        assert await expect() == (a.got, (a.EXIT, puppet.pid, reason))
    watched = monitor(untrapping)
    await puppet.run("exit(Pid, normal)", Pid=untrapping)
    await nothing_comes(0.05)
    await puppet.run("exit(Pid, some)", Pid=untrapping)
    assert await ended_with(watched) is a.some
    watched = monitor(trapping)
    await puppet.run("exit(Pid, kill)", Pid=trapping)
    assert await ended_with(watched) is a.killed


def test_the_block_is_killed_from_there(world: World) -> None:
    """The body of `async with` is a process: an exit signal from the peer ends it."""

    async def main() -> None:
        async with world.node() as node:
            await node.connect(world.name)
            await world.erl("exit(Pid, {stop, now})", Pid=self())
            await asyncio.sleep(WAIT_SECONDS)

    with pytest.raises(ProcessExit) as caught:
        asyncio.run(main())
    assert caught.value.reason == (a.stop, a.now)


# --- Aliases ----------------------------------------------------------------------------------------------------------


@on_a_node
async def test_our_aliases(world: World, node: Node) -> None:
    puppet = await world.puppet()
    explicit, once = alias(), alias("reply")
    await puppet.run("[Alias ! {N, Alias} || N <- [1, 2], Alias <- [One, Two]]", One=explicit, Two=once)
    assert [await expect() for _ in range(3)] == [(1, explicit), (1, once), (2, explicit)]
    assert unalias(explicit) is True
    assert unalias(once) is False
    await puppet.run("Alias ! lost, Pid ! {after_it, erlang:alias()}", Alias=explicit, Pid=self())
    assert (await expect())[0] is a.after_it


@on_a_node
async def test_their_aliases(world: World, node: Node) -> None:
    puppet = await world.puppet()
    explicit, once = await puppet.run("alias()"), await puppet.run("alias([reply])")
    for n in (1, 2):
        send(explicit, (n, explicit))
        send(once, (n, once))
    assert [await puppet.next() for _ in range(3)] == [(1, explicit), (1, once), (2, explicit)]
    assert await puppet.run("unalias(Alias)", Alias=explicit) is True
    send(explicit, a.lost)
    send(puppet.pid, a.after_it)
    assert await puppet.next() is a.after_it


@on_a_node
async def test_aliases_of_monitors(world: World, node: Node) -> None:
    """`reply_demonitor`, which calls use: the first message ends alias and monitor; so does the end of the process."""
    puppet = await world.puppet()
    reference = monitor(puppet.pid, alias="reply_demonitor")
    await puppet.run("Alias ! one, Alias ! two", Alias=reference)
    assert await expect() is a.one
    theirs = await puppet.run("monitor(process, Pid, [{alias, reply_demonitor}])", Pid=self())
    send(theirs, a.one)
    send(theirs, a.two)
    assert await puppet.next() is a.one
    reference = monitor(puppet.pid, alias="demonitor")
    await puppet.reached()
    await puppet.run("exit(over)")
    assert await ended_with(reference) is a.over
    await world.erl("Alias ! late", Alias=reference)
    await nothing_comes(0.05)


# --- Group leaders ----------------------------------------------------------------------------------------------------


@on_a_node
async def test_group_leaders(world: World, node: Node) -> None:
    puppet, leader = await world.puppet(), await world.puppet()
    await puppet.run("group_leader(Leader, Pid)", Leader=leader.pid, Pid=self())
    await puppet.run("Pid ! done", Pid=self())
    assert await expect() is a.done
    assert group_leader() == leader.pid
    group_leader(self(), puppet.pid)
    send(puppet.pid, a.done)
    assert await puppet.next() is a.done
    assert await puppet.run("group_leader()") == self()
