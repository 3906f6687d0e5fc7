"""`Application`: what is started and stopped as a unit, with its environment and what it needs. Source: application(3).

    class Shop(Application):
        name = "shop"
        applications = [Database]
        env = {"port": 8080}

        async def start(self, kind, args):
            return await Supervisor.start_link(children, strategy="one_for_one")

    started = await Application.ensure_all_started(Shop)
    port = Application.get_env("shop", "port")

Applications belong to the node of the current process: each node has its own environment, and its own
`application_controller`, which begins with the first use. When the node shuts down, its applications are stopped first,
the last one started first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.node import process_info, whereis
from beamnode.otp import application_controller, gen
from beamnode.otp.application_controller import (
    CONTROLLER,
    KINDS,
    ApplicationError,
    Start,
    StopIt,
    Tables,
    Unload,
    tables,
)

__all__ = ["Application", "ApplicationError", "EnvMissing"]

CONTROL_SECONDS = 5.0


class EnvMissing(UsageError, LookupError):
    """The environment of an application has no such key."""


class _Functions(type):
    """The functions of `Application`: on its class, so that a subclass may have callbacks named `start` and `stop`."""

    # --- Starting and stopping ----------------------------------------------------------------------------------------

    async def start(cls, application: Named, type: str | Atom = "temporary") -> None:
        """Start an application whose dependencies run already.

        The end of a "permanent" one shuts the node down; of a "transient" one, when it ends with another reason than
        `normal`; of a "temporary" one, never. `Application.stop` does not count as an end.

        Errors: ApplicationError, whose `reason` is OTP's: `{already_started, Name}`, `{not_started, Dependency}`, ...
        """
        kind = _kind(type)
        await _control(Start(cls.ensure_loaded(application), kind))

    async def ensure_started(cls, application: Named, type: str | Atom = "temporary") -> None:
        """`start`; one that runs already is no error."""
        try:
            await cls.start(application, type)
        except ApplicationError as error:
            if error.reason != (a.already_started, _name(application)):
                raise

    async def ensure_all_started(
        cls, applications: Named | Iterable[Named], type: str | Atom = "temporary"
    ) -> list[Atom]:
        """Start applications and whatever they need, one after the other; those that it started, in that order.

        Of what runs already it is not asked what it needs.

        Errors: ApplicationError, `{Name, Reason}`, after which those that it started are stopped again.
        """
        kind = _kind(type)
        done = {name for name, _, _ in await cls.started_applications(None)}
        started: list[Atom] = []
        try:
            for application in _several(applications):
                for name in _in_order(cls.ensure_loaded(application), done):
                    if await _start_unless_running(name, kind):
                        started.append(name)
        except BaseException:
            for name in reversed(started):
                with contextlib.suppress(ApplicationError):  # it has ended meanwhile
                    await cls.stop(name)
            raise
        return started

    async def stop(cls, application: Named) -> None:
        """Stop an application, and wait for that; others go on, whatever its type. It stays loaded.

        Errors: ApplicationError, `{not_started, Name}`.
        """
        await _control(StopIt(_name(application)), start=False)

    # --- What there is ------------------------------------------------------------------------------------------------

    def load(cls, application: type[Application]) -> None:
        """Make an application and its environment known, and whatever it names as classes. `start` does it, too.

        Errors: ApplicationError, `{already_loaded, Name}`.
        """
        name = _described(application)
        if name in tables().loaded:
            raise ApplicationError(f"{name} is loaded already", (a.already_loaded, name))
        _load(application, tables())

    def ensure_loaded(cls, application: Named) -> Atom:
        """`load`, unless that is done; its name. Errors: ApplicationError, `{not_loaded, Name}` for an unknown name."""
        loaded = tables().loaded
        if isinstance(application, type):
            if loaded.get(_described(application)) is not application:
                _load(application, tables())
        elif _name(application) not in loaded:
            raise _not_loaded(_name(application))
        return _name(application)

    async def unload(cls, application: Named) -> None:
        """Forget an application that does not run, and its environment.

        Errors: ApplicationError, `{running, Name}`, `{not_loaded, Name}`.
        """
        name = _name(application)
        if name not in tables().loaded:
            raise _not_loaded(name)
        await _control(Unload(name))

    def loaded_applications(cls) -> list[tuple[Atom, str, str]]:
        """Name, description and version of every application that is loaded on this node."""
        return [(name, known.description, known.vsn) for name, known in tables().loaded.items()]

    async def started_applications(cls, timeout: float | None = CONTROL_SECONDS) -> list[tuple[Atom, str, str]]:
        """Name, description and version of those that run, the last one started first."""
        if whereis(CONTROLLER) is None:
            return []
        running = await gen.call(CONTROLLER, gen.CALL, a.which_applications, timeout)
        return [(name, bytes(description).decode(), bytes(vsn).decode()) for name, description, vsn in running]

    def get_application(cls, pid: Pid | None = None) -> Atom | None:
        """The application that a process of this node (default: the current one) belongs to, by its group leader."""
        info = process_info(pid)
        return None if info is None else tables().masters.get(info["group_leader"])

    # --- The environment ----------------------------------------------------------------------------------------------

    def get_env(cls, application: Named, key: str | Atom, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return tables().env.get(_name(application), {}).get(_atom(key), default)

    def fetch_env(cls, application: Named, key: str | Atom) -> Any:
        """The value of a key. Errors: EnvMissing."""
        name = _name(application)
        try:
            return tables().env[name][_atom(key)]
        except KeyError:
            loaded = "" if name in tables().loaded else f" ({name} is not loaded)"
            raise EnvMissing(f"the environment of {name} has no {key}{loaded}: Application.put_env sets it") from None

    def put_env(cls, application: Named, key: str | Atom, value: Any, *, persistent: bool = False) -> None:
        """Set the value of a key. Loading an application sets what its class says, but for what is `persistent`."""
        name, known = _name(application), tables()
        known.env.setdefault(name, {})[_atom(key)] = value
        if persistent:
            known.persistent.setdefault(name, {})[_atom(key)] = value

    def delete_env(cls, application: Named, key: str | Atom, *, persistent: bool = False) -> None:
        """Forget the value of a key; nothing if there is none."""
        name, known = _name(application), tables()
        known.env.get(name, {}).pop(_atom(key), None)
        if persistent:
            known.persistent.get(name, {}).pop(_atom(key), None)

    def get_all_env(cls, application: Named) -> dict[str, Any]:
        """All keys and values of an application."""
        return {str(key): value for key, value in tables().env.get(_name(application), {}).items()}


class Application(metaclass=_Functions):
    """Derive from it, and say what the application is; each start makes an instance.

    - `start(self, kind, args)`: starts the root supervisor and returns its pid, or `(pid, state)`. `kind` is
      `a.normal`, `args` the class attribute of that name. Without it the application has no processes.
    - `prep_stop(self, state)`: called before the root supervisor is ended; returns the state for `stop`.
    - `stop(self, state)`: called when the root supervisor has ended, whatever the reason. `state` is [] unless given.

    Each is a `def` or an `async def`.

    Its processes have the application's master as group leader; what they print comes to the node's `user`. When the
    application has ended, those that are left are killed.
    """

    name: ClassVar[str]
    description: ClassVar[str] = ""
    vsn: ClassVar[str] = ""
    applications: ClassVar[Sequence[Named]] = ()
    """What has to run first: classes, or names of what is loaded."""
    optional_applications: ClassVar[Sequence[Named]] = ()
    """Those of `applications` that may be missing."""
    env: ClassVar[Mapping[str, Any]] = {}
    args: ClassVar[Any] = []


Named: TypeAlias = type[Application] | Atom | str
"""An application: its class, or its name once it is loaded."""


def _several(applications: Named | Iterable[Named]) -> list[Named]:
    if isinstance(applications, str | Atom | type):
        return [applications]
    return list(applications)


def _atom(name: str | Atom) -> Atom:
    if not isinstance(name, str | Atom):
        raise UsageError(f"a key of an application's environment is a str or an Atom, not {name!r}")
    return Atom(name) if isinstance(name, str) else name


def _name(application: Any) -> Atom:
    if isinstance(application, str | Atom):
        return Atom(str(application))
    return _described(application)


def _described(application: Any) -> Atom:
    """The name of a class, which is checked. Errors: UsageError."""
    if not (isinstance(application, type) and issubclass(application, Application)):
        raise UsageError(f"an application is a class derived from Application, or its name, not {application!r}")
    name = getattr(application, "name", None)
    if not isinstance(name, str | Atom):
        raise UsageError(f'{application.__name__} has no name: give the class one, as in name = "my_app"')
    return Atom(str(name))


def _kind(type: str | Atom) -> Atom:
    if str(type) not in KINDS:
        raise UsageError(f"an application is started as one of {KINDS}, not {type!r}")
    return Atom(str(type))


def _load(application: type[Application], known: Tables) -> None:
    """With what it needs, as far as that is given as classes."""
    to_load = [application]
    while to_load:
        new = to_load.pop()
        name = _described(new)
        before = known.loaded.get(name)
        if before is new:
            continue
        if before is not None:
            raise ApplicationError(
                f"{before!r} and {new!r} are both named {name}: an application's name is there once on a node",
                (a.already_loaded, name),
            )
        known.loaded[name] = new
        own = {_atom(key): value for key, value in new.env.items()}
        known.env.setdefault(name, {}).update({**own, **known.persistent.get(name, {})})
        to_load += [needed for needed in new.applications if isinstance(needed, type)]


def _not_loaded(name: Atom, needed_by: Atom | None = None) -> ApplicationError:
    by = "" if needed_by is None else f", which {needed_by} needs,"
    return ApplicationError(
        f"{name}{by} is not known to this node: Application.load its class, or name the class itself",
        (a.not_loaded, name),
    )


def _in_order(name: Atom, done: set[Atom], path: tuple[Atom, ...] = ()) -> Iterator[Atom]:
    """What an application needs and is not `done`, deepest first, and itself last. Errors: ApplicationError."""
    if name in done:
        return
    if name in path:
        circle = [*path[path.index(name) :], name]
        raise ApplicationError(
            f"applications need each other in a circle, {' -> '.join(map(str, circle))}: none can be the first",
            (a.circular, circle),
        )
    loaded = tables().loaded
    optional = {_name(each) for each in loaded[name].optional_applications}
    for needed in map(_name, loaded[name].applications):
        if needed in loaded:
            yield from _in_order(needed, done, (*path, name))
        elif needed not in optional:
            raise _not_loaded(needed, name)
    done.add(name)
    yield name


async def _start_unless_running(name: Atom, kind: Atom) -> bool:
    try:
        await _control(Start(name, kind))
    except ApplicationError as error:
        if error.reason == (a.already_started, name):
            return False
        raise ApplicationError(str(error), (name, error.reason)) from None
    return True


async def _control(request: Any, *, start: bool = True) -> Any:
    """Ask the controller, which is started if need be. Errors: ApplicationError."""
    if start:
        await application_controller.ensure_started()
    elif whereis(CONTROLLER) is None:
        raise ApplicationError(f"{request.name} is not started", (a.not_started, request.name))
    answer = await gen.call(CONTROLLER, gen.CALL, request, None)
    if isinstance(answer, ApplicationError):
        raise answer
    return answer
