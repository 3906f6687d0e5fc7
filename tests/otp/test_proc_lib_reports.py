"""Reports: one message for each event, the traceback first, then what is known; nothing of what goes well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamnode import FixedPort, GenServer, Node, ProcessExit, a, exit, receive, self, send, spawn, trap_exit
from beamnode.carriers.memory import MemoryNetwork
from beamnode.node import reason_text
from beamnode.otp import proc_lib
from beamnode.otp.supervisor import Supervisor

pytestmark = pytest.mark.filterwarnings("error")


def reports(caplog: pytest.LogCaptureFixture, main: Callable[[], Awaitable[None]], level: int = logging.INFO) -> Any:
    """The lines of each record of a process, as they are printed, while `main` ran in a node."""
    caplog.set_level(level, "beamnode")

    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            trap_exit()
            await main()

    asyncio.run(whole())
    told = [record for record in caplog.records if record.name != "beamnode.node"]
    return [(record.name, logging.Formatter().format(record).splitlines()) for record in told]


class Failing(GenServer):
    def init(self, number: int = 0) -> None:
        self.number = number
        if number < 0:
            raise ValueError("negative")
        proc_lib.set_label((a.failing, number))

    def handle_cast(self, request: Any) -> None:
        raise request


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


async def fails() -> None:
    proc_lib.set_label("fails at once")
    send(self(), "unread")
    raise ValueError("wrong")


async def says_nothing() -> None:
    raise Unspeakable


async def ended() -> None:
    await asyncio.sleep(0.05)


def test_a_process_that_crashes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        spawn(fails)
        await ended()

    [(name, lines)] = reports(caplog, main)
    assert name == "beamnode.process"
    assert lines[0].endswith("(test_proc_lib_reports.fails/0) crashed: ValueError('wrong')")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[2].startswith(f'  File "{__file__}", line ')
    assert lines[-3:] == ["ValueError: wrong", "Label: 'fails at once'", "Unread messages: 1"]
    [record] = [record for record in caplog.records if record.name == "beamnode.process"]
    assert record.exc_info is not None
    assert (record.pathname, record.lineno) == (__file__, int(lines[2].split()[3].rstrip(",")))


def test_a_server_that_crashes_under_a_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    """The server tells what happened, the supervisor what it did about it, each once."""

    async def main() -> None:
        top = await Supervisor.start_link([Supervisor.child_spec((Failing, 1), id="one")], strategy="one_for_one")
        [(_, pid, _, _)] = await Supervisor.which_children(top)
        GenServer.cast(pid, ValueError("wrong"))
        await ended()
        await Supervisor.stop(top)

    server, supervisor = reports(caplog, main)
    assert server[0] == "beamnode.gen_server"
    assert server[1][1] == "Traceback (most recent call last):"
    end = server[1].index("ValueError: wrong")
    last, state, label, ancestors, links = server[1][end + 1 :]
    assert last.startswith("Last message: (Atom('$gen_cast'), ")
    assert (state, label) == ("State: number=1", "Label: (Atom('failing'), 1)")
    assert ancestors.startswith("Ancestors: [Pid<n@h.")
    assert links.startswith("Links: [Pid<n@h.")
    assert supervisor[0] == "beamnode.supervisor"
    assert not any("Traceback" in line for line in supervisor[1])
    assert supervisor[1][1].startswith(f"Reason: ValueError: wrong ({__file__}:")
    assert supervisor[1][1].endswith(", in handle_cast)")


def test_a_server_that_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(ProcessExit):
            await Failing.start(-1)

    [(name, lines)] = reports(caplog, main)
    assert name == "beamnode.process"
    assert lines[0].endswith("(Failing.init/1) crashed: ValueError('negative')")
    assert "Ancestors: [Pid<n@h.6.0>]" in lines


def test_what_goes_well_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        top = await Supervisor.start_link([(Failing, 1)], strategy="one_for_one")
        pid = await Failing.start()
        await GenServer.stop(pid)
        exit(spawn(receive_forever), a.whatever)
        await ended()
        await Supervisor.stop(top)

    assert reports(caplog, main) == []


async def receive_forever() -> None:
    await receive(lambda _: False)


def test_progress_is_there_for_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Supervisor.start_link([(Failing, 1)], strategy="one_for_one", name="top")

    lines = [lines for name, lines in reports(caplog, main, logging.DEBUG) if name == "beamnode.supervisor"]
    assert any("Supervisor top: started" in line for [line, *_] in lines)


def test_an_exception_that_cannot_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        spawn(says_nothing)
        GenServer.cast(await Failing.start(), Unspeakable())
        await ended()

    first, second = reports(caplog, main)
    assert first[1][0].endswith("crashed: Unspeakable")
    assert " has ended: Unspeakable" in second[1][0]
    assert "State: number=0" in second[1]


def test_reasons_in_words() -> None:
    frame = (a.mod, a.fun, [], [(a.file, list(b"mod.py")), (a.line, 3)])
    assert reason_text(((a.ValueError, b"two\nlines"), [frame])) == r"ValueError: two\nlines (mod.py:3, in fun)"
    assert reason_text(((a.E, b""), [(a.mod, a.fun, [], [(a.file, [a.x]), (a.line, 3)])])) == "E:  (in fun)"
    assert reason_text(((a.E, b"x" * 1000), [frame])).count("x") == 500
    assert reason_text((a.shutdown, 1)) == "(Atom('shutdown'), 1)"
