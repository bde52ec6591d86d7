"""How a function becomes a handler: its name, its limits, its kind, and the types that its annotation asks for."""

from __future__ import annotations

import functools
import inspect
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel, Field, JsonValue, ValidationError

from consumer.errors import HandlersError
from consumer.plugin.handler import Handler, Limits, Note, build, notes, origin_of
from mns_consumer import Job, handler


class Still(BaseModel):
    """A result's model."""

    score: float


class Owner(BaseModel):
    """A UserData model."""

    user: int


async def bare(job: Job) -> None: ...
async def unannotated(job): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - the case in question
async def result_only(job: Job[Still]) -> None: ...
async def both(job: Job[Still, Owner]) -> None: ...
async def data_only(job: Job[None, Owner]) -> None: ...
async def anything(job: Job[Any]) -> None: ...
async def anything_twice(job: Job[Any, Any]) -> None: ...
async def many(job: Job[list[Still], dict[str, int]]) -> None: ...
async def optional(job: Job[Still | None]) -> None: ...
async def constrained(job: Job[Annotated[list[Still], Field(min_length=1)]]) -> None: ...


async def wrong_type(job: str) -> None: ...
async def maybe_job(job: Job[Still] | None) -> None: ...
async def of_a_model(job: Still) -> None: ...
async def unknown_name(job: Job[Missing]) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the case in question
async def no_schema(job: Job[inspect.Signature]) -> None: ...
async def no_parameter() -> None: ...
async def two_parameters(job: Job, other: int) -> None: ...
async def keyword_only(*, job: Job) -> None: ...


async def generates(job: Job) -> AsyncIterator[int]:
    yield 1


def generates_plainly(job: Job) -> Iterator[int]:
    yield 1


class Song(TypedDict):
    """UserData by a type that pydantic takes from Python 3.12 on."""

    song: int


async def typed_dict(job: Job[None, Song]) -> None:
    """Asks for it."""


def made(function: Any, **limits: Any) -> Handler:
    return build(function, Note("Cover", Limits(**limits)))


@pytest.mark.parametrize(
    ("function", "result", "user_data"),
    [
        pytest.param(bare, None, None, id="Job"),
        pytest.param(unannotated, None, None, id="none"),
        pytest.param(result_only, Still, None, id="Job[R]"),
        pytest.param(both, Still, Owner, id="Job[R, U]"),
        pytest.param(data_only, None, Owner, id="Job[None, U]"),
        pytest.param(anything, Any, None, id="Job[Any]"),
        pytest.param(anything_twice, Any, None, id="Job[Any, Any]"),
        pytest.param(many, list[Still], dict[str, int], id="containers"),
        pytest.param(optional, Still | None, None, id="optional result"),
    ],
)
def test_the_annotation_says_what_is_wanted(function: object, result: object, user_data: object) -> None:
    """The first type of ``Job[...]`` is the result's, the second is UserData's; a bare ``Job`` asks for neither."""
    held = made(function)
    assert (held.result and held.result.annotation, held.result is None) == (result, result is None)
    assert (held.user_data and held.user_data.annotation, held.user_data is None) == (user_data, user_data is None)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        pytest.param(wrong_type, "takes <class 'str'>; expected Job, Job[Result] or Job[Result, UserData]", id="str"),
        pytest.param(maybe_job, "expected Job, Job[Result] or Job[Result, UserData]", id="optional job"),
        pytest.param(of_a_model, "expected Job, Job[Result] or Job[Result, UserData]", id="the model without Job"),
        pytest.param(unknown_name, "can't be evaluated: NameError: name 'Missing' is not defined", id="unknown name"),
        pytest.param(no_schema, "asks for a type that pydantic can't validate", id="no schema"),
        pytest.param(
            typed_dict,
            "asks for a type that pydantic can't validate: Please use `typing_extensions.TypedDict`",
            id="a TypedDict of Python's own",
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on it can be validated"),
        ),
        pytest.param(
            no_parameter, "must be callable with one job, as in `async def no_parameter(job: Job)`", id="none"
        ),
        pytest.param(two_parameters, "must be callable with one job", id="two parameters"),
        pytest.param(keyword_only, "must be callable with one job", id="keyword only"),
        pytest.param(generates, "yield", id="async generator"),
        pytest.param(generates_plainly, "yield", id="generator"),
    ],
)
def test_what_cannot_be_called_or_understood_is_refused_at_start(function: object, error: str) -> None:
    """A function that can't be called with one job is refused, with its path, line, name and what was expected."""
    with pytest.raises(HandlersError) as caught:
        made(function)
    text = str(caught.value)
    assert text.startswith(f"{origin_of(function)}: the")
    assert "'Cover'" in text
    assert error in text


def test_a_model_that_is_not_finished_is_refused_at_start() -> None:
    """A model whose annotations name something unknown fails at the start, not at the first message."""
    space: dict[str, Any] = {}
    source = """
        from pydantic import BaseModel
        from mns_consumer import Job
        class Half(BaseModel):
            other: "Nowhere"
        async def half(job: Job[Half]) -> None: ...
    """
    exec(textwrap.dedent(source), space)  # noqa: S102 - the name must be unknown to linters and checkers too
    with pytest.raises(HandlersError, match="pydantic can't validate"):
        made(space["half"])


