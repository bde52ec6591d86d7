"""Get what a handler wants besides the message: the job's result, typed, and its UserData, typed.

A notification is a hint, not a proof: anyone who may send to the queue can write one. So MPS is asked where the
handler wants a result, where the job is said to have failed, and always where the settings say so. Then FunctionName,
State, UserData and result are MPS's, and a message that says otherwise is set aside.

Elsewhere: the call itself (``cloud.mps``), waiting while MPS is down (``engine.results``), unfolding the answer
(``message.result``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from consumer.cloud.mps import JobStatus
from consumer.engine.outcome import NotReady, Unanswered, Unfit, Unreachable
from consumer.engine.results import Query, UnansweredError, is_about_the_job, is_too_long
from consumer.errors import CloudError, text_of
from consumer.job_state import ENDED
from consumer.message.notification import Kind, Notification, Phase, contradictions, read_user_data
from consumer.message.result import NOT_SAVED, JobResult, read_result
from consumer.ops.metrics import QueryResult
from consumer.plugin.handler import Handler, Wanted
from consumer.policy import Reason, TrustPolicy, Verify

_NOT_SAVED_CODE: Final = "OutputNotSaved"
"""The code of a job that says Success and has written nothing: ours, since MPS gives none."""


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Fetched:
    """What a handler gets of its job beyond the message.

    Args:
        wanted: Whether it asked for a result; without that, ``result`` says nothing.
        result: The validated result; ``None`` for a failed job.
        result_text: The result as it came, for the ledger.
        failed: Whether the job failed.
        state: The job's state.
        code: MPS's code.
        message: MPS's wording.
        input: The job's Input.
        output: The job's Output, a URL or a template.
        user_data_text: UserData as it came, for the ledger.
        user_data: UserData, validated where the handler asks for a type.
    """

    wanted: bool
    result: object
    result_text: str | None
    failed: bool
    state: str
    code: str | None
    message: str | None
    input: str | None
    output: str | None
    user_data_text: str | None
    user_data: object


async def fetch(
    notification: Notification,
    handler: Handler,
    query: Query,
    trust: TrustPolicy,
    *,
    wait_limit_s: float,
    observe: Callable[[QueryResult], None],
) -> Fetched | Unfit | NotReady | Unanswered | Unreachable:
    """Complete a job for its handler.

    Args:
        notification: What the message says.
        handler: What it wants.
        query: Asks MPS for one job.
        trust: How far the message is believed.
        wait_limit_s: For how long a result may be not ready, from the message's enqueuing.
        observe: Told what each question brought.

    Returns:
        What the handler gets, or why it can't be called.
    """
    answer: JobStatus | None = None
    if _must_ask(notification, handler, trust):
        asked = await _ask(notification, query, wait_limit_s, observe)
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
            told = f"MPS says otherwise of job {notification.job_id!r}: {'; '.join(different)}"
            return Unfit(Reason.CONTRADICTED, told)
    return _complete(notification, handler, trust, answer)


def _must_ask(notification: Notification, handler: Handler, trust: TrustPolicy) -> bool:
    """Whether MPS is asked; for other kinds of messages it has no such call."""
    if notification.kind is not Kind.IPRODUCTION:
        return False
    if trust.verify is Verify.ALWAYS or notification.phase is Phase.FAILED:
        return True
    return handler.result is not None and not (trust.inline_result and notification.result_text is not None)


async def _ask(
    notification: Notification, query: Query, wait_limit_s: float, observe: Callable[[QueryResult], None]
) -> JobStatus | Unfit | NotReady | Unanswered | Unreachable:
    job_id = notification.job_id or ""
    try:
        answer = await query(job_id)
    except CloudError as error:
        if is_about_the_job(error):
            return Unfit(Reason.NOT_IPRODUCTION, f"MPS refuses to look for job {job_id!r}: {error}")
        return Unreachable(error)
    except UnansweredError as unanswered:
        if is_too_long(unanswered.error):
            told = f"MPS's answer for job {job_id!r} is too long to be read: {unanswered}"
            return Unfit(Reason.UNANSWERED, told)
        return Unanswered(unanswered.error)
    if not answer.found:
        observe(QueryResult.UNKNOWN)
        return Unfit(Reason.NOT_IPRODUCTION, f"MPS says that job {job_id!r} is not an intelligent production job")
    if answer.state not in ENDED:
        observe(QueryResult.NOT_READY)
        return NotReady(answer.state or "none", wait_limit_s)
    observe(QueryResult.ENDED)
    return answer


def _complete(
    notification: Notification, handler: Handler, trust: TrustPolicy, answer: JobStatus | None
) -> Fetched | Unfit:
    """Type what the handler asks for: of MPS's answer, or of the message alone where MPS was not asked."""
    if answer is None:
        state, text, source, output = notification.state, _inline_result(notification, trust), None, None
        user_data_text, decoded = notification.user_data_text, notification.user_data
    else:
        state, text, source, output = answer.state or "", answer.result, answer.input, answer.output
        user_data_text, decoded = read_user_data(answer.user_data)
    failed = notification.phase is Phase.FAILED
    # Of a failed job MPS may say no more than that; then the message's own words are all there is.
    code, message = (notification.code, notification.message) if answer is None or failed else (None, None)
    read = None if text is None else read_result(text, output)
    if read is not None and not read.is_saved:
        failed, code, message = True, _NOT_SAVED_CODE, f"{NOT_SAVED}: is the output bucket in the region of MPS?"
    elif read is not None and (failed or answer is not None):
        code, message = read.code or code, read.message or message
    result: object = None
    if handler.result is not None and not failed:
        result = _validated("result", handler.result, *_data(notification, read))
        if isinstance(result, Unfit):
            return result
    user_data: object = decoded
    if handler.user_data is not None:
        user_data = _validated("UserData", handler.user_data, decoded, None)
        if isinstance(user_data, Unfit):
            return user_data
    return Fetched(
        wanted=handler.result is not None,
        result=result,
        result_text=text,
        failed=failed,
        state=state,
        code=code,
        message=message,
        input=source,
        output=output,
        user_data_text=user_data_text,
        user_data=user_data,
    )


def _inline_result(notification: Notification, trust: TrustPolicy) -> str | None:
    """The result that came with the message, where it is believed; of other kinds there is no other."""
    is_job = notification.kind is Kind.IPRODUCTION
    if notification.kind is Kind.UNKNOWN:
        return None
    return notification.result_text if trust.inline_result or not is_job else None


def _data(notification: Notification, read: JobResult | None) -> tuple[JsonValue, str | None]:
    """What the result's type is validated against; messages of other kinds are their own result."""
    if read is not None:
        return read.data, read.problem
    if notification.kind is not Kind.IPRODUCTION:
        return notification.document, None
    return None, "MPS gave no Result"


def _validated(what: str, wanted: Wanted[Any], data: JsonValue, problem: str | None) -> object:
    try:
        return wanted.validate(data)
    except BaseException as error:  # noqa: BLE001 - validators are user code: whatever they raise, it does not fit
        told = f"the {what} does not fit {wanted.name}: {_why(error)}"
        return Unfit(Reason.ILL_TYPED, told if problem is None else f"{told} ({problem})")


def _why(error: BaseException) -> str:
    """What a validation says, in one line."""
    try:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            return f"{first['msg']} at {'.'.join(str(part) for part in first['loc']) or 'its top'}"
    except BaseException as second:  # noqa: BLE001 - a validator's error may not even be shown
        return f"its error can't be shown: {type(second).__name__}"
    return f"its validator raised {type(error).__name__}: {text_of(error)}"
