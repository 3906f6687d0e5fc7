"""`beamnode certs NODE_OR_HOST...`: a small CA, and certificates for nodes, for development."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from beamnode.errors import NodeNameError, UsageError

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers

CA_DAYS: Final = 3650
DAYS: Final = 825
CLOCK_SKEW: Final = timedelta(hours=1)  # what hosts may disagree about: certificates begin so much earlier


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "certs",
        help="make certificates for TLS, for development",
        description="Make a small CA, and a certificate with its key for each node or host, which a node uses both "
        "when it dials and when it is dialled; and the options for it as erl reads them. Prints how to start nodes "
        "with them. What is there already is used or left as it is.",
        epilog="The key of the CA is in DIR/ca-key.pem: who has it can be any node. For production use your own CA; "
        "the certificates need the host of the node's name as a subject alternative name, and both extended key "
        "usages, serverAuth and clientAuth.",
    )
    parser.add_argument("names", metavar="NODE_OR_HOST", nargs="+", help="a@127.0.0.1, a@myhost, db.example.com, ::1")
    parser.add_argument("--dir", default="certs", metavar="DIR", help="where the files are (default: certs)")
    parser.add_argument("--days", type=_days, default=DAYS, metavar="N", help=f"how long they are valid ({DAYS})")
    parser.add_argument("--force", action="store_true", help="make certificates anew that are there; never the CA")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing, and say how to use it. Errors: UsageError."""
    hosts = {name: host_of(name) for name in arguments.names}
    directory = Path(arguments.dir).absolute()
    try:
        authority = Authority.in_directory(directory)
        for name, host in hosts.items():
            _make(authority, directory, name, host, arguments.days, arguments.force)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None
    for name in hosts:
        _print_use(directory, name)
    return 0


def host_of(name: str) -> str:
    """The host of a node's name, or the host itself. Errors: NodeNameError."""
    alive, at, host = name.rpartition("@")
    bad = not host or "/" in name or "@" in alive or (at and not alive) or not name.isprintable() or " " in name
    if bad or name.startswith((".", "-")):
        raise NodeNameError(f"{name!r} is neither a node (name@host) nor a host")
    return host


def _make(authority: Authority, directory: Path, name: str, host: str, days: int, force: bool) -> None:
    certfile, keyfile = directory / f"{name}.pem", directory / f"{name}-key.pem"
    there = [file for file in (certfile, keyfile) if file.exists()]
    if there and not force:
        print(f"{', '.join(map(str, there))}: already there, left as it is; --force makes it anew")
    else:
        certificate, key = authority.issue(host, name, days)
        _write(keyfile, key, secret=True)
        _write(certfile, certificate)
        print(f"{certfile}: for {host}, {days} days; its key is {keyfile}")
    optfile = directory / f"{name}.conf"
    if not optfile.exists() or force:
        _write(optfile, optfile_text(certfile, keyfile, directory / "ca.pem").encode())


def _write(file: Path, data: bytes, *, secret: bool = False) -> None:
    """In one step, so that a node that looks for new certificates finds the old or the new one."""
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as out:
        out.write(data)
    new.replace(file)


def optfile_text(certfile: Path, keyfile: Path, cacertfile: Path) -> str:
    """What `erl -ssl_dist_optfile` reads, and `Tls.from_optfile`."""
    files = (
        f"{{certfile, {_quoted(certfile)}}},\n    {{keyfile, {_quoted(keyfile)}}},\n"
        f"    {{cacertfile, {_quoted(cacertfile)}}},\n    {{verify, verify_peer}},\n"
    )
    versions = "{versions, ['tlsv1.3', 'tlsv1.2']}"
    return (
        "%% coding: utf-8\n"
        f"[{{server, [\n    {files}    {{fail_if_no_peer_cert, true}},\n    {versions}]}},\n"
        f" {{client, [\n    {files}    {versions}]}}].\n"
    )


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _print_use(directory: Path, name: str) -> None:
    optfile = directory / f"{name}.conf"
    if "@" not in name:
        name = f"NAME@{name}"
    flag = "name" if "." in name.partition("@")[2] or ":" in name else "sname"
    tls = f"-proto_dist inet_tls -ssl_dist_optfile {_shell(str(optfile))}"
    print(f"\n{name}, in Erlang, Elixir or Python:")
    print(f"    erl -{flag} {name} {tls}")
    print(f"    iex --{flag} {name} --erl {_shell(tls)}")
    print(f"    beamnode shell --{flag} {name} --proto-dist inet_tls --ssl-dist-optfile {_shell(str(optfile))}")
    print(f'    Node("{name}", carrier=Tls.from_optfile({str(optfile)!r}))')


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)


