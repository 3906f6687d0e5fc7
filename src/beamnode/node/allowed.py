"""Which nodes may be connected with, as `net_kernel:allow/1` says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from beamnode.errors import UsageError
from beamnode.etf import Atom
from beamnode.etf.shown import shown


def allowed_nodes(option: Sequence[Atom | str] | None) -> list[Atom]:
    """What the option `allowed` says. Errors: UsageError.

    In OTP an empty list is every node, which is not what somebody means who gives one.
    """
    if option is None:
        return []
    if isinstance(option, str | bytes | Atom) or not option:
        raise UsageError(f"allowed is a list of nodes that is not empty, or None for every node; not {shown(option)}")
    if not all(isinstance(node, str | Atom) for node in option):
        raise UsageError(f"allowed is a list of names: str or Atom; not {shown(list(option))}")
    return [node if isinstance(node, Atom) else Atom(node) for node in option]


def is_allowed(node: Atom, allowed: Iterable[Atom]) -> bool:
    """Whether `allowed` has the node, its host (`"host"`) or its name (`"name@"`)."""
    alive, _, host = node.name.partition("@")
    return any(each.name in (node.name, host, f"{alive}@") for each in allowed)
