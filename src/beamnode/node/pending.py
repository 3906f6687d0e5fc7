"""Connections that were accepted and are not nodes yet: how many there may be, of one address and in all.

Who comes when there is no room gets a place all the same, and an older one goes: it has had its time, and a handshake
takes a few round trips. Which one, the flood decides: the oldest of the address that has reached its own bound, or else
of the address that has the most. So who floods a port from one address closes connections of that address only.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Generic, TypeVar

from beamnode.carriers.base import Address
from beamnode.limits import Limits

Session = TypeVar("Session")

PREFIX_BITS = 64  # of an IPv6 address: whoever has one has as many as these leave


@dataclass(frozen=True, slots=True)
class Excess(Generic[Session]):
    """One too many: the `oldest` of an address that has `count` of them, by the bound named `limit`."""

    oldest: Session
    address: str
    count: int
    limit: str


class Pending(Generic[Session]):
    """The sessions, by address, the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self._per_address_max = limits.handshakes_per_address_max
        self._max = limits.handshakes_pending_max
        self._by_address: dict[str, dict[Session, None]] = {}
        self._address_of: dict[Session, str] = {}

    def __len__(self) -> int:
        return len(self._address_of)

    def add(self, session: Session, address: Address) -> Excess[Session] | None:
        """One more. If it is one too many: who goes for it, and is still to be taken out."""
        key = source_of(address)
        own = self._by_address.setdefault(key, {})
        own[session] = None
        self._address_of[session] = key
        if len(own) > self._per_address_max:
            return Excess(next(iter(own)), key, len(own), "handshakes_per_address_max")
        if len(self) > self._max:
            key, most = max(self._by_address.items(), key=lambda each: len(each[1]))
            return Excess(next(iter(most)), key, len(most), "handshakes_pending_max")
        return None

    def discard(self, session: Session) -> None:
        """It is a node now, or gone; one that is not there is nothing."""
        address = self._address_of.pop(session, None)
        if address is not None:
            own = self._by_address[address]
            del own[session]
            if not own:
                del self._by_address[address]


def source_of(address: Address | tuple[()]) -> str:
    """What counts as one source: an IPv4 address, a network of IPv6. What has no such address, all together: whoever
    dials a Unix socket may choose a path of its own each time.
    """
    host = str(address[0]) if address else ""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), PREFIX_BITS), strict=False))
