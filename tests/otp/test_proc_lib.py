"""proc_lib: where a process says it comes from, and what it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import FixedPort, GenServer, Node, a, process_info, receive, register, self, send, spawn, sync
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import ANCESTORS, INITIAL_CALL, process_dictionary
from beamnode.otp import proc_lib, sys

pytestmark = pytest.mark.filterwarnings("error")


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


class Telling(GenServer):
    def init(self, *more: Any) -> None:
        self.seen = dict(process_dictionary())

    async def handle_call(self, request: Any, sender: Any) -> Any:
        if request is a.start:
            return await Telling.start()
        proc_lib.set_label(request)
        return proc_lib.get_label()


async def started(acknowledge: Callable[[Any], None], argument: int) -> None:
    acknowledge((self(), dict(process_dictionary()), argument))
    await receive()


async def idle() -> None:
    await receive()


def test_a_started_process_knows_where_it_comes_from() -> None:
    async def main() -> None:
        pid, dictionary, argument = await proc_lib.start(started, 7)
        assert argument == 7
        assert dictionary == {
            INITIAL_CALL: (a.test_proc_lib, a.started, 1),
            ANCESTORS: [self()],
        }
        assert process_info(pid)["dictionary"] == dictionary

    in_a_node(main)


def test_ancestors_go_by_their_names() -> None:
    async def main() -> None:
        register("main", self())
        top = await Telling.start(1, 2)
        below = await GenServer.call(top, a.start)
        named = await Telling.start(name="named")
        last = await GenServer.call(named, a.start)
        ancestors = [process_info(pid, "dictionary")[ANCESTORS] for pid in (top, below, named, last)]
        assert ancestors == [[a.main], [top, a.main], [a.main], [a.named, a.main]]
        assert (await sys.get_state(below))[a.seen] == process_info(below, "dictionary")
        assert process_info(top, "dictionary")[INITIAL_CALL] == (a.Telling, a.init, 1)
        *_, (dictionary, _, _, _, _) = await sys.get_status(last)
        assert dictionary == [(a["$initial_call"], (a.Telling, a.init, 1)), (a["$ancestors"], [a.named, a.main])]

    in_a_node(main)


def test_labels() -> None:
    async def main() -> None:
        assert proc_lib.get_label() is None
        pid = await Telling.start()
        assert await GenServer.call(pid, (a.worker, 1)) == (a.worker, 1)
        assert proc_lib.get_label(pid) == (a.worker, 1)
        assert process_info(pid, "label") == (a.worker, 1)
        await GenServer.stop(pid)
        assert proc_lib.get_label(pid) is None

    in_a_node(main)


def test_the_dictionary_is_each_process_own_and_made_when_it_is_asked_for() -> None:
    async def main() -> None:
        def in_a_thread(owner: Any) -> None:
            process_dictionary()["key"] = "of the thread"
            send(owner, (sync.self(), process_dictionary()))
            sync.receive()

        plain = spawn(idle)
        await asyncio.sleep(0)
        assert process_info(plain, "dictionary") == {}
        process_dictionary()["key"] = 1
        pid = spawn(in_a_thread, self())
        assert await receive(timeout=5) == (pid, {"key": "of the thread"})
        assert process_dictionary() == process_info()["dictionary"] == {"key": 1}
        process_dictionary().pop("key")
        send(pid, a.stop)

    in_a_node(main)
