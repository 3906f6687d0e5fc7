"""otp/application.py, application_controller.py, application_master.py: how applications start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support_applications import (
    CALL,
    NOTES,
    Cache,
    Library,
    Paper,
    Shop,
    Store,
    failing,
    idle,
    in_a_node,
    nothing_runs,
    raising,
    root,
    starts,
    stops,
)

from beamnode import (
    Atom,
    FixedPort,
    GenServer,
    Ignore,
    Node,
    Pid,
    ProcessExit,
    StartFailed,
    UsageError,
    a,
    process_info,
    send,
    spawn,
    spawn_link,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import gen
from beamnode.otp.application import Application, ApplicationError, EnvMissing

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _no_notes() -> None:
    NOTES.clear()


# --- Starting and stopping --------------------------------------------------------------------------------------------


def test_one_application_from_its_start_to_its_stop() -> None:
    async def main() -> None:
        await Application.start(Store)
        top = whereis("store_root")
        assert top is not None
        assert await Application.started_applications() == [(Atom("store"), "keeps", "1.2")]
        assert Application.get_application(top) is Atom("store")
        assert Application.get_application() is None
        await Application.stop("store")
        assert whereis("store_root") is None
        assert await Application.started_applications() == []
        assert Application.loaded_applications() == [(Atom("store"), "keeps", "1.2")]
        expected: list[Any] = [
            ("store", "start", a.normal, []),
            ("store", "prep_stop"),
            ("store_root", "root", a.shutdown),
            ("store", "stop", {"of": "store", "prepared": True}),
        ]
        assert expected == NOTES
        await Application.start("store")  # by its name, once it is known
        assert whereis("store_root") is not None

    in_a_node(main)


def test_dependencies_start_first_and_each_once() -> None:
    async def main() -> None:
        assert await Application.ensure_all_started(Shop) == [a.store, a.cache, a.shop]
        assert starts() == ["store", "cache", "shop"]
        assert await Application.ensure_all_started([Shop, "cache", Library]) == [a.library]
        running = [name for name, _, _ in await Application.started_applications()]
        assert running == [a.library, a.shop, a.cache, a.store]

    in_a_node(main)
    assert stops() == ["shop", "cache", "store"], "the node has stopped them, the last one first"


def test_what_runs_is_not_asked_what_it_needs() -> None:
    async def main() -> None:
        await Application.ensure_all_started(Cache)
        await Application.stop(Store)
        assert await Application.ensure_all_started(Cache) == []
        assert await Application.ensure_all_started(Shop) == [a.store, a.shop]

    in_a_node(main)


def test_starting_twice() -> None:
    async def main() -> None:
        await Application.start(Store)
        with pytest.raises(ApplicationError, match="started already") as failure:
            await Application.start(Store)
        assert failure.value.reason == (a.already_started, a.store)
        await Application.ensure_started(Store)
        await Application.ensure_started(Library)
        assert starts() == ["store"]

    in_a_node(main)


def test_several_who_start_at_a_time_wait_for_one_start() -> None:
    class Slow(Application):
        name = "slow"

        async def start(self, kind: Atom, args: Any) -> Pid:
            NOTES.append(("slow", "start"))
            await asyncio.sleep(0.05)
            return spawn_link(root)

    async def main() -> None:
        await asyncio.gather(*(Application.start(Slow) for _ in range(3)))
        assert starts() == ["slow"]

    in_a_node(main)


def test_a_stop_waits_for_the_start_and_a_start_for_the_stop() -> None:
    class Slow(Application):
        name = "slow"

        async def start(self, kind: Atom, args: Any) -> Pid:
            await asyncio.sleep(0.02)
            NOTES.append("started")
            return spawn_link(root)

        async def stop(self, state: Any) -> None:
            await asyncio.sleep(0.02)
            NOTES.append("stopped")

    async def main() -> None:
        await Application.start(Library)
        await asyncio.gather(Application.start(Slow), Application.stop(Slow))
        await Application.start(Slow)
        await asyncio.gather(Application.stop(Slow), Application.start(Slow))

    in_a_node(main)
    words = [note for note in NOTES if isinstance(note, str)]
    assert words == ["started", "stopped"] * 3


def test_what_is_not_started_cannot_be_stopped() -> None:
    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ApplicationError, match="store is not started") as failure:
                await Application.stop("store")
            assert failure.value.reason == (a.not_started, a.store)
            await Application.ensure_started(Library)  # now there is a controller

    in_a_node(main)


def test_a_missing_dependency() -> None:
    class Lacking(Application):
        name = "lacking"
        applications = ("nowhere",)

    async def main() -> None:
        with pytest.raises(ApplicationError, match="ensure_all_started") as failure:
            await Application.start(Cache)
        assert failure.value.reason == (a.not_started, a.store)
        with pytest.raises(ApplicationError, match="nowhere, which lacking needs, is not known") as failure:
            await Application.ensure_all_started([Store, Lacking])
        assert failure.value.reason == (a.not_loaded, a.nowhere)
        assert await Application.started_applications() == [], "store was stopped again"
        with pytest.raises(ApplicationError, match="not known"):
            await Application.start("nowhere")

    in_a_node(main)


def test_a_dependency_that_has_ended() -> None:
    async def main() -> None:
        await Application.ensure_all_started(Store)
        send("store_root", (a.over, a.why))
        await nothing_runs()
        with pytest.raises(ApplicationError, match="needs store, which has ended") as failure:
            await Application.start(Cache)
        assert failure.value.reason == (a.not_running, a.store)
        assert await Application.ensure_all_started(Cache) == [a.store, a.cache]

    in_a_node(main)


def test_an_optional_dependency() -> None:
    class Choosy(Application):
        name = "choosy"
        applications = ("nowhere", "library")
        optional_applications = ("nowhere", "library")

    async def main() -> None:
        assert await Application.ensure_all_started(Choosy) == [a.choosy]
        await Application.stop(Choosy)
        Application.load(Library)
        await Application.start(Choosy)
        await Application.stop(Choosy)
        assert await Application.ensure_all_started(Choosy) == [a.library, a.choosy]

    in_a_node(main)


def test_a_circle_of_dependencies() -> None:
    class One(Application):
        name = "one"
        applications = ("two",)

    class Two(Application):
        name = "two"
        applications = (One,)

    async def main() -> None:
        Application.load(One)
        Application.ensure_loaded(Two)
        with pytest.raises(ApplicationError, match="one -> two -> one") as failure:
            await Application.ensure_all_started(One)
        assert failure.value.reason == (a.circular, [a.one, a.two, a.one])

    in_a_node(main)


# --- Starts that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "text", "reason"),
    [
        (lambda: None, "has to return the pid", (a.bad_return, (CALL, None))),
        (lambda: (a.ok, 1), "has to return the pid", (a.bad_return, (CALL, (a.ok, 1)))),
        (lambda: (a.error, a.why), "why", (a.why, CALL)),
        (lambda: raising(StartFailed(a.why)), "why", (a.why, CALL)),
        (lambda: raising(Ignore()), "chose not to start", (a.bad_return, (CALL, a.ignore))),
        (lambda: raising(ProcessExit(a.why)), "why", (a.bad_return, (CALL, (a.EXIT, a.why)))),
        (lambda: raising(ProcessExit(a.normal)), "normal", ((a.EXIT, a.normal), CALL)),
    ],
)
def test_a_start_that_fails(what: Callable[[], Any], text: str, reason: Any) -> None:
    async def main() -> None:
        for _ in range(2):  # it may be tried again
            with pytest.raises(ApplicationError, match=text) as failure:
                await Application.start(failing(what)) if _ == 0 else await Application.start("failing")
            assert failure.value.reason == reason
        assert await Application.started_applications() == []

    in_a_node(main)


def test_a_start_that_raises_is_logged_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(ApplicationError, match="KeyError") as failure:
            await Application.start(failing(lambda: raising(KeyError("boom"))))
        bad_return, (call, (_, (what, _stack))) = failure.value.reason
        assert (bad_return, call, what) == (a.bad_return, CALL, (a.KeyError, b"'boom'"))

    in_a_node(main)
    assert any(record.exc_info for record in caplog.records if record.name == "beamnode.application")


def test_an_instance_that_cannot_be_made() -> None:
    class Hollow(Application):
        name = "hollow"

        def __init__(self) -> None:
            raise ValueError("boom")

    async def main() -> None:
        with pytest.raises(ApplicationError, match="boom"):
            await Application.start(Hollow)

    in_a_node(main)


def test_what_a_failed_start_has_spawned_is_killed() -> None:
    left: list[Pid] = []

    def start() -> None:
        left.append(spawn(idle))

    async def main() -> None:
        with pytest.raises(ApplicationError):
            await Application.start(failing(start))
        assert process_info(left[0]) is None

    in_a_node(main)


# --- The environment --------------------------------------------------------------------------------------------------


def test_the_environment() -> None:
    async def main() -> None:
        assert Application.get_env("store", "size") is None
        Application.put_env("store", "size", 1)
        Application.put_env("store", "kept", 2, persistent=True)
        assert Application.ensure_loaded(Store) is a.store
        assert Application.get_all_env(Store) == {"size": 5, "kept": 2}
        Application.put_env(Store, a.size, [7])
        assert Application.get_env("store", "size", 0) == Application.fetch_env(a.store, a.size) == [7]
        Application.delete_env("store", "size")
        Application.delete_env("store", "size")
        assert Application.get_env("store", "size", 0) == 0
        with pytest.raises(EnvMissing, match="put_env"):
            Application.fetch_env("store", "size")
        with pytest.raises(LookupError, match="not loaded"):
            Application.fetch_env("other", "size")
        with pytest.raises(UsageError):
            Application.get_env("store", 5)  # type: ignore[arg-type]
        await Application.unload("store")
        assert Application.get_all_env("store") == {}
        Application.load(Store)
        assert Application.get_all_env("store") == {"size": 5, "kept": 2}
        assert Store.env == {"size": 5}

    in_a_node(main)


def test_unloading() -> None:
    async def main() -> None:
        with pytest.raises(ApplicationError, match="not known"):
            await Application.unload("store")
        await Application.start(Store)
        with pytest.raises(ApplicationError) as failure:
            await Application.unload(Store)
        assert failure.value.reason == (a.running, a.store)
        with pytest.raises(ApplicationError) as failure:
            Application.load(Store)
        assert failure.value.reason == (a.already_loaded, a.store)
        await Application.stop(Store)
        await Application.unload(Store)
        assert Application.loaded_applications() == []

    in_a_node(main)


def test_two_nodes_have_nothing_in_common() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        one = Node("one@h", cookie="c", carrier=network.carrier("h"), discovery=FixedPort(1))
        two = Node("two@h2", cookie="c", carrier=network.carrier("h2"), discovery=FixedPort(1))
        async with one, two:

            async def on_one() -> None:
                await Application.start(Store)
                Application.put_env("store", "size", 1)

            async def on_two() -> None:
                assert Application.loaded_applications() == []
                assert Application.get_env("store", "size") is None
                assert await Application.started_applications() == []
                await Application.start(Store)
                assert Application.get_env("store", "size") == 5

            await one.run_process(on_one)
            await two.run_process(on_two)

    asyncio.run(main())
    assert starts() == stops() == ["store", "store"]


# --- Mistakes, and others ---------------------------------------------------------------------------------------------


def test_what_is_no_application() -> None:
    class Nameless(Application):
        pass

    class Double(Application):
        name = "store"

    async def main() -> None:
        with pytest.raises(UsageError, match="Nameless has no name"):
            await Application.start(Nameless)
        for wrong in (5, GenServer):
            with pytest.raises(UsageError, match="derived from Application"):
                await Application.start(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="permanent"):
            await Application.start(Store, "eternal")
        Application.load(Store)
        with pytest.raises(ApplicationError, match="both named store"):
            await Application.start(Double)

    in_a_node(main)


def test_peers_may_ask_what_runs_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Application.start(Store)
        listed = [(a.store, list(b"keeps"), list(b"1.2"))]
        assert await gen.call("application_controller", gen.CALL, a.which_applications, 5) == listed
        info = dict(await gen.call("application_controller", gen.CALL, a.info, 5))
        assert info == {a.running: listed, a.loaded: listed}
        answer = await gen.call("application_controller", gen.CALL, (a.stop_application, a.store), 5)
        assert answer == (a.error, a.notsup)
        GenServer.cast("application_controller", a.anything)
        send("application_controller", a.anything)
        assert len(await Application.started_applications()) == 1

    in_a_node(main)
    assert "refused" in caplog.text


def test_what_an_application_prints_comes_to_the_console() -> None:
    paper = Paper()

    async def main() -> None:
        await Application.start(Store)
        for number in range(3):
            send("store_root", (a.print, f"line {number}"))
        await Application.stop(Store)

    in_a_node(main, console=paper)
    assert paper.text == "line 0\nline 1\nline 2\n"
