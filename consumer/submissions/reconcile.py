"""Find the ends of submitted jobs that no notification reports.

A notification can get lost, and MPS has no call that says so. So MPS is asked for each submission that is open
``reconcile_after_s`` after it was sent:

    still running   asked again after a minute, doubled up to an hour
    ended           handled like a message: the same key, claim, handler and retries. A notification that comes later is
                    a duplicate
    too old         expired: MPS keeps a job for three months

Replicas share the work: a due submission is taken by a lease on its row. Nothing is ever submitted again.

Source: facts/iproduction.md#query-a-job, facts/iproduction.md#job-limits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio
import structlog

from consumer.cloud.mps import JobStatus
from consumer.errors import CloudError, StoreError
from consumer.job_state import ENDED
from consumer.policy import SubmissionState
from consumer.store.submissions import Submission, Submissions

log = structlog.stdlib.get_logger(__name__)

MPS_KEEPS_S: Final = 90 * 86_400.0
"""MPS answers for jobs of the last three months (facts/iproduction.md#query-a-job)."""
_AT_ONCE: Final = 16
"""Submissions that are asked for at the same time: each waits for MPS, and then perhaps for a slot and its handler."""
_LEASE_S: Final = 600.0
"""How long a taken submission is this process's; a handler may run longer, then its claim keeps others out."""
_LONGEST_PAUSE_S: Final = 15.0
_FIRST_BACKOFF_S: Final = 60.0
_LONGEST_BACKOFF_S: Final = 3600.0
_AFTER_FAULT_S: Final = 60.0

Query: TypeAlias = Callable[[str], Awaitable[JobStatus]]
Counts: TypeAlias = Mapping[SubmissionState, int]


@dataclass(frozen=True, slots=True)
class Handled:
    """What handling an ended job came to.

    Args:
        again_s: Seconds until its next try; ``None`` when the ledger has closed the job.
        was_lost: Its notification was lost: it was closed now, and not by a message before.
    """

    again_s: float | None
    was_lost: bool


class Outage(Protocol):
    """Logs the start and the end of a time in which the submissions can't be read: the engine's ``Breaker``."""

    def failed(self, error: StoreError) -> object:
        """Note a fault."""

    def succeeded(self) -> None:
        """Note a success."""


Handle: TypeAlias = Callable[[JobStatus], Awaitable[Handled]]
"""Handles an ended job like a message."""


def backoff_s(asked: int) -> float:
    """The pause after MPS was asked this often, from 1: a minute, doubled up to an hour, with 20 % jitter."""
    ceiling_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(asked - 1, 10))
    return ceiling_s * random.uniform(0.8, 1.0)  # noqa: S311 - jitter, not a secret


