"""Both ends of TLS as a `TlsStream` wants them: how a connection begins, and which peer is let in.

Whether a certificate is for a host: OpenSSL checks it where a host name is dialled. OTP also takes a dNSName that has
an address (`a@127.0.0.1`), which OpenSSL does not, and nobody checks those who dial: both is done here.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final, Protocol

from beamnode.carriers.base import Address
from beamnode.carriers.texts import format_address
from beamnode.carriers.tls_options import TlsOptions
from beamnode.spells import Spells

log = logging.getLogger("beamnode.connection")

SHOWN_CHARACTERS: Final = 200  # of the names in a certificate


class HasContext(Protocol):
    """`tls_options.Contexts`, or `Given`."""

    @property
    def options(self) -> TlsOptions: ...

    def accept(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject: ...

    def dial(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, host: str | None, *, checks_name: bool
    ) -> ssl.SSLObject: ...


class Accepting:
    """The server's side."""

    is_server: Final = True

    def __init__(self, contexts: HasContext) -> None:
        self._contexts = contexts
        self._spells = Spells(monotonic)

    def start(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._contexts.accept(incoming, outgoing)

    def refusal_of_peer(self, connection: ssl.SSLObject) -> str | None:
        return _too_deep(connection, self._contexts.options)

    def refusal_of_name(self, connection: ssl.SSLObject, node: str) -> str | None:
        """A certificate for the host of the node's name is wanted, if any was."""
        host = node.partition("@")[2]
        certificate = connection.getpeercert()
        if not self._contexts.options.check_hostname or not certificate or is_for_host(certificate, host):
            return None
        return (
            f"its certificate is for {names_of(certificate)}, not for {host}, the host of that name; issue one that "
            "is, or accept any host: server={'check_hostname': False}"
        )

    def silent_end(self, peer: Address) -> None:
        """Strangers can do that too where no certificate is asked for: a line a spell."""
        unsaid = self._spells.worth_a_line("silent", peer[0])
        if unsaid is not None:
            log.warning(
                "%s closed the connection right after the TLS handshake: it may not accept this node's certificate%s",
                format_address(peer),
                f" ({unsaid} more did so since the last line)" if unsaid else "",
            )


class Dialling:
    """The client's side, for one connection to `host`."""

    is_server: Final = False

    def __init__(self, contexts: HasContext, host: str) -> None:
        self._contexts = contexts
        self._options = options = contexts.options
        named = options.server_name_indication
        self._host = host if named is None else named if isinstance(named, str) else None
        self._checks = options.verify and options.check_hostname and self._host is not None

    def start(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        checks_name = self._checks and not _is_address(self._host)
        return self._contexts.dial(incoming, outgoing, self._host, checks_name=checks_name)

    def refusal_of_peer(self, connection: ssl.SSLObject) -> str | None:
        if self._checks and self._host is not None and _is_address(self._host):
            certificate = connection.getpeercert()
            if not certificate or not is_for_host(certificate, self._host):
                return (
                    f"its certificate is for {names_of(certificate or {})}, not for {self._host}; issue one that is, "
                    "or dial it by a host that it is for"
                )
        return _too_deep(connection, self._options)

    def refusal_of_name(self, connection: ssl.SSLObject, node: str) -> str | None:
        return None

    def silent_end(self, peer: Address) -> None:
        """What was lost is told by the error of this end (`tls_texts.closed_after_handshake`)."""


def is_for_host(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether a certificate (as `getpeercert` gives it) names the host: RFC 6125; an address may be a dNSName, too.

    A `*` stands for one whole label, the first. A common name counts only where there is no alternative name at all.
    """
    names = certificate.get("subjectAltName", ())
    if _is_address(host):
        address = ipaddress.ip_address(host)
        return any(
            (kind == "IP Address" and _is_address(name) and ipaddress.ip_address(name) == address)
            or (kind == "DNS" and name == host)
            for kind, name in names
        )
    if not names:
        names = [("DNS", name) for name in _common_names(certificate)]
    return any(kind == "DNS" and _matches(name.lower(), host.lower()) for kind, name in names)


def hosts_of_file(certfile: str) -> list[str]:
    """The hosts that the first certificate of a file is for; none where Python does not tell."""
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)  # what `getpeercert` is made with
    if decode is None:
        return []
    try:
        certificate: dict[str, Any] = decode(certfile)
    except (ssl.SSLError, OSError):
        return []
    return [name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS" and "*" not in name]


def names_of(certificate: Mapping[str, Any]) -> str:
    """What a certificate is for, in words that fit into a log, whatever the peer has put into it."""
    names = [f"{kind}:{name}" for kind, name in certificate.get("subjectAltName", ())]
    text = ", ".join(names or [f"CN:{name}" for name in _common_names(certificate)]) or "nobody"
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}..."


def _common_names(certificate: Mapping[str, Any]) -> list[str]:
    return [value for rdn in certificate.get("subject", ()) for key, value in rdn if key == "commonName"]


def _matches(pattern: str, host: str) -> bool:
    if not pattern.startswith("*."):
        return pattern == host
    label, _, domain = host.partition(".")
    return bool(label) and domain == pattern[2:] and "." in domain


def _is_address(text: str | None) -> bool:
    try:
        ipaddress.ip_address(text or "")
    except ValueError:
        return False
    return True


def _too_deep(connection: ssl.SSLObject, options: TlsOptions) -> str | None:
    """`depth` of OTP: how many CAs stand between the certificate and its root."""
    if options.depth is None or not connection.getpeercert():
        return None
    # From 3.13 on it has no underscore.
    chain: list[Any] = connection._sslobj.get_verified_chain() or []  # type: ignore[attr-defined]
    between = max(len(chain) - 2, 0)
    return (
        f"{between} CAs stand between its certificate and the root: depth is {options.depth}"
        if (between > options.depth)
        else None
    )
