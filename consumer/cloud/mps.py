"""Ask MPS for a job's state and result, and submit jobs.

Both calls pass the account's limiter first, go over the lane's pool, and are sent once. What is no JSON
object with a request id is never taken for an answer.

Elsewhere: the pace (``limiter``), the signature (``mps_signature``), what a code asks for (``faults``),
unfolding a result (``message.result``).

Source: facts/iproduction.md#submit-a-job, facts/iproduction.md#query-a-job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.exchange import Exchange, Observe
from consumer.cloud.faults import mps_fault
from consumer.cloud.limiter import RateLimiter
from consumer.cloud.mps_signature import MpsSigner
from consumer.cloud.pool import Answer, Call, Pool
from consumer.cloud.wording import cut, describe
from consumer.errors import CloudError, Fault, SettingsError

_OK, _REDIRECT, _REFUSED, _THROTTLED, _FAILED = 200, 300, 400, 429, 500
_LIMIT_BYTES: Final = 4 * 1024 * 1024
_ACTION: Final = re.compile(r"[A-Za-z0-9-]{1,40}:[A-Za-z0-9]{1,80}")


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What MPS says of a job; ``None`` stands for a field that did not come.

    Args:
        job_id: As it was asked for.
        function: FunctionName.
        state: One of ``JobState``; another text is kept as it came.
        input: The input's URL.
        output: The output's URL template, placeholders unreplaced.
        params: JobParams, JSON text.
        pipeline_id: The MPS queue that it ran in.
        result: JSON text as it came; an object is written as text again.
        user_data: UserData as it was given.
        request_id: MPS's id of this call.
        found: ``False`` when only RequestId and JobId came: no intelligent production job.
    """

    job_id: str
    function: str | None
    state: str | None
    input: str | None
    output: str | None
    params: str | None
    pipeline_id: str | None
    result: str | None
    user_data: str | None
    request_id: str
    found: bool


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that MPS took.

    Args:
        job_id: Its id.
        request_id: MPS's id of this call.
        result: Result as it came; an object is written as text again.
    """

    job_id: str
    request_id: str
    result: str | None


class Mps:
    """MPS in one region, for one account.

    Args:
        endpoint: ``https://mts.REGION.aliyuncs.com``, or ``http://HOST:PORT`` of a local server.
        region: The region's id, for whoever prints this client.
        credentials: Asked before every request; told to forget its keys when the service refuses them.
        pool: The lane's connections.
        limiter: The account's, shared by everything that asks for it.
        observe: Told of every request; must not raise.
        read_margin_s: How long a call may take.

    Raises:
        SettingsError: The endpoint is not of that form.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        region: str,
        credentials: CredentialsSource,
        pool: Pool,
        limiter: RateLimiter,
        observe: Observe | None = None,
        read_margin_s: float = 10.0,
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/") or parts.query:
            raise SettingsError(f"MPS endpoint {endpoint!r}: expected https://HOST or http://HOST:PORT")
        self.region = region
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname or parts.netloc
        self._credentials = credentials
        self._pool = pool
        self._limiter = limiter
        self._observe = observe
        self._deadline_s = read_margin_s
        self._signer = MpsSigner(parts.netloc)

    def __repr__(self) -> str:
        return f"Mps({self._origin}, {self.region})"

    async def warm_up(self) -> None:
        """Load the signer now, off the event loop, so that the first call needn't."""
        await self._signer.load()

    async def query(self, job_id: str) -> JobAnswer:
        """Ask for one job (QueryIProductionJob).

        Raises:
            CloudError: ``Fault.REQUEST``: MPS refuses the id itself.
        """
        found = await self._ask("QueryIProductionJob", {"JobId": job_id})
        function, state = _text(found, "FunctionName"), _text(found, "State")
        return JobAnswer(
            job_id=_text(found, "JobId") or job_id,
            function=function,
            state=state,
            input=_text(found, "Input"),
            output=_text(found, "Output"),
            params=_text(found, "JobParams"),
            pipeline_id=_text(found, "PipelineId"),
            result=_text(found, "Result"),
            user_data=_text(found, "UserData"),
            request_id=str(found["RequestId"]),
            found=bool(function or state),
        )

    async def submit(
        self,
        *,
        function: str,
        params: str,
        input: str | None = None,  # noqa: A002 - the API's own name
        output: str | None = None,
        user_data: str | None = None,
        notify_url: str | None = None,
        pipeline_id: str | None = None,
        model_id: str | None = None,
        schedule_params: str | None = None,
    ) -> Submitted:
        """Submit one job (SubmitIProductionJob); see facts/iproduction.md#submit-a-job for each parameter.

        Raises:
            CloudError: The job may exist all the same, unless ``faults.surely_not_sent``. It is sent once: MPS has no
                ClientToken that would make a second one harmless.
        """
        given = {
            "FunctionName": function,
            "JobParams": params,
            "Input": input,
            "Output": output,
            "UserData": user_data,
            "NotifyUrl": notify_url,
            "PipelineId": pipeline_id,
            "ModelId": model_id,
            "ScheduleParams": schedule_params,
        }
        # The JSON text null stands for a parameter that is not given.
        if schedule_params is not None and schedule_params.strip() == "null":
            given["ScheduleParams"] = None
        query = {name: value for name, value in given.items() if value is not None}
        found = await self._ask("SubmitIProductionJob", query, needed="JobId")
        return Submitted(str(found["JobId"]), str(found["RequestId"]), _text(found, "Result"))

    async def _ask(self, action: str, query: Mapping[str, str], needed: str = "RequestId") -> Mapping[str, Any]:
        await self._limiter.wait()
        async with Exchange(action, self._host, self._credentials, self._observe) as exchange:
            await self._signer.load()
            keys = await self._credentials.keys()
            resource, headers = self._signer.signed(keys, action, query)
            answer = await self._pool.ask(
                Call(
                    operation=action,
                    target=self._host,
                    method="POST",
                    url=self._origin + resource,
                    headers=headers,
                    body=None,
                    deadline_s=self._deadline_s,
                    limit_bytes=_LIMIT_BYTES,
                )
            )
            found = _object(answer)
            if answer.status == _OK and found.get("RequestId") and found.get(needed):
                return found
            error = _refusal(exchange, answer, found, needed)
            if error.fault is Fault.THROTTLED:
                self._limiter.throttled()
            raise error


