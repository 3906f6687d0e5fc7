"""What an epmd may answer: it is read, or more is wanted, or it is refused; and so whatever pieces it comes in.

The first byte chooses which question was asked; the rest is the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from beamnode.errors import PeerError
from beamnode.limits import Limits
from beamnode.wire import epmd

LIMITS = Limits(epmd_response_bytes_max=300)


def one_input(data: bytes) -> None:
    if not data:
        return
    answer = data[1:]
    if data[0] % 3 == 0:
        _grows(answer, epmd.decode_alive_answer, _encode_alive)
    elif data[0] % 3 == 1:
        _grows(answer, lambda data: epmd.decode_port_answer(data, LIMITS), epmd.encode_port_answer)
    else:
        _names(answer)


def _encode_alive(answer: epmd.AliveAnswer) -> bytes:
    return epmd.encode_alive_answer(answer, 6)


def _grows(answer: bytes, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> None:
    """Once there is an answer, or a refusal, what comes after it changes nothing."""
    ended = None
    for end in range(len(answer) + 1):
        try:
            found = decode(answer[:end])
        except PeerError as error:
            found = error
        if ended is None:
            ended = found
        elif isinstance(ended, PeerError):
            assert type(found) is type(ended), (found, ended)
        else:
            assert found == ended
    if ended is not None and not isinstance(ended, PeerError):
        assert decode(encode(ended)) == ended


def _names(answer: bytes) -> None:
    try:
        found = epmd.decode_names_answer(answer)
    except PeerError:
        assert len(answer) < 4
        return
    for name, port in found.nodes:
        assert "\n" not in name
        assert 0 <= port <= 99999
    again = epmd.decode_names_answer(epmd.encode_names_answer(found))
    assert again == found


def fresh(random: Random) -> bytes:
    kind = random.randrange(3)
    name = random.choice(("a", "\u00e9", "x" * 255, "a b", "", "name x at port 1"))
    if kind == 0:
        creation = random.choice((None, 0, 1, 2**31))
        answer = epmd.encode_alive_answer(epmd.AliveAnswer(creation), 6)
        if random.randrange(2):
            answer = b"y" + random.choice((b"\0", b"\1")) + b"\0\3"
    elif kind == 1:
        extra = random.choice((b"", b"extra", bytes(250)))
        entry = epmd.NodeEntry(name, random.randrange(65536), extra=extra)
        answer = epmd.encode_port_answer(epmd.PortAnswer(random.choice((entry, entry, None))))
    else:
        answer = epmd.encode_names_answer(epmd.NamesAnswer(4369, ((name, 1), ("b", 65535))))
    return bytes((kind,)) + answer
