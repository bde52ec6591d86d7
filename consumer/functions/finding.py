"""One problem of a request, its level, and what refuses a request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LONGEST: Final = 160
"""Characters that are shown of what came."""


class FindingLevel(StrEnum):
    """What a finding means for the submission."""

    ERROR = "error"
    """Known to be wrong: refused always."""
    FORCEABLE = "forceable"
    """Refused, unless it is forced."""
    WARNING = "warning"
    """Allowed, and probably not meant."""


@dataclass(frozen=True, slots=True)
class RequestFinding:
    """One problem of a request.

    Args:
        field: The API's name of the parameter, such as ``Output`` or ``JobParams.fps``.
        expected: What would be right.
        came: What was given, cut; ``nothing`` for nothing.
        source: The heading of the facts that has the rule.
    """

    field: str
    level: FindingLevel
    expected: str
    came: str
    source: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}; came {self.came} ({self.source})"


def refused(findings: Sequence[RequestFinding], *, force: bool = False) -> Sequence[RequestFinding]:
    """The findings that refuse a request; with ``force`` only its errors."""
    refusing = {FindingLevel.ERROR} if force else {FindingLevel.ERROR, FindingLevel.FORCEABLE}
    return tuple(finding for finding in findings if finding.level in refusing)


def error(field: str, expected: str, came: object, source: str) -> RequestFinding:
    """What is known to be wrong."""
    return RequestFinding(field, FindingLevel.ERROR, expected, shown(came), source)


def forceable(field: str, expected: str, came: object, source: str) -> RequestFinding:
    """A rule that is inferred."""
    return RequestFinding(field, FindingLevel.FORCEABLE, expected, shown(came), source)


def warning(field: str, expected: str, came: object, source: str) -> RequestFinding:
    """What is allowed."""
    return RequestFinding(field, FindingLevel.WARNING, expected, shown(came), source)


def shown(value: object) -> str:
    """What came, in one line."""
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
