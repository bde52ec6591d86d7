"""Keep every message that is held hidden, from its receipt until it is settled.

One task for each queue looks at what is held and renews what is due, at about half of the lease that is left, so
that one lost answer leaves time for another try. Messages that wait for a busy handler are renewed like those that run,
as long as a message may be held. With each renewal the claim in the ledger is renewed too; while the store is down
only the lease is.

A lease counts as lost when MNS refuses a receipt that should be good. It is no proof when the answer to an earlier
renewal was lost, or when the lease ran out while MNS was out of reach: the receipt may have been replaced by our own
renewal. Then the claim guards the job, and the message gets one more lease's length to come back to us.

A known loss cuts an async handler short. A plain function can't be: its claim is renewed for as long as it runs, so
that nobody else begins its job, and its message is taken back when it comes again. The same holds for a handler that
has ended, until its end is written down.

Elsewhere: what a lost lease leads to (``engine.outcome``), the receipt itself (``engine.delivery``), how often to ask
while MNS does not answer (``engine.pacing``).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from consumer.engine.delivery import Delivery, Orders, Stage
from consumer.engine.outcome import Cut
from consumer.engine.pacing import Probes
from consumer.engine.store_gate import StoreGate
from consumer.errors import CloudError, Fault, StoreError
from consumer.ops.metrics import RenewalResult
from consumer.policy import LeasePolicy
from consumer.store.ledger import Ledger

log = structlog.stdlib.get_logger(__name__)

_LOOK_EVERY_S: Final = 0.5
_TRY_AGAIN_S: Final = 1.0
_LATE_S: Final = 1.5
_CLAIM_PATIENCE_S: Final = 2.0
"""For so long a renewal waits for the store: a lease is worth more than a claim that nobody else can take just now."""
CLAIM_MARGIN_S: Final = 10.0
"""A claim outlives the lease by this much, so that a redelivery elsewhere finds it still held."""


class LeaseKeeper:
    """Renews the leases of one queue's messages.

    Args:
        queue: The queue's client.
        name: The queue's name, for the log.
        ledger: Where the claims are.
        gate: The ledger's gate.
        policy: For how long each renewal holds and how long at most.
        observe: Told how each renewal ended.
    """

    def __init__(
        self,
        *,
        queue: Orders,
        name: str,
        ledger: Ledger,
        gate: StoreGate,
        policy: LeasePolicy,
        observe: Callable[[RenewalResult], None],
    ) -> None:
        self._queue = queue
        self._name = name
        self._ledger = ledger
        self._gate = gate
        self.policy = policy
        self._observe = observe
        self._held: set[Delivery] = set()
        self._probes = Probes()
        self._news = asyncio.Event()
        self._look_at = math.inf
        self._claims_late = False

    def keep(self, delivery: Delivery) -> None:
        """Renew this one's lease from now on."""
        self._held.add(delivery)
        if delivery.renew_at < self._look_at:
            self._news.set()

    def drop(self, delivery: Delivery) -> None:
        """Renew it no more."""
        self._held.discard(delivery)

    def held(self) -> Sequence[Delivery]:
        """What is renewed now; may be called from any thread."""
        return tuple(self._held)

    def claim_s(self, delivery: Delivery) -> float:
        """For how long a claim is taken or renewed: past the lease that it goes with."""
        left_s = delivery.receipt.expires_at - time.monotonic()
        return max(left_s, self.policy.step_s) + CLAIM_MARGIN_S

    async def run(self) -> None:
        """Renew what is due, until cancelled."""
        async with anyio.create_task_group() as renewals:
            while True:
                now = time.monotonic()
                for delivery in self._due(now):
                    # Not due again before this try has ended one way or the other.
                    delivery.renew_at = math.inf
                    renewals.start_soon(self._renew, delivery)
                if self._claims_late and self._gate.is_open:
                    self._claims_late = False
                    renewals.start_soon(self._catch_up)
                # With nothing held there is nothing to look at: idle costs no wake-ups. A short lease leaves no time to
                # be late, so the next look is when the next one is due.
                soonest = min((held.renew_at for held in self._held), default=math.inf)
                soonest = max(soonest, self._probes.not_before)
                self._look_at = min(soonest, now + _LOOK_EVERY_S) if self._held else math.inf
                with anyio.move_on_after(None if self._look_at == math.inf else max(0.0, self._look_at - now)):
                    await self._news.wait()
                self._news.clear()

    def _due(self, now: float) -> list[Delivery]:
        """What is to be renewed now; while MNS does not answer, one at a time shows whether it does again."""
        due = [held for held in self._held if held.renew_at <= now]
        if not due or not self._probes.failing:
            return due
        # MNS is not asked for these: only their claims are kept.
        chosen = [held for held in due if held.adrift]
        if now >= self._probes.not_before and len(chosen) < len(due):
            self._probes.begin()
            # The one with the most time left: what it is answered says the most.
            chosen.append(max((held for held in due if not held.adrift), key=lambda held: held.receipt.expires_at))
        return chosen

    async def _renew(self, delivery: Delivery) -> None:
        async with delivery.lock:
            if delivery.stage is Stage.CLOSED or delivery not in self._held:
                return
            now = time.monotonic()
            if 0 < delivery.grace_until <= now:
                self._lost(delivery, "it did not come back within a lease's length after its receipt had died")
                return
            if delivery.stage is Stage.HELD and now - delivery.received_at >= self.policy.max_s:
                self.drop(delivery)
                delivery.cut_short(Cut.OVERDUE)
                return
            if not await self._renew_claim(delivery):
                # The message is the other daemon's: an order of ours could only take it out of its hands.
                self._taken_over(delivery)
            elif delivery.adrift:
                delivery.renew_at = time.monotonic() + self.policy.step_s / 2
            else:
                await self._renew_lease(delivery)

    async def _renew_lease(self, delivery: Delivery) -> None:
        asked_at = time.monotonic()
        try:
            delivery.hold(await self._queue.hide(delivery.receipt.handle, self.policy.step_s))
        except CloudError as error:
            if error.fault is Fault.GONE:
                self._answered()
            else:
                self._probes.failed(asked_at)
            self._refused(delivery, error)
        else:
            self._answered()
            self._observe(RenewalResult.RENEWED)

    def _answered(self) -> None:
        if self._probes.failing:
            self._probes.passed()
            # What waited for this is due at once.
            self._news.set()

    async def _renew_claim(self, delivery: Delivery) -> bool:
        """Renew its claim, where it has one yet; ``False`` when it is ours no longer."""
        if delivery.key is None or not delivery.claimed:
            return True
        if not self._gate.is_open:
            self._claims_late = True
            return True
        gone: Sequence[str] = ()
        # A call that is cut short still runs its course.
        with anyio.move_on_after(_CLAIM_PATIENCE_S) as patience:
            try:
                gone = await self._ledger.renew([delivery.key], self.claim_s(delivery))
            except StoreError as error:
                self._claims_late = True
                self._gate.shut(error)
        self._claims_late |= patience.cancelled_caught
        return not gone

    async def _catch_up(self) -> None:
        """Renew all claims at once, now that the store works again: some have been without for long."""
        held = {one.key: one for one in self._held if one.key is not None and one.claimed}
        try:
            gone = await self._ledger.renew(list(held), self.policy.step_s + CLAIM_MARGIN_S) if held else ()
        except StoreError as error:
            self._claims_late = True
            self._gate.shut(error)
            return
        for key in gone:
            # One that has ended meanwhile has let go by itself.
            if held[key] in self._held and held[key].claimed and held[key].stage < Stage.SETTLING:
                self._taken_over(held[key])

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
            delivery.grace_until = now + self.policy.step_s
            delivery.renew_at = delivery.grace_until
            self._observe(RenewalResult.FAILED)
        else:
            self._lost(delivery, str(error))

    def _lost(self, delivery: Delivery, why: str) -> None:
        self._observe(RenewalResult.LOST)
        fields = {"queue": self._name, "message_id": delivery.message.message_id, "why": why}
        if delivery.stage >= Stage.RUNNING:
            delivery.adrift = True
            delivery.grace_until = 0.0
            delivery.renew_at = time.monotonic()
            self._news.set()
            if delivery.in_thread and delivery.stage is Stage.RUNNING:
                log.warning("lease lost while a plain function runs on; its claim is kept until it ends", **fields)
            elif delivery.stage is Stage.RUNNING:
                log.warning("lease lost; its run is cancelled, its claim is kept until that has ended", **fields)
                delivery.cut_short(Cut.LEASE_LOST)
            return
        log.warning("lease lost; its run is cancelled and the message will be handled when it comes back", **fields)
        self.drop(delivery)
        delivery.cut_short(Cut.LEASE_LOST)

    def _taken_over(self, delivery: Delivery) -> None:
        self._observe(RenewalResult.LOST)
        self.drop(delivery)
        if delivery.stage < Stage.SETTLING:
            log.warning(
                "another daemon has taken the claim over; its run is cancelled and the message is left to that one",
                queue=self._name,
                message_id=delivery.message.message_id,
            )
        if not delivery.in_thread:
            delivery.cut_short(Cut.LEASE_LOST)
