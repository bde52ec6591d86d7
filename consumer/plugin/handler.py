"""Make a handler of a function: its name, its limits, and the types that its annotation asks for.

    @handler("Cover", timeout_s=30)
    async def cover(job: Job[CoverResult, MyUserData]) -> None: ...

The decorator only leaves a note on the function. The registry reads the notes of the modules that it loads.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Generic, TypeAlias, TypeVar

from pydantic import JsonValue, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from consumer.errors import HandlersError
from consumer.plugin.job import Job
from consumer.policy import MAX_HIDE_S

HandlerFunction: TypeAlias = Callable[[Job[Any, Any]], Awaitable[object]] | Callable[[Job[Any, Any]], object]
FunctionT = TypeVar("FunctionT", bound=Callable[..., object])
ParsedT = TypeVar("ParsedT")

ANY_NAME: Final = "*"
"""The name of the handler for every message that has no other."""
_NOTE: Final = "__mns_consumer_handlers__"
_MAX_CONCURRENCY: Final = 1024


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
        self.name = repr(annotation)
        self._adapter: TypeAdapter[ParsedT] = TypeAdapter(annotation)
        self._adapter.rebuild(raise_errors=True)

    def validate(self, value: JsonValue) -> ParsedT:
        """Turn decoded JSON into the type; ``Any`` takes it as it is.

        Raises:
            pydantic.ValidationError: It does not fit.
        """
        return self._adapter.validate_python(value)


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
        result: The result's type; ``None`` if it asks for no result.
        user_data: UserData's type; ``None`` if it takes UserData as decoded.
        origin: ``path:line`` of the function.
        strength: The kind of its source.
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
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError) as error:
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
