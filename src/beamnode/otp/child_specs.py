"""Child specifications: what a supervisor is told of a child. Source: supervisor(3), Elixir's Supervisor.

A specification is a dict of OTP's keys as `str`. `id` and `start` (a function and its arguments, as in
`(Counter.start_link, [1])`) must be there; `restart` ("permanent", "transient", "temporary"), `shutdown` (seconds,
"brutal_kill" or "infinity"), `type` ("worker", "supervisor"), `significant` and `modules` may.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Final

from beamnode.errors import UsageError

KEYS: Final = ("id", "start", "restart", "shutdown", "type", "significant", "modules")


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
