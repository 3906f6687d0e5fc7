"""The fuzzer for a few seconds; failures are told by target and seed: `python tests/hostile/fuzz.py --replay`."""

from __future__ import annotations

import secrets

import pytest

from fuzz import TARGETS, run, run_for

SECONDS = 3.0


@pytest.mark.parametrize("target", TARGETS)
def test_no_machine_breaks(target: str) -> None:
    seed = secrets.randbits(32)
    counts, failures = run_for(SECONDS, seed, [target], None)
    assert counts[target] > 0
    assert not failures, failures[0]


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        # Found once: keep them.
        ("global", 161022290523139),  # known for ever, though the connection had gone before its nodeup was heard
    ],
)
def test_what_was_found_once(target: str, seed: int) -> None:
    assert run(target, seed) is None
