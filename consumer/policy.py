"""The limits of MNS, the reasons of dead letters, and the rules that settings set and handlers may override."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MIN_HIDE_S = 1
"""The shortest time that MNS hides a message; 0 is not allowed (facts/mns.md#change-message-visibility)."""
MAX_HIDE_S = 43_200
"""The longest time, 12 hours; a longer delay hides the message again when it is redelivered."""
MAX_BATCH = 16
"""Messages in one batch receive, receipt handles in one batch delete (facts/mns.md#limits)."""
MAX_RETENTION_S = 604_800
"""The longest retention of a queue, 7 days (facts/mns.md#create-queue)."""
MAX_WAIT_S = 30
"""The longest long poll, in seconds (facts/mns.md#receive-message)."""


class Reason(StrEnum):
    """Why a message became a dead letter; the values are metric labels and filters."""

    UNDECODABLE = "undecodable"
    """The body is not a notification: wrong encoding, not JSON, keys that contradict each other."""
    UNROUTED = "unrouted"
    """No handler takes this FunctionName or kind."""
    ILL_TYPED = "ill_typed"
    """The result or the UserData does not fit the handler's annotation."""
    JOB_FAILED = "job_failed"
    """The job failed and its handler does not look at failed jobs."""
    REJECTED = "rejected"
    """The handler raised ``Reject``."""
    EXHAUSTED = "exhausted"
    """The handler failed as often as the policy allows."""
    EXPIRING = "expiring"
    """The next try would come after the queue's retention, when MNS drops the message silently."""
    CRASHING = "crashing"
    """The handler was started several times and never ended; it seems to kill the process."""
    STUCK = "stuck"
    """The handler still ran when its time and its lease's maximum were over."""
    RESULT_NOT_READY = "result_not_ready"
    """MPS reported the job as running for longer than `result_wait_s`."""
    NOT_IPRODUCTION = "not_iproduction"
    """MPS does not know the job as an intelligent production job."""
    UNANSWERED = "unanswered"
    """MPS kept failing for this job, while it answered for others."""
    CONTRADICTED = "contradicted"
    """The message contradicts MPS, or an earlier notification, about its job."""


class Verify(StrEnum):
    """Which notifications of IProduction jobs are checked against MPS before a handler runs."""

    RESULTS = "results"
    """Those whose handler wants a result, and those of failed jobs."""
    ALWAYS = "always"


class SubmissionState(StrEnum):
    """What is known of a submission."""

    INTENT = "intent"
    """Recorded; the call to MPS is under way."""
    SUBMITTED = "submitted"
    """MPS has accepted it."""
    UNKNOWN = "unknown"
    """MPS gave no answer: the job may exist and be billed."""
    ENDED = "ended"
    """Its job is closed in the ledger: done, or a dead letter."""
    EXPIRED = "expired"
    """MPS does not keep the job any more, and its end was never reported."""
    REFUSED = "refused"
    """MPS has refused it, or the call was certainly not sent."""

    @classmethod
    def open(cls) -> Sequence[SubmissionState]:
        """The states in which a job exists, or may exist, and has not ended."""
        return (cls.INTENT, cls.SUBMITTED, cls.UNKNOWN)


class UnroutedPolicy(StrEnum):
    """What becomes of a message that no handler takes."""

    SET_ASIDE = "set_aside"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed handler runs again; a handler may override the settings' values."""

    max_failures: int = 10
    base_s: float = 30.0
    cap_s: float = 3600.0

    def ceiling_s(self, failures: int) -> float:
        """The upper end of the delay after this many failures, from 1: doubled each time, up to the cap.

        The delay itself is drawn evenly from 0 to this (full jitter).
        """
        # 2**30 passes any cap; a larger power would overflow a float.
        return min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 30))


CRASH_STARTS = 5
"""Starts without an end after which a message is set aside, because it seems to kill the process."""
SUSPECT_STARTS = 3
"""Starts without an end from which on such messages run one at a time, so that a crash is not counted against the
others."""
