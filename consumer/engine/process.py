"""The life of a delivery, from its receipt until it is settled.

decode, route       what the message says, and which handler takes it
claim               is this job new, ended, or running elsewhere?
complete            what the handler wants besides the message
call                the handler, within its time limit and the lease
decide              what happens to the message
settle              persist the outcome, then delete or hide the message
report              one log line, the counters
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from consumer.engine.complete import Completed, complete
from consumer.engine.delivery import Delivery
from consumer.engine.invoke import invoke
from consumer.engine.lane import Lane
from consumer.engine.outcome import (
    Busy,
    DeadLetter,
    Discard,
    Done,
    Interrupted,
    Outcome,
    Raised,
    RetryLater,
    RunResult,
    Skipped,
    TimedOut,
    Unanswered,
    Unavailable,
    Unprocessable,
    decide,
    too_many_starts,
)
from consumer.engine.settle import retry_cause, settle
from consumer.errors import StoreError, text_of
from consumer.message.notification import Kind, Notification, contradictions, ledger_key, verified_key
from consumer.message.strict_json import Undecodable
from consumer.ops.logs import LogLevel, gather, log_job
from consumer.ops.metrics import RetryCause, SettledAs
from consumer.plugin.handler import Handler, JobFailed, Reject, Retry
from consumer.policy import Reason
from consumer.store.ledger import Claimed, Ended

log = structlog.stdlib.get_logger(__name__)

_ERROR_STATUSES: Final = frozenset({SettledAs.DEAD, SettledAs.RETRY, SettledAs.LEASE_LOST})
"""What counts as an error in a trace."""


async def process(lane: Lane, delivery: Delivery) -> SettledAs | None:
    """Process one delivery, from its receipt until it is settled.

    Returns:
        How it ended; ``None`` when it was a redelivery of a message that is in flight here, which goes on with the new
        receipt handle, or after an internal error: then the message is redelivered when its lease ends.
    """
    with lane.in_flight(delivery):
        if await lane.rejoin(delivery):
            return None
        result: RunResult | None = None
        delivery.run_in_this_task()
        try:
            result = await run(lane, delivery)
        except asyncio.CancelledError:
            if not delivery.take_interruption():
                raise
        except Exception as error:
            # A bug of this program counts like a failure of the handler, so the message becomes a dead letter in the
            # end, with the traceback. Else the queue would drop it silently.
            log.exception("internal error", queue=lane.name, message_id=delivery.message.message_id)
            result = Raised(error)
        outcome = decide(delivery.finish(result), delivery.history(), delivery.retry_policy)
        # Only the stop deadline interrupts this: the outcome is being persisted.
        settled = await settle(lane, delivery, outcome)
        return report(lane, delivery, settled)


async def run(lane: Lane, delivery: Delivery) -> RunResult:
    """Decode, route, claim, complete and call; the first step that ends the run gives its result."""
    notification = delivery.decode()
    if isinstance(notification, Undecodable):
        return Unprocessable(Reason.UNDECODABLE, str(notification))
    handler = lane.route(delivery)
    if not isinstance(handler, Handler):
        return handler
    claim = await lane.claim(delivery, ledger_key(lane.identity, notification, delivery.message.message_id))
    is_contradicting = False
    if isinstance(claim, Ended):
        if (ended := _compare(notification, claim)) is not None:
            return ended
        is_contradicting = True
        # One of the two messages is forged, and MPS knows which. If it is the earlier one, which was not checked, the
        # true one is handled all the same, once, under the job's second key (``verified_key``).
        claim = await lane.claim(delivery, verified_key(lane.identity, notification))
    if not isinstance(claim, Claimed | Ended):
        return claim
    completed = await complete(
        delivery, handler, lane.queries, lane.name, submitter=lane.submitter, always_verify=is_contradicting
    )
    if not isinstance(completed, Completed):
        return completed
    if isinstance(claim, Ended):
        return Skipped.DUPLICATE
    # Checked only after MPS has confirmed the message: else a forged message could close the job for crashes that the
    # true one caused.
    if crashed := too_many_starts(claim.starts):
        return crashed
    async with lane.turn(handler, delivery) as is_its_turn:
        if not is_its_turn:
            return Busy(handler.name)
        return await _call(lane, delivery, handler, completed)


def _compare(notification: Notification, ended: Ended) -> Skipped | Unprocessable | None:
    """Compare a message with the one that ended its job; ``None`` where only MPS knows which of them is true."""
    different = contradictions(notification, function=ended.function, state=ended.state, user_data=ended.user_data)
    if not different:
        return Skipped.DUPLICATE
    if notification.kind is not Kind.IPRODUCTION:
        error = f"its job has ended before, by a message that contradicts it: {'; '.join(different)}"
        return Unprocessable(Reason.CONTRADICTED, error)
    return None


async def _call(lane: Lane, delivery: Delivery, handler: Handler, completed: Completed) -> RunResult:
    if lane.stopping:
        return Interrupted.STOPPING
    if delivery.message.dequeue_count > 1 and delivery.claim_key is not None:
        # This may be the message that kills the process. If it does, the recorded start shows it.
        try:
            await lane.store.try_write(lane.store.ledger.start, delivery.claim_key)
        except StoreError as error:
            return Unavailable(error)
    job = completed.job
    log_job(job.function, job.job_id, message_id=job.message_id, queue=job.queue, attempt=job.attempt)
    delivery.begin_run(handler, completed)
    gather("debug", event="handler started")
    try:
        return await invoke(handler, job, delivery.rules.limits[handler.name], lane.threads, delivery)
    finally:
        delivery.end_run()


def report(lane: Lane, delivery: Delivery, outcome: Outcome) -> SettledAs:
    """Log and count how one delivery was settled; returns its status."""
    name = delivery.notification.name
    counters = lane.metrics.function(name)
    level: LogLevel = "info"
    details: dict[str, str | int] = {}
    match outcome:
        case Done():
            status, event = SettledAs.DONE, "job done"
            lane.last_success_at = time.time()
        case Discard():
            status, event = SettledAs(outcome.why.value), "deleted without a run"
        case DeadLetter():
            status, level, event = SettledAs.DEAD, "error", "moved to dead letters"
            details = {"reason": str(outcome.reason), "error": outcome.error}
            counters.dead_letters[outcome.reason].inc()
        case RetryLater() if (cause := retry_cause(delivery, outcome)) is not None:
            status, event = SettledAs.RETRY, "retry scheduled"
            level = "info" if cause is RetryCause.WAITING else "warning"
            details = {"delay_seconds": outcome.delay_s, "error": outcome.why}
            counters.retries[cause].inc()
        case RetryLater():
            status, event = SettledAs.RELEASED, "released"
            details = {"delay_seconds": outcome.delay_s, "why": outcome.why}
        case _:  # Abandon()
            status, level = SettledAs.LEASE_LOST, "warning"
            event = "lease or claim lost"
    counters.jobs[status].inc()
    if delivery.started_at:
        counters.seconds.observe(delivery.run_s)
    if isinstance(outcome, Done | Discard | DeadLetter):
        lane.metrics.settled_seconds.observe(delivery.age_s())
    said = delivery.said
    if said.state and isinstance(outcome, Done | DeadLetter):
        counters.count_mps_job(said.state, said.code)
    common = {
        "job_id": delivery.notification.job_id,
        "function": name or None,
        "attempt": delivery.attempt,
        "outcome": str(status),
    }
    error = _handlers_error(delivery)
    if lane.traces is not None and delivery.span is not None:
        failure = _failure(delivery, outcome, status) if status in _ERROR_STATUSES else None
        lane.traces.ended(delivery.span, failure, **common, reason=details.get("reason"))
    more: dict[str, object] = {
        "message_id": delivery.message.message_id,
        "seconds": round(delivery.run_s, 4),
        **details,
    }
    if said.state:
        more |= {"state": said.state, "code": said.code} if said.code else {"state": said.state}
    if error is not None and lane.shown.is_new((delivery.message.message_id, text_of(error))):
        more["exc_info"] = error
    gather(level, event=event, queue=lane.name, **common, **more)
    return status


def _failure(delivery: Delivery, outcome: Outcome, status: SettledAs) -> tuple[Exception | str, str]:
    """Why a delivery failed, for its span: what was raised, or a label where nothing was; and a sentence."""
    match outcome:
        case DeadLetter():
            label, text = str(outcome.reason), outcome.error
        case RetryLater():
            label, text = str(retry_cause(delivery, outcome)), outcome.why
        case _:  # Abandon()
            return str(status), "lease or claim lost"
    match delivery.result:
        case Raised(error=error) | Unanswered(error=error) | Unavailable(error=error):
            return error, text
        case TimedOut():
            return TimeoutError(text), text
        case _:
            return label, text


def _handlers_error(delivery: Delivery) -> Exception | None:
    """What its handler raised, unless it was meant: its traceback shows where."""
    match delivery.result:
        case Raised(error=Retry() | Reject() | JobFailed()):
            return None
        case Raised(error=error):
            return error
        case _:
            return None
