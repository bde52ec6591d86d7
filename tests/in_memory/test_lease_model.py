"""Renew, redeliver, lose, hide and delete in any order, against a model of one message of MNS.

The queue is a model, so that every order of events and every lost answer can be tried. Its rule for receipt handles is
MNS's: each is valid until it is replaced or has expired
(facts/mns.md#receipt-handles).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum
from types import SimpleNamespace
from typing import cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.cloud.messages import DeleteFailure, Receipt
from consumer.config import Policy
from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.lease import LeaseKeeper, Visibility
from consumer.engine.lease_state import Stage
from consumer.engine.outcome import Abandon, Done, Interrupted, Outcome, RetryLater
from consumer.engine.settle import settle
from consumer.engine.store_access import LetterLimit, StoreAccess
from consumer.errors import CloudError, Fault
from consumer.ops.metrics import Metrics
from consumer.store.ledger import Claimed
from tests.engine.rig import delivery, message
from tests.in_memory.clock import Clock
from tests.in_memory.ledger import MemoryLedger

KEY = "account/region/queue|IProduction|1"


class Event(Enum):
    """An event of a message in flight."""

    RENEW = "renew"
    RENEW_UNANSWERED = "the renewal has its effect, its answer gets lost"
    RENEW_REFUSED = "the renewal is answered by 503"
    REVOKED = "MNS takes the lease away"
    REDELIVERED = "the same message comes back to us"


class Queue:
    """One message, as MNS keeps it."""

    def __init__(self) -> None:
        self.number = 0
        self.good: str | None = self.fresh()
        self.deleted = False
        self.hidden_for_s = 0
        self.next: Event | None = None
        self.used: list[str] = []

    def fresh(self) -> str:
        self.number += 1
        return f"receipt-{self.number}"

    def _check(self, handle: str, operation: str) -> None:
        self.used.append(handle)
        if handle != self.good:
            raise CloudError(Fault.GONE, operation=operation, target="q", code="MessageNotExist", detail="dead")

    async def hide(self, handle: str, seconds: int) -> Receipt:
        event, self.next = self.next, None
        if event is Event.RENEW_REFUSED:
            raise CloudError(Fault.SERVER, operation="hide", target="q", code="InternalError", detail="503")
        self._check(handle, "hide")
        self.good, self.hidden_for_s = self.fresh(), seconds
        if event is Event.RENEW_UNANSWERED:
            raise CloudError(Fault.NETWORK, operation="hide", target="q", code="Dropped", detail="no answer")
        return Receipt(self.good, time.monotonic() + seconds)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        (handle,) = handles
        try:
            self._check(handle, "delete")
        except CloudError as error:
            return [DeleteFailure(handle, error.code, gone=True, retryable=False, detail="dead")]
        self.deleted = True
        return []


async def play(events: list[Event], end: Outcome) -> tuple[Queue, Delivery, Outcome, bool]:
    """Apply events to a message in flight, then settle it; returns its end, and whether the key is free again."""
    queue, ledger = Queue(), MemoryLedger()
    await ledger.open()
    store = StoreAccess(ledger)
    metrics = Metrics()
    deletes = Deletes(queue, metrics.queue("q"))
    visibility = Visibility(queue, "q")
    keeper = LeaseKeeper(visibility, store, Policy(), metrics.queue("q"))
    letters = LetterLimit(store, Policy(), metrics)
    parts = SimpleNamespace(
        name="q",
        identity="account/region/queue",
        store=store,
        visibility=visibility,
        deletes=deletes,
        leases=keeper,
        letters=letters,
        traces=None,
    )
    lane = cast("Lane", parts)
    received = delivery(message(queue.good or "", lease_s=30))
    received.asks_for(KEY)
    received.claim_granted(Claimed())
    await ledger.claim(KEY, 60)
    keeper.keep(received)
    for event in events:
        if event is Event.REVOKED:
            queue.good = None
        elif event is Event.REDELIVERED:
            queue.good = queue.fresh()
            received.redelivered(Receipt(queue.good, time.monotonic() + 30))
        else:
            queue.next = event
            await keeper._renew(received)
            queue.next = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deletes.run)
        received.finish(None)
        lost = received.interruption is Interrupted.LEASE_LOST
        outcome = await settle(lane, received, Abandon() if lost else end)
        keeper.drop(received)
        await deletes.flush()
        tasks.cancel_scope.cancel()
    used = len(queue.used)
    # A renewal that is due now must find that there is nothing to renew.
    await keeper._renew(received)
    assert len(queue.used) == used
    free = type(await ledger.claim(KEY, 1)).__name__ == "Claimed"
    await ledger.close()
    return queue, received, outcome, free


def played(events: list[Event], end: Outcome) -> tuple[Queue, Delivery, Outcome, bool]:
    """Play it on a clock that jumps."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        clock.install(patch)
        return anyio.run(play, events, end, backend_options={"loop_factory": clock.make_loop})


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(Event), max_size=8), st.sampled_from([Done(), RetryLater(30, None, "later")]))
def test_only_our_own_messages_are_deleted(events: list[Event], end: Outcome) -> None:
    """In any order of events: a delete only after done, only by the newest receipt; a lost lease orders nothing."""
    queue, received, outcome, free = played(events, end)
    assert received.stage is Stage.CLOSED
    # Receipt handles are used in the order of their arrival: never an older one after a newer one.
    numbers = [int(handle.partition("-")[2]) for handle in queue.used]
    assert numbers == sorted(numbers)
    if queue.deleted:
        assert outcome == Done()
    if outcome == Done():
        assert not free, "a done job is never free again"
    else:
        assert free, "a job that was let go can be claimed at once"
        assert not queue.deleted
    if received.interruption is Interrupted.LEASE_LOST:
        assert outcome == Abandon()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([Event.RENEW, Event.RENEW_REFUSED, Event.REDELIVERED]), max_size=8))
def test_without_losses_the_end_always_reaches_the_message(events: list[Event]) -> None:
    """If no answer and no lease is lost, a done message is deleted at once."""
    queue, _, outcome, _ = played(events, Done())
    assert outcome == Done()
    assert queue.deleted
