"""Hostile messages out of a random source: right in most places and wrong in some, which reaches deeper than noise.

Everything is drawn from the `Random` that is handed in: the fuzzer's, whose seed it prints, or hypothesis's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from beamnode.errors import EncodeError
from beamnode.etf import Atom, BitString, Export, Fun, ImproperList, NativeRecord, Pid, Port, Reference, a, encode
from beamnode.wire.control import Op

ATOMS = (
    "", "ok", "true", "false", "nil", "undefined", "normal", "kill", "killed", "noproc", "noconnection", "shutdown",
    "EXIT", "DOWN", "process", "link", "monitor", "name", "priority", "high", "alias", "reply", "$gen_call",
    "$gen_cast", "system", "net_kernel", "rex", "global_name_server", "global", "is_auth", "features_request",
    "features_reply", "erpc", "victim", "wait", "add", "thread", "beamnode", "spawn", "nodeup", "nodedown",
    "connection_id", "get_state", "ticktime", "x" * 255, "\u00e9", "\N{SNOWMAN}", "a\nb", "nonode@nohost",
)  # fmt: skip
NODES = ("nonode@nohost", "", "noat", "@", "a@b@c", "x@", "@y", "a\nb@c", "slow1@127.0.0.1", "gone@127.0.0.1")
INTEGERS = (0, 1, 2, 3, 4, 5, 8, -1, 255, 256, 2**31, -(2**31), 2**32, 2**63, 2**64 - 1, 2**64, -(2**64), 1 << 5000)
SERVICES = ("net_kernel", "rex", "global_name_server")

Draw = Callable[[], Any]


class Hostile:
    """Draws. `me` is the attacking node, `victim` the other; creations as they were told in the handshake."""

    def __init__(self, random: Random, me: str, victim: str, creation: int = 77, victim_creation: int = 1) -> None:
        self.random = random
        self.me = Atom(me)
        self.victim = Atom(victim)
        self.creation = creation
        self.victim_creation = victim_creation

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def one_of(self, *draws: Draw) -> Any:
        return self.random.choice(draws)()

    # --- terms ---

    def node(self) -> Atom:
        return self.random.choice((self.me, self.victim, self.me, Atom(self.random.choice(NODES)), self.made_up_node()))

    def made_up_node(self) -> Atom:
        return Atom(f"n{self.random.randrange(10**6)}@127.0.0.1")

    def atom(self) -> Atom:
        return Atom(self.random.choice(ATOMS))

    def integer(self) -> int:
        return self.random.choice((*INTEGERS, self.random.randrange(-300, 300)))

    def pid(self) -> Pid:
        if self.chance(50):
            return self.own_pid()
        if self.chance(60):
            return self.victim_pid()
        return Pid(self.node(), self.random.randrange(1 << 28), self.random.choice((0, 1, 2**32 - 1)), self.creation)

    def own_pid(self) -> Pid:
        return Pid(self.me, self.random.randrange(1, 9), 0, self.creation)

    def victim_pid(self) -> Pid:
        """The services are the first three; others are dead or will be made."""
        creation = self.victim_creation if self.chance(90) else self.random.choice((0, 1, self.victim_creation + 1))
        return Pid(self.victim, self.random.randrange(1, 30), 0, creation & 0xFFFFFFFF)

    def reference(self) -> Reference:
        if self.chance(70):
            return self.own_reference()
        node = self.random.choice((self.victim, self.node()))
        words = tuple(self.random.randrange(50) for _ in range(self.random.choice((1, 3, 3, 5))))
        return Reference(node, self.random.choice((self.victim_creation, self.creation)), words)

    def own_reference(self) -> Reference:
        return Reference(self.me, self.creation, (self.random.randrange(200), 0, 0))

    def leaf(self) -> Any:
        return self.one_of(
            self.atom,
            self.atom,
            self.integer,
            self.pid,
            self.reference,
            self.node,
            lambda: self.random.choice((True, False, None)),
            lambda: self.random.choice((0.0, -0.0, 1.0, 1e308)),
            lambda: self.random.randbytes(self.random.choice((0, 1, 16, 300))),
            lambda: Port(self.node(), self.random.randrange(1 << 40), 3),
            lambda: Export(self.atom(), self.atom(), self.random.randrange(256)),
            lambda: BitString(b"\xf0", 4),
            list,
            tuple,
            dict,
        )

    def term(self, depth: int = 4) -> Any:
        if depth <= 0 or self.chance(45):
            return self.leaf()
        more = self.some(lambda: self.term(depth - 1))
        return self.one_of(
            lambda: tuple(more),
            lambda: list(more),
            lambda: self.mapping(more),
            lambda: ImproperList(tuple(more or (1,)), self.leaf_but_list()),
            lambda: nested(self.random.choice((10, 70, 500, 1000)), more),
            lambda: Fun(self.atom(), 1, bytes(16), 0, 0, 0, self.pid(), tuple(more)),
            lambda: NativeRecord(self.atom(), self.atom(), ((a.field, more),), True),
            lambda: [self.random.randrange(256) for _ in range(self.random.choice((3, 300)))],
        )

    def some(self, draw: Draw, most: int = 5) -> list[Any]:
        return [draw() for _ in range(self.random.randrange(most))]

    def mapping(self, keys: Sequence[Any]) -> dict[Any, Any]:
        found = {}
        for key in keys:
            try:
                found[key] = self.leaf()
            except TypeError:  # a list
                found[self.atom()] = key
        return found

    def leaf_but_list(self) -> Any:
        value = self.leaf()
        return a.tail if isinstance(value, list) else value

    def wrong(self, value: Any, percent: int = 8) -> Any:
        """`value`, or now and then something else."""
        return self.term(3) if self.chance(percent) else value

    def wrongly(self, elements: tuple[Any, ...], percent: int = 8) -> tuple[Any, ...]:
        """A tuple with wrong elements, one too many, or one too few."""
        listed = [self.wrong(element, percent) for element in elements]
        if self.chance(percent):
            listed.append(self.leaf())
        if self.chance(percent) and listed:
            listed.pop(self.random.randrange(len(listed)))
        return tuple(listed)

    # --- what services are sent ---

    def sender(self) -> Any:
        """The From of a call."""
        reference = self.reference()
        tag = self.random.choice(
            (
                reference,
                ImproperList((a.alias,), reference),
                ImproperList((ImproperList((a.alias,), reference),), reference),
                [ImproperList((a.alias,), reference)],
                [a.alias, reference],
                self.term(3),
            )
        )
        return self.wrongly((self.pid(), tag))

    def call(self, request: Any) -> Any:
        return self.wrongly((Atom("$gen_call"), self.sender(), request), 3)

    def cast(self, request: Any) -> Any:
        return self.wrongly((Atom("$gen_cast"), request), 3)

    def service_message(self) -> Any:
        return self.one_of(
            lambda: self.call(self.wrongly((a.is_auth, self.node()))),
            lambda: self.call(self.random.choice((a.longnames, a.nodename, a.ticktime, a.get_state, self.term()))),
            lambda: (self.pid(), a.features_request),
            lambda: self.wrongly((self.pid(), a.features_request)),
            self.term,
            self.global_message,
            self.global_message,
        )

    def global_message(self) -> Any:
        """A message of global's protocol."""
        me = self.node() if self.chance(20) else self.me
        tag = self.random.choice((77, 78, self.integer(), self.term(2)))
        lock = (
            self.random.choice((a["global"], self.term(2))),
            self.one_of(self.pid, lambda: [self.pid(), self.pid()]),
        )
        name = self.random.choice((a.n1, a.n2, self.term(2)))
        names = self.some(lambda: self.wrongly((name, self.pid(), self.random.choice((a.m, self.term(2))))), 8)
        ops = self.some(
            lambda: self.wrongly(
                self.random.choice(
                    (
                        (a.insert, self.wrongly((name, self.pid(), a.m))),
                        (a.delete, name),
                        self.wrongly((a.insert, name)),
                    )
                )
            ),
            8,
        )
        nodes = self.some(lambda: self.random.choice((self.node(), (self.node(), 8), (self.node(), self.term(2)))), 8)
        external = self.some(lambda: self.wrongly((name, self.pid(), self.node())), 4)
        extra = self.random.choice(([], [(a.vsn, 8), (a.lock, lock)], self.term(2)))
        numbers = (self.integer(), self.integer())
        locker = self.random.choice((self.own_pid(), self.own_pid(), self.pid()))
        requests = (
            lambda: self.call(self.wrongly((a.set_lock, self.wrongly(lock)))),
            lambda: self.call(self.wrongly((a.del_lock, self.wrongly(lock)))),
            lambda: self.call(self.wrongly((a.register, name, self.pid(), self.term(2)))),
            lambda: self.call(self.wrongly((a.register_ext, name, self.pid(), self.term(2), self.node()))),
            lambda: self.call(self.wrongly((a.unregister, name))),
            lambda: self.call(self.wrongly((a.sync, nodes))),
            lambda: self.call(self.random.choice((a.get_known, a.get_synced, a.get_names_ext, a.info))),
            lambda: self.cast(
                self.wrongly((a.init_connect, self.wrongly((8, tag)), me, (a.locker, a.no_longer_a_pid, {}, locker)))
            ),
            lambda: self.cast(self.wrongly((a.exchange, me, names, [], tag))),
            lambda: self.cast(self.wrongly((a.resolved, me, ops, nodes, a.unused, external, tag))),
            lambda: self.cast(self.wrongly((a.new_nodes, me, ops, external, nodes, extra))),
            lambda: self.cast(self.wrongly((a.in_sync, me, True))),
            lambda: self.cast(self.wrongly((a.lock_set, locker, self.chance(70), nodes, tag))),
            lambda: self.cast(self.wrongly((a.lock_set, locker, self.chance(70), nodes))),
            lambda: self.wrongly((a.lock_set, locker, self.chance(70), nodes)),
            lambda: self.wrongly((a.lost_connection, me, *numbers, self.node())),
            lambda: self.wrongly((a.remove_connection, self.node())),
            lambda: self.wrongly((a.init_connect_ack, me, tag, tag)),
            lambda: self.wrongly((a.cancel_connect, me, tag)),
            lambda: self.wrongly((a.whereis, name, self.sender())),
            lambda: self.wrongly((a.DOWN, self.reference(), a.process, self.pid(), a.noproc)),
            lambda: self.wrongly((a.EXIT, self.pid(), a.normal)),
            lambda: self.wrongly((a.nodeup, self.node(), {a.connection_id: self.integer()})),
            lambda: self.wrongly((a.nodedown, self.node(), {a.connection_id: self.integer()})),
            lambda: (ImproperList((a.alias,), self.reference()), self.term(2)),
        )
        return self.one_of(*requests)

    def remote_call(self) -> list[Any]:
        """The arguments of `erpc:execute_call/4`, which the service of global understands."""
        resolve = [self.term(2), self.term(2), self.pid(), self.pid()]
        arguments = self.random.choice((resolve, self.some(self.leaf), self.term(3)))
        return [self.leaf(), self.random.choice((a["global"], self.leaf())), a.resolve_it, arguments]

    # --- control messages ---

    def lawful(self) -> tuple[Any, ...]:
        """A signal that no connection is closed for, whatever it carries: processes have to live with it."""
        me, them, ref = self.own_pid(), self.victim_pid(), self.own_reference()
        service, message = Atom(self.random.choice(SERVICES)), self.service_message()
        arguments = self.some(self.leaf, 4)
        mfa = (a.victim, self.random.choice((a.wait, a.add, a.gone)), len(arguments))
        options = self.some(lambda: self.random.choice((a.link, a.monitor, (a.name, self.atom()))), 3)
        choices: tuple[tuple[Any, ...], ...] = (
            ((6, me, a[""], service), message),
            ((6, me, a[""], service), message),
            ((6, me, a[""], a.global_name_server), self.global_message()),
            ((6, me, a[""], a.global_name_server), self.global_message()),
            ((22, me, them), message),
            ((1, me, Pid(self.victim, self.random.randrange(1, 5), 0, self.victim_creation)),),
            ((3, me, them, self.random.choice((a.normal, a.boom, self.term(3)))),),
            ((19, me, service, Reference(self.me, self.creation, (self.random.randrange(1 << 18), 1, 1))),),
            ((20, me, service, ref),),
            ((29, ref, me, me, mfa, options), arguments),
            ((29, ref, me, me, (a.erpc, a.execute_call, 4), options), self.remote_call()),
            ((33, me, self.reference()), message),
            ((37, 4, me, self.reference()), message),
            ((7, me, them),),
        )
        return self.random.choice(choices)

    def control(self) -> tuple[Any, ...]:
        """The terms of one message: the control tuple, and the payload for those that have one."""
        me, them = self.wrong(self.own_pid(), 4), self.one_of(self.victim_pid, self.victim_pid, self.atom)
        ref, reason = self.own_reference(), self.random.choice((a.normal, a.boom, a.kill, self.term(3)))
        message = self.service_message()
        mfa = self.wrongly((a.victim, self.random.choice((a.wait, a.add, self.atom())), self.random.randrange(3)), 5)
        options = self.wrong(self.some(lambda: self.random.choice((a.link, a.monitor, (a.name, self.atom()))), 3), 10)
        arguments = self.wrong(self.some(self.leaf, 4), 4)
        service = Atom(self.random.choice(SERVICES))
        bits = self.random.randrange(64)
        choices: tuple[tuple[Any, ...], ...] = (
            ((Op.LINK, me, them),),
            ((Op.SEND, a[""], them), message),
            ((Op.SEND_SENDER, me, them), message),
            ((Op.SEND_SENDER_TT, me, them, self.leaf()), message),
            ((Op.REG_SEND, me, a[""], service), message),
            ((Op.REG_SEND, me, a[""], service), message),
            ((Op.REG_SEND, me, a[""], service), message),
            ((Op.REG_SEND_TT, me, a[""], service, self.leaf()), message),
            ((Op.EXIT, me, them, reason),),
            ((Op.EXIT2, me, them, reason),),
            ((Op.PAYLOAD_EXIT, me, them), reason),
            ((Op.PAYLOAD_EXIT2, me, them), reason),
            ((Op.PAYLOAD_EXIT_TT, me, them, self.leaf()), reason),
            ((Op.GROUP_LEADER, me, them),),
            ((Op.MONITOR_P, me, self.random.choice((them, service)), ref),),
            ((Op.DEMONITOR_P, me, self.random.choice((them, service)), ref),),
            ((Op.MONITOR_P_EXIT, me, them, self.reference(), reason),),
            ((Op.PAYLOAD_MONITOR_P_EXIT, me, them, self.reference()), reason),
            ((Op.SPAWN_REQUEST, ref, me, self.pid(), mfa, options), arguments),
            ((Op.SPAWN_REQUEST_TT, ref, me, self.pid(), mfa, options, self.leaf()), arguments),
            ((Op.SPAWN_REPLY, self.reference(), them, self.integer(), self.pid()),),
            ((Op.ALIAS_SEND, me, self.reference()), message),
            ((Op.UNLINK_ID, self.integer(), me, them),),
            ((Op.UNLINK_ID_ACK, self.integer(), me, them),),
            ((Op.ALTACT_SIG_SEND, bits, me, self.one_of(self.reference, lambda: service, self.victim_pid)), message),
            ((self.integer(), me, them), message),
            (self.term(),),
        )
        first, *payload = self.random.choice(choices)
        if isinstance(first, tuple):
            first = tuple(int(value) if isinstance(value, Op) else value for value in first)
            if self.chance(12):
                first = self.wrongly(first, 15)
        if self.chance(3):
            payload = []
        return (first, *payload)

    # --- bytes ---

    def encoded(self, value: Any) -> bytes:
        """Without the version byte; what cannot be encoded becomes an atom."""
        try:
            return encode(value)[1:]
        except EncodeError:
            return encode(a.unencodable)[1:]

    def odd_term(self) -> bytes:
        """Encoded terms that no encoder writes."""
        return self.random.choice(
            (
                b"t\0\0\0\2w\1aa\1w\1aa\2",  # a key twice
                b"F\x7f\xf8\0\0\0\0\0\0",  # not a number
                b"F\x7f\xf0\0\0\0\0\0\0",  # infinity
                b"n\0\1",  # a big integer without bytes, negative
                b"o\xff\xff\xff\xff\0",  # four gigabytes of integer
                b"l\xff\xff\xff\xff",  # four billion elements
                b"m\xff\xff\xff\xff",  # four gigabytes of binary
                b"t\x7f\xff\xff\xff",
                b"i\xff\xff\xff\xff",
                b"h\1" * 2000 + b"a\1",  # deep
                b"l\0\0\0\1" * 2000 + b"a\1" + b"j" * 2000,
                b"t\0\0\0\1" * 40 + b"a\1" * 41,  # maps as keys
                b"R\xff",  # an atom of the cache that is not there
                b"w\xff" + b"y" * 255,
                b"v\4\0" + b"z" * 1024,
                b"P\xff\xff\xff\xff" + zlib.compress(b"a\1"),
                b"P\0\0\0\2" + zlib.compress(b"a" * 1000),
                b"Z\xff\xffw\1a" + bytes(30),
                b"p\0\0\0\0\0" + bytes(24),  # a fun that ends before it begins
                b"y\0\0\0\0w\1a",  # LOCAL_EXT
                b"",
            )
        )

    def spoiled(self, data: bytes) -> bytes:
        """`data` with bytes changed, cut out or put in."""
        spoiled = bytearray(data)
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            at = self.random.randrange(len(spoiled) + 1)
            kind = self.random.randrange(4)
            if kind == 0 and at < len(spoiled):
                spoiled[at] = self.random.randrange(256)
            elif kind == 1 and at < len(spoiled):
                spoiled[at] ^= 1 << self.random.randrange(8)
            elif kind == 2:
                del spoiled[at : at + self.random.choice((1, 1, 4))]
            else:
                spoiled[at:at] = self.random.randbytes(self.random.choice((1, 4)))
        return bytes(spoiled)

    def terms_bytes(self) -> list[bytes]:
        terms = [self.encoded(value) for value in self.control()]
        if self.chance(6):
            terms[-1] = self.odd_term()
        if self.chance(10):
            terms[self.random.randrange(len(terms))] = self.spoiled(terms[0])
        return terms

    def lawful_frame(self, *, headed: bool) -> bytes:
        """A frame that keeps the connection open, as long as its terms can be encoded."""
        terms = [self.encoded(value) for value in self.lawful()]
        body = b"\x83D\0" + b"".join(terms) if headed else b"p" + b"".join(b"\x83" + term for term in terms)
        return struct.pack(">I", len(body)) + body

    def frame(self, *, headed: bool, cached: bool, fragmented: bool) -> bytes:
        """A frame with its length (the right one), in the form that was negotiated or, now and then, another."""
        terms = self.terms_bytes()
        kind = self.random.randrange(100)
        if not headed and kind < 90:
            body = b"p" + b"".join(b"\x83" + term for term in terms)
        elif fragmented and kind < 25:
            body = self.fragment(terms)
        elif cached and kind < 35:
            body = b"\x83D" + self.table() + b"".join(terms)
        else:
            body = b"\x83D\0" + b"".join(terms)
        if self.chance(3):
            body = self.spoiled(body)
        if self.chance(1):
            body = self.random.randbytes(self.random.choice((1, 10, 1000)))
        if self.chance(3):
            return bytes(4) + struct.pack(">I", len(body)) + body
        return struct.pack(">I", len(body)) + body

    def fragment(self, terms: list[bytes]) -> bytes:
        sequence = self.random.choice((1, 1, 2, 2**64 - 1))
        number = self.random.choice((0, 1, 1, 2, 2, 3, 2**64 - 1))
        if self.chance(60):
            return struct.pack(">BBQQ", 131, 69, sequence, number) + b"\0" + b"".join(terms)
        return struct.pack(">BBQQ", 131, 70, sequence, number) + self.random.choice((b"", terms[-1]))

    def table(self) -> bytes:
        """A table of the atom cache, mostly of slots that are empty."""
        count = self.random.choice((1, 2, 3, 255))
        new = self.chance(60)
        nibbles = bytearray(count // 2 + 1)
        for index in range(count):
            nibbles[index >> 1] |= (8 if new else self.random.randrange(8)) << (4 if index & 1 else 0)
        table = bytes((count,)) + bytes(nibbles)
        for index in range(count):
            table += bytes((index & 255,))
            if new:
                text = self.random.choice((b"net_kernel", b"a", b"\xff\xfe", b""))
                table += bytes((len(text),)) + text
        return table


def nested(depth: int, leaf: Any) -> Any:
    """Tuples in one another."""
    for _ in range(depth):
        leaf = (leaf,)
    return leaf
