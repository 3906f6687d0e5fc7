"""Back-pressure: a connection that has more to send than its peer takes is busy, and who sends to it waits.

As in OTP a send goes through until `dist_buf_busy_limit` bytes wait; then whoever sends is held until half of that is
left, or the connection has ended. What a process is kept from, by its kind:

- a thread waits in `send`;
- a coroutine cannot be stopped inside `send`. Where tasks are compiled it does not go on after its next `await`,
  whatever that waits for. Elsewhere, and in the block of `async with Node(...)`, it waits at the next await of ours
  that receives, calls, or is a `send_wait`.

So a coroutine that sends on and on without such an await could still fill the memory: when `FLOODED` times the limit
has been sent by processes that should be waiting, `send` raises BusyError for them.

What the node itself says (the end of a process, answers to requests) goes on, as in OTP, and so does what a process
with `async_dist` sends, which the node's services have: they serve other peers too. Links, monitors, exit signals and
spawn requests of a process hold it as messages do.

Source: erts dist.c `erts_dsig_prepare` (`ignore_busy`), `erts_dsig_send`, `erts_dist_command`; erlang(3), `send/2` and
`process_flag/2`, `async_dist`; erl(1), `+zdbbl`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beamnode.core.process import Process
from beamnode.errors import BusyError
from beamnode.etf import Atom, Pid, Reference
from beamnode.node.body import Body, LoopBody

if TYPE_CHECKING:
    from beamnode.node.runtime import Runtime
    from beamnode.wire.channel import Channel

log = logging.getLogger("beamnode.connection")

FLOODED = 32  # times the limit, of what nobody had to send yet
LOGGED_SECONDS = 5.0  # shorter than that, being busy is an everyday thing
NAMED_MAX = 5  # processes in a line of the log
SWEEP_MIN = 256


class Pressure:
    """What one connection has to send, against its limit (bytes), and who waits for that to become less.

    To the processes that wait it is what a full mailbox is (`core.bounded_mailbox`).
    """

    __slots__ = ("_named", "_others", "_sweep_at", "busy", "held", "limit", "overdraft", "since", "told", "waiting")

    suspends = True

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.overdraft = 0  # bytes that were sent, since it is busy, by who should have waited
        self.busy = False
        self.waiting: dict[Callable[[], object], None] = {}
        self.held: dict[Body, None] = {}  # who has sent since it is busy, and lives (or did, not long ago)
        self._sweep_at = SWEEP_MIN  # so many of them: look who has ended
        self._named: list[Pid] = []  # the first that were held since then, for the log, and how many there were more
        self._others = 0
        self.since = 0.0
        self.told = False  # the log has said that it is busy

    @property
    def has_room(self) -> bool:
        return not self.busy

    def look(self, waiting_bytes: int, now: float) -> bool:
        """So many bytes wait now: True when that has begun or ended a time of being busy."""
        if self.busy:
            if waiting_bytes > self.limit // 2:
                return False
            self.busy = False
            return True
        if waiting_bytes <= self.limit:
            return False
        self.busy, self.since, self.told, self.overdraft = True, now, False, 0
        return True

    def hold(self, process: Process) -> None:
        """Let it wait, unless it is none that waits."""
        body = process.body
        if isinstance(body, Body) and not (body.over or body.async_dist):
            if body not in self.held:
                self._note(process.pid)
                if len(self.held) >= self._sweep_at:
                    self._forget_ended()
                self.held[body] = None
            body.hold(self)

    def _note(self, pid: Pid) -> None:
        if len(self._named) < NAMED_MAX:
            self._named.append(pid)
        else:
            self._others += 1

    def _forget_ended(self) -> None:
        """Processes may come, send a little, and end, for as long as the peer does not read."""
        self.held = {body: None for body in self.held if not body.over}
        self._sweep_at = max(SWEEP_MIN, 2 * len(self.held))

    def release(self) -> None:
        """Let them go on, the first one first, until it is busy again."""
        held, self.held = self.held, {}
        for body in held:
            body.let_go(self)
        waiting, self.waiting = self.waiting, {}
        for wake in waiting:
            wake()

    def should_wait(self, process: Process, node: Atom) -> bool:
        """Whether it is held already, and sends on: then count that as `overdraft`. Errors: BusyError, past the bound.

        (A thread may send on: it has waited, or another thread of its process has not.)
        """
        body = process.body
        if body not in self.held:
            return False
        if self.overdraft > self.limit * FLOODED and isinstance(body, LoopBody):
            raise BusyError(
                f"{node} is busy, {self.overdraft} bytes were sent to it by processes that should wait, and "
                f"{process.pid!r} sends on: use `await send_wait(...)`, or receive between"
            )
        return True

    # --- The log ------------------------------------------------------------------------------------------------------

    def tell_begin(self, node: Atom | None, waiting_bytes: int, now: float) -> None:
        """Say that it is busy, once, when it has been for a while."""
        if self.busy and not self.told and now - self.since >= LOGGED_SECONDS:
            self.told = True
            log.warning(
                "%s does not read: %d KiB wait for it since %.0f s, and %s",
                node,
                waiting_bytes // 1024,
                now - self.since,
                self._who(),
            )

    def tell_end(self, node: Atom | None, now: float) -> None:
        """Say how long it was busy, if that was a while."""
        lasted = now - self.since
        if lasted >= LOGGED_SECONDS:
            log.warning("%s was busy for %.1f s; %s had to wait", node, lasted, self._who())
        self._named.clear()
        self._others = 0

    def _who(self) -> str:
        if not self._named:
            return "no process"
        named = ", ".join(map(repr, self._named))
        return f"{named} and {self._others} more" if self._others else named


class Pressed:
    """Stands for the outbound half of a connection while that is busy, and counts what is sent by who should wait."""

    def __init__(self, node: Atom, pressure: Pressure, channel: Channel, runtime: Runtime) -> None:
        self._node = node
        self._pressure = pressure
        self._outbound = channel.outbound
        self._departures = channel.departures
        self._runtime = runtime

    def send_to_pid(self, sender: Pid, to: Pid, message: Any) -> int:
        return self._send(sender, self._outbound.send_to_pid, sender, to, message)

    def send_to_name(self, sender: Pid, name: Atom, message: Any) -> int:
        return self._send(sender, self._outbound.send_to_name, sender, name, message)

    def send_to_alias(self, sender: Pid, alias: Reference, message: Any) -> int:
        return self._send(sender, self._outbound.send_to_alias, sender, alias, message)

    def _send(self, sender: Pid, send: Callable[..., int], *args: Any) -> int:
        process = self._runtime.signals.lookup(sender)
        if process is None or not self._pressure.should_wait(process, self._node):
            return send(*args)
        before = self._departures.waiting_bytes
        pending_bytes = send(*args)
        self._pressure.overdraft += self._departures.waiting_bytes - before
        return pending_bytes