def test_validating() -> None:
    """Decoded JSON becomes the wanted type or a validation error; ``Any`` takes it untouched."""
    held, untouched = made(both), made(anything)
    assert held.result is not None
    assert untouched.result is not None
    assert held.result.validate({"score": 2}) == Still(score=2)
    with pytest.raises(ValidationError):
        held.result.validate({"score": "high"})
    value: JsonValue = {"a": [1, {"b": None}]}
    assert untouched.result.validate(value) is value


def test_a_constraint_in_the_annotation_holds() -> None:
    """The constraint of an ``Annotated`` type is checked."""
    held = made(constrained)
    assert held.result is not None
    assert held.result.validate([{"score": 1}]) == [Still(score=1)]
    with pytest.raises(ValidationError, match="at least 1 item"):
        held.result.validate([])


def through(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper that hands the call on, as user code often has one."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


def awaiting(function: Callable[..., Any]) -> Callable[..., Awaitable[object]]:
    """An async wrapper around a plain function."""

    @functools.wraps(function)
    async def call(*args: Any) -> object:
        return function(*args)

    return call


def plain(job: Job[Still]) -> None: ...


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        pytest.param(bare, True, id="async"),
        pytest.param(plain, False, id="plain"),
        pytest.param(through(bare), True, id="async behind a plain wrapper"),
        pytest.param(through(plain), False, id="plain behind a plain wrapper"),
        pytest.param(awaiting(plain), True, id="plain behind an async wrapper"),
    ],
)
def test_what_must_be_awaited_is_awaited(function: object, is_async: bool) -> None:  # noqa: FBT001 - a row's column
    """A handler whose call gives a coroutine is async: in a thread its coroutine would be dropped, its job lost."""
    assert made(function).is_async is is_async


def test_origin_names_the_users_own_line() -> None:
    """The origin is the line of the innermost function; a callable without code has none."""
    assert origin_of(through(plain)) == f"{__file__}:{plain.__code__.co_firstlineno}"
    assert origin_of(print) == "unknown place"
    assert made(plain).origin == origin_of(plain)


def test_the_decorator_leaves_a_note_and_nothing_else() -> None:
    """``@handler`` returns the function unchanged; stacked decorators leave one note each, innermost first."""

    def function(job: Job) -> str:
        return "called"

    marked = handler("Cover", timeout_s=2)(handler("*", concurrency=3)(function))
    assert marked is function
    assert function(None) == "called"  # type: ignore[arg-type]  # any value shows that it is unchanged
    assert notes(function) == (Note("*", Limits(concurrency=3)), Note("Cover", Limits(timeout_s=2)))


def test_only_the_decorator_marks() -> None:
    """Objects that answer to any attribute name, and a foreign value under the note's name, count as unmarked."""

    class Answers:
        def __getattr__(self, name: str) -> object:
            return (Note("Cover", Limits()),)

    def odd() -> None: ...

    odd.__dict__["__mns_consumer_handlers__"] = "something"
    assert (notes(Answers()), notes(odd), notes(1)) == ((), (), ())


@pytest.mark.parametrize("name", ["", " ", " Cover", "Cover\n"], ids=repr)
def test_names_are_checked(name: str) -> None:
    """A name that no message can have raises while the decorator runs."""
    with pytest.raises(ValueError, match="expected a FunctionName such as 'Cover', or '\\*'"):
        handler(name)


def test_a_decorator_without_its_name_is_refused() -> None:
    """``@handler`` without parentheses raises with what was expected."""
    with pytest.raises((TypeError, ValueError), match="expected a FunctionName such as 'Cover'"):
        handler(bare)  # type: ignore[arg-type]  # the case in question


def test_only_functions_can_be_marked() -> None:
    """Marking something that can't be called raises, with its value."""
    with pytest.raises(TypeError, match=r"@handler\('Cover'\): expected a function, got 5"):
        handler("Cover")(5)  # type: ignore[type-var]  # the case in question


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("timeout_s", 0.001),
        ("timeout_s", 43_200),
        ("concurrency", 1),
        ("concurrency", 1024),
        ("max_hold_s", 1),
        ("max_hold_s", 43_200),
        ("max_failures", 1),
        ("max_failures", 1_000_000),
    ],
)
def test_limits_in_range(limit: str, value: float) -> None:
    """Each limit takes both ends of its range."""
    assert getattr(Limits(**{limit: value}), limit) == value  # type: ignore[arg-type]  # one limit of two types


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ("timeout_s", 0, "seconds from 0.001 to 43200"),
        ("timeout_s", 43_201, "seconds from 0.001 to 43200"),
        ("timeout_s", float("nan"), "seconds from 0.001 to 43200"),
        ("concurrency", 0, "runs at once from 1 to 1024"),
        ("concurrency", 1025, "runs at once from 1 to 1024"),
        ("concurrency", 2.5, "runs at once from 1 to 1024"),
        ("max_hold_s", 0.5, "seconds from 1 to 43200"),
        ("max_hold_s", 43_201, "seconds from 1 to 43200"),
        ("max_failures", 0, "failures from 1 to 1000000"),
        ("max_failures", 1.5, "failures from 1 to 1000000"),
    ],
)
def test_limits_out_of_range(limit: str, value: float, expected: str) -> None:
    """A limit out of its range, or a fraction where a whole number is due, raises with its name, value and range."""
    with pytest.raises(ValueError, match=rf"@handler\({limit}={value}\): expected .*{expected}"):
        handler("Cover", **{limit: value})  # type: ignore[arg-type]  # one limit of two types
