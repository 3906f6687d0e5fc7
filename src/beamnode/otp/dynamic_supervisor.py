"""`DynamicSupervisor`: a supervisor whose children are started on demand, in the protocol of Elixir's.

    jobs = await DynamicSupervisor.start_link(name="jobs", max_children=1000)
    pid = await DynamicSupervisor.start_child("jobs", (Job, 5))

or as a module, which may be a child of another supervisor:

    class Jobs(DynamicSupervisor):
        def init(self, most):
            return DynamicSupervisor.init(max_children=most, extra_arguments=["job"])

There is no order among the children, and they have no ids: each is found by its pid. They are ended all at once.
Source: Elixir's DynamicSupervisor (dynamic_supervisor.ex).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import self as own_pid
from beamnode.otp import child_specs, names, proc_lib, server_loop
from beamnode.otp.child_specs import ChildSpec, Supervised, start_term
from beamnode.otp.dynamic_server import DynamicServer, DynamicSetup
from beamnode.otp.gen_server import GenServer
from beamnode.otp.proc_lib import StartFailed
from beamnode.otp.server_loop import AlreadyStarted
from beamnode.otp.supervision import MAX_RESTARTS, MAX_SECONDS
from beamnode.otp.supervisor import SupervisorError, counts
from beamnode.otp.supervisor_base import Given

__all__ = ["DynamicSupervisor"]


def _setup(
    *,
    strategy: str | Atom = "one_for_one",
    max_restarts: int = MAX_RESTARTS,
    max_seconds: float = MAX_SECONDS,
    max_children: int | None = None,
    extra_arguments: Sequence[Any] = (),
) -> DynamicSetup:
    """What `init` of a dynamic supervisor returns.

    More than `max_restarts` restarts in `max_seconds` end the supervisor. It has at most `max_children` (None: as many
    as are started); `extra_arguments` come before those of each child's own. Errors: UsageError.
    """
    if not isinstance(strategy, str | Atom) or str(strategy) != "one_for_one":
        raise UsageError(f"strategy is 'one_for_one', the only one for children without order, not {shown(strategy)}")
    if max_children is not None and (type(max_children) is not int or max_children < 0):
        raise UsageError(f"max_children is an integer of 0 or more, or None, not {shown(max_children)}")
    if not isinstance(extra_arguments, list | tuple):
        raise UsageError(f"extra_arguments is a list, not {shown(extra_arguments)}")
    made = DynamicSetup(max_restarts, max_seconds, max_children, list(extra_arguments))
    made.intensity()
    return made


_setup.__qualname__ = "DynamicSupervisor.init"  # for the TypeErrors of Python about its arguments


def _given(*args: Any, **options: Any) -> Given:
    """The options of a supervisor without a class, checked where the caller hears of it. Errors: UsageError."""
    if args:
        raise UsageError(
            f"DynamicSupervisor.start_link takes options only, not {shown(args)}: its children are started later, "
            "by start_child"
        )
    return Given(_setup(**options), "DynamicSupervisor")


class DynamicSupervisor(Supervised):
    """Give `start_link` the options, or derive from it and define `init`; the static methods use any such supervisor.

    They call (pid, name, `(name, node)` or a `via` name) one of any node, ours or Elixir's.
    """

    child_defaults: ClassVar[dict[str, Any]] = {"type": "supervisor"}

    init: Any = staticmethod(_setup)
    """In a class of yours: `def init(self, *args)`, which returns `DynamicSupervisor.init(max_children=...)`."""

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start_link(
        cls, *args: Any, name: names.Name | None = None, timeout: float | None = None, **options: Any
    ) -> Pid:
        """Start a supervisor without children; its pid.

        `DynamicSupervisor.start_link(...)` takes what `DynamicSupervisor.init` does; a class of yours what its `init`
        takes. Errors: AlreadyStarted; StartFailed; Ignore; UsageError; TimeoutError.
        """
        make = _given(*args, **options) if cls is DynamicSupervisor else cls
        return await server_loop.start(DynamicServer, (make, args, options, name), name, timeout, link=True)

    @classmethod
    def child_spec(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification of a child that `start_link(*args, **options)` starts; its id is the `name`, if any."""
        spec = super().child_spec(*args, **options)
        return {**spec, "id": child_specs.id_of_name(options.get("name"), spec["id"])}

    # --- Using --------------------------------------------------------------------------------------------------------

    @staticmethod
    async def start_child(supervisor: names.Server, spec: Any) -> Any:
        """Start a child: its pid, `(pid, info)` if it told more, None if it chose not to start. Its id is not used.

        Errors: SupervisorError (`max_children`); AlreadyStarted (of its name); StartFailed; BadChildSpec.
        """
        checked = child_specs.checked(spec, own_pid().node)
        answer = await _call(supervisor, (a.start_child, checked if names.is_here(supervisor) else as_term(checked)))
        match answer:
            case (a.ok, Pid() as pid):
                return pid
            case (a.ok, Pid() as pid, info):
                return pid, info
            case a.ignore:
                return None
            case (a.error, a.max_children):
                raise SupervisorError("the supervisor has as many children as it may have", a.max_children)
            case (a.error, (a.already_started, Pid() as pid)):
                raise AlreadyStarted(f"what was to be started is running already: {pid!r}", pid)
            case (a.error, reason):
                raise StartFailed(reason)
        raise _strange(answer)

    @staticmethod
    async def terminate_child(supervisor: names.Server, pid: Pid) -> None:
        """End a child, which is not started again. Errors: SupervisorError (`not_found`)."""
        if not isinstance(pid, Pid):
            raise UsageError(f"children of a dynamic supervisor are told apart by their pids, not by {shown(pid)}")
        match await _call(supervisor, (a.terminate_child, pid)):
            case a.ok:
                return
            case (a.error, a.not_found):
                raise SupervisorError(f"the supervisor has no child {pid!r}", a.not_found)
            case answer:
                raise _strange(answer)

    @staticmethod
    async def which_children(supervisor: names.Server) -> list[tuple[Any, Pid | Atom, Atom, Any]]:
        """`(a.undefined, pid, type, modules)` of each child; the pid may be `restarting`."""
        children: list[tuple[Any, Pid | Atom, Atom, Any]] = await _call(supervisor, a.which_children)
        if not isinstance(children, list):
            raise _strange(children)
        return children

    @staticmethod
    async def count_children(supervisor: names.Server) -> dict[str, int]:
        """How many children there are: "specs", "active" (they run), "supervisors", "workers"."""
        return counts(await _call(supervisor, a.count_children))

    @staticmethod
    async def stop(supervisor: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
        """End a supervisor and its children, all at the same time, and wait for it.

        Errors: ProcessExit when it is not there or ends with another reason; TimeoutError.
        """
        await proc_lib.stop(supervisor, Atom(reason) if isinstance(reason, str) else reason, timeout)


def as_term(spec: ChildSpec) -> tuple[Any, ...]:
    """The child as Elixir's servers take it: `{{Module, Function, Args}, Restart, Shutdown, Type, Modules}`.

    Errors: UsageError for what only this Python process can call.
    """
    child_specs.check_travels(spec.start)
    return (start_term(spec.start), spec.restart, spec.shutdown_term(), spec.type, spec.modules)


async def _call(supervisor: names.Server, request: Any) -> Any:
    return await GenServer.call(supervisor, request, timeout=None)


def _strange(answer: Any) -> SupervisorError:
    return SupervisorError(f"no dynamic supervisor answers like this: {shown(answer)}", answer)
