"""Addresses and the system's errors, in words: what every carrier over sockets says of them."""

from __future__ import annotations

import os

from beamnode.carriers.base import Address
from beamnode.errors import NetworkError


def format_address(address: Address) -> str:
    """Host and port as people write them: `127.0.0.1:4369`, `[::1]:4369`. Of a unix socket the file."""
    host, port = address
    if host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cause_of(error: OSError) -> str:
    """The system's word for it: "Connection refused", not "[Errno 111] Connect call failed ...".

    asyncio wraps errors in texts of its own, so that the word is looked up by number.
    """
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def connection_error(peer: Address, cause: BaseException | None) -> NetworkError | None:
    """What a receiver is told of the end of its stream; None for an orderly one."""
    if cause is None:
        return None
    what = f"lost: {cause_of(cause)}" if isinstance(cause, OSError) else f"ended by an error: {cause!r}"
    error = NetworkError(f"connection with {format_address(peer)} {what}")
    error.__cause__ = cause
    return error


def address_of(name: object) -> Address:
    """`(host, port)` of what the system gave: four values on IPv6, a path on unix sockets, nothing when it is gone."""
    if isinstance(name, tuple) and len(name) >= 2:
        return (str(name[0]), int(name[1]))
    return (name, 0) if isinstance(name, str) else ("", 0)
