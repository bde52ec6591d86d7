"""Jobs: Queuing, Analysing, then Success or Fail, a result, and a notification.

A job's own parameters can order how it ends, under the key ``sandbox`` of JobParams (``JobOrders``).
"""

import asyncio
import base64
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from consumer.job_state import ENDED, JobState
from consumer.sandbox import results
from consumer.sandbox.account import Clock
from consumer.sandbox.faults import Faults, Kind
from consumer.sandbox.mns_xml import escaped
from consumer.sandbox.settings import SandboxSettings

MOST_QUEUED: Final = 10_000
"""Jobs that wait in one pipeline at most. Source: facts/iproduction.md#job-limits."""

_MOST_KEPT: Final = 100_000
_QUEUING_SHARE: Final = 0.2
_TOPIC: Final = "mps-events"
_SUBSCRIPTION: Final = "to-queue"


class JobFailure(BaseModel):
    """Code and message that a job fails with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str = "InternalError"
    message: str = "Failed as ordered."


class JobOrders(BaseModel):
    """What ``JobParams`` may order of the sandbox, as ``{"sandbox": {...}}``.

    Attributes:
        fail: End as Fail.
        job_s: Seconds from submission to end, in place of the sandbox's.
        result: The whole ``Result``: text unchanged, anything else as JSON.
        stuck: Stay Analysing.
        notify: Send no notification (``lost``), or two (``twice``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fail: JobFailure | None = None
    job_s: Annotated[float | None, Field(ge=0, le=86_400)] = None
    result: Any = None
    stuck: bool = False
    notify: Literal["once", "lost", "twice"] = "once"


class GivenJob(BaseModel):
    """A job that is added in its final form, without being run.

    Attributes:
        job_id: Replaces the job that has this id, which then never ends by itself.
        state: ``Queuing`` and ``Analysing`` never change.
        user_data: None is a job that was submitted without it.
        result: The whole ``Result``: text unchanged, anything else as JSON. None takes a sample that fits function
            and state.
        code: Of the notification and of a sample result; "" is ``Success`` or ``InternalError``.
        message: Of a failure.
        notify_queue: A queue that gets the notification, once and at once; None sends none.
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

    def end(self, now_ms: int, failure: JobFailure | None) -> None:
        """Enter the last state, with a sample result."""
        self.ended_ms = now_ms
        if failure is None:
            self.state, self.code, self.message = JobState.SUCCESS, "Success", ""
            files = results.Files(self.input, self.output, now_ms)
            self.result = results.result_of(self.function, files, self.job_id)
        else:
            self.state, self.code, self.message = JobState.FAIL, failure.code, failure.message
            self.result = results.failure(failure.code, failure.message)


@dataclass(slots=True)
class _Pipeline:
    waiting: deque[Job] = field(default_factory=deque)
    queued: int = 0
    running: int = 0


class Jobs:
    """All jobs of the account, and the pipelines they run in.

    Args:
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
        """Look a job up; None when it was never submitted or ended long ago."""
        return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs.values())

    def is_full(self, pipeline_id: str) -> bool:
        """Whether a pipeline takes no more jobs."""
        pipeline = self._pipelines.get(pipeline_id)
        return pipeline is not None and pipeline.queued >= MOST_QUEUED

    def submit(self, job: Job) -> None:
        """Queue a job in its pipeline."""
        job.submitted_ms = self._clock.now_ms()
        self._keep(job)
        pipeline = self._pipelines.setdefault(job.pipeline_id, _Pipeline())
        pipeline.queued += 1
        self._later(self._length_s(job) * _QUEUING_SHARE, partial(self._wait, pipeline, job))

    def put(self, given: GivenJob) -> Job:
        """Add a job in its final form, and send its notification if it has a queue for it."""
        job = Job(**given.model_dump(exclude={"code", "message", "result"}), submitted_ms=self._clock.now_ms())
        if job.has_ended:
            failure = JobFailure(code=given.code or "InternalError", message=given.message)
            job.end(job.submitted_ms, failure if job.state is JobState.FAIL else None)
            job.code = given.code or job.code
        if given.result is not None:
            job.result = _as_text(given.result)
        self._keep(job)
        if job.notify_queue is not None:
            self._on_end(job)
        return job

    def close(self) -> None:
        """Stop all timers; jobs keep their states."""
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

    def _wait(self, pipeline: _Pipeline, job: Job) -> None:
        pipeline.waiting.append(job)
        self._start_next(pipeline)

    def _start_next(self, pipeline: _Pipeline) -> None:
        while pipeline.waiting and pipeline.running < self._concurrency:
            job = pipeline.waiting.popleft()
            pipeline.queued -= 1
            job.state = JobState.ANALYSING
            # A stuck job takes no slot: a few of them would stop every other one.
            if not (job.orders.stuck or self._is_hit("job_stuck", job)):
                pipeline.running += 1
                self._later(self._length_s(job) * (1 - _QUEUING_SHARE), partial(self._end, pipeline, job))

    def _end(self, pipeline: _Pipeline, job: Job) -> None:
        # A job that was replaced meanwhile sends no notification.
        if self._jobs.get(job.job_id) is job:
            job.end(self._clock.now_ms(), job.orders.fail)
            if job.orders.result is not None:
                job.result = _as_text(job.orders.result)
            for _ in range(self._notifications(job)):
                self._on_end(job)
        pipeline.running -= 1
        self._start_next(pipeline)

    def _notifications(self, job: Job) -> int:
        notify = job.orders.notify
        if job.notify_queue is None or notify == "lost" or self._is_hit("notification_lost", job):
            return 0
        return 2 if notify == "twice" or self._is_hit("notification_twice", job) else 1

    def _is_hit(self, kind: Kind, job: Job) -> bool:
        return self._faults.draw(kind, "SubmitIProductionJob", job.notify_queue) is not None

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(timer)


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else results.compact(result)


