"""Ask MPS for jobs, and tell a fault of the service from a fault of one job.

A question that fails says little by itself. Where MPS has answered another one since, the fault is that job's own: its
message goes back into the queue for a while, and its neighbours are not held up. Where it has not, it is asked about a
job that does not exist. Any answer to that, a refusal of the id too, proves that the service works.

Where even that fails it is an outage: one such probe at a time is sent, with growing pauses, and all questions wait. A
message that waits keeps its slot and its lease, so an outage moves nothing in the queue: no delivery is counted,
nothing is hidden one by one, and the work goes on the moment MPS answers again. Messages that need no result pass by
as long as there are slots. What has waited for minutes is given back all the same: others may use its slot.

A throttled question is no outage: the limiter has halved its rate, and the question is put again. Only when nothing
but that comes it counts as one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from consumer.cloud import faults
from consumer.cloud.mps import JobStatus
from consumer.engine.pacing import Outage
from consumer.errors import CloudError, Fault

PATIENCE_S: Final = 300.0
"""For so long a message waits for an outage to end; then it goes back into its queue for a while."""
NO_JOB: Final = "0" * 32
"""The id of no job: what is asked for to see whether MPS answers at all."""
_THROTTLES: Final = 3
_AGAIN_EVERY_S: Final = 1.0
"""How often a question that failed alone is put once more at once: blips are rare, and many bad jobs must not
take the account's calls from the good ones."""
_AGAIN_PAUSE_S: Final = 0.3

Query: TypeAlias = Callable[[str], Awaitable[JobStatus]]


class UnansweredError(Exception):
    """MPS fails for this job while it answers others.

    Args:
        error: What the last question came to.
    """

    def __init__(self, error: CloudError) -> None:
        super().__init__(str(error))
        self.error = error


def is_about_the_job(error: CloudError) -> bool:
    """Whether MPS refused the job's id itself; any other refusal is of the surroundings, an endpoint or a proxy."""
    return error.fault is Fault.REQUEST and faults.is_about_the_job(error.code)


def is_too_long(error: CloudError) -> bool:
    """Whether the answer was longer than is read: that is about the job, and won't change."""
    return error.code == "AnswerTooLong"


class Results:
    """The questions of one queue's messages.

    Args:
        query: Asks MPS for one job (``Mps.query``).
        name: The queue's name, for the log.
        failed: Called for every question that failed.
        patience_s: For how long a question waits for MPS to come back.
    """

    def __init__(self, query: Query, name: str, *, failed: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
        self._query = query
        self._failed = failed
        self._patience_s = patience_s
        self._outage = Outage("MPS does not answer; results wait until it does", "MPS answers again", name)
        self._probing = anyio.Lock()
        self._probe_at = 0.0
        self._answered_at = 0.0
        self._again_at = 0.0
        self._throttles = 0
        self.fault: CloudError | None = None
        """Why MPS can't be asked just now; ``None`` while it answers."""

    async def query(self, job_id: str) -> JobStatus:
        """Ask for one job, and wait while MPS is down.

        Raises:
            CloudError: MPS refuses the id itself (``is_about_the_job``), or it was down for too long.
            UnansweredError: It fails for this job alone.
        """
        give_up_at = time.monotonic() + self._patience_s
        put_again = False
        while True:
            if self.fault is not None:
                await self._until_it_answers(give_up_at)
            asked_at = time.monotonic()
            try:
                answer = await self._query(job_id)
            except CloudError as error:
                self._failed()
                if is_about_the_job(error):
                    self._answered()
                    raise
                if error.fault is Fault.THROTTLED and self._tolerates_throttling():
                    continue
                if not is_too_long(error) and not await self._works(asked_at, error):
                    continue
                if put_again or is_too_long(error) or not self._may_put_again():
                    raise UnansweredError(error) from None
                put_again = True
                await anyio.sleep(_AGAIN_PAUSE_S)
            else:
                self._answered()
                return answer

    def _answered(self) -> None:
        self._answered_at = time.monotonic()
        self._throttles = 0
        self.fault = None
        self._outage.over()

    def _tolerates_throttling(self) -> bool:
        self._throttles += 1
        return self.fault is None and self._throttles < _THROTTLES

    def _may_put_again(self) -> bool:
        now = time.monotonic()
        if now < self._again_at:
            return False
        self._again_at = now + _AGAIN_EVERY_S
        return True

    async def _works(self, asked_at: float, error: CloudError) -> bool:
        """Whether MPS answers others, seen from a question that failed; ``False`` once an outage is known."""
        async with self._probing:
            if self._answered_at > asked_at:
                return True
            if self.fault is not None:
                return False
            return await self._probe(error)

    async def _until_it_answers(self, give_up_at: float) -> None:
        """Wait for the outage's end: one who waits at a time sends the probe that is due.

        Raises:
            CloudError: It lasts too long.
        """
        fault = self.fault
        with anyio.move_on_after(give_up_at - time.monotonic()) as waiting:
            while self.fault is not None:
                async with self._probing:
                    if self.fault is not None:
                        await anyio.sleep(max(0.0, self._probe_at - time.monotonic()))
                        await self._probe(self.fault)
        if waiting.cancelled_caught and fault is not None:
            # The same error for all who waited: each begins its traceback anew.
            raise (self.fault or fault).with_traceback(None)

    async def _probe(self, error: CloudError) -> bool:
        """Ask for a job that does not exist; whatever MPS says of it, it answers.

        Args:
            error: What was met before, which says more than the probe's own failure.
        """
        try:
            await self._query(NO_JOB)
        except CloudError as again:
            if not is_about_the_job(again):
                self.fault = error if self.fault is None else again
                self._probe_at = time.monotonic() + self._outage.failed(self.fault)
                return False
        self._answered()
        return True
