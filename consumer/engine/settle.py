"""Settle a delivery: persist its outcome first, then delete or hide the message.

    Done          ledger: done                                                        then delete
    Discard                                                                           delete
    RetryLater    ledger: fail or release                                             then hide
    DeadLetter    ledger: dead letter and the key's end in one transaction            then delete
    Abandon       ledger: release                                                     the message is left alone

A write that fails is retried until it succeeds while the message's lease is renewed; nothing is deleted before. A dead
letter that the store has no room for becomes RetryLater.
"""

from __future__ import annotations

import time

import anyio
import structlog

from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery
from consumer.engine.lease import LeaseKeeper, Visibility
from consumer.engine.letter_limit import LetterLimit, no_room
from consumer.engine.outcome import (
    Abandon,
    ClaimedElsewhere,
    DeadLetter,
    Discard,
    Done,
    Outcome,
    RetryLater,
    Skipped,
    decide,
)
from consumer.engine.store_access import StoreAccess
from consumer.errors import CloudError, traceback_of
from consumer.message.notification import message_key
from consumer.ops.sanitize import SECRETS
from consumer.ops.traces import Traces
from consumer.store.ledger import Claimed, DeadLetterRecord, Ended
from consumer.store.rows import fit_letter, letter_bytes

log = structlog.stdlib.get_logger(__name__)

_HIDE_TRIES = 3


class Settler:
    """Settles the deliveries of one queue.

    Args:
        name: The queue's name, for the log and spans.
        identity: The queue's identity, as ledger keys begin.
        store: Where outcomes are persisted.
        visibility: Hides messages.
        deletes: Deletes messages.
        leases: Says how long a claim is taken for.
        letters: Says whether there is room for a dead letter.
        traces: Where spans go, if anywhere.
    """

    def __init__(
        self,
        *,
        name: str,
        identity: str,
        store: StoreAccess,
        visibility: Visibility,
        deletes: Deletes,
        leases: LeaseKeeper,
        letters: LetterLimit,
        traces: Traces | None = None,
    ) -> None:
        self._name = name
        self._identity = identity
        self._store = store
        self._visibility = visibility
        self._deletes = deletes
        self._leases = leases
        self._letters = letters
        self._traces = traces

    async def settle(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """Carry out one outcome.

        Returns:
            What became of it: ``Abandon`` when another process has taken over the claim, ``RetryLater`` when the store
            has no room for a dead letter, ``Discard`` when the message was set aside before.
        """
        match outcome:
            case Done():
                if not await self._store.persist(self._store.ledger.done, delivery.record(self._identity)):
                    return self._taken_over(delivery)
                self._delete(delivery)
            case Discard():
                self._delete(delivery)
            case RetryLater():
                if outcome.failure is not None and not delivery.is_claimed:
                    return await self._count_for_message(delivery, outcome)
                await self._release(delivery, outcome.failure)
                await self._hide(delivery, outcome.delay_s)
            case DeadLetter():
                return await self._set_aside(delivery, outcome)
            case Abandon():
                await self._release(delivery)
                delivery.close()
        return outcome

    async def _set_aside(self, delivery: Delivery, dead: DeadLetter) -> Outcome:
        if not (dead.closes_job and delivery.is_claimed):
            # Set aside under the message's own key, so that its job stays open; its attempt stays that of the job.
            claim = await self._claim_message(delivery)
            if not isinstance(claim, Claimed):
                return await self.settle(delivery, claim)
            delivery.claim_granted(delivery.claim)
        letter = self._letter(delivery, dead)
        size_bytes = letter_bytes(fit_letter(letter))
        if not self._letters.take(size_bytes):
            # The message stays in its queue, and its job is as it was before this run.
            return await self.settle(delivery, no_room())
        try:
            if not await self._store.persist(self._store.ledger.bury, letter):
                return self._taken_over(delivery)
        finally:
            self._letters.settled(size_bytes)
        self._delete(delivery)
        return dead

    async def _count_for_message(self, delivery: Delivery, retry: RetryLater) -> Outcome:
        """Count a failure that came before the job was claimed under the message's own key."""
        claim = await self._claim_message(delivery)
        if not isinstance(claim, Claimed):
            return await self.settle(delivery, claim)
        delivery.claim_granted(claim)
        counted = (
            retry if delivery.result is None else decide(delivery.result, delivery.history(), delivery.retry_policy)
        )
        return await self.settle(delivery, counted)

    async def _claim_message(self, delivery: Delivery) -> Claimed | Outcome:
        """Claim the message's own key in place of its job's.

        Returns:
            Another outcome where the message was set aside before, or is being set aside elsewhere.
        """
        await self._release(delivery)
        key = message_key(self._identity, delivery.message.message_id)
        delivery.asks_for_itself(key)
        claim = await self._store.persist(self._store.ledger.claim, key, self._leases.claim_s(delivery))
        if isinstance(claim, Claimed):
            return claim
        delivery.claim_refused()
        ended = Skipped.DUPLICATE if isinstance(claim, Ended) else ClaimedElsewhere(claim.remaining_s)
        return decide(delivery.finish(ended), delivery.history(), delivery.retry_policy)

    def _delete(self, delivery: Delivery) -> None:
        delivery.close()
        self._deletes.add(delivery)

    def _taken_over(self, delivery: Delivery) -> Abandon:
        delivery.close()
        log.warning(
            "another daemon has taken over the claim before the outcome was persisted; the message is left to it",
            queue=self._name,
            message_id=delivery.message.message_id,
        )
        return Abandon()

    async def _release(self, delivery: Delivery, failure: str | None = None) -> None:
        """Release its claim, where it has one; ``failure`` is counted for its job."""
        if delivery.key is None:
            return
        if failure is None:
            await self._store.persist(self._store.ledger.release, delivery.key)
        else:
            await self._store.persist(self._store.ledger.fail, delivery.key, SECRETS.mask(failure))
        delivery.claim_dropped()

    async def _hide(self, delivery: Delivery, delay_s: int) -> None:
        async with delivery.lock:
            delivery.close()
            for tries in range(_HIDE_TRIES):
                asked_at = time.monotonic()
                try:
                    delivery.renewed(await self._visibility.hide(delivery.receipt.handle, delay_s))
                except CloudError as error:
                    self._trace(delivery, asked_at, str(error.fault))
                    if not error.retryable:
                        break
                    await anyio.sleep(0.2 * (tries + 1))
                else:
                    self._trace(delivery, asked_at)
                    return
        # It is redelivered when its lease ends: sooner or later than planned, but not lost.
        log.debug("message not hidden; it is redelivered when its lease ends", message_id=delivery.message.message_id)

    def _trace(self, delivery: Delivery, asked_at: float, fault: str = "") -> None:
        if self._traces is not None:
            self._traces.settled(self._name, "hide", [delivery.span], time.monotonic() - asked_at, fault)

    def _letter(self, delivery: Delivery, dead: DeadLetter) -> DeadLetterRecord:
        """Its texts have known secrets masked; its body stays byte for byte, since a replay sends it."""
        message = delivery.message
        trace = None if dead.cause is None else traceback_of(dead.cause)
        return DeadLetterRecord(
            job=delivery.record(self._identity),
            reason=dead.reason,
            error=SECRETS.mask(dead.error),
            body=message.body,
            traceback=trace and SECRETS.mask(trace),
            dequeue_count=message.dequeue_count,
            first_dequeued_at=message.first_dequeued_at,
        )
