"""Decide what becomes of a message once its run has ended.

One question, one answer: delete it, hide it for a while, set it aside, or let it go. Everything here is pure -
no clock, no network, no log, no dice - so each rule is one row in ``tests/engine/test_outcome.py``.

    run ends as an End -> decide() -> Outcome -> settle

Elsewhere: how a run comes to its end (``engine.process``), carrying an outcome out (``engine.settle``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from consumer.errors import CloudError, text_of
from consumer.plugin.job import JobFailed, Reject, Retry
from consumer.policy import CRASH_STARTS, MAX_HIDE_S, MIN_HIDE_S, Reason, RetryPolicy

RETENTION_MARGIN: Final = 0.9
"""A message is taken for lost to MNS's retention a tenth before its time."""
_HELD_CAP_S: Final = 60.0
_NOT_READY_BASE_S: Final = 5.0
_NOT_READY_CAP_S: Final = 300.0
_RELEASE_S: Final = MIN_HIDE_S
_AFTER_EXIT_S: Final = 5
"""Longer than a process takes from its stop deadline to its end."""


# How a run ended. One value for each way; what can go wrong with the surroundings is told apart from what the
# handler did, because only the latter counts against it.


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised, or the job's failure was not looked at.

    Args:
        error: What it raised.
    """

    error: Exception


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The handler was cancelled at its time limit.

    Args:
        limit_s: The limit, in seconds.
    """

    limit_s: float


@dataclass(frozen=True, slots=True)
class Unfit:
    """The message can't be handed to any handler, and never can: as decided before one ran.

    Args:
        reason: Why, as a word.
        error: Why, as a sentence.
    """

    reason: Reason
    error: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """MPS says that the job still goes on.

    Args:
        state: The state that it gave.
        limit_s: For how long that is accepted, from the message's enqueuing.
    """

    state: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """MPS fails for this job, while it answers for others.

    Args:
        error: What the question came to.
    """

    error: CloudError


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A service or the store did not answer: nobody's failure.

    Args:
        error: What it was.
    """

    error: Exception


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another process runs this job, or another message of the same job runs here.

    Args:
        remaining_s: Seconds until its claim ends.
    """

    remaining_s: float


@dataclass(frozen=True, slots=True)
class Busy:
    """Its handler runs as often as its ``concurrency`` allows, and enough messages wait for it here.

    Args:
        handler: Its name.
    """

    handler: str


class Skipped(StrEnum):
    """Why no handler ran, with nothing wrong; the message is deleted."""

    DUPLICATE = "duplicate"
    INTERMEDIATE = "intermediate"
    DROPPED = "dropped"


class Cut(StrEnum):
    """Why a run was cut short from outside."""

    STOPPING = "stopping"
    LEFT_RUNNING = "left running"
    """By the stop deadline, while its plain function runs on until the process ends."""
    OVERDUE = "overdue"
    """It had waited for as long as a message may be held, and no handler was called."""
    LEASE_LOST = "lease lost"


End: TypeAlias = (
    Returned | Raised | TimedOut | Unfit | NotReady | Unanswered | Unreachable | HeldElsewhere | Busy | Skipped | Cut
)


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Run:
    """What the decision may look at besides the end itself.

    Args:
        failures: Failures of the handler before this run.
        starts: Runs written down as started without an end, before this run.
        dequeue_count: How often MNS handed the message out. It never buries: stops, releases and outages grow it too.
        age_s: Seconds since MNS took the message, by its own clock.
        retention_s: After how many seconds MNS drops it silently.
        dice: A number drawn evenly from [0, 1), for the jitter.
    """

    failures: int = 0
    starts: int = 0
    dequeue_count: int = 1
    age_s: float = 0.0
    retention_s: float = 345_600.0
    dice: float = 0.5


# What becomes of it.


@dataclass(frozen=True, slots=True)
class Done:
    """Write it down as done, then delete it."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete it; nothing is to be written down.

    Args:
        why: What it was.
    """

    why: Skipped


