"""node/exposed.py and node/workers.py: what can be exposed, under which policy, and where it runs."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, expect, play, until

from beamnode import Asked, Atom, Export, Node, Pid, Policy, RemoteError, SpawnError, UsageError, a, exit, self, send
from beamnode.node.exposed import ByValueRefused, Callee, Exposed, NotImported, import_callee, remote_call
from beamnode.node.workers import ThreadPool, Workers

pytestmark = pytest.mark.filterwarnings("error")

NODE = Atom(f"one@{HOST}")
OTHER = Atom(f"two@{HOST}")


def asked(module: str, function: str, *args: Any) -> Asked:
    return Asked(OTHER, Atom(module), Atom(function), list(args))


def double(number: int) -> int:
    return 2 * number


async def double_async(number: int) -> int:
    return 2 * number


class Account:
    fee = 1

    def __init__(self) -> None:
        self.balance = 0

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    async def get(self) -> int:
        return self.balance

    @staticmethod
    def currency() -> Atom:
        return a.eur

    @property
    def broken(self) -> int:
        raise AssertionError("exposing asks no property")

    def _secret(self) -> None: ...


def names(exposed: Exposed, module: str) -> set[str]:
    return {function.name for where, function in exposed._functions if where is Atom(module)}


# --- What can be exposed ----------------------------------------------------------------------------------------------


def test_a_module() -> None:
    module = types.ModuleType("shop")
    exec("from os import getpid\ndef buy(): ...\ndef _hidden(): ...\nclass Thing: ...\nlimit = 3", module.__dict__)  # noqa: S102
    module.buy.__module__ = "shop"
    exposed = Exposed(NODE)
    exposed.expose(module)
    assert names(exposed, "shop") == {"buy"}
    module.__all__ = ["getpid", "Thing", "limit"]  # type: ignore[attr-defined]
    exposed.expose(module, "Elixir.Shop")
    assert names(exposed, "Elixir.Shop") == {"getpid"}
    import math

    exposed.expose(math)
    assert {"sqrt", "factorial"} <= names(exposed, "math")


def test_an_object() -> None:
    exposed = Exposed(NODE)
    account = Account()
    exposed.expose(account, "account")
    assert names(exposed, "account") == {"deposit", "get", "currency"}
    found = exposed.resolve(asked("account", "deposit", 5))
    assert found is not None
    assert found.function(*found.args) == 5
    assert account.balance == 5


def test_a_method_a_partial_and_something_callable() -> None:
    exposed = Exposed(NODE)
    exposed.expose(Account().deposit, "m", "deposit")
    exposed.expose(functools.partial(double, 4), "m", "eight")
    exposed.expose(CallMe(), "m", "call_me")
    assert names(exposed, "m") == {"deposit", "eight", "call_me"}


class CallMe:
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (Account, {}, "is a class: expose its functions, or an instance"),
        (Account(), {}, "only something callable can be exposed"),
        (1, {"module": "m", "name": "x"}, "name= is for one function"),
        (types.ModuleType("empty"), {}, "has no public function to expose"),
        (double, {"run": "threads"}, "run is None"),
        (double_async, {"run": "process"}, "is an async def: only a plain def runs in a process"),
        (lambda: 1, {"run": "process"}, "define it at the top level of a module"),
        (Account().deposit, {"run": "process"}, "define it at the top level of a module"),
    ],
)
def test_what_cannot_be_exposed(target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Exposed(NODE).expose(target, **options)


def test_decorators() -> None:
    node = Node(f"n@{HOST}", cookie="c")

    @node.expose
    def one() -> int:
        return 1

    @node.expose(module="Elixir.Demo", name="zwei")
    def two() -> int:
        return 2

    assert (one(), two()) == (1, 2)
    assert asyncio.run(node.find_exposed(asked("Elixir.Demo", "zwei"))) == Callee(two, [])


def test_what_apply_comes_to() -> None:
    exposed = Exposed(NODE)
    exposed.expose(double, "m", "double")
    assert exposed.resolve(asked("erlang", "apply", Export(a.m, a.double, 1), [1])) == Callee(double, [1])
    assert exposed.resolve(asked("erlang", "apply", a.m, a.double, [1])) == Callee(double, [1])
    assert exposed.resolve(asked("erlang", "apply", 1, 2)) is None
    assert exposed.resolve(asked("erlang", "apply")) is None


# --- Policies ---------------------------------------------------------------------------------------------------------


def test_nothing(caplog: pytest.LogCaptureFixture) -> None:
    exposed = Exposed(NODE, "nothing")
    with pytest.raises(UsageError, match=r"policy is 'nothing'.*policy='exposed'"):
        exposed.expose(double)
    assert exposed.resolve(asked("os", "getpid")) is None
    assert f"refused os:getpid/0 to {OTHER}: this node serves nothing" in caplog.text
    exposed.builtin(a.erpc, a.execute_call, 1, double)
    assert exposed.resolve(asked("erpc", "execute_call", 1)) == Callee(double, [1])


def imported_callee(exposed: Exposed, call: Asked) -> Callee | None:
    try:
        return exposed.resolve(call)
    except NotImported as missing:
        return import_callee(missing.asked)


def test_everything(caplog: pytest.LogCaptureFixture) -> None:
    exposed = Exposed(NODE, Policy.EVERYTHING)
    exposed.expose(double, "os", "getpid")
    for module, function, found in (
        ("builtins", "abs", abs),
        ("colorsys", "rgb_to_hls", None),
        ("os", "getpid", double),
        ("test_exposed_kinds", "Account.currency", Account.currency),
    ):
        callee = imported_callee(exposed, asked(module, function, 1))
        assert callee is not None
        assert callee.function is found or found is None
    for module, function in (
        ("no_such_module", "f"),
        ("os", "nothing"),
        ("", "f"),
        (".x", "f"),
        ("os", "sep"),
        ("a\n", "b"),
    ):
        assert imported_callee(exposed, asked(module, function)) is None
    assert f"refused os:nothing/0 to {OTHER}: there is no such function" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    def policy(call: Asked) -> str:
        if call.function is a.fail:
            raise KeyError("oops")
        if call.function is a.wrong:
            return "whatever"
        return "everything" if call.node is OTHER and call.module is a.os else "exposed"

    exposed = Exposed(NODE, policy)
    exposed.expose(double, "m", "double")
    assert exposed.resolve(asked("os", "getpid")) is not None
    assert exposed.resolve(asked("m", "double", 1)) is not None
    assert exposed.resolve(asked("sys", "exit")) is None
    assert exposed.resolve(asked("m", "fail")) is None
    assert exposed.resolve(asked("m", "wrong")) is None
    assert "the policy of one@127.0.0.1 failed for m:fail/0" in caplog.text


def test_what_is_no_policy() -> None:
    with pytest.raises(UsageError, match="policy is one of 'exposed', 'nothing', 'everything', or a function"):
        Node(f"n@{HOST}", cookie="c", policy="all")
    for options in ({"call_threads": 0}, {"call_processes": -1}):
        with pytest.raises(UsageError, match="must be at least 1"):
            Node(f"n@{HOST}", cookie="c", **options)


# --- By value ---------------------------------------------------------------------------------------------------------


def test_functions_by_value() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(policy="everything") as shell, cluster.node() as library, cluster.node() as asker:
            here, word = self(), "captured"
            assert await asker.spawn(shell.name, lambda: send(here, word))
            assert await expect() == b"captured"
            with pytest.raises(
                SpawnError, match=r"runs no functions that come by value.*policy='everything'"
            ) as refused:
                await asker.spawn(library.name, lambda: send(here, word))
            assert refused.value.reason is a.notsup
            lock = threading.Lock()
            with pytest.raises(SpawnError, match="cannot travel by value, because of what it uses"):
                await asker.spawn(shell.name, lambda: lock)

    play(main)


def test_what_is_no_function_by_value(caplog: pytest.LogCaptureFixture) -> None:
    _, _, call = remote_call(NODE, lambda: 1, ())
    assert len(call) == 5
    shell, library = Exposed(NODE, "everything"), Exposed(NODE)
    assert shell.resolve(asked("beamnode", "spawn", *call)) is not None
    for pickled in (b"", b"garbage", 5, [b"x"]):
        if isinstance(pickled, bytes):
            assert shell.resolve(asked("beamnode", "spawn", *call[:4], pickled)) is None
        else:
            with pytest.raises(ByValueRefused):
                shell.resolve(asked("beamnode", "spawn", *call[:4], pickled))
    with pytest.raises(ByValueRefused):
        library.resolve(asked("beamnode", "spawn", *call))
    library.expose(double, "__main__", "double")
    exposed_there = [a["__main__"], a.double, [1], b"", b"pickle"]
    assert library.resolve(asked("beamnode", "spawn", *exposed_there)) == Callee(double, [1])


def test_without_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(
        SpawnError, match=r"define it at the top level of a module.*pip install beamnode\[cloudpickle\]"
    ):
        remote_call(NODE, lambda: 1, ())
    assert Exposed(NODE, "everything").resolve(asked("beamnode", "spawn", a.x, a.y, [], b"", b"pickle")) is None


# --- Calls between Python nodes ---------------------------------------------------------------------------------------


def test_rpc_between_python_nodes() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two, cluster.node(policy="everything") as shell:
            account = Account()
            two.expose(account, module="account")
            assert await one.rpc(two.name, "account", "deposit", [3]) == 3
            assert await one.remote(two.name).account.get() == 3
            assert await two.rpc(two.name, "account", "get") == 3
            assert await one.rpc(two.name.name.partition("@")[0] + f"@{HOST}", "account", "currency") is a.eur
            for asker in (one, two):
                with pytest.raises(RemoteError, match=r"undef: there is no account:_secret/0"):
                    await asker.rpc(two.name, "account", "_secret")
            assert await one.rpc(shell.name, "builtins", "abs", [-3]) == 3
            assert await one.rpc(shell.name, "test_exposed_kinds", "double", [4]) == 8
            with pytest.raises(RemoteError, match=r"(?s)ValueError: math domain error"):
                await one.rpc(shell.name, "math", "sqrt", [-1])
            results = await one.multicall([one.name, two.name, shell.name], "builtins", "abs", [-1], timeout=5)
            assert [type(result) for result in results] == [RemoteError, RemoteError, int]

    play(main)


def test_a_client_serves_nothing() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node(policy="nothing") as client, cluster.node() as other:
            other.expose(double, module="m")
            assert await client.rpc(other.name, "m", "double", [2]) == 4
            with pytest.raises(RemoteError, match="undef"):
                await other.rpc(client.name, "m", "double", [2])
            await other.spawn_monitor(client.name, "os", "getpid", [])
            assert (await expect())[4] == (a.undef, [(a.os, a.getpid, [], [])])
            assert await other.ping(client.name) is a.pong

    play(main)


def test_spawn_opt_on_our_own_node() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            node.expose(report, module="m")
            pid, reference = await node.spawn_opt(
                node.name, "m", "report", [self()], options=[a.monitor, (a.name, a.worker), (a.priority, a.high)]
            )
            assert await expect() == (a.report, pid)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.normal)

    play(main)


async def report(to: Pid) -> None:
    send(to, (a.report, self()))


# --- Where it runs ----------------------------------------------------------------------------------------------------


def test_a_pool_is_bounded_and_ends() -> None:
    async def main() -> None:
        workers = Workers(2, None)
        seen: list[str] = []

        def work(number: int) -> int:
            seen.append(threading.current_thread().name)
            time.sleep(0.05)
            return number

        began = time.monotonic()
        results = await asyncio.gather(*(workers.run(Callee(work, [number])) for number in range(6)))
        assert results == list(range(6))
        assert time.monotonic() - began >= 0.14
        assert len(set(seen)) == 2
        workers.close()
        await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("beamnode call")])
        assert await workers.run(Callee(work, [7])) == 7
        workers.close()

    asyncio.run(main())


def test_what_is_cancelled_before_it_starts_never_runs() -> None:
    async def main() -> None:
        pool, ran = ThreadPool(1), []
        first = asyncio.create_task(pool.run(time.sleep, [0.1]))
        second = asyncio.create_task(pool.run(ran.append, [2]))
        await asyncio.sleep(0.02)
        second.cancel()
        await first
        assert await pool.run(double, [4]) == 8
        assert ran == []
        pool.close()

    asyncio.run(main())


def test_an_exception_and_a_coroutine_from_a_thread() -> None:
    async def main() -> None:
        workers = Workers(None, None)
        with pytest.raises(SystemExit):
            await workers.run(Callee(sys.exit, [3]))
        assert await workers.run(Callee(lambda number: double_async(number), [4])) == 8
        assert await workers.run(Callee(functools.partial(double_async, 4), [])) == 8
        workers.close()

    asyncio.run(main())


PROCESS_PROGRAM = """
import asyncio, os, sys, time
from beamnode import Node, RemoteError, RemoteExit, RemoteThrow, Throw, ProcessExit, StaticPorts, UsageError, a, receive
from beamnode.carriers.memory import MemoryNetwork

