"""The free functions: what a process does, named as in Erlang. They act on the current process.

They may be called from any thread that runs on behalf of a process (a spawned `def`, `asyncio.to_thread` inside a
spawned `async def`); from another thread than the node's loop they wait for the loop.

Source: the module `erlang`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Iterable
from threading import get_ident
from typing import Any

from beamnode.core.bounded_mailbox import WhenFull
from beamnode.core.process import AliasKind, Match, Process
from beamnode.core.signals import Target
from beamnode.errors import NoProcessError, NotAliveError, ProcessExit, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.node.body import LOOP_CHECK_SECONDS, LOOP_ENDED, Body, LoopBody, ThreadBody, body_of
from beamnode.node.current import current, current_body
from beamnode.node.introspection import info_of
from beamnode.node.runtime import Runtime, name_and_node, to_atom

Name = Atom | str
Destination = Pid | Reference | Name | tuple[Name, Name]


def self() -> Pid:
    """The pid of the current process. Errors: NotAliveError where no process is current."""
    return current_body().process.pid


def send(to: Destination, message: Any) -> Any:
    """Send `message` to a pid, an alias, a registered name, or `(name, node)`; it is also the result.

    Says nothing about a receiver that is not there. A node that is not connected is connected to. Within this node the
    message itself is handed over, not a copy: do not change it afterwards.

    A process of this node whose mailbox is full, and which lets its senders wait (`limit_mailbox`), still gets the
    message; the current process then waits in its next `receive` or call until there is room (in a thread, here).
    It waits likewise when more than `dist_buf_busy_limit` bytes (an option of `Node`) wait for a node that reads
    slowly; a spawned `async def` then, where tasks are compiled, already where it awaits anything.

    Errors: EncodeError for a message that has no term, when it must travel; BusyError for a coroutine that should wait,
    sends on all the same, and with others like it has sent 32 times that limit.
    """
    body = current.get() or current_body()
    runtime = body.runtime
    if runtime.thread == get_ident():
        runtime.send(body.process, to, message)
    else:
        runtime.on_loop(runtime.send, body.process, to, message)
        if body.held_by:
            wait_in_thread(runtime, body.wait_for_room())
    return message


async def send_wait(to: Destination, message: Any) -> None:
    """`send`, then wait until the mailbox or the node that it went to, if that was full, has room.

    For who sends without receiving: see `send`.
    """
    body = current_body()
    on_loop = body.runtime.on_its_loop()
    if body.held_by and on_loop:  # by what was sent before
        await body.wait_for_room()
    send(to, message)
    if body.held_by and on_loop:
        await body.wait_for_room()


def send_nosuspend(to: Destination, message: Any) -> bool:
    """`send`, unless the connection that it would go over is busy: False then, and nothing was sent.

    Source: `erlang:send_nosuspend/2`.
    """

    def act(runtime: Runtime, process: Process) -> bool:
        if runtime.is_busy(to):
            return False
        runtime.send(process, to, message)
        return True

    sent: bool = _act(act)
    return sent


def limit_mailbox(messages: int | None, when_full: WhenFull | str = WhenFull.DROP) -> None:
    """Let the mailbox of the current process hold so many messages at most; None: as many as come, the default.

    `when_full`: "drop" loses what comes then, and the log says so, once, and how many when there is room again; "exit"
    ends the process with `(a.mailbox_full, messages)`; "block" takes the message and lets its sender wait: see `send`.
    Senders on other nodes do not wait for it. Answers of calls have places of their own and do not count.

    Errors: UsageError.
    """
    try:
        policy = WhenFull(when_full)
    except ValueError:
        raise UsageError(f"a full mailbox can 'drop', 'exit' or 'block', not {when_full!r}") from None
    if messages is not None and (not isinstance(messages, int) or isinstance(messages, bool) or messages < 1):
        raise UsageError(f"a mailbox holds 1 message or more, or any number (None), not {messages!r}")
    _act(lambda runtime, process: runtime.signals.limit_mailbox(process, messages, policy))


def receive(match: Match | None = None, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
    """Await the next message, or with `match` (a function of a message) the first for which it is true.

    `timeout` is in seconds; TimeoutError when no message came. Messages that do not match stay where they are. In a
    process that is a thread use `beamnode.sync.receive`, which has the same arguments and blocks.
    """
    body = current_body()
    if body.runtime.on_its_loop():
        if isinstance(body, LoopBody):
            return body.receive(match, timeout)
        if isinstance(body, ThreadBody):
            return body.receive_on_loop(match, timeout)
    raise UsageError("this code runs in a thread: use beamnode.sync.receive, which blocks, instead of awaiting")


def receive_blocking(match: Match | None = None, *, timeout: float | None = None) -> Any:
    """`receive` for a process that is a thread."""
    body = current_body()
    if isinstance(body, ThreadBody):
        return body.receive(match, timeout)
    runtime = body.runtime
    if runtime.on_its_loop():
        raise UsageError(
            "this process runs on the event loop: use `await receive(...)`, blocking would stop every process"
        )
    assert isinstance(body, LoopBody)
    return wait_in_thread(runtime, body.receive(match, timeout))


def wait_in_thread(runtime: Runtime, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Wait in a thread for a coroutine. Ctrl-C may come just before the wait begins, which Python notices after it."""
    try:
        waiting = asyncio.run_coroutine_threadsafe(coroutine, runtime.loop)
    except RuntimeError:
        coroutine.close()
        raise NotAliveError(LOOP_ENDED) from None
    try:
        while not waiting.done():
            concurrent.futures.wait((waiting,), LOOP_CHECK_SECONDS)
            if runtime.loop.is_closed() and not waiting.done():
                raise NotAliveError(LOOP_ENDED)
        return waiting.result()
    except BaseException:
        waiting.cancel()  # the process does not wait any more
        raise


