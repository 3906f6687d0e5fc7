"""The memory network: the contract, and its faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from beamnode.carriers.memory import MemoryNetwork, _LastWord
from beamnode.errors import NetworkError, NodeNotFound, SetupTimeout
from contract import CarrierContract, Joined, Recorder, Site, until


def two_hosts(network: MemoryNetwork) -> Site:
    return Site(network.carrier("far"), network.carrier("near"), "far")


class TestMemory(CarrierContract):
    def site(self) -> Site:
        return two_hosts(MemoryNetwork())

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[tuple[Site, int]]:
        network = MemoryNetwork()
        network.stall("near", "far")
        yield two_hosts(network), 1024

    def half_close(self, stream: Any) -> bool:
        stream._last_word = _LastWord(None)
        stream.schedule()
        stream.lose(None)
        return True


@pytest.mark.one_python
class TestMemoryOnOneHost(TestMemory):
    def site(self) -> Site:
        carrier = MemoryNetwork().carrier("here")
        return Site(carrier, carrier, "here")


def test_the_same_order_every_time() -> None:
    async def main() -> list[tuple[int, bytes]]:
        seen: list[tuple[int, bytes]] = []
        network = MemoryNetwork()
        site = two_hosts(network)
        joins = [Joined(site) for _ in range(3)]
        for number, joined in enumerate(joins):
            await joined.__aenter__()
            joined.far.on_data = lambda data, number=number: seen.append((number, data))  # type: ignore[misc]
        for turn in range(5):
            for joined in reversed(joins):
                joined.near_stream.write([b"%d" % turn])
            await asyncio.sleep(0)
        await until(lambda: len(seen) >= 15)
        return seen

    first = asyncio.run(main())
    assert [number for number, _ in first[:3]] == [2, 1, 0]
    assert asyncio.run(main()) == first


def test_cut_breaks_both_ends_and_refuses_until_healed() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with Joined(two_hosts(network)) as joined:
            joined.near_stream.write([b"never arrives"])
            network.cut("near", "far")
            await until(lambda: bool(joined.near.lost and joined.far.lost))
            assert isinstance(joined.near.lost[0], NetworkError)
            assert isinstance(joined.far.lost[0], NetworkError)
            assert joined.far.received == b""
            another = await joined.site.listening.listen(Recorder().attach)
            dialling = joined.site.dialling
            with pytest.raises(NetworkError, match="refused"):
                await dialling.dial("far", another.port, Recorder().attach, timeout=1)
            network.heal()
            (await dialling.dial("far", another.port, Recorder().attach, timeout=1)).close()

    asyncio.run(main())


def test_cut_concerns_one_pair_of_hosts() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with Joined(two_hosts(network)) as joined:
            network.cut("near", "elsewhere")
            joined.near_stream.write([b"arrives"])
            await until(lambda: joined.far.received == b"arrives")

    asyncio.run(main())


def test_stall_delays_bytes_ends_and_dialling() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with Joined(two_hosts(network)) as joined:
            network.stall("far", "near")
            joined.near_stream.write([b"late"])
            joined.near_stream.close()
            port = (await joined.site.listening.listen(Recorder().attach)).port
            with pytest.raises(SetupTimeout, match=r"far:\d+: no answer within 0.05 s"):
                await joined.site.dialling.dial("far", port, Recorder().attach, timeout=0.05)
            assert joined.far.received == b""
            assert joined.far.lost == []
            waiting = asyncio.create_task(joined.site.dialling.dial("far", port, Recorder().attach, timeout=5))
            await asyncio.sleep(0.01)
            network.heal()
            (await waiting).close()
            await until(lambda: joined.far.lost == [None])
            assert joined.far.received == b"late"

    asyncio.run(main())


def test_cut_after_stall_loses_what_was_on_the_road() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with Joined(two_hosts(network)) as joined:
            network.stall("far", "near")
            joined.near_stream.write([b"lost"])
            joined.near_stream.close()
            network.cut("far", "near")
            network.heal()
            await until(lambda: bool(joined.far.lost))
            assert joined.far.received == b""

    asyncio.run(main())


def test_cut_before_the_accepted_side_was_opened() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        site = two_hosts(network)
        near, far = Recorder(), Recorder()
        listener = await site.listening.listen(far.attach)

        def attach_and_cut(stream: Any) -> Recorder:
            network.cut("near", "far")
            return near.attach(stream)

        await site.dialling.dial("far", listener.port, attach_and_cut, timeout=1)
        await until(lambda: bool(near.lost and far.lost))
        assert all(isinstance(error, NetworkError) for error in near.lost + far.lost)

    asyncio.run(main())


def test_no_such_host() -> None:
    async def main() -> None:
        with pytest.raises(NodeNotFound, match="nowhere:9: there is no such host"):
            await MemoryNetwork().carrier("near").dial("nowhere", 9, Recorder().attach, timeout=1)

    asyncio.run(main())


def test_nothing_is_kept_of_streams_that_ended() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        for how in ("close", "abort"):
            async with Joined(two_hosts(network)) as joined:
                joined.far_stream.write([b"x" * 100_000])
                getattr(joined.near_stream, how)()
        await asyncio.sleep(0.01)
        assert network._streams == {}

    asyncio.run(main())
