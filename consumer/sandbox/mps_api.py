"""Carry out MPS's RPC calls: SubmitIProductionJob and QueryIProductionJob.

Elsewhere: the life of a job (``jobs``), signatures (``mps_signature``), faults on whole requests
(``server``).
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import uuid4

from pydantic import ValidationError

from consumer.job_state import JobState
from consumer.sandbox.answer import Answer
from consumer.sandbox.attributes import check_queue_name
from consumer.sandbox.grants import Grants
from consumer.sandbox.jobs import MOST_QUEUED, Job, JobOrders, Jobs
from consumer.sandbox.mps_answer import written
from consumer.sandbox.mps_signature import MpsVerifier
from consumer.sandbox.operations import JOB_OPERATIONS, UNKNOWN
from consumer.sandbox.refusal import MnsError, MpsError
from consumer.sandbox.service import Call, Caller
from consumer.sandbox.signature import Sent

_VERSION: Final = "2014-06-18"
_FORM: Final = "application/x-www-form-urlencoded"
# As facts/iproduction.md#submit-a-job and facts/mns.md#endpoints have it.
_NOTIFY_URL: Final = re.compile(
    r"mns://[A-Za-z0-9]+\.mns\.[a-z0-9-]+?(-internal(-vpc)?)?\.aliyuncs\.com/queues/([^/?#]+)", re.ASCII
)
_MEDIA: Final = re.compile(r"(oss|https?)://[^/]+/.+")
# The limit of this call is not documented; that of its siblings is 1 KB. 64 KB is what a message can carry.
_LONGEST_USER_DATA_BYTES: Final = 32_768


class MpsApi:
    """MPS's side of the port.

    Args:
        jobs: Where jobs run.
        verifier: None takes every request.
        grants: Which calls may be made.
        plain_denials: Refuse the others with 400 and without AccessDeniedDetail.
        calls_per_s: Of one operation, before Throttling.User; 0 is no limit.
        host_id: HostId of refusals.
        new_job_id: Makes 32 hex digits.
    """

    headers: Mapping[str, str] = MappingProxyType({"x-acs-request-id": ""})
    server = "sandbox"

    def __init__(
        self,
        jobs: Jobs,
        verifier: MpsVerifier | None,
        grants: Grants,
        *,
        plain_denials: bool,
        calls_per_s: int,
        host_id: str,
        new_job_id: Callable[[], str],
    ) -> None:
        self._jobs = jobs
        self._verifier = verifier
        self._grants = grants
        self._plain_denials = plain_denials
        self._host_id = host_id
        self._new_job_id = new_job_id
        self._windows = {name: _Window(calls_per_s) for name in JOB_OPERATIONS}

    @staticmethod
    def is_for_mps(sent: Sent) -> bool:
        """Tell MPS's requests from MNS's: they go to the root, with an action in a header or parameter."""
        path, _, query = sent.target.partition("?")
        return path in ("", "/") and (
            "x-acs-action" in sent.headers
            or "Action=" in query
            or sent.headers.get("content-type", "").startswith(_FORM)
        )

    @staticmethod
    def understood(sent: Sent) -> Call:
        """Tell which operation a request is; checks nothing yet."""
        _, _, query = sent.target.partition("?")
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        if sent.headers.get("content-type", "").startswith(_FORM):
            parameters |= dict(parse_qsl(sent.body.decode(errors="replace"), keep_blank_values=True))
        action = _action(sent, parameters)
        return Call(action if action in JOB_OPERATIONS else UNKNOWN, None, parameters, sent)

    @staticmethod
    def new_request_id(now_ms: int) -> str:
        """Make a RequestId as the RPC gateway does."""
        del now_ms
        return str(uuid4()).upper()

    async def answered(self, call: Call, caller: Caller) -> Answer:
        """Check and carry out a call; a refusal is an answer too."""
        try:
            if self._verifier is not None:
                self._verifier.verify(call.sent, call.parameters, time.time())
            return self._carried_out(call, caller.request_id)
        except MpsError as refusal:
            return self._refused(caller.request_id, call.parameters, refusal)

    def refused(self, request_id: str, sent: Sent, status: int, code: str | None, message: str) -> Answer:
        """Write a refusal of a request; a code of None is one that fits the status."""
        fitting = {400: "Throttling.User", 403: "Forbidden", 429: "Throttling.User"}
        error = MpsError(code or fitting.get(status, "InternalError"), message, status=status)
        return self._refused(request_id, self.understood(sent).parameters, error)

    def _refused(self, request_id: str, parameters: Mapping[str, str], refusal: MpsError) -> Answer:
        body: dict[str, Any] = {
            "RequestId": request_id,
            "HostId": self._host_id,
            "Code": refusal.code,
            "Message": refusal.message,
        }
        if refusal.detail is not None:
            body["AccessDeniedDetail"] = refusal.detail
        return written(body, refusal.status, root="Error", parameters=parameters)

    def _carried_out(self, call: Call, request_id: str) -> Answer:
        version = call.sent.headers.get("x-acs-version") or call.parameters.get("Version", "")
        if call.operation == UNKNOWN or version != _VERSION:
            raise MpsError(
                "InvalidAction.NotFound",
                f"Expected {' or '.join(JOB_OPERATIONS)} of {_VERSION},"
                f" not '{_action(call.sent, call.parameters)[:64]}' of '{version[:32]}'.",
                status=404,
            )
        self._check_grant(call.operation)
        if not self._windows[call.operation].is_open():
            raise MpsError("Throttling.User", "Request was denied due to user flow control.")
        act = self._submit if call.operation == "SubmitIProductionJob" else self._query
        return written(
            act(call.parameters, request_id), 200, root=f"{call.operation}Response", parameters=call.parameters
        )

    def _check_grant(self, operation: str) -> None:
        denial = self._grants.denial(operation)
        if denial is None:
            return
        text = "User not authorized to operate on the specified resource."
        if self._plain_denials:
            raise MpsError("Forbidden.RAM", text)
        detail = {
            "AuthAction": denial.action,
            "AuthPrincipalType": "SubUser",
            "NoPermissionType": "ExplicitDeny" if denial.is_explicit else "ImplicitDeny",
            "PolicyType": "AccountLevelIdentityBasedPolicy",
        }
        raise MpsError("Forbidden.RAM", text, status=403, detail=detail)

    def _submit(self, parameters: Mapping[str, str], request_id: str) -> dict[str, str]:
        function = _required(parameters, "FunctionName")
        params = _required(parameters, "JobParams")
        pipeline_id = parameters.get("PipelineId", "")
        job = Job(
            job_id=self._new_job_id(),
            function=function,
            params=params,
            input=_media(parameters, "Input"),
            output=_media(parameters, "Output"),
            pipeline_id=pipeline_id,
            user_data=_user_data(parameters),
            notify_queue=_notify_queue(parameters),
            orders=_orders(params),
        )
        if self._jobs.is_full(pipeline_id):
            # The limit is documented, its code is not.
            raise MpsError("Throttling", f"The pipeline holds {MOST_QUEUED} jobs already.")
        self._jobs.submit(job)
        # As printed: a submitted job already says Success here (samples/submit-response.json).
        result = {
            "Code": "Success",
            "Details": [],
            "FunctionName": function,
            "JobId": job.job_id,
            "Message": "success",
            "State": JobState.SUCCESS,
            "Type": "IProduction",
        }
        return {"RequestId": request_id, "JobId": job.job_id, "Result": json.dumps(result, separators=(",", ":"))}

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
            "Result": job.result,
        }


class _Window:
    """At most ``limit`` calls in any second."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._now = time.monotonic
        self._calls: deque[float] = deque()

    def is_open(self) -> bool:
        """Count a call in, unless there were too many."""
        if not self._limit:
            return True
        now_s = self._now()
        while self._calls and now_s - self._calls[0] >= 1:
            self._calls.popleft()
        if len(self._calls) >= self._limit:
            return False
        self._calls.append(now_s)
        return True


def _action(sent: Sent, parameters: Mapping[str, str]) -> str:
    return sent.headers.get("x-acs-action") or parameters.get("Action", "")


def _required(parameters: Mapping[str, str], name: str) -> str:
    value = parameters.get(name, "")
    if not value:
        raise MpsError(f"Missing{name}", f"{name} is mandatory for this action.")
    return value


def _invalid(name: str, expected: str, came: str) -> MpsError:
    return MpsError("InvalidParameter", f"{name} must be {expected}, not '{came[:128]}'.")


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
    expected = "mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME"
    if match is None:
        raise _invalid("NotifyUrl", expected, value)
    name = match.group(3)
    try:
        check_queue_name(name)
    except MnsError as refusal:
        raise _invalid("NotifyUrl", expected, value) from refusal
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
