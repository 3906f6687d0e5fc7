"""wire/epmd.py and wire/epmd_server.py: each message byte for byte, the table, the end of a connection with any bytes.

The cases of OTP's epmd_SUITE.erl are here under their names there, as far as they need no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.errors import LimitExceeded, PeerError, ProtocolError
from beamnode.limits import Limits
from beamnode.wire.epmd import (
    CREATION_MAX,
    CREATION_MIN,
    EXTRA_BYTES_MAX,
    HIDDEN,
    AliveAnswer,
    AliveRequest,
    DumpRequest,
    KillRequest,
    NamesAnswer,
    NamesRequest,
    NodeEntry,
    PortAnswer,
    PortRequest,
    Request,
    StopRequest,
    decode_alive_answer,
    decode_names_answer,
    decode_port_answer,
    decode_request,
    encode_alive_answer,
    encode_names_answer,
    encode_port_answer,
    encode_request,
    name_problem,
)
from beamnode.wire.epmd_server import (
    REMEMBERED_NAMES_MAX,
    EpmdRegistry,
    EpmdServerConnection,
    KillAccepted,
    NodeRegistered,
    NodeStopped,
    NodeUnregistered,
    ServerEvent,
)

ALIVE_A = b"\x00\x0ex\x10\x92M\x00\x00\x06\x00\x05\x00\x01a\x00\x00"
PORT = 4369

names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=255).filter(
    lambda name: name_problem(name) is None
)
ports = st.integers(0, 2**16 - 1)
bytes_of_one = st.integers(0, 255)
versions = st.integers(0, 2**16 - 1)
nodes = st.builds(
    NodeEntry, names, ports, bytes_of_one, bytes_of_one, versions, versions, st.binary(max_size=EXTRA_BYTES_MAX)
)
requests = st.one_of(
    st.builds(AliveRequest, nodes),
    st.builds(PortRequest, names),
    st.just(NamesRequest()),
    st.just(DumpRequest()),
    st.just(KillRequest()),
    st.builds(StopRequest, names),
)


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (AliveRequest(NodeEntry("a", 4242)), ALIVE_A),
        (AliveRequest(NodeEntry("a", 1, HIDDEN, 3, 7, 2, b"\0e")), b"\0\x10x\0\x01H\x03\0\x07\0\x02\0\x01a\0\x02\0e"),
        (PortRequest("añ"), b"\0\x04za\xc3\xb1"),
        (NamesRequest(), b"\0\x01n"),
        (DumpRequest(), b"\0\x01d"),
        (KillRequest(), b"\0\x01k"),
        (StopRequest("foo"), b"\0\x04sfoo"),
    ],
)
def test_a_request_is_these_bytes(request_: Request, expected: bytes) -> None:
    assert encode_request(request_) == expected
    assert decode_request(expected[2:]) == request_


@given(requests)
def test_requests_round_trip(request_: Request) -> None:
    data = encode_request(request_)
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert decode_request(data[2:]) == request_


@given(st.one_of(st.binary(max_size=100), st.builds(bytes.__add__, st.sampled_from([b"x", b"z", b"s"]), st.binary())))
def test_any_bytes_are_a_request_or_a_protocol_error(body: bytes) -> None:
    with suppress(ProtocolError):
        decode_request(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"y",
        b"\0",
        b"x",
        ALIVE_A[2:-3],  # alive_req_too_small_1 and 2
        ALIVE_A[2:-1],
        b"x\x10\x92M\x00\x00\x06\x00\x05\x00\x02a\x00\x00",  # the name is longer than what follows
        b"x\x10\x92M\x00\x00\x06\x00\x05\x00\x01a\x00\x01",  # and the extra: buffer_overrun_1
        b"x\x10\x92M\x00\x00\x06\x00\x05\x00\x07foo\0bar\x00\x00",  # name_with_null_inside
        b"x\x10\x92M\x00\x00\x06\x00\x05\x00\x04foo\0\x00\x00",  # name_null_terminated
        b"z",
        b"z\0",
        b"za\0b",
        b"z\xff",
        b"z" + b"a" * 256,
        b"s",
        b"s\xc3",
    ],
)
def test_these_are_no_requests(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(body)


def test_what_old_clients_add_is_ignored_as_otp_does() -> None:
    assert decode_request(b"zfoo\0") == PortRequest("foo")
    assert decode_request(b"n junk") == NamesRequest()
    assert decode_request(ALIVE_A[2:] + b"junk") == AliveRequest(NodeEntry("a", 4242))


def test_a_name_of_255_characters_fits_and_one_more_does_not() -> None:
    longest = "\N{IMP}" * 255
    assert decode_request(encode_request(PortRequest(longest))[2:]) == PortRequest(longest)
    with pytest.raises(ProtocolError):
        decode_request(encode_request(PortRequest(longest + "a"))[2:])


# --- answers ----------------------------------------------------------------------------------------------------------

Decode = Callable[[bytes], object]


@pytest.mark.parametrize(
    ("data", "decode", "expected"),
    [
        (b"v\0\0\x01\x02\x03", decode_alive_answer, AliveAnswer(0x010203)),
        (b"v\x01\0\0\0c", decode_alive_answer, AliveAnswer(None)),
        (b"y\0\0\x02", decode_alive_answer, AliveAnswer(2)),
        (b"y\x01\0c", decode_alive_answer, AliveAnswer(None)),
        (b"w\x01", decode_port_answer, PortAnswer(None)),
        (b"w\0\x10\x92M\0\0\x06\0\x05\0\x01a\0\0", decode_port_answer, PortAnswer(NodeEntry("a", 4242))),
        (
            b"w\0\0\x07H\x01\0\x06\0\x05\0\x02\xc3\xb1\0\x02\0e",  # returns_valid_populated_extra_with_nulls
            decode_port_answer,
            PortAnswer(NodeEntry("ñ", 7, HIDDEN, 1, 6, 5, b"\0e")),
        ),
    ],
)
def test_an_answer_is_understood_once_it_is_whole(data: bytes, decode: Decode, expected: object) -> None:
    for end in range(len(data)):
        assert decode(data[:end]) is None
    assert decode(data) == expected
    assert decode(data + b"more") == expected


@given(st.one_of(st.binary(max_size=60), st.builds(bytes.__add__, st.sampled_from([b"w\0", b"v", b"y"]), st.binary())))
def test_any_bytes_are_an_answer_the_beginning_of_one_or_a_peer_error(data: bytes) -> None:
    for decode in (decode_alive_answer, decode_port_answer, decode_names_answer):
        with suppress(PeerError):
            decode(data)


@given(st.one_of(st.none(), nodes))
def test_port_answers_round_trip(node: NodeEntry | None) -> None:
    assert decode_port_answer(encode_port_answer(PortAnswer(node))) == PortAnswer(node)


@given(st.one_of(st.none(), st.integers(0, 65535)), st.integers(0, 9))
def test_alive_answers_round_trip_in_the_form_for_the_version(creation: int | None, version_high: int) -> None:
    data = encode_alive_answer(AliveAnswer(creation), version_high)
    assert (data[0], len(data)) == ((118, 6) if version_high >= 6 else (121, 4))
    assert decode_alive_answer(data) == AliveAnswer(creation)


@pytest.mark.parametrize("decode", [decode_alive_answer, decode_port_answer])
def test_another_kind_of_answer_is_an_error_at_its_first_byte(decode: Decode) -> None:
    with pytest.raises(ProtocolError):
        decode(b"H")


def test_a_port_answer_that_announces_too_much_is_refused_before_it_has_arrived() -> None:
    head = b"w\0\x10\x92M\0\0\x06\0\x05\0\x01a"
    limits = Limits(epmd_response_bytes_max=20)
    assert decode_port_answer(head + b"\0\x05", limits) is None
    with pytest.raises(LimitExceeded):
        decode_port_answer(head + b"\0\x06", limits)
    with pytest.raises(LimitExceeded):
        decode_port_answer(head[:10] + b"\xff\xff", limits)


def test_a_names_answer_is_these_bytes() -> None:
    answer = NamesAnswer(PORT, (("a", 1), ("ñ at port 3", 65535)))
    data = b"\0\0\x11\x11name a at port 1\nname \xc3\xb1 at port 3 at port 65535\n"
    assert encode_names_answer(answer) == data
    assert decode_names_answer(data) == answer


@given(st.integers(0, 65535), st.lists(st.tuples(names, ports)))
def test_names_answers_round_trip(port: int, entries: list[tuple[str, int]]) -> None:
    answer = NamesAnswer(port, tuple(entries))
    assert decode_names_answer(encode_names_answer(answer)) == answer


def test_lines_that_are_none_are_left_out() -> None:
    data = b"\0\0\0\x01hello\nname a\nname b at port x\nname b at port \nname c at port 7\nname d at port 8"
    assert decode_names_answer(data) == NamesAnswer(1, (("c", 7),))
    with pytest.raises(ProtocolError):
        decode_names_answer(b"\0\0\0")


# --- the table --------------------------------------------------------------------------------------------------------


def registry_of(*creations: int) -> EpmdRegistry:
    """A table whose new names get these creations, then 1000, 1001, ..."""
    given_ = iter(creations)
    following = count(1000)
    return EpmdRegistry(PORT, lambda: next(given_, None) or next(following))


def test_a_new_name_gets_its_creation_from_the_entropy_and_a_known_one_the_next() -> None:
    registry = registry_of(77)
    first = registry.register(NodeEntry("a", 1), "one")
    assert first is not None
    assert first.creation == 77
    assert registry.unregister("one") == first
    again = registry.register(NodeEntry("a", 2), "two")
    assert again is not None
    assert again.creation == 78


@pytest.mark.parametrize("drawn", [0, 1, 2, 3, CREATION_MAX + 1])
def test_a_creation_is_never_one_of_the_reserved(drawn: int) -> None:
    registry = EpmdRegistry(PORT, lambda: drawn)
    entry = registry.register(NodeEntry("a", 1), "one")
    assert entry is not None
    assert entry.creation == CREATION_MIN


def test_creations_wrap_past_the_reserved() -> None:
    registry = registry_of(CREATION_MAX)
    for expected in (CREATION_MAX, CREATION_MIN, CREATION_MIN + 1):
        entry = registry.register(NodeEntry("a", 1), "one")
        assert entry is not None
        assert entry.creation == expected
        registry.unregister("one")


def test_a_node_of_version_5_gets_1_to_3_and_another_each_time() -> None:
    registry = registry_of(30)
    seen = []
    for _ in range(6):
        entry = registry.register(NodeEntry("a", 1, version_high=5), "one")
        assert entry is not None
        seen.append(entry.creation)
        registry.unregister("one")
    assert seen == [1, 2, 3, 1, 2, 3]


def test_register_duplicate_name() -> None:
    registry = registry_of()
    assert registry.register(NodeEntry("foobar", 1), "one")
    assert registry.register(NodeEntry("foobar", 2), "two") is None
    assert registry.unregister("two") is None
    found = registry.lookup("foobar")
    assert found is not None
    assert found.node.port == 1


def test_one_owner_has_one_name() -> None:
    registry = registry_of()
    assert registry.register(NodeEntry("a", 1), "one")
    assert registry.register(NodeEntry("b", 1), "one") is None
    assert len(registry) == 1


def test_nodes_are_listed_the_newest_first() -> None:
    registry = registry_of()
    for name in "abc":
        registry.register(NodeEntry(name, 1), name)
    registry.unregister("b")
    assert [entry.node.name for entry in registry.nodes()] == ["c", "a"]
    assert [entry.node.name for entry in registry.remembered()] == ["b"]


@pytest.mark.parametrize(
    "name",
    ["", "a" * 256, "\udc80", "a b", "a\nname x at port 1", "a\0", "\x7f", "\x85", "\u2028", "\ud83d\ude08"],
)
def test_these_names_are_refused(name: str) -> None:
    assert name_problem(name)
    assert registry_of().register(NodeEntry(name, 1), "one") is None


@pytest.mark.parametrize("name", ["a", "a" * 255, "\U0001f608", "".join(chr(0x1F600 + n) for n in range(201)), "a@b"])
def test_these_names_are_taken(name: str) -> None:
    assert name_problem(name) is None
    assert registry_of().register(NodeEntry(name, 1), "one")


def test_an_extra_that_is_too_long_is_refused() -> None:
    assert registry_of().register(NodeEntry("a", 1, extra=bytes(EXTRA_BYTES_MAX)), "one")
    assert registry_of().register(NodeEntry("a", 1, extra=bytes(EXTRA_BYTES_MAX + 1)), "one") is None


def test_so_many_names_are_remembered_and_no_more() -> None:
    registry = registry_of()
    for number in range(REMEMBERED_NAMES_MAX + 1):
        registry.register(NodeEntry(f"n{number}", 1), "one")
        registry.unregister("one")
    remembered = registry.remembered()
    assert len(remembered) == REMEMBERED_NAMES_MAX
    assert remembered[0].node.name == "n1"
    assert all(entry.owner is None for entry in remembered)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans())))
def test_a_name_has_one_owner_and_never_the_creation_it_had_before(steps: list[tuple[str, int, bool]]) -> None:
    registry = registry_of(CREATION_MAX - 1, CREATION_MAX, 1)
    owners: dict[str, int] = {}
    last: dict[str, int] = {}
    for name, owner, joins in steps:
        if joins:
            entry = registry.register(NodeEntry(name, 1), owner)
            assert (entry is not None) == (name not in owners and owner not in owners.values())
            if entry is not None:
                assert entry.creation != last.get(name)
                assert CREATION_MIN <= entry.creation <= CREATION_MAX
                owners[name], last[name] = owner, entry.creation
        else:
            registry.unregister(owner)
            owners = {held: by for held, by in owners.items() if by != owner}
        assert {entry.node.name: entry.owner for entry in registry.nodes()} == owners


# --- the server's end of a connection ---------------------------------------------------------------------------------


class Server:
    """A table and connections to it, on a clock that stands still at 0."""

    def __init__(self, *, relaxed: bool = False) -> None:
        self.registry = registry_of(77)
        self.relaxed = relaxed

    def connect(self, *, local: bool = True) -> EpmdServerConnection:
        return EpmdServerConnection(self.registry, 0.0, peer_is_local=local, relaxed_command_check=self.relaxed)

    def ask(self, data: bytes, *, local: bool = True) -> bytes:
        """The whole answer to these bytes on a connection of their own; what is sent before an error as well."""
        connection = self.connect(local=local)
        connection.receive_data(data, 0.0)
        return sent(connection)

    def register(self, name: str, port: int = 1000) -> EpmdServerConnection:
        connection = self.connect()
        connection.receive_data(encode_request(AliveRequest(NodeEntry(name, port))), 0.0)
        assert sent(connection)[:2] == b"v\0"
        assert connection.registered
        return connection


def sent(connection: EpmdServerConnection) -> bytes:
    return b"".join(connection.data_to_send())


def events(connection: EpmdServerConnection) -> list[ServerEvent]:
    return list(iter(connection.next_event, None))


def test_a_registration_lasts_as_long_as_its_connection() -> None:
    server = Server()
    connection = server.connect()
    connection.receive_data(ALIVE_A, 0.0)
    assert sent(connection) == b"v\0\0\0\0M"
    assert not connection.closing
    assert connection.next_deadline() is None
    entry = server.registry.lookup("a")
    assert entry is not None
    assert events(connection) == [NodeRegistered(entry)]

    connection.connection_lost()
    assert events(connection) == [NodeUnregistered(entry)]
    assert server.registry.lookup("a") is None
    connection.connection_lost()
    assert events(connection) == []


@pytest.mark.parametrize("chunk_length", [1, 2, 3, 5, 100])
def test_requests_may_come_in_pieces(chunk_length: int) -> None:  # slow_get_port_nr
    server = Server()
    server.register("foo", 1042)
    connection = server.connect()
    request = encode_request(PortRequest("foo"))
    for start in range(0, len(request), chunk_length):
        assert sent(connection) == b""
        connection.receive_data(request[start : start + chunk_length], 0.0)
    assert sent(connection) == encode_port_answer(PortAnswer(NodeEntry("foo", 1042)))
    assert connection.closing


def test_names_and_dump() -> None:
    server = Server()
    server.register("a", 1)
    server.register("b", 2).connection_lost()
    server.register("c", 3)
    head = PORT.to_bytes(4, "big")
    assert server.ask(b"\0\x01n") == head + b"name c at port 3\nname a at port 1\n"
    assert server.ask(b"\0\x01d") == head + (
        b"active name     <c> at port 3, fd = 3\n\0"
        b"active name     <a> at port 1, fd = 1\n\0"
        b"old/unused name <b>, port = 2, fd = 2 \n\0"
    )


def test_a_name_that_is_taken_or_not_valid_is_answered_with_result_1_and_a_close() -> None:
    server = Server()
    server.register("a")
    for data, answer in (
        (ALIVE_A, b"v\x01\0\0\0c"),
        (encode_request(AliveRequest(NodeEntry("a", 1, version_high=5))), b"y\x01\0c"),
        (encode_request(AliveRequest(NodeEntry("a" * 600, 1))), b"v\x01\0\0\0c"),  # alive_req_too_large
        (encode_request(AliveRequest(NodeEntry("\udcff", 1))), b"v\x01\0\0\0c"),
    ):
        connection = server.connect()
        connection.receive_data(data, 0.0)
        assert sent(connection) == answer
        assert connection.closing
        assert not connection.registered
    assert len(server.registry) == 1


@pytest.mark.parametrize(
    "data",
    [
        bytes(10),  # zero_length
        b"\xf6\x18" + b"z" * 63000,  # too_large
        b"\xf6\x18",
        b"\0\x01nn",  # bytes after the request
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\x01\0",
        ALIVE_A + b"\0",
    ],
)
def test_nonsense_ends_the_connection_and_changes_nothing(data: bytes) -> None:
    server = Server()
    connection = server.connect()
    with pytest.raises(PeerError):
        connection.receive_data(data, 0.0)
    assert connection.closing
    assert sent(connection) == b""
    assert len(server.registry) == 0
    connection.receive_data(ALIVE_A, 0.0)  # too late
    assert len(server.registry) == 0


def test_a_request_as_long_as_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    def try_length(length: int) -> EpmdServerConnection:
        connection = EpmdServerConnection(
            registry_of(), 0.0, peer_is_local=True, limits=Limits(epmd_request_bytes_max=40)
        )
        connection.receive_data(length.to_bytes(2, "big") + b"n" * length, 0.0)
        return connection

    assert sent(try_length(40)) == PORT.to_bytes(4, "big")
    with pytest.raises(LimitExceeded) as raised:
        try_length(41)
    assert raised.value.limit == "epmd_request_bytes_max"


def test_bytes_after_a_registration_end_it() -> None:
    server = Server()
    connection = server.register("a")
    with pytest.raises(ProtocolError):
        connection.receive_data(b"x", 0.0)
    assert connection.closing
    assert len(server.registry) == 0


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x03", b"\0\x64only a few bytes"])
def test_who_completes_no_request_is_closed_at_the_deadline(data: bytes) -> None:  # no_data, one_byte, partial_packet
    connection = Server().connect()
    connection.receive_data(data, 10.0)
    assert connection.next_deadline() == 60.0
    connection.handle_deadline(59.9)
    assert not connection.closing
    connection.handle_deadline(60.0)
    assert connection.closing
    assert connection.next_deadline() is None


def test_who_does_not_take_the_answer_is_closed_at_the_deadline_too() -> None:
    connection = Server().connect()
    connection.receive_data(b"\0\x01n", 0.0)
    assert connection.next_deadline() == 60.0
    connection.handle_deadline(60.0)
    assert sent(connection) == b""


def test_a_registered_node_has_no_deadline() -> None:
    server = Server()
    connection = server.register("a")
    connection.handle_deadline(1e9)
    assert not connection.closing
    assert len(server.registry) == 1


def test_from_another_host_one_may_only_ask() -> None:  # no_nonlocal_register, no_nonlocal_kill
    server = Server(relaxed=True)
    server.register("foo")
    assert server.ask(b"\0\x01n", local=False).endswith(b"name foo at port 1000\n")
    assert server.ask(b"\0\x04zfoo", local=False)[:2] == b"w\0"
    for data in (ALIVE_A, b"\0\x01d", b"\0\x01k", b"\0\x04sfoo"):
        with pytest.raises(ProtocolError):
            server.ask(data, local=False)
    assert len(server.registry) == 1


def test_no_live_killing() -> None:
    server = Server()
    node = server.register("foo")
    connection = server.connect()
    connection.receive_data(b"\0\x01k", 0.0)
    assert sent(connection) == b"NO"
    assert connection.closing
    assert events(connection) == []
    with pytest.raises(ProtocolError):
        server.ask(b"\0\x04sfoo")

    node.connection_lost()
    connection = server.connect()
    connection.receive_data(b"\0\x01k", 0.0)
    assert sent(connection) == b"OK"
    assert events(connection) == [KillAccepted()]


def test_relaxed_one_may_kill_and_stop() -> None:  # unregister_others_name_1 and 2
    server = Server(relaxed=True)
    node = server.register("foo")
    entry = server.registry.lookup("foo")
    assert entry is not None
    assert server.ask(b"\0\x06sxxx42") == b"NOEXIST"
    connection = server.connect()
    connection.receive_data(b"\0\x04sfoo", 0.0)
    assert sent(connection) == b"STOPPED"
    assert events(connection) == [NodeStopped(entry)]
    assert entry.owner is node
    assert len(server.registry) == 0
    node.connection_lost()
    assert NodeUnregistered(entry) not in events(node)
    server.register("bar")
    assert server.ask(b"\0\x01k") == b"OK"


@given(st.lists(st.tuples(st.booleans(), st.lists(st.one_of(st.binary(max_size=40), requests.map(encode_request))))))
def test_whatever_comes_a_connection_answers_waits_or_ends(peers: list[tuple[bool, list[bytes]]]) -> None:
    server = Server(relaxed=True)
    connections = []
    for local, chunks in peers:
        connection = server.connect(local=local)
        connections.append(connection)
        for chunk in chunks:
            try:
                connection.receive_data(chunk, 0.0)
            except PeerError:
                assert connection.closing
        assert connection.closing or connection.registered or connection.next_deadline() == 60.0
    for connection in connections:
        connection.connection_lost()
    assert len(server.registry) == 0


@given(requests)
def test_the_answer_is_the_same_byte_by_byte(request_: Request) -> None:
    data = encode_request(request_)
    outcomes = []
    for chunks in ([data], [bytes([byte]) for byte in data]):
        server = Server(relaxed=True)
        server.register("foo")
        connection = server.connect()
        try:
            for chunk in chunks:
                connection.receive_data(chunk, 0.0)
            error = None
        except PeerError as raised:
            error = str(raised)
        outcomes.append((sent(connection), connection.closing, error))
    assert outcomes[0] == outcomes[1]
