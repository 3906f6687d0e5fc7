"""The contract suite, which is part of the package; here with pytest's explanations of failed assertions."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("beamnode.testing.carrier_contract", "beamnode.testing.carrier_recorder")

from beamnode.testing.carrier_contract import CarrierContract  # noqa: E402
from beamnode.testing.carrier_recorder import (  # noqa: E402
    MIB,
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
