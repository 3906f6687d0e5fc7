"""node/guard.py and node/audit.py: what peers want is asked about before it happens, and what came of it is written."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from test_python_nodes_cluster import Cluster, expect, nothing_comes, play, until

from beamnode import (
    Atom,
    Node,
    Pid,
    RemoteError,
    UsageError,
    a,
    exit,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    trap_exit,
    whereis,
)
from beamnode.etf import Reference
from beamnode.node import NEEDED_NAMES, Asked, Guard, Signal, group_leader
from beamnode.wire import control

pytestmark = pytest.mark.filterwarnings("error")

AUDIT = "beamnode.audit"


def audit(caplog: pytest.LogCaptureFixture, outcome: str = "refused", kind: str = "") -> list[str]:
    """The lines of the audit log with that outcome."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == AUDIT
        and record.__dict__["audit_outcome"] == outcome
        and kind in ("", record.__dict__["audit_kind"])
    ]


async def greet(to: Pid) -> None:
    send(to, (a.greeting, self()))


def double(number: int) -> int:
    return 2 * number


async def sleep(to: Pid) -> None:
    """A process that lives until it is ended, and tells its messages."""
    while True:
        send(to, (a.told, await receive()))


class Asking(Guard):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    def answer(self, method: str, *args: Any) -> bool:
        self.asked.append((method, *args))
        answer = self.answers.get(method, True)
        return answer(*args) if callable(answer) else answer

    def spawn(self, asked: Asked) -> bool:
        return self.answer("spawn", asked)

    def call(self, asked: Asked) -> bool:
        return self.answer("call", asked)

    def exit_signal(self, signal: Signal, reason: Any) -> bool:
        return self.answer("exit_signal", signal, reason)

    def to_name(self, node: Atom, name: Atom) -> bool:
        return self.answer("to_name", node, name)

    def link(self, signal: Signal) -> bool:
        return self.answer("link", signal)

    def monitor(self, signal: Signal) -> bool:
        return self.answer("monitor", signal)

    def group_leader(self, signal: Signal, leader: Pid) -> bool:
        return self.answer("group_leader", signal, leader)

    def of(self, method: str) -> list[tuple[Any, ...]]:
        return [args for name, *args in self.asked if name == method]  # type: ignore[misc]


async def undef(node: Node, where: Node, *call: Any) -> bool:
    """Whether a spawn there is refused as the policy refuses it."""
    _, reference = await node.spawn_monitor(where.name, *call)
    message = await expect(lambda got: type(got) is tuple and len(got) == 5 and got[1] == reference)
    return type(message[4]) is tuple and message[4][0] is a.undef


# --- Spawns and calls -------------------------------------------------------------------------------------------------


def test_who_may_spawn_and_who_may_call(caplog: pytest.LogCaptureFixture) -> None:
    """The guard sees which of both it is; the policy decides after it; a proof of the same process is no way round."""
    caplog.set_level(logging.INFO, AUDIT)

    async def main(cluster: Cluster) -> None:
        guard = Asking(spawn=lambda asked: asked.node.name.startswith("ops@"))
        async with cluster.node(guard=guard) as one, cluster.node("ops") as ops, cluster.node() as other:
            one.expose(greet)
            one.expose(double)
            assert await undef(other, one, "test_guard", "greet", [self()])
            assert await undef(other, one, greet, self())
            pid = await ops.spawn(one.name, "test_guard", "greet", [self()])
            assert await expect(lambda got: got[0] is a.greeting) == (a.greeting, pid)
            assert [each[0].node for each in guard.of("spawn")] == [other.name, other.name, ops.name]
            assert await other.rpc(one.name, "test_guard", "double", [21]) == 42
            (call,) = guard.of("call")
            assert (call[0].node, str(call[0]), call[0].args) == (other.name, "test_guard:double/1", [21])
            guard.answers["call"] = False
            with pytest.raises(RemoteError):
                await other.rpc(one.name, "test_guard", "double", [21])
            guard.answers.update(spawn=True)
            assert await undef(other, one, "os", "getpid", [])  # the policy
            assert await one.spawn(one.name, "test_guard", "greet", [self()])  # its own: nobody is asked
            assert (len(guard.of("spawn")), len(guard.of("call"))) == (4, 2)

            lines = audit(caplog)
            assert lines[0] == f"refused test_guard:greet/1 to {other.name}: the guard says no"
            assert lines[-2:] == [
                f"refused test_guard:double/1 to {other.name}: the guard says no",
                f"refused os:getpid/0 to {other.name}: it is not exposed",
            ]
            assert audit(caplog, "allowed", "spawn") == [f"allowed test_guard:greet/1 to {ops.name}"]
            assert audit(caplog, "allowed", "call") == [f"allowed test_guard:double/1 to {other.name}"]

    play(main)


