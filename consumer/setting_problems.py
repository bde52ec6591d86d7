"""How a wrong setting is reported: the setting, its place, what was expected, and what came if it can't be a secret.

The words are this program's: pydantic's errors are read by their type, and none of its texts is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from consumer.settings_sources import Given, masked, nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_HIDDEN: Final = re.compile(r"key|token|secret|^store\b|^lanes(\.\d+)?$")
"""Settings whose value no error shows; a text that stands for whole lanes may hold keys."""
_QUERY: Final = re.compile(r"\?.*", re.DOTALL)
_LONGEST: Final = 80
_SECONDS: Final = "seconds, or a time such as 90s, 30m or 2h"
_BOUNDS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "greater_than": lambda limits: f"a number above {limits['gt']:.10g}",
    "greater_than_equal": lambda limits: f"a number of at least {limits['ge']:.10g}",
    "less_than": lambda limits: f"a number below {limits['lt']:.10g}",
    "less_than_equal": lambda limits: f"a number of at most {limits['le']:.10g}",
    "literal_error": lambda limits: str(limits["expected"]),
    "enum": lambda limits: str(limits["expected"]),
}
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list of texts",
    "dict": "a table of names and values",
    "mapping": "a table of names and values",
    "model": "a table of settings",
    "path": "a path",
}
_LISTS: Final = {"lanes": "a list of tables, each with notify_url"}


def problem_lines(
    detail: ErrorDetails, given: Mapping[str, Given], names: Collection[str], lane_names: Collection[str]
) -> Sequence[str]:
    """The lines for one of pydantic's errors.

    ``names`` are those of all settings, ``lane_names`` those of a lane's.
    """
    location = ".".join(str(part) for part in detail["loc"])
    top = str(detail["loc"][0]) if detail["loc"] else ""
    own_text = detail["msg"].removeprefix("Value error, ")
    if not top:
        # A check across settings: one line for each contradiction.
        return own_text.splitlines()
    where = f"{location} ({given[top].place})"
    if detail["type"] == "extra_forbidden":
        known = lane_names if top == "lanes" else names
        return [f"{where}: no such setting{nearest(str(detail['loc'][-1]), known)}"]
    if detail["type"] == "missing":
        return [f"{where}: expected a value, got none; every entry of {top} needs it"]
    if detail["type"] == "value_error":
        # Texts of more than one line are those of a lane's contradictions.
        return [f"{where}: {line}{_came(location, detail['input'], line)}" for line in own_text.splitlines()]
    return [f"{where}: expected {_expected(location, detail)}{_came(location, detail['input'], '')}"]


def _expected(location: str, detail: ErrorDetails) -> str:
    if bound := _BOUNDS.get(detail["type"]):
        return bound(detail.get("ctx", {}))
    if detail["type"] == "string_too_short":
        return "a text that is not empty"
    kind = detail["type"].partition("_")[0]
    if location in _LISTS:
        return _LISTS[location]
    is_time = location.rpartition(".")[2].endswith("_s") and kind in {"int", "float"}
    if is_time:
        return f"whole {_SECONDS}" if kind == "int" else _SECONDS
    return _KINDS.get(kind, "a value of another kind")


def _came(location: str, value: object, said: str) -> str:
    """What came, unless it may be a secret or the text before says it."""
    if _HIDDEN.search(location) or isinstance(value, dict) or "got " in said:
        return ""
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f", got {_QUERY.sub('?***', masked(shown))[:_LONGEST]!r}"
