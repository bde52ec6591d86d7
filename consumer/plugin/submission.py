"""What a submission takes and gives, for handlers (``job.submit``) and clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

from pydantic import BaseModel, JsonValue
from typing_extensions import Unpack

from consumer.functions.parameters import FunctionParams


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that MPS has accepted.

    Args:
        number: The submission's number in the store.
        request_id: Of MPS's answer.
        ref: The caller's idempotency key, or a random one.
        queue: The identity of the queue that handles its end.
        is_new: Whether this call sent it; ``False``: an earlier one with the same ``ref`` did.
        warnings: What is allowed and probably not meant.
    """

    job_id: str
    function: str
    number: int
    ref: str
    queue: str
    request_id: str | None = None
    is_new: bool = True
    warnings: Sequence[str] = ()


class RequestOptions(TypedDict, total=False):
    """What a submission may have beside its parameters.

    ``user_data`` is text, or what is written as JSON: an object, a list, a pydantic model. ``notify_url`` is by default
    the queue of the settings; ``""`` asks for no notification. ``force`` sends a request that breaks an inferred rule.
    """

    input: str | None
    output: str | None
    user_data: str | Mapping[str, JsonValue] | Sequence[JsonValue] | BaseModel | None
    notify_url: str | None
    pipeline_id: str | None
    model_id: str | None
    schedule_params: str | None
    force: bool


class SubmitsJobs(Protocol):
    """What ``job.submit`` needs of the daemon."""

    async def submit(
        self,
        params: FunctionParams | str,
        given: Mapping[str, JsonValue] | None = None,
        /,
        *,
        ref: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> SubmittedJob:
        """Submit a job once; a second call with the same ``ref`` returns the first job."""