def _object(answer: Answer) -> Mapping[str, Any]:
    """The answer's JSON object; an empty one for anything else."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(exchange: Exchange, answer: Answer, found: Mapping[str, Any], needed: str) -> CloudError:
    status = answer.status
    code, request_id = cut(_text(found, "Code") or "", 60), cut(_text(found, "RequestId") or "", 60) or None
    # A front end's 5xx and 429 need no more words than that; anything else must carry a request id.
    front_end = status >= _FAILED or status == _THROTTLED
    if front_end or (status >= _REFUSED and code and request_id):
        detail = cut(_text(found, "Message") or "") or f"expected status {_OK}, came {describe(answer.body)}"
        return exchange.failure(
            mps_fault(code, status),
            code or f"Http{status}",
            detail,
            status=status,
            request_id=request_id,
            denied=_denied_action(found),
        )
    came = "a redirect; it was not followed" if _REDIRECT <= status < _REFUSED else describe(answer.body)
    detail = f"expected status {_OK} and JSON with {needed} and RequestId, came status {status} and {came}"
    return exchange.failure(
        Fault.UNREADABLE, "NotMps", f"{detail}: is the endpoint MPS's?", status=status, request_id=request_id
    )


def _denied_action(found: Mapping[str, Any]) -> str:
    """The RAM action that MPS names as missing; ``""`` where it names none (facts/iproduction.md#api-error-codes)."""
    detail = found.get("AccessDeniedDetail")
    action = detail.get("AuthAction") if isinstance(detail, dict) else None
    return action if isinstance(action, str) and _ACTION.fullmatch(action) else ""


def _text(found: Mapping[str, Any], name: str) -> str | None:
    """A field as text: all of them are strings by the documents, some are objects in them."""
    value = found.get(name)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
