"""Every bound that a peer can press on, by name, with its unit: one frozen set, an argument of the machines."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer can make this node hold or do. Nothing is allocated ahead of bytes that have arrived.

    The defaults are wide enough for every message that OTP sends in earnest and narrow enough that no single peer
    can take the process down.
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

    # the handshake
    handshake_frame_bytes_max: int = 2 * KIB  # OTP: a name is at most 255 + 1 + 255 characters
    handshakes_pending_max: int = 256  # accepted connections that are not nodes yet, per node: then the oldest goes
    dials_pending_max: int = 1024  # nodes dialled at a time because of signals to them: replies go where peers say

    # epmd
    epmd_request_bytes_max: int = 2 * KIB  # an ALIVE2_REQ with the longest name and some extra
    epmd_response_bytes_max: int = 64 * KIB  # the NAMES answer that a client reads
    epmd_connections_max: int = 1024  # open sockets of one epmd server


DEFAULT_LIMITS = Limits()
