"""Turn a job's result text into the shipped model of its function, with one line that sums it up.

Elsewhere: unfolding the text (``message.result``), the models (the shipped handlers), the daemon's own way to a
handler's type (``engine.fetch``).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, JsonValue, ValidationError

from consumer.message.result import read_result
from consumer.plugin.registry import Registry, Sources, discover

_LONGEST_SUMMARY: Final = 160


@dataclass(frozen=True, slots=True)
class Typed:
    """A result as far as it could be typed.

    Args:
        fits: Whether it is an object of the function's model.
        summary: One line for a table.
        data: The model as JSON; what came where it does not fit.
        code: The result's own code.
        message: The result's own wording.
        problem: Why it does not fit, in one line.
    """

    fits: bool
    summary: str
    data: JsonValue
    code: str | None
    message: str | None
    problem: str | None


@functools.cache
def shipped() -> Registry:
    """The shipped handlers, whose models type a result where no daemon runs."""
    return discover(Sources(use_entry_points=False, shipped=True))


def typed(function: str, text: str | None, output: str | None) -> Typed:
    """Type one result.

    Args:
        function: The FunctionName.
        text: Result as it came.
        output: The job's Output, whose bucket completes the files' names.
    """
    result = read_result(text, output)
    handler = shipped().handlers.get(function)
    value: object = result.data
    problem = result.problem
    fits = False
    if handler is None or handler.result is None:
        problem = problem or f"no shipped model for FunctionName {function!r}"
    else:
        try:
            value = handler.result.validate(result.data)
            fits = isinstance(value, BaseModel)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "its top"
            problem = (
                f"does not fit {getattr(handler.result.annotation, '__name__', 'the model')}: {first['msg']} at {place}"
            )
    data = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else result.data
    return Typed(fits, _summary(value, data), data, result.code, result.message, problem)


def _summary(value: object, data: JsonValue) -> str:
    own = getattr(value, "summary", None)
    text = str(own()) if callable(own) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= _LONGEST_SUMMARY else f"{text[:_LONGEST_SUMMARY]}..."
