"""Settle a delivery: persist its outcome first, then delete or hide the message.

    Done          ledger: done                                                        then delete
    Discard                                                                           delete
    RetryLater    ledger: the run and its failure, or release the claim               then hide
    DeadLetter    ledger: dead letter and the key's end in one transaction            then delete
    Abandon       ledger: release the claim                                           the message is left alone

A write that fails is retried until it succeeds while the message's lease is renewed; nothing is deleted before. A dead
letter that the store has no room for becomes RetryLater.
"""

from __future__ import annotations

import time

import anyio
import structlog

from consumer.engine.delivery import Delivery
from consumer.engine.fingerprint import error_fingerprint
from consumer.engine.lane import Lane
from consumer.engine.outcome import (
    Abandon,
    Busy,
    ClaimedElsewhere,
    DeadLetter,
    Discard,
    Done,
    Interrupted,
    NotReady,
    Outcome,
    Raised,
    RetryLater,
    Skipped,
    TimedOut,
    Unanswered,
    decide,
)
from consumer.engine.store_access import no_room_outcome
from consumer.engine.without_message import has_message
from consumer.errors import CloudError, traceback_of
from consumer.message.notification import message_key
from consumer.ops.metrics import RetryCause
from consumer.ops.sanitize import SECRETS
from consumer.ops.traces import trace_parent
from consumer.plugin.handler import Retry
from consumer.store.ledger import Claimed, DeadLetterRecord, Ended, RunRecord
from consumer.store.rows import fit_letter

log = structlog.stdlib.get_logger(__name__)

_HIDE_TRIES = 3


async def settle(lane: Lane, delivery: Delivery, outcome: Outcome) -> Outcome:
    """Carry out one outcome.

    Returns:
        What became of it: ``Abandon`` when the claim is lost, ``RetryLater`` when the store has no room for a dead
        letter, ``Discard`` when the message was set aside before.
    """
    match outcome:
        case Done():
            if not await lane.store.persist(lane.store.ledger.done, delivery.record(lane.identity)):
                return _claim_lost(lane, delivery)
            lane.deletes.add(delivery)
        case Discard():
            lane.deletes.add(delivery)
        case RetryLater():
            if outcome.failure is not None and not delivery.is_claimed:
                return await _count_for_message(lane, delivery)
            await _release(lane, delivery, outcome)
            await _hide(lane, delivery, outcome.delay_s)
        case DeadLetter():
            return await _set_aside(lane, delivery, outcome)
        case Abandon():
            await _release(lane, delivery, outcome)
            delivery.close()
    return outcome


async def _set_aside(lane: Lane, delivery: Delivery, dead: DeadLetter) -> Outcome:
    if not (dead.closes_job and delivery.is_claimed):
        # Set aside under the message's own key, so that its job stays open.
        claim = await _claim_message(lane, delivery)
        if not isinstance(claim, Claimed):
            return await settle(lane, delivery, claim)
        delivery.message_claim_granted()
    letter = _letter(lane, delivery, dead)
    size_bytes = fit_letter(letter).size_bytes
    if not lane.letters.take(size_bytes):
        # The message stays in its queue, and its job is as it was before this run.
        return await settle(lane, delivery, no_room_outcome())
    try:
        if not await lane.store.persist(lane.store.ledger.set_aside, letter):
            return _claim_lost(lane, delivery)
    finally:
        lane.letters.settled(size_bytes)
    if letter.hook_at is not None:
        lane.letter_hooks.wake()
    lane.deletes.add(delivery)
    return dead


async def _count_for_message(lane: Lane, delivery: Delivery) -> Outcome:
    """Count, under the message's own key, a failure that came before the job was claimed."""
    claim = await _claim_message(lane, delivery)
    if not isinstance(claim, Claimed):
        return await settle(lane, delivery, claim)
    delivery.claim_granted(claim)
    counted = decide(delivery.result, delivery.history(), delivery.retry_policy)
    return await settle(lane, delivery, counted)


async def _claim_message(lane: Lane, delivery: Delivery) -> Claimed | Outcome:
    """Claim the message's own key in place of its job's.

    Returns:
        Another outcome where the message was set aside before, or is being set aside elsewhere.
    """
    await _release(lane, delivery)
    key = message_key(lane.identity, delivery.message.message_id)
    delivery.asks_for_itself(key)
    claim = await lane.store.persist(lane.store.ledger.claim, key, lane.leases.claim_s(delivery))
    if isinstance(claim, Claimed):
        return claim
    delivery.claim_refused()
    ended = Skipped.DUPLICATE if isinstance(claim, Ended) else ClaimedElsewhere(claim.remaining_s)
    return decide(delivery.finish(ended), delivery.history(), delivery.retry_policy)


