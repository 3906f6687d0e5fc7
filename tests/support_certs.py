"""Certificates for tests, made once: a CA, another, and what may be wrong with a certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from beamnode.carriers.tls import Tls
from beamnode.cli.certs import Authority, optfile_text

HOST = "127.0.0.1"
LONG_AGO = datetime.now(UTC) - timedelta(days=100)


class Certificates:
    """Files in a directory: `ca.pem`, `other-ca.pem`, and for each NAME of `files` NAME.pem and NAME-key.pem."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.new()
        self._other = Authority.new("another CA")
        (directory / "ca.pem").write_bytes(self.authority.pem)
        (directory / "other-ca.pem").write_bytes(self._other.pem)
        self.write("good", *self.authority.issue(HOST, "good"))
        self.write("ipv6", *self.authority.issue("::1", "ipv6"))
        self.write("renewed", *self.authority.issue(HOST, "renewed"))
        self.write("expired", *self.authority.issue(HOST, "expired", 10, start=LONG_AGO))
        self.write("elsewhere", *self.authority.issue("elsewhere.example", "elsewhere"))
        self.write("stranger", *self._other.issue(HOST, "stranger"))
        between = Authority.under(self.authority, "a CA between")
        certificate, key = between.issue(HOST, "deep")
        self.write("deep", certificate + between.pem, key)
        self.write("locked", *self.authority.issue(HOST, "locked", password="open sesame"))

    def write(self, name: str, certificate: bytes, key: bytes) -> None:
        (self.directory / f"{name}.pem").write_bytes(certificate)
        (self.directory / f"{name}-key.pem").write_bytes(key)

    def options(self, name: str | None = "good", ca: str = "ca", **others: Any) -> dict[str, Any]:
        """Keywords of `Tls`; without a `name`, without a certificate."""
        own = {} if name is None else {"certfile": self.cert(name), "keyfile": self.key(name)}
        return own | {"cacertfile": self.directory / f"{ca}.pem"} | others

    def tls(self, name: str | None = "good", ca: str = "ca", **others: Any) -> Tls:
        return Tls(**self.options(name, ca, **others))

    def cert(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}-key.pem"

    def optfile(self, name: str) -> Path:
        """As `beamnode certs` writes it."""
        file = self.directory / f"{name}.conf"
        file.write_text(optfile_text(self.cert(name), self.key(name), self.directory / "ca.pem"))
        return file
