"""Jobs: Queuing, Analysing, then Success or Fail, a result, and a notification.

A job's own parameters can order how it ends, under the key ``sandbox`` of JobParams (``JobOrders``).
"""

import asyncio
import base64
import hashlib
import json
import posixpath
import random
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from consumer.functions.catalogue import Family, find
from consumer.job_state import ENDED, JobState
from consumer.sandbox.account import Clock
from consumer.sandbox.faults import Faults, Kind
from consumer.sandbox.pipelines import Pipeline, PipelineSettings
from consumer.sandbox.protocol import RpcError, escaped
from consumer.sandbox.settings import SandboxSettings

_MOST_KEPT: Final = 100_000
_QUEUING_SHARE: Final = 0.2
_TOPIC: Final = "mps-events"
_SUBSCRIPTION: Final = "to-queue"


class JobFailure(BaseModel):
    """Code and message that a job fails with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str = "InternalError"
    message: str = "Failed as ordered."


_CANCELLED: Final = JobFailure(code="Cancelled", message="The job was cancelled.")


class JobOrders(BaseModel):
    """What ``JobParams`` may order of the sandbox, as ``{"sandbox": {...}}``.

    Attributes:
        fail: End as Fail, with this ``code`` and ``message``; ``{}`` has defaults for both.
        job_s: Seconds from submission to end, in place of the sandbox's.
        result: The whole ``Result``: text unchanged, anything else as JSON.
        stuck: ``true``: stay Analysing.
        notify: How often to send the notification: ``once``, ``lost`` (never) or ``twice``.
        answer: ``lost``: run the job, and close the connection of its submit without an answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fail: JobFailure | None = None
    job_s: Annotated[float | None, Field(ge=0, le=86_400)] = None
    result: Any = None
    stuck: bool = False
    notify: Literal["once", "lost", "twice"] = "once"
    answer: Literal["once", "lost"] = "once"