def notification(job: Job) -> str:
    """Write the notification of a job as JSON: keys in alphabetical order, no result, no times.

    Source: facts/iproduction.md#notification.
    """
    has_details = results.has_details(job.function)
    success = "success" if has_details else "Successful."
    fields: dict[str, object] = {
        "Code": job.code,
        **({"Details": []} if has_details else {}),
        "FunctionName": job.function,
        "JobId": job.job_id,
        "Message": success if job.state is JobState.SUCCESS else job.message,
        "State": job.state,
        "Type": "IProduction",
        **({} if job.user_data is None else {"UserData": job.user_data}),
    }
    return results.compact(fields)


def message_body(text: str, settings: SandboxSettings, *, message_id: str, now_ms: int) -> str:
    """Encode a notification as the body of its message. A topic's envelope itself is never base64.

    Source: facts/mns.md#base64, facts/iproduction.md#topic-envelopes.
    """
    inner = base64.b64encode(text.encode()).decode() if settings.notification_encoding == "base64" else text
    if settings.envelope in ("none", "simplified"):
        return inner
    # The protocol's checksum of Message as carried, not for security.
    digest = hashlib.md5(inner.encode(), usedforsecurity=False).hexdigest().upper()
    fields = {
        "TopicOwner": settings.account,
        "TopicName": _TOPIC,
        "Subscriber": settings.account,
        "SubscriptionName": _SUBSCRIPTION,
        "MessageId": message_id,
        "Message": inner,
        "MessageMD5": digest,
        "MessageTag": "",
        "PublishTime": str(now_ms),
    }
    if settings.envelope == "json":
        return results.compact(fields)
    elements = "".join(f"    <{name}>{escaped(value)}</{name}>\n" for name, value in fields.items())
    head = '<?xml version="1.0" encoding="utf-8"?>\n<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">\n'
    return f"{head}{elements}</Notification>"
