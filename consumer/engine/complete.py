"""Complete a job for its handler: ask MPS where needed, and validate the result and the UserData.

A notification is a hint, not a proof: anyone who may send to the queue can write one. So MPS is asked where the handler
wants a result, where the job is reported as failed, and always where the settings say so. Then FunctionName, State,
UserData and result are MPS's, and a message that contradicts them is set aside.

A query that fails says little by itself. Where MPS has answered another one since, or answers about a job that does not
exist, the fault is this job's own: its message goes back into the queue and delays no other. Otherwise the circuit
breaker of MPS opens and all queries wait. A message that waits keeps its slot and its lease, so an outage moves nothing
in the queue and work resumes when MPS does; after five minutes it is given back all the same.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
from prometheus_client import Counter
from pydantic import JsonValue, ValidationError

from consumer.cloud import faults
from consumer.cloud.mps import JobStatus
from consumer.config import Policy
from consumer.engine.breaker import Breaker
from consumer.engine.delivery import Delivery
from consumer.engine.outcome import NotReady, Unanswered, Unavailable, Unprocessable
from consumer.errors import CloudError, Fault, text_of
from consumer.job_state import ENDED
from consumer.message.notification import Kind, Notification, Phase, contradictions, read_user_data
from consumer.message.result import JobResult, read_result
from consumer.ops.metrics import QueryResult
from consumer.plugin.handler import NOT_WANTED, Handler, Job, Wanted
from consumer.plugin.submission import SubmitsJobs
from consumer.policy import Reason, Verify
from consumer.submissions.result import misfit

PATIENCE_S: Final = 300.0
"""How long a message waits for an outage of MPS to end; then it goes back into its queue for a while."""
NO_JOB: Final = "0" * 32
"""The id of no job; any answer about it, a refusal too, shows that MPS works."""
_THROTTLES: Final = 3
"""This many throttled queries in a row with no answer between them count as an outage."""
_AGAIN_EVERY_S: Final = 1.0
"""How often a query that failed alone may be repeated at once: many bad jobs must not use up the account's calls."""
_AGAIN_PAUSE_S: Final = 0.3
_USER_DATA: Final = "UserData"

Query: TypeAlias = Callable[[str], Awaitable[JobStatus]]


class UnansweredError(Exception):
    """MPS fails for this job while it answers others; ``error`` is what the last query raised."""

    def __init__(self, error: CloudError) -> None:
        super().__init__(str(error))
        self.error = error


def is_about_the_job(error: CloudError) -> bool:
    """Whether MPS refused the job's id itself; any other refusal comes from an endpoint or a proxy."""
    return error.fault is Fault.REQUEST and faults.is_about_the_job(error.code)


def is_too_long(error: CloudError) -> bool:
    """Whether the answer was longer than is read: that is about the job, and won't change."""
    return error.code == "AnswerTooLong"