def _claim_lost(lane: Lane, delivery: Delivery) -> Abandon:
    delivery.close()
    log.warning(
        "the claim was lost before the outcome was persisted; the message is left alone",
        queue=lane.name,
        message_id=delivery.message.message_id,
    )
    return Abandon()


async def _release(lane: Lane, delivery: Delivery, after: RetryLater | Abandon | None = None) -> None:
    """Release its claim, where it has one; the run that has ended with this outcome is stored, if there was one."""
    store, key = lane.store, delivery.claim_key
    if key is None:
        return
    if isinstance(after, RetryLater) and after.failure is not None:
        await store.persist(store.ledger.fail, _run_record(lane, delivery, after))
    elif after is not None and delivery.started_at:
        await store.persist(store.ledger.release, key, _run_record(lane, delivery, after))
    else:
        await store.persist(store.ledger.release, key)
    delivery.claim_dropped()


async def _hide(lane: Lane, delivery: Delivery, delay_s: int) -> None:
    async with delivery.lock:
        # Closed before the call, which may fail or be cancelled: a renewal or a redelivery that waits for this lock
        # must find it closed, and leave the message hidden.
        delivery.close()
        for tries in range(_HIDE_TRIES):
            if tries:
                await anyio.sleep(0.2 * tries)
            asked_at = time.monotonic()
            try:
                delivery.renewed(await lane.visibility.hide(delivery.receipt.handle, delay_s))
            except CloudError as error:
                _trace(lane, delivery, asked_at, str(error.fault))
                if not error.retryable:
                    break
            else:
                _trace(lane, delivery, asked_at)
                return
    # It is redelivered when its lease ends: earlier or later than planned, but not lost.
    log.debug("message not hidden; it is redelivered when its lease ends", message_id=delivery.message.message_id)


def _trace(lane: Lane, delivery: Delivery, asked_at: float, fault: str = "") -> None:
    if lane.traces is not None:
        lane.traces.settled(lane.name, "hide", [delivery.span], time.monotonic() - asked_at, fault)


def _run_record(lane: Lane, delivery: Delivery, outcome: RetryLater | Abandon) -> RunRecord:
    """The run that leaves its job open; known secrets are masked in its texts."""
    job, result, cause, why = delivery.record(lane.identity), delivery.result, None, "its lease was lost"
    # A handler that asks for a later run says why by its text.
    fault = result.error if isinstance(result, Raised) and not isinstance(result.error, Retry) else None
    wait_s = max(0.0, delivery.receipt.expires_at - time.monotonic())
    if isinstance(outcome, RetryLater):
        cause, why, wait_s = retry_cause(delivery, outcome), outcome.why, outcome.delay_s
    return RunRecord(
        key=job.key,
        queue=job.queue,
        function=job.function,
        message_id=job.message_id,
        job_id=job.job_id,
        attempt=job.attempts,
        started_at=job.started_at,
        ended_at=job.ended_at,
        result="interrupted" if cause is None else cause.value,
        error=SECRETS.mask(why),
        traceback=None if fault is None else SECRETS.mask(traceback_of(fault)),
        retry_at=job.ended_at + wait_s if has_message(delivery.receipt) else None,
        trace_parent=trace_parent(delivery.span),
    )


def _letter(lane: Lane, delivery: Delivery, dead: DeadLetter) -> DeadLetterRecord:
    """Its texts have known secrets masked; its body stays byte for byte, since a replay sends it."""
    message = delivery.message
    trace = None if dead.cause is None else traceback_of(dead.cause)
    job, error = delivery.record(lane.identity), SECRETS.mask(dead.error)
    handler_file = None if delivery.handler is None else delivery.handler.file
    return DeadLetterRecord(
        job=job,
        reason=dead.reason,
        error=error,
        body=message.body,
        traceback=trace and SECRETS.mask(trace),
        dequeue_count=message.dequeue_count,
        first_dequeued_at=message.first_dequeued_at,
        error_fingerprint=error_fingerprint(dead.reason, job.function, error, dead.cause, handler_file),
        hook_at=None if delivery.rules.registry.letter_hook is None else 0.0,
    )


def retry_cause(delivery: Delivery, outcome: RetryLater) -> RetryCause | None:
    """Why it is retried; ``None`` where it is only released."""
    if outcome.no_room:
        return RetryCause.NO_ROOM
    match delivery.result:
        case Busy() | Interrupted() | ClaimedElsewhere():
            return None
        case Raised(error=Retry(counts=False)):
            return RetryCause.WAITING
        case Raised(error=Retry()):
            return RetryCause.ASKED
        case Raised():
            return RetryCause.FAILED
        case TimedOut():
            return RetryCause.TIMED_OUT
        case NotReady():
            return RetryCause.NOT_READY
        case Unanswered():
            return RetryCause.UNANSWERED
        case _:
            return RetryCause.UNAVAILABLE
