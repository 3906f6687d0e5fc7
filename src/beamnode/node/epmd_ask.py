"""One question to an epmd: resolve its host, connect, write the request, read the answer, all in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from ipaddress import ip_address
from typing import TypeVar

from beamnode.errors import EpmdError, LimitExceeded, NodeNotFound, ProtocolError, UsageError
from beamnode.limits import DEFAULT_LIMITS, Limits
from beamnode.wire import epmd as wire

DEFAULT_PORT = 4369
IPV4_LOOPBACK = "127.0.0.1"
IPV6_LOOPBACK = "::1"
LOOPBACKS = (IPV4_LOOPBACK, IPV6_LOOPBACK)

_READ_BYTES = 16 * 1024

Answer = TypeVar("Answer")


class NoEpmd(EpmdError):
    """Nothing accepts connections there: no epmd runs, or a firewall is between."""


def port_of(env: Mapping[str, str]) -> int:
    """Read ERL_EPMD_PORT, 4369 where there is none. Raises UsageError."""
    text = env.get("ERL_EPMD_PORT", "") or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 2**16):
        raise UsageError(f"ERL_EPMD_PORT is {text!r}: set it to a port, 1 to 65535")
    return int(text)


def addresses_of_text(text: str | None) -> list[str]:
    """Read a list of IP addresses, between commas or blanks, as ERL_EPMD_ADDRESS has it. Raises UsageError."""
    addresses = (text or "").replace(",", " ").split()
    for address in addresses:
        try:
            ip_address(address)
        except ValueError:
            raise UsageError(f"{address!r} is no IP address: epmd takes addresses, between commas") from None
    return addresses


async def addresses_of_host(host: str) -> list[str]:
    """Resolve a host to its addresses, IPv4 and IPv6, as the system orders them. Raises NodeNotFound."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # UnicodeError, of a label too long, is a ValueError
        raise NodeNotFound(f"no such host: {host!r} ({error}): check its name, or the resolver of this host") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@contextlib.asynccontextmanager
async def connection(address: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and close at the end. Raises NoEpmd when that fails, EpmdError when it breaks later."""
    reader, writer = await connect(address, port)
    try:
        yield reader, writer
    except OSError as error:
        raise EpmdError(f"the connection to epmd at {address} port {port} broke: {reason_of(error)}") from error
    finally:
        writer.close()


async def connect(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect; closing the writer is yours. Raises NoEpmd."""
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        raise NoEpmd(f"no epmd answers at {address} port {port}: {reason_of(error)}") from error
    if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):  # TCP's simultaneous open, on loopback
        writer.transport.abort()
        raise NoEpmd(f"no epmd answers at {address} port {port}: the connection reached itself")
    return reader, writer


async def read_answer(
    reader: asyncio.StreamReader, decode: Callable[[bytes], Answer | None], limits: Limits = DEFAULT_LIMITS
) -> Answer:
    """Read until `decode` gives something. Raises EpmdError: the connection ended before, or that is no answer."""
    data = b""
    while True:
        try:
            answer = decode(data)
        except (ProtocolError, LimitExceeded) as error:
            raise EpmdError(f"{error}: is it an epmd at all?") from error
        if answer is not None:
            return answer
        more = await reader.read(_READ_BYTES)
        if not more:
            raise EpmdError("epmd closed the connection before it had answered")
        data += more
        _check_length(data, limits)


async def read_to_end(reader: asyncio.StreamReader, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Read until epmd closes. Raises EpmdError when it sends more than the limit."""
    data = bytearray()
    while more := await reader.read(_READ_BYTES):
        data += more
        _check_length(data, limits)
    return bytes(data)


async def ask_for_names(address: str, port: int, limits: Limits = DEFAULT_LIMITS) -> wire.NamesAnswer:
    """Ask one epmd for its nodes. Raises EpmdError."""
    async with connection(address, port) as (reader, writer):
        writer.write(wire.encode_request(wire.NamesRequest()))
        data = await read_to_end(reader, limits)
    try:
        return wire.decode_names_answer(data)
    except ProtocolError as error:
        raise EpmdError(f"what listens at {address} port {port} is no epmd: {error}") from error


def reason_of(error: OSError) -> str:
    """Say in a few words what the system said."""
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__


def _check_length(data: bytes | bytearray, limits: Limits) -> None:
    if len(data) > limits.epmd_response_bytes_max:
        raise EpmdError(
            f"epmd sent more than {limits.epmd_response_bytes_max} bytes: raise limits.epmd_response_bytes_max"
        )
