"""`Supervisor`: a process that starts others in order, and starts them again when they end, in OTP's protocol.

    children = [(Counter, 1), Cache, {"id": "pump", "start": (start_pump, [80]), "restart": "transient"}]
    tree = await Supervisor.start_link(children, strategy="one_for_one", name="tree")

or as a module, which may be a child of another supervisor:

    class Tree(Supervisor):
        def init(self, port):
            return Supervisor.init([(Counter, 1), (Pump, port)], strategy="rest_for_one")

A child is what `child_specs` says. Its start function runs in the supervisor's process, so that `start_link` and
`spawn_link` in it link the child with the supervisor; it is a `def` or an `async def` and gives a pid.
Source: supervisor.erl; Elixir's Supervisor for names and defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Final

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import self as own_pid
from beamnode.otp import child_specs, names, proc_lib, server_loop
from beamnode.otp.child_specs import BadChildSpec, ChildSpec, Supervised
from beamnode.otp.gen_server import GenServer
from beamnode.otp.proc_lib import StartFailed
from beamnode.otp.server_loop import AlreadyStarted
from beamnode.otp.supervision import MAX_RESTARTS, MAX_SECONDS
from beamnode.otp.supervisor_base import Given
from beamnode.otp.supervisor_server import Setup, SupervisorServer

__all__ = ["BadChildSpec", "Supervisor", "SupervisorError"]

STRATEGIES: Final = ("one_for_one", "one_for_all", "rest_for_one")
AUTO_SHUTDOWNS: Final = ("never", "any_significant", "all_significant")


class SupervisorError(UsageError):
    """A supervisor did not do what it was asked; `reason` says why: `not_found`, `running`, `already_present`, ..."""

    def __init__(self, text: str, reason: Any) -> None:
        super().__init__(text)
        self.reason = reason


def _setup(
    children: Iterable[Any],
    *,
    strategy: str | Atom | None = None,
    max_restarts: int = MAX_RESTARTS,
    max_seconds: float = MAX_SECONDS,
    auto_shutdown: str | Atom = "never",
) -> Setup:
    """What `init` of a supervisor returns: `children` in the order of their start.

    More than `max_restarts` restarts in `max_seconds` end the supervisor. `auto_shutdown` ends it with its significant
    children: "never", "any_significant", "all_significant". Errors: UsageError.
    """
    if isinstance(children, str | bytes | dict) or not isinstance(children, Iterable):
        raise UsageError(f"the children of a supervisor are a list, not {shown(children)}")
    if strategy is None:
        raise UsageError(f'a supervisor has a strategy: strategy="one_for_one", or one of {STRATEGIES[1:]}')
    if str(strategy) == "simple_one_for_one":
        raise UsageError("children that are started on demand have a DynamicSupervisor, not 'simple_one_for_one'")
    made = Setup(
        list(children),
        _one_of(strategy, STRATEGIES, "strategy"),
        max_restarts,
        max_seconds,
        _one_of(auto_shutdown, AUTO_SHUTDOWNS, "auto_shutdown"),
    )
    made.intensity()
    return made


_setup.__qualname__ = "Supervisor.init"  # for the TypeErrors of Python about its arguments


def _given(*args: Any, **options: Any) -> Given:
    """The children of a supervisor without a class, checked where the caller hears of it. Errors: as `_setup`."""
    setup = _setup(*args, **options)
    specs = child_specs.all_checked(setup.children, own_pid().node, auto_shutdown=setup.auto_shutdown)
    return Given(replace(setup, children=list(specs.values())), "Supervisor")


class Supervisor(Supervised):
    """Derive from it and define `init`, or give `start_link` the children; the static methods use any supervisor."""

    child_defaults: ClassVar[dict[str, Any]] = {"type": "supervisor"}

    init: Any = staticmethod(_setup)
    """In a class of yours: `def init(self, *args)`, which returns `Supervisor.init(children, strategy=...)`."""

    # --- Starting -----------------------------------------------------------------------------------------------------

    @classmethod
    async def start_link(
        cls, *args: Any, name: names.Name | None = None, timeout: float | None = None, **options: Any
    ) -> Pid:
        """Start a supervisor and its children, and wait until all have started; its pid.

        `Supervisor.start_link(children, strategy=..., ...)` takes what `Supervisor.init` does; a class of yours what
        its `init` takes. Errors: AlreadyStarted; StartFailed (`{shutdown, {failed_to_start_child, Id, Reason}}` when a
        child did not start: those before it have been ended again); Ignore; BadChildSpec, UsageError; TimeoutError.
        """
        make = _given(*args, **options) if cls is Supervisor else cls
        return await server_loop.start(SupervisorServer, (make, args, options, name), name, timeout, link=True)

    @classmethod
    def child_spec(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """Of a class of yours: the specification of a child that `start_link(*args, **options)` starts.

        `Supervisor.child_spec(spec, **overrides)`: a class, `(Class, *args)` or a dict as a dict, with some keys
        replaced, as in `Supervisor.child_spec((Counter, 1), id="first")`. Errors: BadChildSpec, UsageError.
        """
        if cls is Supervisor:
            return child_specs.child_spec(*args, **options)
        return super().child_spec(*args, **options)

    # --- Using --------------------------------------------------------------------------------------------------------

    @staticmethod
    async def which_children(supervisor: names.Server) -> list[tuple[Any, Pid | Atom | None, Atom, Any]]:
        """`(id, pid, type, modules)` of each child, the last one first; the pid may be `restarting`, or None."""
        found = await _call(supervisor, a.which_children)
        try:
            return [(id, None if pid is a.undefined else pid, kind, modules) for id, pid, kind, modules in found]
        except (TypeError, ValueError):
            raise _no_supervisor(found) from None

    @staticmethod
    async def count_children(supervisor: names.Server) -> dict[str, int]:
        """How many children there are: "specs", "active" (they run), "supervisors", "workers"."""
        return counts(await _call(supervisor, a.count_children))

    @staticmethod
    async def start_child(supervisor: names.Server, spec: Any) -> Any:
        """Add a child and start it: its pid, `(pid, info)` if it told more, None if it chose not to start.

        Errors: AlreadyStarted (`pid`: who has this id); StartFailed; SupervisorError (`already_present`: it is there,
        but does not run: see `restart_child`); BadChildSpec.
        """
        checked = child_specs.checked(spec, own_pid().node)
        return _started(await _call(supervisor, (a.start_child, _for(supervisor, checked))))

    @staticmethod
    async def terminate_child(supervisor: names.Server, id: Any) -> None:
        """End a child; its specification stays, unless it is temporary. Errors: SupervisorError (`not_found`)."""
        _done(await _call(supervisor, (a.terminate_child, _id_for(supervisor, id))))

    @staticmethod
    async def restart_child(supervisor: names.Server, id: Any) -> Any:
        """Start a child that does not run; as `start_child`. Errors: SupervisorError (`not_found`, `running`,
        `restarting`); StartFailed.
        """
        return _started(await _call(supervisor, (a.restart_child, _id_for(supervisor, id))))

    @staticmethod
    async def delete_child(supervisor: names.Server, id: Any) -> None:
        """Forget a child that does not run. Errors: SupervisorError (`not_found`, `running`, `restarting`)."""
        _done(await _call(supervisor, (a.delete_child, _id_for(supervisor, id))))

    @staticmethod
    async def get_childspec(supervisor: names.Server, id: Any) -> dict[Atom, Any]:
        """The specification of a child, as OTP's map. Errors: SupervisorError (`not_found`)."""
        answer = await _call(supervisor, (a.get_childspec, _id_for(supervisor, id)))
        match answer:
            case (a.ok, dict() as spec):
                return spec
        raise _failure(answer)

    @staticmethod
    async def stop(supervisor: names.Server, reason: Any = a.normal, timeout: float | None = None) -> None:
        """End a supervisor and its children, the last one first, and wait for it.

        Errors: ProcessExit when it is not there or ends with another reason; TimeoutError.
        """
        await proc_lib.stop(supervisor, Atom(reason) if isinstance(reason, str) else reason, timeout)


