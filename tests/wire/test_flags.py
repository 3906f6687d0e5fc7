"""flags.py: values and sets as OTP's dist.hrl and erts_internal:get_dflags/0 have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamnode.wire.flags import DEFAULT, MANDATORY, MANDATORY_25, Flag, expand, missing, names, without

# erts_internal:get_dflags/0, the fields `default` and `mandatory`
DEFAULT_OTP_25_AND_27 = 0xD07DF7FBC
DEFAULT_OTP_29 = 0x6D07DF7FBC
MANDATORY_OTP_25 = 17239956
MANDATORY_OTP_26_TO_29 = 0x403070F94


def test_the_default_is_that_of_otp_29() -> None:
    assert DEFAULT == DEFAULT_OTP_29
    assert Flag.PUBLISHED not in DEFAULT


def test_we_demand_what_otp_26_and_newer_demand() -> None:
    assert MANDATORY == MANDATORY_OTP_26_TO_29
    assert MANDATORY_25 == MANDATORY_OTP_25
    assert MANDATORY & ~DEFAULT == 0


@pytest.mark.parametrize("flags", [DEFAULT_OTP_25_AND_27, DEFAULT_OTP_29, DEFAULT_OTP_25_AND_27 | 1])
def test_no_supported_release_is_shut_out(flags: int) -> None:
    assert missing(Flag(flags)) == Flag(0)


@pytest.mark.parametrize(
    ("flag", "bit"),
    [
        (Flag.MANDATORY_25_DIGEST, 26),
        (Flag.SPAWN, 32),
        (Flag.NAME_ME, 33),
        (Flag.V4_NC, 34),
        (Flag.ALIAS, 35),
        (Flag.LOCAL_EXT, 36),
        (Flag.ALTACT_SIG, 37),
        (Flag.NATIVE_RECORDS, 38),
    ],
)
def test_the_bits_that_others_have_got_wrong(flag: Flag, bit: int) -> None:
    assert flag == 1 << bit


def test_the_digest_stands_for_what_otp_25_demands() -> None:
    assert expand(Flag.MANDATORY_25_DIGEST) == Flag.MANDATORY_25_DIGEST | MANDATORY_25
    assert expand(Flag.SPAWN) == Flag.SPAWN
    assert missing(Flag.MANDATORY_25_DIGEST) == Flag.UNLINK_ID | Flag.V4_NC
    assert missing(Flag.MANDATORY_25_DIGEST | Flag.UNLINK_ID | Flag.V4_NC) == 0


def test_nothing_offered_is_everything_missing() -> None:
    assert missing(Flag(0)) == MANDATORY


def test_names_lowest_bit_first_and_unknown_bits_as_otp_writes_them() -> None:
    assert names(Flag.V4_NC | Flag.PUBLISHED | Flag(0x8000)) == ["PUBLISHED", "UNKNOWN<8000>", "V4_NC"]
    assert names(Flag(1 << 63)) == ["UNKNOWN<8000000000000000>"]
    assert names(Flag(0)) == []


@given(st.integers(0, (1 << 64) - 1))
def test_no_bit_is_ever_lost(bits: int) -> None:
    flags = Flag(bits)
    assert flags.value == bits
    assert len(names(flags)) == bits.bit_count()
    assert without(flags, Flag.PUBLISHED).value == bits & ~1
    assert (expand(flags) & flags).value == bits
    assert (flags | Flag.PUBLISHED).value == bits | 1
