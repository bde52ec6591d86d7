"""Wait for the end of a job by asking MPS, and read it, with its result in the function's own model."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
from pydantic import BaseModel, JsonValue, ValidationError

from consumer.cloud.mps import JobStatus
from consumer.functions.catalogue import find
from consumer.functions.parameters import compact_json
from consumer.job_state import ENDED, JobState
from consumer.message.notification import decode_user_data
from consumer.message.result import read_result

_FIRST_LOOK_S: Final = 0.2
_LONGEST_LOOK_S: Final = 5.0
_LONGEST_SUMMARY: Final = 160


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended.

    Args:
        failed: MPS says so, or it says Success and the output was not written.
        code: Of the result; ``message`` likewise.
        user_data: Decoded where it is JSON.
        output: The template that was given: MPS does not replace its placeholders.
        result: The function's model, such as ``CoverResult``; the JSON that came where it does not fit it, or the
            function is not documented.
        problem: Why the result does not fit, in one line.
    """

    job_id: str
    function: str
    state: str
    failed: bool
    code: str | None
    message: str | None
    user_data: JsonValue
    input: str | None
    output: str | None
    result: Any
    problem: str | None

    @property
    def result_json(self) -> JsonValue:
        """The result as JSON."""
        return self.result.model_dump(mode="json", by_alias=True) if isinstance(self.result, BaseModel) else self.result

    def summary(self) -> str:
        """The result in one line."""
        own = getattr(self.result, "summary", None)
        text = str(own()) if callable(own) else compact_json(self.result_json)
        return text if len(text) <= _LONGEST_SUMMARY else f"{text[:_LONGEST_SUMMARY]}..."


def misfit(error: ValidationError) -> str:
    """The first problem of a validation in one line, with its place."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{first['msg']} at {'.'.join(str(part) for part in first['loc']) or 'its top'}"


async def wait_for_end(query: Callable[[str], Awaitable[JobStatus]], job_id: str, timeout_s: float) -> JobStatus:
    """Ask for a job at growing intervals, until it has ended.

    Raises:
        TimeoutError: It still runs after ``timeout_s`` seconds.
        CloudError: MPS can't be asked.
    """
    until, pause_s = time.monotonic() + timeout_s, _FIRST_LOOK_S
    while True:
        answer = await query(job_id)
        if answer.state in ENDED:
            return answer
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"job {job_id} is still {answer.state or 'unknown to MPS'} after {timeout_s:g} s")
        await anyio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)


def ended_job(answer: JobStatus) -> EndedJob:
    """Read MPS's answer about a job that has ended; the bucket of its Output completes the names of its files."""
    read = read_result(answer.result, answer.output)
    function, known = answer.function or "", find(answer.function or "")
    result: Any = read.data
    problem, failed = read.problem, answer.state != JobState.SUCCESS or not read.is_written
    if known is None:
        problem = problem or f"no model for FunctionName {function!r}"
    elif not failed:
        try:
            result = known.result.model_validate(read.data)
        except ValidationError as error:
            problem = f"does not fit {known.result.__name__}: {misfit(error)}"
    return EndedJob(
        job_id=answer.job_id,
        function=function,
        state=answer.state or "",
        failed=failed,
        code=read.code,
        message=read.message,
        user_data=decode_user_data(answer.user_data),
        input=answer.input,
        output=answer.output,
        result=result,
        problem=problem,
    )
