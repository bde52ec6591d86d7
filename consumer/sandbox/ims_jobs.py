"""Jobs of IMS: what differs from those of MPS, their bare results, and the events that report their ends.

Source: facts/iproduction.md#sister-service-ims, facts/iproduction.md#ims-events.
"""

import functools
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pydantic import Field

from consumer.functions.catalogue import documented, find
from consumer.job_state import JobState
from consumer.sandbox.jobs import SandboxJob, compact, object_keys

_HOUR_S: Final = 3600


@functools.cache
def functions() -> frozenset[str]:
    """The 14 functions that IMS has."""
    return frozenset(function.name for function in documented() if function.is_in_ims) | {"MusicDemix"}


class ImsJob(SandboxJob):
    """One job of IMS; ``input`` and ``output`` are the URLs in ``source`` and ``target``.

    Attributes:
        name: "" where none was given, as ``template_id`` and ``model_id``.
        source: Input as it was submitted: Type and Media.
        target: Output as it was submitted: Type, Media, Biz, OutputUrl.
        schedule: ScheduleConfig as it was submitted.
    """

    operation = "ice:SubmitIProductionJob"

    name: str = ""
    template_id: str = ""
    model_id: str = ""
    source: dict[str, Any] = Field(default_factory=dict)
    target: dict[str, Any] = Field(default_factory=dict)
    schedule: dict[str, Any] = Field(default_factory=dict)

    def result_at_end(self) -> str:
        """Bare JSON, often ``{}``."""
        return "{}" if self.state is JobState.FAIL else compact(_bare_result(self))

    def files(self) -> list[str]:
        """The keys of the files that an ended job wrote."""
        function = find(self.function)
        if self.state is not JobState.SUCCESS or (function is not None and function.output is None):
            return []
        sample = None if function is None else function.sample
        return object_keys(self, max(1, sample.files) if sample else 1, sample.ending if sample else "wav")


def _bare_result(job: ImsJob) -> Any:
    function = find(job.function)
    chance = random.Random(job.job_id)  # noqa: S311 - figures of a sample
    return {} if function is None else function.sample.ims(job.files(), chance)


def shown(job: ImsJob, region: str) -> dict[str, Any]:
    """A job as QueryIProductionJob answers it."""
    keys = job.files()
    is_media = job.target.get("Type") == "Media"
    return {
        "JobId": job.job_id,
        "Name": job.name,
        "FunctionName": job.function,
        "Status": job.state,
        "Input": job.source,
        "Output": job.target,
        "JobParams": job.params,
        "TemplateId": job.template_id,
        "ScheduleConfig": job.schedule,
        "UserData": job.user_data or "",
        "CreateTime": _time(job.submitted_ms),
        "FinishTime": _time(job.ended_ms) if job.has_ended else "",
        "OutputFiles": [f"oss://{_bucket(job.output)}/{key}" for key in keys],
        "OutputUrls": [_signed(job, key, region) for key in keys],
        "OutputMediaIds": [job.target.get("Media", "")] if is_media and keys else [],
        "Result": job.result_text,
    }


def event(job: ImsJob, account: str, event_type: str) -> str:
    """Write the event that reports a job's end."""
    body: dict[str, object] = {"Status": job.state, "JobId": job.job_id}
    if job.user_data is not None:
        body["UserData"] = job.user_data
    if job.state is JobState.FAIL:
        body |= {"ErrorCode": job.code, "ErrorMessage": job.message}
    fields = {"EventType": event_type, "UserId": account, "EventTime": _time(job.ended_ms), "MessageBody": body}
    return compact(fields)


def media_url(described: Mapping[str, Any]) -> str:
    """The URL of Input or Output: Media, or OutputUrl where Media is the id of an asset; "" where there is none."""
    return str(described.get("Media" if described.get("Type") == "OSS" else "OutputUrl", ""))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bucket(output: str) -> str:
    return urlsplit(output).netloc.partition(".")[0] or "sandbox"


def _signed(job: ImsJob, key: str, region: str) -> str:
    # A signature of the form that OSS has: nothing can be fetched from it.
    query = f"Expires={job.ended_ms // 1000 + _HOUR_S}&OSSAccessKeyId=sandbox&Signature=sandbox"
    return f"https://{_bucket(job.output)}.oss-{region}.aliyuncs.com/{quote(key)}?{query}"
