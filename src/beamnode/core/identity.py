"""Who is who: the pids and references that one node hands out under one creation.

The uniqueness comes from the creation (a number that a node gets anew at each start, from epmd) and from counters that
never go back. Source: `erl_ext_dist`, NEW_PID_EXT and NEWER_REFERENCE_EXT.
"""

from __future__ import annotations

from beamnode.etf import Atom, Pid, Reference

PID_ID_BITS = 28  # the classic width of a pid's id; the serial carries on where it wraps
_PID_ID_MASK = (1 << PID_ID_BITS) - 1
_REFERENCE_FIRST_BITS = 18  # OTP refuses more in the first word of a 3-word reference
_REFERENCE_FIRST_MASK = (1 << _REFERENCE_FIRST_BITS) - 1
_WORD_MASK = (1 << 32) - 1


class Identities:
    """Hands out pids and references for `node` under `creation`.

    2^60 pids (28 bits of id, 32 of serial) and 2^82 references are made before one comes again. After a restart of the
    node call `renew`.
    """

    __slots__ = ("_pids", "_references", "creation", "node")

    def __init__(self, node: Atom, creation: int) -> None:
        self.node = node
        self.creation = creation
        self._pids = 0
        self._references = 0

    def renew(self, creation: int) -> None:
        """The node was started again: new identities carry `creation`."""
        self.creation = creation

    def next_pid(self) -> Pid:
        self._pids += 1
        return Pid(self.node, self._pids & _PID_ID_MASK, (self._pids >> PID_ID_BITS) & _WORD_MASK, self.creation)

    def next_reference(self) -> Reference:
        self._references = count = self._references + 1
        words = (
            count & _REFERENCE_FIRST_MASK,
            (count >> _REFERENCE_FIRST_BITS) & _WORD_MASK,
            (count >> (_REFERENCE_FIRST_BITS + 32)) & _WORD_MASK,
        )
        return Reference(self.node, self.creation, words)
