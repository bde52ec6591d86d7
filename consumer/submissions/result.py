"""The end of a job as MPS reports it, with its result in the function's own model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from consumer.cloud.mps import JobStatus
from consumer.functions.catalogue import find
from consumer.job_state import NOT_SAVED_CODE, JobState
from consumer.message.notification import decode_user_data
from consumer.message.result import NOT_SAVED, read_result


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


def ended_job(answer: JobStatus) -> EndedJob:
    """Read MPS's answer about a job that has ended; the bucket of its Output completes the names of its files."""
    read = read_result(answer.result, answer.output)
    function, known = answer.function or "", find(answer.function or "")
    result: Any = read.data
    problem, failed = read.problem, answer.state != JobState.SUCCESS
    code, message = read.code, read.message
    if not read.is_saved:
        failed, code, message = True, NOT_SAVED_CODE, f"{NOT_SAVED}: is the output bucket in the region of MPS?"
    elif known is None:
        problem = problem or f"no model for FunctionName {function!r}"
    elif not failed:
        try:
            result = known.result.model_validate(read.data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "its top"
            problem = f"does not fit {known.result.__name__}: {first['msg']} at {place}"
    return EndedJob(
        job_id=answer.job_id,
        function=function,
        state=answer.state or "",
        failed=failed,
        code=code,
        message=message,
        user_data=decode_user_data(answer.user_data),
        input=answer.input,
        output=answer.output,
        result=result,
        problem=problem,
    )
