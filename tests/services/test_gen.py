"""otp/gen.py: calls and replies, with every shape of tag that callers use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import (
    FixedPort,
    ImproperList,
    Node,
    Pid,
    ProcessExit,
    Reference,
    a,
    alias,
    exit,
    process_info,
    receive,
    register,
    self,
    send,
    spawn,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import gen

pytestmark = pytest.mark.filterwarnings("error")


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


async def serve() -> None:
    """Answers `{twice, N}`; ends when told; is silent on everything else."""
    while True:
        match await receive():
            case (gen.CALL, (Pid(), _) as sender, (a.twice, number)):
                gen.reply(sender, 2 * number)
            case (gen.CALL, _, (a.end, reason)):
                exit(reason)
            case (gen.CALL, (Pid(), _) as sender, (a.late, seconds)):
                await asyncio.sleep(seconds)
                gen.reply(sender, a.late)


def test_a_call_by_pid_name_and_node() -> None:
    async def main() -> None:
        pid = spawn(serve)
        register("server", pid)
        for server in (pid, "server", a.server, ("server", self().node)):
            assert await gen.call(server, gen.CALL, (a.twice, 4), 5) == 8
        assert await gen.call(pid, gen.CALL, (a.twice, 4), None) == 8
        await left_behind_nothing()

    in_a_node(main)


async def left_behind_nothing() -> None:
    """No monitor, no message."""
    info = process_info()
    assert info is not None
    assert (info["monitors"], info["message_queue_len"]) == ([], 0)


def test_a_server_that_is_not_there_ends_or_is_out_of_reach() -> None:
    async def main() -> None:
        for server, question, reason in (
            ("nobody", a.x, a.noproc),
            (("nobody", "nowhere@h2"), a.x, a.noconnection),
            (spawn(serve), (a.end, (a.because, 1)), (a.because, 1)),
            (spawn(serve), (a.end, a.normal), a.normal),
        ):
            with pytest.raises(ProcessExit) as error:
                await gen.call(server, gen.CALL, question, 5)
            assert error.value.reason == reason
        await left_behind_nothing()

    in_a_node(main)


def test_a_reply_that_comes_too_late_is_dropped() -> None:
    async def main() -> None:
        pid = spawn(serve)
        with pytest.raises(TimeoutError):
            await gen.call(pid, gen.CALL, (a.late, 0.05), 0.01)
        assert await gen.call(pid, gen.CALL, (a.twice, 1), 5) == 2  # which it answers after the late one
        await left_behind_nothing()

    in_a_node(main)


def test_other_messages_stay_where_they_are() -> None:
    async def main() -> None:
        pid = spawn(serve)
        for noise in (a.before, (a.DOWN, 1, 2, 3, 4), (1, 2)):
            send(self(), noise)
        assert await gen.call(pid, gen.CALL, (a.twice, 1), 5) == 2
        assert [await receive(timeout=0) for _ in range(3)] == [a.before, (a.DOWN, 1, 2, 3, 4), (1, 2)]

    in_a_node(main)


def test_the_tags_of_all_callers() -> None:
    """A reference (old OTP), `[alias|Ref]` (gen), `[[alias|Ref]|Tag]` (gen_statem, send_request), anything else."""

    async def main() -> None:
        plain = alias()
        reference = alias("reply")
        tags: list[Any] = [
            plain,
            ImproperList((a.alias,), alias("reply")),
            ImproperList((ImproperList((a.alias,), reference),), a.tag),
            ImproperList((ImproperList((a.alias,), alias("reply")),), [a.tag]),
            [ImproperList((a.alias,), alias("reply")), 1],
            ImproperList((a.alias,), a.no_reference),
            [a.alias, 1],
            a.tag, 1, b"tag", (), [],
        ]  # fmt: skip
        for tag in tags:
            gen.reply((self(), tag), a.answer)
            assert await receive(timeout=1) == (tag, a.answer)

    in_a_node(main)


def test_an_alias_that_is_not_active_any_more_gets_nothing() -> None:
    async def main() -> None:
        for tag in (
            ImproperList((a.alias,), gone := Reference(self().node, self().creation, (1, 2, 3))),
            ImproperList((ImproperList((a.alias,), gone),), a.tag),
        ):
            gen.reply((self(), tag), a.answer)
            with pytest.raises(TimeoutError):
                await receive(timeout=0.01)

    in_a_node(main)
