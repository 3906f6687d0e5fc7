"""`PartitionSupervisor`: starts the same child several times, and finds one of them by a key.

    await PartitionSupervisor.start_link(Counter, name="counters")
    await GenServer.call(("via", PartitionSupervisor, ("counters", "any key")), (a.add, 1))

The same key always leads to the same partition: an integer to its absolute value modulo the number of partitions, any
other term to a hash of it (CRC-32 of its external form; Elixir's is `erlang:phash2/2`, and leaves open which it is). A
dynamic supervisor that has too much to do is divided in this way: `PartitionSupervisor.start_link(DynamicSupervisor,
name="jobs")`. Source: Elixir's PartitionSupervisor (partition_supervisor.ex).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn

from beamnode.errors import NoProcessError, ProcessExit, UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.keys import external_form
from beamnode.etf.shown import shown
from beamnode.node import Asked, current_body, process_info, reason_text
from beamnode.node import self as own_pid
from beamnode.node import send as send_to
from beamnode.otp import child_specs, gen, names, server_loop, supervision
from beamnode.otp.child_specs import ChildSpec, Start, Supervised
from beamnode.otp.gen_server import GenServer
from beamnode.otp.supervision import MAX_RESTARTS, MAX_SECONDS, NotStarted
from beamnode.otp.supervisor import Supervisor, SupervisorError
from beamnode.otp.supervisor_base import Given
from beamnode.otp.supervisor_server import SupervisorServer

__all__ = ["PartitionSupervisor"]


class PartitionSupervisor(Supervised):
    """Also a registry of `via` names, `("via", PartitionSupervisor, (name, key))`, to call but not to register."""

    child_defaults: ClassVar[dict[str, Any]] = {"type": "supervisor"}

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start_link(
        cls,
        child_spec: Any,
        *,
        name: names.Name,
        partitions: int | None = None,
        with_arguments: Callable[[list[Any], int], Sequence[Any]] | None = None,
        strategy: str | Atom = "one_for_one",
        max_restarts: int = MAX_RESTARTS,
        max_seconds: float = MAX_SECONDS,
        timeout: float | None = None,
    ) -> Pid:
        """Start a supervisor of so many `partitions` (default: the CPUs) of what `child_spec` describes; its pid.

        `with_arguments(args, partition)` gives the arguments that a partition (0, 1, ...) is started with; `args` are
        those in `child_spec`. Errors: as `Supervisor.start_link`.
        """
        names.check(name)
        count = (os.cpu_count() or 1) if partitions is None else partitions
        if type(count) is not int or count < 1:
            raise UsageError(f"partitions is an integer of 1 or more, not {shown(partitions)}")
        spec = child_specs.checked(child_spec, own_pid().node)
        children = [_of_partition(spec, number, with_arguments) for number in range(count)]
        setup = Supervisor.init(children, strategy=strategy, max_restarts=max_restarts, max_seconds=max_seconds)
        return await server_loop.start(
            _Server, (Given(setup, "PartitionSupervisor"), (), {}, name), name, timeout, link=True
        )

    @classmethod
    def child_spec(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification of a child that `start_link(*args, **options)` starts; its id is the `name`."""
        spec = super().child_spec(*args, **options)
        return {**spec, "id": child_specs.id_of_name(options.get("name"), spec["id"])}

    # --- Using --------------------------------------------------------------------------------------------------------

    @staticmethod
    def partitions(name: names.Name) -> int:
        """How many partitions it has now. Errors: ProcessExit (`noproc`)."""
        return _found(name).current

    @staticmethod
    async def resize(name: names.Name, partitions: int) -> int:
        """Start or end partitions until there are so many, at most as many as at first; how many there were.

        Errors: UsageError; ProcessExit (`noproc`); SupervisorError, when one does not start.
        """
        most = _found(name).most
        if type(partitions) is not int or not 0 <= partitions <= most:
            raise UsageError(f"the partitions are 0 to {most}, as many as there were at first, not {shown(partitions)}")
        match await GenServer.call(name, _Resize(partitions), timeout=None):
            case int() as before:
                return before
            case (a.error, (number, reason)):
                raise SupervisorError(f"partition {number} does not start: {reason_text(reason)}", reason)
            case answer:
                raise SupervisorError(f"{name!r} is no PartitionSupervisor: {shown(answer)}", answer)

    @staticmethod
    async def which_children(supervisor: names.Server) -> list[tuple[Any, Pid | Atom | None, Atom, Any]]:
        """`(partition, pid, type, modules)` of each, the last one first; as `Supervisor.which_children`."""
        return await Supervisor.which_children(supervisor)

    @staticmethod
    async def count_children(supervisor: names.Server) -> dict[str, int]:
        """As `Supervisor.count_children`."""
        return await Supervisor.count_children(supervisor)

    @staticmethod
    async def stop(supervisor: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
        """As `Supervisor.stop`."""
        await Supervisor.stop(supervisor, reason, timeout)

    # --- As a registry of names ---------------------------------------------------------------------------------------

    @staticmethod
    def whereis_name(name: tuple[names.Name, Any]) -> Pid | None:
        """The partition of `(supervisor, key)`; None when there is no such supervisor. Errors: UsageError."""
        supervisor, key = _name_and_key(name)
        table = _table_of(supervisor)
        if table is None:
            return None
        if table.current == 0:
            raise UsageError(f"PartitionSupervisor {supervisor!r} has zero partitions: resize it")
        return table.pids.get(partition_of(key, table.current))

    @staticmethod
    def send(name: tuple[names.Name, Any], message: Any) -> None:
        """Send to a partition. Errors: NoProcessError."""
        pid = PartitionSupervisor.whereis_name(name)
        if pid is None:
            raise NoProcessError(f"there is no PartitionSupervisor {name[0]!r} on this node")
        send_to(pid, message)

    @staticmethod
    def register_name(name: Any, pid: Pid) -> NoReturn:
        """Errors: UsageError, always."""
        raise UsageError('("via", PartitionSupervisor, _) finds what is started already: no name to register under')

    @staticmethod
    def unregister_name(name: Any) -> NoReturn:
        """Errors: UsageError, always."""
        raise UsageError('("via", PartitionSupervisor, _) finds what is started already: no name to unregister')


def partition_of(key: Any, partitions: int) -> int:
    """Which of so many partitions a key leads to. Errors: EncodeError for what is no term."""
    if type(key) is int:
        return abs(key) % partitions
    return zlib.crc32(external_form(_sorted(key))) % partitions


def _sorted(term: Any) -> Any:
    """The same term, whose maps have one order."""
    if isinstance(term, dict):
        items = [(_sorted(key), _sorted(value)) for key, value in term.items()]
        return dict(sorted(items, key=lambda item: external_form(item[0])))
    if type(term) in (list, tuple):
        return type(term)(map(_sorted, term))
    return term


# --- Where the partitions are -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Table:
    """Of one partition supervisor. Kept with the node, by the pid of that."""

    current: int
    most: int
    pids: dict[int, Pid] = field(default_factory=dict)


def _tables() -> dict[Pid, _Table]:
    found: dict[Pid, _Table] = current_body().runtime.tables.setdefault("partition_supervisor", {})
    return found


def _table_of(name: Any) -> _Table | None:
    pid = names.pid_here(name)
    return None if pid is None else _tables().get(pid)


def _found(name: Any) -> _Table:
    table = _table_of(name)
    if table is None:
        raise ProcessExit((a.noproc, (Atom("Elixir.PartitionSupervisor"), a.partitions, [_shown_name(name)])))
    return table


def _shown_name(name: Any) -> Any:
    return shown(name) if isinstance(name, tuple) else Atom(str(name))


def _name_and_key(name: Any) -> tuple[Any, Any]:
    if type(name) is not tuple or len(name) != 2:
        raise UsageError(f'a partition is named ("via", PartitionSupervisor, (name, key)), not with {shown(name)}')
    return name


# --- The supervisor ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Resize:
    """A request that no peer can make."""

    partitions: int


class _Server(SupervisorServer):
    """A supervisor that can be resized."""

    async def init(self, make: Any, args: tuple[Any, ...], options: dict[str, Any], name: Any) -> Any:
        tables = _tables()
        for pid in [pid for pid in tables if process_info(pid) is None]:
            del tables[pid]  # it was killed
        count = len(make().init().children)
        self._table = tables[own_pid()] = _Table(count, count)
        try:
            return await super().init(make, args, options, name)
        except BaseException:
            del tables[own_pid()]
            raise

    async def terminate(self, reason: Any) -> None:
        await super().terminate(reason)
        _tables().pop(own_pid(), None)

    async def handle_call(self, request: Any, sender: gen.From) -> Any:
        if isinstance(request, _Resize):
            return await self._resize(request.partitions)
        return await super().handle_call(request, sender)

    async def _resize(self, partitions: int) -> Any:
        table, before = self._table, self._table.current
        for number in range(before, partitions):
            match await super().handle_call((a.restart_child, number), None):  # type: ignore[arg-type]
                case (a.error, reason) if reason is not a.running:
                    return (a.error, (number, reason))
            table.current = number + 1
        if partitions < before:
            table.current = partitions
            for number in range(partitions, before):
                await super().handle_call((a.terminate_child, number), None)  # type: ignore[arg-type]
                table.pids.pop(number, None)
        return before


def _of_partition(
    spec: ChildSpec, number: int, with_arguments: Callable[[list[Any], int], Sequence[Any]] | None
) -> ChildSpec:
    """The child of one partition, whose start is noted in the table."""
    start = spec.start
    if with_arguments is not None:
        own = start.args if isinstance(start, Asked) else start[1]
        args = with_arguments(list(own), number)
        if not isinstance(args, list | tuple):
            raise UsageError(f"with_arguments returns a list of arguments, not {shown(args)}")
        start = replace(start, args=list(args)) if isinstance(start, Asked) else (start[0], args)
    return replace(spec, id=number, start=(_start, (start, number)))


async def _start(start: Start, number: int) -> Any:
    """Start a partition, in the process of its supervisor."""
    try:
        started = await supervision.start(start)
    except NotStarted as error:
        return (a.error, error.reason)
    if started.pid is None:
        return a.ignore
    _tables()[own_pid()].pids[number] = started.pid
    return started.as_answer()
