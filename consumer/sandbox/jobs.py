"""Run jobs: Queuing, Analysing, then Success or Fail, a result, and a notification.

A job's own parameters can order how it ends, under the key ``sandbox`` of JobParams (``JobOrders``).

Elsewhere: what a result looks like (``results``), what a notification says (``notify``), the API
(``mps_api``).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from consumer.job_state import ENDED, JobState
from consumer.sandbox import results
from consumer.sandbox.clock import Clock
from consumer.sandbox.faults import Faults

MOST_QUEUED: Final = 10_000
"""Jobs that one pipeline holds before they run. Source: facts/iproduction.md#job-limits."""

_MOST_KEPT = 100_000
_QUEUING_SHARE = 0.2


class JobFailure(BaseModel):
    """Code and message a job is to fail with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str = "InternalError"
    message: str = "Failed as ordered."


class JobOrders(BaseModel):
    """What ``JobParams`` may order of the sandbox, as ``{"sandbox": {...}}``.

    Attributes:
        fail: End as Fail, with this code and message.
        job_s: Seconds from submission to end, in place of the sandbox's.
        result: The whole ``Result``: text as it is, anything else as JSON.
        stuck: Stay Analysing.
        notify: Send no notification, or two.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fail: JobFailure | None = None
    job_s: Annotated[float | None, Field(ge=0, le=86_400)] = None
    result: Any = None
    stuck: bool = False
    notify: Literal["once", "lost", "twice"] = "once"


class GivenJob(BaseModel):
    """A job that is put into the sandbox in the state it is to have, without being run.

    Attributes:
        job_id: JobId; a job that has this id is replaced, and never ends by itself any more.
        function: FunctionName.
        state: What a query answers. ``Queuing`` and ``Analysing`` stay so.
        user_data: None is a job that was submitted without.
        result: The whole ``Result``: text as it is, anything else as JSON. None makes one up that fits the function
            and the state.
        code: Of the notification and of a made-up result; "" is ``Success`` or ``InternalError``.
        message: Of a failure.
        input: Input, as submitted.
        output: Output, as submitted.
        params: JobParams, as submitted.
        pipeline_id: PipelineId, as submitted.
        notify_queue: A queue that gets the job's notification, once and at once; None sends none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: Annotated[str, Field(min_length=1)]
    function: Annotated[str, Field(min_length=1)] = "Cover"
    state: JobState = JobState.SUCCESS
    user_data: str | None = None
    result: Any = None
    code: str = ""
    message: str = "Failed as ordered."
    input: str = ""
    output: str = ""
    params: str = "{}"
    pipeline_id: str = ""
    notify_queue: str | None = None


@dataclass(slots=True)
class Job:
    """One job. ``user_data`` and ``notify_queue`` are None when the submit had none."""

    job_id: str
    function: str
    params: str
    input: str = ""
    output: str = ""
    pipeline_id: str = ""
    user_data: str | None = None
    notify_queue: str | None = None
    orders: JobOrders = field(default_factory=JobOrders)
    state: JobState = JobState.QUEUING
    code: str = ""
    message: str = ""
    result: str = ""
    submitted_ms: int = 0
    ended_ms: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether it is in one of its two last states."""
        return self.state in ENDED


@dataclass(slots=True)
class _Pipeline:
    waiting: deque[Job] = field(default_factory=deque)
    queued: int = 0
    running: int = 0


