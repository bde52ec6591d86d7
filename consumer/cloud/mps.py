"""Ask MPS for a job's state and result, and submit jobs.

Both calls wait for the account's limiter first, use the queue's pool, and are sent once. Only a JSON object with a
request id counts as an answer of MPS. The SDK's own code signs (ACS3-HMAC-SHA256); it is imported on a thread at the
first call: its module loads requests and cryptography, about 0.15 s more, which a daemon's start need not wait for.

Source: facts/iproduction.md#submit-a-job, facts/iproduction.md#query-a-job, facts/iproduction.md#api-signature,
facts/iproduction.md#job-limits.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote, urlsplit

from consumer.cloud.credentials import CredentialsSource, Keys
from consumer.cloud.faults import cut, describe, mps_fault
from consumer.cloud.pool import Exchange, HttpAnswer, Observe, Pool, TraceCall
from consumer.errors import CloudError, Fault

_OK, _REDIRECT, _REFUSED, _THROTTLED, _FAILED = 200, 300, 400, 429, 500
_LIMIT_BYTES: Final = 4 * 1024 * 1024
_ACTION: Final = re.compile(r"[A-Za-z0-9-]{1,40}:[A-Za-z0-9]{1,80}")
_ALGORITHM: Final = "ACS3-HMAC-SHA256"
_API_VERSION: Final = "2014-06-18"
_EMPTY_SHA256: Final = hashlib.sha256().hexdigest()

_KEPT_BACK: Final = 0.03
_LATE_S: Final = 0.010
_LOWEST: Final = 1 / 32
_RISE_S: Final = 120.0
_HALVING_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class JobStatus:
    """MPS's answer about one job; ``None`` stands for a field that did not come.

    Args:
        output: The output's URL template, placeholders unreplaced.
        result: JSON text as it came; an object is written as text again.
        found: ``False`` when only RequestId and JobId came: no intelligent production job.
    """

    job_id: str
    function: str | None
    state: str | None
    input: str | None
    output: str | None
    result: str | None
    user_data: str | None
    found: bool


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that MPS accepted."""

    job_id: str
    request_id: str


class Mps:
    """MPS in one region, for one account.

    Args:
        limiter: The account's, shared by all its callers.
        trace: Put around each call, after its wait for the limiter.
        read_margin_s: The time limit of a call.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        credentials: CredentialsSource,
        pool: Pool,
        limiter: RateLimiter,
        observe: Observe | None = None,
        trace: TraceCall | None = None,
        read_margin_s: float = 10.0,
    ) -> None:
        parts = urlsplit(endpoint)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname or parts.netloc
        self._credentials = credentials
        self._pool = pool
        self._limiter = limiter
        self._observe = observe
        self._trace = trace
        self._port = parts.port
        self._deadline_s = read_margin_s
        self._signer = MpsSigner(parts.netloc)

    def __repr__(self) -> str:
        return f"Mps({self._origin})"

    async def warm_up(self) -> None:
        """Load the signer now, off the event loop, so that the first call needn't."""
        await self._signer.load()

    async def query(self, job_id: str, *, background: bool = False) -> JobStatus:
        """Ask for one job (QueryIProductionJob); ``Fault.REQUEST``: MPS refuses the id itself.

        A ``background`` query lets all others pass: of those at most one at a time waits for the limiter's turn.
        """
        found = await self._ask("QueryIProductionJob", {"JobId": job_id}, background=background)
        function, state = _text(found, "FunctionName"), _text(found, "State")
        return JobStatus(
            job_id=_text(found, "JobId") or job_id,
            function=function,
            state=state,
            input=_text(found, "Input"),
            output=_text(found, "Output"),
            result=_text(found, "Result"),
            user_data=_text(found, "UserData"),
            found=bool(function or state),
        )

    async def submit(self, parameters: Mapping[str, str]) -> Submitted:
        """Submit one job (SubmitIProductionJob); the parameters are those of facts/iproduction.md#submit-a-job.

        It is sent once: a second one would be a second job (facts/iproduction.md#submit-is-not-idempotent).

        Raises:
            CloudError: The job may exist all the same, unless ``faults.surely_not_sent``.
        """
        found = await self._ask("SubmitIProductionJob", parameters, needed="JobId")
        return Submitted(str(found["JobId"]), str(found["RequestId"]))

    async def _ask(
        self, action: str, query: Mapping[str, str], needed: str = "RequestId", *, background: bool = False
    ) -> Mapping[str, Any]:
        await self._limiter.wait(background=background)
        if self._trace is None:
            return await self._send(action, query, needed)
        with self._trace(action, self._host, self._port) as answered:
            found = await self._send(action, query, needed)
            answered(str(found["RequestId"]))
            return found

    async def _send(self, action: str, query: Mapping[str, str], needed: str) -> Mapping[str, Any]:
        async with Exchange(action, self._host, self._credentials, self._observe) as exchange:
            await self._signer.load()
            keys = await self._credentials.keys()
            resource, headers = self._signer.signed(keys, action, query)
            url = self._origin + resource
            answer = await self._pool.ask(
                exchange, "POST", url, headers, deadline_s=self._deadline_s, limit_bytes=_LIMIT_BYTES
            )
            found = _object(answer)
            if answer.status == _OK and found.get("RequestId") and found.get(needed):
                return found
            error = _refusal(exchange, answer, found, needed)
            if error.fault is Fault.THROTTLED:
                self._limiter.throttled()
            raise error


