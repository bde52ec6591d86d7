"""MPS's RPC API: SubmitIProductionJob and QueryIProductionJob."""

import json
import random
import re
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import uuid4

from pydantic import ValidationError

from consumer.job_state import JobState
from consumer.sandbox.access import Grants, Keys, MpsVerifier
from consumer.sandbox.jobs import MOST_QUEUED, JobOrders, Jobs, SandboxJob, compact
from consumer.sandbox.protocol import (
    JOB_OPERATIONS,
    JSON,
    UNKNOWN,
    XML,
    Call,
    MnsError,
    MpsError,
    Request,
    Response,
    escaped,
)
from consumer.sandbox.queue import check_queue_name
from consumer.sandbox.settings import SandboxSettings

_VERSION: Final = "2014-06-18"
_FORM: Final = "application/x-www-form-urlencoded"
# As facts/iproduction.md#submit-a-job and facts/mns.md#endpoints have it.
_NOTIFY_URL: Final = re.compile(
    r"mns://[A-Za-z0-9]+\.mns\.[a-z0-9-]+?(?:-internal(?:-vpc)?)?\.aliyuncs\.com/queues/([^/?#]+)", re.ASCII
)
_MEDIA: Final = re.compile(r"(oss|https?)://[^/]+/.+")
# The limit of this call is unknown; that of its siblings is 1 KB. Source: facts/iproduction.md#userdata.
_LONGEST_USER_DATA_BYTES: Final = 32_768
_STATUS_CODES: Final = {400: "Throttling.User", 403: "Forbidden", 429: "Throttling.User"}


class MpsApi:
    """The service MPS; without keys no signature is checked."""

    server = "sandbox"

    def __init__(
        self, jobs: Jobs, grants: Grants, settings: SandboxSettings, *, keys: Keys | None, chance: random.Random
    ) -> None:
        self._jobs = jobs
        self._grants = grants
        self._verifier = MpsVerifier(keys) if keys else None
        self._has_plain_denials = settings.plain_denials
        self._host_id = f"mts.{settings.region}.aliyuncs.com"
        self._chance = chance
        self._limits = {name: RateLimit(settings.mps_calls_per_s) for name in JOB_OPERATIONS}

    @staticmethod
    def is_for_mps(request: Request) -> bool:
        """Whether a request is MPS's, not MNS's: it goes to the root, with an action in a header or parameter."""
        if not request.target.startswith("/?") and request.target not in ("", "/"):
            return False
        is_form = request.headers.get("content-type", "").startswith(_FORM)
        return is_form or "x-acs-action" in request.headers or "Action=" in request.query

    def headers(self, request_id: str) -> dict[str, str]:
        """The request id."""
        return {"x-acs-request-id": request_id} if request_id else {}

    def new_request_id(self, _now_ms: int) -> str:
        """Make a RequestId as the RPC gateway does."""
        return str(uuid4()).upper()

    def parse(self, request: Request) -> Call:
        """Find the operation of a request. Checks nothing yet."""
        parameters = dict(parse_qsl(request.query, keep_blank_values=True))
        if request.headers.get("content-type", "").startswith(_FORM):
            parameters |= dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
        action = _action(request, parameters)
        return Call(action if action in JOB_OPERATIONS else UNKNOWN, "", parameters, request)

    async def answer(self, call: Call, request_id: str) -> Response:
        """Check and carry out a call; an error becomes a response too."""
        try:
            if self._verifier is not None:
                self._verifier.verify(call.request, call.parameters, time.time())
            self._check(call)
            carry_out = self._submit if call.operation == "SubmitIProductionJob" else self._query
            body = carry_out(call.parameters, request_id)
            response = _written(body, 200, root=f"{call.operation}Response", parameters=call.parameters)
        except MpsError as error:
            return self._error(request_id, call.parameters, error)
        response.is_lost = call.operation == "SubmitIProductionJob" and self._jobs.loses_answer(body["JobId"])
        return response

    def error(self, request_id: str, request: Request, status: int, code: str | None, message: str) -> Response:
        """Render an error; without a code, the one that fits the status."""
        error = MpsError(code or _STATUS_CODES.get(status, "InternalError"), message, status=status)
        return self._error(request_id, self.parse(request).parameters, error)

    def _error(self, request_id: str, parameters: Mapping[str, str], error: MpsError) -> Response:
        body: dict[str, Any] = {
            "RequestId": request_id,
            "HostId": self._host_id,
            "Code": error.code,
            "Message": error.message,
        }
        if error.detail is not None:
            body["AccessDeniedDetail"] = error.detail
        return _written(body, error.status, root="Error", parameters=parameters)

    def _check(self, call: Call) -> None:
        version = call.request.headers.get("x-acs-version") or call.parameters.get("Version", "")
        if call.operation == UNKNOWN or version != _VERSION:
            action = _action(call.request, call.parameters)[:64]
            text = f"Expected {' or '.join(JOB_OPERATIONS)} of {_VERSION}, not '{action}' of '{version[:32]}'."
            raise MpsError("InvalidAction.NotFound", text, status=404)
        self._check_grant(call.operation)
        if not self._limits[call.operation].admits():
            raise MpsError("Throttling.User", "Request was denied due to user flow control.")

    def _check_grant(self, operation: str) -> None:
        action = self._grants.missing(operation)
        if action is None:
            return
        error = MpsError("Forbidden.RAM", "User not authorized to operate on the specified resource.")
        if not self._has_plain_denials:
            error.status = 403
            error.detail = {
                "AuthAction": action,
                "AuthPrincipalType": "SubUser",
                "NoPermissionType": "ExplicitDeny" if action in self._grants.deny else "ImplicitDeny",
                "PolicyType": "AccountLevelIdentityBasedPolicy",
            }
        raise error

    def _submit(self, parameters: Mapping[str, str], request_id: str) -> dict[str, str]:
        function = _required(parameters, "FunctionName")
        params = _required(parameters, "JobParams")
        job = SandboxJob(
            job_id=f"{self._chance.getrandbits(128):032x}",
            function=function,
            params=params,
            input=_media(parameters, "Input"),
            output=_media(parameters, "Output"),
            pipeline_id=parameters.get("PipelineId", ""),
            user_data=_user_data(parameters),
            notify_queue=_notify_queue(parameters),
            orders=_orders(params),
        )
        if self._jobs.is_full(job.pipeline_id):
            # The limit is documented, its code is not.
            raise MpsError("Throttling", f"The pipeline holds {MOST_QUEUED} jobs already.")
        self._jobs.submit(job)
        # As the documented sample: a submitted job already says Success here.
        result = {
            "Code": "Success",
            "Details": [],
            "FunctionName": function,
            "JobId": job.job_id,
            "Message": "success",
            "State": JobState.SUCCESS,
            "Type": "IProduction",
        }
        return {"RequestId": request_id, "JobId": job.job_id, "Result": compact(result)}

    def _query(self, parameters: Mapping[str, str], request_id: str) -> dict[str, str]:
        job_id = _required(parameters, "JobId")
        job = self._jobs.get(job_id)
        if job is None:
            return {"RequestId": request_id, "JobId": job_id}
        return {
            "FunctionName": job.function,
            "Input": job.input,
            "RequestId": request_id,
            "UserData": job.user_data or "",
            "State": job.state,
            "Output": job.output,
            "PipelineId": job.pipeline_id,
            "JobParams": job.params,
            "JobId": job.job_id,
            "Result": job.result_text,
        }


