"""What the processes of all supervisors have in common: who they say they are, and whom they ask what to supervise."""

from __future__ import annotations

from typing import Any, ClassVar

from beamnode.errors import UsageError
from beamnode.etf import Atom, a
from beamnode.node import reason_text, trap_exit
from beamnode.otp import roots, supervision
from beamnode.otp.handlers import Handlers, Ignore, Stop
from beamnode.otp.sys import sendable_state


class Given:
    """Stands for a class of that name whose `init` gives `setup`, which was checked where the caller hears of it."""

    def __init__(self, setup: Any, name: str) -> None:
        self.__qualname__ = name  # what the process says it began with
        self._setup = setup

    def __call__(self) -> Given:
        return self

    def init(self, *_args: Any, **_options: Any) -> Any:
        return self._setup


class SupervisorBase(Handlers):
    """A supervisor, run by the loop of servers. What it is asked by peers runs under the node's policy."""

    wants_origin = True
    setup_type: ClassVar[type]
    setup_text: ClassVar[str]
    """How a class of the user's makes what its `init` has to return, a `setup_type`."""
    _module = a.supervisor

    @classmethod
    def initial_call(cls, make: Any, *_args: Any) -> tuple[Atom, Atom, int]:
        """By which supervisors are known among processes, as OTP's: `{supervisor, Module, 1}`."""
        return a.supervisor, _module_of(make), 1

    def module_name(self) -> Atom:  # type: ignore[override]
        """The class whose `init` told what to supervise."""
        return self._module

    async def setup_by(self, make: Any, args: tuple[Any, ...], options: dict[str, Any], name: Any) -> Any:
        """What `make().init(*args, **options)` gives. Errors: Ignore, Stop."""
        trap_exit()
        roots.end_with_node()
        self._module = _module_of(make)
        self._name = supervision.supervisor_name(name, self._module)
        setup = make().init(*args, **options)
        while hasattr(type(setup), "__await__"):
            setup = await setup
        if setup is Ignore or isinstance(setup, Ignore | Stop):
            raise setup
        if not isinstance(setup, self.setup_type):
            reason = (a.bad_return, (self._module, a.init, sendable_state(setup)))
            wanted = f"it has to return {self.setup_text}"
            supervision.log.error("Supervisor %s does not start: %s: %s", self._name, reason_text(reason), wanted)
            raise Stop(reason)
        return setup

    def replace_state(self, function: Any) -> Any:
        """Nobody but its calls changes what a supervisor has."""
        raise UsageError("the state of a supervisor is not replaced: use start_child, terminate_child and the like")

    def status_parts(self) -> list[Any]:
        """What `supervisor:get_callback_module/1` looks for in the status."""
        return [(a.supervisor, [([ord(letter) for letter in "Callback"], self._module)])]


def _module_of(make: Any) -> Atom:
    return Atom(getattr(make, "__qualname__", type(make).__name__).rpartition(".")[2])
