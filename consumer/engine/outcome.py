"""Decide what happens to a message once its run has ended.

    RunResult -> decide() -> Outcome -> settle

Everything here is pure: no clock, no network, no log, no randomness. Each rule is one row of
``tests/engine/test_outcome.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from consumer.errors import CloudError, text_of
from consumer.plugin.handler import JobFailed, Reject, Retry
from consumer.policy import CRASH_STARTS, MAX_HIDE_S, MIN_HIDE_S, Reason, RetryPolicy

RETENTION_SHARE: Final = 0.9
"""From this share of its queue's retention on, a message is set aside (``expiring``) and not hidden."""
_CLAIMED_CAP_S: Final = 60.0
_UNAVAILABLE_BASE_S: Final = 5.0
_UNAVAILABLE_CAP_S: Final = 300.0
_AFTER_EXIT_S: Final = 5
"""Longer than a process takes from its stop deadline to its end."""


# How a run ended. Raised, TimedOut and Unanswered count as failures.


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised, or did not handle a failed job."""

    error: Exception


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The handler was cancelled at its time limit, in seconds."""

    limit_s: float


@dataclass(frozen=True, slots=True)
class Unprocessable:
    """No handler can process the message, now or later; ``error`` is one sentence."""

    reason: Reason
    error: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """MPS says that the job still runs."""

    state: str
    limit_s: float  # how long that is accepted, in seconds since MNS accepted the message


@dataclass(frozen=True, slots=True)
class Unanswered:
    """MPS fails for this job while it answers for others."""

    error: CloudError


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A service, the store or the machine failed, not the handler."""

    error: Exception


@dataclass(frozen=True, slots=True)
class ClaimedElsewhere:
    """Another process runs this job, or another message of the same job is in flight here."""

    remaining_s: float  # until that claim ends


@dataclass(frozen=True, slots=True)
class Busy:
    """The handler runs as often as its ``concurrency`` allows, and enough messages wait for it here."""

    handler: str


class Skipped(StrEnum):
    """Why no handler ran though nothing is wrong; the message is deleted."""

    DUPLICATE = "duplicate"
    INTERMEDIATE = "intermediate"
    DROPPED = "dropped"


class Interrupted(StrEnum):
    """Why a run ended before its handler did."""

    STOPPING = "stopping"
    LEFT_RUNNING = "left running"
    """By the stop deadline, while its handler runs until the process ends."""
    OVERDUE = "overdue"
    """It waited as long as a message may be held, and no handler was called."""
    LEASE_LOST = "lease lost"


RunResult: TypeAlias = (
    Returned
    | Raised
    | TimedOut
    | Unprocessable
    | NotReady
    | Unanswered
    | Unavailable
    | ClaimedElsewhere
    | Busy
    | Skipped
    | Interrupted
)


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class History:
    """What the decision depends on besides the result."""

    failures: int = 0  # of the handler, before this run
    dequeue_count: int = 1
    """How often MNS delivered it. It paces retries and is no failure: stops, releases and outages increase it too."""
    age_s: float = 0.0  # since MNS accepted the message, by MNS's clock
    retention_s: float = 345_600.0  # the age at which MNS drops it silently
    jitter: float = 0.5  # a random number from [0, 1)


# What happens to the message.


@dataclass(frozen=True, slots=True)
class Done:
    """Record the job as done, then delete the message."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete the message; nothing is recorded."""

    why: Skipped


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Hide the message, so that it is delivered again."""

    delay_s: int  # in [1, 43200]
    failure: str | None  # the handler's, to be counted, as one sentence; None when it is not the handler's
    why: str  # one sentence for the log
    no_room: bool = False  # whether it is a dead letter that the store has no room for


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Store the message as a dead letter, then delete it.

    Its job ends with it (``closes_job``) after a run of the handler. A fault of the message alone ends that message
    only, since another message may report the same job correctly.
    """

    reason: Reason
    error: str  # why, as a sentence
    cause: Exception | None = None  # its traceback is kept
    closes_job: bool = True


@dataclass(frozen=True, slots=True)
class Abandon:
    """The lease or the claim is lost: release what is left of the claim and leave the message alone."""


_DONE: Final = Done()

Outcome: TypeAlias = Done | Discard | RetryLater | DeadLetter | Abandon


def decide(result: RunResult, history: History, policy: RetryPolicy) -> Outcome:
    """Turn the result of one run into an outcome, by the limits and delays of its handler.

    Source: facts/mns.md#change-message-visibility, facts/mns.md#limits.
    """
    match result:
        case Returned():
            return _DONE
        case Skipped():
            return Discard(result)
        case Interrupted():
            return _interrupted(result, history)
        case ClaimedElsewhere():
            # After at most 60 s: the holder may finish before its claim ends.
            delay_s = min(result.remaining_s, _CLAIMED_CAP_S)
            return _hide_or_expire(delay_s, history, None, "another delivery of its job is in flight")
        case Busy():
            return _hide_or_expire(
                _backoff_s(history), history, None, f"enough messages wait for the handler {result.handler!r}"
            )
        case Unprocessable():
            closes_job = result.reason in {Reason.CRASHING, Reason.STUCK}
            return DeadLetter(result.reason, result.error, closes_job=closes_job)
        case NotReady():
            return _not_ready(result, history)
        case Unanswered():
            return _unanswered(result, history, policy)
        case Unavailable():
            return _hide_or_expire(_backoff_s(history), history, None, _sentence(result.error))
        case TimedOut():
            return _failed(history, policy, f"the handler took longer than its {result.limit_s:g} s", None)
        case Raised():
            return _raised(result.error, history, policy)


