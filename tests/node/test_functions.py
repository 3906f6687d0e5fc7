"""node/functions.py: each free function keeps what its docstring promises, and says what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, expect, nothing_comes, play

from beamnode import (
    Atom,
    EncodeError,
    NameTakenError,
    NoProcessError,
    NotAliveError,
    Pid,
    ProcessExit,
    Reference,
    UsageError,
    a,
    alias,
    demonitor,
    exit,
    group_leader,
    link,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    send_after,
    spawn,
    spawn_link,
    spawn_monitor,
    sync,
    trap_exit,
    unalias,
    unlink,
    unregister,
    whereis,
)

pytestmark = pytest.mark.filterwarnings("error")

PID = Pid(Atom(f"nobody@{HOST}"), 1, 0, 1)
REFERENCE = Reference(Atom(f"nobody@{HOST}"), 1, (1, 2, 3))


async def wait() -> None:
    await receive()


@pytest.mark.parametrize(
    "call",
    [
        self, receive, group_leader, process_info, alias, trap_exit,
        lambda: send(PID, 1), lambda: spawn(wait), lambda: spawn_link(wait), lambda: spawn_monitor(wait),
        lambda: link(PID), lambda: unlink(PID), lambda: monitor(PID), lambda: demonitor(REFERENCE),
        lambda: exit(PID, a.x), lambda: register("x", PID), lambda: unregister("x"), lambda: whereis("x"),
        lambda: unalias(REFERENCE), lambda: send_after(PID, 1, 1), sync.receive,
    ],
)  # fmt: skip
def test_outside_of_any_process_the_error_says_where_to_call(call: Callable[[], Any]) -> None:
    with pytest.raises(NotAliveError, match=r"inside `async with Node\(\.\.\.\)`, in a function that was spawned"):
        call()


def in_a_node(main: Callable[[], Any]) -> None:
    """Run `main()` as the body of a node."""

    async def whole(cluster: Cluster) -> None:
        async with cluster.node():
            await main()

    play(whole)


def test_the_blocking_names_are_the_same() -> None:
    import beamnode

    assert {name for name in sync.__all__ if not hasattr(beamnode, name)} == {"in_process"}
    blocking = [name for name in sync.__all__ if getattr(sync, name) is not getattr(beamnode, name, None)]
    servers = {"Agent", "GenEvent", "GenServer", "GenStatem", "Registry", "Task"}
    supervisors = {"Application", "DynamicSupervisor", "PartitionSupervisor", "Supervisor"}
    assert set(blocking) == {*servers, *supervisors, "Node", "in_process", "receive"}


# --- Sending ----------------------------------------------------------------------------------------------------------


def test_send_gives_the_message_and_takes_pid_name_alias() -> None:
    async def main() -> None:
        register("me", self())
        message = [object()]  # within the node anything can be sent, and is no copy
        for to in (self(), "me", a.me, ("me", self().node), (a.me, self().node.name), alias()):
            assert send(to, message) is message
            assert await receive(timeout=0) is message

    in_a_node(main)


def test_send_after_and_cancel() -> None:
    async def main() -> None:
        timer = send_after(self(), a.late, 0.02)
        early = send_after(self(), a.early, 0)
        assert await expect() is a.early
        assert early.cancel() is None
        assert await expect() is a.late
        assert timer.cancel() is None
        timer = send_after(self(), a.never, 60)
        left = timer.cancel()
        assert left is not None
        assert 59 < left <= 60
        assert timer.cancel() is None
        await nothing_comes()

    in_a_node(main)


@pytest.mark.parametrize(
    ("to", "message", "error"),
    [
        (1, a.x, UsageError),
        (("a", "b", "c"), a.x, UsageError),
        (("name", f"nobody@{HOST}"), object(), EncodeError),
        (PID, float("nan"), EncodeError),
    ],
)
def test_send_after_says_at_once_what_cannot_be_sent(to: Any, message: Any, error: type[Exception]) -> None:
    async def main() -> None:
        with pytest.raises(error):
            send_after(to, message, 0.01)

    in_a_node(main)


# --- Links ------------------------------------------------------------------------------------------------------------


def test_link_to_a_process_that_has_ended() -> None:
    async def main() -> None:
        pid, _ = spawn_monitor(wait)
        exit(pid, a.over)
        await expect()
        with pytest.raises(NoProcessError, match="has ended: there is nothing to link to"):
            link(pid)
        trap_exit()
        link(pid)
        assert await expect() == (a.EXIT, pid, a.noproc)
        link(self())
        unlink(pid)
        link(PID)  # of a node that is not there
        assert await expect() == (a.EXIT, PID, a.noconnection)

    in_a_node(main)


def test_trap_exit_gives_what_was_before() -> None:
    async def main() -> None:
        assert [trap_exit(), trap_exit(), trap_exit(False), trap_exit()] == [False, True, True, False]
        exit(self(), a.hello)
        assert await expect() == (a.EXIT, self(), a.hello)
        exit(self(), a.normal)
        assert await expect() == (a.EXIT, self(), a.normal)

    in_a_node(main)


def test_exit_of_itself_and_of_others() -> None:
    async def main() -> None:
        with pytest.raises(ProcessExit, match="because") as error:
            exit((a.because, 1))
        assert error.value.reason == (a.because, 1)
        for wrong in ((), (self(), a.x, 1)):
            with pytest.raises(UsageError, match="a reason, or a pid and a reason"):
                exit(*wrong)
        exit(PID, a.x)  # nobody there: no error
        pid, reference = spawn_monitor(wait)
        exit(pid, a.normal)
        await nothing_comes()
        exit(pid, a.over)
        assert await expect() == (a.DOWN, reference, a.process, pid, a.over)

    in_a_node(main)


@pytest.mark.parametrize("call", [link, unlink, lambda x: exit(x, a.x), lambda x: register("x", x)])
def test_a_name_where_a_pid_is_needed(call: Callable[[Any], Any]) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match=r"a pid is needed here, not 'name': whereis\(name\)"):
            call("name")

    in_a_node(main)


# --- Monitors and aliases ---------------------------------------------------------------------------------------------


def test_monitors_of_local_processes() -> None:
    async def main() -> None:
        pid = spawn(wait)
        first, second = monitor(pid), monitor(pid, tag=(a.ended, 1))
        register("name", pid)
        named = monitor("name")
        exit(pid, a.over)
        got = [await expect() for _ in range(3)]
        assert (a.DOWN, first, a.process, pid, a.over) in got
        assert ((a.ended, 1), second, a.process, pid, a.over) in got
        assert (a.DOWN, named, a.process, (a.name, self().node), a.over) in got
        reference = monitor("name")
        assert await expect() == (a.DOWN, reference, a.process, (a.name, self().node), a.noproc)
        monitor(self())
        await nothing_comes()

    in_a_node(main)


def test_demonitor_can_flush() -> None:
    async def main() -> None:
        for flush in (True, False):
            reference = monitor(PID)
            await asyncio.sleep(0.2)
            send(self(), a.other)
            assert demonitor(reference, flush=flush) is False
            if not flush:
                assert (await expect())[1] == reference
            assert await expect() is a.other

    in_a_node(main)


@pytest.mark.parametrize("wrong", [1, None, b"name", REFERENCE, ("a",), ("a", "b", "c"), [1]])
def test_what_cannot_be_monitored(wrong: Any) -> None:
    async def main() -> None:
        with pytest.raises(UsageError):
            monitor(wrong)

    in_a_node(main)


def test_aliases() -> None:
    async def main() -> None:
        explicit, reply = alias(), alias("reply")
        for number in (1, 2):
            send(explicit, number)
            send(reply, (a.reply, number))
        assert [await expect() for _ in range(3)] == [1, (a.reply, 1), 2]
        assert [unalias(explicit), unalias(explicit), unalias(reply)] == [True, False, False]
        send(explicit, 3)
        pid = spawn(wait)
        reference = monitor(pid, alias="reply_demonitor")
        send(reference, a.answer)
        assert await expect() is a.answer
        exit(pid, a.over)
        await nothing_comes()
        with pytest.raises(UsageError, match="'demonitor' belongs to a monitor"):
            alias("demonitor")
        for call in (lambda: alias("ever"), lambda: monitor(pid, alias="ever")):
            with pytest.raises(UsageError, match=r"an alias is one of 'explicit_unalias', .*, not 'ever'"):
                call()

    in_a_node(main)


# --- Names ------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    async def main() -> None:
        pid = spawn(wait)
        register("name", pid)
        assert whereis("name") == whereis(a.name) == pid
        with pytest.raises(NameTakenError, match=r"name is registered already, to Pid"):
            register("name", self())
        with pytest.raises(UsageError, match="is registered as name already: unregister that name first"):
            register("other", pid)
        with pytest.raises(UsageError, match="cannot be registered as"):
            register("undefined", self())
        for wrong in (1, b"name", None):
            with pytest.raises(UsageError, match="a name is an Atom or a str"):
                register(wrong, self())  # type: ignore[arg-type]
        unregister("name")
        with pytest.raises(NoProcessError, match="no process is registered as name"):
            unregister("name")
        register("name", pid)
        reference = monitor(pid)
        exit(pid, a.over)
        assert (await expect())[1] == reference
        assert whereis("name") is None
        for dead in (pid, PID):
            with pytest.raises(NoProcessError, match="is no living process of this node: it cannot be registered"):
                register("name", dead)
        with pytest.raises(EncodeError, match="at most 255 characters"):
            whereis("x" * 256)

    in_a_node(main)


# --- About processes --------------------------------------------------------------------------------------------------


def test_process_info() -> None:
    async def main() -> None:
        pid = spawn_link(wait)
        reference = monitor(pid)
        await asyncio.sleep(0)
        info = process_info(pid)
        assert info is not None
        assert info["links"] == info["monitored_by"] == [self()]
        assert (info["status"], info["message_queue_len"], info["trap_exit"]) == ("waiting", 0, False)
        assert (info["parent"], info["registered_name"]) == (self(), None)
        assert info["group_leader"] == group_leader() == whereis("user")
        assert info["initial_call"] == (a.test_functions, a.wait, 0)
        send(self(), 1)
        register("me", self())
        own = process_info()
        assert own is not None
        assert (own["monitors"], own["message_queue_len"], own["registered_name"]) == ([pid], 1, a.me)
        demonitor(reference)
        unlink(pid)
        exit(pid, a.over)
        assert process_info(pid) is None

    in_a_node(main)


def test_group_leaders_are_inherited_and_set() -> None:
    async def main() -> None:
        assert group_leader() == whereis("user")
        pid = spawn(wait)
        assert group_leader(PID, pid) == whereis("user")
        info = process_info(pid)
        assert info is not None
        assert info["group_leader"] == PID
        assert group_leader(PID) == PID
        assert group_leader() == PID

    in_a_node(main)
