"""Supervision trees end in order when their node shuts down, whoever has started them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from beamnode import FixedPort, GenServer, Node, receive, spawn, sync, trap_exit
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import roots
from beamnode.otp.application import Application
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.supervisor import Supervisor


def node() -> dict[str, Any]:
    return {"cookie": "c", "carrier": MemoryNetwork().carrier("h"), "discovery": FixedPort(1)}


class Noted(GenServer):
    """Says when it has cleaned up."""

    def init(self, name: str, said: list[str]) -> None:
        trap_exit()
        self.name, self.said = name, said

    async def terminate(self, reason: Any) -> None:
        await asyncio.sleep(0.01)
        self.said.append(self.name)


def specs(said: list[str], *names: str) -> list[Any]:
    return [{**Noted.child_spec(name, said), "id": name} for name in names]


@pytest.mark.parametrize("linked", [True, False])
def test_a_tree_of_the_body_ends_in_reverse_order(linked: bool) -> None:
    said: list[str] = []

    async def main() -> None:
        async with Node("n@h", **node()):
            inner = {
                "id": "inner",
                "type": "supervisor",
                "start": (lambda: Supervisor.start_link(specs(said, "b", "c"), strategy="one_for_one"), ()),
            }
            children = [*specs(said, "a"), inner, *specs(said, "d")]
            if linked:
                await Supervisor.start_link(children, strategy="one_for_one")
            else:

                async def other() -> None:
                    await Supervisor.start_link(children, strategy="one_for_one")
                    ready.set()
                    await receive()

                ready = asyncio.Event()
                spawn(other)
                await ready.wait()

    asyncio.run(main())
    assert said == ["d", "c", "b", "a"]


def test_dynamic_children_and_blocking_nodes_too() -> None:
    said: list[str] = []

    async def start() -> None:
        supervisor = await DynamicSupervisor.start_link()
        await DynamicSupervisor.start_child(supervisor, (Noted, "a", said))

    with sync.Node("n@h", **node()):
        sync.in_process(start())
    assert said == ["a"]


def test_the_tree_of_an_application_ends_with_it() -> None:
    said: list[str] = []

    class App(Application):
        name = "app"

        async def start(self, kind: Any, args: Any) -> Any:
            return await Supervisor.start_link(specs(said, "a", "b"), strategy="one_for_one")

        def stop(self, state: Any) -> None:
            said.append("stopped")

    async def main() -> None:
        async with Node("n@h", **node()):
            await Application.start(App)
            await Supervisor.start_link(specs(said, "c"), strategy="one_for_one")

    asyncio.run(main())
    assert sorted(said) == ["a", "b", "c", "stopped"]
    assert said.index("b") < said.index("a") < said.index("stopped")


def test_a_tree_that_does_not_end_does_not_keep_the_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roots, "SECONDS_MAX", 0.05)

    class Slow(GenServer, shutdown="infinity"):
        def init(self) -> None:
            trap_exit()

        async def terminate(self, reason: Any) -> None:
            await asyncio.sleep(60)

    async def main() -> None:
        async with Node("n@h", **node()):
            await Supervisor.start_link([Slow], strategy="one_for_one")

    asyncio.run(asyncio.wait_for(main(), 30))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("end_trees has not ended within 0.05 s" in text for text in warnings)
