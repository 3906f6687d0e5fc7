"""otp/partition_supervisor.py: partitions of one node of ours, and how a key leads to one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode import (
    Atom,
    EncodeError,
    FixedPort,
    GenServer,
    Node,
    Pid,
    ProcessExit,
    StartFailed,
    Stop,
    UsageError,
    a,
    exit,
    monitor,
    receive,
    self,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.errors import NoProcessError
from beamnode.etf import decode, encode
from beamnode.node import current_body
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.partition_supervisor import PartitionSupervisor, partition_of
from beamnode.otp.supervisor import Supervisor, SupervisorError

pytestmark = pytest.mark.filterwarnings("error")

WAIT_SECONDS = 10.0


def in_a_node(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        carrier = MemoryNetwork().carrier("h")
        async with Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1)):
            await main()

    asyncio.run(whole())


class Teller(GenServer):
    """Tells what it was started with, and who it is."""

    fails = False

    def init(self, *args: Any) -> None:
        if Teller.fails:
            raise Stop(a.broken)
        self.args = list(args)

    def handle_call(self, request: Any, sender: Any) -> Any:
        return self.args

    def handle_info(self, message: Any) -> None:
        self.args.append(message)


def via(key: Any, name: Any = "parts") -> Any:
    return ("via", PartitionSupervisor, (name, key))


async def pids(name: Any = "parts") -> dict[Any, Any]:
    return {number: pid for number, pid, _, _ in await PartitionSupervisor.which_children(name)}


async def end_of(pid: Pid) -> Any:
    reference = monitor(pid)
    return (await receive(lambda got: got[1] == reference, timeout=WAIT_SECONDS))[4]


def tables() -> dict[Pid, Any]:
    found: dict[Pid, Any] = current_body().runtime.tables.get("partition_supervisor", {})
    return found


def test_calls_find_their_partition() -> None:
    async def main() -> None:
        top = await PartitionSupervisor.start_link((Teller, a.x), name="parts", partitions=3)
        found = await pids()
        assert set(found) == {0, 1, 2}
        for key in (0, 1, 2, 3, 7, -4, 10**30):
            assert GenServer.whereis(via(key)) == found[abs(key) % 3]
            assert await GenServer.call(via(key), a.get) == [a.x]
        others: list[Any] = [self(), a.key, "key", ("a", 1), [1, {"b": 2}], 1.5, True, None]
        for key in others:
            assert GenServer.whereis(via(key)) == found[partition_of(key, 3)]
        PartitionSupervisor.send(("parts", 1), a.hello)
        assert await GenServer.call(via(1), a.get) == [a.x, a.hello]
        assert PartitionSupervisor.partitions("parts") == 3
        assert await PartitionSupervisor.count_children("parts") == {
            "specs": 3,
            "active": 3,
            "supervisors": 0,
            "workers": 3,
        }
        module = Atom(f"{__name__}.Teller")
        assert (await PartitionSupervisor.which_children(top))[0] == (2, found[2], a.worker, [module])
        await PartitionSupervisor.stop("parts")
        assert GenServer.whereis(via(1)) is None
        assert tables() == {}
        with pytest.raises(ProcessExit):
            await GenServer.call(via(1), a.get)
        with pytest.raises(ProcessExit):
            PartitionSupervisor.partitions("parts")
        with pytest.raises(NoProcessError):
            PartitionSupervisor.send(("parts", 1), a.hello)

    in_a_node(main)


def test_as_many_as_there_are_cpus() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(Teller, name="parts")
        assert PartitionSupervisor.partitions("parts") == os.cpu_count()

    in_a_node(main)


def test_arguments_of_each_partition() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(
            (Teller, a.x), name="parts", partitions=2, with_arguments=lambda args, partition: [*args, partition]
        )
        assert [await GenServer.call(via(key), a.get) for key in (0, 1)] == [[a.x, 0], [a.x, 1]]

    in_a_node(main)


def test_a_partition_that_was_started_again_is_found() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(Teller, name="parts", partitions=2)
        before = await pids()
        exit(before[1], a.kill)
        await end_of(before[1])
        after = await pids()
        assert (after[0], GenServer.whereis(via(1))) == (before[0], after[1])
        assert after[1] != before[1]
        assert await GenServer.call(via(1), a.get) == []

    in_a_node(main)


def test_resizing() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(Teller, name="parts", partitions=4)
        before = await pids()
        assert await PartitionSupervisor.resize("parts", 2) == 4
        assert PartitionSupervisor.partitions("parts") == 2
        assert GenServer.whereis(via(3)) == before[1]
        assert await pids() == {0: before[0], 1: before[1], 2: None, 3: None}
        assert await PartitionSupervisor.resize("parts", 2) == 2
        assert await PartitionSupervisor.resize("parts", 3) == 2
        new = GenServer.whereis(via(2))
        assert new not in (None, before[2])
        assert await PartitionSupervisor.resize("parts", 0) == 3
        with pytest.raises(UsageError, match="zero partitions"):
            GenServer.whereis(via(0))
        assert await PartitionSupervisor.resize("parts", 4) == 0
        assert None not in (await pids()).values()
        for wrong in (5, -1, 1.5):
            with pytest.raises(UsageError, match="0 to 4"):
                await PartitionSupervisor.resize("parts", wrong)  # type: ignore[arg-type]
        await PartitionSupervisor.resize("parts", 3)
        Teller.fails = True
        try:
            with pytest.raises(SupervisorError, match="partition 3 does not start") as failure:
                await PartitionSupervisor.resize("parts", 4)
        finally:
            Teller.fails = False
        assert failure.value.reason is a.broken
        assert PartitionSupervisor.partitions("parts") == 3

    in_a_node(main)


def test_dynamic_supervisors_as_partitions() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(DynamicSupervisor, name="parts", partitions=2)
        child = await DynamicSupervisor.start_child(via(self()), (Teller, 1))
        assert await GenServer.call(child, a.get) == [1]
        counts = [await DynamicSupervisor.count_children(via(key)) for key in (0, 1)]
        assert sorted(each["active"] for each in counts) == [0, 1]

    in_a_node(main)


def test_below_a_supervisor_and_under_a_via_name() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(Inner, name="outer", partitions=1)
        spec = PartitionSupervisor.child_spec(Teller, name="parts", partitions=2)
        assert spec["id"] is a.parts
        top = await Supervisor.start_link([spec], strategy="one_for_one")
        [(_, pid, kind, _)] = await Supervisor.which_children(top)
        assert (pid, kind) == (whereis("parts"), a.supervisor)
        inner = via(5, "outer")  # a PartitionSupervisor that is a partition
        assert PartitionSupervisor.partitions(inner) == 3
        assert isinstance(GenServer.whereis(via(1, inner)), Pid)
        first = whereis("parts")
        assert first is not None
        exit(first, a.kill)
        await end_of(first)
        await Supervisor.count_children(top)  # when that is answered, it has been started again
        assert set(tables()) == {whereis("parts"), whereis("outer"), GenServer.whereis(inner)}

    in_a_node(main)


class Inner(PartitionSupervisor):
    @classmethod
    async def start_link(cls, *args: Any, **options: Any) -> Pid:
        return await PartitionSupervisor.start_link(Teller, name="inner", partitions=3)


def test_a_partition_that_does_not_start() -> None:
    async def main() -> None:
        trap_exit()
        Teller.fails = True
        try:
            with pytest.raises(StartFailed) as failure:
                await PartitionSupervisor.start_link(Teller, name="parts", partitions=2)
        finally:
            Teller.fails = False
        assert failure.value.reason == (a.shutdown, (a.failed_to_start_child, 0, a.broken))
        assert tables() == {}

    in_a_node(main)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"partitions": 0}, "partitions is"),
        ({"partitions": True}, "partitions is"),
        ({"name": 5}, "registered under"),
        ({"with_arguments": lambda args, partition: partition}, "with_arguments"),
        ({"strategy": "none"}, "strategy"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match=text):
            await PartitionSupervisor.start_link(Teller, **{"name": "parts", **options})

    in_a_node(main)


def test_names_that_cannot_be() -> None:
    async def main() -> None:
        await PartitionSupervisor.start_link(Teller, name="parts", partitions=2)
        with pytest.raises(StartFailed, match="finds what is started"):
            await Teller.start(name=via(1))
        with pytest.raises(UsageError):
            PartitionSupervisor.unregister_name(("parts", 1))
        with pytest.raises(UsageError, match="key"):
            GenServer.whereis(("via", PartitionSupervisor, "parts"))
        with pytest.raises(EncodeError):
            GenServer.whereis(via(object()))
        await Teller.start(name="teller")
        assert GenServer.whereis(via(1, "teller")) is None
        assert GenServer.whereis(via(1, "nobody")) is None

    in_a_node(main)


def test_two_nodes_have_nothing_in_common() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        one = Node("one@h", cookie="c", carrier=network.carrier("h"), discovery=FixedPort(1))
        two = Node("two@h2", cookie="c", carrier=network.carrier("h2"), discovery=FixedPort(1))
        async with one, two:
            done = asyncio.Event()

            async def on_one() -> None:
                await PartitionSupervisor.start_link(Teller, name="parts", partitions=2)
                await done.wait()

            async def on_two() -> None:
                assert GenServer.whereis(via(1)) is None
                await PartitionSupervisor.start_link(Teller, name="parts", partitions=3)
                assert PartitionSupervisor.partitions("parts") == 3
                done.set()

            await asyncio.gather(one.run_process(on_one), two.run_process(on_two))

    asyncio.run(main())


terms = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.binary(), inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@given(terms, st.integers(1, 100))
def test_a_key_leads_to_one_partition_wherever_it_comes_from(key: Any, partitions: int) -> None:
    number = partition_of(key, partitions)
    assert 0 <= number < partitions
    assert partition_of(decode(encode(key)), partitions) == number
    if isinstance(key, dict):
        assert partition_of(dict(reversed(key.items())), partitions) == number


def test_the_hash_stays_what_it_is() -> None:
    """Between releases too: state may be kept elsewhere by partition."""
    keys: list[Any] = [a.key, "key", b"key", (1, 2), [1, 2], {a.x: 1, a.y: 2}, 1.5, True, None]
    assert [partition_of(key, 1000) for key in keys] == [807, 750, 750, 615, 656, 261, 804, 531, 715]


def test_keys_spread() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(f"key {number}", 8)] += 1
    assert min(counts) > 800
