"""otp/application.py, application_controller.py, application_master.py: applications of one node of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

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
    exit,
    io,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_link,
    sync,
    trap_exit,
    whereis,
)
from beamnode.carriers.memory import MemoryNetwork
from beamnode.otp import gen
from beamnode.otp.application import Application, ApplicationError, EnvMissing
from beamnode.otp.dynamic_supervisor import DynamicSupervisor
from beamnode.otp.supervisor import Supervisor
from beamnode.services.console import Console

pytestmark = pytest.mark.filterwarnings("error")

LOGGER = logging.getLogger("beamnode.application").name


def a_node(**options: Any) -> Node:
    return Node("n@h", cookie="c", carrier=MemoryNetwork().carrier("h"), discovery=FixedPort(1), **options)


def in_a_node(main: Callable[[], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with a_node(**options):
            await main()

    asyncio.run(whole())


NOTES: list[Any] = []


@pytest.fixture(autouse=True)
def notes() -> list[Any]:
    """What the applications of a test have done, in order."""
    NOTES.clear()
    return NOTES


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


def failing(what: Callable[[], Any]) -> type[Application]:
    class Failing(Application):
        name = "failing"

        def start(self, kind: Atom, args: Any) -> Any:
            return what()

    return Failing


def raising(error: BaseException) -> Any:
    raise error


CALL = (Atom("Failing"), a.start, [a.normal, []])


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
    assert any(record.exc_info for record in caplog.records if record.name == LOGGER)


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


# --- Ends -------------------------------------------------------------------------------------------------------------


async def ended(pid: Pid | None) -> Any:
    assert pid is not None
    monitor(pid)
    return (await receive(timeout=5))[4]


async def nothing_runs() -> None:
    while await Application.started_applications():
        await asyncio.sleep(0.01)


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


def test_what_an_application_prints_comes_to_the_console() -> None:
    paper = Paper()

    async def main() -> None:
        await Application.start(Store)
        for number in range(3):
            send("store_root", (a.print, f"line {number}"))
        await Application.stop(Store)

    in_a_node(main, console=paper)
    assert paper.text == "line 0\nline 1\nline 2\n"
