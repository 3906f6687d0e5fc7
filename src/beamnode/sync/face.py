"""What the classes of the blocking face share that are derived from: how theirs are started."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any, ClassVar

from beamnode.etf import Pid
from beamnode.sync.waiting import in_process


class Face:
    """Stands before a behaviour in the bases of its blocking class.

    `start` and `start_link` block. Supervisors are coroutines, so that a `child_spec` has the awaitable `start_link`.
    """

    awaitable: ClassVar[Any]
    """The behaviour. The class that sets it stands for the behaviour itself, others are derived from that class."""

    @classmethod
    def start(cls, *args: Any, **options: Any) -> Pid:
        """As the behaviour's, blocking."""
        pid: Pid = in_process(cls._awaitable("start")(*args, **options))
        return pid

    @classmethod
    def start_link(cls, *args: Any, **options: Any) -> Pid:
        """As the behaviour's, blocking."""
        pid: Pid = in_process(cls._awaitable("start_link")(*args, **options))
        return pid

    @classmethod
    def child_spec(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification of a child of this class."""
        spec: dict[str, Any] = cls._awaitable("child_spec")(*args, **options)
        if "awaitable" in vars(cls):
            return spec
        start = cls._awaitable("start_link")
        return {**spec, "start": (partial(start, **options) if options else start, args)}

    @classmethod
    def _awaitable(cls, name: str) -> Any:
        """A class method of the behaviour, for this class."""
        if "awaitable" in vars(cls):
            return getattr(cls.awaitable, name)
        return MethodType(getattr(cls.awaitable, name).__func__, cls)
