"""The options of one side of TLS, by OTP's names, and the `ssl.SSLContext` that follows from them and from files.

The files are looked at before each handshake: new connections use what is in them now, those that are there stay as
they are. Files that cannot be used are reported once, and what was loaded before stays in use.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias

from beamnode.errors import UsageError

log = logging.getLogger("beamnode.connection")

Password: TypeAlias = str | bytes | Callable[[], str | bytes]

VERSIONS: Final = {"tlsv1.2": ssl.TLSVersion.TLSv1_2, "tlsv1.3": ssl.TLSVersion.TLSv1_3}
_ALLOW_CLIENT_RENEGOTIATION: Final = 1 << 8  # of OpenSSL 3, SSL_OP_..., which Python has no name for
_OLD_VERSIONS: Final = frozenset({"sslv3", "tlsv1", "tlsv1.1"})


@dataclass(frozen=True, slots=True)
class CertKey:
    """A certificate (with those of its CAs that peers may lack), its private key, and the password of that."""

    certfile: str
    keyfile: str | None = None  # None: in `certfile`
    password: Password | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """One side's. What each means: see `Tls`. Errors: UsageError."""

    certfile: str | os.PathLike[str] | None = None
    keyfile: str | os.PathLike[str] | None = None
    password: Password | None = field(default=None, repr=False)
    certs_keys: Sequence[CertKey] = ()
    cacertfile: str | os.PathLike[str] | None = None
    verify: bool = True
    fail_if_no_peer_cert: bool = True
    check_hostname: bool = True
    server_name_indication: str | bool | None = None
    versions: Sequence[str] = ("tlsv1.2", "tlsv1.3")
    ciphers: str | Sequence[str] | None = None
    honor_cipher_order: bool = True
    client_renegotiation: bool = True
    depth: int | None = None
    dhfile: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("verify", "fail_if_no_peer_cert", "check_hostname", "honor_cipher_order", "client_renegotiation"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is True or False, not {getattr(self, name)!r}")
        if self.depth is not None and (not isinstance(self.depth, int) or not 0 <= self.depth <= 100):
            raise UsageError(f"depth is how many CAs may stand between a certificate and its root, not {self.depth!r}")
        if isinstance(self.versions, str) or not self.versions:
            raise UsageError(f"versions is a list of {' and '.join(map(repr, VERSIONS))}, not {self.versions!r}")
        for version in self.versions:
            if version in _OLD_VERSIONS:
                raise UsageError(f"versions: {version} is not secure, and not offered; use tlsv1.2 or tlsv1.3")
            if version not in VERSIONS:
                raise UsageError(f"versions: there is no {version!r}, only {' and '.join(map(repr, VERSIONS))}")
        if self.server_name_indication is True:
            raise UsageError("server_name_indication is a host name, or False: then none is sent and none is checked")

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str) -> TlsOptions:
        """Errors: UsageError, which names an option that there is not."""
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise UsageError(f"{where} has no option {name!r}; known: {', '.join(known)}")
        return cls(**given)

    @property
    def pairs(self) -> list[CertKey]:
        """All certificates with their keys."""
        if self.certfile is None:
            if self.keyfile is not None:
                raise UsageError("keyfile without certfile: the certificate of that key is missing")
            return list(self.certs_keys)
        keyfile = None if self.keyfile is None else os.fspath(self.keyfile)
        return [CertKey(os.fspath(self.certfile), keyfile, self.password), *self.certs_keys]


