"""Report a settled delivery: one log line, and the counters."""

from __future__ import annotations

from typing import Final

from consumer.engine.delivery import Delivery
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
    TimedOut,
    Unanswered,
)
from consumer.ops.logs import gather
from consumer.ops.metrics import RetryCause, SettledAs
from consumer.plugin.handler import Retry

_ERROR_STATUSES: Final = {status: str(status) for status in (SettledAs.DEAD, SettledAs.RETRY, SettledAs.LEASE_LOST)}
"""What counts as an error in a trace."""


def report(lane: Lane, delivery: Delivery, outcome: Outcome) -> SettledAs:
    """Log and count how one delivery was settled; returns its status."""
    notification, status = delivery.notification, _status(delivery, outcome)
    counters = lane.metrics.function(notification.name)
    counters.jobs[status].inc()
    if delivery.started_at:
        counters.seconds.observe(delivery.run_s)
    fields = {
        "queue": lane.name,
        "job_id": notification.job_id,
        "message_id": delivery.message.message_id,
        "function": notification.name or None,
        "attempt": delivery.attempt,
        "outcome": str(status),
        "seconds": round(delivery.run_s, 4),
    }
    if lane.traces is not None and delivery.span is not None:
        lane.traces.ended(
            delivery.span,
            _ERROR_STATUSES.get(status, ""),
            job_id=notification.job_id,
            function=notification.name or None,
            attempt=delivery.attempt,
            outcome=str(status),
        )
    match outcome:
        case Done():
            lane.metrics.last_success.set_to_current_time()
            lane.metrics.settled_seconds.observe(delivery.age_s())
            gather("info", event="job done", **fields)
        case Discard():
            lane.metrics.settled_seconds.observe(delivery.age_s())
            gather("info", event="message deleted without a run", **fields)
        case DeadLetter():
            lane.metrics.settled_seconds.observe(delivery.age_s())
            counters.dead_letters[outcome.reason].inc()
            gather("error", event="message set aside", **fields, reason=str(outcome.reason), error=outcome.error)
        case RetryLater() if status is SettledAs.RETRY:
            counters.retries[_cause(delivery, outcome)].inc()
            gather("warning", event="job retried later", **fields, delay_seconds=outcome.delay_s, error=outcome.why)
        case RetryLater():
            gather("info", event="message released", **fields, delay_seconds=outcome.delay_s, why=outcome.why)
        case Abandon():
            gather("warning", event="lease or claim lost; the job is handled when its message is redelivered", **fields)
    return status


def _status(delivery: Delivery, outcome: Outcome) -> SettledAs:
    match outcome:
        case Done():
            return SettledAs.DONE
        case Discard():
            return SettledAs(outcome.why.value)
        case DeadLetter():
            return SettledAs.DEAD
        case Abandon():
            return SettledAs.LEASE_LOST
        case RetryLater():
            released = isinstance(delivery.result, Busy | Interrupted | ClaimedElsewhere) and not outcome.no_room
            return SettledAs.RELEASED if released else SettledAs.RETRY


def _cause(delivery: Delivery, outcome: RetryLater) -> RetryCause:
    if outcome.no_room:
        return RetryCause.NO_ROOM
    match delivery.result:
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