class JobQueries:
    """The queries of one queue's jobs, behind one circuit breaker; each waits ``patience_s`` for an outage to end."""

    def __init__(
        self, query: Query, name: str, counters: Mapping[str, Counter], *, patience_s: float = PATIENCE_S
    ) -> None:
        self._query = query
        self.counters = counters
        self._patience_s = patience_s
        self.breaker = Breaker(
            "MPS does not answer; results wait until it does", "MPS answers again", queue=name, probe=self._probe
        )
        self._again_at = 0.0
        self._throttles = 0

    async def query(self, job_id: str) -> JobStatus:
        """Ask for one job, and wait while MPS is down.

        Raises:
            CloudError: MPS refuses the id itself (``is_about_the_job``), or it was down for too long.
            UnansweredError: It fails for this job alone.
        """
        give_up_at = time.monotonic() + self._patience_s
        is_repeated = False
        while True:
            if not self.breaker.is_closed:
                await self._wait(give_up_at)
            asked_at = time.monotonic()
            try:
                answer = await self._query(job_id)
            except CloudError as error:
                self.counters[QueryResult.FAILED].inc()
                if is_about_the_job(error):
                    self._answered()
                    raise
                if error.fault is Fault.THROTTLED and self._repeat_throttled():
                    continue
                if not is_too_long(error) and not await self.breaker.confirm(error, asked_at):
                    continue
                if is_repeated or is_too_long(error) or not self._take_repeat():
                    raise UnansweredError(error) from None
                is_repeated = True
                await anyio.sleep(_AGAIN_PAUSE_S)
            else:
                self._answered()
                return answer

    def _answered(self) -> None:
        self._throttles = 0
        self.breaker.succeeded()

    def _repeat_throttled(self) -> bool:
        """Count a throttled query; whether to repeat it, since the limiter has halved its rate."""
        self._throttles += 1
        return self.breaker.is_closed and self._throttles < _THROTTLES

    def _take_repeat(self) -> bool:
        """Take the one repetition of this second, if it is free."""
        now = time.monotonic()
        if now < self._again_at:
            return False
        self._again_at = now + _AGAIN_EVERY_S
        return True

    async def _wait(self, give_up_at: float) -> None:
        fault = self.breaker.fault
        with anyio.move_on_after(give_up_at - time.monotonic()) as waiting:
            await self.breaker.wait_closed()
        if waiting.cancelled_caught:
            last = self.breaker.fault or fault
            if isinstance(last, CloudError):
                # The same error for all that waited: each begins its traceback anew.
                raise last.with_traceback(None)

    async def _probe(self) -> None:
        try:
            await self._query(NO_JOB)
        except CloudError as error:
            if not is_about_the_job(error):
                raise
        self._throttles = 0


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Completed:
    """A job that its handler can be called with, and the texts as they came, which the ledger keeps."""

    job: Job[Any, Any]
    result_text: str | None
    user_data_text: str | None


async def complete(
    delivery: Delivery,
    handler: Handler,
    queries: JobQueries,
    queue: str,
    *,
    submitter: SubmitsJobs | None = None,
    always_verify: bool = False,
) -> Completed | Unprocessable | NotReady | Unanswered | Unavailable:
    """Get what a handler wants besides the message: the job, or why it can't be called.

    ``submitter`` serves ``job.submit``. ``always_verify`` asks MPS whatever the policy says.
    """
    notification, policy = delivery.notification, delivery.rules.policy
    answer: JobStatus | None = None
    if _must_ask(notification, handler, policy, always_verify=always_verify):
        asked = await _ask(notification, queries, policy.result_wait_s)
        if not isinstance(asked, JobStatus):
            return asked
        answer = asked
        if different := contradictions(
            notification,
            job_id=answer.job_id,
            function=answer.function,
            state=answer.state,
            user_data=answer.user_data,
        ):
            error = f"MPS contradicts the message about job {notification.job_id!r}: {'; '.join(different)}"
            return Unprocessable(Reason.CONTRADICTED, error)
    return _validate(delivery, handler, queue, submitter, answer)


def _must_ask(notification: Notification, handler: Handler, policy: Policy, *, always_verify: bool) -> bool:
    """Whether MPS is asked; it has no such call for other kinds of messages."""
    if notification.kind is not Kind.IPRODUCTION:
        return False
    if always_verify or policy.verify is Verify.ALWAYS or notification.phase is Phase.FAILED:
        return True
    return handler.result is not None and not (policy.trust_inline_result and notification.result_text is not None)


async def _ask(
    notification: Notification, queries: JobQueries, wait_limit_s: float
) -> JobStatus | Unprocessable | NotReady | Unanswered | Unavailable:
    job_id = notification.job_id or ""
    try:
        answer = await queries.query(job_id)
    except CloudError as error:
        if is_about_the_job(error):
            return Unprocessable(Reason.NOT_IPRODUCTION, f"MPS refuses the query for job {job_id!r}: {error}")
        return Unavailable(error)
    except UnansweredError as unanswered:
        if is_too_long(unanswered.error):
            return Unprocessable(Reason.UNANSWERED, f"MPS's answer for job {job_id!r} is too long: {unanswered}")
        return Unanswered(unanswered.error)
    if not answer.found:
        queries.counters[QueryResult.UNKNOWN].inc()
        error_text = f"MPS answers that job {job_id!r} is not an intelligent production job"
        return Unprocessable(Reason.NOT_IPRODUCTION, error_text)
    if answer.state not in ENDED:
        queries.counters[QueryResult.NOT_READY].inc()
        return NotReady(answer.state or "none", wait_limit_s)
    queries.counters[QueryResult.ENDED].inc()
    return answer


