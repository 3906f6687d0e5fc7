"""rpc and erpc of real nodes against ours, and ours against theirs."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rpc_functions
from rpc_support import HOST, RpcWorld, until

from beamnode import (
    Atom,
    Node,
    RemoteError,
    RemoteExit,
    RemoteThrow,
    RpcFailed,
    SpawnError,
    a,
    exit,
    receive,
    register,
    self,
    send,
    trap_exit,
)
from beamnode.testing.peers import Otp

pytestmark = pytest.mark.otp

FUNCTIONS_FILE = Path(rpc_functions.__file__)
BOOM_LINE = 1 + next(i for i, line in enumerate(FUNCTIONS_FILE.read_text().splitlines()) if "raise ValueError" in line)


@pytest.fixture(scope="module")
def world(otp: Otp) -> Iterator[RpcWorld]:
    with RpcWorld(otp) as world:
        yield world


def on_a_node(test: Callable[[RpcWorld, Node], Awaitable[None]]) -> Callable[[RpcWorld], None]:
    """The test is the body of a node that exposes `rpc_functions` as `py`."""

    def run(world: RpcWorld) -> None:
        async def main() -> None:
            async with world.node() as node:
                node.expose(rpc_functions, module="py")
                rpc_functions.marks.clear()
                await test(world, node)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


# --- They call us -----------------------------------------------------------------------------------------------------


@on_a_node
async def test_every_way_to_call(world: RpcWorld, node: Node) -> None:
    for source, result in (
        ("rpc:call(N, py, sqrt, [4])", 2.0),
        ("rpc:call(N, py, add, [4, 5], 5000)", 9),
        ("erpc:call(N, py, sqrt, [4])", 2.0),
        ("erpc:call(N, erlang, apply, [py, add, [1, 2]])", 3),
        ("rpc:block_call(N, py, sqrt, [4])", 2.0),
        ("rpc:yield(rpc:async_call(N, py, sqrt, [9]))", 3.0),
        ("rpc:multicall([N, N], py, add, [1, 2])", ([3, 3], [])),
        ("erpc:multicall([N, nobody@nowhere], py, sqrt, [4], 5000)",
         [(a.ok, 2.0), (a.error, (a.erpc, a.noconnection))]),
        ("erpc:receive_response(erpc:send_request(N, py, sqrt, [9]))", 3.0),
        ("erpc:wait_response(erpc:send_request(N, py, sqrt, [9]), 5000)", (a.response, 3.0)),
        ("R = erpc:send_request(N, py, add, [1, 1]), receive M -> erpc:check_response(M, R) end", (a.response, 2)),
        ("gen_server:call({rex, N}, {call, py, sqrt, [4], group_leader()})", 2.0),
        ("rpc:cast(N, py, sqrt, [4])", True),
        ("{rex, N} ! {self(), {call, py, sqrt, [4], user}}, receive X -> X end", (a.rex, 2.0)),
    ):  # fmt: skip
        assert await world.erl(with_n(source, node)) == result


def with_n(source: str, node: Node) -> str:
    return f"(fun (N) -> {source} end)('{node.name}')"


@on_a_node
async def test_casts(world: RpcWorld, node: Node) -> None:
    node.expose(rpc_functions.marks.append, module="py", name="mark")
    for source in (
        "erpc:cast(N, py, mark, [1])",
        "erpc:multicast([N], py, mark, [2])",
        "rpc:cast(N, py, mark, [3])",
        "rpc:eval_everywhere([N], py, mark, [4])",
        "gen_server:cast({rex, N}, {cast, py, mark, [5], group_leader()})",
    ):
        await world.erl(with_n(source, node))
    await until(lambda: sorted(rpc_functions.marks) == [1, 2, 3, 4, 5])


@on_a_node
async def test_messages_by_name(world: RpcWorld, node: Node) -> None:
    register("me", self())
    assert await world.erl(with_n("rpc:sbcast([N], me, hello)", node)) == ([node.name], [])
    assert await receive(timeout=5) is a.hello
    assert await world.erl(with_n("rpc:sbcast([N], nobody, hello)", node)) == ([], [node.name])
    assert await world.erl(with_n("rpc:multi_server_call([N], nobody, hello)", node)) == ([], [node.name])
    asked = asyncio.create_task(world.erl(with_n("rpc:multi_server_call([N], me, hello)", node)))
    sender, request = await receive(timeout=5)
    assert request is a.hello
    send(sender, (a.me, node.name, a.answer))
    assert await asked == ([a.answer], [])
    asked = asyncio.create_task(world.erl(with_n("rpc:server_call(N, me, me, hello)", node)))
    sender, request = await receive(timeout=5)
    send(sender, (a.me, node.name, a.again))
    assert await asked is a.again


@on_a_node
async def test_an_exception(world: RpcWorld, node: Node) -> None:
    line = [(a.file, list(str(FUNCTIONS_FILE).encode())), (a.line, BOOM_LINE)]
    boom = (a.rpc_functions, a.boom, [], line)
    assert await world.erl(with_n("rpc:call(N, py, boom, [4])", node)) == (
        a.badrpc, (a.EXIT, ((a.ValueError, b"no 4"), [boom])))  # fmt: skip
    assert await world.erl(with_n("rpc:block_call(N, py, boom, [4])", node)) == (
        a.badrpc, (a.EXIT, ((a.ValueError, b"no 4"), [boom])))  # fmt: skip
    caught = "try erpc:call(N, py, boom_async, [4]) catch C:{exception, R, S} -> {C, R, S} end"
    kind, reason, stack = await world.erl(with_n(caught, node))
    assert (kind, reason) == (a.error, (a.ValueError, b"no 4"))
    assert stack[0] == boom
    assert stack[1][:2] == (a.rpc_functions, a.boom_async)
    assert len(stack) == 2
    wrong_arity = await world.erl(with_n("rpc:call(N, py, sqrt, [1, 2])", node))
    assert wrong_arity[1][1][0][0] is a.TypeError
    assert wrong_arity[1][1][1] == [(a.py, a.sqrt, 2, [])]


@on_a_node
async def test_the_other_ends(world: RpcWorld, node: Node) -> None:
    for call, rpc, erpc in (
        ("throw, [{a, 1}]", (a.a, 1), (a.throw, (a.a, 1))),
        ("leave, [{a, 1}]", (a.badrpc, (a.EXIT, (a.a, 1))), (a.exit, (a.exception, (a.a, 1)))),
        ("end_python, []", (a.badrpc, (a.EXIT, (a.SystemExit, 3))), (a.exit, (a.exception, (a.SystemExit, 3)))),
    ):
        assert await world.erl(with_n(f"rpc:call(N, py, {call})", node)) == rpc
        assert await world.erl(with_n(f"try erpc:call(N, py, {call}) catch C:R -> {{C, R}} end", node)) == erpc
    for call in ("no_term", "throw_no_term"):
        for way in ("rpc:call", "rpc:block_call"):
            badrpc, (_, ((badarg, text), *_)) = await world.erl(with_n(f"{way}(N, py, {call}, [])", node))
            assert (badrpc, badarg) == (a.badrpc, a.badarg)
            assert b"no term" in text
    answer = await world.erl(with_n("rpc:call(N, py, stop_iteration, [])", node))
    assert b"StopIteration" in answer[1][1][0][1]
    assert await node.ping(world.name) is a.pong


@on_a_node
async def test_what_is_not_exposed(world: RpcWorld, node: Node) -> None:
    began = time.monotonic()
    undef = (a.undef, [(a.os, a.system, [b"true"], [])])
    assert await world.erl(with_n('rpc:call(N, os, system, [<<"true">>])', node)) == (a.badrpc, (a.EXIT, undef))
    assert await world.erl(with_n("rpc:block_call(N, os, system, [<<\"true\">>])", node)) == (
        a.badrpc, (a.EXIT, undef))  # fmt: skip
    caught = 'try erpc:call(N, os, system, [<<"true">>]) catch error:{exception, R, S} -> {R, S} end'
    assert await world.erl(with_n(caught, node)) == undef
    for fun in ("fun () -> 1 end", "fun os:getenv/0"):
        caught = f"try erpc:call(N, {fun}) catch error:{{exception, R, _}} -> R end"
        assert await world.erl(with_n(caught, node)) is a.undef
    assert time.monotonic() - began < 5


def test_refusals_are_logged(world: RpcWorld, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.node() as node:
            await world.erl(with_n("rpc:call(N, os, system, [1])", node))

    asyncio.run(main())
    assert "refused os:system/1 to b@127.0.0.1: it is not exposed" in caplog.text


# --- Giving up --------------------------------------------------------------------------------------------------------


@on_a_node
async def test_who_times_out_cancels(world: RpcWorld, node: Node) -> None:
    for source in (
        "catch erpc:call(N, py, sleep, [30], 100)",
        "rpc:call(N, py, sleep, [30], 100)",
        "R = erpc:send_request(N, py, sleep, [30]), catch erpc:receive_response(R, 100)",
        "catch gen_server:call({rex, N}, {call, py, sleep, [30], group_leader()}, 100), ok",
        "P = spawn(fun () -> erpc:call(N, py, sleep, [30]) end), timer:sleep(100), exit(P, kill)",
        "P = spawn(fun () -> gen_server:call({rex, N}, {call, py, sleep, [30], self()}) end), "
        "timer:sleep(100), exit(P, kill)",
    ):
        rpc_functions.marks.clear()
        await world.erl(with_n(source, node))
        if "gen_server:call({rex, N}, {call, py, sleep, [30], group_leader()}, 100)" in source:
            continue  # as in OTP: the monitor is of the process, which lives on
        await until(lambda: rpc_functions.marks == ["cancelled"], source)


@on_a_node
async def test_a_lost_connection_cancels(world: RpcWorld, node: Node) -> None:
    await world.erl(with_n("spawn(fun () -> erpc:call(N, py, sleep, [30]) end)", node))
    await world.erl(with_n("spawn(fun () -> rpc:block_call(N, py, sleep, [30]) end)", node))
    await world.erl(with_n("{rex, N} ! {self(), {call, py, sleep, [30], user}}", node))
    await asyncio.sleep(0.2)
    await node.disconnect(world.name)
    await until(lambda: rpc_functions.marks == ["cancelled"] * 3)


@on_a_node
async def test_what_runs_in_a_thread_is_dropped(world: RpcWorld, node: Node) -> None:
    answer = await world.erl(with_n("rpc:call(N, py, sleep_in_thread, [0.4], 100)", node))
    assert answer == (a.badrpc, a.timeout)
    assert rpc_functions.marks == []
    await until(lambda: rpc_functions.marks == ["thread ended"])


@on_a_node
async def test_killed(world: RpcWorld, node: Node) -> None:
    """The process that answers can be killed, as any; its caller is told."""
    kill = asyncio.create_task(world.erl(with_n("rpc:block_call(N, py, sleep, [30])", node)))
    await until(lambda: worker(node) is not None)
    exit(worker(node).pid, a.kill)
    assert await kill == (a.badrpc, (a.EXIT, a.killed))


def worker(node: Node) -> Any:
    for process in node.runtime.signals.processes():
        if str(process.initial_call[1]).endswith("_call") and "Rex._call" in str(process.initial_call[1]):
            return process
    return None


# --- Where it runs ----------------------------------------------------------------------------------------------------


@on_a_node
async def test_threads_and_loop(world: RpcWorld, node: Node) -> None:
    in_main, pid = await world.erl(with_n("rpc:call(N, py, where, [])", node))
    assert in_main is False
    assert pid.node is node.name
    assert (await world.erl(with_n("rpc:call(N, py, where_async, [])", node)))[0] is True
    began = time.monotonic()
    parallel = "[rpc:yield(K) || K <- [rpc:async_call(N, py, sleep_in_thread, [0.3]) || _ <- [1, 2, 3, 4, 5]]]"
    assert await world.erl(with_n(parallel, node)) == [b"slept"] * 5
    assert time.monotonic() - began < 1.2


def test_one_thread(world: RpcWorld) -> None:
    """Calls wait for a thread; what is given up while it waits is never run."""

    async def main() -> None:
        async with world.node(call_threads=1) as node:
            node.expose(rpc_functions, module="py")
            rpc_functions.marks.clear()
            calls = "[erpc:send_request(N, py, sleep_in_thread, [0.3]) || _ <- [1, 2, 3]]"
            asker = f"Asker = spawn(fun () -> {calls}, receive stop -> ok end end), timer:sleep(100), exit(Asker, kill)"
            await world.erl(with_n(asker, node))
            await asyncio.sleep(0.9)
            assert rpc_functions.marks == ["thread ended"]
            assert await world.erl(with_n("rpc:call(N, py, sqrt, [4])", node)) == 2.0

    asyncio.run(main())


def test_calls_that_were_given_up_do_not_starve_later_ones(world: RpcWorld) -> None:
    async def main() -> None:
        async with world.node(call_threads=1) as node:
            node.expose(rpc_functions, module="py")
            rpc_functions.marks.clear()
            given_up = "(catch erpc:call(N, py, sleep_in_thread, [2], 50))"
            later = "rpc:call(N, py, sqrt, [4], 1000)"
            assert await world.erl(with_n(f"{given_up}, {given_up}, {later}", node)) == 2.0
            assert rpc_functions.marks == [], "both are still running"
            await asyncio.sleep(2)

    asyncio.run(main())


def test_computing_does_not_lose_the_node(world: RpcWorld) -> None:
    """Ten seconds (or more) of Python in a thread, at a net_ticktime of 4 s: others are answered, nobody goes."""

    async def main() -> None:
        async with world.node(net_ticktime=4) as node:
            node.expose(rpc_functions, module="py")
            await node.connect(world.name)
            node.monitor(world.name)
            long = asyncio.create_task(node.run_process(compute_for_them, world, node))
            slowest = 0.0
            while not long.done():
                began = time.monotonic()
                assert await world.erl(with_n("rpc:call(N, py, add, [1, 2], 5000)", node)) == 3
                slowest = max(slowest, time.monotonic() - began)
                assert node.list() == [world.name]
                await asyncio.sleep(0.2)
            assert await long > 1000
            assert slowest < 3
            assert await world.erl(f"lists:member('{node.name}', nodes())") is True

    asyncio.run(main())


async def compute_for_them(world: RpcWorld, node: Node) -> Any:
    mark = (a.computed, self())
    seconds = float(os.environ.get("BEAMNODE_COMPUTE_SECONDS", "10"))
    source = "spawn(fun () -> Owner ! {Mark, erpc:call(Node, py, compute, [Seconds])} end)"
    await world.erl(source, Owner=self(), Mark=mark, Node=node.name, Seconds=seconds)
    return (await receive(lambda message: message[0] == mark, timeout=seconds + 30))[1]


# --- We call them -----------------------------------------------------------------------------------------------------


@on_a_node
async def test_our_calls(world: RpcWorld, node: Node) -> None:
    assert await node.rpc(world.name, "erlang", "node") is world.name
    assert await node.rpc(world.name, "Elixir.Enum", "sum", [[1, 2, 3]]) == 6
    there = node.remote(world.name)
    assert await there.Elixir.Enum.sum([1, 2, 3]) == 6
    assert await there.erlang.node() is world.name
    assert await there.lists.reverse([1, 2]) == [2, 1]
    big = b"x" * 1_000_000
    assert await node.rpc(world.name, "erlang", "byte_size", [big]) == 1_000_000
    await node.rpc_cast(world.name, "erlang", "send", [self(), a.cast])
    assert await receive(timeout=5) is a.cast
    many = await asyncio.gather(*(there.erlang.abs(-number) for number in range(200)))
    assert many == list(range(200))


@on_a_node
async def test_our_calls_that_fail(world: RpcWorld, node: Node) -> None:
    there = node.remote(world.name)
    with pytest.raises(RemoteError) as error:
        await there.erlang.error((a.own, 1))
    assert error.value.reason == (a.own, 1)
    assert error.value.stack[0][:2] == (a.erlang, a.error)
    with pytest.raises(RemoteThrow, match="threw ball") as thrown:
        await there.erlang.throw(a.ball)
    assert thrown.value.reason is a.ball
    with pytest.raises(RemoteExit, match="exited: over") as ended:
        await there.erlang.exit(a.over)
    assert ended.value.reason is a.over
    with pytest.raises(RemoteError, match=r"nothing:f/2 on b@127.0.0.1 raised undef: there is no nothing:f/2") as undef:
        await there.nothing.f(1, 2)
    assert undef.value.reason is a.undef
    with pytest.raises(RemoteError, match=r"(?s)badarith.*at erlang:.*/2"):
        await there.erlang.div(1, 0)
    with pytest.raises(RemoteError, match=r"(?s)Enum.fetch!/2 on .* raised Enum.OutOfBoundsError.*at Enum.fetch!/2 \("):
        await getattr(there.Elixir.Enum, "fetch!")([1], 7)
    with pytest.raises(RemoteExit, match="was ended: killed"):
        await killed_there(node, world)


async def killed_there(node: Node, world: RpcWorld) -> None:
    """Call something that sleeps, and have its process killed."""
    call = asyncio.create_task(node.rpc(world.name, "timer", "sleep", [30000]))
    source = (
        "[exit(P, kill) || P <- processes(), element(2, process_info(P, initial_call)) =:= {erpc, execute_call, 4}]"
    )
    while not call.done():
        await world.erl(source)
        await asyncio.sleep(0.05)
    await call


@on_a_node
async def test_nobody_waits_any_more(world: RpcWorld, node: Node) -> None:
    with pytest.raises(TimeoutError, match=r"timer:sleep/1 on b@127.0.0.1 did not return within 0.2 s"):
        await node.rpc(world.name, "timer", "sleep", [30000], timeout=0.2)
    call = asyncio.create_task(node.rpc(world.name, "timer", "sleep", [30000]))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    monitors = "[M || P <- processes(), {monitored_by, Ps} <- [process_info(P, monitored_by)], M <- Ps, node(M) =:= N]"
    await asyncio.to_thread(world.peer.wait_until, f"(fun (N) -> {monitors} end)('{node.name}') =:= []")


@on_a_node
async def test_where_nobody_is(world: RpcWorld, node: Node) -> None:
    began = time.monotonic()
    with pytest.raises(
        RpcFailed, match=r"lists:reverse/1 on nobody@127.0.0.1 could not be called: epmd of .* knows no"
    ):
        await node.rpc(f"nobody@{HOST}", "lists", "reverse", [[]])
    with pytest.raises(RpcFailed):
        await node.rpc_cast(f"nobody@{HOST}", "lists", "reverse", [[]])
    assert time.monotonic() - began < 2
    call = asyncio.create_task(node.rpc(world.name, "timer", "sleep", [30000]))
    await asyncio.sleep(0.2)
    await node.disconnect(world.name)
    with pytest.raises(RpcFailed, match="the connection was lost"):
        await call


@on_a_node
async def test_multicalls(world: RpcWorld, node: Node) -> None:
    async with world.node() as other:
        for one in (node, other):
            one.expose(math.sqrt, module="math", name="sqrt")
        nodes = [node.name, other.name, world.name, Atom(f"nobody@{HOST}")]
        *good, bad = await node.multicall(nodes, "math", "sqrt", [4])
        assert good == [2.0] * 3
        assert isinstance(bad, RpcFailed)
        names = [f"'{name}'" for name in nodes]
        results = await world.erl(f"erpc:multicall([{', '.join(names)}], math, sqrt, [4])")
        assert results == [(a.ok, 2.0)] * 3 + [(a.error, (a.erpc, a.noconnection))]


# --- Spawns with options ----------------------------------------------------------------------------------------------


@on_a_node
async def test_spawn_options(world: RpcWorld, node: Node) -> None:
    trap_exit()
    options = [a.link, a.monitor, (a.priority, a.high), (a.max_heap_size, 100000)]
    pid, reference = await node.spawn_opt(world.name, "timer", "sleep", [30000], options=options)
    assert await world.erl("process_info(Target, priority)", Target=pid) == (a.priority, a.high)
    assert (await world.erl("process_info(Target, max_heap_size)", Target=pid))[1][a.size] == 100000
    exit(pid, a.over)
    messages = [await receive(timeout=5), await receive(timeout=5)]
    assert sorted(messages, key=len) == [(a.EXIT, pid, a.over), (a.DOWN, reference, a.process, pid, a.over)]
    with pytest.raises(SpawnError) as refused:
        await node.spawn_opt(world.name, "timer", "sleep", [1], options=[(a.no_such_option, 1)])
    assert refused.value.reason is a.badopt
    with pytest.raises(SpawnError) as refused:
        await node.spawn_opt(node.name, "py", "sleep", [1], options=[(a.no_such_option, 1)])
    assert refused.value.reason is a.badopt


@on_a_node
async def test_their_spawns(world: RpcWorld, node: Node) -> None:
    source = """(fun (N) ->
        {P, R} = spawn_monitor(N, py, boom, [1]),
        receive {'DOWN', R, process, P, Reason} -> Reason end end)"""
    (kind, text), stack = await world.erl(f"{source}('{node.name}')")
    assert (kind, text) == (a.ValueError, b"no 1")
    assert (a.line, BOOM_LINE) in stack[0][3]
    for fun, reason in (("fun py:nope/0", a.undef), ("fun () -> ok end", a.undef), ("fun py:where/0", a.normal)):
        got = await world.erl(
            f"(fun (N) -> {{P, R}} = spawn_monitor(N, {fun}), "
            f"receive {{'DOWN', R, process, P, Reason}} -> Reason end end)('{node.name}')"
        )
        assert (got if isinstance(got, Atom) else got[0]) is reason
    badopt = (
        "(fun (N) -> Asked = erlang:spawn_request(N, py, where, [], [{no_such, 1}]), "
        f"receive {{spawn_reply, Asked, error, Why}} -> Why end end)('{node.name}')"
    )
    assert await world.erl(badopt) is a.badopt
    tagged = (
        "(fun (N) -> {Made, Watch} = spawn_opt(N, py, leave, [over], [{monitor, [{tag, mine}]}]), "
        f"receive {{mine, Watch, process, Made, Why}} -> Why after 5000 -> none end end)('{node.name}')"
    )
    assert await world.erl(tagged) is a.over
