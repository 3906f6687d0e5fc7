"""Child specifications: what a supervisor is told of a child. Source: supervisor(3), Elixir's Supervisor.

A specification is a dict of OTP's keys as `str`. `id` and `start` (a function and its arguments, as in
`(Counter.start_link, [1])`) must be there; `restart` ("permanent", "transient", "temporary"), `shutdown` (seconds,
"brutal_kill" or "infinity"), `type` ("worker", "supervisor"), `significant` and `modules` may.

A class that has a `child_spec` stands for what that gives, and `(Class, 1, 2)` for `Class.child_spec(1, 2)`. What comes
from a peer is OTP's: a map whose keys are atoms, or the old tuple of six, with `{Module, Function, Args}` to start and
milliseconds to end. It is run under the node's policy, in the name of the node that asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

from beamnode.errors import EncodeError, UsageError
from beamnode.etf import Atom, Pid, Reference, a
from beamnode.etf.keys import external_form
from beamnode.etf.shown import shown
from beamnode.node import Asked
from beamnode.otp.sys import sendable_state

log = logging.getLogger("beamnode.supervisor")

DOUBTFUL_SECONDS: Final = 1000
KEYS: Final = ("id", "start", "restart", "shutdown", "type", "significant", "modules")
WORKER_SHUTDOWN_SECONDS: Final = 5.0
SHUTDOWN_MILLISECONDS_MAX: Final = (1 << 32) - 1  # as long as Erlang waits; OTP takes more, and fails when it ends

_RESTARTS: Final = (a.permanent, a.transient, a.temporary)
_TYPES: Final = (a.worker, a.supervisor)

Start: TypeAlias = tuple[Callable[..., Any], Sequence[Any]] | Asked
"""A function of this Python process and its arguments, or what a peer asks to be run."""


class BadChildSpec(UsageError):
    """A specification that no supervisor takes; `reason` is what OTP calls it (`missing_id`, `{invalid_mfa, _}`)."""

    def __init__(self, text: str, reason: Any) -> None:
        super().__init__(text)
        self.reason = reason


def id_of_name(name: Any, otherwise: Any) -> Any:
    """The id of a child that is known by its name, as Elixir has it; `otherwise` of one without."""
    if name is None:
        return otherwise
    return name[2] if isinstance(name, tuple) else Atom(str(name))


class Supervised:
    """What a supervisor needs of a class: `child_spec`.

    The class decides how its children are treated: `class Cache(GenServer, restart="transient", shutdown=10)`. A
    supervisor starts them with `start_link`.
    """

    child_defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **spec: Any) -> None:
        super().__init_subclass__()
        unknown = [key for key in spec if key not in KEYS or key == "start"]
        if unknown:
            raise UsageError(
                f"{cls.__name__}: {', '.join(unknown)} is no key of a child specification; those are {KEYS}"
            )
        cls.child_defaults = {**cls.child_defaults, **spec}

    @classmethod
    def child_spec(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification of a child that `start_link(*args, **options)` starts."""
        start: Any = cls.start_link  # type: ignore[attr-defined]
        return {"id": cls, "start": (partial(start, **options) if options else start, args), **cls.child_defaults}


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A specification that was checked: `restart` and `type` are atoms, the defaults are filled in."""

    id: Any  # as it was given; `key_of` says whose it is
    start: Start
    restart: Atom
    shutdown: float | Atom | None  # seconds, `brutal_kill`, or None: as long as it takes
    type: Atom
    significant: bool
    modules: list[Atom] | Atom

    def as_term(self) -> dict[Atom, Any]:
        """OTP's map."""
        return {
            a.id: id_term(self.id),
            a.start: start_term(self.start),
            a.restart: self.restart,
            a.significant: self.significant,
            a.shutdown: self.shutdown_term(),
            a.type: self.type,
            a.modules: self.modules,
        }

    def as_record(self, pid: Pid | None = None) -> tuple[Any, ...]:
        """OTP's `#child{}`, which is a part of some of its answers."""
        values = (self.restart, self.significant, self.shutdown_term(), self.type, self.modules)
        return (a.child, a.undefined if pid is None else pid, id_term(self.id), start_term(self.start), *values)

    def without_arguments(self) -> ChildSpec:
        """As OTP keeps a child that is never started again: it shows `{Module, Function, undefined}`."""
        asked = Asked(a.undefined, *start_term(self.start))
        return replace(self, start=replace(asked, args=a.undefined))  # type: ignore[arg-type]

    def shutdown_term(self) -> int | Atom:
        if self.shutdown is None:
            return a.infinity
        return self.shutdown if isinstance(self.shutdown, Atom) else round(self.shutdown * 1000)


