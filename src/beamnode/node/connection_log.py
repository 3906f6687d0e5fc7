"""What the logs say of connections that come, go, and never come to be: `beamnode.connection` and the audit log.

Of who dials, nothing is proved before the handshake is over. So what strangers can cause by the thousand is written a
few times a minute: of one source, of one kind, and of all together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from beamnode.errors import (
    BeamnodeError,
    CookieMismatch,
    LimitExceeded,
    NodeNameError,
    NotAllowedByPeer,
    PeerError,
    ProtocolError,
    SetupTimeout,
    TlsError,
)
from beamnode.etf import Atom
from beamnode.etf.terms import on_one_line
from beamnode.node.audit import Audit
from beamnode.node.bounds import Bounds
from beamnode.node.pending import source_of
from beamnode.spells import Spells

if TYPE_CHECKING:
    from beamnode.node.session import Session

log = logging.getLogger("beamnode.connection")

# What the audit log has of handshakes that fail, dialled ones and others: not those that lose against one of the other
# direction.
_REFUSALS: Final = {
    True: (CookieMismatch, NotAllowedByPeer, TlsError),
    False: (CookieMismatch, ProtocolError, LimitExceeded, SetupTimeout, TlsError),
}


class ConnectionLog:
    """The lines of one node."""

    def __init__(self, audit: Audit, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._audit = audit
        self._bounds = bounds
        self._strangers = Spells(clock)

    def connected(self, session: Session, hidden: bool) -> None:
        log.info("connected with %s%s", session.node, " (hidden)" if hidden else "")
        self._audit.allowed("connect", str(session.node), _connection_text(session))

    def lost(self, node: Atom, cause: BeamnodeError) -> None:
        log.info("connection with %s lost: %s", node, cause)
        self._audit.ended(node.name, str(cause))

    def refused(self, session: Session, name: str, why: str, kind: str = "") -> None:
        """Whoever says to be `name` is not let in. All that come from one place for one reason (`kind`) are alike."""
        key = f"{source_of(session.peer_address or ())} {kind or why}"
        self._audit.refused_often("connect", name, _connection_text(session), why, key)

    def ended(self, session: Session, cause: BeamnodeError) -> None:
        """A session is over: what is to be said of it whatever it was."""
        if isinstance(cause, LimitExceeded):
            self._bounds.log.hit(cause.limit, session.peer_text, str(cause), "its connection is closed")
        if not session.was_shaking_hands or not isinstance(cause, _REFUSALS[session.outgoing]):
            return
        if isinstance(cause, CookieMismatch):
            self.refused(session, session.peer_text, "it does not know the cookie")
        else:
            self.refused(session, session.peer_text, str(cause), _kind(cause))

    def failed(self, node: Atom, cause: BeamnodeError, session: Session | None = None) -> None:
        """There is no connection with `node`; `session` is the attempt that failed, if there was one.

        A node that is not there is an everyday thing, as in OTP; a wrong cookie or a broken peer is not.
        """
        level = logging.INFO
        if isinstance(cause, CookieMismatch):
            level = logging.ERROR
        elif isinstance(cause, PeerError | SetupTimeout | TlsError | NodeNameError):
            level = logging.WARNING
        if level > logging.INFO and session is not None and not self._is_said(session, cause):
            level = logging.DEBUG
        log.log(level, "no connection with %s: %s", on_one_line(node.name), on_one_line(str(cause)))

    def stranger(self, session: Session, cause: BeamnodeError) -> None:
        """Who never said a name has gone."""
        level = logging.DEBUG
        if isinstance(cause, PeerError | SetupTimeout | TlsError) and self._is_said(session, cause):
            level = logging.WARNING
        log.log(level, "closed a connection that did not become a node: %s", on_one_line(str(cause)))

    def _is_said(self, session: Session, cause: BeamnodeError) -> bool:
        """Whether a handshake that failed is worth a line: always if we dialled."""
        if session.outgoing:
            return True
        unsaid = self._strangers.worth_a_line("handshake", f"{session.peer_text} {_kind(cause)}")
        if unsaid:
            log.warning("%d more handshakes have failed since the last line about one", unsaid)
        return unsaid is not None


def _kind(cause: BeamnodeError) -> str:
    """What is alike among handshakes that failed: of TLS by OpenSSL's reasons, as who mends one finds the next."""
    reason = ""
    if isinstance(cause, TlsError):
        reason = getattr(cause.__cause__, "verify_message", "") or getattr(cause.__cause__, "reason", "")
    return f"{type(cause).__name__} {reason}"


def _connection_text(session: Session) -> str:
    return f"connection {'to' if session.outgoing else 'from'} {session.address_text}"
