"""services/logger_proxy.py and logger_client.py: log events as text, levels, and what stays here."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

import pytest

from beamnode import Atom, Node, StaticPorts, a, send, whereis
from beamnode.services.io_format import FormatError
from beamnode.services.logger_client import level_of
from beamnode.services.logger_proxy import message_text
from beamnode.testing.peers import free_port

HERE = Atom("h@127.0.0.1")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"text", "text"),
        ([116, [101], b"xt"], "text"),
        ((a.string, "żó".encode()), "żó"),
        ((b"~p and ~p", [1, 2]), "1 and 2"),
        ({a.what: b"report"}, '    what: <<"report">>'),
        ([(a.what, 1), (a.n, 2)], "    what: 1\n    n: 2"),
        ((a.report, {a.label: (a.gen_server, a.terminate), a.reason: a.bad}), "gen_server terminate:\n    reason: bad"),
        ((a.report, {a.label: (a.x, a.y), a.format: b"~p", a.args: [1]}), "1"),
        ([(a.label, (a.proc_lib, a.crash)), (a.report, [[(a.pid, 1)], []])], "proc_lib crash:\n    pid: 1"),
        ((a.report, a.odd), "odd"),
    ],
)
def test_messages(message: Any, text: str) -> None:
    assert message_text(message, HERE) == text


def test_what_is_no_message() -> None:
    for message in (a.atom, (1, 2, 3), b"\xff"):
        with pytest.raises(FormatError):
            message_text(message, HERE)


def test_levels() -> None:
    levels = [level_of(number) for number in (5, logging.INFO, 25, logging.WARNING, logging.ERROR, 99)]
    assert levels == [a.debug, a.info, a.info, a.warning, a.error, a.critical]


async def _log(messages: list[Any]) -> None:
    proxy = whereis("logger_proxy")
    assert proxy is not None
    for message in messages:
        send(proxy, message)


def test_events_of_peers_are_no_danger(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes is one record, or none; the process lives."""

    async def main() -> None:
        name = f"log{secrets.token_hex(4)}@127.0.0.1"
        async with Node(name, cookie="c", discovery=StaticPorts({name: free_port()})) as node:
            before = await node.run_process(_pid)
            await node.run_process(_log, messages)
            for _ in range(5):
                await asyncio.sleep(0)
            assert await node.run_process(_pid) == before

    async def _pid() -> Any:
        return whereis("logger_proxy")

    deep: Any = []
    for _ in range(900):
        deep = [deep]
    messages: list[Any] = [
        (a.log, a.error, b"plain", {}),
        (a.log, a.no_level, b"odd level", {a.pid: 1}),
        (a.log, a.error, b"~p", [], {}),
        (a.log, a.error, a.no_text, {}),
        (a.log, a.error, {a.deep: deep}, {}),
        (a.log, a.error, b"x" * 1_000_000, {}),
        (a.log, 1, 2, 3),
        1,
    ]
    caplog.set_level(logging.INFO)
    asyncio.run(main())
    got = [record.getMessage() for record in caplog.records if record.name == "beamnode.remote"]
    assert got[:2] == ["somewhere plain", "somewhere odd level"]
    assert "no text" in got[2]
    assert "no text" in got[3]
    assert len(got) == 6
    assert len(got[5]) < 70_000
