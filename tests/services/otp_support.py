"""Clusters of real nodes and ours behind one epmd, and what `global` knows on each of them.

A `Cluster` holds its real nodes for a whole module; `apart()` takes them out of each other's sight between tests. What
blocks runs in threads, so that our nodes, which live in the test's event loop, go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final, Self

from beamnode import Atom, Node, a, receive, send
from beamnode import Epmd as EpmdDiscovery
from beamnode import self as own_pid
from beamnode.otp import gen
from beamnode.testing.peers import Epmd, ErlNode, Otp, find_otp

HOST: Final = "127.0.0.1"
WAIT_SECONDS: Final = 30.0  # for what must happen: long, because the machine may be busy
EVAL_SECONDS: Final = 30.0
GLOBAL: Final = "global_name_server"

VIEW: Final = """
(fun () ->
    S = sys:get_state(global_name_server),
    Known = [N || N <- maps:keys(element(3, S)), is_atom(N)],
    {lists:sort(nodes()), lists:sort(Known), lists:sort(element(4, S)), element(5, S), element(6, S),
     ets:tab2list(global_locks)}
end)()
"""

NAMES: Final = "[{N, global:whereis_name(N)} || N <- lists:sort(global:registered_names())]"

IDLE: Final = "spawn(fun () -> receive stop -> ok end end)"  # a process

OTHER_NODE: Final = """
import asyncio, sys
from beamnode import Epmd, Node

