"""What a handler receives, and what it may raise.

    returns           the job is done, its message is deleted
    raises Reject     the message is set aside, with the reason given
    raises Retry      the handler runs again after the time given; counts as one failure
    raises JobFailed  the message is set aside with the job's own code and message
    raises else       the handler runs again by the retry policy; counts as one failure

The return value is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic

from pydantic import JsonValue
from typing_extensions import TypeVar

from consumer.policy import MAX_HIDE_S

ResultT = TypeVar("ResultT", default=Any)
UserDataT = TypeVar("UserDataT", default=Any)


class Reject(Exception):  # noqa: N818 - an order to the daemon, not an error
    """Raised by a handler: the job will never succeed, set its message aside. ``reason`` is for the operators."""

    def __init__(self, reason: str = "the handler gave no reason") -> None:
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 - as above
    """Raised by a handler: run again later.

    Args:
        reason: For the log.
        after_s: Seconds until the next run, from 0 to 43200; below 1 MNS waits 1. ``None`` leaves it to the policy.

    Raises:
        ValueError: ``after_s`` is out of range.

    Source: facts/mns.md#change-message-visibility.
    """

    def __init__(self, reason: str = "the handler asked for it", *, after_s: float | None = None) -> None:
        if after_s is not None and not 0 <= after_s <= MAX_HIDE_S:
            raise ValueError(f"Retry(after_s={after_s!r}): expected seconds from 0 to {MAX_HIDE_S}, MNS's maximum")
        super().__init__(reason)
        self.after_s = after_s


class JobFailed(Exception):  # noqa: N818 - the job failed, not the program
    """The job itself failed, with MPS's code and message; raised by reading ``job.result`` of a failed job."""

    def __init__(self, code: str | None, message: str | None) -> None:
        super().__init__(f"the job failed with code {code or 'none'}: {message or 'no message'}")
        self.code = code
        self.message = message


class ResultNotWantedError(Exception):
    """A handler reads ``job.result`` although its annotation asks for none: a mistake in the handler."""


class _NotWanted:
    """Stands in for a result that the handler did not ask for."""

    def __repr__(self) -> str:
        return "<no result: the handler's annotation asks for none>"


NOT_WANTED: Final = _NotWanted()


# Without slots: typing sets the parameters of ``Job[int](...)`` on the instance, which slots refuse.
@dataclass(frozen=True, kw_only=True)
class Job(Generic[ResultT, UserDataT]):
    """One ended job.

    ``Job[CoverResult, MyUserData]`` in the handler's annotation asks for a result of the first type, fetched from MPS
    and validated before the call, and for UserData of the second. ``Job[None, MyUserData]`` and a bare ``Job`` ask for
    no result; then MPS is asked only if the message says that the job failed, or if the setting ``verify`` demands it.

    Args:
        function: FunctionName; the kind's name for messages of other kinds.
        job_id: JobId (RunId of a workflow); ``""`` if the message has none.
        state: State as it came, such as ``Success`` or ``Fail``.
        user_data: UserData, validated if the annotation names a type; otherwise a decoded JSON object or array, or the
            text, or ``None``.
        input: The job's Input; ``None`` unless MPS was asked.
        output: The job's Output, a URL or a template whose placeholders MPS does not replace; ``None`` unless MPS was
            asked.
        attempt: Number of this run of the handler, from 1.
        document: The notification as JSON, as it came.
        kind: ``IProduction``, or the name of another kind of message, which MPS can't be asked about.
    """

    function: str
    job_id: str
    state: str
    failed: bool
    code: str | None
    message: str | None
    user_data: UserDataT
    input: str | None = None
    output: str | None = None
    attempt: int = 1
    queue: str = ""
    message_id: str = ""
    document: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    kind: str = "IProduction"
    result_or_none: ResultT | _NotWanted | None = field(default=NOT_WANTED, repr=False)

    @property
    def result(self) -> ResultT:
        """The job's result.

        Raises:
            JobFailed: The job failed; read ``job.failed`` first to handle that.
            ResultNotWantedError: The handler's annotation asks for no result.
        """
        if self.failed:
            raise JobFailed(self.code, self.message)
        if isinstance(self.result_or_none, _NotWanted):
            raise ResultNotWantedError(
                f"the handler for {self.function!r} reads job.result but asks for none; "
                "annotate its parameter, as in Job[CoverResult], or Job[Any] for the bare JSON"
            )
        # ``None`` is a result like any other if the model is optional.
        return self.result_or_none  # type: ignore[return-value]  # ResultT may include None

    @property
    def failure(self) -> dict[str, str | None]:
        """Fields for a log line about a failed job: ``log.warning("job failed", **job.failure)``."""
        return {"function": self.function, "job_id": self.job_id, "code": self.code, "message": self.message}