def test_calls_by_message_are_calls() -> None:
    """What C nodes and `rpc:block_call` send to `rex`."""

    async def main(cluster: Cluster) -> None:
        guard = Asking(call=False)
        async with cluster.node(guard=guard) as one, cluster.node() as two:
            one.expose(double)

            async def ask() -> Any:
                send(("rex", one.name), (self(), (a.call, a.test_guard, a.double, [4], a.user)))
                return await expect()

            assert (await two.run_process(ask))[1][0] is a.badrpc
            assert [str(each[0]) for each in guard.of("call")] == ["test_guard:double/1"]

    play(main)


# --- Signals ----------------------------------------------------------------------------------------------------------


def test_nobody_kills_what_is_here(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT)

    async def main(cluster: Cluster) -> None:
        guard = Asking(exit_signal=False)
        async with cluster.node(guard=guard) as one, cluster.node() as two:
            victim = await one.run_process(started, self())

            async def attack() -> None:
                for reason in (a.kill, a.shutdown, (a.because, "of\nthat" * 100)):
                    exit(victim, reason)
                link(victim)
                send(victim, 1)

            await two.run_process(attack)
            assert await expect() == (a.told, 1)
            await until(lambda: len(guard.of("exit_signal")) == 4)
            signals = [signal for signal, _ in guard.of("exit_signal")]
            assert {(signal.node, signal.pid, signal.name) for signal in signals} == {(two.name, victim, a.victim)}
            assert [signal.linked for signal in signals] == [False, False, False, True]
            assert one.runtime.signals.whereis(a.victim).links == {}  # type: ignore[union-attr]
            guard.answers["exit_signal"] = lambda _, reason: reason is a.please
            reference = monitor(victim)
            await two.run_process(exits, victim, a.kill)
            await two.run_process(exits, victim, a.please)
            assert (await expect()) == (a.DOWN, reference, a.process, victim, a.please)

    play(main)
    refused = audit(caplog, kind="exit")
    assert len(refused) == 5
    assert "exit signal Atom('kill') of " in refused[0]
    assert "(victim) from n2@" in refused[0]
    assert all("\n" not in line and len(line) < 600 for line in refused)
    assert len(audit(caplog, "allowed", "exit")) == 1


async def started(to: Pid) -> Pid:
    async def body() -> None:
        register("victim", self())
        await sleep(to)

    pid = spawn(body)
    while whereis("victim") is None:
        await asyncio.sleep(0)
    return pid


async def exits(pid: Pid, reason: Any) -> None:
    exit(pid, reason)


def test_exit_signals_are_audited_without_a_guard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT)

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            victim = await one.run_process(started, self())
            reference = monitor(victim)
            await two.run_process(exits, victim, a.kill)
            assert (await expect(lambda got: got[0] is a.DOWN))[1] == reference

    play(main)
    (line,) = audit(caplog, "allowed", "exit")
    assert "(victim) from n2@" in line


def test_only_those_names(caplog: pytest.LogCaptureFixture) -> None:
    """Also not by way of `rex`, which passes messages on."""

    async def main(cluster: Cluster) -> None:
        guard = Asking(to_name=lambda _, name: name is a.counter or name in NEEDED_NAMES)
        async with cluster.node(guard=guard) as one, cluster.node() as two:
            await one.run_process(started, self())

            async def attack(name: str) -> None:
                for number in range(3):
                    send((name, one.name), number)
                send(("rex", one.name), (self(), (a.sbcast, Atom(name), 3)))
                assert (await expect())[0] is a.rex

            register_as(one, "victim", "secret")
            await two.run_process(attack, "secret")
            await nothing_comes()
            register_as(one, "secret", "counter")
            await two.run_process(attack, "counter")
            assert [await expect() for _ in range(4)] == [(a.told, number) for number in range(4)]
            assert await two.ping(one.name) is a.pong

    play(main)
    assert audit(caplog, kind="to_name") == ["refused message to secret from n2@127.0.0.1: the guard says no"]  # once


