"""otp/agent.py: agents among themselves, on one node and on two."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import agent_functions as functions
import pytest

from beamnode import (
    AlreadyStarted,
    Atom,
    CallFailed,
    Export,
    FixedPort,
    GenServer,
    Node,
    Pid,
    StartFailed,
    StaticPorts,
    UsageError,
    a,
    exit,
    monitor,
    process_info,
    receive,
    self,
    spawn,
    spawn_monitor,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import Asked, current_body
from beamnode.otp import proc_lib, sys
from beamnode.otp.agent import Agent

pytestmark = pytest.mark.filterwarnings("error")

MODULE = "agent_functions"
LOGGER = logging.getLogger("beamnode.agent").name


def in_a_node(main: Callable[[Node], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1), **options) as node:
            await main(node)

    asyncio.run(whole())


async def value(agent: Any) -> Any:
    return await Agent.get(agent, lambda state: state)


def test_functions_read_and_change_the_state() -> None:
    async def main(_: Node) -> None:
        pid = await Agent.start(lambda: 1, name="one")
        assert await Agent.get("one", lambda state: state + 1) == 2
        await Agent.update(pid, lambda state: state + 2)
        assert await Agent.get_and_update("one", lambda state: (state, state * 10)) == 3
        Agent.cast("one", lambda state: state + 1)
        assert await value(("one", "n@h")) == 31

        async def slowly(state: int) -> int:
            await asyncio.sleep(0.001)
            return state + 1

        async def both(state: int) -> tuple[int, int]:
            return await slowly(state), 0

        await Agent.update(pid, slowly)
        Agent.cast(pid, functools.partial(functions.plus, 1))
        Agent.cast(pid, lambda state: slowly(state))
        assert await Agent.get(pid, slowly) == 35
        assert await Agent.get_and_update(pid, both) == 35
        assert await value(pid) == 0
        assert await Agent.get(pid, lambda _: self()) == pid
        await Agent.stop(pid)
        with pytest.raises(CallFailed) as failed:
            await value(pid)
        assert failed.value.cause is a.noproc
        info = process_info()
        assert info is not None
        assert (info["monitors"], info["message_queue_len"]) == ([], 0)

    in_a_node(main)


def test_the_first_state() -> None:
    async def main(node: Node) -> None:
        trap_exit()

        async def later(one: int, two: int) -> int:
            await asyncio.sleep(0)
            return one + two

        assert await value(await Agent.start_link(later, 1, 2)) == 3
        assert await value(await Agent.start(dict)) == {}
        node.expose(functions)
        assert await value(await Agent.start(MODULE, "initial", [5])) == 5
        with pytest.raises(StartFailed) as failed:
            await Agent.start(MODULE, "absent", [])
        assert failed.value.reason[0] is a.undef
        with pytest.raises(StartFailed) as failed:
            await Agent.start_link(lambda: 1 // 0)
        assert failed.value.reason[0][0] is Atom("ZeroDivisionError")
        pid = await Agent.start(dict, name="taken")
        with pytest.raises(AlreadyStarted) as taken:
            await Agent.start_link(dict, name="taken")
        assert taken.value.pid == pid
        with pytest.raises(TimeoutError):
            await Agent.start(asyncio.sleep, 5, timeout=0.01)

    in_a_node(main)


def test_any_object_is_a_state() -> None:
    async def main(_: Node) -> None:
        lock = threading.Lock()
        pid = await Agent.start(lambda: lock)
        assert await value(pid) is lock
        assert await sys.get_state(pid) == repr(lock).encode()  # it has no term
        future = asyncio.get_running_loop().create_future()  # an object like others: it is not waited for
        await Agent.update(pid, lambda _: future)
        assert await value(pid) is future
        for state in (None, a.nil, {"a": [1]}, (1, 2)):
            await Agent.update(pid, lambda _, state=state: state)
            assert await sys.get_state(pid) == state
        assert await sys.replace_state(pid, lambda state: [*state, 3]) == [1, 2, 3]
        assert await value(pid) == [1, 2, 3]

    in_a_node(main)


def test_a_function_that_raises_ends_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    async def main(_: Node) -> None:
        for ask in (Agent.get, Agent.update, Agent.get_and_update):
            pid = await Agent.start(lambda: 1)
            reference = monitor(pid)
            with pytest.raises(CallFailed) as failed:
                await ask(pid, lambda _: 1 // 0)
            assert failed.value.cause[0][0] is Atom("ZeroDivisionError")
            assert await receive(timeout=5) == (a.DOWN, reference, a.process, pid, failed.value.cause)
        pid = await Agent.start(lambda: 1)
        reference = monitor(pid)
        Agent.cast(pid, lambda _: 1 // 0)
        assert (await receive(timeout=5))[4][0][0] is Atom("ZeroDivisionError")
        pid = await Agent.start(lambda: 1)
        with pytest.raises(CallFailed) as failed:
            await Agent.get_and_update(pid, lambda _: "no pair")
        assert failed.value.cause == (a.bad_return_value, "no pair")

    in_a_node(main)
    assert "Agent" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_functions_by_name_run_as_the_policy_says(caplog: pytest.LogCaptureFixture) -> None:
    async def main(node: Node) -> None:
        pid = await Agent.start(lambda: 2)
        node.expose(functions.plus)
        node.expose(functions.times, module="math", name="times")
        await Agent.update(pid, MODULE, "plus", [1, 2])
        assert await Agent.get(pid, a.math, a.times, (10,)) == 50
        Agent.cast(pid, "math", "times", [2])
        assert await Agent.get(pid, Export(Atom(MODULE), a.plus, 1)) == 10
        for _ in range(2):  # refused: to who asked, and to nobody else
            with pytest.raises(CallFailed) as failed:
                await Agent.update(pid, MODULE, "hidden", [])
            assert failed.value.cause == (a.undef, [(Atom(MODULE), a.hidden, 1, [])])
        Agent.cast(pid, MODULE, "hidden", [])
        assert await value(pid) == 10
        info = process_info(pid)
        assert info is not None
        assert info["monitored_by"] == []

    in_a_node(main)
    assert "refused agent_functions:hidden/1" in caplog.text


def test_what_is_no_request_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def main(_: Node) -> None:
        pid = await Agent.start(lambda: 1)
        for request in (a.hello, (a.get,), (a.get, 5), (a.get, (a.m, a.f, a.x)), (a.put, str), (a.cast, str)):
            with pytest.raises(CallFailed) as failed:
                await GenServer.call(pid, request)
            assert failed.value.cause[0][0] is a.UsageError
        GenServer.cast(pid, a.hello)
        GenServer.cast(pid, (a.cast, 5))
        assert await value(pid) == 1
        info = process_info()
        assert info is not None
        assert (info["monitors"], info["message_queue_len"]) == ([], 0)

    in_a_node(main)
    assert "Atom('hello') is no cast of an Agent" in caplog.text


def test_misuse_is_told_before_anything_is_sent() -> None:
    async def main(_: Node) -> None:
        pid = await Agent.start(lambda: 1)
        with pytest.raises(UsageError, match="module, function, args"):
            await Agent.get(pid, 5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="gets the state alone"):
            await Agent.get(pid, len, args=[1])
        with pytest.raises(UsageError, match="is named by a module"):
            await Agent.get(pid, "m", "f", "args")
        with pytest.raises(UsageError, match="cannot travel"):
            await Agent.get(("one", "other@h"), len)
        with pytest.raises(UsageError, match="started with"):
            await Agent.start("module")
        assert await value(pid) == 1

    in_a_node(main)


def test_a_caller_that_gave_up_is_not_told() -> None:
    async def main(node: Node) -> None:
        node.expose(functions)
        pid = await Agent.start(lambda: 1)
        Agent.cast(pid, lambda state: asyncio.sleep(0.05, state))
        with pytest.raises(TimeoutError):
            await Agent.get(pid, MODULE, "absent", [], timeout=0.01)
        assert await value(pid) == 1
        with pytest.raises(TimeoutError):
            await receive(timeout=0)

    in_a_node(main)


class Stack(Agent, restart="transient"):
    """As programs derive from it."""

    @staticmethod
    async def push(stack: Any, item: Any) -> None:
        await Agent.update(stack, lambda items: [item, *items])


def test_a_class_of_agents() -> None:
    async def main(_: Node) -> None:
        spec = Stack.child_spec(list, name="stack")
        assert (spec["id"], spec["restart"]) == (Stack, "transient")
        function, args = spec["start"]
        pid = await function(*args)
        await Stack.push("stack", 1)
        await Stack.push(pid, 2)
        assert await value("stack") == [2, 1]

    in_a_node(main)


def test_a_linked_agent_ends_with_its_parent() -> None:
    async def main(_: Node) -> None:
        started: asyncio.Future[Pid] = asyncio.get_running_loop().create_future()

        async def body() -> None:
            started.set_result(await Agent.start_link(lambda: 1))
            await receive()

        parent = spawn(body)
        reference = monitor(await started)
        exit(parent, a.shutdown)
        assert await receive(timeout=5) == (a.DOWN, reference, a.process, await started, a.shutdown)

    in_a_node(main)


def test_agents_of_another_node_of_ours() -> None:
    async def main() -> None:
        places = StaticPorts({"two@h": ("h", 1024), "n@h": ("h", 1025)})  # as they are started
        options: dict[str, Any] = {"cookie": "c", "discovery": places, "carrier": MemoryNetwork().carrier("h")}
        asked: list[Any] = []

        def policy(call: Any) -> str:
            asked.append((call.node, call.function))
            return "exposed"

        two = Node("two@h", policy=policy, **options)
        await two.start()
        try:
            async with Node("n@h", **options) as node:
                assert await node.connect("two@h")
                two.expose(functions)
                started = asyncio.get_running_loop().create_future()

                async def elsewhere() -> None:
                    started.set_result(await Agent.start(lambda: 1, name="there"))

                two.runtime.spawn(elsewhere, ())
                agent = await started

                async def own_call() -> None:
                    own.set_result(await Agent.get(agent, MODULE, "whole", []))

                own: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                await Agent.update(agent, MODULE, "plus", [1])
                two.runtime.spawn(own_call, ())
                assert await own == 2
                assert asked == [(node.name, a.plus), (two.name, a.whole)]  # by who really asks
                assert await Agent.get_and_update(("there", "two@h"), MODULE, "swap", [7]) == 2
                with pytest.raises(CallFailed) as failed:
                    await Agent.get(agent, MODULE, "absent", [])
                assert failed.value.cause == (a.undef, [(Atom(MODULE), a.absent, 1, [])])
                assert await Agent.get(agent, MODULE, "whole", []) == 7
                with pytest.raises(CallFailed) as failed:
                    await Agent.get(agent, MODULE, "fail", ["no"])
                assert failed.value.cause[0] == (Atom("ValueError"), b"no")
        finally:
            await two.stop()

    asyncio.run(main())


def test_agents_in_threads_of_their_callers() -> None:
    async def main(_: Node) -> None:
        from beamnode import sync

        pid = await Agent.start(lambda: 0)

        def body() -> None:
            for _ in range(10):
                Agent.cast(pid, lambda state: state + 1)
            sync.in_process(Agent.get(pid, lambda state: state))

        references = [spawn_monitor(body)[1] for _ in range(3)]
        for _ in references:
            assert (await receive(timeout=5))[4] is a.normal
        assert await value(pid) == 30

    in_a_node(main)


def test_the_policy_is_asked_by_who_was_too_early_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that guesses the pid of a server sends it a call before it has made its first step."""
    asked: list[Asked] = []
    spawn_plainly = proc_lib.spawn_with_dictionary

    def policy(call: Asked) -> str:
        asked.append(call)
        return "nothing"

    def spawn_and_attack(*args: Any, **options: Any) -> Pid:
        pid = spawn_plainly(*args, **options)
        signals = current_body().runtime.signals
        process = signals.lookup(pid)
        assert process is not None
        signals.deliver_from(a["evil@h"], process, (a["$gen_call"], (self(), a.tag), (a.get, (a.m, a.f, []))))
        return pid

    async def main(_node: Node) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(proc_lib, "spawn_with_dictionary", spawn_and_attack)
            agent = await Agent.start(lambda: 1)
        assert await Agent.get(agent, lambda state: state) == 1

    in_a_node(main, policy=policy)
    assert [call.node for call in asked] == [a["evil@h"]]
