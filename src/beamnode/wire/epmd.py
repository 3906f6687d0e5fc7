"""epmd, Erlang's port mapper: its messages, for both sides. What a server does with them: `epmd_server.py`.

A node registers its name and port at the epmd of its own host, and the registration lasts as long as that connection.
Who looks for a node asks the epmd of the node's host for the port. A client sends one request per connection:

    length:16 request          the length does not count itself; the first byte of the request says which it is

    120 ALIVE2_REQ             registers -> 118 ALIVE2_X_RESP (creation of 32 bits) when the highest version is 6 or
                               more, else 121 ALIVE2_RESP (16 bits); the connection stays open
    122 PORT_PLEASE2_REQ       asks for one name -> 119 PORT2_RESP
    110 NAMES_REQ              -> the port of epmd (32 bits), then text, a line for each node
    100 DUMP_REQ               the same for people, with the names that were
    107 KILL_REQ               -> "OK" or "NO"
    115 STOP_REQ               takes a name from its node -> "STOPPED" or "NOEXIST"

Every answer but that to ALIVE2_REQ is followed by a close. Sources: erl_dist_protocol; erts/epmd/src/epmd_srv.c for the
rules; erl_epmd.erl for what a node does. Sans-I/O: nothing here opens a socket or knows a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import assert_never

from beamnode.errors import LimitExceeded, ProtocolError
from beamnode.limits import DEFAULT_LIMITS, Limits

ALIVE2_REQ = 120
ALIVE2_RESP = 121
ALIVE2_X_RESP = 118
PORT_PLEASE2_REQ = 122
PORT2_RESP = 119
NAMES_REQ = 110
DUMP_REQ = 100
KILL_REQ = 107
STOP_REQ = 115

VISIBLE = 77  # 'M', what OTP sends for every node
HIDDEN = 72  # 'H', what C nodes send
PROTOCOL_TCP = 0
VERSION_HIGH = 6
VERSION_LOW = 5  # WIRE.md: OTP 25, 27 and 29 still say 5

NAME_CHARACTERS_MAX = 255
NAME_BYTES_MAX = 4 * NAME_CHARACTERS_MAX  # OTP: MAXSYMLEN
EXTRA_BYTES_MAX = NAME_BYTES_MAX
CREATION_MIN = 4  # 0 is no creation; 1 to 3 are those of nodes with a creation of two bits
CREATION_MAX = 2**32 - 1
REFUSED_CREATION = 99  # what OTP puts into the field when it refuses

LENGTH = Struct("!H")
_ALIVE2 = Struct("!BHBBHHH")  # tag, port, type, protocol, highest and lowest version, length of the name
_PORT2 = Struct("!BBHBBHHH")  # the same after a result
_ALIVE2_ANSWER = Struct("!BBH")
_ALIVE2_X_ANSWER = Struct("!BBI")
EPMD_PORT = Struct("!I")


# --- Messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node as epmd knows it: `name` is the part before the @, `port` where the node listens.

    A name that came off the wire and is not UTF-8 holds surrogates; `name_problem` finds it.
    """

    name: str
    port: int
    type: int = VISIBLE
    protocol: int = PROTOCOL_TCP
    version_high: int = VERSION_HIGH
    version_low: int = VERSION_LOW
    extra: bytes = b""

    @property
    def hidden(self) -> bool:
        """Whether it registered as a hidden node."""
        return self.type == HIDDEN


@dataclass(frozen=True, slots=True)
class AliveRequest:
    """Register this node for as long as the connection stays open."""

    node: NodeEntry


@dataclass(frozen=True, slots=True)
class PortRequest:
    """At which port does this node listen?"""

    name: str


@dataclass(frozen=True, slots=True)
class NamesRequest:
    """Which nodes are registered?"""


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """Which nodes are, and which were, registered?"""


@dataclass(frozen=True, slots=True)
class KillRequest:
    """epmd shall end."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Unregister the node of this name."""

    name: str


Request = AliveRequest | PortRequest | NamesRequest | DumpRequest | KillRequest | StopRequest


@dataclass(frozen=True, slots=True)
class AliveAnswer:
    """`creation` of the registration; None when epmd refused it (nearly always: the name is taken)."""

    creation: int | None