def _validate(
    delivery: Delivery, handler: Handler, queue: str, submitter: SubmitsJobs | None, answer: JobStatus | None
) -> Completed | Unprocessable:
    """Make the job of MPS's answer, or of the message alone where MPS was not asked."""
    notification = delivery.notification
    if answer is None:
        # A job's own result is believed where the settings say so; other kinds have no other one.
        is_job, is_unknown = notification.kind is Kind.IPRODUCTION, notification.kind is Kind.UNKNOWN
        is_believed = not is_unknown and (not is_job or delivery.rules.policy.trust_inline_result)
        text = notification.result_text if is_believed else None
        state, source, output = notification.state, None, None
        user_data_text, decoded = notification.user_data_text, notification.user_data
    else:
        state, text, source, output = answer.state or "", answer.result, answer.input, answer.output
        user_data_text, decoded = read_user_data(answer.user_data)
    failed = notification.phase is Phase.FAILED
    # MPS may say no more of a failed job; then the message's own code and message are all there is.
    code, message = (notification.code, notification.message) if answer is None or failed else (None, None)
    read = None if text is None else read_result(text, output)
    failed = failed or (read is not None and not read.is_written)
    if read is not None and (failed or answer is not None):
        code, message = read.code or code, read.message or message
    result: object = None
    if handler.result is not None and not failed:
        result = _validated("result", handler.result, *_data(notification, read))
        if isinstance(result, Unprocessable):
            return result
    user_data: object = decoded
    if handler.user_data is not None:
        user_data = _validated(_USER_DATA, handler.user_data, decoded, None)
        if isinstance(user_data, Unprocessable):
            return user_data
    job: Job[Any, Any] = Job(
        function=notification.name,
        kind=str(notification.kind),
        job_id=notification.job_id or "",
        state=state,
        failed=failed,
        code=code,
        message=message,
        user_data=user_data,
        input=source,
        output=output,
        attempt=delivery.attempt,
        queue=queue,
        message_id=delivery.message.message_id,
        document=notification.document,
        result_or_none=NOT_WANTED if handler.result is None else result,
        user_data_text=user_data_text,
        submitter=submitter,
    )
    return Completed(job, text, user_data_text)


def _data(notification: Notification, read: JobResult | None) -> tuple[JsonValue, str | None]:
    """The data that is validated against the result's type; messages of other kinds are their own result."""
    if read is not None:
        return read.data, read.problem
    if notification.kind is not Kind.IPRODUCTION:
        return notification.document, None
    return None, "MPS gave no Result"


def _validated(what: str, wanted: Wanted[Any], data: JsonValue, problem: str | None) -> object:
    try:
        return wanted.validate(data)
    except BaseException as error:  # noqa: BLE001 - validators are user code: whatever they raise, it does not fit
        text = f"the {what} does not fit {wanted.name}: {_why(error)}"
        if what == _USER_DATA and data is None:
            problem = "this job was submitted without UserData"
        return Unprocessable(Reason.ILL_TYPED, text if problem is None else f"{text} ({problem})")


def _why(error: BaseException) -> str:
    """What a validation says, in one line."""
    try:
        if isinstance(error, ValidationError):
            return misfit(error)
    except BaseException as second:  # noqa: BLE001 - a validator's error may not even be shown
        return f"its error can't be shown: {type(second).__name__}"
    return f"its validator raised {type(error).__name__}: {text_of(error)}"