class Reconciler:
    """The open submissions of one queue.

    Args:
        queue: The queue's identity, and ``name`` its name in logs.
        is_ready: Whether MPS works as far as is known; otherwise nothing is taken.
        on_counts: Gets the number of open submissions by state at each pass.
        on_found: Gets the FunctionName of each job whose end was found by asking.
    """

    def __init__(
        self,
        submissions: Submissions,
        queue: str,
        name: str,
        *,
        query: Query,
        handle: Handle,
        is_ready: Callable[[], bool],
        on_counts: Callable[[Counts], None],
        on_found: Callable[[str], None],
    ) -> None:
        self._submissions = submissions
        self._queue = queue
        self._name = name
        self._query = query
        self._handle = handle
        self._is_ready = is_ready
        self._on_counts = on_counts
        self._on_found = on_found
        self._place: float | None = None
        """Up to which job that has ended was looked."""
        self._asking = 0
        """Submissions that were taken and are not settled yet."""
        self._had_some = False

    @property
    def has_room(self) -> bool:
        """Whether more may be taken now."""
        return self._asking < _AT_ONCE

    def is_concerned(self, queues: AbstractSet[str]) -> bool:
        """Whether its queue is one of these, or was when this was asked last: then its counts become 0."""
        before, self._had_some = self._had_some, self._queue in queues
        return before or self._had_some

    async def look(self) -> Sequence[Submission]:
        """One pass: close what has ended; returns what is due and was taken, to be asked for."""
        if lost := await self._submissions.lose_intents(self._queue):
            log.warning("submissions without an answer", queue=self._name, submissions=lost)
        counts = await self._submissions.count(self._queue)
        self._on_counts(counts)
        before, self._place = self._place, await self._submissions.newest_end()
        # Most daemons have no open submission: they look at no ended job.
        if before is not None and counts.get(SubmissionState.SUBMITTED):
            await self._submissions.note_ended(before, self._place)
        free = _AT_ONCE - self._asking if self._is_ready() else 0
        due = await self._submissions.take_due(self._queue, limit=free, lease_s=_LEASE_S) if free else ()
        self._asking += len(due)
        return due

    async def ask_in_background(self, submission: Submission) -> None:
        """Ask for a submission that ``look`` has taken."""
        try:
            await self.ask(submission)
        except StoreError as error:
            # Its lease ends, and then it is asked for again.
            log.warning("submission not settled", queue=self._name, job_id=submission.job_id, error=str(error))
        finally:
            self._asking -= 1

    async def ask(self, submission: Submission) -> None:
        """Ask MPS for one submission, and handle its job if it has ended."""
        number, job_id = submission.id, submission.job_id or ""
        try:
            answer = await self._query(job_id)
        except CloudError as error:
            await self._unanswered(submission, str(error))
            return
        if not answer.found:
            await self._unanswered(submission, f"MPS answers that job {job_id!r} is not an intelligent production job")
        elif answer.state not in ENDED:
            if not await self._expire(submission):
                await self._submissions.ask_again(number, after_s=backoff_s(submission.asked + 1), asked=True)
        else:
            await self._settle(submission, await self._handle(answer))

    async def _settle(self, submission: Submission, handled: Handled) -> None:
        if handled.again_s is not None:
            await self._submissions.ask_again(submission.id, after_s=handled.again_s, asked=False)
            return
        if handled.was_lost:
            self._on_found(submission.function)
            log.info(
                "end found by asking",
                queue=self._name,
                function=submission.function,
                job_id=submission.job_id,
                seconds=round(time.time() - (submission.submitted_at or submission.created_at)),
            )
        await self._submissions.close_as(submission.id, SubmissionState.ENDED)

    async def _unanswered(self, submission: Submission, error: str) -> None:
        """MPS says nothing of a job: ask again later, until it is too old."""
        if not await self._expire(submission):
            again_s = max(_AFTER_FAULT_S, backoff_s(submission.asked + 1))
            await self._submissions.ask_again(submission.id, after_s=again_s, asked=True)
            log.debug("submission not answered", queue=self._name, job_id=submission.job_id, error=error)

    async def _expire(self, submission: Submission) -> bool:
        """Close a submission that is older than MPS keeps jobs; whether it is."""
        age_s = time.time() - (submission.submitted_at or submission.created_at)
        if age_s <= MPS_KEEPS_S:
            return False
        error = "no end in the three months for which MPS keeps a job"
        await self._submissions.close_as(submission.id, SubmissionState.EXPIRED, error)
        log.error(
            "submission expired",
            queue=self._name,
            function=submission.function,
            job_id=submission.job_id,
            submission=submission.id,
        )
        return True


async def reconcile(
    submissions: Submissions,
    reconcilers: Sequence[Reconciler],
    *,
    after_s: Callable[[], float],
    is_ready: Callable[[], bool],
    outage: Outage,
) -> None:
    """Look again and again for what is due in all queues, until cancelled.

    A queue without open submissions costs nothing: one query finds those that have some.

    Args:
        submissions: The store's.
        reconcilers: Those of the daemon's queues.
        after_s: Gives the setting ``reconcile_after_s``.
        is_ready: Whether the store works as far as is known.
        outage: Notes whether the submissions can be read.
    """
    async with anyio.create_task_group() as group:
        while True:
            has_more = False
            if is_ready():
                try:
                    queues = await submissions.open_queues()
                    for one in reconcilers:
                        if one.is_concerned(queues):
                            taken = await one.look()
                            for submission in taken:
                                group.start_soon(one.ask_in_background, submission)
                            has_more |= bool(taken) and one.has_room
                except StoreError as error:
                    outage.failed(error)
                else:
                    outage.succeeded()
            if not has_more:
                await anyio.sleep(min(_LONGEST_PAUSE_S, max(1.0, after_s() / 4)))