def too_many_starts(starts: int) -> Unprocessable | None:
    """The fault of a message that was started this often without an end, if it may be what kills the process."""
    if starts < CRASH_STARTS:
        return None
    return Unprocessable(Reason.CRASHING, f"its handler was started {starts} times and the process ended each time")


def _interrupted(why: Interrupted, history: History) -> Outcome:
    match why:
        case Interrupted.LEASE_LOST:
            return Abandon()
        case Interrupted.STOPPING:
            return RetryLater(MIN_HIDE_S, None, "the daemon stops")
        case Interrupted.LEFT_RUNNING:
            return RetryLater(_AFTER_EXIT_S, None, "the daemon stops; its handler runs until the process ends")
        case Interrupted.OVERDUE:
            return _hide_or_expire(
                _backoff_s(history), history, None, "it waited for a turn as long as a message may be held"
            )


def _not_ready(result: NotReady, history: History) -> RetryLater | DeadLetter:
    if history.age_s >= result.limit_s:
        error = (
            f"MPS still says {result.state!r} {history.age_s:.0f} s after MNS accepted the message; "
            f"waited up to {result.limit_s:g} s"
        )
        return DeadLetter(Reason.RESULT_NOT_READY, error, closes_job=False)
    return _hide_or_expire(_backoff_s(history), history, None, f"the job is {result.state!r}: no result yet")


def _unanswered(result: Unanswered, history: History, policy: RetryPolicy) -> RetryLater | DeadLetter:
    """Counted like a failure of the handler; in the end the message is set aside, and its job stays open."""
    outcome = _failed(history, policy, _sentence(result.error), None)
    if isinstance(outcome, RetryLater):
        return outcome
    reason = Reason.UNANSWERED if outcome.reason is Reason.EXHAUSTED else outcome.reason
    return replace(outcome, reason=reason, closes_job=False)


def _raised(error: Exception, history: History, policy: RetryPolicy) -> Outcome:
    match error:
        case JobFailed():
            return DeadLetter(Reason.JOB_FAILED, _sentence(error), error)
        case Reject():
            return DeadLetter(Reason.REJECTED, _sentence(error), error)
        case Retry(counts=False):
            delay_s = policy.ceiling_s(1) * history.jitter if error.after_s is None else error.after_s
            return _hide_or_expire(delay_s, history, None, _sentence(error), error, closes_job=True)
        case Retry(after_s=float() | int() as after_s) if 0 <= after_s <= MAX_HIDE_S:
            return _failed(history, policy, _sentence(error), error, after_s)
        case _:
            return _failed(history, policy, _sentence(error), error)


def _failed(
    history: History, policy: RetryPolicy, failure: str, error: Exception | None, after_s: float | None = None
) -> RetryLater | DeadLetter:
    """One more failure of the handler: a retry, or exhausted."""
    failures = history.failures + 1
    if failures >= policy.max_failures:
        return DeadLetter(
            Reason.EXHAUSTED, f"failed {failures} time{'s' * (failures != 1)}; the last failure: {failure}", error
        )
    delay_s = policy.ceiling_s(failures) * history.jitter if after_s is None else after_s
    return _hide_or_expire(delay_s, history, failure, failure, error, closes_job=True)


def _hide_or_expire(
    delay_s: float,
    history: History,
    failure: str | None,
    why: str,
    error: Exception | None = None,
    *,
    closes_job: bool = False,
) -> RetryLater | DeadLetter:
    """Hide it, or set it aside as expiring if MNS would drop it before it is delivered again.

    Then its job ends where its handler has run (``closes_job``).
    """
    whole_s = max(MIN_HIDE_S, min(MAX_HIDE_S, math.ceil(delay_s)))
    if history.age_s + whole_s >= history.retention_s * RETENTION_SHARE:
        expiring = (
            f"the next try in {whole_s} s would come too late: the message is {history.age_s:.0f} s old and its queue "
            f"keeps {history.retention_s:.0f} s; last: {why}"
        )
        return DeadLetter(Reason.EXPIRING, expiring, error, closes_job=closes_job)
    return RetryLater(whole_s, failure, why)


def _backoff_s(history: History) -> float:
    """The delay after what is not the handler's failure: doubled with each delivery, with 50 % jitter."""
    ceiling_s = min(_UNAVAILABLE_CAP_S, _UNAVAILABLE_BASE_S * 2.0 ** min(history.dequeue_count - 1, 30))
    return ceiling_s * (0.5 + history.jitter / 2)


def _sentence(error: Exception) -> str:
    text = text_of(error)
    return text if isinstance(error, CloudError | Reject | JobFailed | Retry) else f"{type(error).__name__}: {text}"
