"""node/tagged.py, and who waits through it: several tasks and threads of one process ask at once, and none scans."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import beamnode
from beamnode import (
    NO_REPLY,
    FixedPort,
    GenServer,
    ImproperList,
    Node,
    ProcessExit,
    UsageError,
    a,
    demonitor,
    exit,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    spawn_monitor,
    sync,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import current_body, receive_tagged
from beamnode.otp import gen, sys

pytestmark = pytest.mark.filterwarnings("error")


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


class Server(GenServer):
    """Answers each request with itself: `hold` when told, `silent` never, others at once."""

    def init(self) -> None:
        self.held: list[tuple[Any, Any]] = []

    def handle_call(self, request: Any, sender: Any) -> Any:
        match request:
            case (a.hold, _):
                self.held.append((sender, request))
                return NO_REPLY
            case a.silent:
                return NO_REPLY
            case a.release:  # the last one first
                while self.held:
                    GenServer.reply(*self.held.pop())
        return request


def state() -> tuple[Any, ...]:
    info = process_info()
    assert info is not None
    return info["monitors"], info["message_queue_len"], current_body().process.expected


CLEAN: tuple[Any, ...] = ([], 0, {})


async def wait_forever() -> None:
    await receive()


async def until_it_waits(count: int) -> None:
    """Until so many tasks of the current process wait for an answer."""
    while sum(slot.waiter is not None for slot in current_body().process.expected.values()) < count:
        await asyncio.sleep(0)


def test_calls_of_one_process_at_once_get_each_its_own_reply() -> None:
    async def main() -> None:
        pid = await Server.start()
        asked = [asyncio.create_task(GenServer.call(pid, (a.hold, n))) for n in range(20)]
        await until_it_waits(20)
        await GenServer.call(pid, a.release)
        assert await asyncio.gather(*asked) == [(a.hold, n) for n in range(20)]
        assert await asyncio.gather(GenServer.call(pid, 1), sys.get_status(pid), return_exceptions=True)
        assert state() == CLEAN

    in_a_node(main)


def test_servers_start_and_stop_at_once() -> None:
    async def main() -> None:
        pids = await asyncio.gather(*(Server.start() for _ in range(5)))
        assert await asyncio.gather(*(GenServer.call(pid, 7) for pid in pids)) == [7] * 5
        await asyncio.gather(*(GenServer.stop(pid) for pid in pids))
        assert state() == CLEAN

    in_a_node(main)


def test_calls_beside_a_receive_leave_it_its_messages_in_order() -> None:
    async def main() -> None:
        pid = await Server.start()
        taken = asyncio.create_task(receive(lambda message: message == 3))
        await asyncio.sleep(0)
        for n in range(3):
            send(self(), n)
            assert await GenServer.call(pid, n) == n
        send(self(), 3)
        assert await taken == 3
        assert [await receive(timeout=0) for _ in range(3)] == [0, 1, 2]
        assert state() == CLEAN

    in_a_node(main)


def test_a_call_does_not_look_at_the_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def watch(kind: Any, name: str, watched: Any) -> None:
        method = getattr(kind, name)

        def look(mailbox: Any, *args: Any) -> Any:
            if mailbox is watched:
                looked.append(name)
            return method(mailbox, *args)

        monkeypatch.setattr(kind, name, look)

    async def main() -> None:
        pid = await Server.start()
        for n in range(100):
            send(self(), n)
        mailbox = current_body().process.mailbox
        watch(type(mailbox), "take", mailbox)
        watch(type(mailbox), "take_first", mailbox)
        assert await GenServer.call(pid, 1) == 1
        assert await GenServer.multi_call([self().node], "nobody", 1) == ([], [self().node])
        with pytest.raises(TimeoutError):
            await GenServer.call(pid, a.silent, timeout=0.01)
        await GenServer.stop(await Server.start())
        assert looked == []
        assert [await receive(lambda _: True, timeout=0) for _ in range(100)] == list(range(100))
        assert looked == ["take"] * 100

    in_a_node(main)


def test_a_late_reply_is_dropped_and_so_is_a_second_one() -> None:
    async def main() -> None:
        pid = await Server.start()
        with pytest.raises(TimeoutError):
            await GenServer.call(pid, (a.hold, 1), timeout=0.01)
        assert await GenServer.call(pid, a.release) is a.release
        assert state() == CLEAN

        async def twice(owner: Any) -> None:
            _, sender, _ = await receive()
            send(owner, (sender[1], 1))  # to the pid, as what knows no aliases does
            send(owner, (sender[1], 2))

        assert await GenServer.call(spawn(twice, self()), a.x) == 1
        assert state() == CLEAN

    in_a_node(main)


def test_a_cancelled_call_leaves_nothing_and_disturbs_no_other() -> None:
    async def main() -> None:
        pid = await Server.start()
        one, two = (asyncio.create_task(GenServer.call(pid, (a.hold, n))) for n in (1, 2))
        await until_it_waits(2)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert await GenServer.call(pid, a.release) is a.release
        assert await two == (a.hold, 2)
        assert state() == CLEAN

    in_a_node(main)


def test_the_end_of_the_process_ends_every_wait_of_it() -> None:
    async def main() -> None:
        pid = await Server.start()
        ends: list[Any] = []

        async def asks() -> None:
            try:
                await gen.call(pid, gen.CALL, a.silent, None)
            except ProcessExit as end:
                ends.append(end.reason)

        async def caller(owner: Any) -> None:
            tasks = [asyncio.create_task(asks()) for _ in range(3)]
            await until_it_waits(3)
            send(owner, (a.tasks, tasks))
            await receive()

        asking, reference = spawn_monitor(caller, self())
        _, tasks = await receive()
        exit(asking, a.boom)
        assert (await receive_tagged(reference, timeout=5))[4] is a.boom
        await asyncio.wait(tasks, timeout=5)
        assert ends == [a.boom] * 3

    in_a_node(main)


def test_what_was_not_expected_is_found_in_the_mailbox_or_waited_for() -> None:
    async def main() -> None:
        pid = await Server.start()
        request = GenServer.send_request(pid, 1)
        send(self(), a.noise)
        assert await GenServer.call(pid, 2) == 2  # by then the other reply is in the mailbox
        assert await GenServer.receive_response(request) == 1
        one, two = (GenServer.send_request(pid, (a.hold, n)) for n in (1, 2))
        waiting = [asyncio.create_task(GenServer.receive_response(request)) for request in (one, two)]
        await until_it_waits(2)
        with pytest.raises(UsageError, match="the same answer"):
            await receive_tagged(one)
        await GenServer.call(pid, a.release)
        assert await asyncio.gather(*waiting) == [(a.hold, 1), (a.hold, 2)]
        assert await receive(timeout=0) is a.noise
        assert state() == CLEAN

    in_a_node(main)


def test_a_reply_that_comes_with_a_cancellation_is_not_lost() -> None:
    async def main() -> None:
        pid = await Server.start()
        request = GenServer.send_request(pid, (a.hold, 1))
        waiting = asyncio.create_task(GenServer.wait_response(request))
        await until_it_waits(1)
        slot = current_body().process.expected[request]
        current_body().runtime.signals.deliver(current_body().process, (ImproperList([a.alias], request), a.late))
        assert slot.message[1] is a.late
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await GenServer.wait_response(request, 0) is a.late
        assert state() == CLEAN

    in_a_node(main)


def test_what_comes_with_a_cancellation_wakes_who_receives() -> None:
    async def main() -> None:
        pid = spawn(wait_forever)
        reference = monitor(pid)
        waiting, receiving = asyncio.create_task(receive_tagged(reference)), asyncio.create_task(receive())
        await until_it_waits(1)
        exit(pid, a.kill)
        waiting.cancel()
        async with asyncio.timeout(20):
            assert (await receiving)[1] == reference
        assert state() == CLEAN

    in_a_node(main)


def test_a_monitor_may_be_flushed_away_while_its_message_is_waited_for() -> None:
    async def main() -> None:
        reference = monitor(spawn(wait_forever))
        waiting = asyncio.create_task(receive_tagged(reference, timeout=0.01))
        await until_it_waits(1)
        assert demonitor(reference, flush=True)
        with pytest.raises(TimeoutError):
            await waiting
        assert state() == CLEAN

    in_a_node(main)


def test_an_expected_monitor_tells_its_waiter_alone() -> None:
    async def main() -> None:
        trap_exit()
        gone = monitor("nobody", expected=True)
        assert (await receive_tagged(gone, timeout=0))[4] is a.noproc
        demonitor(gone, flush=True)
        watched = monitor(await Server.start(), expected=True)
        with pytest.raises(TimeoutError):
            await receive_tagged(watched, timeout=0.01)
        assert demonitor(watched, flush=True)
        assert state() == CLEAN

    in_a_node(main)


def test_a_request_that_cannot_be_sent_leaves_nothing() -> None:
    async def main() -> None:
        with pytest.raises(beamnode.EncodeError):
            await GenServer.call(("server", "other@h"), object())
        assert state() == CLEAN

    in_a_node(main)


def test_threads_of_one_process_call_at_once() -> None:
    network = MemoryNetwork()
    with sync.Node("n@h", cookie="c", carrier=network.carrier("h"), discovery=FixedPort(1)):
        pid = sync.GenServer.start(Server)
        replies: dict[int, Any] = {}

        def ask(n: int) -> None:
            replies[n] = sync.GenServer.call(pid, (a.hold, n))

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(ask, n)) for n in range(5)]
        for thread in threads:
            thread.start()
        while len(sync.in_process(sys.get_state(pid))[a.held]) < 5:
            pass
        sync.GenServer.call(pid, a.release)
        for thread in threads:
            thread.join(5)
        assert replies == {n: (a.hold, n) for n in range(5)}
