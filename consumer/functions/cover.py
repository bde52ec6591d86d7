"""Cover. Result: family (b), ``[{"Score": number, "Time": "28278.25", "Url": KEY}]``; also seen as family (c).

Source: facts/iproduction.md#cover.
"""

from collections.abc import Sequence
from random import Random
from typing import Literal

from pydantic import Field, FiniteFloat, JsonValue, model_validator

from consumer.functions.catalogue import Family, Function, Medium, ResultModel, Sample
from consumer.functions.parameters import FunctionParams


class CoverParams(FunctionParams):
    """JobParams of a Cover job: ``{"Model":"gif"}``."""

    function = "Cover"

    model: Literal["", "gif"] = Field(
        default="",
        validation_alias="Model",
        serialization_alias="Model",
        description='what is made: "" for still pictures, the default, or "gif"',
    )


class CoverStill(ResultModel):
    """One picture."""

    score: FiniteFloat = Field(alias="Score", description="how well it suits, higher is better; its scale is unknown")
    time_ms: FiniteFloat = Field(alias="Time", description="its place in the video, in milliseconds (measured)")
    url: str = Field(alias="Url", min_length=1, description="oss:// URL of the picture")


class CoverResult(ResultModel):
    """Result of a Cover job, of either family."""

    stills: list[CoverStill] = Field(default_factory=list, description="the pictures, in the order they came")
    details: list[JsonValue] = Field(default_factory=list, alias="Details", description="family (c), often empty")

    @model_validator(mode="before")
    @classmethod
    def _either_family(cls, data: object) -> object:
        if isinstance(data, list):
            return {"stills": data}
        # Any object fits an open model: a third form would pass as a cover without stills.
        if isinstance(data, dict) and data.keys().isdisjoint({"Details", "details", "stills"}):
            raise ValueError(f"expected an array of stills, or an object with Details, came the keys {sorted(data)}")
        return data

    @property
    def best(self) -> CoverStill | None:
        """The still with the highest score, the first of equals; ``None`` without stills."""
        return max(self.stills, key=lambda still: still.score, default=None)

    def summary(self) -> str:
        """One line: the number of stills, and the best one's score, time and URL."""
        best = self.best
        if best is None:
            return "stills: 0, see the output of the job"
        return f"stills: {len(self.stills)}, best: {best.score:.2f} at {best.time_ms / 1000:.2f} s, {best.url}"


def _stills(keys: Sequence[str], random: Random) -> JsonValue:
    scores = sorted((random.uniform(5, 9) for _ in range(5)), reverse=True)
    return [
        {"Score": score, "Time": str(random.randrange(24, 36_000) * 1000 / 24), "Url": key}
        for score, key in zip(scores, keys, strict=False)
    ]


FUNCTION = Function(
    name="Cover",
    title="pick the best still pictures of a video, or make a moving one",
    input="video",
    output="pictures; Output needs {sequenceId}",
    family=Family.ARRAY,
    params=CoverParams,
    result=CoverResult,
    media=frozenset({Medium.VIDEO}),
    output_media=Medium.IMAGE,
    needs_sequence_id=True,
    sample=Sample(input="film.mp4", ending="jpg", files=5, data=_stills, ims=_stills),
)
