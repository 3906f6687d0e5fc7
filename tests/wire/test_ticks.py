"""Ticks: OTP's rule, step by step, on a clock of the test's own."""

from __future__ import annotations

import pytest

from beamnode.errors import NetTickTimeout, UsageError
from beamnode.wire.ticks import Ticker

# Each interval: bytes read in it, packets written in it; then what its end says, True for a tick. "dead" ends it.
TABLE = [
    ("idle but read", True, [(1, 0, True), (1, 0, True), (1, 0, True), (1, 0, True), (1, 0, True)]),
    ("busy both ways", True, [(9, 2, False)] * 6),
    ("writes, reads nothing, published", True, [(0, 1, False)] * 3 + [(0, 1, "dead")]),
    ("writes, reads nothing, hidden", False, [(0, 1, True)] * 3 + [(0, 1, "dead")]),
    ("reads, writes, hidden", False, [(1, 1, False)] * 6),
    ("silence", True, [(0, 0, True)] * 3 + [(0, 0, "dead")]),
    ("silence after a byte", True, [(1, 0, True), (0, 0, True), (0, 0, True), (0, 0, True), (0, 0, "dead")]),
    ("a byte at the last moment", True, [(0, 0, True)] * 3 + [(1, 0, True)] + [(0, 0, True)] * 3 + [(0, 0, "dead")]),
    ("a tick is not something written", True, [(1, 1, False), (1, 0, True), (1, 0, True), (1, 3, False)]),
]


@pytest.mark.parametrize(("what", "published", "steps"), TABLE)
@pytest.mark.parametrize("late", [0.0, 3.0])
def test_the_rule(what: str, published: bool, steps: list[tuple[int, int, bool | str]], late: float) -> None:
    now = 1000.0
    ticker = Ticker(60.0, 4, peer_published=published, now=now)
    for number, (read, written, expected) in enumerate(steps):
        ticker.bytes_in += read
        ticker.packets_out += written
        assert ticker.next_deadline() == now + 15.0 * (number + 1)
        assert not ticker.handle_deadline(ticker.next_deadline() - 0.001)
        if expected == "dead":
            with pytest.raises(NetTickTimeout):
                ticker.handle_deadline(ticker.next_deadline() + late)
        else:
            assert ticker.handle_deadline(ticker.next_deadline() + late) is expected, what
            ticker.packets_out += bool(expected)


@pytest.mark.parametrize("last_byte", [0.0, 0.1, 7.0, 14.9, 15.0, 15.1, 29.0])
@pytest.mark.parametrize("intensity", [4, 7, 1000])
def test_when_silence_is_noticed(last_byte: float, intensity: int) -> None:
    interval = 60.0 / intensity
    ticker = Ticker(60.0, intensity, peer_published=True, now=0.0)
    while ticker.next_deadline() < last_byte:
        ticker.handle_deadline(ticker.next_deadline())
    ticker.bytes_in += 1
    for _ in range(intensity):
        ticker.handle_deadline(ticker.next_deadline())
    noticed = ticker.next_deadline()
    with pytest.raises(NetTickTimeout):
        ticker.handle_deadline(noticed)
    assert last_byte + 60.0 - 1e-6 <= noticed <= last_byte + 60.0 + interval + 1e-6


def test_a_clock_that_stood_still_takes_nobody_for_dead() -> None:
    ticker = Ticker(60.0, 4, peer_published=True, now=0.0)
    assert ticker.handle_deadline(1000.0)
    assert ticker.next_deadline() == 1015.0
    assert not ticker.handle_deadline(1001.0)


def test_a_new_ticktime() -> None:
    ticker = Ticker(60.0, 4, peer_published=True, now=0.0)
    for deadline in (15.0, 30.0, 45.0):
        assert ticker.next_deadline() == deadline
        ticker.handle_deadline(deadline)
    ticker.set_ticktime(8.0, 4, 50.0)
    for deadline in (52.0, 54.0, 56.0):
        assert ticker.next_deadline() == deadline
        ticker.handle_deadline(deadline)
    with pytest.raises(NetTickTimeout):
        ticker.handle_deadline(58.0)


@pytest.mark.parametrize(("ticktime", "intensity"), [(60.0, 3), (60.0, 1001), (0.0, 4), (-1.0, 4), (float("nan"), 4)])
def test_settings_that_cannot_be(ticktime: float, intensity: int) -> None:
    with pytest.raises(UsageError):
        Ticker(ticktime, intensity, peer_published=True, now=0.0)


def test_no_tick_is_queued_behind_what_does_not_leave() -> None:
    """Nothing is written while the carrier takes no more; to a hidden peer that is silent it is sent all the same."""
    for published in (True, False):
        ticker = Ticker(60.0, 4, peer_published=published, now=0.0)
        ticker.packets_out += 5
        assert not ticker.handle_deadline(15.0) or not published
        ticker.pending = True
        ticker.bytes_in += 1
        assert not ticker.handle_deadline(30.0)
        assert ticker.handle_deadline(45.0) is not published
        ticker.pending = False
        assert ticker.handle_deadline(60.0)


def test_what_is_queued_and_never_leaves_hides_no_silence() -> None:
    ticker = Ticker(60.0, 4, peer_published=True, now=0.0)
    ticker.pending = True
    for _ in range(3):
        ticker.packets_out += 1
        assert not ticker.handle_deadline(ticker.next_deadline())
    with pytest.raises(NetTickTimeout):
        ticker.handle_deadline(ticker.next_deadline())
