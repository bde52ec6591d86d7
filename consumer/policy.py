"""The rules that settings and handlers may bend: limits, delays, and the words for a message's end.

Values only, no behaviour but the arithmetic of one delay. They live on the lowest floor because the
settings fill them in, a handler may override some, the engine obeys them and the store writes their
words down.

Elsewhere: which rule applies to an ended message (``engine.outcome``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MIN_HIDE_S = 1
"""The shortest time for which MNS hides a message; there is no 0 (facts/mns.md#change-message-visibility)."""
MAX_HIDE_S = 43_200
"""The longest, 12 hours; longer waits hide the message again when it comes back."""
MAX_BATCH = 16
"""Messages in one receive, handles in one delete (facts/mns.md#limits)."""
MAX_RETENTION_S = 604_800
"""The longest for which a queue keeps a message, 7 days (facts/mns.md#create-queue)."""
MAX_WAIT_S = 30
"""The longest long poll, in seconds (facts/mns.md#receive-message)."""


class Reason(StrEnum):
    """Why a message was set aside. A fixed list: the words become metric labels and filters."""

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
    """The handler was started several times and never ended: it takes the process down."""
    STUCK = "stuck"
    """The handler still ran when its time and its lease's maximum were over."""
    RESULT_NOT_READY = "result_not_ready"
    """MPS kept saying that the job goes on, for longer than the setting allows."""
    NOT_IPRODUCTION = "not_iproduction"
    """MPS does not know the job as an intelligent production job."""
    UNANSWERED = "unanswered"
    """MPS kept failing for this job, while it answered for others."""
    CONTRADICTED = "contradicted"
    """The message says something of its job that MPS, or an earlier notification, says otherwise."""


class Verify(StrEnum):
    """Which notifications of IProduction jobs are checked against MPS before a handler runs."""

    RESULTS = "results"
    """Those whose handler wants a result, and those of failed jobs."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """How far a notification is believed: anyone who may send to the queue can write one.

    Args:
        verify: Which notifications are checked against MPS.
        inline_result: Whether a result in the message is used in place of MPS's.
    """

    verify: Verify = Verify.RESULTS
    inline_result: bool = False


class UnroutedPolicy(StrEnum):
    """What becomes of a message that no handler takes."""

    SET_ASIDE = "set_aside"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed handler runs again.

    Args:
        max_failures: Failures of the handler after which the message is set aside.
        base_s: Upper end of the first delay, in seconds.
        cap_s: Upper end of every later delay, in seconds.
    """

    max_failures: int = 10
    base_s: float = 30.0
    cap_s: float = 3600.0

    def ceiling_s(self, failures: int) -> float:
        """The upper end of the delay after this many failures: doubled each time, up to the cap.

        Args:
            failures: Failures so far, from 1.

        Returns:
            Seconds; the delay itself is drawn evenly from 0 to here (full jitter).
        """
        # Beyond 2**30 the doubling has passed any cap; a larger power would only overflow a float.
        return min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How long a handler may keep its message.

    Args:
        step_s: For how long each renewal hides the message, in seconds.
        max_s: The most that a message is held in one run, from its receipt, in seconds.
    """

    step_s: int = 60
    max_s: float = 43_200.0


@dataclass(frozen=True, slots=True)
class LetterLimits:
    """How many dead letters a store may hold that are not replayed.

    Args:
        letters: Their number.
        size_bytes: The bytes of their bodies and texts.
    """

    letters: int = 100_000
    size_bytes: int = 1024**3


CRASH_STARTS = 5
"""Starts without an end after which a message counts as the one that kills the process."""
SUSPECT_STARTS = 3
"""Starts without an end from which on a message runs with no other such message beside it: the one that kills the
process must not take its neighbours' good names with it."""
