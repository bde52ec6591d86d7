"""Keep every message that is held hidden, from its receipt until it is settled.

One task for each queue looks at what is held and renews what is due, at about half of the lease that is left, so
that one lost answer leaves time for another try. Messages that wait for a busy handler are renewed like those that run.
With each renewal the claim in the ledger is renewed too.

A lease counts as lost when MNS refuses a receipt that should be good. It is no proof when the answer to an earlier
renewal was lost, or when the lease ran out while MNS was out of reach: the receipt may have been replaced by our own
renewal. Then the claim guards the job, and the message gets one more lease's length to come back to us.

Elsewhere: what a lost lease leads to (``engine.outcome``), the receipt itself (``engine.delivery``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import anyio
import structlog

from consumer.engine.delivery import Delivery, Orders, Stage
from consumer.errors import CloudError, Fault, StoreError
from consumer.ops.words import RenewalResult
from consumer.policy import MIN_HIDE_S, LeasePolicy
from consumer.store.ledger import Ledger

log = structlog.stdlib.get_logger(__name__)

_LOOK_EVERY_S: Final = 0.5
_TRY_AGAIN_S: Final = 1.0
_LATE_S: Final = 1.5
CLAIM_MARGIN_S: Final = 10.0
"""A claim outlives the lease by this much, so that a redelivery elsewhere finds it still held."""


class LeaseKeeper:
    """Renews the leases of one queue's messages.

    Args:
        queue: The queue's client.
        name: The queue's name, for the log.
        ledger: Where the claims are.
        policy: For how long each renewal holds and how long at most.
        observe: Told how each renewal ended.
    """

    def __init__(
        self, *, queue: Orders, name: str, ledger: Ledger, policy: LeasePolicy, observe: Callable[[RenewalResult], None]
    ) -> None:
        self._queue = queue
        self._name = name
        self._ledger = ledger
        self._policy = policy
        self._observe = observe
        self._held: set[Delivery] = set()
        self._news = anyio.Event()
        self._look_at = math.inf

    def keep(self, delivery: Delivery) -> None:
        """Renew this one's lease from now on."""
        self._held.add(delivery)
        if delivery.renew_at < self._look_at:
            self._news.set()

    def drop(self, delivery: Delivery) -> None:
        """Renew it no more."""
        self._held.discard(delivery)

    def claim_s(self, delivery: Delivery) -> float:
        """For how long a claim is taken or renewed: past the lease that it goes with."""
        left_s = delivery.receipt.expires_at - time.monotonic()
        return max(left_s, self._policy.step_s) + CLAIM_MARGIN_S

    async def run(self) -> None:
        """Renew what is due, until cancelled."""
        async with anyio.create_task_group() as renewals:
            while True:
                now = time.monotonic()
                for delivery in [held for held in self._held if held.renew_at <= now]:
                    # Not due again before this try has ended one way or the other.
                    delivery.renew_at = math.inf
                    renewals.start_soon(self._renew, delivery)
                # With nothing held there is nothing to look at: idle costs no wake-ups. A short lease leaves no time to
                # be late, so the next look is when the next one is due.
                soonest = min((held.renew_at for held in self._held), default=math.inf)
                self._look_at = min(soonest, now + _LOOK_EVERY_S) if self._held else math.inf
                with anyio.move_on_after(None if self._look_at == math.inf else max(0.0, self._look_at - now)):
                    await self._news.wait()
                self._news = anyio.Event()

    async def _renew(self, delivery: Delivery) -> None:
        async with delivery.lock:
            if delivery.stage is Stage.CLOSED or delivery not in self._held:
                return
            if 0 < delivery.grace_until <= time.monotonic():
                self._lost(delivery, "it did not come back within a lease's length after its receipt had died")
                return
            try:
                if not await self._renew_claim(delivery):
                    # The message is the other daemon's: an order of ours could only take it out of its hands.
                    self._lost(delivery, "another daemon has taken its claim over")
                    return
                delivery.hold(await self._queue.hide(delivery.receipt.handle, self._step_s(delivery)))
                self._observe(RenewalResult.RENEWED)
            except CloudError as error:
                self._refused(delivery, error)
            except StoreError as error:
                # The store's own outage is told where it is met first; here it only must not cost the lease.
                delivery.renew_at = time.monotonic() + _TRY_AGAIN_S
                log.debug("claim not renewed", queue=self._name, error=str(error))

    async def _renew_claim(self, delivery: Delivery) -> bool:
        """Renew its claim, where it has one yet; ``False`` when it is ours no longer."""
        if delivery.key is None or not delivery.claimed:
            return True
        return not await self._ledger.renew([delivery.key], self.claim_s(delivery))

    def _step_s(self, delivery: Delivery) -> int:
        """The next lease's length, cut so that the whole stays within the maximum."""
        left_s = self._policy.max_s - (time.monotonic() - delivery.received_at)
        return max(MIN_HIDE_S, math.ceil(min(self._policy.step_s, left_s)))

    def _refused(self, delivery: Delivery, error: CloudError) -> None:
        now = time.monotonic()
        # Close to its end it may have ended on the way: an answer that we read late began its lease before we knew.
        expired = now >= delivery.receipt.expires_at - _LATE_S
        if error.fault is not Fault.GONE:
            # The call may have had its effect: from here on a dead receipt proves nothing.
            delivery.doubtful = True
            delivery.renew_at = now + min(_TRY_AGAIN_S, max(0.1, (delivery.receipt.expires_at - now) / 4))
            if now >= delivery.receipt.expires_at:
                delivery.renew_at = now + _TRY_AGAIN_S
            self._observe(RenewalResult.FAILED)
        elif (delivery.doubtful or expired) and delivery.stage < Stage.SETTLING:
            delivery.grace_until = now + self._policy.step_s
            delivery.renew_at = delivery.grace_until
            self._observe(RenewalResult.FAILED)
        else:
            self._lost(delivery, str(error))

    def _lost(self, delivery: Delivery, why: str) -> None:
        self._observe(RenewalResult.LOST)
        self.drop(delivery)
        if delivery.stage < Stage.SETTLING:
            log.warning(
                "lease lost; its run is cancelled and the message will be handled when it comes back",
                queue=self._name,
                message_id=delivery.message.message_id,
                why=why,
            )
        delivery.lose()
