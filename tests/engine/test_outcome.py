"""Every rule of ``decide``, by name, then what holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.outcome import (
    Abandon,
    ClaimedElsewhere,
    DeadLetter,
    Discard,
    Done,
    History,
    Interrupted,
    NotReady,
    Outcome,
    Raised,
    RetryLater,
    Returned,
    RunResult,
    Skipped,
    TimedOut,
    Unanswered,
    Unavailable,
    Unprocessable,
    decide,
    too_many_starts,
)
from consumer.errors import CloudError, Fault
from consumer.plugin.handler import JobFailed, Reject, Retry
from consumer.policy import CRASH_STARTS, MAX_HIDE_S, MIN_HIDE_S, Reason, RetryPolicy

POLICY = RetryPolicy(max_failures=3, base_s=30, cap_s=100)
BOOM = RuntimeError("boom")
DOWN = CloudError(Fault.SERVER, operation="QueryIProductionJob", target="mts", code="InternalError", detail="down")
REFUSAL = Reject("not ours")
FAILURE = JobFailed("InvalidFile", "no video stream")
LATER = Retry("too early", after_s=7)
WAIT = Retry("not yet", after_s=600, counts=False)
OLD = History(age_s=345_600 * 0.9)


@pytest.mark.parametrize(
    ("result", "history", "expected"),
    [
        pytest.param(Returned(), History(failures=99, age_s=1e9), Done(), id="late success is still success"),
        pytest.param(Skipped.DUPLICATE, History(), Discard(Skipped.DUPLICATE), id="a duplicate is only deleted"),
        pytest.param(Interrupted.LEASE_LOST, History(), Abandon(), id="a lost lease deletes nothing"),
        pytest.param(
            Interrupted.STOPPING,
            OLD,
            RetryLater(1, None, "the daemon stops"),
            id="a stop releases at once",
        ),
        pytest.param(
            Interrupted.LEFT_RUNNING,
            OLD,
            RetryLater(5, None, "the daemon stops; its handler runs until the process ends"),
            id="a handler that a stop leaves running keeps its message hidden until the process is gone",
        ),
        pytest.param(
            Interrupted.OVERDUE,
            History(dequeue_count=3, jitter=0.0),
            RetryLater(10, None, "it waited for a turn as long as a message may be held"),
            id="what waited as long as a message may be held comes back later, no failure",
        ),
        pytest.param(
            ClaimedElsewhere(12.2),
            History(),
            RetryLater(13, None, "another delivery of its job is in flight"),
            id="what runs elsewhere comes back when that claim can have ended",
        ),
        pytest.param(
            ClaimedElsewhere(43_000),
            History(),
            RetryLater(60, None, "another delivery of its job is in flight"),
            id="what runs elsewhere comes back within a minute",
        ),
        pytest.param(
            Unprocessable(Reason.UNROUTED, "why"),
            History(),
            DeadLetter(Reason.UNROUTED, "why", closes_job=False),
            id="an unprocessable message is set aside, and its job stays open",
        ),
        pytest.param(
            Unprocessable(Reason.CRASHING, "why"),
            History(),
            DeadLetter(Reason.CRASHING, "why"),
            id="what takes the process down ends its job",
        ),
        pytest.param(
            Raised(REFUSAL),
            History(),
            DeadLetter(Reason.REJECTED, "not ours", REFUSAL),
            id="a Reject is set aside at once",
        ),
        pytest.param(
            Raised(FAILURE),
            History(),
            DeadLetter(Reason.JOB_FAILED, "the job failed with code InvalidFile: no video stream", FAILURE),
            id="a failed job that its handler does not handle is set aside",
        ),
        pytest.param(
            Raised(BOOM),
            History(jitter=0.5),
            RetryLater(15, "RuntimeError: boom", "RuntimeError: boom"),
            id="the first failure waits up to the base",
        ),
        pytest.param(
            Raised(BOOM),
            History(failures=1, jitter=0.99),
            RetryLater(60, "RuntimeError: boom", "RuntimeError: boom"),
            id="the second waits up to twice the base",
        ),
        pytest.param(
            Raised(LATER),
            History(),
            RetryLater(7, "too early", "too early"),
            id="Retry's own time counts",
        ),
        pytest.param(
            Raised(Retry("x", after_s=0)),
            History(),
            RetryLater(MIN_HIDE_S, "x", "x"),
            id="1 s is the least",
        ),
        pytest.param(
            Raised(BOOM),
            History(failures=2),
            DeadLetter(Reason.EXHAUSTED, "failed 3 times; the last failure: RuntimeError: boom", BOOM),
            id="the last failure exhausts it",
        ),
        pytest.param(
            Raised(LATER),
            History(failures=2),
            DeadLetter(Reason.EXHAUSTED, "failed 3 times; the last failure: too early", LATER),
            id="Retry is exhausted too",
        ),
        pytest.param(
            Raised(WAIT),
            History(failures=2),
            RetryLater(600, None, "not yet"),
            id="a wait counts as no failure",
        ),
        pytest.param(
            Raised(Retry("x", counts=False)),
            History(failures=2, jitter=0.5),
            RetryLater(15, None, "x"),
            id="a wait without a time is the policy's first",
        ),
        pytest.param(
            Raised(WAIT),
            History(age_s=900, retention_s=1_000),
            DeadLetter(
                Reason.EXPIRING,
                "the next try in 600 s would come too late: the message is 900 s old and its queue keeps 1000 s;"
                " last: not yet",
                WAIT,
            ),
            id="a wait past the retention ends the job, whose handler ran",
        ),
        pytest.param(
            TimedOut(5),
            History(jitter=0.0),
            RetryLater(1, "the handler took longer than its 5 s", "the handler took longer than its 5 s"),
            id="a time limit passed is a failure",
        ),
        pytest.param(
            NotReady("Analysing", 3600),
            History(age_s=10, jitter=0.0),
            RetryLater(3, None, "the job is 'Analysing': no result yet"),
            id="no result yet is no failure of the handler",
        ),
        pytest.param(
            NotReady("Analysing", 3600),
            History(age_s=3600),
            DeadLetter(
                Reason.RESULT_NOT_READY,
                "MPS still says 'Analysing' 3600 s after MNS accepted the message; waited up to 3600 s",
                closes_job=False,
            ),
            id="a result that never comes is set aside",
        ),
        pytest.param(
            Unavailable(DOWN),
            History(failures=99, dequeue_count=99, jitter=0.999),
            RetryLater(300, None, str(DOWN)),
            id="an outage is no failure of the handler, however long",
        ),
    ],
)
def test_decide(result: RunResult, history: History, expected: Outcome) -> None:
    """Each rule of ``decide`` by name."""
    assert decide(result, history, POLICY) == expected


def test_one_failure_may_exhaust_it() -> None:
    """The text counts a single failure in the singular."""
    outcome = decide(Raised(BOOM), History(), replace(POLICY, max_failures=1))
    assert outcome == DeadLetter(Reason.EXHAUSTED, "failed 1 time; the last failure: RuntimeError: boom", BOOM)


@pytest.mark.parametrize("result", [Raised(BOOM), TimedOut(5), NotReady("Queuing", 1e9), Unavailable(DOWN)])
def test_too_old_to_come_back_is_expiring(result: RunResult) -> None:
    """A message that would come back after MNS has dropped it is set aside while it can be."""
    outcome = decide(result, OLD, POLICY)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is Reason.EXPIRING
    assert "345600" in outcome.error


@pytest.mark.parametrize(
    ("result", "failures", "closes_job"),
    [
        (Raised(BOOM), 0, True),
        (TimedOut(5), 0, True),
        (NotReady("Queuing", 1e9), 0, False),
        (Unavailable(DOWN), 0, False),
        (Unavailable(DOWN), 1, False),
        (Unanswered(DOWN), 0, False),
        (Unanswered(DOWN), 1, False),
    ],
)
def test_expiring_ends_a_job_only_when_its_handler_ran(*, result: RunResult, failures: int, closes_job: bool) -> None:
    """A message that grows too old before any handler ran ends itself, and its job stays open for another one."""
    outcome = decide(result, replace(OLD, failures=failures), POLICY)
    assert isinstance(outcome, DeadLetter)
    assert outcome.closes_job is closes_job


def test_many_starts_without_an_end_are_crashing() -> None:
    """After five starts without an end, and not before, the message counts as the one that kills the process."""
    assert too_many_starts(CRASH_STARTS - 1) is None
    dead = too_many_starts(CRASH_STARTS)
    assert dead is not None
    assert dead.reason is Reason.CRASHING


RESULTS = st.one_of(
    st.just(Returned()),
    st.sampled_from([*Skipped, *Interrupted]),
    st.builds(ClaimedElsewhere, st.floats(-10, 1e9)),
    st.builds(Unprocessable, st.sampled_from(Reason), st.text()),
    st.builds(Raised, st.sampled_from([BOOM, REFUSAL, FAILURE, LATER, WAIT, Retry("policy")])),
    st.builds(TimedOut, st.floats(0, 1e6)),
    st.builds(NotReady, st.text(), st.floats(0, 1e6)),
    st.just(Unavailable(DOWN)),
)
HISTORIES = st.builds(
    History,
    failures=st.integers(0, 10_000),
    dequeue_count=st.integers(1, 10_000),
    age_s=st.floats(0, 1e7),
    retention_s=st.integers(60, 604_800),
    jitter=st.floats(0, 1, exclude_max=True),
)


@given(RESULTS, HISTORIES)
def test_every_delay_is_one_that_mns_takes(result: RunResult, history: History) -> None:
    """For every result and history a delay is whole seconds from 1 to 43200."""
    outcome = decide(result, history, POLICY)
    if isinstance(outcome, RetryLater):
        assert isinstance(outcome.delay_s, int)
        assert MIN_HIDE_S <= outcome.delay_s <= MAX_HIDE_S


@given(RESULTS, HISTORIES)
def test_only_a_return_is_done(result: RunResult, history: History) -> None:
    """Only the handler's return counts the job as done."""
    assert isinstance(decide(result, history, POLICY), Done) == isinstance(result, Returned)


@given(st.integers(1, 10_000))
def test_retry_ceiling_never_passes_the_cap(failures: int) -> None:
    """The delay's upper end doubles from the base and stays within the cap."""
    assert POLICY.base_s <= POLICY.ceiling_s(failures) <= POLICY.cap_s
