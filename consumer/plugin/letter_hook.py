"""The hook of dead letters: what it receives, and how a function becomes one.

    @on_dead_letter
    async def notify(letter: Letter) -> None: ...

It is called for each dead letter once the letter is stored. The daemon has one: which of several is decided as for two
handlers of one name. The decorator only leaves a note on the function, as ``@handler`` does.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias, overload

from pydantic import JsonValue
from typing_extensions import TypeVar

from consumer.errors import HandlersError
from consumer.plugin.handler import Strength, origin_of

_NOTE: Final = "__mns_consumer_letter_hook__"
_TIMEOUT_S: Final = 30.0
_MOST_S: Final = 600.0


# Without slots, as ``Job``.
@dataclass(frozen=True, kw_only=True)
class Letter:
    """One dead letter: a message that was set aside.

    Args:
        id: Its number, as ``mns-consumer dead-letters show`` takes it; never that of another letter.
        reason: Why it was set aside, such as ``exhausted``; docs/dead-letters.md lists them.
        error: One sentence: what was expected, what came.
        function: FunctionName; ``""`` where the message could not be read.
        job_id: JobId (RunId of a workflow); ``""`` where it is unknown.
        queue: The queue's name, as in ``Job``.
        state: State as it came, such as ``Fail``; ``""`` where it is unknown.
        code: MPS's code of a job that failed, and ``message`` its text.
        user_data: UserData: a decoded JSON object or array, or the text, or ``None``.
        traceback: Of what the handler raised.
        attempts: Runs of the handler.
        body: The raw bytes as MNS returned them.
    """

    id: int
    reason: str
    error: str
    function: str
    job_id: str
    queue: str
    state: str
    code: str | None
    message: str | None
    user_data: JsonValue
    traceback: str | None = field(repr=False)
    attempts: int
    body: bytes = field(repr=False)
    message_id: str
    stored_at: datetime


LetterHookFunction: TypeAlias = Callable[[Letter], Awaitable[object]]
HookT = TypeVar("HookT", bound=LetterHookFunction)


@dataclass(frozen=True, slots=True)
class LetterHook:
    """The hook, ready to be called; ``origin`` and ``provider`` as those of a handler."""

    function: LetterHookFunction
    timeout_s: float
    origin: str
    strength: Strength
    provider: str


@overload
def on_dead_letter(function: HookT, /) -> HookT: ...
@overload
def on_dead_letter(*, timeout_s: float = ...) -> Callable[[HookT], HookT]: ...
def on_dead_letter(
    function: HookT | None = None, /, *, timeout_s: float = _TIMEOUT_S
) -> HookT | Callable[[HookT], HookT]:
    """Mark an async function as the hook that is called for each dead letter. The function itself stays as it is.

    Args:
        function: The function, where the decorator is written without parentheses.
        timeout_s: Seconds for one call, up to 600, after which it is cancelled and counts as failed.

    Raises:
        ValueError: ``timeout_s`` is out of range.
    """
    if not 0 < timeout_s <= _MOST_S:
        raise ValueError(f"@on_dead_letter(timeout_s={timeout_s!r}): expected seconds above 0, up to {_MOST_S:g}")

    def mark(marked: HookT) -> HookT:
        if not callable(marked):
            raise TypeError(f"@on_dead_letter: expected a function, got {marked!r}")
        setattr(marked, _NOTE, timeout_s)
        return marked

    return mark if function is None else mark(function)


def is_letter_hook(function: object) -> bool:
    """Whether ``@on_dead_letter`` has marked this very object."""
    return _NOTE in getattr(function, "__dict__", {})


def build_letter_hook(
    function: Callable[..., Any], *, strength: Strength = Strength.DIRECTORY, provider: str = ""
) -> LetterHook:
    """Check a marked function.

    Raises:
        HandlersError: It is not async, or can't be called with one ``Letter``.
    """
    origin = origin_of(function)
    what = f"{origin}: the function of @on_dead_letter"
    example = f"`async def {getattr(function, '__name__', 'notify')}(letter: Letter) -> None`"
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))):
        raise HandlersError(f"{what} must be async; expected {example}")
    signature = inspect.signature(function)
    try:
        signature.bind(object())
    except TypeError as error:
        raise HandlersError(
            f"{what} must be callable with one letter, as in {example}; its signature is {signature} ({error})"
        ) from None
    try:
        hints = typing.get_type_hints(inspect.unwrap(function))
    except Exception as error:
        raise HandlersError(
            f"{what} has annotations that can't be evaluated: {type(error).__name__}: {error}"
        ) from error
    annotation = hints.get(next(iter(signature.parameters)), Letter)
    if annotation is not Letter:
        raise HandlersError(f"{what} takes {annotation!r}; expected {example}, with Letter of mns_consumer")
    return LetterHook(
        function=function,
        timeout_s=getattr(function, _NOTE, _TIMEOUT_S),
        origin=origin,
        strength=strength,
        provider=provider,
    )