# --- What programs write ----------------------------------------------------------------------------------------------


def child_spec(spec: Any, **overrides: Any) -> dict[str, Any]:
    """The dict of a class, `(Class, *args)` or a dict, with some keys replaced. Errors: BadChildSpec, UsageError."""
    if isinstance(spec, tuple) and spec and hasattr(spec[0], "child_spec"):
        made = spec[0].child_spec(*spec[1:])
    elif hasattr(spec, "child_spec"):
        made = spec.child_spec()
    elif isinstance(spec, dict):
        made = spec
    else:
        raise BadChildSpec(
            f"a child is a class with a child_spec (any GenServer), (Class, argument, ...) or a dict with 'id' and "
            f"'start', not {shown(spec)}",
            (a.invalid_child_spec, sendable_state(spec)),
        )
    unknown = [key for key in overrides if key not in KEYS]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} is no key of a child specification; those are {KEYS}")
    return {**made, **overrides}


def checked(spec: Any, node: Atom, *, auto_shutdown: Atom | None = None, foreign: bool = False) -> ChildSpec:
    """What is meant by a specification in any of its shapes; `node` asks for it, which is a peer if `foreign`.

    With `auto_shutdown`, also whether that goes with significant children. Errors: BadChildSpec.
    """
    if isinstance(spec, ChildSpec) and not foreign:
        made = spec
    elif isinstance(spec, dict) and spec and all(isinstance(key, Atom) for key in spec):
        made = _of_otp(spec, node)
    elif _is_old_tuple(spec):
        old = dict(zip((a.id, a.start, a.restart, a.shutdown, a.type, a.modules), spec, strict=True))
        made = _of_otp(old, node)
    elif foreign:
        raise BadChildSpec(
            f"{shown(spec)} is no child specification", (a.missing_id if isinstance(spec, dict) else _invalid(spec))
        )
    else:
        made = _of_python(child_spec(spec), node)
    if made.significant and auto_shutdown is a.never:
        raise _bad_combination(a.auto_shutdown, a.never)
    return made


def all_checked(
    specs: Iterable[Any], node: Atom, *, auto_shutdown: Atom | None = None, foreign: bool = False
) -> dict[Any, ChildSpec]:
    """Several specifications, by `key_of` their ids. Errors: BadChildSpec, also for an id that comes twice."""
    found: dict[Any, ChildSpec] = {}
    for one in specs:
        spec = checked(one, node, auto_shutdown=auto_shutdown, foreign=foreign)
        key = key_of(spec.id)
        if key in found:
            raise BadChildSpec(
                f"two children have the id {shown(id_term(spec.id))}: give one of them another, as in "
                'Supervisor.child_spec(spec, id="another")',
                (a.duplicate_child_name, id_term(spec.id)),
            )
        found[key] = spec
    return found


# --- Ids --------------------------------------------------------------------------------------------------------------


def key_of(id: Any) -> Any:
    """What tells ids apart as Erlang does, and can be a key of a dict. A class is the atom of its name.

    Errors: BadChildSpec for what is no term.
    """
    kind = type(id)
    if kind is Atom or kind is bytes or kind is int or kind is Pid or kind is Reference:
        return id
    if kind is str:
        return id.encode("utf-8", "surrogatepass")
    if isinstance(id, type):
        return class_atom(id)
    try:
        return ("term", external_form(id))
    except EncodeError:
        raise BadChildSpec(
            f"the id of a child is a class, a str or another term, not {shown(id)}", (a.invalid_id, sendable_state(id))
        ) from None


