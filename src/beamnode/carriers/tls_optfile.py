"""The file that `erl -ssl_dist_optfile` reads, as options of `Tls`.

    [{server, [{certfile, "/etc/tls/node.pem"}, {keyfile, "/etc/tls/node-key.pem"}, {cacertfile, "/etc/tls/ca.pem"},
               {verify, verify_peer}, {fail_if_no_peer_cert, true}]},
     {client, [{certfile, ...}, {keyfile, ...}, {cacertfile, ...}, {verify, verify_peer}]}].

Options that only say how fast, or what OpenSSL does anyway, are noted in the log and left; those that could make a
connection less safe than the file says are errors. Source: ssl_dist_sup.erl (`consult/1`), ssl.erl.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from beamnode.carriers.erlang_terms import ExternalFun, read_term
from beamnode.carriers.tls_options import CertKey
from beamnode.errors import UsageError
from beamnode.etf import Atom

log = logging.getLogger("beamnode.connection")

_CODING: Final = re.compile(rb"coding[:=]\s*([-a-zA-Z0-9]+)")

# Without meaning for who is let in, or what OpenSSL and this library always do.
_LEFT: Final = frozenset(
    (
        *("active", "backlog", "binary", "buffer", "delay_send", "deliver", "erl_dist", "high_watermark"),
        *("inet", "inet6", "keepalive", "linger", "list", "low_watermark", "mode", "nodelay", "packet", "priority"),
        *("recbuf", "reuseaddr", "send_timeout", "send_timeout_close", "sndbuf", "tos"),
        *("hibernate_after", "key_update_at", "ktls", "log_alert", "log_level", "middlebox_comp_mode"),
        *("renegotiate_at", "reuse_session", "reuse_sessions", "secure_renegotiate", "session_tickets"),
        *("early_data", "anti_replay", "use_ticket", "handshake", "max_handshake_size"),
        *("honor_ecc_order", "padding_check", "beast_mitigation", "receiver_spawn_opts", "sender_spawn_opts"),
    )
)


def read_optfile(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The options of `server` and `client`, those of them that the file has. Errors: UsageError, with path and line."""
    try:
        return _sides(read_term(_text(Path(path).read_bytes())))
    except OSError as error:
        raise UsageError(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except UsageError as error:
        raise UsageError(f"{os.fspath(path)}: {error}") from None


def _text(data: bytes) -> str:
    """Latin-1, unless one of the first two lines says otherwise (epp:read_encoding/1)."""
    coding = _CODING.search(b"\n".join(data.split(b"\n", 2)[:2]))
    utf8 = coding is not None and coding[1].lower() == b"utf-8"
    try:
        return data.decode("utf-8" if utf8 else "latin-1")
    except UnicodeDecodeError:
        raise UsageError("it says that it is UTF-8, and is not") from None


def _sides(term: Any) -> dict[str, dict[str, Any]]:
    sides: dict[str, dict[str, Any]] = {}
    for side in term if isinstance(term, list) else [None]:
        match side:
            case (Atom(name="server" | "client" as who), [*options]):
                sides[who] = _options(options, who)
            case _:
                raise UsageError("it must be a list of {server, Options} and {client, Options}")
    return sides


def _options(given: list[Any], who: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for option in given:
        match option:
            case Atom(name=name):  # as in any property list
                value: Any = True
            case (Atom(name=name), value):
                pass
            case _:
                raise UsageError(f"{who}: {{Option, Value}} is due where {type(option).__name__} is")
        if name in _LEFT:
            log.info("TLS %s: option %s is left as it is here; it changes nothing about who is let in", who, name)
        elif name == "verify_fun":
            _check_verify_fun(value, who)
        elif name not in _READ:
            meant = get_close_matches(name, _READ, 1, 0.85)
            advice = f"is {meant[0]} meant?" if meant else "leave it out, or give Tls an SSLContext"
            raise UsageError(f"{who}: option {name} cannot be honoured here; {advice}")
        elif name not in options:  # the first one counts
            options[name] = _READ[name](name, value, who)
    return {name: value for name, value in options.items() if value is not _NOTHING}


def _check_verify_fun(value: Any, who: str) -> None:
    """OTP's own is what is done here anyway, and more: the host is that of the name that the peer says."""
    function = value[0] if isinstance(value, tuple) and value else value
    if function != ExternalFun("inet_tls_dist", "verify_client", 3):
        raise UsageError(f"{who}: verify_fun: no function of Erlang can be called here ({function})")


_NOTHING: Final = object()


def _wrong(name: str, what: str, who: str) -> UsageError:
    return UsageError(f"{who}: {name} must be {what}")  # not what it is: that may be a password


def _string(name: str, value: Any, who: str) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise _wrong(name, "a string", who)
    return value


def _boolean(name: str, value: Any, who: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", who)
    return value


def _integer(name: str, value: Any, who: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "an integer", who)
    return value


def _verify(name: str, value: Any, who: str) -> bool:
    if value not in (Atom("verify_peer"), Atom("verify_none")):
        raise _wrong(name, "verify_peer or verify_none", who)
    return bool(value is Atom("verify_peer"))


def _atoms(name: str, value: Any, who: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, Atom) for each in value):
        raise _wrong(name, "a list of atoms, as ['tlsv1.2', 'tlsv1.3']", who)
    return [each.name for each in value]


def _ciphers(name: str, value: Any, who: str) -> list[str]:
    if isinstance(value, str):
        return value.split(":")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _wrong(name, 'a list of names in quotes, as ["ECDHE-RSA-AES256-GCM-SHA384"]', who)
    return list(value)


def _server_name(name: str, value: Any, who: str) -> str | bool:
    return False if value is Atom("disable") else _string(name, value, who)


def _no_crl_check(name: str, value: Any, who: str) -> object:
    if value is not False:
        raise UsageError(f"{who}: crl_check cannot be honoured here: give Tls an SSLContext with the CRLs loaded")
    return _NOTHING


def _certs_keys(name: str, value: Any, who: str) -> list[CertKey]:
    found = []
    for each in value if isinstance(value, list) else [None]:
        if not isinstance(each, dict):
            raise _wrong(name, "a list of #{certfile => ..., keyfile => ...}", who)
        pair = {str(key): _string(str(key), part, who) for key, part in each.items()}
        if "certfile" not in pair or not pair.keys() <= {"certfile", "keyfile", "password"}:
            raise _wrong(name, "a list of #{certfile => ..., keyfile => ...}, with password at most", who)
        found.append(CertKey(**pair))
    return found


_READ: Final[dict[str, Callable[[str, Any, str], Any]]] = {
    "certfile": _string,
    "keyfile": _string,
    "password": _string,
    "cacertfile": _string,
    "dhfile": _string,
    "certs_keys": _certs_keys,
    "verify": _verify,
    "fail_if_no_peer_cert": _boolean,
    "honor_cipher_order": _boolean,
    "client_renegotiation": _boolean,
    "versions": _atoms,
    "ciphers": _ciphers,
    "depth": _integer,
    "server_name_indication": _server_name,
    "crl_check": _no_crl_check,
}
