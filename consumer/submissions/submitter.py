"""Submit jobs to MPS once, each recorded before it is sent.

    check    the rules of its function; every problem is reported before the paid call
    record   the intent, in the store
    send     once: MPS takes no token against a second submission, and a second job is a second bill
    note     the JobId; or that MPS refused; or that no answer came

Where no answer comes the job may exist all the same. Then ``SubmissionUnknown`` is raised, and nothing sends it again:
a submission with the same ``ref`` raises it too.

Source: facts/iproduction.md#submit-a-job, facts/iproduction.md#submit-is-not-idempotent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import anyio
import structlog
from pydantic import BaseModel, JsonValue
from typing_extensions import Unpack

from consumer.cloud.faults import surely_not_sent
from consumer.cloud.mps import Mps, Submitted
from consumer.config import QueueSettings
from consumer.errors import CloudError, StoreError, UncertainError, UsageError
from consumer.functions.finding import FindingLevel, RequestFinding, refused
from consumer.functions.parameters import FunctionParams, compact_json
from consumer.functions.request import Destination, JobRequest
from consumer.message.notification import job_key
from consumer.notify_url import NotifyUrl, is_loopback
from consumer.plugin.submission import RequestOptions, SubmittedJob
from consumer.policy import SubmissionState
from consumer.store.submissions import CALL_LIMIT_S, NewSubmission, Submission, Submissions

log = structlog.stdlib.get_logger(__name__)

MAY_EXIST: Final = (
    "the job may exist and be billed, and MPS can't be asked for it without its JobId. Nothing was sent again. Look for"
    " its notification, by its UserData, and for its output; submit it again only if a second job does no harm"
)
_LOOK_S: Final = 0.2
_NOTE_TRIES: Final = 5


class RequestRefusedError(UsageError):
    """The request breaks rules, and nothing was sent.

    Args:
        findings: Each with the field, what was expected, what came and where that is documented.
    """

    def __init__(self, findings: Sequence[RequestFinding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings

    @property
    def problems(self) -> Sequence[str]:
        """One line for each finding."""
        return tuple(map(str, self.findings))


class SubmissionUnknown(UncertainError):  # noqa: N818 - it is a state of the world, not a mistake
    """A job was sent and MPS gave no answer: it may exist and be billed. Nothing sends it again."""


class Submitter:
    """Submits the jobs of one queue.

    Args:
        queue: The queue that jobs notify by default; its region is that of MPS and of the buckets.
        accounts: Those whose queues the settings name.
        reconcile_after_s: When MPS is asked for a job whose end was not reported.
    """

    def __init__(
        self,
        mps: Mps,
        submissions: Submissions,
        queue: QueueSettings,
        *,
        accounts: AbstractSet[str],
        reconcile_after_s: float,
    ) -> None:
        self._mps = mps
        self._submissions = submissions
        self._url = queue.url
        is_sandbox = is_loopback(urlsplit(queue.mps_endpoint).hostname or "")
        self._destination = Destination(region=queue.url.region, accounts=frozenset(accounts), is_sandbox=is_sandbox)
        self.reconcile_after_s = reconcile_after_s
        """Replaced by a reload."""

    async def submit(
        self,
        params: FunctionParams | str,
        given: Mapping[str, JsonValue] | None = None,
        /,
        *,
        ref: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> SubmittedJob:
        """Submit a job once. Arguments, answer and errors are those of ``client.Client.submit``."""
        request = self._request(params, given, options)
        findings = request.findings(self._destination)
        if problems := refused(findings, force=options.get("force", False)):
            raise RequestRefusedError(problems)
        warnings = tuple(str(one) for one in findings if one.level is FindingLevel.WARNING)
        return replace(await self.send(request, ref=ref), warnings=warnings)

    async def send(self, request: JobRequest, *, ref: str | None = None) -> SubmittedJob:
        """Submit a request that is checked already; otherwise as ``submit``."""
        sent, queue = request.parameters(), self._identity(request)
        new = NewSubmission(queue, request.function_name, compact_json(sent), ref)
        while True:
            found, is_new = await self._submissions.record(new)
            answer = await self._send(found, sent) if is_new else await self._wait_for_answer(found)
            if answer is not None:
                names = (answer.job_id, found.function, found.id, found.ref, found.queue, answer.request_id)
                return SubmittedJob(*names, is_new=is_new)
            # The call that had the same ``ref`` was refused meanwhile.

    async def _send(self, recorded: Submission, sent: Mapping[str, str]) -> Submitted:
        """Send a recorded submission, and note what came of it."""
        number = recorded.id
        try:
            answer = await send_once(self._mps, sent)
        except (CloudError, SubmissionUnknown) as error:
            is_unknown = isinstance(error, SubmissionUnknown)
            state = SubmissionState.UNKNOWN if is_unknown else SubmissionState.REFUSED
            await self._close(number, state, str(error.__cause__ or error))
            raise
        except BaseException:
            await self._close(number, SubmissionState.UNKNOWN, "interrupted before MPS answered")
            raise
        with anyio.CancelScope(shield=True):
            await self._note(recorded, answer)
        return answer

    async def _close(self, number: int, state: SubmissionState, why: str) -> None:
        """Record why a submission has no job; if the store fails, it stays an intent and counts as unknown later."""
        with anyio.CancelScope(shield=True):
            try:
                await self._submissions.close_as(number, state, why)
            except StoreError as error:
                log.warning("submission not closed", submission=number, state=state.value, why=why, error=str(error))

    async def _note(self, recorded: Submission, answer: Submitted) -> None:
        job_id, tries = answer.job_id, 0
        while True:
            try:
                await self._submissions.submitted(
                    recorded.id,
                    job_id=job_id,
                    key=job_key(recorded.queue, job_id),
                    request_id=answer.request_id,
                    next_in_s=self.reconcile_after_s,
                )
            except StoreError as error:
                tries += 1
                if tries == _NOTE_TRIES:
                    raise StoreError(
                        f"job {job_id} was submitted, and the store could not record that: {error};"
                        f" record it by: mns-consumer jobs track {job_id}"
                    ) from error
                await anyio.sleep(_LOOK_S * tries)
            else:
                return

    async def _wait_for_answer(self, found: Submission) -> Submitted | None:
        """MPS's answer to a submission that another call sends or has sent; ``None`` when it was refused."""
        until = time.monotonic() + CALL_LIMIT_S
        while found.state is SubmissionState.INTENT and time.monotonic() < until:
            await anyio.sleep(_LOOK_S)
            found = await self._submissions.get(found.id) or found
        if found.state is SubmissionState.REFUSED:
            return None
        if found.job_id is None:
            why = found.error or "another call with the same ref has got no answer from MPS"
            raise SubmissionUnknown(f"submission {found.id} with ref {found.ref!r}: {why}; {MAY_EXIST}")
        return Submitted(found.job_id, found.request_id or "")

    def _request(
        self, params: FunctionParams | str, given: Mapping[str, JsonValue] | None, options: RequestOptions
    ) -> JobRequest:
        notify_url = options.get("notify_url")
        return JobRequest(
            function=params if isinstance(params, str) else params.function,
            params=(given or {}) if isinstance(params, str) else params,
            input=options.get("input"),
            output=options.get("output"),
            user_data=_text_of(options.get("user_data")),
            notify_url=(str(self._url) if notify_url is None else notify_url) or None,
            pipeline_id=options.get("pipeline_id"),
            model_id=options.get("model_id"),
            schedule_params=options.get("schedule_params"),
        )

    def _identity(self, request: JobRequest) -> str:
        """The queue that handles the job's end: that of its NotifyUrl, else the default one."""
        url = self._url if request.notify_url is None else NotifyUrl.parse(request.notify_url)
        return url.identity


async def send_once(mps: Mps, parameters: Mapping[str, str]) -> Submitted:
    """Send a job once.

    Raises:
        SubmissionUnknown: It was sent, and no answer says whether the job exists.
        CloudError: The job certainly does not exist.
    """
    try:
        return await mps.submit(parameters)
    except CloudError as error:
        if surely_not_sent(error):
            raise
        raise SubmissionUnknown(f"{error}; {MAY_EXIST}") from error


def _text_of(user_data: object) -> str | None:
    """UserData as it is sent."""
    if user_data is None or isinstance(user_data, str):
        return user_data
    if isinstance(user_data, BaseModel):
        return user_data.model_dump_json(by_alias=True)
    try:
        return json.dumps(user_data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"user_data: expected text, JSON or a pydantic model: {error}") from None