@dataclass(frozen=True, slots=True)
class Hide:
    """Let it come back.

    Args:
        delay_s: Whole seconds in [1, 43200].
        failure: The handler's failure to count, as one sentence; ``None`` when it is not the handler's.
        why: One sentence for the log.
    """

    delay_s: int
    failure: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Dead:
    """Store it as a dead letter, then delete it.

    Args:
        reason: Why, as a word.
        error: Why, as a sentence.
        cause: The exception whose traceback is kept.
        closes_job: Whether the job has ended with it. Only what a run of the handler came to ends a job; what the
            message alone was found wrong for ends that message, since another message may tell of the same job rightly.
    """

    reason: Reason
    error: str
    cause: Exception | None = None
    closes_job: bool = True


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is gone: give up the claim, touch the message no more."""


Outcome: TypeAlias = Done | Forget | Hide | Dead | Lost


def decide(end: End, run: Run, policy: RetryPolicy) -> Outcome:
    """Turn the end of one run into an outcome.

    Args:
        end: How it ended.
        run: Which run it was.
        policy: Limits and delays that hold for its handler.

    Returns:
        ``Done``, ``Forget``, ``Lost``, ``Dead``, or ``Hide`` whose delay is whole seconds in [1, 43200].

    Source: facts/mns.md#change-message-visibility, facts/mns.md#limits.
    """
    match end:
        case Returned():
            return Done()
        case Skipped():
            return Forget(end)
        case Cut():
            return _cut_short(end, run)
        case HeldElsewhere():
            # Mostly sooner than that claim can end: what holds it may be done within a second.
            delay_s = min(end.remaining_s, _HELD_CAP_S)
            return _come_back(delay_s, run, None, "its job is being handled by another delivery")
        case Busy():
            return _come_back(_patience_s(run), run, None, f"enough messages wait for the handler {end.handler!r}")
        case Unfit():
            return Dead(end.reason, end.error, closes_job=end.reason in {Reason.CRASHING, Reason.STUCK})
        case NotReady():
            return _not_ready(end, run)
        case Unanswered():
            return _unanswered(end, run, policy)
        case Unreachable():
            return _come_back(_patience_s(run), run, None, _sentence(end.error))
        case TimedOut():
            return _failed(run, policy, f"the handler took longer than its {end.limit_s:g} s", None)
        case Raised():
            return _raised(end.error, run, policy)


def crashing(starts: int) -> Unfit | None:
    """Whether a message started so often without an end looks like the one that takes the process down."""
    if starts < CRASH_STARTS:
        return None
    return Unfit(Reason.CRASHING, f"its handler was started {starts} times and the process ended each time")


def _cut_short(cut: Cut, run: Run) -> Outcome:
    match cut:
        case Cut.LEASE_LOST:
            return Lost()
        case Cut.STOPPING:
            return Hide(_RELEASE_S, None, "the daemon stops")
        case Cut.LEFT_RUNNING:
            return Hide(_AFTER_EXIT_S, None, "the daemon stops; its plain function runs on until the process has ended")
        case Cut.OVERDUE:
            return _come_back(_patience_s(run), run, None, "it waited for its turn for as long as a message is held")


def _not_ready(end: NotReady, run: Run) -> Hide | Dead:
    if run.age_s >= end.limit_s:
        told = f"MPS still says {end.state!r} {run.age_s:.0f} s after the notification; waited up to {end.limit_s:g} s"
        return Dead(Reason.RESULT_NOT_READY, told, closes_job=False)
    return _come_back(_patience_s(run), run, None, f"the job is {end.state!r}: no result yet")


def _unanswered(end: Unanswered, run: Run, policy: RetryPolicy) -> Hide | Dead:
    """Counted like a failure of the handler, but in the end it is the message that is set aside, not the job."""
    outcome = _failed(run, policy, _sentence(end.error), None)
    if isinstance(outcome, Dead) and outcome.reason is Reason.EXHAUSTED:
        return Dead(Reason.UNANSWERED, outcome.error, closes_job=False)
    return outcome


def _raised(error: Exception, run: Run, policy: RetryPolicy) -> Outcome:
    match error:
        case JobFailed():
            return Dead(Reason.JOB_FAILED, _sentence(error), error)
        case Reject():
            return Dead(Reason.REJECTED, _sentence(error), error)
        case Retry(after_s=float() | int() as after_s) if 0 <= after_s <= MAX_HIDE_S:
            return _failed(run, policy, _sentence(error), error, after_s)
        case _:
            return _failed(run, policy, _sentence(error), error)


def _failed(
    run: Run, policy: RetryPolicy, told: str, error: Exception | None, after_s: float | None = None
) -> Hide | Dead:
    """One more failure of the handler: back for another try, or exhausted."""
    failures = run.failures + 1
    if failures >= policy.max_failures:
        return Dead(Reason.EXHAUSTED, f"failed {failures} times, at last with {told}", error)
    delay_s = policy.ceiling_s(failures) * run.dice if after_s is None else after_s
    return _come_back(delay_s, run, told, told, error)


def _come_back(delay_s: float, run: Run, failure: str | None, why: str, error: Exception | None = None) -> Hide | Dead:
    """Hide it, unless it would come back after MNS has dropped it."""
    whole_s = _whole(delay_s)
    if run.age_s + whole_s >= run.retention_s * RETENTION_MARGIN:
        told = (
            f"the next try in {whole_s} s would come too late: the message is {run.age_s:.0f} s old and its queue "
            f"keeps {run.retention_s:.0f} s; last: {why}"
        )
        return Dead(Reason.EXPIRING, told, error, closes_job=failure is not None)
    return Hide(whole_s, failure, why)


def _patience_s(run: Run) -> float:
    """Delay for what is nobody's failure: doubled with each delivery, half of it by dice so that a crowd spreads."""
    ceiling_s = min(_NOT_READY_CAP_S, _NOT_READY_BASE_S * 2.0 ** min(run.dequeue_count - 1, 30))
    return ceiling_s * (0.5 + run.dice / 2)


def _whole(seconds: float) -> int:
    return max(MIN_HIDE_S, min(MAX_HIDE_S, math.ceil(seconds)))


def _sentence(error: Exception) -> str:
    text = text_of(error)
    return text if isinstance(error, CloudError | Reject | JobFailed | Retry) else f"{type(error).__name__}: {text}"
