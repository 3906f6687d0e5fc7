"""The same sessions with a real Erlang node behind the proxy, at some of their bytes, and dialled by it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fault_session import HOST, Asker, Told, until

from beamnode import Node, a
from beamnode.carriers.tcp import Tcp
from beamnode.etf import Atom
from beamnode.node.epmd_discovery import StaticPorts
from beamnode.testing.fault_proxy import Corrupt, Cut, FaultProxy, Plan, Split, Stall
from beamnode.testing.peers import Epmd, ErlNode, find_otp, free_port
from beamnode.wire import epmd as wire

NAME = f"erl@{HOST}"
PLACES = 4  # of a direction, for each fault

# What `fault_session` does in Python, on the Erlang node: the keeper, and what the asker spawns.
FAULT_MODULE = (
    "-module(fault).",
    "-export([serve/1, keeper/1]).",
    """serve(Asker) ->
        erlang:monitor(process, Asker),
        serve().""",
    """serve() ->
        receive
            {'DOWN', _, _, _, _} -> ok;
            {Sender, Message} when is_pid(Sender) -> Sender ! {got, Message}, serve();
            _ -> serve()
        end.""",
    """keeper(Told = {Came, Expected}) ->
        receive
            {'DOWN', R, _, _, _} -> keeper({[{down, R} | Came], Expected});
            {'EXIT', P, _} -> keeper({[{exit, P} | Came], Expected});
            {watch, P} ->
                R = erlang:monitor(process, P),
                link(P),
                P ! {watched, self()},
                keeper({Came, [{exit, P}, {down, R} | Expected]});
            {tell, Who} -> Who ! {told, Told}, keeper(Told);
            {forget, Who} -> Who ! forgotten, keeper({[], []});
            _ -> keeper(Told)
        end.""",
)
LOAD = """
(fun () ->
Forms = [begin {ok, T, _} = erl_scan:string(binary_to_list(F)), {ok, Form} = erl_parse:parse_form(T), Form end
         || F <- Source],
{ok, fault, Binary} = compile:forms(Forms),
code:load_binary(fault, "fault", Binary),
Keeper = spawn(fun () -> process_flag(trap_exit, true), register(keeper, self()), fault:keeper({[], []}) end),
Keeper
end)()
"""
ASK = "(fun () -> keeper ! {tell, self()}, receive {told, T} -> T after 5000 -> error(silent) end end)()"


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.otp, id=f"otp{n}") for n in (27, 29)])
def peer(request: pytest.FixtureRequest) -> Iterator[tuple[ErlNode, Epmd, str]]:
    otp, cookie = find_otp(request.param), secrets.token_hex(8)
    quick = ["-kernel", "net_ticktime", "1", "-kernel", "net_setuptime", "1", "-kernel", "dist_auto_connect", "never"]
    with (
        Epmd(otp) as epmd,
        ErlNode.start(otp, NAME, cookie=cookie, epmd_port=epmd.port, hidden=True, extra_args=quick) as node,
    ):
        yield node, epmd, cookie


class ErlPair(Asker):
    """A node of ours that dials the Erlang one."""

    def __init__(self, node: ErlNode, cookie: str) -> None:
        super().__init__(f"py{secrets.token_hex(4)}@{HOST}", NAME, cookie, 1.0)
        self.erl = node

    async def eval(self, source: str, **bindings: Any) -> Any:
        return await asyncio.to_thread(self.erl.eval, source, 10, **bindings)

    async def start(self, stack: AsyncExitStack) -> None:
        port = await self.eval("{ok, [{_, P} | _]} = erl_epmd:names({127,0,0,1}), P")
        await self.start_one(stack, port)
        source = [form.encode() for form in FAULT_MODULE]
        await self.eval("catch exit(whereis(keeper), kill)")
        self.keeper = await self.eval(LOAD, Source=source)

    async def kept(self) -> Told:
        came, expected = await self.eval(ASK)
        return Told(Counter(_told(came)), set(_told(expected)))

    async def check(self, plan: Plan) -> None:
        """As `Pair.check`."""
        await self.settle()
        deadline = asyncio.get_running_loop().time() + 10
        while not (kept := await self.kept()).is_complete() or await self.eval("nodes(connected)"):
            assert asyncio.get_running_loop().time() < deadline, f"the keeper was not told: {kept}"
        self.check_told(plan, asker=self.asked, keeper=kept)
        assert await self.eval("process_info(whereis(keeper), [links, monitors])") == [
            (a.links, []),
            (a.monitors, []),
        ]
        await self.eval("keeper ! {forget, self()}, receive forgotten -> ok end")
        await self.check_reconnects()
        assert await self.eval("nodes(connected)") == [Atom(self.one_name)]
        await self.one.disconnect(self.two_name)
        await self.settle()
        assert not (await self.kept()).came


def _told(pairs: list[tuple[Atom, Any]]) -> list[tuple[str, Any]]:
    return [(str(kind).upper(), whom) for kind, whom in pairs]


def test_a_node_of_ours_dials(peer: tuple[ErlNode, Epmd, str]) -> None:
    node, _, cookie = peer

    async def main() -> None:
        async with AsyncExitStack() as stack:
            pair = ErlPair(node, cookie)
            await pair.start(stack)
            assert await pair.session(Plan())
            await pair.check(Plan())
            first = pair.proxy.connections[0]
            both = first.forwarded, first.backwarded
            for plan in some_plans(both):
                try:
                    await pair.session(plan)
                    await pair.check(plan)
                except Exception as error:
                    error.add_note(f"with {plan} of {both}; the log of the Erlang node:\n{node.log()[-2000:]}")
                    raise

    asyncio.run(main())


def some_plans(both: tuple[int, int]) -> Iterator[Plan]:
    faults = (Cut, lambda at: Cut(at, reset=True), lambda at: Corrupt(at, 1 << secrets.randbelow(8)), Split)
    for make in faults:
        if not isinstance(make(0), Corrupt):  # which may kill an Erlang node: corrupted flags make it crash
            for at in places(both[0], PLACES):
                yield Plan(forward=[make(at)])
        for at in places(both[1], PLACES):
            yield Plan(backward=[make(at)])
    yield Plan(forward=[Stall(secrets.randbelow(both[0]))])
    yield Plan(backward=[Stall(secrets.randbelow(both[1]))])


def places(length: int, count: int) -> range:
    step = length // count
    return range(secrets.randbelow(step), length, step)


def test_the_erlang_node_dials(peer: tuple[ErlNode, Epmd, str]) -> None:
    """It finds ours where our epmd entry says that it is: at the proxy."""
    node, epmd, cookie = peer
    name = f"dialled@{HOST}"

    async def main() -> None:
        pair = ErlPair(node, cookie)  # only for what it asks
        port = free_port()
        carrier = Tcp(listen_address=HOST, listen_ports=port)
        async with (
            FaultProxy(HOST, port) as proxy,
            Node(name, cookie=cookie, hidden=True, carrier=carrier, discovery=StaticPorts({name: port})) as ours,
        ):
            with socket.create_connection((HOST, epmd.port)) as registration:
                entry = wire.NodeEntry("dialled", proxy.port)
                registration.sendall(wire.encode_request(wire.AliveRequest(entry)))
                assert (await asyncio.to_thread(registration.recv, 10))[:2] == b"v\0"
                whole = await dialled(pair, proxy, Plan(), name)
                assert whole == [a.nodeup, a.nodedown]
                first = proxy.connections[0]
                for make in (Cut, lambda at: Cut(at, reset=True), Corrupt, Split):
                    for forward in places(first.forwarded, PLACES):
                        got = await dialled(pair, proxy, Plan(forward=[make(forward)]), name)
                        assert got in ([], whole), (make, forward)
                    for backward in () if make is Corrupt else places(first.backwarded, PLACES):
                        got = await dialled(pair, proxy, Plan(backward=[make(backward)]), name)
                        assert got in ([], whole), (make, backward)
                    assert await dialled(pair, proxy, Plan(), name) == whole
                    assert not ours.list("connected")

    asyncio.run(main())


async def dialled(pair: ErlPair, proxy: FaultProxy, plan: Plan, name: str) -> list[Any]:
    """Have the Erlang node connect, ping and disconnect: what it was told of the other node meanwhile."""
    proxy.plan(plan)
    told = await pair.eval(
        """
        ok = net_kernel:monitor_nodes(true, [{node_type, all}]),
        case net_kernel:connect_node(Name) of
            true -> net_adm:ping(Name);
            false -> down
        end,
        erlang:disconnect_node(Name),
        ok = net_kernel:monitor_nodes(false, [{node_type, all}]),
        (fun F() -> receive {Up, Name, _} -> [Up | F()] after 0 -> [] end end)()
        """,
        Name=Atom(name),
    )
    await until(lambda: not proxy.open_connections, "the connections through the proxy are over")
    assert isinstance(told, list)
    return told
