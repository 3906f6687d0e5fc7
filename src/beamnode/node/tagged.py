"""Waiting for the one message that carries a reference: an answer, whoever else of the process waits for what else."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from beamnode.core.process import NOTHING, Slot, reference_in
from beamnode.errors import UsageError
from beamnode.etf import Reference
from beamnode.node.body import Body
from beamnode.node.current import current_body
from beamnode.node.waiting import Waiter


def receive_tagged(reference: Reference, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
    """Await the message that carries `reference`: `{[alias|Reference], Reply}`, or what a monitor tells of an end.

    Several tasks and threads of one process may wait at a time, each for a reference of its own, also while another is
    in `receive`. The mailbox is not looked at for a monitor that was made with `expected`; for others, once.

    `timeout` is in seconds; TimeoutError when it did not come: from then on it goes to the mailbox, or, with
    `expected`, still to its slot, until `demonitor(reference, flush=True)` takes that away.
    """
    body = current_body()
    if not body.runtime.on_its_loop():
        raise UsageError("this code runs in a thread: use the blocking names of beamnode.sync instead of awaiting")
    return _receive_tagged(body, reference, timeout)


async def _receive_tagged(body: Body, reference: Reference, timeout: float | None) -> Any:
    if body.held_by is not None:
        await body.wait_for_room()
    body.check_alive()
    process = body.process
    slot = process.expected.get(reference)
    lent = slot is None
    if slot is None:
        message = process.mailbox.take_first(lambda got: reference_in(got) == reference)
        if message is not NOTHING:
            return message
        slot = process.add_slot(reference)
    elif slot.waiter is not None:
        raise UsageError(f"another task of {process.pid!r} waits for the same answer already")
    try:
        if slot.message is NOTHING:
            await _wait(body, slot, timeout)
        body.check_alive()
        if slot.message is NOTHING:
            raise TimeoutError(f"no answer within {timeout} s")
        message, slot.message = slot.message, NOTHING
        return message
    finally:
        if lent:
            there = process.expected.pop(reference, None)  # `demonitor` with `flush` may have taken it away
            if there is not None and slot.message is not NOTHING:  # it came with the cancellation: for who asks next
                mailbox = process.mailbox.owned_by(process)
                mailbox.appendleft(slot.message)
                mailbox.restart()
                body.wake()  # who is in `receive` has not seen it


async def _wait(body: Body, slot: Slot, timeout: float | None) -> None:
    """Until the message is there, the time is over, or the process has ended."""
    loop = body.runtime.loop
    waiter = slot.waiter = Waiter(loop)
    timer = None if timeout is None else loop.call_later(max(timeout, 0), waiter.wake)
    try:
        await waiter
    finally:
        slot.waiter = None
        if timer is not None:
            timer.cancel()
