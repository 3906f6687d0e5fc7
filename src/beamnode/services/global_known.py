"""The nodes that `global` knows: members of our partition, those about to become so, and their connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from beamnode.etf.terms import Atom, a
from beamnode.services.global_actions import OVERLAP_PREVENTION_VERSION, PROTOCOL_VERSION

NodeVersion = Atom | tuple[Atom, int]  # an element of the lists of nodes on the wire


@dataclass(slots=True)
class Known:
    """What OTP keeps in the map `known` of the server's state (global.erl: record state)."""

    this_node: Atom
    versions: dict[Atom, int] = field(default_factory=dict)  # of known nodes; 0: not told yet
    pending: dict[Atom, int] = field(default_factory=dict)  # a connect with them is going on
    removing: set[Atom] = field(default_factory=set)  # taken out already, connection still to be closed
    connection_ids: dict[Atom, int] = field(default_factory=dict)

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
        for element in nodes:
            node, version = element if isinstance(element, tuple) else (element, 0)
            if node is not self.this_node and node not in self.versions:
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
        """Every known or connecting node, but `ignored`, that understands `lost_connection`."""
        for nodes in (self.versions, self.pending):
            for node, version in list(nodes.items()):
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
    for term in terms if isinstance(terms, list) else []:
        match term:
            case Atom():
                found.append(term)
            case (Atom() as node, int() as version):
                found.append((node, version))
    return found


def node_names(nodes: Iterable[NodeVersion]) -> list[Atom]:
    return [element[0] if isinstance(element, tuple) else element for element in nodes]
