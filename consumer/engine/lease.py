"""Renew the leases of messages in flight, from their receipt until they are settled.

One task for each queue renews what is due, at half of the lease that is left, so that one lost answer leaves time for
another try. Messages that wait for a busy handler are renewed like those that run, up to the longest time that a
message may be held. With each renewal the claim in the ledger is renewed too; while the store is down only the lease
is, and the claims follow when it works again.

What a renewal's answer means for the lease is in ``lease_state``. A known loss cancels an async handler. A plain
function can't be cancelled: its claim is renewed as long as it runs, so that no other process begins its job, and the
message is taken back when it is redelivered. The same holds for a handler that has ended until its outcome is
persisted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.abc
import structlog

from consumer.cloud.faults import lacks_a_right
from consumer.cloud.messages import Receipt
from consumer.config import Policy
from consumer.engine.breaker import Breaker, backoff_s
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.engine.lease_state import LeaseEvent, LeaseState, Stage
from consumer.engine.outcome import Interrupted
from consumer.engine.store_access import StoreAccess
from consumer.errors import CloudError, Fault, StoreError
from consumer.ops.metrics import QueueMetrics, RenewalResult

log = structlog.stdlib.get_logger(__name__)

_LOOK_EVERY_S: Final = 0.5
_TRY_AGAIN_S: Final = 1.0
_LATE_ANSWER_S: Final = 1.5
"""This close to its end the lease may have ended before our call arrived."""
_CLAIM_PATIENCE_S: Final = 2.0
"""How long a renewal waits for the store: the claim outlives the lease, so the lease comes first."""
CLAIM_MARGIN_S: Final = 10.0
"""A claim outlives the lease by this much, so that a redelivery elsewhere finds it still held."""


class Visibility:
    """ChangeMessageVisibility of one queue, behind a circuit breaker.

    Renewals, retries and releases all hide a message. Without it leases run out while handlers run, and retries come
    back at the wrong time: nothing is lost, but much is done twice. So its outage has two log lines of its own and
    fails the readiness check, unless the whole queue is out of reach, which polling logs (``suppress_log``).
    """

    def __init__(self, queue: QueueCalls, name: str, *, suppress_log: Callable[[], bool] | None = None) -> None:
        self._queue = queue
        self.breaker = Breaker(
            "messages can't be hidden; leases run out while handlers run, retries come back when their lease ends",
            "messages can be hidden again",
            queue=name,
            # A single fault is retried and not worth a line.
            log_after=2,
            always_fast=True,
            suppress_log=suppress_log,
        )

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """See ``QueueCalls.hide``."""
        asked_at = time.monotonic()
        try:
            receipt = await self._queue.hide(handle, seconds)
        except CloudError as error:
            if error.fault is Fault.GONE:
                # The lease is lost; the call itself works.
                self.breaker.succeeded()
            else:
                self.breaker.failed(error, asked_at, urgent=lacks_a_right(error.code))
            raise
        self.breaker.succeeded()
        return receipt


class LeaseKeeper:
    """Renews the leases of one queue's messages."""

    def __init__(self, visibility: Visibility, store: StoreAccess, policy: Policy, metrics: QueueMetrics) -> None:
        self._visibility = visibility
        self._breaker = visibility.breaker
        self._name = metrics.name
        self._store = store
        self.policy = policy
        self._results = metrics.renewals
        self._kept: set[Delivery] = set()
        self._changed = asyncio.Event()
        self._look_at = math.inf
        self._renewals: anyio.abc.TaskGroup | None = None
        self._is_catching_up = False

    def keep(self, delivery: Delivery) -> None:
        """Renew its lease from now on."""
        self._kept.add(delivery)
        if delivery.renew_at < self._look_at:
            self._changed.set()

    def drop(self, delivery: Delivery) -> None:
        """Renew its lease no more."""
        self._kept.discard(delivery)

    def kept(self) -> Sequence[Delivery]:
        """What is renewed now; may be called from any thread."""
        return tuple(self._kept)

    def claim_s(self, delivery: Delivery) -> float:
        """How long a claim is taken or renewed for, in seconds: longer than the lease that it goes with."""
        left_s = delivery.receipt.expires_at - time.monotonic()
        return max(left_s, self.policy.lease_step_s) + CLAIM_MARGIN_S

    async def run(self) -> None:
        """Renew what is due, until cancelled."""
        async with anyio.create_task_group() as self._renewals:
            while True:
                now = time.monotonic()
                for delivery in self._due(now):
                    # Not due again before this try has ended.
                    delivery.renew_next(math.inf)
                    self._renewals.start_soon(self._renew, delivery)
                # With nothing in flight there is no wake-up. A short lease leaves no time to be late, so the next look
                # is when the next renewal is due.
                soonest = min((delivery.renew_at for delivery in self._kept), default=math.inf)
                soonest = max(soonest, now + self._breaker.wait_s())
                self._look_at = min(soonest, now + _LOOK_EVERY_S) if self._kept else math.inf
                with anyio.move_on_after(None if self._look_at == math.inf else max(0.0, self._look_at - now)):
                    await self._changed.wait()
                self._changed.clear()

    def _due(self, now: float) -> list[Delivery]:
        """What is to be renewed now; while MNS does not answer, one lease at a time probes it."""
        due = [delivery for delivery in self._kept if delivery.renew_at <= now]
        if not due or self._breaker.is_closed:
            return due
        # For these MNS is not called: only their claims are renewed.
        chosen = [delivery for delivery in due if delivery.lease is LeaseState.ORPHANED]
        if len(chosen) < len(due) and self._breaker.try_probe():
            # The one with the most time left: its answer says the most.
            leased = (delivery for delivery in due if delivery.lease is not LeaseState.ORPHANED)
            chosen.append(max(leased, key=lambda delivery: delivery.receipt.expires_at))
        return chosen

    async def _renew(self, delivery: Delivery) -> None:
        async with delivery.lock:
            if delivery.stage is Stage.CLOSED or delivery not in self._kept:
                return
            now = time.monotonic()
            if 0 < delivery.await_until <= now:
                why = "it did not come back within a lease's length after its receipt handle was refused"
                self._lost(delivery, LeaseEvent.REDELIVERY_OVERDUE, why)
                return
            if delivery.stage is Stage.RECEIVED and now - delivery.received_at >= self.policy.max_hold_s:
                self.drop(delivery)
                delivery.interrupt(Interrupted.OVERDUE)
                return
            if not await self._renew_claim(delivery):
                # The message belongs to the other process: a call of ours could only take it away again.
                self._taken_over(delivery)
            elif delivery.is_closed:
                return
            elif delivery.lease is LeaseState.ORPHANED:
                delivery.renew_next(time.monotonic() + self.policy.lease_step_s / 2)
            else:
                await self._renew_lease(delivery)

    async def _renew_lease(self, delivery: Delivery) -> None:
        try:
            delivery.renewed(await self._visibility.hide(delivery.receipt.handle, self.policy.lease_step_s))
        except CloudError as error:
            self._refused(delivery, error)
        else:
            self._results[RenewalResult.RENEWED].inc()
        if self._breaker.is_closed:
            # Renewals that waited for this answer are due at once.
            self._changed.set()

    def _refused(self, delivery: Delivery, error: CloudError) -> None:
        now = time.monotonic()
        left_s = delivery.receipt.expires_at - now
        if error.fault is not Fault.GONE:
            delivery.lease_event(LeaseEvent.ANSWER_LOST)
            delivery.renew_next(now + (min(_TRY_AGAIN_S, max(0.1, left_s / 4)) if left_s > 0 else _TRY_AGAIN_S))
            self._results[RenewalResult.FAILED].inc()
            return
        event = LeaseEvent.REFUSED_NEAR_END if left_s <= _LATE_ANSWER_S else LeaseEvent.REFUSED
        self._lost(delivery, event, str(error))

    async def _renew_claim(self, delivery: Delivery) -> bool:
        """Renew its claim, where it has one yet; ``False`` when it is ours no longer."""
        if delivery.claim_key is None or not delivery.is_claimed:
            return True
        if not self._store.is_up:
            self._catch_up_later()
            return True
        gone: Sequence[str] = ()
        # A call that is cancelled is carried out all the same.
        with anyio.move_on_after(_CLAIM_PATIENCE_S) as patience:
            try:
                gone = await self._store.ledger.renew([delivery.claim_key], self.claim_s(delivery))
            except StoreError:
                self._store.breaker.open_until_probed()
                self._catch_up_later()
        if patience.cancelled_caught:
            self._catch_up_later()
        # While the outcome is persisted its own write finds out: the claim may be gone because that has ended it.
        return not gone or delivery.stage >= Stage.SETTLING

    def _catch_up_later(self) -> None:
        if not self._is_catching_up and self._renewals is not None:
            self._is_catching_up = True
            self._renewals.start_soon(self._catch_up)

    async def _catch_up(self) -> None:
        """Renew all claims in one call once the store works: some have not been renewed for long."""
        tries = 0
        gone: Sequence[str] | None = None
        claimed: dict[str, Delivery] = {}
        while gone is None:
            await self._store.breaker.wait_closed()
            claimed = {one.claim_key: one for one in self._kept if one.claim_key is not None and one.is_claimed}
            try:
                gone = await self._store.ledger.renew(list(claimed), self.policy.lease_step_s + CLAIM_MARGIN_S)
            except StoreError:
                self._store.breaker.open_until_probed()
                tries += 1
                await anyio.sleep(backoff_s(tries))
        self._is_catching_up = False
        for key in gone:
            # A delivery that has settled meanwhile has dropped its claim itself.
            delivery = claimed[key]
            if delivery in self._kept and delivery.is_claimed and delivery.stage < Stage.SETTLING:
                self._taken_over(delivery)

    def _lost(self, delivery: Delivery, event: LeaseEvent, why: str) -> None:
        """The receipt handle was refused, or the message did not come back."""
        state = delivery.lease_event(event)
        now = time.monotonic()
        if state is LeaseState.AWAITING_REDELIVERY:
            delivery.await_redelivery(now + self.policy.lease_step_s)
            self._results[RenewalResult.FAILED].inc()
            return
        self._results[RenewalResult.LOST].inc()
        fields = {"queue": self._name, "message_id": delivery.message.message_id, "why": why}
        if state is LeaseState.ORPHANED:
            delivery.renew_next(now)
            self._changed.set()
            if delivery.stage is Stage.RUNNING and delivery.in_thread:
                log.warning("lease lost while a plain function runs; its claim is kept until it ends", **fields)
            elif delivery.stage is Stage.RUNNING:
                log.warning("lease lost; its run is cancelled, its claim is kept until the run has ended", **fields)
                delivery.interrupt(Interrupted.LEASE_LOST)
            return
        log.warning("lease lost before its handler ran; the message is handled when it is redelivered", **fields)
        self.drop(delivery)
        delivery.interrupt(Interrupted.LEASE_LOST)

    def _taken_over(self, delivery: Delivery) -> None:
        self._results[RenewalResult.LOST].inc()
        self.drop(delivery)
        fields = {"queue": self._name, "message_id": delivery.message.message_id}
        if delivery.in_thread:
            log.warning("the claim was lost while a plain function runs", **fields)
        else:
            log.warning("the claim was lost; the run is cancelled", **fields)
            delivery.interrupt(Interrupted.LEASE_LOST)
