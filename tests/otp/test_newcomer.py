"""What who is new to the library meets first: names that must be there, mistakes, and what is said of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from behaviours_support import in_a_node

from beamnode import (
    Agent,
    Application,
    ApplicationError,
    BadChildSpec,
    CallFailed,
    DynamicSupervisor,
    GenServer,
    PartitionSupervisor,
    Pid,
    ProcessExit,
    Registry,
    StartFailed,
    Supervisor,
    SupervisorError,
    Task,
    TaskFailed,
    UsageError,
    a,
    exit,
    is_process_alive,
    process_info,
    receive,
    self,
    spawn_link,
    trap_exit,
)
from beamnode.node import INITIAL_CALL, reason_text

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("module", ["beamnode", "beamnode.otp.task", "beamnode.otp.task_supervisor", "beamnode.sync"])
def test_who_has_task_has_its_supervisor(module: str) -> None:
    """In a Python that has imported nothing else."""
    source = f"from {module} import Task; print(Task.Supervisor.__name__)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("TaskSupervisor\n", "")


class Worker(GenServer):
    def init(self, number: int = 0) -> None:
        self.number = number

    def handle_call(self, request: Any, sender: Any) -> Any:
        if request is a.crash:
            raise ValueError("no such room")
        return self.number


class Broken(GenServer):
    def init(self) -> None:
        raise ValueError("no database at 10.0.0.7")


class OnlyAList(Supervisor):
    def init(self) -> Any:
        return [Worker]


class OnlyOptions(DynamicSupervisor):
    def init(self) -> Any:
        return {"max_children": 3}


class Shop(Application):
    name = "shop"

    async def start(self, kind: Any, args: Any) -> Any:
        return await Supervisor.start_link([Broken], strategy="one_for_one")


def nothing() -> None:
    spawn_link(receive)


def tree(*children: Any, **options: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: Supervisor.start_link(list(children), **{"strategy": "one_for_one", **options})


def elsewhere(supervisor: Any, start: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: supervisor.start_child(("sup", "no@h"), {"id": 1, "start": start})


async def of_no_supervisor(function: Callable[[Any], Awaitable[Any]]) -> None:
    await function(await Worker.start())


async def crashed(module: Any, *args: Any) -> None:
    await module.call(await Worker.start(name="room"), *args)


async def agent_of_nothing() -> None:
    agent = await Agent.start(dict)
    await Agent.get(agent, lambda: 1)


async def failing_task() -> None:
    await Task.await_(Task.async_(lambda: 1 / 0))


MISTAKES: list[tuple[Callable[[], Awaitable[Any]], type[Exception], str]] = [
    (lambda: Supervisor.start_link([Worker]), UsageError, 'a supervisor has a strategy: strategy="one_for_one"'),
    (tree(Worker, strategy="one_for_On"), UsageError, "strategy is 'one_for_one', .*, not 'one_for_On'"),
    (tree(Worker, max_restart=3), TypeError, r"Supervisor.init\(\) got an unexpected keyword argument 'max_restart'"),
    (lambda: DynamicSupervisor.start_link(max=3), TypeError, r"DynamicSupervisor.init\(\) got an unexpected"),
    (tree({"start": (nothing, [])}), BadChildSpec, """needs 'id', as in {"id": "pump", ...}; this one has 'start'"""),
    (tree({"id": 1}), BadChildSpec, r"needs 'start', as in .*\(start_pump, \[80\]\), ...}; this one has 'id'"),
    (tree({"id": 1, "start": nothing}), BadChildSpec, r"\(start_pump, \[80\]\), .*, not <function nothing>"),
    (tree([Worker, 1]), BadChildSpec, r"not \[<class Worker>, 1\]"),
    (tree({"id": 1, "start": (nothing, [])}), StartFailed, "<function nothing> returned nothing: a start function ret"),
    (tree(Broken), StartFailed, r"child Atom\('test_newcomer.Broken'\) did not start: ValueError: no database at 10"),
    (tree(Worker.child_spec(nam="x")), StartFailed, "did not start: TypeError: .* unexpected keyword argument 'nam'"),
    (OnlyAList.start_link, StartFailed, "OnlyAList.init returned"),
    (OnlyOptions.start_link, StartFailed, "OnlyOptions.init returned"),
    (elsewhere(Supervisor, (lambda: 1, [])), UsageError, "the start function <lambda> does not travel"),
    (elsewhere(DynamicSupervisor, (lambda: 1, [])), UsageError, "the start function <lambda> does not travel"),
    (elsewhere(Supervisor, Worker.child_spec(name="x")["start"]), UsageError, "name: keyword arguments do not travel"),
    (lambda: of_no_supervisor(Supervisor.which_children), SupervisorError, "is no supervisor: .*: 0"),
    (lambda: of_no_supervisor(Supervisor.count_children), SupervisorError, "is no supervisor: .*: 0"),
    (lambda: of_no_supervisor(DynamicSupervisor.count_children), SupervisorError, "is no supervisor: .*: 0"),
    (lambda: of_no_supervisor(DynamicSupervisor.which_children), SupervisorError, "no dynamic supervisor .*: 0"),
    (lambda: Supervisor.which_children("gone"), CallFailed, r"^there is no process Atom\('gone'\) \(noproc\)$"),
    (lambda: GenServer.call(("x", "no@h"), 1), CallFailed, "^there is no connection with the node of .*no@h"),
    (lambda: crashed(GenServer, a.crash), CallFailed, r"^Pid<.*> did not reply: ValueError: no such room \(.*, in ha"),
    (agent_of_nothing, CallFailed, "did not reply: TypeError: .* takes 0 positional arguments but 1 was given"),
    (failing_task, TaskFailed, "the task ended before it replied: ZeroDivisionError: division by zero"),
    (lambda: Application.start("gone"), ApplicationError, "^gone is not known to this node: Application.load its cl"),
    (lambda: Application.start(Shop), ApplicationError, "shop has not started: Shop.start ended: child .* did not sta"),
]


@pytest.mark.parametrize(("mistake", "error", "text"), MISTAKES, ids=[text for _, _, text in MISTAKES])
def test_a_mistake_is_told(mistake: Callable[[], Awaitable[Any]], error: type[Exception], text: str) -> None:
    async def main() -> None:
        trap_exit()
        with pytest.raises(error, match=text) as failure:
            await mistake()
        assert type(failure.value) is error

    in_a_node(main)


@pytest.mark.parametrize(("cls", "wanted"), [(OnlyAList, "Supervisor.init(children"), (OnlyOptions, "DynamicSuperv")])
def test_what_an_init_must_return_is_in_the_log(cls: Any, wanted: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trap_exit()
        with pytest.raises(StartFailed):
            await cls.start_link()

    in_a_node(main)
    [record] = [record for record in caplog.records if record.name == "beamnode.supervisor"]
    assert f"(bad_return): it has to return {wanted}" in record.getMessage()


def test_the_log_of_a_task_shows_only_its_own_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those that run it nor those of the compiled parts."""

    async def main() -> None:
        trap_exit()
        with pytest.raises(TaskFailed):
            await failing_task()

    in_a_node(main)
    [record] = [record for record in caplog.records if record.name == "beamnode.task"]
    files = re.findall('File "(.*)", line', record.getMessage())
    assert files == [__file__]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (a.normal, "Atom('normal')"),
        ((a.EXIT, ((a.KeyError, b"x\ny"), [])), r"KeyError: x\ny"),
        ((a.undef, [(a.m, a.f, [1, 2], [])]), "undef: there is no function m:f/2, or it may not be called"),
        ((a.undef, [(a.m, a.f, 3, [])]), "undef: there is no function m:f/3, or it may not be called"),
        ((a.shutdown, (a.failed_to_start_child, 1, (a.EXIT, a.no))), "child 1 did not start: Atom('no')"),
        ((a.noproc, (a.gen_server, a.call, [a.x])), "Atom('noproc'), seen in gen_server:call with [Atom('x')]"),
        ((a.shutdown, (a.m, a.f, [])), "(Atom('shutdown'), (Atom('m'), Atom('f'), []))"),
        ((a.EXIT,), "(Atom('EXIT'),)"),
    ],
)
def test_reasons_in_words(reason: Any, text: str) -> None:
    assert reason_text(reason) == text


