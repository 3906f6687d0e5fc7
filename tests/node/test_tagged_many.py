"""node/tagged.py, `TaggedMessages`: waiting for the answers of many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import FixedPort, Node, ProcessExit, Reference, UsageError, a, alias, exit, receive, self, send, spawn
from beamnode.carriers.memory import MemoryNetwork
from beamnode.core.process import Origin
from beamnode.node import TaggedMessages, current_body, receive_tagged

pytestmark = pytest.mark.filterwarnings("error")


def in_a_node(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            carrier = MemoryNetwork().carrier("h")
            async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
                await test()
                assert not current_body().process.expected

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def references(count: int) -> list[Reference]:
    return [alias() for _ in range(count)]


@in_a_node
async def test_what_was_there_comes_first_and_then_what_comes() -> None:
    one, two, three = references(3)
    send(self(), (two, 2))
    send(self(), a.other)
    with TaggedMessages([one, two, three]) as answers:
        assert await answers.next() == (two, (two, 2))
        asyncio.get_running_loop().call_later(0.01, send_from(self(), (three, 3)))
        assert await answers.next(5) == (three, (three, 3))
        send(self(), (one, 1))
        assert await answers.next() == (one, (one, 1))
    assert await receive(timeout=0) is a.other


def send_from(pid: Any, message: Any) -> Callable[[], object]:
    body = current_body()
    return lambda: body.runtime.send(body.process, pid, message)


@in_a_node
async def test_only_the_first_of_each_is_taken() -> None:
    [one] = references(1)
    for number in range(3):
        send(self(), (one, number))
    with TaggedMessages([one]) as answers:
        assert await answers.next() == (one, (one, 0))
    assert [await receive(timeout=0) for _ in range(2)] == [(one, 1), (one, 2)]


@in_a_node
async def test_what_is_not_taken_goes_back() -> None:
    one, two = references(2)
    send(self(), (one, 1))
    with TaggedMessages([one, two]):
        send(self(), (two, 2))
        send(self(), a.later)
    assert [await receive(timeout=0) for _ in range(3)] == [(one, 1), (two, 2), a.later]


@in_a_node
async def test_whoever_receives_meanwhile_gets_the_rest() -> None:
    [one] = references(1)
    with TaggedMessages([one]) as answers:
        receiving = asyncio.ensure_future(receive(timeout=5))
        await asyncio.sleep(0)
        send(self(), (one, 1))
        send(self(), a.other)
        assert await receiving is a.other
        assert await answers.next() == (one, (one, 1))
    with TaggedMessages([one]):
        send(self(), (one, 2))
        receiving = asyncio.ensure_future(receive(timeout=5))
        await asyncio.sleep(0)
    assert await receiving == (one, 2)  # it was put back and who waits was told


@in_a_node
async def test_a_timeout_and_a_wait_after_it() -> None:
    [one] = references(1)
    with TaggedMessages([one]) as answers:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
            await answers.next(0.01)
        send(self(), (one, 1))
        assert await answers.next(0) == (one, (one, 1))


@in_a_node
async def test_a_process_that_is_told_origins_gets_plain_answers() -> None:
    [one] = references(1)
    process = current_body().process
    process.mailbox.owned_by(process).append(Origin(a["p@h"], (one, 1)))
    with TaggedMessages([one]) as answers:
        assert await answers.next() == (one, (one, 1))
    process.mailbox.append(Origin(a["p@h"], (one, 2)))
    assert await receive_tagged(one) == (one, 2)


@in_a_node
async def test_two_do_not_wait_for_the_same() -> None:
    [one] = references(1)
    waiting = asyncio.ensure_future(receive_tagged(one, timeout=5))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="one of the same answers"), TaggedMessages([one]):
        pass
    send(self(), (one, 1))
    assert await waiting == (one, 1)


@in_a_node
async def test_a_process_that_ends_stops_waiting() -> None:
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        async def other() -> None:
            try:
                with TaggedMessages(references(2)) as answers:
                    await answers.next()
            except ProcessExit as ended:
                outcome.set_result(ended.reason)

        await asyncio.shield(asyncio.ensure_future(other()))

    pid = spawn(waits)
    await asyncio.sleep(0.01)
    exit(pid, a.over)
    assert await asyncio.wait_for(outcome, 5) is a.over


@in_a_node
async def test_not_in_a_thread() -> None:
    def other() -> None:
        with TaggedMessages([]):
            pass

    with pytest.raises(UsageError, match=r"beamnode\.sync"):
        await asyncio.to_thread(other)