def spawn(function: Callable[..., Any], *args: Any) -> Pid:
    """Start a process of this node that runs `function(*args)`: on the loop if it is `async def`, else in a thread."""
    return _spawn(current_body(), function, args, False)


def spawn_link(function: Callable[..., Any], *args: Any) -> Pid:
    """`spawn`, linked to the current process from the start."""
    return _spawn(current_body(), function, args, True)


def spawn_monitor(function: Callable[..., Any], *args: Any) -> tuple[Pid, Reference]:
    """`spawn`, monitored by the current process from the start."""
    body = current_body()
    runtime = body.runtime

    def make() -> tuple[Pid, Reference]:
        pid = _spawn_on_loop(runtime, body.process, function, args, False).pid
        return pid, runtime.signals.monitor(body.process, pid)

    result: tuple[Pid, Reference] = runtime.on_loop(make)
    return result


def link(pid: Pid) -> None:
    """Tie the current process and `pid`: when one ends, the other gets an exit signal with the reason.

    Errors: NoProcessError for a local pid that has ended (trapping exits: an `EXIT` message with `noproc` instead, as
    for remote pids).
    """
    _check_pid(pid)
    _act(lambda runtime, process: runtime.signals.link(process, pid))


def unlink(pid: Pid) -> None:
    """End a link; afterwards it has no effect on the current process."""
    _check_pid(pid)
    _act(lambda runtime, process: runtime.signals.unlink(process, pid))


def monitor(
    target: Destination, *, alias: AliasKind | str | None = None, tag: Any = a.DOWN, expected: bool = False
) -> Reference:
    """Watch a pid, a name or `(name, node)`.

    One message `(a.DOWN, reference, a.process, pid_or_name_and_node, reason)` tells of its end; at once with `noproc`
    when there is no such process, with `noconnection` when its node is lost. With `alias` ("explicit_unalias",
    "demonitor" or "reply_demonitor") the reference also is an alias of the current process; `tag` replaces `DOWN`.
    With `expected` the message, or a reply that carries the reference, does not come to the mailbox: `receive_tagged`
    gets it, and `demonitor(reference, flush=True)` must follow.
    """
    watched: Target
    if isinstance(target, tuple):
        watched = name_and_node(target)
    elif isinstance(target, Pid):
        watched = target
    elif isinstance(target, Atom | str):
        watched = to_atom(target)
    else:
        raise UsageError(f"a process to monitor is a pid, a name or (name, node), not {target!r}")
    kind = None if alias is None else _alias_kind(alias)
    reference: Reference = _act(
        lambda runtime, process: runtime.signals.monitor(process, watched, alias=kind, tag=tag, expected=expected)
    )
    return reference


def demonitor(reference: Reference, *, flush: bool = False) -> bool:
    """End a monitor; `flush` also throws its message away if it came already. True if there was a monitor."""
    done: bool = _act(lambda runtime, process: runtime.signals.demonitor(process, reference, flush=flush))
    return done


