"""Distribution over TLS, as OTP's `inet_tls_dist` (`-proto_dist inet_tls`) and `inet6_tls_dist` do it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

from beamnode.carriers.base import Listener, ReceiverFactory, Stream
from beamnode.carriers.tcp import Tcp
from beamnode.carriers.texts import format_address
from beamnode.carriers.tls_optfile import read_optfile
from beamnode.carriers.tls_options import CertKey, Contexts, Given, Password, TlsOptions
from beamnode.carriers.tls_peers import Accepting, Dialling, HasContext, hosts_of_file
from beamnode.carriers.tls_stream import TlsStream
from beamnode.errors import SetupTimeout, UsageError

log = logging.getLogger("beamnode.connection")

File = str | os.PathLike[str]


class Tls:
    """The carrier "tls". Options only; share it between nodes as you like.

    By OTP's names. All files are PEM; they are looked at before each handshake, and read again when they have changed.

    - `certfile`, `keyfile`: this node's certificate, and those of the CAs between it and the root; its private key
      (by default in `certfile` as well). `password`: of an encrypted key; or a function that gives it.
    - `cacertfile`: the CAs that certificates of peers must come from.
    - `verify`: False: anybody may be anybody. Otherwise both sides show a certificate, and who dials checks that it is
      for the host in the node's name. So does who accepts, which OTP does not do: `server={"check_hostname": False}`
      when your certificates are not for hosts. `fail_if_no_peer_cert=False`: who dials needs none.
    - `versions`: "tlsv1.2" and "tlsv1.3". `ciphers`: of TLS 1.2, by OpenSSL's names. `depth`: how many CAs may stand
      between a certificate and its root.
    - `server`, `client`: what differs when others dial this node, and when it dials: `server={"certfile": ...}`; there
      `certs_keys`, `dhfile`, `honor_cipher_order`, `client_renegotiation` and `server_name_indication` have their
      place as well. False: not at all.
    - `server_context`, `client_context`: instead of all of these, contexts of your own, which are used as they are.
    - The others: see `Tcp`.

    Errors: UsageError, for options and files that cannot be used. Without a certificate it can dial only.
    """

    name = "tls"
    handshake_length_bytes = 4
    by_name = False

    def __init__(
        self,
        *,
        certfile: File | None = None,
        keyfile: File | None = None,
        password: Password | None = None,
        cacertfile: File | None = None,
        verify: bool = True,
        fail_if_no_peer_cert: bool = True,
        check_hostname: bool = True,
        versions: Sequence[str] = ("tlsv1.2", "tlsv1.3"),
        ciphers: str | Sequence[str] | None = None,
        depth: int | None = None,
        server: Mapping[str, Any] | Literal[False] | None = None,
        client: Mapping[str, Any] | Literal[False] | None = None,
        server_context: ssl.SSLContext | None = None,
        client_context: ssl.SSLContext | None = None,
        family: socket.AddressFamily = socket.AF_INET,
        listen_address: str | None = None,
        listen_ports: int | range = 0,
        nodelay: bool = True,
        keepalive: bool = False,
    ) -> None:
        self._tcp = Tcp(
            family=family,
            listen_address=listen_address,
            listen_ports=listen_ports,
            nodelay=nodelay,
            keepalive=keepalive,
        )
        both = {
            "certfile": certfile,
            "keyfile": keyfile,
            "password": password,
            "cacertfile": cacertfile,
            "verify": verify,
            "fail_if_no_peer_cert": fail_if_no_peer_cert,
            "check_hostname": check_hostname,
            "versions": versions,
            "ciphers": ciphers,
            "depth": depth,
        }
        self._server = _contexts(server_context, both, server, is_server=True)
        self._client = _contexts(client_context, both, client, is_server=False)
        for who, contexts in (("whoever dials this node", self._server), ("whoever is dialled", self._client)):
            if contexts is not None and not contexts.options.verify:
                log.warning("TLS without verification: %s may be anybody who has the cookie", who)

    @classmethod
    def from_optfile(
        cls,
        path: File,
        *,
        server: Mapping[str, Any] | None = None,
        client: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """With the options of a file as OTP reads it (`-ssl_dist_optfile`), and those of `Tls` that it leaves open.

        `server` and `client` go before what the file says. A side that the file does not mention cannot be used. Two
        defaults differ from OTP's: a peer is verified unless the file says `{verify, verify_none}`, and who dials needs
        a certificate for its host (see `Tls`). Errors: UsageError, which names an option that cannot be honoured.
        """
        sides = read_optfile(path)
        for who, own in (("server", server), ("client", client)):
            if own is not None:
                sides[who] = sides.get(who, {}) | dict(own)
        return cls(server=sides.get("server", False), client=sides.get("client", False), **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(family={self.family.name}, listen_ports={self.listen_ports!r})"

    @property
    def family(self) -> socket.AddressFamily:
        """As in `Tcp`."""
        return self._tcp.family

    @property
    def listen_ports(self) -> int | range:
        """As in `Tcp`."""
        return self._tcp.listen_ports

    async def listen(self, accept: ReceiverFactory, *, node: str = "") -> Listener:
        """As `Tcp.listen`; the receiver is there before the TLS handshake. Errors: UsageError: no certificate."""
        return await self._tcp.listen(partial(TlsStream, side=self.accepting(), factory=accept), node=node)

    async def dial(
        self, host: str, port: int, receiver_factory: ReceiverFactory, *, timeout: float, node: str = ""
    ) -> Stream:
        """As `Tcp.dial`, and the TLS handshake, all within `timeout` seconds. Errors: see `Carrier.dial`; TlsError.

        The peer's certificate must be for the host in the name of the node that is meant.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        side = self.dialling(node.partition("@")[2] or host)
        streams: list[TlsStream] = []

        def open_tls(below: Stream) -> TlsStream:
            streams.append(TlsStream(below, side, receiver_factory))
            return streams[-1]

        await self._tcp.dial(host, port, open_tls, timeout=timeout, node=node)
        [stream] = streams
        assert stream.ready is not None
        try:
            async with asyncio.timeout_at(until):
                await stream.ready
        except BaseException as error:
            if isinstance(error, TimeoutError):
                stream.abort()
                raise SetupTimeout(
                    f"no TLS with {format_address((host, port))} within {timeout:g} s: a node over plain TCP is as "
                    "silent as that; was it started with -proto_dist inet_tls?"
                ) from error
            if isinstance(error, asyncio.CancelledError):
                stream.abort()
            raise
        return stream

    @property
    def own_hosts(self) -> list[str]:
        """The hosts that the certificate is for with which this node dials: one must be in its name."""
        pairs = [] if self._client is None else self._client.options.pairs
        return [host for pair in pairs for host in hosts_of_file(pair.certfile)]

    def accepting(self) -> Accepting:
        """What a `TlsStream` needs at the end that was dialled. Errors: UsageError: no certificate."""
        if self._server is None:
            raise UsageError(
                "this node cannot listen over TLS: it has no certificate (certfile and keyfile, or a server section in "
                "the optfile); to dial only, give listen=False"
            )
        return Accepting(self._server)

    def dialling(self, host: str) -> Dialling:
        """What a `TlsStream` needs at the end that dials `host`. Errors: UsageError: no options for that."""
        if self._client is None:
            raise UsageError("this node cannot dial over TLS: it has no options for a client (see the optfile)")
        return Dialling(self._client, host)


class Tls6(Tls):
    """`Tls` over IPv6 (OTP: `-proto_dist inet6_tls`). All options but `family`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(family=socket.AF_INET6, **options)


def _contexts(
    given: ssl.SSLContext | None,
    both: dict[str, Any],
    own: Mapping[str, Any] | Literal[False] | None,
    *,
    is_server: bool,
) -> HasContext | None:
    """What one side is made of; None where it is not to be, or a server has no certificate: its node can dial only."""
    if given is not None:
        return Given(given)
    if own is False:
        return None
    who = "server" if is_server else "client"
    options = TlsOptions.of(both | dict(own or {}), who)
    if is_server and not options.pairs and own is None:
        return None
    return Contexts(options, is_server=is_server)


__all__ = ["CertKey", "Tls", "Tls6"]
