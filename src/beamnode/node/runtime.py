"""The runtime of one node: it carries out what core decided.

Core's tables are changed by calls; `flush` then empties its lists: records go to `transmit`, waiting bodies are woken
(once for all that arrived), bodies of ended processes are stopped, spawn requests are answered. Everything runs on the
node's event loop; other threads come in through `on_loop`.

What a connection brings in one read is a turn (`begin_turn`, `end_turn`): the processes that it wakes run in it, at
once, and what they send leaves at its end, in one write a connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from beamnode.core.bounded_mailbox import BoundedMailbox
from beamnode.core.identity import Identities
from beamnode.core.node_monitors import NodeMonitors
from beamnode.core.process import Process
from beamnode.core.signals import Signals
from beamnode.core.spawning import Spawning
from beamnode.errors import EncodeError, NetworkError, NotAliveError, ProcessExit, SpawnError, UsageError
from beamnode.etf import Atom, Pid, Reference, a, encode
from beamnode.etf.shown import shown
from beamnode.node import collector
from beamnode.node.body import LOOP_CHECK_SECONDS, LOOP_ENDED, Body, CoroutineBody, ThreadBody
from beamnode.node.current import current
from beamnode.node.reasons import sendable
from beamnode.node.waiting import Waiter, make_runner
from beamnode.wire import control

if TYPE_CHECKING:
    from beamnode.node.session import Session
    from beamnode.node.spawning import Spawner

log = logging.getLogger("beamnode.node")

ATOM_CHARACTERS_MAX = 255
COUNTED_EVERY = 1000  # processes, for the garbage collector

Result = TypeVar("Result")
SpawnHandler = Callable[[Atom, control.SpawnRequest], None]
Closing = tuple[Callable[[], Coroutine[Any, Any, None]], float]  # with the seconds that it may take


class Runtime:
    """Processes and their bodies on one event loop."""

    def __init__(
        self,
        identities: Identities,
        loop: asyncio.AbstractEventLoop,
        transmit: Callable[[Atom, control.Record], None],
        spawn_requested: SpawnHandler,
    ) -> None:
        self.loop = loop
        self.identities = identities
        self.signals = Signals(identities)
        self.spawning = Spawning(self.signals)
        self.node_monitors = NodeMonitors(self.signals)
        self._transmit = transmit
        self._spawn_requested = spawn_requested
        self.thread = threading.get_ident()
        self._flushing = False
        self.sessions: Mapping[Atom, Session] = {}  # of the nodes that are up; the network's
        self._in_turn = False
        self._runs_woken = False  # whether nothing runs that a woken process would interrupt
        self._unwritten: list[Session] = []
        self.runner = make_runner(loop)
        self.spawner: Spawner | None = None  # the node's, which knows what peers may run here
        self.face: object = None  # the node as a floor above shows it, where that has set it (`sync.current_node`)
        self.ending: set[asyncio.Task[Any]] = set()  # of ended processes, whose code is still winding up
        self.tables: dict[str, Any] = {}  # what floors above keep with the node, as OTP does in named ets tables
        self.closing: list[Closing] = []  # what the node does before it ends its processes, the last one first
        self.end_node: Callable[[Any], None] | None = None  # the node's: `end_node(reason)`

    # --- Carrying out -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Carry out everything that core has decided. Cheap when there is nothing."""
        if self._flushing:
            return
        signals, spawning = self.signals, self.spawning
        if signals.crowded:  # by who sent from elsewhere, or by nobody
            signals.crowded.clear()
        self._flushing = True
        try:
            while (
                signals.outgoing
                or signals.ready
                or signals.ended
                or signals.answered
                or spawning.requests
                or spawning.answered
            ):
                self._flush_outgoing()
                self._flush_ended()  # before who is woken may run: an ended one is stopped once, where it waits
                self._flush_ready()
                self._flush_spawning()
        finally:
            self._flushing = False

    def begin_turn(self) -> None:
        """Signals will come in: who is woken by them may run at once, unless a task runs, which it would interrupt."""
        self._in_turn = True
        self._runs_woken = asyncio.current_task(self.loop) is None

    def end_turn(self) -> None:
        """All that came has been handed to core: carry it out, and write what that sent."""
        try:
            self.flush()
        finally:
            self._in_turn = self._runs_woken = False
            self._write()

    def write_soon(self, session: Session) -> None:
        """Have `session.write` called at the end of this turn, or of the loop's."""
        if not self._unwritten and not self._in_turn:
            self.loop.call_soon(self._write)
        self._unwritten.append(session)

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for session in unwritten:
            # An error of its carrier: the others are written, and who brought this turn is not to blame.
            try:
                session.write()
            except Exception as error:
                log.exception("closing the connection with %s: its carrier cannot write", session.node)
                session.end(NetworkError(f"the carrier cannot write: {error!r}"), abort=True)

    def _flush_ready(self) -> None:
        """Wake whoever waits for what has come: in `receive`, or for an answer."""
        signals = self.signals
        ready: list[Body | Waiter] = [process.body for process in signals.ready]
        ready += signals.answered
        signals.ready, signals.answered = [], []
        if not self._runs_woken:
            for each in ready:
                each.wake()
            return
        self._flushing = self._runs_woken = False  # what they do is carried out as if they ran in a turn of their own
        rest = iter(ready)
        try:
            for each in rest:
                each.wake(at_once=True)
        finally:
            self._flushing = self._runs_woken = True
            for each in rest:  # Ctrl-C in one: the others are still to be woken
                each.wake()

    def _flush_outgoing(self) -> None:
        outgoing, self.signals.outgoing = self.signals.outgoing, []
        for node, record in outgoing:
            try:
                self._transmit_any(node, record)
            except Exception:  # one that fails must not take the others with it
                log.exception("a %s for %s is lost: an error of this library", type(record).__name__, node)

    def _transmit_any(self, node: Atom, record: control.Record) -> None:
        """Only reasons can be what has no term: messages and arguments are encoded in the call that sends them."""
        try:
            self._transmit(node, record)
        except EncodeError:
            if not isinstance(record, control.Exit | control.Exit2 | control.MonitorPExit):
                raise
            record.reason = sendable(record.reason)
            self._transmit(node, record)

    def _flush_ended(self) -> None:
        ended, self.signals.ended = self.signals.ended, []
        for process in ended:
            self.node_monitors.forget(process)
            for slot in process.expected.values():
                if slot.waiter is not None:
                    slot.waiter.wake()
            if isinstance(process.mailbox, BoundedMailbox):
                process.mailbox.close()
            body = process.body
            if body is None or body.over:
                continue
            for wake in body.wakes:  # threads in its name, where there is no room
                wake()
            body.stop()
            task = getattr(body, "task", None)
            if task is not None and not task.done():
                self.ending.add(task)  # asyncio itself keeps no strong reference
                task.add_done_callback(self.ending.discard)

    def _flush_spawning(self) -> None:
        spawning = self.spawning
        requests, spawning.requests = spawning.requests, []
        for node, request in requests:
            self._spawn_requested(node, request)
        answered, spawning.answered = spawning.answered, []
        for waiter, result, _reference in answered:
            if waiter is not None and not waiter.done():
                waiter.set_result(result)

    def on_its_loop(self) -> bool:
        """Whether the caller is in the thread of the node's loop."""
        return threading.get_ident() == self.thread

    def on_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` on the node's loop and give back what it gives; from the loop's own thread, directly."""
        if threading.get_ident() == self.thread:
            return function(*args)
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(function(*args))
            except BaseException as error:
                done.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(run)
        except RuntimeError:
            raise NotAliveError(LOOP_ENDED) from None
        while not done.done():
            concurrent.futures.wait((done,), LOOP_CHECK_SECONDS)
            if self.loop.is_closed() and not done.done():  # it was stopped with `run` still to be called
                raise NotAliveError(LOOP_ENDED)
        return done.result()

    def soon(self, function: Callable[[], object]) -> None:
        """Have `function` called on the node's loop, from any thread, without waiting for it."""
        if self.on_its_loop():
            function()
            return
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise NotAliveError(LOOP_ENDED) from None

    # --- Processes ----------------------------------------------------------------------------------------------------

    def spawn(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        parent: Process | None = None,
        link: bool = False,
        *,
        name: Atom | None = None,
        dictionary: dict[Any, Any] | None = None,
    ) -> Process:
        """A new local process that runs `function(*args)`: on the loop if `async def`, else in a thread."""
        if not callable(function):
            if inspect.iscoroutine(function):
                function.close()
            raise UsageError(f"spawn takes a function and its arguments, as in spawn(echo, 1), not {function!r}")
        process = self.signals.spawn(initial_call=function, arity=len(args))
        if parent is not None:
            process.parent = parent.pid
            process.group_leader = parent.group_leader
        process.dictionary = dictionary
        if not process.pid.id % COUNTED_EVERY:
            collector.grown(self, self.signals.count)
        try:
            if name is not None:
                self.signals.register(name, process)
            if link and parent is not None:
                self.signals.link(parent, process.pid)
            self.start_body(process, function, args)
        except BaseException as error:
            if link and parent is not None:
                self.signals.unlink(parent, process.pid)
            self.signals.end(process, a.system_limit if isinstance(error, RuntimeError) else a.normal)
            raise
        return process

    async def run_process(self, function: Callable[..., Coroutine[Any, Any, Result]], *args: Any) -> Result:
        """Run `await function(*args)` in a process of its own, and give back its result, or raise its exception.

        It prints where the current process prints, if that is one of this node.
        """
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        async def body() -> None:
            try:
                result = await function(*args)
            except BaseException as error:
                if not outcome.done():
                    outcome.set_exception(ProcessExit(a.killed) if isinstance(error, asyncio.CancelledError) else error)
                return
            if not outcome.done():
                outcome.set_result(result)

        def ended(_task: asyncio.Task[Any]) -> None:
            if not outcome.done():  # it was ended before its first step
                outcome.set_exception(ProcessExit(process.exit_reason))

        process = self.spawn(body, ())
        caller = current.get()
        if caller is not None and caller.runtime is self:
            process.group_leader = caller.process.group_leader
        process.body.task.add_done_callback(ended)
        try:
            return await outcome
        finally:
            self.end(process, a.kill)

    def start_body(self, process: Process, function: Callable[..., Any], args: tuple[Any, ...]) -> Body:
        if _is_coroutine_function(function):
            body = CoroutineBody(self, process)
            body.start(function, args)
            return body
        thread = ThreadBody(self, process)
        thread.start(function, args)
        return thread

    def break_ties(self, node: Atom) -> None:
        """`node` is gone or cannot be reached: whatever was tied to it, or asked of it, is told `noconnection`."""
        self.signals.node_down(node)
        self.spawning.node_down(node)
        self.loop.call_soon(self.flush)

    def set_group_leader(self, leader: Pid, pid: Pid) -> None:
        """Of a local process at once, of a remote one by a signal."""
        process = self.signals.lookup(pid)
        if process is not None:
            process.group_leader = leader
        elif pid.node is not self.identities.node:
            self.signals.outgoing.append((pid.node, control.GroupLeader(leader, pid)))

    def end(self, process: Process, reason: Any) -> None:
        """The process ends with `reason`; ending an ended one does nothing."""
        self.signals.end(process, reason)
        self.flush()

    # --- What processes do --------------------------------------------------------------------------------------------

    def send(self, sender: Process, to: Any, message: Any) -> None:
        """To a pid, an alias, a local name or `(name, node)`. A receiver that does not exist is no error."""
        kind = type(to)
        if kind is Pid:
            if to.node is not self.identities.node:
                session = self.sessions.get(to.node)
                if session is not None:
                    if session.queued(session.outbound.send_to_pid(sender.pid, to, message)):
                        session.pressure.hold(sender)
                else:
                    self._transmit(to.node, control.Send(to, message, sender.pid))
                return
            self.signals.deliver_to_pid(to, message)
        elif kind is tuple:
            name, node = name_and_node(to)
            if node is not self.identities.node:
                session = self.sessions.get(node)
                if session is not None:
                    if session.queued(session.outbound.send_to_name(sender.pid, name, message)):
                        session.pressure.hold(sender)
                else:
                    self._transmit(node, control.RegSend(sender.pid, name, message))
                return
            self._deliver_to_name(name, message)
        elif kind is Reference:
            if to.node is not self.identities.node:
                session = self.sessions.get(to.node)
                if session is not None:
                    if session.queued(session.outbound.send_to_alias(sender.pid, to, message)):
                        session.pressure.hold(sender)
                else:
                    self._transmit(to.node, control.AliasSend(sender.pid, to, message))
                return
            self.signals.deliver_to_alias(to, message)
        else:
            self._deliver_to_name(to_atom(to), message)
        if self.signals.crowded:
            self._hold(sender)
        self.flush()

    def _hold(self, sender: Process) -> None:
        """Who has sent to a mailbox that is full waits where it receives next, until there is room."""
        body = sender.body
        for mailbox in self.signals.crowded:
            if body is not None and mailbox is not sender.mailbox:
                body.hold(mailbox)

    def is_busy(self, to: Any) -> bool:
        """Whether `to` is on a node for which too much waits already. Errors: UsageError."""
        if isinstance(to, Pid | Reference):
            node = to.node
        elif isinstance(to, tuple):
            _, node = name_and_node(to)
        else:
            return False
        session = self.sessions.get(node)
        return session is not None and session.pressure.busy

    def check_sendable(self, to: Any, message: Any) -> None:
        """Raise what `send` would raise: UsageError, EncodeError."""
        if isinstance(to, Pid | Reference):
            node = to.node
        elif isinstance(to, tuple):
            _, node = name_and_node(to)
        else:
            to_atom(to)
            return
        if node is not self.identities.node:
            encode(message)

    def _deliver_to_name(self, name: Atom, message: Any) -> None:
        process = self.signals.whereis(name)
        if process is not None:
            self.signals.deliver(process, message)

    async def spawn_remote(
        self,
        parent: Process,
        node: Atom,
        call: tuple[Atom, Atom, list[Any]],
        options: list[Any],
    ) -> tuple[Pid, Reference]:
        """Ask `node` to spawn `module:function(args)`; the pid, and the reference that a monitor would have.

        Errors: SpawnError with the reason of the other node (`notsup`, `noconnection`, ...).
        """
        waiter: asyncio.Future[Any] = self.loop.create_future()
        module, function, args = call
        record = self.spawning.request(parent, node, module, function, args, options, waiter)
        sent = False
        try:
            self._transmit(node, record)
            sent = True
            self.flush()
            result = await waiter
        except BaseException:
            self.spawning.abandon(record.ref, sent=sent)
            if waiter.done() and not waiter.cancelled():
                self._untie(parent, waiter.result(), record.ref)  # answered, and nobody learns of it
            raise
        reference = record.ref
        if isinstance(result, Pid):
            return result, reference
        raise SpawnError(f"{node} did not spawn {module}:{function}/{len(args)}: {result}", result)

    def _untie(self, parent: Process, result: Any, reference: Reference) -> None:
        if isinstance(result, Pid) and parent.alive:
            self.signals.unlink(parent, result)
            self.signals.demonitor(parent, reference, flush=True)
            self.flush()


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """`inspect.iscoroutinefunction`, quicker for a plain `async def`."""
    if type(function) is FunctionType and function.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(function)


def name_and_node(to: tuple[Any, ...]) -> tuple[Atom, Atom]:
    """A process that was named as `(name, node)`. Errors: UsageError, EncodeError."""
    if len(to) != 2:
        raise UsageError(f"a process on another node is named as (name, node), not {shown(to)}")
    name, node = to
    if type(name) is not Atom:
        name = to_atom(name)
    if type(node) is not Atom:
        node = to_atom(node)
    if "@" not in node.name:
        raise UsageError(f"the node of {shown(to)} lacks its host: write it as name@host")
    return name, node


def to_atom(name: Any) -> Atom:
    """A name that a program gave, as an atom. Errors: UsageError, EncodeError (longer than an atom may be)."""
    if not isinstance(name, Atom | str):
        raise UsageError(f"a name is an Atom or a str, not {shown(name)}")
    atom = Atom(name) if isinstance(name, str) else name
    if len(atom.name) > ATOM_CHARACTERS_MAX:
        raise EncodeError(f"an atom has at most {ATOM_CHARACTERS_MAX} characters: {atom.name[:40]!r}...")
    return atom