def test_a_process_that_is_taken_along_says_why() -> None:
    """Who does not trap exits and starts what fails is ended by the link: in words, and with the line that did it."""

    async def main() -> None:
        await Supervisor.start_link([Broken], strategy="one_for_one")

    with pytest.raises(ProcessExit) as failure:
        in_a_node(main)
    text = str(failure.value)
    assert text.startswith("process exit: child Atom('test_newcomer.Broken') did not start: ValueError: no database at")
    assert "in init)" in text
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__
    assert any(entry.path == Path(__file__) and entry.name == "main" for entry in failure.traceback)


def test_a_reason_of_ones_own_is_shown_whole() -> None:
    reason = "it is late, and " * 20
    assert str(ProcessExit(reason)) == f"process exit: {reason!r}"


def test_a_reason_in_many_wrappers_ends() -> None:
    reason: Any = a.why
    for _ in range(10_000):
        reason = (a.EXIT, reason)
    assert len(reason_text(reason)) < 300


def test_a_registry_is_asked_what_it_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    """Elixir's is a supervisor: tools ask it for its children. Nothing of this ends it, and who is registered."""

    async def main() -> None:
        keeper: Pid = await Registry.start_link(keys="unique", name="rooms")
        assert await Supervisor.which_children("rooms") == []
        counts = {"specs": 0, "active": 0, "supervisors": 0, "workers": 0}
        assert await Supervisor.count_children("rooms") == counts
        with pytest.raises(SupervisorError):
            await Supervisor.terminate_child("rooms", 1)
        assert await GenServer.call("rooms", a.sync) == (a.error, (a.unknown_request, a.sync))
        GenServer.cast("rooms", a.sync)
        top = await Supervisor.start_link([Registry.child_spec(keys="unique", name="other")], strategy="one_for_one")
        assert (await Supervisor.count_children(top))["supervisors"] == 1
        assert is_process_alive(keeper)
        assert await Supervisor.which_children("rooms") == []
        trap_exit()
        exit(keeper, a.shutdown)
        assert await receive(timeout=5) == (a.EXIT, keeper, a.shutdown)
        assert keeper.node is self().node

    in_a_node(main)
    assert "Registry rooms was cast Atom('sync'): that means nothing to it" in caplog.text


def test_a_partition_supervisor_is_known_as_one() -> None:
    async def main() -> None:
        pid = await PartitionSupervisor.start_link(Worker, name="parts", partitions=1)
        assert (process_info(pid) or {})["dictionary"][INITIAL_CALL] == (a.supervisor, a.PartitionSupervisor, 1)

    in_a_node(main)


@pytest.mark.parametrize(("shutdown", "warnings"), [(5000, 1), (999, 0), ("infinity", 0), (True, 0)])
def test_milliseconds_are_doubted(shutdown: Any, warnings: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await Supervisor.start_link([{**Worker.child_spec(), "shutdown": shutdown}], strategy="one_for_one")

    if shutdown is True:
        with pytest.raises(BadChildSpec):
            in_a_node(main)
    else:
        in_a_node(main)
    assert caplog.text.count("OTP counts milliseconds") == warnings
