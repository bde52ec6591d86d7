"""A handler: what it receives, what it may raise, and how a function becomes one.

    @handler("Cover", timeout_s=30)
    async def cover(job: Job[CoverResult, MyUserData]) -> None: ...

    returns           the job is done, its message is deleted
    raises Reject     the message is set aside, with the reason given
    raises Retry      the handler runs again after the time given; counts as one failure, unless ``counts=False``
    raises Wait       the handler runs again at the time given; counts as no failure
    raises JobFailed  the message is set aside with the job's own code and message
    raises else       the handler runs again by the retry policy; counts as one failure

The return value is ignored. The decorator only leaves a note on the function; the registry reads the notes of the
modules that it loads.
"""

from __future__ import annotations

import inspect
import sys
import time
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, Generic, TypeAlias

from pydantic import JsonValue, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from typing_extensions import TypeVar, Unpack

from consumer.errors import HandlersError
from consumer.functions.parameters import FunctionParams
from consumer.plugin.submission import RequestOptions, SubmitsJobs, SubmittedJob
from consumer.policy import MAX_HIDE_S

ResultT = TypeVar("ResultT", default=Any)
UserDataT = TypeVar("UserDataT", default=Any)
FunctionT = TypeVar("FunctionT", bound=Callable[..., object])
ParsedT = TypeVar("ParsedT")

ANY_NAME: Final = "*"
"""The name of the handler for every message that has no other."""
_NOTE: Final = "__mns_consumer_handlers__"
_MAX_CONCURRENCY: Final = 1024


class Reject(Exception):  # noqa: N818 - an order to the daemon, not an error
    """Raised by a handler: the job will never succeed, set its message aside. ``reason`` is for the operators."""

    def __init__(self, reason: str = "the handler gave no reason") -> None:
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 - as above
    """Raised by a handler: run again later.

    Args:
        reason: For the log.
        after_s: Seconds until the next run, from 0 to 43200; below 1 MNS waits 1. ``None`` leaves it to the policy.
        counts: It counts as a failure. Otherwise it may be raised any number of times, until the message is too old.

    Raises:
        ValueError: ``after_s`` is out of range.

    Source: facts/mns.md#change-message-visibility.
    """

    def __init__(
        self, reason: str = "the handler asked for it", *, after_s: float | None = None, counts: bool = True
    ) -> None:
        if after_s is not None and not 0 <= after_s <= MAX_HIDE_S:
            raise ValueError(f"Retry(after_s={after_s!r}): expected seconds from 0 to {MAX_HIDE_S}, MNS's maximum")
        super().__init__(reason)
        self.after_s = after_s
        self.counts = counts


class Wait(Retry):
    """Raised by a handler: it is too early, run again then. It counts as no failure.

    Args:
        reason: For the log.
        until: When, with a time zone. MNS hides a message for at most 12 h: for a later time the handler runs every
            12 h, and raises it again.

    Raises:
        ValueError: ``until`` has no time zone.
    """

    def __init__(self, reason: str = "the handler waits", *, until: datetime) -> None:
        if until.utcoffset() is None:
            raise ValueError(
                f"Wait(until={until!r}): expected a time with a time zone, as datetime.now(UTC) + timedelta(hours=1)"
            )
        super().__init__(reason, after_s=min(max(until.timestamp() - time.time(), 0.0), MAX_HIDE_S), counts=False)


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
        user_data_text: UserData as it came.
        submitter: Sends what ``submit`` submits; the daemon's.
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
    user_data_text: str | None = field(default=None, repr=False)
    submitter: SubmitsJobs | None = field(default=None, repr=False, compare=False)

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

    async def submit(
        self,
        params: FunctionParams | str,
        given: Mapping[str, JsonValue] | None = None,
        /,
        *,
        key: str,
        **options: Unpack[RequestOptions],
    ) -> SubmittedJob:
        """Submit a job that follows this one, once: however often the handler runs, the same ``key`` is the same job.

        Args:
            params: The parameters' model, which names the function; or a FunctionName.
            given: The parameters, where ``params`` is a FunctionName.
            key: What this submission is for, such as ``cartoon``; one handler may submit several.
            options: UserData is by default this job's, and the notification goes to this job's queue.

        Raises:
            consumer.submissions.submitter.RequestRefusedError: The request breaks a rule; nothing was sent.
            consumer.submissions.submitter.SubmissionUnknown: No answer came, now or in an earlier run: the job may
                exist, and is not sent again.
            CloudError: MPS refused it, or could not be reached: the next run sends it.
            StoreError: It could not be recorded, and was not sent.
        """
        if self.submitter is None:
            raise RuntimeError("job.submit: this job does not come from a daemon, so it can submit nothing")
        options.setdefault("user_data", self.user_data_text)
        return await self.submitter.submit(params, given, ref=f"{self.job_id or self.message_id}/{key}", **options)

    @property
    def failure(self) -> dict[str, str | None]:
        """Fields for a log line about a failed job: ``log.warning("job failed", **job.failure)``."""
        return {"function": self.function, "job_id": self.job_id, "code": self.code, "message": self.message}