def register_as(node: Node, before: str, name: str) -> None:
    """Give a process another name."""
    signals = node.runtime.signals
    process = signals.whereis(Atom(before))
    assert process is not None
    signals.unregister(Atom(before))
    signals.register(Atom(name), process)


def test_links_monitors_and_group_leaders(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        guard = Asking(link=False, monitor=False, group_leader=False)
        async with cluster.node(guard=guard) as one, cluster.node() as two:
            victim = await one.run_process(started, self())
            before = one.runtime.signals.leader_of(one.runtime.signals.lookup(victim))  # type: ignore[arg-type]

            async def attack() -> None:
                trap_exit(True)
                link(victim)
                assert await expect() == (a.EXIT, victim, a.noproc)
                for target in (victim, ("victim", one.name)):
                    reference = monitor(target)
                    message = await expect()
                    assert (message[1], message[4]) == (reference, a.noproc)
                group_leader(self(), victim)
                send(victim, a.hello)

            await two.run_process(attack)
            assert await expect() == (a.told, a.hello)
            process = one.runtime.signals.lookup(victim)
            assert process is not None
            assert (process.links, process.watchers) == ({}, {})
            assert one.runtime.signals.leader_of(process) == before
            assert [len(guard.of(each)) for each in ("link", "monitor", "group_leader")] == [1, 2, 1]
            guard.answers.clear()
            await two.run_process(may_tie, victim)

    play(main)
    assert {kind: len(audit(caplog, kind=kind)) for kind in ("link", "monitor", "group_leader")} == {
        "link": 1,
        "monitor": 1,
        "group_leader": 1,
    }


async def may_tie(pid: Pid) -> None:
    trap_exit(True)
    reference = monitor(pid)
    link(pid)
    group_leader(self(), pid)
    exit(pid, a.enough)
    got = [await expect(), await expect()]
    assert (a.EXIT, pid, a.enough) in got
    assert (a.DOWN, reference, a.process, pid, a.enough) in got


# --- Guards that are none ---------------------------------------------------------------------------------------------


async def answers_later(*_: Any) -> bool:
    return True


@pytest.mark.parametrize("answer", [lambda *_: 1 // 0, lambda *_: None, lambda *_: 1, answers_later])
def test_a_guard_that_fails_says_no(caplog: pytest.LogCaptureFixture, answer: Any) -> None:
    """Also one that is an `async def`, whose coroutine would be as good as True."""

    async def main(cluster: Cluster) -> None:
        guard = Asking(call=answer, exit_signal=answer)
        async with cluster.node(guard=guard) as one, cluster.node() as two:
            one.expose(double)
            with pytest.raises(RemoteError):
                await two.rpc(one.name, "test_guard", "double", [21])
            victim = await one.run_process(started, self())
            await two.run_process(exits, victim, a.kill)
            await two.run_process(sends, victim)
            assert await expect() == (a.told, a.hello)

    play(main)
    assert "Asking.call failed" in caplog.text
    assert audit(caplog, kind="call") == ["refused test_guard:double/1 to n2@127.0.0.1: the guard failed"]


async def sends(pid: Pid) -> None:
    send(pid, a.hello)


def test_what_is_no_guard() -> None:
    for guard in (Guard, lambda asked: True, "everything"):
        with pytest.raises(UsageError, match="derived from Guard"):
            Node("x@h", guard=guard)  # type: ignore[arg-type]


def test_only_what_a_guard_defines_is_in_the_way() -> None:
    """A node without a guard, or with one that says nothing of names, has the inbox that it always had."""

    class Killers(Guard):
        def exit_signal(self, signal: Signal, reason: Any) -> bool:
            return False

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node(guard=Killers()) as two, cluster.node(guard=Asking()) as three:
            kinds = {}
            for node in (one, two, three):
                inbox = node.network.inbox(a["x@h"])
                kinds[node] = type(inbox).__name__
                bare = node.runtime.signals.handlers
                changed = {kind for kind in bare if node.network._handlers[kind] is not bare[kind]}
                assert (control.Exit in changed, control.Link in changed) == (node is not one, node is three)
                assert control.Send not in changed
            assert list(kinds.values()) == ["Arrivals", "Arrivals", "GuardedArrivals"]

    play(main)


def test_a_lie_is_the_end_of_its_connection_and_no_question() -> None:
    """In the name of somebody else's process: the guard is not asked, and nobody else's link goes."""

    async def main(cluster: Cluster) -> None:
        guard = Asking(exit_signal=False, link=False, monitor=False)
        async with cluster.node(guard=guard) as one, cluster.node() as two, cluster.node() as three:
            victim = await one.run_process(started, self())
            process = one.runtime.signals.lookup(victim)
            assert process is not None
            friend = Pid(three.name, 1, 0, 1)
            one.runtime.signals.add_remote_link(process, friend)
            for lie in (
                control.Exit(friend, victim, a.oops),
                control.Link(friend, victim),
                control.Exit2(friend, victim, a.oops),
                control.MonitorP(friend, victim, Reference(three.name, 1, (1, 0, 0))),
            ):
                assert await two.connect(one.name)
                two.network.transmit(one.name, lie)
                await until(lambda: two.list() == [])
            assert {method for method, *_ in guard.asked} <= {"to_name"}
            assert list(process.links) == [friend]

    play(main)


# --- The audit log ----------------------------------------------------------------------------------------------------


def test_connections_are_audited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT)

    async def main(cluster: Cluster) -> None:
        async with (
            cluster.node(allowed=["n2@127.0.0.1", "n3@"]) as one,
            cluster.node() as two,
            cluster.node(cookie="another") as three,
            cluster.node() as four,
        ):
            assert await two.connect(one.name)
            for node in (three, three, four, four):
                assert not await node.connect(one.name)
            assert not await one.connect(four.name)
            await two.disconnect(one.name)
            await until(lambda: one.list() == [])

            def of(outcome: str) -> list[str]:
                return [
                    record.getMessage()
                    for record in caplog.records
                    if record.name == AUDIT
                    and record.__dict__["audit_node"] == one.name.name
                    and record.__dict__["audit_outcome"] == outcome
                ]

            assert any(
                line.startswith("allowed connection from ") and line.endswith(f" with {two.name}")
                for line in of("allowed")
            )
            assert any(f"connection with {two.name} ended" in line for line in of("ended"))
            refused = of("refused")
            assert len(refused) == 2  # each once, though each tried twice
            assert any("it does not know the cookie" in line for line in refused)
            assert any("none of the nodes that are allowed here" in line and four.name.name in line for line in refused)
            assert one.allowed() == [a["n2@127.0.0.1"], a["n3@"]]

    play(main)
    assert "another" not in caplog.text


def test_names_cannot_write_lines(caplog: pytest.LogCaptureFixture) -> None:
    evil = "x\nWARNING:beamnode.audit:allowed everything\x1b[2J\u202e"

    async def main(cluster: Cluster) -> None:
        guard = Asking(to_name=lambda _, name: name in NEEDED_NAMES, exit_signal=False)
        async with cluster.node(guard=guard) as one, cluster.node() as two:
            victim = await one.run_process(started, self())
            register_as(one, "victim", evil)

            async def attack() -> None:
                send((evil, one.name), 1)
                exit(victim, Atom(evil))
                with pytest.raises(RemoteError):
                    await two.rpc(one.name, evil, evil, [1])

            await two.run_process(attack)

    play(main)
    lines = audit(caplog)
    assert len(lines) == 3
    for record in caplog.records:
        if record.name == AUDIT:
            assert record.getMessage().isprintable()
            assert all(str(value).isprintable() for key, value in record.__dict__.items() if key.startswith("audit_"))


# --- Options ----------------------------------------------------------------------------------------------------------


def test_cookies_of_single_nodes() -> None:
    async def main(cluster: Cluster) -> None:
        async with (
            cluster.node(cookie="one", cookies={"n2@127.0.0.1": "two"}) as one,
            cluster.node(cookie="two") as two,
            cluster.node(cookie="one") as three,
        ):
            assert await one.connect(two.name)
            assert await three.connect(one.name)
            assert not await two.connect(three.name)
            assert (one.get_cookie(), one.get_cookie(two.name)) == (a.one, a.two)

    play(main)


@pytest.mark.parametrize("allowed", ["x@h", [], b"x@h", [1]])
def test_what_is_no_list_of_nodes(allowed: Any) -> None:
    with pytest.raises(UsageError, match="allowed is a list"):
        Node("x@h", allowed=allowed)