class SandboxJob(BaseModel):
    """One job: submitted and run, or added in its final form.

    Attributes:
        user_data: None is a job that was submitted without it.
        notify_queue: The queue that gets the notification; None sends none.
        notify_account: The account of that queue; an account and region that no key names stand for the job's own.
        notify_region: The region of that queue.
        state: ``Queuing`` and ``Analysing`` never change in a job that was added.
        code: Of the notification and of a sample result; "" becomes ``Success`` or ``InternalError``.
        message: Of a failure.
        result: The whole ``Result``: text unchanged, anything else as JSON. None becomes a sample that fits function
            and state when the job ends.
        submitted_ms: Milliseconds since 1970, as ``ended_ms``.
    """

    model_config = ConfigDict(extra="forbid")

    operation: ClassVar[str] = "SubmitIProductionJob"
    """The operation that submits such a job, as faults name it."""

    job_id: Annotated[str, Field(min_length=1)]
    function: Annotated[str, Field(min_length=1)] = "Cover"
    params: str = "{}"
    input: str = ""
    output: str = ""
    pipeline_id: str = ""
    user_data: str | None = None
    notify_queue: str | None = None
    notify_account: str = ""
    notify_region: str = ""
    orders: JobOrders = JobOrders()
    state: JobState = JobState.SUCCESS
    code: str = ""
    message: str = "Failed as ordered."
    result: Any = None
    submitted_ms: int = 0
    ended_ms: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether it is in one of its two last states."""
        return self.state in ENDED

    @property
    def result_text(self) -> str:
        """``Result`` as a query answers it."""
        if self.result is None:
            return ""
        return self.result if isinstance(self.result, str) else compact(self.result)

    def end(self, now_ms: int) -> None:
        """Fill in what an ended job has."""
        self.ended_ms = now_ms
        has_failed = self.state is JobState.FAIL
        self.code = self.code or ("InternalError" if has_failed else "Success")
        if self.result is None:
            self.result = self.result_at_end()

    def result_at_end(self) -> str:
        """The ``Result`` of a job that has ended, where no other was ordered."""
        if self.state is JobState.FAIL:
            # No sample of a failed result exists: this is the least that any result has.
            return compact({"Code": self.code, "Details": [], "Message": self.message})
        return sample_result(self)


AnyJob = TypeVar("AnyJob", bound=SandboxJob)


class Jobs(Generic[AnyJob]):
    """All jobs of one service for one account in one region, and the pipelines they run in.

    Args:
        on_end: Called with an ended job, once for each notification that is due.
        event_queue: The queue that all jobs notify when they end; without it each names its own.

    Attributes:
        pipelines: By id; "" is the default one.
    """

    def __init__(
        self,
        clock: Clock,
        faults: Faults,
        settings: SandboxSettings,
        *,
        on_end: Callable[[AnyJob], None],
        event_queue: Callable[[], str | None] | None = None,
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._job_s = settings.job_s
        self._new_pipeline = PipelineSettings(concurrency=settings.pipeline_concurrency)
        self._is_strict = settings.pipelines is not None
        self._on_end = on_end
        self._event_queue = event_queue
        self._jobs: dict[str, AnyJob] = {}
        self.pipelines = {
            name: Pipeline(one) for name, one in {"": self._new_pipeline, **(settings.pipelines or {})}.items()
        }
        self._running: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> AnyJob | None:
        """Look a job up; None when it was never submitted or ended long ago."""
        return self._jobs.get(job_id)

    def all(self) -> list[AnyJob]:
        """All jobs, oldest first."""
        return list(self._jobs.values())

    def pipeline(self, pipeline_id: str) -> Pipeline:
        """Look a pipeline up. An unknown one is InvalidParameter where pipelines are named, else made."""
        pipeline = self.pipelines.get(pipeline_id)
        if pipeline is None:
            if self._is_strict:
                # That it is refused is known, its code is not.
                raise RpcError("InvalidParameter", f"PipelineId '{pipeline_id[:128]}' does not exist.")
            pipeline = self.change_pipeline(pipeline_id, self._new_pipeline)
        return pipeline

    def change_pipeline(self, pipeline_id: str, changes: PipelineSettings) -> Pipeline:
        """Change what ``changes`` sets of a pipeline, and nothing else; make the pipeline where it is missing."""
        pipeline = self.pipelines.setdefault(pipeline_id, Pipeline(self._new_pipeline))
        pipeline.change(pipeline.settings.model_copy(update=changes.model_dump(exclude_unset=True)))
        return pipeline

    def submit(self, job: AnyJob) -> None:
        """Queue a job in its pipeline; it runs and ends by itself."""
        job.state = JobState.QUEUING
        job.submitted_ms = self._clock.now_ms()
        self._keep(job)
        pipeline = self.pipeline(job.pipeline_id)
        pipeline.queued += 1
        task = asyncio.create_task(self._run(pipeline, job, self._faults.draw_lot()))
        self._running[job.job_id] = task
        task.add_done_callback(lambda _: self._running.pop(job.job_id, None))

    def loses_answer(self, job_id: str) -> bool:
        """Draw whether the answer of a job's submit is lost, by its order or by a fault."""
        job = self._jobs[job_id]
        return job.orders.answer == "lost" or self._is_hit("submit_answer_lost", job)

    def add(self, job: AnyJob) -> None:
        """Add a job in its final form; it replaces one that has its id, which then never ends."""
        job.submitted_ms = self._clock.now_ms()
        if job.has_ended:
            job.end(job.submitted_ms)
        self._keep(job)
        if job.notify_queue is not None:
            self._on_end(job)

    def cancel(self, job_id: str) -> None:
        """Let a job end as Fail now; one that has ended stays as it is."""
        job = self._jobs[job_id]
        task = self._running.pop(job_id, None)
        if task is None or job.has_ended:
            return
        task.cancel()
        if job.state is JobState.QUEUING:
            self.pipelines[job.pipeline_id].queued -= 1
        job.orders = JobOrders(fail=_CANCELLED)
        self._end(job, lot=1.0)

    def close(self) -> None:
        """Stop all jobs; they keep their states."""
        for task in list(self._running.values()):
            task.cancel()

    def _keep(self, job: AnyJob) -> None:
        self._jobs[job.job_id] = job
        while len(self._jobs) > _MOST_KEPT:
            oldest = next(iter(self._jobs.values()))
            if not oldest.has_ended:
                break
            del self._jobs[oldest.job_id]

    async def _run(self, pipeline: Pipeline, job: AnyJob, lot: float) -> None:
        length_s = self._job_s if job.orders.job_s is None else job.orders.job_s
        await asyncio.sleep(length_s * _QUEUING_SHARE)
        async with pipeline.slot():
            pipeline.queued -= 1
            job.state = JobState.ANALYSING
            # A stuck job gives its slot back: a few of them would stop every other one.
            if not (job.orders.stuck or self._is_hit("job_stuck", job)):
                await asyncio.sleep(length_s * (1 - _QUEUING_SHARE))
                self._end(job, lot)

    def _end(self, job: AnyJob, lot: float) -> None:
        if self._jobs.get(job.job_id) is not job:
            # It was replaced meanwhile: no notification.
            return
        fail = job.orders.fail
        job.state = JobState.FAIL if fail else JobState.SUCCESS
        job.code, job.message = (fail.code, fail.message) if fail else ("", "")
        job.result = job.orders.result
        job.end(self._clock.now_ms())
        if self._event_queue is not None:
            job.notify_queue = self._event_queue()
        for _ in range(self._notifications(job, lot)):
            self._on_end(job)

    def _notifications(self, job: AnyJob, lot: float) -> int:
        notify = job.orders.notify
        if job.notify_queue is None or notify == "lost":
            return 0
        if self._faults.loses(lot) or self._is_hit("notification_lost", job):
            return 0
        return 2 if notify == "twice" or self._is_hit("notification_twice", job) else 1

    def _is_hit(self, kind: Kind, job: AnyJob) -> bool:
        return self._faults.draw(kind, job.operation, job.notify_queue) is not None


