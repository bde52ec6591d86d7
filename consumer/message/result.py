"""Read a job's Result: JSON in a string in JSON, five families, any of it possibly broken."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class JobResult:
    """What QueryIProductionJob's ``Result`` holds, unfolded as far as it goes.

    Args:
        code: ``Code``; ``None`` where absent.
        message: ``Message``; ``None`` where absent.
        data: What a handler's model is validated against (see ``unfold``): ``Data`` decoded, or the document
            itself where there is no Data; the text as it came where it does not parse.
        text: The text as it came, always kept.
        problem: Why some layer did not parse, naming layer and position; ``None`` when all did.
    """

    code: str | None
    message: str | None
    data: JsonValue
    text: str
    problem: str | None
