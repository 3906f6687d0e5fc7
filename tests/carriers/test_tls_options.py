"""Options and files of TLS: what cannot be, what is loaded anew, what is not shown."""

from __future__ import annotations

import logging
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from support_loops import Run
from support_tls import Attempt

from beamnode.carriers.tls import CertKey, Tls
from beamnode.errors import TlsError, UsageError
from contract import Joined, Recorder, Site, until
from support_certs import Certificates


def test_certificates_are_loaded_anew(
    run: Run, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = Certificates.__new__(Certificates)
    files.directory = tmp_path

    def put(name: str) -> None:
        for own, given in ((files.cert("node"), certificates.cert(name)), (files.key("node"), certificates.key(name))):
            new = tmp_path / "new"
            shutil.copy(given, new)
            new.replace(own)

    shutil.copy(certificates.directory / "ca.pem", tmp_path)
    put("good")
    tls = files.tls("node")

    async def main() -> None:
        async with Joined(Site(tls, tls, "127.0.0.1")) as old:
            assert await connects_with() == "good"
            put("renewed")
            assert await connects_with() == "renewed"
            assert "TLS server: certificates loaded anew" in caplog.text
            caplog.clear()
            files.cert("node").write_text("nothing that is PEM")
            assert await connects_with() == "renewed"
            assert await connects_with() == "renewed"
            broken = [record for record in caplog.records if "the old ones stay" in record.getMessage()]
            assert len(broken) == 2, "once for each side"
            assert {record.levelname for record in broken} == {"ERROR"}
            files.cert("node").unlink()
            assert await connects_with() == "renewed"
            put("expired")
            assert "has expired" in await connects_with()
            put("good")
            assert await connects_with() == "good"
            old.near_stream.write([b"as before"])
            await until(lambda: old.far.received == b"as before")

    async def connects_with() -> str:
        """The common name that who dials sees."""
        attempt = Attempt()
        listener = await tls.listen(attempt.far.attach)
        try:
            stream = await tls.dial("127.0.0.1", listener.port, attempt.near.attach, timeout=5)
        except TlsError as error:
            return str(error)
        finally:
            await listener.close()
        certificate = stream._tls.getpeercert()  # type: ignore[attr-defined]
        stream.abort()
        await until(lambda: bool(attempt.near.lost and attempt.far.lost))
        [[(_, name)]] = certificate["subject"]
        return str(name)

    run(main())


def test_nothing_secret_is_shown(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tls = certificates.tls("locked", password="open sesame", listen_ports=range(9000, 9010))
    shown = f"{tls!r} {tls._server.options!r} {CertKey('a', 'b', 'open sesame')!r} {caplog.text}"  # type: ignore[union-attr]
    assert "sesame" not in shown
    assert repr(tls) == "Tls(family=AF_INET, listen_ports=range(9000, 9010))"


def test_a_key_with_a_password(run: Run, certificates: Certificates) -> None:
    for password in ("open sesame", b"open sesame", lambda: "open sesame"):
        tls = certificates.tls("locked", password=password)
        assert run(Attempt.make(tls, tls)).refused is None


OPTIONS_THAT_CANNOT_BE: dict[str, tuple[dict[str, Any], str]] = {
    "no CA": ({"cacertfile": None}, "TLS server: peers are to be verified, but against which CA?"),
    "no file": ({"certfile": "/nowhere/a.pem"}, "cannot read /nowhere/a.pem: No such file or directory"),
    "a key without a certificate": ({"certfile": None}, "keyfile without certfile"),
    "another key": ({"keyfile": "renewed-key.pem"}, "is not that of the certificate in"),
    "no PEM": ({"certfile": __file__}, "has no certificate that can be used"),
    "no PEM of a CA": ({"cacertfile": __file__}, "has no certificate in PEM that can be used"),
    "no password": ({"certfile": "locked.pem", "keyfile": "locked-key.pem"}, "is encrypted: give its password"),
    "wrong password": (
        {"certfile": "locked.pem", "keyfile": "locked-key.pem", "password": "open barley"},
        "the password of the key in .*locked-key.pem is wrong",
    ),
    "an old version": ({"versions": ["tlsv1.1"]}, "versions: tlsv1.1 is not secure"),
    "no version": ({"versions": ["tlsv1.4"]}, "versions: there is no 'tlsv1.4'"),
    "no versions": ({"versions": []}, "versions is a list"),
    "no cipher": ({"ciphers": "ROT13"}, "OpenSSL knows none of ROT13"),
    "some ciphers of TLS 1.3": ({"ciphers": ["TLS_AES_128_GCM_SHA256"]}, "Python cannot leave out"),
    "a depth": ({"depth": -1}, "depth is how many CAs"),
    "verify": ({"verify": "verify_none"}, "verify is True or False"),
    "unknown": ({"server": {"cafile": "x"}}, "server has no option 'cafile'; known: certfile, "),
    "no server": ({"server": {"certfile": None, "keyfile": None}}, "a node that listens needs a certificate"),
    "a name": ({"client": {"server_name_indication": True}}, "server_name_indication is a host name, or False"),
}


@pytest.mark.parametrize("case", OPTIONS_THAT_CANNOT_BE)
def test_options_that_cannot_be(certificates: Certificates, case: str) -> None:
    options, text = OPTIONS_THAT_CANNOT_BE[case]
    options = {
        name: certificates.directory / value if str(value).endswith("pem") and "/" not in value else value
        for name, value in options.items()
    }
    with pytest.raises(UsageError, match=text) as raised:
        Tls(**(certificates.options() | options))
    assert "barley" not in str(raised.value)


def test_without_a_certificate_it_dials_only(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="cannot listen over TLS: it has no certificate"):
            await certificates.tls(None).listen(Recorder().attach)
        with pytest.raises(UsageError, match="cannot dial over TLS"):
            await certificates.tls(client=False).dial("127.0.0.1", 1, Recorder().attach, timeout=1)

    run(main())


def test_ciphers_of_tls_13_alone_leave_no_other_version(run: Run, certificates: Certificates) -> None:
    everything = ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]
    server = certificates.tls(ciphers=everything)
    assert run(Attempt.make(server, certificates.tls())).refused is None
    assert "no version" in run(Attempt.make(server, certificates.tls(versions=["tlsv1.2"]))).near_text


def test_renegotiation_is_for_verified_peers(certificates: Certificates) -> None:
    """OTP closes a connection of TLS 1.2 when it is refused new keys: see tests/node/test_otp_tls.py."""

    def options(**given: Any) -> int:
        contexts: Any = certificates.tls(server=given)._server
        return int(contexts.current().options)

    assert not options() & ssl.OP_NO_RENEGOTIATION
    assert options(verify=False) & ssl.OP_NO_RENEGOTIATION
    assert options(fail_if_no_peer_cert=False) & ssl.OP_NO_RENEGOTIATION
    assert options(client_renegotiation=False) & ssl.OP_NO_RENEGOTIATION
    assert options() & ssl.OP_NO_TICKET