class RateLimit:
    """At most ``limit`` calls in any second; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._now = time.monotonic
        self._calls: deque[float] = deque(maxlen=limit)

    def admits(self) -> bool:
        """Count a call, unless the limit is reached."""
        now_s = self._now()
        if self._limit and len(self._calls) == self._limit and now_s - self._calls[0] < 1:
            return False
        self._calls.append(now_s)
        return True


def _written(body: Mapping[str, Any], status: int, *, root: str, parameters: Mapping[str, str]) -> Response:
    """Write a response as JSON, or as XML with this root where ``Format=XML`` asks for it."""
    if parameters.get("Format", "").upper() == "XML":
        text = f"<?xml version='1.0' encoding='UTF-8'?><{root}>{_elements(body)}</{root}>"
        return Response(status, text.encode(), XML)
    return Response(status, json.dumps(body, ensure_ascii=False).encode(), JSON)


def _elements(body: Mapping[str, Any]) -> str:
    return "".join(
        f"<{name}>{_elements(value) if isinstance(value, Mapping) else escaped(str(value))}</{name}>"
        for name, value in body.items()
    )


def _action(request: Request, parameters: Mapping[str, str]) -> str:
    return request.headers.get("x-acs-action") or parameters.get("Action", "")


def _required(parameters: Mapping[str, str], name: str) -> str:
    value = parameters.get(name, "")
    if not value:
        raise MpsError(f"Missing{name}", f"{name} is mandatory for this action.")
    return value


def _invalid(name: str, expected: str, value: str) -> MpsError:
    return MpsError("InvalidParameter", f"{name} must be {expected}, not '{value[:128]}'.")


def _media(parameters: Mapping[str, str], name: str) -> str:
    value = parameters.get(name, "")
    if value and not _MEDIA.fullmatch(value):
        raise _invalid(name, "oss://BUCKET.oss-REGION.aliyuncs.com/KEY", value)
    return value


def _user_data(parameters: Mapping[str, str]) -> str | None:
    value = parameters.get("UserData")
    if value is not None and len(value.encode()) > _LONGEST_USER_DATA_BYTES:
        raise _invalid("UserData", f"at most {_LONGEST_USER_DATA_BYTES} bytes", value)
    return value or None


def _notify_queue(parameters: Mapping[str, str]) -> str | None:
    value = parameters.get("NotifyUrl", "")
    if not value:
        return None
    match = _NOTIFY_URL.fullmatch(value)
    try:
        name = match[1] if match else ""
        check_queue_name(name)
    except MnsError as error:
        raise _invalid("NotifyUrl", "mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME", value) from error
    return name


def _orders(params: str) -> JobOrders:
    try:
        decoded = json.loads(params)
        # Deeply nested JSON ends in a RecursionError, which is the sender's fault as well.
    except (ValueError, RecursionError) as error:
        raise _invalid("JobParams", "a JSON object as a string", params) from error
    if not isinstance(decoded, dict):
        raise _invalid("JobParams", "a JSON object as a string", params)
    try:
        return JobOrders.model_validate(decoded.get("sandbox", {}))
    except ValidationError as error:
        raise _invalid("JobParams", f"right under 'sandbox' ({error.errors()[0]['msg']})", params) from error