def pid(): return os.getpid()
def boom(): raise ValueError("here")
def throw(): raise Throw((a.ball, 1))
def leave(): raise ProcessExit(a.over)
def die(): os._exit(3)
def no_pickle(): return lambda: 1
def sleep(seconds): time.sleep(seconds)
def replaced(): return 1

async def fails(kind, call):
    try:
        await call
    except kind as error:
        return error
    raise AssertionError("it did not fail")

async def main():
    network, places = MemoryNetwork(), {"n@h": ("h", 1024)}
    options = dict(cookie="c", carrier=network.carrier("h"), discovery=StaticPorts(places), call_processes=1)
    async with Node("n@h", **options) as node:
        for function in (pid, boom, throw, leave, die, no_pickle, sleep, replaced):
            node.expose(function, module="m", run="process")
        m = node.remote("n@h").m
        first = await m.pid()
        assert first != os.getpid() and await m.pid() == first
        error = await fails(RemoteError, m.boom())
        assert error.reason == (a.ValueError, b"here") and "processes.py" in str(error), error
        assert (await fails(RemoteThrow, m.throw())).reason == (a.ball, 1)
        assert (await fails(RemoteExit, m.leave())).reason is a.over
        assert "if __name__ == '__main__':" in str(await fails(RemoteError, m.die()))
        assert "pickle" in str(await fails(RemoteError, m.no_pickle()))
        assert await m.pid() not in (first, os.getpid())
        slow = [asyncio.create_task(node.rpc("n@h", "m", "sleep", [0.5], timeout=0.1)) for _ in range(9)]
        await asyncio.gather(*slow, return_exceptions=True)
        began = time.monotonic()
        await m.pid()
        assert time.monotonic() - began < 2, "what was given up was run all the same"
        _, reference = await node.spawn_monitor("n@h", "m", "boom", [])
        down = await receive(lambda message: message[1] == reference, timeout=10)
        assert down[4][0] == (a.ValueError, b"here"), down
        globals()["replaced"] = pid
        assert "another function" in str(await fails(RemoteError, m.replaced()))
        print("processes ok")

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_processes(tmp_path: Path) -> None:
    program = tmp_path / "processes.py"
    program.write_text(PROCESS_PROGRAM)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "processes ok\n", done.stderr


