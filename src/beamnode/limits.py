"""Every bound that a peer can press on, by name, with its unit: one frozen set, an argument of the machines.

`docs/limits.md` says of each what it bounds, what happens when it is hit, and what OTP does there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from beamnode.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer can make this node hold or do. Nothing is allocated ahead of bytes that have arrived.

    The defaults are wide enough for every message that OTP sends in earnest and narrow enough that no single peer
    can take the process down. Those that may be None do not bound anything then.
    """

    # terms
    term_depth_max: int = 1024  # nested containers in one term
    term_elements_max: int = 16 * MIB  # of all containers of one term: `[]` is one byte, and 70 as a Python list
    atom_characters_max: int = 255  # OTP: MAX_ATOM_CHARACTERS
    inflated_bytes_max: int = 256 * MIB  # what one compressed term may expand to
    integer_bytes_max: int = 8 * MIB  # magnitude of one big integer (OTP 27: 4 194 304 bits, older: more)

    # the channel
    frame_bytes_max: int = 1 * GIB  # one frame: peers that do not fragment send whole messages
    message_bytes_max: int = 2 * GIB  # all unfinished messages in fragments, per connection
    fragment_sequences_max: int = 4096  # messages in pieces at a time, per connection
    signals_per_second_max: int | None = None  # per connection: then it is not read for a moment

    # the handshake, and connections
    handshake_frame_bytes_max: int = 2 * KIB  # OTP: a name is at most 255 + 1 + 255 characters
    handshakes_pending_max: int = 256  # accepted connections that are not nodes yet, per node: then an old one goes
    handshakes_per_address_max: int = 128  # of those, from one address: then the oldest of that address goes
    connections_max: int = 16 * KIB  # nodes that this node is connected with, when another one dials it
    dials_pending_max: int = 1024  # nodes dialled at a time because of signals to them: replies go where peers say
    failures_kept_max: int = 256  # failed connects of which the reason is remembered
    dynamic_names_kept_max: int = 1024  # that were given to peers, who left, and may be given again

    # processes
    processes_per_peer_max: int = 64 * KIB  # that one peer has running here: spawned, or at work on its calls
    ties_per_peer_max: int = 256 * KIB  # links and monitors between one peer's processes and those here
    mailbox_warning_messages: int | None = 100_000  # in one mailbox: logged there, and whenever it has doubled

    # the services
    io_requests_max: int = 4096  # to `user`: questions that wait for input, and requests that wait for their asker
    global_names_max: int = 256 * KIB  # in the table of global names
    global_locks_max: int = 64 * KIB  # holders of global locks on this node, together
    global_waiters_max: int = 1024  # calls of `global` that wait for nodes, of each kind
    global_unconnected_max: int = 1024  # nodes that `global` has heard of and is not connected with

    # epmd
    epmd_request_bytes_max: int = 2 * KIB  # an ALIVE2_REQ with the longest name and some extra
    epmd_response_bytes_max: int = 64 * KIB  # the NAMES answer that a client reads
    epmd_connections_max: int = 1024  # open sockets of one epmd server

    def __post_init__(self) -> None:
        """Errors: UsageError."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in MAY_BE_NONE:
                continue
            if type(value) is not int or value < 1:
                raise UsageError(f"{field.name} is a whole number of at least 1{_or_none(field.name)}, not {value!r}")


MAY_BE_NONE = frozenset({"signals_per_second_max", "mailbox_warning_messages"})


def _or_none(name: str) -> str:
    return ", or None" if name in MAY_BE_NONE else ""


DEFAULT_LIMITS = Limits()
