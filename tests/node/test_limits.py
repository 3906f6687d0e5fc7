"""Limits that the node itself enforces, one by one: at the bound, one past it, and what the log says."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, expect, play, until

from beamnode import (
    Epmd,
    Limits,
    Node,
    Pid,
    SpawnError,
    UsageError,
    a,
    demonitor,
    exit,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    trap_exit,
)
from beamnode.errors import NotAllowedByPeer
from beamnode.limits import MAY_BE_NONE
from beamnode.node.limit_log import LimitLog
from beamnode.node.pending import Pending, source_of
from beamnode.node.throttle import Throttle
from beamnode.otp import gen
from beamnode.spells import LINES_PER_SPELL, SPELL_SECONDS, SPELLS_MAX, Spells

pytestmark = pytest.mark.filterwarnings("error")

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"


def lines(caplog: pytest.LogCaptureFixture, limit: str) -> list[str]:
    """What the log says of that limit."""
    return [record.getMessage() for record in caplog.records if record.__dict__.get("limit") == limit]


def check_line(caplog: pytest.LogCaptureFixture, limit: str, value: int, who: str) -> None:
    """One line, which says who, which, how much, and what to do."""
    (line,) = lines(caplog, limit)
    assert line.startswith(f"{who}: "), line
    assert f"{limit} is {value}: " in line
    assert line.endswith(f"Node(limits=Limits({limit}=...))")


async def wait_for_ever(*_: Any) -> None:
    await receive()


# --- The set ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, None])
def test_a_limit_is_a_number(value: Any) -> None:
    for field in fields(Limits):
        if value is None and field.name in MAY_BE_NONE:
            assert getattr(Limits(**{field.name: None}), field.name) is None
            continue
        with pytest.raises(UsageError, match=field.name):
            Limits(**{field.name: value})


def test_the_limits_of_a_node_are_limits() -> None:
    with pytest.raises(UsageError, match=r"limits is a Limits\(...\), with those to change as keywords, not {"):
        Node("n@h", limits={"connections_max": 1})  # type: ignore[arg-type]


def test_every_limit_is_in_the_documentation() -> None:
    """With the default that it has."""
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*?) \|", DOCS.read_text(), re.MULTILINE))
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

    def value(text: str) -> int | None:
        if text == "None":
            return None
        number, _, unit = text.partition(" ")
        return int(number.replace(",", "")) * units.get(unit, 1)

    assert {name: value(text) for name, text in rows.items()} == {
        field.name: getattr(Limits(), field.name) for field in fields(Limits)
    }


# --- The log ----------------------------------------------------------------------------------------------------------


def test_a_line_a_spell(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = LimitLog(Limits(), lambda: now)
    for _ in range(1000):
        log.hit("connections_max", "a@h", "it connects", "refused")
    log.hit("connections_max", "b@h", "it connects", "refused")
    log.hit("ties_per_peer_max", "a@h", "it monitors", "refused")
    assert len(caplog.records) == 3
    now = SPELL_SECONDS - 0.01
    log.hit("connections_max", "a@h", "it connects", "refused")
    assert len(caplog.records) == 3
    now = SPELL_SECONDS
    log.hit("connections_max", "a@h", "it connects", "refused")
    assert "(1000 more like this since the last line)" in caplog.records[-1].getMessage()
    assert caplog.records[-1].__dict__["limit_value"] == Limits().connections_max


def test_whoever_invents_names_gets_few_lines_and_little_memory() -> None:
    now = 0.0
    spells = Spells(lambda: now)
    said = [spells.worth_a_line("connections_max", f"evil{number}@h") for number in range(10_000)]
    assert sum(each is not None for each in said) == LINES_PER_SPELL
    assert len(spells._spells) <= SPELLS_MAX
    now = SPELL_SECONDS
    assert spells.worth_a_line("connections_max", "last@h") == 10_000 - LINES_PER_SPELL
    for turn in range(100):
        now += SPELL_SECONDS
        for number in range(LINES_PER_SPELL):
            assert spells.worth_a_line("connections_max", f"{turn} {number}") == 0
    assert len(spells._spells) == SPELLS_MAX


# --- Handshakes -------------------------------------------------------------------------------------------------------


def test_who_goes_when_there_are_too_many_handshakes() -> None:
    pending: Pending[int] = Pending(Limits(handshakes_pending_max=6, handshakes_per_address_max=3))
    flood, other = ("10.0.0.1", 1), ("10.0.0.2", 2)
    assert [pending.add(number, flood) for number in range(3)] == [None] * 3
    excess = pending.add(3, flood)
    assert excess is not None
    assert (excess.oldest, excess.address, excess.count) == (0, "10.0.0.1", 4)
    assert excess.limit == "handshakes_per_address_max"
    pending.discard(0)
    pending.discard(0)
    for number in range(10, 13):
        assert pending.add(number, (f"10.0.1.{number}", 1)) is None
    assert len(pending) == 6
    excess = pending.add(20, other)  # all that there may be: the one that has most loses one
    assert excess is not None
    assert (excess.oldest, excess.address, excess.limit) == (1, "10.0.0.1", "handshakes_pending_max")


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("10.0.0.1", 4369), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (("::ffff:10.0.0.1", 1), "10.0.0.1"),
        (("", 0), ""),
        (("/run/node.sock", 0), ""),
        ((), ""),
    ],
)
def test_what_is_one_source(address: Any, source: str) -> None:
    assert source_of(address) == source


def half_open(node: Node, source: str) -> socket.socket:
    assert node.listen_address is not None
    return socket.create_connection((HOST, node.listen_address[1]), timeout=5, source_address=(source, 0))


async def is_closed(dialled: socket.socket) -> bool:
    dialled.settimeout(0)
    try:
        return await asyncio.to_thread(lambda: dialled.recv(1) == b"")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def open_ones(dialled: list[socket.socket]) -> list[socket.socket]:
    return [each for each in dialled if not await is_closed(each)]


def test_a_flood_from_one_address_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        limits = Limits(handshakes_pending_max=6, handshakes_per_address_max=4)
        async with cluster.node(limits=limits) as one, cluster.node() as two:
            others = [half_open(one, "127.0.0.3"), half_open(one, "127.0.0.4")]
            await until(lambda: len(one.network._accepting) == 2)
            flood = [half_open(one, "127.0.0.2") for _ in range(40)]
            while len(await open_ones(flood)) > 4:
                await asyncio.sleep(0.01)
            assert len(one.network._accepting) == 6
            for dialled in others:
                assert not await is_closed(dialled)
            assert await two.connect(one.name)
            more = [half_open(one, "127.0.0.5") for _ in range(2)]  # too many in all: the flood pays
            await until(lambda: len(one.network._accepting._by_address.get("127.0.0.5", {})) == 2)
            while len(await open_ones(flood)) > 2:
                await asyncio.sleep(0.01)
            assert await open_ones([*others, *more]) == [*others, *more]
            for dialled in (*others, *more, *flood):
                dialled.close()

    play(main)
    check_line(caplog, "handshakes_per_address_max", 4, "127.0.0.2")
    assert len(lines(caplog, "handshakes_pending_max")) <= 2


# --- Connections ------------------------------------------------------------------------------------------------------


def test_connections_in_all(caplog: pytest.LogCaptureFixture) -> None:
    """Refused is who comes then; who is connected may come again; a program may still connect itself."""

    async def main(cluster: Cluster) -> None:
        async with (
            cluster.node(limits=Limits(connections_max=2), connect_all=False) as one,
            cluster.node(connect_all=False) as two,
            cluster.node(connect_all=False) as three,
            cluster.node(connect_all=False) as four,
        ):
            for node in (two, three):
                assert await node.connect(one.name)
            for _ in range(3):
                assert not await four.connect(one.name)
            assert isinstance(four.connect_error(one.name), NotAllowedByPeer)
            send(("nobody", four.name), 1)
            assert sorted(one.list()) == [two.name, three.name]
            await one.run_process(poke, four.name)  # because of what a peer may have had it do
            assert four.name not in one.list()
            assert await one.connect(four.name)
            assert len(one.list()) == 3
            await four.disconnect(one.name)
            await three.disconnect(one.name)
            await until(lambda: len(one.list()) == 1)
            assert await four.connect(one.name)

    play(main)
    said = lines(caplog, "connections_max")
    assert {line.partition(":")[0] for line in said} == {f"n4@{HOST}"}
    assert len(said) == 1


async def poke(node: Any) -> None:
    send(("nobody", node), a.hello)
    reference = monitor(("nobody", node))
    assert (await expect())[1:] == (reference, a.process, (a.nobody, node), a.noconnection)


def test_two_at_once_are_one_too_many() -> None:
    """Both were told that they may go on: the one that proves itself second is closed all the same."""

    async def main(cluster: Cluster) -> None:
        async with cluster.node(limits=Limits(connections_max=1), connect_all=False) as one:
            nodes = [cluster.node(connect_all=False) for _ in range(5)]
            for node in nodes:
                await node.start()
            connected = await asyncio.gather(*(node.connect(one.name) for node in nodes))
            assert connected.count(True) == 1
            assert len(one.list()) == 1
            for node in nodes:
                await node.shut_down()

    play(main)


class SomeAreSilent(Epmd):
    """Finds whoever is called `silent...` where somebody takes connections, and says nothing."""

    async def resolve(self, alive: str, host: str) -> tuple[str, int]:
        return (HOST, self.silent_port) if alive.startswith("silent") else await super().resolve(alive, host)

    silent_port = 0


def test_net_kernel_dials_for_peers_within_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        silent = socket.create_server((HOST, 0))
        found = SomeAreSilent(cluster.epmd_port)
        found.silent_port = silent.getsockname()[1]
        limits = Limits(dials_pending_max=3)
        async with cluster.node(limits=limits, net_setuptime=0.5, discovery=found) as one, cluster.node() as two:
            assert await two.connect(one.name)

            async def ask(name: str) -> Any:
                return await gen.call(("net_kernel", one.name), gen.CALL, (a.connect, a.normal, a[name]), 10)

            asking = [asyncio.ensure_future(two.run_process(ask, f"silent{number}@{HOST}")) for number in range(3)]
            await until(lambda: len(one.network._dialling) == 3)
            assert await two.run_process(ask, f"one_more@{HOST}") is False
            assert await two.run_process(ask, f"silent0@{HOST}") is False  # who waits counts, too
            assert len(one.network._dialling) == 3
            assert await asyncio.gather(*asking) == [False] * 3
        silent.close()

    play(main)
    check_line(caplog, "dials_pending_max", 3, f"n2@{HOST}")


# --- Processes and ties -----------------------------------------------------------------------------------------------


def test_processes_of_one_peer(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        limits = Limits(processes_per_peer_max=3)
        async with cluster.node(limits=limits) as one, cluster.node() as two, cluster.node() as three:
            one.expose(wait_for_ever)
            spawned = [await three.spawn(one.name, wait_for_ever) for _ in range(3)]
            with pytest.raises(SpawnError) as raised:
                await three.spawn(one.name, "test_limits", "wait_for_ever", [])
            assert raised.value.reason is a.system_limit
            assert await two.run_process(call_by_message, two, one) == 0  # another peer has its own
            assert await three.run_process(call_by_message, three, one) is a.system_limit
            reference = monitor(spawned[0])
            exit(spawned[0], a.kill)
            assert (await expect())[1] == reference
            assert one.runtime.signals.guests.count(three.name) == 2
            await three.spawn(one.name, wait_for_ever)
            await three.stop()  # they run on, and count on
            assert one.runtime.signals.guests.count(three.name) == 3
            await three.start()
            with pytest.raises(SpawnError):
                await three.spawn(one.name, wait_for_ever)
            one.runtime.signals.guests.limits = Limits()
        assert one.runtime.signals.guests.of == {}
        assert one.runtime.signals.guests._counts == {}

    play(main)
    check_line(caplog, "processes_per_peer_max", 3, f"n3@{HOST}")


async def call_by_message(_: Node, where: Node) -> Any:
    """A call as C nodes make it: a number, or why not."""
    send(("rex", where.name), (self(), (a.call, a.erlang, a.node, [], a.user)))
    match await expect():
        case (a.rex, (a.badrpc, reason)):
            return reason
        case (a.rex, name):
            assert name is where.name
            return 0


def test_links_and_monitors_of_one_peer(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(limits=Limits(ties_per_peer_max=4)) as one, cluster.node() as two:
            one.expose(wait_for_ever)
            target = await one.run_process(sleeper)
            await until(lambda: two.name not in one.list() or not one.runtime.signals._ties.get(two.name))

            async def attack() -> None:
                trap_exit(True)
                before = ties(one, two)
                mine = [monitor(target) for _ in range(4 - before)]
                send(target, a.hello)
                await until(lambda: ties(one, two) == 4)
                late = monitor(target)
                assert await expect() == (a.DOWN, late, a.process, target, a.system_limit)
                link(target)
                assert await expect() == (a.EXIT, target, a.system_limit)
                with pytest.raises(SpawnError) as raised:
                    await two.spawn_link(one.name, wait_for_ever)
                assert raised.value.reason is a.system_limit
                pid = await two.spawn(one.name, wait_for_ever)  # without a tie
                exit(pid, a.kill)
                demonitor(mine[0])
                link(target)
                await until(lambda: ties(one, two) == 4)
                exit(target, a.kill)
                got = [await expect() for _ in mine]
                assert (a.EXIT, target, a.killed) in got

            await two.run_process(attack)

    play(main)
    check_line(caplog, "ties_per_peer_max", 4, f"n2@{HOST}")


def ties(here: Node, peer: Node) -> int:
    found = here.runtime.signals._ties.get(peer.name)
    return 0 if found is None else len(found.watchers) + len(found.links)


async def sleeper() -> Pid:
    async def body() -> None:
        while True:
            await receive()

    return spawn(body)


# --- How fast, and how much -------------------------------------------------------------------------------------------


def test_the_throttle_lets_a_burst_pass_and_then_the_rate() -> None:
    throttle = Throttle(100)
    assert throttle.pause_seconds(100, 10.0) == pytest.approx(0)
    assert throttle.pause_seconds(150, 10.0) == pytest.approx(0.5)
    assert throttle.pause_seconds(150, 10.5) == pytest.approx(0)
    assert throttle.pause_seconds(160, 10.5) == pytest.approx(0.1)
    assert throttle.pause_seconds(160, 20.0) == pytest.approx(-1)  # no more than a burst is saved
    assert throttle.pause_seconds(360, 20.0) == pytest.approx(1)


def test_too_many_signals_wait_and_none_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The connection is not read for longer than the tick time, and is not taken for dead."""

    async def main(cluster: Cluster) -> None:
        limits = Limits(signals_per_second_max=400)
        async with cluster.node(limits=limits, net_ticktime=0.4) as one, cluster.node(net_ticktime=0.4) as two:
            got: list[int] = []
            counter = await one.run_process(counting, got)
            pauses = []

            async def flood() -> None:
                for number in range(1000):
                    send(counter, number)

            assert await two.connect(one.name)
            await two.run_process(flood)
            session = one.network.session(two.name)
            assert session is not None
            throttled = one.network.bounds.throttled
            one.network.bounds.throttled = lambda node: (pauses.append(node), throttled(node))[1]  # type: ignore[method-assign]
            await until(lambda: session._pause is not None)
            await until(lambda: len(got) == 1000)
            assert got == list(range(1000))
            assert one.network.session(two.name) is session
            await until(lambda: session._pause is None)
            assert await two.ping(one.name) is a.pong

    play(main)
    check_line(caplog, "signals_per_second_max", 400, f"n2@{HOST}")
    assert "lost" not in caplog.text.replace("nothing is lost", "")


