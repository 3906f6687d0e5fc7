"""node/body.py: coroutines, threads and `async with` bodies: how they receive, are ended, crash; who is current."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from typing import Any

import pytest
from test_python_nodes_cluster import WAIT_SECONDS, Cluster, expect, play, until

from beamnode import (
    Atom,
    NotAliveError,
    Pid,
    ProcessExit,
    UsageError,
    a,
    exit,
    link,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    sync,
    trap_exit,
)

pytestmark = pytest.mark.filterwarnings("error")


async def wait_forever() -> None:
    await receive()


def wait_in_a_thread() -> None:
    sync.receive()


async def reason_of_end(pid: Pid) -> Any:
    """With what a process that is ending, or has ended, ended."""
    reference = monitor(pid)
    message = await expect(lambda got: isinstance(got, tuple) and len(got) == 5 and got[1] == reference)
    return message[4]


# --- Receiving --------------------------------------------------------------------------------------------------------


def test_receiving_with_timeouts_and_selectively() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            with pytest.raises(TimeoutError, match=r"no message within 0\.01 s"):
                await receive(timeout=0.01)
            for timeout in (0, -1):
                with pytest.raises(TimeoutError):
                    await receive(timeout=timeout)
            for number in (1, 2, 3):
                send(self(), number)
            assert await receive(lambda message: message == 2, timeout=0) == 2
            with pytest.raises(TimeoutError):
                await receive(lambda message: message == 2, timeout=0.01)
            assert [await receive(timeout=0), await receive()] == [1, 3]
            asyncio.get_running_loop().call_later(0.02, send, self(), a.late)
            send(self(), a.noise)
            assert await receive(lambda message: message is a.late, timeout=WAIT_SECONDS) is a.late
            assert await receive() is a.noise

    play(main)


def test_a_thread_receives_with_timeouts_and_selectively() -> None:
    def body(owner: Pid) -> None:
        with pytest.raises(TimeoutError, match=r"no message within 0\.01 s"):
            sync.receive(timeout=0.01)
        with pytest.raises(TimeoutError):
            sync.receive(timeout=0)
        for number in (1, 2, 3):
            send(self(), number)
        assert sync.receive(lambda message: message == 2, timeout=0) == 2
        with pytest.raises(TimeoutError):
            sync.receive(lambda message: message == 2, timeout=0.01)
        assert [sync.receive(timeout=0), sync.receive()] == [1, 3]
        send(owner, (a.ready, self()))
        assert sync.receive(timeout=WAIT_SECONDS) is a.late
        exit(a.all_was_well)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid = spawn(body, self())
            assert await expect() == (a.ready, pid)
            await asyncio.sleep(0.02)
            send(pid, a.late)
            assert await reason_of_end(pid) is a.all_was_well

    play(main)


def test_two_tasks_cannot_receive_for_one_process() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            first = asyncio.create_task(wait_forever())
            await asyncio.sleep(0)
            with pytest.raises(UsageError, match=r"another task of .* waits in receive"):
                await receive()
            send(self(), a.hello)
            await first

    play(main)


def test_two_threads_cannot_receive_for_one_process() -> None:
    def body() -> None:
        other = spawn_helper(lambda: sync.receive())
        time.sleep(0.1)
        with pytest.raises(UsageError, match=r"another thread of .* waits in receive"):
            sync.receive()
        send(self(), a.hello)
        other.join()
        exit(a.all_was_well)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            assert await reason_of_end(spawn(body)) is a.all_was_well

    play(main)


def spawn_helper(function: Any) -> threading.Thread:
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(function))
    thread.start()
    return thread


def test_the_wrong_receive_is_told() -> None:
    def in_a_thread() -> None:
        with pytest.raises(UsageError, match=r"use beamnode\.sync\.receive"):
            receive()
        exit(a.all_was_well)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            with pytest.raises(UsageError, match=r"use `await receive\(\.\.\.\)`"):
                sync.receive()
            assert await reason_of_end(spawn(in_a_thread)) is a.all_was_well

    play(main)


def test_a_busy_process_lets_the_others_run() -> None:
    async def forever() -> None:
        while True:
            send(self(), await receive())

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid = spawn(forever)
            send(pid, a.go)
            await asyncio.sleep(0.02)
            exit(pid, a.enough)
            assert await reason_of_end(pid) is a.noproc

    play(main)


# --- Being ended ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [wait_forever, wait_in_a_thread])
def test_killed_while_it_waits(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body)
            await asyncio.sleep(0.02)
            exit(pid, a.kill)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.killed)
            assert process_info(pid) is None

    play(main)
    assert caplog.records == []


def test_ended_in_the_read_that_brought_its_message_it_cleans_up_undisturbed() -> None:
    done = []

    async def body() -> None:
        try:
            await receive()
        finally:
            await asyncio.sleep(0)
            done.append(a.cleaned)

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:
            assert await two.connect(one.name)
            process = one.runtime.spawn(body, ())
            await until(lambda: process.waiting)
            send(process.pid, a.hello)
            exit(process.pid, a.enough)  # both leave in one write
            await asyncio.wait([process.body.task], timeout=WAIT_SECONDS)
            assert (process.exit_reason, done) == (a.enough, [a.cleaned])

    play(main)


def test_bytes_that_come_while_a_task_runs_interrupt_no_task() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            process = node.runtime.spawn(wait_forever, ())
            await until(lambda: process.waiting)
            node.runtime.begin_turn()  # as a carrier that delivers in the call that writes has it
            node.runtime.signals.deliver(process, a.hello)
            node.runtime.end_turn()
            assert process.alive
            await asyncio.wait([process.body.task], timeout=WAIT_SECONDS)
            assert process.exit_reason is a.normal

    play(main)


def test_killed_before_its_first_step() -> None:
    steps = []

    async def body() -> None:
        steps.append(1)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body)
            exit(pid, a.kill)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.killed)
            await asyncio.sleep(0.01)
            assert steps == []

    play(main)


def test_a_computing_thread_notices_at_its_next_call() -> None:
    go, noticed = threading.Event(), []

    def body(owner: Pid) -> None:
        go.wait(WAIT_SECONDS)
        try:
            sync.receive(timeout=0)
        except ProcessExit as error:
            noticed.append(error.reason)
            raise

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body, self())
            exit(pid, a.enough)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.enough)
            go.set()
            await until(lambda: noticed == [a.enough])

    play(main)


def test_who_swallows_cancellation_ends_at_the_next_receive() -> None:
    noticed = []

    async def stubborn() -> None:
        while True:
            try:
                await receive()
            except asyncio.CancelledError:
                continue
            except ProcessExit as error:
                noticed.append(error.reason)
                raise

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(stubborn)
            await asyncio.sleep(0)
            exit(pid, a.enough)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.enough)
            await until(lambda: noticed == [a.enough])

    play(main)


def test_a_process_that_ended_starts_no_new_ones() -> None:
    errors = []

    async def last_wish() -> None:
        try:
            await receive()
        finally:
            try:
                spawn(wait_forever)
            except ProcessExit as error:
                errors.append(error.reason)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid = spawn(last_wish)
            await asyncio.sleep(0)
            exit(pid, a.enough)
            await until(lambda: errors == [a.enough])

    play(main)


# --- Ending by itself -------------------------------------------------------------------------------------------------


async def return_something() -> int:
    return 1


def return_in_a_thread() -> int:
    return 1


@pytest.mark.parametrize("body", [return_something, return_in_a_thread])
def test_returning_is_normal(body: Any) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.normal)

    play(main)


async def raise_an_error() -> None:
    raise ValueError("wrong")


def raise_in_a_thread() -> None:
    raise ValueError("wrong")


@pytest.mark.parametrize("body", [raise_an_error, raise_in_a_thread])
def test_a_crash_is_logged_once_with_its_traceback(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            trap_exit()
            spawn_link(body)
            match await expect():
                case (
                    a.EXIT,
                    Pid(),
                    ((Atom(name="ValueError"), b"wrong"), [(Atom() as file, Atom() as name, [], _), *_]),
                ):
                    assert (file, name) == (a.test_bodies, Atom(body.__name__))
                case other:
                    pytest.fail(f"got {other!r}")

    play(main)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("beamnode.process", logging.ERROR)
    assert f"test_bodies.{body.__name__}/0) crashed: ValueError('wrong')" in record.getMessage()
    assert record.exc_info is not None
    assert record.pathname == __file__
    _, begin, first, *_, last = logging.Formatter().format(record).splitlines()
    assert begin == "Traceback (most recent call last):"
    assert "test_bodies.py" in first
    assert last.startswith("Links: [Pid<")


async def exit_with_a_reason() -> None:
    exit((a.because, 1))


def exit_in_a_thread() -> None:
    exit((a.because, 1))


async def exit_itself() -> None:
    exit(self(), (a.because, 1))


async def exit_deep_inside() -> None:
    async with asyncio.timeout(10):
        await asyncio.gather(exit_with_a_reason())


@pytest.mark.parametrize("body", [exit_with_a_reason, exit_in_a_thread, exit_itself, exit_deep_inside])
def test_exit_is_no_crash(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body)
            assert await expect() == (a.DOWN, reference, a.process, pid, (a.because, 1))

    play(main)
    assert caplog.records == []


def test_a_coroutine_that_somebody_else_cancels_has_the_reason_cancelled() -> None:
    tasks = []

    async def body() -> None:
        tasks.append(asyncio.current_task())
        await receive()

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body)
            await until(lambda: tasks)
            tasks[0].cancel()
            assert await expect() == (a.DOWN, reference, a.process, pid, a.cancelled)

    play(main)


def test_linked_crashes_end_the_linked(caplog: pytest.LogCaptureFixture) -> None:
    async def parent() -> None:
        spawn_link(exit_with_a_reason)
        await receive()

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(parent)
            assert await expect() == (a.DOWN, reference, a.process, pid, (a.because, 1))

    play(main)
    assert caplog.records == []


# --- What can be spawned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [1, "function", None])
def test_only_functions_can_be_spawned(thing: Any) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            with pytest.raises(UsageError, match=r"as in spawn\(echo, 1\), not"):
                spawn(thing)

    play(main)


def test_a_coroutine_instead_of_its_function_is_told() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            with pytest.raises(UsageError, match=r"as in spawn\(echo, 1\), not <coroutine object"):
                spawn(wait_forever())  # type: ignore[arg-type]

    play(main)


def test_a_lambda_that_makes_a_coroutine_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(lambda: wait_forever())
            match await expect():
                case (a.DOWN, _, a.process, Pid() as who, ((Atom(name="UsageError"), bytes() as text), _)):
                    assert who == pid
                    assert b"spawn the `async def` itself" in text
                case other:
                    pytest.fail(f"got {other!r}")
            assert reference.node == pid.node

    play(main)


# --- The `async with` body --------------------------------------------------------------------------------------------


def test_a_body_that_is_ended_from_outside_raises_the_reason() -> None:
    async def main(cluster: Cluster) -> None:
        with pytest.raises(ProcessExit) as error:
            await program(cluster)
        assert error.value.reason == (a.because, 2)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # the cancellation was taken back

    async def program(cluster: Cluster) -> None:
        async with cluster.node() as node:
            await node.run_process(end, self())
            await asyncio.sleep(WAIT_SECONDS)

    async def end(pid: Pid) -> None:
        exit(pid, (a.because, 2))

    play(main)


def test_a_body_that_a_link_ends_while_it_receives() -> None:
    async def main(cluster: Cluster) -> None:
        with pytest.raises(ProcessExit) as error:
            await program(cluster)
        assert error.value.reason == (a.because, 1)

    async def program(cluster: Cluster) -> None:
        async with cluster.node():
            spawn_link(exit_with_a_reason)
            await receive()

    play(main)


def test_a_body_that_exits_itself() -> None:
    async def main(cluster: Cluster) -> None:
        for reason in (a.normal, a.over):
            with pytest.raises(ProcessExit) as error:
                async with cluster.node():
                    exit(reason)
            assert error.value.reason is reason
        with pytest.raises(ProcessExit) as error:
            async with cluster.node():
                exit(self(), a.kill)
        assert error.value.reason is a.killed

    play(main)


def test_an_exception_leaves_the_body_as_it_is_and_its_links_hear_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            trap_exit()
            listener = self()
            with pytest.raises(ValueError, match="wrong"):
                await program(cluster, listener)
            tag, _, reason = await expect()
            assert (tag, reason[0]) == (a.EXIT, (a.ValueError, b"wrong"))

    async def program(cluster: Cluster, listener: Pid) -> None:
        async with cluster.node():
            link(listener)
            raise ValueError("wrong")

    play(main)
    assert caplog.records == []


def test_cancelling_the_task_of_the_body_leaves_nothing() -> None:
    async def program(cluster: Cluster) -> None:
        async with cluster.node():
            spawn(wait_forever)
            await receive()

    async def main(cluster: Cluster) -> None:
        task = asyncio.create_task(program(cluster))
        await asyncio.sleep(0.1)
        assert await cluster.registered() == ["n1"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await cluster.registered() == []

    play(main)


def test_the_node_ends_its_processes_and_waits_for_their_code() -> None:
    log = []

    async def tidy() -> None:
        try:
            await receive()
        finally:
            await asyncio.sleep(0.05)
            log.append("coroutine")

    def tidy_thread() -> None:
        try:
            sync.receive()
        finally:
            time.sleep(0.05)
            log.append("thread")

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            spawn(tidy)
            spawn(tidy_thread)
            await asyncio.sleep(0.05)
        assert sorted(log) == ["coroutine", "thread"]

    play(main)


def test_code_that_does_not_end_is_left_behind_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamnode.node.node.STOP_SECONDS", 0.1)
    released = threading.Event()

    def computing() -> None:
        released.wait(WAIT_SECONDS)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            spawn(computing)

    with pytest.raises(AssertionError, match="threads are left"):
        play(main)
    released.set()  # the thread returns when its loop is gone
    (record,) = caplog.records
    assert "computing/0) does not end: a coroutine must let CancelledError pass, and a thread" in record.getMessage()


def test_nested_nodes_each_have_their_body() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as outer:
            outer_pid = self()
            assert outer_pid.node is outer.name
            async with cluster.node() as inner:
                assert self().node is inner.name
                with pytest.raises(NotAliveError, match=f"the current process is not one of {outer.name}"):
                    outer.monitor_nodes()
                send(outer_pid, a.hello)
            assert self() == outer_pid
            assert await expect() is a.hello
        with pytest.raises(NotAliveError, match="no process is current here"):
            self()

    play(main)


def test_a_node_has_one_body_at_a_time() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            with pytest.raises(UsageError, match="a node has one body at a time"):
                async with node:
                    pass
            assert node.alive
        async with node:
            assert node.alive

    play(main)


# --- Who is current ---------------------------------------------------------------------------------------------------


def test_helpers_of_a_process_act_as_it() -> None:
    async def who() -> Pid:
        await asyncio.sleep(0)
        return self()

    async def body(owner: Pid) -> None:
        found = {await asyncio.create_task(who()), await asyncio.to_thread(self), *await asyncio.gather(who(), who())}
        async with asyncio.TaskGroup() as group:
            task = group.create_task(who())
        found.add(task.result())
        assert found == {self()}
        await asyncio.to_thread(send, owner, (a.hello, self()))
        helper = asyncio.create_task(receive(timeout=WAIT_SECONDS))
        await asyncio.sleep(0)
        send(owner, a.ready)
        assert await helper is a.one
        assert await asyncio.to_thread(sync.receive, timeout=WAIT_SECONDS) is a.two

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid, reference = spawn_monitor(body, self())
            assert await expect() == (a.hello, pid)
            assert await expect() is a.ready
            send(pid, a.one)
            send(pid, a.two)
            assert await expect() == (a.DOWN, reference, a.process, pid, a.normal)

    play(main)


def test_a_helper_thread_that_receives_ends_with_its_process() -> None:
    """Nobody else could end it, and the loop waits for its threads."""
    ended = []

    def helper() -> None:
        try:
            sync.receive()
        except ProcessExit as error:
            ended.append(error.reason)

    async def body() -> None:
        await asyncio.to_thread(helper)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            pid = spawn(body)
            await asyncio.sleep(0.05)
            exit(pid, a.enough)
            await until(lambda: ended == [a.enough])

    play(main)


def test_calls_from_threads() -> None:
    def body(owner: Pid) -> None:
        trap_exit()
        child, reference = spawn_monitor(wait_forever)
        assert process_info(child)["status"] in ("waiting", "running")  # type: ignore[index]
        link(child)
        exit(child, a.enough)
        got = [sync.receive(timeout=WAIT_SECONDS) for _ in range(2)]
        assert (a.EXIT, child, a.enough) in got
        assert (a.DOWN, reference, a.process, child, a.enough) in got
        timer = sync.send_after(owner, a.never, 60)
        assert 0 < (timer.cancel() or 0) <= 60
        sync.register("thread", self())
        assert sync.whereis("thread") == self()
        exit(a.all_was_well)

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            assert await reason_of_end(spawn(body, self())) is a.all_was_well

    play(main)


def test_a_thread_watches_nodes() -> None:
    async def main(cluster: Cluster) -> None:
        async with cluster.node() as one, cluster.node() as two:

            def body() -> None:
                two.monitor_nodes()
                two.monitor(one.name)
                assert sync.receive(timeout=WAIT_SECONDS) == (a.nodeup, one.name)
                exit(a.all_was_well)

            assert await reason_of_end(spawn(body)) is a.all_was_well

    play(main)


def test_a_thread_whose_loop_has_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamnode.node.node.STOP_SECONDS", 0.05)
    released, errors = threading.Event(), []

    def body() -> None:
        released.wait(WAIT_SECONDS)
        try:
            spawn(wait_forever)
        except NotAliveError as error:
            errors.append(str(error))

    async def start(cluster: Cluster) -> None:
        async with cluster.node():
            spawn(body)

    with pytest.raises(AssertionError, match="threads are left"):
        play(start)
    released.set()
    deadline = time.monotonic() + WAIT_SECONDS
    while not errors and time.monotonic() < deadline:
        time.sleep(0.01)
    assert errors == ["the event loop of this process's node has ended"]


def test_a_thread_that_cannot_be_started_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main(cluster: Cluster) -> None:
        async with cluster.node():
            trap_exit()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", fail)
                with pytest.raises(RuntimeError):
                    spawn_link(print)
            with pytest.raises(TimeoutError):  # no EXIT: the error was told
                await receive(timeout=0.05)

    play(main)


def test_sys_exit_in_a_process_ends_the_process_and_not_the_node(caplog: pytest.LogCaptureFixture) -> None:
    async def leaves() -> None:
        raise SystemExit(3)

    async def main(cluster: Cluster) -> None:
        async with cluster.node() as node:
            pid, reference = spawn_monitor(leaves)
            message = await receive(timeout=5)
            assert message[:4] == (a.DOWN, reference, a.process, pid)
            assert message[4][0][0] is a.SystemExit
            assert node.alive

    play(main)
    assert "SystemExit" in caplog.text