class RateLimiter:
    """Spaces the calls of one account evenly, below its limit; first come, first served.

    One limiter serves all callers of the account, in one event loop. Calls pass one by one, 1/rate seconds apart: a
    token bucket would pass its whole bucket in the first second and be throttled. Turns are points in time, not pauses,
    so small delays don't add up; a turn missed by more than 10 ms is lost, so a stalled loop makes no burst afterwards.
    With the 3 % kept back, no window of one second holds more calls than the limit, and at least 95 of 100 are used.

    When the service throttles all the same (replicas share the limit), the rate is halved, at most once a second
    however many answers report it, down to a 32nd, and then rises in a straight line: from nothing to the full rate in
    120 s.
    """

    def __init__(self, limit_per_s: float = 100.0) -> None:
        self._full_per_s = limit_per_s * (1 - _KEPT_BACK)
        self._base_per_s = self._full_per_s
        self._halved_at = float("-inf")
        self._next_at = float("-inf")
        self._first = asyncio.Lock()
        self._background = asyncio.Lock()

    @property
    def rate_per_s(self) -> float:
        """The current rate, in calls a second."""
        risen = (time.monotonic() - self._halved_at) / _RISE_S
        return min(self._full_per_s, self._base_per_s + risen * self._full_per_s)

    async def wait(self, *, background: bool = False) -> None:
        """Return when it is the caller's turn; a caller that is cancelled while it waits costs no turn.

        Of the ``background`` callers one at a time stands in line, so that the others wait for at most one of them.
        """
        if background:
            async with self._background:
                await self.wait()
            return
        async with self._first:
            if (early_s := self._next_at - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            self._next_at = max(self._next_at, time.monotonic() - _LATE_S) + 1 / self.rate_per_s

    def throttled(self) -> None:
        """Halve the rate: the service has throttled a call."""
        now = time.monotonic()
        # Calls that were under way at the first one may be throttled too: that is counted once.
        if now - self._halved_at < _HALVING_PAUSE_S:
            return
        self._base_per_s = max(self.rate_per_s / 2, self._full_per_s * _LOWEST)
        self._halved_at = now


class MpsSigner:
    """Builds query and headers of calls to one endpoint's host (with its port where that isn't the scheme's own)."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._sdk: Any = None

    async def load(self) -> None:
        """Import the SDK's signer, off the event loop; does nothing the second time."""
        if self._sdk is None:
            try:
                self._sdk = await asyncio.to_thread(_sdk_signer)
            except RuntimeError:
                # No thread can be started: a quarter of a second on the event loop is better than no result.
                self._sdk = _sdk_signer()

    def signed(self, keys: Keys, action: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Path and query as they are to be sent, and all headers; ``load`` must have ended."""
        headers = {
            "host": self._host,
            "accept": "application/json",
            "x-acs-action": action,
            "x-acs-version": _API_VERSION,
            "x-acs-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-content-sha256": _EMPTY_SHA256,
        }
        if keys.security_token:
            headers["x-acs-accesskey-id"] = keys.access_key_id
            headers["x-acs-security-token"] = keys.security_token
        request = SimpleNamespace(method="POST", pathname="/", query=query, headers=headers)
        headers["Authorization"] = self._sdk.get_authorization(
            request, _ALGORITHM, _EMPTY_SHA256, keys.access_key_id, keys.access_key_secret
        )
        # The very text that was signed: sorted, and escaped as the signature requires.
        return "/?" + "&".join(f"{name}={quote(query[name], safe='~')}" for name in sorted(query)), headers


def _sdk_signer() -> Any:
    from alibabacloud_tea_openapi.utils import Utils  # noqa: PLC0415 - slow, see the module's docstring

    return Utils


def _object(answer: HttpAnswer) -> Mapping[str, Any]:
    """The answer's JSON object; an empty one for anything else."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(exchange: Exchange, answer: HttpAnswer, found: Mapping[str, Any], needed: str) -> CloudError:
    status = answer.status
    code, request_id = cut(_text(found, "Code") or "", 60), cut(_text(found, "RequestId") or "", 60) or None
    # A front end's 5xx and 429 need no code; any other refusal must carry a request id.
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
    """The RAM action that MPS names as missing; ``""`` without one (facts/iproduction.md#api-error-codes)."""
    detail = found.get("AccessDeniedDetail")
    action = detail.get("AuthAction") if isinstance(detail, dict) else None
    return action if isinstance(action, str) and _ACTION.fullmatch(action) else ""


def _text(found: Mapping[str, Any], name: str) -> str | None:
    """A field as text: all are strings by the documents' tables, some are objects in their examples."""
    value = found.get(name)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