class Jobs:
    """All jobs of the account and the pipelines they run in.

    Args:
        clock: Stamps.
        faults: Drawn for stuck jobs and lost or doubled notifications.
        job_s: Seconds from submission to end.
        concurrency: Jobs of one pipeline that run at once.
        on_end: Called with an ended job, once for each notification that is due.
    """

    def __init__(
        self, clock: Clock, faults: Faults, *, job_s: float, concurrency: int, on_end: Callable[[Job], None]
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._job_s = job_s
        self._concurrency = concurrency
        self._on_end = on_end
        self._jobs: dict[str, Job] = {}
        self._pipelines: dict[str, _Pipeline] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> Job | None:
        """Give a job; None when no such job was ever submitted (or it ended long ago)."""
        return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """Give all jobs, oldest first."""
        return list(self._jobs.values())

    def is_full(self, pipeline_id: str) -> bool:
        """Whether a pipeline takes no more jobs."""
        pipeline = self._pipelines.get(pipeline_id)
        return pipeline is not None and pipeline.queued >= MOST_QUEUED

    def submit(self, job: Job) -> None:
        """Start a job's life."""
        job.submitted_ms = self._clock.now_ms()
        self._keep(job)
        pipeline = self._pipelines.setdefault(job.pipeline_id, _Pipeline())
        pipeline.queued += 1
        self._later(self._length_s(job) * _QUEUING_SHARE, lambda: self._line_up(pipeline, job))

    def put(self, given: GivenJob) -> Job:
        """Keep a job in the state it is given in, and send its notification where one is asked for."""
        now_ms = self._clock.now_ms()
        job = Job(
            job_id=given.job_id,
            function=given.function,
            params=given.params,
            input=given.input,
            output=given.output,
            pipeline_id=given.pipeline_id,
            user_data=given.user_data,
            notify_queue=given.notify_queue,
            state=given.state,
            submitted_ms=now_ms,
        )
        if job.has_ended:
            job.ended_ms = now_ms
            has_failed = job.state is JobState.FAIL
            job.code = given.code or ("InternalError" if has_failed else "Success")
            job.message = given.message if has_failed else ""
            job.result = results.failure(job.code, job.message) if has_failed else _made_up(job)
        if given.result is not None:
            job.result = _ordered(given.result)
        self._keep(job)
        if job.notify_queue is not None:
            self._on_end(job)
        return job

    def close(self) -> None:
        """Stop everything; jobs stay in the state they are in."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _keep(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        while len(self._jobs) > _MOST_KEPT:
            oldest = next(iter(self._jobs.values()))
            if not oldest.has_ended:
                break
            del self._jobs[oldest.job_id]

    def _length_s(self, job: Job) -> float:
        return self._job_s if job.orders.job_s is None else job.orders.job_s

    def _line_up(self, pipeline: _Pipeline, job: Job) -> None:
        pipeline.waiting.append(job)
        self._start_next(pipeline)

    def _start_next(self, pipeline: _Pipeline) -> None:
        while pipeline.waiting and pipeline.running < self._concurrency:
            job = pipeline.waiting.popleft()
            pipeline.queued -= 1
            job.state = JobState.ANALYSING
            if job.orders.stuck or self._faults.draw("job_stuck", "SubmitIProductionJob", job.notify_queue):
                # It takes no slot: a few stuck jobs would stop every other one.
                continue
            pipeline.running += 1
            length_s = self._length_s(job) * (1 - _QUEUING_SHARE)
            self._later(length_s, lambda job=job: self._end(pipeline, job))  # type: ignore[misc] # the job of this turn

    def _end(self, pipeline: _Pipeline, job: Job) -> None:
        # A job that was put in its place has no notification to send.
        if self._jobs.get(job.job_id) is job:
            self._finish(job)
        pipeline.running -= 1
        self._start_next(pipeline)

    def _finish(self, job: Job) -> None:
        job.ended_ms = self._clock.now_ms()
        fail = job.orders.fail
        if fail is None:
            job.state, job.code = JobState.SUCCESS, "Success"
            job.result = _made_up(job)
        else:
            job.state, job.code, job.message = JobState.FAIL, fail.code, fail.message
            job.result = results.failure(fail.code, fail.message)
        if job.orders.result is not None:
            job.result = _ordered(job.orders.result)
        for _ in range(self._notifications(job)):
            self._on_end(job)

    def _notifications(self, job: Job) -> int:
        if job.notify_queue is None:
            return 0
        if job.orders.notify == "lost" or self._faults.draw(
            "notification_lost", "SubmitIProductionJob", job.notify_queue
        ):
            return 0
        if job.orders.notify == "twice" or self._faults.draw(
            "notification_twice", "SubmitIProductionJob", job.notify_queue
        ):
            return 2
        return 1

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(timer)


def _made_up(job: Job) -> str:
    return results.result_of(job.function, results.Files(job.input, job.output, job.ended_ms), job.job_id)


def _ordered(result: Any) -> str:
    return result if isinstance(result, str) else results.compact(result)