def _one_of(value: Any, words: tuple[str, ...], option: str) -> Atom:
    if not isinstance(value, str | Atom) or str(value) not in words:
        raise UsageError(f"{option} is {', '.join(map(repr, words))}, not {shown(value)}")
    return Atom(str(value))


# --- Asking -----------------------------------------------------------------------------------------------------------


async def _call(supervisor: names.Server, request: Any) -> Any:
    return await GenServer.call(supervisor, request, timeout=None)


def _for(supervisor: names.Server, spec: ChildSpec) -> Any:
    if names.is_here(supervisor):
        return spec
    child_specs.check_travels(spec.start)
    return spec.as_term()


def _id_for(supervisor: names.Server, id: Any) -> Any:
    return id if names.is_here(supervisor) else child_specs.id_term(id)


def _started(answer: Any) -> Any:
    match answer:
        case (a.ok, pid):
            return None if pid is a.undefined else pid
        case (a.ok, pid, info):
            return pid, info
    raise _failure(answer)


def _done(answer: Any) -> None:
    if answer is not a.ok:
        raise _failure(answer)


def _failure(answer: Any) -> Exception:
    match answer:
        case (a.error, (a.already_started, Pid() as pid)):
            return AlreadyStarted(f"there is a child of this id or name already: {pid!r}", pid)
        case (a.error, (reason, (a.child, *_))):
            return StartFailed(reason)
        case (a.error, Atom() as reason):
            return SupervisorError(_TEXTS.get(reason.name, f"the supervisor answered {reason}"), reason)
        case (a.error, (Atom() as word, _) as reason) if word.name.startswith(("invalid_", "bad_", "missing_")):
            return SupervisorError(f"the supervisor does not take this child: {shown(reason)}", reason)
        case (a.error, (a.unknown_request, request) as reason):
            return SupervisorError(f"this kind of supervisor does not do that: {shown(request)}", reason)
        case (a.error, reason):
            return StartFailed(reason)
    return _no_supervisor(answer)


def _no_supervisor(answer: Any) -> SupervisorError:
    return SupervisorError(f"what was asked is no supervisor: none answers like this: {shown(answer)}", answer)


def counts(answer: Any) -> dict[str, int]:
    """What `count_children` is answered with. Errors: SupervisorError."""
    try:
        return {str(name): count for name, count in answer}
    except (TypeError, ValueError):
        raise _no_supervisor(answer) from None


_TEXTS: Final = {
    "not_found": "the supervisor has no child of this id",
    "running": "this child is running",
    "restarting": "this child is being restarted",
    "already_present": "there is a child of this id, which does not run: restart it, or delete it first",
    "simple_one_for_one": "the children of this supervisor are no part of its specification: use their pids",
}
