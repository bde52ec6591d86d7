"""What a handler gets, and what it may raise.

A handler sees one ``Job`` and nothing of queues, leases or ledgers. What it returns is ignored; how it
ends is the answer:

    returns          the job is done, its message is deleted
    raises Reject    set aside for good, with the reason given
    raises Retry     comes back after the time given, and counts as one failure
    raises JobFailed set aside with the job's own code and message
    raises else      comes back by the retry policy, and counts as one failure

Elsewhere: what each end leads to (``engine.outcome``), how a function becomes a handler
(``plugin.handler``).
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


class Reject(Exception):  # noqa: N818 - an order to the daemon, not a fault: it reads as one where it is raised
    """Raised by a handler: this job will never succeed, set its message aside.

    Args:
        reason: One sentence for the person who looks through the dead letters.
    """

    def __init__(self, reason: str = "the handler gave no reason") -> None:
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 - as above
    """Raised by a handler: not now, come back later.

    Args:
        reason: One sentence for the log.
        after_s: Seconds until the next run, in [0, 43200] (MNS waits 1 at least); ``None`` leaves it to the policy.

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
    """The job itself failed; raised by reading ``job.result`` of a failed job.

    Args:
        code: MPS's code; ``None`` where it gave none.
        message: MPS's wording; ``None`` where it gave none.
    """

    def __init__(self, code: str | None, message: str | None) -> None:
        super().__init__(f"the job failed with code {code or 'none'}: {message or 'no message'}")
        self.code = code
        self.message = message


class ResultNotWantedError(Exception):
    """``job.result`` was read by a handler whose annotation asks for none; a mistake in the handler."""


class _NotWanted:
    """Stands where a result would be if the handler had asked for one."""

    def __repr__(self) -> str:
        return "<no result: the handler's annotation asks for none>"


NOT_WANTED: Final = _NotWanted()


# Without slots: typing notes the parameters of ``Job[int](...)`` on the instance, and with them that is an error.
@dataclass(frozen=True, kw_only=True)
class Job(Generic[ResultT, UserDataT]):
    """One ended job, as its handler sees it.

    ``Job[CoverResult, MyUserData]`` in the handler's annotation asks for a result of the first type (fetched from
    MPS and validated before the call) and for UserData of the second. ``Job[None, MyUserData]`` and a bare ``Job``
    ask for no result; then MPS is asked only where a job is said to have failed, or where ``verify`` says so.

    Args:
        function: FunctionName, or the message kind's name for jobs of other kinds.
        job_id: JobId (RunId of a workflow); ``""`` where the message has none.
        state: The state as it came, such as ``Success`` or ``Fail``.
        failed: Whether the job failed.
        code: MPS's code.
        message: MPS's wording.
        user_data: UserData, validated where the annotation names a type; else a decoded JSON object or array, else
            the text, else ``None``.
        input: The job's Input, ``oss://...``; ``None`` unless MPS was asked.
        output: The file URL or template that the job was given as Output; for the functions that name no file in
            their result. ``None`` unless MPS was asked.
        attempt: Which run of the handler this is, from 1 (its failures so far + 1).
        queue: The queue's name.
        message_id: MNS's MessageId.
        document: The notification as JSON, as it came.
        kind: Which message it is: ``IProduction``, or the kind's name. Only ``IProduction`` can be checked with MPS.
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
            JobFailed: The job failed; a handler that cares asks ``job.failed`` first.
            ResultNotWantedError: The handler's annotation asks for no result.
        """
        if self.failed:
            raise JobFailed(self.code, self.message)
        if isinstance(self.result_or_none, _NotWanted):
            raise ResultNotWantedError(
                f"the handler for {self.function!r} reads job.result but asks for none; "
                "annotate its parameter, as in Job[CoverResult], or Job[Any] for the bare JSON"
            )
        # A model may well be Optional: None is then a result like any other.
        return self.result_or_none  # type: ignore[return-value]  # ResultT may include None

    @property
    def failure(self) -> dict[str, str | None]:
        """What a log line should say of a failed job: ``log.warning("job failed", **job.failure)``.

        Returns:
            ``function``, ``job_id``, and MPS's ``code`` and ``message``; of a job that succeeded likewise.
        """
        return {"function": self.function, "job_id": self.job_id, "code": self.code, "message": self.message}
