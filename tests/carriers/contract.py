"""The contract suite, which is part of the package; here with pytest's explanations of failed assertions."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("beamnode.testing.carrier_contract")

from beamnode.testing.carrier_contract import (  # noqa: E402
    MIB,
    CarrierContract,
    Joined,
    Recorder,
    Site,
    dial_error,
    errors_reported,
    nothing_left_open,
    until,
)

__all__ = [
    "MIB",
    "CarrierContract",
    "Joined",
    "Recorder",
    "Site",
    "dial_error",
    "errors_reported",
    "nothing_left_open",
    "until",
]
