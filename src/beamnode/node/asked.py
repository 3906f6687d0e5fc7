"""What a peer asks to have run here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beamnode.etf import Atom, Export, a


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that a peer asks for; what a policy that is a function decides about."""

    node: Atom
    module: Atom
    function: Atom
    args: list[Any]

    def applied(self) -> Asked:
        """What it comes to, where it is `erlang:apply` of something: of `&Mod.fun/1`, or of module and function."""
        match (self.module, self.function, self.args):
            case (a.erlang, a.apply, [Export() as export, list() as args]):
                return Asked(self.node, export.module, export.function, args)
            case (a.erlang, a.apply, [Atom() as module, Atom() as function, list() as args]):
                return Asked(self.node, module, function, args)
        return self

    def __str__(self) -> str:
        return f"{plain(self.module)}:{plain(self.function)}/{len(self.args)}"


def plain(atom: Atom) -> str:
    """For logs: the name, unless it could be taken for something else."""
    return atom.name if atom.name.isprintable() else repr(atom)
