"""IMS's API (product ICE): submit, query and cancel a job, and the queue that gets the account's events.

Source: facts/iproduction.md#sister-service-ims.
"""

import random
import re
from collections.abc import Mapping
from typing import Any, Final

from consumer.sandbox.access import Grants
from consumer.sandbox.ims_jobs import ImsJob, functions, media_url, shown
from consumer.sandbox.mps_api import orders_of
from consumer.sandbox.pipelines import MOST_QUEUED
from consumer.sandbox.protocol import MnsError, RpcError
from consumer.sandbox.queue import check_queue_name, whole_number
from consumer.sandbox.rpc import Parameters, RpcApi, invalid, json_object, required
from consumer.sandbox.settings import SandboxSettings
from consumer.sandbox.tenants import EventCallback, Tenant, Tenants

_MEDIA: Final = re.compile(r"(oss|https?)://[^/]+/.+")
_CALLBACK_QUEUE: Final = "ice-callback-"
_LONGEST_NAME: Final = 100
_LONGEST_USER_DATA: Final = 256


class ImsApi(RpcApi):
    """The service IMS."""

    version = "2020-11-09"
    prefix = "ice:"
    throttling = ("RequestsTooFrequent", 403)
    status_codes = {403: "RequestsTooFrequent", 429: "RequestsTooFrequent"}  # noqa: RUF012 - never changed

    def __init__(self, tenants: Tenants, grants: Grants, settings: SandboxSettings, *, chance: random.Random) -> None:
        operations = {
            "SubmitIProductionJob": self._submit,
            "QueryIProductionJob": _query,
            "CancelIProductionJob": _cancel,
            "SetEventCallback": _set_event_callback,
            "GetEventCallback": _get_event_callback,
        }
        host_id = f"ice.{settings.region}.aliyuncs.com"
        super().__init__(tenants, grants, settings, host_id=host_id, operations=operations)
        self._chance = chance

    def loses_answer(self, tenant: Tenant, operation: str, body: Mapping[str, Any]) -> bool:
        """Drawn for each job that was submitted."""
        return operation == ImsJob.operation and tenant.ims_jobs.loses_answer(body["JobId"])

    def _submit(self, tenant: Tenant, parameters: Parameters) -> Mapping[str, Any]:
        job = submitted_job(tenant, parameters, f"{self._chance.getrandbits(128):032x}")
        tenant.ims_jobs.submit(job)
        return {"JobId": job.job_id}


def submitted_job(tenant: Tenant, parameters: Parameters, job_id: str) -> ImsJob:
    """Make the job of a submit. Every check of a submit is here: RpcError for what is refused."""
    function = required(parameters, "FunctionName")
    if function not in functions():
        text = f"FunctionName '{function[:128]}' is not supported; supported are {', '.join(sorted(functions()))}."
        raise RpcError("InvalidParameter.FunctionNotSupported", text)
    source, target = _media(parameters, "Input"), _media(parameters, "Output")
    schedule = _schedule(parameters)
    pipeline_id = str(schedule.get("PipelineId", ""))
    job = ImsJob(
        job_id=job_id,
        function=function,
        params=parameters.get("JobParams", ""),
        input=media_url(source),
        output=media_url(target),
        pipeline_id=pipeline_id,
        user_data=_text(parameters, "UserData", _LONGEST_USER_DATA) or None,
        orders=orders_of(json_object(parameters, "JobParams")),
        name=_text(parameters, "Name", _LONGEST_NAME),
        template_id=parameters.get("TemplateId", ""),
        model_id=parameters.get("ModelId", ""),
        source=source,
        target=target,
        schedule=schedule,
    )
    if tenant.ims_jobs.pipeline(pipeline_id).is_full:
        raise RpcError("Throttling", f"The pipeline holds {MOST_QUEUED} jobs already.")
    return job


def _query(tenant: Tenant, parameters: Parameters) -> Mapping[str, Any]:
    return shown(_job(tenant, parameters), tenant.region)


def _cancel(tenant: Tenant, parameters: Parameters) -> Mapping[str, Any]:
    # What becomes of a cancelled job is unknown: of the four states that are known, only Fail fits.
    tenant.ims_jobs.cancel(_job(tenant, parameters).job_id)
    return {"Message": "success"}


def _job(tenant: Tenant, parameters: Parameters) -> ImsJob:
    job_id = required(parameters, "JobId")
    job = tenant.ims_jobs.get(job_id)
    if job is None:
        raise RpcError("InvalidParameter.JobNotFound", f"The job '{job_id[:128]}' does not exist.")
    return job


def _set_event_callback(tenant: Tenant, parameters: Parameters) -> Mapping[str, Any]:
    kind = required(parameters, "CallbackType")
    if kind != "MNS":
        raise invalid("CallbackType", "MNS (the sandbox calls no HTTP address)", kind)
    queue = required(parameters, "CallbackQueueName")
    try:
        check_queue_name(queue)
    except MnsError as error:
        raise invalid("CallbackQueueName", "the name of a queue", queue) from error
    if not queue.startswith(_CALLBACK_QUEUE):
        raise invalid("CallbackQueueName", f"a name that starts with {_CALLBACK_QUEUE}", queue)
    tenant.callback = EventCallback(queue, parameters.get("EventTypeList", ""))
    return {"Success": True}


def _get_event_callback(tenant: Tenant, _parameters: Parameters) -> Mapping[str, Any]:
    callback = tenant.callback
    if callback is None:
        return {}
    return {"CallbackType": "MNS", "CallbackQueueName": callback.queue, "EventTypeList": callback.event_types}


def _media(parameters: Parameters, name: str) -> dict[str, Any]:
    required(parameters, name)
    described = json_object(parameters, name)
    expected = '{"Type": "OSS" or "Media", "Media": an oss:// or https:// URL, or the id of a media asset}'
    media = described.get("Media")
    is_url = isinstance(media, str) and _MEDIA.fullmatch(media) is not None
    if not media or described.get("Type") not in ("OSS", "Media") or (described["Type"] == "OSS" and not is_url):
        raise invalid(name, expected, parameters[name])
    return described


def _schedule(parameters: Parameters) -> dict[str, Any]:
    schedule = json_object(parameters, "ScheduleConfig")
    if "Priority" in schedule:
        try:
            whole_number("Priority", str(schedule["Priority"]), 1, 10)
        except MnsError as error:
            raise invalid("Priority", "1 to 10", str(schedule["Priority"])) from error
    return schedule


def _text(parameters: Parameters, name: str, longest: int) -> str:
    value = parameters.get(name, "")
    if len(value) > longest:
        raise invalid(name, f"at most {longest} characters", value)
    return value
