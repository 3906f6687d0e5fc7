"""otp/application.py, application_controller.py, application_master.py: how applications end, and nodes with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support_applications import (
    CALL,
    NOTES,
    Cache,
    Library,
    Noting,
    Paper,
    Shop,
    Store,
    a_node,
    ended,
    failing,
    in_a_node,
    nothing_runs,
    root,
    stops,
)

from beamnode import (
    Atom,
    FixedPort,
    GenServer,
    Pid,
    ProcessExit,
    a,
    exit,
    io,
    process_info,
    receive,
    self,
    send,
    spawn_link,
    sync,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp.application import Application, ApplicationError
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.supervisor import Supervisor

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _no_notes() -> None:
    NOTES.clear()


# --- Ends -------------------------------------------------------------------------------------------------------------


def test_a_temporary_application_that_ends_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Application.start(Store)
        send("store_root", (a.over, a.why))
        await nothing_runs()
        assert NOTES[-1] == ("store", "stop", {"of": "store", "prepared": True})
        await Application.stop(Store)  # as in OTP, where it is started until that
        with pytest.raises(ApplicationError, match="not started"):
            await Application.stop(Store)
        await Application.start(Store)

    in_a_node(main)
    assert "application store (temporary) has ended: why" in caplog.text.replace("Atom('why')", "why")


def test_what_is_left_of_an_application_is_killed() -> None:
    async def main() -> None:
        await Application.start(Store)
        send("store_root", (a.spawn, self()))
        stray = await receive(timeout=5)
        assert Application.get_application(stray) is a.store
        await Application.stop(Store)
        assert process_info(stray) is None

    in_a_node(main)


@pytest.mark.parametrize(
    ("kind", "reason", "ends"),
    [
        ("permanent", a.normal, True),
        ("permanent", a.shutdown, True),
        ("transient", a.normal, False),
        ("transient", a.shutdown, True),
        ("temporary", a.kaput, False),
    ],
)
def test_whose_end_is_the_end_of_the_node(
    kind: str, reason: Atom, ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        node = a_node()
        async with node:
            await Application.ensure_all_started([Store, Library])
            await Application.start(Cache, kind)
            send("cache_root", (a.over, reason))
            await asyncio.sleep(0 if not ends else 5)
            while any(name is a.cache for name, _, _ in await Application.started_applications()):
                await asyncio.sleep(0.01)
        assert not node.alive

    if not ends:
        asyncio.run(main())
        return
    with pytest.raises(ProcessExit) as failure:
        asyncio.run(main())
    assert failure.value.reason == (a.application_terminated, a.cache, reason)
    assert stops() == ["cache", "store"]
    assert "the node shuts down, because application cache is " + kind in caplog.text


@pytest.mark.parametrize(("kind", "ends"), [("permanent", True), ("transient", True), ("temporary", False)])
def test_a_failed_start_of_one_that_must_run(kind: str, ends: bool) -> None:
    async def main() -> None:
        async with a_node():
            with pytest.raises(ApplicationError):
                await Application.start(failing(lambda: None), kind)
            await asyncio.sleep(5 if ends else 0)

    if not ends:
        asyncio.run(main())
        return
    with pytest.raises(ProcessExit) as failure:
        asyncio.run(main())
    reason = (a.bad_return, (CALL, None))
    assert failure.value.reason == (a.application_start_failure, a.failing, reason)


def test_what_is_started_for_one_that_fails_is_stopped_again() -> None:
    class Needy(Application):
        name = "needy"
        applications = (Cache,)

        def start(self, kind: Atom, args: Any) -> Any:
            return (a.error, a.why)

    async def main() -> None:
        with pytest.raises(ApplicationError) as failure:
            await Application.ensure_all_started([Library, Needy])
        assert failure.value.reason == (a.needy, (a.why, ((a.Needy, a.start, [a.normal, []]))))
        assert await Application.started_applications() == []
        assert stops() == ["cache", "store"]

    in_a_node(main)


def test_a_node_without_a_body_shuts_down_by_itself() -> None:
    async def main() -> None:
        node = a_node()
        await node.start()

        async def work() -> None:
            await Application.start(Store, "permanent")
            send("store_root", (a.over, a.why))

        await node.run_process(work)
        async with asyncio.timeout(5):
            while node.alive:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert stops() == ["store"]


def test_several_whose_end_is_the_end_of_the_node(caplog: pytest.LogCaptureFixture) -> None:
    """The others are still stopped in order."""

    async def main() -> None:
        node = a_node()
        await node.start()

        async def work() -> None:
            await Application.ensure_all_started(Tree)
            await Application.ensure_all_started(Shop, "permanent")
            for name in ("store_root", "cache_root", "shop_root"):
                send(name, (a.over, a.why))

        await node.run_process(work)
        async with asyncio.timeout(5):
            while node.alive:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert sorted(stops()) == ["cache", "shop", "store"]
    assert [note for note in NOTES if note[1:] == (a.shutdown,)][:3] == [(n, a.shutdown) for n in (2, 1, 0)]
    assert caplog.text.count("the node shuts down, because") == 1


def test_a_killed_controller_takes_the_applications_along() -> None:
    async def main() -> None:
        await Application.start(Store)
        top = whereis("store_root")
        controller = whereis("application_controller")
        assert controller is not None
        exit(controller, a.kill)
        assert await ended(top) is a.shutdown
        await Application.start(Library)  # a new one
        assert [name for name, _, _ in await Application.started_applications()] == [a.library]

    in_a_node(main)


def test_a_killed_master_is_the_end_of_its_application() -> None:
    async def main() -> None:
        await Application.start(Store)
        top = whereis("store_root")
        assert top is not None
        info = process_info(top)
        assert info is not None
        exit(info["group_leader"], a.kill)
        await ended(top)
        await nothing_runs()

    in_a_node(main)


def test_callbacks_that_fail_do_not_hinder_the_end(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Noting):
        name = "clumsy"

        async def prep_stop(self, state: Any) -> Any:
            raise RuntimeError("boom")

        def stop(self, state: Any) -> None:
            NOTES.append(state)
            raise RuntimeError("bang")

    async def main() -> None:
        await Application.start(Clumsy)
        await Application.stop(Clumsy)

    in_a_node(main)
    assert NOTES[-1] == {"of": "clumsy"}
    assert "Clumsy.prep_stop failed" in caplog.text
    assert "Clumsy.stop failed" in caplog.text


def test_an_application_may_use_the_controller_while_it_stops() -> None:
    class Asking(Noting):
        name = "asking"

        async def stop(self, state: Any) -> None:  # type: ignore[override]
            NOTES.append([str(name) for name, _, _ in await Application.started_applications()])
            with pytest.raises(ApplicationError, match="shuts down"):
                await Application.start(Library)

    async def main() -> None:
        await Application.start(Store)
        await Application.start(Asking)

    in_a_node(main)
    assert ["asking", "store"] in NOTES


def test_the_node_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Noting):
        name = "stuck"

        async def stop(self, state: Any) -> None:  # type: ignore[override]
            await asyncio.sleep(1000)

    monkeypatch.setattr("beamnode.otp.application_controller.SHUT_DOWN_SECONDS", 0.05)

    async def main() -> None:
        await Application.start(Stuck)

    in_a_node(main)
    assert "has not ended within 0.05 s" in caplog.text


def test_callbacks_print_and_ask_like_any_process() -> None:
    paper = Paper()
    paper.answers = ["Ada\n"]

    class Chatty(Application):
        name = "chatty"

        async def start(self, kind: Atom, args: Any) -> Pid:
            print("hello,", await io.get_line("name? "), end="")
            return spawn_link(root)

        def stop(self, state: Any) -> None:
            print("good", end="bye")

    async def main() -> None:
        await Application.start(Chatty)
        await Application.stop(Chatty)

    in_a_node(main, console=paper)
    assert paper.text == "name? hello, Ada\ngoodbye"


class Part(GenServer):
    """Takes a moment to end, and notes it."""

    def init(self, number: int) -> None:
        trap_exit()
        self.number = number

    async def terminate(self, reason: Any) -> None:
        await asyncio.sleep(0.01)
        NOTES.append((self.number, reason))


class Tree(Application):
    name = "tree"

    async def start(self, kind: Atom, args: Any) -> Pid:
        children = [{**Part.child_spec(number), "id": number} for number in range(3)]
        pid = await Supervisor.start_link(children, strategy="one_for_one", name="tree")
        await DynamicSupervisor.start_child(await DynamicSupervisor.start_link(), (Part, 3))
        return pid


def test_a_tree_ends_in_order_with_its_node() -> None:
    async def main() -> None:
        await Application.start(Tree)

    in_a_node(main)
    assert NOTES[:3] == [(2, a.shutdown), (1, a.shutdown), (0, a.shutdown)]


def test_in_a_node_with_a_blocking_face() -> None:
    console = Paper()
    carrier = MemoryNetwork().carrier("h")
    with sync.Node("n@h", cookie="c", carrier=carrier, discovery=FixedPort(1), console=console):
        assert sync.in_process(Application.ensure_all_started(Tree)) == [a.tree]
        assert Application.get_application(sync.whereis("tree")) is a.tree
        Application.put_env("tree", "height", 5)
        assert Application.get_env("tree", "height") == 5
    assert NOTES[:3] == [(2, a.shutdown), (1, a.shutdown), (0, a.shutdown)]


def test_a_node_that_was_shut_down_forgets_what_was_loaded() -> None:
    async def main() -> None:
        node = a_node()
        async with node:
            await Application.start(Store)
            Application.put_env("store", "size", 6)
        async with node:
            assert Application.loaded_applications() == []
            await Application.start(Store)
            assert Application.get_env("store", "size") == 5

    asyncio.run(main())
