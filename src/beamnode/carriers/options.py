"""Options of sockets by the names that OTP's `inet` has for them: what `net_kernel:setopts/2` can change."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Final

from beamnode.carriers.texts import cause_of
from beamnode.errors import NetworkError, UsageError

Value = bool | int

_BOOLEAN: Final = {
    "nodelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "reuseaddr": (socket.SOL_SOCKET, socket.SO_REUSEADDR),
}
_INTEGER: Final = {
    "sndbuf": (socket.SOL_SOCKET, socket.SO_SNDBUF),
    "recbuf": (socket.SOL_SOCKET, socket.SO_RCVBUF),
    "tos": (socket.IPPROTO_IP, socket.IP_TOS),
} | ({"priority": (socket.SOL_SOCKET, socket.SO_PRIORITY)} if hasattr(socket, "SO_PRIORITY") else {})


def check(options: Mapping[str, Value]) -> None:
    """Errors: UsageError for an unknown option, or a value that it cannot have."""
    for name, value in options.items():
        check_name(name)
        if isinstance(value, bool) is not (name in _BOOLEAN) or not isinstance(value, int):
            raise UsageError(f"option {name} is {'True or False' if name in _BOOLEAN else 'an integer'}, not {value!r}")


def check_name(name: str) -> None:
    if name not in _BOOLEAN and name not in _INTEGER:
        raise UsageError(f"no option {name!r} of a socket; known: {', '.join([*_BOOLEAN, *_INTEGER])}")


def get(connected: socket.socket, names: Sequence[str]) -> dict[str, Value]:
    """The values of options. Errors: UsageError, NetworkError (the socket's end)."""
    for name in names:
        check_name(name)
    try:
        return {name: _get(connected, name) for name in names}
    except OSError as error:
        raise NetworkError(f"cannot read options of the socket: {cause_of(error)}") from error


def _get(connected: socket.socket, name: str) -> Value:
    if name in _BOOLEAN:
        return bool(connected.getsockopt(*_BOOLEAN[name]))
    return connected.getsockopt(*_INTEGER[name])


def set(connected: socket.socket, options: Mapping[str, Value]) -> None:
    """Set options. Errors: UsageError, NetworkError (the system refuses)."""
    check(options)
    try:
        for name, value in options.items():
            connected.setsockopt(*(_BOOLEAN.get(name) or _INTEGER[name]), int(value))
    except OSError as error:
        raise NetworkError(f"cannot set options of the socket: {cause_of(error)}") from error
