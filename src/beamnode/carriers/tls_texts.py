"""What went wrong with TLS, in words: OpenSSL's reasons and the peer's alerts, and what to do about them."""

from __future__ import annotations

import ssl
from typing import Final

from beamnode.carriers.base import Address
from beamnode.carriers.texts import format_address
from beamnode.errors import NetworkError, TlsError

# What this side does not accept. By OpenSSL's words for a certificate that it refused (X509_verify_cert_error_string).
_REFUSED: Final = {
    "certificate has expired": "{its} has expired: renew it (beamnode certs --force, or your CA)",
    "certificate is not yet valid": "{its} is not valid yet: check the clocks of both hosts",
    "unable to get local issuer certificate": "{its} was not issued by a CA in this node's cacertfile",
    "unable to get issuer certificate": "{its} was not issued by a CA in this node's cacertfile",
    "unable to verify the first certificate": "{its} was not issued by a CA in this node's cacertfile",
    "self-signed certificate": "{its} is signed by itself, and is not in this node's cacertfile",
    "self-signed certificate in certificate chain": "{its} was not issued by a CA in this node's cacertfile",
    "certificate signature failure": "{its} was not signed by the CA of that name in this node's cacertfile",
    "unsuitable certificate purpose": "{its} is not made for {purpose} (extended key usage); make it for both",
    "unsupported certificate purpose": "{its} is not made for {purpose} (extended key usage); make it for both",
    "certificate revoked": "{its} was revoked",
}

# What the peer did not accept: its alert, which OpenSSL gives as a reason.
_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the CA of this node's certificate: put that CA into its cacertfile",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that this node's certificate has expired: renew it; or "
    "compare the clocks: OTP says the same of one that is not valid yet",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that this node's certificate was revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this node's certificate: its log says why",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it cannot use this node's certificate (its key, or what it is made for)",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept this node's certificate: its log says why",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of this node: give certfile and keyfile",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the two have no version of TLS in common: compare `versions` on both sides",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": "it finds the ciphers of this node too weak",
    "TLSV1_ALERT_ACCESS_DENIED": "it denies this node access, by its certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "it could not check a signature of this node: do certificate and key belong together?",
    "TLSV1_ALERT_INTERNAL_ERROR": "it had an error of its own: its log says which",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know the host name that this node dialled",
    "TLSV1_ALERT_NO_RENEGOTIATION": "it does not renegotiate",
}

# Alerts whose meaning depends on who sends them: one that was dialled, or one that has dialled.
_BY_SERVER: Final = {
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it wants a certificate of this node, and got none (give certfile and keyfile), "
    "or the two have no cipher in common: its log says which",
}
_BY_CLIENT: Final = {
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it does not accept this node's certificate, most likely because that is not for "
    "the host in this node's name, or the two have no cipher in common: its log says which",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this node's certificate, most likely because that is not for "
    "the host in this node's name: its log says why",
}

# What the two could not agree on.
_OTHERS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate, and this node wants one (fail_if_no_peer_cert): give "
    "it certfile and keyfile in its client options",
    "WRONG_VERSION_NUMBER": "it does not speak TLS, or no version that is allowed here: was it started with "
    "-proto_dist inet_tls?",
    "UNSUPPORTED_PROTOCOL": "the two have no version of TLS in common: compare `versions` on both sides",
    "NO_SHARED_CIPHER": "the two have no cipher in common: compare `ciphers` and the kind of key (RSA, EC)",
    "NO_CIPHERS_AVAILABLE": "no cipher is left: see `ciphers` and `versions`",
    "HTTP_REQUEST": "it speaks HTTP",
}


def failure(peer: Address, error: ssl.SSLError | ValueError, *, dialled: bool, established: bool = False) -> TlsError:
    """What ended TLS with a peer: an error of this side, or an alert of the other's."""
    where = format_address(peer)
    failed = TlsError(f"TLS with {where} {'broke' if established else 'failed'}: {_cause(error, dialled)}")
    failed.__cause__ = error
    return failed


def _cause(error: ssl.SSLError | ValueError, dialled: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _refused(error, dialled)
    reason = getattr(error, "reason", None) or str(error)
    known = (_BY_SERVER if dialled else _BY_CLIENT).get(reason) or _ALERTS.get(reason) or _OTHERS.get(reason)
    if known is not None:
        return f"{known} ({reason})"
    return f"the peer's alert {reason}" if "_ALERT_" in reason else reason


def _refused(error: ssl.SSLCertVerificationError, dialled: bool) -> str:
    """Why OpenSSL did not accept the peer's certificate."""
    words = str(error.verify_message).rstrip(".")
    known = _REFUSED.get(words)
    if known is None and "mismatch" in words:  # of the host name, which OpenSSL says
        return f"{words}; issue one for the host in the node's name, or dial it by the host that it is for"
    if known is None:
        return f"its certificate is refused: {words}"
    return known.format(its="its certificate", purpose="servers" if dialled else "clients")


def no_tls(peer: Address, data: bytes) -> TlsError:
    """The first bytes of a peer that does not speak TLS."""
    if data[2:3] in (b"n", b"N") and data[0] < 16:
        what = "it is a node over plain TCP: start it with -proto_dist inet_tls, or have this node listen on Tcp, too"
    elif data.split(b" ")[0] in (b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT"):
        what = "it speaks HTTP"
    else:
        what = f"it begins with {data[:8]!r}"
    return TlsError(f"{format_address(peer)} does not speak TLS, which is expected here: {what}")


def closed_in_handshake(peer: Address, error: NetworkError | None, *, dialled: bool) -> TlsError:
    """The connection ended in the middle of the TLS handshake, and no alert said why."""
    ended = f"closed the connection during the TLS handshake{_how(error)}"
    advice = (
        "does it speak TLS (-proto_dist inet_tls), with a certfile for its server side? Its log says more"
        if dialled
        else "it may not accept this node's certificate; its log says more"
    )
    return TlsError(f"{format_address(peer)} {ended}: {advice}")


def closed_after_handshake(peer: Address, error: NetworkError) -> TlsError:
    """With TLS 1.3 who dials is done before its certificate was looked at; a reset may overtake the alert."""
    return TlsError(
        f"{format_address(peer)} closed the connection right after the TLS handshake{_how(error)}: most likely it does "
        "not accept this node's certificate (its CA, its dates), or wants one and got none; its log says which"
    )


def _how(error: NetworkError | None) -> str:
    cause = None if error is None else error.__cause__
    return f" ({cause.strerror})" if isinstance(cause, OSError) and cause.strerror else ""
