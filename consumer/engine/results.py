"""Ask MPS for jobs; while it does not answer, one question at a time is tried and the others wait.

A message that waits here keeps its slot and its lease, so an outage moves nothing in the queue: no delivery is
counted, nothing is hidden one by one, and the work goes on the moment MPS answers again. Messages that need no result
pass by as long as there are slots. What has waited for minutes is given back to the queue all the same, so that its
slot is of use to others.

A "slower" of MPS is no outage: the limiter has halved its rate, and the question is put again. Only when nothing but
that comes it counts as one.

Elsewhere: the call and the limiter (``cloud``), what the answer means (``engine.fetch``), the pauses
(``engine.pacing``).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from consumer.cloud import faults
from consumer.cloud.mps import JobAnswer
from consumer.engine.pacing import Outage
from consumer.errors import CloudError, Fault

PATIENCE_S: Final = 300.0
"""For so long a message waits here; then it goes back into its queue for a while."""
_THROTTLES: Final = 3

Query: TypeAlias = Callable[[str], Awaitable[JobAnswer]]


def is_about_the_job(error: CloudError) -> bool:
    """Whether MPS refused the job's id itself; any other refusal is of the surroundings, an endpoint or a proxy."""
    return error.fault is Fault.REQUEST and faults.is_about_the_job(error.code)


class Results:
    """The questions of one queue's messages.

    Args:
        query: Asks MPS for one job (``Mps.query``).
        name: The queue's name, for the log.
        failed: Told of every question that failed.
        patience_s: For how long a question waits for MPS to come back.
    """

    def __init__(self, query: Query, name: str, *, failed: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
        self._query = query
        self._failed = failed
        self._patience_s = patience_s
        self._outage = Outage("MPS does not answer; results wait until it does", "MPS answers again", name)
        self._knocking = anyio.Lock()
        self._knock_at = 0.0
        self._noted_at = 0.0
        self._throttles = 0
        self.fault: CloudError | None = None
        """Why MPS can't be asked just now; ``None`` while it answers."""

    async def query(self, job_id: str) -> JobAnswer:
        """Ask for one job, and wait while MPS is down.

        Raises:
            CloudError: MPS refuses the id itself (``is_about_the_job``), or it was down for too long.
        """
        give_up_at = time.monotonic() + self._patience_s
        while True:
            if self.fault is None:
                answer = await self._ask(job_id)
            else:
                answer, fault = None, self.fault
                with anyio.move_on_after(give_up_at - time.monotonic()) as waiting:
                    answer = await self._knock(job_id)
                if waiting.cancelled_caught:
                    # The same error for all who waited: each begins its traceback anew.
                    raise fault.with_traceback(None)
            if answer is not None:
                return answer

    async def _knock(self, job_id: str) -> JobAnswer | None:
        """Be the one that asks; ``None`` when MPS still does not answer, or somebody else was answered meanwhile."""
        async with self._knocking:
            if self.fault is None:
                return None
            await anyio.sleep(max(0.0, self._knock_at - time.monotonic()))
            return await self._ask(job_id)

    async def _ask(self, job_id: str) -> JobAnswer | None:
        asked_at = time.monotonic()
        try:
            answer = await self._query(job_id)
        except CloudError as error:
            self._failed()
            if is_about_the_job(error):
                self._over()
                raise
            self._note(error, asked_at)
            return None
        self._over()
        return answer

    def _note(self, error: CloudError, asked_at: float) -> None:
        if error.fault is Fault.THROTTLED and self.fault is None:
            self._throttles += 1
            if self._throttles < _THROTTLES:
                return
        # Questions that were under way together fail together: that is one fault, not many.
        if self.fault is None or asked_at >= self._noted_at:
            self._noted_at = time.monotonic()
            self._knock_at = self._noted_at + self._outage.failed(error)
            self.fault = error

    def _over(self) -> None:
        self._throttles = 0
        self.fault = None
        self._outage.over()
