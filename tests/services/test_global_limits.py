"""The limits of `global`'s tables: at the bound, one past it, and who is told of."""

from __future__ import annotations

import itertools
from typing import Any

from beamnode import Limits, Pid, Reference, a
from beamnode.services.global_actions import Outbox, Reply
from beamnode.services.global_known import Known
from beamnode.services.global_locks import Locks
from beamnode.services.global_names import Names, Registration
from beamnode.services.global_waiters import Waiters

HERE, PEER = a["here@h"], a["peer@h"]


class Told(list[Any]):
    """What was told of limits."""

    def __call__(self, limit: str, who: str, what: str, consequence: str) -> None:
        self.append((limit, who))


def pid(number: int) -> Pid:
    return Pid(PEER, number, 0, 1)


def monitoring() -> Any:
    numbers = itertools.count(1)
    return lambda _pid: Reference(HERE, 1, (next(numbers), 0, 0))


def test_names() -> None:
    told, limits = Told(), Limits(global_names_max=2)
    locks = Locks(monitoring(), lambda _: None)
    names = Names(locks, monitoring(), lambda _: None, lambda _: True, limits, told)

    def put(name: Any, number: int) -> None:
        registration = Registration.of(name, pid(number), a.undefined)
        assert registration is not None
        names.register(registration, None, None)

    put(a.one, 1)
    put(a.two, 2)
    assert told == []
    put(a.three, 3)
    put(a.two, 4)  # in the place of the other
    assert [names.where(name) for name in (a.one, a.two, a.three)] == [pid(1), pid(4), None]
    assert told == [("global_names_max", PEER.name)]


def test_locks() -> None:
    told, limits = Told(), Limits(global_locks_max=2)
    locks = Locks(monitoring(), lambda _: None, limits, told)
    assert [locks.set((name, a.me), pid(1)) for name in (a.one, a.two)] == [True, True]
    assert told == []
    assert locks.set((a.three, a.me), pid(1)) is False
    assert told == [("global_locks_max", PEER.name)]
    locks.delete((a.one, a.me), pid(1))
    assert locks.set((a.three, a.me), pid(1)) is True


def test_waiters() -> None:
    told, outbox = Told(), Outbox()
    waiters = Waiters(outbox, Limits(global_waiters_max=1), told)
    waiters.add((pid(1), a.tag), a.ok, [a["x@h"]])
    assert (outbox.take(), told) == ([], [])
    waiters.add((pid(2), a.tag), a.ok, [a["x@h"]])
    assert outbox.take() == [Reply((pid(2), a.tag), (a.error, a.system_limit))]
    assert told == [("global_waiters_max", PEER.name)]
    waiters.done_with(a["x@h"])
    assert outbox.take() == [Reply((pid(1), a.tag), a.ok)]


def test_nodes_that_are_not_connected() -> None:
    told = Told()
    known = Known(HERE, connection_ids={PEER: 1}, unconnected_max=2, limit_hit=told)
    assert known.add([PEER, a["a@h"], a["b@h"]]) == [a["b@h"], a["a@h"], PEER]
    assert told == []
    assert known.add([a["c@h"]]) == []
    assert told == [("global_unconnected_max", "c@h")]