def id_term(id: Any) -> Any:
    """An id as peers see it."""
    return class_atom(id) if isinstance(id, type) else id


def class_atom(cls: type) -> Atom:
    """What a class is called where a module is meant: `package.module.Class`."""
    return Atom(f"{cls.__module__}.{cls.__qualname__}"[:255])


# --- Starts -----------------------------------------------------------------------------------------------------------


def start_term(start: Start) -> tuple[Atom, Atom, Any]:
    """`{Module, Function, Args}`; of a Python function what it can be imported by."""
    if isinstance(start, Asked):
        return (start.module, start.function, start.args)
    function, args = start
    module, name = _place(function)
    return (Atom(module[:255]), Atom(name[:255]), sendable_state(list(args)))


def check_travels(start: Start) -> None:
    """Errors: UsageError for a start that no other node can have: keywords, or a function without a name of its own."""
    if isinstance(start, Asked):
        return
    function: Any = start[0]
    keywords: dict[str, Any] = getattr(function, "keywords", {})
    _, name = _place(function)
    if keywords:
        what = f"{', '.join(keywords)}: keyword arguments do not travel"
    elif "<" in name:
        what = f"the start function {shown(function)} does not travel"
    else:
        return
    raise UsageError(
        f"{what}; give the supervisor of another node the name of a function of its own, "
        "{'id': ..., 'start': (Atom(module), Atom(function), [arguments])}"
    )


def with_arguments(start: Start, more: Sequence[Any]) -> Start:
    """The same start with more arguments at the end."""
    if isinstance(start, Asked):
        return replace(start, args=[*start.args, *more])
    return (start[0], (*start[1], *more))


def _place(function: Any) -> tuple[str, str]:
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return owner.__module__, f"{owner.__qualname__}.{function.__name__}"
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return getattr(function, "__module__", None) or "", name


def _module_of(start: Start) -> Atom:
    if isinstance(start, Asked):
        return start.module
    function: Any = start[0]
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    return class_atom(owner) if isinstance(owner, type) else Atom(_place(function)[0][:255])


# --- Checking ---------------------------------------------------------------------------------------------------------


def _is_old_tuple(spec: Any) -> bool:
    return isinstance(spec, tuple) and len(spec) == 6 and not hasattr(spec[0], "child_spec")


def _of_otp(spec: dict[Any, Any], node: Atom) -> ChildSpec:
    """OTP's map; keys that it does not know are not looked at, as there."""
    shutdown: Any = spec.get(a.shutdown, _DEFAULT)
    if type(shutdown) is int and 0 <= shutdown <= SHUTDOWN_MILLISECONDS_MAX:
        shutdown /= 1000
    elif isinstance(shutdown, int | float):
        raise _bad("shutdown", shutdown, "milliseconds, brutal_kill or infinity", a.invalid_shutdown)
    named = {str(key): value for key, value in spec.items() if str(key) in KEYS}
    return _made({**named, "shutdown": shutdown}, node)


def _of_python(spec: dict[str, Any], node: Atom) -> ChildSpec:
    unknown = [key for key in spec if key not in KEYS]
    if unknown:
        raise BadChildSpec(
            f"{', '.join(map(str, unknown))} is no key of a child specification; those are {KEYS}",
            (a.invalid_child_spec, sendable_state(unknown)),
        )
    shutdown = spec.get("shutdown", _DEFAULT)
    if shutdown is None:
        shutdown = a.infinity
    elif isinstance(shutdown, int | float) and shutdown >= DOUBTFUL_SECONDS:
        log.warning(
            "child %s has %s seconds to end: OTP counts milliseconds, beamnode does not",
            shown(spec.get("id")),
            shutdown,
        )
    return _made({**spec, "shutdown": shutdown}, node)


