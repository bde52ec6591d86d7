"""Tell of one ended delivery: one log line, and the counters.

Elsewhere: the words (``ops.words``), the metrics themselves (``ops.metrics``).
"""

from __future__ import annotations

from typing import Final

from consumer.engine.lane import Lane
from consumer.engine.letter_limit import NoRoom
from consumer.engine.outcome import (
    Busy,
    Cut,
    Dead,
    Done,
    Forget,
    HeldElsewhere,
    Hide,
    Lost,
    NotReady,
    Outcome,
    Raised,
    TimedOut,
    Unanswered,
)
from consumer.engine.work import Work
from consumer.ops.logs import gather
from consumer.ops.metrics import RetryCause, SettledAs
from consumer.plugin.job import Retry

_FAULTS: Final = {word: str(word) for word in (SettledAs.DEAD, SettledAs.RETRY, SettledAs.LEASE_LOST)}
"""What counts as an error in a trace, by how the delivery ended."""


def report(lane: Lane, work: Work, outcome: Outcome) -> SettledAs:
    """Log and count how one delivery ended; returns the word for it."""
    counters = lane.metrics.function(work.notification.route)
    word = _word(work, outcome)
    counters.jobs[word].inc()
    if work.started_at:
        counters.seconds.observe(work.seconds)
    fields = {
        "queue": lane.url.queue,
        "job_id": work.notification.job_id,
        "message_id": work.delivery.message.message_id,
        "function": work.notification.route or None,
        "attempt": work.attempt,
        "outcome": str(word),
        "seconds": round(work.seconds, 4),
    }
    if lane.traces is not None and work.delivery.life is not None:
        lane.traces.ended(
            work.delivery.life,
            _FAULTS.get(word, ""),
            job_id=work.notification.job_id,
            function=work.notification.route or None,
            attempt=work.attempt,
            outcome=str(word),
        )
    match outcome:
        case Done():
            lane.metrics.last_success.set_to_current_time()
            lane.metrics.settled_seconds.observe(work.delivery.age_s())
            gather("info", event="job done", **fields)
        case Forget():
            lane.metrics.settled_seconds.observe(work.delivery.age_s())
            gather("info", event="message deleted without a run", **fields)
        case Dead():
            lane.metrics.settled_seconds.observe(work.delivery.age_s())
            counters.dead_letters[outcome.reason].inc()
            gather("error", event="message set aside", **fields, reason=str(outcome.reason), error=outcome.error)
        case Hide() if word is SettledAs.RETRY:
            counters.retries[_cause(work, outcome)].inc()
            gather("warning", event="job comes back later", **fields, delay_seconds=outcome.delay_s, error=outcome.why)
        case Hide():
            gather("info", event="message given back", **fields, delay_seconds=outcome.delay_s, why=outcome.why)
        case Lost():
            gather(
                "warning", event="lease or claim lost; the job will be handled when its message comes back", **fields
            )
    return word


def _word(work: Work, outcome: Outcome) -> SettledAs:
    match outcome:
        case Done():
            return SettledAs.DONE
        case Forget():
            return SettledAs(outcome.why.value)
        case Dead():
            return SettledAs.DEAD
        case Lost():
            return SettledAs.LEASE_LOST
        case Hide():
            return SettledAs.RELEASED if isinstance(work.end, Busy | Cut | HeldElsewhere) else SettledAs.RETRY


def _cause(work: Work, outcome: Hide) -> RetryCause:
    if isinstance(outcome, NoRoom):
        return RetryCause.NO_ROOM
    match work.end:
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