class Authority:
    """A CA: its certificate and its key."""

    def __init__(self, certificate: Any, key: Any) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str = "beamnode development CA", days: int = CA_DAYS) -> Authority:
        """A root. Errors: UsageError, without the package `cryptography`."""
        return cls._made(name, days, None)

    @classmethod
    def under(cls, issuer: Authority, name: str, days: int = CA_DAYS) -> Authority:
        """One that another vouches for."""
        return cls._made(name, days, issuer)

    @classmethod
    def _made(cls, name: str, days: int, issuer: Authority | None) -> Authority:
        x509, ec, _ = _cryptography()
        key = ec.generate_private_key(ec.SECP256R1())
        by = x509.Name(_common_name(x509, name)) if issuer is None else issuer.certificate.subject
        builder = (
            _builder(x509, name, by, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(x509, key_cert_sign=True, crl_sign=True), critical=True)
        )
        if issuer is not None:
            issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer._key.public_key())
            builder = builder.add_extension(issued_by, critical=False)
        return cls(_signed(builder, key if issuer is None else issuer._key), key)

    @classmethod
    def in_directory(cls, directory: Path) -> Authority:
        """The one whose files are there; made now if there are none. Errors: UsageError, OSError."""
        x509, _, serialization = _cryptography()
        certfile, keyfile = directory / "ca.pem", directory / "ca-key.pem"
        if certfile.exists() != keyfile.exists():
            there, missing = (certfile, keyfile) if certfile.exists() else (keyfile, certfile)
            raise UsageError(f"there is {there}, but no {missing.name}: bring it back, or take another --dir")
        if certfile.exists():
            try:
                certificate = x509.load_pem_x509_certificate(certfile.read_bytes())
                key = serialization.load_pem_private_key(keyfile.read_bytes(), None)
            except (ValueError, TypeError) as error:
                raise UsageError(f"{certfile} and {keyfile.name} are no CA that can be used: {error}") from None
            return cls(certificate, key)
        authority = cls.new()
        directory.mkdir(parents=True, exist_ok=True)
        _write(keyfile, authority.key_pem, secret=True)
        _write(certfile, authority.pem)
        print(f"{certfile}: a new CA, {CA_DAYS} days; its key is {keyfile}: keep it to yourself")
        return authority

    @property
    def pem(self) -> bytes:
        """The certificate, for `cacertfile`."""
        _, _, serialization = _cryptography()
        pem: bytes = self.certificate.public_bytes(serialization.Encoding.PEM)
        return pem

    @property
    def key_pem(self) -> bytes:
        """The key. Keep it to yourself."""
        return _key_pem(self._key)

    def issue(
        self,
        host: str | None,
        name: str,
        days: int = DAYS,
        *,
        start: datetime | None = None,
        password: str | None = None,
    ) -> tuple[bytes, bytes]:
        """A certificate for both ends, for `host` (None: for no host), and its key, in PEM."""
        x509, ec, _ = _cryptography()
        key = ec.generate_private_key(ec.SECP256R1())
        oid = x509.oid.ExtendedKeyUsageOID
        builder = (
            _builder(x509, name, self.certificate.subject, key.public_key(), days, start)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(x509, digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([oid.SERVER_AUTH, oid.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if host is not None:
            names = x509.SubjectAlternativeName(_alternative_names(x509, host))
            builder = builder.add_extension(names, critical=False)
        _, _, serialization = _cryptography()
        certificate: bytes = _signed(builder, self._key).public_bytes(serialization.Encoding.PEM)
        return certificate, _key_pem(key, password)


def _alternative_names(x509: Any, host: str) -> Sequence[Any]:
    """OTP looks for the host of a node's name among the DNS names, also where it is an address."""
    try:
        dns = [x509.DNSName(host)]
    except ValueError as error:
        raise NodeNameError(f"{host!r} cannot be in a certificate: {error}") from None
    try:
        return [*dns, x509.IPAddress(ip_address(host))]
    except ValueError:
        return dns


def _common_name(x509: Any, name: str) -> list[Any]:
    return [x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name[:64])]


def _builder(x509: Any, name: str, issuer: Any, public_key: Any, days: int, start: datetime | None = None) -> Any:
    start = start or datetime.now(UTC) - CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(_common_name(x509, name)))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(x509: Any, **wanted: bool) -> Any:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def _signed(builder: Any, key: Any) -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256

    return builder.sign(key, SHA256())


def _key_pem(key: Any, password: str | None = None) -> bytes:
    _, _, serialization = _cryptography()
    protection = (
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password.encode())
    )
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    return pem


def _cryptography() -> tuple[Any, Any, Any]:
    """The modules that are used of it. Errors: UsageError, when it is not installed."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UsageError(
            "beamnode certs needs the package cryptography: pip install 'beamnode[certs]' (TLS itself does not)"
        ) from None
    return x509, ec, serialization


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= 36500):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days: 1 to 36500")
    return int(text)