@dataclass(frozen=True, slots=True)
class PortAnswer:
    """The node that was asked for; None when epmd does not know it."""

    node: NodeEntry | None


@dataclass(frozen=True, slots=True)
class NamesAnswer:
    """The port that epmd itself serves, and (name, port) of each node, in the order in which epmd told them."""

    epmd_port: int
    nodes: tuple[tuple[str, int], ...]


def name_problem(name: str) -> str | None:
    """Say why `name` cannot be registered; None when it can.

    OTP's epmd wants 1 to 255 characters of UTF-8 without a NUL. Here blanks and control characters are refused as well:
    no node has them in its name (net_kernel refuses), and with them a name could forge lines of the NAMES answer.
    """
    if not name:
        return "it is empty"
    if len(name) > NAME_CHARACTERS_MAX:
        return f"it has {len(name)} characters; {NAME_CHARACTERS_MAX} are allowed"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "it is not valid UTF-8"
    if any(character.isspace() or character < " " or "\x7f" <= character <= "\x9f" for character in name):
        return "it contains a blank or a control character"
    return None


def encode_request(request: Request) -> bytes:
    """Give the bytes of a request, length included: write them as the first and only thing on a new connection."""
    match request:
        case AliveRequest(node):
            body = _encode_alive2(node)
        case PortRequest(name):
            body = bytes([PORT_PLEASE2_REQ]) + name_bytes(name)
        case NamesRequest():
            body = bytes([NAMES_REQ])
        case DumpRequest():
            body = bytes([DUMP_REQ])
        case KillRequest():
            body = bytes([KILL_REQ])
        case StopRequest(name):
            body = bytes([STOP_REQ]) + name_bytes(name)
        case _ as never:
            assert_never(never)
    return LENGTH.pack(len(body)) + body


def decode_request(body: bytes) -> Request:
    """Read one request, without its length. Raises ProtocolError.

    As lenient as epmd_srv.c: bytes after the end of a request are ignored, and a name may end with one NUL.
    """
    match body[:1]:
        case b"x":
            return AliveRequest(_decode_alive2(body))
        case b"z":
            return PortRequest(_asked_name(body))
        case b"n":
            return NamesRequest()
        case b"d":
            return DumpRequest()
        case b"k":
            return KillRequest()
        case b"s":
            return StopRequest(_asked_name(body))
        case _:
            raise ProtocolError(f"an epmd request of unknown kind {body[0] if body else 'nothing'}")


def encode_alive_answer(answer: AliveAnswer, version_high: int) -> bytes:
    """Give the answer to ALIVE2_REQ of a node whose highest version is `version_high` (it decides the form)."""
    result = 1 if answer.creation is None else 0
    creation = REFUSED_CREATION if answer.creation is None else answer.creation
    if version_high >= 6:
        return _ALIVE2_X_ANSWER.pack(ALIVE2_X_RESP, result, creation)
    return _ALIVE2_ANSWER.pack(ALIVE2_RESP, result, creation)


def decode_alive_answer(data: bytes) -> AliveAnswer | None:
    """Read the answer to ALIVE2_REQ; None: read more first. Raises ProtocolError. Bytes after it are not looked at."""
    if not data:
        return None
    if data[0] not in (ALIVE2_RESP, ALIVE2_X_RESP):
        raise ProtocolError(f"epmd answered a registration with a message of kind {data[0]}")
    form = _ALIVE2_X_ANSWER if data[0] == ALIVE2_X_RESP else _ALIVE2_ANSWER
    if len(data) < form.size:
        return None
    _, result, creation = form.unpack_from(data)
    return AliveAnswer(None if result else creation)


def encode_port_answer(answer: PortAnswer) -> bytes:
    """Give the answer to PORT_PLEASE2_REQ."""
    node = answer.node
    if node is None:
        return bytes([PORT2_RESP, 1])
    name = name_bytes(node.name)
    head = _PORT2.pack(
        PORT2_RESP, 0, node.port, node.type, node.protocol, node.version_high, node.version_low, len(name)
    )
    return head + name + LENGTH.pack(len(node.extra)) + node.extra


