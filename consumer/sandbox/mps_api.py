"""MPS's API: SubmitIProductionJob and QueryIProductionJob."""

import json
import random
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from consumer.functions.finding import refused
from consumer.functions.request import Destination, JobRequest
from consumer.job_state import JobState
from consumer.sandbox.access import Grants
from consumer.sandbox.jobs import JobFailure, JobOrders, SandboxJob, compact
from consumer.sandbox.pipelines import MOST_QUEUED
from consumer.sandbox.protocol import MnsError, RpcError
from consumer.sandbox.queue import check_queue_name
from consumer.sandbox.rpc import Parameters, RpcApi, invalid, json_object, required
from consumer.sandbox.settings import SandboxSettings
from consumer.sandbox.tenants import Tenant, Tenants

# As facts/iproduction.md#submit-a-job and facts/mns.md#endpoints have it.
_NOTIFY_URL: Final = re.compile(
    r"mns://([A-Za-z0-9]+)\.mns\.([a-z0-9-]+?)(?:-internal(?:-vpc)?)?\.aliyuncs\.com/queues/([^/?#]+)", re.ASCII
)
_MEDIA: Final = re.compile(r"(oss|https?)://[^/]+/.+")
# The limit of this call is unknown; that of its siblings is 1 KB. Source: facts/iproduction.md#userdata.
_LONGEST_USER_DATA_BYTES: Final = 32_768


class MpsApi(RpcApi):
    """The service MPS."""

    version = "2014-06-18"
    throttling = ("Throttling.User", 400)
    status_codes = {400: "Throttling.User", 403: "Forbidden", 429: "Throttling.User"}  # noqa: RUF012 - never changed

    def __init__(self, tenants: Tenants, grants: Grants, settings: SandboxSettings, *, chance: random.Random) -> None:
        operations = {"SubmitIProductionJob": self._submit, "QueryIProductionJob": self._query}
        host_id = f"mts.{settings.region}.aliyuncs.com"
        super().__init__(tenants, grants, settings, host_id=host_id, operations=operations)
        self._chance = chance
        self._is_lenient = settings.lenient

    def loses_answer(self, tenant: Tenant, operation: str, body: Mapping[str, Any]) -> bool:
        """Drawn for each job that was submitted."""
        return operation == "SubmitIProductionJob" and tenant.jobs.loses_answer(body["JobId"])

    def _submit(self, tenant: Tenant, parameters: Parameters) -> Mapping[str, Any]:
        job = submitted_job(tenant, parameters, f"{self._chance.getrandbits(128):032x}")
        if not self._is_lenient:
            check_request(tenant, parameters)
        tenant.jobs.submit(job)
        # As the documented sample: a submitted job already says Success here.
        result = {
            "Code": "Success",
            "Details": [],
            "FunctionName": job.function,
            "JobId": job.job_id,
            "Message": "success",
            "State": JobState.SUCCESS,
            "Type": "IProduction",
        }
        return {"JobId": job.job_id, "Result": compact(result)}

    def _query(self, tenant: Tenant, parameters: Parameters) -> Mapping[str, Any]:
        job_id = required(parameters, "JobId")
        job = tenant.jobs.get(job_id)
        if job is None:
            return {"JobId": job_id}
        return {
            "FunctionName": job.function,
            "Input": job.input,
            "UserData": job.user_data or "",
            "State": job.state,
            "Output": job.output,
            "PipelineId": job.pipeline_id,
            "JobParams": job.params,
            "JobId": job.job_id,
            "Result": job.result_text,
        }


def submitted_job(tenant: Tenant, parameters: Parameters, job_id: str) -> SandboxJob:
    """Make the job of a submit. Every check of a submit is here: RpcError for what is refused."""
    function = required(parameters, "FunctionName")
    params = required(parameters, "JobParams")
    pipeline = tenant.jobs.pipeline(parameters.get("PipelineId", ""))
    account, region, queue = _notify_url(parameters)
    job = SandboxJob(
        job_id=job_id,
        function=function,
        params=params,
        input=_media(parameters, "Input"),
        output=_media(parameters, "Output"),
        pipeline_id=parameters.get("PipelineId", ""),
        user_data=_user_data(parameters),
        notify_queue=queue or pipeline.settings.notify_queue,
        notify_account=account,
        notify_region=region,
        orders=orders_of(json_object(parameters, "JobParams")),
    )
    if pipeline.is_full:
        # The limit is documented, its code is not.
        raise RpcError("Throttling", f"The pipeline holds {MOST_QUEUED} jobs already.")
    return job


def check_request(tenant: Tenant, parameters: Parameters) -> None:
    """Refuse what is known to be wrong; what only an inferred rule refuses is taken.

    The real service may take it and fail the job later; here the mistake is found at once.
    """
    request = JobRequest.of_parameters(parameters)
    wrong = refused(request.findings(Destination(region=tenant.region, is_sandbox=True)), force=True)
    if wrong:
        problems = "; ".join(f"{one.field} must be {one.expected}, not {one.came}" for one in wrong)
        raise RpcError("InvalidParameter", f"{problems}.")


def orders_of(params: Mapping[str, Any]) -> JobOrders:
    """What a submit's JobParams order of the sandbox."""
    try:
        return JobOrders.model_validate(params.get("sandbox", {}))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise RpcError("InvalidParameter", f"{'; '.join(map(_order_problem, problems))}.") from error


def _order_problem(problem: ErrorDetails) -> str:
    """One wrong order in a line: what came, and what would be right."""
    path = [str(part) for part in problem["loc"]]
    name = ".".join(("JobParams.sandbox", *path))[:128]
    came = json.dumps(problem["input"], ensure_ascii=False)[:128]
    if problem["type"] != "extra_forbidden":
        return f"{name} must be right ({problem['msg']}), not {came}"
    known = JobOrders if len(path) == 1 else JobFailure
    what = "order" if known is JobOrders else "key of the order fail"
    return f"{name}: unknown {what} {path[-1][:64]!r}; known: {', '.join(known.model_fields)}"


def _media(parameters: Parameters, name: str) -> str:
    value = parameters.get(name, "")
    if value and not _MEDIA.fullmatch(value):
        raise invalid(name, "oss://BUCKET.oss-REGION.aliyuncs.com/KEY", value)
    return value


def _user_data(parameters: Parameters) -> str | None:
    value = parameters.get("UserData")
    if value is not None and len(value.encode()) > _LONGEST_USER_DATA_BYTES:
        raise invalid("UserData", f"at most {_LONGEST_USER_DATA_BYTES} bytes", value)
    return value or None


def _notify_url(parameters: Parameters) -> tuple[str, str, str]:
    """Account, region and name of the queue to notify; three times "" without one."""
    value = parameters.get("NotifyUrl", "")
    if not value:
        return "", "", ""
    match = _NOTIFY_URL.fullmatch(value)
    account, region, name = match.groups() if match else ("", "", "")
    try:
        check_queue_name(name)
    except MnsError as error:
        raise invalid("NotifyUrl", "mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME", value) from error
    return account, region, name