_DEFAULT: Final = object()


def _made(spec: dict[str, Any], node: Atom) -> ChildSpec:
    for key in ("id", "start"):
        if key not in spec:
            given = ", ".join(repr(each) for each, value in spec.items() if value is not _DEFAULT)
            example = {"id": '"id": "pump"', "start": '"start": (start_pump, [80])'}[key]
            raise BadChildSpec(
                f"a child specification needs {key!r}, as in {{{example}, ...}}; this one has {given or 'nothing'}",
                a[f"missing_{key}"],
            )
    key_of(spec["id"])
    start = _checked_start(spec["start"], node)
    restart = _one_of(spec.get("restart", a.permanent), _RESTARTS, "restart", a.invalid_restart_type)
    kind = _one_of(spec.get("type", a.worker), _TYPES, "type", a.invalid_child_type)
    significant = spec.get("significant", False)
    if type(significant) is not bool:
        raise _bad("significant", significant, "a bool", a.invalid_significant)
    if significant and restart is a.permanent:
        raise _bad_combination(a.restart, a.permanent)
    shutdown = _checked_shutdown(spec["shutdown"], kind)
    modules = _checked_modules(spec.get("modules", _DEFAULT), start)
    return ChildSpec(spec["id"], start, restart, shutdown, kind, significant, modules)


def _checked_start(start: Any, node: Atom) -> Start:
    match start:
        case Asked():
            return start
        case (function, list() | tuple() as args) if callable(function):
            return (function, args)
        case (Atom() | str() as module, Atom() | str() as function, list() as args):
            return Asked(node, Atom(str(module)), Atom(str(function)), args)
    raise _bad(
        "start",
        start,
        "(function, arguments), as in (start_pump, [80]), or the names of a function that is exposed, as in "
        '("module", "function", [80])',
        a.invalid_mfa,
    )


def _checked_shutdown(shutdown: Any, kind: Atom) -> float | Atom | None:
    if shutdown is _DEFAULT:
        return WORKER_SHUTDOWN_SECONDS if kind is a.worker else None
    if (
        isinstance(shutdown, int | float)
        and type(shutdown) is not bool
        and 0 <= shutdown * 1000 <= SHUTDOWN_MILLISECONDS_MAX
    ):
        return float(shutdown)
    word = _one_of(shutdown, (a.infinity, a.brutal_kill), "shutdown", a.invalid_shutdown, "seconds, ")
    return None if word is a.infinity else word


def _checked_modules(modules: Any, start: Start) -> list[Atom] | Atom:
    if modules is _DEFAULT:
        return [_module_of(start)]
    if modules in ("dynamic", a.dynamic):
        return a.dynamic
    if not isinstance(modules, list | tuple):
        raise _bad("modules", modules, "a list or 'dynamic'", a.invalid_modules)
    for module in modules:
        if not isinstance(module, type | Atom | str):
            raise _bad("modules", module, "a list of classes or names", a.invalid_module)
    return [class_atom(module) if isinstance(module, type) else Atom(str(module)) for module in modules]


def _one_of(value: Any, words: tuple[Atom, ...], key: str, error: Atom, more: str = "") -> Atom:
    if isinstance(value, Atom | str):
        for word in words:
            if str(value) == word.name:
                return word
    raise _bad(key, value, more + " or ".join(repr(word.name) for word in words), error)


def _bad(key: str, value: Any, wanted: str, error: Atom) -> BadChildSpec:
    return BadChildSpec(
        f"{key!r} of a child specification is {wanted}, not {shown(value)}", (error, sendable_state(value))
    )


def _bad_combination(key: Atom, value: Atom) -> BadChildSpec:
    return BadChildSpec(
        f"a child cannot be significant where {key} is {str(value)!r}",
        (a.bad_combination, [(key, value), (a.significant, True)]),
    )


def _invalid(spec: Any) -> Any:
    return (a.invalid_child_spec, sendable_state(spec))
