"""The nodes that `global` knows: members of our partition, those about to become so, and their connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from beamnode.core.guests import LimitHit, tell_nobody
from beamnode.etf.terms import Atom, a
from beamnode.limits import DEFAULT_LIMITS
from beamnode.services.global_actions import OVERLAP_PREVENTION_VERSION, PROTOCOL_VERSION

NodeVersion = Atom | tuple[Atom, int]  # an element of the lists of nodes on the wire

# A mesh has a connection of every node with every other: far fewer nodes than these. What a peer makes up beyond is
# left out.
NODES_MAX: Final = 4096  # of one message
VERSION_MAX: Final = 1 << 16
NAME_CHARACTERS_MAX: Final = 255


@dataclass(slots=True)
class Known:
    """What OTP keeps in the map `known` of the server's state (global.erl: record state)."""

    this_node: Atom
    versions: dict[Atom, int] = field(default_factory=dict)  # of known nodes; 0: not told yet
    pending: dict[Atom, int] = field(default_factory=dict)  # a connect with them is going on
    removing: set[Atom] = field(default_factory=set)  # taken out already, connection still to be closed
    connection_ids: dict[Atom, int] = field(default_factory=dict)
    unconnected_max: int = DEFAULT_LIMITS.global_unconnected_max  # that we were told of, at a time
    limit_hit: LimitHit = tell_nobody

    def is_potentially_known(self, node: Atom) -> bool:
        return node in self.versions or node in self.pending

    def version(self, node: Atom) -> int:
        """The protocol version of a node, 0 when it is not known."""
        if node is self.this_node:
            return PROTOCOL_VERSION
        return self.versions.get(node, self.pending.get(node, 0))

    def add(self, nodes: Iterable[NodeVersion]) -> list[Atom]:
        """Make nodes known; returns those that were not known before, the last first (add_to_known)."""
        added: list[Atom] = []
        room = self.unconnected_max - sum(node not in self.connection_ids for node in self.versions)
        for element in nodes:
            node, version = element if isinstance(element, tuple) else (element, 0)
            if node is self.this_node or node in self.versions:
                continue
            if node not in self.connection_ids:
                room -= 1
                if room < 0:
                    what = f"it was heard of when there were {self.unconnected_max} like it"
                    self.limit_hit("global_unconnected_max", node.name, what, "it is left out")
                    continue
            self.versions[node] = version
            added.insert(0, node)
        return added

    def with_versions(self, nodes: Iterable[NodeVersion]) -> list[NodeVersion]:
        """Fill in the versions that the sender did not know (make_node_vsn_list)."""
        pairs = (element if isinstance(element, tuple) else (element, 0) for element in nodes)
        return [(node, version or self.version(node)) for node, version in pairs]

    def as_list(self, version: int = OVERLAP_PREVENTION_VERSION) -> list[NodeVersion]:
        """The known nodes for a peer that speaks `version`: with their versions, or for older peers without."""
        if version < OVERLAP_PREVENTION_VERSION:
            return list(self.versions)
        return list(self.versions.items())

    def overlap_preventers(self, ignored: Atom) -> Iterator[Atom]:
        """Every known or connecting node, but `ignored`, that is connected and understands `lost_connection`."""
        for node in list(self.connection_ids):
            version = max(self.versions.get(node, 0), self.pending.get(node, 0))
            if node is not ignored and version >= OVERLAP_PREVENTION_VERSION:
                yield node

    def as_term(self) -> dict[Any, Any]:
        """The map as OTP keeps it; part of `init_connect`, where receivers do not look at it."""
        term: dict[Any, Any] = {}
        term.update(self.versions)
        term.update({(a.pending, node): version for node, version in self.pending.items()})
        term.update({(a.removing, node): a.yes for node in self.removing})
        term.update({(a.connection_id, node): number for node, number in self.connection_ids.items()})
        return term


def nodes_from_terms(terms: Any) -> list[NodeVersion]:
    """A list of nodes of a message, with or without versions; elements of any other shape are left out."""
    found: list[NodeVersion] = []
    for term in terms[:NODES_MAX] if isinstance(terms, list) else []:
        match term:
            case Atom() if is_node_name(term):
                found.append(term)
            case (Atom() as node, int() as version) if is_node_name(node) and 0 <= version <= VERSION_MAX:
                found.append((node, version))
    return found


def is_node_name(node: Atom) -> bool:
    """Whether an atom has the form of a node name."""
    parts = node.name.split("@")
    return len(parts) == 2 and all(parts) and len(node.name) <= NAME_CHARACTERS_MAX and node.name.isprintable()


def node_names(nodes: Iterable[NodeVersion]) -> list[Atom]:
    return [element[0] if isinstance(element, tuple) else element for element in nodes]
