"""Get what a handler wants besides the message: the job's result, typed, and its UserData, typed.

MPS is asked only when the handler's annotation wants a result, the job did not fail and the message has none of its
own.

Elsewhere: the call itself (``cloud.mps``), waiting while MPS is down (``engine.results``), unfolding the answer
(``message.result``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from consumer.cloud.mps import JobAnswer
from consumer.engine.outcome import NotReady, Unfit, Unreachable
from consumer.engine.results import Query, is_about_the_job
from consumer.errors import CloudError
from consumer.message.notification import Kind, Notification, Phase
from consumer.message.result import read_result
from consumer.ops.words import QueryResult
from consumer.plugin.handler import Handler, Wanted
from consumer.policy import Reason

_FAIL: Final = "Fail"
_UNFINISHED: Final = frozenset({"Queuing", "Analysing"})


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
    user_data: object


async def fetch(
    notification: Notification,
    handler: Handler,
    query: Query,
    wait_limit_s: float,
    observe: Callable[[QueryResult], None],
) -> Fetched | Unfit | NotReady | Unreachable:
    """Complete a job for its handler.

    Args:
        notification: What the message says.
        handler: What it wants.
        query: Asks MPS for one job.
        wait_limit_s: For how long a result may be not ready, from the message's enqueuing.
        observe: Told what each question brought.

    Returns:
        What the handler gets, or why it can't be called.
    """
    answer: JobAnswer | None = None
    if _must_ask(notification, handler):
        asked = await _ask(notification, query, wait_limit_s, observe)
        if not isinstance(asked, JobAnswer):
            return asked
        answer = asked
    return _complete(notification, handler, answer)


def _must_ask(notification: Notification, handler: Handler) -> bool:
    return (
        handler.result is not None
        and notification.kind is Kind.IPRODUCTION
        and notification.phase is Phase.SUCCEEDED
        and notification.result_text is None
    )


async def _ask(
    notification: Notification, query: Query, wait_limit_s: float, observe: Callable[[QueryResult], None]
) -> JobAnswer | Unfit | NotReady | Unreachable:
    job_id = notification.job_id or ""
    try:
        answer = await query(job_id)
    except CloudError as error:
        if is_about_the_job(error):
            return Unfit(Reason.NOT_IPRODUCTION, f"MPS refuses to look for job {job_id!r}: {error}")
        return Unreachable(error)
    if not answer.found:
        observe(QueryResult.UNKNOWN)
        return Unfit(Reason.NOT_IPRODUCTION, f"MPS says that job {job_id!r} is not an intelligent production job")
    if answer.state in _UNFINISHED:
        observe(QueryResult.NOT_READY)
        return NotReady(answer.state, wait_limit_s)
    observe(QueryResult.ENDED)
    return answer


def _complete(notification: Notification, handler: Handler, answer: JobAnswer | None) -> Fetched | Unfit:
    """Validate what the handler asks for; either type that doesn't fit sets the message aside."""
    failed = notification.phase is Phase.FAILED or (answer is not None and answer.state == _FAIL)
    code, message = notification.code, notification.message
    text = notification.result_text if answer is None else answer.result
    result: object = None
    if failed:
        # A failed job that the notification called a success: its own words say why.
        if answer is not None and answer.result is not None:
            told = read_result(answer.result, answer.output)
            code, message = told.code or code, told.message or message
    elif handler.result is not None:
        data, problem = _data(notification, text, None if answer is None else answer.output)
        result = _validated("result", handler.result, data, problem)
        if isinstance(result, Unfit):
            return result
    user_data: object = notification.user_data
    if handler.user_data is not None:
        user_data = _validated("UserData", handler.user_data, notification.user_data, None)
        if isinstance(user_data, Unfit):
            return user_data
    return Fetched(
        wanted=handler.result is not None,
        result=result,
        result_text=text,
        failed=failed,
        state=notification.state if answer is None else answer.state or notification.state,
        code=code,
        message=message,
        input=None if answer is None else answer.input,
        output=None if answer is None else answer.output,
        user_data=user_data,
    )


def _data(notification: Notification, text: str | None, output: str | None) -> tuple[JsonValue, str | None]:
    """What the result's type is validated against; messages of other kinds are their own result."""
    if text is None and notification.kind is not Kind.IPRODUCTION:
        return notification.document, None
    read = read_result(text, output)
    return read.data, read.problem


def _validated(what: str, wanted: Wanted[Any], data: JsonValue, problem: str | None) -> object:
    try:
        return wanted.validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top"
        told = f"the {what} does not fit {wanted.annotation!r}: {first['msg']} at {where}"
        return Unfit(Reason.ILL_TYPED, told if problem is None else f"{told} ({problem})")