def object_keys(job: SandboxJob, count: int, ending: str) -> list[str]:
    """The keys, without the bucket, of ``count`` files that an ended job wrote; a key that repeats is one file.

    ``ending`` is used where the job has no Output. Source: facts/iproduction.md#output-placeholders.
    """
    source = posixpath.splitext(posixpath.basename(urlsplit(job.input).path))[0] or "input"
    template = urlsplit(job.output).path.lstrip("/") or f"iproduction/{{source}}-{{timestamp}}-{{sequenceId}}.{ending}"
    # An extension after {resultType} is doubled; the type is a language.
    template = re.sub(r"\{resultType\}(\.\w+)?", r"zh\1\1", template)
    template = template.replace("{source}", source).replace("{timestamp}", str(job.ended_ms))
    return list(dict.fromkeys(template.replace("{sequenceId}", f"{number:05d}") for number in range(1, count + 1)))


def sample_result(job: SandboxJob) -> str:
    """A ``Result`` of a job that succeeded, from the sample of its function; one job always has the same figures.

    Source: facts/iproduction.md#result, facts/iproduction.md#result-families.
    """
    function = find(job.function)
    if function is None or function.family is Family.DETAILS:
        return compact({"Details": [], "Message": "success", "Code": "Success"})
    sample = function.sample
    chance = random.Random(job.job_id)  # noqa: S311 - figures of a sample
    data = compact(sample.data(object_keys(job, sample.files, sample.ending), chance))
    if function.family is Family.ARRAY:
        return compact({"Message": "success", "Data": data, "Code": "Success"})
    return compact({"Code": "Success", "Message": "Successful.", "Data": data})


def compact(value: Any) -> str:
    """Write JSON as the service does: no spaces, Chinese unchanged."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def notification(job: SandboxJob) -> str:
    """Write a notification: keys in alphabetical order, no result, no times (facts/iproduction.md#notification)."""
    # The printed notifications differ by the family of the result (INF).
    function = find(job.function)
    has_details = function is None or function.family is not Family.OBJECT
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
    return compact(fields)


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
        return compact(fields)
    elements = "".join(f"    <{name}>{escaped(value)}</{name}>\n" for name, value in fields.items())
    head = '<?xml version="1.0" encoding="utf-8"?>\n<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">\n'
    return f"{head}{elements}</Notification>"
