"""Who asks is the node of the connection, also for what a peer sends to a process that has not begun to run yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beamnode import (
    Asked,
    Atom,
    CallFailed,
    FixedPort,
    GenServer,
    Node,
    StaticPorts,
    a,
    exit,
    monitor,
    receive,
    self,
    spawn_link,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.etf import ImproperList
from beamnode.node import current_body
from beamnode.otp import gen, proc_lib, task_process
from beamnode.otp.agent import Agent
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.supervisor import Supervisor

EVIL = Atom("evil@h")
FORGED: Any = (Atom("os"), Atom("getcwd"), [])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Atom]:
    """Nodes in whose name something was asked for, while a peer that guesses pids writes to every new process."""
    seen: list[Atom] = []

    def trusting(call: Asked) -> str:
        seen.append(call.node)
        return "everything" if call.node == Atom("n@h") else "nothing"

    async def main() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1), policy=trusting):
            for module in (proc_lib, task_process):
                monkeypatch.setattr(module, "spawn_with_dictionary", guessed(module.spawn_with_dictionary))
            await Agent.start(dict)
            await DynamicSupervisor.start_link()
            await Supervisor.start_link([], strategy="one_for_one")
            task = task_process.start_reply(task_process.own_owner(), False, link=False)
            for _ in range(20):
                await asyncio.sleep(0)
            exit(task, a.kill)
            while True:
                try:
                    await receive(timeout=0)
                except TimeoutError:
                    return

    asyncio.run(main())
    return seen


def guessed(spawn: Any) -> Any:
    """A spawn whose process has mail from a peer before its first step."""

    def spawned(*args: Any, **options: Any) -> Any:
        pid = spawn(*args, **options)
        signals = current_body().runtime.signals
        process = signals.lookup(pid)
        child = (FORGED, a.temporary, 1, a.worker, [])
        me, reference = self(), ImproperList((a.alias,), signals.identities.next_reference())
        for request in ((a.get, FORGED), (a.start_child, child), (a.start_child, {a.id: a.x, a.start: FORGED})):
            signals.deliver_from(EVIL, process, (gen.CALL, (me, reference), request))
        signals.deliver_from(EVIL, process, (me, a.tag, me, [], FORGED))
        return pid

    return spawned


def test_the_policy_is_told_the_node_that_really_asks(asked: list[Atom]) -> None:
    assert asked == [EVIL] * 4


def test_the_log_shows_the_message_of_a_peer_and_not_what_it_came_in(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1), policy="everything"):
            agent = await Agent.start(dict)
            reference = monitor(agent)
            signals = current_body().runtime.signals
            call = (Atom("builtins"), Atom("int"), [])  # of a dict: a TypeError
            signals.deliver_from(EVIL, signals.lookup(agent), (gen.CAST, (a.cast, call)))
            current_body().runtime.flush()
            assert (await receive(timeout=5))[1] == reference

    asyncio.run(main())
    assert "Last message: (Atom('$gen_cast'), (Atom('cast')," in caplog.text


def start_with_info(*_: Any) -> Any:
    async def child() -> None:
        await receive()

    return (a.ok, spawn_link(child), object())


def test_an_answer_without_a_term_is_refused_and_the_server_goes_on() -> None:
    async def main() -> None:
        places = StaticPorts({"two@h": ("h", 1024), "n@h": ("h", 1025)})  # as they are started
        options: dict[str, Any] = {"cookie": "c", "discovery": places, "carrier": MemoryNetwork().carrier("h")}
        two = Node("two@h", policy="everything", **options)
        await two.start()

        async def start() -> None:
            await Agent.start(object, name="agent")
            await DynamicSupervisor.start_link(name="dynamic")
            await receive()

        async with Node("n@h", **options):
            keeper = asyncio.ensure_future(two.run_process(start))
            await asyncio.sleep(0)
            with pytest.raises(CallFailed, match="no term"):
                await Agent.get(("agent", "two@h"), "copy", "copy", [])
            assert await Agent.get(("agent", "two@h"), "builtins", "bool", []) is True
            spec = ((Atom(__name__), Atom("start_with_info"), []), a.temporary, 100, a.worker, [])
            with pytest.raises(CallFailed, match="no term"):
                await GenServer.call(("dynamic", "two@h"), (a.start_child, spec))
            assert await DynamicSupervisor.count_children(("dynamic", "two@h")) == {
                **dict.fromkeys(("specs", "active", "workers"), 1),
                "supervisors": 0,
            }
            keeper.cancel()
            await two.stop()

    asyncio.run(main())