async def main():
    name, cookie, port, peer = sys.argv[1:]
    async with Node(name, cookie=cookie, discovery=Epmd(int(port))) as node:
        print(await node.connect(peer), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


class Beam:
    """A real node, asked without blocking the event loop."""

    def __init__(self, node: ErlNode) -> None:
        self.node = node
        self.name = Atom(node.name)

    def __repr__(self) -> str:
        return f"<Beam {self.name} OTP {self.node.otp.release}>"

    async def erl(self, source: str, timeout: float = EVAL_SECONDS, **bindings: Any) -> Any:
        """What it says to `source`, whose own variables are forgotten."""
        return await asyncio.to_thread(self.node.eval, f"(fun () -> {source} end)()", timeout, **bindings)

    async def until(self, source: str, timeout: float = WAIT_SECONDS, **bindings: Any) -> None:
        async def holds() -> bool:
            return await self.erl(source, **bindings) is True

        await until(holds, timeout, f"{self}: {source}")

    async def connect(self, other: Beam | Node) -> None:
        assert await self.erl("net_kernel:connect_node(Node)", Node=other.name) is True

    async def names(self) -> dict[Any, Any]:
        return dict(await self.erl(NAMES))

    async def view(self) -> View:
        return View(*await self.erl(VIEW))


class View:
    """What one node's `global` is aware of."""

    def __init__(self, nodes: Any, known: Any, synced: Any, resolvers: Any, syncers: Any, locks: Any) -> None:
        self.nodes, self.known, self.synced = set(nodes), set(known), set(synced)
        self.unfinished = [*resolvers, *syncers]
        self.locks = locks

    def __repr__(self) -> str:
        def short(nodes: set[Atom]) -> str:
            return ",".join(sorted(node.name.partition("@")[0] for node in nodes)) or "-"

        rest = f" unfinished {self.unfinished} locks {self.locks}" if self.unfinished or self.locks else ""
        return f"[nodes {short(self.nodes)} known {short(self.known)} synced {short(self.synced)}{rest}]"

    def is_meshed(self, others: set[Atom]) -> bool:
        quiet = not self.unfinished and not self.locks
        return quiet and self.nodes == self.known == self.synced == others


Member = Beam | Node


async def view_of(node: Node) -> View:
    """The same of a node of ours, by the call that `global:info/0` makes."""
    state = await call(node, a.info)
    known = [key for key in state[2] if isinstance(key, Atom)]
    return View(node.list(), known, state[3], state[4], state[5], [])


async def call(node: Node, request: Any, timeout: float = WAIT_SECONDS) -> Any:
    """A call of our own node's `global_name_server`."""
    return await node.run_process(gen.call, GLOBAL, gen.CALL, request, timeout)


async def whereis(node: Node, name: Any) -> Any:
    """`global:whereis_name/1` on a node of ours; None for nothing."""
    tag = await node.run_process(_whereis, name)
    return None if tag is a.undefined else tag


async def _whereis(name: Any) -> Any:
    mark = Atom("found")
    send(GLOBAL, (a.whereis, name, (own_pid(), mark)))
    found = await receive(lambda got: isinstance(got, tuple) and got[0] is mark, timeout=WAIT_SECONDS)
    return found[1]


async def _can_lock(resource: Any) -> bool:
    lock = (resource, a.probe)
    free: bool = await gen.call(GLOBAL, gen.CALL, (a.set_lock, lock), WAIT_SECONDS)
    await gen.call(GLOBAL, gen.CALL, (a.del_lock, lock), WAIT_SECONDS)
    return free


async def until(
    predicate: Callable[[], Awaitable[object]], timeout: float = WAIT_SECONDS, what: Any = None, interval: float = 0.05
) -> None:
    """Wait until `predicate` gives something true; the text of a failure has `what`, called if it can be."""
    deadline = time.monotonic() + timeout
    while not await predicate():
        if time.monotonic() > deadline:
            text = await what() if asyncio.iscoroutinefunction(what) else what
            raise TimeoutError(f"not true within {timeout} s: {text}")
        await asyncio.sleep(interval)


class Cluster:
    """Real nodes of the given releases (`b1`, `b2`, ...), an epmd, a cookie; nodes of ours are made with `node`."""

    def __init__(self, releases: Sequence[int], prefix: str = "b", extra_args: Sequence[str] = ()) -> None:
        self.releases = tuple(releases)
        self.cookie = secrets.token_hex(8)
        self.beams: list[Beam] = []
        self.epmd_port = 0
        self._prefix = prefix
        self._extra_args = tuple(extra_args)
        self._numbers = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        otps = [find_otp(release) for release in self.releases]
        with ExitStack() as stack:
            self.epmd_port = stack.enter_context(Epmd(otps[-1])).port
            self._stack = stack
            with ThreadPoolExecutor() as pool:
                names = [f"{self._prefix}{number}" for number, _ in enumerate(otps, 1)]
                self.beams = list(pool.map(self.start_beam, otps, names))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_beam(self, otp: Otp, name: str) -> Beam:
        """One more real node; it ends with the cluster at the latest."""
        node = ErlNode.start(
            otp, f"{name}@{HOST}", cookie=self.cookie, epmd_port=self.epmd_port, extra_args=self._extra_args
        )
        return Beam(self._stack.enter_context(node))

    def start_beam_late(self, otp: Otp, name: str) -> Beam:
        """The same, named only when it runs: such a node can leave with `net_kernel:stop/0`."""
        interface = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        node = self._stack.enter_context(ErlNode.start(otp, None, epmd_port=self.epmd_port, extra_args=interface))
        full = Atom(f"{name}@{HOST}")
        node.eval("{ok, _} = net_kernel:start([Name, longnames])", Name=full)
        node.eval("erlang:set_cookie(Cookie)", Cookie=Atom(self.cookie))
        node.name = full.name
        return Beam(node)

    def fresh_name(self, prefix: str = "py") -> str:
        self._numbers += 1
        return f"{prefix}{self._numbers}@{HOST}"

    def node(self, name: str | None = None, **options: Any) -> Node:
        """A node of ours that knows the cookie and the epmd."""
        options = {"cookie": self.cookie, "discovery": EpmdDiscovery(self.epmd_port)} | options
        return Node(name or self.fresh_name(), **options)

    @asynccontextmanager
    async def process_node(self, peer: Beam, name: str | None = None) -> AsyncIterator[ProcessNode]:
        """A node of ours in a process of its own, connected with `peer`."""
        name = name or self.fresh_name()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OTHER_NODE, name, self.cookie, str(self.epmd_port), peer.name.name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"True\n"
            yield ProcessNode(Atom(name), process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def apart(self) -> None:
        """Take the real nodes out of each other's sight, politely, until nothing is left of any connect."""
        for _ in range(3):
            for beam in self.beams:
                await beam.erl("global:disconnect()")
            for beam in self.beams:
                await beam.until("[net_kernel:disconnect(N) || N <- nodes(connected)] =:= []")
        await self.meshed(timeout=5.0)

    # --- What must come true

    async def views(self, members: Iterable[Member]) -> dict[Member, View]:
        members = list(members)
        found = await asyncio.gather(*(m.view() if isinstance(m, Beam) else view_of(m) for m in members))
        return dict(zip(members, found, strict=True))

    async def meshed(self, *members: Member, others: Iterable[Atom] = (), timeout: float = WAIT_SECONDS) -> float:
        """Wait until `members` and `others` are one whole mesh; without any, until the real nodes are alone.

        Gives back the seconds it took.
        """
        began = time.monotonic()
        groups = [[member] for member in self.beams] if not members else [list(members)]

        async def done() -> bool:
            for group in groups:
                names = {member.name for member in group} | set(others)
                for member, view in (await self.views(group)).items():
                    if not view.is_meshed(names - {member.name}):
                        return False
            return True

        async def state() -> str:
            views = [await self.views(group) for group in groups]
            return "\n".join(f"{member.name}: {view}" for part in views for member, view in part.items())

        await until(done, timeout, state)
        return time.monotonic() - began

    async def sync(self, *members: Member, timeout: float = WAIT_SECONDS) -> float:
        """`global:sync()` on every member; the seconds until the last has said `ok`."""
        began = time.monotonic()

        async def one(member: Member) -> Any:
            if isinstance(member, Beam):
                return await member.erl("global:sync()", timeout)
            return await call(member, (a.sync, [other.name for other in members]), timeout)

        assert await asyncio.gather(*map(one, members)) == [a.ok] * len(members)
        return time.monotonic() - began

    async def names(self, member: Member, *names: Any) -> dict[Any, Any]:
        """What the member's replica has under these names; those that it does not have are missing."""
        if isinstance(member, Beam):
            found = await member.names()
            return {name: found[name] for name in names if name in found}
        pairs = [(name, await whereis(member, name)) for name in names]
        return {name: pid for name, pid in pairs if pid is not None}

    async def all_have(self, names: dict[Any, Any], *members: Member, timeout: float = WAIT_SECONDS) -> None:
        """Wait until every member has these names for these pids; None for a name that nobody is to have."""
        wanted = {name: pid for name, pid in names.items() if pid is not None}

        async def seen() -> list[Any]:
            return [await self.names(member, *names) for member in members]

        async def agreed() -> bool:
            return await seen() == [wanted] * len(members)

        async def state() -> str:
            return f"wanted {wanted}, have {await seen()}"

        await until(agreed, timeout, state)

    async def no_locks(self, *members: Member, resources: Sequence[Any] = (a["global"],)) -> None:
        """Wait until nothing is locked on any member; on ours, none of these resources."""

        async def free() -> bool:
            for member in members:
                if isinstance(member, Beam):
                    if (await member.view()).locks:
                        return False
                elif not all([await member.run_process(_can_lock, resource) for resource in resources]):
                    return False
            return True

        await until(free, what="somebody holds a lock")

    async def partitions(self, members: Sequence[Member], seconds: float) -> list[list[str]]:
        """The partitions that are left when nothing has changed for `seconds`; an overlap is an AssertionError."""
        last, since = None, time.monotonic()
        deadline = since + WAIT_SECONDS
        while time.monotonic() - since < seconds:
            views = await self.views(members)
            shape = {member.name: frozenset(view.nodes | {member.name}) for member, view in views.items()}
            if shape != last:
                last, since = shape, time.monotonic()
            assert time.monotonic() < deadline, f"it does not settle: {views}"
            await asyncio.sleep(0.05)
        assert last is not None
        assert all(last[node] == group for group in last.values() for node in group if node in last), last
        return sorted(sorted(node.name for node in group) for group in set(last.values()))

    def logs_are_clean(self) -> None:
        """No real node has met anything of ours that it does not understand."""
        for beam in self.beams:
            text = beam.node.log()
            for sign in ("unexpected", "Illegal", "ERROR REPORT", "CRASH REPORT", "out of sync", "error:", "[error]"):
                assert sign.lower() not in text.lower(), f"{beam}:\n{text}"


class Clusters:
    """Clusters that a module uses by turns, started when first asked for; their logs are read at the end."""

    def __init__(self) -> None:
        self._clusters: dict[tuple[int, ...], Cluster] = {}
        self._stack = ExitStack()

    def of(self, releases: tuple[int, ...]) -> Cluster:
        if releases not in self._clusters:
            self._clusters[releases] = self._stack.enter_context(Cluster(releases))
        return self._clusters[releases]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for cluster in self._clusters.values():
                cluster.logs_are_clean()


class ProcessNode:
    """One of ours in a process of its own."""

    def __init__(self, name: Atom, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    async def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> None:
        """Leave politely."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()
        assert await self._process.wait() == 0