class Contexts:
    """The context of one side: made of options and files now, and again when the files have changed."""

    def __init__(self, options: TlsOptions, *, is_server: bool) -> None:
        self.options = options
        self._lock = threading.Lock()  # nodes in several threads may share a carrier
        self._is_server = is_server
        self._who = "server" if is_server else "client"
        self._files = [
            os.fspath(file) for pair in options.pairs for file in (pair.certfile, pair.keyfile) if file is not None
        ] + [os.fspath(file) for file in (options.cacertfile, options.dhfile) if file is not None]
        self._check()
        self._seen = self._signature()
        self._context = self._load()

    def accept(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """A new connection, dialled by a peer."""
        with self._lock:
            return self.current().wrap_bio(incoming, outgoing, server_side=True)

    def dial(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, host: str | None, *, checks_name: bool
    ) -> ssl.SSLObject:
        """A new connection to `host`; OpenSSL checks that the certificate is for it. Errors: ValueError: no host."""
        with self._lock:
            context = self.current()
            context.check_hostname = checks_name  # `wrap_bio` makes it this connection's
            return context.wrap_bio(incoming, outgoing, server_hostname=host)

    def current(self) -> ssl.SSLContext:
        """Of the files as they are now."""
        seen = self._signature()
        if seen != self._seen:
            self._seen = seen  # from before they are read: a change meanwhile is seen next time
            try:
                self._context = self._load()
            except UsageError as error:
                log.error("TLS %s: the new certificates cannot be used, the old ones stay: %s", self._who, error)
            else:
                log.info("TLS %s: certificates loaded anew from %s", self._who, ", ".join(self._files))
        return self._context

    def _check(self) -> None:
        options = self.options
        if self._is_server and not options.pairs:
            raise UsageError("TLS server: a node that listens needs a certificate: give certfile and keyfile")
        if options.verify and options.cacertfile is None:
            raise UsageError(
                f"TLS {self._who}: peers are to be verified, but against which CA? Give cacertfile; or, where anybody "
                "may be anybody, say verify=False ({verify, verify_none} in an optfile)"
            )

    def _signature(self) -> list[tuple[int, int, int] | None]:
        """What tells whether a file is another, or has other contents."""
        found: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                status = os.stat(file)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return found

    def _load(self) -> ssl.SSLContext:
        options = self.options
        for file in self._files:
            _check_readable(file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._is_server else ssl.PROTOCOL_TLS_CLIENT)
        versions = [VERSIONS[version] for version in options.versions]
        context.minimum_version, context.maximum_version = min(versions), max(versions)
        context.check_hostname = False  # see `dial`
        context.verify_mode = _verify_mode(options, self._is_server)
        for pair in options.pairs:
            _load_pair(context, pair)
        if options.cacertfile is not None:
            _load_cas(context, os.fspath(options.cacertfile))
        _set_ciphers(context, options)
        if options.dhfile is not None:
            try:
                context.load_dh_params(os.fspath(options.dhfile))
            except ssl.SSLError as error:
                raise UsageError(f"dhfile {options.dhfile}: {error.reason or error}") from None
        _set_renegotiation(context, options)
        if not options.honor_cipher_order:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        # Each connection shows its certificates: nothing is resumed that was let in on older ones.
        context.options |= ssl.OP_NO_TICKET
        if self._is_server:
            context.num_tickets = 0
        return context


class Given:
    """A context that the program has made itself: it says what is checked, and is not loaded again."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.options = TlsOptions(verify=context.verify_mode is not ssl.CERT_NONE, check_hostname=False)
        self._context = context

    def accept(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, server_side=True)

    def dial(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, host: str | None, *, checks_name: bool
    ) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, server_hostname=host)


def _verify_mode(options: TlsOptions, is_server: bool) -> ssl.VerifyMode:
    if not options.verify:
        return ssl.CERT_NONE
    return ssl.CERT_REQUIRED if options.fail_if_no_peer_cert or not is_server else ssl.CERT_OPTIONAL


def _set_renegotiation(context: ssl.SSLContext, options: TlsOptions) -> None:
    """With TLS 1.2, OTP renews its keys so after 2^28 records, and closes the connection when that is refused.

    A stranger is refused it: it costs this side more than the other.
    """
    if not options.verify or not options.fail_if_no_peer_cert or not options.client_renegotiation:
        context.options |= ssl.OP_NO_RENEGOTIATION
    elif ssl.OPENSSL_VERSION_INFO >= (3,):
        context.options |= _ALLOW_CLIENT_RENEGOTIATION


def _check_readable(file: str) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _load_pair(context: ssl.SSLContext, pair: CertKey) -> None:
    keyfile = pair.keyfile or pair.certfile

    def no_password() -> str:
        raise UsageError(f"the key in {keyfile} is encrypted: give its password")

    try:
        context.load_cert_chain(pair.certfile, pair.keyfile, pair.password or no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"the key in {keyfile} is not that of the certificate in {pair.certfile}") from None
        if pair.password is not None and _is_encrypted(keyfile):  # OpenSSL has many words for that, or none
            raise UsageError(f"the password of the key in {keyfile} is wrong") from None
        raise UsageError(
            f"{pair.certfile} has no certificate that can be used, or {keyfile} no key, both in PEM "
            f"({error.reason or error})"
        ) from None
    except ValueError as error:  # a password that is too long
        raise UsageError(f"the password of the key in {keyfile}: {error}") from None


def _is_encrypted(keyfile: str) -> bool:
    with open(keyfile, "rb") as file:
        return b"ENCRYPTED" in file.read()


def _load_cas(context: ssl.SSLContext, cacertfile: str) -> None:
    try:
        context.load_verify_locations(cacertfile)
    except ssl.SSLError as error:
        raise UsageError(
            f"cacertfile {cacertfile} has no certificate in PEM that can be used ({error.reason or error})"
        ) from None


def _set_ciphers(context: ssl.SSLContext, options: TlsOptions) -> None:
    """Those of TLS 1.2. Python has no say in those of TLS 1.3 (before 3.15), of which none is weak."""
    if options.ciphers is None:
        return
    given = options.ciphers.split(":") if isinstance(options.ciphers, str) else list(options.ciphers)
    newer = {cipher for cipher in given if cipher.startswith("TLS_") and "_WITH_" not in cipher}
    older = [cipher for cipher in given if cipher not in newer]
    offered = {str(cipher["name"]) for cipher in context.get_ciphers() if str(cipher["name"]).startswith("TLS_")}
    if newer and "tlsv1.3" in options.versions and (left_out := offered - newer):
        raise UsageError(
            f"ciphers: Python cannot leave out {', '.join(sorted(left_out))} of TLS 1.3: name all of them, or none, or "
            "allow tlsv1.2 only"
        )
    if older or "tlsv1.3" not in options.versions:
        try:
            context.set_ciphers(":".join(older))
        except ssl.SSLError:
            raise UsageError(
                f"ciphers: OpenSSL knows none of {', '.join(older) or 'them'} for TLS 1.2; they are called as in "
                "ECDHE-RSA-AES256-GCM-SHA384"
            ) from None
    elif "tlsv1.2" in options.versions:
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # only ciphers of TLS 1.3 were named