HandlerFunction: TypeAlias = Callable[[Job[Any, Any]], Awaitable[object]] | Callable[[Job[Any, Any]], object]


@dataclass(frozen=True, slots=True)
class Limits:
    """A handler's own limits, see ``handler``; ``None`` leaves the daemon's setting in force."""

    timeout_s: float | None = None
    concurrency: int | None = None
    max_hold_s: float | None = None
    max_failures: int | None = None

    def __post_init__(self) -> None:
        """Check each range while the decorator runs, so that the traceback names the handler's own line."""
        _in_range("timeout_s", self.timeout_s, 0.001, MAX_HIDE_S, "seconds")
        _in_range("concurrency", self.concurrency, 1, _MAX_CONCURRENCY, "runs at once", whole=True)
        _in_range("max_hold_s", self.max_hold_s, 1, MAX_HIDE_S, "seconds")
        _in_range("max_failures", self.max_failures, 1, 1_000_000, "failures", whole=True)


def _in_range(name: str, value: float | None, low: float, high: float, unit: str, *, whole: bool = False) -> None:
    if value is not None and (not low <= value <= high or (whole and value != int(value))):
        raise ValueError(f"@handler({name}={value!r}): expected {unit} from {low} to {high}")


@dataclass(frozen=True, slots=True)
class Note:
    """What ``@handler`` leaves on a function."""

    name: str
    limits: Limits


class Wanted(Generic[ParsedT]):
    """A type that an annotation asks for, with its validator."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        # Both fail here and not with the first message: a repr that raises, and a model that names something unknown.
        self.name = _written(annotation)
        """As its author knows it: ``Film (/etc/mns-consumer/films/film.py)``, ``list[int]``."""
        self._adapter: TypeAdapter[ParsedT] = TypeAdapter(annotation)
        self._adapter.rebuild(raise_errors=True)

    def validate(self, value: JsonValue) -> ParsedT:
        """Turn decoded JSON into the type; ``Any`` takes it as it is.

        Raises:
            pydantic.ValidationError: It does not fit.
        """
        return self._adapter.validate_python(value)


def _written(annotation: Any) -> str:
    if not isinstance(annotation, type) or typing.get_origin(annotation) is not None:
        return repr(annotation)
    # Not the module's name, which for a drop-in file is one of ours.
    file = getattr(sys.modules.get(annotation.__module__), "__file__", None)
    return annotation.__qualname__ if file is None else f"{annotation.__qualname__} ({file})"


class Strength(IntEnum):
    """The kind of source that a handler comes from; for the same name the larger wins."""

    SHIPPED = 1
    ENTRY_POINT = 2
    IMPORT_PATH = 3
    DIRECTORY = 4


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler, ready to be called.

    Args:
        is_async: Whether it is awaited; a plain function runs in a worker thread.
        result: ``None`` if it asks for no result.
        user_data: ``None`` if it takes UserData as decoded.
        origin: ``path:line`` of the function.
        provider: Its folder, its import path, or its distribution with the version.
    """

    name: str
    function: HandlerFunction
    is_async: bool
    limits: Limits
    result: Wanted[Any] | None
    user_data: Wanted[Any] | None
    origin: str
    strength: Strength
    provider: str

    @property
    def file(self) -> str:
        """The file of the function."""
        return self.origin.rpartition(":")[0]


