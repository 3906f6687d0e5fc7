"""Distribution flags: what a node can do, as 64 bits of its handshake; the sets we send and demand.

Values: `kernel/include/dist.hrl` of OTP 29 (the published page has a wrong bit for MANDATORY_25_DIGEST). Values only.
"""

from __future__ import annotations

import enum
from typing import Final


class Flag(enum.IntFlag, boundary=enum.KEEP):
    """Distribution flags by OTP's names. Bits without a name are kept as they came.

    To take bits away write `without(flags, gone)`: the `~` of an `IntFlag` also clears the bits without a name.
    """

    PUBLISHED = 0x1  # visible: the connection counts in nodes() when both sides set it
    ATOM_CACHE = 0x2  # never used since OTP 5
    EXTENDED_REFERENCES = 0x4
    DIST_MONITOR = 0x8
    FUN_TAGS = 0x10
    DIST_MONITOR_NAME = 0x20
    HIDDEN_ATOM_CACHE = 0x40  # never used since OTP 5
    NEW_FUN_TAGS = 0x80
    EXTENDED_PIDS_PORTS = 0x100
    EXPORT_PTR_TAG = 0x200
    BIT_BINARIES = 0x400
    NEW_FLOATS = 0x800
    UNICODE_IO = 0x1000
    DIST_HDR_ATOM_CACHE = 0x2000
    SMALL_ATOM_TAGS = 0x4000
    UTF8_ATOMS = 0x10000
    MAP_TAG = 0x20000
    BIG_CREATION = 0x40000
    SEND_SENDER = 0x80000
    BIG_SEQTRACE_LABELS = 0x100000
    EXIT_PAYLOAD = 0x400000
    FRAGMENTS = 0x800000
    HANDSHAKE_23 = 0x1000000
    UNLINK_ID = 0x2000000
    MANDATORY_25_DIGEST = 0x4000000
    SPAWN = 1 << 32
    NAME_ME = 1 << 33  # from an initiator: give me a name; from an acceptor: I gave you one
    V4_NC = 1 << 34
    ALIAS = 1 << 35
    LOCAL_EXT = 1 << 36  # internal to the BEAM, never on the wire
    ALTACT_SIG = 1 << 37  # since OTP 28
    NATIVE_RECORDS = 1 << 38  # since OTP 29


# What the one bit MANDATORY_25_DIGEST stands for: all that OTP 25 demands (dist.hrl: MANDATORY_DFLAGS_25).
MANDATORY_25: Final = (
    Flag.EXTENDED_REFERENCES
    | Flag.FUN_TAGS
    | Flag.NEW_FUN_TAGS
    | Flag.EXTENDED_PIDS_PORTS
    | Flag.EXPORT_PTR_TAG
    | Flag.BIT_BINARIES
    | Flag.NEW_FLOATS
    | Flag.UTF8_ATOMS
    | Flag.MAP_TAG
    | Flag.BIG_CREATION
    | Flag.HANDSHAKE_23
)

# What we demand of a peer: what OTP 26 and newer demand (erts_internal:get_dflags/0 of 27 and 29: 16#403070F94).
# OTP 25 does not demand the last two of others but sends them, so nothing that is supported is shut out; and
# because they are always there, this library has no code for old unlinks and for pids of 18 bits.
MANDATORY: Final = MANDATORY_25 | Flag.UNLINK_ID | Flag.V4_NC

# What we send: the default of OTP 29, 16#6D07DF7FBC. A visible node adds PUBLISHED; NAME_ME is for dynamic names.
DEFAULT: Final = (
    MANDATORY
    | Flag.MANDATORY_25_DIGEST  # the releases that will accept nothing but the digest find it
    | Flag.DIST_MONITOR  # without these two no peer can monitor
    | Flag.DIST_MONITOR_NAME  # our processes, by pid or by name
    | Flag.UNICODE_IO  # our group leaders speak the io protocol in Unicode
    | Flag.SMALL_ATOM_TAGS  # SMALL_ATOM_EXT; decoded as every tag is
    | Flag.DIST_HDR_ATOM_CACHE  # most bytes of small messages are atoms: send and expect cache references
    | Flag.SEND_SENDER  # messages tell who sent them
    | Flag.BIG_SEQTRACE_LABELS  # labels are terms to us
    | Flag.EXIT_PAYLOAD  # the reason of an exit travels after the control message, so it can be fragmented
    | Flag.FRAGMENTS  # big messages do not hold up the ticks
    | Flag.SPAWN  # since OTP 25 nobody can call or spawn on a node without it
    | Flag.ALIAS  # replies to our calls by alias; a late one is dropped
    | Flag.ALTACT_SIG  # OTP 28: one control message for aliases and priority messages
    | Flag.NATIVE_RECORDS  # OTP 29: a term tag; refusing it would break peers that use records
)
# Left out of all that is named: ATOM_CACHE and HIDDEN_ATOM_CACHE (dead), LOCAL_EXT (internal). OTP leaves them out too.


def expand(flags: Flag) -> Flag:
    """The flags, with MANDATORY_25_DIGEST written out (dist_util: expand_mandatory_25_flag/1)."""
    return flags | MANDATORY_25 if flags & Flag.MANDATORY_25_DIGEST else flags


def missing(flags: Flag) -> Flag:
    """The flags of `MANDATORY` that a peer with these flags lacks; the digest counts for what it stands for."""
    return Flag(MANDATORY.value & ~expand(flags).value)


def without(flags: Flag, gone: Flag) -> Flag:
    """The flags less those of `gone`; bits without a name stay."""
    return Flag(flags.value & ~gone.value)


def names(flags: Flag) -> list[str]:
    """One name for each bit, lowest first, for error texts; `UNKNOWN<8000>` (hexadecimal) where OTP has no name."""
    bits = [1 << position for position in range(flags.value.bit_length()) if flags.value >> position & 1]
    return [Flag(bit).name or f"UNKNOWN<{bit:X}>" for bit in bits]