def tell_watcher(reference: Reference, reason: Any) -> bool:
    """To the one process that monitors the current one by `reference` it ends with `reason`; it does not.

    This is how a call is refused: the caller's monitor is done. False if there is no such monitor.
    """
    told: bool = _act(lambda runtime, process: runtime.signals.tell_watcher(process, reference, reason))
    return told


def exit(*args: Any) -> None:
    """`exit(reason)` ends the current process; `exit(pid, reason)` sends an exit signal to another.

    The first form raises ProcessExit: let it pass. `exit(pid, a.kill)` cannot be trapped.
    """
    if len(args) == 1:
        raise ProcessExit(args[0])
    if len(args) != 2:
        raise UsageError("exit takes a reason, or a pid and a reason")
    pid, reason = args
    _check_pid(pid)
    body = current_body()
    _act(lambda runtime, process: runtime.signals.exit(process.pid, pid, reason))
    body.check_alive()
    return


def register(name: Name, pid: Pid) -> None:
    """Give a local process a name. Errors: NameTakenError, NoProcessError (it has ended), UsageError (it has one)."""
    _check_pid(pid)

    def act(runtime: Runtime, _process: Process) -> None:
        process = runtime.signals.lookup(pid)
        if process is None:
            raise NoProcessError(f"{pid!r} is no living process of this node: it cannot be registered as {name}")
        runtime.signals.register(to_atom(name), process)

    _act(act)


def unregister(name: Name) -> None:
    """Take a name back. Errors: NoProcessError when nothing is registered under it."""
    _act(lambda runtime, _process: runtime.signals.unregister(to_atom(name)))


def whereis(name: Name) -> Pid | None:
    """The pid that is registered under `name` on this node, or None."""
    process: Process | None = _act(lambda runtime, _process: runtime.signals.whereis(to_atom(name)))
    return None if process is None else process.pid


def registered() -> list[Atom]:
    """The names of this node that processes are registered under."""
    names: list[Atom] = _act(lambda runtime, _process: runtime.signals.registered())
    return names


def processes() -> list[Pid]:
    """The pids of all processes of this node."""
    pids: list[Pid] = _act(lambda runtime, _process: [process.pid for process in runtime.signals.processes()])
    return pids


def is_process_alive(pid: Pid) -> bool:
    """Whether a process of this node lives. Errors: UsageError for a pid of another node, as in Erlang."""
    _check_pid(pid)

    def act(runtime: Runtime, _process: Process) -> bool:
        if not runtime.signals.is_local(pid):
            raise UsageError(f"{pid!r} is not of this node: ask its own, by rpc")
        return runtime.signals.lookup(pid) is not None

    alive: bool = _act(act)
    return alive


def trap_exit(flag: bool = True) -> bool:
    """Whether exit signals become messages `(a.EXIT, pid, reason)` from now on; the result is what it was before."""

    def act(_runtime: Runtime, process: Process) -> bool:
        before, process.trap_exit = process.trap_exit, flag
        return before

    before: bool = _act(act)
    return before


def async_dist(flag: bool = True) -> bool:
    """Whether the current process, from now on, never waits for a node that reads slowly; the result is what it was.

    Then what waits for that node is bounded by nothing but what the process sends: `send_nosuspend` tells when it is
    busy. Source: `process_flag(async_dist, Boolean)` of OTP 25.3.
    """

    def act(_runtime: Runtime, process: Process) -> bool:
        body = body_of(process)
        before, body.async_dist = body.async_dist, flag
        return before

    before: bool = _act(act)
    return before


def alias(kind: AliasKind | str = AliasKind.EXPLICIT_UNALIAS) -> Reference:
    """A reference to which the current process can be sent messages until `unalias` ("reply": until the first one)."""
    wanted = _alias_kind(kind)
    if wanted not in (AliasKind.EXPLICIT_UNALIAS, AliasKind.REPLY):
        raise UsageError(f"an alias of its own is 'explicit_unalias' or 'reply'; {wanted.value!r} belongs to a monitor")
    reference: Reference = _act(lambda runtime, process: runtime.signals.alias(process, wanted))
    return reference


def unalias(reference: Reference) -> bool:
    """Deactivate an alias of the current process; what is sent to it from now on is dropped. True if it was active."""
    done: bool = _act(lambda runtime, process: runtime.signals.unalias(process, reference))
    return done