def decode_port_answer(data: bytes, limits: Limits = DEFAULT_LIMITS) -> PortAnswer | None:
    """Read the answer to PORT_PLEASE2_REQ; None: read more first. Raises ProtocolError, LimitExceeded."""
    if data[:1] not in (b"", b"w"):
        raise ProtocolError(f"epmd answered a question for a port with a message of kind {data[0]}")
    if len(data) < 2:
        return None
    if data[1] != 0:
        return PortAnswer(None)
    if len(data) < _PORT2.size:
        return None
    _, _, port, kind, protocol, version_high, version_low, name_length = _PORT2.unpack_from(data)
    extra_at = _PORT2.size + name_length + LENGTH.size
    if len(data) < extra_at:
        _check_answer_length(extra_at, limits)
        return None
    end = extra_at + LENGTH.unpack_from(data, extra_at - LENGTH.size)[0]
    _check_answer_length(end, limits)
    if len(data) < end:
        return None
    name = data[_PORT2.size : _PORT2.size + name_length].decode("utf-8", "surrogateescape")
    return PortAnswer(NodeEntry(name, port, kind, protocol, version_high, version_low, bytes(data[extra_at:end])))


def encode_names_answer(answer: NamesAnswer) -> bytes:
    """Give the answer to NAMES_REQ."""
    lines = [b"name %b at port %d\n" % (name_bytes(name), port) for name, port in answer.nodes]
    return EPMD_PORT.pack(answer.epmd_port) + b"".join(lines)


def decode_names_answer(data: bytes) -> NamesAnswer:
    """Read the answer to NAMES_REQ, whole: read until epmd closes first. Raises ProtocolError.

    A line that is none is left out, as erl_epmd does.
    """
    if len(data) < EPMD_PORT.size:
        raise ProtocolError(f"epmd answered a question for names with {len(data)} bytes; 4 at least are needed")
    nodes = []
    for line in data[EPMD_PORT.size :].split(b"\n")[:-1]:
        name, found, port = line.removeprefix(b"name ").rpartition(b" at port ")
        if found and line.startswith(b"name ") and port.isdigit() and len(port) <= 5:
            nodes.append((name.decode("utf-8", "replace"), int(port)))
    return NamesAnswer(EPMD_PORT.unpack_from(data)[0], tuple(nodes))


def _encode_alive2(node: NodeEntry) -> bytes:
    name = name_bytes(node.name)
    head = _ALIVE2.pack(ALIVE2_REQ, node.port, node.type, node.protocol, node.version_high, node.version_low, len(name))
    return head + name + LENGTH.pack(len(node.extra)) + node.extra


def _decode_alive2(body: bytes) -> NodeEntry:
    if len(body) < _ALIVE2.size + LENGTH.size:
        raise ProtocolError(f"an ALIVE2_REQ of {len(body)} bytes; 13 at least are needed")
    _, port, kind, protocol, version_high, version_low, name_length = _ALIVE2.unpack_from(body)
    extra_at = _ALIVE2.size + name_length + LENGTH.size
    if extra_at > len(body):
        raise ProtocolError(f"an ALIVE2_REQ whose name of {name_length} bytes does not fit into it")
    extra_length = LENGTH.unpack_from(body, extra_at - LENGTH.size)[0]
    if extra_at + extra_length > len(body):
        raise ProtocolError(f"an ALIVE2_REQ whose extra of {extra_length} bytes does not fit into it")
    name = body[_ALIVE2.size : _ALIVE2.size + name_length]
    if b"\0" in name:
        raise ProtocolError("an ALIVE2_REQ with a NUL in the name")
    extra = bytes(body[extra_at : extra_at + extra_length])
    return NodeEntry(name.decode("utf-8", "surrogateescape"), port, kind, protocol, version_high, version_low, extra)


def _asked_name(body: bytes) -> str:
    """Read the name that fills the rest of a request."""
    try:
        name = body[1:].removesuffix(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("an epmd request for a name that is not UTF-8") from None
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or "\0" in name:
        raise ProtocolError("an epmd request for a name that is empty, too long, or contains a NUL")
    return name


def name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _check_answer_length(length: int, limits: Limits) -> None:
    if length > limits.epmd_response_bytes_max:
        raise LimitExceeded(
            f"an answer of epmd announces {length} bytes; {limits.epmd_response_bytes_max} are allowed",
            "epmd_response_bytes_max",
        )
