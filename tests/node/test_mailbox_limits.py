"""Mailboxes with a maximum length: what is lost, who waits, who ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    FixedPort,
    GenServer,
    Node,
    Pid,
    UsageError,
    a,
    exit,
    limit_mailbox,
    process_info,
    receive,
    self,
    send,
    send_wait,
    spawn,
    spawn_monitor,
    sync,
)
from beamnode.carriers.memory import MemoryNetwork


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


async def idle(limit: int, when_full: str, to: Pid) -> None:
    """Take a message whenever `go` comes, and tell `to` of it; the limit counts the others."""
    limit_mailbox(limit, when_full)
    send(to, a.ready)
    while True:
        await receive(lambda message: message is a.go)
        send(to, await receive(lambda message: message is not a.go, timeout=5))


def length(pid: Pid) -> int:
    info = process_info(pid)
    assert info is not None
    return int(info["message_queue_len"])


def test_what_does_not_fit_is_dropped_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = spawn(idle, 3, "drop", self())
        await receive(timeout=5)
        for number in range(10):
            send(pid, number)
        assert length(pid) == 3
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "mailbox is full (3 messages, about 1 KiB)" in warnings[0]

    in_a_node(main)


def test_the_log_says_how_many_when_there_is_room_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        limit_mailbox(2, "drop")
        for number in range(5):
            send(self(), number)
        assert [await receive(), await receive()] == [0, 1]
        with pytest.raises(TimeoutError):
            await receive(timeout=0)
        assert "3 messages were lost" in caplog.text
        send(self(), 7)
        assert await receive() == 7
        assert caplog.text.count("were lost") == 1

    in_a_node(main)


def test_exit_ends_the_process_with_its_limit() -> None:
    async def main() -> None:
        pid, reference = spawn_monitor(idle, 3, "exit", self())
        await receive(timeout=5)
        for number in range(3):
            send(pid, number)
        send(pid, 3)
        assert await receive(timeout=5) == (a.DOWN, reference, a.process, pid, (a.mailbox_full, 3))

    in_a_node(main)


def test_a_sender_waits_where_it_receives_next() -> None:
    async def floods(to: Pid, parent: Pid) -> None:
        for number in range(5):
            send(to, number)  # the last two do not fit
        send(parent, a.sent)
        await receive()  # here it waits for room, although there is a message
        send(parent, a.went_on)

    async def main() -> None:
        pid = spawn(idle, 3, "block", self())
        await receive(timeout=5)
        sender = spawn(floods, pid, self())
        assert await receive(timeout=5) is a.sent
        send(sender, a.message)
        with pytest.raises(TimeoutError):
            await receive(timeout=0.05)
        assert length(pid) == 5, "nothing is lost"
        heard = []
        for _ in range(3):
            spawn(send, pid, a.go)  # not from here: this process would wait as well
            heard.append(await receive(timeout=5))
        while a.went_on not in heard:
            heard.append(await receive(timeout=5))
        assert [message for message in heard if isinstance(message, int)] == [0, 1, 2]

    in_a_node(main)


def test_send_wait_waits_at_once() -> None:
    async def takes(to: Pid) -> None:
        limit_mailbox(10, "block")
        send(to, self())
        longest = 0
        for _ in range(1000):
            longest = max(longest, length(self()))
            await receive(timeout=5)
        send(to, longest)

    async def main() -> None:
        spawn(takes, self())
        pid = await receive(timeout=5)
        for number in range(1000):
            await send_wait(pid, number)
        assert await receive(timeout=5) <= 11

    in_a_node(main)


def test_a_thread_waits_in_send() -> None:
    longest = []

    async def takes(to: Pid) -> None:
        limit_mailbox(10, "block")
        send(to, self())
        for _ in range(200):
            longest.append(length(self()))
            await receive(timeout=5)
        send(to, a.done)

    def gives(to: Pid) -> None:
        for number in range(200):
            sync.send(to, number)

    async def main() -> None:
        spawn(takes, self())
        spawn(gives, await receive(timeout=5))
        assert await receive(timeout=10) is a.done
        assert max(longest) <= 11

    in_a_node(main)


def test_who_waits_for_one_that_ends_goes_on() -> None:
    async def floods(to: Pid, parent: Pid) -> None:
        await send_wait(to, 1)
        await send_wait(to, 2)
        send(parent, a.went_on)

    async def main() -> None:
        pid = spawn(idle, 1, "block", self())
        await receive(timeout=5)
        spawn(floods, pid, self())
        with pytest.raises(TimeoutError):
            await receive(timeout=0.05)
        exit(pid, a.kill)
        assert await receive(timeout=5) is a.went_on

    in_a_node(main)


@pytest.mark.parametrize("thread", [False, True])
def test_who_waits_can_be_killed(thread: bool) -> None:
    async def floods(to: Pid) -> None:
        await send_wait(to, 1)

    def floods_too(to: Pid) -> None:
        sync.send(to, 1)

    async def main() -> None:
        pid = spawn(idle, 1, "block", self())
        await receive(timeout=5)
        send(pid, 0)
        sender, reference = spawn_monitor(floods_too if thread else floods, pid)
        await asyncio.sleep(0.05)
        exit(sender, a.kill)
        assert await receive(timeout=5) == (a.DOWN, reference, a.process, sender, a.killed)

    in_a_node(main)


def test_a_message_to_oneself_makes_nobody_wait() -> None:
    async def main() -> None:
        limit_mailbox(1, "block")
        send(self(), 1)
        send(self(), 2)
        assert [await receive(), await receive()] == [1, 2]

    in_a_node(main)


def test_answers_of_calls_do_not_count() -> None:
    class Echo(GenServer):
        def handle_call(self, request: Any, sender: Any) -> Any:
            return request

    async def main() -> None:
        echo = await Echo.start()
        limit_mailbox(1, "drop")
        send(self(), a.first)
        assert await GenServer.call(echo, 5) == 5
        assert await receive() is a.first

    in_a_node(main)


@pytest.mark.parametrize("message", [b"x" * 10_000, [b"x" * 100] * 40, {"key": (b"x" * 5_000,) * 2}])
def test_what_a_flooded_mailbox_holds_is_reported(message: Any) -> None:
    async def main() -> None:
        pid = spawn(idle, 10_000, "drop", self())
        await receive(timeout=5)
        before = process_info(pid, "memory")
        for _ in range(1000):
            send(pid, message)
        grown = process_info(pid, "memory") - before
        assert 4_000_000 < grown < 20_000_000, "about 1000 times what one holds"

    in_a_node(main)


def test_what_is_no_limit_is_refused() -> None:
    async def main() -> None:
        for limit, when_full in ((0, "drop"), (-1, "exit"), (True, "drop"), ("many", "drop"), (5, "wait")):
            with pytest.raises(UsageError):
                limit_mailbox(limit, when_full)  # type: ignore[arg-type]

    in_a_node(main)