def group_leader(leader: Pid | None = None, pid: Pid | None = None) -> Pid:
    """The group leader of the current process: where it prints. With `leader`, set that of `pid` (or its own)."""

    def act(runtime: Runtime, process: Process) -> Pid:
        if leader is not None:
            runtime.set_group_leader(leader, process.pid if pid is None else pid)
        return runtime.signals.leader_of(process)

    found: Pid = _act(act)
    return found


def process_info(pid: Pid | None = None, item: str | Iterable[str] | None = None) -> Any:
    """What is known of a local process (default: the current one), by Erlang's names of items; None if it has ended.

    A dict of what costs next to nothing, or with `item` the value of one, or a dict of several; all of them:
    `introspection.ITEMS`. `current_stacktrace` is a list of lines, innermost first, where it waits or runs.
    """

    def act(runtime: Runtime, process: Process) -> Any:
        wanted = process if pid is None else runtime.signals.lookup(pid)
        return None if wanted is None else info_of(wanted, runtime.signals, item)

    return _act(act)


def before_shut_down(function: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Have the node await `function()`, in a process of its own, before it ends its processes, for so many `seconds`.

    What was given last comes first; giving the same function again changes nothing.
    """

    def act(runtime: Runtime, _process: Process) -> None:
        if all(known is not function for known, _ in runtime.closing):
            runtime.closing.append((function, seconds))

    _act(act)


def end_node(reason: Any) -> None:
    """Shut the node of the current process down. The body of its `async with`, if there is one, ends with `reason`."""

    def act(runtime: Runtime, _process: Process) -> None:
        if runtime.end_node is not None:
            runtime.end_node(reason)

    _act(act)


class Timer:
    """A message under way in time; made by `send_after`."""

    __slots__ = ("_due", "_handle", "_runtime")

    def __init__(self, runtime: Runtime, process: Process, to: Destination, message: Any, seconds: float) -> None:
        self._runtime = runtime
        self._due = runtime.loop.time() + seconds
        self._handle: asyncio.Handle | None = runtime.loop.call_later(seconds, self._send, process, to, message)

    def cancel(self) -> float | None:
        """Do not send it; the seconds that were left, or None when it was sent or cancelled already."""

        def act() -> float | None:
            handle, self._handle = self._handle, None
            if handle is None:
                return None
            handle.cancel()
            return max(0.0, self._due - self._runtime.loop.time())

        left: float | None = self._runtime.on_loop(act)
        return left

    def _send(self, process: Process, to: Destination, message: Any) -> None:
        self._handle = None
        self._runtime.send(process, to, message)


def send_after(to: Destination, message: Any, seconds: float) -> Timer:
    """`send(to, message)` in so many seconds, unless the timer is cancelled. Errors: those of `send`, at once."""
    body = current_body()
    runtime, process = body.runtime, body.process

    def act() -> Timer:
        runtime.check_sendable(to, message)
        return Timer(runtime, process, to, message, seconds)

    timer: Timer = runtime.on_loop(act)
    return timer


def _spawn(body: Body, function: Callable[..., Any], args: tuple[Any, ...], link: bool) -> Pid:
    runtime, parent = body.runtime, body.process
    if runtime.thread == get_ident():
        parent.check_alive()
        return runtime.spawn(function, args, parent, link).pid
    process: Process = runtime.on_loop(_spawn_on_loop, runtime, parent, function, args, link)
    return process.pid


def _spawn_on_loop(
    runtime: Runtime, parent: Process, function: Callable[..., Any], args: tuple[Any, ...], link: bool
) -> Process:
    parent.check_alive()  # a task that outlived its process starts no new ones
    return runtime.spawn(function, args, parent, link)


def _act(action: Callable[[Runtime, Process], Any]) -> Any:
    """Run `action` on the node's loop, then carry out what it decided."""
    body = current_body()
    runtime, process = body.runtime, body.process

    def run() -> Any:
        try:
            return action(runtime, process)
        finally:
            runtime.flush()

    return run() if runtime.on_its_loop() else runtime.on_loop(run)


def _alias_kind(kind: AliasKind | str) -> AliasKind:
    try:
        return AliasKind(kind)
    except ValueError:
        kinds = ", ".join(repr(known.value) for known in AliasKind)
        raise UsageError(f"an alias is one of {kinds}, not {kind!r}") from None


def _check_pid(pid: Any) -> None:
    if not isinstance(pid, Pid):
        raise UsageError(f"a pid is needed here, not {pid!r}: whereis(name) tells the pid of a name")
