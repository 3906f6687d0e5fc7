"""The names that this node gives to peers that ask for one (OTP 23 and later: `erl -sname undefined`).

As in OTP, a name that its node has left is given again to the next that asks from the same host, with a creation that
is one more. Source: net_kernel.erl, `NameMe`, `dist_name_pool`.
"""

from __future__ import annotations

import secrets

from beamnode.core.connections import Connections
from beamnode.etf import Atom
from beamnode.node.epmd_discovery import random_creation

NAME_BITS = 64  # as OTP: integer_to_list(rand:uniform(1 bsl 64), 36)


class DynamicNames:
    """Those of one node. `kept_max` that are free are remembered; the one that was left longest ago goes first."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._free: dict[str, tuple[str, int]] = {}  # by name: its host, and the creation to come

    def give(self, host: str, connections: Connections) -> tuple[str, int]:
        """A name at `host`, and its creation: the one that was left last there, or a random one."""
        for name, (left_at, creation) in reversed(self._free.items()):
            if left_at == host and connections.get(Atom(name)) is None:
                del self._free[name]
                return name, creation
        return f"{_base36(secrets.randbits(NAME_BITS))}@{host}", random_creation()

    def take_back(self, node: Atom, creation: int) -> None:
        """The node that was called so has left."""
        self._free[node.name] = (node.name.partition("@")[2], max((creation + 1) & 0xFFFFFFFF, 4))
        if len(self._free) > self._kept_max:
            del self._free[next(iter(self._free))]


def _base36(number: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text or "0"
