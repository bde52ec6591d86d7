"""What a handler receives and may raise: ``job.result`` in each state, ranges and texts of the errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from consumer.plugin.handler import NOT_WANTED, ResultNotWantedError
from mns_consumer import Job, JobFailed, Reject, Retry


def make(**fields: Any) -> Job[Any, Any]:
    base = {"function": "Cover", "job_id": "j1", "state": "Success", "failed": False, "code": "Success"}
    return Job(**{**base, "message": None, "user_data": None, **fields})


@pytest.mark.parametrize("result", [{"a": 1}, [], "", 0, None], ids=repr)
def test_the_result_is_handed_on_as_it_is(result: object) -> None:
    """``job.result`` is the result that was fetched, also ``None`` and other falsy ones."""
    assert make(result_or_none=result).result == result


@pytest.mark.parametrize("result", [NOT_WANTED, None, {"a": 1}], ids=repr)
def test_a_failed_job_has_no_result(result: object) -> None:
    """Reading the result of a failed job raises ``JobFailed`` with the job's own code and message in every case."""
    job = make(failed=True, code="InvalidParameter", message="no such file", result_or_none=result)
    with pytest.raises(JobFailed, match="code InvalidParameter: no such file") as caught:
        _ = job.result
    assert (caught.value.code, caught.value.message) == ("InvalidParameter", "no such file")


def test_a_failure_without_words_says_so() -> None:
    """The text of a failure without code and message says ``none``, not ``None``."""
    assert str(JobFailed(None, None)) == "the job failed with code none: no message"


def test_a_result_that_was_not_asked_for_is_the_handlers_mistake() -> None:
    """The error of reading a result that was not asked for names the function and the annotation to write."""
    with pytest.raises(ResultNotWantedError, match=r"'Cover' reads job\.result .* Job\[CoverResult\]"):
        _ = make().result
    assert repr(NOT_WANTED) == "<no result: the handler's annotation asks for none>"


def test_a_job_shows_no_payload_and_changes_no_more() -> None:
    """The repr, which may be logged, holds neither result nor document; a job is immutable."""
    job = make(result_or_none={"k": "RESULT"}, document={"k": "DOCUMENT"})
    assert "RESULT" not in repr(job)
    assert "DOCUMENT" not in repr(job)
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.attempt = 2  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize("after_s", [None, 0, 0.5, 43_200], ids=str)
def test_retry_takes_what_mns_can_do(after_s: float | None) -> None:
    """Delays up to MNS's twelve hours are accepted."""
    assert Retry("busy", after_s=after_s).after_s == after_s


@pytest.mark.parametrize("after_s", [-1, 43_201, float("nan"), float("inf")], ids=str)
def test_retry_refuses_what_mns_cannot(after_s: float) -> None:
    """A delay out of range raises where it is written, with the range."""
    with pytest.raises(ValueError, match=r"Retry\(after_s=.*: expected seconds from 0 to 43200"):
        Retry(after_s=after_s)


def test_orders_need_no_reason() -> None:
    """``raise Reject`` and ``raise Retry`` without a reason have a default text."""
    assert str(Reject()) == "the handler gave no reason"
    assert str(Retry()) == "the handler asked for it"
    assert str(Reject("no such user")) == "no such user"


def test_a_log_line_of_a_failed_job() -> None:
    """``job.failure`` holds FunctionName, JobId, and MPS's code and message."""
    job: Job = Job(
        function="Cover", job_id="j1", state="Fail", failed=True, code="Bad.Input", message=None, user_data="secret"
    )
    assert job.failure == {"function": "Cover", "job_id": "j1", "code": "Bad.Input", "message": None}
