"""The rules of signals: links, monitors, aliases, names, exits, for one node; local and remote follow the same ones.

Calls change the tables at once and leave what must happen outside in four lists, which the driver empties after each
call or batch of calls:

- `outgoing`: (node, control record) to transmit, in order. Signals from one process to another keep their order.
- `ready`: processes whose body waits and whose mailbox got something.
- `answered`: who waited for the message with a certain reference, which is in its slot now.
- `ended`: processes whose end has been decided: their bodies must be stopped.

A remote tie is kept on our side only (`Process.links`, `.monitors`, `.watchers`) and indexed by node (`_Ties`), so
that a lost connection breaks each of them exactly once.

Sources: `erlang` (link/1, monitor/3, alias/1, exit/2), `ref_man_processes` (signals), `erl_dist_protocol` (link
protocol).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from beamnode.core.bounded_mailbox import BoundedMailbox, WhenFull
from beamnode.core.guests import Guests, LimitHit
from beamnode.core.identity import Identities
from beamnode.core.process import (
    NO_MAILBOX,
    NO_TABLE,
    NOTHING,
    AliasKind,
    Link,
    Mailbox,
    Monitor,
    Origin,
    Process,
    Watcher,
    reference_in,
)
from beamnode.errors import NameTakenError, NoProcessError, ProtocolError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire import control

Target = Pid | Atom | tuple[Atom, Atom]

UNDEFINED = a.undefined
USER = a.user


class _Ties:
    """What ties local processes to one remote node. Keys are what the peer names the tie by."""

    __slots__ = ("links", "monitors", "watchers")

    def __init__(self) -> None:
        self.links: dict[tuple[Pid, Pid], Process] = {}  # (local, remote)
        self.monitors: dict[Reference, Process] = {}  # of ours, on theirs
        self.watchers: dict[Reference, Process] = {}  # of theirs, on ours


class Signals:
    """The processes of one node and every rule between them."""

    def __init__(self, identities: Identities) -> None:
        self.identities = identities
        self.node = identities.node
        self.outgoing: list[tuple[Atom, control.Record]] = []
        self.ready: list[Process] = []
        self.answered: list[Any] = []  # waiters of slots
        self.ended: list[Process] = []
        self.crowded: list[BoundedMailbox] = []  # that were full, and want the sender of this message to wait
        self._processes: dict[int, Process] = {}  # by _key(pid)
        self.names: dict[Atom, Process] = {}  # of registered ones; read it
        self._aliases: dict[Reference, Process] = {}
        self._ties: dict[Atom, _Ties] = {}
        self._unlink_ids = 0
        self._dying: deque[Process] = deque()
        self._telling = False
        self.last_receiver: Process | None = None  # of what came from elsewhere: whoever looks now and then sees floods
        self._ties_max = DEFAULT_LIMITS.ties_per_peer_max
        self.guests = Guests()
        self.handlers: dict[type, Callable[[Atom, Any], None]] = {
            control.Send: self._on_send,
            control.RegSend: self._on_reg_send,
            control.AliasSend: self._on_alias_send,
            control.Link: self._on_link,
            control.UnlinkId: self._on_unlink_id,
            control.UnlinkIdAck: self._on_unlink_id_ack,
            control.Exit: self._on_exit,
            control.Exit2: self._on_exit2,
            control.MonitorP: self._on_monitor,
            control.DemonitorP: self._on_demonitor,
            control.MonitorPExit: self._on_monitor_exit,
            control.GroupLeader: self._on_group_leader,
        }

    def set_limits(self, limits: Limits, limit_hit: LimitHit) -> None:
        """Hold peers to these from now on, and tell `limit_hit` of those that press on one."""
        self._ties_max = limits.ties_per_peer_max
        self.guests.limits = limits
        self.guests.limit_hit = limit_hit

    # --- Looking up ---------------------------------------------------------------------------------------------------

    def lookup(self, pid: Pid) -> Process | None:
        """The living local process of `pid`, or None."""
        return self.lookup_by(pid.id, pid.serial, pid.creation) if pid.node is self.node else None

    def lookup_by(self, id: int, serial: int, creation: int) -> Process | None:
        """`lookup` of the pid of this node that has these parts."""
        process = self._processes.get(serial << 32 | id)
        return process if process is not None and process.pid.creation == creation else None

    def receiver_of(self, to: Pid | Atom | Reference) -> Process | None:
        """The process of a pid, a registered name or an alias of this node."""
        return self._aliases.get(to) if isinstance(to, Reference) else self._find(to)

    def whereis(self, name: Atom) -> Process | None:
        return self.names.get(name)

    @property
    def count(self) -> int:
        """How many processes there are."""
        return len(self._processes)

    def processes(self) -> list[Process]:
        return list(self._processes.values())

    def registered(self) -> list[Atom]:
        return list(self.names)

    def leader_of(self, process: Process) -> Pid:
        """Its group leader. One that was given none has whoever is registered as `user`, else itself."""
        if process.group_leader is not None:
            return process.group_leader
        user = self.names.get(USER)
        return process.pid if user is None else user.pid

    def is_local(self, pid: Pid) -> bool:
        return pid.node is self.node

    # --- Birth and names ----------------------------------------------------------------------------------------------

    def spawn(
        self, initial_call: Any, arity: int = 0, *, group_leader: Pid | None = None, parent: Pid | None = None
    ) -> Process:
        """A new process; the driver gives it a body. `initial_call`: as a term, or a function that takes `arity`."""
        pid = self.identities.next_pid()
        process = self._processes[pid.serial << 32 | pid.id] = Process(pid, group_leader, initial_call, arity)
        process.parent = parent
        return process

    def register(self, name: Atom, process: Process) -> None:
        """Give a living process its one name. Errors: NameTakenError, UsageError (`undefined`, a second name)."""
        if not process.alive:
            raise NoProcessError(f"{process.pid!r} has ended: it cannot be registered as {name}")
        if name is UNDEFINED:
            raise UsageError(f"a process cannot be registered as {name!r}")
        if process.name is not None:
            raise UsageError(f"{process.pid!r} is registered as {process.name} already: unregister that name first")
        if name in self.names:
            raise NameTakenError(f"{name} is registered already, to {self.names[name].pid!r}")
        self.names[name] = process
        process.name = name

    def unregister(self, name: Atom) -> None:
        process = self.names.pop(name, None)
        if process is None:
            raise NoProcessError(f"no process is registered as {name}")
        process.name = None

    # --- Messages -----------------------------------------------------------------------------------------------------

    def deliver(self, process: Process, message: Any) -> None:
        """Put `message` in the mailbox of a living process, or where it is expected."""
        if process.expected and self._fill_slot(process, message):
            return
        mailbox = process.mailbox
        if mailbox is NO_MAILBOX:
            mailbox = process.mailbox = Mailbox()
        mailbox.append(message)
        if process.waiting:
            process.waiting = False
            self.ready.append(process)

    def deliver_from(self, node: Atom, process: Process, message: Any) -> None:
        """`deliver` what came through the connection with `node`; an answer that is expected is shown as it is."""
        self.last_receiver = process
        if process.tells_origin:
            if process.expected and self._fill_slot(process, message):
                return
            message = Origin(node, message)
        self.deliver(process, message)

    def _fill_slot(self, process: Process, message: Any) -> bool:
        """Whether there is a slot for this message, and it is there now (dropped, where one was there before)."""
        reference = reference_in(message)
        slot = None if reference is None else process.expected.get(reference)
        if slot is None:
            return False
        if slot.message is NOTHING:
            slot.message = message
            if slot.waiter is not None:
                self.answered.append(slot.waiter)
        return True

    def deliver_to_pid(self, pid: Pid, message: Any) -> None:
        process = self.lookup(pid)
        if process is not None:
            self.deliver(process, message)

    def deliver_to_alias(self, alias: Reference, message: Any, node: Atom | None = None) -> None:
        """Through an alias that is active; a message to one that is not is dropped, as the caller wanted.

        `node`: whose connection it came through.
        """
        process = self._aliases.get(alias)
        if process is None:
            return
        kind = process.aliases[alias]
        if kind is AliasKind.REPLY:
            self.unalias(process, alias)
        elif kind is AliasKind.REPLY_DEMONITOR:
            self.demonitor(process, alias)
        if node is None:
            self.deliver(process, message)
        else:
            self.deliver_from(node, process, message)

    def limit_mailbox(self, process: Process, limit: int | None, policy: WhenFull) -> None:
        """From now on its mailbox holds `limit` messages at most; None: as many as come."""
        before = process.mailbox
        if limit is None:
            mailbox = Mailbox()
        else:
            ended = (a.mailbox_full, limit)
            mailbox = BoundedMailbox(limit, policy, process, self.crowded, lambda: self.end(process, ended))
        mailbox.extend(before)
        process.mailbox = mailbox
        if isinstance(before, BoundedMailbox):
            before.release()

    # --- Links --------------------------------------------------------------------------------------------------------

    def link(self, process: Process, pid: Pid) -> None:
        """Tie `process` and `pid`. A local pid that is gone: NoProcessError, or `{'EXIT', pid, noproc}` if trapping."""
        process.check_alive()
        if pid == process.pid:
            return
        entry = process.links.get(pid)
        if entry is not None and entry.active:
            return
        if not self.is_local(pid):
            if entry is not None:
                entry.unlink_id = None
            self.add_remote_link(process, pid)
            self.outgoing.append((pid.node, control.Link(process.pid, pid)))
            return
        other = self.lookup(pid)
        if other is not None:
            process.add_link(pid)
            other.add_link(process.pid)
        elif process.trap_exit:
            self.deliver(process, (a.EXIT, pid, a.noproc))
        else:
            raise NoProcessError(f"{pid!r} has ended: there is nothing to link to")

    def unlink(self, process: Process, pid: Pid) -> None:
        """From now on the link has no effect on `process`; an `EXIT` message may be in its mailbox already."""
        entry = process.links.get(pid)
        if entry is None or not entry.active:
            return
        if self.is_local(pid):
            del process.links[pid]
            other = self.lookup(pid)
            if other is not None:
                other.links.pop(process.pid, None)
            return
        self._unlink_ids += 1
        entry.unlink_id = self._unlink_ids
        self.outgoing.append((pid.node, control.UnlinkId(entry.unlink_id, process.pid, pid)))

    def add_remote_link(self, process: Process, remote: Pid) -> None:
        """A link that the other side has. An entry that waits for its unlink's acknowledgement stays as it is."""
        if remote not in process.links:
            process.add_link(remote)
            self._ties_with(remote.node).links[process.pid, remote] = process

    def forget_link(self, process: Process, remote: Pid) -> None:
        """The other side's end of a link is not there any more; `process` hears nothing of it."""
        self._drop_link(process, remote)

    def _drop_link(self, process: Process, remote: Pid) -> None:
        process.links.pop(remote, None)
        self._ties_if_any(remote.node).links.pop((process.pid, remote), None)

    def _on_link(self, node: Atom, record: control.Link) -> None:
        self.demand_between(node, record.sender, record.to)
        process = self.lookup(record.to)
        if process is None:
            self.outgoing.append((node, control.Exit(record.to, record.sender, a.noproc)))
        elif self._has_many_ties(node):
            self._tell_of_ties(node)
            self.outgoing.append((node, control.Exit(record.to, record.sender, a.system_limit)))
        else:
            self.add_remote_link(process, record.sender)

    def _on_unlink_id(self, node: Atom, record: control.UnlinkId) -> None:
        self.demand_between(node, record.sender, record.to)
        process = self.lookup(record.to)
        if process is not None:
            entry = process.links.get(record.sender)
            if entry is not None and entry.active:
                self._drop_link(process, record.sender)
        self.outgoing.append((node, control.UnlinkIdAck(record.id, record.to, record.sender)))

    def _on_unlink_id_ack(self, node: Atom, record: control.UnlinkIdAck) -> None:
        self.demand_between(node, record.sender, record.to)
        process = self.lookup(record.to)
        entry = process.links.get(record.sender) if process is not None else None
        if process is not None and entry is not None and entry.unlink_id == record.id:
            self._drop_link(process, record.sender)

    # --- Monitors -----------------------------------------------------------------------------------------------------

    def monitor(
        self,
        process: Process,
        target: Target,
        *,
        alias: AliasKind | None = None,
        tag: Any = a.DOWN,
        expected: bool = False,
    ) -> Reference:
        """Watch a pid, a local name or `(name, node)`: `{tag, Reference, process, Object, Reason}`, once.

        With `expected`, that message and a reply with the reference go to a slot of their own instead of the mailbox.
        Watching oneself is allowed and does nothing; not even the alias is made.
        """
        process.check_alive()
        reference = self.identities.next_reference()
        watched, node = self._resolve_target(target)
        other = self._find(watched) if node is self.node else None
        if other is process:
            return reference
        if alias is not None:
            self._add_alias(process, reference, alias)
        if expected:
            process.add_slot(reference)
        entry = Monitor(watched, node, tag)
        process.add_monitor(reference, entry)
        if node is not self.node:
            self._ties_with(node).monitors[reference] = process
            self.outgoing.append((node, control.MonitorP(process.pid, watched, reference)))
            return reference
        if other is None:
            self._tell_down(process, reference, a.noproc)
        else:
            other.add_watcher(reference, Watcher(process.pid, watched))
            entry.watched = other
        return reference

    def demonitor(self, process: Process, reference: Reference, *, flush: bool = False) -> bool:
        """End a monitor; with `flush` also throw away the message that it left. True if there was one to end."""
        entry = process.monitors.pop(reference, None)
        self._unalias_with_monitor(process, reference)
        if entry is not None:
            self._forget_monitor(process, reference, entry)
        slot = process.expected.pop(reference, None) if flush else None
        if flush and entry is None and slot is None:  # one that was still there has left no message
            process.mailbox.take_first(
                lambda message: type(message) is tuple and len(message) == 5 and message[1] == reference
            )
        return entry is not None

    def add_remote_monitor(self, process: Process, reference: Reference, pid: Pid) -> None:
        """A monitor that the other side has made already (a spawn with `monitor`)."""
        process.add_monitor(reference, Monitor(pid, pid.node, a.DOWN))
        self._ties_with(pid.node).monitors[reference] = process

    def add_remote_watcher(self, process: Process, reference: Reference, pid: Pid) -> None:
        """A monitor that a remote `pid` asked for together with the spawn of `process`."""
        self._add_remote_watcher(process, reference, Watcher(pid, process.pid))

    def _add_remote_watcher(self, process: Process, reference: Reference, watcher: Watcher) -> bool:
        """False: nothing was added, because the peer has all the ties that it may have."""
        ties = self._ties_with(watcher.pid.node)
        if len(ties.watchers) + len(ties.links) >= self._ties_max:
            return False
        before = ties.watchers.setdefault(reference, process)
        if before is not process:  # a peer must not use a reference twice; if it does, the later one counts
            del before.watchers[reference]
            ties.watchers[reference] = process
        process.add_watcher(reference, watcher)
        return True

    def _forget_monitor(self, process: Process, reference: Reference, entry: Monitor) -> None:
        """Tell the watched side that the monitor is gone."""
        if entry.node is not self.node:
            self._ties_if_any(entry.node).monitors.pop(reference, None)
            self.outgoing.append((entry.node, control.DemonitorP(process.pid, entry.target, reference)))
            return
        if entry.watched is not None:
            entry.watched.watchers.pop(reference, None)
            self._check_watched(entry.watched)

    def _find(self, target: Pid | Atom) -> Process | None:
        return self.lookup(target) if type(target) is Pid else self.names.get(target)  # type: ignore[arg-type]

    def _resolve_target(self, target: Target) -> tuple[Pid | Atom, Atom]:
        if isinstance(target, Pid):
            return target, target.node
        if isinstance(target, tuple):
            return target
        return target, self.node

    def _tell_down(self, process: Process, reference: Reference, reason: Any) -> None:
        entry = process.monitors.pop(reference, None)
        if entry is not None:
            self._down_message(process, reference, entry, reason)

    def _down_message(self, process: Process, reference: Reference, entry: Monitor, reason: Any) -> None:
        self._unalias_with_monitor(process, reference)
        self.deliver(process, (entry.tag, reference, a.process, entry.down_object(), reason))

    def _unalias_with_monitor(self, process: Process, reference: Reference) -> None:
        kind = process.aliases.get(reference)
        if kind is AliasKind.DEMONITOR or kind is AliasKind.REPLY_DEMONITOR:
            self.unalias(process, reference)

    def _on_monitor(self, node: Atom, record: control.MonitorP) -> None:
        self.remote_monitor(node, record.sender, record.target, record.ref)

    def remote_monitor(self, node: Atom, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        """`sender` on `node` monitors `target`, who is of this node, or not there."""
        self.demand_between(node, sender, target)
        if reference.node is not node:
            demand_reference(node, reference)
        process = self._find(target)
        if process is None:
            self.outgoing.append((node, control.MonitorPExit(target, sender, reference, a.noproc)))
            return
        if not self._add_remote_watcher(process, reference, Watcher(sender, target)):
            self._tell_of_ties(node)
            self.outgoing.append((node, control.MonitorPExit(target, sender, reference, a.system_limit)))

    def tell_watcher(self, process: Process, reference: Reference, reason: Any) -> bool:
        """To the holder of one monitor `process` ends with `reason`; to everybody else it lives on.

        So a call is refused as one is that a server does not survive. False if there is no such monitor.
        """
        watcher = process.watchers.pop(reference, None)
        if watcher is None:
            return False
        self._tell_watcher(reference, watcher, reason)
        self._check_watched(process)
        return True

    def end_unwatched(self, process: Process) -> None:
        """From now on `process` ends with `killed` as soon as nobody monitors it (any more)."""
        process.ends_unwatched = True
        self._check_watched(process)

    def _check_watched(self, process: Process) -> None:
        if process.ends_unwatched and not process.watchers and process.alive:
            self.end(process, a.killed)

    def _on_demonitor(self, node: Atom, record: control.DemonitorP) -> None:
        self.remote_demonitor(node, record.sender, record.target, record.ref)

    def remote_demonitor(self, node: Atom, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        """`sender` on `node` ends its monitor of `target`, if there still is one."""
        self.demand_between(node, sender, target)
        process = self._ties_if_any(node).watchers.pop(reference, None)
        if process is not None:
            process.watchers.pop(reference, None)
            if process.ends_unwatched:
                self._check_watched(process)

    def _on_monitor_exit(self, node: Atom, record: control.MonitorPExit) -> None:
        self.demand_between(node, record.sender, record.to)
        process = self._ties_if_any(node).monitors.pop(record.ref, None)
        if process is not None:
            self._tell_down(process, record.ref, record.reason)

    # --- Aliases ------------------------------------------------------------------------------------------------------

    def alias(self, process: Process, kind: AliasKind = AliasKind.EXPLICIT_UNALIAS) -> Reference:
        """A reference through which `process` can be sent messages until the alias is deactivated."""
        process.check_alive()
        reference = self.identities.next_reference()
        self._add_alias(process, reference, kind)
        return reference

    def unalias(self, process: Process, alias: Reference) -> bool:
        """Deactivate; messages sent through it from now on are dropped. True if it was active."""
        if process.aliases.pop(alias, None) is None:
            return False
        del self._aliases[alias]
        return True

    def _add_alias(self, process: Process, reference: Reference, kind: AliasKind) -> None:
        if process.aliases is NO_TABLE:
            process.aliases = {}
        process.aliases[reference] = kind
        self._aliases[reference] = process

    # --- Exits --------------------------------------------------------------------------------------------------------

    def exit(self, sender: Pid, pid: Pid, reason: Any) -> None:
        """`erlang:exit/2`: an exit signal to `pid`, here or elsewhere. `kill` cannot be trapped."""
        if not self.is_local(pid):
            self.outgoing.append((pid.node, control.Exit2(sender, pid, reason)))
            return
        process = self.lookup(pid)
        if process is not None:
            self._exit_signal(process, sender, reason)

    def _exit_signal(self, process: Process, sender: Pid, reason: Any) -> None:
        """What an exit signal of exit/2 does to its receiver."""
        if reason is a.kill:
            self.end(process, a.killed)
        elif process.trap_exit:
            self.deliver(process, (a.EXIT, sender, reason))
        elif reason is not a.normal or sender == process.pid:
            self.end(process, reason)

    def _link_broken(self, process: Process, sender: Pid, reason: Any) -> None:
        """What the end of a linked process does: as above, but `kill` is a reason like others."""
        if process.trap_exit:
            self.deliver(process, (a.EXIT, sender, reason))
        elif reason is not a.normal:
            self.end(process, reason)

    def end(self, process: Process, reason: Any) -> None:
        """The process is no more: everybody tied to it is told, exactly once. Ending an ended process does nothing.

        Ends that follow from it (linked processes) are worked off here too, one after the other.
        """
        if not process.alive:
            return
        self._bury(process, reason)
        if self._telling:
            return
        self._telling = True
        try:
            while self._dying:
                self._tell_ties(self._dying.popleft())
        finally:
            self._telling = False

    def _bury(self, process: Process, reason: Any) -> None:
        process.exit_reason = reason
        del self._processes[_key(process.pid)]
        if process.name is not None:
            del self.names[process.name]
        for alias in process.aliases:
            del self._aliases[alias]
        process.aliases.clear()
        process.waiting = False
        if self.guests.of:
            self.guests.left(process)
        self._dying.append(process)
        self.ended.append(process)

    def _tell_ties(self, process: Process) -> None:
        """In OTP's order: to who watches and is linked, `EXIT` comes before `DOWN`."""
        reason = process.exit_reason
        for pid, entry in process.links.items():
            self._tell_linked(process, pid, entry, reason)
        process.links.clear()
        for reference, watcher in process.watchers.items():
            self._tell_watcher(reference, watcher, reason)
        process.watchers.clear()
        for reference, monitor in process.monitors.items():
            self._forget_monitor(process, reference, monitor)
        process.monitors.clear()

    def _tell_linked(self, process: Process, pid: Pid, entry: Link, reason: Any) -> None:
        if not self.is_local(pid):
            self._ties_if_any(pid.node).links.pop((process.pid, pid), None)
            if entry.active:
                self.outgoing.append((pid.node, control.Exit(process.pid, pid, reason)))
            return
        other = self.lookup(pid)
        if other is not None and other.links.pop(process.pid, None) is not None:
            self._link_broken(other, process.pid, reason)

    def _tell_watcher(self, reference: Reference, watcher: Watcher, reason: Any) -> None:
        if not self.is_local(watcher.pid):
            self._ties_if_any(watcher.pid.node).watchers.pop(reference, None)
            record = control.MonitorPExit(watcher.target, watcher.pid, reference, reason)
            self.outgoing.append((watcher.pid.node, record))
            return
        other = self.lookup(watcher.pid)
        if other is not None:
            self._tell_down(other, reference, reason)

    def _on_exit(self, node: Atom, record: control.Exit) -> None:
        self.demand_between(node, record.sender, record.to)
        process = self.lookup(record.to)
        entry = process.links.get(record.sender) if process is not None else None
        if process is None or entry is None:
            return
        self._drop_link(process, record.sender)
        if entry.active:
            self._link_broken(process, record.sender, record.reason)

    def _on_exit2(self, node: Atom, record: control.Exit2) -> None:
        to = record.to
        self.demand_between(node, record.sender, to)
        process = self.receiver_of(to)
        if process is not None:
            self._exit_signal(process, record.sender, record.reason)

    # --- From and to other nodes --------------------------------------------------------------------------------------

    def receive(self, node: Atom, record: Any) -> None:
        """A control record that arrived from `node`. Spawn requests and replies are the driver's (`core.spawning`)."""
        self.handlers[type(record)](node, record)

    def _on_send(self, node: Atom, record: control.Send) -> None:
        process = self.lookup(record.to)
        if process is not None:
            self.deliver_from(node, process, record.message)

    def _on_reg_send(self, node: Atom, record: control.RegSend) -> None:
        process = self.names.get(record.name)
        if process is not None:
            self.deliver_from(node, process, record.message)

    def _on_alias_send(self, node: Atom, record: control.AliasSend) -> None:
        self.deliver_to_alias(record.alias, record.message, node)

    def _on_group_leader(self, _node: Atom, record: control.GroupLeader) -> None:
        process = self.lookup(record.to)
        if process is not None:
            process.group_leader = record.leader

    def node_down(self, node: Atom) -> None:
        """The connection to `node` is lost: every tie across it breaks with `noconnection`, exactly once.

        What was to be sent to it is lost with it. To who watches and is linked, `EXIT` comes before `DOWN`, as in OTP.
        """
        self.outgoing[:] = [entry for entry in self.outgoing if entry[0] is not node]
        ties = self._ties.pop(node, None)
        if ties is None:
            return
        # First untie everything, then tell: who dies of being told must not have anything left to send to `node`.
        for reference, process in ties.watchers.items():
            process.watchers.pop(reference, None)
        unwatched = list(ties.watchers.values())
        monitors = [(process, ref, process.monitors.pop(ref, None)) for ref, process in ties.monitors.items()]
        links = [(process, remote, process.links.pop(remote, None)) for (_, remote), process in ties.links.items()]
        for process, remote, link in links:
            if link is not None and link.active and process.alive:
                self._link_broken(process, remote, a.noconnection)
        for process in unwatched:
            self._check_watched(process)
        for process, reference, monitor in monitors:
            if monitor is not None and process.alive:
                self._down_message(process, reference, monitor, a.noconnection)

    def _ties_with(self, node: Atom) -> _Ties:
        ties = self._ties.get(node)
        if ties is None:
            ties = self._ties[node] = _Ties()
        return ties

    def may_tie(self, node: Atom) -> bool:
        """Whether processes of `node` may have one more tie with those here; if not, that is told."""
        if self._has_many_ties(node):
            self._tell_of_ties(node)
            return False
        return True

    def _has_many_ties(self, node: Atom) -> bool:
        """All that there may be. Links that processes here have made count too: the table is the same."""
        ties = self._ties.get(node)
        return ties is not None and len(ties.watchers) + len(ties.links) >= self._ties_max

    def _tell_of_ties(self, node: Atom) -> None:
        what = f"its processes want one more link or monitor than {self._ties_max}"
        self.guests.limit_hit("ties_per_peer_max", node.name, what, "the tie breaks at once, with system_limit")

    def _ties_if_any(self, node: Atom) -> _Ties:
        """To take something out: a node that there are no ties with gets no entry."""
        return self._ties.get(node) or _Ties()

    def demand_between(self, node: Atom, sender: Pid | Atom, to: Pid | Atom | Reference) -> None:
        """A peer makes and breaks ties in the name of its own processes, and with ours only."""
        if type(sender) is Pid and sender.node is not node:
            raise ProtocolError(f"{node} sent a signal in the name of {sender!r}")
        if type(to) is not Atom and to.node is not self.node:  # type: ignore[union-attr]
            raise ProtocolError(f"{node} sent a signal for {to!r}, which is not of this node")


def demand_reference(node: Atom, reference: Reference) -> None:
    """What a peer asks for it names by a reference of its own: nobody else's can be meant."""
    if reference.node is not node:
        raise ProtocolError(f"{node} asks for something under {reference!r}, which is not its own")


def _key(pid: Pid) -> int:
    return pid.serial << 32 | pid.id