@pytest.mark.parametrize(
    "source", ["raise SystemExit(1)", "import no_such_module_at_all", "def __getattr__(name): raise ImportError(name)"]
)
def test_a_module_that_misbehaves_when_a_peer_asks_for_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = f"misbehaves_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert imported_callee(Exposed(NODE, "everything"), asked(module, "main")) is None
    assert "cannot import" in caplog.text


SLOW_MODULE = """
import threading, time
thread = threading.current_thread()
time.sleep(0.5)
from beamnode import a, receive, self, send

def ran_in(*args):
    return thread is not threading.main_thread()

async def answer(pid):
    send(pid, (await receive(), self()))
"""


def test_an_import_for_a_peer_does_not_hold_the_loop_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a module that is being imported wait for it; spawned processes have their pid at once."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("slow_one", "slow_two", "slow_three"):
        (tmp_path / f"{name}.py").write_text(SLOW_MODULE)
        monkeypatch.delitem(sys.modules, name, raising=False)

    async def main(cluster: Cluster) -> None:
        async with cluster.node(policy="everything") as shell, cluster.node() as asker:
            await asker.connect(shell.name)
            calls = [asyncio.create_task(asker.rpc(shell.name, "slow_one", "ran_in", [n])) for n in range(3)]
            turns = 0
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.001)
                turns += 1
            assert await asyncio.gather(*calls) == [True] * 3
            assert turns > 10

            pid = await asker.spawn(shell.name, "slow_two", "answer", [self()])
            assert "slow_two" not in sys.modules or is_being_imported("slow_two")
            send(pid, a.first)
            assert await expect() == (a.first, pid)

            pid, reference = await asker.spawn_monitor(shell.name, "slow_three", "no_such_function", [])
            assert (await expect())[1::3] == (reference, (a.undef, [(a.slow_three, a.no_such_function, [], [])]))
            pid = await asker.spawn(shell.name, "slow_module_that_is_not_there", "f", [])
            exit(pid, a.kill)

    play(main)


def is_being_imported(module: str) -> bool:
    return sys.modules[module].__spec__._initializing  # type: ignore[union-attr, no-any-return]