def handler(
    name: str,
    *,
    timeout_s: float | None = None,
    concurrency: int | None = None,
    max_hold_s: float | None = None,
    max_failures: int | None = None,
) -> Callable[[FunctionT], FunctionT]:
    """Mark a function as the handler of a FunctionName. The function itself stays as it is.

    Args:
        name: The FunctionName (``Cover``), the name of another kind of message (``Transcode``), or ``*`` for every
            message that has no handler of its own.
        timeout_s: Seconds for one run, after which it counts as failed; default: the setting ``handler_timeout_s``.
        concurrency: Runs at once in this process, up to 1024; default: the number of slots.
        max_hold_s: Seconds for which the lease is renewed in one run; default: the setting ``max_hold_s``.
        max_failures: Failures after which the message is set aside; default: the setting ``max_failures``.

    Raises:
        ValueError: The name is empty or a limit is out of range.
    """
    # ``@handler`` without parentheses passes the function as the name.
    if not isinstance(name, str) or not name or name != name.strip():  # type: ignore[redundant-expr]  # as said
        raise ValueError(f"@handler({name!r}): expected a FunctionName such as 'Cover', or '*' for all the rest")
    note = Note(name, Limits(timeout_s, concurrency, max_hold_s, max_failures))

    def mark(function: FunctionT) -> FunctionT:
        if not callable(function):
            raise TypeError(f"@handler({name!r}): expected a function, got {function!r}")
        setattr(function, _NOTE, (*notes(function), note))
        return function

    return mark


def notes(function: object) -> tuple[Note, ...]:
    """The notes that ``@handler`` left on this very object, innermost first."""
    # Not by getattr: an object that answers to any attribute name, such as a mock, is not marked.
    found = getattr(function, "__dict__", {}).get(_NOTE, ())
    return found if isinstance(found, tuple) else ()


def origin_of(function: object) -> str:
    """``path:line`` of a function, behind its wrappers."""
    target = inspect.unwrap(function) if callable(function) else function
    code = getattr(target, "__code__", None)
    return "unknown place" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def build(
    function: HandlerFunction, note: Note, *, strength: Strength = Strength.DIRECTORY, provider: str = ""
) -> Handler:
    """Read a marked function's signature and annotation.

    Raises:
        HandlersError: The function can't be called with one job, or its annotation is none that a handler may have.
    """
    origin = origin_of(function)
    inner = inspect.unwrap(function)
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (function, inner)):
        raise HandlersError(
            f"{origin}: the handler for {note.name!r} must not yield: called, a generator does nothing; "
            "expected `async def` or `def` that does the work and returns"
        )
    result, user_data = _wanted(function, note.name, origin)
    return Handler(
        name=note.name,
        function=function,
        is_async=inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inner),
        limits=note.limits,
        result=result,
        user_data=user_data,
        origin=origin,
        strength=strength,
        provider=provider,
    )


def _wanted(function: HandlerFunction, name: str, origin: str) -> tuple[Wanted[Any] | None, Wanted[Any] | None]:
    annotation = _job_annotation(function, name, origin)
    if annotation is Job or annotation is inspect.Parameter.empty:
        return None, None
    if typing.get_origin(annotation) is not Job:
        raise HandlersError(
            f"{origin}: the handler for {name!r} takes {annotation!r}; "
            "expected Job, Job[Result] or Job[Result, UserData]"
        )
    result_type, *rest = typing.get_args(annotation)
    user_data_type = rest[0] if rest else Any
    try:
        return (
            None if result_type in {None, type(None)} else Wanted(result_type),
            None if user_data_type is Any else Wanted(user_data_type),
        )
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        problem = str(error).splitlines()[0]
        raise HandlersError(
            f"{origin}: the handler for {name!r} asks for a type that pydantic can't validate: {problem}"
        ) from error


def _job_annotation(function: HandlerFunction, name: str, origin: str) -> Any:
    signature = inspect.signature(function)
    try:
        signature.bind(object())
    except TypeError as error:
        raise HandlersError(
            f"{origin}: the handler for {name!r} must be callable with one job, as in "
            f"`async def {getattr(function, '__name__', 'handle')}(job: Job)`; its signature is {signature} ({error})"
        ) from None
    try:
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception as error:
        raise HandlersError(
            f"{origin}: the annotations of the handler for {name!r} can't be evaluated: {type(error).__name__}: {error}"
        ) from error
    return hints.get(next(iter(signature.parameters)), inspect.Parameter.empty)
