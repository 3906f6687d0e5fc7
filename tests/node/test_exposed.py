"""node/exposed.py: what a peer may start here, the proof between nodes of one Python process, and the error texts."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, expect, play, until

from beamnode import Atom, Pid, SpawnError, UsageError, a, exit, self, send, sync
from beamnode.node.exposed import SPAWN_FUNCTION, SPAWN_MODULE, Asked, Callee, Exposed, proof_of, remote_call

pytestmark = pytest.mark.filterwarnings("error")

NODE = Atom(f"one@{HOST}")
OTHER = Atom(f"two@{HOST}")


async def greet(to: Pid, word: Any) -> None:
    send(to, (a.greeting, self(), word))


def greet_from_a_thread(to: Pid, word: Any) -> None:
    sync.send(to, (a.greeting, self(), word))


class Greeter:
    @staticmethod
    async def greet(to: Pid, word: Any) -> None:
        await greet(to, word)

    async def method(self, to: Pid, word: Any) -> None:
        await greet(to, word)


def asked(module: str | Atom, function: str | Atom, args: list[Any]) -> Asked:
    return Asked(OTHER, Atom(str(module)), Atom(str(function)), args)


# --- Between nodes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [greet, greet_from_a_thread, Greeter.greet])
def test_nodes_of_one_process_run_functions_for_each_other(function: Any) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            for node in (one, two):
                pid = await two.spawn(node.name, function, self(), [1, "two"])
                assert pid.node is node.name
                word = [1, "two"] if node is two else [1, b"two"]  # within a node nothing is encoded
                assert await expect() == (a.greeting, pid, word)

    play(main)


def test_only_what_is_exposed_is_run(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            for module, function in (("test_exposed", "greet"), ("os", "getpid"), ("beamnode", "spawn")):
                pid, reference = await two.spawn_monitor(one.name, module, function, [self(), 1])
                undef = (a.undef, [(Atom(module), Atom(function), [self(), 1], [])])
                assert await expect() == (a.DOWN, reference, a.process, pid, undef)
            one.expose(greet)
            one.expose(greet_from_a_thread, module="Elixir.Greeter", name="greet")
            for module, function in (("test_exposed", "greet"), ("Elixir.Greeter", "greet")):
                pid = await two.spawn(one.name, module, function, [self(), 1])
                assert await expect() == (a.greeting, pid, 1)
            assert await one.spawn(one.name, "test_exposed", "greet", [self(), 2])
            assert (await expect())[2] == 2

    play(main)
    assert f"refused os:getpid/2 to n2@{HOST}: it is not exposed" in caplog.text


def test_expose_is_a_decorator() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            got = []

            @one.expose
            def inner(word: Any) -> None:
                got.append(word)

            name = f"{test_expose_is_a_decorator.__name__}.<locals>.main.<locals>.inner"
            await two.spawn(one.name, "test_exposed", name, [1])
            await until(lambda: got == [1])

    play(main)


def test_wrong_arguments_crash_the_process_there_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            one.expose(greet, module="m", name="f")
            for args in ([], [1, 2, 3]):
                _, reference = await two.spawn_monitor(one.name, "m", "f", args)
                down = await expect()
                assert down[1] == reference
                assert down[4][0][0] is a.TypeError
            assert two.list() == [one.name]

    play(main)


def test_linked_and_monitored_from_the_start() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            sync.trap_exit()
            pid = await two.spawn_link(one.name, quit_at_once)
            assert await expect() == (a.EXIT, pid, a.at_once)
            pid, reference = await two.spawn_monitor(one.name, quit_at_once)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.at_once)

    play(main)


async def quit_at_once() -> None:
    exit(a.at_once)


def test_the_wrong_way_to_ask() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            for function in (lambda: None, Greeter().method, functools.partial(greet, self())):
                with pytest.raises(SpawnError, match=r"define it at the top level of a module \(no lambda, no inner"):
                    await two.spawn(one.name, function)
            for wrong in (("module",), ("module", "function"), ("module", "function", 1), (1, "function", [])):
                with pytest.raises(UsageError, match=r"a module, a function and a list of arguments|a name is an Atom"):
                    await two.spawn(one.name, *wrong)
            with pytest.raises(UsageError, match="only something callable can be exposed, not 1"):
                one.expose(1)  # type: ignore[arg-type]

    play(main)


# --- The proof --------------------------------------------------------------------------------------------------------


def test_a_proof_is_good_for_one_function_on_one_node() -> None:
    exposed = Exposed(NODE)
    _, _, call = remote_call(NODE, greet, (1, 2))
    module, name, args, proof = call
    assert exposed.resolve(asked(SPAWN_MODULE, SPAWN_FUNCTION, call)) == Callee(greet, [1, 2])
    for forged in (
        [module, name, args, proof_of(OTHER, "test_exposed", "greet")],
        [module, name, args, proof_of(NODE, "test_exposed", "quit_at_once")],
        [module, a.quit_at_once, args, proof],
        [a.os, a.getpid, args, proof],
        [module, name, args, b""],
        [module, name, args, proof[:-1] + bytes([proof[-1] ^ 1])],
        [module, name, args, None],
        [module, name, (1, 2), proof],
        [b"test_exposed", name, args, proof],
        [module, name, args],
        [],
    ):
        assert exposed.resolve(asked(SPAWN_MODULE, SPAWN_FUNCTION, forged)) is None
    assert Exposed(OTHER).resolve(asked(SPAWN_MODULE, SPAWN_FUNCTION, call)) is None


def test_a_proof_does_not_import_modules() -> None:
    proof = proof_of(NODE, "antigravity", "fly")
    assert Exposed(NODE).resolve(asked(SPAWN_MODULE, SPAWN_FUNCTION, [a.antigravity, a.fly, [], proof])) is None


def test_what_is_exposed_needs_no_proof() -> None:
    exposed = Exposed(NODE)
    exposed.expose(greet, None, None)
    assert exposed.resolve(asked(SPAWN_MODULE, SPAWN_FUNCTION, [a.test_exposed, a.greet, [1, 2], b""])) == Callee(
        greet, [1, 2]
    )
