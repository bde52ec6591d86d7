"""Make a handler of a function: its name, its limits, and what its annotation asks for.

    @handler("Cover", timeout_s=30)
    async def cover(job: Job[CoverResult, MyUserData]) -> None: ...

The decorator only leaves a note on the function; nothing is registered by being imported. The registry
reads the notes of the modules that it was told to look at (``plugin.registry``).

Elsewhere: calling a handler within its limits (``engine.invoke``).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from pydantic import JsonValue, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from consumer.errors import HandlersError
from consumer.plugin.job import Job
from consumer.policy import MAX_HIDE_S

HandlerFunction: TypeAlias = Callable[[Job[Any, Any]], Awaitable[object]] | Callable[[Job[Any, Any]], object]
FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

ANY_NAME: Final = "*"
"""The name of the handler that takes whatever has none of its own."""
_NOTE: Final = "__mns_consumer_handlers__"
_MAX_CONCURRENCY: Final = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a handler says of itself; ``None`` leaves the daemon's setting in force.

    Args:
        timeout_s: Seconds for one run, after which it counts as failed.
        concurrency: Runs at once in this process, from 1 to 1024.
        max_hold_s: The most that its message is held in one run, in seconds.
        max_failures: Failures after which its message is set aside.
    """

    timeout_s: float | None = None
    concurrency: int | None = None
    max_hold_s: float | None = None
    max_failures: int | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be meant, where it is written: with the handler's own line in the traceback."""
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


ParsedT = TypeVar("ParsedT")


class Wanted(Generic[ParsedT]):
    """A type that an annotation asks for, ready to validate with.

    Args:
        annotation: The type as written.
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.name = repr(annotation)
        """How errors name it. Made at the start, so that a type that can not be shown fails there."""
        # Nothing to validate: whatever came is handed on, so its adapter would be work for nothing.
        self._adapter: TypeAdapter[ParsedT] | None = None if annotation is Any else TypeAdapter(annotation)
        if self._adapter is not None and not self._adapter.pydantic_complete:
            # A model that names something unknown would fail at the first message: better now, by its name.
            self._adapter.rebuild(force=True, raise_errors=True)

    def validate(self, value: JsonValue) -> ParsedT:
        """Turn decoded JSON into the type.

        Raises:
            pydantic.ValidationError: It does not fit.
        """
        if self._adapter is None:
            return typing.cast("ParsedT", value)
        return self._adapter.validate_python(value)


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler, ready to be called.

    Args:
        name: FunctionName, a message kind's name, or ``*``.
        function: The user's function.
        is_async: Whether it is awaited; plain functions run in a worker thread.
        limits: What it says of itself.
        result: The result's type; ``None`` when it wants no result.
        user_data: UserData's type; ``None`` when it takes UserData as decoded.
        origin: ``path:line`` of the function, for errors and listings.
    """

    name: str
    function: HandlerFunction
    is_async: bool
    limits: Limits
    result: Wanted[Any] | None
    user_data: Wanted[Any] | None
    origin: str


def handler(
    name: str,
    *,
    timeout_s: float | None = None,
    concurrency: int | None = None,
    max_hold_s: float | None = None,
    max_failures: int | None = None,
) -> Callable[[FunctionT], FunctionT]:
    """Mark a function as the handler of a FunctionName.

    Args:
        name: The FunctionName (``Cover``), the name of another message kind (``Transcode``), or ``*`` for
            whatever has no handler of its own.
        timeout_s: Seconds for one run; default: the setting ``handler_timeout_s``.
        concurrency: Runs at once in this process; default: as many as there are slots.
        max_hold_s: The most that its message is held in one run; default: the setting ``max_hold_s``.
        max_failures: Failures after which its message is set aside; default: the setting ``max_failures``.

    Returns:
        The function, unchanged.

    Raises:
        ValueError: The name is empty or a limit is out of range.
    """
    # A decorator without its parentheses gets the function as its name.
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
    """The notes that ``@handler`` left on a function, innermost first; none on anything else."""
    # Of the object itself: an instance or a mock must not seem marked because its class answers to any name.
    found = getattr(function, "__dict__", {}).get(_NOTE, ())
    return found if isinstance(found, tuple) else ()


def origin_of(function: object) -> str:
    """``path:line`` of a function, as far as it can be told."""
    target = inspect.unwrap(function) if callable(function) else function
    code = getattr(target, "__code__", None)
    return "unknown place" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def build(function: HandlerFunction, note: Note) -> Handler:
    """Read a marked function's signature and annotation.

    Raises:
        HandlersError: The function can't be called with one job, or its annotation can't be understood; the text
            names its path and line.
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
    first = next(iter(signature.parameters))
    return hints.get(first, inspect.Parameter.empty)
