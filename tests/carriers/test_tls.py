"""TLS: the contract on both loops and families, who is let in, and what who is not let in is told."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support_certs import Certificates
from support_loops import LOOPS
from test_tcp import needs_ipv6

from beamnode.carriers.tls import Tls, Tls6
from contract import CarrierContract, Site


class TestTls(CarrierContract):
    @pytest.fixture(autouse=True)
    def _certificates(self, certificates: Certificates) -> None:
        self.certificates = certificates

    def carrier(self) -> Tls:
        return self.certificates.tls()

    def site(self) -> Site:
        return Site(self.carrier(), self.carrier(), "127.0.0.1")

    def half_close(self, stream: Any) -> bool:
        stream.raw_socket.shutdown(socket.SHUT_WR)
        return True


class TestTlsOnUvloop(TestTls):
    new_loop = staticmethod(LOOPS["uvloop"])


class TestTls12(TestTls):
    def carrier(self) -> Tls:
        return self.certificates.tls(versions=["tlsv1.2"])


@needs_ipv6
class TestTls6(TestTls):
    def site(self) -> Site:
        tls = Tls6(**self.certificates.options("ipv6"))
        return Site(tls, tls, "::1")
