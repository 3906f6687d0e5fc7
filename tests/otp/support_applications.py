"""Applications for tests, which note what they do, and what their tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from beamnode import (
    Atom,
    FixedPort,
    Node,
    Pid,
    ProcessExit,
    a,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_link,
    trap_exit,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp.application import Application
from beamnode.services.console import Console


def a_node(**options: Any) -> Node:
    return Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1), **options)


def in_a_node(main: Callable[[], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with a_node(**options):
            await main()

    asyncio.run(whole())


NOTES: list[Any] = []
"""What the applications of a test have done, in order."""


async def root(name: str | None = None) -> None:
    """Stands for a root supervisor: ends as its parent says, and notes it."""
    trap_exit()
    if name is not None:
        register(name, self())
    while True:
        match await receive():
            case (a.EXIT, _, reason) | (a.over, reason):
                NOTES.append((name, "root", reason))
                raise ProcessExit(reason)
            case (a.spawn, Pid() as asker):
                send(asker, spawn(idle))
            case (a.print, text):
                print(text)


async def idle() -> None:
    await receive()


class Noting(Application):
    def start(self, kind: Atom, args: Any) -> Any:
        NOTES.append((self.name, "start", kind, args))
        return spawn_link(root, f"{self.name}_root"), {"of": self.name}

    async def prep_stop(self, state: Any) -> Any:
        NOTES.append((self.name, "prep_stop"))
        return {**state, "prepared": True}

    def stop(self, state: Any) -> None:
        NOTES.append((self.name, "stop", state))


class Store(Noting):
    name = "store"
    description = "keeps"
    vsn = "1.2"
    env: ClassVar[dict[str, Any]] = {"size": 5}


class Cache(Noting):
    name = "cache"
    applications = (Store,)


class Shop(Noting):
    name = "shop"
    applications = (Cache, "store")
    args = (1,)


class Library(Application):
    name = "library"


def starts() -> list[str]:
    return [note[0] for note in NOTES if note[1] == "start"]


def stops() -> list[str]:
    return [note[0] for note in NOTES if note[1] == "stop"]


def failing(what: Callable[[], Any]) -> type[Application]:
    class Failing(Application):
        name = "failing"

        def start(self, kind: Atom, args: Any) -> Any:
            return what()

    return Failing


def raising(error: BaseException) -> Any:
    raise error


CALL = (Atom("Failing"), a.start, [a.normal, []])


async def ended(pid: Pid | None) -> Any:
    assert pid is not None
    monitor(pid)
    return (await receive(timeout=5))[4]


async def nothing_runs() -> None:
    while await Application.started_applications():
        await asyncio.sleep(0.01)


class Paper(Console):
    """Keeps what is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.answers: list[str] = []

    def write(self, text: str) -> None:
        self.text += text

    async def read_line(self, prompt: str) -> str:
        self.write(prompt)
        return self.answers.pop(0)
