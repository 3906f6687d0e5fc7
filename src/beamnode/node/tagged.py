"""Waiting for the one message that carries a reference: an answer, whoever else of the process waits for what else."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, Self

from beamnode.core.process import NOTHING, Origin, Slot, reference_in
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
    if body.held_by:
        await body.wait_for_room()
    body.check_alive()
    process = body.process
    slot = process.expected.get(reference)
    lent = slot is None
    if slot is None:
        message = process.mailbox.take_first(lambda got: reference_in(got) == reference)
        if message is not NOTHING:
            return message.message if type(message) is Origin else message
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


class TaggedMessages:
    """Waits for the messages of many references, whichever comes first; `receive_tagged` waits for that of one.

        with TaggedMessages(references) as answers:
            reference, message = await answers.next(timeout=5)

    For monitors that were made without `expected`. A message that was not taken goes back to the mailbox at the end.
    """

    def __init__(self, references: Iterable[Reference]) -> None:
        self._body = current_body()
        self._references = set(references)
        self._slots: dict[Reference, Slot] = {}
        self._there: deque[tuple[Reference, Any]] = deque()
        self._waiter = Waiter(self._body.runtime.loop)

    def __enter__(self) -> Self:
        """Errors: UsageError where another task waits for one of the answers, and off the node's loop."""
        body, process = self._body, self._body.process
        if not body.runtime.on_its_loop():
            raise UsageError("this code runs in a thread: use the blocking names of beamnode.sync instead of awaiting")
        if self._references & process.expected.keys():
            raise UsageError(f"another task of {process.pid!r} waits for one of the same answers already")
        self._take_from_mailbox()
        for reference in self._references.difference(reference for reference, _ in self._there):
            slot = self._slots[reference] = process.add_slot(reference)
            slot.waiter = self._waiter
        return self

    async def next(self, timeout: float | None = None) -> tuple[Reference, Any]:
        """The first message that is there, or comes, of a reference that had none yet. Errors: TimeoutError."""
        body = self._body
        loop = body.runtime.loop
        if body.held_by:
            await body.wait_for_room()
        deadline = None if timeout is None else loop.time() + max(timeout, 0)
        body.check_alive()
        while not self._there and not self._take_filled():
            if deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"no answer within {timeout} s")
            timer = None if deadline is None else loop.call_at(deadline, self._waiter.wake)
            try:
                await self._waiter
            finally:
                if timer is not None:
                    timer.cancel()
            body.check_alive()
        return self._there.popleft()

    def __exit__(self, *_: object) -> None:
        process = self._body.process
        self._take_filled()
        for reference, slot in self._slots.items():
            if process.expected.get(reference) is slot:
                del process.expected[reference]
        if self._there:
            mailbox = process.mailbox.owned_by(process)
            mailbox.extendleft(message for _, message in reversed(self._there))
            mailbox.restart()
            self._body.wake()  # who is in `receive` has not seen them

    def _take_from_mailbox(self) -> None:
        """The first message of each reference that has one; in one go, because there may be thousands."""
        mailbox = self._body.process.mailbox
        left = set(self._references)
        kept = []
        for message in mailbox:
            reference = reference_in(message)
            if reference is None or reference not in left:
                kept.append(message)
                continue
            left.discard(reference)
            self._there.append((reference, message.message if type(message) is Origin else message))
        if self._there:
            mailbox.clear()
            mailbox.extend(kept)
            mailbox.restart()

    def _take_filled(self) -> bool:
        for reference, slot in [item for item in self._slots.items() if item[1].message is not NOTHING]:
            self._there.append((reference, slot.message))
            del self._slots[reference]
            # What else comes for it (the end of who has answered) goes to the mailbox again.
            if self._body.process.expected.get(reference) is slot:
                del self._body.process.expected[reference]
        return bool(self._there)


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
