"""How a wrong setting is told: one line with its name, where it stood, what was expected and what came.

A value is shown only where it can't hold a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_core import ErrorDetails

from consumer.secret_settings import masked

_SECRET: Final = re.compile(r"key|token|secret|^store\b|^lanes(\.\d+)?$")
"""Settings whose value is not shown; one that stands for whole lanes may be a text with keys in it."""

_QUERY: Final = re.compile(r"\?.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Given:
    """What was given where.

    Args:
        flags: Settings of the command line.
        from_file: Settings of the file.
        path: The file.
        prefix: What the settings' environment variables begin with.
        known: The names of all settings.
        of_lanes: The names of a lane's settings.
    """

    flags: Mapping[str, Any]
    from_file: Mapping[str, Any]
    path: Path | None
    prefix: str
    known: Collection[str]
    of_lanes: Collection[str]

    def told(self, detail: ErrorDetails) -> Sequence[str]:
        """One line (or more, for checks across settings) for one of pydantic's errors."""
        location = ".".join(str(part) for part in detail["loc"])
        top = str(detail["loc"][0]) if detail["loc"] else ""
        message = detail["msg"].removeprefix("Value error, ")
        if not top:
            return message.splitlines()
        place = self._place(top)
        if detail["type"] == "extra_forbidden":
            known = self.of_lanes if top == "lanes" else self.known
            return [f"{location} ({place}): no such setting{nearest(str(detail['loc'][-1]), known)}"]
        hidden = _SECRET.search(location) or isinstance(detail["input"], dict)
        shown = _QUERY.sub("?***", masked(str(detail["input"])))[:80]
        got = "" if hidden else f", got {shown!r}"
        expected = message[0].lower() + message[1:] if detail["type"] != "value_error" else message
        return [f"{location} ({place}): {expected.replace('input should be', 'expected')}{got}"]

    def _place(self, name: str) -> str:
        """Where the value in force stood."""
        if name in self.flags:
            return "command line"
        if name in self.from_file:
            return str(self.path)
        variable = f"{self.prefix}{name}".upper()
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if credentials is not None and not any(each.upper() == variable for each in os.environ):
            return f"{credentials}/{variable.lower()}"
        return f"environment {variable}"


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a line about an unknown name: the known one that is most like it."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see the table of settings in the README"
