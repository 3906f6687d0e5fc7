"""core/spawning.py: the options of a spawn, and the values that OTP 25 to 29 take for them (measured)."""

from __future__ import annotations

from typing import Any

import pytest

from beamnode.core.spawning import _ties_asked_for, _wanted
from beamnode.etf import a
from beamnode.wire import control


@pytest.mark.parametrize(
    "option",
    [
        (a.priority, a.high),
        (a.max_heap_size, 100000),
        (a.max_heap_size, {a.size: 1}),
        (a.message_queue_data, a.off_heap),
        (a.async_dist, True),
        (a.fullsweep_after, 0),
        (a.scheduler, 1),
    ],
)
def test_what_tunes_a_process_is_taken(option: Any) -> None:
    wanted = _wanted([option])
    assert wanted is not None
    assert wanted.ties == 0


@pytest.mark.parametrize(
    "option",
    [
        a.zork,
        1,
        (a.zork, 1),
        (a.priority, a.zork),
        (a.max_heap_size, a.x),
        (a.max_heap_size, -1),
        (a.min_heap_size, True),
        (a.async_dist, a.yes),
        (a.monitor, a.x),
        (a.monitor,),
        (a.name, a.undefined),
        ("priority", a.high),
        [],
    ],
)
def test_what_is_no_option(option: Any) -> None:
    assert _wanted([a.link, option]) is None


@pytest.mark.parametrize("monitor", [a.monitor, (a.monitor, []), (a.monitor, [(a.tag, a.x)])])
def test_a_monitor_with_options_is_a_monitor(monitor: Any) -> None:
    wanted = _wanted([monitor, a.link])
    assert wanted is not None
    assert wanted.ties == control.SPAWN_MONITORED | control.SPAWN_LINKED
    assert _ties_asked_for([monitor, a.link]) == wanted.ties
    assert _ties_asked_for([a.link]) == control.SPAWN_LINKED
