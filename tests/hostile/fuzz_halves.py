"""The halves of a channel against each other: the same stream, spoiled and cut anyhow, gives the same in each.

What Python's half makes of the stream frame by frame is the expectation. A half that is given other pieces hands over
the same, in the same order, and ends with an error of the same class, before which the same came. What the records
become when they are sent on is compared as well, byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hostile_terms import Hostile

from beamnode.errors import EncodeError, PeerError
from beamnode.etf import Atom, Pid, Reference
from beamnode.limits import Limits
from beamnode.wire.control import AliasSend, DemonitorP, MonitorP, Record, RegSend, Send
from beamnode.wire.flags import DEFAULT, Flag, without
from beamnode.wire.halves import HALVES

ME, VICTIM = "evil@127.0.0.1", "victim@127.0.0.1"
WIDE = Limits(frame_bytes_max=1 << 20, inflated_bytes_max=1 << 20)
TIGHT = Limits(frame_bytes_max=1 << 20, message_bytes_max=300_000, fragment_sequences_max=3, atom_characters_max=20)
Halves = dict[str, tuple[Any, Any]]
OPTIONAL = Flag.FRAGMENTS, Flag.SEND_SENDER, Flag.ALTACT_SIG, Flag.ALIAS, Flag.EXIT_PAYLOAD


class Odd(Exception):
    """What an inbox raises now and then."""


class Log:
    """An inbox that writes down what it is handed, and raises at some of it."""

    def __init__(self, node: Atom, raises_at: frozenset[int]) -> None:
        self.node = node
        self.raises_at = raises_at
        self.all: list[str] = []
        self.records: list[Record] = []

    def _write(self, *what: Any) -> None:
        try:
            self.all.append(repr(what))
        except RecursionError:
            self.all.append("deep")
        if len(self.all) in self.raises_at:
            raise Odd

    def record(self, record: Record) -> None:
        self.records.append(record)
        match record:
            case Send(Pid(node=self.node) as to, message, sender, None, False) if sender is not None:
                self.message_to_pid(to.id, to.serial, to.creation, message)
            case RegSend(_, name, message, None, False):
                self.message_to_name(name, message)
            case AliasSend(_, alias, message, None, False):
                self.message_to_alias(alias, message)
            case MonitorP(sender, target, reference):
                self.monitor(sender, target, reference)
            case DemonitorP(sender, target, reference):
                self.demonitor(sender, target, reference)
            case _:
                self._write(record)

    def message_to_pid(self, id: int, serial: int, creation: int, message: Any) -> None:
        self._write("to", id, serial, creation, message)

    def message_to_name(self, name: Atom, message: Any) -> None:
        self._write("name", name, message)

    def message_to_alias(self, alias: Reference, message: Any) -> None:
        self._write("alias", alias, message)

    def monitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self._write("monitor", sender, target, reference)

    def demonitor(self, sender: Pid, target: Pid | Atom, reference: Reference) -> None:
        self._write("demonitor", sender, target, reference)


# --- Streams ----------------------------------------------------------------------------------------------------------


class Stream:
    """Frames by hand, behind a cache of few slots that are filled again and again."""

    def __init__(self, random: Random, *, big: bool = True) -> None:
        self.random = random
        self.big = big
        self.hostile = Hostile(random, ME, VICTIM)
        self.wild = random.choice((0, 0, 1, 4))  # how often it does what no peer may: most streams would end at once
        self.known: set[int] = set()
        self.open: dict[int, tuple[int, bytes]] = {}  # by sequence id: the next fragment's id, and what is left

    def odd(self, one_in: int) -> bool:
        return self.random.randrange(one_in) < self.wild

    def table(self) -> tuple[bytes, int]:
        """A table of atoms, and how many it lists. A slot may be in it twice, before and after it is filled again."""
        random = self.random
        count = random.choice((0, 1, 2, 3, 3, 4, 7, 40))
        nibbles = [0] * (count + 2)
        entries = b""
        for index in range(count):
            slot = random.choice((0, 1, 2, 3, 0x100, 0x7FF))
            new = slot not in self.known or random.randrange(8) == 0
            if new and not self.odd(200):
                self.known.add(slot)
                nibbles[index] = 8
                text = random.choice((VICTIM, ME, VICTIM, VICTIM, "a", "true", "nil", "", "\u00e9", "x" * 20)).encode()
                if self.odd(200):
                    text = random.choice((b"\xff", b"y" * 21))
                entries += bytes((slot & 255, len(text))) + text
            else:
                entries += bytes((slot & 255,))
            nibbles[index] |= slot >> 8
        flags = bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, count + 1, 2))
        return bytes((count,)) + (flags if count else b"") + entries, count

    def atom(self, count: int) -> bytes:
        if not count or self.random.randrange(12) == 0:
            return b"R" + self.random.randbytes(1) if self.odd(30) else b"w\x02in"
        return b"R" + bytes((self.random.randrange(count),))

    def pid(self, count: int) -> bytes:
        return b"X" + self.atom(count) + struct.pack(">III", self.random.randrange(4), 0, 2**32 - 1)

    def reference(self, count: int) -> bytes:
        words = 6 if self.odd(100) else self.random.choice((1, 3, 3, 5))
        return b"Z" + words.to_bytes(2) + self.atom(count) + bytes(4 + 4 * words)

    def binary(self) -> bytes:
        size = self.random.choice((0, 3, 300, 65_535, 65_536, 70_000, 140_000) if self.big else (0, 3, 30))
        claimed = self.random.choice((size + 1, 2**31, 2**32 - 1, 65_536)) if self.odd(40) else size
        return b"m" + claimed.to_bytes(4) + self.random.choice((b"a", b"\xff", b"m")) * size

    def payload(self, count: int, depth: int = 3) -> bytes:
        random = self.random
        kind = random.randrange(16 if depth else 10)
        if kind < 3:
            return self.atom(count)
        if kind < 5:
            return self.binary()
        if kind < 10:
            return random.choice(
                (
                    b"a\x01", b"j", b"b\xff\xff\xff\xff", b"k\0\x03abc", b"k\xff\xff" + b"m" * 65_535, b"n\x01\1\x05",
                    b"F" + bytes(8), b"qw\1aw\1ba\1", b"M\0\0\0\1\x04\xf0", b"o\0\0\1\0\0" + b"\1" * 256, b"w\4true",
                    b"d\0\1a", b"v\0\1b", self.pid(count), self.reference(count),
                    random.choice((self.hostile.odd_term(), b"w\x15" + b"z" * 21)) if self.odd(20) else b"a\x02",
                    b"t\0\0\0\1t\0\0\0\1a\1a\2a\3", self.hostile.encoded(self.hostile.term(3)),
                )
            )  # fmt: skip
        parts = [self.payload(count, depth - 1) for _ in range(random.randrange(4))]
        if kind < 12:
            return b"h" + bytes((len(parts),)) + b"".join(parts)
        if kind < 14:
            return b"l" + len(parts).to_bytes(4) + b"".join(parts) + random.choice((b"j", b"j", self.payload(count, 0)))
        if kind < 15:
            return b"i" + len(parts).to_bytes(4) + b"".join(parts)
        keys = sorted({self.payload(count, depth - 1 if self.odd(20) else 0) for _ in parts}) if parts else []
        return b"t" + len(keys).to_bytes(4) + b"".join(key + part for key, part in zip(keys, parts, strict=False))

    def terms(self, count: int) -> tuple[bytes, bytes]:
        """A control tuple and a payload."""
        pid, to, name, alias = self.pid(count), self.pid(count), self.atom(count), self.reference(count)
        payload = self.payload(count)
        if self.random.randrange(10) == 0:
            payload += self.payload(count)  # ignored
        choices = (
            (b"h\3a\x16" + pid + to, payload),
            (b"h\3a\x16" + pid + to, payload),
            (b"h\4a\x06" + pid + self.atom(count) + name, payload),
            (b"h\4a\x06" + pid + self.atom(count) + name, payload),
            (b"h\3a\x21" + pid + alias, payload),
            (b"h\4a\x25a\4" + pid + alias, payload),
            (
                b"h\4a\x25a"
                + (self.random.randbytes(1) if self.odd(9) else b"\5")
                + pid
                + self.random.choice((alias, name, to)),
                payload,
            ),
            (b"h\4a\x13" + pid + self.random.choice((to, name)) + alias, b""),
            (b"h\4a\x14" + pid + self.random.choice((to, name)) + alias, b""),
            (b"h\3a\1" + pid + to, b""),
            (b"h\3a\1" + pid + to, payload),
            (b"h\4a\3" + pid + to + self.payload(count), b""),  # an exit whose reason only Python may know
            (b"h\3a\x18" + pid + to, payload),
        )
        if self.odd(40):
            return self.random.choice(
                (self.payload(count), b"".join(map(self.hostile.encoded, self.hostile.control())))
            ), payload
        return self.random.choice(choices)

    def frame(self, *, cached: bool, fragmented: bool) -> bytes:
        random = self.random
        if self.open and random.randrange(3):
            return self.next_fragment()
        table, count = self.table() if cached else (b"\0", 0)
        control, payload = self.terms(count)
        if not fragmented or random.randrange(3):
            return self.whole(b"\x83D" + table + control + payload)
        sequence = random.choice((1, 2, 3, 4, 2**64 - 1))
        size = random.choice((0, 1, len(payload) // 2, len(payload), min(len(payload), 65_000)))
        fragment = random.choice((0, 2**64 - 1)) if self.odd(40) else random.choice((1, 2, 2, 3, 3, 4, 9))
        if sequence in self.open and not self.odd(20):
            return self.whole(b"\x83D" + table + control + payload)
        if fragment > 1:
            self.open[sequence] = fragment - 1, payload[size:]
        elif not self.odd(9):
            size = len(payload)
        return self.whole(b"\x83E" + struct.pack(">QQ", sequence, fragment) + table + control + payload[:size])

    def next_fragment(self) -> bytes:
        random = self.random
        sequence = random.choice(list(self.open))
        fragment, rest = self.open.pop(sequence)
        size = len(rest) if fragment == 1 else random.choice((0, 1, 3, 7, len(rest) // 2, min(len(rest), 65_536)))
        if fragment > 1:
            self.open[sequence] = fragment - 1, rest[size:]
        elif self.odd(30):
            size = random.choice((0, size // 2))
        if self.odd(60):
            fragment = random.choice((0, fragment + 1, 2**64 - 1))
        if self.odd(60):
            sequence = 77
        return self.whole(b"\x83F" + struct.pack(">QQ", sequence, fragment) + rest[:size])

    def whole(self, body: bytes) -> bytes:
        tick = bytes(4) if self.random.randrange(10) == 0 else b""
        if self.odd(120):
            body = self.hostile.spoiled(body)
        return tick + len(body).to_bytes(4) + body


def frames_of(data: bytes) -> Iterator[bytes]:
    """Where the lengths cut it, and the rest."""
    while len(data) >= 4 and (end := 4 + int.from_bytes(data[:4])) <= len(data):
        yield data[:end]
        data = data[end:]
    yield data


def in_any_pieces(random: Random, data: bytes) -> Iterator[bytes]:
    small = len(data) < 5000
    at = 0
    while at < len(data):
        size = random.choice((1, 2, 3, 50, 5000, 70_000, len(data)) if small else (1, 40, 5000, 30_000, 70_000))
        yield data[at : at + size]
        at += size


# --- Halves -----------------------------------------------------------------------------------------------------------


def delivered(half: Any, log: Log, pieces: Iterator[bytes], scratch: bytearray) -> str:
    """Hand all of it in, out of one buffer that is used again and again; how it ended."""
    for piece in (*pieces, b""):
        scratch[: len(piece)] = piece
        with memoryview(scratch)[: len(piece)] as whole, whole.toreadonly() as view:
            given: Any = view
            while True:
                try:
                    half.deliver(given, log)
                except Odd:
                    log.all.append("raised")
                    given = b""
                    continue
                except PeerError as error:
                    return f"{type(error).__name__} {getattr(error, 'limit', '')}"
                finally:
                    given = b""
                break
            scratch[: len(piece)] = bytes(len(piece))
    return "open"


def sent(half: Any, record: Record, direct: bool) -> bytes | str:
    try:
        match record:
            case Send(to, message, Pid() as sender, None, False) if direct:
                half.send_to_pid(sender, to, message)
            case RegSend(sender, name, message, None, False) if direct:
                half.send_to_name(sender, name, message)
            case AliasSend(sender, alias, message, None, False) if direct:
                half.send_to_alias(sender, alias, message)
            case _:
                half.send(record)
    except EncodeError as error:
        return str(error)
    pending = half.pending_bytes
    data = b"".join(half.data_to_send())
    assert len(data) == pending
    return data


def fuzz_halves(random: Random) -> None:
    """Each half makes the same of the same stream."""
    flags = DEFAULT
    for flag in OPTIONAL:
        if random.randrange(8) == 0:
            flags = without(flags, flag)
    if random.randrange(20) == 0:
        flags = without(flags, Flag.DIST_HDR_ATOM_CACHE)
    cached, fragmented = bool(flags & Flag.DIST_HDR_ATOM_CACHE), bool(flags & Flag.FRAGMENTS)
    stream = Stream(random)
    headed = {"cached": cached, "fragmented": fragmented} if cached or fragmented else None
    data = b"".join(
        stream.frame(**headed)
        if headed is not None and random.randrange(6)
        else stream.hostile.lawful_frame(headed=headed is not None)
        for _ in range(random.randrange(1, 40))
    )
    if stream.odd(10):
        data = stream.hostile.spoiled(data)
    limits = random.choice((WIDE, WIDE, TIGHT))
    strings = random.randrange(3) == 0
    raises_at = frozenset(random.sample(range(1, 20), 2) if random.randrange(4) == 0 else ())
    compare(
        HALVES,
        flags,
        data,
        lambda: in_any_pieces(random, data),
        strings=strings,
        limits=limits,
        raises_at=raises_at,
        direct=random.randrange(2) == 0,
    )


def compare(
    halves: Halves,
    flags: Flag,
    data: bytes,
    pieces: Callable[[], Iterator[bytes]],
    *,
    strings: bool,
    limits: Limits,
    raises_at: frozenset[int],
    direct: bool,
) -> None:
    """Assert that every half makes the same of `data`, frame by frame and in those pieces, and of sending it on."""
    scratch = bytearray(len(data))
    expected, records = None, []
    for name, (inbound, _) in halves.items():
        for cut in (frames_of(data), pieces()):
            log = Log(Atom(VICTIM), raises_at)
            end = delivered(inbound(int(flags), strings=strings, limits=limits), log, cut, scratch)
            if expected is None:
                expected, records = (log.all, end), log.records
            elif name == "python" and end != "open":  # by its pieces it may see a term's end in the next frame
                assert log.all == expected[0], name
                assert expected[1] != "open"
            else:
                assert (log.all, end) == expected, name
    senders = [outbound(int(flags)) for _, outbound in halves.values()]
    for record in records[:12]:
        results = [sent(half, record, direct) for half in senders]
        assert all(result == results[0] for result in results), record
        if isinstance(results[0], str):  # too deep by one level now, or an opaque local term
            assert "nested deeper" in results[0] or "LocalTerm" in results[0], results[0]
    counters = [(half.frames_written, half.bytes_written) for half in senders]
    assert all(each == counters[0] for each in counters)
