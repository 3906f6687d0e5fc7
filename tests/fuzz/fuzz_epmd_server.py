"""Several connections to one epmd: each answers, waits or ends, and none can touch another's name.

The first byte: bit 0 `relaxed_command_check`, bit 1 that connections 2 and 3 are from another host, the rest how data
is cut. Then steps, each a byte that says which connection (bits 0 and 1) and whether it breaks off (bit 2) or opens
anew (bit 3), a byte with a length, and so many bytes.
"""

from __future__ import annotations

from random import Random

from targets import in_pieces

from beamnode.errors import BeamnodeError, PeerError
from beamnode.wire import epmd
from beamnode.wire.epmd_server import EpmdRegistry, EpmdServerConnection, NodeStopped

STEPS_MAX = 40


def one_input(data: bytes) -> None:
    if not data:
        return
    choice, at = data[0], 1
    registry = EpmdRegistry(4369, lambda: 7)

    def open_connection(index: int) -> EpmdServerConnection:
        local = not (choice & 2 and index >= 2)
        return EpmdServerConnection(registry, 0, peer_is_local=local, relaxed_command_check=bool(choice & 1))

    connections = [open_connection(index) for index in range(4)]
    for _ in range(STEPS_MAX):
        if at + 2 > len(data):
            break
        step, length = data[at : at + 2]
        given = data[at + 2 : at + 2 + length]
        at += 2 + length
        connection = connections[step & 3]
        if step & 4:
            connection.connection_lost()
        if step & 8:
            connection.connection_lost()
            connection = connections[step & 3] = open_connection(step & 3)
        for piece in in_pieces(given, choice >> 2):
            _receive(connection, piece)
        held = [other for other in connections if other.registered]
        assert len(registry) <= len(held)
        assert {entry.owner for entry in registry.nodes()} <= set(held)
    for connection in connections:
        connection.connection_lost()
        connection.handle_deadline(1e9)
    assert len(registry) == 0


def _receive(connection: EpmdServerConnection, piece: bytes) -> None:
    try:
        connection.receive_data(piece, 0)
    except PeerError:
        assert connection.closing
    while (event := connection.next_event()) is not None:
        if isinstance(event, NodeStopped):
            assert isinstance(event.entry.owner, EpmdServerConnection)
            event.entry.owner.connection_lost()  # as the event obliges
    answer = b"".join(connection.data_to_send())
    if answer[:1] == b"w":
        assert epmd.decode_port_answer(answer) is not None
    elif answer[:1] in (b"v", b"y"):
        assert epmd.decode_alive_answer(answer) is not None


def fresh(random: Random) -> bytes:
    data = bytes((random.randrange(32),))
    for _ in range(random.randrange(1, 8)):
        name = random.choice(("a", "b", "\u00e9", "x" * 200, "a b", "n"))
        kinds: tuple[epmd.Request, ...] = (
            epmd.AliveRequest(epmd.NodeEntry(name, random.randrange(65536))),
            epmd.AliveRequest(epmd.NodeEntry(name, 1, version_high=5, version_low=5, extra=b"xy")),
            epmd.PortRequest(name),
            epmd.NamesRequest(),
            epmd.DumpRequest(),
            epmd.KillRequest(),
            epmd.StopRequest(name),
        )
        try:
            request = epmd.encode_request(random.choice(kinds))
        except BeamnodeError:
            request = b"\0\1x"
        data += bytes((random.randrange(16), len(request) & 255)) + request
    return data
