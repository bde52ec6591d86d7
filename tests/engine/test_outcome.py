"""Every rule of what becomes of an ended run, by name, then what holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.outcome import (
    Cut,
    Dead,
    Done,
    End,
    Forget,
    HeldElsewhere,
    Hide,
    Lost,
    NotReady,
    Outcome,
    Raised,
    Returned,
    Run,
    Skipped,
    TimedOut,
    Unfit,
    Unreachable,
    crashing,
    decide,
)
from consumer.errors import CloudError, Fault
from consumer.plugin.job import JobFailed, Reject, Retry
from consumer.policy import CRASH_STARTS, MAX_HIDE_S, MIN_HIDE_S, Reason, RetryPolicy

POLICY = RetryPolicy(max_failures=3, base_s=30, cap_s=100)
BOOM = RuntimeError("boom")
DOWN = CloudError(Fault.SERVER, operation="QueryIProductionJob", target="mts", code="InternalError", detail="down")
REFUSAL = Reject("not ours")
FAILURE = JobFailed("InvalidFile", "no video stream")
LATER = Retry("too early", after_s=7)
OLD = Run(age_s=345_600 * 0.9)


@pytest.mark.parametrize(
    ("end", "run", "expected"),
    [
        pytest.param(Returned(), Run(failures=99, age_s=1e9), Done(), id="late success is still success"),
        pytest.param(Skipped.DUPLICATE, Run(), Forget(Skipped.DUPLICATE), id="what has ended before is only deleted"),
        pytest.param(Cut.LEASE_LOST, Run(), Lost(), id="a lost lease deletes nothing"),
        pytest.param(Cut.STOPPING, OLD, Hide(1, None, "the daemon stops"), id="a stop gives back at once, no failure"),
        pytest.param(
            Cut.LEFT_RUNNING,
            OLD,
            Hide(5, None, "the daemon stops; its plain function runs on until the process has ended"),
            id="a plain function that a stop leaves running keeps its message hidden until the process is gone",
        ),
        pytest.param(
            Cut.OVERDUE,
            Run(dequeue_count=3, dice=0.0),
            Hide(10, None, "it waited for its turn for as long as a message is held"),
            id="what waited as long as a message may be held comes back later, no failure",
        ),
        pytest.param(
            HeldElsewhere(12.2),
            Run(),
            Hide(13, None, "its job is being handled by another delivery"),
            id="what runs elsewhere comes back when that claim can have ended",
        ),
        pytest.param(
            HeldElsewhere(43_000),
            Run(),
            Hide(60, None, "its job is being handled by another delivery"),
            id="what runs elsewhere comes back within a minute",
        ),
        pytest.param(
            Unfit(Reason.UNROUTED, "why"),
            Run(),
            Dead(Reason.UNROUTED, "why", closes_job=False),
            id="unfit is set aside, and its job stays open",
        ),
        pytest.param(
            Unfit(Reason.CRASHING, "why"),
            Run(),
            Dead(Reason.CRASHING, "why"),
            id="what takes the process down ends its job",
        ),
        pytest.param(
            Raised(REFUSAL), Run(), Dead(Reason.REJECTED, "not ours", REFUSAL), id="a refusal is set aside at once"
        ),
        pytest.param(
            Raised(FAILURE),
            Run(),
            Dead(Reason.JOB_FAILED, "the job failed with code InvalidFile: no video stream", FAILURE),
            id="a failed job that nobody looks at is set aside",
        ),
        pytest.param(
            Raised(BOOM),
            Run(dice=0.5),
            Hide(15, "RuntimeError: boom", "RuntimeError: boom"),
            id="the first failure waits up to the base",
        ),
        pytest.param(
            Raised(BOOM),
            Run(failures=1, dice=0.99),
            Hide(60, "RuntimeError: boom", "RuntimeError: boom"),
            id="the second waits up to twice the base",
        ),
        pytest.param(
            Raised(LATER), Run(), Hide(7, "too early", "too early"), id="Retry's own time is honoured and counts"
        ),
        pytest.param(
            Raised(Retry("x", after_s=0)), Run(), Hide(MIN_HIDE_S, "x", "x"), id="nothing hides for less than 1 s"
        ),
        pytest.param(
            Raised(BOOM),
            Run(failures=2),
            Dead(Reason.EXHAUSTED, "failed 3 times, at last with RuntimeError: boom", BOOM),
            id="the last failure exhausts it",
        ),
        pytest.param(
            Raised(LATER),
            Run(failures=2),
            Dead(Reason.EXHAUSTED, "failed 3 times, at last with too early", LATER),
            id="Retry is exhausted too",
        ),
        pytest.param(
            TimedOut(5),
            Run(dice=0.0),
            Hide(1, "the handler took longer than its 5 s", "the handler took longer than its 5 s"),
            id="a time limit passed is a failure",
        ),
        pytest.param(
            NotReady("Analysing", 3600),
            Run(age_s=10, dice=0.0),
            Hide(3, None, "the job is 'Analysing': no result yet"),
            id="no result yet is nobody's failure",
        ),
        pytest.param(
            NotReady("Analysing", 3600),
            Run(age_s=3600),
            Dead(
                Reason.RESULT_NOT_READY,
                "MPS still says 'Analysing' 3600 s after the notification; waited up to 3600 s",
                closes_job=False,
            ),
            id="a result that never comes is set aside",
        ),
        pytest.param(
            Unreachable(DOWN),
            Run(failures=99, dequeue_count=99, dice=0.999),
            Hide(300, None, str(DOWN)),
            id="an outage is nobody's failure, however long",
        ),
    ],
)
def test_decide(end: End, run: Run, expected: Outcome) -> None:
    """Each rule of ``decide`` by name."""
    assert decide(end, run, POLICY) == expected


@pytest.mark.parametrize("end", [Raised(BOOM), TimedOut(5), NotReady("Queuing", 1e9), Unreachable(DOWN)])
def test_too_old_to_come_back_is_expiring(end: End) -> None:
    """A message that would come back after MNS has dropped it is set aside while it can be."""
    outcome = decide(end, OLD, POLICY)
    assert isinstance(outcome, Dead)
    assert outcome.reason is Reason.EXPIRING
    assert "345600" in outcome.error


@pytest.mark.parametrize(
    ("end", "failures", "closes_job"),
    [
        (Raised(BOOM), 0, True),
        (TimedOut(5), 0, True),
        (NotReady("Queuing", 1e9), 0, False),
        (Unreachable(DOWN), 0, False),
        (Unreachable(DOWN), 1, False),
    ],
)
def test_expiring_ends_a_job_only_when_its_handler_ran(*, end: End, failures: int, closes_job: bool) -> None:
    """A message that grows too old before any handler ran ends itself, and its job stays open for another one."""
    outcome = decide(end, replace(OLD, failures=failures), POLICY)
    assert isinstance(outcome, Dead)
    assert outcome.closes_job is closes_job


def test_many_starts_without_an_end_are_crashing() -> None:
    """After five starts without an end the message is taken for the one that kills the process, not before."""
    assert crashing(CRASH_STARTS - 1) is None
    dead = crashing(CRASH_STARTS)
    assert dead is not None
    assert dead.reason is Reason.CRASHING


ENDS = st.one_of(
    st.just(Returned()),
    st.sampled_from([*Skipped, *Cut]),
    st.builds(HeldElsewhere, st.floats(-10, 1e9)),
    st.builds(Unfit, st.sampled_from(Reason), st.text()),
    st.builds(Raised, st.sampled_from([BOOM, REFUSAL, FAILURE, LATER, Retry("policy")])),
    st.builds(TimedOut, st.floats(0, 1e6)),
    st.builds(NotReady, st.text(), st.floats(0, 1e6)),
    st.just(Unreachable(DOWN)),
)
RUNS = st.builds(
    Run,
    failures=st.integers(0, 10_000),
    starts=st.integers(0, 100),
    dequeue_count=st.integers(1, 10_000),
    age_s=st.floats(0, 1e7),
    retention_s=st.integers(60, 604_800),
    dice=st.floats(0, 1, exclude_max=True),
)


@given(ENDS, RUNS)
def test_every_delay_is_one_that_mns_takes(end: End, run: Run) -> None:
    """Whatever ends however, a delay is whole seconds from 1 to 43200."""
    outcome = decide(end, run, POLICY)
    if isinstance(outcome, Hide):
        assert isinstance(outcome.delay_s, int)
        assert MIN_HIDE_S <= outcome.delay_s <= MAX_HIDE_S


@given(ENDS, RUNS)
def test_only_a_return_is_done(end: End, run: Run) -> None:
    """No end but the handler's own return counts the job as done."""
    assert isinstance(decide(end, run, POLICY), Done) == isinstance(end, Returned)


@given(st.integers(1, 10_000))
def test_retry_ceiling_never_passes_the_cap(failures: int) -> None:
    """The delay's upper end doubles from the base and stays within the cap."""
    assert POLICY.base_s <= POLICY.ceiling_s(failures) <= POLICY.cap_s
