"""Prevention of overlapping partitions: when one connection of a full mesh breaks, the mesh is split in whole meshes.

Who loses a connection tells everybody it knows (`lost_connection`). Who hears of it for the first time passes it on,
asks the lost node to disconnect (`remove_connection`) and forgets it, so that its own loss of that node is not reported
again. Who leaves on purpose forgets everybody first, and tells nobody. (global.erl: "Prevent Overlapping Partitions
Algorithm", handle_nodedown.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from beamnode.etf.terms import Atom, a
from beamnode.services.global_actions import OVERLAP_PREVENTION_VERSION, Disconnect, Outbox
from beamnode.services.global_known import Known
from beamnode.services.global_terms import is_tag

LOSS_KEPT_SECONDS: Final = 3600.0  # global.erl: lost_conn_info_cleanup_time
LOSSES_MAX: Final = 65536  # reports remembered at a time; the oldest goes first
SMALL_INTEGER_MIN: Final = -(1 << 59)  # of a 64-bit BEAM: OTP makes its numbers from it


@dataclass(slots=True)
class Loss:
    """The newest report of one node about another: which incarnation of it spoke, its how-many-eth, and until when."""

    creation: int
    operation: int
    deadline: float


class Partitions:
    """The algorithm. `forget(node)` takes a node out of the mesh; `enabled` can be turned off for a shutdown."""

    def __init__(
        self,
        known: Known,
        outbox: Outbox,
        forget: Callable[[Atom], None],
        unique_integer: Callable[[], int],
        random: Callable[[], float],
        creation: int,
        enabled: bool,
    ) -> None:
        self.enabled = enabled
        self._known = known
        self._outbox = outbox
        self._forget = forget
        self._unique_integer = unique_integer
        # Tells two incarnations of a node apart even when their creations are the same: creation_extension.
        extension = int(random() * (1 << 28)) << 32
        self._creation = extension + creation - SMALL_INTEGER_MIN
        self._losses: OrderedDict[tuple[Atom, Atom], Loss] = OrderedDict()  # the oldest first

    # --- What happens to our connections ------------------------------------------------------------------------------

    def disconnected(self, node: Atom) -> None:
        """A connection is gone, or could not be made: tell everybody, unless `node` was to be removed anyway."""
        if node in self._known.removing:
            self._known.removing.discard(node)
        elif self.enabled:
            report = (a.lost_connection, self._known.this_node, self._creation, self._unique_integer(), node)
            self._tell_everybody(report, node)
        self._forget(node)

    def left(self, node: Atom) -> None:
        """A connection that is gone on purpose: tell nobody."""
        self._known.removing.discard(node)
        self._forget(node)

    # --- What others say ----------------------------------------------------------------------------------------------

    def lost_connection(self, report: tuple[Any, ...], now: float) -> None:
        """`{lost_connection, NodeA, XCreationA, OpIdA, NodeB}`: A has lost B."""
        _, reporter, creation, operation, lost = report
        if not (is_tag(creation) and is_tag(operation)):
            return
        if not self.enabled or not self._is_news(reporter, lost, creation, operation, now):
            return
        self._tell_everybody(report, reporter)
        # When it is this node that A has lost, everybody else removes us; A will see its own nodedown.
        target = reporter if lost is self._known.this_node else lost
        if not self._known.is_potentially_known(target):
            return
        if self._known.version(target) < OVERLAP_PREVENTION_VERSION:
            self._outbox.put(Disconnect(target))
            self._remove(target, "disconnected old")
        else:
            self._outbox.volatile(target, (a.remove_connection, self._known.this_node))
            self._remove(target, "requested disconnect from")

    def remove_connection(self, node: Atom) -> None:
        """`{remove_connection, Node}`: a node wants to be rid of us.

        When we have asked it for the same thing (two links broke at once), neither side knows the other any more and
        OTP leaves their connection up. Here it is closed: both want it, and both will tell nobody.
        """
        if node in self._known.removing and node in self._known.connection_ids:
            self._outbox.put(Disconnect(node))
        elif self._known.is_potentially_known(node):
            self._outbox.put(Disconnect(node))
            self._remove(node, "disconnected")

    # --- Time ---------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return next((loss.deadline for loss in self._losses.values()), None)  # kept in the order of their deadlines

    def handle_deadline(self, now: float) -> None:
        """Forget old reports."""
        while self._losses and next(iter(self._losses.values())).deadline <= now:
            self._losses.popitem(last=False)

    def _is_news(self, reporter: Atom, lost: Atom, creation: int, operation: int, now: float) -> bool:
        """Whether the report is newer than what we know; if so, it is noted."""
        key = (reporter, lost)
        loss = self._losses.get(key)
        if loss is not None and loss.creation == creation and operation <= loss.operation:
            return False
        self._losses.pop(key, None)
        if len(self._losses) >= LOSSES_MAX:
            self._losses.popitem(last=False)
        self._losses[key] = Loss(creation, operation, now + LOSS_KEPT_SECONDS)
        return True

    def _tell_everybody(self, report: tuple[Any, ...], ignored: Atom) -> None:
        for node in self._known.overlap_preventers(ignored):
            self._outbox.volatile(node, report)

    def _remove(self, node: Atom, what: str) -> None:
        self._known.removing.add(node)
        self._forget(node)
        self._outbox.log(
            "warning",
            f"'global' at node {self._known.this_node} {what} node {node} in order to prevent overlapping partitions",
        )
