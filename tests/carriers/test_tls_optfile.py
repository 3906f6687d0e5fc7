"""Options from the file that `erl -ssl_dist_optfile` reads, and the terms in it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from beamnode import Atom
from beamnode.carriers.erlang_terms import ExternalFun, read_term
from beamnode.carriers.tls import Tls
from beamnode.carriers.tls_optfile import read_optfile
from beamnode.carriers.tls_options import CertKey
from beamnode.errors import UsageError
from contract import Joined, Recorder, Site, until
from support_certs import Certificates


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("[].", []),
        ("{}.", ()),
        ("  % a comment\n[a, 'B c', true, false].", [Atom("a"), Atom("B c"), True, False]),
        ("[1, -2, 1_000, 16#fF, -2#101, 2.5, -1.0e-3, $a, $\\n].", [1, -2, 1000, 255, -5, 2.5, -0.001, 97, 10]),
        (r'"a\"b\\ \x41\x{20AC}\101\n" "joined".', 'a"b\\ A€A\njoined'),
        ('<<"text", 0, 255>>.', b"text\0\xff"),
        ("<<>>.", b""),
        ('#{a => [1], <<"k">> => {x, #{}}}.', {Atom("a"): [1], b"k": (Atom("x"), {})}),
        ("{fun inet_tls_dist:verify_client/3, []}.", (ExternalFun("inet_tls_dist", "verify_client", 3), [])),
        ("funny.", Atom("funny")),
        (r"'it\'s'.", Atom("it's")),
    ],
)
def test_terms(text: str, term: Any) -> None:
    assert read_term(text) == term


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "line 1: it ends in the middle of a term, or is empty"),
        ("[a,\n b", "line 2: it ends where ',' is due"),
        ("[a]", "it ends where '.' is due"),
        ("[a}.", "} where ',' is due"),
        ("[a,].", "] where a term is due"),
        ("a. b.", "more than one term"),
        ("[\n\nFoo].", "line 3: 'F' begins no term"),
        ('{password, "unfinished.', "'\"' begins no term"),
        ('{password "secret"}.', "string where ',' is due"),
        ("16#xyz.", "invalid literal"),
        ("77#1.", "base"),
        ("<<256>>.", "a binary of other things"),
        ('<<"\\x{20AC}">>.', "latin-1"),
        ("#{[] => 1}.", "a key of a map"),
        ("[" * 100, "more than 64 levels"),
        ("fun () -> ok end.", "'(' begins no term"),
        ("1 + 1.", "begins no term"),
    ],
)
def test_texts_that_are_no_terms(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=r"line \d+: ") as raised:
        read_term(text)
    assert what in str(raised.value)
    assert "secret" not in str(raised.value)


def optfile(folder: Path, text: str) -> Path:
    file = folder / "ssl_dist.conf"
    file.write_bytes(text.encode("latin-1"))
    return file


def test_every_option(tmp_path: Path) -> None:
    file = optfile(
        tmp_path,
        """
        [{server, [{certfile, "/a/cert.pem"}, {keyfile, <<"/a/key.pem">>}, {password, "p"}, {cacertfile, "/a/ca.pem"},
                   {verify, verify_peer}, {fail_if_no_peer_cert, false}, {versions, ['tlsv1.3', 'tlsv1.2']},
                   {ciphers, ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"]}, {depth, 2},
                   {dhfile, "/a/dh.pem"}, honor_cipher_order, {client_renegotiation, false}, {crl_check, false},
                   {secure_renegotiate, true}, {verify_fun, {fun inet_tls_dist:verify_client/3, []}}, {depth, 9}]},
         {client, [{verify, verify_none}, {server_name_indication, disable}, {ciphers, "A:B"}, {certs_keys,
                    [#{certfile => "/b.pem"}, #{certfile => "/c.pem", keyfile => "/k", password => "q"}]}]}].
        """,
    )
    assert read_optfile(file) == {
        "server": {
            "certfile": "/a/cert.pem",
            "keyfile": "/a/key.pem",
            "password": "p",
            "cacertfile": "/a/ca.pem",
            "verify": True,
            "fail_if_no_peer_cert": False,
            "versions": ["tlsv1.3", "tlsv1.2"],
            "ciphers": ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"],
            "depth": 2,
            "dhfile": "/a/dh.pem",
            "honor_cipher_order": True,
            "client_renegotiation": False,
        },
        "client": {
            "verify": False,
            "server_name_indication": False,
            "ciphers": ["A", "B"],
            "certs_keys": [CertKey("/b.pem"), CertKey("/c.pem", "/k", "q")],
        },
    }


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("{signature_algs, []}", "server: option signature_algs cannot be honoured here; leave it out"),
        ('{cacertfiel, "ca.pem"}', "server: option cacertfiel cannot be honoured here; is cacertfile meant?"),
        ("{crl_check, peer}", "server: crl_check cannot be honoured here"),
        ("{verify_fun, {fun mydist:verify/3, []}}", "no function of Erlang can be called here (fun mydist:verify/3)"),
        ("{verify, true}", "verify must be verify_peer or verify_none"),
        ('{versions, "tlsv1.3"}', "versions must be a list of atoms"),
        ("{depth, many}", "depth must be an integer"),
        ("{password, secret}", "password must be a string"),
        ("{fail_if_no_peer_cert, yes}", "fail_if_no_peer_cert must be true or false"),
        ("{ciphers, [#{cipher => aes_256_gcm}]}", "ciphers must be a list of names in quotes"),
        ('{certs_keys, [#{cert => "x"}]}', "certs_keys must be a list of #{certfile => ..., keyfile => ...}"),
        ("{a, b, c}", "{Option, Value} is due where tuple is"),
    ],
)
def test_options_that_cannot_be_honoured(tmp_path: Path, options: str, what: str) -> None:
    file = optfile(tmp_path, f"[{{server, [{options}]}}].")
    with pytest.raises(UsageError) as raised:
        read_optfile(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert what in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["{server, []}.", "[server].", "[{peer, []}].", "[{server, none}]."])
def test_files_of_another_shape(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"it must be a list of \{server, Options\} and \{client, Options\}"):
        read_optfile(optfile(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot read {tmp_path}/none: No such file"):
        read_optfile(tmp_path / "none")


def test_the_encoding_of_the_file(tmp_path: Path) -> None:
    file = optfile(tmp_path, '[{server, [{certfile, "/h\xf6me"}]}].')
    assert read_optfile(file)["server"]["certfile"] == "/h\xf6me"
    file.write_text('%% coding: utf-8\n[{server, [{certfile, "/höme"}]}].', encoding="utf-8")
    assert read_optfile(file)["server"]["certfile"] == "/höme"
    file.write_bytes(b"%% -*- coding: utf-8 -*-\n\xff.")
    with pytest.raises(UsageError, match="says that it is UTF-8, and is not"):
        read_optfile(file)


def test_what_changes_nothing_about_who_is_let_in_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert read_optfile(optfile(tmp_path, "[{client, [{reuse_sessions, true}, inet]}].")) == {"client": {}}
    assert "TLS client: option reuse_sessions is left as it is here" in caplog.text


def test_a_carrier_from_it(certificates: Certificates) -> None:
    tls = Tls.from_optfile(certificates.optfile("good"), listen_address="127.0.0.1")

    async def main() -> None:
        async with Joined(Site(tls, tls, "127.0.0.1")) as joined:
            joined.near_stream.write([b"hello"])
            await until(lambda: joined.far.received == b"hello")

    asyncio.run(main())


def test_a_side_that_is_not_in_it_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    files = f'{{certfile, "{certificates.cert("good")}"}}, {{keyfile, "{certificates.key("good")}"}}'
    cas = f'{{cacertfile, "{certificates.directory}/ca.pem"}}'

    async def main() -> None:
        client = Tls.from_optfile(optfile(tmp_path, f"[{{client, [{files}, {cas}]}}]."))
        with pytest.raises(UsageError, match="cannot listen over TLS"):
            await client.listen(Recorder().attach)
        server = Tls.from_optfile(optfile(tmp_path, f"[{{server, [{files}, {cas}]}}]."))
        with pytest.raises(UsageError, match="cannot dial over TLS"):
            await server.dial("127.0.0.1", 1, Recorder().attach, timeout=1)

    asyncio.run(main())


def test_peers_are_verified_unless_it_says_otherwise(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first example of OTP's guide verifies nobody who dials: here that has to be said."""
    files = f'{{certfile, "{certificates.cert("good")}"}}, {{keyfile, "{certificates.key("good")}"}}'
    with pytest.raises(UsageError, match=r"TLS server: peers are to be verified.*\{verify, verify_none\}"):
        Tls.from_optfile(optfile(tmp_path, f"[{{server, [{files}]}}]."))
    Tls.from_optfile(optfile(tmp_path, f"[{{server, [{files}, {{verify, verify_none}}]}}]."))
    assert "TLS without verification: whoever dials this node may be anybody" in caplog.text


def test_the_program_goes_before_the_file(certificates: Certificates) -> None:
    tls: Any = Tls.from_optfile(certificates.optfile("good"), server={"check_hostname": False})
    assert tls._server.options.check_hostname is False
    assert tls._client.options.check_hostname is True