async def counting(got: list[int]) -> Pid:
    async def body() -> None:
        while True:
            got.append(await receive())

    return spawn(body)


def test_a_mailbox_that_grows_is_written_about_when_it_doubles(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(limits=Limits(mailbox_warning_messages=10)) as one, cluster.node() as two:

            async def lazy() -> None:
                register("lazy", self())
                await asyncio.sleep(3600)

            async def flood(count: int) -> None:
                for _ in range(count):
                    send(("lazy", one.name), a.hello)

            process = one.runtime.spawn(lazy, ())
            total = 0
            for count in (9, 5, 5, 21, 100):
                await two.run_process(flood, count)
                total += count
                await until(lambda total=total: len(process.mailbox) == total)  # type: ignore[misc]
            assert await two.ping(one.name) is a.pong

    play(main)
    said = lines(caplog, "mailbox_warning_messages")
    counts = [int(line.split(" has ")[1].split()[0]) for line in said]
    assert counts[0] in range(10, 15)
    assert counts[1] in range(20, 41)
    assert 2 <= len(counts) <= 4
    assert all(later >= 2 * 10 for later in counts[1:])
    assert f"the last one from n2@{HOST}" in said[0]
    assert "lazy" in said[0]


def test_questions_to_user(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(limits=Limits(io_requests_max=3)) as one, cluster.node() as two:
            user = one.runtime.signals.whereis(a.user)
            assert user is not None

            async def ask() -> None:
                for number in range(5):
                    send(user.pid, (a.io_request, self(), number, (a.get_line, a.unicode, b"? ")))
                assert await expect() == (a.io_reply, 3, (a.error, a.system_limit))
                assert await expect() == (a.io_reply, 4, (a.error, a.system_limit))
                send(user.pid, (a.io_request, self(), 5, (a.put_chars, a.unicode, b"printed\n")))
                assert await expect(lambda got: got[1] == 5) == (a.io_reply, 5, a.ok)

            await two.run_process(ask)

    play(main)
    check_line(caplog, "io_requests_max", 3, f"n2@{HOST}")


def test_a_frame_that_is_too_large_says_what_to_raise(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(limits=Limits(frame_bytes_max=1000)) as one, cluster.node() as two:
            assert await two.connect(one.name)
            session = two.network.session(one.name)
            assert session is not None
            assert session._stream is not None
            session._stream.write([struct.pack(">I", 1001)])
            await until(lambda: two.list() == [])

    play(main)
    check_line(caplog, "frame_bytes_max", 1000, f"n2@{HOST}")


def test_a_handshake_frame_that_is_too_large_says_what_to_raise(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one:
            dialled = half_open(one, "127.0.0.2")
            dialled.sendall(b"\xff\xff")
            await until(lambda: lines(caplog, "handshake_frame_bytes_max"))
            dialled.close()

    with caplog.at_level(logging.INFO):
        play(main)
    check_line(caplog, "handshake_frame_bytes_max", 2048, "a peer at 127.0.0.2")
